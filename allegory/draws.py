"""Draws: the law of a conditional, and samples of it as a pass wants them.

Shapes: S particles, B batch; z_t is (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal

from allegory.checks import check_distribution
from allegory.conditional import Conditional
from allegory.distributions import map_tensors
from allegory.runtime.compilation import disable_compile
from allegory.runtime.precision import autocast_enabled, to_float32

__all__ = ["draw_latent", "draw_to", "law_of", "reparameterize"]


def law_of(conditional: Callable[..., Distribution], *context: Any) -> Distribution:
    """The distribution of a conditional, in float32 whatever precision its networks ran in."""
    law = conditional(*context)
    if isinstance(conditional, Conditional) or not autocast_enabled() or isinstance(law, Tensor):
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


def reparameterize(q: Distribution, noise: Tensor, samples: int, level: int) -> Tensor:
    """The draw mu + sigma eps.

    Args:
        q: a normal law.
        noise: eps, (S, B, *event_t).
        samples: S.
        level: t, in messages.

    Raises:
        ValueError: another law, or noise of another shape.
    """
    law = q.base_dist if isinstance(q, Independent) else q
    if not isinstance(law, Normal):
        raise ValueError(f"noise of level {level}: wanted None, since {type(law).__name__} has no normal noise")
    wanted = (samples, *q.batch_shape[-1:], *q.event_shape)
    if noise.shape != wanted:
        raise ValueError(f"noise of level {level}: got shape {tuple(noise.shape)}, wanted {wanted}")
    return torch.addcmul(law.loc, law.scale, noise)
