r"""Training and eval mode, of every module on its own: a part that is frozen in eval mode stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode", "frozen_parts", "train_mode"]


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
