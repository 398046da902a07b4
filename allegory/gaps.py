r"""Gaps: a value that is missing is a NaN in x, and is left out of the likelihood,

    log p(x_observed | z) = sum_{d observed} log p(x_d | z),

which is exact, because the elements are independent given z. It is the likelihood of the data wherever values are
missing at random (Rubin 1976): what decides whether one is missing may depend on what was observed, not on itself.

Shapes: *batch any leading dimensions, *event that of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

__all__ = ["Observed", "log_prob_elements", "placeholder", "takes_gaps"]


class Observed(Independent):
    """An event of independent elements, of which those that are NaN are left out of log p(x).

    Args:
        base_distribution: of batch shape (*batch, *event).
        reinterpreted_batch_ndims: how many dimensions an event has.

    >>> law = Observed(torch.distributions.Normal(torch.zeros(3), 1.0), 1)
    >>> law.log_prob(torch.tensor([0.0, float("nan"), 0.0]))
    tensor(-1.8379)
    """

    takes_gaps = True

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch) log p of what is there."""
        elements = self.log_prob_elements(value)
        return elements.flatten(elements.dim() - self.reinterpreted_batch_ndims).sum(-1)

    def log_prob_elements(self, value: Tensor) -> Tensor:
        """(*batch, *event) log p of each element; where it is missing 0, or what the law knows of that."""
        missing = value.isnan()
        filled = torch.where(missing, placeholder(self.base_dist), value)
        found, known = self.base_dist.log_prob(filled), getattr(self.base_dist, "log_missing", None)
        return found.masked_fill(missing, 0) if known is None else torch.where(missing, known, found)


def placeholder(law: Any) -> Tensor:
    """What is scored in the place of a gap, before it is left out: a value whose log-density is finite."""
    value = getattr(law, "placeholder", None)
    value = getattr(law, "loc", getattr(law, "lowest", 0.0)) if value is None else value
    return torch.as_tensor(value).detach()


def takes_gaps(law: Any) -> bool:
    """Whether gaps have a meaning in what the law scores."""
    return getattr(law, "takes_gaps", False)


def log_prob_elements(law: Distribution, x: Tensor) -> Tensor:
    """(*batch, *event) log p(x_d | z) of each element, nats, 0 where x is NaN.

    Args:
        law: over independent elements.
        x: (*batch, *event).

    Raises:
        ValueError: a law whose elements are not independent.

    >>> law = al.families.columns([al.families.categorical(4), al.families.interval(1.0)])(torch.zeros(6))
    >>> log_prob_elements(law, torch.tensor([2.0, float("nan")]))
    tensor([-1.3863,  0.0000])
    """
    if hasattr(law, "log_prob_elements"):
        return law.log_prob_elements(x)
    n = len(law.event_shape)
    if not (isinstance(law, Independent) and law.reinterpreted_batch_ndims == n and not law.base_dist.event_shape):
        raise ValueError(
            f"{type(law).__name__}: wanted a law over independent elements, torch.distributions.Independent, of which "
            "each has a density of its own"
        )
    return Observed(law.base_dist, n, validate_args=False).log_prob_elements(x)
