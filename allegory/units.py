r"""Units: the location and the spread by which data are standardised, such that no single row decides them.

    kept         |x - m| <= 50 r
    loc, scale   mean and standard deviation of what is kept, in float64

for each element of x, with m its median and r = (q_95 - q_05) / 3.29, the spread of a normal of these quantiles, both
without the element's smallest and its largest value: a fill value is one of the two, however often it occurs. Where
nothing is 50 spreads away, as in most data, loc and scale are the mean and the standard deviation.

Shapes: N examples, (N, *event).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Outliers", "Units", "units_of", "warn_of_outliers"]

OUTLIER_DISTANCE = 50.0  # spreads from the middle
MIN_DISTINCT = 10
LARGEST_DISTANCE = 1e9  # spreads: above, float32 has no square of it, or no digits for the others
QUANTILE_ROWS, CHUNK_NUMBERS = 4096, 2**22  # quantiles are of so many rows; so many numbers are held in float64 at once


class Outliers(NamedTuple):
    """The values of x that are far from all others.

    Attributes:
        row, element: the index of the farthest.
        value, distance: what it is, and how many spreads it is from the middle.
        repeats: how many values of x are equal to it.
        far_values: how many values are.
        total: how many values there are.
    """

    row: int
    element: tuple[int, ...]
    value: float
    distance: float
    repeats: int
    far_values: int
    total: int

    def told(self, row_names: Sequence[Any] | None = None, offset: Tensor | None = None) -> str:
        """In words.

        Args:
            row_names: (N,) what the user calls the rows; by default their numbers in x.
            offset: (*event) what was taken off the user's values; by default nothing.
        """
        place = f"column {self.element[0]}" if len(self.element) == 1 else f"element {list(self.element)}"
        often = f", and is {self.repeats / self.total:.1%} of all values" if self.repeats >= 10 else ""
        row = self.row if row_names is None else row_names[self.row]
        added = 0.0 if offset is None else offset[self.element].item()
        value = f"{self.value:g}" if not added else f"about {_rounded(self.value + added, self.value * 2**-23):.10g}"
        return (
            f"{self.far_values} of {self.total} values are more than {OUTLIER_DISTANCE:g} spreads away from the middle"
            f"; row {row} of the training data, {place}: {value} is {self.distance:,.3g} spreads away{often}"
        )


class Units(NamedTuple):
    """The units of x.

    Attributes:
        loc, scale: (*event) float64; scale is 0 where x is constant.
        outliers: the values that have no part in them; None where there are none.
    """

    loc: Tensor
    scale: Tensor
    outliers: Outliers | None


def units_of(x: Tensor) -> Units:
    """The units of x, (N, *event).

    >>> x = torch.cat([torch.randn(1000, 1), torch.tensor([[-9999.0]])])
    >>> units = units_of(x)
    >>> 0.9 < units.scale.item() < 1.1, units.outliers.row, units.outliers.value
    (True, 1000, -9999.0)
    """
    columns, event = x.flatten(1), x.shape[1:]
    width = max(1, CHUNK_NUMBERS // len(x))
    found = [_units_of_columns(part.double()) for part in columns.split(width, 1)]
    loc, scale = (torch.cat([part[i] for part in found]).view(event) for i in (0, 1))
    far = [part[2] for part in found]
    count = sum(int((distance > 0).sum()) for distance in far)
    if not count:
        return Units(loc, scale, None)
    most = max(range(len(far)), key=lambda i: far[i].max().item())
    row, column = divmod(int(far[most].argmax()), far[most].shape[1])
    column += most * width
    value = columns[row, column]
    element = tuple(int(i) for i in torch.unravel_index(torch.tensor(column), event))
    distance, alike = far[most].max().item(), int((x == value).sum())
    return Units(loc, scale, Outliers(row, element, value.item(), distance, alike, count, x.numel()))


def _units_of_columns(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, (N, D): (D) the mean and the standard deviation of what is kept; (N, D) how far the rest is, else 0."""
    low, high = x.aminmax(dim=0)
    few = x[:: math.ceil(len(x) / QUANTILE_ROWS)]
    inner = (few > low) & (few < high)
    last = (inner.sum(0) - 1).clamp(min=0)
    ordered = few.masked_fill(~inner, math.inf).sort(0).values
    q05, middle, q95 = (ordered.gather(0, (q * last).round().long()[None])[0] for q in (0.05, 0.5, 0.95))
    r = (q95 - q05) / 3.29
    distinct = ((ordered[1:] > ordered[:-1]) & (ordered[1:] < math.inf)).sum(0)
    unknown = (distinct < MIN_DISTINCT) | ~(r > 0)  # of a few values none is an outlier
    middle, r = torch.where(unknown, 0.0, middle), torch.where(unknown, math.inf, r)
    inlier = (x - middle).abs() <= OUTLIER_DISTANCE * r
    count = inlier.sum(0)
    loc = middle + (x - middle).masked_fill(~inlier, 0).sum(0) / count
    scale = ((x - loc).masked_fill(~inlier, 0).square().sum(0) / count).sqrt()
    return loc, scale, torch.where(inlier, 0.0, (x - middle).abs() / r)


def _rounded(value: float, error: float) -> float:
    """A value to the power of ten above its error."""
    step = 10.0 ** math.ceil(math.log10(abs(error)))
    return round(value / step) * step


def warn_of_outliers(
    outliers: Outliers | None, row_names: Sequence[Any] | None = None, offset: Tensor | None = None, name: str = "x"
) -> None:
    """Warns of values that are far from all others.

    Args:
        outliers: as `units_of` returns it.
        row_names: (N,) what the user calls the rows.
        offset: (*event) what was taken off the user's values.
        name: of what they are values of.

    Raises:
        ValueError: one that is too far to be computed with.
    """
    if outliers is None:
        return
    told = ("" if name == "x" else f"{name}: ") + outliers.told(row_names, offset)
    if outliers.distance > LARGEST_DISTANCE:
        raise ValueError(
            f"{told}: {'no density' if name == 'x' else 'no network'} in float32 reaches so far; if it stands for what "
            "is missing, drop those rows or fill them in"
        )
    warnings.warn(
        f"{told}; they have no part in the units of {name}; if they are mistakes, or stand for what is missing, drop "
        "those rows or fill them in",
        stacklevel=2,
    )
