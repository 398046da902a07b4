r"""Copies: rows of a table that come again, and fill each other's gaps.

Of two rows with gaps nobody says that they are the same one, but it shows: they agree in every cell that both have, and
such cells seldom agree by chance.

    e(x, y) = - sum log share_d(x_d), over the cells d that both have         evidence, nats

with share_d(v) the share of the value v in column d. Were a fraction rho of N rows copies, and columns independent, the
odds of a copy would be rho / N exp(e). Columns are not, so how much evidence suffices is read off the table: a cell of
each row is covered, and foretold by the row for which most evidence is left. From the least evidence t on at which

    kappa(t) = (right - chance) / (1 - chance) >= 95 %,      right, chance: shares of the covered cells with e >= t that
                                                             are foretold, and that would be by a value at random

rows are taken for copies: a hot deck whose donors have proved themselves (Andridge & Little 2010). Columns that they do
not foretell are left to the model. A table in which few rows, or none, foretell others that well has no copies.

Shapes: x (B, D) rows to be filled; M rows (M, D) that are known, NaN in gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Copies", "find_copies"]

Array = NDArray[Any]
MAX_ROWS = 10_000
CERTAIN, CERTAIN_COLUMN = 0.95, 0.8  # kappa, of all columns, and of each
COVERS = 2  # cells of a row, one after the other
MIN_FORETOLD, MIN_SHARE = 20, 0.01  # covered cells, and of the rows, for which it is worth the time
ROUNDS = 4  # a row that was filled may be told from fewer others
PAIRS = 2**20  # that are compared at a time
ALL_PAIRS = 4  # columns in which all are compared


@dataclass(frozen=True)
class Copies:
    """Rows that others may be copies of.

    Attributes:
        rows: (M, D) NaN in gaps.
        rarity: (M, D) -log share of each value, 0 in gaps.
        gives: (D,) which columns are filled.
        least: the evidence, in nats, that makes a copy.
    """

    rows: Array
    rarity: Array
    gives: Array
    least: float

    def fill(self, x: Array) -> Array:
        """(B, D) x with the cells that copies of its rows have. Each row is filled on its own.

        >>> rows = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> copies = Copies(rows, np.ones((2, 3)), np.ones(3, bool), least=2.0)
        >>> copies.fill(np.array([[1.0, 2.0, np.nan], [np.nan, 5.0, np.nan]]))
        array([[ 1.,  2.,  3.],
               [nan,  5., nan]])
        """
        x = x.copy()
        left = np.flatnonzero((np.isnan(x) & self.gives).any(1))
        for _ in range(ROUNDS):
            lacking = np.isnan(x[left]) & self.gives
            donor, evidence = _donors(x[left], self.rows, self.rarity, lacking)
            certain = evidence >= self.least
            left, donor, lacking = left[certain], donor[certain], lacking[certain]
            if not len(left):
                break
            x[left] = np.where(lacking, self.rows[donor], x[left])
        return x


def find_copies(x: Array, gives: Array, seed: int = 0) -> Copies | None:
    """What tells the copies among the rows of a table; None where there are none.

    Args:
        x: (N, D) numbers, NaN in gaps; at most 10,000 rows, evenly spaced, are looked at.
        gives: (D,) whether a gap of a column says nothing, so that it may be filled.
        seed: of the cells that are covered.

    >>> x = np.random.default_rng(0).normal(size=(200, 4)).round(2)
    >>> x[100:] = x[:100]
    >>> x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    >>> find_copies(x, np.ones(4, bool)).least < 20, find_copies(x[:100], np.ones(4, bool))
    (True, None)
    """
    rows = x[:: math.ceil(len(x) / MAX_ROWS)]
    rarity = np.stack([_rarity(column) for column in rows.T], 1)
    generator = np.random.default_rng(seed)
    covers = [_foretold(rows, rarity, gives, generator.random(rows.shape)) for _ in range(COVERS)]
    foretold = np.concatenate(covers)
    foretold = foretold[np.argsort(-foretold["evidence"], kind="stable")]
    certain = np.flatnonzero(
        _kappa(foretold["right"].cumsum(), foretold["chance"].cumsum(), np.arange(len(foretold)) + 1) >= CERTAIN
    )
    if not len(certain) or certain[-1] + 1 < max(MIN_FORETOLD, MIN_SHARE * len(rows)):
        return None
    foretold = foretold[: certain[-1] + 1]
    right, chance, count = (
        np.bincount(foretold["column"], weight, x.shape[1]) for weight in (foretold["right"], foretold["chance"], None)
    )
    gives = gives & (_kappa(right, chance, np.maximum(count, 1)) >= CERTAIN_COLUMN)
    return Copies(rows, rarity, gives, float(foretold["evidence"][-1]))


def _foretold(rows: Array, rarity: Array, gives: Array, order: Array) -> Array:
    """Of the rows of which a cell was covered and foretold by a donor: the evidence, the column, whether the donor is
    right, and the chance that a value at random is.

    Args:
        rows, rarity, gives: as of `Copies`.
        order: (M, D) the cell of a row with the highest number is covered.
    """
    may = ~np.isnan(rows) & gives
    column = np.where(may, order, -1.0).argmax(1)
    covered = may & (np.arange(rows.shape[1]) == column[:, None])
    donor, evidence = _donors(np.where(covered, np.nan, rows), rows, rarity, covered, itself=False)
    found = np.flatnonzero(np.isfinite(evidence))
    at = (found, column[found])
    kinds = [("evidence", float), ("column", int), ("right", float), ("chance", float)]
    each = (evidence[found], at[1], rows[donor[found], at[1]] == rows[at], np.exp(-rarity[at]))
    return np.rec.fromarrays(each, dtype=kinds)


def _kappa(right: Array, chance: Array, count: Array) -> Array:
    """How far, from chance to certainty, so many cells are foretold (Cohen 1960); 1 where chance is certain."""
    return np.where(chance < count, (right - chance) / np.maximum(count - chance, 1e-9), 1.0 * (right >= count))


def _rarity(column: Array) -> Array:
    """(M,) -log share of each value, 0 in gaps."""
    _, value, count = np.unique(column, return_inverse=True, return_counts=True)
    seen = ~np.isnan(column)
    return np.where(seen, -np.log(count[value] / max(1, seen.sum())), 0.0)


def _donors(x: Array, rows: Array, rarity: Array, lacking: Array, itself: bool = True) -> tuple[Array, Array]:
    """The row that agrees with each of x, has a cell that this lacks, and for which most evidence is, and the
    evidence, (B,) both; -inf where there is none. Columns that tell most rows apart come first: few pairs are left.

    Args:
        x: (B, D); where not `itself`, the rows themselves, which are not their own donors.
        rows, rarity: (M, D).
        lacking: (B, D) the cells that are wanted.
    """
    best, found = np.zeros(len(x), int), np.full(len(x), -np.inf)
    has = (~np.isnan(rows)).T.astype(np.float32)
    columns = np.argsort(-rarity.mean(0), kind="stable")
    for at in _parts(len(x), len(rows)):
        some = x[at]
        pairs = lacking[at].astype(np.float32) @ has > 0
        for d in columns[:ALL_PAIRS]:
            pairs &= ~_differ(some[:, d, None], rows[:, d])
        row, donor = pairs.nonzero()
        for d in columns[ALL_PAIRS:]:
            agree = ~_differ(some[row, d], rows[donor, d])
            row, donor = row[agree], donor[agree]
        if not itself:
            row, donor = (index[row + at.start != donor] for index in (row, donor))
        evidence = np.zeros(len(row))
        for d in range(x.shape[1]):
            evidence += np.where(some[row, d] == rows[donor, d], rarity[donor, d], 0)
        ranked = np.lexsort((-evidence, row))
        row, first = np.unique(row[ranked], return_index=True)
        best[row + at.start], found[row + at.start] = donor[ranked][first], evidence[ranked][first]
    return best, found


def _differ(x: Array, y: Array) -> Array:
    """Whether both are there, and are not the same."""
    return (x < y) | (x > y)


def _parts(count: int, rows: int) -> Iterator[slice]:
    step = max(1, PAIRS // max(1, rows))
    return (slice(begin, begin + step) for begin in range(0, count, step))
