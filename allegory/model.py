r"""Variational autoencoders of any depth, and the trace of one pass through them.

Levels run from the data up: z_0 = x, z_1, ..., z_T. Two Markov chains join the data and the top,

    generate    p(x, z_1..T)   = p(z_T) prod_{t=1..T} p(z_{t-1} | z_t)
    infer       q(z_1..T | x)  = prod_{t=1..T} q(z_t | z_{t-1})                          bottom-up

and every bound is a function of what one draw z_1..T ~ q(. | x) leaves behind,

    log w   = log p(x, z_1..T) - log q(z_1..T | x)
            = log p(x | z_1) + sum_t [log p(z_t | z_{t+1}) - log q(z_t | z_{t-1})],      p(z_T | z_{T+1}) = p(z_T)
    E log w = log p(x) - KL(q(z | x) || p(z | x)).

The VAE of Kingma & Welling (2014) is T = 1; nothing below asks for T.

The rate of level t is E_q[log q(z_t | z_{t-1}) - log p(z_t | z_{t+1})]. At the top, z_T's prior does not depend on
the draw and the rate given z_{T-1} is KL(q(z_T | z_{T-1}) || p(z_T)), in closed form. Below the top it is not:
z_{t+1} was drawn from z_t, so KL(q(z_t | z_{t-1}) || p(z_t | z_{t+1})) for that z_{t+1} is a different number, and no
bound. There the entropy of q is closed and log p is one sample. Families without a closed form are sampled.

Shapes: S particles, B batch, T levels; z_t is (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, kl_divergence

from allegory.distributions import check_support

__all__ = ["VAE", "Trace"]


@dataclass(eq=False, repr=False)
class Trace:
    """One draw z_1..T ~ q(. | x), with the distributions met on the way; its densities are computed when asked for.

    Attributes:
        x: (B, *event) the data.
        latents: z_1, ..., z_T, each (S, B, *event_t).
        p: p(x | z_1), p(z_1 | z_2), ..., p(z_T): T + 1 distributions.
        q: q(z_1 | x), ..., q(z_T | z_{T-1}): T distributions.
    """

    x: Tensor
    latents: tuple[Tensor, ...]
    p: tuple[Distribution, ...]
    q: tuple[Distribution, ...]

    @property
    def log_px(self) -> Tensor:
        """(S, B) log p(x | z_1), the reconstruction term, nats."""
        return self.p[0].log_prob(self.x)

    @property
    def log_pz(self) -> Tensor:
        """(T, S, B) log p(z_t | z_{t+1}), level 1 first, nats."""
        return torch.stack([p.log_prob(z) for p, z in zip(self.p[1:], self.latents, strict=True)])

    @property
    def log_qz(self) -> Tensor:
        """(T, S, B) log q(z_t | z_{t-1}), level 1 first, nats."""
        return torch.stack([q.log_prob(z) for q, z in zip(self.q, self.latents, strict=True)])

    @property
    def log_weight(self) -> Tensor:
        """(S, B) log w = log p(x, z) - log q(z | x), nats."""
        return self.log_px + (self.log_pz - self.log_qz).sum(0)

    @property
    def kl(self) -> Tensor:
        """(T, S, B) the rate of each level, in closed form where there is one, nats."""
        *below, top = zip(self.q, self.p[1:], self.latents, strict=True)
        rates = [_negative_entropy(q, z) - p.log_prob(z) for q, p, z in below]
        shape = top[2].shape[:2]
        return torch.stack([*rates, _closed_kl(*top).expand(shape)])

    def __repr__(self) -> str:
        latents = ", ".join(f"z_{t} {tuple(z.shape)}" for t, z in enumerate(self.latents, start=1))
        return f"Trace(x {tuple(self.x.shape)}, {latents})"


def _negative_entropy(q: Distribution, z: Tensor) -> Tensor:
    try:
        return -q.entropy()
    except NotImplementedError:
        return q.log_prob(z)


def _closed_kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    try:
        return kl_divergence(q, p.expand(q.batch_shape))  # some of torch's do not broadcast
    except NotImplementedError:
        return _negative_entropy(q, z) - p.log_prob(z)


class VAE(nn.Module):
    """A variational autoencoder with one level of latents, or a chain of T.

    Args:
        prior: p(z_T); its call, without arguments, gives a distribution of batch shape ().
        encoder: q(z_1 | x), or the sequence of q(z_t | z_{t-1}), t = 1, ..., T.
        decoder: p(x | z_1), or the sequence of p(z_{t-1} | z_t), t = 1, ..., T.

    Raises:
        ValueError: where the levels do not fit each other.

    >>> model = al.VAE(
    ...     al.StandardNormal(2),
    ...     al.Conditional(nn.Linear(5, 2 * 2), al.families.normal),
    ...     al.Conditional(nn.Linear(2, 5), al.families.bernoulli),
    ... )
    >>> trace = model(torch.ones(3, 5), samples=4)
    >>> trace.log_px.shape, trace.kl.shape
    (torch.Size([4, 3]), torch.Size([1, 4, 3]))
    """

    config: dict[str, Any] | None = None  # set by allegory.architectures: what builds this model again

    def __init__(
        self,
        prior: nn.Module,
        encoder: nn.Module | Sequence[nn.Module],
        decoder: nn.Module | Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.prior = prior
        self.encoders = _module_list(encoder)
        self.decoders = _module_list(decoder)
        if len(self.encoders) != len(self.decoders) or not len(self.encoders):
            raise ValueError(
                f"a chain of T levels has T encoders and T decoders, T >= 1, but got {len(self.encoders)} encoders "
                f"and {len(self.decoders)} decoders"
            )

    @property
    def levels(self) -> int:
        """T, the number of levels of latents."""
        return len(self.encoders)

    def forward(self, x: Tensor, samples: int = 1) -> Trace:
        """Draws z_1..T ~ q(. | x) and meets p on the way down.

        Args:
            x: (B, *event) data.
            samples: S, particles an example. The network on x runs once for all of them.
        """
        latents, q = self._infer(x, samples)
        p = [decoder(z) for decoder, z in zip(self.decoders, latents, strict=True)]
        trace = Trace(x, latents, (*p, self.prior()), q)
        _check_shapes(trace, samples)
        return trace

    def _infer(self, x: Tensor, samples: int) -> tuple[tuple[Tensor, ...], tuple[Distribution, ...]]:
        if samples < 1:
            raise ValueError(f"samples={samples}: wanted at least one particle")
        latents: list[Tensor] = []
        laws: list[Distribution] = []
        below, fan_out = x, Size((samples,))
        for encoder in self.encoders:
            q = encoder(below)
            below, fan_out = _draw(q, fan_out, level=len(laws) + 1), Size()
            laws.append(q)
            latents.append(below)
        return tuple(latents), tuple(laws)

    def encode(self, x: Tensor, samples: int = 1) -> tuple[Distribution, ...]:
        """The posterior, level by level: q(z_1 | x) with batch shape (B,), and q(z_t | z_{t-1}) above it with batch
        shape (S, B), given a draw of the level below.

        Args:
            x: (B, *event) data.
            samples: S, draws an example.
        """
        return self._infer(x, samples)[1]

    def decode(self, z: Tensor, level: int = 1) -> Distribution:
        """p(x | z_1), z_1 drawn down the chain from z_level.

        Args:
            z: (*batch, *event_level).
            level: where z stands, 1 to T.
        """
        if not 1 <= level <= self.levels:
            raise ValueError(f"level={level}: this model has levels 1 to {self.levels}")
        for decoder in reversed(self.decoders[1:level]):
            z = decoder(z).sample()
        return self.decoders[0](z)

    def generate(self, n: int) -> Distribution:
        """p(x | z_1) for n draws from the prior, with batch shape (n,)."""
        if n < 1:
            raise ValueError(f"n={n}: wanted at least one")
        return self.decode(self.prior().sample((n,)), level=self.levels)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, *event): z from the prior, then a draw of p(x | z_1), not its mean."""
        x = self.generate(n).sample()
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())  # categories are whole floats in data

    def reconstruct(self, x: Tensor, level: int = 1) -> Distribution:
        """p(x | z_1) with batch shape (B,): z_level is drawn from the posterior, all below it from the prior.

        Args:
            x: (B, *event) data.
            level: 1 shows what z_1 keeps of x, T what the top keeps.
        """
        if not 1 <= level <= self.levels:
            raise ValueError(f"level={level}: this model has levels 1 to {self.levels}")
        latents, _ = self._infer(x, samples=1)
        return self.decode(latents[level - 1][0], level)

    @torch.no_grad()
    def check(self, x: Tensor, name: str = "x") -> None:
        """Raises a ValueError, in one line, if x is empty, not finite, of the wrong shape or outside the support of
        p(x | z_1). `fit` and `evaluate` call it once; the passes themselves do not look.

        Args:
            x: (N, *event) data.
            name: what to call x in the message.
        """
        if x.dim() < 1 or not len(x):
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (N, *event) with at least one example")
        if not x.is_floating_point():
            raise ValueError(f"{name}: got {x.dtype}, wanted floating point numbers; use x.float()")
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            raise ValueError(
                f"{name}: {int((~finite).sum())} values are NaN or infinite, the first at "
                f"{(~finite).nonzero()[0].tolist()}; remove or replace them"
            )
        training = self.training
        try:
            law = self.eval().generate(1)
        finally:
            self.train(training)
        if law.event_shape != x.shape[1:]:
            raise ValueError(
                f"{name}: examples of shape {tuple(x.shape[1:])}, but p(x | z_1) is over {tuple(law.event_shape)}"
            )
        check_support(law, x, name)

    def extra_repr(self) -> str:
        below = " ".join(f"p(z_{t - 1} | z_{t})" for t in range(self.levels, 1, -1))
        return " ".join(filter(None, [f"p(z_{self.levels})", below, "p(x | z_1)"]))


