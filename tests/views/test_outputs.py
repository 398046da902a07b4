"""What a result may be written over."""

import numpy as np
import pytest
import torch

from allegory.runtime.storage import write_arrays
from allegory.views.figures import save_sheet
from allegory.views.outputs import check_out


def test_an_earlier_result_is_written_over_and_nothing_else(tmp_path):
    save_sheet(tmp_path / "ours.png", torch.rand(2, 4, 4), 2, 0, 1)
    write_arrays(tmp_path / "ours.npz", {"z1_mean": torch.zeros(2), "z1_std": torch.ones(2)})
    (tmp_path / "ours.html").write_text('<!doctype html>\n<meta name="generator" content="allegory">')
    (tmp_path / "old.html").write_text("<!doctype html>\n<title>run: a report by allegory</title>")
    (tmp_path / "mktemp").touch()
    for name in ("ours.png", "ours.npz", "ours.html", "old.html", "mktemp", "new.npz"):
        check_out(tmp_path / name)
    np.savez(tmp_path / "mine.npz", samples=np.ones(3))  # the names of a result make none
    np.save(tmp_path / "mine.npy", np.ones(3))
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>")
    (tmp_path / "mine.txt").write_text("mine")
    save_sheet(tmp_path / "mine.png", torch.rand(2, 4, 4), 2, 0, 1)
    (tmp_path / "mine.png").write_bytes((tmp_path / "mine.png").read_bytes().replace(b"Software", b"Hardware"))
    for name in ("mine.npz", "mine.npy", "mine.html", "mine.txt", "mine.png"):
        with pytest.raises(ValueError, match=f"{name} exists, and was not written by allegory"):
            check_out(tmp_path / name)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match=r"rows\.csv exists, and a table does not tell who wrote it; choose another name"
    ):
        check_out(tmp_path / "rows.csv")
    for name in ("config.json", "metrics.jsonl"):
        with pytest.raises(ValueError, match="the name of a file of a run"):
            check_out(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder"):
        check_out(tmp_path)
    with pytest.raises(ValueError, match="is a device"):
        check_out("/dev/null")


def test_the_data_are_never_written_over(tmp_path):
    data, folder = tmp_path / "samples.npz", tmp_path / "pictures"
    write_arrays(data, {"samples": torch.zeros(2)})
    folder.mkdir()
    check_out(data, None, "digits")
    (folder / "deep").mkdir()
    for out, source in (
        (data, data), (tmp_path / "pictures/../samples.npz", data), (folder / "new.png", folder),
        (folder / "deep" / "new.png", folder),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="is in the data that are read"):
            check_out(out, source)


def test_a_result_with_the_names_of_its_files_is_one_too(tmp_path):
    arrays = {"z1_mean": torch.zeros(2, 1), "names": np.array(["a.png", "b.png"]), "labels": np.array(["x", "y"])}
    write_arrays(tmp_path / "z.npz", arrays)
    check_out(tmp_path / "z.npz")


def test_a_run_that_is_called_as_its_built_in_data_may_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    check_out("digits/report.html", "digits")


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path):
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; make it first"):
        check_out(tmp_path / "nowhere" / "x.npz")
    check_out(tmp_path / "loop.npz")  # a link to itself, which the result takes the place of


def test_a_run_may_be_called_as_its_data_are(tmp_path, monkeypatch):
    """`allegory train cave --out cave`: nothing could be written into that run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cave").mkdir()
    check_out("cave/report.html", "cave")
    with pytest.raises(ValueError, match="is in the data that are read"):
        check_out("cave/report.html", "./cave")
