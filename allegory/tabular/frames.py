r"""Frames in: the columns of a table of any library, as arrays. None of the libraries is imported; narwhals looks at
what came.

    pandas, polars, pyarrow       one column at a time
    NumPy                         a matrix (N, D), whose columns are called 0 to D - 1, or a structured array (N,)
    a dictionary                  name -> array (N,), as `allegory.tabular.read_frame` returns

Shapes: N rows.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "Name", "Values", "open_frame", "take_gaps"]

Array = NDArray[Any]
Name = str | int | float
LIBRARIES = ("pandas", "polars", "pyarrow")
BLOCK_ROWS = 65_536  # of a column that are Python objects at a time
LARGEST_INT = 2**63


class Values(NamedTuple):
    """A column of N values.

    Attributes:
        sort: "number", "boolean", "datetime", "duration" or "label".
        data: (N,) int64 or float64, bool, datetime64, timedelta64, or the int64 codes of labels.
        missing: (N,) bool; there `data` means nothing.
        dtype: what the library calls the type.
        levels: what the codes stand for, in order.
        declared: whether the type has these levels, and no others.
        ordered: whether they have an order.
        marker: what the missing values were, where a type has more than one: "None", "nan", "NaT", "NA", "null".
    """

    sort: str
    data: Array
    missing: Array
    dtype: str
    levels: tuple[Any, ...] = ()
    declared: bool = False
    ordered: bool = False
    marker: str = ""


class Frame(NamedTuple):
    """A table: the library that it is of, its rows, and a column by its name, read or as the library has it."""

    container: str
    rows: int
    names: list[Name]
    read: Callable[[Name], Values]
    column: Callable[[Name], Any]


def open_frame(frame: Any) -> Frame:
    """The columns of a table, to be read one at a time.

    Raises:
        ValueError: no table; names that are neither text nor numbers, or stand twice; a column of another length.

    >>> frame = open_frame({"age": np.array([30, 40]), "town": np.array(["Rom", None], object)})
    >>> frame.names, frame.read("town").levels
    (['age', 'town'], ('Rom',))
    """
    container, names, columns = _columns(frame)
    names = [_plain(name) for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"columns that stand twice in the frame: {shown(twice)}; give each a name of its own")
    where = {name: i for i, name in enumerate(names)}
    rows = {len(column) for column in columns(range(len(names)))} or {0}
    if len(rows) > 1:
        raise ValueError(f"columns of {shown(sorted(rows))} rows in one frame; wanted the same number in each")

    def native(name: Name) -> Any:
        return next(columns([where[name]]))

    def read(name: Name) -> Values:
        column = native(name)
        try:
            return _read_array(column) if isinstance(column, np.ndarray) else _read_series(container, column)
        except _NotTaken as error:
            raise ValueError(f"column {name!r}: {error}") from None

    return Frame(container, rows.pop(), names, read, native)


def take_gaps(values: Values, codes: tuple[Any, ...]) -> tuple[Values, Any]:
    """The column with more values counted as missing, those that equal one of `codes`; and the most frequent of these
    codes in it, None where there is none.
    """
    found: list[tuple[int, Any]] = []
    missing = values.missing
    for code in codes:
        if values.sort == "label" and code in values.levels:
            at = values.data == values.levels.index(code)
        elif values.sort == "number" and isinstance(code, (int, float)) and not isinstance(code, bool):
            at = (values.data == code) | (values.data == _as_float32(code))
        elif values.sort == "datetime" and isinstance(code, str) and _as_time(code) is not None:
            at = values.data == _as_time(code)
        else:
            continue
        at = at & ~values.missing
        if at.any():
            found.append((int(at.sum()), code))
            missing = missing | at
    if not found:
        return values, None
    values = values._replace(missing=missing)
    return _without_levels(values, codes), max(found, key=lambda pair: pair[0])[1]


def _as_float32(code: float) -> float:
    """A number as it is where it was once stored as float32, which has -999.9 and 1e20 only rounded."""
    return float(np.float32(code)) if abs(code) < np.finfo(np.float32).max else code


def _as_time(code: str) -> Any:
    try:
        return np.datetime64(code)
    except ValueError:
        return None


def shown(things: Any, most: int = 8) -> str:
    """The first few of them, in a line."""
    things = list(things)
    return ", ".join(map(repr, things[:most])) + (f" and {len(things) - most} more" if len(things) > most else "")


class _NotTaken(ValueError):
    """A type of column that is not taken, and what to do."""


def _columns(frame: Any) -> tuple[str, list[Any], Callable[[Any], Iterator[Any]]]:
    """The library, the names, and the columns at some places."""
    if isinstance(frame, np.ndarray) and frame.dtype.names:
        names = list(frame.dtype.names)
        return "structured", names, lambda places: (frame[names[i]] for i in places)
    if isinstance(frame, np.ndarray):
        if frame.ndim != 2:
            raise ValueError(f"an array of shape {frame.shape}; wanted a table, (N, D)")
        return "array", list(range(frame.shape[1])), lambda places: (frame[:, i] for i in places)
    if isinstance(frame, Mapping):
        arrays = [_as_array(column) for column in frame.values()]
        return "dict", list(frame), lambda places: (arrays[i] for i in places)
    try:
        wrapped = nw.from_native(frame, eager_only=True)
        names = list(getattr(frame, "column_names", frame.columns))
    except (TypeError, AttributeError):
        lazy = "; collect() it first" if hasattr(frame, "collect") else ""
        raise ValueError(
            f"{type(frame).__name__} is no table{lazy}; wanted a frame of pandas, polars or pyarrow, an array (N, D), "
            "or a dictionary of columns"
        ) from None
    except nw.exceptions.DuplicateError:
        names = list(getattr(frame, "column_names", frame.columns))
        return "", names, lambda places: iter(())
    container = wrapped.implementation.value
    if container not in LIBRARIES:
        raise ValueError(f"a frame of {container}; wanted one of {', '.join(LIBRARIES)}, to which it can be converted")
    at = frame.iloc if container == "pandas" else frame
    if container == "pandas":
        return container, names, lambda places: (at[:, i] for i in places)
    return container, names, lambda places: (frame[names[i]] for i in places)


def _as_array(column: Any) -> Array:
    if isinstance(column, np.ndarray):
        return column
    array = np.empty(len(column), object)
    array[:] = list(column)
    return array


def _plain(name: Any) -> Name:
    """A name as JSON can hold it."""
    name = name.item() if isinstance(name, np.generic) else name
    if isinstance(name, bool) or not isinstance(name, (str, int, float)) or name != name:
        raise ValueError(f"a column is called {name!r}; wanted text or a number, so give it such a name")
    return name


def _read_array(array: Array) -> Values:
    """A column of NumPy."""
    if array.ndim != 1:
        raise _NotTaken(f"an array of shape {array.shape}; wanted one number or word a row")
    kind, dtype = array.dtype.kind, array.dtype.name
    if kind == "b":
        return Values("boolean", array, np.zeros(len(array), bool), dtype)
    if kind in "iuf":
        return Values("number", *_numbers(array), dtype)
    if kind in "Mm":
        return Values("datetime" if kind == "M" else "duration", array, np.isnat(array), dtype)
    if kind == "U":
        return _labels(array, np.zeros(len(array), bool), array.dtype.str.lstrip("<>="))
    if kind == "O":
        missing = np.fromiter((_is_missing(value) for value in array), bool, len(array))
        return _sorted_out(_labels(array, missing, "object"), array)
    advice = {"S": "; .astype(str) has text", "c": "; give its real and imaginary parts"}.get(kind, "")
    raise _NotTaken(f"dtype {array.dtype} is not taken{advice}")


def _numbers(array: Array, missing: Array | None = None) -> tuple[Array, Array]:
    """Whole numbers as int64, others as float64; and which are missing."""
    none = np.zeros(len(array), bool) if missing is None else missing
    if array.dtype.kind == "f":
        data = array.astype(np.float64)
        if np.isinf(data).any():
            raise _NotTaken("holds an infinite number; wanted finite ones, or a gap (NaN)")
        return data, none | np.isnan(data)
    if array.dtype.kind == "u" and len(array) and array.max() >= LARGEST_INT:
        raise _NotTaken(f"holds {array.max()}, too large for a number; as text it is a category")
    return array.astype(np.int64), none


def _read_series(container: str, native: Any) -> Values:
    """A column of pandas, polars or pyarrow."""
    dtype, series = name_dtype(native), nw.from_native(native, series_only=True)
    kind = series.dtype
    missing = series.is_null().to_numpy().astype(bool)
    if (container == "pandas" and dtype == "category") or (container == "polars" and kind == nw.Enum):
        return _declared(container, native, missing, dtype)
    if container == "pyarrow" and dtype.startswith("dictionary"):
        return _dictionary(native, missing, dtype)
    if kind == nw.Boolean:
        return Values("boolean", series.fill_null(False).to_numpy().astype(bool), missing, dtype)
    if kind.is_integer():
        if kind in (nw.Int128, nw.UInt128):
            raise _NotTaken(f"type {dtype} holds larger numbers than int64; as text they are categories")
        return Values("number", *_numbers(series.fill_null(0).to_numpy(), missing), dtype)
    if kind.is_decimal():
        _of_decimals({*series.drop_nulls().to_list()})
    if kind.is_numeric():
        filled = series.fill_null(0).cast(nw.Float64).to_numpy()
        data, gaps = _numbers(filled, missing)
        null = gaps.any() and container != "pandas" and missing.sum() >= (gaps & ~missing).sum()
        return Values("number", data, gaps, dtype, marker="null" if null else "nan" if gaps.any() else "")
    if kind in (nw.Date, nw.Datetime, nw.Duration):
        data = series.to_numpy()
        return Values("duration" if kind == nw.Duration else "datetime", data, missing, dtype)
    if kind in (nw.String, nw.Categorical) or (container, dtype) == ("pandas", "object"):
        values = _labels(series.cast(nw.String) if kind == nw.Categorical else series, missing, dtype)
        return values if dtype != "object" else _sorted_out(values, native.to_numpy())
    if dtype.lower() == "null":
        return Values("number", np.zeros(len(native)), np.ones(len(native), bool), dtype)
    circular = "; the time of a day is circular: give its sine and cosine" if kind == nw.Time else ""
    raise _NotTaken(f"type {dtype} is not taken{circular or '; convert it to numbers, text or dates'}")


def name_dtype(native: Any) -> str:
    """What the library calls the type of a column, with all that makes it."""
    dtype = native.type if hasattr(native, "combine_chunks") else native.dtype
    if hasattr(dtype, "pyarrow_dtype"):
        return f"arrow:{dtype.pyarrow_dtype}"
    if hasattr(dtype, "storage") and str(dtype) == "string":
        return f"string[{dtype.storage}]"
    name = str(dtype)
    return name if not name.startswith(("Enum", "Categorical")) else name[: name.find("(")] if "(" in name else name


def _declared(container: str, native: Any, missing: Array, dtype: str) -> Values:
    """A column whose type has a list of levels: pandas' category, polars' Enum."""
    if container == "polars":
        codes = native.to_physical().fill_null(0).to_numpy().astype(np.int64)
        return Values("label", codes, missing, dtype, tuple(native.dtype.categories.to_list()), True, True)
    levels = native.cat.categories
    kind = name_dtype(levels)
    plain = tuple(level.item() if isinstance(level, np.generic) else level for level in levels.tolist())
    if any(not isinstance(level, (str, int, float)) for level in plain):
        raise _NotTaken(f"its categories are of type {kind}; give them names, as by .cat.rename_categories(str)")
    codes = native.cat.codes.to_numpy().astype(np.int64)
    return Values("label", codes, missing, f"category[{kind}]", plain, True, bool(native.cat.ordered))


def _dictionary(native: Any, missing: Array, dtype: str) -> Values:
    """A column of pyarrow's dictionary type."""
    whole = native.unify_dictionaries().combine_chunks()
    chunk = whole.chunk(0) if hasattr(whole, "chunk") and whole.num_chunks else whole
    if not len(native):
        return Values("label", np.zeros(0, np.int64), missing, dtype, (), True, "ordered=1" in dtype)
    codes = chunk.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Values("label", codes, missing, dtype, tuple(chunk.dictionary.to_pylist()), True, "ordered=1" in dtype)


