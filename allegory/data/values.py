r"""Values: what a look at the training data says, before any training.

A density has no upper bound on numbers that come again and again, or that follow from other columns: its likelihood is
that of the grid on which they were stored. Among whole numbers one that is far from all others may stand for what is
missing. And a split that is in other units than train measures nothing. Nothing is refused here; it is said, with the
names of the columns.

Shapes: N examples x, (N, *event); columns are the elements of a vector, (N, D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["remarks", "unlike"]

DENSITIES = ("normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t")
MAX_ROWS, MAX_COLUMNS, MAX_NUMBERS = 20_000, 500, 2**22  # looked at
LARGEST_WHOLE = 1e9  # float32 has whole numbers alone of that size
REPEATED_SHARE, EDGE_SHARE = 0.05, 0.01  # of the rows: for a value, and for the smallest or the largest
MIN_REPEATS = 10
MAX_FEW, MAX_LEVELS, MAX_CATEGORIES = 100, 1024, 31  # different values of a column, of all elements, of categories
FAR_WIDTHS = 20  # times the width of the usual values


def remarks(x: Any, likelihood: str) -> list[str]:
    """What makes a number depend on how the file was written: one line each, none where all is well.

    Args:
        x: (N, *event) training data, a tensor or `Stored`.
        likelihood: a name of `allegory.architectures.LIKELIHOODS`.

    >>> remarks(torch.arange(-50.0, 50.0).clamp(min=0)[:, None] / 7, "normal")[0]
    '0 is 51% of the values of column 0'
    >>> remarks(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 99.0]] * 20), "discretized_logistic")[0]
    '99 is 17% of all values, and far from the others, 0..2: if it stands for what is missing, drop or fill in those...'
    """
    rows, table = _sampled_rows(x, MAX_ROWS), x.dim() == 2
    found = _channels_remarks(x.shape[1:])
    if likelihood not in DENSITIES:
        return found + _discrete_remarks(rows, table)
    told = _columns_remarks(rows[:, :MAX_COLUMNS]) if table else _elements_remarks(rows.reshape(-1, 1))
    found += _fill_value(rows[:, :MAX_COLUMNS]) if table else []
    repeated = len(rows) - len(np.unique(rows, axis=0))
    if repeated >= EDGE_SHARE * len(rows):
        told.append(f"{repeated:,} of {len(rows):,} rows repeat an earlier row")
    if told:
        told.append(
            "a density has no upper bound there: its nats are those of the file's grid, and cannot be compared; "
            "leave such columns or rows out, or use a likelihood of discrete values"
        )
    return found + told


def unlike(x: Any, train: Any) -> str:
    """Where another split seems to be in other units than the training data, in words; "" where it does not.

    Args:
        x, train: (N, *event), tensors or `Stored`.

    >>> unlike(torch.rand(50, 2), 255 * torch.rand(50, 2))
    'column 0 is mostly 0.0... to 0.8..., in train ... to ...'
    """
    found, known = (_sampled_rows(part, MAX_ROWS) for part in (x, train))
    if x.dim() > 2:
        found, known = found.reshape(-1, 1), known.reshape(-1, 1)
    (low, middle, high), (low_0, middle_0, high_0) = (_range(part[:, :MAX_COLUMNS]) for part in (found, known))
    width, width_0 = high - low, high_0 - low_0
    scaled = (np.maximum(width, width_0) > FAR_WIDTHS * np.minimum(width, width_0)) & (np.minimum(width, width_0) > 0)
    moved = (np.abs(middle - middle_0) > FAR_WIDTHS * np.maximum(width, width_0)) & (width_0 > 0)
    for i in np.flatnonzero(moved | (scaled & (len(found) >= 2 * MIN_REPEATS))):
        what = f"column {i} is" if x.dim() == 2 else "its values are"
        return f"{what} mostly {low[i]:g} to {high[i]:g}, in train {low_0[i]:g} to {high_0[i]:g}"
    whole, whole_0 = (bool((part == part.round()).all()) for part in (found, known))
    if whole != whole_0:
        return "its values are whole numbers, in train they are not" if whole else "whole numbers in train, not in it"
    first, last = known.min(), known.max()
    others = (found < first) | (found > last)
    if whole and last - first <= MAX_CATEGORIES and others.any():
        beyond = f"{others.sum()} of {others.size} values, such as {found[others][0]:g},"
        return f"{beyond} are beyond those of train, {first:g}..{last:g}"
    return ""


def _sampled_rows(x: Any, most: int) -> NDArray[Any]:
    """(n, D) the first rows, as many as have 2^22 numbers, in float64."""
    count = max(MIN_REPEATS, min(most, MAX_NUMBERS // max(1, math.prod(x.shape[1:]))))
    return _without_gaps(x[:count].flatten(1).double().numpy(force=True))


def _without_gaps(x: NDArray[Any]) -> NDArray[Any]:
    """(n, D) with the values of each column, in turn, in its gaps: how often each is met stays as it is."""
    missing = np.isnan(x)
    if not missing.any():
        return x
    x = x.copy()
    for i in np.flatnonzero(missing.any(0)):
        seen, gaps = x[~missing[:, i], i], missing[:, i]
        x[gaps, i] = np.resize(seen, gaps.sum()) if len(seen) else 0.0
    return x


def _range(x: NDArray[Any]) -> Any:
    """(3, D) the smallest, the middle and the largest of the usual values; of all, where most are equal."""
    low, middle, high = np.quantile(x, [0.1, 0.5, 0.9], axis=0)
    same = high == low
    return np.where(same, x.min(0), low), middle, np.where(same, x.max(0), high)


def _channels_remarks(event_shape: Sequence[int]) -> list[str]:
    if len(event_shape) != 3 or event_shape[2] not in (1, 3, 4) or min(event_shape[:2]) <= 4:
        return []
    height, width, channels = event_shape
    return [
        f"examples of shape {tuple(event_shape)} look like images with the channels last; as ({channels}, {height}, "
        f"{width}), by x.transpose(0, 3, 1, 2), they are drawn, and convolutions can read them"
    ]


def _discrete_remarks(x: NDArray[Any], table: bool) -> list[str]:
    """What is said of discrete data, (N, D)."""
    values = np.unique(x)
    if (values != values.round()).any():
        return []
    if len(values) == 1:
        return [f"all values are {values[0]:g}: there is nothing to learn"]
    if table and x.shape[1] > 2 and values.tolist() == [0, 1] and bool((x.sum(1) == 1).all()):
        return [
            f"each row has a single 1: if they are codes of {x.shape[1]} categories, one column with their numbers, "
            "x.argmax(1)[:, None], is scored as categories"
        ]
    return (_fill_value(x) if table else []) or _fill_value(x.reshape(-1, 1), "all values")


def _fill_value(x: NDArray[Any], where: str = "") -> list[str]:
    """The number that may stand for what is missing in the first column of whole numbers that has one, and how many
    more have: the smallest or the largest, repeated, and far from all others.
    """
    lines = []
    for column in np.flatnonzero((x == x.round()).all(0)):
        values, counts = np.unique(x[:, column], return_counts=True)
        for i, others in ((0, values[1:]), (-1, values[:-1])) if len(values) > 2 else ():
            gap, width = np.abs(values[i] - others).min(), others[-1] - others[0]
            if gap >= max(5, 2 * width) and counts[i] >= MIN_REPEATS:
                lines.append(
                    f"{values[i]:g} is {counts[i] / len(x):.0%} of {where or f'the values of column {column}'}, and "
                    f"far from the others, {others[0]:g}..{others[-1]:g}"
                )
    more = f", and {len(lines) - 1} more columns have such a number" if len(lines) > 1 else ""
    return [f"{lines[0]}{more}: if it stands for what is missing, drop or fill in those rows"] if lines else []


def _elements_remarks(x: NDArray[Any]) -> list[str]:
    """What is said of the values of all elements, (N, 1)."""
    levels = len(np.unique(x))
    few = (
        [f"all elements take only {levels:,} different values"]
        if 1 < levels <= min(MAX_LEVELS, len(x) / MIN_REPEATS)
        else []
    )
    return _repeated_values(x, "all elements") or few


def _columns_remarks(x: NDArray[Any]) -> list[str]:
    """What is said of a table, (N, D)."""
    whole = (x == x.round()).all(0) & (np.abs(x).max(0) <= LARGEST_WHOLE)
    found = []
    if whole.any():
        beside = ", beside measured ones" if not whole.all() else ""
        found.append(f"{_names(np.flatnonzero(whole))}: whole numbers{beside}")
    first: dict[bytes, int] = {}
    copies = [(i, first.setdefault(x[:, i].tobytes(), i)) for i in range(x.shape[1])]
    found += [f"column {i} repeats column {j}" for i, j in copies if i != j][:3]
    kept = np.array([i for i, j in copies if i == j])
    measured = np.flatnonzero(~whole)
    again = _repeated_values(x[:, measured], "", measured) or _few_values(x[:, measured], measured)
    return again + found + _dependence(x[:, kept], kept)


def _few_values(x: NDArray[Any], names: NDArray[Any]) -> list[str]:
    """The first column that has few different values, and how many more have."""
    levels = [len(np.unique(column)) for column in x.T]
    few = [i for i, count in enumerate(levels) if 1 < count <= min(MAX_FEW, len(x) / MIN_REPEATS)]
    more = f", and {len(few) - 1} more columns have few" if len(few) > 1 else ""
    return [f"column {names[few[0]]} has only {levels[few[0]]} different values{more}"] if few else []


def _repeated_values(x: NDArray[Any], where: str, names: Sequence[int] | NDArray[Any] = ()) -> list[str]:
    """The number that comes again and again in the first column that has one, and how many more have."""
    lines = []
    for i in range(x.shape[1]):
        values, counts = np.unique(x[:, i], return_counts=True)
        k = int(counts.argmax())
        enough = EDGE_SHARE if k in (0, len(values) - 1) else REPEATED_SHARE
        if counts[k] >= max(MIN_REPEATS, enough * len(x)) and len(values) > 1:
            lines.append(f"{values[k]:g} is {counts[k] / len(x):.0%} of {where or f'the values of column {names[i]}'}")
    more = f", and {len(lines) - 1} more columns have such a number" if len(lines) > 1 else ""
    return [lines[0] + more] if lines else []


def _dependence(x: NDArray[Any], names: NDArray[Any]) -> list[str]:
    """Whether a linear combination of the columns is constant, up to the rounding of float32."""
    scale = x.std(0)
    x, names, scale = x[:, scale > 0], names[scale > 0], scale[scale > 0]
    if len(x) <= 2 * x.shape[1] or x.shape[1] < 2:
        return []
    total = x.sum(1)
    if total.std() < 1e-6 * scale.max():
        return [f"{_names(names)} sum to {total.mean():g}"]
    eigenvalues, vectors = np.linalg.eigh(np.corrcoef(x.T))
    if eigenvalues[0] > 1e-11:
        return []
    part = names[np.abs(vectors[:, 0]) > 0.01]
    return [f"{_names(part)}: each follows from the others, as a sum of multiples of them"]


def _names(columns: Sequence[int] | NDArray[Any]) -> str:
    """Columns by their numbers."""
    if len(columns) == 1:
        return f"column {columns[0]}"
    listed = ", ".join(str(i) for i in columns[:8])
    return f"columns {listed}{f' and {len(columns) - 8} more' if len(columns) > 8 else ''}"