def _draw(q: Distribution, fan_out: Size, level: int) -> Tensor:
    if q.has_rsample:
        return q.rsample(fan_out)
    if torch.is_grad_enabled():
        raise ValueError(
            f"level {level}: {type(q).__name__} has no reparameterised sample, so its gradient would be wrong; "
            "use a family that has one (normal), or torch.no_grad() if you only score"
        )
    return q.sample(fan_out)


def _check_shapes(trace: Trace, samples: int) -> None:
    """Broadcasting would hide a level that does not fit; a comparison of tuples costs nothing."""
    batch: tuple[int, ...] = trace.x.shape[:1]
    for t, (q, p) in enumerate(zip(trace.q, trace.p[1:], strict=True), start=1):
        above = "" if t == len(trace.q) else f" | z_{t + 1}"
        below = "x" if t == 1 else f"z_{t - 1}"
        if q.batch_shape != batch:
            raise ValueError(_batch_message(f"the encoder of level {t}, q(z_{t} | {below})", q, batch))
        batch = (samples, len(trace.x))
        if p.event_shape != q.event_shape:
            raise ValueError(
                f"level {t}: the encoder gives z_{t} of shape {tuple(q.event_shape)}, but p(z_{t}{above}) is over "
                f"{tuple(p.event_shape)}"
            )
        if p.batch_shape != (batch if above else ()):
            raise ValueError(_batch_message(f"p(z_{t}{above})", p, batch if above else ()))
    if trace.p[0].event_shape != trace.x.shape[1:]:
        raise ValueError(
            f"x has examples of shape {tuple(trace.x.shape[1:])}, but p(x | z_1) is over "
            f"{tuple(trace.p[0].event_shape)}"
        )
    if trace.p[0].batch_shape != batch:
        raise ValueError(_batch_message("p(x | z_1)", trace.p[0], batch))


def _batch_message(name: str, law: Distribution, wanted: Any) -> str:
    return (
        f"{name} has batch shape {tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}, wanted batch "
        f"shape {tuple(wanted)}, the context's leading dimensions; is torch.distributions.Independent missing?"
    )


def _module_list(modules: nn.Module | Sequence[nn.Module]) -> nn.ModuleList:
    single = isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential)
    if isinstance(modules, nn.Sequential):
        raise ValueError("got an nn.Sequential, which is one module after another; wanted a conditional or a list")
    return nn.ModuleList([modules] if single else list(modules))  # type: ignore[arg-type, list-item]
