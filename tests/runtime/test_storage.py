"""Files are whole or absent, what a kill left is swept, and JSON is JSON."""

import json
import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from allegory.runtime.storage import as_json, nulls_as_nan, write_arrays, write_arrays_in_parts, write_atomically


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_has_neither_nan_nor_infinity_and_is_read_back_as_nan():
    text = as_json({"nll": math.inf, "elbo": -math.inf, "curve": [(1, math.nan)], "name": None, "n": 3, "x": 2.5})
    assert json.loads(text, parse_constant=refuse) == {
        "nll": None, "elbo": None, "curve": [[1, None]], "name": None, "n": 3, "x": 2.5,
    }  # fmt: skip
    back = nulls_as_nan(json.loads(as_json([{"bound": math.nan, "epoch": 1}])))
    assert math.isnan(back[0]["bound"])
    assert back[0]["epoch"] == 1


def test_the_next_write_sweeps_what_a_killed_one_left(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".a.png.{gone.pid}").write_bytes(b"half")
    (tmp_path / f".a.png.{os.getppid()}").write_bytes(b"another process is writing it")
    (tmp_path / f".b.png.{gone.pid}").write_bytes(b"another file")
    (tmp_path / ".a.png.old").write_bytes(b"the user's")
    write_atomically(tmp_path / "a.png", b"whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.png", f".a.png.{os.getppid()}", f".b.png.{gone.pid}", ".a.png.old"}


def test_arrays_of_names_stand_beside_tensors(tmp_path):
    write_arrays(tmp_path / "z.npz", {"z": torch.ones(2, 3), "names": np.array(["a/1.png", "b.png"])})
    with np.load(tmp_path / "z.npz") as found:
        assert found["names"].tolist() == ["a/1.png", "b.png"]
        assert found["z"].sum() == 6


def test_arrays_in_parts_are_the_whole(tmp_path):
    x, y = torch.rand(7, 2, 3), torch.arange(7)
    write_arrays_in_parts(tmp_path / "x.npz", ({"x": x[i : i + 3], "y": y[i : i + 3]} for i in range(0, 7, 3)))
    with np.load(tmp_path / "x.npz") as found:
        assert np.array_equal(found["x"], x)
        assert np.array_equal(found["y"], y)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_arrays_in_parts_are_never_all_in_memory(tmp_path):
    parts = ({"x": torch.zeros(250, 1000)} for _ in range(40))  # 40 MB
    tracemalloc.start()
    write_arrays_in_parts(tmp_path / "x.npz", parts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    with np.load(tmp_path / "x.npz") as found:
        assert found["x"].shape == (10_000, 1000)


@pytest.mark.skipif(os.name != "posix", reason="links are for administrators there")
def test_what_a_link_means_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "file")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "disk") == ["file"]
