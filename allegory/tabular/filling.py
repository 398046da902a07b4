r"""Filling: a table with numbers of a model in its gaps, and everything else as it was, to the last digit.

Shapes: N rows, D columns of x.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allegory.tabular.building import build_column, build_frame
from allegory.tabular.columns import CODED, UNITS, Column, decode_column, levels_of, nanoseconds
from allegory.tabular.frames import Name, Values, open_frame, take_gaps
from allegory.tabular.schema import Schema

__all__ = ["count_gaps", "fill"]

Array = NDArray[Any]

UNTYPED = ("object", "null", "float64", "double")  # of columns without a value


def fill(schema: Schema, frame: Any, x: Any) -> Any:
    """The table with its gaps filled; a column that has no value in all of the training data keeps them.

    Args:
        schema: of the table.
        frame: of any library, with gaps.
        x: (N, D) the rows as numbers, of which those in the place of a gap are taken.

    >>> age, town = np.array([30.0, np.nan, 41.5, 22] * 9), np.array(["Rom", "Ulm", None, "Rom"] * 9, object)
    >>> frame = {"age": age, "town": town}
    >>> schema = Schema.infer(frame)
    >>> done = fill(schema, frame, torch.tensor([[0.0, 0], [25.1, 0], [0, 1], [0, 0]] * 9))
    >>> done["age"][:4].tolist(), done["town"][:4].tolist()
    ([30.0, 25.1, 41.5, 22.0], ['Rom', 'Ulm', 'Ulm', 'Rom'])
    """
    x = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, np.float64)
    opened, places = open_frame(frame), {name: i for i, name in enumerate(schema.names)}
    columns: dict[Name, Any] = {name: opened.column(name) for name in opened.names}
    for column in schema.columns:
        values, _ = take_gaps(opened.read(column.name), column.gap_codes)
        if not values.missing.any() or column.gaps == column.rows > 0:
            continue
        if column.modelled:
            found, still = decode_column(x[:, places[column.name]], column)
        else:
            found, still = np.zeros(len(x), np.int64), np.zeros(len(x), bool)
        column, data = _merged(column, values, found, opened.container == schema.container)
        columns[column.name] = build_column(column, data, values.missing & still, opened.container)
    return build_frame(opened.container, columns, opened.names, frame)


def count_gaps(schema: Schema, frame: Any) -> int:
    """How many values are missing in a table.

    >>> frame = {"age": np.array([30.0, np.nan, 41.5] * 9)}
    >>> count_gaps(Schema.infer(frame), frame)
    9
    """
    opened = open_frame(frame)
    read = (take_gaps(opened.read(column.name), column.gap_codes)[0] for column in schema.columns)
    return sum(int(values.missing.sum()) for values in read)


def _merged(column: Column, values: Values, found: Array, same: bool) -> tuple[Column, Array]:
    """The column with what the frame has of it, and (N,) its values, those found where it has a gap.

    Args:
        column: of the schema.
        values: of the frame.
        found: (N,) as `decode_column` gives them.
        same: whether the frame is of the library of the schema.
    """
    keeps = same and not values.declared and not _needs_more(column, values)
    untyped = bool(values.missing.all()) and values.dtype.lower() in UNTYPED
    typed = column if keeps or untyped else _typed(column, values)
    column = replace(typed, gap=None)
    if column.kind in CODED:
        levels, codes = levels_of(values)
        used = [value for code, value in enumerate(column.values) if (found[values.missing] == code).any()]
        first = levels if values.declared else [value for value in column.values if value in {*levels, *used}]
        known: list[Any] = [*first, *(level for level in (*levels, *used) if level not in first)]
        own = np.array([known.index(level) for level in levels] or [0])[codes if levels else np.zeros(len(codes), int)]
        place = np.array([known.index(value) if value in known else 0 for value in column.values] or [0])
        found = place[np.clip(found, 0, max(0, len(column.values) - 1))]
        return replace(column, values=tuple(known)), np.where(values.missing, found, own)
    if column.unit in UNITS:
        if values.missing.all():
            return column, found
        ticks, size = nanoseconds(np.where(values.missing, np.zeros(1, values.data.dtype), values.data))
        return column, np.where(values.missing, found, ticks * size)
    return column, np.where(values.missing, found, values.data)


def _typed(column: Column, values: Values) -> Column:
    return replace(column, dtype=values.dtype, marker=values.marker, ordered=values.ordered, declared=values.declared)


def _needs_more(column: Column, values: Values) -> bool:
    """Whether the type of the training data cannot hold what the frame has."""
    seen = values.data[~values.missing]
    return values.sort == "number" and values.data.dtype.kind == "f" and bool((seen != np.rint(seen)).any())
