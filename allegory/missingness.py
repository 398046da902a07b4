r"""Gaps that are data: what a missing value, or that it is missing, says.

A gap that is left out of the likelihood is missing at random (`allegory.gaps`). Where it is not, the likelihood is of
what is observed and of s, which values are missing:

    log p(x_o, s | z) = sum_{d observed} [log p_d(x_d | z) + log P(s_d = 0 | x_d, z)]
                      + sum_{d missing} log P(s_d = 1 | z),         P(s_d = 1 | z) = E[P(s_d = 1 | x_d, z) | z]

so that every bound, L_K too, is then of log p(x_o, s): it does not compare with that of a model which leaves gaps out.
Three mechanisms, each a family around that of the values:

    missing_above, missing_below    s = [x > c], a limit that is known: censored data (Tobin 1958). No model of s, no
                                    sampling: a gap has the mass beyond
    self_masking                    P(s = 1 | x) = sigmoid(b (y - c)), b > 0, y = +-x in the column's units: a limit
                                    that is not known, learned (Ipsen, Mattei & Frellsen 2021, not-MIWAE)
    indicated                       P(s = 1 | z), a number of the network: the pattern of gaps as data. New rows have
                                    gaps

Self-masking is censoring at a limit T that is random, P(s = 1 | x) = P(T < x), so that with T in J places the integral
over what is missing is a sum, for each column and whatever the law of its values,

    P(s = 1 | z) = sum_j P(T = t_j) P(X > t_j | z),

where not-MIWAE draws x_m ~ p(x_m | z) and weighs it by p(s | x_o, x_m): the same bound, without the noise of that draw.
The sigmoid is thereby a staircase of steps of an eighth of the column's spread. Whether large or small values are
missing has to be said (the sign): the data alone cannot tell, since x is never seen where it is missing; and how fast
the sigmoid rises they tell only through the shape of the law, so compare with another mechanism before you believe it.

Beyond a limit nothing is ever seen. Where the rest of the row foretells the gap, P(X > c | z) = 1 at any location far
beyond, 2 spreads or 1,000: the likelihood does not say how far, and training drifts. So the family says it. Let m and s
be the mean and the standard deviation of a normal law of the whole column, censored at c (`allegory.marginal`). Then
the location mu and the standard deviation sigma that a network gives are bent where they exceed it by R = 2 spreads,

    mu     ->  t + R s v / (1 + v^4)^(1/4),  v = (mu - t) / (R s),    where mu > t = max(c, m)
    sigma  ->  sigma / (1 + (sigma / R s)^4)^(1/4),

mirrored for small values; in g(x) where the law is of that, and of counts the mean alone. Var mu(z) and E sigma(z)^2
add up to s^2, so that a law that is right is hardly bent. Each law is still a law, and every number is exact.

A value that is recorded *as* the limit, 99 for 99 and more, needs no gap: it is `families.interval(step, high=99)`,
whose edge has the mass of everything beyond.

Shapes: elementwise, (*batch, *event); C columns, J places.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
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
from allegory.family import Family, NormalFixed, StandardizedCounts
from allegory.gaps import Observed, placeholder
from allegory.intervals import Interval, WithPoints
from allegory.positivity import inverse_positive, positive
from allegory.quantiles import edge_beyond, log_beyond, log_mass

__all__ = [
    "BeyondFamily", "Censored", "CensoredFamily", "GapFamily", "GapLaw", "Indicated", "IndicatedFamily", "Limits",
    "SelfMasked", "SelfMaskedFamily", "gap_columns", "gap_odds", "indicated", "log_missing_within", "missing_above",
    "missing_below", "missing_range", "of_what", "self_masking", "warn_of_far", "without_gaps",
]  # fmt: skip

Limits = tuple[Tensor, Tensor]
"""The ends of a range, both included; -inf and inf for none."""

SPACING, WIDEST = 0.125, 4.0  # of the places of a limit that is not known, in spreads
REACH = 2.0  # how many spreads a location is beyond a limit at most, and how wide its law is
UNBOUNDED = 1e30
FAR = 4.0  # spreads beyond a limit, from where on values that are filled in are warned of
LOGISTIC = math.sqrt(3) / math.pi  # the scale of a logistic whose standard deviation is 1


class GapLaw(Distribution):
    """A law of values, and of whether they are missing.

    Args:
        law: of the values, of batch shape (*).

    Attributes:
        beyond: whether what is missing has another law than what is there, given z.
    """

    beyond = True

    arg_constraints = {}  # noqa: RUF012, as torch has it

    def __init__(self, law: Distribution) -> None:
        self.law: Any = law
        super().__init__(law.batch_shape, validate_args=False)

    def of_values(self, law: Any) -> Any:
        """The same of other values, of which the law is given."""
        changed = copy.copy(self)
        changed.law = law
        return changed

    @property
    def support(self) -> Any:
        return self.law.support

    @property
    def placeholder(self) -> Tensor:
        """A value whose density is finite."""
        return placeholder(self.law)

    @property
    def log_missing(self) -> Tensor:
        """(*) log P(s = 1 | z), what a gap adds to the log-likelihood."""
        raise NotImplementedError

    def log_recorded(self, value: Tensor) -> Tensor:
        """(*) log P(s = 0 | x, z), what a value adds by being there."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """(*) log p(x, s = 0 | z)."""
        return self.law.log_prob(value) + self.log_recorded(value)

    def log_hidden(self, value: Tensor) -> Tensor:
        """(*) log p(x, s = 1 | z), of a value that may be missing."""
        return self.law.log_prob(value)

    def log_missing_within(self, low: Tensor, high: Tensor) -> Tensor:
        """(*) log P(s = 1, low <= X <= high | z)."""
        raise NotImplementedError

    def missing_range(self, draw: Callable[[], Tensor], low: Tensor, high: Tensor) -> Limits:
        """(*) the limits that a value lies between which is missing, in any one draw, within low and high."""
        raise NotImplementedError

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values, recorded or not."""
        return self.law.sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """Of all values, recorded or not."""
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        """Of all values, recorded or not."""
        return self.law.variance


