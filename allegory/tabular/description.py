r"""Description: a schema as a table to read, one line for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allegory.tabular.building import times_as_text
from allegory.tabular.columns import CODED, EXACT, Column
from allegory.tabular.frames import Name
from allegory.tabular.likelihood import law_of

__all__ = ["in_words", "table_of"]

HEADS = ("column", "kind", "values", "resolution", "gaps", "again and again", "likelihood")
MOST_VALUES, MOST_POINTS, WIDEST = 4, 3, 44


def table_of(columns: Sequence[Column], dropped: Sequence[Name] = ()) -> str:
    """The columns as lines of text.

    >>> print(table_of([Column("age", "count", "int64", resolution=1.0, low=0.0, range=(17, 90), rows=9)]))
    column  kind   values      resolution  gaps  again and again  likelihood
    age     count  17 .. 90 ...
    """
    rows = [HEADS, *([" ".join(cell.split()) for cell in _row(column)] for column in columns)]  # on one line
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"dropped: {', '.join(map(str, dropped))}"] if dropped else lines)


def _row(column: Column) -> tuple[str, ...]:
    gaps = f"{column.gaps / column.rows:.2g}" if column.rows and column.gaps else ""
    gaps += f" ({column.gap!r})" if column.gap is not None else ""
    points = [in_words(column, point) for point in column.points]
    more = f" and {len(points) - MOST_POINTS} more" if len(points) > MOST_POINTS else ""
    return (
        str(column.name), column.kind, _values(column)[:WIDEST], _resolution(column), gaps,
        ", ".join(points[:MOST_POINTS]) + more, law_of(column),
    )  # fmt: skip


def _values(column: Column) -> str:
    if column.kind in CODED:
        values = [str(value) for value in column.values]
        if column.unit:
            values = [times_as_text(column, value) for value in column.values]
        more = f", ... ({len(values)})" if len(values) > MOST_VALUES else ""
        return ", ".join(values[:MOST_VALUES]) + more if values else "none"
    if column.range is None:
        return ""
    low, high = (in_words(column, edge) for edge in column.range)
    return f"{low} .. {high}"


def _resolution(column: Column) -> str:
    if column.kind in CODED:
        return ""
    return "none" if column.resolution is None else f"{column.resolution:.6g}{' ' + column.unit if column.unit else ''}"


def in_words(column: Column, x: Any) -> str:
    """A number x of a column as the value that it stands for.

    >>> in_words(Column("year", "count", "int64", origin=2000), 15.0)
    '2015'
    >>> in_words(Column("number", "count", "int64", origin=2**60), 1.0)
    '1152921504606846977'
    """
    if column.kind == "datetime":
        return times_as_text(column, x)
    whole = isinstance(column.origin, int) and abs(x) <= EXACT and float(x).is_integer()
    value = column.origin + (int(x) if whole else x)
    return (str(value) if isinstance(value, int) else f"{value:.10g}") + (f" {column.unit}" if column.unit else "")
