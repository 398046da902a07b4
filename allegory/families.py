r"""Families: the maps from a network's output to a distribution.

A family reads `size` numbers for each element of the event. They are stacked along the first event dimension,
so that the same family serves vectors and images:

    phi: (*batch, size * C, *rest)  ->  Distribution with batch shape (*batch) and event shape (C, *rest).

The elements are independent given phi, so log-densities, entropies and KL divergences are sums over the event, in
nats. A number that has to be positive is positive(s), see `allegory.positivity`: exp(s) near s = 0, within (1 / bound,
bound). For sigma the bound is 1,000: data are standardised and priors have unit scale, so a sigma of 1/1000 already
claims a precision of a thousandth of the spread and gains at most 6.9 nats per element. Below that a density does not
describe the data but the grid on which they were stored, and its likelihood grows without bound; above, exp overflows.

Legend: *batch any leading dimensions, C channels or features, k categories, m mixture components.
"""

from __future__ import annotations

import math
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
from allegory.positivity import inverse_positive, positive
from allegory.runtime.precision import to_float32

__all__ = [
    "Family",
    "bernoulli",
    "categorical",
    "continuous_bernoulli",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "implied_sigma",
    "inverse_positive",
    "negative_binomial",
    "normal",
    "normal_fixed",
    "normal_optimal",
    "normal_per_dimension",
    "normal_shared",
    "poisson",
    "positive",
    "standardized",
    "student_t",
]


class Family(nn.Module):
    """A map from a parameter tensor to a distribution over independent elements.

    Attributes:
        size: parameters per element.
        reads: what they are, where each may be any real number, so that a network that ends in a bounded layer does not
            fit; empty where such an end can be meant, as for a mean.

    A new family is a class with `size` and `law`; see `normal`.
    """

    size: int
    reads: str = ""

    def law(self, *parameters: Tensor) -> Distribution:
        """The distribution of the elements, from `size` tensors of shape (*batch, *event)."""
        raise NotImplementedError

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
    size = 2
    reads = "mu and log sigma"

    def law(self, mu: Tensor, s: Tensor) -> Distribution:  # type: ignore[override]
        return NormalLaw(mu, positive(s))


class NormalFixed(Family):
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
    size = 1
    reads = "log-odds"

    def law(self, logits: Tensor) -> Distribution:  # type: ignore[override]
        return Bernoulli(logits)

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events."""
        elements = super().forward(phi, event_dim)
        assert isinstance(elements, Independent)
        return IndependentBernoulli(elements.base_dist, event_dim)


class ContinuousBernoulliFamily(Family):
    size = 1
    reads = "log-odds"

    def law(self, logits: Tensor) -> Distribution:  # type: ignore[override]
        return ContinuousBernoulli(logits=logits)


class CategoricalFamily(Family):
    reads = "logits"

    def __init__(self, k: int, lowest: int = 0) -> None:
        super().__init__()
        if k < 2:
            raise ValueError(f"categorical({k}): wanted at least 2 categories")
        self.size, self.lowest = k, lowest

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        logits = to_float32(phi).unflatten(-event_dim, (self.size, -1)).movedim(-event_dim - 1, -1)
        law = ShiftedCategorical(logits, self.lowest) if self.lowest else Categorical(logits=logits)
        return Independent(law, event_dim)

    def extra_repr(self) -> str:
        return f"{self.size}, lowest={self.lowest}" if self.lowest else str(self.size)


class DiscretizedLogisticFamily(Family):
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
    reads = "weights, locations and log scales"

    def __init__(self, components: int, bins: int) -> None:
        super().__init__()
        self.component = DiscretizedLogisticFamily(bins)
        self.size, self.components = 3 * components, components

    def law(self, *parameters: Tensor) -> Distribution:
        weights, mu, s = torch.stack(parameters, -1).chunk(3, -1)
        # Without an initial spread all components would stay equal.
        spread = torch.linspace(-1, 1, self.components, dtype=mu.dtype, device=mu.device)
        return MixtureSameFamily(Categorical(logits=weights), self.component.law(mu + spread, s))


class StudentTFamily(Family):
    size = 3
    reads = "a location, a log scale and log degrees of freedom"

    def law(self, mu: Tensor, s: Tensor, nu: Tensor) -> Distribution:  # type: ignore[override]
        return StudentT(2 + positive(nu), mu, positive(s))


class PoissonFamily(Family):
    size = 1
    reads = "a log rate"

    def __init__(self, bound: float = 1e9) -> None:
        super().__init__()
        self.bound = bound

    def law(self, s: Tensor) -> Distribution:  # type: ignore[override]
        return Poisson(positive(s, self.bound))


class NegativeBinomialFamily(Family):
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


normal = Normal()
"""Continuous data, or a latent: N(mu, sigma^2), both from the network. Support R; density in nats per unit of x.
phi: mu, then s with sigma = positive(s) in (1e-3, 1e3). The default for standardised data, and for all latents.

>>> law = normal(torch.zeros(4, 6))          # phi: (B, 2 * 3)
>>> law.batch_shape, law.event_shape
(torch.Size([4]), torch.Size([3]))
"""

bernoulli = BernoulliFamily()
"""Two values, 0 and 1; phi: the log-odds. A mass. Grey values are rejected: they have no mass under a Bernoulli.

