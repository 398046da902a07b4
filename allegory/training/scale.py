r"""Scale: whether networks can begin with the data as they are.

At the start a network puts out numbers around 1 for inputs around 1. Raw levels of 0..255, or salaries, end elsewhere:

    q(z_t | ...)   sigma at the bound of `families.positive`, 0.001, or above 50: hardly any gradient comes back, and a
                   training of any length leaves it there
    p(x | z_1)     x, in numbers above 30, costs more than 1,000 nats an element: the law does not reach there; or x
                   varies by less than 0.01, and the law's sigma is at least 0.001

No such training fails, and its bound is that of a much worse model. Models that read x in units of its own, as those of
`allegory.architectures` do that are given `data`, show none of it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from allegory.evaluation.passes import evaluating
from allegory.families import Normal as NormalFamily
from allegory.families import NormalLearned, StudentTFamily
from allegory.model import VAE

__all__ = ["remark_on_scale", "warn_of_scale"]

EXAMPLES = 100
SHARE = 0.05
NARROW, WIDE = 1.01e-3, 50.0  # sigma of q
COSTS, LARGE, SMALL = 1000.0, 30.0, 0.01  # nats; of x


def warn_of_scale(model: VAE, x: Any) -> None:
    """Warns where a training would begin at a scale that it does not leave.

    Args:
        model: as it begins.
        x: (N, *event) training data, a tensor or `Stored`.
    """
    found = remark_on_scale(model, x)
    if found:
        warnings.warn(found, stacklevel=6)


@torch.no_grad()
def remark_on_scale(model: VAE, x: Any) -> str:
    """What is wrong with the scale of x, in a line; empty where nothing is.

    Args:
        model: as it begins.
        x: (N, *event) training data, a tensor or `Stored`.

    >>> remark_on_scale(model, x)
    ''
    """
    rows = x[torch.arange(0, len(x), max(1, len(x) // EXAMPLES))][:EXAMPLES]
    rows = rows.to(next(model.parameters()).device)
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(0)
        trace = model(rows)
        cost = -trace.log_px.median().item() / math.prod(rows.shape[1:])
    seen = f"x, as it is read, goes from {rows.min().item():.4g} to {rows.max().item():.4g}"
    remedy = (
        "networks begin well with numbers around 1: give architectures.mlp or conv the training data, data=x; or "
        "standardise what your own encoder reads, (x - mean) / std"
    )
    for t, q in enumerate(trace.q, start=1):
        extreme = _share_of_extremes(q)
        if extreme > SHARE:
            return (
                f"{extreme:.0%} of the sigmas of {model._q_name(t)} begin at 0.001 or above {WIDE:g}, where hardly any "
                f"gradient moves them: {seen}; {remedy}"
            )
    more = ", and take families.standardized for the likelihood"
    if cost > COSTS and rows.abs().median().item() > LARGE:
        return f"p(x | z_1) begins at {cost:,.0f} nats for each element of x: {seen}; {remedy}{more}"
    spread = rows.double().std(0, correction=0).median().item()
    bounded = isinstance(getattr(model.decoders[0], "family", None), NormalFamily | NormalLearned | StudentTFamily)
    if bounded and 0 < spread < SMALL:
        return f"x varies by {spread:.2g}, and sigma of p(x | z_1) is at least 0.001: {seen}; {remedy}{more}"
    return ""


def _share_of_extremes(law: Distribution) -> float:
    """Of the sigmas of a normal law, those at the lower bound or far above 1."""
    normal = law.base_dist if isinstance(law, Independent) else law
    if not isinstance(normal, Normal):
        return 0.0
    sigma: Tensor = normal.scale
    return ((sigma < NARROW) | (sigma > WIDE)).double().mean().item()
