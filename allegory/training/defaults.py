"""Defaults that depend on the model and on the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["kl_warmup_steps", "latent_settings", "lr_warmup_steps", "small_set_settings", "table_settings"]

TABLE = {"latent": [16], "hidden": [256, 256], "batch_size": 256}
WITH_GAPS = {"objective": "iwae", "samples": 5}
SMALL_SET: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [1000, 1000], "weight_decay": 1.0},
    "conv": {"channels": 32, "blocks": 1, "weight_decay": 0.1, "lr": 2e-3},
}
FEW, LARGE = 10_000, 256  # examples, and numbers of each, up to and from which a set is one of few large examples
SIDE = 16  # pixels, from which an array of two dimensions is taken for a picture
DISCRETE = {"objective": "loo", "samples": 4}


def table_settings(gaps: bool) -> dict[str, Any]:
    """The default settings of a training on a table. With gaps the importance-weighted bound of a few particles: the
    posterior given what is observed is wider, and not one normal (Mattei & Frellsen 2019).

    Args:
        gaps: whether there are any in the training data.

    >>> table_settings(gaps=True)["objective"]
    'iwae'
    """
    return {**TABLE, **(WITH_GAPS if gaps else {})}


def small_set_settings(examples: int, shape: Sequence[int], architecture: str | None = None) -> dict[str, Any]:
    """The default settings of a training on few large examples. Of pictures, convolutions learn far more than
    perceptrons; of others, wide layers learn more than narrow ones, at little cost. Weight decay and the validation
    bound keep them from learning the examples by heart.

    Args:
        examples: N, for training.
        shape: of each: (H, W) and (C, H, W) are pictures.
        architecture: "mlp" or "conv", where it is not to be chosen.

    >>> small_set_settings(4_000, (784,)), small_set_settings(50_000, (28, 28))
    ({'architecture': 'mlp', 'hidden': [1000, 1000], 'weight_decay': 1.0}, {})
    >>> small_set_settings(4_000, (28, 28))["architecture"]
    'conv'
    """
    if examples > FEW or math.prod(shape) < LARGE:
        return {}
    architecture = architecture or ("conv" if _are_pictures(shape) else "mlp")
    return {"architecture": architecture, **SMALL_SET[architecture]}


def _are_pictures(shape: Sequence[int]) -> bool:
    """Whether examples of this shape are pictures, with a side that convolutions can make coarser twice."""
    return (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3, 4))) and min(shape[-2:]) >= SIDE


def latent_settings(family: str) -> dict[str, Any]:
    """The default settings of a training with latents of a family: of discrete ones, whose draws have no gradient, the
    objective `loo`, of a few particles.

    Args:
        family: as in `allegory.architectures.LATENT_FAMILIES`.

    >>> latent_settings("one_hot"), latent_settings("normal")
    ({'objective': 'loo', 'samples': 4}, {})
    """
    return {} if family == "normal" else dict(DISCRETE)


def kl_warmup_steps(levels: int, examples: int, batch_size: int = 128, epochs: int | None = None) -> int:
    """The default number of steps until the KL has its full weight: none for one level; for a hierarchy, whose upper
    levels collapse without a warm-up, a tenth of the training, at most 2,000 steps. `fit` shortens it where the minutes
    of a budget do not suffice.

    Args:
        levels: T.
        examples: N, for training.
        batch_size: examples per step.
        epochs: of the budget; for a budget in minutes 100 are assumed.

    >>> kl_warmup_steps(1, 60_000), kl_warmup_steps(2, 1_000, 100, epochs=30), kl_warmup_steps(2, 60_000)
    (0, 30, 2000)
    """
    return 0 if levels == 1 else min(2000, _steps(examples, batch_size, epochs) // 10)


def lr_warmup_steps(examples: int, batch_size: int = 128, epochs: int | None = None) -> int:
    """The default number of steps until the learning rate is reached: 100, or a tenth of a shorter training.

    Args:
        examples, batch_size, epochs: as of `kl_warmup_steps`.

    >>> lr_warmup_steps(60_000), lr_warmup_steps(100, epochs=40)
    (100, 4)
    """
    return min(100, _steps(examples, batch_size, epochs) // 10)


def _steps(examples: int, batch_size: int, epochs: int | None) -> int:
    return math.ceil(examples / batch_size) * (epochs or 100)
