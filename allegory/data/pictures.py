"""Folders of images: all of them, in every sub-folder, in natural order (2 before 10), with all their bits.

    read_folder(folder)    ->  the images by split, as `files.read_splits` returns them

Sub-folders named train, valid (or val), test are the splits. All other sub-folders are labels, and images of one label
are a group. What a folder holds and is not taken is counted, in one warning.

Shapes: H, W, height and width. An image is read as (H, W, 3), uint8, or uint16 where the file has 16 bits per channel.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allegory.data import parts
from allegory.data.parts import Part, describe_error, naming_errors, split_names
from allegory.data.stored import Pictures, Stored
from allegory.runtime.storage import check_regular

__all__ = ["find_images", "read_folder", "read_image", "rows_by_split"]

Array = NDArray[Any]

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LISTED = 50  # files that a message names


def read_folder(folder: Path, size: Sequence[int] | None = None, channels: int | None = None) -> dict[str, Part]:
    """The images of a folder by split, (N, C, H, W), C = 1 where all are grey, else 3; one part, named "", where no
    sub-folder is named as a split.

    Args:
        folder: where to look.
        size: width and height to which each image is scaled and cropped.
        channels: C, 1 or 3; 1 accepts only grey images.

    Raises:
        ValueError: no images, files that cannot be read, or images that differ in size or depth; all are named.
    """
    files, left_out = find_images(folder)
    others = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
    if not files:
        stack = ", np.stack of the arrays as one .npy file" if left_out[".npy"] else ""
        raise ValueError(
            f"{folder}: no images in this folder or below{f', but {others}' if others else ''}; wanted files that end "
            f"in {', '.join(ENDINGS)}{stack}"
        )
    rows = rows_by_split(folder, files)
    x, several = _read_all(folder, files, size, channels)
    remarks = [f"left out: {others}"] if left_out else []
    remarks += [f"{several} with several frames or pages, of which the first was taken"] if several else []
    if remarks:
        warnings.warn(f"{folder}: {len(files)} images taken; {'; '.join(remarks)}", stacklevel=2)
    found = {}
    for split, chosen in rows.items():
        names = [files[row] for row in chosen]
        labels = ["/".join(name.split("/")[bool(split) : -1]) for name in names]
        taken = Stored(x, torch.tensor(chosen)) if isinstance(x, Pictures) else x[chosen] if split else x
        found[split] = Part(taken, names, labels if any(labels) else None)
    return found


def find_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """The images in a folder and below, by their paths in it, in natural order; and how many files of each other ending
    there are, without hidden ones.
    """
    images, others, seen = list[str](), Counter[str](), set[str]()
    with naming_errors(folder):
        for place, below, names in os.walk(folder, onerror=_raise, followlinks=True):
            here = os.path.realpath(place)
            below[:] = [] if here in seen else [name for name in below if not name.startswith(".")]
            for name in [] if here in seen else names:  # links may lead round in a circle
                file = Path(place, name)
                if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                    continue
                if file.suffix.lower() in ENDINGS and file.is_file():
                    images.append(file.relative_to(folder).as_posix())
                elif not file.exists():
                    others["broken links"] += 1
                else:
                    check_regular(file)
                    others[file.suffix.lower() or "without an ending"] += 1
            seen.add(here)
    return sorted(images, key=_natural), others


def read_image(path: Path, size: Sequence[int] | None = None) -> Array:
    """Red, green, blue of an image, upright, (H, W, 3) uint8 or uint16; of several frames the first.

    Args:
        path: of the file.
        size: width and height; the image is scaled until it covers them, and its middle is taken.

    Raises:
        ValueError: transparent pixels, or numbers that are not whole ones of 8 or 16 bits.
    """
    pixels = _pixels(path)
    if pixels[..., 3].min() < np.iinfo(pixels.dtype).max:
        raise ValueError("some of its pixels are transparent: flatten it")
    return _fitted(pixels[..., :3], size) if size and pixels.shape[:2] != (size[1], size[0]) else pixels[..., :3]


def _read_all(folder: Path, files: Sequence[str], size: Sequence[int] | None, channels: int | None) -> tuple[Any, int]:
    """All images as one array (N, C, H, W), or as `Pictures` where they are too many; how many have several frames."""
    images: list[Array] = []
    damaged: dict[str, str] = {}
    kinds: dict[tuple[int, ...], list[str]] = {}  # of files, by size and depth
    several, coloured = 0, list[str]()
    for name in files:
        try:
            image = read_image(folder / name, size)
            several += _has_frames(folder / name)
        except Exception as error:  # a damaged file may raise anything in Pillow
            damaged[name] = describe_error(error)
            continue
        kinds.setdefault((*image.shape[:2], 8 * image.itemsize), []).append(name)
        coloured += [] if bool((image == image[..., :1]).all()) else [name]
        images += [image] if len(files) * image.size <= parts.MAX_IN_MEMORY else []
    if damaged:
        raise ValueError(_damaged_message(folder, damaged, len(files)))
    if len(kinds) > 1:
        raise ValueError(_unlike_message(folder, kinds))
    if channels == 1 and coloured:
        raise ValueError(
            f"{folder}: {len(coloured)} of {len(files)} images are coloured, the first {coloured[0]}; wanted grey ones"
        )
    channels, ((height, width, bits), _) = channels or (3 if coloured else 1), next(iter(kinds.items()))
    if len(images) < len(files):
        read = partial(read_image, size=size)
        return Pictures(folder.absolute(), files, read, (channels, height, width), bits), several
    return np.stack(images).transpose(0, 3, 1, 2)[:, :channels], several


def rows_by_split(folder: Path, files: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each split, where the sub-folders are named so; else all of them, as one part named ""."""
    tops = sorted({PurePosixPath(name).parts[0] if "/" in name else "" for name in files})
    splits = split_names(tops)
    if len(splits) < 2:
        return {"": list(range(len(files)))}
    if {"train", "test"} - {*splits} or sum(map(len, splits.values())) < len(tops):
        names = ", ".join(top or "images beside them" for top in tops[:8])
        raise ValueError(f"{folder}: it holds {names}; wanted the folders train, valid, test, or train, test, alone")
    if double := next((names for names in splits.values() if len(names) > 1), None):
        raise ValueError(f"{folder}: {' and '.join(double)} mean one split; wanted one of them")
    order = [(split, splits[split][0]) for split in ("train", "valid", "test") if split in splits]
    return {split: [i for i, name in enumerate(files) if name.startswith(f"{top}/")] for split, top in order}


