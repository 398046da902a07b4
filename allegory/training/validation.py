r"""Validation: the bound of the averaged weights on held-out data, by which the best weights are chosen.

The bound is that at beta = 1, which is a bound on log p(x). Where the training has another beta, the objective is
measured at that beta, too, and chooses the weights: the bound gets worse as such a training goes on. Always in float32,
with the same noise each epoch: it depends on the seed and on the position in the data set, for any number of processes.

Shapes: M validation examples, T levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from allegory.evaluation.passes import evaluating, pairs_per_pass
from allegory.given import Contexts, take_rows
from allegory.model import VAE
from allegory.runtime import processes
from allegory.trace import Trace
from allegory.training.batches import Batches

__all__ = ["validate", "warn_if_not_finite"]


def validate(
    model: VAE,
    valid: Tensor,
    objective: Callable[[Trace, Any], Tensor],
    samples: int = 1,
    seed: int = 0,
    beta: float | Tensor | None = None,
    contexts: Contexts = (),
) -> dict[str, Any]:
    """The objective at beta = 1 (bound), the ELBO and its parts (elbo, reconstruction, kl_per_level), and where a beta
    is given the objective at that beta (objective), averaged over the validation set, nats per example. Of a chain with
    a fixed encoder the rates are two, of all levels below the top, by an estimate, and of the top.

    Args:
        model: any VAE.
        valid: (M, *event).
        objective: as in `fit`.
        samples: S, particles per example.
        seed: of the noise.
        beta: the KL's weight in training, if it is not 1; a number, or (T,) one for each level.
        contexts: what is given, (M, *context) each.

    >>> sorted(validate(model, x, al.elbo))
    ['bound', 'elbo', 'kl_per_level', 'reconstruction']
    """
    weights = [1.0] if beta is None else [1.0, beta.to(valid.device) if isinstance(beta, Tensor) else beta]
    sums = torch.zeros((), dtype=torch.float64, device=valid.device)
    rows = max(1, pairs_per_pass(model, valid, whole=False) // samples)
    starts = torch.arange(0, len(valid), rows)
    mine = processes.local_rows(starts).tolist()
    with evaluating(model), torch.random.fork_rng():
        for turn in range(math.ceil(len(starts) / processes.world_size())):  # the same number of turns in every process
            start = mine[turn] if turn < len(mine) else 0
            torch.manual_seed(seed + start)
            part = slice(start, start + rows)
            trace = model.estimate(valid[part], samples=samples, given=take_rows(contexts, part))
            bounds = [objective(trace, weight) for weight in weights]
            terms = torch.cat([torch.stack(bounds), torch.cat([trace.log_px[None], trace.kl]).mean(1)])
            found = terms.sum(1).double()
            sums = sums + (found if turn < len(mine) else torch.zeros_like(found))
    means = (processes.all_reduce(sums) / len(valid)).tolist()
    bound, *chosen_by = means[: len(weights)]
    reconstruction, *rates = means[len(weights) :]
    measured = dict(bound=bound, elbo=reconstruction - sum(rates), reconstruction=reconstruction, kl_per_level=rates)
    return measured | ({"objective": chosen_by[0]} if chosen_by else {})


def warn_if_not_finite(model: VAE, batches: Batches) -> None:
    """Warns where the weights score a batch at no finite number of nats: after the last step of a training without
    validation data nobody else looks.

    Args:
        model: with the weights to use.
        batches: of the training data.
    """
    with evaluating(model), torch.random.fork_rng():
        batch = next(iter(batches.epoch(0)))
        trace = model.estimate(batch.x, given=batch.given)
        broken = int((~torch.isfinite(trace.log_px - trace.kl.sum(0))).sum())
    if broken:
        warnings.warn(
            f"the weights after the last step give {broken} of {len(batch.x)} examples no finite bound; train again, "
            "with a lower lr",
            stacklevel=5,
        )
