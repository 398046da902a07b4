r"""Schema: what the columns of a table are, and a table as numbers x, (N, D), and back.

    schema = Schema.infer(frame)        column -> kind, resolution, range, gaps, points; printed, edited, saved as JSON
    x = schema.encode(frame)            (N, D) float64, a gap is NaN, a category is its code
    frame = schema.decode(x)            the same library, columns, order, types, categories

Columns that are the same throughout are not in x, and come back.

Shapes: N rows, D columns of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.tabular.building import build_column, build_frame, typed_as
from allegory.tabular.columns import (
    Column,
    check_column,
    column_from_json,
    decode_column,
    encode_column,
    number_of,
)
from allegory.tabular.description import table_of
from allegory.tabular.frames import Frame, Name, Values, open_frame, shown, take_gaps
from allegory.tabular.inference import infer_column, names_rows
from allegory.tabular.likelihood import family_of_all

__all__ = ["Schema", "as_limits", "as_list"]

CONTAINERS = ("pandas", "polars", "pyarrow", "array", "structured", "dict")


@dataclass(frozen=True, repr=False)
class Schema:
    """What the columns of a table are. `str` of it is a table to read; nothing in it changes, `with_column` gives
    another.

    Attributes:
        columns: in the order of the frame.
        container: the library of the frame: "pandas", "polars", "pyarrow", "array", "structured" or "dict".
        dropped: names of columns that are not looked at.

    >>> frame = {"age": np.arange(40) % 35 + 20, "town": np.array(["Rom", "Ulm"] * 20, object)}
    >>> schema = Schema.infer(frame)
    >>> schema
    Schema(2 columns of 40 rows: 1 categorical, 1 count)
    >>> schema.encode(frame)[:2]
    tensor([[20.,  0.],
            [21.,  1.]], dtype=torch.float64)
    >>> schema.decode(schema.encode(frame)[:2])["town"].tolist()
    ['Rom', 'Ulm']
    """

    columns: tuple[Column, ...]
    container: str
    dropped: tuple[Name, ...] = ()

    @classmethod
    def infer(
        cls,
        frame: Any,
        columns: Mapping[Name, str] | None = None,
        drop: Name | Sequence[Name] = (),
        gaps: Any = (),
        resolution: Mapping[Name, float] | None = None,
        missing_above: Mapping[Name, Any] | None = None,
        missing_below: Mapping[Name, Any] | None = None,
        indicators: Name | Sequence[Name] | bool = (),
    ) -> Schema:
        """The schema of a table, from all its rows.

        Args:
            frame: of pandas, polars or pyarrow; a matrix (N, D) or a structured array; a dictionary of columns.
            columns: kinds of some columns, by name, where another is wanted than the one found.
            drop: columns that are left out, such as ids.
            gaps: a value that stands for a gap, such as "?" or -999, or several, in all columns; or by column.
            resolution: steps of some columns, by name.
            missing_above, missing_below: columns of numbers whose values are missing because they are large, or small,
                and the limit, {"glucose": 300}: a gap then means a value beyond it. None for a limit that is learned,
                self-masking. See `allegory.missingness`.
            indicators: columns whose gaps are data, modelled beside the values, so that new rows have gaps; True for
                all columns that have gaps, and of which nothing else is said.

        Raises:
            ValueError: no table; a name that is not in it; columns that only tell the rows apart; a kind that does not
                fit the values; a value beyond the limit; gaps of which something is said, where there are none.

        >>> Schema.infer({"id": np.arange(100)})
        Traceback (most recent call last):
        ValueError: columns that only tell the rows apart: 'id' (whole numbers, all different, without a hole); leave
        them out with drop=['id'], or say what they are, as by columns={'id': 'categorical'}
        """
        opened, kinds, steps, drop = open_frame(frame), dict(columns or {}), dict(resolution or {}), as_list(drop)
        by_name = {name: as_list(codes) for name, codes in gaps.items()} if isinstance(gaps, Mapping) else {}
        of_all = [] if isinstance(gaps, Mapping) else as_list(gaps)
        beyond = {"missing_above": missing_above, "missing_below": missing_below}
        said = {option: as_limits(option, limits) for option, limits in beyond.items()}
        said["indicators"] = {} if isinstance(indicators, bool) else dict.fromkeys(as_list(indicators))
        asked = {"columns": kinds, "drop": drop, "gaps": by_name, "resolution": steps, **said}
        for option, names in asked.items():
            _check_known(option, names, opened.names)
        found, ids = [], dict[Name, str]()
        for name in (name for name in opened.names if name not in set(drop)):
            read = opened.read(name)
            codes = tuple(by_name.get(name, of_all))
            values, gap = take_gaps(read, codes)
            if name not in kinds and (why := names_rows(name, values)):
                ids[name] = why
                continue
            gap = None if read.missing.any() else gap  # the library's own comes back where there are both
            column = infer_column(name, values, kinds.get(name), steps.get(name), gap)
            found.append(column if codes in ((), (gap,)) else replace(column, codes=codes))
        if ids:
            told, first = ", ".join(f"{name!r} ({why})" for name, why in ids.items()), next(iter(ids))
            raise ValueError(
                f"columns that only tell the rows apart: {told}; leave them out with drop={list(ids)}, or say what "
                f"they are, as by columns={{{first!r}: 'categorical'}}"
            )
        if not found:
            raise ValueError("the frame has no columns; wanted at least one")
        found = [_with_gaps(column, said, indicators is True) for column in found]
        return cls(tuple(found), opened.container, tuple(drop))

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns of x, in order: all but the constant ones."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of the columns of x."""
        return tuple(column.name for column in self.modelled)

    def with_column(self, name: Name, **changes: Any) -> Schema:
        """The schema with another description of one column.

        Args:
            name: of the column.
            changes: fields of `Column`, such as kind, values, resolution, low, high, points.

        Raises:
            ValueError: no such column, no such field, or a value that it cannot have.

        >>> schema = Schema.infer({"age": np.arange(40) % 35 + 20}).with_column("age", high=120.0)
        >>> schema.columns[0].high
        120.0
        """
        _check_known("with_column", [name], [column.name for column in self.columns])
        unknown = [key for key in changes if key not in {field.name for field in fields(Column)}]
        if unknown:
            raise ValueError(f"column {name!r}: a column has no {unknown[0]!r}; it has {', '.join(COLUMN_FIELDS)}")
        changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}

        def changed(column: Column) -> Column:
            return column_from_json(replace(column, **changes).to_json(), "")

        return replace(self, columns=tuple(changed(c) if c.name == name else c for c in self.columns))

    def family(self, exposed: bool = False) -> Any:
        """The likelihood of x: a family for each column, by its kind.

        Args:
            exposed: whether counts have a size, see `allegory.exposure`: they are negative binomials then.

        Raises:
            ValueError: all columns are constant; no column is a count, which would have a size.

        >>> schema = Schema.infer({"age": np.arange(40) % 35 + 20, "town": np.array(["Rom", "Ulm"] * 20, object)})
        >>> schema.family().blocks[1]
        CategoricalFamily(3)
        """
        return family_of_all(self.modelled, exposed)

    def encode(self, frame: Any, strict: bool = False) -> Tensor:
        """(N, D) float64: the columns `names` of a table as numbers, NaN where there is a gap.

        The order of the frame's columns does not matter, and neither does its library. A category that was never seen
        has a code of its own, the last one.

        Args:
            frame: with the columns of the schema; the ones dropped may be there or not.
            strict: whether values that were never seen are an error.

        Warns:
            UserWarning: values that were never seen, finer than the resolution, or beyond the edges.

        Raises:
            ValueError: columns that are missing, or that the schema does not know; text where numbers are wanted, or
                numbers where text is.

        >>> schema = Schema.infer({"age": np.arange(40) % 35 + 20})
        >>> schema.encode({"years": np.arange(3)})
        Traceback (most recent call last):
        ValueError: the frame has no column 'age', and has 'years', which the schema does not know
        """
        opened = open_frame(frame)
        self._check_names(opened.names)
        x = np.empty((opened.rows, len(self.modelled)))
        for i, column in enumerate(self.modelled):
            x[:, i] = encode_column(self._without_gap(opened.read(column.name), column), column, strict)
        for column in (column for column in self.columns if not column.modelled):
            encode_column(self._without_gap(opened.read(column.name), column), column, strict)
        return torch.from_numpy(x)

    def decode(self, x: Any, like: Any = None) -> Any:
        """The table of numbers x: the same library, columns, order and types as the one the schema was inferred from.

        Numbers are rounded to the resolution of their column; a code that stands for values never seen is a gap.

        Args:
            x: (N, D), of the columns `names`.
            like: the table that x was encoded from: the result has its library, the order of its columns, and, with as
                many rows, its index where it is one of pandas, and its columns that were dropped. The types are those
                of the schema, if the library is the same.

        Raises:
            ValueError: x of another shape, or infinite.

        >>> schema = Schema.infer({"age": np.arange(40) % 35 + 20, "unit": np.array(["mm"] * 40, object)})
        >>> schema.decode(torch.tensor([[30.2]]))
        {'age': array([30]), 'unit': array(['mm'], dtype=object)}
        """
        x = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.modelled):
            raise ValueError(
                f"x has shape {x.shape}; wanted (N, {len(self.modelled)}), the columns {shown(self.names)}"
            )
        if np.isinf(x).any():
            raise ValueError("x has infinite numbers; wanted finite ones, or gaps (NaN)")
        opened = None if like is None else open_frame(like)
        container = self.container if opened is None else opened.container
        places, built = {name: i for i, name in enumerate(self.names)}, dict[Name, Any]()
        for column in self.columns:
            if column.modelled:
                data, missing = decode_column(x[:, places[column.name]], column)
            else:
                data, missing = np.zeros(len(x), np.int64), np.full(len(x), column.gaps == column.rows > 0)
            if opened is not None and container != self.container:
                column, data = typed_as(column, data, opened.read(column.name))
            built[column.name] = build_column(column, data, missing, container)
        return self._assemble(built, container, opened, like)

    def _assemble(self, built: dict[Name, Any], container: str, opened: Frame | None, like: Any) -> Any:
        """The table, with what else `like` has where it has as many rows."""
        names = [column.name for column in self.columns]
        if opened is None:
            return build_frame(container, built, names)
        self._check_names(opened.names)
        dropped = {name: opened.column(name) for name in opened.names if name in self.dropped}
        if dropped and len(next(iter(built.values()))) == opened.rows:
            return build_frame(container, {**built, **dropped}, opened.names, like)
        return build_frame(container, built, [name for name in opened.names if name in built], like)

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON, of which `from_json` makes it again.

        >>> Schema.infer({"unit": np.array(["mm"] * 3, object)}).to_json()["columns"]
        [{'name': 'unit', 'kind': 'constant', 'dtype': 'object', 'values': ['mm'], 'rows': 3}]
        """
        return {
            "container": self.container,
            "dropped": list(self.dropped),
            "columns": [column.to_json() for column in self.columns],
        }

    @classmethod
    def from_json(cls, plain: Any) -> Schema:
        """The schema of what `to_json` gave.

        Raises:
            ValueError: what is wrong in it.

        >>> Schema.from_json({"container": "pandas", "columns": [{"name": "a", "kind": "odd", "dtype": "int64"}]})
        Traceback (most recent call last):
        ValueError: schema, column 'a': kind is 'odd'; wanted one of real, positive, ...
        """
        if not isinstance(plain, Mapping) or not isinstance(plain.get("columns"), list) or not plain["columns"]:
            raise ValueError("schema: wanted an object with a list of columns, as Schema.to_json() gives it")
        container, dropped = plain.get("container"), plain.get("dropped", [])
        if container not in CONTAINERS:
            raise ValueError(f"schema: container is {container!r}; wanted one of {', '.join(CONTAINERS)}")
        if not isinstance(dropped, list) or not all(isinstance(name, (str, int, float)) for name in dropped):
            raise ValueError(f"schema: dropped is {dropped!r:.60}; wanted a list of names")
        columns = [column_from_json(part, "schema") for part in plain["columns"]]
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise ValueError(f"schema: the column {next(n for n in names if names.count(n) > 1)!r} stands twice in it")
        return cls(tuple(columns), container, tuple(dropped))

    def _check_names(self, names: Iterable[Name]) -> None:
        names, known = set(names), [column.name for column in self.columns]
        missing = [name for name in known if name not in names]
        extra = [name for name in names if name not in {*known, *self.dropped}]
        if missing or extra:
            has_no = f"has no column {shown(missing)}" if missing else ""
            has = f"has {shown(sorted(extra, key=str))}, which the schema does not know" if extra else ""
            raise ValueError(f"the frame {', and '.join(part for part in (has_no, has) if part)}")

    def _without_gap(self, values: Values, column: Column) -> Values:
        return take_gaps(values, column.gap_codes)[0] if column.gap_codes else values

    def __str__(self) -> str:
        return table_of(self.columns, self.dropped)

    def __repr__(self) -> str:
        kinds = [column.kind for column in self.columns]
        counts = ", ".join(
            f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds), key=lambda k: (-kinds.count(k), k))
        )
        return f"Schema({len(kinds)} columns of {self.columns[0].rows} rows: {counts})"


def as_list(said: Any) -> list[Any]:
    """What is said of one thing, or of several.

    >>> as_list("NA"), as_list(-999), as_list(["?", -9])
    (['NA'], [-999], ['?', -9])
    """
    return [said] if isinstance(said, (str, int, float)) else list(said)


def as_limits(option: str, said: Any) -> dict[Name, Any]:
    """What is said of values that are missing because they are large, or small: a limit by column.

    >>> as_limits("missing_above", None)
    {}
    """
    if said is not None and not isinstance(said, Mapping):
        name = as_list(said)[0]
        raise ValueError(f"{option}={said!r}: wanted limits by column, {{{name!r}: 300}}, None for one that is learned")
    return dict(said or {})


def _with_gaps(column: Column, said: Mapping[str, Mapping[Name, Any]], indicated: bool) -> Column:
    """The column, with what a gap in it means.

    Args:
        column: as it was found.
        said: of columns, by option.
        indicated: whether gaps of which nothing is said are data.
    """
    options = [option for option, names in said.items() if column.name in names]
    if len(options) > 1:
        raise ValueError(f"column {column.name!r} is in {' and '.join(options)}; wanted in one of them")
    if not options:
        return replace(column, missing="indicated") if indicated and column.gaps and column.modelled else column
    missing = {"missing_above": "above", "missing_below": "below"}.get(options[0], "indicated")
    changed, limit = replace(column, missing=missing), said[options[0]][column.name]
    check_column(changed, f"column {column.name!r}")
    if not column.modelled:
        raise ValueError(f"column {column.name!r} has no value at all, so that nothing can be learned of it; drop it")
    if limit is not None:
        try:
            limit = number_of(limit, column)
        except ValueError as error:
            raise ValueError(f"{options[0]}: column {column.name!r}: {error}") from None
    low, high = changed.low, changed.high  # an edge of what is there, which what is missing is beyond, is none
    if missing == "above" and high is not None and (limit is None or high <= limit):
        changed = replace(changed, high=None)
    if missing == "below" and low is not None and (limit is None or low >= limit):
        changed = replace(changed, low=None)
    return check_column(replace(changed, limit=limit), f"column {column.name!r}")


COLUMN_FIELDS = tuple(field.name for field in fields(Column))


def _check_known(option: str, names: Iterable[Name], known: Sequence[Name]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{option}: no column {shown(unknown)} in the frame; it has {shown(known)}")
