r"""Leakage: what nearly stands in two splits, so that what is held out measures the memory of a model.

    nearly equal rows    closer to some rows of another split than to the next nearest by a factor of 20: copies that
                         were compressed, scaled or rounded again. Of points without copies in m dimensions a share of
                         about 20^-m has such a gap, at most one in twenty. Distances are between ranks within each
                         element, so that no unit and no wild value decides
    windows              rows that overlap with the row that follows in the file, as those cut from one series

Shapes: N examples, *event the shape of one; D its elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["near_copies", "overlap"]

DISTANCE_RATIO = 20  # of a neighbour of a row to the one before it: what is nearer is a copy
GAP = -3.1e38  # stands for a gap: two are equal
MIN_SHARE, MIN_ROWS = 0.1, 5  # of the rows that are looked at; and at least so many
MAX_QUERIES, MAX_KNOWN, MAX_COLUMNS, MAX_NEIGHBOURS = 500, 10_000, 128, 50


def near_copies(x: Tensor, known: Tensor) -> float:
    """The share of the rows of x that nearly equal a row of `known`, without equalling any; 0 where it is small enough
    to be chance. Rows with gaps have no part in it.

    Args:
        x: (N, *event), of which at most 500 rows are looked at, evenly spaced.
        known: (M, *event), of which at most 10,000 rows are.

    >>> x = torch.randn(1000, 4)
    >>> near_copies(x + 1e-4, x), near_copies(torch.randn(1000, 4), x)
    (1.0, 0.0)
    """
    x, known = (part[~part.isnan().any(1)] for part in (_rows(x, MAX_QUERIES), _rows(known, MAX_KNOWN)))
    if len(known) < 2 or not len(x):
        return 0.0
    varied = (known != known[:1]).any(0).nonzero()[:, 0]
    columns = varied[:: max(1, len(varied) // MAX_COLUMNS)]
    if not len(columns):
        return 0.0
    x, known = x[:, columns].double(), known[:, columns].double()
    ordered = known.T.contiguous().sort(1).values
    at, others = _ranks(x, ordered), _ranks(known, ordered)
    distances = torch.cdist(at, others).clamp(min=0.5 / len(known))
    nearest, rows = distances.topk(min(MAX_NEIGHBOURS + 1, len(known)), largest=False)
    gap = (nearest[:, 1:] > DISTANCE_RATIO * nearest[:, :-1]).any(1) & (x != known[rows[:, 0]]).any(1)
    share = gap.double().mean().item()
    return share if share >= MIN_SHARE and gap.sum() >= MIN_ROWS else 0.0


def overlap(x: Any) -> int:
    """How far apart two rows of x, (N, *event), in the order of the file, begin in the series that they are windows of;
    0 where they are none.

    >>> overlap(torch.arange(50.0).sin().unfold(0, 8, 2))
    2
    """
    for axis in {1, x.dim() - 1} if len(x) >= 10 else ():
        rows = x.nan_to_num(GAP).movedim(axis, 1)
        length = rows.shape[1] if rows.shape[1] >= 4 else 0
        varied = (rows[1:, 1:] != rows[1:, :-1]).flatten(1).any(1)  # a constant row equals any shift of itself
        for step in range(1, length // 2 + 1):
            same = (rows[1:, : length - step] == rows[:-1, step:]).flatten(1).all(1)
            if varied.any() and same[varied].double().mean() > 0.8:
                return step
    return 0


def _rows(x: Tensor, most: int) -> Tensor:
    """(n, D) some rows, evenly spaced."""
    chosen = torch.from_numpy(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(np.int64))
    return x[chosen].flatten(1)


def _ranks(x: Tensor, ordered: Tensor) -> Tensor:
    """(n, D) the share of the values of each column, in order (D, M), that are below those of x, (n, D)."""
    values = x.T.contiguous()
    both = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return both.T.double() / (2 * ordered.shape[1])
