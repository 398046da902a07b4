r"""Offsets: what is taken off values that float32 cannot tell apart: times in seconds, dates, coordinates.

    x - o,      in the type of the file, and only then float32

A density does not depend on where zero is, log p(x) = log p(x - o), so that the model may be one of x - o; samples have
o again. It is taken off an element whose usual values, those within five median deviations of the median, float32 would
move by more than a ten-thousandth of that width. It is itself one of the values, near the median, so that whole numbers
stay whole.

Shapes: N examples, *event.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_offset", "subtract_offset"]

Array = NDArray[Any]

MAX_LOSS = 1e-4  # of the width of the usual values
WIDTH_DEVIATIONS = 5
CHUNK_NUMBERS, MAX_ROWS, MIN_ROWS = 2**22, 4096, 64  # looked at, at a time; rows


def find_offset(array: Array) -> Array | None:
    """(*event) float64, what to take off each element of an array (N, *event), 0 where nothing; None for 0 everywhere.

    >>> x = 1.7e9 + np.arange(600.0)[:, None]
    >>> float(find_offset(x)[0]), find_offset(np.arange(600.0)[:, None])
    (1700000300.0, None)
    """
    if array.dtype.itemsize <= 2 or array.dtype == np.float32:
        return None
    event, size = array.shape[1:], math.prod(array.shape[1:])
    rows = array[:: max(1, len(array) // max(MIN_ROWS, min(MAX_ROWS, CHUNK_NUMBERS // size)))].reshape(-1, size)
    width = max(1, CHUNK_NUMBERS // len(rows))
    parts = [_without_gaps(rows[:, i : i + width].astype(np.float64)) for i in range(0, size, width)]
    middles = [np.partition(part, len(part) // 2, axis=0)[len(part) // 2] for part in parts]
    needed = [_is_lost(part, middle, 0.0) for part, middle in zip(parts, middles, strict=True)]
    if not any(part.any() for part in needed):
        return None
    offset = np.where(np.concatenate(needed), np.concatenate(middles), 0.0)
    if len(event) > 1:  # one for all, if it serves: a picture of x - o is then one of x
        one = np.sort(offset[offset != 0])[np.count_nonzero(offset) // 2]
        if not any(_is_lost(part, middle, one).any() for part, middle in zip(parts, middles, strict=True)):
            offset[:] = one
    return offset.reshape(event)


def subtract_offset(part: Array, offset: Array | None) -> Array:
    """The rows of an array less the offset, (n, *event), with all their digits."""
    if offset is None:
        return part
    return part.astype(np.longdouble if part.dtype.itemsize >= 8 else np.float64) - offset


def _is_lost(x: Array, middle: Array, offset: Any) -> Array:
    """(D) whether float32 moves the usual values of x - offset, (N, D), too far."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused elsewhere
        apart = np.abs(x - middle)
        width = WIDTH_DEVIATIONS * _median_above_zero(apart)
        moved = np.abs((x - offset) - (x - offset).astype(np.float32))
        return (width > 0) & (np.where(apart <= width, moved, 0.0).max(0) > MAX_LOSS * width)


def _without_gaps(x: Array) -> Array:
    """(N, D) with the median of each column in its gaps, which have no part in the choice."""
    missing = np.isnan(x)
    for i in np.flatnonzero(missing.any(0)):
        seen = np.sort(x[~missing[:, i], i])
        x[missing[:, i], i] = seen[len(seen) // 2] if len(seen) else 0.0
    return x


def _median_above_zero(apart: Array) -> Array:
    """(D) the median of (N, D); where it is zero, that of the numbers which are not."""
    found = np.median(apart, axis=0)
    for i in np.flatnonzero(found == 0):
        others = apart[apart[:, i] > 0, i]
        found[i] = np.median(others) if len(others) else 0.0
    return found
