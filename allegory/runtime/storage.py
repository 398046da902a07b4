"""Atomic file writes: a kill at any moment leaves the old file or the new one, and at most a part beside it, which the
next write of that file removes. Only regular files are read: a pipe or a device may never end. JSON that every reader
takes.
"""

from __future__ import annotations

import errno
import glob
import io
import json
import math
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "GENERATOR", "append", "as_json", "atomic_path", "check_regular", "locked", "nulls_as_nan", "temporary_path",
    "write_arrays", "write_arrays_in_parts", "write_atomically",
]  # fmt: skip

GENERATOR = "allegory"
"""What pages, pictures and arrays say that they were made by: only such a file is written over."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`, to write to: it is synced and renamed to `path` on success, else removed. Of a
    link it is next to the file that is meant.
    """
    path = path.resolve() if path.is_symlink() else path
    part = temporary_path(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a folder for this process, until the context or the process ends, however it ends; nothing is written.
    Where the system or the file system has no such locks, nothing is kept.

    Raises:
        ValueError: another process, or another thread, keeps it.

    >>> Path("run").mkdir()
    >>> with locked(Path("run")), locked(Path("run")):
    ...     pass
    Traceback (most recent call last):
    ValueError: run is in use: another training writes to it; wait for its end, or choose another directory
    """
    if fcntl is None:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"cannot open {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is in use: another training writes to it; wait for its end, or choose another directory"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


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


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes tensors, or other arrays, by name as a compressed .npz file, whole or not at all.

    Raises:
        ValueError: no space or no permission.
    """
    file = io.BytesIO()
    plain = {key: np.asarray(value.cpu() if isinstance(value, Tensor) else value) for key, value in arrays.items()}
    np.savez_compressed(file, allow_pickle=False, **plain)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = GENERATOR.encode()
    write_atomically(path, file.getvalue())


def write_arrays_in_parts(path: Path, parts: Iterable[dict[str, Any]]) -> None:
    """Writes arrays that come in parts, along their first dimension, as `write_arrays` does the whole; one part at a
    time is in memory.

    Args:
        path: the .npz file.
        parts: tensors by name, the same names in each, (n, *), n of any size.

    Raises:
        ValueError: no space or no permission.
    """
    try:
        with atomic_path(path) as part, ExitStack() as stack:
            whole: dict[str, tuple[Any, np.dtype[Any], list[int]]] = {}
            for arrays in parts:
                for name, value in arrays.items():
                    array = value.cpu().numpy()
                    if name not in whole:
                        file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                        whole[name] = file, array.dtype, [0, *array.shape[1:]]
                    whole[name][0].write(array.tobytes())
                    whole[name][2][0] += len(array)
            _pack(part, whole)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; the existing file is unchanged") from None


def as_json(value: Any) -> str:
    """A value as one line of JSON, which has neither NaN nor infinity: they become null.

    >>> as_json({"nll": math.inf, "curve": (1, 2.5)})
    '{"nll": null, "curve": [1, 2.5]}'
    """
    return json.dumps(_finite(value), allow_nan=False)


def nulls_as_nan(value: Any) -> Any:
    """A value that `as_json` wrote, null read as NaN.

    >>> nulls_as_nan({"bound": None, "rates": [1.5, None]})
    {'bound': nan, 'rates': [1.5, nan]}
    """
    if isinstance(value, dict):
        return {key: nulls_as_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nulls_as_nan(part) for part in value]
    return math.nan if value is None else value


def _pack(path: Path, whole: dict[str, tuple[Any, np.dtype[Any], list[int]]]) -> None:
    """A .npz file of the bytes of arrays: file, dtype and shape by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = GENERATOR.encode()
        for name, (file, dtype, shape) in whole.items():
            header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                file.seek(0)
                shutil.copyfileobj(file, member)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
