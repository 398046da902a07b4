"""How one array becomes three splits, and whether a row stands in two of them.

    random     80 : 10 : 10, in an order that depends on a seed alone
    ordered    the first rows for train, the last for test: for series, whose neighbours resemble each other
    groups     at random, with all rows of a group in one split

Shapes: N examples, *event the shape of one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.data.builtin import shuffled
from allegory.data.parts import Part
from allegory.data.stored import Stored

__all__ = ["SPLITS", "chunks", "cut", "has_gaps", "row_digests", "value_range"]

SPLITS = ("random", "ordered", "groups")


def cut(parts: dict[str, Part], seed: int, how: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The examples of train, valid and test; and the row of each in the file, or its place among all names.

    Args:
        parts: as `read_splits` returns them.
        seed: of the order.
        how: one of `SPLITS`.
        name: of the source, for messages.

    Raises:
        ValueError: too few examples or groups, or no groups; another way where there are three splits already.
    """
    if how not in SPLITS:
        raise ValueError(f"split={how!r}: wanted one of {', '.join(SPLITS)}")
    if how != "random" and "valid" in parts:
        raise ValueError(f"{name} has its own splits, so that split={how!r} does not apply")
    if how == "groups" and ("" not in parts or parts[""].groups is None):
        raise ValueError(
            f"{name}: to split by groups, wanted an array `groups` beside one array in a .npz file, with a value for "
            "each row, or a folder with sub-folders"
        )
    examples, rows, first = {}, {}, 0
    for split, part in parts.items():
        into = {"": ["train", "valid", "test"], "train": ["train", "valid"]}.get(split, [split])
        into = [split] if "valid" in parts else into
        where = f"{name}, {split}" if split else name
        for one, chosen in zip(into, _rows(part, len(into), seed, how, where), strict=True):
            examples[one] = _take(part.x, chosen) if len(into) > 1 else part.x
            rows[one] = chosen + first
        first += len(part.x) if part.names else 0
    return examples, rows


def row_digests(x: Any) -> Iterator[bytes]:
    """A digest of each row of (N, *event), equal where all its values are."""
    for part in chunks(x):
        for row in (part.flatten(1) + 0.0).numpy():  # -0.0 becomes 0.0
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def chunks(x: Any) -> Iterable[Tensor]:
    """All of x; in parts if it stays on disk."""
    return (part for _, part in x.chunks()) if isinstance(x, Stored) else [x]


def has_gaps(x: Any) -> bool:
    """Whether there is a NaN in x, (N, *event)."""
    return any(bool(part.isnan().any()) for part in chunks(x))


def value_range(x: Any) -> tuple[float, float]:
    """The smallest and the largest number of x, (N, *event), besides gaps; NaN where there are gaps alone."""
    low, high = (x.min().item(), x.max().item()) if math.prod(x.shape) else (math.nan, math.nan)
    if low == low and high == high:
        return low, high
    kept = [part[~part.isnan()] for part in chunks(x)]
    ends = [end.item() for part in kept if len(part) for end in part.aminmax()]
    return (min(ends), max(ends)) if ends else (math.nan, math.nan)


def _rows(part: Part, ways: int, seed: int, how: str, where: str) -> list[Tensor]:
    """The rows of one, two or three splits, all but the first a tenth, with at least one example each."""
    count, advice = len(part.x), "wanted more, or a .npz file with train, valid and test"
    if count < ways:
        raise ValueError(f"{where}: cannot split {count} example{'s' * (count > 1)} in {ways}; {advice}")
    tenth = max(1, round(count / 10))
    if how == "groups":
        names, labels = np.unique(np.asarray(part.groups), return_inverse=True)
        if len(names) < ways:
            raise ValueError(f"{where}: cannot split {len(names)} group{'s' * (len(names) > 1)} in {ways}; {advice}")
        return _group_rows(torch.from_numpy(labels), ways, seed, tenth)
    order = shuffled(count, seed) if how == "random" and ways > 1 else torch.arange(count)
    return list(order.split([count - (ways - 1) * tenth] + [tenth] * (ways - 1)))


def _group_rows(labels: Tensor, ways: int, seed: int, tenth: int) -> list[Tensor]:
    """The rows of whole groups: in random order, they go to the last split until it has a tenth, and so on."""
    sizes, left = labels.bincount(), shuffled(int(labels.max()) + 1, seed).tolist()
    chosen: list[list[int]] = []
    for others in range(ways - 1, 0, -1):  # splits that still need a group
        taken: list[int] = []
        while len(left) > others and (not taken or int(sizes[taken].sum()) < tenth):
            taken.append(left.pop())
        chosen.insert(0, taken)
    return [torch.isin(labels, torch.tensor(groups)).nonzero()[:, 0] for groups in (left, *chosen)]


def _take(x: Any, rows: Tensor) -> Any:
    return x.subset(rows) if isinstance(x, Stored) else x[rows]
