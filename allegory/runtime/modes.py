r"""Modes: training and eval mode, of every module on its own, so that a part that is frozen in eval mode stays so; and
the argument checks of torch.distributions, off where every pass would pay for them; and torch's generators.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributions import Distribution

__all__ = ["eval_mode", "forked_rng", "frozen_parts", "no_validation", "train_mode"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each part is in the mode it was in."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def frozen_parts(module: nn.Module) -> list[nn.Module]:
    """The parts that a training leaves in eval mode: they are in it, and have parameters, of which none is learned.

    >>> body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False).eval()
    >>> frozen_parts(nn.Sequential(body, nn.Linear(2, 2)))[0] is body
    True
    """
    return [
        part
        for part in module.modules()
        if not part.training and (learned := [p.requires_grad for p in part.parameters()]) and not any(learned)
    ]


def train_mode(module: nn.Module, frozen: list[nn.Module]) -> None:
    """Training mode, but for the parts that are frozen."""
    module.train()
    for part in frozen:
        part.eval()


@contextmanager
def no_validation() -> Iterator[None]:
    """Switches the argument checks of torch.distributions off, and back to what they were. They cost more than the
    densities; the data have already been checked.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def forked_rng(module: nn.Module) -> Iterator[None]:
    """Draws inside leave torch's generators as they were, on the CPU and on the GPUs that the module is on."""
    with torch.random.fork_rng(list({p.device for p in module.parameters() if p.is_cuda})):
        yield
