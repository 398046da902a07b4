r"""Imputation: what is missing in x, given what is there, by the model.

    p(x_m | x_o) = integral p(x_m | z) p(z | x_o) dz,      x = (x_o, x_m): observed, missing

The elements are independent given z, so p(x_o | z) leaves the gaps out and p(x_m | x_o, z) = p(x_m | z). The posterior
p(z | x_o) is reached from the encoder's q by importance resampling, whole trajectories z = z_1..T at a time:

    z_k ~ q(z | x_o),   w_k = p(x_o, z_k) / q(z_k | x_o),   k ~ w / sum w,   x_m ~ p(x_m | z_k)

(sampling importance resampling, Rubin 1987; Mattei & Frellsen 2019, MIWAE; see `allegory.evaluation.resampling`). A
point estimate minimises an expected loss over p(x_m | x_o): the mean a squared error, the median an absolute one, the
mode the number of wrong values. It is that of the mixture sum_k w_k p(x_d | z_k), of the columns in which a row has
gaps; see `allegory.mixtures`.

Metropolis within Gibbs (Mattei & Frellsen 2018) is exact for any q, in the limit of many steps:

    z' ~ q(z | x_o, x_m), accepted with probability min(1, w(z') / w(z)),      x_m ~ p(x_m | z)

Shapes: K particles, m draws, S particles per pass, B rows per pass, N rows; z_t is (S, B, *event_t), x (N, *event). G
gaps, those of the B rows in a block of columns whose laws are of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, Independent
from torch.nn.functional import softplus

from allegory.columnar import Columns
from allegory.evaluation.resampling import Rows, each_gappy_row, infer_missing, spread, warn_of_few, weigh
from allegory.given import Given, expand_contexts
from allegory.missingness import GapLaw, Limits, gap_odds, log_missing_within, missing_range, warn_of_far
from allegory.mixtures import even, mixture_mean, mixture_quantile, pick, strata
from allegory.model import VAE
from allegory.quantiles import draw, log_mass
from allegory.runtime.messages import check_counts
from allegory.runtime.threads import one_at_a_time

__all__ = ["fill", "impute"]

TAIL = 0.05  # of the draws of a column that may lie far beyond its limit without a warning
CANDIDATES = 32  # for a mode, judged by twice as many posterior draws
OTHER_OFFSET, OTHER_STEP = 7919, math.sqrt(2) - 1  # of a limit that is drawn, beside the value beyond it
ESTIMATES = ("mean", "median", "mode")


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
    between: Limits | None = None,
    as_gaps: bool = True,
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
        as_gaps: whether a NaN is a value that is missing, which may say something, see `allegory.missingness`; else
            one that is merely not known, and drawn as any other.

    Raises:
        ValueError: a gap where the likelihood takes none; a number below one; another method; limits upside down.

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
        return filled.where(spread(found.possible, rows.x), rows.x).movedim(1, 0), found.ess

    whole = torch.empty(0) if not isinstance(x, Tensor) else x.expand(draws, *x.shape).movedim(1, 0).clone()
    filled, ess = each_gappy_row(model, x, whole, samples, draws, seed, work, given, between, as_gaps=as_gaps)
    if method == "sir":
        warn_of_few(ess, samples, "use more samples, or method='gibbs'")
    filled = filled.movedim(1, 0)
    warn_of_far(getattr(model.decoders[0], "family", None), filled, x.isnan(), "the draws", TAIL)
    return (filled, ess) if return_ess else filled


@one_at_a_time()
def fill(
    model: VAE,
    x: Tensor,
    estimate: str | Sequence[str] = "mean",
    samples: int = 1000,
    seed: int = 0,
    given: Given = None,
    between: Limits | None = None,
) -> Tensor:
    """(N, *event) x with the one best value in each gap, the same in equal rows. How uncertain these are, only `impute`
    tells.

    Args:
        model, x, samples, seed, given, between: as of `impute`.
        estimate: by what error the values will be judged. "mean", for a squared error: sum_k w_k E[x | z_k] where the
            likelihood has a mean in closed form, else of K draws; "median", for an absolute error, of the mixture of
            all p(x | z_k); "mode", for the number of wrong values, of categories the likeliest, of numbers the
            likeliest of 32 draws. Or one of them for each column.

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
    asked = {name: torch.tensor([one == name for one in each], device=x.device) for name in set(each)}

    def work(rows: Rows) -> tuple[Tensor, Tensor]:
        found = weigh(rows)
        filled, gaps = rows.x.clone(), rows.x.isnan() & spread(found.possible, rows.x)
        for law, columns in _laws_of_elements(found.law):
            for name, of in asked.items():
                cells = (gaps & of if columns is None else (gaps & of)[:, columns]).nonzero(as_tuple=True)
                if not len(cells[0]):
                    continue
                index = cells if columns is None else (cells[0], columns[cells[1]])
                if name == "mean" and isinstance(law, Categorical):
                    raise ValueError(
                        f"estimate={estimate!r}: the law of column {', '.join(str(int(at[0])) for at in index[1:])} is "
                        "over categories, which have no mean; wanted 'mode' or 'median' there"
                    )
                mixture = Mixture(rows, pick(law, (slice(None), *cells)), found.weights[:, cells[0]], index)
                filled[index] = getattr(mixture, name)().to(filled)
        return filled, found.ess

    filled, ess = each_gappy_row(model, x, x, samples, samples, seed, work, given, between, apart=False)
    warn_of_few(ess, samples, "use more samples, or draws of impute(method='gibbs')")
    told = f"the {estimate}" if isinstance(estimate, str) else "such values"
    warn_of_far(getattr(model.decoders[0], "family", None), filled, x.isnan(), told)
    return filled


