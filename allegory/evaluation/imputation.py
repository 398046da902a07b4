r"""Imputation: what is missing in x, given what is there, by the model.

    p(x_m | x_o) = integral p(x_m | z) p(z | x_o) dz,      x = (x_o, x_m): observed, missing

The elements are independent given z, so p(x_o | z) leaves the gaps out and p(x_m | x_o, z) = p(x_m | z). The posterior
p(z | x_o) is reached from the encoder's q by importance resampling, whole trajectories z = z_1..T at a time:

    z_k ~ q(z | x_o),   w_k = p(x_o, z_k) / q(z_k | x_o),   k ~ w / sum w,   x_m ~ p(x_m | z_k)

(sampling importance resampling, Rubin 1987; Mattei & Frellsen 2019, MIWAE). A point estimate minimises an expected loss
over p(x_m | x_o): the mean a squared error, the median an absolute one, the mode the number of wrong values.

    ESS = (sum_k w_k)^2 / sum_k w_k^2       small where q is far from p(z | x_o); the draws then repeat few z

Metropolis within Gibbs (Mattei & Frellsen 2018) is exact for any q, in the limit of many steps:

    z' ~ q(z | x_o, x_m), accepted with probability min(1, w(z') / w(z)),      x_m ~ p(x_m | z)

The noise of a row depends on the seed and on the row's own values, so a row is imputed in the same way whatever stands
beside it. Equal rows get draws of their own, by which of them is the first, the second, ...; but one best value.

Shapes: K particles, m draws, S particles per pass, B rows per pass, N rows; z_t is (S, B, *event_t), x (N, *event).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from allegory.columnar import Columns
from allegory.evaluation.passes import Noise, Particles, RowNoise, check_scored, evaluating, row_seeds, run_passes
from allegory.gaps import log_prob_elements
from allegory.given import Contexts, Given, expand_contexts, take_rows
from allegory.missingness import missing_range
from allegory.model import VAE
from allegory.quantiles import draw, exact_mean, has_draw, mass, over_categories
from allegory.runtime.messages import no_tensor
from allegory.runtime.modes import forked_rng
from allegory.runtime.threads import one_at_a_time

__all__ = ["Inferred", "Rows", "check_counts", "each_gappy_row", "fill", "impute", "infer_missing", "warn_of_few"]

FEW_EFFECTIVE_SAMPLES = 10.0
CANDIDATES = 32  # for a mode, judged by twice as many posterior draws
Range = tuple[Tensor, Tensor]
ESTIMATES = ("mean", "median", "mode")
OTHER_STREAM = 0x2545F491  # makes a row's seed that of its further noise


@one_at_a_time()
def impute(
    model: VAE,
    x: Tensor,
    draws: int = 5,
    samples: int = 1000,
    method: str = "sir",
    steps: int = 100,
    seed: int = 0,
    return_ess: bool = False,
    given: Given = None,
    between: Range | None = None,
) -> Any:
    """(m, N, *event) draws of x whose gaps are filled from p(x_missing | x_observed); what is observed stays, to the
    bit.

    Each draw is a completed data set: analyse each, and pool what was found by `rubin`. The draws tell how uncertain
    the missing values are under this model; `impute_refitted` adds how uncertain the model is. A row that has no
    probability under the model keeps its gaps.

    Args:
        model: any VAE whose likelihood takes gaps.
        x: (N, *event) data; a NaN is a gap.
        draws: m.
        samples: K, particles among which each draw is chosen.
        method: "sir", importance resampling; or "gibbs", which goes on from there by Metropolis within Gibbs: slower,
            and in the limit of many steps exact however bad the encoder is.
        steps: of "gibbs", in which each draw is a chain of its own.
        seed: of all noise; torch's generator is left alone.
        return_ess: whether to return (draws, ESS), the effective sample sizes (N,) of the K weights; NaN for rows
            without gaps.
        given: c of a conditional model, (N, *context), or several.
        between: (low, high), which broadcast against x: the limits that gaps are known to lie between; -inf and inf
            where nothing is known.

    Raises:
        ValueError: a gap where the likelihood takes none; a number below one; another method.

    >>> model = al.architectures.mlp((6,), al.families.observed(al.families.bernoulli), latent=[2], hidden=[8])
    >>> x[0, 2] = torch.nan
    >>> filled = al.impute(model, x, draws=3)
    >>> filled.shape, bool((filled[:, 1:] == x[1:]).all()), set(filled[:, 0, 2].tolist()) <= {0.0, 1.0}
    (torch.Size([3, 7, 6]), True, True)
    """
    if method not in ("sir", "gibbs"):
        raise ValueError(f"method={method!r}: wanted 'sir' or 'gibbs'")
    check_counts(draws=draws, steps=steps)

    def work(rows: Rows) -> tuple[Tensor, Tensor]:
        found = infer_missing(rows, draws)
        filled = _complete(rows, found.latents)
        if method == "gibbs":
            filled = _gibbs(rows, filled, found.latents, steps)
        return filled.where(_spread(found.possible, rows.x), rows.x).movedim(1, 0), found.ess

    whole = torch.empty(0) if not isinstance(x, Tensor) else x.expand(draws, *x.shape).movedim(1, 0).clone()
    filled, ess = each_gappy_row(model, x, whole, samples, draws, seed, work, given, between)
    if method == "sir":
        warn_of_few(ess, samples, "use more samples, or method='gibbs'")
    filled = filled.movedim(1, 0)
    return (filled, ess) if return_ess else filled


@one_at_a_time()
def fill(
    model: VAE,
    x: Tensor,
    estimate: str | Sequence[str] = "mean",
    samples: int = 1000,
    seed: int = 0,
    given: Given = None,
    between: Range | None = None,
) -> Tensor:
    """(N, *event) x with the one best value in each gap, the same in equal rows. How uncertain these are, only `impute`
    tells.

    Args:
        model, x, samples, seed, given, between: as of `impute`.
        estimate: by what error the values will be judged. "mean", for a squared error: sum_k w_k E[x | z_k] where the
            likelihood has a mean in closed form, else of K draws; "median", of K draws, for an absolute error;
            "mode", the likeliest of 32 draws, for the number of wrong values. Or one of them for each column.

    Raises:
        ValueError: as `impute`; another estimate; the mean of a category.

    >>> model = al.architectures.mlp((6,), al.families.observed(al.families.bernoulli), latent=[2], hidden=[8])
    >>> x[0, 2] = torch.nan
    >>> 0 < al.fill(model, x)[0, 2].item() < 1, al.fill(model, x, "mode")[0, 2].item() in (0.0, 1.0)
    (True, True)
    """
    each = [estimate] if isinstance(estimate, str) else list(estimate)
    if not set(each) <= set(ESTIMATES) or (not isinstance(estimate, str) and [len(each)] != list(x.shape[1:])):
        raise ValueError(f"estimate={estimate!r}: wanted {', '.join(ESTIMATES)}, or one of them for each column of x")
    wanted = sorted(set(each))

    def work(rows: Rows) -> tuple[Tensor, Tensor]:
        found = infer_missing(rows, 0 if wanted == ["mean"] else samples, spread=True, mean="mean" in wanted)
        best = {} if found.mean is None else {"mean": found.mean}
        if found.mean is not None and rows.between is not None:  # within limits it is no closed form
            limited = rows.between[0].isfinite() | rows.between[1].isfinite()
            best["mean"] = found.mean.masked_fill(limited, torch.nan)
        numbers = found.mean is not None and bool((best["mean"].isnan() & rows.x.isnan()).any())
        if numbers or wanted != ["mean"]:
            latents = found.latents or infer_missing(rows, samples, spread=True).latents
            drawn = _complete(rows, latents)
            best |= {"mean": _mean_or_draws(rows, best["mean"], drawn)} if found.mean is not None else {}
            best |= {"median": drawn.median(0).values} if "median" in wanted else {}
            if "mode" in wanted:
                few, fewer = (range(0, samples, ceil(samples / n)) for n in (2 * CANDIDATES, CANDIDATES))
                law = rows.decode([z[list(few)] for z in latents])
                asked = (
                    torch.tensor([name == "mode" for name in each], device=x.device) & rows.x.isnan().any(0).flatten()
                )
                best["mode"] = _likeliest(law, drawn[list(fewer)], asked.view(law.event_shape), rows.between)
        chosen = best[each[0]]
        if len(each) > 1:
            chosen = torch.stack([best[name][:, d] for d, name in enumerate(each)], 1)
        possible = _spread(found.possible, chosen)
        lacking = (rows.x.isnan() & chosen.isnan() & possible).nonzero()
        if len(lacking):
            raise ValueError(
                f"estimate={estimate!r}: the law of column {', '.join(map(str, lacking[0, 1:].tolist()))} is over "
                "categories, which have no mean; wanted 'mode' or 'median' there"
            )
        return torch.where(rows.x.isnan() & possible, chosen.to(rows.x), rows.x), found.ess

    filled, ess = each_gappy_row(model, x, x, samples, samples, seed, work, given, between, apart=False)
    warn_of_few(ess, samples, "use more samples, or draws of impute(method='gibbs')")
    return filled


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
    """

    model: VAE
    x: Tensor
    noises: list[Noise]
    own: RowNoise
    contexts: Contexts
    alone: bool
    between: Range | None = None

    def decode(self, latents: Sequence[Tensor]) -> Distribution:
        """p(x | z), of batch shape (m, B)."""
        return self.model.decode(latents, given=expand_contexts(self.contexts, latents[0].shape[:2]))

    def draw(self, law: Distribution, draws: int) -> Tensor:
        """(m, B, *event) draws of a law with batch shape (m, B)."""
        if self.alone:
            return law.sample()
        limits = missing_range(law)
        if limits is None or self.between is None:
            low, high = limits or self.between or (None, None)
        else:
            low, high = limits[0].maximum(self.between[0]), limits[1].minimum(self.between[1])
        return draw(law, self.own.uniform(draws, *self.x.shape[1:]), low, high)


