r"""Objectives: the functions to maximise. Each maps a trace to a bound on log p(x) per example, in nats.

    elbo        E_q[log p(x | z_1)] - sum_t beta_t rate_t          (Kingma & Welling 2014; beta: Higgins et al. 2017)
    free_bits   the same with max(nats, rate_t)                    (Kingma et al. 2016)
    stl         E_q[log w], the gradient without q's score         (Roeder, Wu & Duvenaud 2017, sticking the landing)
    iwae        L_S = log mean_s w_s                               (Burda, Grosse & Salakhutdinov 2016)
    dreg        L_S, the gradient doubly reparameterised           (Tucker, Lawson, Gu & Maddison 2019)
    renyi       log mean_s w_s^(1 - alpha) / (1 - alpha)           (Li & Turner 2016)
    loo         E_q[log w], the gradient by q's score              (Mnih & Gregor 2014; Kool et al. 2019)
    vimco       L_S, the gradient by q's score                     (Mnih & Rezende 2016)

With S particles `elbo` averages S draws of the same bound, and `iwae` is L_S, tighter with each of them; with one they
agree in expectation. At beta = 1 these are lower bounds of log p(x) in expectation, `free_bits` a lower one than
`elbo`; at any other beta they need not be. `renyi` is one for alpha >= 0: it equals `iwae` at 0 and the mean of log w
at 1, and decreases with alpha.

Let w~_s = w_s / sum_s' w_s'. The gradient of L_S with respect to the posterior's parameters phi is, in expectation,

    sum_s w~_s   [d log w_s / dz dz_s / dphi  -  d log q(z_s | x) / dphi]        iwae: the last term is noise at S = 1,
                                                                               and swamps the signal as S grows
    sum_s w~_s^2  d log w_s / dz dz_s / dphi                                     dreg: the same expectation without it,

where d / dphi at the right of the first line holds z fixed. Both `stl` and `dreg` therefore need a trace whose
posterior is held fixed, `model(x, samples, held=True)`; `fit` takes care of that.

Discrete latents have no d z_s / d phi. Where a level has none, `loo` and `vimco` take the score of its q instead, times
how much better its particle is than what the others lead one to expect, which does not depend on that particle:

    loo      1/S sum_s [d log w_s + (log w_s - mean_{j != s} log w_j)  d log q(z_s | x)]
    vimco    sum_s [w~_s d log w_s + (L_S - L_{-s})  d log q(z_s | x)],    L_{-s}: w_s replaced by the others'
                                                                           geometric mean

Both are unbiased, at any depth; levels with a reparameterised draw keep its gradient, so chains may mix both kinds.
Each objective refuses a trace of another kind than its own where there are gradients: the value would be the same, the
gradient another.

Shapes: S particles, B batch, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allegory.runtime import processes
from allegory.runtime.compilation import disable_compile
from allegory.trace import Trace

__all__ = ["dreg", "elbo", "free_bits", "iwae", "loo", "needs_score", "renyi", "stl", "vimco"]


def elbo(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the evidence lower bound, nats, with rates in closed form where there is one.

    Args:
        trace: of S particles.
        beta: weight of the rate; a number, or (T,) one for each level, level 1 first.

    >>> trace = model(x)                            # x: (7, 6)
    >>> al.elbo(trace).shape
    torch.Size([7])
    """
    _check_trace(elbo, trace)
    return (trace.log_px - _apply_beta(trace.kl, beta).sum(0)).mean(0)


