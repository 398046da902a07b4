r"""Evaluation: what a model is worth, in nats an example.

    L_K  = E log mean_{k=1..K} w_k        rises to log p(x) with K; L_1 = ELBO                (Burda et al. 2016)
    ESS  = (sum_k w_k)^2 / sum_k w_k^2    between 1 and K; near 1 a single particle carries L_K, which then says little
    active units of level t: those whose posterior mean E[z_t | x] varies over x by more than 0.01      (Burda et al.)

L_K is a lower bound on log p(x) in expectation, so minus L_K is an upper bound on the negative log-likelihood: always
say K. Every example counts once, none is dropped; a NaN shows.

Everything here runs without gradients, in eval mode, in passes of at most `pairs` (example, particle) pairs, so that
memory does not grow with K or N. By default a pass makes some four million numbers for p(x | z_1), which a cache still
likes.

Shapes: S particles a pass, B examples a pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from allegory.model import VAE

__all__ = ["Evaluation", "bound_curve", "evaluate", "log_likelihood", "posterior_moments"]

ACTIVE = 0.01
TRUSTED = 2.0


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; nats an example unless said.

    Attributes:
        examples: N.
        importance_samples: K.
        nll, nll_stderr: minus L_K, and its standard error over the examples.
        elbo, elbo_stderr: the ELBO, averaged over K draws.
        reconstruction: E_q log p(x | z_1).
        kl_per_level: the rate of each level, level 1 first.
        active_units: how many latents of each level vary with x.
        bits_per_dim: nll in bits an element of x. Of a density it depends on the unit of x.
        effective_sample_size: ESS of the K weights, averaged over the examples.
        unreliable: the fraction of examples whose ESS is below 2.
    """

    examples: int
    importance_samples: int
    nll: float
    nll_stderr: float
    elbo: float
    elbo_stderr: float
    reconstruction: float
    kl_per_level: list[float]
    active_units: list[int]
    bits_per_dim: float
    effective_sample_size: float
    unreliable: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return asdict(self)


@contextmanager
def unvalidated() -> Iterator[None]:
    """Switches the argument checks of torch.distributions off, and back to what they were. They cost more than the
    densities; the data have been checked at the edge.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """No gradient, eval mode, no checks; and the mode restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), unvalidated():
            yield
    finally:
        model.train(training)


def log_likelihood(model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None) -> Tensor:
    """(N,) L_K of each example with K = samples, nats: a lower bound of log p(x) in expectation.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs a pass; bounds the memory. By default as many as give four million
            numbers for p(x | z_1).

    >>> al.log_likelihood(model, x, samples=10).shape
    torch.Size([7])
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    with scoring(model):
        parts = [_weights(model, rows, samples, pairs).log_w for rows in _batches(x, samples, pairs)]
    return (torch.cat(parts) - math.log(samples)).to(x.dtype)


def evaluate(model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None) -> Evaluation:
    """L_K, the ELBO and its parts, active units and the effective sample size, of all examples.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs a pass; bounds the memory. By default as many as give four million
            numbers for p(x | z_1).
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    with scoring(model):
        parts = [_weights(model, rows, samples, pairs) for rows in _batches(x, samples, pairs)]
    log_w = torch.cat([part.log_w for part in parts])
    bound = log_w - math.log(samples)
    ess = torch.exp(2 * log_w - torch.cat([part.log_w2 for part in parts]))
    term = torch.cat([part.terms for part in parts], dim=1).double()
    elbo = term[0] - term[1:].sum(0)
    means = [torch.cat(level).double() for level in zip(*(part.means for part in parts), strict=True)]
    active = [int((mean.var(0, correction=0) > ACTIVE).sum()) for mean in means]
    result = Evaluation(
        examples=len(x),
        importance_samples=samples,
        nll=-bound.mean().item(),
        nll_stderr=_stderr(bound),
        elbo=elbo.mean().item(),
        elbo_stderr=_stderr(elbo),
        reconstruction=term[0].mean().item(),
        kl_per_level=term[1:].mean(1).tolist(),
        active_units=active,
        bits_per_dim=-bound.mean().item() / (math.prod(x.shape[1:]) * math.log(2)),
        effective_sample_size=ess.mean().item(),
        unreliable=(ess < TRUSTED).double().mean().item(),
    )
    if samples > TRUSTED and result.unreliable > 0.5:
        warnings.warn(
            f"L_{samples} says little: for {result.unreliable:.0%} of the examples the effective sample size is below "
            f"{TRUSTED:g}, so the bound may be far below log p(x); use more samples, or train longer",
            stacklevel=2,
        )
    return result


