r"""Initialisation from the training data: the constants by which x is standardised, and the output's bias.

Training need not learn the mean first: the output's bias starts at the data's marginals,

    Bernoulli, categorical     the frequencies
    discretised logistic       the mean, and the scale of a logistic of that variance
    counts                     the mean as the rate, in units of its own; r by the variance
    densities                  0: x is standardised

Shapes: N examples, (N, *event).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allegory import families
from allegory.networks import LogStandardize, Standardize
from allegory.positivity import inverse_positive
from allegory.runtime.messages import no_tensor, reshaping
from allegory.units import units_of, warn_of_outliers

__all__ = ["init_output_bias", "init_units"]

SPREAD = 1e15  # at most, or its inverse: sigma may be a thousand times larger, and is squared
DISCRETIZED = (families.DiscretizedLogisticFamily, families.DiscretizedLogisticMixtureFamily)


def init_units(
    input_layer: nn.Module,
    family: Any,
    data: Tensor,
    event_shape: Sequence[int],
    custom: bool,
    row_names: Sequence[Any] | None = None,
    offset: Tensor | None = None,
) -> None:
    """Sets how the encoder reads x, and the units of a location-scale likelihood.

    Args:
        input_layer: the input layer of the encoder.
        family: of p(x | z_1).
        data: (N, *event) training data.
        event_shape: of x.
        custom: whether the family is a user's own.
        row_names: (N,) what messages call the rows.
        offset: (*event) what was taken off the values; messages have it again.

    Raises:
        ValueError: no tensor, or of another shape; for a density, data without a spread.
    """
    if not isinstance(data, Tensor):
        raise ValueError(no_tensor("data", data))
    if data.shape[1:] != tuple(event_shape):
        raise ValueError(
            f"data: examples of shape {tuple(data.shape[1:])}, but event_shape={tuple(event_shape)}"
            f"{reshaping(data.shape, event_shape)}"
        )
    loc, scale = _units(input_layer, family, data, custom, row_names, offset)
    for module in (input_layer, family):
        if isinstance(module, Standardize | families.Standardized):
            module.loc.copy_(loc)
            module.scale.copy_(scale)


def _units(
    input_layer: nn.Module,
    family: Any,
    data: Tensor,
    custom: bool,
    row_names: Sequence[Any] | None,
    offset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The location and the spread of x. For densities the spread is each element's own. Otherwise columns have their
    own, and pixels one, so that a pixel that hardly varies is not amplified; elements of two values are pixels.
    """
    constant = (data == data[0]).all(0)  # a rounded spread need not be zero
    density = isinstance(family, families.Standardized) and not isinstance(family.family, families.NormalFixed)
    if density and len(data) == 1:
        raise ValueError("one training example has no spread to standardise by; give more")
    if density and bool(constant.any()):
        raise ValueError(
            f"{int(constant.sum())} of {constant.numel()} elements of x are constant in the training data, the first "
            f"at {constant.nonzero()[0].tolist()}: a continuous density has no upper bound there; remove them, or use "
            "a likelihood of discrete values"
        )
    x = torch.log1p(data) if isinstance(input_layer, LogStandardize) else data
    columns = data.dim() == 2 and (custom or isinstance(family, (families.StandardizedCounts, *DISCRETIZED)))
    if not density and not columns:
        spread = x.std(correction=0)
        return x.mean(0), torch.where(spread > 0, spread, 1.0).expand(x.shape[1:])
    loc, scale, outliers = units_of(x)
    if density and bool(((scale < 1 / SPREAD) | (scale > SPREAD)).any()):
        index = ((scale < 1 / SPREAD) | (scale > SPREAD)).nonzero()[0].tolist()
        raise ValueError(
            f"element {index} of x has a spread of {scale[tuple(index)].item():.3g}, whose square float32 cannot hold; "
            f"rescale it, such that its spread is between {1 / SPREAD:g} and {SPREAD:g}"
        )
    warn_of_outliers(outliers if x is data else units_of(data).outliers, row_names, offset)
    return loc, torch.where(constant, 1.0, scale)


@torch.no_grad()
def init_output_bias(last: Any, family: Any, data: Tensor) -> None:
    """Sets the last layer's bias so that p(x | z_1) begins at the marginals of the data. Whether these are in the
    family's support is checked elsewhere.
    """
    mean = data.mean(0)
    if isinstance(family, families.BernoulliFamily):
        start = torch.logit((data.sum(0) + 0.5) / (len(data) + 1), eps=1e-6)
    elif isinstance(family, families.CategoricalFamily):
        first = family.lowest
        counts = torch.stack([(data == first + k).sum(0) for k in range(family.size)]) + 0.5
        start = (counts / counts.sum(0)).log()
    elif isinstance(family, families.DiscretizedLogisticFamily):
        half = (family.bins - 1) / 2
        spread = data.std(0, correction=0).clamp(min=1.0) * math.sqrt(3) / math.pi  # of a logistic of that variance
        start = torch.stack([mean / half - 1, (spread / half).log()])
    elif isinstance(family, families.StandardizedCounts):
        start = _counts_start(family, data)
    else:
        return
    last.bias.copy_(start.flatten().view_as(last.bias))


def _counts_start(family: families.StandardizedCounts, data: Tensor) -> Tensor:
    """Sets the units of the rate by the moments of the data; returns the output's bias, by which the rate begins at the
    mean, and the r of a negative binomial where it gives the variance, which is at least 1.01 times the mean.
    """
    mean, spread, _ = units_of(data)
    mean = mean.clamp(min=1e-2)
    bound: float = family.family.bound  # type: ignore[assignment]
    if (mean > bound).any():
        raise ValueError(
            f"data: an element has a mean of {mean.max().item():.3g}, and the rate of a count ends at {bound:g}; "
            "wanted a likelihood of real values, such as normal"
        )
    family.loc.copy_(inverse_positive(mean, bound))
    family.scale.copy_((torch.maximum(spread, mean.sqrt()) / mean).clamp(max=1))
    excess = spread.square() - mean
    r = torch.where(excess > 0, mean.square() / excess, math.inf).clamp(min=1e-2).minimum(100 * mean)
    return torch.stack([torch.zeros_like(r), inverse_positive(r, bound)][: family.size])
