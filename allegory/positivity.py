r"""Positive numbers: how a network's output becomes one.

    positive(s) = exp(b tanh(s / b)),      b = log(bound),

which is exp(s) near s = 0 and never leaves (1 / bound, bound). Beyond |s| = 6 b, where tanh would soon be 1 to the last
digit, its place is taken by a function that goes to 1 as 1 / |s| does, so that there always is a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["inverse_positive", "positive"]

EDGE = 6.0  # in units of b, from where on tanh is continued with a gradient: with the same value and slope
REMAINDER, SLOPE = 1 - math.tanh(EDGE), 1 - math.tanh(EDGE) ** 2


def positive(s: Tensor, bound: float = 1e3) -> Tensor:
    """exp(b tanh(s / b)) with b = log(bound): a positive number in (1 / bound, bound), with a gradient everywhere.

    >>> positive(torch.tensor([-1e9, 0.0, 1e9]))
    tensor([1.0000e-03, 1.0000e+00, 1.0000e+03])
    """
    b = math.log(bound)
    u = s / b
    inner = u.clamp(-EDGE, EDGE)
    beyond = u - inner
    # A form whose gradient does not cancel.
    tail = REMAINDER * beyond.sign() * (1 - 1 / (1 + SLOPE / REMAINDER * beyond.abs()))
    return torch.exp(b * (torch.tanh(inner) + tail))


@torch.no_grad()
def inverse_positive(value: Tensor, bound: float = 1e3) -> Tensor:
    """The s at which positive(s, bound) is `value`, found by bisection: where an output begins. Values that are out of
    reach have the nearest.

    >>> positive(inverse_positive(torch.tensor([0.5, 100.0])))
    tensor([  0.5000, 100.0000])
    """
    target = value.double()
    low, high = torch.full_like(target, -100.0), torch.full_like(target, 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = positive(middle, bound) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low.to(value.dtype)
