r"""Reading: what scikit-learn calls X, as numbers x with gaps, and back.

A frame (pandas, polars, pyarrow) is read by a schema: categories, text, times, counts, gaps. A matrix, or a frame of
numbers whose columns have no names, holds numbers, and nothing is known of them but their values:

    real            the mass of an interval where all values are multiples of a step, or where values come again and
                    again, of the median distance between those that differ; else a density. Without edges, since a
                    number below the smallest may come
    categorical     a column that is the same throughout: what differs from it was never seen

Shapes: X (N, n_features_in_); x (N, D), of the columns that are modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data
from torch import Tensor

from allegory.tabular import Column, Schema
from allegory.tabular.frames import open_frame
from allegory.tabular.resolution import snap

__all__ = ["infer_schema", "is_frame", "read", "validated", "written"]

Array = NDArray[Any]
CODED = ("binary", "categorical", "ordinal")


def is_frame(X: Any) -> bool:
    """Whether X has columns with names or types of their own. As for scikit-learn, a name is a string: numbers in a
    DataFrame without names are the matrix that they were made from.

    >>> is_frame(np.zeros((2, 2))), is_frame([[1.0, 2.0]])
    (False, False)
    """
    if isinstance(X, np.ndarray | list | tuple) or not (hasattr(X, "columns") or hasattr(X, "column_names")):
        return False
    types: Any = getattr(X, "dtypes", [None])  # pyarrow tells none
    plain = all(isinstance(kind, np.dtype) and kind.kind in "iuf" for kind in types)
    return not plain or any(isinstance(name, str) for name in X.columns)


def validated(estimator: Any, X: Any, reset: bool) -> Any:
    """X as a frame, or as a matrix of numbers, checked as scikit-learn checks it; on `reset` its width and its names
    are what the estimator will expect.

    Raises:
        ValueError: text, infinite or complex numbers in a matrix, a single row, other columns than were fitted.
    """
    if is_frame(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        if reset and len(X) < 2:
            raise ValueError(f"X has n_samples={len(X)}; {type(estimator).__name__} wants 2 at least")
        return X
    found = validate_data(
        estimator, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
    )
    return found.astype(np.float64) if found.dtype.kind not in "iuf" else found


def infer_schema(X: Any, columns: Mapping[Any, str] | Schema | None, **gaps: Any) -> Schema:
    """The schema of X, from all its rows.

    Args:
        X: as `validated` gives it.
        columns: kinds of some columns, by name, in a matrix by number; or the whole schema.
        gaps: what a gap means, the arguments of `Schema.infer` by that name.
    """
    if isinstance(columns, Schema):
        if any(gaps.values()):
            option = next(name for name, value in gaps.items() if value)
            raise ValueError(
                f"columns is a whole Schema, which says what gaps mean; wanted {option} in it, or no Schema"
            )
        return columns
    if is_frame(X):
        try:
            return Schema.infer(X, columns, **gaps)
        except ValueError as error:
            told = "; columns takes a Schema, too, tabular.Schema.infer(X, drop=...)" if "drop=" in str(error) else ""
            raise ValueError(f"{error}{told}") from None
    said, kinds = dict(columns or {}), dict[Any, str]()
    for i, column in enumerate(X.T):
        seen = column[~np.isnan(column)]
        if len(seen):
            kinds[i] = "categorical" if (seen == seen[0]).all() else "real"
    schema = Schema.infer(X, kinds | said, **gaps)
    places = {column.name: i for i, column in enumerate(schema.columns)}
    freed = [
        _without_edges(column, X[:, places[column.name]])
        if column.kind == "real" and column.name not in said
        else column
        for column in schema.columns
    ]
    return replace(schema, columns=tuple(freed))


def _without_edges(column: Column, values: Array) -> Column:
    """The column of a matrix, with a resolution where values come again and again."""
    different, count = np.unique(values[~np.isnan(values)]), column.rows - column.gaps
    column, often = replace(column, low=None, high=None, law="", points=()), bool(column.points)
    if column.resolution is not None or not (often or 2 * len(different) <= count):
        return column
    step, first = float(np.median(np.diff(different))), float(different[0]) - float(column.origin)
    return replace(column, resolution=step, anchor=first)


def read(X: Any, schema: Schema) -> Tensor:
    """(N, D) float64: X as numbers, NaN where it has a gap.

    Args:
        X: as `validated` gives it; with as many columns as the schema.
        schema: of the X that was fitted.
    """
    names = [column.name for column in schema.columns]
    if schema.container != "array":
        return schema.encode(X if is_frame(X) else {name: X[:, i] for i, name in enumerate(names)})
    X = _matrix(X)
    places = {name: i for i, name in enumerate(names)}
    x = np.empty((len(X), len(schema.modelled)))
    for j, column in enumerate(schema.modelled):
        values = X[:, places[column.name]].astype(np.float64)
        x[:, j] = _codes(values, column) if column.kind in CODED else _on_grid(values - float(column.origin), column)
    return torch.from_numpy(x)


def _matrix(X: Any) -> Array:
    """(N, n_features_in_) the numbers of a frame."""
    if not is_frame(X):
        return X
    opened = open_frame(X)
    columns = [opened.read(name) for name in opened.names]
    return np.stack([np.where(column.missing, np.nan, column.data) for column in columns], 1)


def _on_grid(x: Array, column: Column) -> Array:
    """(N,) the middles of the intervals that numbers lie in."""
    return x if column.step is None else snap(x, column.step)


def _codes(values: Array, column: Any) -> Array:
    """(N,) the place of each value, one more where it was never seen."""
    levels = np.asarray(column.values, np.float64)
    codes = np.full(len(values), float(len(levels)) if column.kind == "categorical" else np.nan)
    for place, level in enumerate(levels):
        codes[values == level] = place
    return np.where(np.isnan(values), np.nan, codes)


def written(x: Tensor, schema: Schema, like: Any = None) -> Any:
    """Numbers x: (N, D) as a matrix, (N, n_features_in_) float64, or as a frame.

    Args:
        x: of the columns that are modelled.
        schema: of the X that was fitted.
        like: a frame whose library, order of columns and index the result has; a matrix of which it keeps the numbers.
    """
    if schema.container != "array":
        return schema.decode(x, like if is_frame(like) else None)
    found = np.full((len(x), len(schema.columns)), np.nan)
    numbers = dict(zip(schema.names, x.numpy().T, strict=True))
    for i, column in enumerate(schema.columns):
        if column.name not in numbers:
            continue
        values = numbers[column.name]
        if column.kind in CODED:
            levels = np.append(np.asarray(column.values, np.float64), np.nan)
            values = levels[np.where(np.isnan(values), -1, values).clip(-1, len(levels) - 1).astype(int)]
        else:
            values = values + float(column.origin)
        found[:, i] = values
    if like is None:
        return found
    kept = _matrix(like)
    return np.where(np.isnan(kept), found, kept)
