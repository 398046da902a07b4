r"""The trace of one pass through a VAE: the latents that were drawn, and every distribution along the way.

Every bound is a function of the log-densities of one draw z_1..T ~ q(. | x),

    log w   = log p(x, z_1..T) - log q(z_1..T | x)
            = log p(x | s_1) + sum_t [log p(z_t | s_{t+1}) - log q(z_t | ...)],      p(z_T | s_{T+1}) = p(z_T)
    E log w = log p(x) - KL(q(z | x) || p(z | x)).

The rate of level t is E_q[log q(z_t | ...) - log p(z_t | s_{t+1})]. Top-down, both distributions are conditioned on the
draws above them, and the rate is the mean of KL(q(z_t | ...) || p(z_t | s_{t+1})), in closed form for every draw.
Bottom-up, that holds only for z_T. Below the top z_{t+1} was drawn from z_t, and the mean of KL(q(z_t | z_{t-1}) ||
p(z_t | s_{t+1})) over the chain is not the rate. Adding up these divergences gives a lower bound, too, but one that
charges for what the levels share: for T = 2 it is the ELBO of q(z_1 | x) q(z_2 | x) less the information I(z_1; z_2 |
x). So below the top the entropy of q is in closed form, log p is estimated from the draw, and a rate may be negative,
for a draw and on average; the sum of the rates is KL(q(z_1..T | x) || p(z_1..T)), on average over the draws, and not
negative. Families without a closed form, such as a mixture as prior, are sampled.

Shapes: S particles, B batch, T levels; z_t is (S, B, *event_t), s_t (S, B, *).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.utils._pytree import register_pytree_node

from allegory.distributions import map_tensors
from allegory.runtime.precision import without_autocast

__all__ = ["Trace", "with_law_tensors"]


def _tensors(trace: Trace) -> tuple[Tensor, ...]:
    """The tensors that a gradient reaches the networks through, in p and q."""
    found: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        if x.requires_grad:
            found.append(x.view_as(x) if x.is_leaf else x)  # a parameter is no node of the graph, which is searched
        return x

    map_tensors((trace.p, trace.q), collect)
    return tuple(found)


@dataclass(eq=False, repr=False)
class Trace:
    """One draw z_1..T ~ q(. | x), with the distributions along the way; its densities are computed on access.

    Attributes:
        x: (B, *event) the data.
        latents: z_1, ..., z_T, each (S, B, *event_t).
        p: p(x | z_1), p(z_1 | z_2), ..., p(z_T): T + 1 distributions.
        q: q(z_1 | x), ..., q(z_T | z_{T-1}), or top-down q(z_1 | z_2, x), ..., q(z_T | x): T distributions.
        top_down: whether q is top-down.
        held: whether q's parameters are held fixed in q, see `VAE.forward`.
        scored: whether some draws have no gradient, so that an objective has to take the score of q.
        tensors: what a gradient reaches the networks through, in p and q. Where a VAE itself is wrapped in
            DistributedDataParallel, torch looks for them among these attributes.
        whole: whether it is of all levels, so that it has a log w.
    """

    whole: ClassVar[bool] = True
    x: Tensor
    latents: tuple[Tensor, ...]
    p: tuple[Distribution, ...]
    q: tuple[Distribution, ...]
    top_down: bool = False
    held: bool = False
    scored: bool = False
    tensors: tuple[Tensor, ...] = field(init=False, default=property(_tensors))  # type: ignore[arg-type]

    @property
    def log_px(self) -> Tensor:
        """(S, B) log p(x | z_1), the reconstruction term, nats."""
        with without_autocast():
            return self.p[0].log_prob(self.x)

    @property
    def log_pz(self) -> Tensor:
        """(T, S, B) log p(z_t | z_{t+1}), level 1 first, nats."""
        with without_autocast():
            return torch.stack([p.log_prob(z) for p, z in zip(self.p[1:], self.latents, strict=True)])

    @property
    def log_qz(self) -> Tensor:
        """(T, S, B) log q(z_t | z_{t-1}), or q(z_t | z_{t+1}, x), level 1 first, nats."""
        with without_autocast():
            return torch.stack([q.log_prob(z) for q, z in zip(self.q, self.latents, strict=True)])

    @property
    def log_weight(self) -> Tensor:
        """(S, B) log w = log p(x, z) - log q(z | x), nats."""
        return self.log_px + (self.log_pz - self.log_qz).sum(0)

    @property
    def kl(self) -> Tensor:
        """(T, S, B) the rate of each level, in closed form where there is one, nats."""
        shape = self.latents[-1].shape[:2]
        levels = enumerate(zip(self.q, self.p[1:], self.latents, strict=True), start=1)
        with without_autocast():
            return torch.stack([self._rate(t)(q, p, z).expand(shape) for t, (q, p, z) in levels])

    @property
    def unit_kl(self) -> tuple[Tensor | None, ...]:
        """The rate of each element of z_t, (S, B, *event_t), level 1 first, nats; their sum is `kl`. None where q or p
        does not factorise over elements, such as a mixture.
        """
        rates: list[Tensor | None] = []
        for t, (q, p, z) in enumerate(zip(self.q, self.p[1:], self.latents, strict=True), start=1):
            parts = [_elementwise(law) for law in (q, p)]
            with without_autocast():
                rates.append(None if None in parts else self._rate(t)(*parts, z).expand(z.shape))
        return tuple(rates)

    def _rate(self, level: int) -> Callable[..., Tensor]:
        """How the rate of a level is computed: in closed form, except below the top of a bottom-up chain."""
        return _closed_form_rate if self.top_down or level == len(self.q) else _sampled_rate

    def __repr__(self) -> str:
        samples, batch = self.latents[-1].shape[:2]
        latents = ", ".join(f"z_{t} {tuple(z.shape)}" for t, z in enumerate(self.latents, start=1))
        return f"Trace(S={samples}, B={batch}, T={len(self.latents)}: x {tuple(self.x.shape)}, {latents})"


def with_law_tensors(tensors: Iterable[Tensor], trace: Trace) -> Trace:
    """The trace with other tensors in the place of `trace.tensors`, for torch's tree of it."""
    given = iter(tensors)
    p, q = map_tensors((trace.p, trace.q), lambda x: next(given) if x.requires_grad else x)
    return replace(trace, p=p, q=q)


register_pytree_node(Trace, lambda trace: (list(trace.tensors), trace), with_law_tensors)


def _elementwise(law: Any) -> Distribution | None:
    """The distribution of each element, where the elements are independent."""
    if not law.event_shape:
        return law
    independent = isinstance(law, Independent) and not law.base_dist.event_shape
    return law.base_dist if independent and law.reinterpreted_batch_ndims == len(law.event_shape) else None


def _sampled_rate(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    try:
        return -q.entropy() - p.log_prob(z)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)


def _closed_form_rate(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    try:
        normal = isinstance(getattr(p, "base_dist", p), Normal)  # some of torch's others do not broadcast
        return kl_divergence(q, p if normal else p.expand(q.batch_shape))
    except NotImplementedError:
        return _sampled_rate(q, p, z)
