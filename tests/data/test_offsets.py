"""What float32 cannot tell apart has an offset taken off, which changes no density, and comes back with the samples."""

import json
import re

import numpy as np
import pytest
import torch

import allegory as al
from allegory.command import main
from allegory.data import load, offsets, parts, read, remarks

RNG = np.random.default_rng(0)
SECONDS = RNG.uniform(0, 600, 500)
SIGNAL = RNG.normal(size=500) + 0.01 * SECONDS


def write(path, *columns):
    np.save(path, np.stack(columns, 1))
    return path


COLUMNS = {
    "unix time": 1.7e9 + SECONDS,
    "whole seconds": (1.7e9 + SECONDS).astype(np.int64),
    "nanoseconds": (1.7e18 + 1e9 * SECONDS).astype(np.int64),
    "unsigned": (1.7e9 + SECONDS).astype(np.uint64),
    "julian date": 2460000.5 + SECONDS / 86400,
    "minutes": 28_333_333 + np.floor(SECONDS),
    "with a fill value": np.where(np.arange(500) % 50 == 7, -9999.0, 1.7e9 + SECONDS),
    "wider than double": (1.7e9 + SECONDS).astype(np.longdouble),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_all_values_are_told_apart(name, tmp_path):
    column = COLUMNS[name]
    path = tmp_path / "x.npy"
    np.save(path, column[:, None])
    with pytest.warns(UserWarning, match=r"x\.npy: \d+(\.\d+)? is taken off column 0, since float32 could not tell"):
        data = load(path)
    x = torch.cat([data.train, data.valid, data.test])
    assert x.dtype == torch.float32
    assert len(x.unique()) == len(np.unique(column))
    rows = torch.cat([data.rows[split] for split in ("train", "valid", "test")])
    with_offset = data.with_offset(x)
    assert with_offset.dtype == torch.float64
    usual = np.abs(column - np.median(column)) < 1e12
    error = np.abs(with_offset[:, 0].numpy() - column[rows].astype(np.float64))[usual[rows]]
    width = np.ptp(np.percentile(column.astype(np.float64), [5, 95]))
    assert (error < 1e-6 * width)[column[rows] > 0].all()
    if column.dtype.kind in "iu":
        assert torch.equal(x, x.round())


def test_the_offset_is_one_of_the_values_and_the_same_for_every_seed(tmp_path):
    path = write(tmp_path / "x.npy", 1.7e9 + SECONDS, SIGNAL)
    with pytest.warns(UserWarning, match="taken off"):
        one, two = (load(path, seed=seed).offset for seed in (0, 1))
    assert torch.equal(one, two)
    assert one[0].item() in 1.7e9 + SECONDS
    assert one[1] == 0


@pytest.mark.parametrize(
    "x",
    [SIGNAL, 1e6 * SIGNAL, SIGNAL + 100, 290 + 5 * SIGNAL, np.where(SIGNAL > 0, 0.1, 0.0), np.full(500, 1.7e9 + 0.3),
     RNG.poisson(1e6, 500), np.round(np.exp(9 * SIGNAL)), 1e-20 * SIGNAL, np.where(SIGNAL > 4, SIGNAL, 0.0)],
)  # fmt: skip
def test_where_float32_has_the_digits_nothing_is_taken_off(x):
    assert offsets.find_offset(np.asarray(x)[:, None]) is None


def test_pictures_have_one_offset_and_channels_of_their_own_scale_several():
    x = 1e9 + RNG.normal(size=(50, 1, 6, 6)) + np.linspace(0, 5, 36).reshape(6, 6)
    found = offsets.find_offset(x)
    assert len(np.unique(found)) == 1
    several = np.stack([1e9 + RNG.normal(size=(50, 8)), RNG.normal(size=(50, 8))], 2)
    found = offsets.find_offset(several)
    assert (found[:, 0] != 0).all()
    assert (found[:, 1] == 0).all()


def test_a_density_does_not_depend_on_where_zero_is(tmp_path):
    found = []
    for zero in (0.0, 1.7e9):
        path = write(tmp_path / f"{zero}.npy", zero + np.round(SECONDS, 3), SIGNAL)
        data = load_quietly(path) if zero else load(path)
        torch.manual_seed(0)
        model = al.architectures.mlp((2,), "normal", [2], [16], data=data.train).float()
        al.fit(model, data.train, valid=data.valid, epochs=3)
        found.append(al.log_likelihood(model, data.test, samples=10).mean().item())
    assert found[1] == pytest.approx(found[0], abs=2e-3)


def load_quietly(path):
    with pytest.warns(UserWarning, match="taken off"):
        return load(path)


def test_splits_share_an_offset_and_files_that_stay_on_disk_have_it(tmp_path, monkeypatch):
    x = (1.7e9 + SECONDS)[:, None]
    np.savez(tmp_path / "x.npz", train=x[:300], valid=x[300:400], test=x[400:])
    data = load_quietly(tmp_path / "x.npz")
    assert data.with_offset(data.test).numpy() == pytest.approx(x[400:], abs=1e-4)
    path = write(tmp_path / "x.npy", 1.7e9 + SECONDS)
    inside = load_quietly(path)
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", 10)
    stored = load_quietly(path)
    assert not isinstance(stored.train, torch.Tensor)
    assert torch.equal(stored.offset, inside.offset)
    assert torch.equal(stored.train[:], inside.train)


def test_read_asks_for_the_offset(tmp_path):
    path = write(tmp_path / "x.npy", 1.7e9 + SECONDS, SIGNAL)
    with pytest.raises(ValueError, match=r"cannot tell the values of index 0 apart; subtract an offset, such as 1700"):
        read(path)
    x = read(path, offset=[1.7e9, 0.0])
    assert x[:, 0].numpy() == pytest.approx(SECONDS, abs=1e-4)
    assert read(path, offset=0.0)[0, 0] == np.float32(1.7e9 + SECONDS[0])


def test_remarks_are_in_the_units_of_the_file(tmp_path):
    path = write(tmp_path / "x.npy", np.where(SECONDS < 60, 1.7e9, 1.7e9 + SECONDS))
    data = load_quietly(path)
    assert remarks(data.with_offset(data.train), "normal")[0].startswith("1.7e+09 is ")


def test_whole_numbers_with_an_offset_are_no_counts(tmp_path):
    data = load_quietly(write(tmp_path / "x.npy", COLUMNS["whole seconds"][:, None]))
    assert data.choose_likelihood()[0] == "normal"
    assert data.choose_likelihood()[1].endswith("once their offset is taken off")
    for name in ("poisson", "negative_binomial", "discretized_logistic"):
        with pytest.raises(ValueError, match=f"only with an offset taken off, and {name} has a fixed 0; wanted"):
            data.scored_as(name)


@pytest.mark.filterwarnings("ignore")
def test_a_run_keeps_the_offset_and_writes_with_it(tmp_path, capsys, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    write("x.npy", 1.7e9 + SECONDS, SIGNAL)
    assert main(["train", "x.npy", "--out", "run", "--epochs", "3", "--hidden", "16", "--latent", "2"]) == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert about["offset"][0] == pytest.approx(1.7e9, abs=600)
    assert about["offset"][1] == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--json", "--importance-samples", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["offset"] == about["offset"]
    assert found["nll"] < 30
    assert main(["sample", "run", "--count", "50", "--out", "s.npz"]) == 0
    samples = np.load("s.npz")["samples"]
    assert samples.dtype == np.float64
    assert (np.abs(samples[:, 0] - 1.7e9) < 1e4).all()
    assert len(np.unique(samples[:, 0])) == 50
    assert main(["reconstruct", "run", "--count", "9", "--out", "r.npz"]) == 0
    assert set(np.load("r.npz")["originals"][:, 0].round(3)) <= set((1.7e9 + SECONDS).round(3))
    assert main(["encode", "run", "s.npz", "--array", "samples", "--out", "z.npz"]) == 0
    assert main(["encode", "run", "x.npy", "--out", "y.npz"]) == 0
    run = al.Run("run")
    assert run.read("x.npy").shape == (500, 2)
    assert run.encode("x.npy")[0][0].numpy() == pytest.approx(np.load("y.npz")["z1_mean"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["offset"] = [1.0]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"run: config.json has an offset of 1 numbers for examples of shape \[2\]"):
        _ = al.Run("run").data


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("fill", "told"), [(-9999.0, "-10000"), (0.0, "0"), (9e9, "9000000000")])
def test_a_fill_value_is_told_with_the_offset(fill, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.npy", np.where(np.arange(500) == 45, fill, 1.7e9 + SECONDS), SIGNAL)
    row = [*load_quietly(tmp_path / "x.npy").row_names("train")].index(45)  # a row of the training split
    assert main(["train", "x.npy", "--out", "run", "--epochs", "1", "--hidden", "4", "--latent", "2"]) == 0
    assert re.search(
        rf"row 45 of the training data, column 0: about {told} is .* spreads away", capsys.readouterr().err
    )
    data = load_quietly(tmp_path / "x.npy")
    with pytest.warns(UserWarning, match=rf"row {row} of the training data, column 0: about {told} is"):
        al.architectures.mlp((2,), "normal", [2], [4], data=data.train, offset=data.offset)


def test_other_values_of_such_a_column_are_told_as_they_are(tmp_path):
    fill = np.where(np.arange(500) % 9 == 4, -3.0, SIGNAL)
    data = load_quietly(write(tmp_path / "x.npy", 1.7e9 + SECONDS, np.where(np.arange(500) == 45, -1e4, fill)))
    with pytest.warns(UserWarning, match="column 1: -10000 is"):
        al.architectures.mlp((2,), "normal", [2], [4], data=data.train, offset=data.offset)


@pytest.mark.parametrize("shape", [(9, 3), (9, 1), (9, 2, 2)])
def test_an_offset_of_another_shape_is_an_error_that_says_so(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(
        ValueError, match=r"x.npy: examples of shape .*, but what is to be taken off them has shape \(2,\)"
    ):
        read(tmp_path / "x.npy", offset=[1.7e9, 0.0])
