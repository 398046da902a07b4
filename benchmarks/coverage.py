r"""Whether intervals from filled tables hold the truth as often as they say.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py wine RED_WINE
    OMP_NUM_THREADS=1 python benchmarks/coverage.py samples

`wine`: red wine, a random 80 % of the rows, 30 % of all cells hidden completely at random, five masks; the share of
values above the column's mean, for each of 11 columns, from M = 100 draws pooled by Rubin's rules (as U-VAE, AAAI
2026). Bias is |estimate - that of the complete table|, and coverage is of the complete table's value, too, so that
95 % intervals should hold it in nearly all cases, not in 95 %: they also allow for the sampling of the rows. "Observed
values" is the share among the values that are there, with its own interval: no imputation at all.

`samples`: 200 tables of 200 rows from a known factor analysis of 5 columns and 2 factors, 30 % hidden; coverage of the
*true* mean of each column, of the true share above 0.5, and of the true slope of the first column on the second. The
draws come from one model (`impute`, 20), or from models refitted to bootstrapped rows, one a draw (`impute_refitted`,
5); both pooled by `rubin`, intervals of 95 %.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sides import machine, say
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from torch import Tensor

import allegory as al
from allegory import architectures, families
from allegory.estimators import VAEImputer

M, MASKS = 100, (10, 11, 12, 13, 14)  # 0, 1 and 2 were looked at before
SAMPLES, ROWS, REFITS = 200, 200, 5
LOADINGS = torch.tensor([[0.8, 0.0], [0.7, 0.3], [0.0, 0.8], [0.4, 0.6], [0.6, -0.5]], dtype=torch.float64)
NOISE = 1 - LOADINGS.square().sum(1)


def above_mean(draws: Tensor) -> Any:
    """The pooled share of values above the column's mean, of draws (m, N, D)."""
    share = (draws > draws.mean(1, keepdim=True)).double().mean(1)
    return al.rubin(share, share * (1 - share) / draws.shape[1])


def wine(path: Path) -> None:
    table = np.loadtxt(path)
    bias, coverage, width = dict[str, list[float]](), dict[str, list[float]](), dict[str, list[float]]()
    for mask in MASKS:
        say(f"mask {mask}")
        r = np.random.default_rng(mask)
        whole = table[r.permutation(len(table))[: int(0.8 * len(table))]]
        hidden = r.random(whole.shape) < 0.3
        x, columns = np.where(hidden, np.nan, whole), slice(11)
        truth = torch.from_numpy((whole > whole.mean(0)).mean(0)[columns])

        def note(name: str, estimate: Tensor, low: Tensor, high: Tensor, truth: Tensor = truth) -> None:
            bias.setdefault(name, []).append((estimate - truth).abs().mean().item())
            coverage.setdefault(name, []).append(((low < truth) & (truth < high)).double().mean().item())
            width.setdefault(name, []).append((high - low).mean().item())
            say(f"{name}: bias {bias[name][-1]:.4f}, coverage {coverage[name][-1]:.3f}")

        seen = (~hidden).sum(0)[columns]
        share = np.nansum(x > np.nanmean(x, 0), 0)[columns] / seen
        half = 1.96 * np.sqrt(share * (1 - share) / seen)
        note("observed values", *(torch.from_numpy(v) for v in (share, share - half, share + half)))
        chained = [
            IterativeImputer(sample_posterior=True, max_iter=5, random_state=i).fit_transform(x)[:, columns]
            for i in range(M // 10)
        ]
        found = above_mean(torch.from_numpy(np.stack(chained)))
        note(f"Bayesian ridge chained, sampled, M = {M // 10}", found.estimate, found.low, found.high)
        frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
        filled = [drawn.to_numpy(float) for drawn in VAEImputer(random_state=mask).fit(frame).draw(frame, M)]
        found = above_mean(torch.from_numpy(np.stack(filled))[..., columns])
        note(f"VAE, M = {M}", found.estimate, found.low, found.high)
    say("\n| red wine, 30 % hidden | bias | coverage of the complete table's | width |\n| --- | --: | --: | --: |")
    for name in bias:
        means = [np.mean(found[name]) for found in (bias, coverage, width)]
        say(f"| {name} | {means[0]:.4f} | {means[1]:.3f} | {means[2]:.3f} |")


def build(x: Tensor | None = None) -> al.VAE:
    family = families.columns([families.normal] * len(LOADINGS))
    return architectures.mlp((len(LOADINGS),), family, [2], [16], data=x, factors=True).double()


def train(model: al.VAE, rows: Tensor) -> None:
    """From the factor analysis of these rows."""
    model.load_state_dict(build(rows).state_dict())
    al.fit(model, rows, epochs=3, batch_size=50, objective=al.iwae, samples=5, lr=1e-3, ema=0.9, progress=False)


def statistics(draws: Tensor) -> tuple[Tensor, Tensor]:
    """(m, 7) estimates of five means, of a share and of a slope, and their variances, of draws (m, N, 5)."""
    n = draws.shape[1]
    means, share = draws.mean(1), (draws[..., 0] > 0.5).double().mean(1)
    y, x = (draws[..., d] - means[:, None, d] for d in (0, 1))
    slope = (x * y).sum(1) / x.square().sum(1)
    left = (y - slope[:, None] * x).square().sum(1) / (n - 2)
    estimates = torch.cat([means, share[:, None], slope[:, None]], 1)
    variances = [draws.var(1) / n, (share * (1 - share) / n)[:, None], (left / x.square().sum(1))[:, None]]
    return estimates, torch.cat(variances, 1)


def samples() -> None:
    above = torch.special.ndtr(torch.tensor(-0.5, dtype=torch.float64))
    truth = torch.cat([torch.zeros(5), above[None], (LOADINGS[0] @ LOADINGS[1])[None]])
    held = dict[str, list[Any]]()
    for sample in range(SAMPLES):
        g = torch.Generator().manual_seed(sample)
        z, e = (torch.randn(ROWS, d, generator=g, dtype=torch.float64) for d in (2, 5))
        whole = z @ LOADINGS.T + e * NOISE.sqrt()
        x = whole.masked_fill(torch.rand(whole.shape, generator=g) < 0.3, torch.nan)
        torch.manual_seed(sample)
        one = build()
        train(one, x)
        found = {
            "complete table": whole[None].expand(2, -1, -1),
            "one model": al.impute(one, x, 4 * REFITS, samples=100, seed=sample),
            "refitted": al.impute_refitted(build, train, x, REFITS, REFITS, seed=sample, samples=100),
        }
        for name, draws in found.items():
            pooled = al.rubin(*statistics(draws), complete=ROWS - 1)
            held.setdefault(name, []).append(((pooled.low < truth) & (truth < pooled.high)).double())
        if (sample + 1) % 20 == 0:
            means = ", ".join(f"{name} {torch.stack(found).mean():.4f}" for name, found in held.items())
            say(f"{sample + 1} samples: {means}")
    say("\n| draws from | all | means | share | slope |\n| --- | --: | --: | --: | --: |")
    for name, found in held.items():
        each = torch.stack(found).mean(0)
        parts = (each.mean(), each[:5].mean(), each[5], each[6])
        say(f"| {name} | " + " | ".join(f"{part:.3f}" for part in parts) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wine", "samples"))
    parser.add_argument("path", type=Path, nargs="?", help="red wine as a file of numbers")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of chains that have not converged, and of few effective samples
    began = time.process_time()
    say(f"{machine()}\n")
    if asked.what == "wine":
        wine(asked.path)
    else:
        samples()
    say(f"\n{(time.process_time() - began) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
