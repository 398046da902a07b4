r"""Held-out nats of a mixed table: the 32,561 rows of the census set Adult, every number as a mass in its own units.

    OMP_NUM_THREADS=1 python benchmarks/adult.py adult.csv --splits 0 1 2 3 4

Protocol: rows permuted by numpy's RandomState(split), the first 26,049 to learn from (2,049 of them to choose by), the
last 6,512 to score; all 15 columns, a "?" is a category, whole numbers are whole numbers: log P(row), in nats.

    independent    each column alone: 50 quantile bins and the values that come often, uniform within a bin
    mixture        of 50 products of such columns, by expectation maximisation
    Chow-Liu       the tree of pairs of columns with the largest mutual information, on the same bins (Chow & Liu 1968)
    allegory       log p(income) + log p(the other columns | income): income by its frequency, the others with one level
                   of latents, income given, families chosen by `Schema`, L_K with K = 1,000: a lower bound

How often a value has to come for a bin of its own, and what is added to each count, is chosen for the peers on the
2,049 rows, in each split (the mixture takes the bins of the tree); ours has one setting, and chooses the epoch by them.
The peers' log P is exact and ours a bound, so what ours wins is won. The peers know the edges and the categories of all
rows; ours knows the rows to learn from, and pays for a category that it never saw.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.special import logsumexp
from sides import machine, say

import allegory as al
from allegory.tabular import Schema, Table, read_frame

Array = NDArray[np.int64]
Floats = NDArray[np.float64]
LABEL, POSITIVE = "income", ">50K"
TRAIN, VALID, HELD_OUT, BINS = 26_049, 2_049, 6_512, 50
OFTEN, ADDED = (0.02, 0.005, 0.002, 0.001, 0.0005, 0.0002), (0.003, 0.01, 0.03, 0.1, 0.3)
COMPONENTS, STEPS, ADDED_TO_COMPONENTS = 50, 100, (0.01, 0.1, 0.3)
SETTINGS = {"latent": [24], "hidden": [256, 256]}
FIT = {"objective": al.iwae, "samples": 4, "epochs": 50, "batch_size": 256, "lr": 5e-3, "lr_warmup": 100}


def take(frame: Table, rows: Array) -> Table:
    """Some rows of a table."""
    return Table({name: column[rows] for name, column in frame.items()})


def binned(column: Floats, often: float) -> tuple[Array, Floats]:
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


def coded(frame: Table, order: Array, often: float) -> tuple[Array, list[Floats]]:
    """(N, D) codes of bins and categories, rows in order; for each column the log of how many values a code has."""
    codes, widths = [], []
    for column in take(frame, order).values():
        if column.dtype.kind in "if":
            found, width = binned(column.astype(float), often)
        else:
            found = np.unique(column.astype(str), return_inverse=True)[1]
            width = np.zeros(found.max() + 1)
        codes.append(found)
        widths.append(width)
    return np.stack(codes, 1), widths


def log_within(codes: Array, widths: Sequence[Floats]) -> Floats:
    """(N,) log P of the numbers within their bins."""
    return -np.sum([width[codes[:, j]] for j, width in enumerate(widths)], 0)


def trees(codes: Array, widths: Sequence[Floats], added: float) -> Floats:
    """(2, N) log P of all rows under independent columns, and under the Chow-Liu tree, both of the first rows."""
    train, d = codes[: TRAIN - VALID], codes.shape[1]
    sizes = [len(width) for width in widths]

    def joint(i: int, j: int) -> Floats:
        """(S_i, S_j) smoothed probabilities of two columns."""
        counts = np.bincount(train[:, i] * sizes[j] + train[:, j], minlength=sizes[i] * sizes[j])
        p = counts.reshape(sizes[i], sizes[j]) + added
        return p / p.sum()

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
    return np.stack([np.sum(alone, 0), log_p]) + log_within(codes, widths)


def mixture(codes: Array, widths: Sequence[Floats], added: float, seed: int) -> Floats:
    """(N,) log P of all rows under a mixture of products of the first rows."""
    starts = np.cumsum([0, *(len(width) for width in widths[:-1])])
    (n, d), size = codes.shape, starts[-1] + len(widths[-1])
    ones = csr_matrix((np.ones(n * d), (codes + starts).ravel(), np.arange(0, n * d + 1, d)), (n, size))
    train = ones[: TRAIN - VALID]
    column = np.repeat(np.arange(d), [len(width) for width in widths])
    share = np.random.RandomState(seed).dirichlet(np.full(COMPONENTS, 0.1), train.shape[0])

    def log_joint(share: Floats, rows: csr_matrix) -> Floats:
        """(rows, K) log P of a row and its component, from (train, K) shares."""
        counts = train.T @ share + added
        return rows @ np.log(counts / np.add.reduceat(counts, starts)[column]) + np.log(share.mean(0) + 1e-12)

    for _ in range(STEPS):
        log_p = log_joint(share, train)
        share = np.exp(log_p - logsumexp(log_p, 1, keepdims=True))
    return logsumexp(log_joint(share, ones), 1) + log_within(codes, widths)


def peers(frame: Table, order: Array, seed: int) -> Floats:
    """(3,) held-out nats of independent columns, the mixture and the tree, with the settings best on VALID rows."""
    best, bins = [(-np.inf, -np.inf)] * 3, coded(frame, order, OFTEN[0])

    def keep(place: int, log_p: Floats) -> bool:
        found = log_p[TRAIN - VALID : TRAIN].mean(), log_p[-HELD_OUT:].mean()
        better = found[0] > best[place][0]
        best[place] = found if better else best[place]
        return bool(better)

    for often in OFTEN:
        coding = coded(frame, order, often)
        for added in ADDED:
            alone, tree = trees(*coding, added)
            keep(0, alone)
            bins = coding if keep(2, tree) else bins
    for added in ADDED_TO_COMPONENTS:
        keep(1, mixture(*bins, added, seed))
    return np.array([held_out for _, held_out in best])


class Trained(NamedTuple):
    """p(income) p(the other columns | income), and what the training took."""

    model: al.VAE
    schema: Schema
    share: float
    cpu: float
    wall: float

    def encode(self, frame: Table) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, D) the other columns, (N, 1) whether the income is high; what was never seen is a category of its own."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*never seen|.*beyond the edges", UserWarning)
            return self.schema.encode(without_label(frame)).float(), high(frame)

    def log_share(self, given: torch.Tensor) -> float:
        """The mean of log p(income)."""
        rate = given.mean().item()
        return rate * math.log(self.share) + (1 - rate) * math.log(1 - self.share)

    def sample(self, n: int) -> Table:
        """Rows of the model: of each an income by its frequency, and the other columns given it."""
        given = torch.bernoulli(torch.full((n, 1), self.share))
        incomes = np.where(given[:, 0].numpy() > 0, POSITIVE, "<=50K").astype(object)
        return Table({**self.schema.decode(self.model.sample(n, given=given)), LABEL: incomes})

    def __str__(self) -> str:
        load = os.getloadavg()[1]
        return f"trained in {self.cpu:.0f} CPU seconds, {self.wall:.0f} on the wall at a load of {load:.1f}"


def without_label(frame: Table) -> Table:
    return Table({name: column for name, column in frame.items() if name != LABEL})


def high(frame: Table) -> torch.Tensor:
    """(N, 1) whether the income is high, 0 or 1."""
    return torch.from_numpy(frame[LABEL] == POSITIVE)[:, None].float()


def trained(frame: Table, seed: int) -> Trained:
    """A model of a table's rows; the last VALID of them choose the epoch."""
    cpu, wall = time.process_time(), time.perf_counter()
    schema = Schema.infer(without_label(frame))
    x, given = schema.encode(without_label(frame)).float(), high(frame)
    torch.manual_seed(seed)
    model = al.architectures.mlp(x.shape[1:], schema.family(), **SETTINGS, data=x[:-VALID], given_data=given[:-VALID])
    settings = {**FIT, "seed": seed, "precision": "float32", "compile": "auto", "progress": False}
    al.fit(model, x[:-VALID], given=given[:-VALID], valid=x[-VALID:], valid_given=given[-VALID:], **settings)
    return Trained(model, schema, given.mean().item(), time.process_time() - cpu, time.perf_counter() - wall)


