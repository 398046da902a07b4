r"""Recoding: the values of a file as a likelihood takes them. None of it changes a probability, so nats stay nats.

    to_binary   the two values as 0 and 1, for a Bernoulli
    binarize    grey levels in [0, 1] drawn as 0 or 1, anew at each call

A gap, a NaN, stays one.

Shapes: N examples x, (N, *event): tensors, or `Stored` if too large for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from allegory.data.cutting import chunks, value_range
from allegory.data.stored import Stored
from allegory.runtime.messages import describe_index

__all__ = ["binarize", "to_binary", "two_values"]


def binarize(grey: Tensor) -> Tensor:
    """Draw x ~ Bernoulli(grey), pixel by pixel, at each call, with torch's global generator.

    `grey` holds probabilities in [0, 1], of any shape; the result has its shape and dtype, and the
    values 0 and 1. Applied to each batch, this is the dynamic binarisation of Burda et al. 2016.
    Raises RuntimeError outside [0, 1].

    >>> binarize(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    return torch.bernoulli(grey)


def to_binary(x: Tensor, values: tuple[float, float] | None = None, rows: Sequence[Any] | None = None) -> Tensor:
    """The first of two values as 0, the second as 1; the shape and dtype of `x`.

    `values` are by default 0 and 1 if nothing else occurs in `x`, else its smallest and its largest
    value. Pass those of the training split to treat other examples alike. A probability does not
    depend on what the two values are: nats stay nats. Raises ValueError for a third value; `rows` are what the user
    calls the rows, for the message.

    >>> to_binary(torch.tensor([0.0, 255.0, 0.0]))
    tensor([0., 1., 0.])
    """
    if values is None:
        low, high = value_range(x)
        values = (0.0, 1.0) if {low, high} <= {0.0, 1.0} else (low, high)
    first, second = values
    for called, part in x.chunks() if isinstance(x, Stored) else [(rows, x)]:
        others = ((part != first) & (part != second) & ~part.isnan()).nonzero()
        if len(others):
            first_other = others[0].tolist()
            value, where = part[tuple(first_other)].item(), describe_index(first_other, called)
            raise ValueError(f"a value {value:g} in {where}; wanted only {first:g} and {second:g}")
    return x.as_binary(values) if isinstance(x, Stored) else torch.where(x.isnan(), x, (x == second).to(x.dtype))


def two_values(x: Tensor) -> tuple[float, float] | None:
    """The two values of `x`, (N, *event), the smaller first; 0 and 1 if only one of those occurs; else None.

    >>> two_values(torch.tensor([0.0, 255.0, 0.0]))
    (0.0, 255.0)
    """
    low, high = value_range(x)
    if {low, high} <= {0.0, 1.0}:
        low, high = 0.0, 1.0
    two = low < high and all(bool(((part == low) | (part == high) | part.isnan()).all()) for part in chunks(x))
    return (low, high) if two else None
