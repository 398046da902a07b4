r"""Initialisation from the training data: the constants by which x is standardised, and the output's bias.

Training need not learn the mean first: the output's bias starts at the data's marginals,

    Bernoulli, categorical     the frequencies
    tree                       the frequencies given the parent
    discretised logistic       the mean, and the scale of a logistic of that variance
    counts                     the mean as the rate, in units of its own; r by the variance
    densities                  0: x is standardised
    columns of a table         the optimum, see `allegory.marginal`

Shapes: N examples, (N, *event).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allegory.columnar import ColumnsFamily, ObservedFamily, is_count_with_points
from allegory.family import (
    BernoulliFamily,
    CategoricalFamily,
    DiscretizedLogisticFamily,
    DiscretizedLogisticMixtureFamily,
    NormalFixed,
    Standardized,
    StandardizedCounts,
)
from allegory.marginal import fill_gaps, set_count_units, set_units, shape_of_counts, start_of, units_of_observed
from allegory.networks import LogStandardize, Standardize
from allegory.runtime.messages import no_tensor, reshaping
from allegory.trees import TreeFamily
from allegory.units import units_of, warn_of_outliers

__all__ = ["check_shape", "init_output_bias", "init_units"]

SPREAD = 1e15  # at most, or its inverse: sigma may be a thousand times larger, and is squared
TOO_FAR = f"whose square float32 cannot hold; rescale it, such that its spread is between {1 / SPREAD:g} and {SPREAD:g}"
DISCRETIZED = (DiscretizedLogisticFamily, DiscretizedLogisticMixtureFamily)


def init_units(
    input_layer: nn.Module,
    family: Any,
    data: Tensor,
    event_shape: Sequence[int],
    custom: bool,
    row_names: Sequence[Any] | None = None,
    offset: Tensor | None = None,
    sizes: Tensor | None = None,
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
        sizes: (N,) of counts, see `allegory.exposure`.

    Raises:
        ValueError: no tensor, or of another shape; for a density, data without a spread.
    """
    check_shape(data, event_shape)
    if isinstance(family, ColumnsFamily):
        return _init_columns(input_layer, family, data, sizes)
    if isinstance(family, ObservedFamily):
        input_layer, family, data = input_layer.read, family.family, fill_gaps(data)  # type: ignore[assignment]
    loc, scale = _units(input_layer, family, data, custom, row_names, offset)
    for module in (input_layer, family):
        if isinstance(module, Standardize | Standardized):
            module.loc.copy_(loc)
            module.scale.copy_(scale)


def check_shape(data: Tensor, event_shape: Sequence[int]) -> None:
    """Raises a ValueError unless data are a tensor (N, *event)."""
    if not isinstance(data, Tensor):
        raise ValueError(no_tensor("data", data))
    if data.shape[1:] != tuple(event_shape):
        raise ValueError(
            f"data: examples of shape {tuple(data.shape[1:])}, but event_shape={tuple(event_shape)}"
            f"{reshaping(data.shape, event_shape)}"
        )


def _init_columns(input_layer: Any, family: ColumnsFamily, data: Tensor, sizes: Tensor | None = None) -> None:
    """The units of each block of columns, and of what the encoder reads of it."""
    if bool(data.isinf().any()):
        row, column = data.isinf().nonzero()[0].tolist()
        raise ValueError(
            f"data: {data[row, column].item()} in row {row}, column {column}; wanted finite numbers, or NaN"
        )
    for block, index, read in zip(family.blocks, family.columns, input_layer.reads, strict=True):
        x = data[:, index]
        set_units(block, x, sizes)
        for density in (part for part in block.modules() if isinstance(part, Standardized)):
            outside = (density.scale < 1 / SPREAD) | (density.scale > SPREAD)
            if data.dtype == torch.float32 and bool(outside.any()):
                raise ValueError(
                    f"column {index[outside.nonzero()[0, 0]].item()} of x has a spread of "
                    f"{density.scale[outside][0].item():.3g}, {TOO_FAR}"
                )
        for part in (part for part in read.modules() if isinstance(part, Standardize)):
            units = units_of_observed(part.transform(x))
            part.loc.copy_(units.loc)
            part.scale.copy_(torch.where(units.scale > 0, units.scale, 1.0))


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
    density = isinstance(family, Standardized) and not isinstance(family.family, NormalFixed)
    if density and len(data) == 1:
        raise ValueError("one training example has no spread to standardise by; give more")
    if density and bool(constant.any()):
        raise ValueError(
            f"{int(constant.sum())} of {constant.numel()} elements of x are constant in the training data, the first "
            f"at {constant.nonzero()[0].tolist()}: a continuous density has no upper bound there; remove them, or use "
            "a likelihood of discrete values"
        )
    x = torch.log1p(data) if isinstance(input_layer, LogStandardize) else data
    columns = data.dim() == 2 and (custom or isinstance(family, (StandardizedCounts, *DISCRETIZED)))
    if not density and not columns:
        spread = x.std(correction=0)
        return x.mean(0), torch.where(spread > 0, spread, 1.0).expand(x.shape[1:])
    loc, scale, outliers = units_of(x)
    if density and bool(((scale < 1 / SPREAD) | (scale > SPREAD)).any()):
        index = ((scale < 1 / SPREAD) | (scale > SPREAD)).nonzero()[0].tolist()
        raise ValueError(f"element {index} of x has a spread of {scale[tuple(index)].item():.3g}, {TOO_FAR}")
    warn_of_outliers(outliers if x is data else units_of(data).outliers, row_names, offset)
    return loc, torch.where(constant, 1.0, scale)


@torch.no_grad()
def init_output_bias(last: Any, family: Any, data: Tensor, sizes: Tensor | None = None) -> None:
    """Sets the last layer's bias so that p(x | z_1) begins at the marginals of the data. Whether these are in the
    family's support is checked elsewhere.

    Args:
        last: the layer, or what has its bias.
        family: of p(x | z_1).
        data: (N, *event) training data.
        sizes: (N,) of counts, see `allegory.exposure`.
    """
    if isinstance(family, ColumnsFamily):
        pairs = zip(family.blocks, family.columns, strict=True)
        last.bias.copy_(torch.cat([start_of(block, data[:, index], sizes).flatten() for block, index in pairs]))
        return
    if isinstance(family, ObservedFamily):
        family, data = family.family, fill_gaps(data)
    mean = data.mean(0)
    if isinstance(family, BernoulliFamily):
        start = torch.logit((data.sum(0) + 0.5) / (len(data) + 1), eps=1e-6)
    elif isinstance(family, TreeFamily):
        start = family.start(data)
    elif isinstance(family, CategoricalFamily):
        first = family.lowest
        counts = torch.stack([(data == first + k).sum(0) for k in range(family.size)]) + 0.5
        start = (counts / counts.sum(0)).log()
    elif isinstance(family, DiscretizedLogisticFamily):
        half = (family.bins - 1) / 2
        spread = data.std(0, correction=0).clamp(min=1.0) * math.sqrt(3) / math.pi  # of a logistic of that variance
        start = torch.stack([mean / half - 1, (spread / half).log()])
    elif isinstance(family, StandardizedCounts):
        set_count_units(family, data, sizes)
        r = shape_of_counts(family, data, sizes)
        start = torch.stack([torch.zeros_like(r), r][: family.size])
    elif is_count_with_points(family) and data.dim() == 2:
        sizes = torch.ones(len(data)) if sizes is None else sizes  # moments, whatever the number of columns
        set_units(family, data, sizes)
        start = start_of(family, data, sizes)
    else:
        return
    last.bias.copy_(start.flatten().view_as(last.bias))
