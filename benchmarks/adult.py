r"""Held-out nats of a mixed table: the 32,561 rows of the census set Adult, every number as a mass in its own units.

    python benchmarks/adult.py adult.csv --splits 5

Protocol: rows permuted by numpy's RandomState(split), the first 26,049 to learn from (2,049 of them to choose by), the
last 6,512 to score; all 15 columns, a "?" is a category, whole numbers are whole numbers: log P(row), in nats.

    independent    each column alone: 50 quantile bins and the values that come often, uniform within a bin
    Chow-Liu       the tree of pairs of columns with the largest mutual information, on the same bins (Chow & Liu 1968)
    allegory       one level of latents, families chosen by `Schema`, L_K with K = 1,000: a lower bound

How often a value has to come for a bin of its own, and what is added to each count, is chosen for the peers on the
2,049 rows, in each split; ours has one setting, and chooses the epoch by them. The peers' log P is exact and ours a
bound, so what ours wins is won.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from sides import machine, say

import allegory as al
from allegory.tabular import Schema, read_frame

Array = NDArray[np.int64]
TRAIN, VALID, HELD_OUT, BINS = 26_049, 2_049, 6_512, 50
OFTEN, ADDED = (0.02, 0.005, 0.002, 0.001, 0.0005, 0.0002), (0.003, 0.01, 0.03, 0.1, 0.3)
SETTINGS = {"latent": [16], "hidden": [256, 256]}
FIT = {"epochs": 40, "batch_size": 256, "lr": 3e-3}


def binned(column: NDArray[np.float64], often: float) -> tuple[Array, NDArray[np.float64]]:
    """(N,) the bin of each value, and (bins,) the log of how many whole numbers each has.

    Args:
        column: (N,) whole numbers.
        often: the share of the rows from which on a value has a bin of its own.
    """
    train = column[: TRAIN - VALID]
    values, counts = np.unique(train, return_counts=True)
    alone = values[counts > often * len(train)]
    edges = np.concatenate([np.quantile(train, np.linspace(0, 1, BINS), method="nearest"), alone, alone + 1])
    bounds = np.unique(np.concatenate([[column.min()], edges, [column.max() + 1]]))
    return np.searchsorted(bounds, column, side="right") - 1, np.log(np.diff(bounds))


def coded(frame: dict[str, Any], order: Array, often: float) -> tuple[Array, list[NDArray[np.float64]]]:
    """(N, D) codes of bins and categories, rows in order; for each column the log of how many values a code has."""
    codes, widths = [], []
    for column in frame.values():
        if column.dtype.kind in "if":
            found, width = binned(column[order].astype(float), often)
        else:
            found = np.unique(column[order].astype(str), return_inverse=True)[1]
            width = np.zeros(found.max() + 1)
        codes.append(found)
        widths.append(width)
    return np.stack(codes, 1), widths


def trees(codes: Array, widths: Sequence[NDArray[np.float64]], added: float) -> NDArray[np.float64]:
    """(2, N) log P of all rows under independent columns, and under the Chow-Liu tree, both of the first rows."""
    train, d = codes[: TRAIN - VALID], codes.shape[1]
    sizes = [len(width) for width in widths]

    def joint(i: int, j: int) -> NDArray[np.float64]:
        """(S_i, S_j) smoothed probabilities of two columns."""
        counts = np.bincount(train[:, i] * sizes[j] + train[:, j], minlength=sizes[i] * sizes[j])
        p = counts.reshape(sizes[i], sizes[j]) + added
        return p / p.sum()

    within = -np.sum([width[codes[:, j]] for j, width in enumerate(widths)], 0)
    counts = [np.bincount(train[:, j], minlength=sizes[j]) + added for j in range(d)]
    alone = [np.log(counts[j] / counts[j].sum())[codes[:, j]] for j in range(d)]
    information = np.zeros((d, d))
    for i in range(d):
        for j in range(i):
            p = joint(i, j)
            information[i, j] = (p * np.log(p / (p.sum(1, keepdims=True) * p.sum(0)))).sum()
    order, parents = breadth_first_order(minimum_spanning_tree(-information - 1e-9), 0, directed=False)
    log_p = alone[order[0]].copy()
    for j in order[1:]:
        p = joint(parents[j], j)
        log_p += np.log(p / p.sum(1, keepdims=True))[codes[:, parents[j]], codes[:, j]]
    return np.stack([np.sum(alone, 0), log_p]) + within


def peers(frame: dict[str, Any], order: Array) -> NDArray[np.float64]:
    """(2,) held-out nats of independent columns and of the tree, each with the settings that are best on VALID rows."""
    chosen = slice(TRAIN - VALID, TRAIN)
    best = np.full(2, -np.inf), np.full(2, -np.inf)
    for often in OFTEN:
        codes, widths = coded(frame, order, often)
        for added in ADDED:
            log_p = trees(codes, widths, added)
            valid, held_out = log_p[:, chosen].mean(1), log_p[:, -HELD_OUT:].mean(1)
            better = valid > best[0]
            best = np.where(better, valid, best[0]), np.where(better, held_out, best[1])
    return best[1]


def ours(schema: Schema, x: torch.Tensor, split: int) -> tuple[float, float, float]:
    """L_1000, its standard error, and seconds of training."""
    began = time.perf_counter()
    torch.manual_seed(split)
    train, valid = x[: TRAIN - VALID], x[TRAIN - VALID : TRAIN]
    model = al.architectures.mlp(x.shape[1:], schema.family(), **SETTINGS, data=train)
    al.fit(model, train, valid=valid, **FIT, seed=split, progress=False, compile="auto")
    seconds = time.perf_counter() - began
    bounds = al.log_likelihood(model, x[-HELD_OUT:], samples=1000)
    return bounds.mean().item(), bounds.std().item() / HELD_OUT**0.5, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="adult.csv, or .csv.gz, with a header")
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    frame = read_frame(options.csv)
    schema = Schema.infer(frame)
    x = schema.encode(frame).float()
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    found = []
    for split in range(options.splits):
        order = np.random.RandomState(split).permutation(len(x))
        alone, tree = peers(dict(frame), order)
        bound, error, seconds = ours(schema, x[torch.from_numpy(order)], split)
        found.append((alone, tree, bound))
        line = f"split {split}: independent {alone:.2f}, Chow-Liu {tree:.2f}, ours {bound:.3f} +- {error:.3f}"
        say(f"{line}, trained in {seconds:.0f} s")
    print("\n| nats per row, held out | mean | standard deviation over splits |\n| --- | --- | --- |")
    names = ("independent columns", "Chow-Liu tree", "allegory, L_1000")
    for name, values in zip(names, np.array(found).T, strict=True):
        print(f"| {name} | {values.mean():.3f} | {values.std():.3f} |")


if __name__ == "__main__":
    main()
