"""Files: reading them, with a single error that names the file.

    read_splits(path)  ->  tensors of a `.npy` file (one array), a `.npz` file (`train`, `valid`, `test`; or `train`,
                           `test`; or one array) or a folder of images, in their own units; a `.npy` file or a folder
                           that would take more than a gigabyte stays on disk, and is read as it is drawn

No pickle is ever loaded.

Shapes: N examples, *event the shape of one; C, H, W channels, height, width. Tensors are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allegory.data.stored import Mapped, Pictures, Stored

__all__ = ["read_arrays", "read_splits", "reading"]

Array = NDArray[Any]

KEPT = 2**28  # the most numbers that are held in memory
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_WANTED = "wanted a .npy or .npz file of numbers, or a folder of images"


def read_splits(path: Path) -> dict[str, Any]:
    """The tensors of a path by split: train, valid, test; or train, test; or one, named "", which may be `Stored`."""
    with reading(path):
        path.stat()
    images = _read_images(path) if path.is_dir() else None
    if isinstance(images, Pictures):
        return {"": Stored(images)}
    arrays = {"": images} if images is not None else read_arrays(path)
    if len(arrays) == 1:
        (array,) = arrays.values()
        if isinstance(array, np.memmap):
            if not array.flags.c_contiguous:
                raise ValueError(f"{path}: too large for memory, and in Fortran order; save np.ascontiguousarray of it")
            _check_numbers(array, str(path))
            return {"": Stored(Mapped(array))}
        return {"": _to_tensor(array, str(path))}
    if set(arrays) not in ({"train", "valid", "test"}, {"train", "test"}):
        names = ", ".join(list(arrays)[:8]) or "none"
        raise ValueError(
            f"{path}: it holds {len(arrays)} arrays ({names}); wanted train, valid, test, or train, test, or one array"
        )
    parts: dict[str, Tensor] = {
        split: _to_tensor(arrays[split], f"{path}, {split}") for split in ("train", "valid", "test") if split in arrays
    }
    event = tuple(parts["train"].shape[1:])
    for split, x in parts.items():
        if x.shape[1:] != event:
            raise ValueError(
                f"{path}: an example has shape {event} in train, {tuple(x.shape[1:])} in {split}; "
                f"wanted the same shape in every split"
            )
    return parts


def read_arrays(path: Path, advice: str = _WANTED) -> dict[str, Array]:
    """The arrays of a .npz file by name, or the array of a .npy file, named ""; never a pickle."""
    with reading(path, advice), path.open("rb") as stream:
        magic = stream.read(6)
        if magic != b"\x93NUMPY" and magic[:2] != b"PK":
            raise ValueError("not a numpy file")
        if magic == b"\x93NUMPY" and path.stat().st_size > KEPT:  # of at least one byte each
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if mapped.size > KEPT:
                return {"": mapped}
        stream.seek(0)
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        arrays = {name: loaded[name] for name in loaded.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} in it is not an array")
        return arrays


def _read_images(folder: Path) -> Array | Pictures:
    """The images of a folder by name, (N, C, H, W) uint8; C = 1 where all are grey, else 3."""
    with reading(folder):
        files = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in _IMAGES and not file.name.startswith(".")
        )
    if not files:
        raise ValueError(
            f"{folder}: no images in this folder (subfolders are not searched); "
            f"wanted files that end in {', '.join(_IMAGES)}"
        )
    images: list[Array] = []
    first, grey = _read_image(files[0]), True
    few = len(files) * first.size <= KEPT
    for file in files:
        image = _read_image(file)
        if image.shape != first.shape:
            (h, w, _), (height, width, _) = first.shape, image.shape
            raise ValueError(
                f"{folder}: images of different sizes, {files[0].name} is {w} x {h} and "
                f"{file.name} is {width} x {height}; wanted one size, resize them first"
            )
        grey = grey and bool((image == image[..., :1]).all())
        images += [image] if few else []
    channels = 1 if grey else 3
    if not few:
        return Pictures(files, _read_image, (channels, *first.shape[:2]))
    return np.stack(images).transpose(0, 3, 1, 2)[:, :channels]


def _read_image(path: Path) -> Array:
    """Red, green, blue of an image, upright, (H, W, 3) uint8."""
    import numpy as np
    from PIL import Image, ImageOps

    with reading(path, "wanted an image of 8-bit values"), Image.open(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"its values are deeper, mode {image.mode}: save them as .npy")
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
        if pixels[..., 3].min() < 255:
            raise ValueError("some of its pixels are transparent: flatten it")
        return pixels[..., :3]


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
        kept, values = len(np.unique(x[:, i].astype(np.float32))), len(np.unique(x[:, i]))
        if kept < 0.9 * values:
            index = ", ".join(map(str, np.unravel_index(i, array.shape[1:])))
            raise ValueError(
                f"{where}: float32 keeps {kept:,} of {values:,} values of index {index}, {x[:, i].min():.16g} to "
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
            f"the first in row {start + row}, index {', '.join(map(str, index))}; "
            f"fill them in or drop their rows"
        )
    largest = max(abs(part.min().item()), abs(part.max().item()))
    limit = 2**24 if part.dtype.kind in "iu" else torch.finfo(torch.float32).max
    if largest > limit:
        raise ValueError(
            f"{where}: values of type {part.dtype} up to {largest:g}, which float32 cannot hold "
            f"(limit {limit:g}); rescale them"
        )


@contextmanager
def reading(path: Path, advice: str = _WANTED) -> Iterator[None]:
    """Turns any error in reading `path` into one ValueError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such file or folder; {_WANTED}, or a built-in name (allegory datasets)"
        ) from error
    except Exception as error:  # a damaged file may raise anything in numpy, zipfile or Pillow
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if "allow_pickle" in reason or "Python objects" in reason:
            reason = "it holds Python objects, which are never loaded"
        raise ValueError(f"{path}: cannot be read ({reason}); {advice}") from error
