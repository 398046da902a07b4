r"""Families of columns: what a table is made of, one family a column, and their product.

    log p(x | z) = sum_d log p_d(x_d | z),      x_d a number: a measurement, a count, or the code of a category

A column that was rounded has the mass of an interval (`allegory.intervals`), values that come again and again are
points beside it, categories in an order have cutpoints. A gap, a NaN, is left out (`allegory.gaps`). Columns of one
kind are one block, a family over several elements, so that a table costs what its kinds cost.

Shapes: *batch any leading dimensions, D columns, C of them in a block; phi is (*batch, sum of size * C over blocks).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Beta as TorchBeta
from torch.distributions import Categorical, Distribution, Independent, constraints
from torch.distributions import LogNormal as TorchLogNormal

from allegory import family as plain
from allegory.discrete import OneHotFamily
from allegory.family import Family
from allegory.gaps import Observed
from allegory.intervals import (
    LAWS,
    Grid,
    Interval,
    IntervalMixture,
    RoundedFurther,
    WithPoints,
    at_points,
    ordinal_logits,
)
from allegory.missingness import CensoredFamily, GapFamily, IndicatedFamily, SelfMaskedFamily
from allegory.positivity import positive
from allegory.trees import TreeFamily

__all__ = [
    "BetaFamily",
    "Columns",
    "ColumnsFamily",
    "IntervalFamily",
    "LogNormalFamily",
    "ObservedFamily",
    "OrdinalFamily",
    "PointsFamily",
    "RoundedFamily",
    "from_json",
    "is_count_with_points",
    "is_described",
    "to_json",
]

SHARPEST = 1e6  # scale of an interval's law, at most, or its inverse, in units of the data: a mass needs no other bound


class Beta(TorchBeta):
    """torch's Beta, on the open interval: at 0 and 1 its density is zero or infinite."""

    support = constraints.interval(1e-30, 1 - 2**-24)
    placeholder = 0.5


class BetaFamily(Family):
    """Shares; see `families.beta`."""

    size = 2
    reads = "a logit of the mean and a log precision"

    def law(self, m: Tensor, s: Tensor) -> Distribution:  # type: ignore[override]
        mean, precision = torch.sigmoid(m).clamp(1e-6, 1 - 1e-6), 2 * positive(s)
        return Beta(mean * precision, (1 - mean) * precision)


