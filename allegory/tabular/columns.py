r"""Columns: what one column of a table is, and its values as numbers x and back.

    real, positive, count    x = value - origin, in the column's own unit
    datetime                 x = (time - origin) / unit, with the unit a second or a day
    binary, categorical, ordinal
                             x = 0, ..., k - 1, the places of the values; a categorical column has k for any value that
                             was never seen
    constant                 no x, unless it has gaps: then 0

A gap is NaN. The origin is 0 where float32 can tell the values apart without one.

Shapes: N rows.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allegory.tabular.frames import Name, Values, shown
from allegory.tabular.resolution import MAX_COARSE, Step, digits_of_float32, snap, to_decimals

__all__ = [
    "EXACT", "KINDS", "Column", "check_column", "column_from_json", "decode_column", "encode_column", "from_origin",
    "levels_of", "number_of",
]  # fmt: skip

Array = NDArray[Any]

KINDS = ("real", "positive", "count", "binary", "categorical", "ordinal", "datetime", "constant")
"""What a column can be; see `allegory.tabular`."""
CODED = ("binary", "categorical", "ordinal", "constant")  # whose x is the place of a value
BEYOND = ("above", "below")
MISSING = ("", *BEYOND, "indicated")
EXACT = 2**53
"""Float64 has all whole numbers up to this."""
UNITS = {"D": 86_400 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # in nanoseconds
GRID_ROOM = 1e-3  # of a step, by which a value may be off its multiples


@dataclass(frozen=True)
class Column:
    """What a column is.

    Attributes:
        name: as in the frame.
        kind: real, positive, count, binary, categorical, ordinal, datetime or constant.
        dtype: what the library calls the type of the column.
        values: what the codes 0, 1, ... stand for, in order.
        resolution: the step of the numbers, in the unit of x; None where they are truly continuous.
        anchor: one of the numbers that the step leads to, in x.
        loose: whether numbers differ from the multiples of the step by rounding, and stay as they are.
        low, high: in x, what values cannot pass; None where nothing is known.
        points: in x, the values that come again and again.
        coarse: in x, the coarser step to which many of the numbers were rounded; None where there is none.
        origin: what is taken off to give x; of a datetime in whole nanoseconds since 1970.
        unit: of the x of a datetime or a duration: "s", "D", "ms", "us" or "ns".
        gap: the value that stands for a gap in the frame; None for what the library has for it.
        codes: all values that are read as a gap, where there is more than that one.
        marker: which of several missing values the frame has.
        ordered, declared: whether the type itself has the values, and in an order.
        rows, gaps: how many there were, and how many were missing.
        range: (smallest, largest) value, in x; None where there are none.
        law: of the numbers: "logistic" or "log logistic" where they have a resolution, else "normal", "student_t" or
            "log normal".
        components: of a mixture of such laws, where they have a resolution.
        missing: what it says of a value that it is missing, see `allegory.missingness`: "" nothing; "above" or "below",
            that it is beyond the limit; "indicated", that gaps are data, modelled beside the values.
        limit: in x, of "above" or "below"; None for one that is learned, self-masking.
    """

    name: Name
    kind: str
    dtype: str
    values: tuple[Any, ...] = ()
    resolution: float | None = None
    anchor: float = 0.0
    loose: bool = False
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()
    origin: int | float = 0
    unit: str = ""
    gap: str | float | None = None
    codes: tuple[Any, ...] = ()
    marker: str = ""
    ordered: bool = False
    declared: bool = False
    rows: int = 0
    gaps: int = 0
    range: tuple[float, float] | None = None
    law: str = ""
    components: int = 1
    missing: str = ""
    limit: float | None = None
    coarse: float | None = None

    @property
    def modelled(self) -> bool:
        """Whether the column is in x: all are but those that are constant throughout, or missing throughout."""
        return self.kind != "constant" or 0 < self.gaps < self.rows

    @property
    def gap_codes(self) -> tuple[Any, ...]:
        """What is read as a gap, besides what the library has for it."""
        return self.codes if self.gap is None or self.gap in self.codes else (*self.codes, self.gap)

    @property
    def step(self) -> Step | None:
        """The resolution, with its anchor."""
        return None if self.resolution is None else Step(self.resolution, self.anchor)

    @property
    def coarse_values(self) -> tuple[float, ...]:
        """What some of the numbers were rounded to, in x, within its range and its edges.

        >>> Column("kg", "positive", "float64", resolution=0.1, range=(1.4, 4.2), coarse=1.0).coarse_values
        (2.0, 3.0, 4.0)
        """
        assert self.range is not None
        assert self.coarse is not None
        low = max(self.range[0], -math.inf if self.low is None else self.low) / self.coarse
        high = min(self.range[1], math.inf if self.high is None else self.high) / self.coarse
        multiples = np.arange(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        return tuple(snap(multiples * self.coarse, Step(self.coarse)).tolist())

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain JSON.

        >>> Column("age", "count", "int64", resolution=1.0, low=0.0).to_json()
        {'name': 'age', 'kind': 'count', 'dtype': 'int64', 'resolution': 1.0, 'low': 0.0}
        """
        plain = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING or value != field.default:
                plain[field.name] = list(value) if isinstance(value, tuple) else value
        return plain


