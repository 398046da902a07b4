r"""Filling tables: what a VAE puts into gaps, beside means, neighbours, chained regressions, trees and a full normal.

    OMP_NUM_THREADS=1 python benchmarks/imputation.py points RED_WINE [--masks 0 1 2 3 4] [--methods NAME ...]
    OMP_NUM_THREADS=1 python benchmarks/imputation.py draws FOLDER [--miceforest PYTHON]

`points`: breast cancer (WDBC, from scikit-learn, 569 x 30) and red wine (a file, its first 11 columns, or all 12 of
them, as the authors' notebook reads it), as Mattei & Frellsen (2019): half of the cells hidden completely at random,
five masks; the squared error of the hidden cells, in units of the standard deviation of the whole column. No method is
told of that unit, or of anything else that is hidden.

`draws`: concrete, yacht and red wine, as Jolicoeur-Martineau et al. (2024): three splits of the rows 80/20, a fifth of
the inputs of the larger part hidden, the target never; errors after scaling columns to [0, 1]. With m = 5 draws:

    AvgMAE   mean over the hidden cells of |filled - true|; of draws the mean over these, of one value as it is
    MinMAE   the draw of each row that is nearest, summed over its hidden cells, per hidden cell
    W1       of completed to complete rows, city-block, mean over the draws: an optimal matching

One setting for all tables, that of `VAEImputer` as it is; without copies, it does not fill rows from each other. "RF
chained" is scikit-learn's IterativeImputer with forests of 30 trees; missForest and MIWAE are our writing of what is
published of them, see there; "normal, EM" is a factor analysis of nearly as many factors as columns, of which the mean
is filled in. `points` hands over matrices; `draws` frames of pandas, in which values that come again and again are
seen as such. Of the VAE's draws the seconds do not count the fit, which is that of the median.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sides import machine, say
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.distributions import Normal, StudentT
from torch.nn.functional import softplus

from allegory.estimators import VAEImputer
from allegory.factors import factor_analysis, posterior_of_factors

Array = NDArray[np.float64]
DRAWS = 5
TABLES = ("concrete", "yacht", "wine_red")
MICEFOREST = """
import sys, numpy as np, pandas as pd, miceforest as mf
x, out, seed, draws = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
frame = pd.DataFrame(np.load(x)); frame.columns = [str(c) for c in frame.columns]
kernel = mf.ImputationKernel(frame, num_datasets=draws, random_state=seed)
kernel.mice(5, num_threads=1)
np.save(out, np.stack([kernel.complete_data(dataset=i).to_numpy() for i in range(draws)]))
"""


def standardized(fill: Callable[[Array], Array]) -> Callable[[Array, int], Array]:
    """A method that works in units of what is observed."""

    def method(x: Array, seed: int) -> Array:
        loc, scale = np.nanmean(x, 0), np.nanstd(x, 0)
        scale = np.where(scale > 0, scale, 1.0)
        return loc + scale * fill((x - loc) / scale)

    return method


def normal_by_em(x: Array) -> Array:
    y = torch.from_numpy(x)
    factors = factor_analysis(y, x.shape[1], iterations=200)
    mean = factors.bias + posterior_of_factors(factors, y)[0] @ factors.loadings.T
    return torch.where(y.isnan(), mean, y).numpy()


def forests(x: Array, seed: int) -> Array:
    forest = RandomForestRegressor(30, max_features="sqrt", random_state=seed)
    return IterativeImputer(forest, max_iter=5, random_state=seed).fit_transform(x)


def miss_forest(x: Array, seed: int) -> Array:
    """MissForest (Stekhoven & Buehlmann 2012): columns with few gaps first, forests of 100 trees with leaves as in R,
    until the filled values change more than the time before, whose values then stay; at most ten times.
    """
    gaps, before = np.isnan(x), np.inf
    filled = np.where(gaps, np.nanmean(x, 0), x)
    for _ in range(10):
        last = filled.copy()
        for d in (d for d in gaps.sum(0).argsort(kind="stable") if gaps[:, d].any()):
            others, gap = np.delete(filled, d, 1), gaps[:, d]
            forest = RandomForestRegressor(100, max_features="sqrt", min_samples_split=5, random_state=seed)
            filled[gap, d] = forest.fit(others[~gap], x[~gap, d]).predict(others[gap])
        change = ((filled - last) ** 2).sum() / (filled**2).sum()
        if change > before:
            return last
        before = change
    return filled


def miwae(x: Array, seed: int, latent: int = 10, width: int = 128, particles: int = 20, epochs: int = 500) -> Array:
    """MIWAE (Mattei & Frellsen 2019), as their paper and their notebooks have it: 10 latents, two hidden layers of 128
    tanh, three in the encoder, that reads zeros in gaps; a Student t with more than 3 degrees of freedom; Adam at 1e-3,
    batches of 64, K = 20, 500 epochs; the mean of L = 10,000 particles. Columns are in units of what is observed.
    """
    torch.manual_seed(seed)
    y, columns = torch.from_numpy(x).float(), x.shape[1]
    seen, y = ~y.isnan(), y.nan_to_num(0.0)
    encoder = perceptron(columns, *[width] * 3, 2 * latent)
    decoder = perceptron(latent, *[width] * 2, 3 * columns)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)

    def weigh(index: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """Log w, (K, B), and the means of x, (K, B, D)."""
        mean, s = encoder(y[index]).chunk(2, -1)
        q = Normal(mean, softplus(s) + 1e-6, validate_args=False)
        z = q.rsample((particles,))
        mu, scale, df = decoder(z).chunk(3, -1)
        law = StudentT(3 + softplus(df), mu, softplus(scale) + 1e-3, validate_args=False)
        log_px = (law.log_prob(y[index]) * seen[index]).sum(-1)
        return log_px - z.square().sum(-1) / 2 - q.log_prob(z).sum(-1), mu

    for _ in range(epochs):
        for index in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            (-weigh(index, particles)[0].logsumexp(0).mean()).backward()
            optimizer.step()
    with torch.no_grad():
        found = [weigh(index, 10_000) for index in torch.arange(len(y)).split(16)]
        mean = torch.cat([(log_w.softmax(0)[..., None] * mu).sum(0) for log_w, mu in found])
    return np.where(np.isnan(x), mean.numpy(), x)


def perceptron(*widths: int) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())][:-1]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight)
    return nn.Sequential(*layers)


def vae(x: Array, seed: int, **settings: Any) -> Array:
    return VAEImputer(random_state=seed, **settings).fit_transform(x)


ONE_VALUE: dict[str, Callable[[Array, int], Array]] = {
    "mean": lambda x, seed: SimpleImputer().fit_transform(x),
    "10 neighbours": standardized(lambda y: KNNImputer(n_neighbors=10).fit_transform(y)),
    "Bayesian ridge chained": lambda x, seed: IterativeImputer(max_iter=20, random_state=seed).fit_transform(x),
    "normal, EM": standardized(normal_by_em),
    "RF chained": forests,
}
POINTS: dict[str, Callable[[Array, int], Array]] = {
    **ONE_VALUE,
    "missForest": miss_forest,
    "MIWAE": lambda x, seed: standardized(functools.partial(miwae, seed=seed))(x, seed),
    "VAE, without copies": functools.partial(vae, copies=False),
    "VAE": vae,
}


def points(red_wine: Path, chosen: Sequence[str] | None, masks: Sequence[int], methods: Sequence[str] | None) -> None:
    wine = np.loadtxt(red_wine)
    tables = {"WDBC": load_breast_cancer().data, "red wine": wine[:, :11], "red wine and quality": wine}
    for table in chosen or tables:
        whole = tables[table]
        errors, seconds = dict[str, list[float]](), dict[str, float]()
        for mask in masks:
            hidden = np.random.default_rng(mask).random(whole.shape) < 0.5
            x = np.where(hidden, np.nan, whole)
            for name in methods or POINTS:
                began = time.process_time()
                filled = POINTS[name](x, mask)
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
                error = (((filled - whole) / whole.std(0))[hidden] ** 2).mean()
                errors.setdefault(name, []).append(error)
            say(f"{table}, mask {mask}: " + ", ".join(f"{name} {found[-1]:.3f}" for name, found in errors.items()))
        say(f"\n| {table} | MSE | ± over masks | CPU s a fit |\n| --- | --: | --: | --: |")
        for name, found in errors.items():
            say(f"| {name} | {np.mean(found):.3f} | {np.std(found, ddof=1):.3f} | {seconds[name] / len(masks):.1f} |")
        say("")


def by_miceforest(python: str, x: Array, seed: int) -> Array:
    """(m, N, D) draws, of another environment."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = (str(Path(folder) / name) for name in ("given.npy", "made.npy"))
        np.save(given, x)
        subprocess.run([python, "-W", "ignore", "-c", MICEFOREST, given, made, str(seed), str(DRAWS)], check=True)
        return np.load(made)