class Censored(GapLaw):
    """A law of which a gap says that the value lies beyond a limit, or between two.

    Args:
        law: of the values, of batch shape (*).
        low, high: (*) the limits; -inf and inf where there are none. One alone is not itself beyond: a value that is
            equal to it is recorded.
        side: "above" where there is no high, "below" where there is no low, else "between"; by default as found.

    >>> law = Observed(Censored(torch.distributions.Normal(torch.zeros(2), 1.0), torch.zeros(2), torch.inf), 1)
    >>> law.log_prob(torch.tensor([-1.0, torch.nan])).exp()             # N(-1; 0, 1) / 2
    tensor(0.1210)
    """

    def __init__(self, law: Distribution, low: Tensor | float, high: Tensor | float, side: str | None = None) -> None:
        super().__init__(law)
        self.low, self.high = (torch.as_tensor(edge).expand(law.batch_shape) for edge in (low, high))
        self.side = _side(self.low, self.high) if side is None else side

    def expand(self, batch_shape: Any, _instance: Any = None) -> Censored:
        low, high = (edge.expand(batch_shape) for edge in (self.low, self.high))
        return Censored(self.law.expand(batch_shape), low, high, self.side)

    @property
    def support(self) -> Any:
        return _Recorded(self.law.support, self.low, self.high, self.side)

    @property
    def log_missing(self) -> Tensor:
        """(*) log P(X > low), log P(X < high), or log P(low <= X <= high): what a gap adds to the log-likelihood."""
        if self.side == "between":
            return log_mass(self.law, self.low, self.high)
        above = self.side == "above"
        return log_beyond(self.law, self.low if above else self.high, above)

    def log_recorded(self, value: Tensor) -> Tensor:
        """0: what is recorded is within the limits."""
        return torch.zeros_like(value)

    def log_missing_within(self, low: Tensor, high: Tensor) -> Tensor:
        """(*) log of the mass of both ranges together."""
        return _log_mass(self.law, *self._within(low, high))

    def missing_range(self, draw: Callable[[], Tensor], low: Tensor, high: Tensor) -> Limits:
        """Both ranges together."""
        return self._within(low, high)

    def _within(self, low: Tensor, high: Tensor) -> Limits:
        if self.side == "above":
            return edge_beyond(self.law, self.low).maximum(low), high.expand(self.batch_shape)
        if self.side == "below":
            return low.expand(self.batch_shape), edge_beyond(self.law, self.high, above=False).minimum(high)
        return self.low.maximum(low), self.high.minimum(high)