@dataclass(frozen=True)
class Mixture:
    """What is known of G gaps, and the one best value of each, (G,).

    Attributes:
        rows: that they are in.
        law: p(x_d | z_k), of batch shape (K, G).
        weights: (K, G).
        index: of the gaps in x.
    """

    rows: Rows
    law: Any
    weights: Tensor
    index: tuple[Tensor, ...]

    def mean(self) -> Tensor:
        """For a squared error: in closed form, or of K draws."""
        return self._or_draws(mixture_mean(self.law, self.weights), lambda draws: draws.double().mean(0))

    def median(self) -> Tensor:
        """For an absolute error: of the mixture; where it lies between limits, of K draws."""
        lacking = torch.full(self.weights.shape[1:], torch.nan, dtype=torch.float64, device=self.weights.device)
        closed = not self.rows.alone and not bool(self.limited.all())
        found = mixture_quantile(self.law, self.weights) if closed else lacking
        return self._or_draws(found, lambda draws: draws.median(0).values)

    def mode(self) -> Tensor:
        """For the number of wrong values: the likeliest category, or the likeliest of some draws."""
        if not isinstance(self.law, Categorical):
            law, candidates = self.drawn(2 * CANDIDATES), self.draws(CANDIDATES)
            between = self.between
            inside: Any = 0 if between is None else log_mass(law, *between).double()
            if isinstance(law, GapLaw):
                inside = law.log_missing if between is None else log_missing_within(law, *between)
            score = law.log_hidden if isinstance(law, GapLaw) else law.log_prob
            density = [(score(values).double() - inside).logsumexp(0) for values in candidates]
            return candidates.gather(0, torch.stack(density).argmax(0, keepdim=True))[0]
        probs, lowest, limits = self.law.probs, getattr(self.law, "lowest", 0), self.between
        if limits is not None:
            values = torch.arange(probs.shape[-1], device=probs.device) + lowest
            probs = probs.masked_fill((values < limits[0][..., None]) | (values > limits[1][..., None]), 0)
            probs = (probs / probs.sum(-1, keepdim=True)).nan_to_num(0)
        return (self.weights[..., None] * probs).sum(0).argmax(-1) + lowest

    def draws(self, m: int) -> Tensor:
        """(m, G) draws, spread evenly."""
        law = self.drawn(m)
        if self.rows.alone:
            return law.sample()
        offsets = self.rows.offsets[1][self.index]
        limits = missing_range(law, partial(even, m, (OTHER_OFFSET * offsets).frac(), OTHER_STEP), self.between)
        return draw(law, even(m, offsets), *(limits or self.between or ()))

    def drawn(self, m: int) -> Any:
        """The laws of the particles of m draws, (m, G)."""
        chosen = strata(self.weights, m, self.rows.offsets[0][self.index[0]])
        return pick(self.law, (chosen, torch.arange(chosen.shape[1], device=chosen.device)))

    @property
    def between(self) -> Limits | None:
        """The limits that are known of the gaps, (G,) both."""
        between = self.rows.between
        return None if between is None else (between[0][self.index], between[1][self.index])

    @cached_property
    def limited(self) -> Tensor:
        """(G,) whether a gap lies between limits, by what is known or by what it says."""
        between, beyond = self.between, isinstance(self.law, GapLaw)
        if beyond or between is None:
            return torch.full_like(self.weights[0], beyond, dtype=torch.bool)
        return between[0].isfinite() | between[1].isfinite()

    def _or_draws(self, found: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """What was found in closed form; where it is NaN, or there are limits, the same `of` K draws."""
        lacking = (found.isnan() | self.limited).nonzero()[:, 0]
        if len(lacking):
            some = self._some(lacking).draws(len(self.weights))
            found = found.double().index_copy(0, lacking, of(some).double())
        return found

    def _some(self, gaps: Tensor) -> Mixture:
        if len(gaps) == len(self.index[0]):
            return self
        law = pick(self.law, (slice(None), gaps))
        return Mixture(self.rows, law, self.weights[:, gaps], tuple(at[gaps] for at in self.index))


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
        before = model.score(x, now, given)
        ratio = proposed.log_weight - before.log_weight
        ratio = ratio + _gap_terms(rows, proposed.p[0], shape) - _gap_terms(rows, before.p[0], shape)
        ratio = ratio.unflatten(1, shape)[0]
        accepted = rows.own.uniform(shape[0]).log() < ratio
        moved = [z.unflatten(1, shape)[0] for z in proposed.latents]
        latents = [torch.where(spread(accepted, z), z, old) for z, old in zip(moved, latents, strict=True)]
        filled = _complete(rows, latents)
    return filled


def _gap_terms(rows: Rows, law: Distribution, shape: Size) -> Tensor:
    """(1, m * B) what log p(x, s | z) of filled rows has more, by z, than where all their values were there."""
    odds = gap_odds(law)
    if odds is None:
        return torch.zeros(())
    if not rows.as_gaps:
        return softplus(odds).flatten(2).sum(2)  # -log P(s = 0), of what is not known to be there
    missing = rows.x.isnan().expand(*shape, *rows.x.shape[1:]).flatten(0, 1)
    return torch.where(missing, odds, 0).flatten(2).sum(2)  # log P(s = 1) - log P(s = 0)


def _laws_of_elements(law: Any) -> list[tuple[Any, Tensor | None]]:
    """The laws of the elements, and of which columns each is; None for all of x.

    Raises:
        ValueError: a law whose elements are not independent.
    """
    if isinstance(law, Columns):
        return [(_of_gaps(part.base_dist), columns) for part, columns in zip(law.parts, law.columns, strict=True)]
    if not isinstance(law, Independent) or law.base_dist.event_shape:
        raise ValueError(
            f"{type(law).__name__}: wanted a law over independent elements, of which each has a best value; use draws, "
            "impute(...)"
        )
    return [(_of_gaps(law.base_dist), None)]


def _of_gaps(law: Any) -> Any:
    """The law of the values that are missing: that of all values, unless they are beyond a limit."""
    return law.law if isinstance(law, GapLaw) and not law.beyond else law
