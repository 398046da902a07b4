r"""The distributions that torch does not have, or that lose precision there, and its Bernoulli with a clearer error.

A discretised logistic (Salimans et al. 2017, PixelCNN++) gives integers x in {0, ..., n - 1} the mass that a
logistic with distribution function F(v) = sigmoid((v - mu) / s) puts on the bin around each,

    P(x) = F(x + 1/2) - F(x - 1/2),      the first bin reaching down to -inf and the last up to +inf,

so that the n bins sum to one for any n. With b = (x + 1/2 - mu) / s and a = b - 1/s, and since
sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)),

    log P(x) = log sigmoid(b) + log sigmoid(-a) + log(1 - e^(-1/s)),

which loses no precision in the tails. At an edge the missing boundary contributes nothing.

A Bernoulli of log-odds l gives D elements x the log-mass

    log p(x) = sum_d x_d l_d - log(1 + e^l_d) = sum_d x_d l_d - max(l_d, 0) - log prod_d (1 + e^-|l_d|),

and since each factor is at most 2, one logarithm per few dozen of them is enough: it is the logarithm that
takes the time. A factor is rounded by half an epsilon, and so is its logarithm, in nats.

A continuous Bernoulli (Loaiza-Ganem & Cunningham 2019) of log-odds l has on [0, 1] the density

    p(x) = e^(l x) l / (e^l - 1),      log p(x) = l (x - 1/2) - log(sinh(l / 2) / (l / 2)),

which is exact for every l in this form. Its mean is 1 / (1 - e^-l) - 1 / l.

Shapes: parameters and x broadcast against each other; everything here is elementwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Distribution, Independent, Normal, Transform, constraints
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson as TorchPoisson
from torch.distributions.kl import register_kl
from torch.distributions.utils import broadcast_all

from allegory.runtime import processes
from allegory.support import check_support

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "IndependentBernoulli",
    "NegativeBinomial",
    "NormalMixture",
    "OptimalNormal",
    "Poisson",
    "ShiftedCategorical",
    "bernoulli_log_mass",
    "log_one_minus_exp",
    "map_tensors",
    "tempered",
]

SERIES = 0.02  # u below which log(1 - e^-u) is a series; what it leaves out is u^6 / 181440


def map_tensors(law: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A distribution, or a tuple of them, in which change(t) takes the place of every tensor t that it holds, be it in
    a base distribution, a component or a transform; the given one stays as it is.

    >>> law = map_tensors(Independent(Normal(torch.zeros(3), torch.ones(3)), 1), lambda t: t + 1)
    >>> law.mean, law.stddev
    (tensor([1., 1., 1.]), tensor([2., 2., 2.]))
    """
    if isinstance(law, Tensor):
        return change(law)
    if type(law) in (tuple, list):
        return type(law)(map_tensors(part, change) for part in law)
    if not isinstance(law, Distribution | Transform):
        return law
    changed = copy.copy(law)
    vars(changed).update({name: map_tensors(part, change) for name, part in vars(law).items()})
    return changed


def tempered(law: Distribution, temperature: float) -> Distribution:
    """The law with its standard deviations multiplied by `temperature`, for a mixture those of its components; for
    sampling. At 0 it is the mean, or one of the components' means.

    Args:
        law: normal, or a `NormalMixture`; anything at temperature 1.
        temperature: 0 or more; below 1 samples are more typical, and less varied.

    Raises:
        ValueError: a negative temperature, or one other than 1 for a law that is not normal.

    >>> tempered(Normal(1.0, 2.0), 0.5).stddev
    tensor(1.)
    """
    if temperature == 1:
        return law
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: wanted 0 or more")
    if isinstance(law, NormalMixture):
        return NormalMixture(law.log_weights, law.loc, law.scale * temperature)
    if isinstance(law, Independent):
        return Independent(tempered(law.base_dist, temperature), law.reinterpreted_batch_ndims, validate_args=False)
    if not isinstance(law, Normal):
        raise ValueError(f"temperature={temperature}: wanted 1, since {type(law).__name__} is not normal")
    return Normal(law.loc, law.scale * temperature, validate_args=False)


class Bernoulli(TorchBernoulli):
    """torch's Bernoulli; its error for a grey value names the alternatives.

    Args:
        logits: (*) log-odds of a one.

    >>> Bernoulli(logits=torch.zeros(2)).log_prob(torch.tensor([0.0, 0.5]))
    Traceback (most recent call last):
    ValueError: x: 1 of 2 values are outside the support of Bernoulli, 0 or 1; the first is 0.5 in row 1. \
A Bernoulli is not a density of grey values: use continuous_bernoulli for values in [0, 1], \
discretized_logistic for 0..255, or binarise the data.
    """

    advice = (
        "A Bernoulli is not a density of grey values: use continuous_bernoulli for values in [0, 1], "
        "discretized_logistic for 0..255, or binarise the data."
    )

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        return Bernoulli(self.logits.expand(batch_shape), validate_args=False)

    def _validate_sample(self, value: Tensor) -> None:
        check_support(self, value)
        super()._validate_sample(value)