def _labels(column: Any, missing: Array, dtype: str) -> Values:
    """Codes of the different values of a column, in their order, whatever the order of the rows."""
    codes, seen = np.zeros(len(column), np.int64), dict[Any, int]()
    try:
        for start in range(0, len(column), BLOCK_ROWS):
            block = column[start : start + BLOCK_ROWS]
            block = block.tolist() if isinstance(block, np.ndarray) else block.to_list()
            gone = missing[start : start + BLOCK_ROWS]
            codes[start : start + len(block)] = [
                0 if gap else seen.setdefault(value, len(seen)) for value, gap in zip(block, gone, strict=True)
            ]
        levels = [level.item() if isinstance(level, np.generic) else level for level in seen]
        order = sorted(range(len(levels)), key=lambda i: (type(levels[i]).__name__, levels[i]))
    except TypeError:
        raise _NotTaken("holds objects that are neither numbers nor text; drop it, or convert it to text") from None
    if order and not _are_numbers(levels):
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        codes, levels = place[codes], [levels[i] for i in order]
    return Values("label", codes, missing, dtype, tuple(levels))


def _sorted_out(values: Values, objects: Array) -> Values:
    """A column of Python objects, as what all of them are."""
    levels = values.levels
    markers = Counter(type(value).__name__ for value in objects[values.missing])
    names = {"NoneType": "None", "NAType": "NA", "NaTType": "NaT"}
    marker = names.get(markers.most_common(1)[0][0], "nan") if markers else ""
    values = values._replace(marker=marker)
    if not levels:
        return values
    if all(isinstance(level, bool) for level in levels):
        data = np.array(levels)[values.data]
        return values._replace(sort="boolean", data=data, levels=())
    if _are_numbers(levels):
        whole = all(isinstance(level, int) and abs(level) < LARGEST_INT for level in levels)
        lost = [level for level in levels if isinstance(level, int) and not is_float64(level)]
        if lost and not whole:
            raise _NotTaken(f"holds {lost[0]}, of which float64 has only 16 digits; as text it is a category")
        array, missing = _numbers(np.array(levels, np.int64 if whole else np.float64)[values.data], values.missing)
        return values._replace(sort="number", data=array, missing=missing, levels=())
    if all(isinstance(level, Decimal) for level in levels):
        array, missing = _numbers(np.array(levels, np.float64)[values.data], values.missing)
        return values._replace(sort="number", data=array, missing=missing, levels=(), dtype=_of_decimals(levels))
    if all(type(level) is datetime.date for level in levels):
        data = np.array(levels, "datetime64[D]")[values.data]
        return values._replace(sort="datetime", data=data, levels=(), dtype="object:date")
    if all(isinstance(level, datetime.datetime) and level.tzinfo is None for level in levels):
        data = np.array(levels, "datetime64[us]")[values.data]
        return values._replace(sort="datetime", data=data, levels=(), dtype="object:datetime")
    sorts = {type(level) for level in levels}
    if bool in sorts or not sorts <= {str, int, float}:
        names_of = ", ".join(sorted(sort.__name__ for sort in sorts))
        raise _NotTaken(f"holds objects of type {names_of}; convert them to numbers, text or dates")
    return values


