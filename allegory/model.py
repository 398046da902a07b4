r"""Variational autoencoders of any depth, and the trace of one pass through them.

Levels are counted from the data up: z_0 = x, z_1, ..., z_T. Generation goes down and carries a state, inference goes up
or down,

    generate    p(x, z_1..T)   = p(z_T) prod_{t=1..T} p(z_{t-1} | s_t),          s_t = state_t(z_t, s_{t+1})
    infer       q(z_1..T | x)  = prod_{t=1..T} q(z_t | z_{t-1})                  bottom-up
         or     q(z_1..T | x)  = q(z_T | x) prod_{t=1..T-1} q(z_t | s_{t+1}, x)   top-down, see `allegory.ladder`

The Markov chain is s_t = z_t. Every bound is a function of the log-densities of one draw z_1..T ~ q(. | x),

    log w   = log p(x, z_1..T) - log q(z_1..T | x)
            = log p(x | s_1) + sum_t [log p(z_t | s_{t+1}) - log q(z_t | ...)],      p(z_T | s_{T+1}) = p(z_T)
    E log w = log p(x) - KL(q(z | x) || p(z | x)).

The VAE of Kingma & Welling (2014) is T = 1; nothing below depends on T.

The rate of level t is E_q[log q(z_t | ...) - log p(z_t | s_{t+1})]. Top-down, both distributions are conditioned on
the draws above them, and the rate is KL(q(z_t | ...) || p(z_t | s_{t+1})), in closed form. Bottom-up, that holds only
for z_T. Below the top z_{t+1} was drawn from z_t, and KL(q(z_t | z_{t-1}) || p(z_t | s_{t+1})) for that z_{t+1} has
another mean. Adding up these divergences gives a lower bound, too, but one that charges for what the levels share: for
T = 2 it is the ELBO of q(z_1 | x) q(z_2 | x) less the information I(z_1; z_2 | x). So below the top the entropy of q is
in closed form, log p is estimated from the one sample, and a rate may be negative; their sum is not, on average.
Families without a closed form are sampled.

Shapes: S particles, B batch, T levels; z_t is (S, B, *event_t), s_t (S, B, *).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._pytree import register_pytree_node

from allegory.conditional import Conditional, StandardNormal
from allegory.distributions import check_support, tempered, with_tensors
from allegory.ladder import TopDown
from allegory.runtime.checks import no_tensor, no_validation, place, reshaping
from allegory.runtime.compilation import disable_compile
from allegory.runtime.modes import eval_mode
from allegory.runtime.precision import autocast_enabled, without_autocast
from allegory.runtime.threads import one_at_a_time

__all__ = ["VAE", "Trace"]

NEIGHBOURS = 1000  # examples among which `VAE.check` looks for one that differs from the first


def _tensors(trace: Trace) -> tuple[Tensor, ...]:
    """The tensors that a gradient reaches the networks through, in p and q."""
    found: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        if x.requires_grad:
            found.append(x.view_as(x) if x.is_leaf else x)  # a parameter is no node of the graph, which is searched
        return x

    with_tensors((trace.p, trace.q), collect)
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
        tensors: what a gradient reaches the networks through, in p and q. Where a VAE itself is wrapped in
            DistributedDataParallel, torch looks for them among these attributes.
    """

    x: Tensor
    latents: tuple[Tensor, ...]
    p: tuple[Distribution, ...]
    q: tuple[Distribution, ...]
    top_down: bool = False
    held: bool = False
    tensors: tuple[Tensor, ...] = field(init=False, default=property(_tensors))  # type: ignore

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


def _with_law_tensors(tensors: Iterable[Tensor], trace: Trace) -> Trace:
    """The trace with other tensors in the place of `trace.tensors`."""
    given = iter(tensors)
    p, q = with_tensors((trace.p, trace.q), lambda x: next(given) if x.requires_grad else x)
    return replace(trace, p=p, q=q)


register_pytree_node(Trace, lambda trace: (list(trace.tensors), trace), _with_law_tensors)


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