class IndependentBernoulli(Independent):
    """An event of independent Bernoulli elements. Compiled, without gradients, its log_prob computes few logarithms.

    Args:
        base_distribution: a Bernoulli of batch shape (*batch, *event).
        reinterpreted_batch_ndims: how many dimensions an event has.

    >>> law = IndependentBernoulli(Bernoulli(logits=torch.zeros(3, 2)), 1)
    >>> law.log_prob(torch.ones(2))
    tensor([-1.3863, -1.3863, -1.3863])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        n = self.reinterpreted_batch_ndims
        if not n or not torch.compiler.is_compiling() or torch.is_grad_enabled():
            return super().log_prob(value)  # in eager mode, or with a backward pass, fewer logarithms are no gain
        logits, x = broadcast_all(self.base_dist.logits, value)
        return bernoulli_log_mass(logits.flatten(-n), x.flatten(-n))


def log_one_minus_exp(u: Tensor) -> Tensor:
    """Log(1 - e^-u) of u > 0. Small ones by the series: for expm1 torch's compiler writes exp(x) - 1, whose digits are
    lost there, and of a u below 1e-8 it takes the logarithm of 0.

    >>> log_one_minus_exp(torch.tensor([1e-9, 1.0]))
    tensor([-20.7233,  -0.4587])
    """
    small = u < SERIES
    near = torch.where(small, u, SERIES)
    square = near.square()
    series = near.log() - near / 2 + square / 24 - square.square() / 2880
    return torch.where(small, series, torch.log(-torch.expm1(-u.clamp(min=SERIES))))


def bernoulli_log_mass(logits: Tensor, x: Tensor, group: int = 32) -> Tensor:
    """(*batch) log p(x), from log-odds and x (*batch, D), with one logarithm per `group` of elements.

    >>> bernoulli_log_mass(torch.zeros(100), torch.ones(100)) / 100
    tensor(-0.6931)
    """
    even = logits.shape[-1] // group * group
    factors, rest = (torch.exp(-part.abs()) + 1 for part in (logits[..., :even], logits[..., even:]))
    normalizer = factors.unflatten(-1, (-1, group)).prod(-1).log().sum(-1) + rest.log().sum(-1)
    return (x * logits - logits.relu()).sum(-1) - normalizer


class ContinuousBernoulli(Distribution):
    """The density e^(l x) l / (e^l - 1) on [0, 1]. torch's own clamps its parameter, and beyond log-odds of 12 is no
    longer a density.

    Args:
        logits: (*) log-odds l.

    >>> x = torch.linspace(0, 1, 10_001)
    >>> round(torch.trapezoid(ContinuousBernoulli(torch.tensor(30.0)).log_prob(x).exp(), x).item(), 4)
    1.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        return self.logits * (x - 0.5) - self._log_sinhc()

    def _log_sinhc(self) -> Tensor:
        """log(sinh(l / 2) / (l / 2))."""
        a = self.logits.abs() / 2
        small = a < 0.1
        large = a.masked_fill(small, 1)
        exact = large + torch.log1p(-torch.exp(-2 * large)) - (2 * large).log()
        return torch.where(small, a.square() / 6 - a**4 / 180, exact)

    def entropy(self) -> Tensor:
        return self._log_sinhc() - self.logits * (self.mean - 0.5)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def icdf(self, value: Tensor) -> Tensor:
        """(*) the x with P(X <= x) = u."""
        u = torch.where(self.logits < 0, 1 - value, value)  # P(X <= x) of the mirror image
        a = self.logits.abs()
        small = a < 1e-3
        large = a.masked_fill(small, 1)
        # P(X <= x) = expm1(a x) / expm1(a) for l = a > 0, inverted.
        x = torch.where(small, u + a * u * (1 - u) / 2, 1 + torch.log(u + (1 - u) * torch.exp(-large)) / large)
        return torch.where(self.logits < 0, 1 - x, x).clamp(0, 1)

    has_rsample = True

    def cdf(self, value: Tensor) -> Tensor:
        """(*) P(X <= x) of each element."""
        x = torch.where(self.logits < 0, 1 - value, value).clamp(0, 1)
        a = self.logits.abs()
        small = a < 1e-3
        large = a.masked_fill(small, 1)
        found = torch.exp(large * (x - 1)) * torch.expm1(-large * x) / torch.expm1(-large)
        found = torch.where(small, x - a * x * (1 - x) / 2, found)
        return torch.where(self.logits < 0, 1 - found, found)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        small = self.logits.abs() < 0.1
        l1 = self.logits.masked_fill(small, 1)
        series = 0.5 + self.logits / 12 - self.logits**3 / 720
        return torch.where(small, series, -1 / torch.expm1(-l1) - 1 / l1)

    @property
    def variance(self) -> Tensor:
        small = self.logits.abs() < 0.2
        l1 = self.logits.abs().masked_fill(small, 1)
        series = 1 / 12 - self.logits**2 / 240 + self.logits**4 / 6048
        return torch.where(small, series, 1 / l1.square() - torch.exp(-l1) / torch.expm1(-l1).square())


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _kl_continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    return (p.logits - q.logits) * (p.mean - 0.5) - p._log_sinhc() + q._log_sinhc()


