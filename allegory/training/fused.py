r"""A whole step in one compiled graph: forward, backward, clipping, AdamW, the average and the sums.

Between the graphs of a step that is compiled in parts the parameters are gone over a dozen times, and Python runs in
between. Here each is read once after its gradient is there. The numbers are those of the step in parts but for
rounding, and the state is kept in the same places: the parameters, `optimizer.state`, the average, the sums.

    g <- scale g,    m <- b_1 m + (1 - b_1) g,    v <- b_2 v + (1 - b_2) g^2
    theta   <- theta (1 - lr decay) - lr / (1 - b_1^t) m / (sqrt(v / (1 - b_2^t)) + epsilon)
    average <- average + (1 - keep) (theta - average)

The step is traced once, with `make_fx`, and runs without Python from then on: what an objective or a module does
besides mapping tensors would be done only once. So it is for objectives and modules of this library and of torch.nn.
What it cannot do is left to the step in parts: those of your own, a held posterior, buffers that a step changes,
several processes, a GPU, a batch of another size than the first, hundreds of parameters, what does not compile whole.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from allegory.conditional import Conditional
from allegory.given import Contexts
from allegory.runtime import processes
from allegory.runtime.compilation import has_compiler
from allegory.runtime.messages import first_line
from allegory.training.batches import Batch
from allegory.training.clipping import clip_scale
from allegory.training.state import State

__all__ = ["FusedStep"]

MAX_PARAMETERS = 64  # parameters: each has its own code, and a compiler that takes minutes is no gain

ModelScore = Callable[..., Tensor]
"""(model, x, beta, *given) -> (B,) the objective, nats."""


class FusedStep:
    """One step, whole, where that can be.

    Args:
        state: of the training; moved by each step.
        score: what is maximised, as a function of the model, too.
        batch: B, examples of a whole batch.
        clip, skip: as of `clip_scale`.
        usable: whether to try at all.
    """

    def __init__(
        self, state: State, score: ModelScore, batch: int, clip: float = 2.0, skip: float = 100.0, usable: bool = True
    ) -> None:
        self.state, self.score, self.batch, self.clip, self.skip = state, score, batch, clip, skip
        self.learned: list[nn.Parameter] = []
        self.step: Callable[..., None] | None = None
        here = state.totals.is_cpu and processes.world_size() == 1
        self.usable = usable and here and has_compiler(state.totals.device) and _is_pure(state.model)

    def __call__(self, batch: Batch, lr: float, beta: Any, keep: float) -> bool:
        """Takes the step; or leaves everything as it is and says no, for the step in parts to do it.

        Args:
            batch: of one process; its examples are gathered in the graph.
            lr: of this step.
            beta: of this step: a number, or one for each level.
            keep: the fraction of itself that the average keeps.
        """
        if not self.usable or len(batch.rows) != self.batch:
            return False
        first = self.step is None
        if first:
            self._prepare(batch.x, beta, batch.given)
        if self.step is None:
            return False
        state = self.state
        moments = [state.optimizer.state[p] for p in self.learned]
        for p, own in zip(self.learned, moments, strict=True):
            if not own:
                own.update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p), step=torch.zeros(()).float())
        t, (b1, b2) = moments[0]["step"].item() + 1, state.optimizer.param_groups[0]["betas"]
        size, root = lr / (1 - b1**t), math.sqrt(1 - b2**t)
        # Ready made: in the graph they would be made anew for every element.
        numbers = torch.tensor([size, 1 / root, 1 - keep, lr], dtype=self.parameters[0].dtype)
        means, squares, steps = ([own[key] for own in moments] for key in ("exp_avg", "exp_avg_sq", "step"))
        examples = (batch.data, *batch.contexts, *(() if batch.share is None else (batch.share,)))
        try:
            with torch.no_grad():
                self.step(
                    *self.parameters, *means, *squares, *self.averages, *steps, state.norms, state.totals,
                    torch.as_tensor(beta), numbers, *examples,
                )  # fmt: skip
        except Exception as error:
            if not first:
                raise
            self.usable = False  # as a whole; the step in parts may compile, or says what is wrong
            warnings.warn(
                f"the step does not compile as a whole, and is taken in parts: {first_line(error)}", stacklevel=2
            )
            return False
        return True

    def _prepare(self, x: Tensor, beta: Any, given: Contexts = ()) -> None:
        """Tries the model on two examples, uncompiled: which parameters have a gradient, and whether buffers change. It
        also fills torch's table of divergences, without which kl_divergence does not compile.
        """
        model, average = self.state.model, self.state.average
        trial = copy.deepcopy(model)
        before = [buffer.clone() for buffer in trial.buffers()]
        with torch.random.fork_rng([]), torch.enable_grad():
            self.score(trial, x[:2], beta, *(c[:2] for c in given)).sum().backward()
        same = all(map(torch.equal, before, trial.buffers()))
        used = [name for name, p in trial.named_parameters() if p.grad is not None]
        ours, averages = dict(model.named_parameters()), dict(average.named_parameters())
        self.learned = [ours[name] for name in used]
        self.parameters = [p.detach() for p in self.learned]
        self.averages = [averages[name].detach() for name in used]
        self.usable = same and 0 < len(used) <= MAX_PARAMETERS and len({p.dtype for p in self.parameters}) == 1
        if self.usable:
            group = self.state.optimizer.param_groups[0]
            scored = _Scored(model, self.score)
            settings = group["betas"], group["eps"], group["weight_decay"]
            self.step = _compiled(_step_function(scored, used, len(given), self.clip, self.skip, *settings))


class _Scored(nn.Module):
    """(B,) the objective, as functional_call wants it: from a module that has the parameters."""

    def __init__(self, model: nn.Module, score: ModelScore) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, x: Tensor, beta: Any, *given: Tensor) -> Tensor:
        return self.score(self.model, x, beta, *given)


def _is_pure(model: nn.Module) -> bool:
    """Whether all modules are known to do nothing but map tensors."""
    parts: list[Any] = [*model.modules()]
    parts += [part.family for part in parts if isinstance(part, Conditional)]  # which may be a function
    known = all(type(part).__module__.startswith(("torch.nn.", "allegory.")) for part in parts)
    hooks = [
        getattr(part, name, None)
        for part in (*model.modules(), *model.parameters())
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_post_accumulate_grad_hooks")
    ]
    return known and not any(hooks)


def _step_function(
    scored: nn.Module,
    names: list[str],
    contexts: int,
    clip: float,
    skip: float,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
) -> Callable[..., tuple[()]]:
    """The step as a function of tensors, the first of which it changes in place: the parameters, both moments, the
    average and the count of steps of each; norms, totals; beta, numbers; x and what is given, so many contexts; and the
    rows of them, where they are not the batch itself.
    """
    (b1, b2), n = betas, len(names)

    def step(*tensors: Tensor) -> tuple[()]:
        parameters, means, squares, averages, steps = (tensors[i * n : (i + 1) * n] for i in range(5))
        norms, totals, beta, numbers, *examples = tensors[5 * n :]
        if len(examples) > 1 + contexts:
            examples = [part.index_select(0, examples[-1]) for part in examples[:-1]]
        x, *given = examples
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in parameters]
            weights = {f"model.{name}": leaf for name, leaf in zip(names, leaves, strict=True)}
            bound = functional_call(scored, weights, (x, beta, *given)).sum()
            gradients = torch.autograd.grad(-bound / len(x), leaves)
        norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        scale, burst = clip_scale(norm, norms, clip, skip)
        size, root, away, lr = numbers.unbind()
        scale_as = scale.to(numbers.dtype)
        for p, g, mean, square, average in zip(parameters, gradients, means, squares, averages, strict=True):
            g = g * scale_as
            mean.lerp_(g, 1 - b1)
            square.mul_(b2).addcmul_(g, g, value=1 - b2)
            q = p * (1 - lr * decay) if decay else p
            q = q - size * mean / (square.sqrt() * root + epsilon)
            average.add_((q - average) * away)
            p.copy_(q)
        counts = [torch.ones_like(norm), scale < 1, scale == 0, burst]
        for count in steps:
            count.add_(1)
        totals.add_(torch.stack([bound.detach().double(), norm, *(count.double() for count in counts)]))
        return ()

    return step


def _compiled(step: Callable[..., tuple[()]]) -> Callable[..., Any]:
    """The step, traced and compiled when it is first called. Unlike torch.compile it does not ask at every call whether
    the model is still what it was: that takes as long as AdamW.
    """
    graph: Callable[..., Any] | None = None

    def call(*tensors: Tensor) -> Any:
        nonlocal graph
        if graph is None:
            from torch._inductor import compile  # imported here: they take as long as torch itself
            from torch.fx.experimental.proxy_tensor import make_fx

            traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
            checks = (
                "size_asserts",
                "alignment_asserts",
                "scalar_asserts",
                "assert_indirect_indexing",
            )  # each time
            graph = compile(traced, list(tensors), options=dict.fromkeys(checks, False))
        return graph(*tensors)

    return call
