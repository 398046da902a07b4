r"""Conditions on the columns of a table, as numbers x: what a value, a range or a gap of a column is there.

    a value       x itself, or the code of a category
    a range       (low, high), both ends included; of numbers with a resolution from one of its values to another
    a gap         NaN

Values are as in the table, or as text that says them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allegory.tabular.columns import CODED, Column, number_of

__all__ = ["in_x"]

OFF_GRID = 1e-3  # of a step


def in_x(column: Column, low: Any, high: Any, above: bool = False, below: bool = False) -> tuple[float, float]:
    """The range of x of what lies between two values of a column, (low, high), both ends included.

    Args:
        column: of a schema.
        low, high: values, or None for no end; equal ones for a value.
        above, below: whether it is strictly above `low`, strictly below `high`.

    Raises:
        ValueError: no value that the column can have, or none between them.

    >>> age = Column("age", "count", "int64", resolution=1.0, low=0.0, high=90.0)
    >>> in_x(age, "30", "40", below=True), in_x(age, 7, 7)
    ((30.0, 39.0), (7.0, 7.0))
    """
    if low is not None and low == high and not (above or below):
        return (_code(column, low),) * 2
    if column.kind in CODED:
        return _codes_between(column, low, high, above, below)
    first = -math.inf if low is None else _number(column, low)
    last = math.inf if high is None else _number(column, high)
    step, upside_down = column.step, first > last
    if step is not None:
        first, last = ((x - step.anchor) / step.size for x in (first, last))
        first = math.floor(first + OFF_GRID) + 1 if above and first > -math.inf else _up(first)
        last = math.ceil(last - OFF_GRID) - 1 if below and last < math.inf else -_up(-last)
        first, last = (k * step.size + step.anchor for k in (first, last))
    else:
        first = float(np.nextafter(np.float32(first), np.float32(math.inf))) if above else first
        last = float(np.nextafter(np.float32(last), np.float32(-math.inf))) if below else last
    lowest, highest = (-math.inf if column.low is None else column.low), column.high
    if not max(first, lowest) <= min(last, math.inf if highest is None else highest):
        on_grid = "" if step is None else f", whose resolution is {step.size:g}"
        why = "" if upside_down else on_grid if first > last else _edges(column)
        raise ValueError(f"given {column.name!r}: no row can lie {_between(low, high, above, below)}{why}")
    return first, last


def _up(k: float) -> float:
    return k if math.isinf(k) else float(math.ceil(k - OFF_GRID))


def _codes_between(column: Column, low: Any, high: Any, above: bool, below: bool) -> tuple[float, float]:
    """Codes are in the order of what they stand for, where that has one."""
    numbers = all(isinstance(value, (int, float)) for value in column.values)
    if not numbers and column.kind != "ordinal":
        raise ValueError(
            f"given {column.name!r}: its values have no order, of which there are ranges; wanted {column.name}=VALUE, "
            f"one of {', '.join(map(str, column.values[:12]))}"
        )
    places = column.values if numbers else range(len(column.values))
    first, last = (
        None if end is None else _number(column, end) if numbers else _code(column, end) for end in (low, high)
    )
    inside = [
        code
        for code, place in enumerate(places)
        if (first is None or place > first or (place == first and not above))
        and (last is None or place < last or (place == last and not below))
    ]
    if not inside:
        raise ValueError(
            f"given {column.name!r}: no row can lie {_between(low, high, above, below)}; there are "
            f"{', '.join(map(str, column.values[:12]))}"
        )
    return float(inside[0]), float(inside[-1])


def _code(column: Column, value: Any) -> float:
    """The number x of a value of a column."""
    if column.kind in CODED:
        words = {str(known): code for code, known in enumerate(column.values)}
        code = words.get(str(value), None if isinstance(value, str) else _same(column, value))
        if code is None:
            raise ValueError(
                f"given {column.name!r}: no row can have {value!r}; wanted one of {', '.join(list(words)[:12])}"
            )
        return float(code)
    x = _number(column, value)
    if (column.low is not None and x < column.low) or (column.high is not None and x > column.high):
        raise ValueError(f"given {column.name!r}: no row can have {value!r}{_edges(column)}")
    if column.step is not None:
        k = (x - column.step.anchor) / column.step.size
        if abs(k - round(k)) > OFF_GRID:
            raise ValueError(
                f"given {column.name!r}: no row can have {value!r}, whose resolution is {column.step.size:g}"
            )
        return round(k) * column.step.size + column.step.anchor
    return x


def _same(column: Column, value: Any) -> int | None:
    """The code of a number, whatever its type: 1.0 is 1."""
    return next((code for code, known in enumerate(column.values) if known == value), None)


def _number(column: Column, value: Any) -> float:
    """A number x, finite."""
    try:
        return number_of(value, column)
    except ValueError as error:
        raise ValueError(f"given {column.name!r}: {error}") from None


def _between(low: Any, high: Any, above: bool, below: bool) -> str:
    words = [] if low is None else [f"{'above' if above else 'at or above'} {low}"]
    return " and ".join(words + ([] if high is None else [f"{'below' if below else 'at or below'} {high}"]))


def _edges(column: Column) -> str:
    if column.low is None and column.high is None:
        return ""
    edges = ("" if edge is None else f"{edge + float(column.origin):g}" for edge in (column.low, column.high))
    return f", which is beyond {' .. '.join(edges)}"
