r"""Evaluation: what a model is worth, in nats an example.

    L_K  = E log mean_{k=1..K} w_k        rises to log p(x) with K; L_1 = ELBO                (Burda et al. 2016)
    ESS  = (sum_k w_k)^2 / sum_k w_k^2    between 1 and K; near 1 a single particle carries L_K, which then says little
    active units of level t: those whose posterior mean E[z_t | x] varies over x by more than 0.01      (Burda et al.)
                             Where that mean is one over particles, the variance of its error is taken off, which
                             needs K > 1: with a single particle its noise counts as activity

L_K is a lower bound on log p(x) in expectation, so minus L_K is an upper bound on the negative log-likelihood: always
say K. Every example counts once, none is dropped; a NaN shows.

In bfloat16 the networks' matrix products are rounded, the densities are not: the rounded networks are a model of their
own, and L_K is a bound of its likelihood, as honest as the other.

Everything here runs without gradients, in eval mode, in passes of at most `pairs` (example, particle) pairs, so that
memory does not grow with K or N. By default a pass makes some million numbers for p(x | z_1), which a cache still
likes.

Shapes: S particles a pass, B examples a pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

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


def rounded(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in `precision`, and everything else as it is.

    Raises:
        ValueError: neither "float32" nor "bfloat16".
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: wanted 'float32' or 'bfloat16'")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def scoring(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """No gradient, eval mode, no checks; and the mode restored."""
    training = model.training
    device = next(model.parameters(), torch.empty(0)).device
    model.eval()
    try:
        with torch.no_grad(), unvalidated(), rounded(device, precision):
            yield
    finally:
        model.train(training)


def log_likelihood(
    model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None, precision: str = "float32"
) -> Tensor:
    """(N,) L_K of each example with K = samples, nats: a lower bound of log p(x) in expectation.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs a pass; bounds the memory. By default as many as give a million
            numbers for p(x | z_1).
        precision: "float32", or "bfloat16" for the matrix products of the networks.

    >>> al.log_likelihood(model, x, samples=10).shape
    torch.Size([7])
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    with scoring(model, precision):
        (log_w,) = gather(x, _batch(samples, pairs), lambda rows: _weigh(model, rows, samples, pairs)[:1])
    return (log_w - math.log(samples)).to(x.dtype)


def evaluate(
    model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None, precision: str = "float32"
) -> Evaluation:
    """L_K, the ELBO and its parts, active units and the effective sample size, of all examples.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs a pass; bounds the memory. By default as many as give a million
            numbers for p(x | z_1).
        precision: "float32", or "bfloat16" for the matrix products of the networks.
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    sums: list[Tensor] = []  # over x, of E[z_t | x], its square, and its error's, (3, *event_t) for each level

    def score(rows: Tensor) -> tuple[Tensor, ...]:
        log_w, log_w2, terms, *means = _weigh(model, rows, samples, pairs)
        parts = []
        for mean, square in zip(means[::2], means[1::2], strict=True):
            error = (square - mean.square()).clamp(min=0) / max(1, samples - 1)
            parts.append(torch.stack([mean.sum(0), mean.square().sum(0), error.sum(0)]))
        sums[:] = parts if not sums else [total.add_(part) for total, part in zip(sums, parts, strict=True)]
        return log_w, log_w2, terms

    with scoring(model, precision):
        log_w, log_w2, terms = gather(x, _batch(samples, pairs), score)
    bound = log_w - math.log(samples)
    ess = torch.exp(2 * log_w - log_w2)
    elbo = terms[:, 0] - terms[:, 1:].sum(1)
    active = [
        int((square - mean.square() - error > ACTIVE).sum()) for mean, square, error in (s / len(x) for s in sums)
    ]
    result = Evaluation(
        examples=len(x),
        importance_samples=samples,
        nll=-bound.mean().item(),
        nll_stderr=_stderr(bound),
        elbo=elbo.mean().item(),
        elbo_stderr=_stderr(elbo),
        reconstruction=terms[:, 0].mean().item(),
        kl_per_level=terms[:, 1:].mean(0).tolist(),
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


def bound_curve(
    model: VAE, x: Tensor, samples: int = 1000, pairs: int | None = None, precision: str = "float32"
) -> list[tuple[int, float, float]]:
    """L_K against K: (K, the mean of L_K over x, its standard error), for K = 1, 2, 5, 10, ... up to `samples`.

    Every example's weights are drawn once; L_K averages over all groups of K among them. A curve that still rises at
    its end says that log p(x) is not reached.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: the largest K.
        pairs: (example, particle) pairs a pass; bounds the memory.
        precision: as in `evaluate`.

    >>> [k for k, bound, error in al.bound_curve(model, x, samples=12)]
    [1, 2, 5, 10, 12]
    """
    _check_samples(samples)
    model.check(x)
    pairs = pairs or pairs_for(model, x)
    ladder = sorted({k * 10**i for i in range(12) for k in (1, 2, 5) if k * 10**i < samples} | {samples})

    def averages(rows: Tensor) -> tuple[Tensor]:
        passes = _passes(samples, max(1, pairs // len(rows)))
        log_w = torch.cat([model(rows, samples=s).log_weight.double() for s in passes])
        groups = [log_w[: samples // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k) for k in ladder]
        return (torch.stack([group.mean(0) for group in groups], 1),)

    with scoring(model, precision):
        (bounds,) = gather(x, _batch(samples, pairs), averages)
    return [(k, bound.mean().item(), _stderr(bound)) for k, bound in zip(ladder, bounds.unbind(1), strict=True)]


def posterior_moments(model: VAE, x: Tensor, samples: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every latent given x, level 1 first, each (N, *event_t). Exact where the
    posterior reads x alone, at level 1 bottom-up and at level T top-down; elsewhere averaged over `samples` draws.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: draws of the levels below.
    """
    _check_samples(samples)
    model.check(x)

    def moments(rows: Tensor) -> tuple[Tensor, ...]:
        latents, laws = model._infer(rows, samples)
        return tuple(part for q, z in zip(laws, latents, strict=True) for part in _moments(q, z))

    with scoring(model):
        found = gather(x, _batch(samples, pairs_for(model, x)), moments)
    return [(mean, variance.sqrt()) for mean, variance in zip(found[::2], found[1::2], strict=True)]


