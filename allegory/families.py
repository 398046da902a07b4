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
from collections.abc import Sequence

from torch import Tensor

from allegory.columnar import (
    BetaFamily,
    ColumnsFamily,
    IntervalFamily,
    LogNormalFamily,
    ObservedFamily,
    OrdinalFamily,
    PointsFamily,
    RoundedFamily,
)
from allegory.discrete import OneHotFamily
from allegory.family import (
    BernoulliFamily,
    CategoricalFamily,
    ContinuousBernoulliFamily,
    DiscretizedLogisticFamily,
    DiscretizedLogisticMixtureFamily,
    Family,
    NegativeBinomialFamily,
    Normal,
    NormalFixed,
    NormalLearned,
    NormalOptimal,
    PoissonFamily,
    Standardized,
    StudentTFamily,
)
from allegory.missingness import indicated, missing_above, missing_below, self_masking
from allegory.positivity import inverse_positive, positive
from allegory.trees import TreeFamily, chow_liu_parents

__all__ = [
    "Family",
    "bernoulli",
    "beta",
    "categorical",
    "chow_liu",
    "columns",
    "continuous_bernoulli",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "implied_sigma",
    "indicated",
    "interval",
    "inverse_positive",
    "log_normal",
    "missing_above",
    "missing_below",
    "negative_binomial",
    "normal",
    "normal_fixed",
    "normal_optimal",
    "normal_per_dimension",
    "normal_shared",
    "observed",
    "one_hot",
    "ordinal",
    "poisson",
    "positive",
    "rounded",
    "self_masking",
    "standardized",
    "student_t",
    "tree",
    "with_points",
    "zero_inflated_negative_binomial",
    "zero_inflated_poisson",
]

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


log_normal = LogNormalFamily()
"""Positive numbers that are skewed, such as prices and durations: log x ~ N(mu, sigma^2). phi: mu, s; sigma =
positive(s). A density per unit of x. In `columns` mu and sigma are in units of log x, found in the data. Numbers of a
finite resolution have an `interval` with log=True instead.

>>> log_normal(torch.zeros(1, 2)).log_prob(torch.tensor([[math.e]]))            # log N(1; 0, 1) - 1
tensor([-2.4189])
"""

beta = BetaFamily()
"""Shares between 0 and 1, without the ends, where a density is zero or infinite: those are points, see `with_points`.
phi: m and s, mean = sigmoid(m), a + b = 2 positive(s). A density per unit of x. Shares of a finite resolution, such as
whole per cents, have an `interval` instead, from 0 to 1."""


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


def one_hot(k: int, straight_through: bool = False) -> Family:
    """Categories as unit vectors, a latent that networks can read: D of them, each one of k. phi and z: (*batch, k * D,
    *rest), see `allegory.discrete`. A mass. Train it with `loo` or `vimco`.

    Args:
        k: categories.
        straight_through: whether draws pass on the gradient of their probabilities (Bengio et al. 2013), for any
            objective: a biased gradient of an honest bound.

    >>> law = one_hot(4)(torch.zeros(7, 4 * 3))
    >>> law.event_shape, law.entropy()[0] / 3                   # log 4
    (torch.Size([12]), tensor(1.3863))
    """
    return OneHotFamily(k, straight_through)


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


def interval(
    step: float | Tensor,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    law: str = "logistic",
    components: int = 1,
    log: bool = False,
    origin: float | Tensor = 0.0,
) -> Family:
    """Numbers of a finite resolution: the mass of [x - step / 2, x + step / 2]. It is at most 1, so that there is no
    unbounded maximum, and the same in cents as in euros. See `allegory.intervals`.

    phi: mu and s, of a mixture the weights, the mu and the s of its components; of Student's t nu, too.

    Args:
        step: the resolution, in units of x; or a tensor, one for each element.
        low, high: the edges of the range. The masses there are those of everything beyond.
        law: of which the interval has the mass: "logistic", "normal" or "student_t".
        components: of a mixture of such laws.
        log: whether it is the law of log(x - low + step), for numbers whose spread grows with their size.
        origin: a value of the grid.

    >>> law = interval(0.01, low=0)(torch.zeros(2))
    >>> round(law.log_prob(0.01 * torch.arange(0, 2000)[:, None]).exp().sum().item(), 4)
    1.0
    """
    return IntervalFamily(step, low, high, law, components, log, origin)


