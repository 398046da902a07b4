r"""Likelihood: the family of each column, by its kind.

binary              Bernoulli
categorical         categorical, with one more category for what was never seen
ordinal             ordinal
count, positive, real, datetime
                    the mass of an interval of the column's resolution; a density where it has none; with point masses
                    at the values that come again and again
constant            a single category: 0 nats
"""

from __future__ import annotations

from allegory.tabular.columns import Column

__all__ = ["law_of"]


def law_of(column: Column) -> str:
    """The family of a column, in words.

    >>> law_of(Column("town", "categorical", "object", values=("Rom", "Ulm")))
    'categorical(2 + 1)'
    """
    if column.kind == "constant":
        return "" if not column.modelled else "constant"
    if column.kind in ("binary", "ordinal"):
        return "bernoulli" if column.kind == "binary" else f"ordinal({len(column.values)})"
    if column.kind == "categorical":
        return f"categorical({len(column.values)} + 1)"
    return "density" if column.resolution is None else "interval"
