r"""Pooling: what several completed data sets say together (Rubin 1987).

    Q     = mean of the estimates q_1, ..., q_m
    W     = mean of their variances, B = variance of the estimates between the draws
    T     = W + (1 + 1/m) B                                     the variance of Q
    nu    = (m - 1) (1 + W / ((1 + 1/m) B))^2                   (Q - truth) / sqrt T follows Student's t with nu degrees
    lost  = ((1 + 1/m) B + 2 T / (nu + 3)) / T                  fraction of missing information

Where the complete data have few degrees of freedom themselves, nu is smaller (Barnard & Rubin 1999):

    1 / nu' = 1 / nu + 1 / ((1 - r) nu_c (nu_c + 1) / (nu_c + 3)),    r = (1 + 1/m) B / T

Draws from one fitted model tell how uncertain the missing values are under it, but not how uncertain the model is, so
that intervals are too narrow where the data are few. Refits on bootstrap samples of the rows tell both.

Shapes: m draws, N rows; estimates of any shape *.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import StudentT

from allegory.evaluation.imputation import impute
from allegory.model import VAE
from allegory.quantiles import quantile
from allegory.runtime.messages import check_counts, no_tensor

__all__ = ["Pooled", "impute_refitted", "rubin"]

NORMAL = 1e8  # degrees of freedom from which Student's t is as good as normal


@dataclass(frozen=True)
class Pooled:
    """The result of `rubin`, all of the shape of an estimate.

    Attributes:
        estimate: the pooled estimate Q.
        variance: T, of the estimate; its root is the standard error.
        degrees_of_freedom: nu; infinite where all draws agree.
        low, high: the interval for the true value.
        missing_information: the fraction of the information that is lost by the gaps.
    """

    estimate: Tensor
    variance: Tensor
    degrees_of_freedom: Tensor
    low: Tensor
    high: Tensor
    missing_information: Tensor


def rubin(estimates: Tensor, variances: Tensor, level: float = 0.95, complete: float = math.inf) -> Pooled:
    """Rubin's rules: pools an estimate made from each of m completed data sets.

    Args:
        estimates: (m, *) m >= 2 estimates, such as the mean of a column in each of the draws of `impute`.
        variances: (m, *) the square of each one's standard error, as for data without gaps.
        level: of the interval.
        complete: the degrees of freedom that the estimate has for data without gaps, such as N - 1 of a mean.

    Raises:
        ValueError: fewer than two draws; other shapes; negative variances; a level outside (0, 1).

    >>> filled = 2 + torch.randn(20, 500)                                  # 20 draws of a column
    >>> found = rubin(filled.mean(1), filled.var(1) / 500, complete=499)
    >>> bool(found.low < 2 < found.high)
    True
    """
    q, w = torch.as_tensor(estimates).double(), torch.as_tensor(variances).double()
    if q.shape != w.shape or not q.dim() or len(q) < 2:
        got = f"{tuple(q.shape)} and {tuple(w.shape)}"
        raise ValueError(f"estimates and variances of shapes {got}: wanted one of each for m >= 2 draws, (m, *)")
    if not bool((w >= 0).all()):
        raise ValueError(f"variances: got {w.min():g}, wanted squared standard errors, 0 or more")
    if not (0 < level < 1 and complete > 0):
        raise ValueError(f"level={level}, complete={complete}: wanted 0 < level < 1 and a positive number")
    m, within = len(q), w.mean(0)
    between = (1 + 1 / m) * q.var(0)
    total = within + between
    share = torch.where(total > 0, between / total, torch.zeros_like(total))
    df = (m - 1) / share.square()
    if complete < math.inf:
        observed = (1 - share) * complete * (complete + 1) / (complete + 3)
        df = 1 / (1 / df + 1 / observed)
    capped = df.clamp(1e-3, NORMAL)
    half = quantile(StudentT(capped), torch.full_like(capped, (1 + level) / 2)) * total.sqrt()
    estimate, lost = q.mean(0), share + 2 / (df + 3)
    return Pooled(estimate, total, df, estimate - half, estimate + half, torch.where(share > 0, lost, share))


def impute_refitted(
    build: Callable[[], VAE],
    fit: Callable[[VAE, Tensor], Any],
    x: Tensor,
    draws: int = 20,
    refits: int = 5,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """(m, N, *event) proper multiple imputation: each of several models, fitted to bootstrapped rows, fills the gaps of
    all rows in a share of the draws. So the draws differ by what is not known of the model, too.

    Args:
        build: () -> a new VAE, which torch's seed initialises.
        fit: (model, rows) -> anything; trains it, such as `lambda model, rows: al.fit(model, rows, epochs=100)`.
        x: (N, *event) data; a NaN is a gap.
        draws: m.
        refits: how many models; of at most m. With five, training takes five times as long.
        seed: of the bootstrap samples, of torch's generator for `build`, and of the draws.
        settings: of `impute`.

    >>> family = al.families.observed(al.families.bernoulli)
    >>> x[0, 2] = torch.nan
    >>> filled = impute_refitted(
    ...     lambda: al.architectures.mlp((6,), family, latent=[2], hidden=[8]),
    ...     lambda model, rows: al.fit(model, rows, epochs=1),
    ...     x, draws=4, refits=2,
    ... )
    >>> filled.shape
    torch.Size([4, 7, 6])
    """
    check_counts(draws=draws, refits=refits)
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    if refits > draws:
        raise ValueError(f"refits={refits}: wanted at most one for each of draws={draws}")
    found = []
    for i in range(refits):
        with torch.random.fork_rng():
            torch.manual_seed(seed + i)
            rows = torch.randint(len(x), (len(x),)).to(x.device)
            model = build()
            fit(model, x[rows])
        share = len(range(i, draws, refits))
        found.append(impute(model, x, draws=share, seed=seed + i, **settings))
    return torch.cat(found)