Latents = tuple[Tensor, ...]
Laws = tuple[Distribution, ...]
Draw = Callable[[int, Distribution], Tensor]  # (t, q(z_t | ...)) -> z_t
Choose = Callable[[int, Distribution, Tensor | None], Tensor]


class VAE(nn.Module):
    """A variational autoencoder with one level of latents, or a chain of T.

    Args:
        prior: p(z_T); its call, without arguments, gives a distribution of batch shape ().
        encoder: q(z_1 | x), or the sequence of q(z_t | z_{t-1}), t = 1, ..., T; or a `TopDown`.
        decoder: p(x | s_1), or the sequence of p(z_{t-1} | s_t), t = 1, ..., T.
        state: the state that the generative loop carries down, T modules, level 1 first: s_t = state_t(z_t, s_{t+1}),
            the last called as s_T = state_T(z_T). By default s_t = z_t, the Markov chain.

    Raises:
        ValueError: levels that do not fit together.

    >>> model = al.VAE(
    ...     al.StandardNormal(2),
    ...     al.Conditional(nn.Linear(5, 2 * 2), al.families.normal),
    ...     al.Conditional(nn.Linear(2, 5), al.families.bernoulli),
    ... )
    >>> trace = model(torch.ones(3, 5), samples=4)
    >>> trace.log_px.shape, trace.kl.shape
    (torch.Size([4, 3]), torch.Size([1, 4, 3]))
    """

    _compared = False  # whether a posterior that was run twice was found to be the same
    config: dict[str, Any] | None = None  # set by allegory.architectures: the arguments that rebuild this model

    def __init__(
        self,
        prior: nn.Module,
        encoder: nn.Module | Sequence[nn.Module],
        decoder: nn.Module | Sequence[nn.Module],
        state: nn.Module | Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(prior, type) or not callable(prior):
            got = f"the class {prior.__name__}" if isinstance(prior, type) else type(prior).__name__
            raise ValueError(f"prior: got {got}, wanted a module whose call gives p(z_T), such as al.StandardNormal(2)")
        self.prior = prior
        self.encoders: Any = encoder if isinstance(encoder, TopDown) else _module_list(encoder)
        self.decoders = _module_list(decoder)
        self.states = None if state is None else _module_list(state)
        counts = {"encoders": len(self.encoders), "decoders": len(self.decoders)}
        if self.states is not None:
            counts["states"] = len(self.states)
        if len(set(counts.values())) > 1 or not len(self.encoders):
            got = " and ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"a chain of T levels has T encoders and T decoders, T >= 1, but got {got}")

    @property
    def levels(self) -> int:
        """T, the number of levels of latents."""
        return len(self.encoders)

    def forward(
        self, x: Tensor, samples: int = 1, held: bool = False, noise: Sequence[Tensor | None] | None = None
    ) -> Trace:
        """Draws z_1..T ~ q(. | x) and evaluates p on the way down.

        Args:
            x: (B, *event) data.
            samples: S, particles per example. The network on x runs once for all of them.
            held: whether q's parameters are held fixed in the densities, so that a gradient reaches them only through
                the draws; `stl` and `dreg` need that. The trace's latents are then views of the draws, and all
                densities are computed from these views. The encoders run twice, and have to be the same both times,
                without dropout or noise in them: the first time that this is done in training, both are compared.
            noise: standard normal noise for z_1, ..., z_T, (S, B, *event_t) each, where q is normal; None, for all
                levels or for one, draws it from torch's generator.
        """
        draw = self._sampler(samples, noise)
        if not held:
            return self._trace(x, samples, draw)
        latents, q = self._infer(x, samples, draw)
        latents = tuple(z.view_as(z) for z in latents)
        inferred = _posterior_without_gradient(self, x, latents, q)
        return replace(self._trace(x, samples, _fixed_latents(latents), inferred), held=True)

    def score(self, x: Tensor, latents: Sequence[Tensor]) -> Trace:
        """The densities of given latents: log p(x, z) and log q(z | x).

        Args:
            x: (B, *event) data.
            latents: z_1, ..., z_T, each (S, B, *event_t).
        """
        return self._trace(x, len(latents[0]), _fixed_latents(tuple(latents)))

    def _trace(
        self,
        x: Tensor,
        samples: int,
        draw: Draw,
        inferred: tuple[Latents, Laws] | None = None,
        prior: Distribution | None = None,
    ) -> Trace:
        top_down = isinstance(self.encoders, TopDown)
        if top_down and inferred is None:
            latents, q, p, state = self._infer_top_down(x, samples, draw, prior)
        else:
            latents, q = inferred or self._infer_bottom_up(x, draw)

            def meet(t: int, p: Distribution, state: Tensor | None) -> Tensor:
                self._check_shapes(t, q[t - 1], p, (samples, len(x)))
                return latents[t - 1]

            _, p, state = self._generate_down(meet, prior=prior)
        law = _law(self.decoders[0], state)
        _check_law("p(x | z_1)", law)
        if law.event_shape != x.shape[1:]:
            raise ValueError(
                f"x has examples of shape {tuple(x.shape[1:])}, but p(x | z_1) is over {tuple(law.event_shape)}"
            )
        _check_batch("p(x | z_1)", law, (samples, len(x)))
        return Trace(x, latents, (law, *p), q, top_down)

    def _sampler(self, samples: int, noise: Sequence[Tensor | None] | None = None) -> Draw:
        """The function that draws z_1..T ~ q(. | x): S times where q depends on x alone, once from each later law."""
        if not hasattr(samples, "__index__") or samples < 1:
            raise ValueError(f"samples={samples!r}: wanted at least one particle, a whole number")
        first = self.levels if isinstance(self.encoders, TopDown) else 1

        def draw(t: int, q: Distribution) -> Tensor:
            eps = None if noise is None else noise[t - 1]
            if eps is not None:
                return _reparameterize(q, eps, samples, t)
            with without_autocast():
                return _draw(q, Size((samples,)) if t == first else Size(), t)

        if noise is not None and len(noise) != self.levels:
            raise ValueError(f"noise: got {len(noise)} tensors, wanted one for each of {self.levels} levels")
        return draw

    def _infer(self, x: Tensor, samples: int, draw: Draw | None = None) -> tuple[Latents, Laws]:
        """z_1..T ~ q(. | x), and q, without p(x | s_1)."""
        draw = draw or self._sampler(samples)
        if not isinstance(self.encoders, TopDown):
            return self._infer_bottom_up(x, draw)
        latents, q, *_ = self._infer_top_down(x, samples, draw)
        return latents, q

    def _infer_bottom_up(self, x: Tensor, draw: Draw) -> tuple[Latents, Laws]:
        latents: list[Tensor] = []
        q: list[Distribution] = []
        for t, encoder in enumerate(self.encoders, start=1):
            q.append(_law(encoder, latents[-1] if latents else x))
            latents.append(draw(t, q[-1]))
        return tuple(latents), tuple(q)

    def _infer_top_down(
        self, x: Tensor, samples: int, draw: Draw, prior: Distribution | None = None
    ) -> tuple[Latents, Laws, Laws, Tensor]:
        features = self.encoders(x)
        q: dict[int, Distribution] = {}

        def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
            q[t] = _law(self.encoders.posterior, t, features[t - 1], state, p)
            self._check_shapes(t, q[t], p, (samples, len(x)))
            return draw(t, q[t])

        latents, p, state = self._generate_down(choose, prior=prior)
        return latents, tuple(q[t] for t in sorted(q)), p, state

    def _generate_down(
        self, choose: Choose, top: int | None = None, prior: Distribution | None = None
    ) -> tuple[Latents, Laws, Tensor]:
        """The generative loop, for every chain and both ways to infer: z_1..top, p(z_1 | s_2), ..., p(z_top), s_1.

        Args:
            choose: (t, p(z_t | s_{t+1}), s_{t+1}) -> z_t.
            top: the level to begin at; below T only the value of z_top is known, not its law, and the chain has to be
                Markov.
            prior: p(z_T), if already computed; it may be costly.
        """
        top = top or self.levels
        latents: list[Tensor] = []
        laws: list[Any] = [(prior or _law(self.prior)) if top == self.levels else None]
        state: Any = None
        for t in range(top, 0, -1):
            z = choose(t, laws[0], state)
            state = self._next_state(t, z, state)
            latents.insert(0, z)
            if t > 1:
                laws.insert(0, _law(self.decoders[t - 1], state))
        return tuple(latents), tuple(laws), state

    def _next_state(self, level: int, z: Tensor, state: Tensor | None) -> Tensor:
        """s_t = state_t(z_t, s_{t+1})."""
        if self.states is None:
            return z
        return self.states[level - 1](z) if state is None else self.states[level - 1](z, state)

    def encode(self, x: Tensor, samples: int = 1) -> tuple[Distribution, ...]:
        """The posterior, level by level, level 1 first. The one that depends on x alone, q(z_1 | x) bottom-up or q(z_T
        | x) top-down, has batch shape (B,); the others depend on draws, with batch shape (S, B).

        Args:
            x: (B, *event) data.
            samples: S, draws per example.
        """
        return self._infer(x, samples)[1]

    def decode(self, z: Tensor | Sequence[Tensor], level: int = 1, temperature: float = 1.0) -> Distribution:
        """p(x | s_1) given z_level and the levels above it; all levels below are drawn from the prior.

        Args:
            z: (*batch, *event_level); where the chain is not Markov, z_level, ..., z_T.
            level: the level of z, 1 to T.
            temperature: of the draws; at 0 each level is its mean given the one above.
        """
        self._check_level(level)
        given = [z] if isinstance(z, Tensor) else list(z)
        above = self.levels - level + 1
        if len(given) > above or (self.states is not None and len(given) < above):
            markov = "; only a Markov chain needs fewer" if len(given) < above else ""
            raise ValueError(f"level={level}: got {len(given)} latents, wanted z_{level}, ..., z_{self.levels}{markov}")
        *_, state = self._generate_down(
            lambda t, p, state: given[t - level] if t >= level else tempered(p, temperature).sample(),
            level + len(given) - 1,
        )
        return _law(self.decoders[0], state)

    def generate(self, n: int, temperature: float = 1.0) -> Distribution:
        """p(x | z_1) for n draws from the prior, with batch shape (n,).

        Args:
            n: number of draws.
            temperature: the standard deviations of all latents are multiplied by it; see `distributions.tempered`.
        """
        if not hasattr(n, "__index__") or n < 1:
            raise ValueError(f"n={n}: wanted at least one, a whole number")
        *_, state = self._generate_down(
            lambda t, p, state: tempered(p, temperature).sample((n,) if state is None else ())
        )
        return _law(self.decoders[0], state)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """(n, *event): z from the prior, at a temperature as in `generate`, then a draw from p(x | z_1)."""
        with self._name_failing_conditional():
            x = self.generate(n, temperature).sample()
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())  # categories are stored as floats

    def reconstruct(self, x: Tensor, level: int = 1, temperature: float = 1.0) -> Distribution:
        """p(x | s_1) with batch shape (B,): z_level, ..., z_T are drawn from the posterior, all below from the prior.

        Args:
            x: (B, *event) data.
            level: 1 shows what all latents keep of x, T what the top level keeps.
            temperature: of the draws from the prior.
        """
        self._check_level(level)
        latents, _ = self._infer(x, samples=1)
        return self.decode([z[0] for z in latents[level - 1 :]], level, temperature)

    @one_at_a_time()
    @torch.no_grad()
    def check(self, x: Tensor, name: str = "x", rows: Sequence[Any] | None = None) -> None:
        """Raises a ValueError, in one line, if x is empty, not finite, of the wrong shape or outside the support of
        p(x | z_1). `fit` and `evaluate` call it once; the passes themselves do not check.

        Args:
            x: (N, *event) data.
            name: of x in the message.
            rows: (N,) what the user calls the rows of x; by default their numbers, in the file for data on disk.
        """
        if not hasattr(x, "is_floating_point"):
            raise ValueError(no_tensor(name, x))
        if x.dim() < 1 or not len(x):
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (N, *event) with at least one example")
        if not x.is_floating_point():
            how = "x.float()" if not x.is_complex() else "torch.view_as_real(x).flatten(1), say"
            raise ValueError(f"{name}: got {x.dtype}, wanted floating point numbers; use {how}")
        if isinstance(x, Tensor) and x.layout != torch.strided:
            raise ValueError(f"{name}: got a sparse tensor, {x.layout}, wanted a dense one; use x.to_dense()")
        if any(hasattr(p, "to_local") for p in self.parameters()):
            raise ValueError("this model is sharded over processes; load the whole model from its run, al.load(out)")
        device = next((p.device for p in self.parameters()), x.device)
        if x.device.type != device.type:
            raise ValueError(f"{name} is on {x.device}, the model on {device}: move one of them, x.to({device.type!r})")
        self._check_prior()
        pieces = [(rows, x)] if isinstance(x, Tensor) else x.pieces()
        with eval_mode(self), torch.random.fork_rng(), self._name_failing_conditional():
            law = self.generate(1)
            if law.event_shape != x.shape[1:]:
                hint = reshaping(x.shape, law.event_shape)
                if law.batch_shape[1:] + law.event_shape == x.shape[1:]:
                    hint = f", in a batch of {tuple(law.batch_shape)}: wanted Conditional(..., event_dim={x.dim() - 1})"
                raise ValueError(
                    f"{name}: examples of shape {tuple(x.shape[1:])}, but p(x | z_1) is over {tuple(law.event_shape)}"
                    f"{hint}"
                )
            for called, part in pieces:
                finite = torch.isfinite(part)
                if not bool(finite.all()):
                    raise ValueError(
                        f"{name}: {int((~finite).sum())} values are NaN or infinite, the first in "
                        f"{place((~finite).nonzero()[0].tolist(), called)}; remove or replace them"
                    )
                check_support(law, part, name, called)
            trace = self(x[:1])
            _ = trace.kl  # checks shapes; fills torch's table of divergences, which a compiler cannot do
            with no_validation():
                self._check_neighbours(x, trace.p[-1])

    def _check_prior(self) -> None:
        call = getattr(self.prior, "forward", self.prior)
        try:
            inspect.signature(call).bind()
        except TypeError as error:
            raise ValueError(
                f"the prior, {type(self.prior).__name__}, cannot be called without arguments: {error}; wanted p(z_T), "
                f"such as al.StandardNormal, first: VAE(prior, encoder, decoder)"
            ) from None
        except ValueError:  # what is not written in Python tells no signature
            pass

    def _check_neighbours(self, x: Tensor, prior: Distribution) -> None:
        """Raises a ValueError if a density depends on other examples or particles: it is then of no model. Of two
        examples with two particles each, one is exchanged for another, and the densities of the others must not move.
        """
        x = x[:NEIGHBOURS]
        other = int((x != x[:1]).flatten(1).any(1).to(torch.int8).argmax())  # the first that differs, if there is one
        x, seed = x[torch.tensor([0, other])], int(torch.randint(2**62, ()))
        latents = self._infer(x, samples=2)[0]

        def densities(x: Tensor, latents: Sequence[Tensor]) -> Tensor:
            torch.manual_seed(seed)  # of conditionals that draw
            trace = self._trace(x, 2, _fixed_latents(tuple(latents)), prior=prior)  # which may be costly
            return torch.cat([trace.log_px[None], trace.log_pz, trace.log_qz])

        before, again = densities(x, latents), densities(x, latents)
        names = [self._p_name(t) for t in range(self.levels + 1)]
        names += [self._q_name(t) for t in range(1, self.levels + 1)]
        order = [*range(self.levels, -1, -1), *range(2 * self.levels, self.levels, -1)]  # p first: q may build on it

        def compare(what: str, after: Tensor, kept: Tensor) -> None:
            for i in order:
                old, new = before[i][kept], after[i][kept]
                if _close(before[i], again[i]) and not _close(old, new):  # some conditionals change with every call
                    apart = (old - new).abs().max()
                    raise ValueError(
                        f"{names[i]} of one example and particle depends on the other {what}: it moves by {apart:.3g} "
                        "nats when they change. Tensors are (particles S, examples B, *event), and a layer that works "
                        "on dimension 0 or 1 (softmax(dim=1), a Transformer, a recurrent net) mixes them; let it work "
                        "on dimension -1, or give it (S * B, *event)"
                    )

        for s, b in ((0, 0), (1, 1)):
            swapped = x.clone()
            swapped[b] = x[1 - b]
            examples, particles = (torch.zeros(2, 2, dtype=torch.bool, device=x.device) for _ in range(2))
            examples[:, 1 - b] = particles[1 - s, b] = True
            compare("examples", densities(swapped, latents), examples)
            changed = [z.clone() for z in latents]
            for z, old in zip(changed, latents, strict=True):
                z[s, b] = old[1 - s, 1 - b]
            after = densities(x, changed)
            compare("examples", after, examples)
            compare("particles", after, particles)

    @contextmanager
    def _name_failing_conditional(self) -> Iterator[None]:
        """Turns a RuntimeError of a conditional, or a result that is no distribution, into a ValueError that names it
        and its input.
        """
        encoders = self.encoders.posteriors if isinstance(self.encoders, TopDown) else self.encoders
        parts = {self._p_name(t): decoder for t, decoder in enumerate(self.decoders)}
        parts |= {self._q_name(t): encoder for t, encoder in enumerate(encoders, start=1)}
        called: list[str] = []
        types: list[Any] = []

        def note(name: str, module: nn.Module, contexts: Any) -> None:
            called.append(f"{name} was given {' and '.join(str(tuple(c.shape)) for c in contexts)}")
            types[:] = [contexts[0].dtype, next((p.dtype for p in module.parameters()), contexts[0].dtype)]

        hooks = [
            part.register_forward_pre_hook(lambda module, contexts, name=name: note(name, module, contexts))
            for name, part in parts.items()
        ]
        hooks += [
            part.register_forward_hook(lambda module, contexts, law, name=name: _check_law(name, law))
            for name, part in parts.items()
        ]
        try:
            yield
        except RuntimeError as error:
            if not called or "alloc" in str(error):
                raise
            given, own = types
            if own in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"{called[-1]} of {given}, but its weights are {own}: draws and densities are in float32; keep the "
                    "model in it, model.float(), and give precision='bfloat16' to what trains or scores"
                ) from None
            if given != own:
                short = str(own).removeprefix("torch.")
                raise ValueError(
                    f"{called[-1]} of {given}, but its weights are {own}: convert the data, x.to(torch.{short}), or "
                    f"the model, model.to({given})"
                ) from None
            folded = "; al.networks.Images and Vectors make one of its two leading dimensions, particles and examples"
            hint = folded if "(unbatched)" in str(error) else ""
            raise ValueError(f"{called[-1]}, which it cannot read: {' '.join(str(error).split())}{hint}") from None
        finally:
            for hook in hooks:
                hook.remove()

    def _p_name(self, t: int) -> str:
        """The name of p(z_t | ...), or p(x | ...) for t = 0."""
        return f"p({f'z_{t}' if t else 'x'}{'' if t == self.levels else f' | z_{t + 1}'})"

    def _q_name(self, t: int) -> str:
        if isinstance(self.encoders, TopDown):
            return f"q(z_{t} | {'' if t == self.levels else f'z_{t + 1}, '}x)"
        return f"q(z_{t} | {'x' if t == 1 else f'z_{t - 1}'})"

    def _check_shapes(self, t: int, q: Distribution, p: Distribution, batch: tuple[int, int]) -> None:
        """Broadcasting would hide a level of the wrong shape; comparing tuples costs nothing."""
        top, top_down = t == self.levels, isinstance(self.encoders, TopDown)
        reads_x = top if top_down else t == 1
        _check_batch(f"the encoder of level {t}, {self._q_name(t)}", q, batch[1:] if reads_x else batch)
        if p.event_shape != q.event_shape:
            raise ValueError(
                f"level {t}: the encoder gives z_{t} of shape {tuple(q.event_shape)}, but {self._p_name(t)} is over "
                f"{tuple(p.event_shape)}"
            )
        _check_batch(self._p_name(t), p, () if top else batch)

    def _check_level(self, level: int) -> None:
        if not 1 <= level <= self.levels:
            raise ValueError(f"level={level}: this model has levels 1 to {self.levels}")

    def extra_repr(self) -> str:
        return self._generative(None)

    def __repr__(self) -> str:
        parameters = list(self.parameters())
        if any(is_lazy(p) for p in parameters):  # a pass would initialise them
            return f"VAE: {self._generative(None)}; {self._inference()}"
        shapes = None if any(hasattr(p, "to_local") for p in parameters) else self._event_shapes()
        count = sum(p.numel() for p in parameters)
        return f"VAE: {self._generative(shapes)}; {self._inference()}; {count:,} parameters"

    def _generative(self, shapes: list[Size] | None) -> str:
        """p(z_T) ... p(x | z_1), as text; with the shapes of x, z_1, ..., z_T, if they are known."""
        markov, parts = self.states is None, []
        for t in range(self.levels, -1, -1):
            size = "" if shapes is None else f": {'x'.join(map(str, shapes[t])) or '()'}"
            above = "" if t == self.levels else f" | z_{t + 1}{'' if markov or t + 1 == self.levels else ', ..'}"
            parts.append(f"p({f'z_{t}' if t else 'x'}{size}{above})")
        return _elide(parts)

    def _inference(self) -> str:
        """q(z_1 | x) ..., in the order of drawing."""
        top = self.levels
        if not isinstance(self.encoders, TopDown):
            return _elide([f"q(z_{t} | {f'z_{t - 1}' if t > 1 else 'x'})" for t in range(1, top + 1)])
        more = ["" if self.states is None or t + 1 >= top else ", .." for t in range(top)]
        below = [f"q(z_{t} | z_{t + 1}{more[t]}, x)" for t in range(top - 1, 0, -1)]
        return _elide([f"q(z_{top} | x)", *below])

    def _event_shapes(self) -> list[Size] | None:
        """Of x, z_1, ..., z_T, by one pass without side effects; None where the model cannot be run."""
        devices = list({p.device for p in self.parameters() if p.is_cuda})
        try:
            with eval_mode(self), torch.no_grad(), torch.random.fork_rng(devices):
                _, p, state = self._generate_down(lambda t, p, state: p.sample((1,) if state is None else ()))
                return [law.event_shape for law in (self.decoders[0](state), *p)]
        except Exception:  # whatever is wrong is reported where the model is used
            return None


