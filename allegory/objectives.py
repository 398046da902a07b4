r"""Objectives: what to maximise. Each reads a trace and gives a bound of log p(x) an example, in nats.

    elbo    E_q[log p(x | z_1)] - sum_t beta_t rate_t       (Kingma & Welling 2014; beta: Higgins et al. 2017)
    iwae    log mean_s w_s                                  (Burda, Grosse & Salakhutdinov 2016)

With S particles `elbo` averages S draws of the same bound, and `iwae` is L_S, tighter with each of them; with one they
agree in expectation. Both are stochastic lower bounds at beta = 1, and no bound at any other beta.

Shapes: S particles, B batch, T levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allegory.model import Trace

__all__ = ["elbo", "iwae"]


def elbo(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the evidence lower bound, nats, its rates in closed form where there is one.

    Args:
        trace: of S particles.
        beta: weight of the rate; a number, or (T,) one for each level, level 1 first.

    >>> trace = model(x)                            # x: (7, 6)
    >>> al.elbo(trace).shape
    torch.Size([7])
    """
    return (trace.log_px - _weigh(trace.kl, beta).sum(0)).mean(0)


def iwae(trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
    """(B,) the importance-weighted bound L_S, nats. Use it to train with 5 to 50 particles where the posterior is too
    simple for the model; with very many, the encoder's gradient drowns in noise (Rainforth et al. 2018).

    Args:
        trace: of S particles.
        beta: weight of log q - log p, for a warm-up; a number, or (T,).
    """
    log_w = trace.log_px - _weigh(trace.log_qz - trace.log_pz, beta).sum(0)
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def _weigh(rates: Tensor, beta: float | Tensor) -> Tensor:
    return beta[:, None, None] * rates if isinstance(beta, Tensor) and beta.dim() else beta * rates
