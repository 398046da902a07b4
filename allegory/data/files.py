"""Files: reading them, with a single error that names the file.

    read_splits(path)  ->  what a `.npy` file (one array), a `.npz` file (`train`, `valid`, `test`; or `train`, `test`;
                           or one array) or a folder of images holds, in its own units; a `.npy` file or a folder that
                           would take more than a gigabyte stays on disk, and is read as it is drawn

No pickle is ever loaded.

Shapes: N examples, *event the shape of one; C, H, W channels, height, width. Tensors are float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allegory.data import parts
from allegory.data.parts import WANTED, Part, naming_errors, split_names
from allegory.data.pictures import find_images, read_folder, rows_by_split
from allegory.data.stored import Mapped, Stored
from allegory.runtime.messages import describe_index
from allegory.runtime.storage import check_regular

__all__ = ["file_names", "read_arrays", "read_splits"]

Array = NDArray[Any]

_NAMELESS = "{path}: array {array!r} is wanted, but only a .npz file has arrays with names"


def read_splits(path: Path, array: str | None = None, size: Sequence[int] | None = None) -> dict[str, Part]:
    """What a path holds, by split: train, valid, test; or train, test; or one part, named "".

    Args:
        path: a .npy or .npz file, or a folder of images.
        array: the name of the one array of a .npz file that is taken.
        size: width and height to which the images of a folder are scaled and cropped.

    Raises:
        ValueError: nothing to read, damage, or values that cannot be taken.
    """
    with naming_errors(path):
        path.stat()
    if path.is_dir():
        if array is not None:
            raise ValueError(_NAMELESS.format(path=path, array=array))
        return {
            split: part if isinstance(part.x, Stored) else part._replace(x=_to_tensor(part.x, str(path)))
            for split, part in read_folder(path, size).items()
        }
    if size is not None:
        raise ValueError(f"{path}: size={tuple(size)} scales the images of a folder; this is a file of arrays")
    arrays, groups = _read_chosen(path, array)
    if "" in arrays:
        return {"": Part(_to_examples(arrays[""], str(path)), groups=groups)}
    tensors = {split: _to_tensor(arrays[split], f"{path}, {split}") for split in arrays}
    event = tuple(tensors["train"].shape[1:])
    for split, x in tensors.items():
        if x.shape[1:] != event:
            raise ValueError(
                f"{path}: an example has shape {event} in train, {tuple(x.shape[1:])} in {split}; "
                f"wanted the same shape in every split"
            )
    return {split: Part(x) for split, x in tensors.items()}


def _read_chosen(path: Path, array: str | None) -> tuple[dict[str, Array], Array | None]:
    """The arrays of a file that are taken, by split, and the array `groups`; those that are not taken are named in a
    warning, and not opened.
    """
    with _opened(path) as loaded:
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            if array is not None:
                raise ValueError(_NAMELESS.format(path=path, array=array))
            return {"": loaded}, None
        chosen = _choose(path, loaded.files, array)
        arrays = {split: _array(path, loaded, name) for split, name in chosen.items()}
        groups = _array(path, loaded, "groups") if "" in chosen and "groups" in loaded.files else None
        others = [name for name in loaded.files if name not in (*chosen.values(), "groups")]
    if groups is not None and groups.shape != arrays[""].shape[:1]:
        raise ValueError(f"{path}: groups has shape {groups.shape}; wanted a number or a name for each example")
    if others:
        names = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
        warnings.warn(f"{path}: {', '.join(chosen.values())} taken; left out: {names}", stacklevel=2)
    return arrays, groups


def _choose(path: Path, names: Sequence[str], array: str | None) -> dict[str, str]:
    """Which of the arrays of a file are taken, by split."""
    shown = ", ".join(names[:8]) or "none"
    if array is not None:
        if array not in names:
            raise ValueError(f"{path}: no array {array!r} in it; it holds {shown}")
        return {"": array}
    splits, single = split_names(names), [name for name in names if name != "groups"]
    if {"train", "test"} <= splits.keys():
        if double := next((same for same in splits.values() if len(same) > 1), None):
            raise ValueError(f"{path}: {' and '.join(double)} mean one split; wanted one of them")
        return {split: splits[split][0] for split in ("train", "valid", "test") if split in splits}
    if len(single) == 1:
        return {"": single[0]}
    raise ValueError(
        f"{path}: it holds {len(names)} arrays ({shown}); wanted train, valid, test, or train, test, or one array; "
        "--array NAME, in Python array=..., takes one of them"
    )


def file_names(path: str | Path) -> list[str]:
    """The images of a folder in the order in which they are read, by their paths in it; none for a file.

    Raises:
        ValueError: as `read_splits`.
    """
    path = Path(path)
    if not path.is_dir():
        return []
    files, _ = find_images(path)
    return [files[row] for rows in rows_by_split(path, files).values() for row in rows]


def read_arrays(path: Path, advice: str = WANTED) -> dict[str, Array]:
    """The arrays of a .npz file by name, or the array of a .npy file, named ""; never a pickle."""
    with _opened(path, advice) as loaded:
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"": loaded}
        return {name: _array(path, loaded, name, advice) for name in loaded.files}


@contextmanager
def _opened(path: Path, advice: str = WANTED) -> Iterator[Any]:
    """The array of a .npy file, mapped if it is large, or an open .npz file."""
    check_regular(path)
    with ExitStack() as stack:
        with naming_errors(path, advice):
            stream = stack.enter_context(path.open("rb"))
            magic = stream.read(6)
            if magic != b"\x93NUMPY" and magic[:2] != b"PK":
                raise ValueError("not a numpy file")
            large = magic == b"\x93NUMPY" and path.stat().st_size > parts.MAX_IN_MEMORY  # of at least one byte each
            loaded = np.load(path, mmap_mode="r", allow_pickle=False) if large else None
            if loaded is None or loaded.size <= parts.MAX_IN_MEMORY:
                stream.seek(0)
                loaded = np.load(stream, allow_pickle=False)
        yield loaded


def _array(path: Path, loaded: Any, name: str, advice: str = WANTED) -> Array:
    with naming_errors(path, advice):
        array = loaded[name]
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} in it is not an array")
        return array


def _to_examples(array: Array, where: str) -> Any:
    """float32 (N, *event): a tensor, or `Stored` where the array was mapped."""
    if not isinstance(array, np.memmap):
        return _to_tensor(array, where)
    if not array.flags.c_contiguous:
        raise ValueError(f"{where}: too large for memory, and in Fortran order; save np.ascontiguousarray of it")
    _check_numbers(array, where)
    return Stored(Mapped(array))


def _to_tensor(array: Array, where: str) -> Tensor:
    """float32 (N, *event), after checking that these are finite numbers that float32 can hold."""
    _check_numbers(array, where)
    return torch.from_numpy(array.astype(np.float32, order="C"))


def _check_numbers(array: Array, where: str) -> None:
    """Raises a ValueError, in one line, if these are not (N, *event) finite numbers that float32 can hold."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: values of type {array.dtype}; wanted real numbers, integers or bools")
    if array.ndim < 2:
        hint = f"; reshape it to ({len(array)}, 1)" if array.ndim else ""
        raise ValueError(f"{where}: shape {array.shape}; wanted (examples, values, ...){hint}")
    if array.size == 0:
        raise ValueError(f"{where}: empty, shape {array.shape}; wanted at least one example")
    _check_digits(array, where)
    size = max(1, 2**24 // max(1, array[0].size))
    for start in range(0, len(array), size):
        _check_values(array[start : start + size], start, array, where)


def _check_digits(array: Array, where: str) -> None:
    """Raises a ValueError if float32 cannot tell the values of an element apart: those of a date in seconds, say. A
    density does not depend on where zero is, so that an offset can be taken off, in the type of the file.
    """
    if array.dtype.itemsize <= 2 or array.dtype == np.float32:
        return
    rows = array[:: -(-len(array) // 4096)]
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused elsewhere
        x = rows.reshape(len(rows), -1)[:, : 2**12].astype(np.float64)
        error = np.abs(x - x.astype(np.float32)).max(0)
        if not (error > 0).any():
            return
        low, high = np.quantile(x, [0.05, 0.95], axis=0)
    for i in np.flatnonzero(np.isfinite(error) & (error > 0.01 * (high - low))):
        distinct, values = len(np.unique(x[:, i].astype(np.float32))), len(np.unique(x[:, i]))
        if distinct < 0.9 * values:
            index = ", ".join(map(str, np.unravel_index(i, array.shape[1:])))
            raise ValueError(
                f"{where}: float32 keeps {distinct:,} of {values:,} values of index {index}, {x[:, i].min():.16g} to "
                f"{x[:, i].max():.16g}; subtract an offset, such as {x[:, i].min():.16g}, which changes no density"
            )


def _check_values(part: Array, start: int, array: Array, where: str) -> None:
    """Checks `part`, the rows of `array` from `start`."""
    finite = np.isfinite(part)
    if not finite.all():
        row, *index = np.argwhere(~finite)[0].tolist()
        count = sum(int((~np.isfinite(rows)).sum()) for rows in array)
        raise ValueError(
            f"{where}: NaN or infinity in {count} of {array.size} values, "
            f"the first in {describe_index([start + row, *index])}; "
            f"fill them in or drop their rows"
        )
    largest = max(abs(part.min().item()), abs(part.max().item()))
    limit = 2**24 if part.dtype.kind in "iu" else torch.finfo(torch.float32).max
    if largest > limit:
        raise ValueError(
            f"{where}: values of type {part.dtype} up to {largest:g}, which float32 cannot hold "
            f"(limit {limit:g}); rescale them"
        )
