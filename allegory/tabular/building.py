r"""Frames out: columns as arrays become a table of the library that they came from, with its types.

The libraries are imported by their names, here alone, when such a table is asked for.

Shapes: N rows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allegory.tabular.columns import CODED, UNITS, Column
from allegory.tabular.frames import Name, Values

__all__ = ["build_column", "build_frame", "library", "times_as_text", "typed_as"]

Array = NDArray[Any]


def library(name: str) -> Any:
    """The module of a library of frames.

    Raises:
        ValueError: it is not installed.

    >>> library("polars").__name__
    'polars'
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ValueError(f"{name} is not installed, and a frame of it is wanted: pip install {name}") from None


def build_column(column: Column, data: Array, missing: Array, container: str) -> Any:
    """A column as the library has it.

    Args:
        column: what it is.
        data: (N,) as `allegory.tabular.columns.decode_column` gives it.
        missing: (N,) bool.
        container: the name of the library.

    >>> column = Column("n", "count", "int64")
    >>> build_column(column, np.array([1, 2]), np.array([False, False]), "array")
    array([1, 2])
    """
    if column.gap is not None and missing.any():
        filled = _with_gap(column, data, missing)
        if filled is not None:
            column, data, missing = filled
    make = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}.get(container, _numpy)
    try:
        return make(column, data, missing)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"column {column.name!r}: {container} makes no {column.dtype!r} of it ({str(error).splitlines()[0]})"
        ) from None


def _with_gap(column: Column, data: Array, missing: Array) -> tuple[Column, Array, Array] | None:
    """The column with the value that stands for a gap put in its place; None where it has no place in the data."""
    none = np.zeros(len(data), bool)
    if column.kind not in CODED:
        if column.gap is None or isinstance(column.gap, str):
            return None
        return column, np.where(missing, column.gap, data), none
    values = (*column.values, column.gap)
    return replace(column, values=values), np.where(missing, len(column.values), data), none


def typed_as(column: Column, data: Array, values: Values) -> tuple[Column, Array]:
    """The column with the type that another library has for it, and the codes with its levels, if it declares them.

    >>> values = Values("number", np.zeros(1), np.zeros(1, bool), "Float64")
    >>> typed_as(Column("n", "count", "int64"), np.array([1]), values)[0].dtype
    'Float64'
    """
    if values.missing.all():
        return column, data
    column = replace(column, dtype=values.dtype, marker=values.marker, ordered=values.ordered, declared=values.declared)
    if not (values.declared and column.kind in CODED and column.values):
        return column, data
    levels = [*values.levels, *(value for value in column.values if value not in values.levels)]
    places = np.array([levels.index(value) for value in column.values])
    return replace(column, values=tuple(levels)), places[data]


def objects(column: Column, data: Array, missing: Array, gap: Any = None) -> Array:
    """(N,) Python objects: the values of codes, or of numbers; of a column of Decimals such ones."""
    if decimals := re.fullmatch(r"object:Decimal\((\d+)\)", column.dtype):
        found = np.array([Decimal(f"{number:.{decimals[1]}f}") for number in plain(column, data).tolist()], object)
        found[missing] = gap
        return found
    if column.kind in CODED:
        table = np.empty(len(column.values) + 1, object)
        table[:-1] = column.values
        table[-1] = gap
        return table[np.where(missing, len(column.values), data)]
    out = data.astype(object)
    out[missing] = gap
    return out


def plain(column: Column, data: Array) -> Array:
    """(N,) numbers, also of codes that stand for numbers."""
    if column.kind not in CODED:
        return data
    if not column.values:
        return np.zeros(len(data), np.int64)
    return np.array(column.values)[data]


def _times(column: Column, data: Array, missing: Array, unit: str) -> Array:
    """(N,) datetime64 or timedelta64 of nanoseconds, in a unit."""
    kind = "m" if re.search("timedelta|duration", column.dtype, re.IGNORECASE) else "M"
    found = plain(column, data).astype(np.int64).view(f"{kind}8[ns]").astype(f"{kind}8[{unit}]")
    found[missing] = np.array("NaT", found.dtype)
    return found


def _numpy(column: Column, data: Array, missing: Array) -> Array:
    dtype = column.dtype
    if column.unit:
        if dtype.startswith("object"):
            return _times(column, data, missing, "us").astype(object)
        return _times(column, data, missing, re.findall(r"\[(.*)\]", dtype)[0])
    if dtype.startswith("object") or (dtype.startswith("U") and missing.any()):
        return objects(column, data, missing, _marker(column))
    if dtype.startswith("U"):
        return objects(column, data, missing).astype(dtype)
    numbers = plain(column, data)
    if missing.any() and np.dtype(dtype).kind != "f":
        return np.where(missing, np.nan, numbers.astype(np.float64))
    return np.where(missing, np.nan, numbers).astype(dtype) if missing.any() else numbers.astype(dtype)