class Poisson(TorchPoisson):
    """torch's Poisson, its log-mass in float64: for a large count it is a small difference of large numbers.

    >>> round(Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6)).item(), 4)     # -log(2 pi 1e6) / 2
    -7.8267
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        rate, x = self.rate.double(), value.double()
        return (torch.xlogy(x, rate) - rate - torch.lgamma(1 + x)).to(self.rate.dtype)


class NegativeBinomial(TorchNegativeBinomial):
    """torch's negative binomial, its log-density in float64: with a large `total_count` it is a small
    difference of large logarithms.

    >>> law = NegativeBinomial(torch.tensor(1e5), logits=torch.tensor(-8.5))
    >>> round(law.log_prob(torch.arange(200.0)).exp().sum().item(), 4)
    1.0
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, logits, x = self.total_count.double(), self.logits.double(), value.double()
        log_p = torch.lgamma(n + x) - torch.lgamma(1 + x) - torch.lgamma(n)
        return (log_p + n * F.logsigmoid(-logits) + x * F.logsigmoid(logits)).to(self.logits.dtype)


class ShiftedCategorical(Categorical):
    """torch's Categorical over the whole numbers from `lowest` on.

    Args:
        logits: (*, k) of the categories lowest, ..., lowest + k - 1.
        lowest: the first of them.

    >>> law = ShiftedCategorical(torch.zeros(5), lowest=-2)
    >>> law.log_prob(torch.tensor([-2.0, 2.0]))
    tensor([-1.6094, -1.6094])
    """

    def __init__(self, logits: Tensor, lowest: int, validate_args: bool | None = None) -> None:
        self.lowest = lowest
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ShiftedCategorical:
        logits = self.logits.expand((*batch_shape, self.logits.shape[-1]))
        return ShiftedCategorical(logits, self.lowest, validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.lowest, self.lowest + self.logits.shape[-1] - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        index = (value - self.lowest).long().unsqueeze(-1)
        index, logits = torch.broadcast_tensors(index, self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)) + self.lowest

    @property
    def mode(self) -> Tensor:
        """The likeliest value, (*batch)."""
        return super().mode + self.lowest

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """(k, *batch) its values, the lowest first; as of torch."""
        return super().enumerate_support(expand) + self.lowest


