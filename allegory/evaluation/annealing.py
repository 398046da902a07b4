r"""Annealed importance sampling: log p(x) by a road that the encoder has no part in.

    pi_b(z) ~ p(z_1..T) p(x | z_1)^b,   0 = b_0 < b_1 < ... < b_K = 1          from the prior to the posterior
    z^0 ~ p(z),  z^k ~ an HMC step that leaves pi_{b_k} as it is
    log w = sum_k (b_k - b_{k-1}) log p(x | z^{k-1}),       E[w] = p(x)         (Neal 2001; Wu et al. 2017)

so that log mean_s w_s of S chains is, in expectation, a lower bound of log p(x) that becomes tight with many
temperatures, however bad q(z | x) is: an independent check of L_K. The temperatures follow a sigmoid.

For an x that was drawn from the model along with its z, that z is an exact draw of the posterior, and the same walk
backwards gives E[1 / w] = 1 / p(x), an *upper* bound: together they hold log p(x) between them (bidirectional Monte
Carlo, Grosse et al. 2015).

HMC's step sizes, one for each example and temperature, are found by a pilot of a few chains whose weights are thrown
away. The chains that count then walk with fixed steps, and E[w] = p(x) holds exactly.

Shapes: S chains, B examples a pass, N examples; z_t is (S, B, *event_t), u all latents side by side, (S, B, D).
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

from allegory.evaluation.bounds import evaluating, log_likelihood, pairs_per_pass
from allegory.model import VAE, Choose, Latents, Laws

__all__ = ["Annealed", "ais", "compare_with_ais"]

PILOT = 4
ACCEPT = 0.65  # the rate of acceptance at which HMC is most efficient (Neal 2011)


@dataclass(frozen=True)
class Annealed:
    """What `ais` found.

    Attributes:
        log_likelihood: (N,) log mean_s w_s, nats; a lower bound in expectation, backwards an upper bound.
        effective_sample_size: (N,) of the S weights, between 1 and S.
        acceptance: (N,) the mean rate of acceptance of the HMC steps; it should be near 0.65.
    """

    log_likelihood: Tensor
    effective_sample_size: Tensor
    acceptance: Tensor


def ais(
    model: VAE,
    x: Tensor,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog: int = 10,
    posterior: Sequence[Tensor] | None = None,
) -> Annealed:
    """AIS: log p(x) of each example by annealed importance sampling with Hamiltonian Monte Carlo.

    It takes chains * temperatures * leapfrog passes through the generative networks and back for each example: minutes
    for a hundred images.

    Args:
        model: any VAE whose latents are over all real numbers.
        x: (N, *event) data.
        chains: S.
        temperatures: K, steps from the prior to the posterior.
        leapfrog: steps of an HMC trajectory.
        posterior: z_1, ..., z_T, each (N, *event_t), exact draws of p(z | x), to walk backwards from.

    Raises:
        ValueError: latents that are discrete, or bounded; a number below one; a posterior that does not fit.

    >>> al.ais(model, x, chains=4, temperatures=5).log_likelihood.shape
    torch.Size([7])
    """
    for name, value in dict(chains=chains, temperatures=temperatures, leapfrog=leapfrog).items():
        if value < 1:
            raise ValueError(f"{name}={value}: wanted at least 1")
    model.check(x)
    if posterior is not None and [len(z) for z in posterior] != [len(x)] * model.levels:
        raise ValueError(
            f"posterior: got {len(posterior)} latents of {[len(z) for z in posterior]} examples, wanted "
            f"{model.levels} of {len(x)}"
        )
    with evaluating(model), _frozen(model):
        if posterior is not None:
            got, wanted = ([tuple(z.shape[1:]) for z in posterior], [tuple(s) for s in _Target(model, x[:1]).shapes])
            if got != wanted:
                raise ValueError(f"posterior: got z_1, z_2, ... of shapes {got}, wanted {wanted}")
        size = max(1, pairs_per_pass(model, x) // (4 * chains))  # the way back keeps what the way there made
        parts = []
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            exact = None if posterior is None else [z[rows] for z in posterior]
            parts.append(_anneal(_Target(model, x[rows]), chains, _schedule(temperatures, x), leapfrog, exact))
    return Annealed(*(torch.cat(part) for part in zip(*parts, strict=True)))


def compare_with_ais(
    model: VAE, x: Tensor, examples: int = 100, samples: int = 1000, seed: int = 0, **settings: Any
) -> dict[str, Any]:
    """-L_K beside what annealed importance sampling finds, on the same examples, drawn at random.

    Args:
        model: any VAE whose latents are over all real numbers.
        x: (N, *event) data.
        examples: how many of them; AIS takes minutes for a hundred.
        samples: K of L_K.
        seed: of the choice and of the noise; torch's global generator is left alone.
        settings: of `ais`, such as temperatures.

    Returns:
        Nats per example, for JSON: `examples`; `nll`, `nll_stderr` as AIS has them; `nll_bound`, which is -L_K;
        `difference`, `difference_stderr`, by how much -L_K is larger; `effective_sample_size` and `acceptance` of AIS.

    >>> compare_with_ais(model, x, examples=3, samples=10, chains=4, temperatures=5)["examples"]
    3
    """
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:examples].sort().values.to(x.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = ais(model, x[rows], **settings)
        nll, bound = -found.log_likelihood, -log_likelihood(model, x[rows], samples=samples)

    def error(values: Tensor) -> float:
        return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan

    return dict(
        examples=len(rows),
        nll=nll.mean().item(),
        nll_stderr=error(nll),
        nll_bound=bound.mean().item(),
        difference=(bound - nll).mean().item(),
        difference_stderr=error(bound - nll),
        effective_sample_size=found.effective_sample_size.mean().item(),
        acceptance=found.acceptance.mean().item(),
    )


@contextmanager
def _frozen(model: VAE) -> Iterator[None]:
    """Gradients by z alone."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _schedule(temperatures: int, x: Tensor) -> Tensor:
    """(K + 1,) b_0, ..., b_K: a sigmoid from -4 to 4, moved to begin at 0 and to end at 1."""
    b = torch.sigmoid(torch.linspace(-4, 4, temperatures + 1, dtype=x.dtype, device=x.device))
    return (b - b[0]) / (b[-1] - b[0])


