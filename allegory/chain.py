r"""Chains with a fixed encoder: T levels that share one network, or infinitely many.

    levels 1, ..., T    q(z_t | z_{t+1}, x) is known, p(z_t | z_{t+1}) the same network at every t
    ELBO                E log p(x | z_1) - sum_{t=1..T-1} rate_t - rate_T

A step of training sees one of the levels below the top, drawn anew for each example, in the place of their sum:

    sum_{t<T} rate_t = E_t (T - 1) rate_t,       t uniform on 1, ..., T - 1
                     -> E_u r(u)                 T to infinity, with r(u) du the rate of the levels between u and u + du

Of n draws the places are u_i = (u + i / n) mod 1 with one uniform u: each is uniform, and together they are spread
evenly, which takes most of the noise off the sum (Kingma et al. 2021). Such a trace, `OneLevel`, has a rate of the
levels' sum and one of the top, kl: (2, S, B), right on average, and so is an ELBO of it. It has no log w: the
exponential of an estimate is no estimate of the exponential, and a bound L_K of it would lie above log p(x) for all one
knows. A whole trace has everything, at the price of T passes of the network. Evaluation takes whole traces alone.

Shapes: S particles, B batch, T levels; z_t is (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import register_pytree_node

from allegory.checks import first_with_gap
from allegory.given import Contexts, Given, as_contexts
from allegory.ladder import TopDown
from allegory.model import VAE, Choose
from allegory.runtime.messages import describe_index
from allegory.trace import Trace, with_law_tensors

__all__ = ["FixedChain", "FixedEncoder", "OneLevel", "Steps", "at_levels", "spread_evenly"]

CHECKED = 3  # levels: what `check` looks at is the same at all of them


@dataclass(eq=False, repr=False)
class OneLevel(Trace):
    """A trace of one random level of each example, and of the top; see the module.

    Attributes:
        steps: what the rate of the random level is multiplied by, T - 1, for the sum over the levels below the top; a
            number, or (S, B).
        of_data: what log p(x | z_1) is multiplied by, where it is the term of one of the levels.
    """

    whole: ClassVar[bool] = False
    steps: float | Tensor = 1.0
    of_data: float | Tensor = 1.0

    @property
    def log_px(self) -> Tensor:
        """(S, B) log p(x | z_1), or an unbiased estimate of it, nats."""
        return self.of_data * super().log_px

    @property
    def kl(self) -> Tensor:
        """(2, S, B) an unbiased estimate of the sum of the rates below the top; and the rate of the top, nats."""
        one, top = super().kl
        return torch.stack([self.steps * one, top])

    @property
    def log_pz(self) -> Tensor:
        """None: raises a ValueError, as `log_qz` and `log_weight` do."""
        raise ValueError(_no_weight("log_pz"))

    @property
    def log_qz(self) -> Tensor:
        """None: raises a ValueError."""
        raise ValueError(_no_weight("log_qz"))

    @property
    def log_weight(self) -> Tensor:
        """None: raises a ValueError."""
        raise ValueError(_no_weight("log_weight"))

    @property
    def unit_kl(self) -> tuple[Tensor | None, ...]:
        """The parts of `kl`, of each element of z, (S, B, *event_t)."""
        one, top = super().unit_kl
        return (None if one is None else self.steps * one, top)


register_pytree_node(OneLevel, lambda trace: (list(trace.tensors), trace), with_law_tensors)


def _no_weight(name: str) -> str:
    return (
        f"{name}: this trace is of one random level of each example, an estimate of the bound that has no weight; "
        "train with al.elbo, and score whole traces, model(x, levels='all') or, of a number of levels, "
        "model.with_levels(1000)"
    )


class Steps(nn.Module):
    """The conditionals of all levels, one object for each, which hold no parameters of their own; a sequence.

    Args:
        law: (i, *context) -> the distribution of the i-th.
        count: how many.

    >>> steps = Steps(lambda i, z: al.families.bernoulli(z + i), 3)
    >>> len(steps), steps[2](torch.zeros(1, 2)).base_dist.logits
    (3, tensor([[2., 2.]]))
    """

    def __init__(self, law: Callable[..., Distribution], count: int) -> None:
        super().__init__()
        self._parts = [_Step(law, i) for i in range(count)]  # a list, so that nothing is registered twice

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._parts)

    def __getitem__(self, index: int) -> nn.Module:
        return self._parts[index]


class _Step(nn.Module):
    def __init__(self, law: Callable[..., Distribution], index: int) -> None:
        super().__init__()
        self._law, self.index = law, index

    def forward(self, context: Tensor, above: Tensor | None = None) -> Distribution:
        return self._law(self.index, context) if above is None else self._law(self.index, context, above)

    def extra_repr(self) -> str:
        return str(self.index)


class FixedEncoder(TopDown):
    """q(z_T | x) prod_t q(z_t | z_{t+1}, x) with nothing to learn of its own.

    Args:
        read: x -> what the posteriors read of it, at every level.
        law: (t - 1, read(x), z_{t+1}) -> q(z_t | z_{t+1}, x); at the top (T - 1, read(x)) -> q(z_T | x).
        levels: T.
        forward_process: (t - 1, z_{t-1}) -> q(z_t | z_{t-1}), and (0, read(x)) -> q(z_1 | x), where that is known.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Tensor],
        law: Callable[..., Distribution],
        levels: int,
        forward_process: Callable[..., Distribution] | None = None,
    ) -> None:
        super().__init__(nn.Identity(), ())
        self._read, self.levels, self._forward_process = read, levels, forward_process
        self.has_bottom_up = forward_process is not None
        del self.posteriors
        self.posteriors = Steps(law, levels)  # type: ignore[assignment]

    def forward(self, x: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """read(x), T times."""
        _check_nothing_given(given)
        return (self._read(x),) * self.levels

    def bottom_up(self, level: int, below: Tensor) -> Distribution:
        """q(z_t | z_{t-1}), or q(z_1 | x)."""
        assert self._forward_process is not None
        return self._forward_process(level - 1, self._read(below) if level == 1 else below)


class FixedChain(VAE):
    """A VAE whose encoder is fixed, and whose levels share one network. In training a pass sees one level of each
    example, otherwise all, see the module; `levels` says so for one pass.

    Args:
        prior: p(z_T).
        encoder: the fixed posterior.
        decoder: p(x | z_1), p(z_1 | z_2), ..., a sequence that is a module.
        infinite: whether T is infinite; the chain then stands for what all of them share.

    Attributes:
        needs_gradient: whether draws have one: q may have something to learn, such as its schedule. Where it has
            nothing, the gradient of the bound is that of p alone.
    """

    needs_gradient: ClassVar[bool] = True

    def __init__(self, prior: nn.Module, encoder: FixedEncoder, decoder: nn.Module, infinite: bool = False) -> None:
        super().__init__(prior, encoder, decoder)
        self.infinite = infinite

    @property
    def levels(self) -> int | None:  # type: ignore[override]
        """T; None where it is infinite."""
        return None if self.infinite else len(self.encoders)

    def with_levels(self, levels: int) -> FixedChain:
        """The chain of T levels that has the same network and schedule; the weights are shared."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        samples: int = 1,
        held: bool = False,
        noise: Sequence[Tensor | None] | None = None,
        given: Given = None,
        scored: bool = False,
        levels: str | None = None,
    ) -> Trace:
        """Draws z_1..T ~ q(. | x), or some of them, and evaluates p.

        Args:
            x, samples, noise: as of any VAE; noise is for all levels.
            held: cannot be, in a trace of one level.
            given: nothing.
            scored: whether draws may be without a gradient; no objective needs it here, since q is fixed.
            levels: "all" or "one"; by default one in training, or where there are infinitely many, else all.
        """
        _check_nothing_given(as_contexts(given))
        if levels not in (None, "all", "one"):
            raise ValueError(f"levels={levels!r}: wanted 'all' or 'one'")
        if levels == "all" or (levels is None and not self.training and not self.infinite):
            trace = super().forward(x, samples, held, noise, given, scored or not self.needs_gradient)
            return trace if self.needs_gradient else replace(trace, scored=False)
        if held or noise is not None:
            what = "held=True (which stl and dreg need)" if held else "noise"
            raise ValueError(
                f"{what}: wanted a whole trace, levels='all'; one random level of each example has no log w: train "
                "with al.elbo"
            )
        self._sampler(samples)
        return self._one_level(x, samples)

    def estimate(self, x: Tensor, samples: int = 1, given: Given = None) -> Trace:
        """A trace of one random level of each example."""
        return self(x, samples, given=given, levels="one")

    def _one_level(self, x: Tensor, samples: int) -> OneLevel:
        raise NotImplementedError

    def sample(self, n: int, temperature: float = 1.0, given: Given = None, levels: int | None = None) -> Tensor:
        """(n, *event) draws.

        Args:
            n: how many.
            temperature: the standard deviations of all latents are multiplied by it.
            given: nothing.
            levels: in so many steps; by default in T.
        """
        return VAE.sample(at_levels(self, levels), n, temperature, given)

    def check(self, x: Tensor, name: str = "x", rows: Sequence[Any] | None = None, given: Given = None) -> None:
        """As of any VAE; it looks at a few levels, since all are alike."""
        _check_nothing_given(as_contexts(given))
        chain = self if self.levels is not None and self.levels <= CHECKED else self.with_levels(CHECKED)
        VAE.check(chain, x, name, rows)

    def _check_gaps(self, x: Any, contexts: Contexts, name: str, rows: Sequence[Any] | None) -> None:
        row = first_with_gap(x)
        if row is not None:
            raise ValueError(f"{name}: {describe_index([row], rows)} has gaps, and a diffusion reads none")

    def _generate_down(
        self, choose: Choose, contexts: Contexts = (), top: int | None = None, prior: Distribution | None = None
    ) -> Any:
        if self.infinite:
            raise ValueError(INFINITE)
        return super()._generate_down(choose, contexts, top, prior)

    def _check_level(self, level: int) -> None:
        if self.infinite:
            raise ValueError(INFINITE)
        super()._check_level(level)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"

    def _counterpart(self, chain: FixedChain) -> FixedChain:
        """Another chain of the same parts, in the mode of this one."""
        for part in (chain, chain.encoders, chain.decoders):
            part.training = self.training
        return chain


INFINITE = (
    "this chain has infinitely many levels, levels=None, of which there is no whole trace, no log w and no draw: "
    "wanted a number of them, al.evaluate(model, x, levels=1000), model.sample(n, levels=100), "
    "model.with_levels(1000), or of a run al.Run(path, levels=1000)"
)


def at_levels(model: Any, levels: int | None) -> Any:
    """The model whose whole traces are to be taken.

    Args:
        model: any VAE.
        levels: how many a chain with a fixed encoder is to have; by default as many as it has.

    Raises:
        ValueError: infinitely many; or a model whose levels cannot be chosen.
    """
    if levels is not None:
        if not isinstance(model, FixedChain):
            raise ValueError(
                f"levels={levels}: {type(model).__name__} has the levels that it was built with; wanted a diffusion"
            )
        return model.with_levels(levels)
    if isinstance(model, FixedChain) and model.infinite:
        raise ValueError(INFINITE)
    return model


def check_levels(levels: Any) -> None:
    """Raises a ValueError for anything but T >= 1, or None."""
    if levels is not None and (not hasattr(levels, "__index__") or isinstance(levels, bool) or levels < 1):
        raise ValueError(f"levels={levels!r}: wanted one or more, a whole number, or None for infinitely many")


def spread_evenly(samples: int, batch: int, like: Tensor) -> Tensor:
    """(S, B) places in [0, 1), each uniform, together at even distances.

    >>> u = spread_evenly(1, 4, torch.zeros(()))
    >>> u.sort().values.diff()
    tensor([[0.2500, 0.2500, 0.2500]])
    """
    count = samples * batch
    u = torch.rand((), dtype=like.dtype, device=like.device) * count
    i = torch.arange(count, device=like.device).view(samples, batch)
    return (((i + u) % count) / count).clamp(max=1 - torch.finfo(like.dtype).eps)


def _check_nothing_given(contexts: Sequence[Any]) -> None:
    if len(contexts):
        raise ValueError("given: the denoiser of a diffusion reads nothing that is given; wanted a model without given")
