r"""Lattices: the numbers that a file holds, as whole numbers k.

    value(k) = origin + k step,        k = low, ..., high

The step is, of data, what they are multiples of: 1 of counts and categories, that of an `Interval`, and of a density,
whose values have no probability, the resolution of the data; of latents, which the sender draws, a width at which the
middle of a bin is as good as the draw.

Shapes: tensors that broadcast against x, (*batch, *event).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from allegory.tabular.resolution import Step, decimals_of

__all__ = ["Lattice", "endless", "lattice_of"]

ENDLESS = 2**52  # |k| where there is no end; up to there float64 counts
CLOSE = 1e-9  # to a whole number


@dataclass(frozen=True)
class Lattice:
    """Whole multiples of a step.

    Attributes:
        step, origin: float64.
        low, high: the range of k, int64.
        first, last: the ends of the law, int64, beyond which it has no mass.
        over: a whole number, by which step and origin become whole; 1 where none does.
        between: whether k stands for the interval around value(k), of a density.
    """

    step: Tensor
    origin: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    last: Tensor
    over: Tensor
    between: bool = False

    def index(self, x: Tensor) -> Tensor:
        """The nearest k, int64; 0 where x is NaN."""
        return ((x.double().nan_to_num() - self.origin) / self.step).round().long()

    def value(self, k: Tensor) -> Tensor:
        """What k stands for, float64, the nearest to it that there is: 3 steps of 0.1 are 0.3."""
        if not bool((self.over > 1).any()):
            return self.origin + k * self.step
        whole = self.over > 1  # of all others what is rounded is not
        step, origin = (torch.where(whole, (part * self.over).round(), part) for part in (self.step, self.origin))
        return (k * step + origin) / self.over

    def upper(self, k: Tensor) -> Tensor:
        """Up to where the mass of all values up to k goes, within the range."""
        return self.origin + (k + 0.5 if self.between else k) * self.step

    def edge(self, k: Tensor) -> Tensor:
        """The same of any k; -inf and inf at the ends of the law."""
        return self.upper(k).masked_fill(k < self.first, -torch.inf).masked_fill(k >= self.last, torch.inf)

    def within(self, low: Tensor, high: Tensor) -> Lattice:
        """The same lattice with a smaller range."""
        return replace(self, low=low, high=high)

    @property
    def count(self) -> int:
        """How many values it has, at most."""
        return int((self.high - self.low).max()) + 1


def endless(step: Tensor, origin: Tensor) -> Lattice:
    """All multiples of a step, for a density."""
    end = torch.full_like(step, ENDLESS).long()
    return Lattice(step, origin, -end, end, -end, end, torch.ones_like(step), between=True)


def lattice_of(law: Any, resolution: tuple[Tensor, Tensor] | None = None) -> Lattice:
    """The lattice of a law over numbers, of the shape of its batch.

    Args:
        law: of any batch shape.
        resolution: step and origin where it is a density.

    Raises:
        ValueError: a law whose values are no lattice; a density without a resolution.

    >>> lattice_of(torch.distributions.Poisson(torch.tensor([2.0]))).value(torch.tensor([3]))
    tensor([3.], dtype=torch.float64)
    """
    support = _plain(law.support)
    if not getattr(support, "is_discrete", False):
        if resolution is None or not bool((resolution[0] > 0).all()):
            raise ValueError(
                f"x: {type(law).__name__} is a density, and numbers without a resolution have no code length: wanted "
                "resolution=, a step of which all numbers are multiples, such as resolution=0.01, "
                "x.round(decimals=2)"
            )
        return _lattice(law.batch_shape, *resolution, -torch.inf, torch.inf, between=True)
    if hasattr(support, "step"):  # of `intervals.Grid`
        step, origin = _decimal(support.step), _decimal(support.origin)
        return _lattice(law.batch_shape, step, origin, support.low, support.high)
    if isinstance(support, type(constraints.boolean)):
        return _lattice(law.batch_shape, 1.0, 0.0, 0.0, 1.0)
    low = getattr(support, "lower_bound", None)
    if low is None:
        raise ValueError(f"x: {type(law).__name__} is over {support}, which compression does not know")
    return _lattice(law.batch_shape, 1.0, 0.0, low, getattr(support, "upper_bound", torch.inf))


def _plain(support: Any) -> Any:
    """The support of single numbers, whatever else stands beside or around it."""
    while True:
        inner = getattr(support, "base_constraint", getattr(support, "other", None))
        if inner is None:
            return support
        support = inner


def _lattice(shape: Any, step: Any, origin: Any, low: Any, high: Any, between: bool = False) -> Lattice:
    step, origin, low, high = (
        torch.as_tensor(part, dtype=torch.float64).expand(shape) for part in (step, origin, low, high)
    )
    first, last = (
        ((end - origin) / step).round().nan_to_num(posinf=ENDLESS, neginf=-ENDLESS).clamp(-ENDLESS, ENDLESS).long()
        for end in (low, high)
    )
    pairs, which = torch.stack([step.reshape(-1), origin.reshape(-1)], 1).unique(dim=0, return_inverse=True)
    over = torch.tensor([_over(*pair) for pair in pairs.tolist()], dtype=torch.float64)[which].view(step.shape)
    return Lattice(step, origin, first, last, first, last, over, between)


def _over(step: float, origin: float) -> float:
    """By what both become whole: a power of ten, or one divided by the step, as of 1 / 255; 1 where neither does."""
    decimals, parts = decimals_of(Step(step, origin)), round(1 / step)
    if decimals is not None:
        return 10.0**decimals
    near = all(abs(part * parts - round(part * parts)) < CLOSE for part in (step, origin))
    return float(parts) if parts and near else 1.0


def _decimal(values: Tensor) -> Tensor:
    """float64, of numbers that were float32 once the shortest decimals that give those: 0.01 for 0.00999999977."""
    short = torch.tensor([float(str(v)) for v in values.float().flatten().numpy()], dtype=torch.float64)
    return torch.where(values.double() == values.float().double(), short.view(values.shape), values.double())