def judged(draws: Array, whole: Array, hidden: NDArray[np.bool_]) -> list[float]:
    """AvgMAE, MinMAE and W1 of draws (m, N, D)."""
    low, high = whole.min(0), whole.max(0)
    scaled, true = (draws - low) / (high - low), (whole - low) / (high - low)
    error = np.where(hidden, np.abs(scaled - true), 0.0).sum(2)
    distances = [cdist(true, one, "cityblock") for one in (scaled if scaled.std(0).any() else scaled[:1])]
    w1 = [found[linear_sum_assignment(found)].mean() for found in distances]
    return [error.mean(0).sum() / hidden.sum(), error.min(0).sum() / hidden.sum(), float(np.mean(w1))]


def draws(folder: Path, tables: Sequence[str], miceforest: str | None) -> None:
    for table in tables:
        whole = np.loadtxt(folder / f"{table}.txt")
        results, seconds = dict[str, list[list[float]]](), dict[str, float]()
        for split in range(3):
            rows = train_test_split(whole, test_size=0.2, random_state=split)[0]
            hidden = np.random.default_rng(split).random(rows.shape) < 0.2
            hidden[:, -1] = False
            kept = ~hidden[:, :-1].all(1)
            rows, hidden = rows[kept], hidden[kept]
            for name, (made, took) in filled_by_all(np.where(hidden, np.nan, rows), split, miceforest).items():
                seconds[name] = seconds.get(name, 0.0) + took
                results.setdefault(name, []).append(judged(made, rows, hidden))
            latest = (f"{name} " + "/".join(f"{v:.4f}" for v in found[-1]) for name, found in results.items())
            say(f"{table}, split {split}: " + ", ".join(latest))
        say(f"\n| {table} | AvgMAE | MinMAE | W1 | seconds a fit |\n| --- | --: | --: | --: | --: |")
        for name, found in results.items():
            say(f"| {name} | " + " | ".join(f"{v:.4f}" for v in np.mean(found, 0)) + f" | {seconds[name] / 3:.1f} |")
        say("")