def with_points(family: Family, values: Sequence[float]) -> Family:
    """A family, and beside it values that come again and again, each with a mass of its own: a 0, a cap, 40 hours.
    phi: a logit for each value and one for the family, then those of the family. Where the family has masses, the
    result has; beside a density it is a mass at the points and a density elsewhere, and its nats depend on the unit of
    x.

    >>> law = with_points(poisson, [0.0])(torch.zeros(3))          # zero-inflated
    >>> law.log_prob(torch.zeros(1)).exp()                          # 1/2 + 1/2 e^-1
    tensor(0.6839)
    """
    return PointsFamily(family, values)


def rounded(family: Family, values: Sequence[float], points: Sequence[float] = ()) -> Family:
    """Numbers of which some were rounded further than others: most weights to whole kilograms, and a few to 0.1. With
    a probability of its own for each example, x is the nearest of the values to what was measured; else it has the
    family's step. One location and scale are for both, so that what is near a frequent value is likely, too.
    phi: a logit for each point, one of rounding further, and one of the family, then the family's own.

    Args:
        family: of `interval`.
        values: (n,) what is rounded to, in order.
        points: which of the values come again and again besides.

    Source: Heitjan & Rubin 1990, on age heaping.

    >>> law = rounded(interval(1.0), [0.0, 5.0, 10.0])(torch.zeros(4))
    >>> law.log_prob(torch.tensor([[-1.0], [0.0], [1.0]])).exp()
    tensor([0.0976, 0.5845, 0.0976])
    """
    return RoundedFamily(family, values, points)


zero_inflated_poisson = with_points(poisson, [0.0])
"""Counts with more zeros than a Poisson has: pi [x = 0] + (1 - pi) Poisson(x). phi: two logits, then s. A mass."""

zero_inflated_negative_binomial = with_points(negative_binomial, [0.0])
"""Counts with more zeros than a negative binomial has (ZINB). phi: two logits, then s and r. A mass."""


def ordinal(k: int) -> Family:
    """Categories 0, ..., k - 1 in their order: P(x <= j) = sigmoid(c_j - eta), with cutpoints c_1 < ... < c_{k-1} that
    are learned (McCullagh 1980). phi: eta. A mass.

    >>> ordinal(4)(torch.zeros(1)).log_prob(torch.arange(4.0)[:, None]).exp().detach()
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    return OrdinalFamily(k)


def observed(family: Family) -> Family:
    """The family with gaps left out: an element that is NaN adds nothing to log p(x | z). Of any family whose elements
    are independent.

    >>> observed(normal)(torch.zeros(4)).log_prob(torch.tensor([0.0, math.nan]))
    tensor(-0.9189)
    """
    return ObservedFamily(family)


def columns(families: Sequence[Family], names: Sequence[str] | None = None) -> Family:
    """A family for each column of a table: p(x | z) = prod_d p_d(x_d | z), for rows x of D numbers. Gaps, which are
    NaN, are left out. phi: (*batch, size) numbers; the families of one kind are computed together.

    Args:
        families: one for each column.
        names: of the columns, for messages.

    >>> law = columns([normal, categorical(3), interval(1.0, low=0)])(torch.zeros(2 + 3 + 2))
    >>> law.log_prob(torch.tensor([0.0, 2.0, math.nan]))            # log N(0; 0, 1) + log 1/3
    tensor(-2.0176)
    """
    return ColumnsFamily(families, names)


def tree(parents: Sequence[int] | Tensor) -> Family:
    """Elements 0 or 1 that depend on each other along a tree: p(x | z) = prod_d p(x_d | x_pa(d), z), for vectors x. A
    mass. phi: the log-odds where the parent is 0, then those where it is 1. See `allegory.trees`, and `chow_liu`, which
    finds the tree. Gaps it does not take.

    Args:
        parents: (D,) the parent of each element; -1 for none.

    >>> law = tree([-1, 0])(torch.tensor([0.0, -9.0, 0.0, 9.0]))              # x_1 = x_0, nearly always
    >>> law.log_prob(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    tensor([-0.6933, -9.6933])
    """
    return TreeFamily(parents)


def chow_liu(x: Tensor) -> Family:
    """The `tree` of all trees that fits the training data best (Chow & Liu 1968). As the likelihood of an architecture
    with `data=x` the model begins as that tree, at its optimum.

    Args:
        x: (N, D) training data, 0 or 1.

    >>> chow_liu(torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]])).parents
    tensor([-1,  0,  0])
    """
    return TreeFamily(chow_liu_parents(x))


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
