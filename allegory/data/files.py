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
from allegory.data.offsets import find_offset, subtract_offset
from allegory.data.parts import WANTED, Part, given_names, naming_errors, split_names
from allegory.data.pictures import find_images, read_folder, rows_by_split
from allegory.data.stored import Mapped, Stored
from allegory.data.tables import as_frame, to_numbers
from allegory.runtime.messages import describe_index
from allegory.runtime.storage import check_regular
from allegory.tabular import Schema

__all__ = ["file_names", "read_arrays", "read_raw", "read_splits"]

Array = NDArray[Any]

SMALLEST_VALUE = 1e-30
_ADVICE = {  # by the kind of an array
    "c": "; np.stack([x.real, x.imag], -1) has two for each",
    "M": "; x.astype('M8[s]').astype('i8') has seconds",
    "m": "; x.astype('m8[s]').astype('i8') has seconds",
    "U": "; np.unique(x, return_inverse=True)[1] has a number for each",
    "S": "; np.unique(x, return_inverse=True)[1] has a number for each",
    "V": "; numpy.lib.recfunctions.structured_to_unstructured(x) has a column for each field",
}
_NAMELESS = "{path}: array {array!r} is wanted, but only a .npz file has arrays with names"


def read_splits(
    path: Path,
    array: str | None = None,
    size: Sequence[int] | None = None,
    offset: Any = "find",
    channels: int | None = None,
    given: Sequence[str] = (),
    schema: Schema | None = None,
    gaps: Sequence[Any] = (),
) -> dict[str, Part]:
    """What a path holds, by split: train, valid, test; or train, test; or one part, named "".

    Args:
        path: a .npy or .npz file, or a folder of images.
        array: the name of the one array of a .npz file that is taken.
        size: width and height to which the images of a folder are scaled and cropped.
        offset: (*event) float64, what is taken off before the numbers are cast to float32, see
            `allegory.data.offsets`; "find" for what the training data need, None for nothing.
        channels: of the images of a folder; by default 1 where all are grey, else 3.
        given: what is given with the examples: names of arrays of a .npz file, with splits NAME_train and so on;
            "folder" for the sub-folders of images.
        schema: of the columns of vectors: they are read as it encodes them.
        gaps: numbers that stand for a gap, beside NaN.

    Raises:
        ValueError: nothing to read, damage, or values that cannot be taken.
    """
    with naming_errors(path):
        path.stat()
    if path.is_dir():
        if array is not None:
            raise ValueError(_NAMELESS.format(path=path, array=array))
        found = read_folder(path, size, channels)
        if list(given) not in ([], ["folder"]) or (given and any(part.groups is None for part in found.values())):
            raise ValueError(
                f"{path}: given {', '.join(given)!r}: wanted 'folder', of a folder whose images are in sub-folders"
            )
        return {
            split: (part if not given else part._replace(given={"folder": part.groups}))
            for split, part in _as_tensors(path, found).items()
        }
    if size is not None:
        raise ValueError(f"{path}: size={tuple(size)} scales the images of a folder; this is a file of arrays")
    arrays, groups, conditions = read_raw(path, array, gaps, given)
    where = {split: f"{path}, {split}" if split else str(path) for split in arrays}
    if schema is not None:
        return {
            split: Part(to_numbers(schema, as_frame(x), where[split]), (), groups, None, conditions.get(split))
            for split, x in arrays.items()
        }
    offset = find_offset(next(iter(arrays.values()))) if isinstance(offset, str) else offset
    for name, x in arrays.items():
        if offset is not None and np.ndim(offset) and np.shape(offset) != x.shape[1:]:
            raise ValueError(
                f"{where[name]}: examples of shape {x.shape[1:]}, but what is to be taken off them has shape "
                f"{np.shape(offset)}: wanted data as those of the training"
            )
    return {
        split: Part(_to_examples(x, where[split], offset), (), groups, offset, conditions.get(split))
        for split, x in arrays.items()
    }


