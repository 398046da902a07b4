r"""Likelihood: the family of each column, by its kind.

    binary              Bernoulli
    categorical         categorical, with one more category for what was never seen
    ordinal             ordinal
    count, positive, real, datetime
                        the mass of an interval of the column's resolution, of a logistic law in x or, for numbers whose
                        spread grows with their size, in log(x - low + step)
                        where there is no resolution, a density: normal, or Student's t where the tails are long, or
                        log-normal of numbers above 0
                        with point masses at the values that come again and again, and where many numbers were rounded
                        further than the rest, with the mass of that interval, too
    constant            the single interval from edge to edge: 0 nats

and around it what a gap says, where that is known or to be learned, see `allegory.missingness`.

Which of two laws fits better is decided by the likelihood of each, with its location and scale from the quartiles, so
that one wild row moves nothing.

Shapes: U different values, with their counts, (U,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allegory import families
from allegory.tabular.columns import Column

__all__ = ["choose_law", "family_of", "family_of_all", "law_of"]

Array = NDArray[Any]

LOGISTIC_QUARTILE, NORMAL_QUARTILE, STUDENT_QUARTILE = math.log(3), 0.6744897501960817, 0.7648923284043484
STUDENT_DF = 3.0
LEAST_GAIN = 0.01  # nats, for which a law that ends at 0 is taken


def choose_law(x: Array, counts: Array, step: float | None, low: float | None, points: Sequence[float]) -> str:
    """The law of numbers: "logistic" or "log logistic" where they have a resolution, else "normal", "student_t" or, of
    numbers above 0, "log normal".

    >>> x = np.exp(np.linspace(-2, 5, 500)).round(2)
    >>> choose_law(x, np.ones(500), 0.01, 0.0, ()), choose_law(np.linspace(50, 60, 500), np.ones(500), 0.01, 0.0, ())
    ('log logistic', 'logistic')
    """
    rest = ~np.isin(x, points)
    x, counts = (x[rest], counts[rest]) if rest.any() else (x, counts)
    if step is None:
        by_law = {"normal": _log_normal(x, counts), "student_t": _log_student(x, counts)}
        if low is not None and low >= 0 and x[0] > 0:
            by_law["log normal"] = _log_normal(np.log(x), counts) - _mean(np.log(x), counts) - LEAST_GAIN
    elif low is None:
        return "logistic"
    else:
        g = np.log(x - low + step)
        by_law = {"logistic": _log_logistic(x, counts), "log logistic": _log_logistic(g, counts) - _mean(g, counts)}
    return max(by_law, key=by_law.__getitem__)


def _mean(x: Array, counts: Array) -> float:
    return float((x * counts).sum() / counts.sum())


def _standardized(x: Array, counts: Array, quartile: float) -> tuple[Array, float]:
    """(U,) the values in units of a law of some upper quartile, and the logarithm of the unit."""
    at = np.searchsorted(np.cumsum(counts) / counts.sum(), [0.25, 0.5, 0.75])
    first, middle, third = x[np.minimum(at, len(x) - 1)]
    scale = (third - first) / (2 * quartile) or math.sqrt(_mean((x - middle) ** 2, counts)) or 1.0
    return (x - middle) / scale, math.log(scale)


def _log_logistic(x: Array, counts: Array) -> float:
    """Mean log-density."""
    t, unit = _standardized(x, counts, LOGISTIC_QUARTILE)
    return _mean(-np.abs(t) - 2 * np.log1p(np.exp(-np.abs(t))), counts) - unit


def _log_normal(x: Array, counts: Array) -> float:
    t, unit = _standardized(x, counts, NORMAL_QUARTILE)
    return _mean(-0.5 * t**2, counts) - 0.5 * math.log(2 * math.pi) - unit


def _log_student(x: Array, counts: Array) -> float:
    t, unit = _standardized(x, counts, STUDENT_QUARTILE)
    df = STUDENT_DF
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(math.pi * df)
    return _mean(-(df + 1) / 2 * np.log1p(t**2 / df), counts) + constant - unit


def law_of(column: Column) -> str:
    """The family of a column, in words.

    >>> law_of(Column("town", "categorical", "object", values=("Rom", "Ulm")))
    'categorical(2 + 1)'
    """
    if column.missing:
        where = "a limit to be learned" if column.limit is None else f"{column.limit + float(column.origin):.10g}"
        said = "gaps as data" if column.missing == "indicated" else f"missing {column.missing} {where}"
        return f"{law_of(replace(column, missing='', limit=None))}, {said}"
    if column.kind == "constant":
        return "0 nats" if column.modelled else "not modelled"
    if column.kind in ("binary", "ordinal"):
        return "bernoulli" if column.kind == "binary" else f"ordinal({len(column.values)})"
    if column.kind == "categorical":
        return f"categorical({len(column.values)} + 1)"
    law = (
        f"interval, {column.law or 'logistic'}"
        if column.resolution is not None
        else f"density, {column.law or 'normal'}"
    )
    law += f" x {column.components}" if column.components > 1 else ""
    law += f", some rounded to {column.coarse:g}" if column.coarse is not None else ""
    return law + (f", {len(column.points)} point{'s' * (len(column.points) > 1)}" if column.points else "")


def family_of(column: Column, exposed: bool = False) -> Any:
    """The family of a column of x.

    Args:
        column: of a schema.
        exposed: whether counts have a size, see `allegory.exposure`.

    >>> family_of(Column("price", "positive", "float64", resolution=0.01, low=0.0, points=(0.0,)))
    PointsFamily(...)
    """
    if column.missing:
        values = family_of(replace(column, missing="", limit=None), exposed)
        if column.missing == "indicated":
            return families.indicated(values)
        if column.limit is None:
            return families.self_masking(values, above=column.missing == "above")
        beyond = families.missing_above if column.missing == "above" else families.missing_below
        return beyond(values, column.limit)
    if exposed and column.kind == "count":
        return families.negative_binomial
    if column.kind == "constant":
        return families.interval(1.0, low=0.0, high=0.0)  # both edges: a mass of 1
    if column.kind == "binary":
        return families.bernoulli
    if column.kind in ("categorical", "ordinal"):
        k = len(column.values)
        return families.categorical(k + 1) if column.kind == "categorical" else families.ordinal(k)
    if column.resolution is None:
        by_law = {"student_t": families.student_t, "log normal": families.log_normal}
        inner: Any = by_law.get(column.law, families.normal)
    else:
        inner = families.interval(
            column.resolution, column.low, column.high, components=column.components, origin=column.anchor,
            log=column.law.startswith("log ") and column.low is not None,
        )  # fmt: skip
    if column.coarse is not None:
        return families.rounded(inner, column.coarse_values, column.points)
    return families.with_points(inner, column.points) if column.points else inner


def family_of_all(columns: Sequence[Column], exposed: bool = False) -> Any:
    """The family of rows x, (N, D), of these columns.

    Args:
        columns: of x.
        exposed: whether the counts among them have a size, see `allegory.exposure`.

    Raises:
        ValueError: no column is left to be modelled, or none is a count that has a size.

    >>> family_of_all([Column("a", "binary", "bool", values=(False, True))])
    ColumnsFamily(...)
    """
    if not columns:
        raise ValueError("every column of the table is the same throughout, or missing: there is nothing to model")
    if exposed and not any(column.kind == "count" for column in columns):
        raise ValueError(
            "exposure: no column is a count, which could be in proportion to a size; say which are, by --column "
            "NAME=count, in Python columns={...}"
        )
    each = [family_of(column, exposed) for column in columns]
    return families.columns(each, names=[str(column.name) for column in columns])
