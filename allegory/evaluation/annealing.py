r"""Annealed importance sampling: an estimate of log p(x) that does not involve the encoder.

    pi_b(z) = p(z_1..T) p(x | z_1)^b / C_b,   0 = b_0 < b_1 < ... < b_K = 1     from the prior to the posterior
    z^0 ~ p(z),  z^k: an HMC step from z^{k-1} that leaves pi_{b_k} invariant
    log w = sum_k (b_k - b_{k-1}) log p(x | z^{k-1}),       E[w] = p(x)         (Neal 2001; Wu et al. 2017)

so that log mean_s w_s over S chains is, in expectation, a lower bound on log p(x) that becomes tight with many
temperatures, however bad q(z | x) is: an independent check of L_K. The temperatures follow a sigmoid.

For an x that was drawn from the model along with its z, that z is an exact draw from the posterior, and the same chain
run backwards gives E[1 / w] = 1 / p(x), an *upper* bound: together they bracket log p(x) (bidirectional Monte
Carlo, Grosse et al. 2015).

HMC's step sizes, one for each example and temperature, are found by a pilot run of a few chains whose weights are
discarded. The chains that count then use fixed step sizes, and E[w] = p(x) holds exactly.

Shapes: S chains, B examples per pass, N examples; z_t is (S, B, *event_t), u all latents concatenated, (S, B, D).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from allegory.draws import draw_to
from allegory.evaluation.bounds import log_likelihood, standard_error
from allegory.evaluation.passes import evaluating, pairs_per_pass
from allegory.given import Contexts, Given, as_contexts, take_rows
from allegory.model import VAE, Choose, Distributions, Latents, check_is_vae
from allegory.runtime.messages import check_counts
from allegory.runtime.threads import one_at_a_time

__all__ = ["Annealed", "ais", "compare_with_ais"]

PILOT_CHAINS = 4
TARGET_ACCEPTANCE = 0.65  # the acceptance rate at which HMC is most efficient (Neal 2011)


@dataclass(frozen=True)
class Annealed:
    """The results of `ais`.

    Attributes:
        log_likelihood: (N,) log mean_s w_s, nats; a lower bound in expectation, or backwards an upper bound.
        effective_sample_size: (N,) of the S weights, between 1 and S.
        acceptance: (N,) the mean acceptance rate of the HMC steps; it should be near 0.65.
    """

    log_likelihood: Tensor
    effective_sample_size: Tensor
    acceptance: Tensor


@one_at_a_time()
def ais(
    model: VAE,
    x: Tensor,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog: int = 10,
    posterior: Sequence[Tensor] | None = None,
    given: Given = None,
) -> Annealed:
    """AIS: log p(x) of each example by annealed importance sampling with Hamiltonian Monte Carlo.

    It takes chains * temperatures * leapfrog passes through the generative networks and back for each example: minutes
    for a hundred images.

    Args:
        model: any VAE with unbounded real latents.
        x: (N, *event) data.
        chains: S.
        temperatures: K, steps from the prior to the posterior.
        leapfrog: steps of an HMC trajectory.
        posterior: z_1, ..., z_T, each (N, *event_t), exact draws from p(z | x), to run backwards from.
        given: c of a conditional model, (N, *context), or several; then it is log p(x | c).

    Raises:
        ValueError: latents that are discrete, or bounded; a number below one; a posterior that does not fit.

    >>> al.ais(model, x, chains=4, temperatures=5).log_likelihood.shape
    torch.Size([7])
    """
    for name, value in dict(chains=chains, temperatures=temperatures, leapfrog=leapfrog).items():
        if value < 1:
            raise ValueError(f"{name}={value}: wanted at least 1")
    check_is_vae(model)
    model.check(x, given=given)
    contexts = as_contexts(given, len(x))
    if posterior is not None and [len(z) for z in posterior] != [len(x)] * model.levels:
        raise ValueError(
            f"posterior: got {len(posterior)} latents of {[len(z) for z in posterior]} examples, wanted "
            f"{model.levels} of {len(x)}"
        )
    with evaluating(model), _frozen_parameters(model):
        if posterior is not None:
            first = _Target(model, x[:1], take_rows(contexts, slice(1)))
            got, wanted = ([tuple(z.shape[1:]) for z in posterior], [tuple(s) for s in first.shapes])
            if got != wanted:
                raise ValueError(f"posterior: got z_1, z_2, ... of shapes {got}, wanted {wanted}")
        # A quarter: the backward pass keeps the activations of the forward pass.
        size = max(1, pairs_per_pass(model, x) // (4 * chains))
        parts = []
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            exact = None if posterior is None else [z[rows] for z in posterior]
            target = _Target(model, x[rows], take_rows(contexts, rows))
            parts.append(_anneal(target, chains, _schedule(temperatures, x), leapfrog, exact))
    return Annealed(*(torch.cat(part) for part in zip(*parts, strict=True)))


@one_at_a_time()
def compare_with_ais(
    model: VAE, x: Tensor, examples: int = 100, samples: int = 1000, seed: int = 0, given: Given = None, **settings: Any
) -> dict[str, Any]:
    """-L_K and the estimate of annealed importance sampling, on the same random examples.

    Args:
        model: any VAE with unbounded real latents.
        x: (N, *event) data.
        examples: how many of them; AIS takes minutes for a hundred.
        samples: K of L_K.
        seed: of the selection and of the noise; torch's global generator is left alone.
        given: as in `ais`.
        settings: further arguments of `ais`, such as temperatures.

    Returns:
        Nats per example, for JSON: `examples`; `nll`, `nll_stderr` by AIS; `nll_bound`, which is -L_K;
        `difference`, `difference_stderr`, by how much -L_K is larger; `effective_sample_size` and `acceptance` of AIS.

    >>> compare_with_ais(model, x, examples=3, samples=10, chains=4, temperatures=5)["examples"]
    3
    """
    check_counts(examples=examples)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:examples].sort().values.to(x.device)
    x, contexts = x[rows], take_rows(as_contexts(given, len(x)), rows)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = ais(model, x, given=contexts, **settings)
        nll, bound = -found.log_likelihood, -log_likelihood(model, x, samples=samples, given=contexts)

    return dict(
        examples=len(rows),
        nll=nll.mean().item(),
        nll_stderr=standard_error(nll),
        nll_bound=bound.mean().item(),
        difference=(bound - nll).mean().item(),
        difference_stderr=standard_error(bound - nll),
        effective_sample_size=found.effective_sample_size.mean().item(),
        acceptance=found.acceptance.mean().item(),
    )


@contextmanager
def _frozen_parameters(model: VAE) -> Iterator[None]:
    """No gradients for the parameters, only for z."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _schedule(temperatures: int, x: Tensor) -> Tensor:
    """(K + 1,) b_0, ..., b_K: a sigmoid from -4 to 4, rescaled to begin at 0 and end at 1."""
    b = torch.sigmoid(torch.linspace(-4, 4, temperatures + 1, dtype=x.dtype, device=x.device))
    return (b - b[0]) / (b[-1] - b[0])