class _Target:
    """p(z) p(x | z)^b of one batch, as a function of all latents side by side."""

    def __init__(self, model: VAE, x: Tensor) -> None:
        self.model, self.x = model, x
        self.prior = model.prior()  # the same at every step; a VampPrior is an encoder's pass
        latents, laws, _ = self.descend(lambda t, p, state: p.sample((1, 1) if state is None else ()))
        for t, (law, z) in enumerate(zip(laws, latents, strict=True), start=1):
            try:
                support: Any = law.support
            except NotImplementedError:  # a flow does not say; it is over all real numbers
                continue
            if support.is_discrete:
                raise ValueError(f"level {t} is discrete: annealed importance sampling needs gradients of log p(z)")
            if not all(bool(support.check(torch.full_like(z, far)).all()) for far in (-1e6, 1e6)):
                raise ValueError(
                    f"level {t} is over {support}: the Hamiltonian steps of annealed importance sampling need latents "
                    "over all real numbers"
                )
        self.shapes = [z.shape[2:] for z in latents]

    def descend(self, choose: Choose) -> tuple[Latents, Laws, Tensor]:
        return self.model._descend(choose, prior=self.prior)

    def draw(self, chains: int) -> Tensor:
        """(S, B, D) draws of p(z)."""
        shape = (chains, len(self.x))
        latents, *_ = self.descend(lambda t, p, state: p.sample(shape if state is None else ()))
        return self.join(latents)

    def join(self, latents: Sequence[Tensor]) -> Tensor:
        return torch.cat([z.flatten(2) for z in latents], -1)

    def split(self, u: Tensor) -> list[Tensor]:
        parts = u.split([shape.numel() for shape in self.shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(S, B) log p(z) and log p(x | z_1)."""
        given = self.split(u)
        latents, laws, state = self.descend(lambda t, p, state: given[t - 1])
        log_pz = torch.stack([p.log_prob(z) for p, z in zip(laws, latents, strict=True)]).sum(0)
        return log_pz, self.model.decoders[0](state).log_prob(self.x)

    def slope(self, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    for _, accepted in _walk(target, begin(PILOT), schedule, leapfrog, steps, step):
        rate = accepted.mean(0)
        step = step * torch.exp(0.2 * (rate - ACCEPT))
        steps.append(step)
    log_w = torch.zeros(chains, len(target.x), dtype=torch.float64, device=schedule.device)
    rates = []
    for increment, accepted in _walk(target, begin(chains), schedule, leapfrog, steps, None):
        log_w += increment
        rates.append(accepted.mean(0))
    total = log_w.logsumexp(0)
    ess = torch.exp(2 * total - (2 * log_w).logsumexp(0))
    estimate = total - math.log(chains)
    acceptance = torch.stack(rates).mean(0)
    return (-estimate if backwards else estimate).to(target.x.dtype), ess.to(target.x.dtype), acceptance


def _walk(
    target: _Target, u: Tensor, schedule: Tensor, leapfrog: int, steps: list[Tensor], first: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights' increments and who was accepted, (S, B) each, temperature by temperature.

    Args:
        first: for the pilot, the step to begin with; it appends to `steps` as it learns, and uses its last.
    """
    _, log_px = target(u)
    for k, (before, after) in enumerate(pairwise(schedule)):
        increment = (after - before) * log_px
        step = (steps[-1] if steps else first) if first is not None else steps[k]
        u, log_px, accepted = _hmc(target, u, after, step, leapfrog)
        yield increment.double(), accepted


def _hmc(target: _Target, u: Tensor, b: Tensor, step: Tensor, leapfrog: int) -> tuple[Tensor, Tensor, Tensor]:
    """One Hamiltonian step that leaves pi_b as it is: where it leads, log p(x | z_1) there, and who was accepted."""
    epsilon = step[:, None]
    momentum = torch.randn_like(u)
    before, log_px, gradient = target.slope(u, b)
    v, p = u, momentum + 0.5 * epsilon * gradient
    for i in range(leapfrog):
        v = v + epsilon * p
        after, moved, gradient = target.slope(v, b)
        p = p + (1.0 if i < leapfrog - 1 else 0.5) * epsilon * gradient
    change = after - before - 0.5 * (p.square() - momentum.square()).sum(-1)
    accepted = torch.rand_like(change).log() < change  # a NaN is never accepted
    return torch.where(accepted[..., None], v, u), torch.where(accepted, moved, log_px), accepted.to(u.dtype)
