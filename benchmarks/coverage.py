r"""Whether intervals from filled tables hold the truth as often as they say.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py wine RED_WINE
    OMP_NUM_THREADS=1 python benchmarks/coverage.py samples

`wine`: red wine, a random 80 % of the rows, 30 % of all cells hidden completely at random, five masks; the share of
values above the column's mean, for each of 11 columns, from M = 100 draws pooled by Rubin's rules (as U-VAE, AAAI
2026). Bias is |estimate - that of the complete table|, and coverage is of the complete table's value, too, so that
95 % intervals should hold it in nearly all cases, not in 95 %: they also allow for the sampling of the rows. An
interval of 95 % by what the draws differ alone should hold it in 95 %. "Observed values" is the share among the values
that are there, with its own interval: no imputation at all.

`samples`: 200 tables of 200 rows from a known factor analysis of 5 columns and 2 factors, 30 % hidden; coverage of the
*true* mean of each column, of the true share above 0.5, and of the true slope of the first column on the second. The
draws come from one model (`impute`, 20), or from models refitted to bootstrapped rows, one a draw (`impute_refitted`,
5); both pooled by `rubin`, intervals of 95 %.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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


def above_mean(draws: Tensor) -> list[Any]:
    """The pooled share of values above the column's mean, of draws (m, N, D), of rows at random, and of these."""
    share = (draws > draws.mean(1, keepdim=True)).double().mean(1)
    return [al.rubin(share, within) for within in (share * (1 - share) / draws.shape[1], torch.zeros_like(share))]


def interval(estimate: Any, variance: Any) -> Any:
    estimate, half = torch.from_numpy(estimate), 1.96 * torch.from_numpy(variance).sqrt()
    return SimpleNamespace(estimate=estimate, low=estimate - half, high=estimate + half)


def wine(path: Path) -> None:
    table = np.loadtxt(path)
    results, jumps = dict[str, list[list[float]]](), list[list[float]]()
    for mask in MASKS:
        say(f"mask {mask}")
        r = np.random.default_rng(mask)
        whole = table[r.permutation(len(table))[: int(0.8 * len(table))]]
        hidden = r.random(whole.shape) < 0.3
        x, columns = np.where(hidden, np.nan, whole), slice(11)
        truth = torch.from_numpy((whole > whole.mean(0)).mean(0)[columns])

        def note(name: str, found: Sequence[Any], truth: Tensor = truth) -> None:
            held = [((one.low < truth) & (truth < one.high)).double().mean().item() for one in found]
            off = (found[0].estimate - truth).abs().mean().item()
            results.setdefault(name, []).append([off, held[0], (found[0].high - found[0].low).mean().item(), held[1]])
            say(f"{name}: bias {off:.4f}, coverage {held[0]:.3f}, by the draws alone {held[1]:.3f}")

        seen = (~hidden).sum(0)[columns]
        share = np.nansum(x > np.nanmean(x, 0), 0)[columns] / seen
        variance = share * (1 - share) / seen
        observed = [variance, variance * (1 - seen / len(x))]  # of rows at random, and of these
        note("observed values", [interval(share, each) for each in observed])
        moved = np.abs((whole > np.nanmean(x, 0)).mean(0)[columns] - truth.numpy()).mean()
        fixed = np.abs(np.nansum(x > whole.mean(0), 0)[columns] / seen - truth.numpy()).mean()
        jumps.append([fixed, moved])
        chained = [
            IterativeImputer(sample_posterior=True, max_iter=5, random_state=i).fit_transform(x)[:, columns]
            for i in range(M // 10)
        ]
        note(f"Bayesian ridge chained, sampled, M = {M // 10}", above_mean(torch.from_numpy(np.stack(chained))))
        frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
        filled = [drawn.to_numpy(float) for drawn in VAEImputer(random_state=mask).fit(frame).draw(frame, M)]
        note(f"VAE, M = {M}", above_mean(torch.from_numpy(np.stack(filled))[..., columns]))
    say("\n| red wine, 30 % hidden | bias | coverage of the complete table's | width | coverage by the draws alone |")
    say("| --- | --: | --: | --: | --: |")
    for name, found in results.items():
        off, held, width, alone = np.mean(found, 0)
        say(f"| {name} | {off:.4f} | {held:.3f} | {width:.3f} | {alone:.3f} |")
    fixed, moved = np.mean(jumps, 0)
    say(f"\nobserved values above the complete table's mean: bias {fixed:.4f}; all values above theirs: {moved:.4f}")


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
