r"""Batches: an epoch's examples, in an order that depends only on the seed and on the epoch.

Shapes: N examples, B examples per batch; each of several processes gets its share of every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allegory.data.stored import Stored
from allegory.given import Contexts
from allegory.runtime import processes

__all__ = ["Batch", "Batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch.

    Args:
        rows: (B,) of all processes.
        data: this process's share of the examples; or what they are gathered from.
        share: rows of data to gather; None if data is the share.
        contexts: what is given with each of the data.
    """

    rows: Tensor
    data: Tensor
    share: Tensor | None = None
    contexts: Contexts = ()

    @property
    def x(self) -> Tensor:
        """(B, *event) this process's share of the examples."""
        return self.data if self.share is None else self.data.index_select(0, self.share)

    @property
    def given(self) -> Contexts:
        """(B, *context) what is given with this process's share of the examples."""
        return self.contexts if self.share is None else tuple(c.index_select(0, self.share) for c in self.contexts)


class Batches:
    """Batches of data; its `len` is the number per epoch, the last of which may be smaller.

    Args:
        data: (N, *event), a tensor or `Stored`.
        size: B.
        seed: of the order.
        transform: applied to each batch of data as it is drawn.
        contexts: what is given, (N, *context) each.

    >>> batches = Batches(torch.arange(5.0)[:, None], size=2, seed=0)
    >>> len(batches), [len(batch.x) for batch in batches.epoch(0)]
    (3, [2, 2, 1])
    """

    def __init__(
        self,
        data: Tensor | Stored,
        size: int,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        contexts: Contexts = (),
    ) -> None:
        self.data: Any = data
        self.contexts = contexts
        self.size, self.seed, self.transform = size, seed, transform

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch. A process whose share of one is empty gets one example, which must not be counted.

        Args:
            epoch: number of the epoch, from 0.
            start: how many of its batches to skip.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        stored = isinstance(self.data, Stored)
        if stored:
            order = self.data.shuffled(generator, self.size)
        else:
            order = torch.randperm(len(self.data), generator=generator).to(self.data.device)
        batches = order.split(self.size)[start:]
        shares = [mine if len(mine := processes.local_rows(rows)) else rows[:1] for rows in batches]
        if self.transform is None and not stored:
            return (Batch(rows, self.data, share, self.contexts) for rows, share in zip(batches, shares, strict=True))
        examples = self.data.prefetch(shares) if stored else (self.data.index_select(0, rows) for rows in shares)
        given = (tuple(c.index_select(0, rows.to(c.device)) for c in self.contexts) for rows in shares)
        changed = examples if self.transform is None else map(self.transform, examples)
        return (Batch(rows, x, None, c) for rows, x, c in zip(batches, changed, given, strict=True))
