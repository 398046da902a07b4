r"""Families as classes; their public names, and what each is for, are in `allegory.families`.

    phi: (*batch, size * C, *rest)  ->  Distribution with batch shape (*batch) and event shape (C, *rest).

Legend: *batch any leading dimensions, C channels or features, k categories, m mixture components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    StudentT,
    TransformedDistribution,
)
from torch.distributions import Normal as NormalLaw

from allegory.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    IndependentBernoulli,
    NegativeBinomial,
    OptimalNormal,
    Poisson,
    ShiftedCategorical,
)
from allegory.positivity import positive
from allegory.runtime.precision import to_float32

__all__ = [
    "BernoulliFamily",
    "CategoricalFamily",
    "ContinuousBernoulliFamily",
    "DiscretizedLogisticFamily",
    "DiscretizedLogisticMixtureFamily",
    "Family",
    "NegativeBinomialFamily",
    "Normal",
    "NormalFixed",
    "NormalLearned",
    "NormalOptimal",
    "PoissonFamily",
    "Standardized",
    "StandardizedCounts",
    "StudentTFamily",
]


class Family(nn.Module):
    """A map from a parameter tensor to a distribution over independent elements.

    Attributes:
        size: parameters per element.
        reads: what they are, where each may be any real number, so that a network that ends in a bounded layer does not
            fit; empty where such an end can be meant, as for a mean.
        codes: whether x is the place of a category, which is no number.

    A new family is a class with `size` and `law`; see `normal`.
    """

    size: int
    reads: str = ""
    codes: bool = False

    def law(self, *parameters: Tensor) -> Distribution:
        """The distribution of the elements, from `size` tensors of shape (*batch, *event)."""
        raise NotImplementedError

    def outputs(self, event_shape: Sequence[int]) -> int:
        """How many numbers it reads for an event (C, *rest), along its first dimension: size * C."""
        return self.size * event_shape[0]

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events, from phi: (*batch, size * C, *rest) with event_dim = 1 + len(rest)."""
        channels = -event_dim
        if phi.dim() < event_dim or phi.shape[channels] % self.size:
            raise ValueError(
                f"{type(self).__name__} reads {self.size} numbers per element, stacked along dimension {channels} "
                f"of the network's output, but that output has shape {tuple(phi.shape)}"
            )
        parameters = to_float32(phi).unflatten(channels, (self.size, -1)).unbind(channels - 1)
        return Independent(self.law(*parameters), event_dim)

    def extra_repr(self) -> str:
        return ""


class Normal(Family):
    """See `families.normal`."""

    size = 2
    reads = "mu and log sigma"

    def law(self, mu: Tensor, s: Tensor) -> Distribution:  # type: ignore[override]
        return NormalLaw(mu, positive(s))


class NormalFixed(Family):
    """See `families.normal_fixed`."""

    size = 1

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def law(self, mu: Tensor) -> Distribution:  # type: ignore[override]
        return NormalLaw(mu, torch.full_like(mu, self.sigma))

    def extra_repr(self) -> str:
        return str(self.sigma)


class NormalLearned(Family):
    """A normal whose sigma is a parameter, not an output of the network: positive(gain * s). Adam moves a parameter by
    lr a step, and so log sigma by gain * lr: in a few hundred steps to wherever the data want it.
    """

    size = 1
    gain = 16.0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(shape))

    def law(self, mu: Tensor) -> Distribution:  # type: ignore[override]
        return NormalLaw(mu, positive(self.gain * self.s).expand_as(mu))


class NormalOptimal(Family):
    """See `families.normal_optimal`."""

    size = 1

    def __init__(self) -> None:
        super().__init__()
        self.variance: Tensor
        self.seen: Tensor
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    def law(self, mu: Tensor) -> Distribution:  # type: ignore[override]
        if self.training:
            return OptimalNormal(mu, self.variance, self.seen)
        return NormalLaw(mu, self.variance.sqrt().expand_as(mu))


