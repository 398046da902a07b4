r"""Gains: what a model says of each column beyond the column's own marginal, and which rows carry a mean.

    gain_d = sum_s w_s log p(x_d | z_s) / sum_s w_s - log p_0(x_d),   averaged over the rows where column d is observed

with p_0 the column alone at its marginal optimum (`allegory.evaluation.marginals`), z_s ~ q(z | x) and the weights w_s
that make of q the posterior of the model. The rate is paid once for all columns, so that the gains sum to more than the
whole model gains; a column with none has been ignored.

Shapes: N rows x, (N, D), with gaps; S draws of z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.columnar import ColumnsFamily
from allegory.evaluation.passes import check_scored, evaluating, pairs_per_pass
from allegory.gaps import log_prob_elements
from allegory.given import Given, take_rows
from allegory.missingness import gap_columns
from allegory.model import VAE

__all__ = ["Carried", "ColumnGain", "carried_by", "column_gains", "data_gaps", "gain_lines", "has_columns"]

DRAWS = 100
LEAST_GAIN = 0.001  # nats
CARRIERS, ERRORS = 0.005, 2.0  # share of the rows that may carry a mean; standard errors that they move it by


@dataclass(frozen=True)
class ColumnGain:
    """What a model says of one column; nats per observed value, or per row where its gaps are data, see
    `allegory.missingness`.

    Attributes:
        name: of the column.
        observed: the fraction of rows in which it is there.
        nats: log p(x_d | z_1), on average over the posterior.
        baseline: log p_0(x_d), of the column alone.
        gain: the difference; 0 or less for a column that the model ignores.
    """

    name: str
    observed: float
    nats: float
    baseline: float
    gain: float


@dataclass(frozen=True)
class Carried:
    """Rows without which a mean would be another.

    Attributes:
        rows: their numbers, the most surprising first.
        shift: how much lower the mean of -log p(x) is without them, nats.
    """

    rows: list[int]
    shift: float


def column_gains(
    model: VAE,
    x: Tensor,
    baseline: Distribution,
    names: Sequence[Any] | None = None,
    given: Given = None,
) -> list[ColumnGain]:
    """The gain of each column, in their order.

    Args:
        model: any VAE whose p(x | z_1) is over independent elements.
        x: (N, D) rows.
        baseline: p_0, as `allegory.evaluation.marginals.independent_elements` fits it.
        names: (D,) of the columns; by default those of the likelihood, else their numbers.
        given: c of a conditional model.

    Raises:
        ValueError: rows that the model cannot score; elements that depend on each other.
    """
    contexts = check_scored(model, x, DRAWS, given)
    size = max(1, pairs_per_pass(model, x) // DRAWS)
    seen = ~x.isnan()
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    with evaluating(model):
        for rows in torch.arange(len(x)).split(size):
            trace = model(x[rows], samples=DRAWS, given=take_rows(contexts, rows))
            weights = torch.softmax(trace.log_weight.double(), 0)[..., None]
            found = log_prob_elements(trace.p[0], x[rows])
            total += torch.where(weights > 0, weights * found, 0).sum((0, 1)).cpu()
    alone = log_prob_elements(baseline, x.cpu().double()).sum(0)
    count = seen.sum(0).cpu()
    observed = count.tolist()
    count[list(data_gaps(model))] = len(x)
    names = names or _names(model) or [f"column {i}" for i in range(x.shape[1])]
    return [
        ColumnGain(str(name), there / len(x), nats / max(1, n), base / max(1, n), (nats - base) / max(1, n))
        for name, there, n, nats, base in zip(
            names, observed, count.tolist(), total.tolist(), alone.tolist(), strict=True
        )
    ]


def has_columns(model: VAE) -> bool:
    """Whether x is a table: p(x | z_1) is a product of a family a column."""
    return isinstance(getattr(model.decoders[0], "family", None), ColumnsFamily)


def data_gaps(model: VAE) -> dict[int, str]:
    """The columns of a table whose gaps are data, and their names: nats are then of log p(x_o, s).

    >>> data_gaps(model)
    {}
    """
    return gap_columns(getattr(model.decoders[0], "family", None))


def gain_lines(columns: Sequence[ColumnGain] | None) -> list[str]:
    """Which columns gained nothing, in words; nothing where all did.

    >>> gain_lines([ColumnGain("age", 1.0, -3.2, -3.1, -0.1), ColumnGain("town", 1.0, -1.0, -2.0, 1.0)])
    ['1 of 2 columns gained nothing over its own marginal: age']
    """
    ignored = [column.name for column in columns or () if not column.gain > LEAST_GAIN]
    if not ignored:
        return []
    listed = ", ".join(ignored[:8]) + (", ..." if len(ignored) > 8 else "")
    whose = "its own marginal" if len(ignored) == 1 else "their own marginals"
    return [f"{len(ignored)} of {len(columns or ())} columns gained nothing over {whose}: {listed}"]


def _names(model: VAE) -> Sequence[str] | None:
    return getattr(getattr(model.decoders[0], "family", None), "names", None)


def carried_by(bounds: Tensor) -> Carried | None:
    """The rows that carry the mean of -log p(x): at most one in 200, without which it is lower by more than two of the
    standard errors that the others have; None where there are none.

    Args:
        bounds: (N,) log p(x), or a bound of it, of each row, nats.

    >>> carried_by(torch.cat([torch.randn(1000), torch.tensor([-5e3])])).rows
    [1000]
    """
    nats = -bounds.double()
    most = int(CARRIERS * len(nats))
    if most < 1 or not bool(nats.isfinite().all()):
        return None
    order = nats.argsort(descending=True)
    for count in range(1, most + 1):
        others = nats[order[count:]]
        shift = (nats.mean() - others.mean()).item()
        if shift > ERRORS * others.std().item() / math.sqrt(len(others)):
            return Carried(order[:count].tolist(), shift)
    return None