class _Target:
    """p(z) p(x | z)^b of one batch, as a function of all latents concatenated."""

    def __init__(self, model: VAE, x: Tensor, contexts: Contexts = ()) -> None:
        self.model, self.x, self.contexts = model, x, contexts
        self.prior = model._prior_law(contexts)  # the same at every step; a VampPrior costs a pass of the encoder
        latents, laws, _ = self.generate_down(lambda t, p, state: draw_to(p, (1, len(x))))
        for t, (law, z) in enumerate(zip(laws, latents, strict=True), start=1):
            try:
                support: Any = law.support
            except NotImplementedError:  # a flow does not declare it; it is unbounded
                continue
            if support.is_discrete:
                raise ValueError(f"level {t} is discrete: annealed importance sampling needs gradients of log p(z)")
            if not all(bool(support.check(torch.full_like(z, far)).all()) for far in (-1e6, 1e6)):
                raise ValueError(
                    f"level {t} has support {support}: the Hamiltonian steps of annealed importance sampling need "
                    "latents over all real numbers"
                )
        self.shapes = [z.shape[2:] for z in latents]

    def generate_down(self, choose: Choose) -> tuple[Latents, Distributions, tuple[Tensor, ...]]:
        return self.model._generate_down(choose, self.contexts, prior=self.prior)

    def draw(self, chains: int) -> Tensor:
        """(S, B, D) draws from p(z)."""
        shape = (chains, len(self.x))
        latents, *_ = self.generate_down(lambda t, p, state: draw_to(p, shape))
        return self.join(latents)

    def join(self, latents: Sequence[Tensor]) -> Tensor:
        return torch.cat([z.flatten(2) for z in latents], -1)

    def split(self, u: Tensor) -> list[Tensor]:
        parts = u.split([shape.numel() for shape in self.shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(S, B) log p(z) and log p(x | z_1)."""
        known = self.split(u)
        latents, laws, seen = self.generate_down(lambda t, p, state: known[t - 1])
        log_pz = torch.stack([p.log_prob(z) for p, z in zip(laws, latents, strict=True)]).sum(0)
        return log_pz, self.model.decoders[0](*seen).log_prob(self.x)

    def value_and_grad(self, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values log pi_b(u) and log p(x | z_1), and the gradient of the first."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            log_pz, log_px = self(u)
            log_pi = log_pz + b * log_px
            (gradient,) = torch.autograd.grad(log_pi.sum(), u)
        return log_pi.detach(), log_px.detach(), gradient


def _anneal(
    target: _Target, chains: int, schedule: Tensor, leapfrog: int, exact: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log p(x), effective sample size and acceptance of one batch, each (B,)."""
    backwards = exact is not None
    if backwards:
        schedule = schedule.flip(0)

    def begin(chains: int) -> Tensor:
        if exact is None:
            return target.draw(chains)
        return target.join([z.expand(chains, *z.shape) for z in exact])

    steps: list[Tensor] = []
    step = torch.full((len(target.x),), 0.1, dtype=schedule.dtype, device=schedule.device)
    for _, accepted in _run_chains(target, begin(PILOT_CHAINS), schedule, leapfrog, steps, step):
        rate = accepted.mean(0)
        step = step * torch.exp(0.2 * (rate - TARGET_ACCEPTANCE))
        steps.append(step)
    log_w = torch.zeros(chains, len(target.x), dtype=torch.float64, device=schedule.device)
    rates = []
    for increment, accepted in _run_chains(target, begin(chains), schedule, leapfrog, steps, None):
        log_w += increment
        rates.append(accepted.mean(0))
    total = log_w.logsumexp(0)
    ess = torch.exp(2 * total - (2 * log_w).logsumexp(0))
    estimate = total - math.log(chains)
    acceptance = torch.stack(rates).mean(0)
    return (-estimate if backwards else estimate).to(target.x.dtype), ess.to(target.x.dtype), acceptance


def _run_chains(
    target: _Target, u: Tensor, schedule: Tensor, leapfrog: int, steps: list[Tensor], first: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The increments of log w and which chains accepted, (S, B) each, temperature by temperature.

    Args:
        first: the initial step size, in the pilot run, which appends to `steps` as it adapts and uses the last of them.
    """
    _, log_px = target(u)
    for k, (before, after) in enumerate(pairwise(schedule)):
        increment = (after - before) * log_px
        step = (steps[-1] if steps else first) if first is not None else steps[k]
        u, log_px, accepted = _hmc(target, u, after, step, leapfrog)
        yield increment.double(), accepted


def _hmc(target: _Target, u: Tensor, b: Tensor, step: Tensor, leapfrog: int) -> tuple[Tensor, Tensor, Tensor]:
    """One HMC step that leaves pi_b invariant: the new u, log p(x | z_1) there, and which chains accepted."""
    epsilon = step[:, None]
    momentum = torch.randn_like(u)
    before, log_px, gradient = target.value_and_grad(u, b)
    v, p = u, momentum + 0.5 * epsilon * gradient
    for i in range(leapfrog):
        v = v + epsilon * p
        after, new_log_px, gradient = target.value_and_grad(v, b)
        p = p + (1.0 if i < leapfrog - 1 else 0.5) * epsilon * gradient
    change = after - before - 0.5 * (p.square() - momentum.square()).sum(-1)
    accepted = torch.rand_like(change).log() < change  # a NaN is never accepted
    return torch.where(accepted[..., None], v, u), torch.where(accepted, new_log_px, log_px), accepted.to(u.dtype)