def column_from_json(plain: Any, where: str) -> Column:
    """The column of a JSON object.

    Raises:
        ValueError: what is missing in it, unknown or of another type.

    >>> column_from_json({"name": "age", "kind": "count", "dtype": "int64"}, "schema").kind
    'count'
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} is {plain!r:.60}; wanted an object with name, kind and dtype")
    if "name" in plain:
        where = f"{where}{', ' if where else ''}column {plain['name']!r}"
    fields = {field.name: field for field in dataclasses.fields(Column)}
    unknown, missing = sorted(plain.keys() - fields.keys()), [k for k in ("name", "kind", "dtype") if k not in plain]
    if unknown or missing:
        raise ValueError(f"{where} has {'no ' + missing[0] if missing else 'an unknown field ' + repr(unknown[0])}")
    for key, value in plain.items():
        if not _fits(str(fields[key].type), value):
            raise ValueError(f"{where}: {key} is {value!r:.60}; wanted {fields[key].type}")
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return check_column(Column(**found), where)


def check_column(column: Column, where: str) -> Column:
    """The column, if its fields go together.

    >>> check_column(Column("age", "count", "int64", resolution=-1.0), "column 'age'")
    Traceback (most recent call last):
    ValueError: column 'age': resolution is -1.0; wanted a number above 0
    """
    if column.kind == "circular":
        raise ValueError(
            f"{where}: angles and times of a day are circular, which no likelihood here is; give the sine and the "
            "cosine as two columns"
        )
    if column.kind not in KINDS:
        raise ValueError(f"{where}: kind is {column.kind!r}; wanted one of {', '.join(KINDS)}")
    if column.resolution is not None and column.resolution <= 0:
        raise ValueError(f"{where}: resolution is {column.resolution}; wanted a number above 0")
    if column.coarse is not None:
        _check_coarse(column, where)
    wanted = {"binary": (2, 2), "categorical": (1, math.inf), "ordinal": (2, math.inf)}.get(column.kind)
    if wanted and not wanted[0] <= len(column.values) <= wanted[1]:
        raise ValueError(
            f"{where}: {column.kind} with {len(column.values)} values; wanted {wanted[0]}"
            f"{' or more' if wanted[1] > 2 else ''}: infer the schema with columns={{{column.name!r}: "
            f"{column.kind!r}}}, or give values=[...]"
        )
    if len(set(column.values)) < len(column.values):
        raise ValueError(f"{where}: a value stands twice in values; wanted each once")
    if (column.kind == "datetime") != (column.kind == "datetime" and column.unit in UNITS):
        raise ValueError(f"{where}: unit is {column.unit!r}; wanted one of {', '.join(UNITS)}")
    if column.low is not None and column.high is not None and column.low >= column.high:
        raise ValueError(f"{where}: low is {column.low} and high is {column.high}; wanted low below high")
    _check_missing(column, where)
    return column


def _check_coarse(column: Column, where: str) -> None:
    """Checks the coarser step against the resolution, the range and the points."""
    coarse, step = column.coarse, column.resolution
    assert coarse is not None
    times = math.nan if step is None or not coarse > 0 else coarse / step
    if not times >= 2 or abs(times - round(times)) > 1e-6 + 1e-9 * times:  # 0.1 / 1e-11 is not whole
        raise ValueError(
            f"{where}: coarse is {coarse} and resolution is {step}; wanted a multiple of it, 2 or more, or coarse=None"
        )
    if column.range is not None and (column.range[1] - column.range[0]) / coarse > MAX_COARSE:
        raise ValueError(
            f"{where}: the range {column.range} has more than {MAX_COARSE} multiples of coarse={coarse}; wanted fewer, "
            "since each has a probability of its own in draws and quantiles"
        )
    if column.range is None or len(column.coarse_values) < 2:
        raise ValueError(
            f"{where}: coarse is {coarse}, and the range is {column.range}; wanted two multiples within it"
        )
    off = [point for point in column.points if abs(point / coarse - round(point / coarse)) * times > 0.25]
    if off:
        raise ValueError(f"{where}: the point {off[0]:g} is no multiple of coarse={coarse:g}; leave out one of the two")


def _check_missing(column: Column, where: str) -> None:
    """Checks what a gap is said to mean against the values."""
    said, limit, origin = column.missing, column.limit, float(column.origin)
    if said not in MISSING:
        raise ValueError(f"{where}: missing is {said!r}; wanted one of {', '.join(map(repr, MISSING))}")
    if limit is not None and said not in BEYOND:
        raise ValueError(
            f"{where}: limit is {limit + origin:g}, but missing is {said!r}; wanted missing='above', or 'below'"
        )
    if said and column.rows and not column.gaps:
        raise ValueError(
            f"{where} has no gaps, so that nothing can be said or learned of what is missing; leave that out"
        )
    if said in BEYOND and column.kind in CODED:
        raise ValueError(
            f"{where} is {column.kind}, whose values are not large or small, so that none is missing {said} a limit; "
            "wanted indicators, or a column of numbers"
        )
    edge = {"above": column.high, "below": column.low}.get(said)
    if limit is not None and edge is not None and (edge <= limit if said == "above" else edge >= limit):
        raise ValueError(
            f"{where}: no value can be {said} {limit + origin:g}, since the edge of the column is {edge + origin:g}; "
            f"wanted another limit, or {'high' if said == 'above' else 'low'}=None"
        )
    if limit is not None and column.range is not None:
        most, sign = (column.range[1], 1) if said == "above" else (column.range[0], -1)
        if sign * (most - limit) > 0:
            raise ValueError(
                f"{where}: {most + origin:g} is there, and values {said} {limit + origin:g} are said to be missing; "
                "wanted a limit that no value is beyond"
            )


def _fits(wanted: str, value: Any) -> bool:
    """Whether a value of JSON is of the type that a field is annotated with."""
    numbers = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if wanted.startswith("tuple"):
        plain = (str, int, float, bool) if "Any" in wanted else (int, float)
        count = 2 if wanted.startswith("tuple[float, float]") else None
        if value is None:
            return "None" in wanted
        return isinstance(value, (list, tuple)) and all(
            isinstance(item, plain) and (isinstance(item, str) or math.isfinite(item)) for item in value
        ) and len(value) == (len(value) if count is None else count)  # fmt: skip
    return (
        (value is None and "None" in wanted)
        or (isinstance(value, bool) and wanted == "bool")
        or (isinstance(value, str) and ("str" in wanted or wanted == "Name"))
        or (numbers and isinstance(value, int) and wanted == "int")
        or (numbers and ("float" in wanted or wanted == "Name"))
    )


def number_of(value: Any, column: Column) -> float:
    """The number x of a value, of a column of numbers or times; also as text.

    Raises:
        ValueError: a value that is none.

    >>> number_of("1970-01-02", Column("day", "datetime", "Date", unit="D"))
    1.0
    """
    try:
        if column.kind == "datetime" and isinstance(value, (int, float, np.number)):
            raise ValueError  # days, seconds, a year?
        if column.unit and not isinstance(value, (int, float)):
            if column.kind != "datetime":
                raise ValueError
            time = np.datetime64(value, "ns")
            if np.isnat(time):
                raise ValueError
            return float((time.astype(np.int64) - int(column.origin)) / UNITS[column.unit])
        x = float(value) - (0.0 if column.kind in CODED else float(column.origin))
    except (TypeError, ValueError):
        such = ", such as '2021-01-31'" if column.kind == "datetime" else ""
        raise ValueError(f"{value!r} where a {column.kind} is wanted{such}") from None
    if not math.isfinite(x):
        raise ValueError(f"{value!r} where a finite number is wanted")
    return x


def _is_number(value: Any, column: Column) -> bool:
    try:
        number_of(value, column)
    except ValueError:
        return False
    return True


def encode_column(values: Values, column: Column, strict: bool = False) -> Array:
    """(N,) float64: the numbers of a column, NaN where it has a gap.

    Warns:
        UserWarning: values that were never seen, in a column of codes; numbers off the multiples of the resolution, or
            beyond the edges.

    Raises:
        ValueError: text where numbers are wanted, or the other way round; a value beyond the limit from which all are
            missing; with `strict`, what else is warned of.
    """
    if column.kind in CODED:
        return _encode_codes(values, column, strict)
    if values.sort == "label" and len(values.levels):
        used = [values.levels[i] for i in np.unique(values.data[~values.missing])] or list(values.levels)
        strange = next((level for level in used if not _is_number(level, column)), used[0])
        raise ValueError(f"column {column.name!r}: {strange!r} where {_numbers_of(column)} are wanted")
    if values.sort in ("datetime", "duration") or column.unit:
        x = _encode_times(values, column)
    else:
        x = from_origin(values.data, column.origin, values.missing, f"column {column.name!r}")
    return _fitted(np.where(values.missing, np.nan, x), column, strict)


def from_origin(data: Array, origin: int | float, missing: Array | bool, where: str) -> Array:
    """(N,) float64: numbers less an origin.

    Raises:
        ValueError: whole numbers so large that float64 does not tell them from their neighbours.

    >>> from_origin(np.array([2**60, 2**60 + 1]), 2**60, False, "column 'n'")
    array([0., 1.])
    """
    if data.dtype.kind != "i" or not isinstance(origin, int):
        return data.astype(np.float64) - origin
    whole = data - origin
    lost = (np.abs(whole) > EXACT) & ~np.asarray(missing)
    if lost.any():
        raise ValueError(
            f"{where}: holds {data[lost][0]}, and of numbers this far apart only 16 digits are kept; drop it "
            "if it only tells the rows apart, as ids and hashes do, or make it text, which is a category"
        )
    return whole.astype(np.float64)


def levels_of(values: Values) -> tuple[list[Any], Array]:
    """The different values of a column as Python objects, in order, and (N,) which of them each row has; those of rows
    with a gap mean nothing.

    >>> levels_of(Values("number", np.array([3, 1, 3]), np.zeros(3, bool), "int64"))
    ([1, 3], array([1, 0, 1]))
    """
    if values.sort == "label":
        return list(values.levels), values.data
    data = values.data
    if values.sort in ("datetime", "duration"):  # those of a constant column
        ticks, size = nanoseconds(data)
        data = ticks * size
    levels, codes = np.unique(data[~values.missing], return_inverse=True)
    whole = values.sort == "number" and levels.dtype.kind == "f" and bool((levels == np.rint(levels)).all())
    placed = np.zeros(len(values.data), np.int64)
    placed[~values.missing] = codes
    return (levels.astype(np.int64) if whole and np.abs(levels).max(initial=0) < EXACT else levels).tolist(), placed


def _encode_codes(values: Values, column: Column, strict: bool) -> Array:
    levels, codes = levels_of(values)
    places = {value: i for i, value in enumerate(column.values)}
    unseen = float(len(column.values)) if column.kind == "categorical" else math.nan
    x = np.array([places.get(level, unseen) for level in levels] or [math.nan])[codes]
    x = np.where(values.missing, np.nan, x)
    strange = [level for level in levels if level not in places]
    if strange:
        used = np.isin(codes, [levels.index(level) for level in strange]) & ~values.missing
        strange = [levels[i] for i in np.unique(codes[used])]
    if strange:
        if isinstance(strange[0], str) != isinstance(column.values[0] if column.values else "", str):
            raise ValueError(
                f"column {column.name!r}: {strange[0]!r} where values such as {column.values[0]!r} are wanted"
            )
        then = "taken together as one value never seen" if unseen == unseen else "taken as gaps"
        _tell(f"{int(used.sum())} values were never seen, {shown(strange, 4)}; they are {then}", column, strict)
    return x


def _tell(line: str, column: Column, strict: bool) -> None:
    if line and strict:
        raise ValueError(f"column {column.name!r}: {line.partition(';')[0]}")
    if line:
        warnings.warn(f"column {column.name!r}: {line}", stacklevel=5)


def _numbers_of(column: Column) -> str:
    return "dates" if column.kind == "datetime" else "numbers"


def nanoseconds(data: Array) -> tuple[Array, int]:
    """(N,) int64 of datetime64 or timedelta64 in its own unit, and how many nanoseconds that has."""
    unit, count = np.datetime_data(data.dtype)
    if unit not in UNITS:  # months, hours, ...
        data, unit, count = data.astype(f"{data.dtype.kind}8[s]"), "s", 1
    return data.astype(np.int64), UNITS[unit] * count


def _encode_times(values: Values, column: Column) -> Array:
    """Whole nanoseconds less the origin, in the unit of the column."""
    if values.sort not in ("datetime", "duration"):
        if values.missing.all():
            return np.full(len(values.data), np.nan)
        raise ValueError(f"column {column.name!r}: {values.sort}s where times are wanted")
    if not column.unit:
        raise ValueError(f"column {column.name!r}: times where {_numbers_of(column)} are wanted")
    ticks, size = nanoseconds(np.where(values.missing, np.zeros(1, values.data.dtype), values.data))
    unit, origin = UNITS[column.unit], int(column.origin)
    if size % unit == 0 and origin % size == 0:
        return ((ticks - origin // size) * (size // unit)).astype(np.float64)
    rest = ticks - origin // size
    return (rest.astype(np.float64) * size - origin % size) / unit


def _fitted(x: Array, column: Column, strict: bool) -> Array:
    """Numbers that the column's law has a place for: rounded to the resolution, and no further than the edges, of which
    the mass is that of all beyond.
    """
    if column.step is not None:
        near = snap(x, column.step)
        off = np.abs(x - near) > GRID_ROOM * column.step.size + 2.0**-50 * np.abs(x)
        if off.any():
            _tell(
                f"{_count(x, off, column)} finer than its resolution {column.step.size:g}; rounded to it",
                column,
                strict,
            )
            x = np.where(off, near, x)
    for edge, side in (column.low, -1), (column.high, 1):
        beyond = np.zeros(len(x), bool) if edge is None else side * (x - edge) > 0
        if edge is not None and beyond.any():
            told = f"{_count(x, beyond, column)} beyond {edge + float(column.origin):g}"
            _tell(f"{told}; taken as it, which stands for all beyond", column, strict)
            x = np.where(beyond, edge, x)
    if column.limit is not None:
        hidden = (x > column.limit) if column.missing == "above" else (x < column.limit)
        if hidden.any():
            raise ValueError(
                f"column {column.name!r}: {_count(x, hidden, column)} {column.missing} "
                f"{column.limit + float(column.origin):g}, where every value is said to be missing"
            )
    return x


def _count(x: Array, at: Array, column: Column) -> str:
    first = x[at][0] + float(column.origin)
    return f"{first:g} is" if at.sum() == 1 else f"{at.sum()} values, such as {first:g}, are"


def decode_column(x: Array, column: Column) -> tuple[Array, Array]:
    """The values of a column, (N,), from their numbers x, (N,), and which of them are missing.

    Whole numbers and times are int64, the latter in nanoseconds; others float64; those of codes (N,) int64 places in
    `column.values`. Numbers are rounded to the resolution.
    """
    missing = np.isnan(x)
    x = np.where(missing, 0.0, x)
    if column.kind in CODED:
        codes = np.rint(x).astype(np.int64)
        missing |= (codes < 0) | (codes >= len(column.values))
        return np.where(missing, 0, codes), missing
    step, x = column.step, digits_of_float32(x, column.step, column.points)
    if column.unit:
        size = max(1, round(UNITS[column.unit] * (step.size if step else 1e-9)))
        anchor = round(UNITS[column.unit] * step.anchor) if step else 0
        ticks = np.rint((x * UNITS[column.unit] - anchor) / size).astype(np.int64) * size + anchor
        return ticks + int(column.origin), missing
    if step is None:
        return x + float(column.origin), missing
    x = snap(x, step, column.loose)
    if step.size >= 1 and float(step.size).is_integer() and float(column.step.anchor).is_integer():  # type: ignore[union-attr]
        rounded = np.rint(x)
        if (rounded == x).all():
            return rounded.astype(np.int64) + int(column.origin), missing
    return to_decimals(x + float(column.origin), step, float(column.origin)), missing
