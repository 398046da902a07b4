r"""A step: the gradient of the objective, clipped, goes to AdamW, and the average follows.

    theta   <- AdamW(theta, scale * gradient of -mean_b objective(model(x_b), beta))
    average <- average + (1 - keep) (theta - average)

It waits for nothing: sums stay on the device. Of several processes each takes its share of the batch, and the gradient
is that of the whole batch.

Shapes: B examples of all processes in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from allegory.model import VAE
from allegory.objectives import needs_score
from allegory.runtime import processes
from allegory.runtime.compilation import compile_or_warn
from allegory.runtime.precision import autocast
from allegory.trace import Trace
from allegory.training import sharding
from allegory.training.averaging import average_parameters, effective_ema
from allegory.training.batches import Batch
from allegory.training.clipping import clip_scale, gradient_norm
from allegory.training.fused import FusedStep, ModelScore
from allegory.training.schedule import Schedule
from allegory.training.state import State

__all__ = ["Score", "Step", "model_score", "score_function"]

FLUSH_INTERVAL, SUBNORMAL = 100, 1e-30  # how often moments are looked at, in steps, and below what they are cleared

Score = Callable[..., Tensor]
"""(x, beta, *given) -> (B,) the objective, nats."""


def model_score(
    model: VAE,
    objective: Callable[[Trace, Any], Tensor],
    samples: int = 1,
    held: bool = False,
    precision: str = "float32",
) -> ModelScore:
    """What a step maximises, as a function of the model, of its weights, and of a batch.

    Args:
        model: whose device it is for.
        objective, samples, held, precision: as of `score_function`.
    """
    device, scored = next(model.parameters()).device, needs_score(objective)

    def score(model: Any, x: Tensor, beta: float | Tensor, *given: Tensor) -> Tensor:
        with autocast(device, precision):
            trace = model(x, samples=samples, held=held, given=given, scored=scored)
        return objective(trace, beta)

    return score


def score_function(
    model: VAE,
    objective: Callable[[Trace, Any], Tensor],
    samples: int = 1,
    held: bool = False,
    precision: str = "float32",
    compile: bool = False,
    parallel: bool = False,
) -> Score:
    """What a step maximises, as a function of a batch.

    Args:
        model: any VAE.
        objective: of a trace.
        samples: S, particles per example.
        held: whether the objective wants the posterior held, see `VAE.forward`.
        precision: of the networks' matrix products.
        compile: whether to compile it.
        parallel: whether the gradient is averaged over the processes, where there are several.

    >>> score_function(model, al.elbo)(x, 1.0).shape
    torch.Size([7])
    """
    of_model = model_score(model, objective, samples, held, precision)

    def score(x: Tensor, beta: float | Tensor, *given: Tensor) -> Tensor:
        return of_model(model, x, beta, *given)

    if compile:
        score.__code__ = score.__code__.replace()  # its own: of one piece of code torch keeps eight graphs, and no more
        compiled = compile_or_warn(score, next(model.parameters()).device)
        score = lambda x, beta, *given: compiled(x, torch.as_tensor(beta), *given)  # noqa: E731, a number would be compiled in
    if parallel and processes.world_size() > 1:
        return DistributedDataParallel(_Scored(model, score), static_graph=True)
    return score


class _Scored(nn.Module):
    """(B,) the objective, as DistributedDataParallel wants it: from a module that has the parameters."""

    def __init__(self, model: VAE, score: Score) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, x: Tensor, beta: float | Tensor, *given: Tensor) -> Tensor:
        return self.score(x, beta, *given)


class Step:
    """One step of gradient ascent.

    Args:
        state: of the training; moved by each step.
        score: what is maximised.
        lr, beta: schedules of the learning rate and of the KL's weight.
        clip, skip: as of `clip_scale`.
        ema: as of `average_parameters`.
        sharded: whether each process holds a part of the model alone.
        fused: what takes the step as a whole where it can.
    """

    def __init__(
        self,
        state: State,
        score: Score,
        lr: Schedule,
        beta: Schedule,
        clip: float = 2.0,
        skip: float = 100.0,
        ema: float = 0.999,
        sharded: bool = False,
        fused: FusedStep | None = None,
    ) -> None:
        self.state, self.score, self.lr, self.beta = state, score, lr, beta
        self.clip, self.skip, self.ema = clip, skip, ema
        self.sharded, self.fused = sharded, fused

    def __call__(self, batch: Batch, done: float) -> None:
        """Takes the step.

        Args:
            batch: with this process's share of its examples.
            done: how much of the budget is spent.
        """
        state, now = self.state, self.state.position
        now.lr, beta = self.lr(now.step, done) * now.lr_scale, self.beta(now.step, done)
        now.beta = beta.tolist() if isinstance(beta, Tensor) else beta
        beta = beta.to(state.totals.device) if isinstance(beta, Tensor) else beta
        if self.fused is None or not self.fused(batch, now.lr, beta, effective_ema(self.ema, now.step)):
            self._in_parts(batch, beta)
        if now.step % FLUSH_INTERVAL == 0:
            flush_subnormal_moments(state.optimizer)
        now.step, now.batch = now.step + 1, now.batch + 1

    def _in_parts(self, batch: Batch, beta: Any) -> None:
        """The step as it can always be taken."""
        state, now, rows = self.state, self.state.position, batch.rows
        for group in state.optimizer.param_groups:
            group["lr"] = now.lr
        if self.fused is not None and self.fused.usable:  # a smaller last batch is not worth a graph of its own
            bound = self.fused.score(state.model, batch.x, beta, *batch.given)
        else:
            bound = self.score(batch.x, beta, *batch.given)
        bound = bound if len(processes.local_rows(rows)) else 0 * bound
        for p in state.learned:
            p.grad = None
        (-bound.sum() * processes.world_size() / len(rows)).backward()  # the processes' gradients are averaged
        gradients = [p.grad for p in state.learned if p.grad is not None]
        reduce = sharding.reduce_gradients if self.sharded else lambda g: (g, gradient_norm(g))
        gradients, norm = reduce(gradients)
        scale, burst = clip_scale(norm, state.norms, self.clip, self.skip)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        state.optimizer.step()
        average_parameters(state.averages, state.parameters, self.ema, now.step)
        one = torch.ones_like(norm)
        state.totals += torch.stack([bound.detach().sum(), norm, one, scale < 1, scale == 0, burst])


def flush_subnormal_moments(optimizer: torch.optim.Optimizer) -> None:
    """Clears moments that nothing moves any more, of units that have fallen silent: on their way to zero they become
    subnormal, and with such numbers some processors take a hundred times as long. As small as they are (AdamW adds 1e-8
    to the root of the second), they move no weight.
    """
    for moments in optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            moment = sharding.to_local(moments[key])
            torch.hardshrink(moment, lambd=SUBNORMAL, out=moment)
