r"""Distribution functions and their inverses, of any law over independent elements.

    F(x) = P(X <= x),      Q(u) = min {x : F(x) >= u},      Q(U) ~ p for U uniform in (0, 1)

so that a draw is a function of a number: the same number, the same draw, whatever is drawn beside it. A law has

    icdf                   Q itself
    finite support         F by summing the masses in order, and Q by searching in it
    cdf                    Q by Newton's method, of whole numbers by bisection

and with more of the incomplete gamma and beta functions than torch has, Poisson, negative binomial, Student's t and
Beta have a cdf, too:

    Poisson                F(k) = Gamma(k + 1, rate) / Gamma(k + 1)
    negative binomial      F(k) = I_{1 - p}(r, k + 1)
    Student's t            1 - F(t) = I_{nu / (nu + t^2)}(nu / 2, 1 / 2) / 2,   t >= 0
    Beta                   F(x) = I_x(a, b)

I_x(a, b) is the regularised incomplete beta function, by its continued fraction (Press et al. 2007, section 6.4).

Shapes: the law has batch and event (*batch, *event), x and u broadcast against it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Distribution,
    Independent,
    MixtureSameFamily,
    NegativeBinomial,
    Poisson,
    StudentT,
    constraints,
)

__all__ = ["betainc", "cdf", "has_quantile", "quantile"]

STEPS = 200  # of Newton's method, at most
TERMS = 100_000  # of the continued fraction, at most; it takes about the root of max(a, b)


def cdf(law: Distribution, x: Tensor) -> Tensor:
    """(*batch, *event) P(X_d <= x_d) of each element.

    Args:
        law: over independent elements.
        x: values, of any kind; -inf and inf have 0 and 1.

    Raises:
        NotImplementedError: a law of which none of the ways above knows.

    >>> cdf(Poisson(torch.tensor(2.0)), torch.tensor([0.0, 1.5, 2.0]))
    tensor([0.1353, 0.4060, 0.6767])
    """
    law = _elements(law)
    try:
        return _cdf(law, x)
    except NotImplementedError:
        at_most = torch.zeros(())
        for value in _values(law):
            at_most = at_most + torch.where(value <= x, _mass(law, value), 0)
        return at_most


def quantile(law: Distribution, u: Tensor) -> Tensor:
    """(*batch, *event) min {x : P(X_d <= x) >= u_d} of each element.

    Args:
        law: over independent elements.
        u: probabilities in (0, 1).

    Raises:
        NotImplementedError: as `cdf`.

    >>> quantile(Poisson(torch.tensor(2.0)), torch.tensor([0.1, 0.41, 0.67]))
    tensor([0., 2., 2.])
    """
    law = _elements(law)
    try:
        return law.icdf(u)
    except NotImplementedError:
        pass
    try:
        return _search(law, u)
    except NotImplementedError:
        at_most, index, values = torch.zeros(()), torch.zeros((), dtype=torch.long, device=u.device), _values(law)
        for value in values[:-1]:
            at_most = at_most + _mass(law, value)
            index = index + (at_most < u)
        return values[index]


def has_quantile(law: Distribution) -> bool:
    """Whether `quantile` knows a way.

    >>> has_quantile(Poisson(torch.tensor(2.0))), has_quantile(torch.distributions.VonMises(0.0, 1.0))
    (True, False)
    """
    try:
        elements = _elements(law)
        quantile(elements, torch.full(elements.batch_shape + elements.event_shape, 0.5))
    except NotImplementedError:
        return False
    return True


def _elements(law: Any) -> Any:
    """The law of the elements, of which each is independent."""
    while isinstance(law, Independent):
        law = law.base_dist
    if law.event_shape and type(law).icdf is Distribution.icdf:
        raise NotImplementedError(f"{type(law).__name__} is not over independent elements")
    return law


def _values(law: Any) -> Tensor:
    """(V,) the values that an element can take, in order."""
    support = law.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(support, type(constraints.boolean)):
        low, high = 0, 1
    elif isinstance(support, constraints.integer_interval):
        low, high = int(torch.as_tensor(support.lower_bound).min()), int(torch.as_tensor(support.upper_bound).max())
    else:
        raise NotImplementedError(f"{type(law).__name__} has no cdf, and its values are not finitely many")
    like = law.sample()
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.arange(low, high + 1, dtype=dtype, device=like.device)


def _mass(law: Any, value: Tensor) -> Tensor:
    return law.log_prob(value.expand(law.batch_shape)).exp()


def _cdf(law: Any, x: Tensor) -> Tensor:
    if isinstance(law, MixtureSameFamily):
        parts = cdf(law.component_distribution, x.unsqueeze(-1))
        return (law.mixture_distribution.probs * parts).sum(-1)
    if isinstance(law, Poisson | NegativeBinomial):
        k = x.clamp(min=0).floor().double() + 1
        if isinstance(law, Poisson):
            found = torch.special.gammaincc(k, law.rate.double())
        else:
            found = betainc(law.total_count, k, torch.sigmoid(-law.logits))
        return found.masked_fill(x < 0, 0).to(law.mean.dtype)
    if isinstance(law, StudentT):
        return _student_cdf((x - law.loc) / law.scale, law.df)
    if isinstance(law, Beta):
        return betainc(law.concentration1, law.concentration0, x.clamp(0, 1))
    return law.cdf(x)


def _search(law: Any, u: Tensor) -> Tensor:
    """Q(u), by bisection, within an interval that is doubled until it holds it."""
    whole = law.support.is_discrete
    u = u.clamp(max=1 - torch.finfo(u.dtype).eps).expand(torch.broadcast_shapes(u.shape, law.batch_shape))
    lowest = -1 if whole else max(-1, getattr(law.support, "lower_bound", -1))
    low, high = torch.full_like(u, lowest), torch.full_like(u, 1)
    while bool((above := _cdf(law, low) >= u).any()):
        low = torch.where(above, 2 * low, low)
    while bool((below := _cdf(law, high) < u).any()):
        high = torch.where(below, 2 * high, high)
    return _bisect(law, u, low, high) if whole else _newton(law, u, low, high)


def _bisect(law: Any, u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The smallest whole number x in (low, high] with F(x) >= u."""
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor()
        enough = _cdf(law, middle) >= u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def _newton(law: Any, u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Q(u) in (low, high), by Newton's method, and by halving where it leaves the interval, or every third time."""
    x = (low + high) / 2
    for i in range(1, STEPS):
        excess = _cdf(law, x) - u
        low, high = torch.where(excess >= 0, low, x), torch.where(excess >= 0, x, high)
        step = x - excess / law.log_prob(x).exp()
        halved = ~((step > low) & (step < high)) | torch.tensor(i % 3 == 0)
        before, x = x, torch.where(halved, (low + high) / 2, step)
        if bool(((x - before).abs() <= 4 * torch.finfo(x.dtype).eps * x.abs()).all()):
            break
    return x


def _student_cdf(t: Tensor, df: Tensor) -> Tensor:
    near = t.square() < df  # where 1 - F is no small number
    half, square = torch.full_like(df, 0.5), t.square()
    a, b = torch.where(near, half, df / 2), torch.where(near, df / 2, half)
    found = betainc(a, b, torch.where(near, square, df) / (df + square)) / 2
    above = torch.where(near, 0.5 - found, found)
    return torch.where(t < 0, above, 1 - above)


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """I_x(a, b), the regularised incomplete beta function, elementwise.

    Args:
        a, b: positive.
        x: in [0, 1].

    >>> betainc(torch.tensor(2.0), torch.tensor(3.0), torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.6875, 1.0000])
    """
    dtype = x.dtype
    a, b, x = torch.broadcast_tensors(a.double(), b.double(), x.double())
    mirrored = x > (a + 1) / (a + b + 2)  # where the fraction converges faster
    a, b, x = torch.where(mirrored, b, a), torch.where(mirrored, a, b), torch.where(mirrored, 1 - x, x)
    inside = (x > 0) & (x < 1)
    y = torch.where(inside, x, torch.full_like(x, 0.5))
    front = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) + a * y.log() + b * torch.log1p(-y) - a.log()
    found = torch.where(inside, front.exp() * _beta_fraction(a, b, y), x)
    return torch.where(mirrored, 1 - found, found).clamp(0, 1).to(dtype)


def _beta_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The continued fraction of I_x(a, b), by Lentz's method."""
    tiny = 1e-300

    def nonzero(v: Tensor) -> Tensor:
        return torch.where(v.abs() < tiny, torch.full_like(v, tiny), v)

    c, d = torch.ones_like(x), 1 / nonzero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / nonzero(1 + step * d), nonzero(1 + step / c)
            found = found * c * d
        left = (c * d - 1).abs() > 1e-14
        if not bool(left.any()):
            return found
    return found.masked_fill(left, torch.nan)
