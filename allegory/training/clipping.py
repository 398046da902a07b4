r"""Clipping: a gradient is scaled down to `clip` times the running median of its norm, and skipped above `skip` times.

    ratio = |g| / median,    g <- g * min(1, clip / ratio),    or 0 where ratio > skip, MAX_SKIPS times in a row at most

The median of log |g| moves up or down by the same small step whichever side a new norm is on, so that no single
gradient, however large, moves it far. Everything stays on the gradient's device, without synchronisation.

Shapes: all are (); `norms` is (3,): the running median of log |g|, the number of gradients, skips in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MAX_SKIPS", "clip_scale", "gradient_norm", "initial_norms"]

MAX_SKIPS = 3
"""How many gradients in a row are left out at most."""


def initial_norms(device: torch.device) -> Tensor:
    """(3,) the state of `clip_scale` before the first gradient.

    >>> initial_norms(torch.device("cpu"))
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    return torch.zeros(3, dtype=torch.float64, device=device)


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """() the norm of all gradients together, in float64: in float32 its square overflows at 2e19, which a burst reaches
    while every gradient is still finite.

    Args:
        gradients: of any shapes, at least one.

    >>> gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5., dtype=torch.float64)
    """
    if gradients[0].is_cpu:  # where float64 copies all gradients, and a check costs no synchronisation
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).double()
        if torch.isfinite(norm):
            return norm
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float64)))


def clip_scale(norm: Tensor, norms: Tensor, clip: float, skip: float) -> tuple[Tensor, Tensor]:
    """() the factor on the gradient, and () whether it should have been skipped but too many were. Updates `norms` in
    place.

    Args:
        norm: () of the gradient.
        norms: (3,) the state; see the module.
        clip, skip: multiples of the running median.

    >>> norms = initial_norms(torch.device("cpu"))
    >>> for _ in range(20):
    ...     scale, burst = clip_scale(torch.tensor(1.0), norms, clip=2.0, skip=100.0)
    >>> scale, burst = clip_scale(torch.tensor(10.0), norms, clip=2.0, skip=100.0)
    >>> 0.2 <= scale < 0.21, bool(burst)
    (tensor(True), False)
    """
    median, seen, skips = norms.unbind()
    logarithm = norm.clamp(min=1e-30).log()
    median = torch.where(seen == 0, logarithm, median + torch.sign(logarithm - median) / (seen + 1).clamp(max=50))
    ratio = norm / median.exp()
    large = ratio > skip
    skipped = large & (skips < MAX_SKIPS)
    norms.copy_(torch.stack([median, seen + 1, torch.where(skipped, skips + 1, 0)]))
    return torch.where(skipped, 0.0, (clip / ratio).clamp(max=1)), large & ~skipped
