r"""Marginals: the constant phi at which a family's law is likeliest, for each element: where a table's training begins.

    phi_d = argmax_phi sum_n log p_d(x_nd; phi)

Frequencies give it for categories and points; everything else begins at its moments and is moved uphill by L-BFGS. Gaps
have no part in it. A model whose output is this phi, whatever z is, is that of independent columns.

Shapes: N examples x, (N, C); phi is (size, C).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allegory import columnar
from allegory.family import (
    BernoulliFamily,
    CategoricalFamily,
    DiscretizedLogisticFamily,
    Family,
    Normal,
    Standardized,
    StandardizedCounts,
)
from allegory.gaps import Observed
from allegory.intervals import at_points
from allegory.missingness import BeyondFamily, GapFamily, IndicatedFamily, SelfMaskedFamily
from allegory.positivity import inverse_positive
from allegory.runtime.modes import no_validation
from allegory.units import Units, units_of

__all__ = [
    "fill_gaps",
    "fit_constant",
    "set_count_units",
    "set_units",
    "shape_of_counts",
    "start_of",
    "units_of_observed",
    "without_points",
]

MAX_NUMBERS = 2**16  # values times parameters, where a fit goes over them many times
MIN_VALUES = 256  # of a column
ITERATIONS = 100
SEEN = 0.5  # added to the count of each category and point


def fill_gaps(x: Tensor) -> Tensor:
    """X with the observed values of each element, in turn, in its gaps: the marginals stay as they are.

    Args:
        x: (N, *event).

    Raises:
        ValueError: an element without any value.

    >>> fill_gaps(torch.tensor([[1.0], [math.nan], [2.0], [math.nan]])).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    missing = x.isnan()
    if not bool(missing.any()):
        return x
    filled = x.clone().flatten(1)
    for i in missing.flatten(1).any(0).nonzero().flatten().tolist():
        gaps = filled[:, i].isnan()
        observed = filled[~gaps, i]
        if not len(observed):
            raise ValueError(f"column {i} has no value in the training data, all are missing; leave it out")
        filled[gaps, i] = observed[torch.arange(int(gaps.sum()), device=x.device) % len(observed)]
    return filled.view_as(x)


def units_of_observed(x: Tensor) -> Units:
    """The units of the columns of x, (N, C), of what is observed of each.

    >>> units_of_observed(torch.tensor([[1.0], [math.nan], [3.0]])).loc
    tensor([2.], dtype=torch.float64)
    """
    if not bool(x.isnan().any()):
        return units_of(x)
    fill_gaps(x[:, x.isnan().all(0)])  # none may be empty
    found = [units_of(column[~column.isnan(), None]) for column in x.unbind(1)]
    return Units(torch.cat([units.loc for units in found]), torch.cat([units.scale for units in found]), None)


def set_units(block: Any, x: Tensor, sizes: Tensor | None = None) -> None:
    """Sets the location and the spread by which a block of columns is parameterised.

    Args:
        block: of `columnar.ColumnsFamily.blocks`.
        x: (N, C) its columns, with gaps.
        sizes: (N,) of counts, see `allegory.exposure`.
    """
    if isinstance(block, GapFamily):
        set_units(block.family, x, sizes)
        if isinstance(block, SelfMaskedFamily):
            _set_places(block, x)
        if isinstance(block, BeyondFamily) and block.reach is not None:
            block.hold(*_normal_of_all(block, x, sizes))
    elif isinstance(block, columnar.PointsFamily):
        rest = without_points(block, x)
        set_units(block.family, x if bool(rest.isnan().all()) else rest, sizes)
    elif isinstance(block, columnar.IntervalFamily):
        units = units_of_observed(block.transform(x))
        least = torch.log1p(torch.ones_like(block.step)) if block.log else block.step
        block.loc.copy_(units.loc)
        block.scale.copy_(torch.maximum(units.scale, least.double() / 2))
    elif isinstance(block, columnar.LogNormalFamily):
        if bool((x <= 0).any()):
            raise ValueError(
                f"columns: a log-normal column has {x[x <= 0][0].item():g}; wanted numbers above 0, or 0 as a point"
            )
        _set_units_of_density(block, x.log())
    elif isinstance(block, Standardized):
        _set_units_of_density(block, x)
    elif isinstance(block, StandardizedCounts):
        set_count_units(block, *_counts_with_sizes(x, sizes))


