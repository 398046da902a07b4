"""Atomic file writes: a kill at any moment leaves the old file or the new one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

__all__ = ["atomic_path", "write_arrays", "write_atomically"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`, to write to: it is synced and renamed to `path` on success, else removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
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


def write_arrays(path: Path, arrays: dict[str, Tensor]) -> None:
    """Writes tensors by name as a compressed .npz file, whole or not at all.

    Raises:
        ValueError: no space or no permission.
    """
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{key: value.cpu().numpy() for key, value in arrays.items()})
    write_atomically(path, file.getvalue())