def _marker(column: Column, pandas: Any = None) -> Any:
    if column.marker == "NA" and pandas is not None:
        return pandas.NA
    if column.marker == "NaT" and pandas is not None:
        return pandas.NaT
    return np.nan if column.marker == "nan" else None


def _pandas(column: Column, data: Array, missing: Array) -> Any:
    pandas, dtype = library("pandas"), column.dtype
    if dtype.startswith("category"):
        levels = pandas.Index(list(column.values), dtype=dtype[len("category[") : -1])
        codes = np.where(missing, -1, data)
        if column.kind not in CODED or levels.hasnans:
            raise TypeError("its categories are not known")
        return pandas.Series(pandas.Categorical.from_codes(codes, categories=levels, ordered=column.ordered))
    if column.unit:
        return _pandas_times(pandas, column, data, missing)
    if dtype.startswith("object"):
        return pandas.Series(objects(column, data, missing, _marker(column, pandas)), dtype=object)
    numeric = not column.values or not isinstance(column.values[0], str) if column.kind in CODED else True
    if missing.all() and len(missing):
        return _pandas_missing(pandas, dtype, len(missing))
    filled = plain(column, data) if numeric else objects(column, data, np.zeros(len(data), bool))
    target = _pandas_type(pandas, dtype)
    if missing.any() and isinstance(target, np.dtype) and target.kind in "biu":
        target = "boolean" if target.kind == "b" else "Int64"
    series = pandas.Series(filled).astype(target)
    if missing.any():
        series = series.where(~missing)
    return series


def _pandas_missing(pandas: Any, dtype: str, rows: int) -> Any:
    target = _pandas_type(pandas, dtype)
    if isinstance(target, np.dtype) and target.kind in "biu":
        target = "boolean" if target.kind == "b" else "Int64"
    return pandas.Series([None] * rows, dtype=target)


def _pandas_type(pandas: Any, dtype: str) -> Any:
    if dtype.startswith("arrow:"):
        return pandas.ArrowDtype(_arrow_type(library("pyarrow"), dtype.removeprefix("arrow:")))
    return pandas.api.types.pandas_dtype(dtype)


def _pandas_times(pandas: Any, column: Column, data: Array, missing: Array) -> Any:
    dtype = column.dtype
    if dtype.startswith("object"):
        found = _times(column, data, missing, "D" if dtype.endswith("date") else "us").astype(object)
        found[missing] = _marker(column, pandas)
        return pandas.Series(found, dtype=object)
    series = pandas.Series(_times(column, data, missing, "ns"))
    target = _pandas_type(pandas, dtype)
    if getattr(target, "tz", None) is not None:
        return series.dt.tz_localize("UTC").dt.tz_convert(target.tz).astype(target)
    zone = getattr(getattr(target, "pyarrow_dtype", None), "tz", None)
    return (series.dt.tz_localize("UTC") if zone else series).astype(target)


def _polars(column: Column, data: Array, missing: Array) -> Any:
    polars = library("polars")
    target = _polars_type(polars, column)
    if missing.all() and len(missing):
        found = polars.Series(column.name, [None] * len(missing), dtype=target)
        return found.fill_null(float("nan")) if column.marker == "nan" else found
    if column.unit:
        zone = getattr(target, "time_zone", None)
        unit = "D" if column.dtype == "Date" else target.time_unit
        found = polars.Series(column.name, _times(column, data, missing, "ms" if unit == "D" else unit))
        if zone:
            return found.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return found.cast(target)
    labels = column.kind in CODED and isinstance(column.values[0], str)
    if labels or column.dtype == "Object":
        found = objects(column, data, missing)
        return polars.Series(column.name, found.tolist(), dtype=polars.String).cast(target)
    found = polars.Series(column.name, plain(column, data))
    found = found.round(target.scale).cast(target) if column.dtype.startswith("Decimal") else found.cast(target)
    gap = float("nan") if column.marker == "nan" else None
    return found.set(polars.Series(missing), gap) if missing.any() else found