class SelfMasked(GapLaw):
    """A law of which a value is missing with a probability that rises, or falls, with the value.

    Args:
        law: of the values, of batch shape (*).
        places: (*, J) the limits t_j, in the order in which the probability rises.
        levels: (*, J + 1) the log-odds that a value is missing, before the first limit, after it, ..., after the last;
            not decreasing.
        above: whether it is the large values that are missing.

    >>> levels, normal = torch.tensor([[-1.0, 1.0]]), torch.distributions.Normal(torch.zeros(1), 1.0)
    >>> law = SelfMasked(normal, places=torch.zeros(1, 1), levels=levels)
    >>> law.log_missing.exp(), torch.sigmoid(levels).mean()
    (tensor([0.5000]), tensor(0.5000))
    """

    def __init__(self, law: Distribution, places: Tensor, levels: Tensor, above: bool = True) -> None:
        super().__init__(law)
        self.places, self.levels = (part.expand(*law.batch_shape, part.shape[-1]) for part in (places, levels))
        self.above = above

    def expand(self, batch_shape: Any, _instance: Any = None) -> SelfMasked:
        return SelfMasked(self.law.expand(batch_shape), self.places, self.levels, self.above)

    @property
    def _limits(self) -> Tensor:
        """(J, *) the limits, before the others of which the law is."""
        return self.places.movedim(-1, 0)

    @property
    def _log_weights(self) -> Tensor:
        """(J + 1, *) log P(T = t_j): of a limit below all places, then at each."""
        levels = self.levels.movedim(-1, 0)
        a, b = levels[1:], levels[:-1]
        weights = F.logsigmoid(a) + F.logsigmoid(-b) + log_one_minus_exp((a - b).clamp(min=1e-12))
        return torch.cat([F.logsigmoid(levels[:1]), weights])

    @property
    def _edges(self) -> Tensor:
        """(J + 1, *) where a range begins, or ends, that holds what is beyond each limit alone."""
        none = torch.full_like(self._limits[:1], -math.inf if self.above else math.inf)
        return edge_beyond(self.law, torch.cat([none, self._limits]), self.above)

    @property
    def log_missing(self) -> Tensor:
        """(*) log E[P(s = 1 | x)]."""
        beyond = log_beyond(self.law, self._limits, self.above)
        return (self._log_weights + torch.cat([torch.zeros_like(beyond[:1]), beyond])).logsumexp(0)

    def log_missing_within(self, low: Tensor, high: Tensor) -> Tensor:
        """(*) log E[P(s = 1 | x) [low <= x <= high]]."""
        return self._log_parts(low, high).logsumexp(0)

    def _log_parts(self, low: Tensor, high: Tensor) -> Tensor:
        """(J + 1, *) log P(T = t_j, X beyond it, low <= X <= high)."""
        return self._log_weights + _log_mass(self.law, *self._within(self._edges, low, high))

    def _within(self, edges: Tensor, low: Tensor, high: Tensor) -> Limits:
        shape = torch.broadcast_shapes(edges.shape, low.shape, high.shape)
        if self.above:
            return edges.maximum(low).expand(shape), high.expand(shape)
        return low.expand(shape), edges.minimum(high).expand(shape)

    def _odds(self, value: Tensor) -> Tensor:
        """(*) the log-odds that a value is missing."""
        sign = 1 if self.above else -1
        passed = (sign * value[..., None] > sign * self.places).sum(-1, keepdim=True)
        return self.levels.expand(*passed.shape[:-1], -1).gather(-1, passed)[..., 0]

    def log_recorded(self, value: Tensor) -> Tensor:
        """(*) log P(s = 0 | x)."""
        return F.logsigmoid(-self._odds(value))

    def log_hidden(self, value: Tensor) -> Tensor:
        """(*) log p(x, s = 1 | z)."""
        return self.law.log_prob(value) + F.logsigmoid(self._odds(value))

    def missing_range(self, draw: Callable[[], Tensor], low: Tensor, high: Tensor) -> Limits:
        """The limits, of which T is drawn given that X is beyond it, and within low and high."""
        ends = torch.softmax(self._log_parts(low, high).double(), 0).cumsum(0)
        j = (ends[:-1] < draw()).sum(0, keepdim=True)
        edges = self._edges
        return self._within(edges.expand(len(edges), *j.shape[1:]).gather(0, j)[0], low, high)


