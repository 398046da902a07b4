r"""Findings: what a look at a table says before any training: what is in it twice, what follows from what, and what may
stand for a gap. Nothing is refused here; it is said, with the names of the columns.

Shapes: N rows, D columns of x.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allegory.tabular.columns import CODED, Column
from allegory.tabular.description import in_words
from allegory.tabular.frames import shown
from allegory.tabular.inference import in_disguise
from allegory.tabular.schema import Schema

__all__ = ["measured", "remarks", "repeats_by_chance"]

Array = NDArray[Any]

MAX_ROWS, MAX_LEVELS, MAX_PAIRED, MANY_STEPS = 20_000, 1000, 100, 1000
SCREENED = 1000  # rows in which a column must follow from another before all are looked at
MIN_REPEATS, REPEATED_SHARE, CHANCE, FAR_WIDTHS = 10, 0.01, 5.0, 5.0
SINGULAR = 1e-11  # of a correlation matrix: its smallest eigenvalue, with rounding
GAP_WORDS = {
    "?", "-", "--", ".", "", "NA", "N/A", "n/a", "na", "NaN", "nan", "NULL", "null", "None", "none", "#N/A", "missing",
    "Missing", "unknown", "Unknown", "-999", "-9999", "999", "9999",
}  # fmt: skip
NINES = re.compile(r"-?9{2,}(\.0)?|-1")
CIRCULAR = re.compile(r"angle|degree|direction|bearing|heading|azimuth|longitude|hour|phase", re.IGNORECASE)
TURNS = ((0, 360), (-180, 180), (0, 2 * np.pi), (-np.pi, np.pi), (0, 24), (0, 23), (0, 1439))


def remarks(x: Any, schema: Schema) -> list[str]:
    """What is to be known of a table before a model is trained on it: one line each, none where all is well.

    Columns that are equal or follow from others, rows that repeat, values that may stand for a gap, numbers that are
    kept as text, angles and hours, columns without any value.

    Args:
        x: the table, or (N, D) as the schema encodes it.
        schema: of it.

    >>> frame = {"a": np.arange(40) ** 2, "b": np.arange(40) ** 2, "c": np.array(["x", "?"] * 20, object)}
    >>> for line in remarks(frame, Schema.infer(frame)):
    ...     print(line)
    columns 'a' and 'b' are equal: one of them says it all; drop=['b']
    column 'c': '?' in 20 rows may stand for a gap; gaps=['?'] takes it as one
    """
    table = np.asarray(x if isinstance(x, Tensor) else schema.encode(x), np.float64)
    columns = schema.modelled
    found = [
        f"column {column.name!r}: every value is missing, so that it is left out of the model; drop=[{column.name!r}]"
        for column in schema.columns
        if column.rows and column.gaps == column.rows
    ]
    kept, lines = _equal_columns(table, columns)
    found += lines + _following(table[:, kept], [columns[i] for i in kept])
    found += _dependence(table[:, kept], [columns[i] for i in kept])
    single = isinstance(x, Tensor) and x.dtype == torch.float32
    found += [line for i, column in enumerate(columns) for line in _of_column(table[:, i], column, single)]
    return found + _equal_rows(table)


def _equal_columns(x: Array, columns: tuple[Column, ...]) -> tuple[list[int], list[str]]:
    """The columns without those that equal one before, and what is said of these."""
    first: dict[tuple[Any, ...], int] = {}
    lines, kept = [], []
    for i, column in enumerate(columns):
        j = first.setdefault(
            (hashlib.blake2b(x[:, i].tobytes()).digest(), column.values, column.origin, column.unit), i
        )
        if i == j:
            kept.append(i)
        else:
            lines.append(
                f"columns {columns[j].name!r} and {column.name!r} are equal: one of them says it all; "
                f"drop=[{column.name!r}]"
            )
    return kept, lines


def _following(x: Array, columns: list[Column]) -> list[str]:
    """Columns of few values that are a function of another one."""
    codes, found = dict[int, Array](), []
    for i in range(len(columns)):
        values, inverse = np.unique(x[:, i], return_inverse=True)
        if 2 <= len(values) <= min(MAX_LEVELS, len(x) / 5) and len(codes) < MAX_PAIRED:
            codes[i] = inverse.astype(np.int64)
    for i, j in combinations(codes, 2):
        there, back = _is_function(codes[i], codes[j]), _is_function(codes[j], codes[i])
        if there or back:
            a, b = columns[i].name, columns[j].name
            one, other = (a, b) if there else (b, a)
            found.append(
                f"column {other!r} follows from {one!r}{', and the other way round' if there and back else ''}: "
                f"it says nothing more; drop=[{other!r}]"
            )
    return found


def _is_function(a: Array, b: Array) -> bool:
    """Whether a value of a always has the same value of b."""
    return all(
        len(np.unique(a[rows] * (b.max() + 1) + b[rows])) == len(np.unique(a[rows]))
        for rows in (slice(SCREENED), slice(None))
    )


def _dependence(x: Array, columns: list[Column]) -> list[str]:
    """Whether a linear combination of columns of numbers is constant, up to rounding."""
    numbers = [i for i, column in enumerate(columns) if column.kind not in CODED]
    x = x[:: max(1, len(x) // MAX_ROWS), numbers]
    x = x[~np.isnan(x).any(1)]
    if len(x) <= 2 * len(numbers) or len(numbers) < 2:
        return []
    varied = np.flatnonzero(x.std(0) > 0)
    if len(varied) < 2:
        return []
    eigenvalues, vectors = np.linalg.eigh(np.corrcoef(x[:, varied].T))
    if eigenvalues[0] > SINGULAR:
        return []
    names = [columns[numbers[varied[k]]].name for k in np.flatnonzero(np.abs(vectors[:, 0]) > 0.01)]
    return [
        f"columns {shown(names)}: each follows from the others, as a sum of multiples of them; drop=[{names[-1]!r}]"
    ]


def _of_column(x: Array, column: Column, single: bool) -> Iterator[str]:
    """What may stand for a gap in a column, and what it may be otherwise; in digits of float32 where x is `single`."""
    values, counts = np.unique(x[~np.isnan(x)], return_counts=True)
    where = f"column {column.name!r}"
    if column.kind in CODED:
        words = dict(zip(column.values, np.bincount(values.astype(int), counts, len(column.values)), strict=False))
        for word in (word for word in words if word in GAP_WORDS and words[word]):
            yield f"{where}: {word!r} in {int(words[word]):,} rows may stand for a gap; gaps=[{word!r}] takes it as one"
        if said := in_disguise(words):
            yield f"{where}: text, which is taken for categories, and stands for {said}"
        alike = _spellings(word for word in words if isinstance(word, str) and words[word])
        if alike:
            yield f"{where}: {shown(alike)} differ in case or in spaces alone, and are categories of their own"
        return
    for k, others in ((0, values[1:]), (-1, values[:-1])):
        if len(others) < 2 or counts[k] < 2:
            continue
        width, gap = others[-1] - others[0], np.abs(values[k] - others).min()
        nines = NINES.fullmatch(f"{values[k] + float(column.origin):g}") and gap > width / 10
        if (gap >= FAR_WIDTHS * width and counts[k] >= MIN_REPEATS) or nines:
            told = (values[k], others[0], others[-1])
            value, low, high = (in_words(column, float(str(np.float32(v))) if single else v) for v in told)
            yield (
                f"{where}: {value} in {counts[k]:,} rows is far from the others, {low} .. {high}; if it stands for a "
                f"gap, gaps={{{column.name!r}: [{value}]}} takes it as one"
            )
    others = values[~np.isin(values.astype(np.float32), np.asarray(column.points, np.float32))]
    largest = np.float32(np.abs(others).max(initial=0))
    if column.resolution is not None and column.resolution < np.spacing(largest):
        unit = f" {column.unit}" if column.unit else ""
        yield (
            f"{where}: its resolution is {column.resolution:g}{unit}, but float32, in which models compute, tells its "
            f"largest values only {np.spacing(largest):g}{unit} apart: nearer ones are scored alike, and drawn as one"
        )
    if isinstance(column.name, str) and CIRCULAR.search(column.name) and len(values) > 2:
        low, high = values[0] + float(column.origin), values[-1] + float(column.origin)
        if any(a <= low < a + (b - a) / 20 and b - (b - a) / 20 < high <= b for a, b in TURNS):
            yield (
                f"{where}: if {low:g} comes after {high:g}, as angles and hours do, give its sine and its cosine "
                "as two columns"
            )


def _spellings(words: Iterable[str]) -> list[str]:
    """The first group of words that are the same but for case and spaces."""
    groups = dict[str, list[str]]()
    for word in words:
        groups.setdefault(" ".join(word.split()).casefold(), []).append(word)
    return next((group for group in groups.values() if len(group) > 1), [])


def _equal_rows(x: Array) -> list[str]:
    """Rows that repeat, where more do than independent columns would give: in a table of few categories many do."""
    if not x.shape[1]:
        return []
    count = len(x)
    repeated = count - len(np.unique(_digests(x)))
    if repeated < max(1, REPEATED_SHARE * count) or repeats_by_chance(x, repeated):
        return []
    return [
        f"{repeated:,} of {count:,} rows repeat an earlier row: split at random, they are in training and test, "
        "and flatter what is held out"
    ]


def _digests(x: Array) -> Array:
    """(N,) a number of 64 bits for each row, equal where all its values are: the hash of Fowler, Noll and Vo, column
    after column.
    """
    found = np.full(len(x), 0xCBF29CE484222325, np.uint64)
    for column in x.T:
        bits = np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)  # -0.0 is 0.0
        found = (found ^ bits ^ (bits >> np.uint64(29))) * np.uint64(0x100000001B3)
        found ^= found >> np.uint64(32)
    return found


def repeats_by_chance(x: Array, repeated: int) -> bool:
    """Whether so many rows of x, (N, D), would equal another one if the columns were independent.

    >>> repeats_by_chance(np.zeros((100, 1)), 99), repeats_by_chance(np.arange(100.0)[:, None], 99)
    (True, False)
    """
    pairs = len(x) * (len(x) - 1)
    counts = [np.unique(column, return_counts=True)[1] for column in x.T]
    by_chance = pairs / 2 * np.prod([(c * (c - 1.0)).sum() / max(1, pairs) for c in counts])
    return bool(repeated < CHANCE * by_chance)


def measured(schema: Schema) -> list[int]:
    """Which columns of x are measurements of many different values.

    >>> measured(Schema.infer({"a": np.arange(40) % 3, "b": np.sqrt(np.arange(1.0, 41)), "c": np.arange(40) % 2}))
    [1]
    """
    return [i for i, c in enumerate(schema.modelled) if c.kind not in CODED and _steps(c) >= MANY_STEPS]


def _steps(column: Column) -> float:
    """How many steps of the resolution there are between the smallest and the largest value."""
    if column.resolution is None or column.range is None:
        return np.inf
    return (column.range[1] - column.range[0]) / column.resolution