def _of_decimals(levels: Any) -> str:
    """The type of a column of decimal.Decimal, with its decimal places."""
    exponents = [level.as_tuple().exponent for level in levels if level.is_finite()]
    places = max(0, -min(map(int, exponents), default=0))
    for level in levels:
        if not level.is_finite() or Decimal(f"{float(level):.{places}f}") != level:
            raise _NotTaken(f"holds the Decimal {level}, which float64 does not; convert the column to numbers")
    return f"object:Decimal({places})"


def _are_numbers(levels: Any) -> bool:
    return all(isinstance(level, (int, float)) and not isinstance(level, bool) for level in levels)


def is_float64(whole: int) -> bool:
    """Whether float64 has a whole number.

    >>> is_float64(2**53 + 1), is_float64(2**60)
    (False, True)
    """
    return abs(whole) <= 2**53 or (whole.bit_length() <= 1000 and int(float(whole)) == whole)


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, whose comparisons have no truth."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64)) and bool(value != value)


def _without_levels(values: Values, codes: tuple[Any, ...]) -> Values:
    """Labels without the levels that stand for gaps, where the type does not declare them."""
    if values.sort != "label" or values.declared:
        return values
    kept = [i for i, level in enumerate(values.levels) if level not in codes]
    place = np.zeros(len(values.levels), np.int64)
    place[kept] = np.arange(len(kept))
    return values._replace(data=place[values.data], levels=tuple(values.levels[i] for i in kept))
