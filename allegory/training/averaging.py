r"""Averaging: the weights to use are a running average of those that are trained.

    average <- average + (1 - keep) (theta - average),     keep = min(ema, (1 + step) / (10 + step))

so that the average forgets where the training began. Buffers are copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allegory.runtime import processes

__all__ = ["average_buffers", "average_parameters", "effective_ema"]


def average_parameters(averages: list[Tensor], parameters: list[Tensor], ema: float, step: int) -> None:
    """Moves the averages a step towards the parameters, in place.

    Args:
        averages, parameters: tensors in the same order.
        ema: the fraction of itself that the average keeps, in the long run; 0 copies the parameters.
        step: number of steps averaged before.

    >>> average = [torch.zeros(1)]
    >>> average_parameters(average, [torch.ones(1)], ema=0.999, step=0)
    >>> average
    [tensor([0.9000])]
    """
    torch._foreach_lerp_(averages, parameters, 1 - effective_ema(ema, step))


def effective_ema(ema: float, step: int) -> float:
    """The fraction of itself that the average keeps at a step; less at the beginning.

    >>> effective_ema(0.999, 0), effective_ema(0.999, 100_000)
    (0.1, 0.999)
    """
    return min(ema, (1 + step) / (10 + step))


def average_buffers(average: nn.Module, model: nn.Module) -> None:
    """Copies the model's buffers into the average's; with several processes, the mean of theirs."""
    for mean, buffer in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(buffer)
        if mean.is_floating_point():
            processes.all_reduce(mean).div_(processes.world_size())