def _as_tensors(path: Path, parts: dict[str, Part]) -> dict[str, Part]:
    """The images of a folder as tensors, but for what stays on disk."""
    return {
        split: part if isinstance(part.x, Stored) else part._replace(x=_to_tensor(part.x, str(path), None))
        for split, part in parts.items()
    }


def read_raw(
    path: Path, array: str | None = None, gaps: Sequence[Any] = (), given: Sequence[str] = ()
) -> tuple[dict[str, Array], Array | None, dict[str, dict[str, Array]]]:
    """The arrays of a file that are taken, by split, in their own type; the array `groups`; and what is given, by
    split and name. The arguments are those of `read_splits`.

    Raises:
        ValueError: as there.
    """
    arrays, groups, conditions = _read_chosen(path, array, given)
    for split, x in arrays.items():
        _check_numbers(x, f"{path}, {split}" if split else str(path))
    first, *others = arrays.items()
    for split, x in others:
        if x.shape[1:] != first[1].shape[1:]:
            raise ValueError(
                f"{path}: an example has shape {first[1].shape[1:]} in {first[0]}, {x.shape[1:]} in {split}; "
                f"wanted the same shape in every split"
            )
    return {split: _with_gaps(x, gaps, path) for split, x in arrays.items()}, groups, conditions


def _with_gaps(x: Array, gaps: Sequence[Any], path: Path) -> Array:
    """The array with NaN where it has one of the numbers that stand for a gap."""
    if not gaps:
        return x
    if any(isinstance(code, str) for code in gaps) or isinstance(x, np.memmap):
        raise ValueError(f"{path}: gaps={list(gaps)}: of an array that is in memory numbers can stand for a gap")
    missing = np.isin(x, [*gaps, *np.asarray(gaps, np.float32)])  # float32 has 1e20 and -999.9 only rounded
    return np.where(missing, np.nan, x.astype(np.float32 if x.dtype == np.float32 else np.float64))


def _read_chosen(
    path: Path, array: str | None, given: Sequence[str] = ()
) -> tuple[dict[str, Array], Array | None, dict[str, dict[str, Array]]]:
    """The arrays of a file that are taken, by split; the array `groups`; and what is given, by split and name. Those
    that are not taken are named in a warning, and not opened.
    """
    with _opened(path) as loaded:
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            if array is not None:
                raise ValueError(_NAMELESS.format(path=path, array=array))
            if given:
                raise ValueError(_NAMELESS.format(path=path, array=given[0]))
            return {"": loaded}, None, {}
        by_name = {name: given_names(loaded.files, name) for name in given}
        taken = {array for beside in by_name.values() for array in beside.values()}
        chosen = _choose(path, [name for name in loaded.files if name not in taken], array)
        for name, beside in by_name.items():
            if beside.keys() != chosen.keys():
                wanted = ", ".join(f"{name}_{split}" if split else name for split in chosen)
                raise ValueError(
                    f"{path}: given {name!r}: wanted the arrays {wanted}; it holds {', '.join(loaded.files)}"
                )
        conditions = {
            split: {name: _array(path, loaded, beside[split]) for name, beside in by_name.items()}
            for split in (chosen if given else ())
        }
        arrays = {split: _array(path, loaded, name) for split, name in chosen.items()}
        groups = _array(path, loaded, "groups") if "" in chosen and "groups" in loaded.files else None
        others = [name for name in loaded.files if name not in {*chosen.values(), *taken, "groups"}]
    if groups is not None and groups.shape != arrays[""].shape[:1]:
        raise ValueError(f"{path}: groups has shape {groups.shape}; wanted a number or a name for each example")
    for split, name in ((split, name) for split, each in conditions.items() for name in each):
        if (shape := conditions[split][name].shape)[:1] != arrays[split].shape[:1]:
            raise ValueError(
                f"{path}: {by_name[name][split]} has shape {shape}, wanted a row for each of {len(arrays[split])} "
                "examples"
            )
    if others:
        names = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
        warnings.warn(f"{path}: {', '.join(chosen.values())} taken; left out: {names}", stacklevel=2)
    return arrays, groups, conditions


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


