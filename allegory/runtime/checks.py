r"""Checks: argument validation of torch.distributions, off where every pass would pay for it; where a value stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.distributions import Distribution

__all__ = ["no_validation", "place"]


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


def place(index: Sequence[int], rows: Sequence[Any] | None = None) -> str:
    """An element of x, (N, *event), in words.

    Args:
        index: of the element, its row first.
        rows: (N,) what the user calls the rows; by default their numbers.

    >>> place([1, 3]), place([0, 0, 5, 7], ["scan7.png"])
    ('row 1, column 3', 'row scan7.png, index 0, 5, 7')
    """
    row, *rest = index
    within = f", {'column' if len(rest) == 1 else 'index'} {', '.join(map(str, rest))}" if rest else ""
    return f"row {row if rows is None else rows[row]}{within}"
