r"""Moments of the latents: given x under the posterior, and over all of them under the prior.

    E[z_t | x], Var[z_t | x]     exact where the posterior depends on x alone, else by the law of total variance over S
                                 draws of the levels that it depends on: Var[z] = E Var[z | .] + Var E[z | .]

Shapes: S particles, B examples per pass, N examples; z_t is (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.draws import draw_to
from allegory.evaluation.passes import Noise, Particles, check_scored, evaluating, run_passes
from allegory.given import Contexts, Given, take_rows
from allegory.ladder import TopDown
from allegory.model import VAE
from allegory.runtime.modes import forked_rng
from allegory.runtime.threads import one_at_a_time

__all__ = ["conditional_means", "posterior_moments", "prior_variances"]


@one_at_a_time()
def posterior_moments(model: VAE, x: Tensor, samples: int = 100, given: Given = None) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every latent given x, level 1 first, each (N, *event_t). Exact where the
    posterior depends on x alone, at level 1 bottom-up and at level T top-down; elsewhere averaged over `samples` draws.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: draws of the levels below.
        given: c of a conditional model, (N, *context), or several; the moments are of q(z | x, c).
    """
    contexts = check_scored(model, x, samples, given)

    def moments(rows: Tensor, noises: Iterator[Noise], *given: Tensor) -> tuple[Tensor, ...]:
        latents, laws = model._infer(rows, samples, None, given)
        return tuple(part for q, z in zip(laws, latents, strict=True) for part in _conditional_moments(q, z))

    with evaluating(model):
        found = run_passes(x, Particles(model, x, samples, None, contexts=contexts), moments)
    return [(mean, variance.sqrt()) for mean, variance in zip(found[::2], found[1::2], strict=True)]


def prior_variances(model: VAE, draws: int = 1000, contexts: Contexts = ()) -> list[Tensor]:
    """The variance of each unit of z_t under the prior, (*event_t), level 1 first: exact where the law of z_T tells it,
    else by draws, with a seed of their own. Below the top of a ladder 1, a scalar: its means are in units of the prior;
    so are those of z_T under p(z_T | c).

    Args:
        model: any VAE.
        draws: from the prior.
        contexts: what is given, (N, *context) each; the draws are of these rows, in turn.

    >>> prior_variances(model)[-1]
    tensor([1., 1.])
    """
    with torch.no_grad(), forked_rng(model):
        torch.manual_seed(0)
        contexts = take_rows(contexts, torch.arange(draws) % len(contexts[0])) if contexts else ()
        if isinstance(model.encoders, TopDown):
            top, below = model._prior_law(contexts), [torch.ones(())] * (model.levels - 1)
            drawn = draw_to(top, (draws,)).double().var(0)
        else:
            latents, laws, _ = model._generate_down(lambda t, p, state: draw_to(p, (draws,)), contexts)
            *below, drawn = (z.double().var(0) for z in latents)
            top = laws[-1]
    if top.batch_shape:
        return [*(variance.to(drawn.device) for variance in below), torch.ones_like(drawn)]
    with suppress(NotImplementedError):
        drawn = top.variance
    return [*(variance.to(drawn.device) for variance in below), drawn]


def conditional_means(q: Distribution, z: Tensor) -> Tensor:
    """E[z_t | ...] of each particle, (S, B, *event_t); the draws themselves where q has no mean."""
    try:
        return q.mean.expand(z.shape)
    except NotImplementedError:
        return z


def _conditional_moments(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """E[z_t | x] and Var[z_t | x], each (B, *event_t), from q and the draws of S particles."""
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError:
        return z.mean(0), z.var(0, correction=0)
    if mean.dim() < z.dim():
        return mean, variance
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)
