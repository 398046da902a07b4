r"""Columns of a table as a page shows them: by their names, and their values in the words of the data.

The names are those of the schema that a run records, else those of the likelihood, else numbers, from 0.

Shapes: N rows x, (N, D), with gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from allegory.model import VAE
from allegory.tabular.columns import CODED, Column
from allegory.tabular.description import in_words
from allegory.views.runs import Run

__all__ = ["ShownColumn", "shown_columns"]

CODES = ("bernoulli", "categorical", "ordinal")
COUNTS = ("poisson", "negative_binomial")
LONGEST = 24  # letters of a name on a plot


@dataclass(frozen=True)
class ShownColumn:
    """A column.

    Attributes:
        name: of the column.
        labels: of the codes 0, 1, ..., one each; empty where the column is of numbers.
        step: the resolution of its numbers; None where they have none.
        column: of the schema; None without one.
    """

    name: str
    labels: tuple[str, ...] = ()
    step: float | None = None
    column: Column | None = None

    @property
    def short(self) -> str:
        """The name, cut where it is long."""
        return self.name if len(self.name) <= LONGEST else self.name[: LONGEST - 1] + "…"

    def in_words(self, x: float) -> str:
        """A number x as the value that it stands for.

        >>> ShownColumn("town", ("Rom", "Ulm")).in_words(1.0), ShownColumn("age", step=1.0).in_words(17.0)
        ('Ulm', '17')
        """
        if self.labels:
            code = round(x)
            return self.labels[code] if 0 <= code < len(self.labels) else f"code {code}"
        if self.column is None:
            return f"{x:.6g}"
        step = self.column.step  # x is of float32, which a value of few digits shows
        return in_words(
            self.column, x if step is None else step.anchor + step.size * round((x - step.anchor) / step.size)
        )


def shown_columns(run: Run, model: VAE) -> list[ShownColumn]:
    """The columns of x, in their order.

    Args:
        run: of a table.
        model: whose likelihood is of columns.
    """
    family: Any = model.decoders[0].family
    if run.schema is not None:
        return [_of_schema(column) for column in run.schema.modelled]
    names = family.names or [f"column {d}" for d in range(len(family.described))]
    return [_of_family(name, described) for name, described in zip(names, family.described, strict=True)]


def _of_schema(column: Column) -> ShownColumn:
    labels: tuple[str, ...] = ()
    if column.kind in CODED:
        labels = tuple(str(value) for value in column.values)
        labels += ("never seen",) if column.kind == "categorical" else ()
    return ShownColumn(str(column.name), labels, column.resolution, column)


def _of_family(name: str, described: dict[str, Any]) -> ShownColumn:
    """By the family of the column, in plain JSON."""
    while "family" in described:
        described = described["family"]
    kind = described.get("name")
    if kind in CODES:
        lowest, size = described.get("lowest", 0), 2 if kind == "bernoulli" else described["k"]
        return ShownColumn(name, tuple(str(lowest + code) for code in range(size)) if not lowest else (), 1.0)
    return ShownColumn(name, step=described.get("step", 1.0 if kind in COUNTS else None))
