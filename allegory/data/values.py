r"""Values: what a look at the training data says about a density, before any training.

A density has no upper bound on numbers that come again and again, or that follow from other columns: its likelihood is
that of the grid on which they were stored. Nothing is refused here; it is said, with the names of the columns.

Shapes: N examples x, (N, *event); columns are the elements of a vector, (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["remarks"]

DENSITIES = ("normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t")
MAX_ROWS, MAX_COLUMNS = 20_000, 500  # looked at
REPEATED_SHARE, EDGE_SHARE = 0.05, 0.01  # of the rows: for a value, and for the smallest or the largest
MIN_REPEATS = 10


def remarks(x: Any, likelihood: str) -> list[str]:
    """What makes the number that a density gets on x depend on the file: one line each, none where all is well.

    Args:
        x: (N, *event) training data, a tensor or `Stored`.
        likelihood: a name of `allegory.architectures.LIKELIHOODS`.

    >>> remarks(torch.arange(-50.0, 50.0).clamp(min=0)[:, None] / 7, "normal")[0]
    '0 is 51% of the values of column 0'
    """
    if likelihood not in DENSITIES:
        return []
    rows = x[:MAX_ROWS].flatten(1).double().numpy(force=True)
    if x.dim() == 2:
        found = _columns_remarks(rows[:, :MAX_COLUMNS])
    else:
        found = _repeated_values(rows.reshape(-1, 1), "all elements")
    repeated = len(rows) - len(np.unique(rows, axis=0))
    if repeated >= EDGE_SHARE * len(rows):
        found.append(f"{repeated:,} of {len(rows):,} rows repeat an earlier row")
    if found:
        found.append(
            "a density has no upper bound there: its nats are those of the file's grid, and cannot be compared; "
            "leave such columns or rows out, or use a likelihood of discrete values"
        )
    return found


def _columns_remarks(x: NDArray[Any]) -> list[str]:
    """What is said of a table, (N, D)."""
    whole = (x == x.round()).all(0)
    found = []
    if whole.any():
        beside = ", beside measured ones" if not whole.all() else ""
        found.append(f"{_names(np.flatnonzero(whole))}: whole numbers{beside}")
    first: dict[bytes, int] = {}
    copies = [(i, first.setdefault(x[:, i].tobytes(), i)) for i in range(x.shape[1])]
    found += [f"column {i} repeats column {j}" for i, j in copies if i != j][:3]
    distinct = np.array([i for i, j in copies if i == j])
    return _repeated_values(x[:, ~whole], "", np.flatnonzero(~whole)) + found + _dependence(x[:, distinct], distinct)


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
