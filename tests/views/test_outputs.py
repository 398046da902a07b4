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
    np.savez(tmp_path / "mine.npz", x=np.ones(3))
    np.save(tmp_path / "mine.npy", np.ones(3))
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>")
    (tmp_path / "mine.txt").write_text("mine")
    save_sheet(tmp_path / "mine.png", torch.rand(2, 4, 4), 2, 0, 1)
    (tmp_path / "mine.png").write_bytes((tmp_path / "mine.png").read_bytes().replace(b"Software", b"Hardware"))
    for name in ("mine.npz", "mine.npy", "mine.html", "mine.txt", "mine.png"):
        with pytest.raises(ValueError, match=f"{name} exists, and was not written by allegory"):
            check_out(tmp_path / name)
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
    for out, source in ((data, data), (tmp_path / "pictures/../samples.npz", data), (folder / "new.png", folder)):
        with pytest.raises(ValueError, match="is in the data that are read"):
            check_out(out, source)


def test_a_run_may_be_called_as_its_data_are(tmp_path, monkeypatch):
    """`allegory train cave --out cave`: nothing could be written into that run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cave").mkdir()
    check_out("cave/report.html", "cave")
    with pytest.raises(ValueError, match="is in the data that are read"):
        check_out("cave/report.html", "./cave")