def _weigh(model: VAE, x: Tensor, samples: int, pairs: int) -> tuple[Tensor, ...]:
    """Of one batch and K particles, in float64: log sum w and log sum w^2, (B,); the mean of log p(x | z_1) and of each
    rate, (B, 1 + T); of each level E[z_t | x], and the mean over the particles of the square of what it is the mean of,
    (B, *event_t) both.
    """
    sums: list[Tensor] = []
    for s in _passes(samples, max(1, pairs // len(x))):
        trace = model(x, samples=s)
        log_px = trace.log_px
        log_w = (log_px + (trace.log_pz - trace.log_qz).sum(0)).double()
        terms = torch.cat([log_px[None], trace.kl]).double().sum(1).T / samples
        found = [log_w.logsumexp(0), (2 * log_w).logsumexp(0), terms]
        for q, z in zip(trace.q, trace.latents, strict=True):
            mean = _means(q, z).double()
            found += [mean.sum(0) / samples, mean.square().sum(0) / samples]
        if sums:
            found = [*map(torch.logaddexp, sums[:2], found[:2]), *map(torch.add, sums[2:], found[2:])]
        sums = found
    return tuple(sums)


def _means(q: Distribution, z: Tensor) -> Tensor:
    """E[z_t | ...] of each particle, (S, B, *event_t); the draws themselves where q does not know its mean."""
    try:
        return q.mean.expand(z.shape)
    except NotImplementedError:
        return z


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
    return max(100, 2**20 // (size * math.prod(x.shape[1:])))


def gather(x: Tensor, size: int, score: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `score` gives for `size` rows of x at a time, (B, *) each, as (N, *).

    It is written into place: small results kept from one pass to the next would come to lie in the large blocks that a
    pass leaves, the next pass would need new ones, and memory would grow with N.
    """
    whole: tuple[Tensor, ...] = ()
    for start in range(0, len(x), size):
        parts = score(x[start : start + size])
        whole = whole or tuple(part.new_empty(len(x), *part.shape[1:]) for part in parts)
        for all_rows, part in zip(whole, parts, strict=True):
            all_rows[start : start + size] = part
    return whole


def _batch(samples: int, pairs: int) -> int:
    """Few examples a pass and many particles of each, so that the encoder runs seldom."""
    return max(1, min(100, pairs // samples))


def _passes(samples: int, size: int) -> Iterator[int]:
    for start in range(0, samples, size):
        yield min(size, samples - start)


def _stderr(x: Tensor) -> float:
    return (x.std(correction=1) / math.sqrt(len(x))).item() if len(x) > 1 else math.nan


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples={samples}: wanted K >= 1 particles")
