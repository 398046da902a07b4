r"""Distribution functions, their inverses, and draws, of any law over independent elements.

    F(x) = P(X <= x),      Q(u) = min {x : F(x) >= u}
    Q(F(a-) + u P(a <= X <= b)) ~ p(x | a <= x <= b)     for u uniform in (0, 1), F(a-) = P(X < a)

so that a draw, from the whole law or from a range of it, is a function of a number: the same number, the same draw,
whatever is drawn beside it. A law has

    icdf                   Q itself
    cdf                    Q by Newton's method, of whole numbers by bisection
    finite support         F by summing the masses in order, and Q by searching in it

A mixture, and point masses beside a law, are drawn from as what they are: u chooses the component, and what is left of
it the value. With the incomplete gamma and beta functions Poisson, negative binomial, Student's t and Beta have a cdf:

    Poisson                F(k) = Gamma(k + 1, rate) / Gamma(k + 1)
    negative binomial      F(k) = I_{1 - p}(r, k + 1)
    Student's t            1 - F(t) = I_{nu / (nu + t^2)}(nu / 2, 1 / 2) / 2,   t >= 0
    Beta                   F(x) = I_x(a, b)

I_x(a, b) is the regularised incomplete beta function, by its continued fraction (Press et al. 2007, section 6.4). What
lies above the middle of a law is a difference of P(X > x), not of F, which has no digits left near one. A law that is
symmetric in x or in g(x), a normal, Student's t, a log-normal or an interval, is mirrored there.

Shapes: the law has batch and event (*batch, *event); x, u, a and b broadcast against it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MixtureSameFamily,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    constraints,
)

from allegory.distributions import log_one_minus_exp
from allegory.intervals import Interval, WithPoints, log_tail

__all__ = [
    "betainc", "cdf", "draw", "edge_beyond", "exact_mean", "has_draw", "log_beyond", "log_mass", "over_categories",
    "quantile",
]  # fmt: skip

STEPS = 200  # of Newton's method, at most
TERMS = 100_000  # of the continued fraction, at most; it takes about the root of max(a, b)
FAR = 20.0  # scales from the middle of a law to where it has no mass
ROUNDING = 1e-13  # of a difference of distribution functions near 1
BOTH_TAILS = (Poisson, NegativeBinomial, Beta)  # 1 - F has a form of its own
SYMMETRIC = (Interval, Normal, LogNormal, StudentT)  # about a middle, of x or of g(x)


def cdf(law: Distribution, x: Tensor) -> Tensor:
    """(*batch, *event) P(X_d <= x_d) of each element.

    Args:
        law: over independent elements.
        x: any values; -inf and inf have 0 and 1.

    Raises:
        NotImplementedError: a law of which none of the ways above knows.

    >>> cdf(Poisson(torch.tensor(2.0)), torch.tensor([0.0, 1.5, torch.inf]))
    tensor([0.1353, 0.4060, 1.0000])
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(cdf, x)
    finite = torch.where(x.isinf(), torch.zeros_like(x), x)
    try:
        found = _cdf(law, finite)
    except NotImplementedError:
        found = torch.zeros(())
        for value in _values(law):
            found = found + torch.where(value <= finite, _log_prob(law, value).exp(), 0)
    return torch.where(x.isinf(), (x > 0).to(found), found)


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
    if hasattr(law, "by_column"):
        return law.by_column(quantile, u)
    if isinstance(law, Interval):
        return _interval_quantile(law, u)
    if isinstance(law, Categorical):
        return ((law.probs.cumsum(-1)[..., :-1] < u[..., None]).sum(-1) + getattr(law, "lowest", 0)).to(u)
    if isinstance(law, Normal):
        return law.loc + law.scale * torch.special.ndtri(u)  # torch's own loses the tails, as does its cdf
    try:
        return law.icdf(u)
    except NotImplementedError:
        pass
    try:
        return _search(law, u)
    except NotImplementedError:
        at_most, index, values = torch.zeros(()), torch.zeros((), dtype=torch.long, device=u.device), _values(law)
        for value in values[:-1]:
            at_most = at_most + _log_prob(law, value).exp()
            index = index + (at_most < u)
        return values[index]