def free_bits(
    trace: Trace, beta: float | Tensor = 1.0, nats: float | Sequence[float] = 0.5, average: bool = True
) -> Tensor:
    """(B,) the ELBO, except that a level's rate below `nats` is not penalised, so that it pays to use every level.

    Args:
        trace: of S particles.
        beta: as in `elbo`.
        nats: the free nats per level; a number, or one for each level, level 1 first.
        average: whether they apply to the mean rate of the batch, over all processes that train together (`fit`,
            `al.together()`), so that one example may spend less than another. Otherwise they apply to every example.

    Raises:
        ValueError: free nats below zero, or not one for each level.

    >>> trace = model(x)
    >>> bool((al.free_bits(trace, nats=2.0) <= al.elbo(trace)).all())
    True
    """
    _check_trace(free_bits, trace)
    if not trace.whole:
        raise ValueError("free_bits: this trace is of one random level, and what is free is of each; wanted al.elbo")
    levels = len(trace.latents)
    values = [nats] if isinstance(nats, int | float) else list(nats)
    free = torch.as_tensor(nats, dtype=trace.x.dtype, device=trace.x.device)
    if free.dim() > 1 or (free.dim() and len(free) != levels):
        raise ValueError(f"free bits: got {nats}, wanted one number, or one for each of {levels} levels")
    if not all(value >= 0 for value in values):
        raise ValueError(f"free bits: got {nats} nats, wanted 0 or more")
    rates = trace.kl.mean(1)
    spent = processes.global_mean(rates) if average else rates
    free = free.expand(levels)[:, None]
    rates = rates + (free - spent).relu() * (free > 0)  # a sampled rate may be negative: with nats = 0 it is unchanged
    return trace.log_px.mean(0) - _apply_beta(rates[:, None], beta).sum((0, 1))


