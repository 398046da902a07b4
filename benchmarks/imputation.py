r"""Filling tables: what a VAE puts into gaps, beside means, neighbours, chained regressions, trees and a full normal.

    OMP_NUM_THREADS=1 python benchmarks/imputation.py points RED_WINE
    OMP_NUM_THREADS=1 python benchmarks/imputation.py draws FOLDER [--miceforest PYTHON]

`points`: breast cancer (WDBC, from scikit-learn, 569 x 30) and red wine (a file, its first 11 columns), as Mattei &
Frellsen (2019): half of the cells hidden completely at random, five masks; the squared error of the hidden cells, in
units of the standard deviation of the whole column. No method is told of that unit, or of anything else that is hidden.

`draws`: concrete, yacht and red wine, as Jolicoeur-Martineau et al. (2024): three splits of the rows 80/20, a fifth of
the inputs of the larger part hidden, the target never; errors after scaling columns to [0, 1]. With m = 5 draws:

    AvgMAE   mean over the hidden cells of |filled - true|; of draws the mean over these, of one value as it is
    MinMAE   the draw of each row that is nearest, summed over its hidden cells, per hidden cell
    W1       of completed to complete rows, city-block, mean over the draws: an optimal matching

One setting for all tables, that of `VAEImputer` as it is. "RF chained" is scikit-learn's IterativeImputer with forests
of 30 trees, close to missForest; "normal, EM" is a factor analysis of nearly as many factors as columns, of which the
mean is filled in. `points` hands over matrices; `draws` frames of pandas, in which values that come again and again are
seen as such. Of the VAE's draws the seconds do not count the fit, which is that of the median.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

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

from allegory.estimators import VAEImputer
from allegory.factors import factor_analysis, posterior_of_factors

Array = NDArray[np.float64]
DRAWS = 5
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


def vae(x: Array, seed: int) -> Array:
    return VAEImputer(random_state=seed).fit_transform(x)


ONE_VALUE: dict[str, Callable[[Array, int], Array]] = {
    "mean": lambda x, seed: SimpleImputer().fit_transform(x),
    "10 neighbours": standardized(lambda y: KNNImputer(n_neighbors=10).fit_transform(y)),
    "Bayesian ridge chained": lambda x, seed: IterativeImputer(max_iter=20, random_state=seed).fit_transform(x),
    "normal, EM": standardized(normal_by_em),
    "RF chained": forests,
}


def points(red_wine: Path) -> None:
    tables = {"WDBC": load_breast_cancer().data, "red wine": np.loadtxt(red_wine)[:, :11]}
    for table, whole in tables.items():
        errors, seconds = dict[str, list[float]](), dict[str, float]()
        for mask in range(5):
            hidden = np.random.default_rng(mask).random(whole.shape) < 0.5
            x = np.where(hidden, np.nan, whole)
            for name, method in {**ONE_VALUE, "VAE": vae}.items():
                began = time.process_time()
                filled = method(x, mask)
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
                error = (((filled - whole) / whole.std(0))[hidden] ** 2).mean()
                errors.setdefault(name, []).append(error)
            say(f"{table}, mask {mask}: " + ", ".join(f"{name} {found[-1]:.3f}" for name, found in errors.items()))
        say(f"\n| {table} | MSE | ± of five masks | CPU s a fit |\n| --- | --: | --: | --: |")
        for name, found in errors.items():
            say(f"| {name} | {np.mean(found):.3f} | {np.std(found, ddof=1):.3f} | {seconds[name] / 5:.1f} |")
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
    parser.add_argument("--tables", nargs="+", default=["concrete", "yacht", "wine_red"])
    parser.add_argument("--miceforest", metavar="PYTHON", help="of an environment that has it")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of chains that have not converged, and of few effective samples
    say(f"{machine()}\n")
    if asked.what == "points":
        points(asked.path)
    else:
        draws(asked.path, asked.tables, asked.miceforest)


if __name__ == "__main__":
    main()
