"""Atomic file writes: a kill at any moment leaves the old file or the new one. JSON that every reader takes."""

from __future__ import annotations

import glob
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["as_json", "atomic_path", "from_json", "sweep", "write_arrays", "write_arrays_in_parts", "write_atomically"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`, to write to: it is synced and renamed to `path` on success, else removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    sweep(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes tensors, or other arrays, by name as a compressed .npz file, whole or not at all.

    Raises:
        ValueError: no space or no permission.
    """
    file = io.BytesIO()
    plain = {key: np.asarray(value.cpu() if isinstance(value, Tensor) else value) for key, value in arrays.items()}
    np.savez_compressed(file, allow_pickle=False, **plain)
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


def sweep(path: Path) -> None:
    """Removes what a kill during an earlier write of `path` has left beside it: files of processes that are gone."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
        number = part.name.rpartition(".")[2]
        if number.isdecimal() and not _alive(int(number)):
            part.unlink(missing_ok=True)


def as_json(value: Any) -> str:
    """A value as one line of JSON, which has neither NaN nor infinity: they become null.

    >>> as_json({"nll": math.inf, "curve": (1, 2.5)})
    '{"nll": null, "curve": [1, 2.5]}'
    """
    return json.dumps(_finite(value), allow_nan=False)


def from_json(text: str) -> Any:
    """A line of `as_json`, null read as NaN.

    >>> from_json('{"bound": null}')
    {'bound': nan}
    """
    return _numbers(json.loads(text))


def _pack(path: Path, whole: dict[str, tuple[Any, np.dtype[Any], list[int]]]) -> None:
    """A .npz file of the bytes of arrays: file, dtype and shape by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
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


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return math.nan if value is None else value


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
