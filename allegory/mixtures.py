r"""Mixtures over particles: the law of one element of x given what is observed, and its best values.

    p(x_d | x_o) = sum_k w_k p(x_d | z_k),      sum_k w_k = 1

    mean        sum_k w_k E[x_d | z_k]
    quantile    min {x : F(x) >= u},  F(x) = sum_k w_k F_k(x): it lies between the smallest and the largest Q_k(u)
    draws       j = 1, ..., m, each of the component that is met at (j - v) / m on the way through the weights, by
                frac(u + j g) with g = (sqrt(5) - 1) / 2: as even over the law as over its components

A quantile is sought along the chord of F, and every third time by halving; the value at the end that stays is halved,
so that both ends move (Illinois; Dowell & Jarratt 1971). On a grid the search is over when the ends are neighbours.
Points beside a law, and the components of a mixture in each component, are further parts of the same sum.

Shapes: K components; G elements, each with weights of its own; m draws; M components of a mixture, n points.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, Transform

from allegory.intervals import Interval, WithPoints
from allegory.quantiles import cdf, exact_mean, quantile

__all__ = ["even", "mixture_mean", "mixture_quantile", "pick", "strata"]

STEPS = 200  # of a search, at most
CLOSE = 1e-9  # of the interval in which a search begins: where it ends
NEGLIGIBLE = 1e-12  # a weight that is left out
GOLDEN = (math.sqrt(5) - 1) / 2


def pick(law: Any, index: tuple[Any, ...]) -> Any:
    """Some elements of a law over scalars: a law of the batch shape that `index` gives for a tensor of the batch shape.

    Args:
        law: of batch shape (*batch).
        index: of a tensor of shape (*batch).

    >>> law = torch.distributions.Normal(torch.arange(6.0).view(2, 3), 1.0)
    >>> pick(law, (slice(None), torch.tensor([2, 0]))).mean
    tensor([[2., 0.],
            [5., 3.]])
    """
    return _pick(law.expand(law.batch_shape), law.batch_shape, index)


def _pick(law: Any, batch: Size, index: tuple[Any, ...]) -> Any:
    """Args: law, a distribution whose batch shape begins with `batch`, or a transform of one."""
    changed, picked = copy.copy(law), Size()
    for name, part in vars(law).items():
        if isinstance(part, Distribution):
            vars(changed)[name] = found = _pick(part, batch, index)
            picked = found.batch_shape[: len(found.batch_shape) + len(batch) - len(part.batch_shape)]
        elif isinstance(part, list) and part and isinstance(part[0], Transform):
            vars(changed)[name] = [_pick(each, batch, index) for each in part]
        elif isinstance(part, Tensor) and isinstance(law, Transform):
            vars(changed)[name] = part.expand(batch)[index]
        elif isinstance(part, Tensor) and part.shape[: len(batch)] == batch:  # others are the same for all
            vars(changed)[name] = found = part[index]
            picked = found.shape[: found.dim() + len(batch) - part.dim()]
    if isinstance(law, Distribution):
        changed._batch_shape = picked + law.batch_shape[len(batch) :]
    return changed


def mixture_mean(law: Distribution, weights: Tensor) -> Tensor:
    """(G,) the mean; NaN where it is not in closed form, or there is none.

    Args:
        law: over scalars, (K, G).
        weights: (K, G), whose sum over K is one.
    """
    return torch.where(weights > 0, weights * exact_mean(law), 0).sum(0)


def mixture_quantile(law: Any, weights: Tensor, u: float = 0.5) -> Tensor:
    """(G,) float64: the smallest x with sum_k w_k P(X_k <= x) >= u.

    Args:
        law: over scalars, (K, G).
        weights: (K, G), whose sum over K is one.
        u: in (0, 1).

    Raises:
        NotImplementedError: a law whose distribution function is not known.

    >>> law = torch.distributions.Normal(torch.tensor([[-1.0], [5.0]]), 1.0)
    >>> mixture_quantile(law, torch.tensor([[0.5], [0.5]]))
    tensor([2.0000], dtype=torch.float64)
    """
    if isinstance(law, Categorical):
        at_most = (weights[..., None] * law.probs).sum(0).cumsum(-1)
        return (at_most[..., :-1] < u * at_most[..., -1:]).sum(-1) + getattr(law, "lowest", 0)
    weights, points, masses = weights.double(), None, None
    if isinstance(law, WithPoints):
        shares = law.log_weights.exp()
        points, order = law.values.double().sort()
        masses = (weights[..., None] * shares[..., :-1]).sum(0)[:, order].cumsum(-1)
        law, weights = law.law, weights * shares[..., -1]
    if isinstance(law, MixtureSameFamily):
        weights, law = weights[..., None] * law.mixture_distribution.probs, law.component_distribution
    weights = weights.masked_fill(weights < NEGLIGIBLE, 0)
    others, grid, rest = (0, *range(2, weights.dim())), _grid(law), _distribution_function(law, weights)
    whole = weights.sum(others) if masses is None else weights.sum(others) + masses[:, -1]

    def excess(x: Tensor) -> Tensor:
        """(G,) F(x) - u."""
        if points is None or masses is None:
            return rest(x) - u * whole
        upto = torch.searchsorted(points.float(), x.float(), right=True)[:, None]  # in the digits of `at_points`
        return rest(x) + masses.gather(1, (upto - 1).clamp(min=0)).masked_fill(upto == 0, 0)[:, 0] - u * whole

    if isinstance(law, Normal) or (isinstance(law, Interval) and law.law != "student_t"):
        each = quantile(law, weights.new_tensor(u)).double()
        low = each.masked_fill(weights == 0, math.inf).amin(others)
        high = each.masked_fill(weights == 0, -math.inf).amax(others)
        if points is not None:
            low, high = low.clamp(max=points[0]), high.clamp(min=points[-1])
    else:
        low, high = _around(excess, whole, grid)
    low, high = _search(excess, low, high, grid)
    if points is None or masses is None:
        return high
    between = (points > low[:, None]) & (points.float() <= high[:, None].float())
    reached = between & (rest(low)[:, None] + masses >= (u * whole)[:, None])
    return torch.where(reached.any(1), points[reached.int().argmax(1)], high)


def _grid(law: Any) -> tuple[Tensor, Tensor] | None:
    """The step and the origin of the values of each element, (G,) or (); None where they are continuous."""
    if isinstance(law, Interval):
        first: tuple[Any, ...] = (0, slice(None), *[0] * (len(law.batch_shape) - 2))
        return law.step[first].double(), law.origin[first].double()
    return (torch.ones(()), torch.zeros(())) if law.support.is_discrete else None


def _distribution_function(law: Any, weights: Tensor) -> Callable[[Tensor], Tensor]:
    """x: (G,) -> (G,) sum_k w_k P(X_k <= x), of the weights (K, G), or (K, G, M), of a law of this batch shape."""
    others = (0, *range(2, weights.dim()))
    if not isinstance(law, Interval):
        return lambda x: (weights * cdf(law, x.view(-1, *[1] * (weights.dim() - 2)))).sum(others)
    ends = pick(law, (0, slice(None), *[0] * (weights.dim() - 2)))  # where an interval ends is the same for all k
    loc, scale = law.loc.double(), law.scale.double()

    def at_most(x: Tensor) -> Tensor:
        center, half = ends._bounds(x)
        t = ((center + half).view(-1, *[1] * (weights.dim() - 2)) - loc) / scale
        below = torch.sigmoid(t) if law.law == "logistic" else law._log_tail(-t).exp()
        found = torch.where(x >= ends.high, weights.sum(others), (weights * below).sum(others))
        return found.masked_fill(x < ends.low, 0)

    return at_most


def _around(
    excess: Callable[[Tensor], Tensor], like: Tensor, grid: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """(G,) both: an interval that holds what is sought, by doubling one around zero; on the grid."""
    step, origin = grid or (torch.ones(()), torch.zeros(()))
    low, high = (torch.full_like(like, sign) * step for sign in (-1, 1))
    while bool((above := excess(origin + low) >= 0).any()):
        low = torch.where(above, 2 * low, low)
    while bool((below := excess(origin + high) < 0).any()):
        high = torch.where(below, 2 * high, high)
    return origin + low, origin + high


def _search(
    excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, grid: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """(G,) both: two numbers as near to each other as can be told apart, or neighbours on the grid, of which the upper
    one alone has an excess of 0 or more.

    Args:
        excess: F(x) - u, elementwise.
        low, high: (G,) in this interval, both ends included, is what is sought.
        grid: step and origin.
    """
    if grid is not None:  # points may lie beside it
        low = grid[1] + ((low - grid[1]) / grid[0]).floor() * grid[0]
        high = grid[1] + ((high - grid[1]) / grid[0]).ceil() * grid[0]
    rounding = 4 * torch.finfo(low.dtype).eps * (low.abs() + high.abs())
    near = torch.maximum(CLOSE * (high - low), rounding) if grid is None else grid[0].expand_as(low)
    low, at_low, at_high = low - near, torch.full_like(low, -1.0), torch.ones_like(low)
    for i in range(STEPS):
        wide = high - low > 1.5 * near + rounding
        if not bool(wide.any()):
            break
        x = low + (high - low) * (0.5 if i % 3 == 2 else at_low / (at_low - at_high))
        x = x if grid is None else grid[1] + ((x - grid[1]) / grid[0]).round() * grid[0]
        x = torch.minimum(torch.maximum(x, low + near), high - near)
        found = excess(x)
        enough = found >= 0
        low, high = torch.where(wide & ~enough, x, low), torch.where(wide & enough, x, high)
        at_low, at_high = torch.where(enough, at_low / 2, found), torch.where(enough, found, at_high / 2)
    return low, high


def even(m: int, u: Tensor, step: float = GOLDEN) -> Tensor:
    """(m, G) numbers in (0, 1), spread evenly, each uniform where u is.

    Args:
        m: how many.
        u: (G,) in (0, 1).
        step: from one to the next, an irrational number.

    >>> even(4, torch.tensor([0.5]))[:, 0]
    tensor([0.5000, 0.1180, 0.7361, 0.3541])
    """
    steps = torch.arange(m, dtype=u.dtype, device=u.device)[:, None]
    return (u + step * steps).frac().clamp(min=torch.finfo(u.dtype).eps / 4)


def strata(weights: Tensor, m: int, v: Tensor) -> Tensor:
    """(m, B) which component each of m draws is of: as many of each as its weight is worth, to within one.

    Args:
        weights: (K, B).
        m: draws.
        v: (B,) uniform in (0, 1).
    """
    ends = weights.cumsum(0).T.contiguous()
    at = (torch.arange(1, m + 1, device=v.device) - v[:, None]) / m
    return torch.searchsorted(ends, at * ends[:, -1:]).clamp(max=len(weights) - 1).T