def measured(frame: Table, split: int) -> tuple[float, ...]:
    """Held-out nats of the peers, L_1000, the ELBO and the effective sample size of ours, in one split."""
    order = np.random.RandomState(split).permutation(len(frame["income"]))
    alone, mixed, tree = peers(frame, order, split)
    ours = trained(take(frame, order[:TRAIN]), split)
    x, given = ours.encode(take(frame, order[-HELD_OUT:]))
    score = al.evaluate(ours.model, x, samples=1000, compile="auto", given=given)
    income = ours.log_share(given)
    bound, elbo = income - score.nll, income + score.elbo
    say(
        f"split {split}: independent {alone:.3f}, mixture {mixed:.3f}, Chow-Liu {tree:.3f}, L_1000 {bound:.3f} "
        f"+- {score.nll_stderr:.3f}, of which income {income:.3f}, ELBO {elbo:.3f}, "
        f"effective samples {score.effective_sample_size:.0f}, below 2 for {score.unreliable:.2%}; {ours}"
    )
    return alone, mixed, tree, bound, elbo, score.effective_sample_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="adult.csv, or .csv.gz, with a header")
    parser.add_argument("--splits", type=int, nargs="+", default=range(5), help="seeds of the permutations")
    options = parser.parse_args()
    frame = read_frame(options.csv)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    found = [measured(frame, split) for split in options.splits]
    print("\n| nats per row, held out | mean | standard deviation over splits |\n| --- | --: | --: |")
    names = ("independent columns", f"mixture of {COMPONENTS} products", "Chow-Liu tree", "allegory, L_1000")
    for name, values in zip((*names, "allegory, ELBO", "effective samples of 1,000"), np.array(found).T, strict=True):
        print(f"| {name} | {values.mean():.3f} | {values.std():.3f} |")


if __name__ == "__main__":
    main()
