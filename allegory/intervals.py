r"""Intervals: the likelihood of numbers that were rounded.

A density has no upper bound on numbers that come from a grid: it grows without limit as it narrows around the grid's
points, and its nats are those of the file. What was observed of a number x of resolution delta is that it lies in an
interval, and the likelihood of that is a mass, at most 1, whatever the unit:

    P(x) = F(b) - F(a),      a, b = (g(x -+ delta/2) - mu) / sigma,      g(x) = x, or log(x - low + delta)

with F the distribution function of a normal, a logistic or Student's t. At an edge of the range, `low` or `high`, the
interval reaches to infinity: the masses of the grid sum to one, and a value at an edge may stand for all beyond it.
With c = (a + b) / 2 and h = (b - a) / 2,

    logistic     log P = log sigmoid(b) + log sigmoid(-a) + log(1 - e^(-2h)), exact in the tails
    others       a narrow interval by Gauss-Legendre quadrature of the density, P = h sum_i w_i f(c + h t_i), a wide one
                 by the difference of the two tails

Student's t has the tail (y = nu / (nu + t^2), by y' = y e^(-2 s / nu) in the incomplete beta function)

    P(T > t) = y^(nu/2) / (nu B(nu/2, 1/2)) int_0^inf e^(-s) (1 - y e^(-2 s / nu))^(-1/2) ds,

an integral for Gauss-Laguerre. Beside the intervals there may be points: values that come again and again,

    P(x) = pi_i [x = v_i] + pi_0 P_0(x).

Where some numbers were rounded further, most weights to whole kilograms and a few to 0.1, the points are what they were
rounded to, and share the law: with probability r, x is the one that is nearest to what was measured,

    P(x) = r [x = v_i] (F(e_i) - F(e_{i-1})) + (1 - r) P_0(x),      e_i = (v_i + v_{i+1}) / 2, e_0 = -inf, e_n = inf

and the neighbours of a value that is often met are likely, too (heaping; Heitjan & Rubin 1990). Some of the v_i may be
points besides.

Shapes: parameters and x broadcast against each other; everything here is elementwise. n points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, constraints
from torch.distributions.utils import broadcast_all

from allegory.distributions import log_one_minus_exp
from allegory.gaps import placeholder

__all__ = [
    "Grid", "Interval", "IntervalMixture", "RoundedFurther", "WithPoints", "at_points", "log_tail", "ordinal_logits",
]  # fmt: skip

NARROW, STEEP = 0.5, 2.0  # h, and |c| h, up to which the density is integrated
SMALLEST = 1e-12  # difference of the logarithms of two tails
FAR = 100.0  # from where on the tail of a normal is a series
NEAR = 2.0  # |t| up to which the tail of Student's t is a half less the density's integral from 0
LAWS = ("logistic", "normal", "student_t")


def _gauss(diagonal: Sequence[float], beside: Sequence[float], total: float) -> tuple[list[float], list[float]]:
    """Nodes and weights of a Gauss quadrature, from the recurrence of its polynomials (Golub & Welsch 1969).

    Args:
        diagonal, beside: of the Jacobi matrix.
        total: the integral of the weight function.
    """
    off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off + off.T)
    return nodes.tolist(), (total * vectors[0].square()).tolist()


LEGENDRE = _gauss([0.0] * 24, [k / math.sqrt(4 * k * k - 1) for k in range(1, 24)], 2.0)
SHORT_LEGENDRE = _gauss([0.0] * 12, [k / math.sqrt(4 * k * k - 1) for k in range(1, 12)], 2.0)
LAGUERRE = _gauss([2.0 * k + 1 for k in range(24)], [float(k) for k in range(1, 24)], 1.0)


def _grid_room(x: Tensor, origin: Tensor, step: Tensor) -> Tensor:
    """How far a number may be off the grid, in steps, that is on it but for the rounding of float32."""
    digits = 4 * torch.finfo(torch.float32).eps * (x.double().abs() + origin.abs()) / step
    return torch.clamp(1e-3 + digits, max=0.5)


class Grid(constraints.Constraint):
    """Whole multiples of a step from an origin, from low to high; -inf and inf where there is no edge.

    Args:
        step, low, high, origin: tensors that broadcast against what is checked.
    """

    is_discrete = True

    def __init__(self, step: Tensor, low: Tensor, high: Tensor, origin: Tensor) -> None:
        self.step, self.low, self.high, self.origin = step, low, high, origin

    def check(self, value: Tensor) -> Tensor:
        """Whether values are on it, up to the rounding of float32, from which those of a table may have come."""
        x, step = value.double(), self.step.double()
        steps = (x - self.origin) / step
        near = (steps - steps.round()).abs() <= _grid_room(x, self.origin, step)
        return near & (x >= self.low - step / 4) & (x <= self.high + step / 4)

    def __str__(self) -> str:
        step, low, high = (part.flatten()[0].item() for part in (self.step, self.low, self.high))
        return f"multiples of {step:g} from {low:g} to {high:g}"


class Interval(Distribution):
    """The mass of the interval of width `step` around x.

    Args:
        loc, scale: (*) of the law of g(x); scale > 0.
        step: (*) the resolution of x.
        low, high: (*) the edges of its range, -inf and inf where there are none.
        law: "logistic", "normal" or "student_t".
        df: (*) degrees of freedom of Student's t, above 0.
        log: whether g(x) = log(x - low + step), for numbers from `low` up whose spread grows with them.
        origin: (*) a value of the grid.

    >>> law = Interval(torch.tensor(0.3), torch.tensor(2.0), step=torch.tensor(0.5))
    >>> round(law.log_prob(torch.arange(-100, 100, 0.5)).exp().sum().item(), 6)
    1.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        step: Tensor,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        law: str = "logistic",
        df: Tensor | None = None,
        log: bool = False,
        origin: Tensor | float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        low, high, origin = (torch.as_tensor(part).to(step) for part in (low, high, origin))
        self.loc, self.scale, step = broadcast_all(loc, scale, step)
        self.step, self.low, self.high, self.origin = (part.expand_as(step) for part in (step, low, high, origin))
        self.law, self.df, self.log = law, df, log
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Interval:
        loc, scale, step, low, high, origin = (
            part.expand(batch_shape) for part in (self.loc, self.scale, self.step, self.low, self.high, self.origin)
        )
        df = None if self.df is None else self.df.expand(batch_shape)
        return Interval(loc, scale, step, low, high, self.law, df, self.log, origin, validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return Grid(self.step, self.low, self.high, self.origin)

    @property
    def placeholder(self) -> Tensor:
        """A value whose mass is not small."""
        return self._nearest(self._inverse(self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        center, half = self._bounds(value)
        c, h = (center - self.loc) / self.scale, half / self.scale
        if self.law != "logistic":  # whose form has no small difference of large numbers
            c, h = c.double(), h.double()
        first, last = value <= self.low, value >= self.high
        inside = self._log_inside(c, h)
        below = self._log_tail(-(c + h))
        above = self._log_tail(c - h)
        both = torch.zeros_like(inside)
        found = torch.where(first & last, both, torch.where(first, below, torch.where(last, above, inside)))
        return found.to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x), for x of the grid."""
        center, half = self._bounds(value)
        below = torch.exp(self._log_tail(-(center + half - self.loc) / self.scale))
        return below.masked_fill(value >= self.high, 1.0).masked_fill(value < self.low, 0.0)

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The middle and half the width of the interval that g makes of x's."""
        if not self.log:
            return x, self.step / 2
        lower = torch.clamp(x - self.low, min=0) + self.step / 2
        width = torch.log1p(self.step / lower)
        return torch.log(lower) + width / 2, width / 2

    def _inverse(self, g: Tensor) -> Tensor:
        return g if not self.log else torch.exp(g.clamp(max=80.0)) + self.low - self.step

    def _log_inside(self, c: Tensor, h: Tensor) -> Tensor:
        if self.law == "logistic":
            return F.logsigmoid(c + h) + F.logsigmoid(h - c) + log_one_minus_exp(2 * h)
        slope = c.abs() if self.df is None else (self.df + 1) * c.abs() / (self.df + c.square())
        narrow = (h <= (NARROW if self.df is None else NARROW * c.abs().clamp(min=1))) & (slope * h <= STEEP)
        by_quadrature = self._quadrature(torch.where(narrow, c, 0.0), torch.where(narrow, h, NARROW))
        lower_half, h = torch.where(narrow, 0.0, -c.abs()), torch.where(narrow, 1.0, h)  # there nothing cancels
        upper, lower = self._log_tail(-(lower_half + h)), self._log_tail(h - lower_half)
        difference = upper + log_one_minus_exp((upper - lower).clamp(min=SMALLEST))
        return torch.where(narrow, by_quadrature, difference)

    def _quadrature(self, c: Tensor, h: Tensor) -> Tensor:
        """Log int f over (c - h, c + h), a narrow interval."""
        nodes, weights = (torch.tensor(part, dtype=torch.float64).to(c) for part in SHORT_LEGENDRE)
        t = c[..., None] + h[..., None] * nodes
        df = None if self.df is None else self.df[..., None]
        return torch.logsumexp(_log_density(self.law, t, df) + weights.log(), -1) + h.log()

    def _log_tail(self, t: Tensor) -> Tensor:
        """Log P(T > t)."""
        return log_tail(self.law, t, self.df)

    def log_between(self, lower: Tensor, upper: Tensor) -> Tensor:
        """(*) log P(lower < X < upper), of edges between values of any grid, -inf and inf among them; lower < upper."""
        a, b = self.standard(lower), self.standard(upper)
        if self.law == "logistic":
            return F.logsigmoid(b) + F.logsigmoid(-a) + log_one_minus_exp(b - a)
        a, b = a.double(), b.double()
        first, last = a == -math.inf, b == math.inf
        start = torch.where(first, torch.where(last, 0.0, b - 1), a)  # finite, for the branch that is not taken
        end = torch.where(last, start + 1, b)
        inside, below, above = (
            self._log_inside((start + end) / 2, (end - start) / 2),
            self._log_tail(-end),
            self._log_tail(start),
        )
        found = torch.where(first, torch.where(last, 0.0, below), torch.where(last, above, inside))
        return found.to(self.loc.dtype)

    def edge_beyond(self, limit: Tensor, sign: int) -> Tensor:
        """The edge between the values up to a limit and those above it, of a sign of 1, or below it, of -1."""
        room = _grid_room(limit, self.origin, self.step).clamp(max=0.45)  # an edge is none of the values
        steps = sign * (limit.double() - self.origin.double()) / self.step.double()
        edge = self.origin + sign * ((steps + room).floor() + 0.5) * self.step
        return edge.to(torch.promote_types(limit.dtype, self.loc.dtype))

    def standard(self, edge: Tensor) -> Tensor:
        """T where X is at an edge between two values of the grid; -inf and inf where no value is below, or above it."""
        y = torch.log((edge - self.low).clamp(min=0) + self.step) if self.log else edge
        below, above = (edge < self.low) | edge.isneginf(), (edge > self.high) | edge.isposinf()
        t = (torch.where(below | above, self.loc, y) - self.loc) / self.scale
        return t.masked_fill(below, -torch.inf).masked_fill(above, torch.inf)

    def log_beyond(self, limit: Tensor, sign: int) -> Tensor:
        """Log P(X > limit), of a sign of 1, or log P(X < limit), of -1; the limits are finite."""
        t = sign * self.standard(self.edge_beyond(limit, sign))
        finite = t.masked_fill(t.isinf(), 0.0)
        found = self._log_tail(finite if self.law == "logistic" else finite.double()).to(self.loc.dtype)
        return found.masked_fill(t == -torch.inf, 0.0).masked_fill(t == torch.inf, -torch.inf)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            g = self.loc + self.scale * self._standard_draws(shape)
            return self._nearest(self._inverse(g))

    def _nearest(self, x: Tensor) -> Tensor:
        """The values of the grid that are nearest to x."""
        x = self.origin + ((x - self.origin) / self.step).round() * self.step
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def _standard_draws(self, shape: torch.Size) -> Tensor:
        if self.law == "normal":
            return torch.randn(shape).to(self.scale)
        if self.law == "logistic":
            return torch.logit(torch.rand(shape).to(self.scale), eps=1e-7)
        assert self.df is not None
        return torch.distributions.StudentT(self.df.expand(shape), validate_args=False).sample()

    @property
    def mean(self) -> Tensor:
        """Of the law that the intervals are of; where there are edges, within them."""
        middle = self._inverse(self.loc)  # for g = log the median
        return torch.minimum(torch.maximum(middle, self.low), self.high)

    @property
    def variance(self) -> Tensor:
        """Of the law that the intervals are of, in units of g."""
        factor: Any = {"normal": 1.0, "logistic": math.pi**2 / 3}.get(self.law)
        if factor is None:
            assert self.df is not None
            factor = torch.where(self.df > 2, self.df / (self.df - 2), math.inf)
        return factor * self.scale.square()


class IntervalMixture(MixtureSameFamily):
    """A mixture of `Interval` distributions over one grid, its components in the last dimension."""

    def log_prob(self, value: Tensor) -> Tensor:
        log_parts = self.component_distribution.log_prob(value[..., None])
        return (self.mixture_distribution.logits + log_parts).logsumexp(-1)  # which torch's normalises once more

    def log_between(self, lower: Tensor, upper: Tensor) -> Tensor:
        """(*) as of `Interval`."""
        law: Any = self.component_distribution
        parts = law.log_between(lower[..., None], upper[..., None])
        return (self.mixture_distribution.logits + parts).logsumexp(-1)

    @property
    def support(self) -> Any:
        law: Any = self.component_distribution
        return Grid(*(part[..., 0] for part in (law.step, law.low, law.high, law.origin)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> IntervalMixture:
        return super().expand(batch_shape, self._get_checked_instance(IntervalMixture, _instance))

    @property
    def placeholder(self) -> Tensor:
        """A value whose mass is not small."""
        law: Any = self.component_distribution
        return law.placeholder[..., 0]


def _log_density(law: str, t: Tensor, df: Tensor | None) -> Tensor:
    if law == "normal":
        return -0.5 * t.square() - 0.5 * math.log(2 * math.pi)
    assert df is not None
    return _log_student_constant(df) - (df + 1) / 2 * torch.log1p(t.square() / df)


def log_tail(law: str, t: Tensor, df: Tensor | None = None) -> Tensor:
    """Log P(T > t) of a standard law, "logistic", "normal" or "student_t"; all digits of it where it is small.

    >>> log_tail("normal", torch.tensor([0.0, 10.0]))
    tensor([ -0.6931, -53.2313])
    """
    if law == "logistic":
        return F.logsigmoid(-t)
    if law == "normal":
        return _log_normal_tail(t)
    assert df is not None
    return _log_student_tail(*torch.broadcast_tensors(t, df))


def _log_normal_tail(t: Tensor) -> Tensor:
    """Log P(T > t); far out by its asymptotic series, where torch's has no gradient."""
    far = t > FAR
    away = torch.where(far, t, FAR)
    series = -0.5 * away.square() - torch.log(away) - 0.5 * math.log(2 * math.pi) - away.square().reciprocal()
    return torch.where(far, series, torch.special.log_ndtr(-torch.where(far, 0.0, t)))


def _log_student_constant(df: Tensor) -> Tensor:
    """Log of the density of Student's t at 0."""
    return torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(math.pi * df)


def _log_student_tail(t: Tensor, df: Tensor) -> Tensor:
    """Log P(T > t); see the module."""
    far = t.abs() > NEAR
    away = torch.where(far, t.abs(), NEAR)
    y = df / (df + away.square())
    s, weights = (torch.tensor(part, dtype=torch.float64).to(t) for part in LAGUERRE)
    root = -torch.expm1(y.log()[..., None] - 2 * s / df[..., None])
    integral = (weights * root.rsqrt()).sum(-1)
    log_far = df / 2 * y.log() + _log_student_constant(df) - 0.5 * torch.log(df) + integral.log()
    nodes, by = (torch.tensor(part, dtype=torch.float64).to(t) for part in LEGENDRE)
    near = torch.where(far, 0.0, t)
    points = near[..., None] / 2 * (1 + nodes)
    from_zero = near / 2 * (by * torch.exp(_log_density("student_t", points, df[..., None]))).sum(-1)
    return torch.where(far, torch.where(t > 0, log_far, torch.log1p(-torch.exp(log_far))), torch.log(0.5 - from_zero))


def at_points(x: Tensor, values: Tensor) -> Tensor:
    """(*, n) which of n points x is, in the digits of float32, as which points are kept: in float64 0.1 is another
    number.

    >>> at_points(torch.tensor(0.1, dtype=torch.float64), torch.tensor([0.1, 0.2]))
    tensor([ True, False])
    """
    return x.float()[..., None] == values.float()


class WithPoints(Distribution):
    """Point masses beside a law. Where the law has masses, too, they add up; a density has none at a point, and the
    result is then a mass at the points and a density elsewhere.

    Args:
        logits: (*, n + 1) of the n points, and, last, of the law.
        values: (n,) the points.
        law: of batch shape (*).

    >>> law = WithPoints(torch.zeros(2), torch.tensor([0.0]), torch.distributions.Normal(0.0, 1.0))
    >>> law.log_prob(torch.tensor([0.0, 1.0]))          # log 1/2, and log 1/2 + log N(1; 0, 1)
    tensor([-0.6931, -2.1121])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, values: Tensor, law: Distribution) -> None:
        self.logits, self.log_total = logits, logits.logsumexp(-1)
        self.values, self.law = values, law
        super().__init__(law.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WithPoints:
        expanded = self._get_checked_instance(WithPoints, _instance)
        expanded.logits = self.logits.expand((*batch_shape, self.logits.shape[-1]))
        expanded.log_total = self.log_total.expand(batch_shape)
        expanded.values, expanded.law = self.values, self.law.expand(batch_shape)
        Distribution.__init__(expanded, expanded.law.batch_shape, validate_args=False)
        return expanded

    @property
    def log_weights(self) -> Tensor:
        """(*, n + 1) the logarithms of the probabilities of the points, and, last, of the law."""
        return self.logits - self.log_total[..., None]

    @property
    def support(self) -> Any:
        return _PointsOr(self.values, self.law.support)

    @property
    def placeholder(self) -> Tensor:
        """The first point, whose mass is above 0."""
        return self.values[0]

    def log_prob(self, value: Tensor) -> Tensor:
        equal = at_points(value, self.values)
        is_point = equal.any(-1)
        which, logits = torch.broadcast_tensors(equal.int().argmax(-1, keepdim=True), self.logits)
        log_point = logits.gather(-1, which[..., :1])[..., 0] - self.log_total  # of the first, where x is no point
        masses = self._has_masses
        inside = value if masses else torch.where(is_point, placeholder(self.law), value)
        log_rest = self.logits[..., -1] - self.log_total + self.law.log_prob(inside)
        return torch.where(is_point, torch.logaddexp(log_point, log_rest) if masses else log_point, log_rest)

    @property
    def _has_masses(self) -> bool:
        return bool(getattr(self.law.support, "is_discrete", False))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            k = Categorical(logits=self.log_weights, validate_args=False).sample(torch.Size(sample_shape))
            rest = self.law.sample(torch.Size(sample_shape)).to(self.values)
            n = len(self.values)
            return torch.where(k < n, self.values[k.clamp(max=n - 1)], rest)

    @property
    def mean(self) -> Tensor:
        weights = self.log_weights.exp()
        return (weights[..., :-1] * self.values).sum(-1) + weights[..., -1] * self.law.mean

    @property
    def variance(self) -> Tensor:
        weights = self.log_weights.exp()
        square = (weights[..., :-1] * self.values.square()).sum(-1)
        square = square + weights[..., -1] * (self.law.variance + self.law.mean.square())
        return square - self.mean.square()


class RoundedFurther(WithPoints):
    """Numbers of a law of intervals, of which some were rounded further, to the nearest of n values; see the module.

    Args:
        logits: (*, m + 2) of the m points, of rounding further, and, last, of the law; kept as `log_shares`.
        values: (n,) what is rounded to, in order, n >= 2.
        places: (m,) which of the values are points besides.
        law: of intervals, of batch shape (*).

    >>> law = Interval(torch.tensor(10.2), torch.tensor(2.0), step=torch.tensor(1.0))
    >>> heaped = RoundedFurther(torch.zeros(2), torch.tensor([0.0, 5.0, 10.0, 15.0, 20.0]), torch.arange(0), law)
    >>> heaped.log_prob(torch.tensor([9.0, 10.0])).exp()           # one half of 0.11, and of 0.12 + 0.55
    tensor([0.0570, 0.3388])
    """

    def __init__(self, logits: Tensor, values: Tensor, places: Tensor, law: Any) -> None:
        self.log_shares, self.values, self.places = logits.log_softmax(-1), values, places
        self.law: Any = law
        Distribution.__init__(self, law.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RoundedFurther:
        log_shares = self.log_shares.expand((*batch_shape, self.log_shares.shape[-1]))
        return RoundedFurther(log_shares, self.values, self.places, self.law.expand(batch_shape))

    @property
    def edges(self) -> Tensor:
        """(n + 1,) of the cells around the values."""
        ends = self.values.new_tensor([-math.inf, math.inf])
        return torch.cat([ends[:1], (self.values[1:] + self.values[:-1]) / 2, ends[1:]])

    @property
    def log_weights(self) -> Tensor:
        """(*, n + 1) the logarithms of the probabilities of the values, as what is rounded to and as points together,
        and, last, of the law.
        """
        lower, upper = self.edges[:-1], self.edges[1:]
        law = self.law.expand((len(self.values), *self.batch_shape))
        cells = law.log_between(*(edge.view(-1, *[1] * len(self.batch_shape)) for edge in (lower, upper)))
        log_values = cells.movedim(0, -1) + self.log_shares[..., -2:-1]
        if len(self.places):
            at = log_values[..., self.places]
            log_values = log_values.index_copy(
                -1, self.places, torch.logaddexp(at, self.log_shares[..., :-2].expand_as(at))
            )
        last = self.log_shares[..., -1:].expand(*log_values.shape[:-1], 1)
        return torch.cat([log_values, last], -1)

    @property
    def placeholder(self) -> Any:
        """A value whose mass is not small."""
        return placeholder(self.law)

    def log_prob(self, value: Tensor) -> Tensor:
        edges, single = self.edges.to(value), value.float()
        index = (single[..., None] > edges[1:-1].float()).sum(-1)  # not searchsorted, which ONNX has not
        rounded = self.values.float()[index] == single
        cell = self.law.log_between(edges[index], edges[index + 1]) + self.log_shares[..., -2]
        if len(self.places):
            here = index[..., None] == self.places
            which = torch.where(here, self.log_shares[..., :-2], -math.inf)
            cell = torch.logaddexp(cell, torch.where(here.any(-1), which.amax(-1), -math.inf))
        rest = self.law.log_prob(value) + self.log_shares[..., -1]
        return torch.where(rounded, torch.logaddexp(torch.where(rounded, cell, rest), rest), rest)


class _PointsOr(constraints.Constraint):
    def __init__(self, values: Tensor, other: Any) -> None:
        self.values, self.other = values, other

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.other, "is_discrete", False))

    def check(self, value: Tensor) -> Tensor:
        return at_points(value, self.values).any(-1) | self.other.check(value)

    def __str__(self) -> str:
        return f"{len(self.values)} points or {self.other}"


def ordinal_logits(eta: Tensor, cutpoints: Tensor) -> Tensor:
    """(*, k) the log-masses of k ordered categories, P(y <= j) = sigmoid(c_j - eta) (McCullagh 1980).

    Args:
        eta: (*) where the categories lie.
        cutpoints: (*, k - 1) c_1 < ... < c_{k-1}.

    >>> ordinal_logits(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).exp()
    tensor([0.2689, 0.4621, 0.2689])
    """
    upper = cutpoints - eta[..., None]
    gaps = torch.diff(cutpoints, dim=-1)
    middle = F.logsigmoid(upper[..., 1:]) + F.logsigmoid(-upper[..., :-1]) + log_one_minus_exp(gaps)
    first, last = F.logsigmoid(upper[..., :1]), F.logsigmoid(-upper[..., -1:])
    return torch.cat([first, middle.expand(*upper.shape[:-1], -1), last], -1)