def _set_units_of_density(block: Any, x: Tensor) -> None:
    filled, units = fill_gaps(x), units_of_observed(x)
    constant = (filled == filled[0]).all(0) | ~(units.scale > 0)
    if bool(constant.any()):
        raise ValueError(
            "columns: a density has no upper bound on a column that is constant; leave it out, or give it a "
            "resolution, families.interval(step)"
        )
    block.loc.copy_(units.loc)
    block.scale.copy_(units.scale)


def _set_places(block: SelfMaskedFamily, x: Tensor) -> None:
    """Where the limit of a mechanism may be: an eighth of a spread apart, and never at a value of finite resolution."""
    values: Any = block.family
    while isinstance(values, columnar.PointsFamily):
        values, x = values.family, without_points(values, x)
    if not isinstance(values, columnar.IntervalFamily):
        units = units_of_observed(x)
        return block.place(units.loc, units.scale)
    low, step, origin = (part.double() for part in (values.low, values.step, values.origin))

    def between(y: Tensor) -> Tensor:
        edges = torch.exp(y) + low - step if values.log else y
        return origin + (((edges - origin) / step).floor() + 0.5) * step

    return block.place(values.loc.double(), values.scale.double(), between)


def _normal_of_all(block: BeyondFamily, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(C,) the limit, the mean m and the standard deviation s of a normal law of g(x) of all values, of which those
    beyond the limit are missing; from the share of these, and the mean of what is there,

        m - s lambda,      alpha = (limit - m) / s = Phi^-1(1 - share),      lambda = phi(alpha) / Phi(alpha),

    or, where the limit is not known, from the standard deviation of what is there, too: s sqrt(1 - lambda (alpha +
    lambda)). Points have no part in it, where there is anything else.
    """
    gaps, points = x.isnan().sum(0), block.family
    while isinstance(points, columnar.PointsFamily):
        rest = without_points(points, x)
        points, x = points.family, x if _is_empty(rest) else rest
    typical = 1.0
    if sizes is not None and isinstance(block.values, StandardizedCounts):
        typical = sizes.double().mean().item()
        x = x / sizes[:, None].to(x)
    units, there = units_of_observed(block.transform(x)), (~x.isnan()).sum(0)
    share = (gaps + SEEN).double() / (gaps + there + 2 * SEEN)
    alpha, sign = torch.special.ndtri(1 - share), 1 if block.above else -1
    ratio = torch.exp(-alpha.square() / 2) / (math.sqrt(2 * math.pi) * (1 - share))
    limit = block.limit()
    if limit is None:
        spread = units.scale / (1 - ratio * (alpha + ratio)).sqrt()
        middle = units.loc + sign * ratio * spread
        limit = middle + sign * alpha * spread
    else:
        limit = block.transform(limit.double() / typical)
        spread = sign * (limit - units.loc) / (alpha + ratio)
        middle = limit - sign * alpha * spread
    finest = torch.maximum(units.scale, block.values.scale) if hasattr(block.values, "step") else units.scale
    spread = torch.maximum(spread, finest)
    return limit, middle, torch.where(spread > 0, spread, 1.0)


def _counts_with_sizes(x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Counts (N, C) without gaps, and their sizes; a count that is taken from another row has that row's size."""
    if sizes is None or not bool(x.isnan().any()):
        return fill_gaps(x), sizes
    typical = sizes.double().mean()
    return fill_gaps(x / sizes[:, None].to(x) * typical.to(x)), typical.expand(len(x))


def set_count_units(family: StandardizedCounts, data: Tensor, sizes: Tensor | None = None) -> None:
    """Sets the units of the rate of counts, (N, *event), by their moments; of sizes (N,) the rate per unit of size."""
    data, typical = _at_typical_size(data, sizes)
    mean, spread, _ = units_of(data)
    bound: float = family.family.bound  # type: ignore[assignment]
    mean = mean.clamp(min=1e-2)
    if (mean > bound).any():
        raise ValueError(
            f"data: an element has a mean of {mean.max().item():.3g}, and the rate of a count ends at {bound:g}; "
            "wanted a likelihood of real values, such as normal"
        )
    family.loc.copy_(inverse_positive(mean / typical, bound))
    family.scale.copy_((torch.maximum(spread, mean.sqrt()) / mean).clamp(max=1))


def without_points(block: columnar.PointsFamily, x: Tensor) -> Tensor:
    """X with a gap where it is one of the points."""
    return x.masked_fill(at_points(x, block.points).any(-1), math.nan)


@torch.no_grad()
def start_of(block: Any, x: Tensor, sizes: Tensor | None = None) -> Tensor:
    """(size, C) the phi of a block of columns at their marginals; an ordinal's cutpoints are set, too. Of counts with
    sizes it is that of their moments.

    Args:
        block: with its units set.
        x: (N, C) its columns, with gaps.
        sizes: (N,) of counts, see `allegory.exposure`.
    """
    if isinstance(block, GapFamily):
        return _start_with_gaps(block, x, sizes)
    if isinstance(block, columnar.RoundedFamily):
        return _start_rounded(block, x)
    if isinstance(block, columnar.PointsFamily):
        rest = without_points(block, x)
        counts = [*(at_points(x, block.values).sum(0) + SEEN).unbind(-1)]
        counts.append((~rest.isnan()).sum(0) + SEEN)
        logits = (torch.stack(counts) / torch.stack(counts).sum(0)).log()
        empty = torch.zeros(block.family.size, x.shape[1]).to(x)
        inner = empty if _is_empty(rest) else start_of(block.family, rest, sizes)
        return torch.cat([logits, inner])
    if isinstance(block, columnar.OrdinalFamily):
        _set_cutpoints(block, x)
        return torch.zeros(1, x.shape[1]).to(x)
    if isinstance(block, BernoulliFamily):
        ones, rows = (x == 1).sum(0), (~x.isnan()).sum(0)
        return torch.logit((ones + SEEN) / (rows + 1), eps=1e-6)[None]
    if isinstance(block, CategoricalFamily):
        counts = [(x == block.lowest + k).sum(0) + SEEN for k in range(block.size)]
        return (torch.stack(counts) / torch.stack(counts).sum(0)).log()
    if isinstance(block, StandardizedCounts) and sizes is not None:
        return _moments(block, *_counts_with_sizes(x, sizes))
    begin = _moments(block, fill_gaps(x))
    normal = isinstance(block, Standardized) and isinstance(block.family, Normal)
    return begin if normal else fit_constant(block, begin, x)


def _start_rounded(block: columnar.RoundedFamily, x: Tensor) -> Tensor:
    """The optimum, from the optimum of the numbers that are no points, at one resolution."""
    rest, at = without_points(block, x), at_points(x, block.points).sum(0)
    inner = start_of(block.family, x if _is_empty(rest) else rest)
    coarse = at_points(rest, block.values).any(-1).sum(0)
    counts = [*at.unbind(-1), coarse, (~rest.isnan()).sum(0) - coarse]
    logits = torch.stack([count + SEEN for count in counts]).log().to(inner)
    return fit_constant(block, torch.cat([logits, inner]), x)


def _start_with_gaps(block: GapFamily, x: Tensor, sizes: Tensor | None) -> Tensor:
    """The optimum of the values and of their gaps; where the mechanism is learned, of that, too. Of counts with sizes
    the moments of what is there.
    """
    begin = start_of(block.family, x, sizes)
    if isinstance(block, IndicatedFamily):
        gaps = x.isnan().sum(0)
        return torch.cat([torch.logit((gaps + SEEN) / (len(x) + 2 * SEEN))[None].to(begin), begin])
    of_sizes = sizes is not None and any(isinstance(part, StandardizedCounts) for part in block.modules())
    return begin if of_sizes else fit_constant(block, begin, x)


def _is_empty(x: Tensor) -> bool:
    return bool(x.isnan().all(0).any())


def _moments(block: Any, x: Tensor, sizes: Tensor | None = None) -> Tensor:
    """(size, C) where the fit begins."""
    zeros = torch.zeros(block.size, x.shape[1]).to(x)
    if isinstance(block, StandardizedCounts):
        return zeros if block.size == 1 else torch.stack([zeros[0], shape_of_counts(block, x, sizes)])
    if isinstance(block, DiscretizedLogisticFamily):
        half = (block.bins - 1) / 2
        spread = x.std(0, correction=0).clamp(min=1.0) * math.sqrt(3) / math.pi  # of a logistic of that variance
        return torch.stack([x.mean(0) / half - 1, (spread / half).log()])
    if isinstance(block, columnar.IntervalFamily):
        return _interval_moments(block, x)
    return zeros


def _at_typical_size(data: Tensor, sizes: Tensor | None) -> tuple[Tensor, float]:
    """Counts (N, *event) as they were if all sizes were the mean one, and that."""
    if sizes is None:
        return data, 1.0
    typical = sizes.double().mean().item()
    each = (typical / sizes.double()).to(data)
    return data * each[(..., *[None] * (data.dim() - 1))], typical


def shape_of_counts(family: StandardizedCounts, data: Tensor, sizes: Tensor | None = None) -> Tensor:
    """(*event) the s of the r at which a negative binomial has the variance, at least 1.01 times the mean."""
    data, _ = _at_typical_size(data, sizes)
    mean, spread, _ = units_of(data)
    mean = mean.clamp(min=1e-2)
    excess = spread.square() - mean
    r = torch.where(excess > 0, mean.square() / excess, math.inf).clamp(min=1e-2).minimum(100 * mean)
    return inverse_positive(r, family.family.bound).to(data)  # type: ignore[arg-type]


def _interval_moments(block: columnar.IntervalFamily, x: Tensor) -> Tensor:
    """A location and a scale; of a mixture, components at quantiles, each as wide as their distance."""
    y = (block.transform(x) - block.loc) / block.scale
    m, narrower = block.components, math.sqrt(3) / math.pi if block.of_law == "logistic" else 1.0
    quantiles = torch.quantile(y[:: max(1, len(y) // 4096)], (torch.arange(m).to(y) + 0.5) / m, dim=0)
    s = torch.full_like(quantiles, math.log(narrower / m))
    groups = [quantiles if m > 1 else y.mean(0)[None], s]
    if block.of_law == "student_t":
        groups.append(torch.full_like(quantiles, math.log(3.0)))
    return torch.cat([torch.zeros_like(quantiles), *groups] if m > 1 else groups)


def _set_cutpoints(block: columnar.OrdinalFamily, x: Tensor) -> None:
    counts = torch.stack([(x == k).sum() + SEEN for k in range(block.k)]).double()
    cumulative = torch.logit(counts.cumsum(0)[:-1] / counts.sum())
    block.first.copy_(cumulative[:1])
    block.log_gaps.copy_(inverse_positive(torch.diff(cumulative)))


@torch.enable_grad()
def fit_constant(family: Family, begin: Tensor, x: Tensor) -> Tensor:
    """(size, C) the phi at which x is likeliest, from a beginning.

    Args:
        family: over C elements; where it has a mechanism of gaps, its parameters are set, too.
        begin: (size, C).
        x: (N, C), with gaps.
    """
    values, weights = _counted(x.double(), max(MIN_VALUES, MAX_NUMBERS // begin.numel()))
    learned = [*family.parameters(recurse=False)] if isinstance(family, GapFamily) else []
    if isinstance(family, GapFamily):
        gaps = x.isnan().double().mean(0)
        values, weights = F.pad(values, (0, 0, 0, 1), value=math.nan), torch.cat([weights * (1 - gaps), gaps[None]])
    exact = copy.deepcopy(family).double().requires_grad_(False)
    phi = begin.detach().double().clone().requires_grad_()
    own = [*exact.parameters(recurse=False)][: len(learned)]
    optimizer = torch.optim.LBFGS(
        [phi, *(part.requires_grad_() for part in own)], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        law: Any = exact(phi.flatten())
        value = -(weights * Observed(law.base_dist, 1, validate_args=False).log_prob_elements(values)).sum()
        value.backward()
        return value

    with no_validation():
        before = loss().item()
        optimizer.step(loss)
        better = phi.detach().isfinite().all() and loss().item() <= before
    for part, found in zip(learned, own, strict=True):
        if better:
            part.data.copy_(found.detach())
    return (phi.detach() if better else begin).to(begin)


def _counted(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(M, C) the different values of each column and the share of each, NaN and 0 where there are fewer; at most so
    many, then evenly among the rows in their order.
    """
    columns = []
    for column in x.unbind(1):
        values, counts = column[~column.isnan()].unique(return_counts=True)
        if len(values) > most:
            places = torch.linspace(0, int(counts.sum()) - 1, most).round()
            values = values.repeat_interleave(counts)[places.long()]
            counts = torch.ones_like(values)
        columns.append((values, counts / counts.sum()))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad([v for v, _ in columns], padding_value=math.nan), pad([w for _, w in columns])
