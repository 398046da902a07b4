"""Examples that stay in their files give what examples in memory give."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import allegory as al
from allegory.command import main
from allegory.data import choose_likelihood, load, parts, read, to_binary, two_values
from allegory.data.stored import Mapped, Stored


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", 100)
    monkeypatch.setattr("allegory.data.stored.CHUNK_NUMBERS", 200)


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)


def both(values, monkeypatch):
    """What `load` gives of one file, in memory and stored."""
    np.save("x.npy", values)
    inside = load("x.npy", seed=3)
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", 100)
    monkeypatch.setattr("allegory.data.stored.CHUNK_NUMBERS", 200)
    return inside, load("x.npy", seed=3)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", ">i2", "u2", "?"])
def test_stored_examples_are_those_in_memory(dtype, monkeypatch):
    values = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 200, (90, 3, 5)).astype(dtype)
    inside, stored = both(values, monkeypatch)
    for split in ("train", "valid", "test"):
        x, y = getattr(inside, split), getattr(stored, split)
        assert isinstance(y, Stored)
        assert (x.shape, x.dtype, x.device, len(x), x.dim()) == (y.shape, y.dtype, y.device, len(y), y.dim())
        rows = torch.randperm(len(x))[:7]
        assert_close(y[rows], x[rows], rtol=0, atol=0)
        assert_close(y[2:5], x[2:5], rtol=0, atol=0)
        assert_close(y.subset(rows)[:], x[rows], rtol=0, atol=0)
        assert (y.min(), y.max()) == (x.min(), x.max())
        assert_close(torch.cat([part for _, part in y.chunks()]).sum(0), x.sum(0))
    assert_close(read("x.npy")[:], torch.from_numpy(values.astype("f4")), rtol=0, atol=0)


@pytest.mark.parametrize("values", [[0, 1], [0, 255], [3], range(9), range(200), [0.5, 1.5], [0, 1 / 255, 2 / 255]])
def test_a_likelihood_is_chosen_alike(values, monkeypatch):
    inside, stored = both(np.random.default_rng(0).choice(np.array(values, "f4"), (90, 3, 5)), monkeypatch)
    assert choose_likelihood(inside.train) == choose_likelihood(stored.train)
    assert two_values(inside.train) == two_values(stored.train)
    if two_values(inside.train):
        bits = to_binary(stored.train, two_values(inside.train))
        assert isinstance(bits, Stored)
        assert_close(bits[:], to_binary(inside.train, two_values(inside.train)))
    else:
        for x in (inside.train, stored.train):
            with pytest.raises(ValueError, match="wanted only 0 and 1"):
                to_binary(x, (0.0, 1.0))


def test_fit_and_evaluate_take_them_as_tensors(monkeypatch):
    inside, stored = both(np.random.default_rng(0).integers(0, 2, (200, 15)).astype("u1"), monkeypatch)
    found = []
    for data in (inside, stored):
        torch.manual_seed(0)
        model = al.architectures.mlp((15,), "bernoulli", latent=[3, 2], hidden=[8], data=inside.train)
        record = al.fit(model, data.train, valid=data.valid, epochs=3, batch_size=16)
        torch.manual_seed(0)
        found.append((record.history, al.evaluate(model, data.test, samples=20).as_dict()))
    assert found[0] == found[1]


def pictures(folder, count, mode):
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (4, 6, 3) if mode == "RGB" else (4, 6)).astype("u1")
        Image.fromarray(pixels).save(f"{folder}/{i:03}.png")


def metrics(run):
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["two values", "levels", "real", "grey pictures", "coloured pictures"])
def test_the_command_does_the_same(kind, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    source = "x.npy" if "pictures" not in kind else "pictures"
    if "pictures" in kind:
        pictures(source, 60, "L" if kind == "grey pictures" else "RGB")
    else:
        arrays = dict(
            zip(["two values", "levels", "real"], [[0, 255], range(7), rng.normal(size=999)], strict=True)
        )  # fmt: skip
        np.save(source, rng.choice(np.array(arrays[kind], "f4"), (150, 8)))
    said = []
    for name in ("inside", "stored"):
        train = ["train", source, "--out", name, "--epochs", "2", "--hidden", "8", "--latent", "2"]
        train += ["--precision", "float32"]  # auto is by a clock
        assert main(train) == 0
        assert main(["evaluate", name, "--importance-samples", "10", "--json"]) == 0
        assert main(["encode", name, source, "--out", f"{name}.npz"]) == 0
        assert main(["reconstruct", name, "--out", f"{name}-r.npz"]) == 0
        out, err = capsys.readouterr()
        said.append(json.loads(next(line for line in out.splitlines() if line.startswith("{"))))
        assert ("are read as they are drawn" in err) == (name == "stored")
        monkeypatch.setattr(parts, "MAX_IN_MEMORY", 100)
        monkeypatch.setattr("allegory.data.stored.CHUNK_NUMBERS", 200)
    assert metrics("inside") == metrics("stored")
    assert said[0] == said[1]
    for end in (".npz", "-r.npz"):
        one, two = np.load(f"inside{end}"), np.load(f"stored{end}")
        for key in one:
            assert np.array_equal(one[key], two[key]), key


def test_a_run_on_a_stored_file_goes_on_and_sees_a_changed_file(nothing_fits, capsys):
    x = np.random.default_rng(0).integers(0, 2, (150, 8)).astype("u1")
    np.save("x.npy", x)
    train = ["train", "x.npy", "--out", "run", "--hidden", "8", "--latent", "2"]
    assert main([*train, "--epochs", "1"]) == 0
    assert main([*train, "--epochs", "2", "--resume"]) == 0
    assert len(metrics("run")) == 2
    np.save("x.npy", 1 - x)
    assert main(["evaluate", "run"]) == 2
    assert "has changed since" in capsys.readouterr().err


def test_mistakes_in_stored_files_are_named(nothing_fits, capsys):
    x = np.random.default_rng(0).random((150, 8)).astype("f4")
    x[77, 3] = np.inf
    np.save("infinite.npy", x)
    np.save("objects.npy", np.array([["a"] * 100], dtype=object))
    np.save("levels.npy", np.random.default_rng(0).integers(0, 3, (150, 8)).astype("u1"))
    pictures("pictures", 9, "RGB")
    Image.fromarray(np.zeros((5, 5), "u1")).save("pictures/005.png")
    np.save("fortran.npy", np.asfortranarray(np.ones((150, 8), "f4")))
    wanted = {
        "fortran.npy": "too large for memory, and in Fortran order; save np.ascontiguousarray of it",
        "infinite.npy": "infinity in 1 of 1200 values, the first in row 77, column 3",
        "objects.npy": "Python objects, which are never loaded",
        "pictures": "images of different sizes: 8 of 6 x 4 (000.png, ...), 1 of 5 x 5 (005.png); wanted one size",
    }
    for source, message in wanted.items():
        assert main(["train", source, "--out", "run", "--epochs", "1"]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "levels.npy", "--out", "run", "--epochs", "1", "--likelihood", "bernoulli"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    found = re.search(r"levels.npy, train: .*; the first is 2 in row (\d+), column (\d+)", err)
    assert np.load("levels.npy")[int(found[1]), int(found[2])] == 2


def test_an_epoch_goes_through_pieces_of_the_file_and_mixes_a_pool(monkeypatch):
    monkeypatch.setattr("allegory.data.stored.PIECE_BYTES", 40)  # 5 rows
    monkeypatch.setattr("allegory.data.stored.POOL_BYTES", 320)  # 40 rows: 13 batches of 3
    values = np.random.default_rng(0).integers(0, 256, (500, 8)).astype("u1")
    np.save("x.npy", values)
    rows = torch.randperm(500)[:400]
    x = Stored(Mapped(np.load("x.npy", mmap_mode="r")), rows)
    first, again, other = (x.shuffled(torch.Generator().manual_seed(seed), 3) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, torch.arange(400))
    place = rows.argsort().argsort()[first]  # among those of the file that are here
    for pool in place.split(39):
        assert len((pool // 5).unique()) <= 10  # pieces; 39 rows from anywhere have some 32
        assert not torch.equal(pool, pool.sort().values)
    for start in (0, 7, 130):  # from the beginning, and after a resume
        batches = first.split(3)[start:]
        for batch, found in zip(batches, x.prefetch(batches), strict=True):
            assert_close(found, torch.from_numpy(values[rows[batch].numpy()]).float(), rtol=0, atol=0)


def test_a_pool_is_read_while_the_one_before_is_in_use(monkeypatch):
    monkeypatch.setattr("allegory.data.stored.POOL_BYTES", 64)
    np.save("x.npy", np.zeros((80, 8), "u1"))
    x, pools = Stored(Mapped(np.load("x.npy", mmap_mode="r"))), []
    monkeypatch.setattr(x, "_read", lambda rows: (torch.zeros(80, 8), rows[: pools.append(len(rows))]))
    examples = x.prefetch(torch.arange(80).split(4))
    assert len(next(examples)) == 4
    end = time.monotonic() + 10
    while len(pools) < 2 and time.monotonic() < end:
        time.sleep(0.001)
    examples.close()
    assert pools == [8, 8]  # and no further ahead


def test_an_example_may_be_asked_for_twice():
    values = np.arange(20, dtype="u1").reshape(10, 2)
    np.save("x.npy", values)
    source = Mapped(np.load("x.npy", mmap_mode="r"))
    for rows in ([0, 0, 2], [3, 3, 5], [9, 1, 1, 4, 9]):
        wanted = torch.from_numpy(values[rows]).float()
        assert_close(Stored(source)[torch.tensor(rows)], wanted, rtol=0, atol=0)
        assert_close(Stored(source, torch.tensor(rows))[: len(rows)], wanted, rtol=0, atol=0)


def test_a_file_that_becomes_shorter_is_an_error():
    np.save("x.npy", np.full((1000, 64), 7.0))
    x = Stored(Mapped(np.load("x.npy", mmap_mode="r")))
    os.truncate("x.npy", 1000 * 64 * 4)
    assert len(x[:400]) == 400
    with pytest.raises(ValueError, match=r"x\.npy has become shorter.*row 511"):
        x[:]


def test_a_part_of_a_mapped_array_is_refused():
    np.save("x.npy", np.zeros((10, 3)))
    array = np.load("x.npy", mmap_mode="r")
    for part in (array[5:], array.T, array[:, :2]):
        with pytest.raises(ValueError, match=r"x\.npy: wanted the whole array"):
            Mapped(part)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists a process's threads")
@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_what_reads_ahead_starts_no_team_of_openmp_threads(dtype):
    np.save("x.npy", np.zeros((300_000, 2), dtype))  # so many that torch's own indexing would share them out
    x = Stored(Mapped(np.load("x.npy", mmap_mode="r")))
    with ThreadPoolExecutor(1) as reader:
        reader.submit(int).result()
        before = len(list(Path("/proc/self/task").iterdir()))
        reader.submit(x._read, torch.randperm(300_000)).result()
        end = time.monotonic() + 10  # a thread that has ended is listed a moment longer; a team stays with the reader
        while (now := len(list(Path("/proc/self/task").iterdir()))) > before and time.monotonic() < end:
            time.sleep(0.01)
        assert now == before


def test_a_source_may_be_empty_of_rows():
    np.save("x.npy", np.zeros((3, 2)))
    assert Stored(Mapped(np.load("x.npy", mmap_mode="r")))[torch.tensor([], dtype=torch.long)].shape == (0, 2)


def test_memory_is_trimmed_by_what_is_given_not_by_what_is_read(tmp_path, monkeypatch):
    trims = []
    monkeypatch.setattr("allegory.data.stored.trim", lambda: trims.append(1))
    monkeypatch.setattr("allegory.data.stored.POOL_BYTES", 4096)
    np.save(tmp_path / "x.npy", np.zeros((64, 64), "u1"))  # one pool of 4096 bytes, in float32 four times as many
    x = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    assert len(list(x.prefetch(torch.arange(64).split(8)))) == 8
    assert len(trims) == 2  # after each three batches of 2048 bytes


@pytest.mark.parametrize("rows", [torch.arange(-3, 0), torch.tensor([0, 6]), torch.ones(6, dtype=torch.bool)])
def test_rows_that_the_source_has_not_are_refused(rows, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((6, 2), "u1"))
    with pytest.raises(ValueError, match="rows: wanted int64 from 0 to 5"):
        Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")), rows)