def _pixels(path: Path) -> Array:
    """(H, W, 4) red, green, blue, alpha, uint8 or uint16."""
    from PIL import Image, ImageOps

    def opened(change: Any = None) -> Array:
        with Image.open(path) as image:
            if change:
                image._mode, raw = change
                image.tile = [tile._replace(args=_with_raw_mode(tile.args, raw)) for tile in image.tile]
            return np.asarray(ImageOps.exif_transpose(image))

    with Image.open(path) as image:
        mode, raw = image.mode, {_raw_mode(tile.args) for tile in image.tile}
        deep = any(";16" in name for name in raw) if image.format == "PNG" else _tiff_bits(image) > 8
        if not deep and mode[0] not in "IF":
            return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
        if deep and image.info.get("transparency") is not None:
            raise ValueError("one of its colours is transparent: flatten it")
    if mode.startswith("I;16"):
        return _with_alpha(np.repeat(opened()[..., None].astype(np.uint16), 3, 2))
    kind, _, order = (raw.pop() if len(raw) == 1 else "").rpartition("16")
    if mode in ("RGB", "RGBA") and kind == f"{mode};":
        # Pillow keeps the upper byte of each number. In the other byte order that is the lower one.
        other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
        upper, lower = opened(), opened((mode, f"{kind}16{other}"))
        return _with_alpha(upper.astype(np.uint16) * 256 + lower)
    if kind == "LA;" and order == "B":  # two bytes of grey, two of alpha: as four bytes
        data = opened(("RGBA", "RGBA")).astype(np.uint16)
        grey, alpha = data[..., 0] * 256 + data[..., 1], data[..., 2] * 256 + data[..., 3]
        return np.stack([grey, grey, grey, alpha], 2)
    raise ValueError(f"its values are not whole numbers of 8 or 16 bits, mode {mode}: save them as .npy")


def _with_alpha(pixels: Array) -> Array:
    return pixels if pixels.shape[2] == 4 else np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=65535)


def _raw_mode(args: Any) -> str:
    """The layout of the bytes in a file, from the arguments of Pillow's decoder."""
    return str(args[0] if isinstance(args, tuple) else args)


def _with_raw_mode(args: Any, raw: str) -> Any:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw


def _tiff_bits(image: Any) -> int:
    """Bits per channel of a TIFF; 8 of other formats."""
    return max(image.tag_v2.get(258, (1,))) if image.format == "TIFF" else 8


def _has_frames(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1  # of MPO, the others are previews


def _fitted(pixels: Array, size: Sequence[int]) -> Array:
    """(H, W, 3) scaled and cropped to a width and a height."""
    from PIL import Image, ImageOps

    def fit(channel: Array) -> Array:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(ImageOps.fit(image, (size[0], size[1]), Image.Resampling.BICUBIC))

    whole = np.stack([fit(pixels[..., c]) for c in range(3)], 2).round()
    return whole.clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def _natural(name: str) -> tuple[Any, ...]:
    """A key that sorts the numbers in a path as numbers."""
    folders = [re.split(r"([0-9]+)", part) for part in name.split("/")]
    return tuple([int(word) if i % 2 else word for i, word in enumerate(words)] for words in folders), name


def _damaged_message(folder: Path, damaged: dict[str, str], count: int) -> str:
    advice = "repair it, or take it out of the folder"
    if len(damaged) == 1:
        ((name, why),) = damaged.items()
        return f"{folder / name}: cannot be read ({why}); {advice}"
    listed = ", ".join(f"{name} ({why})" for name, why in [*damaged.items()][:LISTED])
    more = f" and {len(damaged) - LISTED} more" if len(damaged) > LISTED else ""
    advice = "repair them, or take them out of the folder"
    return f"{folder}: {len(damaged)} of {count} images cannot be read: {listed}{more}; {advice}"


def _unlike_message(folder: Path, kinds: dict[tuple[int, ...], list[str]]) -> str:
    common = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    depths = {bits for _, _, bits in kinds}
    described = [
        f"{len(names)} of {width} x {height}{f', {bits} bits' if len(depths) > 1 else ''} ({names[0]}"
        f"{', ...' if len(names) > 1 else ''})"
        for (height, width, bits), names in common[:5]
    ]
    listed = ", ".join(described) + (f" and {len(common) - 5} more" if len(common) > 5 else "")
    if len(depths) > 1:
        return f"{folder}: images of different depth: {listed}; wanted 8 bits in all, or 16 in all"
    (height, width, _), _ = common[0]
    return (
        f"{folder}: images of different sizes: {listed}; wanted one size: --size {width},{height}, in "
        f"Python size=({width}, {height}), scales and crops them"
    )


def _raise(error: OSError) -> None:
    raise error
