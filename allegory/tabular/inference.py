r"""Inference: what kind of column each is, from all its values.

    missing or the same throughout                      constant
    true and false, two numbers                         binary
    text                                                categorical; ordinal where the type itself has an order
    whole numbers from 0 on                             count
    other numbers from 0 on                             positive
    other numbers                                       real
    dates and times                                     datetime

Where a column has at most 32 different numbers, all that are met ten times are points: their probabilities are free.

Row numbers, names and other text of which nearly every row has its own value are no data: they are refused, by name.

Shapes: N rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allegory.tabular.columns import CODED, UNITS, Column, check_column, from_origin, levels_of, nanoseconds
from allegory.tabular.frames import Name, Values
from allegory.tabular.likelihood import choose_law
from allegory.tabular.resolution import MIN_REPEATS, Step, find_coarser, find_edges, find_points, find_step, snap

__all__ = ["in_disguise", "infer_column", "names_rows"]

Array = NDArray[Any]

MAX_LEVELS = 32  # different numbers, whose probabilities are free
MIN_ROWS_PER_LEVEL = 5
MIN_ROWS_OF_ID = 20
MAX_CATEGORIES = 1000  # of text, unless it is said to be categorical
COMPONENTS, MANY_ROWS = 3, 2000  # of a law, and how many rows it takes to tell them apart
FLOAT32 = 2.0**24  # float32 has all whole numbers up to this
ID_NAME = re.compile(
    r"(^|[\W_])(id|ids|uuid|guid|key|index|idx|rowid|row|nr|number|unnamed: 0)$|[a-z]ID$", re.IGNORECASE
)
DISGUISES = (
    ("numbers", re.compile(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", re.IGNORECASE), "convert them"),
    ("dates", re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T]\d{1,2}:\d\d.*)?"), "convert them, or write 2021-01-31"),
    ("numbers", re.compile(r"[-+]?[$€£¥]? ?\d[\d.,]* ?[%$€£¥]?"), "write them without signs and separators"),
)  # what, as which words, and what to do


def infer_column(
    name: Name, values: Values, kind: str | None = None, resolution: float | None = None, gap: Any = None
) -> Column:
    """What a column is.

    Args:
        name: of the column, for messages.
        values: of all rows.
        kind: what it is said to be; by default found in its values.
        resolution: the step of its numbers; by default found in them.
        gap: the value that stands for a gap in it.

    >>> infer_column("n", Values("number", np.arange(100) ** 2, np.zeros(100, bool), "int64")).kind
    'count'
    """
    where = f"column {name!r}"
    column = Column(
        name, kind or "real", values.dtype, gap=gap, marker=values.marker, ordered=values.ordered,
        declared=values.declared, rows=len(values.data), gaps=int(values.missing.sum()),
    )  # fmt: skip
    asked = "real" if kind in (None, "datetime", *CODED) else kind
    check_column(replace(column, kind=asked, resolution=resolution), where)
    seen = values.data[~values.missing]
    if kind is None or kind == "constant":
        found = _trivial(values, seen, kind)
        if found is not None:
            unit = "s" if values.sort in ("datetime", "duration") and found else ""
            return replace(column, kind="constant", values=found, unit=unit)
    if kind == "constant":
        raise ValueError(f"{where} is said to be constant, and has more than one value; drop it, or say what it is")
    if values.sort in ("datetime", "duration") and kind not in CODED:
        return _infer_times(column, values, kind, resolution)
    if values.sort in ("label", "boolean") or kind in CODED:
        return _infer_codes(column, values, kind, where)
    return _infer_numbers(column, values, kind, resolution)


def names_rows(name: Name, values: Values) -> str:
    """Why a column only tells the rows apart, in words; "" where it does not.

    >>> names_rows("id", Values("number", np.arange(100), np.zeros(100, bool), "int64"))
    'whole numbers, all different, without a hole'
    """
    seen = values.data[~values.missing]
    if len(seen) < MIN_ROWS_OF_ID or values.declared:
        return ""
    if values.sort == "label":
        count = len(values.levels)
        if count > MAX_CATEGORIES or (count >= MIN_ROWS_OF_ID and count > len(seen) / 2):
            said = in_disguise(values.levels)
            return f"text, {count:,} different values in {len(seen):,} rows" + (said and f": {said}")
    elif values.sort == "number":
        different = np.unique(seen)
        if len(different) < len(seen) or not (different == np.rint(different)).all():
            return ""
        if different[-1] - different[0] == len(seen) - 1:
            return "whole numbers, all different, without a hole"
        if isinstance(name, str) and ID_NAME.search(name):
            return "whole numbers, all different"
    return ""


def in_disguise(words: Iterable[Any]) -> str:
    """What words stand for, other than themselves, and what to do, in words; "" where they are words, or codes that
    begin with 0.

    >>> in_disguise(["31/01/2021", "1/2/2021", "3/2/2021", "?"])
    "dates, such as '31/01/2021'; convert them, or write 2021-01-31"
    """
    words = [word for word in words if isinstance(word, str)]
    if any(re.match(r"[-+]?0\d+$", word) for word in words):
        return ""
    for what, pattern, advice in DISGUISES:
        found = [word for word in words if pattern.fullmatch(word)]
        if len(found) > max(2, 0.7 * len(words)):
            return f"{what}, such as {found[0]!r}; {advice}"
    return ""


def _trivial(values: Values, seen: Array, kind: str | None) -> tuple[Any, ...] | None:
    """The one value of a column, none if all are missing; None where it has more than one."""
    if not len(seen):
        return values.levels if values.declared else ()
    if values.declared and len(values.levels) > 1:
        return None
    return tuple(levels_of(values)[0]) if (seen == seen[0]).all() else None


def _infer_codes(column: Column, values: Values, kind: str | None, where: str) -> Column:
    if values.sort in ("datetime", "duration"):
        raise ValueError(f"{where} is said to be {kind}, and holds times; convert them to text")
    levels = levels_of(values)[0]
    if kind in ("real", "positive", "count", "datetime"):
        raise ValueError(f"{where} is said to be {kind}, and holds {levels[0]!r}; convert it to numbers, or drop it")
    if kind is None:
        kind = "binary" if values.sort == "boolean" else "ordinal" if values.ordered else "categorical"
    if kind == "ordinal" and len(levels) == 1:
        kind = "categorical"
    return check_column(replace(column, kind=kind, values=tuple(levels)), where)


def _infer_numbers(column: Column, values: Values, kind: str | None, resolution: float | None) -> Column:
    different, counts = np.unique(values.data[~values.missing], return_counts=True)
    integers = different.dtype.kind in "iu" or values.dtype.lower().startswith(("int", "uint"))
    step = find_step(different, integers) if resolution is None else Step(resolution)
    whole = step is not None and step.size.is_integer() and step.anchor.is_integer()
    few = len(different) <= MAX_LEVELS and counts.sum() >= MIN_ROWS_PER_LEVEL * len(different)
    if kind is None:
        if len(different) == 2:
            return replace(column, kind="binary", values=tuple(levels_of(values)[0]))
        if few and step is None:
            return replace(column, kind="categorical", values=tuple(levels_of(values)[0]))
        kind = "real" if different[0] < 0 else "count" if whole else "positive"
    if kind == "datetime":
        raise ValueError(f"column {column.name!r} is said to be datetime, and holds numbers; convert them to dates")
    if kind in ("count", "positive") and different[0] < 0:
        raise ValueError(f"column {column.name!r} is said to be {kind}, and holds {different[0]:g}")
    if kind == "count" and not whole:
        raise ValueError(f"column {column.name!r} is said to be count, and holds numbers that are not whole")
    origin = _origin(different, step)
    x = from_origin(different, origin, False, f"column {column.name!r}")
    coarse, piled = None, find_points(x, counts, step)
    if not few and not origin:
        coarse, piled = find_coarser(x, counts, step, piled)
    if coarse is None and (centre := int(_to_take_off(x, counts, piled, step))):
        origin, x, piled = origin + centre, x - centre, tuple(point - centre for point in piled)
    piled = _told_apart(x, counts, piled)
    points = tuple(x[counts >= MIN_REPEATS].tolist()) if few else piled
    low, high = find_edges(different.astype(np.float64), tuple(p + float(origin) for p in piled), whole)
    low, high = (None if edge is None else edge - float(origin) for edge in (low, high))
    column = replace(
        column, kind=kind, points=points, origin=origin, range=(float(x[0]), float(x[-1])), low=low, high=high,
        law=choose_law(x, counts, None if step is None else step.size, low, points), coarse=coarse,
    )  # fmt: skip
    if step is None:
        return column
    step = Step(step.size, _anchor(x[0], step))
    return replace(
        column, resolution=step.size, anchor=step.anchor, loose=not np.array_equal(snap(x, step), x),
        components=COMPONENTS if not few and counts.sum() >= MANY_ROWS else 1,
    )  # fmt: skip


def _anchor(first: float, step: Step) -> float:
    """An anchor of x, once the origin is taken off: 0 where x has multiples of the step alone."""
    k = first / step.size
    return 0.0 if abs(k - round(k)) < 1e-6 else float(first - np.floor(k) * step.size if step.anchor else first)


def _origin(different: Array, step: Step | None) -> int | float:
    """What is taken off, so that float32 can tell the values apart: 0 where it can without; else the middle value."""
    low, high = float(different[0]), float(different[-1])
    middle = different[len(different) // 2].item()
    width = (high - low) * 2.0**-12 if step is None else step.size
    largest = max(abs(low), abs(high))
    if largest <= FLOAT32 * width or high - low > largest / 4:
        return 0
    return int(middle)


def _to_take_off(x: Array, counts: Array, points: tuple[float, ...], step: Step | None) -> float:
    """The point that is met most often, to be taken off where float32 would not tell it from its neighbours; else 0."""
    others = np.abs(x[~np.isin(x, points)]).max(initial=0)
    near = [point for point in points if abs(point) <= 2 * others]  # about one far out the others would lose digits
    if step is None or not near or step.size >= np.spacing(np.float32(np.abs(near).max())):
        return 0.0
    return near[int(counts[np.searchsorted(x, near)].argmax())]


def _told_apart(x: Array, counts: Array, points: tuple[float, ...]) -> tuple[float, ...]:
    """The points but for those that float32 takes for one that is met more often."""
    kept: dict[np.float32, float] = {}
    for k in np.argsort(-counts[np.searchsorted(x, points)], kind="stable"):
        kept.setdefault(np.float32(points[k]), points[k])
    return tuple(sorted(kept.values()))


def _infer_times(column: Column, values: Values, kind: str | None, resolution: float | None) -> Column:
    """A column of times: whole nanoseconds less the earliest, or less the one that comes again and again."""
    ticks, size = nanoseconds(values.data[~values.missing])
    different, counts = np.unique(ticks, return_counts=True)
    first, last = int(different[0]) * size, int(different[-1]) * size
    if max(abs(first), abs(last)) >= 2**63:
        raise ValueError(
            f"column {column.name!r} holds times outside of the years 1678 to 2261; if they stand for a gap, say "
            "gaps=['9999-12-31'], or whatever it is"
        )
    common = int(np.gcd.reduce(np.diff(different))) * size if len(different) > 1 else size
    base = next(ticks for ticks in UNITS.values() if common % ticks == 0 or (last - first) // ticks > 2**52)
    multiples = (
        (different - different[0]) * size // base if size < base else (different - different[0]) * (size // base)
    )
    step = base * int(find_step(multiples, whole=True).size)  # type: ignore[union-attr]
    unit = "D" if step % UNITS["D"] == 0 else "s"
    origin = first if values.sort == "datetime" else 0
    x = (different * size - origin) / UNITS[unit]
    grid = Step(step / UNITS[unit] if resolution is None else resolution)
    points = find_points(x, counts, grid)
    if values.sort == "datetime" and (centre := _to_take_off(x, counts, points, grid)):
        again, origin = np.isin(x, points), origin + round(centre * UNITS[unit])
        x = (different * size - origin) / UNITS[unit]
        points = tuple(x[again].tolist())
    if kind is None:
        kind = "datetime" if values.sort == "datetime" else "real" if x[0] < 0 else "positive"
    column = replace(
        column, kind=kind, unit=unit, origin=origin, resolution=grid.size, anchor=_anchor(x[0], grid),
        points=_told_apart(x, counts, points), range=(float(x[0]), float(x[-1])),
        low=0.0 if kind == "positive" else None,
        law=choose_law(x, counts, grid.size, 0.0 if kind == "positive" else None, ()),
    )  # fmt: skip
    return check_column(column, f"column {column.name!r}")
