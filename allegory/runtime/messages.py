r"""Messages: how an error names a value of the data, and what another library's error says in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["describe_index", "first_line"]


def describe_index(index: Sequence[int], rows: Sequence[Any] | None = None) -> str:
    """An element of x, (N, *event), in words.

    Args:
        index: of the element, its row first.
        rows: (N,) what the user calls the rows; by default their numbers.

    >>> describe_index([1, 3]), describe_index([0, 0, 5, 7], ["scan7.png"])
    ('row 1, column 3', 'row scan7.png, index 0, 5, 7')
    """
    row, *rest = index
    within = f", {'column' if len(rest) == 1 else 'index'} {', '.join(map(str, rest))}" if rest else ""
    return f"row {row if rows is None else rows[row]}{within}"


def first_line(error: Exception) -> str:
    r"""The first line of an error's message that says something; else its type.

    >>> first_line(RuntimeError("\n\nno C++ compiler\nmore")), first_line(RuntimeError())
    ('no C++ compiler', 'RuntimeError')
    """
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