def check_is_vae(model: Any) -> None:
    """Raises a ValueError for anything but a VAE, or one that torch.compile has wrapped."""
    if isinstance(getattr(model, "_orig_mod", model), VAE):
        return
    inner = getattr(model, "module", None)  # of DistributedDataParallel and DataParallel
    wanted = "the VAE inside of it, model.module" if isinstance(inner, VAE) else "a VAE, and the data after it"
    raise ValueError(f"model: got {type(model).__name__}, wanted {wanted}")


def _elide(parts: list[str]) -> str:
    return " ".join(parts if len(parts) <= 7 else [*parts[:3], "...", *parts[-3:]])


def _fixed_latents(latents: Latents) -> Draw:
    return lambda t, q: latents[t - 1]


class _Posterior(nn.Module):
    """q(z | x) at given latents, as a module of its own."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, latents: Latents) -> tuple[Latents, Laws]:
        return self.model._infer(x, len(latents[0]), _fixed_latents(latents))


@disable_compile  # functional_call does not compile
def _posterior_without_gradient(model: VAE, x: Tensor, latents: Latents, q: Laws) -> tuple[Latents, Laws]:
    """q(z | x) at given latents, as a function of the latents alone: no gradient reaches its parameters. The same laws
    as those that drew them, which is checked the first time.
    """
    posterior = _Posterior(model)
    still = {name: parameter.detach() for name, parameter in posterior.named_parameters()}
    if model._compared:
        return functional_call(posterior, still, (x, latents))
    before = _random_states(x.device)
    latents, again = functional_call(posterior, still, (x, latents))
    drew = not all(map(torch.equal, before, _random_states(x.device)))
    with torch.no_grad():
        laws = zip(q, again, latents, strict=True)
        if drew or not all(_close(one.log_prob(z), other.log_prob(z)) for one, other, z in laws):
            raise ValueError(
                "held=True (which stl and dreg need) runs the posterior twice, and dropout would make it two different "
                "ones, as would other noise in it, or spectral norm, which changes with each run; train without them "
                "in the posterior, or with another objective"
            )
    model._compared = model.training
    return latents, again


def _random_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _close(x: Tensor, y: Tensor) -> bool:
    """Whether log-densities are equal but for rounding."""
    return torch.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)


def _check_law(name: str, law: Any) -> None:
    """A plain network where a conditional is wanted is the commonest mistake."""
    if isinstance(law, Tensor):
        raise ValueError(
            f"{name} returned a tensor of shape {tuple(law.shape)}, wanted a torch.distributions.Distribution: put the "
            "network into a conditional, such as al.Conditional(network, al.families.normal)"
        )


def _law(conditional: Callable[..., Distribution], *context: Any) -> Distribution:
    """Its distribution, in float32 whatever precision its networks ran in."""
    law = conditional(*context)
    if isinstance(conditional, Conditional) or not autocast_enabled() or isinstance(law, Tensor):
        return law
    return _to_float32(law)


@disable_compile
def _to_float32(law: Distribution) -> Distribution:
    return with_tensors(law, lambda x: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


def _draw(q: Distribution, fan_out: Size, level: int) -> Tensor:
    _check_law(f"the encoder of level {level}", q)
    if q.has_rsample:
        return q.rsample(fan_out)
    if torch.is_grad_enabled():
        raise ValueError(
            f"level {level}: {type(q).__name__} has no reparameterised sample, so its gradient would be wrong; "
            "use a family that has one (normal), or torch.no_grad() if you only evaluate"
        )
    return q.sample(fan_out)


def _reparameterize(q: Distribution, noise: Tensor, samples: int, level: int) -> Tensor:
    """The draw mu + sigma eps."""
    law = q.base_dist if isinstance(q, Independent) else q
    if not isinstance(law, Normal):
        raise ValueError(f"noise of level {level}: wanted None, since {type(law).__name__} has no normal noise")
    wanted = (samples, *q.batch_shape[-1:], *q.event_shape)
    if noise.shape != wanted:
        raise ValueError(f"noise of level {level}: got shape {tuple(noise.shape)}, wanted {wanted}")
    return torch.addcmul(law.loc, law.scale, noise)


def _check_batch(name: str, law: Distribution, wanted: tuple[int, ...]) -> None:
    if law.batch_shape != wanted:
        raise ValueError(
            f"{name} has batch shape {tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}, wanted batch "
            f"shape {tuple(wanted)}, the context's leading dimensions; is torch.distributions.Independent missing?"
        )


def _module_list(modules: nn.Module | Sequence[nn.Module]) -> nn.ModuleList:
    single = isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential)
    if isinstance(modules, nn.Sequential):
        raise ValueError("got an nn.Sequential, which composes modules; wanted a conditional or a list")
    found = [modules] if single or not isinstance(modules, Iterable) else list(modules)
    for module in found:
        if not isinstance(module, nn.Module) or isinstance(module, StandardNormal):
            raise ValueError(f"got {type(module).__name__}, wanted conditionals: VAE(prior, encoder, decoder)")
    return nn.ModuleList(found)  # type: ignore[arg-type]
