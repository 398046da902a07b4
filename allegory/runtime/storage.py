"""Atomic file writes: a kill at any moment leaves the old file or the new one, and at most a part beside it, which the
next write of that file removes. Only regular files are read: a pipe or a device may never end.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

__all__ = ["append", "atomic_path", "check_regular", "part_of", "write_arrays", "write_atomically"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`, to write to: it is synced and renamed to `path` on success, else removed."""
    part = part_of(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """The temporary name next to `path` of what this process writes; what killed processes have left there is removed.

    >>> Path(".page.html.999999999").write_text("<html>")        # of a process that is no more
    6
    >>> write_atomically(Path("page.html"), b"<html></html>")
    >>> os.listdir(".")
    ['page.html']
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        number = left.suffix[1:]
        if number.isdecimal() and left.name == f".{path.name}.{number}" and not _is_running(int(number)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")


def _is_running(process: int) -> bool:
    """Whether there is such a process; where that cannot be asked, it is taken to be running."""
    if os.name != "posix" or process == os.getpid():
        return os.name != "posix"
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def check_regular(path: Path) -> None:
    """Checks that a path, if it exists, is a regular file.

    Raises:
        ValueError: a folder, a pipe, a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # to be opened is an error of its own
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise ValueError(f"{path} is {kind}; wanted a regular file")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        ValueError: no space or no permission; the existing file is unchanged.
    """
    try:
        with atomic_path(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; the existing file is unchanged") from None


def append(path: Path, content: bytes) -> None:
    """Appends to a file, by one write; what does not fit is taken back.

    Raises:
        ValueError: no space or no permission; the file is as it was.
    """
    try:
        with path.open("ab", buffering=0) as stream:
            size = stream.tell()
            if stream.write(content) < len(content):
                stream.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(stream.fileno())
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; the existing file is unchanged") from None


def write_arrays(path: Path, arrays: dict[str, Tensor]) -> None:
    """Writes tensors by name as a compressed .npz file, whole or not at all.

    Raises:
        ValueError: no space or no permission.
    """
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{key: value.cpu().numpy() for key, value in arrays.items()})
    write_atomically(path, file.getvalue())
