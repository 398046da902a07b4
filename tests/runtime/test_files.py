"""Files: written whole or not at all, nothing left behind, and nothing read that may never end."""

import os
import subprocess
import sys

import pytest

from allegory.runtime import storage
from allegory.runtime.storage import append, check_regular, write_atomically


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name != "posix", reason="whether a process runs is asked on posix only")
def test_the_next_write_takes_away_what_a_kill_has_left(tmp_path, gone):
    mine, others = f".page.html.{gone}", [f".page.html.{os.getppid()}", ".page.html.bak", f".other.html.{gone}", "page"]
    for name in [mine, *others]:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "page.html", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted(["page.html", *others])


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").touch()
    check_regular(tmp_path / "file")
    check_regular(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a folder; wanted a regular file"):
        check_regular(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe"):
        check_regular(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a device"):
        check_regular(storage.Path("/dev/zero"))


def test_what_does_not_fit_is_not_appended(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    write_atomically(path, b"one\n")
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(ValueError, match="cannot write /dev/full: No space left"):
        append(storage.Path("/dev/full"), b"three\n")