def _polars_type(polars: Any, column: Column) -> Any:
    """A type of polars of its name, such as Datetime(time_unit='us', time_zone=None)."""
    if column.dtype == "Enum":
        return polars.Enum(list(column.values))
    call = ast.parse(column.dtype, mode="eval").body
    name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else column.dtype
    made = getattr(polars, name)
    if not (isinstance(made, type) and issubclass(made, polars.DataType)):
        raise TypeError(f"{name} is no type")
    if isinstance(call, ast.Call):
        return made(**{part.arg: ast.literal_eval(part.value) for part in call.keywords if part.arg})
    return made


def _pyarrow(column: Column, data: Array, missing: Array) -> Any:
    pyarrow = library("pyarrow")
    if column.dtype.startswith("dictionary"):
        values, indices = re.findall(r"values=([^,]*(?:\[[^\]]*\])?), indices=(\w+)", column.dtype)[0]
        codes = pyarrow.array(data.astype(np.int64), mask=missing).cast(_arrow_type(pyarrow, indices))
        levels = pyarrow.array(list(column.values), _arrow_type(pyarrow, values))
        return pyarrow.DictionaryArray.from_arrays(codes, levels, ordered=column.ordered)
    target = _arrow_type(pyarrow, column.dtype)
    if column.dtype == "null" or missing.all():
        found = pyarrow.nulls(len(missing), target)
        return found if column.marker != "nan" else pyarrow.array(np.full(len(missing), np.nan), target)
    if column.unit:
        unit = column.dtype.partition("[")[2].split(",")[0].rstrip("]")
        unit = "D" if unit == "day" else unit
        return pyarrow.array(_times(column, data, missing, unit), mask=missing).cast(target)
    if column.kind in CODED and isinstance(column.values[0], str):
        return pyarrow.array(objects(column, data, missing), target)
    numbers = plain(column, data)
    if column.marker == "nan":
        return pyarrow.array(np.where(missing, np.nan, numbers)).cast(target)
    found = pyarrow.array(numbers, mask=missing)
    if column.dtype.startswith("decimal"):
        found = import_module("pyarrow.compute").round(found.cast(pyarrow.float64()), ndigits=target.scale)
    return found.cast(target)


def _arrow_type(pyarrow: Any, name: str) -> Any:
    """A type of pyarrow of its name, such as timestamp[us, tz=UTC]."""
    if match := re.fullmatch(r"timestamp\[(\w+), tz=(.*)\]", name):
        return pyarrow.timestamp(match[1], match[2])
    if match := re.fullmatch(r"decimal(\d+)\((\d+), (-?\d+)\)", name):
        return getattr(pyarrow, f"decimal{match[1]}")(int(match[2]), int(match[3]))
    if name == "date32[day]":
        return pyarrow.date32()
    if name == "date64[ms]":
        return pyarrow.date64()
    return pyarrow.type_for_alias(name)


def build_frame(container: str, columns: Mapping[Name, Any], names: list[Name], like: Any = None) -> Any:
    """A table of columns in the order of `names`, with the index of `like` where it is a frame of pandas.

    >>> build_frame("dict", {"a": np.zeros(2)}, ["a"])
    {'a': array([0., 0.])}
    """
    if container == "dict":
        return {name: columns[name] for name in names}
    if container == "structured":
        first = [columns[name] for name in names]
        out = np.empty(len(first[0]), [(str(name), part.dtype) for name, part in zip(names, first, strict=True)])
        for name in names:
            out[str(name)] = columns[name]
        return out
    if container == "array":
        parts = [columns[name] for name in names]
        dtype = np.result_type(*parts) if not any(part.dtype == object for part in parts) else object
        out = np.empty((len(parts[0]), len(parts)), dtype)
        for i, part in enumerate(parts):
            out[:, i] = part
        return out
    module = library(container)
    if container == "pandas":
        frame = module.DataFrame({i: columns[name].reset_index(drop=True) for i, name in enumerate(names)})
        frame.columns = module.Index(names)
        if hasattr(like, "index") and len(like) == len(frame):
            frame.index = like.index
        return frame
    if container == "polars":
        return module.DataFrame([columns[name] for name in names])
    return module.table([columns[name] for name in names], names=[str(name) for name in names])


def times_as_text(column: Column, x: Any) -> str:
    """A time of a column, in x or in nanoseconds, to be read.

    >>> times_as_text(Column("day", "datetime", "Date", unit="D", origin=0), 1.0)
    '1970-01-02'
    """
    ticks = round(x) if column.kind in CODED else round(x * UNITS[column.unit]) + int(column.origin)
    if re.search("timedelta|duration", column.dtype, re.IGNORECASE):
        return f"{ticks / 10**9:g} s"
    return str(np.datetime64(ticks, "ns").astype("datetime64[s]")).removesuffix("T00:00:00").replace("T", " ")
