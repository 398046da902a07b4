r"""Variational autoencoders of any depth.

Levels are counted from the data up: z_0 = x, z_1, ..., z_T. Generation goes down and carries a state, inference goes up
or down,

    generate    p(x, z_1..T)   = p(z_T) prod_{t=1..T} p(z_{t-1} | s_t),          s_t = state_t(z_t, s_{t+1})
    infer       q(z_1..T | x)  = prod_{t=1..T} q(z_t | z_{t-1})                  bottom-up
         or     q(z_1..T | x)  = q(z_T | x) prod_{t=1..T-1} q(z_t | s_{t+1}, x)   top-down, see `allegory.ladder`

The Markov chain is s_t = z_t. One loop goes down, for generation and for both ways to infer; one pass gives a trace,
of which every bound is a function, see `allegory.trace`. The VAE of Kingma & Welling (2014) is T = 1; nothing below
depends on T. With something given, p(x | c), every conditional reads c as well, see `allegory.given`.

Shapes: S particles, B batch, T levels; z_t is (S, B, *event_t), s_t (S, B, *).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy

from allegory.checks import (
    check_batch_shape,
    check_distribution,
    check_independence,
    check_prior,
    check_readers,
    check_tensor,
    check_values,
    first_with_gap,
    name_failing_conditional,
    two_examples,
)
from allegory.conditional import StandardNormal
from allegory.distributions import tempered
from allegory.draws import draw_latent, draw_to, from_noise, law_of
from allegory.given import Contexts, Given, as_contexts, check_contexts, expand_contexts, reads_given, take_rows
from allegory.held import posterior_without_gradient
from allegory.ladder import TopDown
from allegory.notation import generative, inference, p_name, q_name
from allegory.runtime.messages import describe_index
from allegory.runtime.modes import eval_mode, forked_rng, no_validation
from allegory.runtime.precision import without_autocast
from allegory.runtime.threads import one_at_a_time
from allegory.trace import Trace

__all__ = ["VAE"]

Latents = tuple[Tensor, ...]
Distributions = tuple[Distribution, ...]
Draw = Callable[[int, Distribution, Distribution | None], Tensor]  # (t, q(z_t | ...), top-down p(z_t | s_t+1)) -> z_t
Choose = Callable[[int, Distribution, Tensor | None], Tensor]


class VAE(nn.Module):
    """A variational autoencoder with one level of latents, or a chain of T.

    Args:
        prior: p(z_T); its call, without arguments, gives a distribution of batch shape (). Or p(z_T | c), called with
            what is given, of batch shape (B,).
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

    _independent: tuple[Any, ...] | None = None  # the state in which examples were found not to depend on each other
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
        self._prior_reads_given = reads_given(prior)
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
        self,
        x: Tensor,
        samples: int = 1,
        held: bool = False,
        noise: Sequence[Tensor | None] | None = None,
        given: Given = None,
        scored: bool = False,
    ) -> Trace:
        """Draws z_1..T ~ q(. | x) and evaluates p on the way down.

        Args:
            x: (B, *event) data.
            samples: S, particles per example. The network on x runs once for all of them.
            held: whether q's parameters are held fixed in the densities, so that a gradient reaches them only through
                the draws; `stl` and `dreg` need that. The trace's latents are then views of the draws, and all
                densities are computed from these views. The encoders run twice, and have to be the same both times,
                without dropout or noise in them: the first time that this is done in training, both are compared.
            noise: for z_1, ..., z_T: standard normal, (S, B, *event_t), where q is normal; uniform on [0, 1) where it
                is discrete, one number for each category. None, for all levels or for one, draws it from torch's
                generator.
            given: c of a conditional model, (B, *context), or several.
            scored: whether draws may be without a gradient, as those of discrete latents are: for `loo` and `vimco`,
                whose gradient is that of log q. Any other objective of such a trace would have a wrong one, and raises
                a ValueError where there are gradients.
        """
        contexts, draw = as_contexts(given, x.shape[0]), self._sampler(samples, noise, scored)
        if not held:
            trace = self._trace(x, samples, draw, contexts)
        else:
            latents, q = self._infer(x, samples, draw, contexts)
            latents = tuple(z.view_as(z) for z in latents)
            inferred = posterior_without_gradient(self, x, latents, q, contexts)
            trace = self._trace(x, samples, _fixed_latents(latents), contexts, inferred)
        return replace(trace, held=held, scored=scored and not all(law.has_rsample for law in trace.q))

    def estimate(self, x: Tensor, samples: int = 1, given: Given = None) -> Trace:
        """A trace of which the ELBO, averaged over draws, is that of `forward`, as cheap as a step of training: the
        same, but for a chain of which a step sees a part, see `allegory.chain`. Validation takes it.

        Args:
            x, samples, given: as of `forward`.
        """
        return self(x, samples, given=given)

    def score(self, x: Tensor, latents: Sequence[Tensor], given: Given = None) -> Trace:
        """The densities of given latents: log p(x, z) and log q(z | x).

        Args:
            x: (B, *event) data.
            latents: z_1, ..., z_T, each (S, B, *event_t).
            given: as in `forward`.
        """
        return self._trace(x, latents[0].shape[0], _fixed_latents(tuple(latents)), as_contexts(given, x.shape[0]))

    def _trace(
        self,
        x: Tensor,
        samples: int,
        draw: Draw,
        contexts: Contexts = (),
        inferred: tuple[Latents, Distributions] | None = None,
        prior: Distribution | None = None,
    ) -> Trace:
        if self._top_down and inferred is None:
            latents, q, p, seen = self._infer_top_down(x, samples, draw, contexts, prior)
        else:
            latents, q = inferred or self._infer_bottom_up(x, draw, contexts)

            def take(t: int, p: Distribution, state: Tensor | None) -> Tensor:
                self._check_shapes(t, q[t - 1], p, (samples, x.shape[0]))
                return latents[t - 1]

            _, p, seen = self._generate_down(take, contexts, prior=prior)
        law = law_of(self.decoders[0], *seen)
        check_distribution("p(x | z_1)", law)
        if law.event_shape != x.shape[1:]:
            raise ValueError(
                f"x has examples of shape {tuple(x.shape[1:])}, but p(x | z_1) is over {tuple(law.event_shape)}"
            )
        check_batch_shape("p(x | z_1)", law, (samples, x.shape[0]))
        return Trace(x, latents, (law, *p), q, self._top_down)

    def _sampler(self, samples: int, noise: Sequence[Tensor | None] | None = None, scored: bool = False) -> Draw:
        """The function that draws z_1..T ~ q(. | x): S times where q depends on x alone, once from each later law."""
        if not hasattr(samples, "__index__") or samples < 1:
            raise ValueError(f"samples={samples!r}: wanted at least one particle, a whole number")
        first = self.levels if self._top_down else 1

        def draw(t: int, q: Distribution, p: Distribution | None = None) -> Tensor:
            eps = None if noise is None else noise[t - 1]
            if eps is not None:
                return from_noise(q, eps, samples, t, scored)
            with without_autocast():
                return draw_latent(q, Size((samples,)) if t == first else Size(), t, scored)

        if noise is not None and len(noise) != self.levels:
            raise ValueError(f"noise: got {len(noise)} tensors, wanted one for each of {self.levels} levels")
        return draw

    def _infer(
        self, x: Tensor, samples: int, draw: Draw | None = None, contexts: Contexts = ()
    ) -> tuple[Latents, Distributions]:
        """z_1..T ~ q(. | x), and q, without p(x | s_1)."""
        draw = draw or self._sampler(samples)
        if not self._top_down:
            return self._infer_bottom_up(x, draw, contexts)
        latents, q, *_ = self._infer_top_down(x, samples, draw, contexts)
        return latents, q

    def _infer_bottom_up(self, x: Tensor, draw: Draw, contexts: Contexts = ()) -> tuple[Latents, Distributions]:
        latents: list[Tensor] = []
        q: list[Distribution] = []
        for t in range(1, self.levels + 1):
            q.append(self._bottom_up_law(t, latents[-1] if latents else x, contexts))
            latents.append(draw(t, q[-1], None))
            contexts = expand_contexts(contexts, (latents[-1].shape[0], x.shape[0])) if t == 1 else contexts
        return tuple(latents), tuple(q)

    def _bottom_up_law(self, level: int, below: Tensor, contexts: Contexts = ()) -> Distribution:
        """q(z_t | z_{t-1}), or of x at level 1; top-down where it is known, see `TopDown.has_bottom_up`."""
        if self._top_down:
            return self.encoders.bottom_up(level, below)
        return law_of(self.encoders[level - 1], below, *contexts)

    def _infer_top_down(
        self, x: Tensor, samples: int, draw: Draw, contexts: Contexts = (), prior: Distribution | None = None
    ) -> tuple[Latents, Distributions, Distributions, tuple[Tensor, ...]]:
        features = self.encoders(x, *contexts)
        beside_state = expand_contexts(contexts, (samples, x.shape[0]))
        q: dict[int, Distribution] = {}

        def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
            c = contexts if state is None else beside_state
            q[t] = self.encoders.posterior(t, features[t - 1], state, p, c)
            self._check_shapes(t, q[t], p, (samples, x.shape[0]))
            return draw(t, q[t], p)

        latents, p, seen = self._generate_down(choose, contexts, prior=prior)
        return latents, tuple(q[t] for t in sorted(q)), p, seen

    def _generate_down(
        self, choose: Choose, contexts: Contexts = (), top: int | None = None, prior: Distribution | None = None
    ) -> tuple[Latents, Distributions, tuple[Tensor, ...]]:
        """The generative loop, for every chain and both ways to infer: z_1..top; p(z_1 | s_2), ..., p(z_top); and what
        p(x | s_1) reads, s_1 and what is given.

        Args:
            choose: (t, p(z_t | s_{t+1}), s_{t+1}) -> z_t.
            contexts: what is given, (B, *context) each.
            top: the level of a z whose value is known, to begin at, if not at p(z_T); below T the chain has to be
                Markov. What is given then has the leading dimensions of that z.
            prior: p(z_T), if already computed; it may be costly.
        """
        latents: list[Tensor] = []
        laws: list[Any] = [None if top else prior or self._prior_law(contexts)]
        state: Any = None
        for t in range(top or self.levels, 0, -1):
            z = choose(t, laws[0], state)
            if contexts and state is None and not top:
                contexts = expand_contexts(contexts, z.shape[: z.dim() - len(laws[0].event_shape)])
            state = self._next_state(t, z, state)
            latents.insert(0, z)
            if t > 1:
                laws.insert(0, law_of(self.decoders[t - 1], state, *contexts))
        return tuple(latents), tuple(laws), (state, *contexts)

    def _prior_law(self, contexts: Contexts = ()) -> Distribution:
        """p(z_T), of batch shape (); or p(z_T | c), of batch shape (B,)."""
        return law_of(self.prior, *(contexts if self._prior_reads_given else ()))

    def _next_state(self, level: int, z: Tensor, state: Tensor | None) -> Tensor:
        """s_t = state_t(z_t, s_{t+1})."""
        if self.states is None:
            return z
        return self.states[level - 1](z) if state is None else self.states[level - 1](z, state)

    def encode(self, x: Tensor, samples: int = 1, given: Given = None) -> tuple[Distribution, ...]:
        """The posterior, level by level, level 1 first. The one that depends on x alone, q(z_1 | x) bottom-up or q(z_T
        | x) top-down, has batch shape (B,); the others depend on draws, with batch shape (S, B).

        Args:
            x: (B, *event) data.
            samples: S, draws per example.
            given: as in `forward`.
        """
        draw = self._sampler(samples, scored=self.levels == 1)  # of a single level no law depends on a draw
        return self._infer(x, samples, draw, as_contexts(given, x.shape[0]))[1]

    def decode(
        self, z: Tensor | Sequence[Tensor], level: int = 1, temperature: float = 1.0, given: Given = None
    ) -> Distribution:
        """p(x | s_1) given z_level and the levels above it; all levels below are drawn from the prior.

        Args:
            z: (*batch, *event_level); where the chain is not Markov, z_level, ..., z_T.
            level: the level of z, 1 to T.
            temperature: of the draws; at 0 each level is its mean given the one above.
            given: c of a conditional model, with all leading dimensions of z, (*batch, *context), or several.
        """
        self._check_level(level)
        known = [z] if isinstance(z, Tensor) else list(z)
        above = self.levels - level + 1
        if len(known) > above or (self.states is not None and len(known) < above):
            markov = "; only a Markov chain needs fewer" if len(known) < above else ""
            raise ValueError(f"level={level}: got {len(known)} latents, wanted z_{level}, ..., z_{self.levels}{markov}")
        *_, seen = self._generate_down(
            lambda t, p, state: known[t - level] if t >= level else tempered(p, temperature).sample(),
            self._checked_contexts(given),
            level + len(known) - 1,
        )
        return law_of(self.decoders[0], *seen)

    def generate(self, n: int, temperature: float = 1.0, given: Given = None) -> Distribution:
        """p(x | z_1) for n draws from the prior, with batch shape (n,).

        Args:
            n: number of draws.
            temperature: the standard deviations of all latents are multiplied by it; see `distributions.tempered`.
            given: c of a conditional model, (n, *context), or several; a single row, (1, *context), is for all draws.
        """
        if not hasattr(n, "__index__") or n < 1:
            raise ValueError(f"n={n}: wanted at least one, a whole number")
        contexts = self._checked_contexts(given)
        contexts = as_contexts(expand_contexts(contexts, (n,)) if all(len(c) == 1 for c in contexts) else contexts, n)
        *_, seen = self._generate_down(lambda t, p, state: draw_to(tempered(p, temperature), (n,)), contexts)
        return law_of(self.decoders[0], *seen)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, given: Given = None) -> Tensor:
        """(n, *event): z from the prior, at a temperature as in `generate`, then a draw from p(x | z_1)."""
        with name_failing_conditional(self._conditionals()):
            x = self.generate(n, temperature, given).sample()
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())  # categories are stored as floats

    def reconstruct(self, x: Tensor, level: int = 1, temperature: float = 1.0, given: Given = None) -> Distribution:
        """p(x | s_1) with batch shape (B,): z_level, ..., z_T are drawn from the posterior, all below from the prior.

        Args:
            x: (B, *event) data.
            level: 1 shows what all latents keep of x, T what the top level keeps.
            temperature: of the draws from the prior.
            given: as in `forward`.
        """
        self._check_level(level)
        latents, _ = self._infer(x, 1, None, as_contexts(given, x.shape[0]))
        return self.decode([z[0] for z in latents[level - 1 :]], level, temperature, given)

    @one_at_a_time()
    @torch.no_grad()
    def check(self, x: Tensor, name: str = "x", rows: Sequence[Any] | None = None, given: Given = None) -> None:
        """Raises a ValueError, in one line, if x is empty, not finite, of the wrong shape or outside the support of
        p(x | z_1), or if a density of one example depends on others. `fit` and `evaluate` call it once; the passes
        themselves do not check.

        Args:
            x: (N, *event) data.
            name: of x in the message.
            rows: (N,) what the user calls the rows of x; by default their numbers, in the file for data on disk.
            given: c of a conditional model, (N, *context), or several.
        """
        check_tensor(x, name)
        if any(hasattr(p, "to_local") for p in self.parameters()):
            raise ValueError("this model is sharded over processes; load the whole model from its run, al.load(out)")
        device = next((p.device for p in self.parameters()), x.device)
        if x.device.type != device.type:
            raise ValueError(f"{name} is on {x.device}, the model on {device}: move one of them, x.to({device.type!r})")
        contexts = self._checked_contexts(as_contexts(given, len(x), f"{name}, given"), f"{name}, given")
        check_prior(self.prior, len(contexts) if self._prior_reads_given else 0)
        check_readers(self._readers(), len(contexts))
        first = take_rows(contexts, slice(1))
        with eval_mode(self), torch.random.fork_rng(), name_failing_conditional(self._conditionals()):
            check_values(self.generate(1, given=first), x, name, rows)
            self._check_gaps(x, contexts, name, rows)
            trace = self(x[:1], given=first)
            _ = trace.kl  # checks shapes; fills torch's table of divergences, which a compiler cannot do
            state = self._fingerprint(len(contexts))
            if state != self._independent:
                with no_validation():
                    self._check_independence(*two_examples(x, contexts), None if first else trace.p[-1])
                self._independent = state if len(x) > 1 else None  # of one example nothing is known

    def _fingerprint(self, contexts: int) -> tuple[Any, ...]:
        """What is the same as long as the parts of this model and their weights are, for so many contexts."""
        tensors = [*self.parameters(), *self.buffers()]
        versions = [(t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
        return contexts, tuple(map(id, self.modules())), tuple(versions)

    def _check_gaps(self, x: Any, contexts: Contexts, name: str, rows: Sequence[Any] | None) -> None:
        """Raises a ValueError where an encoder reads a gap as a number: a NaN in its network is a NaN in every draw."""
        row = first_with_gap(x)
        if row is None:
            return
        gap = slice(row, row + 1)
        told = (
            f"{name}: {describe_index([row], rows)} has gaps, and the encoder reads them as numbers, which gives no "
            "posterior: wanted an input layer that reads them, such as al.networks.ReadGaps, or a model of "
            "al.architectures"
        )
        try:
            latents, _ = self._infer(x[gap], 1, None, take_rows(contexts, gap))
        except ValueError as error:  # of torch's, whose parameters are NaN
            if "Expected parameter" not in str(error):
                raise
            raise ValueError(told) from None
        if any(bool(z.isnan().any()) for z in latents):
            raise ValueError(told)

    def _checked_contexts(self, given: Given, name: str = "given") -> Contexts:
        """What is given, if this model can read it."""
        contexts = as_contexts(given, name=name)
        check_contexts(self, contexts, next((p.device for p in self.parameters()), torch.device("cpu")), name)
        return contexts

    def _check_independence(self, x: Tensor, contexts: Contexts, prior: Distribution | None) -> None:
        """Whether the densities of x: (2, *event) depend on each other; the prior may be costly."""
        seed = int(torch.randint(2**62, ()))
        latents = self._infer(x, 2, None, contexts)[0]

        def densities(x: Tensor, latents: Sequence[Tensor], contexts: Contexts) -> Tensor:
            """(2 T + 1, S, B) of p from the top down, then of q, which may build on it."""
            torch.manual_seed(seed)  # of conditionals that draw
            trace = self._trace(x, 2, _fixed_latents(tuple(latents)), contexts, prior=prior)
            return torch.cat([trace.log_pz.flip(0), trace.log_px[None], trace.log_qz.flip(0)])

        names = [p_name(t, self.levels) for t in range(self.levels, -1, -1)]
        check_independence(
            densities, x, latents, contexts, names + [self._q_name(t) for t in range(self.levels, 0, -1)]
        )

    def _conditionals(self) -> dict[str, nn.Module]:
        """Decoders and encoders by the names of mathematics."""
        network = self.encoders.network if self._top_down else None
        return {name: part for name, (part, _) in self._readers().items() if part is not network}

    def _readers(self) -> dict[str, tuple[nn.Module, int]]:
        """What reads something given, and how many contexts of its own it has, by name."""
        found: dict[str, tuple[nn.Module, int]] = {
            p_name(t, self.levels): (decoder, 1) for t, decoder in enumerate(self.decoders)
        }
        if self._top_down:
            found["the network of the top-down posterior"] = (self.encoders.network, 1)
        for t, q in enumerate(self.encoders.posteriors if self._top_down else self.encoders, start=1):
            found[self._q_name(t)] = (q, 2 if self._top_down and t < self.levels else 1)
        return found

    @property
    def _top_down(self) -> bool:
        return isinstance(self.encoders, TopDown)

    def _q_name(self, level: int) -> str:
        return q_name(level, self.levels, self._top_down)

    def _check_shapes(self, t: int, q: Distribution, p: Distribution, batch: tuple[int, int]) -> None:
        """Broadcasting would hide a level of the wrong shape; comparing tuples costs nothing."""
        top, p_t = t == self.levels, p_name(t, self.levels)
        reads_x = top if self._top_down else t == 1
        check_batch_shape(f"the encoder of level {t}, {self._q_name(t)}", q, batch[1:] if reads_x else batch)
        if p.event_shape != q.event_shape:
            raise ValueError(
                f"level {t}: the encoder gives z_{t} of shape {tuple(q.event_shape)}, but {p_t} is over "
                f"{tuple(p.event_shape)}"
            )
        of_each = self._prior_reads_given and len(p.batch_shape) > 0
        check_batch_shape(p_t, p, batch if not top else batch[1:] if of_each else ())

    def _check_level(self, level: int) -> None:
        if not 1 <= level <= self.levels:
            raise ValueError(f"level={level}: this model has levels 1 to {self.levels}")

    def extra_repr(self) -> str:
        return generative(self.levels, self.states is None)

    def __repr__(self) -> str:
        parameters, markov = list(self.parameters()), self.states is None
        inferred = inference(self.levels, markov, self._top_down)
        if any(is_lazy(p) for p in parameters):  # a pass would initialise them
            return f"VAE: {generative(self.levels, markov)}; {inferred}"
        shapes = None if any(hasattr(p, "to_local") for p in parameters) else self._event_shapes()
        count = sum(p.numel() for p in parameters)
        return f"VAE: {generative(self.levels, markov, shapes)}; {inferred}; {count:,} parameters"

    def _event_shapes(self) -> list[Size] | None:
        """Of x, z_1, ..., z_T, by one pass without side effects; None where the model cannot be run."""
        try:
            with eval_mode(self), torch.no_grad(), forked_rng(self):
                read = (self.config or {}).get("given")
                contexts = () if read is None else (torch.zeros(1, *read, device=next(self.parameters()).device),)
                _, p, seen = self._generate_down(lambda t, p, state: draw_to(p, (1,)), contexts)
                return [law.event_shape for law in (self.decoders[0](*seen), *p)]
        except Exception:  # whatever is wrong is reported where the model is used
            return None


def _fixed_latents(latents: Latents) -> Draw:
    return lambda t, q, p: latents[t - 1]


def check_is_vae(model: Any) -> None:
    """Raises a ValueError for anything but a VAE, or one that torch.compile has wrapped."""
    if isinstance(getattr(model, "_orig_mod", model), VAE):
        return
    inner = getattr(model, "module", None)  # of DistributedDataParallel and DataParallel
    wanted = "the VAE inside of it, model.module" if isinstance(inner, VAE) else "a VAE, and the data after it"
    raise ValueError(f"model: got {type(model).__name__}, wanted {wanted}")


def _module_list(modules: nn.Module | Sequence[nn.Module]) -> Any:
    single = isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential)
    if isinstance(modules, nn.Sequential):
        raise ValueError("got an nn.Sequential, which composes modules; wanted a conditional or a list")
    if single and hasattr(modules, "__getitem__"):
        return modules  # a sequence already, of levels that share their parameters
    found = [modules] if single or not isinstance(modules, Iterable) else list(modules)
    for module in found:
        if not isinstance(module, nn.Module) or isinstance(module, StandardNormal):
            raise ValueError(f"got {type(module).__name__}, wanted conditionals: VAE(prior, encoder, decoder)")
    return nn.ModuleList(found)  # type: ignore[arg-type]