def _to_examples(array: Array, where: str, offset: Array | None) -> Any:
    """float32 (N, *event): a tensor, or `Stored` where the array was mapped."""
    if not isinstance(array, np.memmap):
        return _to_tensor(array, where, offset)
    if not array.flags.c_contiguous:
        raise ValueError(f"{where}: too large for memory, and in Fortran order; save np.ascontiguousarray of it")
    _check_sizes([_largest(subtract_offset(part, offset), start, array, where) for start, part in _parts(array)], where)
    return Stored(Mapped(array, offset))


def _to_tensor(array: Array, where: str, offset: Array | None) -> Tensor:
    """float32 (N, *event), after checking that these are numbers that float32 can hold, or gaps."""
    x, largest = np.empty(array.shape, np.float32), []
    for start, part in _parts(array):
        moved = subtract_offset(part, offset)
        largest.append(_largest(moved, start, array, where))
        x[start : start + len(part)] = moved
    _check_sizes(largest, where)
    return torch.from_numpy(x)


def _parts(array: Array) -> Iterator[tuple[int, Array]]:
    """The rows of an array, some at a time, with the number of the first of them."""
    size = max(1, 2**24 // max(1, array[0].size))
    for start in range(0, len(array), size):
        yield start, array[start : start + size]


def _check_numbers(array: Array, where: str) -> None:
    """Raises a ValueError, in one line, if these are not (N, *event) numbers."""
    if array.dtype.kind not in "biuf":
        advice = _ADVICE.get(array.dtype.kind, "")
        raise ValueError(f"{where}: values of type {array.dtype}; wanted real numbers, integers or bools{advice}")
    if array.ndim < 2:
        hint = f"; reshape it to ({len(array)}, 1)" if array.ndim else ""
        raise ValueError(f"{where}: shape {array.shape}; wanted (examples, values, ...){hint}")
    if array.size == 0:
        raise ValueError(f"{where}: empty, shape {array.shape}; wanted at least one example")


def _largest(part: Array, start: int, array: Array, where: str) -> float:
    """The size of the largest number of `part`, the rows of `array` from `start`, after checking that none is infinite,
    and that float32 can hold them. A NaN is a gap.
    """
    infinite = np.isinf(part)
    if infinite.any():
        row, *index = np.argwhere(infinite)[0].tolist()
        count = sum(int(np.isinf(rows).sum()) for rows in array)
        raise ValueError(
            f"{where}: infinity in {count} of {array.size} values, the first in "
            f"{describe_index([start + row, *index])}; fill them in, drop their rows, or make them gaps (NaN)"
        )
    smallest, largest = np.fmin.reduce(part, axis=None).item(), np.fmax.reduce(part, axis=None).item()
    largest = max(abs(smallest), abs(largest)) if largest == largest else 0.0
    whole = part.dtype.kind in "iu"  # without an offset: they may be counts
    limit = 2**24 if whole else torch.finfo(torch.float32).max
    if largest > limit:
        advice = "; rescale them, or save them as float64 to have them taken as rounded real numbers" if whole else ""
        raise ValueError(
            f"{where}: values of type {array.dtype} up to {largest:g}, which float32 cannot hold "
            f"(limit {limit:g}){advice or '; rescale them'}"
        )
    return float(largest)


def _check_sizes(largest: Sequence[float], where: str) -> None:
    """Checks that float32 has digits for the numbers of an array.

    Args:
        largest: the size of the largest number of each of its parts.
        where: in the message.
    """
    if 0 < max(largest) < SMALLEST_VALUE:
        raise ValueError(f"{where}: no value is larger than {max(largest):g}, which float32 cannot hold; rescale them")