>>> bernoulli(torch.zeros(1, 2)).log_prob(torch.ones(1, 2))
tensor([-1.3863])
"""

continuous_bernoulli = ContinuousBernoulliFamily()
"""Grey values in [0, 1] (Loaiza-Ganem & Cunningham 2019): the Bernoulli form with the constant that makes it a
density. phi: the log-odds. A density per unit of grey, so it can be above one."""

poisson = PoissonFamily()
"""Counts 0, 1, 2, ... whose variance is their mean. phi: s, rate = positive(s) in (1e-9, 1e9). A mass."""

negative_binomial = NegativeBinomialFamily()
"""Counts 0, 1, 2, ... that vary more than their mean, such as reads of a gene. phi: s and r, mean = positive(s),
variance = mean + mean^2 / positive(r), both in (1e-9, 1e9). A mass."""

student_t = StudentTFamily()
"""Continuous data with outliers. Support R; phi: mu, s, nu; scale = positive(s), degrees of freedom
2 + positive(nu), above 2 so that the variance exists. A density per unit of x."""


def normal_fixed(sigma: float = 1.0) -> Family:
    """N(mu, sigma^2) with a given sigma. phi: mu. For data whose noise is known, in the data's units.

    >>> normal_fixed(0.5)(torch.zeros(1, 3)).stddev
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"normal_fixed({sigma}): wanted a positive, finite sigma")
    return NormalFixed(sigma)


def normal_shared() -> Family:
    """N(mu, sigma^2) with one learned sigma for all elements, in (1e-3, 1e3). phi: mu. For data of one kind of noise,
    such as the pixels of a grey image.
    """
    return NormalLearned()


def normal_per_dimension(*event_shape: int) -> Family:
    """N(mu, sigma^2) with a learned sigma for each element, the same for all x, in (1e-3, 1e3). phi: mu. For
    columns of different noise; with a linear decoder it is factor analysis.
    """
    return NormalLearned(*event_shape)


def normal_optimal() -> Family:
    """N(mu, sigma^2) with a single sigma (sigma-VAE, Rybkin et al. 2021). phi: mu. While training, sigma is the root
    mean square residual of the batch that is scored, the value at which that batch is likeliest. It depends on x, so
    what training maximises is no density, and its bound is too good. In eval mode sigma is the running value, a
    constant, and a reported number is a likelihood. Use it where `normal_shared` learns sigma too slowly.
    """
    return NormalOptimal()


def categorical(k: int, lowest: int = 0) -> Family:
    """Categories 0, ..., k - 1, or from `lowest` on, in no order. phi: k logits per element. A mass. Also for a few
    grey levels.

    >>> categorical(4)(torch.zeros(1, 4 * 3)).log_prob(torch.tensor([[0, 3, 2]]))
    tensor([-4.1589])
    """
    return CategoricalFamily(k, lowest)


def discretized_logistic(bins: int = 256) -> Family:
    """Integers 0, ..., bins - 1 in order, such as 8-bit grey levels. phi: mu and s; the location is mu rescaled from
    [-1, 1] to the range, the scale positive(s) half ranges. A mass, and the edge bins take the tails.
    """
    return DiscretizedLogisticFamily(bins)


def discretized_logistic_mixture(components: int = 5, bins: int = 256) -> Family:
    """A mixture of `components` discretised logistics per element (Salimans et al. 2017), for grey levels with
    several likely values. phi: m weights, m locations, m scales. A mass. Channels are independent given z.
    """
    return DiscretizedLogisticMixtureFamily(components, bins)


def implied_sigma(weight: float = 1.0, beta: float = 1.0, elements: int = 1) -> float:
    """The sigma that a squared error assumes, in the units of the data: what

        loss = weight / elements * sum_i (x_i - mu_i)^2 + beta * KL(q(z | x) || p(z))

    equals -beta ELBO, up to a constant, if p(x | z) is N(mu, sigma^2): sigma^2 = beta * elements / (2 * weight).

    Args:
        weight: of the squared error.
        beta: of the KL, which is summed over the latents; a KL averaged over D of them has beta = 1 / D.
        elements: how many the squared error is averaged over; 1 if it is summed.

    >>> implied_sigma()                             # summed
    0.7071067811865476
    >>> round(implied_sigma(elements=784), 1)       # torch's mse_loss of an image in [0, 1], and a summed KL
    19.8
    """
    if not (weight > 0 and beta > 0 and elements >= 1):
        raise ValueError(f"weight={weight}, beta={beta}, elements={elements}: wanted numbers above zero")
    return math.sqrt(beta * elements / (2 * weight))


def standardized(family: Family, loc: Tensor, scale: Tensor) -> Family:
    """A continuous `family` (normal of any kind, student_t) for data of mean `loc` and spread `scale`: the network
    parameterises (x - loc) / scale, the density is per unit of x, log p(x) = log p((x - loc) / scale) - log scale. The
    sigma of `normal_fixed` stays in units of x.

    Args:
        family: a location-scale family.
        loc, scale: tensors that broadcast against the event.

    >>> law = standardized(normal, torch.tensor([10.0]), torch.tensor([2.0]))(torch.zeros(1, 2))
    >>> law.mean, law.stddev
    (tensor([[10.]]), tensor([[2.]]))
    """
    return Standardized(family, loc, scale)