class Indicated(GapLaw):
    """A law of values that are missing with a probability of their own, given z.

    Args:
        law: of the values, of batch shape (*).
        logits: (*) the log-odds that a value is missing.

    >>> law = Indicated(torch.distributions.Normal(torch.zeros(3), 1.0), torch.tensor([-200.0, 0.0, 200.0]))
    >>> law.sample().isnan()[[0, 2]], law.log_missing.exp()
    (tensor([False,  True]), tensor([0.0000, 0.5000, 1.0000]))
    """

    beyond = False

    def __init__(self, law: Distribution, logits: Tensor) -> None:
        super().__init__(law)
        self.logits = logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> Indicated:
        return Indicated(self.law.expand(batch_shape), self.logits.expand(batch_shape))

    @property
    def log_missing(self) -> Tensor:
        """(*) log P(s = 1 | z)."""
        return F.logsigmoid(self.logits)

    def log_recorded(self, value: Tensor) -> Tensor:
        """(*) log P(s = 0 | z)."""
        return F.logsigmoid(-self.logits)

    def log_missing_within(self, low: Tensor, high: Tensor) -> Tensor:
        """(*) log P(s = 1 | z) P(low <= X <= high | z)."""
        return self.log_missing + _log_mass(self.law, low, high)

    def missing_range(self, draw: Callable[[], Tensor], low: Tensor, high: Tensor) -> Limits:
        """What is missing has the law of the rest."""
        return low.expand(self.batch_shape), high.expand(self.batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values, and NaN where they are missing."""
        with torch.no_grad():
            drawn = self.law.sample(sample_shape)
            drawn = drawn if drawn.is_floating_point() else drawn.to(self.logits)
            return drawn.masked_fill(torch.rand_like(drawn) < torch.sigmoid(self.logits), math.nan)


class _Recorded(constraints.Constraint):
    """What a value can be that was recorded, where those beyond a limit are not."""

    def __init__(self, other: Any, low: Tensor, high: Tensor, side: str) -> None:
        self.other, self.low, self.high, self.side = other, low, high, side

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.other, "is_discrete", False))

    def check(self, value: Tensor) -> Tensor:
        found = self.other.check(value)
        if self.side == "between":
            return found
        hidden = (value.float() > self.low.float()) & (value.float() < self.high.float())  # float32 had its digits
        return found & ~(hidden & (self.low.isfinite() | self.high.isfinite()))

    def __str__(self) -> str:
        edge = (self.low if self.side == "above" else self.high).flatten()[0].item()
        return str(self.other) if self.side == "between" else f"which none {self.side} {edge:g} is in, but missing"


def _side(low: Tensor, high: Tensor) -> str:
    if bool((high == math.inf).all()):
        return "above"
    return "below" if bool((low == -math.inf).all()) else "between"


class GapFamily(Family):
    """A family of values, and of whether they are missing. Those of columns are merged into one, see `merged`.

    Attributes:
        family: of the values.
    """

    family: Any

    def _law(self, phi: Tensor, event_dim: int) -> Any:
        """The law of the values' elements."""
        law: Any = self.family(phi, event_dim)
        assert isinstance(law, Independent)
        return law.base_dist

    def merged(self, family: Any, others: Sequence[Any]) -> Family:
        """One family of several columns: of values by `family`, and otherwise as `others`."""
        raise NotImplementedError


class BeyondFamily(GapFamily):
    """A family whose gaps are beyond what is seen; its location and its scale are bounded by those of all values.

    Attributes:
        reach: the bounds, in spreads of the column; None for none, as in runs from before there were bounds.
        turn: (C,) the further of the limit and the middle of the column, in units of x, or of g(x).
        room: (C,) reach spreads, below 0 where small values are missing; UNBOUNDED before data were seen.
        above: whether it is the large values that are missing.
    """

    turn: Tensor
    room: Tensor
    above: bool

    def _set_reach(self, reach: float | None, columns: Tensor) -> None:
        if reach is not None and not 0 < reach < math.inf:
            raise ValueError(f"reach={reach}: wanted a number above 0, how many spreads a location is beyond a limit")
        self.reach = reach
        self.fixed = any(isinstance(part, NormalFixed) for part in self.family.modules())
        if reach is not None:
            self.register_buffer("turn", torch.zeros_like(columns))
            self.register_buffer("room", torch.full_like(columns, UNBOUNDED))

    @property
    def values(self) -> Any:
        """The family of what is no point, which has the units."""
        found: Any = self.family
        while not hasattr(found, "loc") and hasattr(found, "family"):
            found = found.family
        return found

    def transform(self, x: Tensor) -> Tensor:
        """g(x), of which the location is."""
        return self.values.transform(x) if hasattr(self.values, "transform") else x

    def limit(self) -> Tensor | None:
        """(C,) what gaps are beyond, in units of x; None where it is not known."""
        return None

    @torch.no_grad()
    def hold(self, limit: Tensor, middle: Tensor, spread: Tensor) -> None:
        """Bounds the location and the scale, by a normal law of all values of the column.

        Args:
            limit, middle, spread: (C,) where what is missing begins; the law's mean and standard deviation. In units of
                x, or of g(x).
        """
        if self.reach is not None:
            self.turn.copy_(limit.maximum(middle) if self.above else limit.minimum(middle))
            self.room.copy_((1 if self.above else -1) * self.reach * spread)

    def _law(self, phi: Tensor, event_dim: int) -> Any:
        law = super()._law(phi, event_dim)
        return law if self.reach is None else _held(law, self.turn, self.room, self.fixed)

    @torch.no_grad()
    def spreads_beyond(self, x: Tensor) -> Tensor:
        """(*, C) how many spreads of the column values lie beyond its limit, or its middle where that is further; by
        the spread of what is seen where there is no other. 0 where there is neither.
        """
        if self.reach is not None and bool((self.room.abs() < UNBOUNDED).all()):
            return (self.transform(x) - self.turn) / self.room * self.reach
        units, limit = self.values, self.limit()
        if isinstance(units, StandardizedCounts) or not hasattr(units, "scale"):
            return torch.zeros_like(x)
        start = units.loc if limit is None else self.transform(limit)
        return (self.transform(x) - start) / units.scale * (1 if self.above else -1)


class CensoredFamily(BeyondFamily):
    """A family whose gaps lie beyond a limit, or between two; see `missing_above`."""

    def __init__(self, family: Family, low: Any = None, high: Any = None, reach: float | None = None) -> None:
        super().__init__()
        _check_numbers(family, "missing_above or missing_below")
        edges = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
        self.family, self.size, self.asked = family, family.size, edges
        self.low: Tensor
        self.high: Tensor
        for name, edge in edges.items():
            self.register_buffer(name, torch.as_tensor(edge, dtype=torch.get_default_dtype()).clone())
        if not self.low.is_meta and not bool((self.low < self.high).all()):
            raise ValueError(f"a gap lies between low={low} and high={high}: wanted low below high")
        self.side = "between" if self.low.is_meta else _side(self.low, self.high)
        self.above = self.side == "above"
        self._set_reach(None if self.side == "between" else reach, self.low)

    def limit(self) -> Tensor | None:
        """(C,) what gaps are beyond, in units of x; None of two."""
        return None if self.side == "between" else self.low if self.above else self.high

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events, of which gaps are parts."""
        return Observed(Censored(self._law(phi, event_dim), self.low, self.high, self.side), event_dim)

    def merged(self, family: Any, others: Sequence[Any]) -> Family:
        """With the limits of all."""
        low, high = (torch.stack([getattr(other, edge).reshape(()) for other in others]) for edge in ("low", "high"))
        return CensoredFamily(family, low, high, others[0].reach)

    def extra_repr(self) -> str:
        low, high = (edge.flatten()[0].item() for edge in (self.low, self.high))
        return f"gaps from {low:g} to {high:g}"


class SelfMaskedFamily(BeyondFamily):
    """A family whose values are missing with a probability that is learned; see `self_masking`.

    Attributes:
        location, slope: c and b, in the units of `center` and `unit`.
        places: (J, C) where a limit may be, in units of x.
    """

    def __init__(self, family: Family, above: bool = True, columns: int = 1, reach: float | None = None) -> None:
        super().__init__()
        _check_numbers(family, "self_masking")
        self.family, self.size, self.above = family, family.size, above
        grid = torch.arange(-WIDEST, WIDEST + SPACING / 2, SPACING)
        self.grid: Tensor
        self.places: Tensor
        self.register_buffer("grid", torch.cat([grid[:1] - SPACING, grid]) + SPACING / 2, persistent=False)
        self.register_buffer("places", (grid if above else grid.flip(0))[:, None].repeat(1, columns))
        self.location = nn.Parameter(torch.zeros(columns))
        self.raw_slope = nn.Parameter(inverse_positive(torch.ones(columns)))
        self._set_reach(reach, torch.zeros(columns))

    @property
    def slope(self) -> Tensor:
        """(C,) b > 0, per spread of the column."""
        return positive(self.raw_slope)

    @property
    def levels(self) -> Tensor:
        """(J + 1, C) the log-odds of a gap, by between which places x is."""
        return self.slope * (self.grid[:, None] - self.location)

    @torch.no_grad()
    def place(self, loc: Tensor, scale: Tensor, inverse: Callable[[Tensor], Tensor] | None = None) -> None:
        """Puts the places of the limit.

        Args:
            loc, scale: (C,) the units of the column, or of g(x).
            inverse: of g.
        """
        steps = torch.linspace(-WIDEST, WIDEST, len(self.places)).to(loc)
        steps = (steps if self.above else -steps)[:, None]
        places = loc + scale * steps
        self.places.copy_(places if inverse is None else inverse(places))

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events, of which gaps are parts."""
        if event_dim != 1:
            raise ValueError("self_masking is of the columns of a table; wanted families.columns, and x of (N, D)")
        return Observed(SelfMasked(self._law(phi, 1), self.places.T, self.levels.T, self.above), 1)

    def merged(self, family: Any, others: Sequence[Any]) -> Family:
        """With a sigmoid for each."""
        return SelfMaskedFamily(family, self.above, len(others), self.reach)

    def extra_repr(self) -> str:
        return "gaps the likelier the " + ("larger" if self.above else "smaller")


class IndicatedFamily(GapFamily):
    """A family whose values are missing with a probability that the network gives; see `indicated`."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        _check_none_yet(family, "indicated")
        self.family, self.size = family, family.size + 1
        self.reads = f"the log-odds of a gap, then {getattr(family, 'reads', 'what the family reads')}"

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over events, of which gaps are parts."""
        channels = -event_dim
        if phi.shape[channels] % self.size:
            raise ValueError(f"indicated reads {self.size} numbers per element, but got {tuple(phi.shape)}")
        elements = phi.shape[channels] // self.size
        logits, rest = phi.split([elements, phi.shape[channels] - elements], channels)
        return Observed(Indicated(self._law(rest, event_dim), logits), event_dim)

    def merged(self, family: Any, others: Sequence[Any]) -> Family:
        """With log-odds for each."""
        return IndicatedFamily(family)


def missing_above(family: Family, limit: float) -> Family:
    """A family of which a gap means a value above the limit: its likelihood is P(X > limit), exactly. phi: that of the
    family. Bounds are of log p(x_observed, s), s which values are missing.

    Raises:
        ValueError: later, on data: a value above the limit, that should be missing.

    >>> missing_above(al.families.normal, 0.0)(torch.zeros(4)).log_prob(torch.tensor([torch.nan] * 2)).exp()
    tensor(0.2500)
    """
    return CensoredFamily(family, limit, math.inf, REACH)


def missing_below(family: Family, limit: float) -> Family:
    """A family of which a gap means a value below the limit, such as one under the limit of detection. Bounds are of
    log p(x_observed, s), s which values are missing.

    >>> missing_below(al.families.normal, 0.0)(torch.zeros(2)).log_prob(torch.tensor([torch.nan])).exp()
    tensor(0.5000)
    """
    return CensoredFamily(family, -math.inf, limit, REACH)


def self_masking(family: Family, above: bool = True) -> Family:
    """A family of a column of which a value is missing with the probability sigmoid(b (x - c)), b and c learned, in the
    column's units; in steps of an eighth of its spread, see `allegory.missingness`. phi: that of the family. Bounds are
    of log p(x_observed, s), s which values are missing (not-MIWAE, Ipsen, Mattei & Frellsen 2021).

    The sign has to be said: with b of any sign it is not identified, since x is never seen where it is missing.

    Args:
        family: of numbers.
        above: whether it is the large values that are missing, b > 0; else the small ones.

    Raises:
        ValueError: a family of categories, or one that has a mechanism.

    >>> law = self_masking(al.families.normal)(torch.zeros(2))
    >>> law.log_prob(torch.tensor([torch.nan])).exp()                   # by symmetry
    tensor(0.5000, grad_fn=<ExpBackward0>)
    """
    return SelfMaskedFamily(family, above, reach=REACH)


def indicated(family: Family) -> Family:
    """A family of values that are missing with a probability that depends on z: the pattern of gaps as data, and new
    rows have gaps, too. phi: the log-odds of a gap, then that of the family. Bounds are of log p(x_observed, s), s
    which values are missing.

    >>> indicated(al.families.normal)(torch.zeros(3)).log_prob(torch.tensor([torch.nan])).exp()
    tensor(0.5000)
    """
    return IndicatedFamily(family)


def missing_range(law: Any, draw: Callable[[], Tensor] | None = None, within: Limits | None = None) -> Limits | None:
    """The limits that a gap of each element lies between, (*batch, *event) both; None where no gap says anything.

    Args:
        law: over independent elements.
        draw: gives uniform numbers, (*batch, *event), where the limit itself is random.
        within: limits that are known besides, which broadcast against x; -inf and inf for none.

    >>> law = missing_above(al.families.normal, 2.0)(torch.zeros(4))
    >>> missing_range(law)
    (tensor([2.0000, 2.0000]), tensor([inf, inf]))
    """
    shape = law.batch_shape + law.event_shape
    draw = draw or (lambda: torch.full(shape, 0.5, dtype=torch.float64))
    law = _elements(law)
    if isinstance(law, GapLaw):
        low, high = within or (torch.full(shape[-1:], -math.inf), torch.full(shape[-1:], math.inf))
        return law.missing_range(draw, low, high) if law.beyond else None
    if not hasattr(law, "by_column"):
        return None
    pairs = list(zip(law.parts, law.columns, strict=True))
    parts = [None if within is None else (within[0][..., at], within[1][..., at]) for _, at in pairs]
    found = [
        missing_range(part, functools.partial(_some, draw, at), known)
        for (part, at), known in zip(pairs, parts, strict=True)
    ]
    if all(each is None for each in found):
        return None
    like = next(each[0] for each in found if each is not None)
    ends = [
        (like.new_full(part.batch_shape + part.event_shape, -math.inf), like.new_full((), math.inf))
        for part, _ in pairs
    ]
    each = [
        torch.broadcast_tensors(*(one or known or end), end[0])[:2]
        for one, known, end in zip(found, parts, ends, strict=True)
    ]
    return law._in_order([low for low, _ in each]), law._in_order([high for _, high in each])


def log_missing_within(law: Any, low: Tensor, high: Tensor) -> Tensor:
    """(*batch, *event) log P(s = 1, low <= X <= high) of each element; without s where no gap says anything.

    >>> law = missing_above(al.families.normal, 0.0)(torch.zeros(2))
    >>> log_missing_within(law, torch.tensor([-1.0]), torch.tensor([torch.inf])).exp()
    tensor([0.5000])
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        return law.by_column(log_missing_within, low, high)
    return law.log_missing_within(low, high) if isinstance(law, GapLaw) else log_mass(law, low, high)


def without_gaps(law: Any) -> Any:
    """The law of the values alone, of which a gap says nothing.

    >>> law = missing_above(al.families.normal, 0.0)(torch.zeros(2))
    >>> without_gaps(law).log_prob(torch.tensor([torch.nan]))
    tensor(0.)
    """
    if hasattr(law, "by_column"):
        return type(law)([without_gaps(part) for part in law.parts], law.columns)
    if isinstance(law, Observed) and isinstance(law.base_dist, GapLaw):
        return Observed(law.base_dist.law, law.reinterpreted_batch_ndims, validate_args=False)
    return law


def gap_odds(law: Any) -> Tensor | None:
    """(*batch, *event) the log-odds that a value is missing, as far as they depend on z; None where they do not.

    >>> gap_odds(indicated(al.families.normal)(torch.ones(3)))
    tensor([1.])
    """
    law = _elements(law)
    if hasattr(law, "by_column"):
        found = [gap_odds(part) for part in law.parts]
        if all(odds is None for odds in found):
            return None
        sizes = [part.batch_shape + part.event_shape for part in law.parts]
        return law._in_order(
            [torch.zeros(size) if odds is None else odds for odds, size in zip(found, sizes, strict=True)]
        )
    return law.logits if isinstance(law, Indicated) else None


@torch.no_grad()
def warn_of_far(family: Any, filled: Tensor, gaps: Tensor, estimate: str, share: float = 0.0) -> None:
    """Warns, in one line, of values that were filled in far beyond all that was seen.

    Args:
        family: of a table.
        filled: (*, N, D).
        gaps: (N, D) which are filled in.
        estimate: what the values are, in words.
        share: of the values of a column that may be so.
    """
    told = []
    names = getattr(family, "names", None)
    for block, index in zip(getattr(family, "blocks", ()), getattr(family, "columns", ()), strict=True):
        if not isinstance(block, BeyondFamily):
            continue
        spreads = block.spreads_beyond(filled[..., index]).masked_fill(~gaps[:, index], 0.0)
        for j, column in enumerate(index.tolist()):
            far, all_ = int((spreads[..., j] > FAR).sum()), int(gaps[:, column].expand(filled.shape[:-1]).sum())
            if far > share * all_:
                name = names[column] if names else f"column {column}"
                most = spreads[..., j].max().item()
                told.append(f"{far:,} of {all_:,} values of {name}, the farthest {most:,.3g} spreads beyond")
    if told:
        listed = "; ".join(told[:8]) + ("; ..." if len(told) > 8 else "")
        warnings.warn(
            f"filled in more than {FAR:g} spreads of the column beyond the limit, where nothing is ever seen: {listed}"
            f"; do not believe {estimate} there; take the median, or give the column another law and train again",
            stacklevel=4,
        )


def gap_columns(family: Any) -> dict[int, str]:
    """The columns of a table whose gaps are data, and their names; empty for any other family.

    >>> gap_columns(al.families.columns([al.families.normal, missing_above(al.families.normal, 0.0)]))
    {1: 'column 1'}
    """
    pairs = zip(getattr(family, "blocks", ()), getattr(family, "columns", ()), strict=True)
    found = sorted(i for block, index in pairs if isinstance(block, GapFamily) for i in index.tolist())
    names = getattr(family, "names", None)
    return {i: names[i] if names else f"column {i}" for i in found}


def of_what(names: Iterable[str]) -> str:
    """What nats are of, where gaps are data.

    Args:
        names: of the columns.

    >>> of_what(["income"])
    'nats are of log p(x_o, s): of what is observed, and of s, which values of income are missing'
    """
    listed = list(names)
    told = ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
    return f"nats are of log p(x_o, s): of what is observed, and of s, which values of {told} are missing"


def _held(law: Any, turn: Tensor, room: Tensor, fixed: bool) -> Any:
    """The law with its location bent from `turn` on, such that it never is `room` beyond, and its scale bent likewise,
    unless it is fixed. A law without these, or of values within a range, stays.
    """
    if isinstance(law, MixtureSameFamily):
        parts = _held(law.component_distribution, turn[..., None], room[..., None], fixed)
        return type(law)(law.mixture_distribution, parts, validate_args=False)
    if isinstance(law, Poisson):
        return type(law)(_bent(law.rate, turn, room), validate_args=False)
    if isinstance(law, NegativeBinomial):
        mean = law.total_count * law.logits.exp()
        lower = (_bent(mean, turn, room) / mean).log()
        return type(law)(law.total_count, logits=law.logits + lower, validate_args=False)
    if isinstance(law, LogNormal):
        return type(law)(_bent(law.loc, turn, room), _narrowed(law.scale, room), validate_args=False)
    held = copy.copy(law)
    if isinstance(law, WithPoints):
        held.law = _held(law.law, turn, room, fixed)
    elif isinstance(law, (Normal, StudentT, Interval)):
        held.loc = _bent(law.loc, turn, room)
        logistic = isinstance(law, Interval) and law.law == "logistic"
        held.scale = law.scale if fixed else _narrowed(law.scale, room * (LOGISTIC if logistic else 1.0))
    return held


def _bent(loc: Tensor, turn: Tensor, room: Tensor) -> Tensor:
    """Beyond `turn` it is turn + room v / (1 + v^4)^(1/4), v = (loc - turn) / room."""
    v = ((loc - turn) / room).clamp(min=0)
    start = torch.where(room > 0, loc.minimum(turn), loc.maximum(turn))
    return start + room * _below_one(v)


def _narrowed(scale: Tensor, room: Tensor) -> Tensor:
    """A scale that stays below |room|."""
    return room.abs() * _below_one(scale / room.abs())


def _below_one(v: Tensor) -> Tensor:
    """The bend, v / (1 + v^4)^(1/4) of v >= 0, whatever its size."""
    most = v.clamp(min=1)
    return v / most / ((v / most) ** 4 + most**-4) ** 0.25


def _log_mass(law: Any, low: Tensor, high: Tensor) -> Tensor:
    return torch.where(low <= high, log_mass(law, low, high), -torch.inf)


def _some(draw: Callable[[], Tensor], columns: Tensor) -> Tensor:
    return draw()[..., columns]


def _elements(law: Any) -> Any:
    while isinstance(law, Independent):
        law = law.base_dist
    return law


def _check_none_yet(family: Any, name: str) -> None:
    while family is not None:
        if isinstance(family, GapFamily):
            raise ValueError(f"{name}: {type(family).__name__} has a mechanism of its gaps already; wanted one")
        family = getattr(family, "family", None)


def _check_numbers(family: Any, name: str) -> None:
    _check_none_yet(family, name)
    if getattr(family, "codes", False):
        raise ValueError(
            f"{name}: {type(family).__name__} is of categories, which are not large or small; use indicated"
        )