@dataclass(frozen=True)
class Inferred:
    """What K particles tell of the posterior of B rows.

    Attributes:
        latents: z_1..T, (m, B, *event_t) each, draws of p(z | x_o).
        log_w, log_w2: (B,) log sum_k w_k and log sum_k w_k^2.
        mean: (B, *event) sum_k w_k E[x | z_k] / sum_k w_k, NaN where that is not in closed form; None if it was not
            asked for.
    """

    latents: list[Tensor]
    log_w: Tensor
    log_w2: Tensor
    mean: Tensor | None

    @property
    def ess(self) -> Tensor:
        """(B,) effective sample sizes."""
        return torch.exp(2 * self.log_w - self.log_w2)

    @property
    def possible(self) -> Tensor:
        """(B,) whether a row has any probability."""
        return self.log_w.isfinite()


def infer_missing(rows: Rows, draws: int, spread: bool = False, mean: bool = False) -> Inferred:
    """Importance resampling, some particles at a time: a draw from the particles so far gives way to one from the next
    S with the probability sum w_next / (sum w_so_far + sum w_next), so that memory does not grow with K.

    Args:
        rows: of a pass.
        draws: m.
        spread: whether the draws are spread evenly over the particles, rather than independent: for estimates.
        mean: whether to compute E[x | x_o].
    """
    lowest = torch.finfo(torch.float64).min
    latents: list[Tensor] = []
    log_w = torch.full((len(rows.x),), -torch.inf, dtype=torch.float64, device=rows.x.device)
    log_w2, average = log_w, None
    column = torch.arange(len(rows.x), device=rows.x.device)
    for samples, noise in rows.noises:
        trace = rows.model(rows.x, samples=samples, noise=noise, given=rows.contexts)
        each = trace.log_weight.double()
        if rows.between is not None:
            inside = mass(trace.p[0], *rows.between).double().log()
            each = each + torch.where(rows.x.isnan(), inside, 0).flatten(2).sum(2)
        total = torch.logaddexp(log_w, each.logsumexp(0))
        log_w2 = torch.logaddexp(log_w2, (2 * each).logsumexp(0))
        kept, shares = (torch.exp(part - total.clamp(min=lowest)) for part in (log_w, each))
        if draws:
            u = rows.own.uniform(draws)
            if spread:
                u = (torch.arange(draws, device=u.device)[:, None] + u) / draws
            chosen = _search(shares, u)
            drawn = [z[chosen, column] for z in trace.latents]
            old = rows.own.uniform(draws) < kept
            latents = [torch.where(_spread(old, z), y, z) for y, z in zip(latents or drawn, drawn, strict=True)]
        if mean:
            expected = exact_mean(trace.p[0])
            part = (_spread(shares, expected) * expected).sum(0)
            average = part if average is None else _spread(kept, part) * average + part
        log_w = total
    return Inferred(latents, log_w, log_w2, average)