class LogNormal(TorchLogNormal):
    """torch's log-normal; its distribution function is 0 below 0."""

    placeholder = 1.0

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x)."""
        return torch.special.ndtr((value.clamp(min=0).log() - self.loc) / self.scale)


class LogNormalFamily(Family):
    """Positive numbers whose logarithm is normal; see `families.log_normal`.

    Args:
        shape: of the elements, each with units of log x of its own; by default the same for all.
    """

    size = 2
    reads = "mu and log sigma"

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def law(self, mu: Tensor, s: Tensor) -> Distribution:  # type: ignore[override]
        return LogNormal(self.loc + self.scale * mu, self.scale * positive(s))

    def transform(self, x: Tensor) -> Tensor:
        """The logarithm, of which mu and s are the location and the scale."""
        return x.clamp(min=torch.finfo(x.dtype).tiny).log()


class OrdinalFamily(Family):
    """Categories 0, ..., k - 1 in their order, by cutpoints c_1 < ... < c_{k-1}, which are learned.

    Args:
        k: categories.
    """

    size = 1
    reads = "where the categories lie"
    codes = True

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 2:
            raise ValueError(f"ordinal({k}): wanted at least 2 categories")
        self.k = k
        cumulative = torch.arange(1, k) / k
        self.first = nn.Parameter(torch.logit(cumulative[:1]))
        self.log_gaps = nn.Parameter(torch.diff(torch.logit(cumulative)).log())

    @property
    def cutpoints(self) -> Tensor:
        """(k - 1,) c_1 < ... < c_{k-1}."""
        return torch.cat([self.first, self.first + positive(self.log_gaps).cumsum(0)])

    def law(self, eta: Tensor) -> Distribution:  # type: ignore[override]
        return Categorical(logits=ordinal_logits(eta, self.cutpoints))

    def extra_repr(self) -> str:
        return str(self.k)


class IntervalFamily(Family):
    """The mass of the interval around a number of finite resolution; the arguments are those of `families.interval`."""

    reads = "locations and log scales"

    def __init__(
        self,
        step: Any,
        low: Any = None,
        high: Any = None,
        law: str = "logistic",
        components: int = 1,
        log: bool = False,
        origin: Any = 0.0,
    ) -> None:
        super().__init__()
        if law not in LAWS:
            raise ValueError(f"interval: got law={law!r}, wanted one of {', '.join(LAWS)}")
        if components < 1:
            raise ValueError(f"interval: got components={components}, wanted at least one")
        if log and low is None:
            raise ValueError("interval: log=True is of x - low, so that low has to be given")
        self.of_law, self.components, self.log = law, components, log
        self.size = (2 if law != "student_t" else 3) * components + (components if components > 1 else 0)
        self.asked = {"step": step, "low": low, "high": high, "origin": origin}  # as they were given, for a description
        edges = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
        self.step: Tensor
        self.low: Tensor
        self.high: Tensor
        self.origin: Tensor
        self.loc: Tensor
        self.scale: Tensor
        for name, value in {"step": step, **edges, "origin": origin}.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()).clone())
        self.register_buffer("loc", torch.zeros_like(self.step))
        self.register_buffer("scale", torch.ones_like(self.step))
        if self.step.is_meta:  # of a model of which only the shapes are asked
            return
        if not bool((self.step > 0).all() & self.step.isfinite().all()):
            raise ValueError(f"interval: got step={step}, wanted a positive number, the resolution of x")
        if not bool((self.low <= self.high).all()):
            raise ValueError(f"interval: got low={low} and high={high}, wanted low below high")

    def law(self, *parameters: Tensor) -> Distribution:
        if self.components == 1:
            return self._interval(parameters, mixed=False)
        weights, *groups = torch.stack(parameters, -1).chunk(len(parameters) // self.components, -1)
        return IntervalMixture(Categorical(logits=weights), self._interval(groups, mixed=True))

    def _interval(self, parameters: Sequence[Tensor], mixed: bool) -> Interval:
        mu, s, nu = (*parameters, None)[:3]
        loc, scale, step, low, high, origin = (
            part[..., None] if mixed else part
            for part in (self.loc, self.scale, self.step, self.low, self.high, self.origin)
        )
        assert mu is not None
        assert s is not None
        df = None if nu is None else 2 + positive(nu)
        sigma = scale * positive(s, SHARPEST)
        return Interval(loc + scale * mu, sigma, step, low, high, self.of_law, df, self.log, origin)

    def transform(self, x: Tensor) -> Tensor:
        """g(x), of which mu and s are the location and the scale."""
        return torch.log((x - self.low).clamp(min=0) + self.step) if self.log else x

    def extra_repr(self) -> str:
        return f"step={_short(self.step)}, low={_short(self.low)}, high={_short(self.high)}, {self.of_law}"


class PointsFamily(Family):
    """Point masses beside a family; the arguments are those of `families.with_points`.

    Attributes:
        logits: how many of the numbers that it reads for an element are not the family's.
    """

    reads = "logits of the points, and what the family reads"
    called: ClassVar[str] = "with_points"

    def __init__(self, family: Family, values: Sequence[float]) -> None:
        super().__init__()
        given = torch.as_tensor(values, dtype=torch.get_default_dtype()).flatten()
        if not len(given) or (not given.is_meta and len(given.unique()) < len(given)):
            raise ValueError(f"with_points: got the values {list(values)}, wanted different ones, at least one")
        self.family, self.asked = family, {"values": values}
        self.values: Tensor
        self.register_buffer("values", given)
        self.logits = len(given) + 1
        self.size = self.logits + family.size

    @property
    def points(self) -> Tensor:
        """The values that come again and again, about which the family says nothing."""
        return self.values

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        channels = -event_dim
        if phi.shape[channels] % self.size:
            raise ValueError(f"{self.called} reads {self.size} numbers per element, but got {tuple(phi.shape)}")
        count = self.logits * (phi.shape[channels] // self.size)
        logits, rest = phi.split([count, phi.shape[channels] - count], channels)
        logits = plain.to_float32(logits).unflatten(channels, (self.logits, -1)).movedim(channels - 1, -1)
        law: Any = self.family(rest, event_dim)
        return Independent(self.beside(logits, law.base_dist), event_dim)

    def beside(self, logits: Tensor, law: Any) -> Distribution:
        """The law of all values, from that of the family."""
        return WithPoints(logits, self.values, law)

    def extra_repr(self) -> str:
        return f"values={_short(self.values)}"


class RoundedFamily(PointsFamily):
    """Numbers of which some were rounded further; the arguments are those of `families.rounded`."""

    reads = "logits of the points, of rounding further and of the family, and what the family reads"
    called = "rounded"

    def __init__(self, family: Family, values: Sequence[float], points: Sequence[float] = ()) -> None:
        if not isinstance(family, IntervalFamily):
            raise ValueError(
                f"rounded: got {type(family).__name__}, wanted families.interval, numbers of a finite resolution"
            )
        super().__init__(family, values)
        self.asked = {"values": values, "points": points}
        also = torch.as_tensor(points, dtype=torch.get_default_dtype()).flatten()
        equal = at_points(also, self.values)
        if not self.values.is_meta:
            least = family.step.max() / 2  # two that are nearer are one value of the family
            if len(self.values) < 2 or not bool((self.values.diff() > least).all()):
                raise ValueError(
                    f"rounded: got the values {_short(self.values)}, wanted two or more, in order, a step apart"
                )
            self._check_grid()
            if not bool(equal.any(-1).all()):
                raise ValueError(f"rounded: got the points {_short(also)}, wanted some of {_short(self.values)}")
        self.places: Tensor
        self.register_buffer("places", equal.int().argmax(-1), persistent=False)
        self.logits = len(also) + 2
        self.size = self.logits + family.size

    def _check_grid(self) -> None:
        """That the values are values of the family, whose masses would not add up to one else."""
        inner: Any = self.family
        values = self.values.view(-1, *[1] * inner.step.dim())
        off = ~Grid(inner.step, inner.low, inner.high, inner.origin).check(values)
        if bool(off.any()):
            wrong = values.expand(off.shape)[off][0].item()
            raise ValueError(f"rounded: the value {wrong:g} is none of the family's, which are those of {inner}")

    @property
    def points(self) -> Tensor:
        """Those of the values that come again and again besides."""
        return self.values[self.places]

    def beside(self, logits: Tensor, law: Any) -> Distribution:
        """The law of both resolutions, from that of the family."""
        return RoundedFurther(logits, self.values, self.places, law)

    def transform(self, x: Tensor) -> Tensor:
        """g(x), as the family of intervals has it."""
        inner: Any = self.family
        return inner.transform(x)


class ObservedFamily(Family):
    """A family of independent elements, whose law leaves gaps out."""

    def __init__(self, family: Any) -> None:
        super().__init__()
        self.reads = getattr(family, "reads", "")
        if isinstance(family, plain.NormalOptimal) or isinstance(getattr(family, "family", None), plain.NormalOptimal):
            raise ValueError("observed: normal_optimal fits its sigma to whole batches; wanted normal_shared, say")
        self.family, self.size = family, family.size

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        law: Any = self.family(phi, event_dim)
        if not isinstance(law, Independent) or law.base_dist.event_shape:
            raise ValueError(
                f"observed: {type(law).__name__} is over elements that depend on each other, and cannot leave one out"
            )
        return Observed(law.base_dist, event_dim)


class Columns(Distribution):
    """A product of laws over the columns of a row, (D,); gaps are left out.

    Args:
        parts: laws over (C,) of the columns each.
        columns: which columns those are, for each part, (C,).

    >>> law = al.families.columns([al.families.bernoulli, al.families.interval(1.0)])(torch.zeros(4, 3))
    >>> law.batch_shape, law.event_shape, law.sample().shape
    (torch.Size([4]), torch.Size([2]), torch.Size([4, 2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    takes_gaps = True

    def __init__(self, parts: Iterable[Observed], columns: Iterable[Tensor]) -> None:
        self.parts, self.columns = tuple(parts), tuple(columns)
        batch = self.parts[0].batch_shape
        super().__init__(batch, torch.Size([sum(map(len, self.columns))]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        return Columns([part.expand(batch_shape) for part in self.parts], self.columns)

    @property
    def support(self) -> Any:
        """Each column has its own; see `parts`."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch) the log-probability of what is there, nats."""
        pairs = zip(self.parts, self.columns, strict=True)
        return torch.stack([part.log_prob(value[..., index]) for part, index in pairs]).sum(0)

    def log_prob_elements(self, value: Tensor) -> Tensor:
        """(*batch, D) the log-probability of each column, 0 where it is missing, nats."""
        pairs = zip(self.parts, self.columns, strict=True)
        return self._in_order([part.log_prob_elements(value[..., index]) for part, index in pairs])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._in_order([part.sample(torch.Size(sample_shape)) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """(*batch, D) the mean of each column; of categories, which have none, the likeliest."""
        return self._in_order([_mean(part.base_dist) for part in self.parts])

    def by_column(self, find: Callable[..., Tensor], *each: Tensor | None) -> Tensor:
        """(*batch, D) what `find` gives for the law of each column, and for its part of each further tensor."""
        pairs = zip(self.parts, self.columns, strict=True)
        return self._in_order(
            [find(part.base_dist, *(None if x is None else x[..., at] for x in each)) for part, at in pairs]
        )

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """The columns of all parts, in their order."""
        order = torch.cat(self.columns).argsort()
        dtype = torch.get_default_dtype()
        floats = [part if part.is_floating_point() else part.to(dtype) for part in parts]
        return torch.cat(floats, -1)[..., order]


def _mean(law: Any) -> Tensor:
    return law.mode if isinstance(law, Categorical) else law.mean


class ColumnsFamily(Family):
    """A family a column; the arguments are those of `families.columns`.

    Attributes:
        blocks: the families, each of the columns that `columns` lists beside it.
        size: the numbers that it reads in all.
    """

    reads = "what each column's family reads"

    def __init__(self, families: Sequence[Family], names: Sequence[str] | None = None) -> None:
        super().__init__()
        if not families:
            raise ValueError("columns: got no families, wanted one a column")
        for i, given in enumerate(families):
            if not isinstance(given, Family):
                raise ValueError(f"columns: column {i} is {given!r:.60}, wanted a family, such as al.families.normal")
            if isinstance(given, OneHotFamily | TreeFamily):
                raise ValueError(
                    f"columns: column {i} is {given!r:.60}, a family of whole rows; wanted one of single numbers"
                )
        if names is not None and len(names) != len(families):
            raise ValueError(f"columns: got {len(names)} names and {len(families)} families, wanted one name a column")
        self.names = None if names is None else [str(name) for name in names]
        self.described = [to_json(given) for given in families]
        keys = [_key(given, i) for i, given in enumerate(families)]
        groups = [[i for i, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)]
        self.blocks = nn.ModuleList(_block([families[i] for i in group]) for group in groups)
        for b, group in enumerate(groups):
            self.register_buffer(f"columns_{b}", torch.tensor(group), persistent=False)
        sizes = [block.size for block in self.blocks]
        self.sizes = [int(size) * len(group) for size, group in zip(sizes, groups, strict=True)]  # type: ignore[arg-type]
        self.size = sum(self.sizes)

    @property
    def columns(self) -> list[Tensor]:
        """The columns of each block."""
        return [getattr(self, f"columns_{b}") for b in range(len(self.blocks))]

    def outputs(self, event_shape: Sequence[int]) -> int:
        """How many numbers it reads for an event, along its first dimension."""
        if tuple(event_shape) != (len(self.described),):
            raise ValueError(f"columns: x has examples of shape {tuple(event_shape)}, wanted ({len(self.described)},)")
        return self.size

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The law of a row, from phi: (*batch, size)."""
        if event_dim != 1 or phi.shape[-1] != self.size:
            raise ValueError(
                f"columns reads {self.size} numbers per row in a dimension of their own, but got {tuple(phi.shape)}"
            )
        laws: list[Any] = [block(part) for block, part in zip(self.blocks, phi.split(self.sizes, -1), strict=True)]
        return Columns([Observed(law.base_dist, 1, validate_args=False) for law in laws], self.columns)

    def extra_repr(self) -> str:
        return f"{len(self.described)} columns"


MERGED = (
    plain.Normal, plain.StudentTFamily, plain.NormalFixed, plain.BernoulliFamily, plain.CategoricalFamily,
    plain.PoissonFamily, plain.NegativeBinomialFamily, plain.ContinuousBernoulliFamily,
    plain.DiscretizedLogisticFamily, BetaFamily, LogNormalFamily,
)  # fmt: skip
LOCATION_SCALE = (plain.Normal, plain.NormalFixed, plain.NormalLearned, plain.StudentTFamily)
MECHANISM = ("side", "above", "reach")  # what tells two families of a mechanism apart
COUNTS = (plain.PoissonFamily, plain.NegativeBinomialFamily)


def is_count_with_points(family: Any) -> bool:
    """Whether a family is of counts beside points, such as one that is zero-inflated.

    >>> is_count_with_points(al.families.zero_inflated_poisson), is_count_with_points(al.families.poisson)
    (True, False)
    """
    return isinstance(family, PointsFamily) and isinstance(family.family, (*COUNTS, plain.StandardizedCounts))


def _key(family: Family, column: int) -> Any:
    """Equal for columns whose families make one block."""
    if isinstance(family, GapFamily):
        inner = _key(family.family, column)
        return inner if inner == column else (type(family), *(getattr(family, name, "") for name in MECHANISM), inner)
    if type(family) in MERGED:
        return repr(to_json(family))
    if type(family) is IntervalFamily:
        return family.of_law, family.components, family.log
    return column


def _block(families: Sequence[Family]) -> Family:
    """One family over several columns, with units of its own for each."""
    first, n = families[0], len(families)
    if isinstance(first, GapFamily):
        inner: list[Any] = [given.family for given in families]
        return first.merged(_block(inner), families)
    if isinstance(first, IntervalFamily):
        tensors = {
            name: torch.stack([getattr(given, name).reshape(()) for given in families])
            for name in ("step", "low", "high", "origin")
        }
        return IntervalFamily(**tensors, law=first.of_law, components=first.components, log=first.log)
    if isinstance(first, PointsFamily):
        return type(first)(_block([first.family]), **first.asked)
    if isinstance(first, LOCATION_SCALE):
        return plain.Standardized(copy.deepcopy(first), torch.zeros(n), torch.ones(n))
    if isinstance(first, LogNormalFamily):
        return LogNormalFamily(n)
    return plain.StandardizedCounts(first, n) if isinstance(first, COUNTS) else copy.deepcopy(first)


ARGUMENTS: dict[str, tuple[type[Family], tuple[str, ...]]] = {
    "normal": (plain.Normal, ()),
    "normal_fixed": (plain.NormalFixed, ("sigma",)),
    "student_t": (plain.StudentTFamily, ()),
    "bernoulli": (plain.BernoulliFamily, ()),
    "categorical": (plain.CategoricalFamily, ("k", "lowest")),
    "ordinal": (OrdinalFamily, ("k",)),
    "continuous_bernoulli": (plain.ContinuousBernoulliFamily, ()),
    "beta": (BetaFamily, ()),
    "log_normal": (LogNormalFamily, ()),
    "poisson": (plain.PoissonFamily, ()),
    "negative_binomial": (plain.NegativeBinomialFamily, ()),
    "discretized_logistic": (plain.DiscretizedLogisticFamily, ("bins",)),
    "discretized_logistic_mixture": (plain.DiscretizedLogisticMixtureFamily, ("components", "bins")),
    "interval": (IntervalFamily, ("step", "low", "high", "law", "components", "log", "origin")),
    "with_points": (PointsFamily, ("values", "family")),
    "rounded": (RoundedFamily, ("values", "points", "family")),
    "missing": (CensoredFamily, ("low", "high", "reach", "family")),
    "self_masking": (SelfMaskedFamily, ("above", "reach", "family")),
    "indicated": (IndicatedFamily, ("family",)),
}
NUMBERS = ("step", "low", "high", "origin")
CALLED = {"k": "size", "law": "of_law"}  # the attributes of arguments, where they have another name


def to_json(family: Family) -> dict[str, Any]:
    """A family in plain JSON; of a user's own the name alone, from which it is not built again.

    >>> to_json(al.families.with_points(al.families.interval(0.01, low=0), [0.0]))["family"]
    {'name': 'interval', 'step': 0.01, 'low': 0.0, 'law': 'logistic', 'components': 1, 'log': False, 'origin': 0.0}
    """
    for name, (kind, arguments) in ARGUMENTS.items():
        if type(family) is kind:
            values = {key: _plain(_argument(family, key), key) for key in arguments}
            return {"name": name, **{key: value for key, value in values.items() if value is not None}}
    return {"own": f"{type(family).__module__}.{type(family).__qualname__}"}


def from_json(described: Any) -> Family:
    """The family that `to_json` has described.

    Raises:
        ValueError: a description that this version does not know.

    >>> from_json({"name": "categorical", "k": 3, "lowest": 0})
    CategoricalFamily(3)
    """
    try:
        kind, arguments = ARGUMENTS[described["name"]]
        values = {key: described[key] for key in arguments if key in described}
        unknown = described.keys() - values.keys() - {"name"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
        if "family" in values:
            values["family"] = from_json(values["family"])
        return kind(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a family is {described!r:.100}, which this version cannot build: {error}") from None


def is_described(described: Any) -> bool:
    """Whether a description has all it takes to build the family: nothing of a user's own, and only finite numbers.

    >>> is_described(to_json(al.families.log_normal)), is_described({"own": "mine.Family"})
    (True, False)
    """
    if isinstance(described, dict):
        return "own" not in described and all(map(is_described, described.values()))
    if isinstance(described, list):
        return all(map(is_described, described))
    return not isinstance(described, float) or math.isfinite(described)


def _argument(family: Any, key: str) -> Any:
    if isinstance(family, OrdinalFamily):
        return family.k
    if key in getattr(family, "asked", {}):
        return family.asked[key]
    return getattr(family, CALLED.get(key, key) if not isinstance(family, PointsFamily) else key)


def _plain(value: Any, key: str = "") -> Any:
    """JSON of an argument; infinities, which JSON has not, are None."""
    if isinstance(value, Family):
        return to_json(value)
    if isinstance(value, Tensor):
        value = _decimal(value).tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [float(part) for part in value]
    value = float(value) if isinstance(value, int) and not isinstance(value, bool) and key in NUMBERS else value
    return None if isinstance(value, float) and math.isinf(value) else value


def _decimal(values: Tensor) -> Tensor:
    """float64, by the shortest decimals that give the same float32: 0.01 is stored as 0.00999999977."""
    if values.dtype == torch.float64:
        return values
    short = [float(str(value)) for value in values.detach().flatten().numpy(force=True)]
    return torch.tensor(short, dtype=torch.float64).view(values.shape)


def _short(values: Tensor) -> str:
    listed = [f"{value:g}" for value in itertools.islice(values.flatten().tolist(), 4)]
    return ", ".join([*listed, "..."] if values.numel() > 4 else listed)