class BernoulliFamily(Family):
    """See `families.bernoulli`."""

    size = 1
    codes = True
    reads = "log-odds"

    def law(self, logits: Tensor) -> Distribution:  # type: ignore[override]
        return Bernoulli(logits)

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events."""
        elements = super().forward(phi, event_dim)
        assert isinstance(elements, Independent)
        return IndependentBernoulli(elements.base_dist, event_dim)


class ContinuousBernoulliFamily(Family):
    """See `families.continuous_bernoulli`."""

    size = 1
    reads = "log-odds"

    def law(self, logits: Tensor) -> Distribution:  # type: ignore[override]
        return ContinuousBernoulli(logits=logits)


class CategoricalFamily(Family):
    """See `families.categorical`."""

    codes = True
    reads = "logits"

    def __init__(self, k: int, lowest: int = 0) -> None:
        super().__init__()
        if not hasattr(k, "__index__") or k < 2:
            raise ValueError(f"categorical({k}): wanted at least 2 categories, a whole number")
        self.size, self.lowest = k, lowest

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        logits = to_float32(phi).unflatten(-event_dim, (self.size, -1)).movedim(-event_dim - 1, -1)
        law = ShiftedCategorical(logits, self.lowest) if self.lowest else Categorical(logits=logits)
        return Independent(law, event_dim)

    def extra_repr(self) -> str:
        return f"{self.size}, lowest={self.lowest}" if self.lowest else str(self.size)


class DiscretizedLogisticFamily(Family):
    """See `families.discretized_logistic`."""

    size = 2
    reads = "a location and a log scale"

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def law(self, mu: Tensor, s: Tensor) -> DiscretizedLogistic:  # type: ignore[override]
        half = (self.bins - 1) / 2  # mu = -1 and mu = 1 are the two ends of the range
        return DiscretizedLogistic(half * (1 + mu), half * positive(s), self.bins)

    def extra_repr(self) -> str:
        return f"bins={self.bins}"


class DiscretizedLogisticMixtureFamily(Family):
    """See `families.discretized_logistic_mixture`."""

    reads = "weights, locations and log scales"

    def __init__(self, components: int, bins: int) -> None:
        super().__init__()
        self.component = DiscretizedLogisticFamily(bins)
        self.size, self.components, self.bins = 3 * components, components, bins

    def law(self, *parameters: Tensor) -> Distribution:
        weights, mu, s = torch.stack(parameters, -1).chunk(3, -1)
        # Without an initial spread all components would stay equal.
        spread = torch.linspace(-1, 1, self.components, dtype=mu.dtype, device=mu.device)
        return MixtureSameFamily(Categorical(logits=weights), self.component.law(mu + spread, s))


class StudentTFamily(Family):
    """See `families.student_t`."""

    size = 3
    reads = "a location, a log scale and log degrees of freedom"

    def law(self, mu: Tensor, s: Tensor, nu: Tensor) -> Distribution:  # type: ignore[override]
        return StudentT(2 + positive(nu), mu, positive(s))


class PoissonFamily(Family):
    """See `families.poisson`."""

    size = 1
    reads = "a log rate"

    def __init__(self, bound: float = 1e9) -> None:
        super().__init__()
        self.bound = bound

    def law(self, s: Tensor) -> Distribution:  # type: ignore[override]
        return Poisson(positive(s, self.bound))


class NegativeBinomialFamily(Family):
    """See `families.negative_binomial`."""

    size = 2
    reads = "a log mean and a log dispersion"

    def __init__(self, bound: float = 1e9) -> None:
        super().__init__()
        self.bound = bound

    def law(self, s: Tensor, r: Tensor) -> Distribution:  # type: ignore[override]
        total = positive(r, self.bound)
        return NegativeBinomial(total, logits=positive(s, self.bound).log() - total.log())


class Standardized(Family):
    """`family` for (x - loc) / scale, with its density stated per unit of x; the sigma of a `normal_fixed` is in units
    of x already.
    """

    def __init__(self, family: Family, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.family, self.size, self.reads = family, family.size, family.reads
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        law: Any = self.family(phi, event_dim).base_dist
        return Independent(self._rescale(law), event_dim)

    def _rescale(self, law: Any) -> Distribution:
        if isinstance(law, OptimalNormal):
            return TransformedDistribution(law, AffineTransform(self.loc, self.scale))
        loc = self.loc + self.scale * law.loc
        scale = law.scale if isinstance(self.family, NormalFixed) else self.scale * law.scale
        return StudentT(law.df, loc, scale) if isinstance(law, StudentT) else NormalLaw(loc, scale)


class StandardizedCounts(Family):
    """A `family` of counts whose s is loc + scale * s': the network parameterises the log of the rate in units of its
    own, near 0 at the mean of the data.
    """

    def __init__(self, family: Family, *event_shape: int) -> None:
        super().__init__()
        self.family, self.size, self.reads = family, family.size, family.reads
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(event_shape))
        self.register_buffer("scale", torch.ones(event_shape))

    def law(self, s: Tensor, *more: Tensor) -> Distribution:  # type: ignore[override]
        return self.family.law(self.loc + self.scale * s, *more)
