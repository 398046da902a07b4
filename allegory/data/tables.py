r"""Tables: the rows of a CSV or Parquet file, or of an array of unlike columns, as numbers x with gaps.

    read_table(path, reading)     the frame in a file
    infer_schema(frame, asked)    what its columns are, from the rows of all splits
    to_numbers(schema, frame)     (N, D) float32: a category is its code, a gap is NaN

What is asked of a table is one dictionary: `READING` how the file is read, `ASKED` what its columns are said to be.

Shapes: N rows, D columns of x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allegory.data.parts import naming_errors
from allegory.tabular import Schema, read_frame
from allegory.tabular.columns import CODED, levels_of
from allegory.tabular.frames import open_frame, shown
from allegory.tabular.reading import GAPS
from allegory.tabular.resolution import to_float32

__all__ = [
    "ASKED",
    "READING",
    "as_frame",
    "as_name",
    "check_names",
    "infer_schema",
    "is_csv",
    "is_table",
    "read_given_column",
    "read_table",
    "to_numbers",
]

Array = NDArray[Any]

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
READING = ("delimiter", "encoding", "decimal", "header", "gaps")
ASKED = ("columns", "drop", "missing_above", "missing_below", "indicators")
BEYOND = ("missing_above", "missing_below")
NUMBERS = ("real", "positive", "count")  # kinds
MOST_GIVEN = 32  # different numbers that are given as categories


def is_table(path: Any) -> bool:
    """Whether a path is that of a table, by its end.

    >>> is_table("people.csv.gz"), is_table("x.npy")
    (True, False)
    """
    return str(path).lower().endswith(SUFFIXES)


def is_csv(path: Any) -> bool:
    """Whether a path is that of a table in a CSV file, by its end.

    >>> is_csv("people.csv.gz"), is_csv("people.parquet")
    (True, False)
    """
    return is_table(path) and not str(path).lower().endswith((".parquet", ".pq"))


def read_table(path: Path, reading: Mapping[str, Any], schema: Schema | None = None) -> Any:
    """The frame in a file.

    Args:
        path: of the table.
        reading: delimiter, encoding, decimal and header of a CSV file, where they are said; and gaps, what stands for
            one.
        schema: if there is one, what is text in it stays text, such as zip codes of which none begins with 0.

    Raises:
        ValueError: as `allegory.tabular.read_frame`.
    """
    with naming_errors(path):
        path.stat()
    words = [word for word in reading.get("gaps", ()) if isinstance(word, str)]
    said = {key: reading[key] for key in READING[:-1] if reading.get(key) is not None}
    columns = () if schema is None else schema.columns
    text = [column.name for column in columns if any(isinstance(value, str) for value in column.values)]
    return read_frame(path, gaps=(*GAPS, *words), text=text, **said)


def infer_schema(frame: Any, asked: Mapping[str, Any], path: str = "") -> Schema:
    """What the columns of a table are.

    Args:
        frame: all rows.
        asked: columns, the kinds of some by their names; drop, columns that are left out; gaps, what stands for one;
            missing_above, missing_below and indicators, what a gap means.
        path: where the table is, for messages.

    Raises:
        ValueError: as `Schema.infer`.

    >>> infer_schema({"n": np.array([1, 2, -9] * 9)}, {"gaps": [-9]}).columns[0].gaps
    9
    """
    names = open_frame(frame).names
    columns = {as_name(name, names): kind for name, kind in dict(asked.get("columns") or {}).items()}
    drop = [as_name(name, names) for name in asked.get("drop") or ()]
    beyond = {option: {as_name(name, names): c for name, c in (asked.get(option) or {}).items()} for option in BEYOND}
    indicators = asked.get("indicators") or ()
    indicators = indicators if isinstance(indicators, bool) else [as_name(name, names) for name in indicators]
    flags: dict[str, Any] = {option.replace("_", "-"): said for option, said in beyond.items()}
    flags |= {} if isinstance(indicators, bool) else {"indicators": indicators}
    check_names(names, {"column": columns, "drop": drop, **flags}, path)
    for option, said in {"columns": columns, **flags}.items():
        if both := [name for name in said if name in drop]:
            raise ValueError(
                f"{path}{': ' if path else ''}column {both[0]!r} is not modelled, since it is left out (drop) or "
                f"given; wanted nothing said of it in {option}"
            )
    gaps = list(asked.get("gaps") or ())
    gaps += [_as_written(code) for code in gaps if not isinstance(code, str)]
    try:
        return Schema.infer(frame, columns, drop, gaps, None, indicators=indicators, **beyond)
    except ValueError as error:
        raise ValueError(f"{path}{': ' if path else ''}{error}") from None


def as_name(name: Any, names: Sequence[Any]) -> Any:
    """A column by the name that it has: those of an array are numbers, and are typed as text.

    >>> as_name("1", [0, 1]), as_name("1", ["1"])
    (1, '1')
    """
    return int(name) if name not in names and str(name).isdigit() else name


def check_names(names: Sequence[Any], asked: Mapping[str, Sequence[Any] | Mapping[Any, Any]], path: str) -> None:
    """Checks that the columns that options name are in a table.

    Args:
        names: of the table.
        asked: columns, by the option that names them.
        path: where the table is, for messages.
    """
    for option, columns in asked.items():
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise ValueError(f"{path}: --{option} names {shown(unknown)}, which is no column; there are {shown(names)}")


def read_given_column(frame: Any, name: Any, path: str = "", kind: str | None = None) -> Array:
    """(N,) a column that is given, not modelled, as labels or as numbers: text, and numbers of at most 32 values, are
    categories; other numbers are what they are.

    Args:
        frame: all rows.
        name: of the column.
        path: where the table is, for messages.
        kind: what it is said to be, as the kind of a column that is modelled; by default as above.

    Raises:
        ValueError: no such column; gaps in it; a kind that does not fit.

    >>> read_given_column({"town": np.array(["Rom", "Ulm"], object)}, "town").tolist()
    ['Rom', 'Ulm']
    """
    opened = open_frame(frame)
    name = as_name(name, opened.names)
    check_names(opened.names, {"given": [name]}, path)
    values = opened.read(name)
    if values.missing.any():
        raise ValueError(
            f"{path}: column {name!r} has gaps, in {int(values.missing.sum())} rows, and what is given has none; leave "
            "it among the columns that are modelled, of which values can be given to sample, or drop those rows"
        )
    if values.sort in ("datetime", "duration"):
        raise ValueError(f"{path}: column {name!r} has times; wanted numbers or categories for what is given")
    levels, codes = levels_of(values)
    if kind not in (None, *CODED, *NUMBERS):
        raise ValueError(f"{path}: column {name!r} is given, as {kind}; wanted one of {', '.join((*CODED, *NUMBERS))}")
    if kind in NUMBERS and values.sort != "number":
        raise ValueError(f"{path}: column {name!r} is given, as {kind}, and holds {levels[0]!r}, no number")
    if kind in NUMBERS or (kind is None and values.sort == "number" and len(levels) > MOST_GIVEN):
        return values.data.astype(np.float64)
    return np.array([str(level) for level in levels])[codes]


def to_numbers(schema: Schema, frame: Any, path: str = "", strict: bool = False) -> Tensor:
    """(N, D) float32 of the columns of a schema, NaN where there is a gap.

    Raises:
        ValueError: as `Schema.encode`.
    """
    try:
        x = schema.encode(frame, strict)
    except ValueError as error:
        raise ValueError(f"{path}{': ' if path else ''}{error}") from None
    single = x.float()
    for d, column in enumerate(schema.modelled):
        points = (*column.points, *(column.coarse_values if column.coarse else ()))
        single[:, d] = torch.from_numpy(to_float32(x[:, d].numpy(), column.step, points))
    return single


def as_frame(array: Any) -> Array:
    """An array or a tensor (N, D) as a schema takes it: of whole numbers, or of float32 or float64.

    >>> as_frame(torch.zeros(3, 2)).dtype
    dtype('float32')
    """
    x = array.numpy() if isinstance(array, Tensor) else np.asarray(array)
    if x.dtype.kind == "b" or x.dtype == np.float16:
        return x.astype(np.int64 if x.dtype.kind == "b" else np.float32)
    return x if x.dtype.kind != "f" or x.dtype.itemsize <= 8 else x.astype(np.float64)


def _as_written(code: float) -> str:
    """A number as it stands in a column of text."""
    return f"{code:g}" if float(f"{code:g}") == code else str(code)
