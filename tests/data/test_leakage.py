"""Rows that are in two splits, nearly, or in part, are told; others are not."""

import re
import warnings

import numpy as np
import pytest
import torch

from allegory.data import load, splits
from allegory.data.leakage import near_copies, overlap

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float32)


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("copies", [1, 25])
@pytest.mark.parametrize("width", [3, 30, 784])
def test_copies_that_were_rounded_again_are_found(noise, copies, width):
    rows = normal(200, width) * torch.logspace(-3, 3, width)
    spread = rows.std(0)
    known = rows.repeat(copies, 1) + noise * spread * normal(200 * copies, width)
    found = near_copies(rows + noise * spread * normal(200, width), known)
    assert found > (0.9 if width > 3 else 0.15)
    half = torch.cat([rows[:100], normal(100, width) * spread])
    assert near_copies(half + noise * spread * normal(200, width), known) < 0.6 * found


@pytest.mark.parametrize("width", [1, 2, 3, 30])
@pytest.mark.parametrize("count", [60, 5000])
def test_rows_that_are_near_by_chance_are_not(width, count):
    for scale in (1.0, torch.logspace(-3, 3, width)):
        assert near_copies(scale * normal(500, width), scale * normal(count, width)) == 0
    low = normal(2, width)
    assert near_copies(normal(300, 2) @ low, normal(count, 2) @ low) == 0
    assert near_copies(normal(300, width).round(), normal(count, width).round()) == 0
    assert near_copies(normal(300, width), normal(1, width)) == 0
    assert near_copies(torch.zeros(300, width), torch.zeros(count, width)) == 0


def test_grey_images_that_were_compressed_again_are_found():
    images = 255 * torch.rand(300, 1, 8, 8, generator=GENERATOR)
    again = (images + 2 * torch.rand(300, 1, 8, 8, generator=GENERATOR)).round()
    assert near_copies(again, images.round()) > 0.9


@pytest.mark.parametrize("step", [1, 2, 7])
def test_windows_of_a_series_are_recognised(step):
    series = normal(2000, 3).cumsum(0)
    assert overlap(series[:, 0].unfold(0, 24, step)) == step
    assert overlap(series.unfold(0, 24, step)) == step  # (N, C, T)
    assert overlap(series.unfold(0, 24, step).mT) == step  # (N, T, C)
    assert overlap(series[:, 0].unfold(0, 24, 24)) == 0


@pytest.mark.parametrize(
    "x",
    [normal(500, 24), normal(500, 24).round(), (normal(500, 24) > 1.5).float(), torch.zeros(500, 24),
     torch.ones(50, 1, 8, 8), torch.eye(24)[torch.randint(24, (500,))], normal(5, 24), normal(50, 1)],
)  # fmt: skip
def test_other_rows_do_not_overlap(x):
    assert overlap(x) == 0


def lines(path, **how):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load(path, **how)
    return [str(one.message) for one in told]


def test_load_says_what_a_random_split_does_to_windows(tmp_path):
    np.save(tmp_path / "x.npy", normal(300).cumsum(0).unfold(0, 24, 1).numpy())
    (line,) = lines(tmp_path / "x.npy")
    assert re.search(
        r"each row repeats the one before it, 1 further on, as windows of one series do: .* --split order", line
    )
    assert lines(tmp_path / "x.npy", split="ordered") == []


def test_load_counts_rows_that_nearly_equal(tmp_path):
    rows = normal(60, 30).repeat_interleave(10, 0)
    np.save(tmp_path / "x.npy", (rows + 1e-5 * normal(600, 30)).numpy())
    (line,) = lines(tmp_path / "x.npy")
    assert re.search(
        r"about \d+% of valid rows and \d+% of test rows nearly equal a row of train; .* --split groups", line
    )


def test_load_asks_about_units(tmp_path):
    x = normal(300, 4)
    np.savez(tmp_path / "x.npz", train=x[:200], valid=x[200:250], test=x[250:] + 273)
    (line,) = lines(tmp_path / "x.npz")
    assert re.search(
        r"x\.npz: test: column 0 is mostly 27\d.* to 27\d.*, in train -1.* to 1.*; are they in the same", line
    )
    np.savez(tmp_path / "y.npz", train=x[:200], test=1000 * x[250:])
    (line,) = lines(tmp_path / "y.npz")
    assert "test: column 0 is mostly" in line


def test_the_first_rows_of_a_file_are_found_again(tmp_path):
    x = np.arange(200.0).reshape(100, 2)
    np.save(tmp_path / "x.npy", x)
    data = splits.load(tmp_path / "x.npy", seed=3)
    assert torch.equal(data._first_rows_of_file(7), torch.from_numpy(x[:7]).float())