def bound_curve(model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None) -> list[tuple[int, float, float]]:
    """L_K against K: (K, the mean of L_K over x, its standard error), for K = 1, 2, 5, 10, ... up to `samples`.

    Every example's weights are drawn once; L_K averages over all groups of K among them. A curve that still rises at
    its end says that log p(x) is not reached.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: the largest K.
        pairs: (example, particle) pairs a pass; bounds the memory.

    >>> [k for k, bound, error in al.bound_curve(model, x, samples=12)]
    [1, 2, 5, 10, 12]
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    ladder = sorted({k * 10**i for i in range(12) for k in (1, 2, 5) if k * 10**i < samples} | {samples})
    parts = []
    with scoring(model):
        for rows in _batches(x, samples, pairs):
            passes = _passes(samples, max(1, pairs // len(rows)))
            log_w = torch.cat([model(rows, samples=s).log_weight.double() for s in passes])
            groups = [log_w[: samples // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k) for k in ladder]
            parts.append(torch.stack([group.mean(0) for group in groups]))
    bounds = torch.cat(parts, dim=1)
    return [(k, bound.mean().item(), _stderr(bound)) for k, bound in zip(ladder, bounds, strict=True)]


def posterior_moments(model: VAE, x: Tensor, samples: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every latent given x, level 1 first, each (N, *event_t). Exact at level 1; above
    it the level below is averaged over `samples` draws.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: draws of the levels below.
    """
    _check_samples(samples)
    model.check(x)
    parts: list[list[tuple[Tensor, Tensor]]] = []
    with scoring(model):
        for rows in _batches(x, samples, pairs_for(model, x)):
            latents, laws = model._infer(rows, samples)
            parts.append([_moments(q, z) for q, z in zip(laws, latents, strict=True)])
    return [
        (torch.cat([mean for mean, _ in level]), torch.cat([variance for _, variance in level]).sqrt())
        for level in zip(*parts, strict=True)
    ]


class _Sums(NamedTuple):
    """Of one batch and K particles: log sum w and log sum w^2, (B,); the mean of log p(x | z_1) and of each rate,
    (1 + T, B); E[z_t | x] of each level.
    """

    log_w: Tensor
    log_w2: Tensor
    terms: Tensor
    means: list[Tensor]


def _weights(model: VAE, x: Tensor, samples: int, pairs: int) -> _Sums:
    """Passes over K particles of one batch."""
    log_w: list[Tensor] = []
    terms: list[Tensor] = []
    means: list[list[Tensor]] = []
    passes = list(_passes(samples, max(1, pairs // len(x))))
    for s in passes:
        trace = model(x, samples=s)
        log_px = trace.log_px
        log_w.append(log_px + (trace.log_pz - trace.log_qz).sum(0))
        terms.append(torch.cat([log_px[None], trace.kl]).sum(1) / samples)
        moments = [_moments(q, z) for q, z in zip(trace.q, trace.latents, strict=True)]
        means.append([mean * (s / samples) for mean, _ in moments])
    return _Sums(
        torch.stack([w.double().logsumexp(0) for w in log_w]).logsumexp(0),
        torch.stack([(2 * w.double()).logsumexp(0) for w in log_w]).logsumexp(0),
        torch.stack(terms).sum(0),
        [torch.stack(level).sum(0) for level in zip(*means, strict=True)],
    )


def _moments(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """E[z_t | x] and Var[z_t | x], each (B, *event_t), from the law and the draws of S particles."""
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError:
        return z.mean(0), z.var(0, correction=0)
    if mean.dim() < z.dim():
        return mean, variance
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)


def pairs_for(model: VAE, x: Tensor) -> int:
    """How many (example, particle) pairs of x: (N, *event) to take in one pass, by the numbers p(x | z_1) needs."""
    size = getattr(getattr(model.decoders[0], "family", None), "size", 1)
    return max(100, 2**22 // (size * math.prod(x.shape[1:])))


def _batches(x: Tensor, samples: int, pairs: int) -> Iterator[Tensor]:
    """Few examples a pass and many particles of each, so that the encoder runs seldom."""
    return iter(x.split(max(1, min(100, pairs // samples) or 1)))


def _passes(samples: int, size: int) -> Iterator[int]:
    for start in range(0, samples, size):
        yield min(size, samples - start)


def _stderr(x: Tensor) -> float:
    return (x.std(correction=1) / math.sqrt(len(x))).item() if len(x) > 1 else math.nan


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples={samples}: wanted K >= 1 particles")