def each_gappy_row(
    model: VAE,
    x: Tensor,
    whole: Tensor,
    samples: int,
    draws: int,
    seed: int,
    work: Callable[[Rows], tuple[Tensor, Tensor]],
    given: Given = None,
    between: Range | None = None,
    apart: bool = True,
) -> tuple[Tensor, Tensor]:
    """What `work` makes of the rows of x that have gaps, in the place of these rows of `whole`, (N, *); and its
    effective sample sizes (N,), NaN for the other rows. Equal rows have noise of their own where they are `apart`.
    """
    contexts = check_scored(model, x, samples, given)
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    index = x.isnan().flatten(1).any(1).nonzero()[:, 0]
    whole, ess = whole.clone(), torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    if not len(index):
        return whole, ess
    gappy, contexts = x[index], take_rows(contexts, index)
    with evaluating(model), forked_rng(model):
        limits = None if between is None else tuple(edge.expand(x.shape)[index] for edge in between)
        alone = not has_draw(model.generate(1, given=take_rows(contexts, slice(1))))
        if alone and between is not None:
            raise ValueError("a range needs a likelihood whose distribution function is known, and this one's is not")
        seeds = row_seeds(gappy, seed, apart)
        particles = Particles(model, gappy, samples, seeds=seeds, alone=alone, contexts=contexts)
        particles.rows = max(1, particles.rows * samples // max(samples, draws))

        def score(chosen: Tensor, noises: Iterator[Noise], *contexts: Tensor) -> tuple[Tensor, ...]:
            own = RowNoise(seeds[chosen.cpu().numpy()] ^ OTHER_STREAM, x.new_zeros(0).double())
            near: Any = None if limits is None else tuple(edge[chosen] for edge in limits)
            return work(Rows(model, gappy[chosen], list(noises), own, contexts, alone, near))

        whole[index], ess[index] = run_passes(torch.arange(len(gappy), device=x.device), particles, score)
    return whole, ess


def _complete(rows: Rows, latents: list[Tensor]) -> Tensor:
    """(m, B, *event) x with its gaps drawn from p(x | z)."""
    drawn = rows.draw(rows.decode(latents), len(latents[0]))
    return torch.where(rows.x.isnan(), drawn.to(rows.x), rows.x)


def _gibbs(rows: Rows, filled: Tensor, latents: list[Tensor], steps: int) -> Tensor:
    """(m, B, *event) the gaps after some steps of Metropolis within Gibbs, m chains for each row."""
    model, shape = rows.model, filled.shape[:2]
    normal = [q.shape if q is not None else None for q in rows.noises[0][1]]
    given = tuple(c.flatten(0, 1) for c in expand_contexts(rows.contexts, shape))
    for _ in range(steps):
        x, now = filled.flatten(0, 1), [z.flatten(0, 1)[None] for z in latents]
        noise = [None if s is None else rows.own.normal(shape[0], *s[2:]).flatten(0, 1)[None].to(x) for s in normal]
        proposed = model(x, noise=noise, given=given)
        ratio = (proposed.log_weight - model.score(x, now, given).log_weight).unflatten(1, shape)[0]
        accepted = rows.own.uniform(shape[0]).log() < ratio
        moved = [z.unflatten(1, shape)[0] for z in proposed.latents]
        latents = [torch.where(_spread(accepted, z), z, old) for z, old in zip(moved, latents, strict=True)]
        filled = _complete(rows, latents)
    return filled


def _likeliest(law: Distribution, candidates: Tensor, wanted: Tensor, between: Range | None = None) -> Tensor:
    """(B, *event) for each element the value of the largest density, averaged over the m of law: (m, B); of categories,
    else of candidates (J, B, *event).

    Args:
        law: p(x | z) at m posterior draws.
        candidates: draws of x.
        wanted: (*event) for which elements; the others have any value.
        between: limits, (B, *event) both, within which the candidates are.
    """
    if isinstance(law, Columns):
        each = []
        for part, at in zip(law.parts, law.columns, strict=True):
            limits: Any = None if between is None else tuple(edge[..., at] for edge in between)
            each.append(_likeliest(part, candidates[..., at], wanted[at], limits))
        return law._in_order(each)
    elements: Any = getattr(law, "base_dist", law)
    if not bool(wanted.any()):
        return candidates[0]
    if isinstance(elements, Categorical):
        lowest, probs = getattr(elements, "lowest", 0), elements.probs.mean(0)
        if between is not None:
            values = torch.arange(probs.shape[-1], device=probs.device) + lowest
            probs = probs.masked_fill((values < between[0][..., None]) | (values > between[1][..., None]), 0)
        return (probs.argmax(-1) + lowest).to(candidates)
    density = [log_prob_elements(law, values).double().logsumexp(0) for values in candidates]
    return candidates.gather(0, torch.stack(density).argmax(0, keepdim=True))[0]


def _search(shares: Tensor, u: Tensor) -> Tensor:
    """(m, B) k with probability shares_k / sum shares, from uniform u: (m, B) and shares (S, B)."""
    ends = shares.cumsum(0).T.contiguous()
    found = torch.searchsorted(ends, u.T.contiguous() * ends[:, -1:])
    return found.clamp(max=len(shares) - 1).T


def _spread(parts: Tensor, like: Tensor) -> Tensor:
    """A tensor of leading dimensions, that it broadcasts against `like`."""
    return parts[(..., *[None] * (like.dim() - parts.dim()))]


def _mean_or_draws(rows: Rows, mean: Tensor, drawn: Tensor) -> Tensor:
    """(B, *event) E[x | x_o]; where it is not in closed form, and x is a number, the mean of draws (m, B, *event)."""
    law = rows.model.generate(1, given=take_rows(rows.contexts, slice(1)))
    numbers = ~over_categories(law).to(mean.device)
    return torch.where(mean.isnan() & numbers, drawn.double().mean(0), mean)


def check_counts(**counts: int) -> None:
    """Raises a ValueError for a number that is not whole, or below one.

    >>> check_counts(draws=0)
    Traceback (most recent call last):
    ValueError: draws=0: wanted at least 1, a whole number
    """
    for name, value in counts.items():
        if not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name}={value!r}: wanted at least 1, a whole number")


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
