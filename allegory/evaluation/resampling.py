r"""Resampling: the posterior p(z | x_o) of rows with gaps, by importance resampling of an encoder's draws.

    z_k ~ q(z | x_o),   w_k = p(x_o, z_k) / q(z_k | x_o),   k ~ w / sum w       (Rubin 1987; Mattei & Frellsen 2019)
    ESS = (sum_k w_k)^2 / sum_k w_k^2       small where q is far from p(z | x_o); the draws then repeat few z

Whole trajectories z = z_1..T at a time. Of all K particles it is the mixture sum_k w_k p(x | z_k) that is kept, for
best values; or m draws, for whole rows, some particles at a time.

The noise of a row depends on the seed and on the row's own values, so a row is imputed in the same way whatever stands
beside it. Equal rows get draws of their own, by which of them is the first, the second, ...; but one best value.

Shapes: K particles, m draws, S particles per pass, B rows per pass, N rows; z_t is (S, B, *event_t), x (N, *event).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.evaluation.passes import (
    Noise,
    Particles,
    RowNoise,
    check_scored,
    evaluating,
    pairs_per_pass,
    row_seeds,
    run_passes,
)
from allegory.gaps import log_prob_elements
from allegory.given import Contexts, Given, expand_contexts, take_rows
from allegory.missingness import Limits, log_missing_within, missing_range, without_gaps
from allegory.model import VAE
from allegory.quantiles import draw, has_draw
from allegory.runtime.messages import describe_index, no_tensor
from allegory.runtime.modes import forked_rng
from allegory.trace import Trace

__all__ = ["Inferred", "Rows", "Weighed", "each_gappy_row", "infer_missing", "spread", "warn_of_few", "weigh"]

FEW_EFFECTIVE_SAMPLES = 10.0
PASS = 4  # times the pairs of another evaluation: the gaps of a column are few in a pass, and each pass costs its time
OTHER_STREAM = 0x2545F491  # makes a row's seed that of its further noise


@dataclass(frozen=True)
class Rows:
    """Some rows in a pass, with what is needed to draw for them.

    Attributes:
        model: the VAE.
        x: (B, *event) values, NaN in gaps.
        noises: of K particles, as `Particles.noise` gives it.
        own: further noise of each row.
        contexts: what is given, (B, *context) each.
        alone: whether p(x | z_1) draws from torch's generator, for one row, since it is no function of a uniform.
        between: the limits, (B, *event) both, that gaps are known to lie between.
        as_gaps: whether a NaN is a value that is missing, which may say something, or merely not known.
    """

    model: VAE
    x: Tensor
    noises: list[Noise]
    own: RowNoise
    contexts: Contexts
    alone: bool
    between: Limits | None = None
    as_gaps: bool = True

    def decode(self, latents: Sequence[Tensor]) -> Distribution:
        """p(x | z), of batch shape (m, B)."""
        return self.model.decode(latents, given=expand_contexts(self.contexts, latents[0].shape[:2]))

    def draw(self, law: Distribution, draws: int) -> Tensor:
        """(m, B, *event) draws of a law with batch shape (m, B)."""
        if self.alone:
            return law.sample()
        uniform = partial(self.own.uniform, draws, *self.x.shape[1:])
        limits = missing_range(law, uniform, self.between) if self.as_gaps else None
        low, high = limits or self.between or (None, None)
        return draw(law, uniform(), low, high)

    def log_weight(self, trace: Trace) -> Tensor:
        """(S, B) log w, of what is there and of the limits that gaps lie between, float64."""
        law = trace.p[0] if self.as_gaps else without_gaps(trace.p[0])
        if self.between is None:
            log_px = law.log_prob(self.x)
        else:
            inside = log_missing_within(law, *self.between)
            log_px = torch.where(self.x.isnan(), inside, log_prob_elements(law, self.x)).flatten(2).sum(2)
        return (log_px + (trace.log_pz - trace.log_qz).sum(0)).double()

    @cached_property
    def offsets(self) -> tuple[Tensor, Tensor]:
        """(B,) and (B, *event) uniform in (0, 1): where the strata of a row begin, and its draws of each element."""
        return self.own.uniform(1)[0], self.own.uniform(1, *self.x.shape[1:])[0]


@dataclass(frozen=True)
class Weighed:
    """K particles of B rows.

    Attributes:
        law: p(x | z_k), of batch shape (K, B).
        weights: (K, B) w_k / sum w.
        possible: (B,) whether a row has any probability.
    """

    law: Distribution
    weights: Tensor
    possible: Tensor

    @property
    def ess(self) -> Tensor:
        """(B,) effective sample sizes."""
        return 1 / self.weights.square().sum(0)


def weigh(rows: Rows) -> Weighed:
    """The mixture that all K particles make of p(x | z)."""
    traces = [rows.model(rows.x, samples=s, noise=noise, given=rows.contexts) for s, noise in rows.noises]
    log_w = torch.cat([rows.log_weight(trace) for trace in traces])
    law: Any = traces[0].p[0]
    if len(traces) > 1:
        law = rows.decode([torch.cat(level) for level in zip(*(trace.latents for trace in traces), strict=True)])
    total = log_w.logsumexp(0)
    return Weighed(law, torch.exp(log_w - total).nan_to_num(0), total.isfinite())


@dataclass(frozen=True)
class Inferred:
    """What K particles tell of the posterior of B rows.

    Attributes:
        latents: z_1..T, (m, B, *event_t) each, draws of p(z | x_o).
        log_w, log_w2: (B,) log sum_k w_k and log sum_k w_k^2.
    """

    latents: list[Tensor]
    log_w: Tensor
    log_w2: Tensor

    @property
    def ess(self) -> Tensor:
        """(B,) effective sample sizes."""
        return torch.exp(2 * self.log_w - self.log_w2)

    @property
    def possible(self) -> Tensor:
        """(B,) whether a row has any probability."""
        return self.log_w.isfinite()


def infer_missing(rows: Rows, draws: int) -> Inferred:
    """Importance resampling, some particles at a time: a draw from the particles so far gives way to one from the next
    S with the probability sum w_next / (sum w_so_far + sum w_next), so that memory does not grow with K.

    Args:
        rows: of a pass.
        draws: m.
    """
    lowest = torch.finfo(torch.float64).min
    latents: list[Tensor] = []
    log_w = torch.full((len(rows.x),), -torch.inf, dtype=torch.float64, device=rows.x.device)
    log_w2 = log_w
    column = torch.arange(len(rows.x), device=rows.x.device)
    for samples, noise in rows.noises:
        trace = rows.model(rows.x, samples=samples, noise=noise, given=rows.contexts)
        each = rows.log_weight(trace)
        total = torch.logaddexp(log_w, each.logsumexp(0))
        log_w2 = torch.logaddexp(log_w2, (2 * each).logsumexp(0))
        kept, shares = (torch.exp(part - total.clamp(min=lowest)) for part in (log_w, each))
        chosen = _search(shares, rows.own.uniform(draws))
        drawn = [z[chosen, column] for z in trace.latents]
        old = rows.own.uniform(draws) < kept
        latents = [torch.where(spread(old, z), y, z) for y, z in zip(latents or drawn, drawn, strict=True)]
        log_w = total
    return Inferred(latents, log_w, log_w2)


def each_gappy_row(
    model: VAE,
    x: Tensor,
    whole: Tensor,
    samples: int,
    draws: int,
    seed: int,
    work: Callable[[Rows], tuple[Tensor, Tensor]],
    given: Given = None,
    between: Limits | None = None,
    apart: bool = True,
    as_gaps: bool = True,
) -> tuple[Tensor, Tensor]:
    """What `work` makes of the rows of x that have gaps, in the place of these rows of `whole`, (N, *); and its
    effective sample sizes (N,), NaN for the other rows. Equal rows have noise of their own where they are `apart`.
    """
    contexts = check_scored(model, x, samples, given)
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    limits = None if between is None else _check_limits(between, x)
    index = x.isnan().flatten(1).any(1).nonzero()[:, 0]
    whole, ess = whole.clone(), torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    if not len(index):
        return whole, ess
    gappy, contexts = x[index], take_rows(contexts, index)
    with evaluating(model), forked_rng(model):
        limits = None if limits is None else (limits[0][index], limits[1][index])
        alone = not has_draw(model.generate(1, given=take_rows(contexts, slice(1))))
        if alone and between is not None:
            raise ValueError("a range needs a likelihood whose distribution function is known, and this one's is not")
        seeds = row_seeds(gappy, seed, apart)
        pairs = PASS * pairs_per_pass(model, gappy)
        particles = Particles(model, gappy, samples, pairs, seeds=seeds, alone=alone, contexts=contexts, even=True)
        particles.rows = max(1, particles.rows * samples // max(samples, draws))

        def score(chosen: Tensor, noises: Iterator[Noise], *contexts: Tensor) -> tuple[Tensor, ...]:
            own = RowNoise(seeds[chosen.cpu().numpy()] ^ OTHER_STREAM, x.new_zeros(0).double())
            near: Any = None if limits is None else tuple(edge[chosen] for edge in limits)
            return work(Rows(model, gappy[chosen], list(noises), own, contexts, alone, near, as_gaps))

        whole[index], ess[index] = run_passes(torch.arange(len(gappy), device=x.device), particles, score)
    return whole, ess


def _check_limits(between: Any, x: Tensor) -> Limits:
    """The limits of each element, (N, *event) both.

    Raises:
        ValueError: no pair of tensors, of numbers that broadcast against x, of which the first is the smaller.
    """
    if not isinstance(between, tuple | list) or [isinstance(edge, Tensor) for edge in between] != [True, True]:
        raise ValueError("between: wanted two tensors, (low, high), the limits of gaps; -inf and inf for none")
    try:
        low, high = (edge.to(x.device).expand(x.shape) for edge in between)
    except RuntimeError:
        shapes = " and ".join(str(tuple(edge.shape)) for edge in between)
        raise ValueError(f"between: got shapes {shapes}, wanted {tuple(x.shape)}, or what broadcasts to it") from None
    if not bool((low <= high).all()):
        at = (~(low <= high)).nonzero()[0].tolist()
        ends = f"({low[tuple(at)]:g}, {high[tuple(at)]:g})"
        raise ValueError(f"between: got {ends} in {describe_index(at)}, wanted (low, high), low <= high")
    return low, high


def _search(shares: Tensor, u: Tensor) -> Tensor:
    """(m, B) k with probability shares_k / sum shares, from uniform u: (m, B) and shares (S, B)."""
    ends = shares.cumsum(0).T.contiguous()
    found = torch.searchsorted(ends, u.T.contiguous() * ends[:, -1:])
    return found.clamp(max=len(shares) - 1).T


def spread(parts: Tensor, like: Tensor) -> Tensor:
    """A tensor of leading dimensions, with as many more as it needs to broadcast against `like`."""
    return parts[(..., *[None] * (like.dim() - parts.dim()))]


def warn_of_few(ess: Tensor, samples: int, advice: str) -> None:
    """Warns, in one line, where effective sample sizes are below 10 though `samples` is above.

    Args:
        ess: (N,); NaN where there is none.
        samples: K.
        advice: what to do.
    """
    few = ess < FEW_EFFECTIVE_SAMPLES
    if samples > FEW_EFFECTIVE_SAMPLES and bool(few.any()):
        worst = int(ess.nan_to_num(torch.inf).argmin())
        warnings.warn(
            f"for {int(few.sum()):,} of {int((~ess.isnan()).sum()):,} rows the effective sample size of {samples} is "
            f"below {FEW_EFFECTIVE_SAMPLES:g}, the smallest {ess[worst]:.1f}, in row {worst}: few particles carry the "
            f"result; {advice}",
            stacklevel=4,
        )