class DiscretizedLogistic(Distribution):
    """A logistic distribution discretised into the bins 0, ..., bins - 1; the edge bins take the tails.

    Args:
        loc: (*) location mu, in bins.
        scale: (*) scale s > 0, in bins.
        bins: how many values x can take; 256 for 8-bit images.

    >>> law = DiscretizedLogistic(torch.tensor(3.2), torch.tensor(1.5), bins=8)
    >>> round(law.log_prob(torch.arange(8.0)).exp().sum().item(), 6)
    1.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, bins: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.bins = bins
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.bins, validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.bins - 1)

    @property
    def placeholder(self) -> Tensor:
        """A value that has some mass, for a gap."""
        return self.loc.round().clamp(0, self.bins - 1)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        b = (x + 0.5 - self.loc) / self.scale
        a = (x - 0.5 - self.loc) / self.scale
        first, last = x <= 0, x >= self.bins - 1
        width = log_one_minus_exp(1 / self.scale)
        return (
            F.logsigmoid(b).masked_fill(last, 0)
            + F.logsigmoid(-a).masked_fill(first, 0)
            + width.expand_as(b).masked_fill(first | last, 0)
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape))).to(self.loc)
            u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
            return (self.loc + self.scale * torch.logit(u)).round().clamp(0, self.bins - 1)

    def cdf(self, value: Tensor) -> Tensor:
        """(*) P(X <= x) of each element."""
        inside = torch.sigmoid((value.floor() + 0.5 - self.loc) / self.scale)
        return inside.masked_fill(value < 0, 0).masked_fill(value >= self.bins - 1, 1)

    def icdf(self, value: Tensor) -> Tensor:
        """(*) the smallest x with P(X <= x) >= u."""
        return (self.loc + self.scale * torch.logit(value) - 0.5).ceil().clamp(0, self.bins - 1)

    def _survival(self, j: int) -> Tensor:
        """P(x >= j)."""
        return torch.sigmoid((self.loc - j + 0.5) / self.scale)

    @property
    def mean(self) -> Tensor:
        if torch.compiler.is_compiling():  # in a graph a sum of one operation, in eager mode one of little memory
            j = torch.arange(1, self.bins, dtype=self.loc.dtype, device=self.loc.device)
            return torch.sigmoid((self.loc[..., None] - j + 0.5) / self.scale[..., None]).sum(-1)
        return sum((self._survival(j) for j in range(1, self.bins)), torch.zeros_like(self.loc))

    @property
    def variance(self) -> Tensor:
        square = sum(((2 * j - 1) * self._survival(j) for j in range(1, self.bins)), torch.zeros_like(self.loc))
        return square - self.mean.square()


class NormalMixture(Distribution):
    """sum_k w_k N(z; mu_k, diag sigma_k^2). Its log-density takes two matrix products, not K passes:

        log N(z; mu_k, sigma_k) = -1/2 z^2 . sigma_k^-2 + z . mu_k sigma_k^-2 + a constant of k.

    Args:
        logits: (K,) log w_k, up to a constant.
        loc, scale: (K, *event) mu_k and sigma_k.

    >>> law = NormalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
    >>> law.mean
    tensor([0.])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights = torch.log_softmax(logits, 0)
        self.loc, self.scale = loc, scale
        super().__init__(event_shape=loc.shape[1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalMixture:
        if tuple(batch_shape):
            raise NotImplementedError("a mixture is one distribution, without a batch")
        return self

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, z: Tensor) -> Tensor:
        # The squares below cancel. In float64, and near 0, the result has full float32 precision.
        middle = self.loc.mean(0).detach().double()
        mu = (self.loc.double() - middle).flatten(1)
        precision = self.scale.double().flatten(1).square().reciprocal()
        constant = self.log_weights - 0.5 * ((mu.square() * precision).sum(1) + (2 * math.pi / precision).log().sum(1))
        v = (z.double() - middle).flatten(z.dim() - len(self.event_shape))
        log_p = (constant + v @ (mu * precision).T - 0.5 * (v.square() @ precision.T)).logsumexp(-1)
        return log_p.to(z.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            k = torch.multinomial(self.log_weights.exp(), math.prod(sample_shape), replacement=True)
            return torch.normal(self.loc[k], self.scale[k]).view(*sample_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        return torch.tensordot(self.log_weights.exp(), self.loc, 1)

    @property
    def variance(self) -> Tensor:
        square = torch.tensordot(self.log_weights.exp(), self.loc.square() + self.scale.square(), 1)
        return square - self.mean.square()


class OptimalNormal(Normal):
    """N(mu, sigma^2) with a single sigma, in training the maximum likelihood value of the batch.

    sigma-VAE (Rybkin, Daniilidis & Levine 2021): sigma^2 = mean (x - mu)^2 over the batch. Since sigma is at its
    optimum, the gradient of log p with respect to mu is the same whether or not one differentiates through it. With a
    sigma fitted to the x it scores, log p is not a likelihood, so each call also moves `variance` towards that
    sigma^2, and the family `normal_optimal` uses that running value, a constant, in eval mode.

    Args:
        mu: (*) means.
        variance: () the running sigma^2, changed in place by `log_prob`.
        seen: () the number of batches so far, counted by `log_prob`: at first `variance` is their mean.
        momentum: the weight of a new value later on.
    """

    def __init__(self, mu: Tensor, variance: Tensor, seen: Tensor, momentum: float = 0.01) -> None:
        super().__init__(mu, variance.sqrt().expand_as(mu), validate_args=False)
        self.running, self.seen, self.momentum = variance, seen, momentum

    def log_prob(self, x: Tensor) -> Tensor:
        variance = processes.global_mean((x - self.loc).detach().square().flatten()).squeeze().clamp(min=1e-6)
        self.seen += 1
        self.running.lerp_(variance.to(self.running), (1 / self.seen).clamp(min=self.momentum))
        return Normal(self.loc, variance.sqrt(), validate_args=False).log_prob(x)