def log_mass(law: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """(*batch, *event) log P(low_d <= X_d <= high_d) of each element, both edges included, with all digits of a small
    probability.

    Args:
        law: over independent elements.
        low, high: the edges; -inf and inf where there are none.

    Raises:
        NotImplementedError: as `cdf`.

    >>> log_mass(Normal(torch.tensor(0.0), 1.0), torch.tensor(20.0), torch.tensor(torch.inf))
    tensor(-203.9172)
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(log_mass, low, high)
    return _log_within(law, low, high).to(_dtype(law, low, high))


def log_beyond(law: Distribution, limit: Tensor, above: bool = True) -> Tensor:
    """(*batch, *event) log P(X_d > limit_d) of each element, or log P(X_d < limit_d), with all digits of a small
    probability, and its gradient.

    Args:
        law: over independent elements.
        limit: -inf and inf where there is none.
        above: whether it is the probability above.

    Raises:
        NotImplementedError: as `cdf`.

    >>> log_beyond(Normal(torch.tensor(0.0), 1.0), torch.tensor([0.0, 10.0]))
    tensor([ -0.6931, -53.2313])
    >>> log_beyond(Poisson(torch.tensor(2.0)), torch.tensor(1.0), above=False)          # P(X = 0)
    tensor(-2.)
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(lambda part, edge: log_beyond(part, edge, above), limit)
    finite, sign = torch.where(limit.isinf(), 0.0, limit), 1 if above else -1
    found = _log_beyond(law, finite, sign)
    return found.masked_fill(limit == -sign * torch.inf, 0.0).masked_fill(limit == sign * torch.inf, -torch.inf)


def edge_beyond(law: Any, limit: Tensor, above: bool = True) -> Tensor:
    """(*event) where a range, both ends included, has to begin to hold the values above a limit alone; or to end, to
    hold those below it.

    >>> edge_beyond(Poisson(torch.tensor(2.0)), torch.tensor(3.0))
    tensor(3.5000)
    """
    law, sign = _elements(law), 1 if above else -1
    while isinstance(law, WithPoints):
        law = law.law
    if isinstance(law, MixtureSameFamily):
        return edge_beyond(law.component_distribution, limit[..., None], above)[..., 0]
    finite = torch.where(limit.isinf(), 0.0, limit)
    if isinstance(law, Interval):
        edge = law.edge_beyond(finite, sign)
    elif law.support.is_discrete:
        edge = sign * ((sign * finite).floor() + 0.5)
    else:
        edge = torch.nextafter(finite, torch.full_like(finite, sign * torch.inf))
    return torch.where(limit.isinf(), limit, edge)


def draw(law: Any, u: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """(*batch, *event) a draw of each element, from its law within [low, high]; a function of u.

    Args:
        law: over independent elements.
        u: uniform in (0, 1), of the shape of the result.
        low, high: the edges; none by default. A range without any mass gives an arbitrary value.

    Raises:
        NotImplementedError: as `cdf`.

    >>> draw(Poisson(torch.tensor(2.0)), torch.tensor([0.1, 0.5, 0.9]), low=torch.tensor(3.0), high=torch.tensor(4.0))
    tensor([3., 3., 4.])
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(draw, u, low, high)
    if isinstance(law, WithPoints | MixtureSameFamily):
        return _draw_component(law, u, low, high)
    if low is None or high is None:
        return _supported(law, quantile(law, u))
    if isinstance(law, SYMMETRIC):
        return _draw_standard(law, u, low, high)
    if _is_listed(law):
        values = _values(law)
        ends = _log_listed(law, values, low, high).softmax(-1).cumsum(-1)
        return values[(ends[..., :-1] < u[..., None]).sum(-1)]
    below = _below(law, low.double())
    within = below + u * (cdf(law, high.double()) - below).clamp(min=0)
    x = quantile(law, within.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2))
    return _supported(law, torch.minimum(torch.maximum(x, low), high))  # rounding may lead outside


def has_draw(law: Distribution) -> bool:
    """Whether `draw` knows a way.

    >>> has_draw(Poisson(torch.tensor(2.0))), has_draw(torch.distributions.VonMises(0.0, 1.0))
    (True, False)
    """
    try:
        draw(law, torch.full(law.batch_shape + law.event_shape, 0.5))
    except NotImplementedError:
        return False
    return True


def exact_mean(law: Distribution) -> Tensor:
    """(*batch, *event) the mean of each element; NaN where it is not in closed form, or there is none, as of
    categories.

    Args:
        law: over independent elements.

    >>> law = al.families.columns([al.families.poisson, al.families.categorical(3)])(torch.zeros(4))
    >>> exact_mean(law)
    tensor([1., nan])
    """
    beyond = getattr(getattr(law, "base_dist", law), "beyond", False)
    if beyond:  # what is missing is not as the rest
        return torch.full(law.batch_shape + law.event_shape, torch.nan)
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(exact_mean)
    if isinstance(law, WithPoints):
        weights = law.log_weights.exp()
        return (weights[..., :-1] * law.values).sum(-1) + weights[..., -1] * exact_mean(law.law)
    if isinstance(law, MixtureSameFamily):
        return (law.mixture_distribution.probs * exact_mean(law.component_distribution)).sum(-1)
    if isinstance(law, Interval):
        far = (law.loc - law.low > FAR * law.scale) & (law.high - law.loc > FAR * law.scale)
        exact = far & (law.scale > law.step / 2) & torch.tensor(not law.log and law.law != "student_t")
        return torch.where(exact, law.loc, torch.nan)
    try:
        return law.logits[..., 0] * torch.nan if isinstance(law, Categorical) else law.mean
    except NotImplementedError:
        return torch.full(law.batch_shape, torch.nan)


def over_categories(law: Distribution) -> Tensor:
    """(*event) which elements are categories: they may be in an order, but are no numbers.

    Args:
        law: over independent elements.

    >>> over_categories(al.families.columns([al.families.poisson, al.families.categorical(3)])(torch.zeros(4)))
    tensor([False,  True])
    """
    shape, elements = law.event_shape, _elements(law)
    if not hasattr(elements, "by_column"):
        return torch.full(shape, isinstance(elements, Categorical))
    parts = [over_categories(part).double() for part in elements.parts]
    return elements._in_order(parts).bool()


def _elements(law: Any) -> Any:
    """The law of the elements, of which each is independent."""
    while isinstance(law, Independent) or hasattr(law, "log_missing"):
        law = law.base_dist if isinstance(law, Independent) else law.law
    if law.event_shape and not hasattr(law, "by_column"):
        raise NotImplementedError(f"{type(law).__name__} is not over independent elements")
    if law._validate_args:
        law = copy.copy(law)
        law._validate_args = False  # a search looks beyond the support, too
    return law


def _supported(law: Any, x: Tensor) -> Tensor:
    """x, where the support has ends and rounding led to them, inside of them."""
    return x.clamp(law.support.lower_bound, law.support.upper_bound) if isinstance(law, Beta) else x


def _dtype(law: Any, low: Tensor, high: Tensor) -> torch.dtype:
    while isinstance(law, WithPoints | MixtureSameFamily):
        law = law.law if isinstance(law, WithPoints) else law.component_distribution
    like = law.loc if isinstance(law, Interval) else law.mean
    return torch.promote_types(like.dtype, torch.promote_types(low.dtype, high.dtype))


def _log_within(law: Any, low: Tensor, high: Tensor) -> Tensor:
    """(*batch, *event) log P(low <= X <= high), in float64."""
    if isinstance(law, WithPoints | MixtureSameFamily):
        return _log_sum(_log_components(law, low, high))
    if isinstance(law, SYMMETRIC):
        more, less, _ = _log_tails(law, low, high)
        some = less < more
        share = log_one_minus_exp(torch.where(some, more - less, 1.0))
        return torch.where(some, more + share, -torch.inf)
    if _is_listed(law):
        return _log_sum(_log_listed(law, _values(law), low, high))
    low, high = low.double(), high.double()
    below, upto = _below(law, low), cdf(law, high)
    beyond, over = _above(law, high), _above(law, low.ceil() - 1 if law.support.is_discrete else low)
    upper = below > 0.5
    less, more = torch.where(upper, beyond, below), torch.where(upper, over, upto)
    return _log(torch.where(more - less > ROUNDING * less, more - less, 0.0))


def _log_tails(law: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log P(T > a) and log P(T > b), in float64, of a symmetric law whose mass between a and b is that of a range; and
    where the range is above its middle, else it is mirrored there, so that no tail is a difference from one.
    """
    if isinstance(law, Interval):
        start, end = (law.standard(law.edge_beyond(x.double(), sign)) for x, sign in ((low, -1), (high, 1)))
    else:
        edges = [x.double().clamp(min=0).log() if isinstance(law, LogNormal) else x.double() for x in (low, high)]
        start, end = ((x - law.loc) / law.scale for x in edges)
    above = start > 0
    name, df = _standard(law)
    more, less = (_log_tail(name, t, df) for t in (torch.where(above, start, -end), torch.where(above, end, -start)))
    return more, less, above


def _log_tail(name: str, t: Tensor, df: Tensor | None) -> Tensor:
    """Log P(T > t), also of -inf and inf."""
    found = log_tail(name, t.masked_fill(t.isinf(), 0.0), df)
    return found.masked_fill(t == -torch.inf, 0.0).masked_fill(t == torch.inf, -torch.inf)


def _standard(law: Any) -> tuple[str, Any]:
    """The name of a symmetric law at 0 and of scale 1, and its degrees of freedom."""
    if isinstance(law, Interval):
        return law.law, law.df
    return ("student_t", law.df) if isinstance(law, StudentT) else ("normal", None)


def _standard_quantile(law: Any, u: Tensor) -> Tensor:
    name, df = _standard(law)
    if name == "student_t":
        return quantile(StudentT(torch.as_tensor(df), validate_args=False), u)
    return torch.logit(u) if name == "logistic" else torch.special.ndtri(u)


def _draw_standard(law: Any, u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    more, less, above = _log_tails(law, low, high)
    tail = less.exp() + u * (more.exp() - less.exp())
    t = _standard_quantile(law, tail.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2))
    x = law.loc + law.scale * torch.where(above, -t, t)
    if isinstance(law, Interval):
        first, last = law.edge_beyond(low, -1) + law.step / 2, law.edge_beyond(high, 1) - law.step / 2
        x = torch.minimum(torch.maximum(law._nearest(law._inverse(x)), first), last)
    elif isinstance(law, LogNormal):
        x = x.exp()
    return torch.minimum(torch.maximum(x, low), high)  # rounding may lead outside


def _is_listed(law: Any) -> bool:
    """Whether its masses are summed, since it has no distribution function."""
    return type(law).cdf is Distribution.cdf and not isinstance(law, BOTH_TAILS)


def _log_listed(law: Any, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(*batch, V) the log-masses of all values, -inf outside of the range."""
    parts = [
        torch.where((low <= value) & (value <= high), _log_prob(law, value).double(), -torch.inf) for value in values
    ]
    return torch.stack(parts, -1)


def _log_beyond(law: Any, limit: Tensor, sign: int) -> Tensor:
    if isinstance(law, WithPoints):
        points = torch.where(sign * (law.values - limit[..., None]) > 0, law.log_weights[..., :-1], -torch.inf)
        rest = law.log_weights[..., -1] + log_beyond(law.law, limit, sign > 0)
        points = points.expand(*rest.shape, -1)
        return _log_sum(torch.cat([points, rest[..., None]], -1))
    if isinstance(law, MixtureSameFamily):
        weights: Any = law.mixture_distribution
        return _log_sum(weights.logits + log_beyond(law.component_distribution, limit[..., None], sign > 0))
    if isinstance(law, Interval):
        return law.log_beyond(limit, sign)
    if isinstance(law, Normal | LogNormal | StudentT):
        y = limit.clamp(min=0).log() if isinstance(law, LogNormal) else limit
        name, df = _standard(law)
        return _log_tail(name, sign * (y - law.loc) / law.scale, df)
    if isinstance(law, BOTH_TAILS):
        found = _above(law, limit.double()) if sign > 0 else _below(law, limit.double())
        return _log(found).to(_dtype(law, limit, limit))
    if law.support.is_discrete:
        limit = limit.floor() + 1 if sign > 0 else limit.ceil() - 1
    ends = (limit, torch.full_like(limit, torch.inf))
    return log_mass(law, *ends) if sign > 0 else log_mass(law, -ends[1], limit)


def _log(p: Tensor) -> Tensor:
    """Log p, with a gradient also where p is 0."""
    return torch.where(p > 0, torch.where(p > 0, p, 1.0).log(), -torch.inf)


def _log_sum(parts: Tensor) -> Tensor:
    """Log of a sum of exponentials, with a gradient also where all are -inf."""
    none = parts.isneginf().all(-1)
    return torch.where(none[..., None], 0.0, parts).logsumexp(-1).masked_fill(none, -torch.inf)


def _below(law: Any, x: Tensor) -> Tensor:
    """P(X < x)."""
    return cdf(law, x.ceil() - 1 if law.support.is_discrete else x)


def _above(law: Any, x: Tensor) -> Tensor:
    """P(X > x), with all digits where it is known how."""
    if not isinstance(law, BOTH_TAILS):
        return 1 - cdf(law, x)
    finite = torch.where(x.isinf(), torch.zeros_like(x), x)
    if isinstance(law, Beta):
        found = betainc(law.concentration0, law.concentration1, 1 - finite.clamp(0, 1))
    else:
        k = finite.clamp(min=0).floor() + 1
        if isinstance(law, Poisson):
            found = torch.special.gammainc(k, law.rate.double())
        else:
            found = betainc(k, law.total_count, torch.sigmoid(law.logits.double()))
        found = found.masked_fill(x < 0, 1)
    return torch.where(x.isinf(), (x < 0).to(found), found)


def _log_components(law: Any, low: Tensor | None, high: Tensor | None) -> Tensor:
    """(*batch, n) the log-probability of each component together with the range; of points, then of the law beside
    them.
    """
    if isinstance(law, WithPoints):
        weights = law.log_weights
        if low is None or high is None:
            return weights
        inside = (law.values >= low[..., None]) & (law.values <= high[..., None])
        rest = weights[..., -1:] + _log_within(law.law, low, high)[..., None]
        points = torch.where(inside, weights[..., :-1], -torch.inf).to(rest)
        return torch.cat([points.expand(*rest.shape[:-1], -1), rest], -1)
    weights = law.mixture_distribution.logits
    if low is None or high is None:
        return weights
    return weights + _log_within(law.component_distribution, low[..., None], high[..., None])


def _draw_component(law: Any, u: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    parts = _log_components(law, low, high).softmax(-1)
    ends = parts.cumsum(-1)
    u = u * ends[..., -1]
    k = (ends[..., :-1] < u[..., None]).sum(-1, keepdim=True)
    ends, parts = (part.expand(*k.shape[:-1], part.shape[-1]) for part in (ends - parts, parts))
    left = ((u[..., None] - ends.gather(-1, k)) / parts.gather(-1, k)).nan_to_num(0.5)
    left = left.clamp(torch.finfo(u.dtype).eps / 4, 1 - torch.finfo(u.dtype).eps / 2)
    if isinstance(law, WithPoints):
        rest, n = draw(law.law, left[..., 0], low, high), len(law.values)
        return torch.where(k[..., 0] < n, law.values[k[..., 0].clamp(max=n - 1)].to(rest), rest)
    edges = [None if edge is None else edge[..., None] for edge in (low, high)]
    return draw(law.component_distribution, left.expand(*left.shape[:-1], parts.shape[-1]), *edges).gather(-1, k)[
        ..., 0
    ]


def _interval_quantile(law: Interval, u: Tensor) -> Tensor:
    edge = law._inverse(law.loc + law.scale * _standard_quantile(law, u)) - law.step / 2
    return law._nearest(law.origin + ((edge - law.origin) / law.step).ceil() * law.step)


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


def _log_prob(law: Any, value: Tensor) -> Tensor:
    return law.log_prob(value.expand(law.batch_shape))


def _cdf(law: Any, x: Tensor) -> Tensor:
    if isinstance(law, WithPoints):
        weights = law.log_weights.exp()
        return (weights[..., :-1] * (law.values <= x[..., None])).sum(-1) + weights[..., -1] * cdf(law.law, x)
    if isinstance(law, Interval):
        steps = (x - law.origin) / law.step
        on_grid = law.origin + (steps + 1e-3).floor() * law.step
        return law.cdf(law._nearest(on_grid)).masked_fill(on_grid < law.low - law.step / 4, 0.0)
    if isinstance(law, MixtureSameFamily):
        parts = cdf(law.component_distribution, x.unsqueeze(-1))
        return (law.mixture_distribution.probs * parts).sum(-1)
    if isinstance(law, Poisson | NegativeBinomial):
        k = x.clamp(min=0).floor().double() + 1
        if isinstance(law, Poisson):
            found = torch.special.gammaincc(k, law.rate.double())
        else:
            found = betainc(law.total_count, k, torch.sigmoid(-law.logits))
        return found.masked_fill(x < 0, 0).to(torch.promote_types(law.mean.dtype, x.dtype))
    if isinstance(law, StudentT):
        return _student_cdf((x - law.loc) / law.scale, law.df)
    if isinstance(law, Beta):
        return betainc(law.concentration1, law.concentration0, x.clamp(0, 1))
    if isinstance(law, Normal):
        return torch.special.log_ndtr((x - law.loc) / law.scale).exp()
    return law.cdf(x)


def _search(law: Any, u: Tensor) -> Tensor:
    """Q(u), by bisection, within an interval that is doubled until it holds it."""
    whole = law.support.is_discrete
    u, _ = torch.broadcast_tensors(u.clamp(max=1 - torch.finfo(u.dtype).eps), u.new_zeros(()).expand(law.batch_shape))
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
