"""Rows of a masked diffusion: the columns of a table as codes, one setting.

A number with at most 128 different values is a category for each, a number with more a category for each of 128 ranges
between quantiles, uniform within. 2,049 rows, drawn at random, choose the epoch. Rows are drawn in random orders of
their columns; where a label is named it comes first, as often as in the rows to learn from.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from adult import VALID, Array, Table
from numpy.typing import NDArray

import allegory as al

VALUES, DRAWN_AT_ONCE = 128, 4096
MASKED = {"width": 256, "blocks": 3, "dropout": 0.1}
FIT = {"epochs": 50, "batch_size": 256, "lr": 2e-3, "lr_warmup": 100}


class Coding(NamedTuple):
    """The codes of a column: of each of its values, or of ranges between edges, (V + 1,), for whole numbers."""

    values: NDArray[Any]
    ranges: bool

    @classmethod
    def of(cls, column: NDArray[Any]) -> Coding:
        """Of what a column contains."""
        values = np.unique(column if column.dtype.kind in "if" else column.astype(str))
        if column.dtype.kind not in "if" or len(values) <= VALUES:
            return cls(values, False)
        edges = np.unique(np.quantile(column, np.linspace(0, 1, VALUES + 1), method="nearest"))
        return cls(np.append(edges[:-1], edges[-1] + 1), True)

    def __len__(self) -> int:
        return len(self.values) - self.ranges

    def encode(self, column: NDArray[Any]) -> Array:
        """(N,) codes."""
        if self.ranges:
            return np.searchsorted(self.values, column, side="right") - 1
        return np.searchsorted(self.values, column if self.values.dtype.kind in "if" else column.astype(str))

    def decode(self, codes: Array, generator: np.random.RandomState) -> NDArray[Any]:
        """(N,) values; within a range each whole number is as likely."""
        if self.ranges:
            return generator.randint(self.values[codes], self.values[codes + 1])
        return self.values[codes]


def masked(train: Table, seed: int, label: str | None = None, **settings: Any) -> tuple[Table, str]:
    """As many rows of a masked diffusion as it learned from, and what the training took.

    Args:
        train: to learn from.
        seed: of the weights and the draws.
        label: the column that is drawn first, by its frequency.
        settings: of `fit`.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    coding = {name: Coding.of(column) for name, column in train.items()}
    codes = np.stack([coding[name].encode(column) for name, column in train.items()], 1)
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(codes).float()[order]
    torch.manual_seed(seed)
    model = al.architectures.masked_diffusion(
        x.shape[1:], "categorical", categories=[len(each) for each in coding.values()], data=x[:-VALID], **MASKED
    )
    record = al.fit(model, x[:-VALID], valid=x[-VALID:], seed=seed, progress=False, **{**FIT, **settings})
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    torch.manual_seed(seed)
    known = torch.full_like(x, torch.nan)
    if label is not None:
        column = list(train).index(label)
        known[:, column] = x[torch.randint(len(x), (len(x),)), column]
    drawn = torch.cat([model.eval().complete(part) for part in known.split(DRAWN_AT_ONCE)]).long().numpy()
    generator = np.random.RandomState(seed)
    rows = {name: each.decode(drawn[:, i], generator) for i, (name, each) in enumerate(coding.items())}
    rows = {name: column if column.dtype.kind in "if" else column.astype(object) for name, column in rows.items()}
    load = os.getloadavg()[1]
    took = f"trained in {cpu:.0f} CPU seconds, {wall:.0f} on the wall at a load of {load:.1f}"
    return Table(rows), f"{took}; ELBO of the codes of the rows that chose {record.best_bound:.3f}"