def stl(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the ELBO as the mean of log w, nats, for a held trace: its gradient with respect to the posterior's
    parameters has no score term, and no noise at all at the exact posterior.

    Args:
        trace: of S particles, of a held posterior.
        beta: as in `elbo`.
    """
    return _log_w(stl, trace, beta).mean(0)


def iwae(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the importance-weighted bound L_S, nats. Use it to train with 5 to 50 particles where the posterior is too
    simple for the model; with very many, the encoder's gradient drowns in noise (Rainforth et al. 2018): use `dreg`.

    Args:
        trace: of S particles.
        beta: weight of log q - log p, for a warm-up; a number, or (T,).
    """
    log_w = _log_w(iwae, trace, beta)
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


@disable_compile  # a hook belongs to one pass
def dreg(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the importance-weighted bound L_S, nats, for a held trace: the gradient of `iwae` in expectation, with less
    noise for the encoder the more particles there are.

    Args:
        trace: of S particles, of a held posterior.
        beta: weight of log q - log p, for a warm-up; one number for all levels.
    """
    if isinstance(beta, Tensor) and beta.dim():
        raise ValueError("dreg takes one beta for all levels; use iwae for one per level")
    log_w = _log_w(dreg, trace, beta)
    weight = torch.softmax(log_w, 0).detach()
    for z in trace.latents:
        if z.requires_grad:
            scale = (1 - beta + beta * weight).reshape(weight.shape + (1,) * (z.dim() - 2))
            z.register_hook(lambda gradient, scale=scale: gradient * scale)
    surrogate = (weight * log_w).sum(0)
    value = torch.logsumexp(log_w.detach(), 0) - math.log(len(log_w))
    return value + (surrogate - surrogate.detach())


def renyi(trace: Trace, beta: float | Tensor = 1.0, alpha: float = 0.5) -> Tensor:
    """(B,) the variational Renyi bound, nats.

    Args:
        trace: of S particles.
        beta: as in `iwae`.
        alpha: 0 is `iwae`, 1 is the mean of log w, -infinity the largest log w (VR-max), infinity the smallest.

    Raises:
        ValueError: alpha is NaN.
    """
    if math.isnan(alpha):
        raise ValueError("renyi: got alpha=nan, wanted a number, such as 0 for iwae, 1 for the ELBO, or math.inf")
    log_w = _log_w(renyi, trace, beta)
    if alpha == 1:
        return log_w.mean(0)
    if math.isinf(alpha):
        return log_w.amax(0) if alpha < 0 else log_w.amin(0)
    return (torch.logsumexp((1 - alpha) * log_w, 0) - math.log(len(log_w))) / (1 - alpha)


def loo(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the ELBO as the mean of log w, nats, for a trace of scored draws: discrete latents learn from log q, with
    the mean of the other particles as baseline.

    Args:
        trace: of S >= 2 particles, `model(x, samples, scored=True)`.
        beta: weight of log q - log p, for a warm-up; a number, or (T,).

    Raises:
        ValueError: one particle.
    """
    log_w, others, log_q = _scored(loo, trace, beta)
    value = log_w.detach()
    surrogate = (log_w + (value - others) * log_q).mean(0)
    return value.mean(0) + (surrogate - surrogate.detach())


def vimco(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the importance-weighted bound L_S, nats, for a trace of scored draws: discrete latents learn from log q,
    each particle from what it adds to the bound of the others.

    Args:
        trace: of S >= 2 particles, `model(x, samples, scored=True)`.
        beta: weight of log q - log p, for a warm-up; a number, or (T,).

    Raises:
        ValueError: one particle.
    """
    log_w, others, log_q = _scored(vimco, trace, beta)
    value, particles = log_w.detach(), len(log_w)
    bound = torch.logsumexp(value, 0) - math.log(particles)
    itself = torch.eye(particles, dtype=torch.bool, device=value.device)[..., None]
    replaced = torch.where(itself, others, value[:, None])  # (S, S, B): in column s particle s is the others' mean
    without = torch.logsumexp(replaced, 0) - math.log(particles)
    surrogate = (torch.softmax(value, 0) * log_w + (bound - without) * log_q).sum(0)
    return bound + (surrogate - surrogate.detach())


# Attributes: whether an objective needs a held posterior, or scored draws, which its trace is checked for; and what
# validation measures instead of it. `fit` reads them.
stl.held = dreg.held = True  # type: ignore[attr-defined]
loo.scored = vimco.scored = True  # type: ignore[attr-defined]
free_bits.bound = loo.bound = elbo  # type: ignore[attr-defined]
vimco.bound = iwae  # type: ignore[attr-defined]


def needs_score(objective: Any) -> bool:
    """Whether an objective, or a functools.partial of one, wants `model(x, samples, scored=True)`.

    >>> needs_score(vimco), needs_score(iwae)
    (True, False)
    """
    return getattr(getattr(objective, "func", objective), "scored", False)


def _check_trace(objective: Any, trace: Any) -> None:
    """Raises a ValueError for what is no trace; and where there are gradients, for a trace of which the objective has
    the value, but another gradient than its own.
    """
    if isinstance(trace, nn.Module | Tensor):
        raise ValueError(f"got {type(trace).__name__}, wanted the trace of a pass, model(x)")
    if not torch.is_grad_enabled():
        return
    name, held = objective.__name__, getattr(objective, "held", False)
    if held and not trace.held:
        raise ValueError(f"{name} needs a trace of a held posterior, model(x, samples, held=True), for its gradient")
    if trace.held and not held:
        raise ValueError(f"{name}: this trace is of a held posterior, whose gradient it needs; wanted held=False")
    if trace.scored and not needs_score(objective):
        raise ValueError(
            f"{name}: draws of this trace have no gradient, and {name} does not take the score instead; wanted al.loo "
            "or al.vimco, or torch.no_grad() if you only evaluate"
        )


def _log_w(objective: Any, trace: Trace, beta: float | Tensor) -> Tensor:
    """(S, B) log w, with its rates weighted."""
    _check_trace(objective, trace)
    return trace.log_px - _apply_beta(trace.log_qz - trace.log_pz, beta).sum(0)


def _scored(objective: Any, trace: Trace, beta: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(S, B) each: log w; its mean over the other particles, without a gradient; and log q of the levels whose draws
    have none.
    """
    _check_trace(objective, trace)
    log_q = trace.log_qz
    log_w = trace.log_px - _apply_beta(log_q - trace.log_pz, beta).sum(0)
    if len(log_w) < 2:
        raise ValueError(
            f"{objective.__name__}: got one particle, wanted two or more, samples=2: each learns from the others"
        )
    value = log_w.detach()
    scored = (log_q[t] for t, q in enumerate(trace.q) if not q.has_rsample)
    return log_w, (value.sum(0) - value) / (len(value) - 1), sum(scored, torch.zeros_like(log_w))


def _apply_beta(rates: Tensor, beta: float | Tensor) -> Tensor:
    if isinstance(beta, Tensor) and beta.dim() and len(beta) != len(rates):
        raise ValueError(
            f"beta: got {len(beta)} numbers, and the rates of this trace are {len(rates)}; wanted one for all"
        )
    return beta[:, None, None] * rates if isinstance(beta, Tensor) and beta.dim() else beta * rates
