r"""Argument validation of torch.distributions: off where every pass would pay for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution

__all__ = ["no_validation"]


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
