r"""Messages: how an error names a value of the data, what another library's error says in one line, and what to do
with data that are no tensor, of another shape, or with a number that is no count.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import prod
from os import PathLike
from typing import Any

from torch.utils.data import Dataset

__all__ = ["call_error", "check_counts", "describe_index", "first_line", "no_tensor", "reshaping"]


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


def call_error(function: Any, *arguments: Any) -> str:
    """Why a function cannot be called with such arguments; empty where it can, or where it tells no signature.

    >>> call_error(lambda trace: trace, None, 1.0), call_error(lambda: None)
    ('too many positional arguments', '')
    """
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:  # what is not written in Python
        return ""
    return ""


def no_tensor(name: str, x: Any) -> str:
    """What came in the place of a tensor of examples, what was wanted, and how to make it, in words.

    Args:
        name: of x in the message.
        x: anything but a tensor.

    >>> no_tensor("x", [[0.0, 1.0]])
    'x: got list, wanted a tensor, such as torch.as_tensor(x).float()'
    >>> no_tensor("x", (1, 2))
    'x: got a tuple of 2, wanted a tensor of the examples alone: labels and the like are no part of x'
    """
    got = f"{name}: got {type(x).__name__}, wanted a tensor"
    if isinstance(x, tuple):
        return (
            f"{name}: got a tuple of {len(x)}, wanted a tensor of the examples alone: labels and the like are no part "
            "of x"
        )
    if all(hasattr(x, split) for split in ("train", "valid", "test")):
        return f"{got}: one of its splits, such as data.train"
    if hasattr(x, "dataset") and hasattr(x, "batch_size"):
        return (
            f"{got} of all examples, (N, *event), of which batches are drawn, such as "
            "torch.cat([x for x, *_ in loader])"
        )
    if isinstance(x, Dataset):
        return f"{got}, (N, *event), such as torch.stack([x for x, *_ in dataset])"
    if isinstance(x, list) and x and hasattr(x[0], "is_floating_point"):
        return f"{got}, such as torch.stack(x).float()"
    if hasattr(x, "to_numpy"):
        return f"{got}, such as torch.as_tensor(x.to_numpy()).float()"
    if isinstance(x, str | PathLike):
        return f"{got}, such as allegory.data.load({str(x)!r}).train"
    return f"{got}, such as torch.as_tensor(x).float()"


def reshaping(shape: Sequence[int], event: Sequence[int]) -> str:
    """How data become (N, *event), in words; empty where nothing obvious does it.

    Args:
        shape: of x.
        event: of an example.

    >>> reshaping((5, 28, 28), (784,)), reshaping((784,), (784,)), reshaping((5, 8, 8, 3), (3, 8, 8))
    ('; x.flatten(1) fits', '; one example alone is x[None]', '; x.permute(0, 3, 1, 2) fits')
    """
    shape, event, given = tuple(shape), tuple(event), tuple(shape[1:])
    if shape == event:
        return "; one example alone is x[None]"
    if not given:
        return "; a single number for each example looks like labels"
    if event == (1, *given):
        return "; x[:, None] fits"
    if len(event) == 3 and event == (given[-1], *given[:-1]):
        return "; x.permute(0, 3, 1, 2) fits"
    if prod(given) == prod(event):
        return "; x.flatten(1) fits" if len(event) == 1 else f"; x.view(-1, {', '.join(map(str, event))}) fits"
    return ""


def check_counts(**counts: Any) -> None:
    """Raises a ValueError for a number that is not whole, or below one.

    >>> check_counts(draws=0)
    Traceback (most recent call last):
    ValueError: draws=0: wanted at least 1, a whole number
    """
    for name, value in counts.items():
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: wanted at least 1, a whole number")