def filled_by_all(x: Array, split: int, miceforest: str | None) -> dict[str, tuple[Array, float]]:
    """Draws (m, N, D) of each method, m = 1 where it has one value, and the seconds that they took."""
    found = dict[str, tuple[Array, float]]()

    def note(name: str, method: Callable[[], Array]) -> None:
        began = time.perf_counter()
        made = method()
        found[name] = (made if made.ndim == 3 else made[None], time.perf_counter() - began)

    for name, method in ONE_VALUE.items():
        note(name, functools.partial(method, x, split))
    if miceforest:
        note("miceforest, 5 draws", functools.partial(by_miceforest, miceforest, x, split))
        note("miceforest, median of 5", lambda: np.median(found["miceforest, 5 draws"][0], 0))
    imputer = VAEImputer(estimate="median", random_state=split)
    frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
    note("VAE, median", lambda: imputer.fit_transform(frame).to_numpy(float))
    note("VAE, 5 draws", lambda: np.stack([drawn.to_numpy(float) for drawn in imputer.draw(frame, DRAWS)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("points", "draws"))
    parser.add_argument("path", type=Path, help="red wine as a file of numbers; or the folder of the three tables")
    parser.add_argument("--tables", nargs="+", help="some of them only")
    parser.add_argument("--masks", nargs="+", type=int, default=[*range(5)], help="of points")
    parser.add_argument("--methods", nargs="+", choices=POINTS, help="of points; all by default")
    parser.add_argument("--miceforest", metavar="PYTHON", help="of an environment that has it")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of chains that have not converged, and of few effective samples
    say(f"{machine()}\n")
    if asked.what == "points":
        points(asked.path, asked.tables, asked.masks, asked.methods)
    else:
        draws(asked.path, asked.tables or TABLES, asked.miceforest)


if __name__ == "__main__":
    main()
