r"""Values that are not missing at random: what is missing says something of itself.

Where a column is recorded only up to a limit c, as by an instrument or a form, a gap there means X > c, and its
likelihood is not 1 but the mass beyond:

    log p(x) = log p(x)           where x is observed
               log P(a < X < b)   where it is missing,     (a, b) = (c, inf) above, (-inf, c) below

which is exact: no sampling, and no model of the mask. It is the likelihood of censored data (Tobin 1958), and of
deterministic self-masking (Ipsen, Mattei & Frellsen 2021, not-MIWAE, who learn the mechanism instead). A value that is
recorded *as* the limit, 99 for 99 and more, needs no gap: it is `families.interval(step, high=99)`, whose edge has the
mass of everything beyond.

Shapes: elementwise, (*batch, *event).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from allegory.columnar import Columns
from allegory.family import Family
from allegory.gaps import Observed, placeholder
from allegory.quantiles import mass

__all__ = ["Censored", "CensoredFamily", "missing_above", "missing_below", "missing_range"]


class Censored(Distribution):
    """A law of which a gap says that the value lies between two limits.

    Args:
        law: of the values, of batch shape (*).
        low, high: (*) the limits; -inf and inf where there are none.

    >>> law = Observed(Censored(torch.distributions.Normal(torch.zeros(2), 1.0), torch.zeros(2), torch.inf), 1)
    >>> law.log_prob(torch.tensor([1.0, torch.nan])).exp()              # N(1; 0, 1) / 2
    tensor(0.1210)
    """

    arg_constraints = {}  # noqa: RUF012, as torch has it

    def __init__(self, law: Distribution, low: Tensor | float, high: Tensor | float) -> None:
        self.law = law
        self.low, self.high = (torch.as_tensor(edge).expand(law.batch_shape) for edge in (low, high))
        super().__init__(law.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Censored:
        return Censored(self.law.expand(batch_shape), self.low.expand(batch_shape), self.high.expand(batch_shape))

    @property
    def support(self) -> Any:
        return self.law.support

    @property
    def placeholder(self) -> Tensor:
        """A value whose density is finite."""
        return placeholder(self.law)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.law.log_prob(value)

    @property
    def log_missing(self) -> Tensor:
        """(*) log P(low <= X <= high), what a gap adds to the log-likelihood."""
        return mass(self.law, self.low, self.high).log()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.law.sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        return self.law.variance


class CensoredFamily(Family):
    """A family whose gaps lie between two limits; see `missing_above`."""

    def __init__(self, family: Family, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"a gap lies between low={low} and high={high}: wanted low below high")
        self.family, self.size, self.low, self.high = family, family.size, low, high

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events, of which gaps are parts."""
        law: Any = self.family(phi, event_dim)
        assert isinstance(law, Independent)
        return Observed(Censored(law.base_dist, self.low, self.high), event_dim)

    def extra_repr(self) -> str:
        return f"gaps from {self.low:g} to {self.high:g}"


def missing_above(family: Family, limit: float) -> Family:
    """A family of which a gap means a value above the limit: its likelihood is P(X > limit), exactly. phi: that of the
    family.

    >>> missing_above(al.families.normal, 0.0)(torch.zeros(4)).log_prob(torch.tensor([torch.nan] * 2)).exp()
    tensor(0.2500)
    """
    return CensoredFamily(family, limit, math.inf)


def missing_below(family: Family, limit: float) -> Family:
    """A family of which a gap means a value below the limit, such as one under the limit of detection.

    >>> missing_below(al.families.normal, 0.0)(torch.zeros(2)).log_prob(torch.tensor([torch.nan])).exp()
    tensor(0.5000)
    """
    return CensoredFamily(family, -math.inf, limit)


def missing_range(law: Any) -> tuple[Tensor, Tensor] | None:
    """The limits that a gap of each element lies between, (*batch, *event) both; None where no gap says anything.

    >>> law = missing_above(al.families.normal, 2.0)(torch.zeros(4))
    >>> missing_range(law)
    (tensor([2., 2.]), tensor([inf, inf]))
    """
    while isinstance(law, Independent):
        law = law.base_dist
    if isinstance(law, Censored):
        return law.low, law.high
    if not isinstance(law, Columns):
        return None
    found = [missing_range(part) for part in law.parts]
    if all(each is None for each in found):
        return None
    sizes = [part.batch_shape + part.event_shape for part in law.parts]
    ends = [(torch.full(size, -torch.inf), torch.full(size, torch.inf)) for size in sizes]
    low, high = zip(*(each or end for each, end in zip(found, ends, strict=True)), strict=True)
    return law._in_order(low), law._in_order(high)
