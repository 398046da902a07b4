"""Draws: the law of a conditional, and samples of it as a pass wants them.

Shapes: S particles, B batch; z_t is (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from allegory.checks import check_distribution
from allegory.discrete import OneHot
from allegory.distributions import map_tensors
from allegory.runtime.compilation import disable_compile
from allegory.runtime.precision import autocast_enabled, to_float32

__all__ = ["draw_latent", "draw_to", "from_noise", "law_of", "noise_of"]


def law_of(conditional: Callable[..., Distribution], *context: Any) -> Distribution:
    """The distribution of a conditional, in float32 whatever precision its networks ran in. One that is `in_float32` by
    itself, as those of the library are, is not looked into, which a compiler could not follow.
    """
    law = conditional(*context)
    if getattr(conditional, "in_float32", False) or not autocast_enabled() or isinstance(law, Tensor):
        return law
    return _with_float32(law)


@disable_compile
def _with_float32(law: Distribution) -> Distribution:
    return map_tensors(law, to_float32)


def draw_to(p: Distribution, batch: Sequence[int]) -> Tensor:
    """Draws of a whole batch shape.

    Args:
        p: a distribution whose batch shape is its end, or ().
        batch: of the draws.

    >>> draw_to(al.StandardNormal(3)(), (5, 4)).shape
    torch.Size([5, 4, 3])
    """
    return p.sample(Size(batch[: len(batch) - len(p.batch_shape)]))


def draw_latent(q: Distribution, fan_out: Size, level: int, scored: bool = False) -> Tensor:
    """A draw of z_t, reparameterised where that can be; (*fan_out, *batch, *event_t).

    Args:
        q: the law.
        fan_out: leading dimensions of the draw.
        level: t, in messages.
        scored: whether a draw may have no gradient, because the score of q has it, see `allegory.objectives`.

    Raises:
        ValueError: no distribution, or one without a gradient where one is wanted.
    """
    check_distribution(f"the encoder of level {level}", q)
    if q.has_rsample:
        return q.rsample(fan_out)
    if torch.is_grad_enabled() and not scored:
        name = type(q.base_dist if isinstance(q, Independent) else q).__name__
        raise ValueError(
            f"level {level}: {name} has no reparameterised sample, so a gradient through it would be wrong; "
            "for discrete latents use al.loo or al.vimco (--objective loo), in a loop of your own model(x, samples, "
            "scored=True); or a family that has one (normal), or torch.no_grad() if you only evaluate"
        )
    return q.sample(fan_out)


def from_noise(q: Distribution, noise: Tensor, samples: int, level: int, scored: bool = False) -> Tensor:
    """The draw that noise makes: mu + sigma eps of a normal law, with eps standard normal. Of discrete ones, with u
    uniform on [0, 1): a one where u < p; of categories that in whose part of [0, 1), in their order, u lies.

    Args:
        q: a normal law, one of two values, or one-hot.
        noise: eps or u, (S, B, *event_t); of one-hot latents u, (S, B, D, *rest), one for each category variable.
        samples: S.
        level: t, in messages.
        scored: as in `draw_latent`.

    Raises:
        ValueError: another law, or noise of another shape; a gradient is wanted that there is not.

    >>> law = al.families.bernoulli(torch.tensor([[-1.0, 1.0]]))
    >>> from_noise(law, torch.tensor([[[0.5, 0.5]]]), samples=1, level=1, scored=True)
    tensor([[[0., 1.]]])
    """
    law = q.base_dist if isinstance(q, Independent) else q
    kind = noise_of(q)
    if kind is None:
        raise ValueError(f"noise of level {level}: wanted None, since {type(law).__name__} has no normal noise")
    _, event = kind
    wanted = (samples, *q.batch_shape[-1:], *event)
    if noise.shape != wanted:
        raise ValueError(f"noise of level {level}: got shape {tuple(noise.shape)}, wanted {wanted}")
    if isinstance(law, Normal):
        return torch.addcmul(law.loc, law.scale, noise)
    if not law.has_rsample and torch.is_grad_enabled() and not scored:
        return draw_latent(q, Size(), level)  # says why that cannot be
    z = (noise < law.probs).to(noise.dtype) if isinstance(law, Bernoulli) else _invert(law, noise)
    return z + (law.mean - law.mean.detach()) if law.has_rsample else z


def noise_of(law: Distribution) -> tuple[str, Size] | None:
    """Of what noise a draw of the law is made, see `from_noise`: "normal" or "uniform", and the shape of that of one
    event; None where there is none.

    >>> noise_of(al.StandardNormal(3)()), noise_of(al.families.one_hot(4)(torch.zeros(12)))
    (('normal', torch.Size([3])), ('uniform', torch.Size([3])))
    """
    base = law.base_dist if isinstance(law, Independent) else law
    if isinstance(base, Normal):
        return "normal", law.event_shape
    if isinstance(base, Bernoulli):
        return "uniform", law.event_shape
    return ("uniform", base.logits.shape[len(base.batch_shape) : -1]) if isinstance(base, OneHot) else None


def _invert(law: Any, u: Tensor) -> Tensor:
    """Of one-hot latents, the unit vectors of the first categories whose cumulative probability is above u."""
    below = law.logits.exp().cumsum(-1)[..., :-1]
    codes = (u[..., None] >= below).sum(-1)
    return law.flat(torch.nn.functional.one_hot(codes, law.k).to(u.dtype))
