r"""Evaluation: the likelihood of a model, in nats per example.

    L_K  = E log mean_{k=1..K} w_k        rises to log p(x) with K; L_1 = ELBO                (Burda et al. 2016)
    ESS  = (sum_k w_k)^2 / sum_k w_k^2    between 1 and K; near 1 one particle dominates L_K, which then says little
    active units of level t: those whose posterior mean E[z_t | x] varies over x by more than 0.01 of the variance of
                             the prior, which is 1 for N(0, I)     (Burda et al. 2016). Below the top of a ladder it is
                             the mean of (E q - E p) / sd p, with p(z_t | z_{t+1}): what follows from the levels above
                             is no activity of this one; likewise at the top where the prior is p(z_T | c). So the unit
                             of z does not matter.
                             Where the mean is a Monte Carlo mean over particles, the variance of its error is
                             subtracted, which needs K > 1: with a single particle its noise counts as activity

Where gaps are data (`allegory.missingness`), p(x) is everywhere p(x_o, s), of what is observed and of s, which values
are missing; the results say so.

L_K is a lower bound on log p(x) in expectation, so minus L_K is an upper bound on the negative log-likelihood: always
state K. Every example counts once, none is dropped; a NaN shows.

Each process scores what it is given. Within `al.together()` all processes of torch.distributed call these functions
with the same arguments, which is checked: each scores its share of the examples, and all get the whole result, which is
that of one process. Of several threads one scores at a time. How the examples pass through a model: see
`allegory.evaluation.passes`.

Shapes: S particles per pass, B examples per pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from allegory.chain import at_levels
from allegory.evaluation.gains import Carried, ColumnGain, carried_by, data_gaps
from allegory.evaluation.moments import conditional_means, prior_variances
from allegory.evaluation.passes import Noise, Particles, check_scored, evaluating, row_seeds, run_passes
from allegory.evaluation.speed import choose_speed
from allegory.given import Contexts, Given
from allegory.missingness import of_what
from allegory.model import VAE
from allegory.runtime.compilation import compile_or_warn
from allegory.runtime.html import html_table
from allegory.runtime.threads import one_at_a_time

__all__ = [
    "Evaluation",
    "Scores",
    "bound_curve",
    "curve_counts",
    "evaluate",
    "log_likelihood",
    "score",
    "standard_error",
]

ACTIVE_VARIANCE = 0.01
MANY_LEVELS = 20  # from which on their rates are told together
MIN_EFFECTIVE_SAMPLES = 2.0


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of `evaluate`; nats per example unless stated.

    Attributes:
        examples: N.
        importance_samples: K.
        nll, nll_stderr: minus L_K, and its standard error over the examples.
        elbo, elbo_stderr: the ELBO, averaged over K draws.
        reconstruction: E_q log p(x | z_1).
        kl_per_level: the rate of each level, level 1 first.
        active_units: how many latents of each level vary with x.
        bits_per_dim: nll in bits per element of x that is there, or whose gap is data. For a density it depends on the
            unit of x.
        effective_sample_size: ESS of the K weights, averaged over the examples.
        unreliable: the fraction of examples whose ESS is below 2, or NaN, as where every weight is zero.
        baseline_nll: minus the mean of log p(x) where the elements of x are independent, each at its marginal optimum
            in the training data, see `allegory.evaluation.marginals`; None where no training data are known.
        carried: rows that carry the mean, and by how much, see `allegory.evaluation.gains`; None where none do.
        columns: of a table the gain of each column; None of anything else, or where no training data are known.
        gaps: the columns of which that a value is missing is part of the likelihood, see `allegory.missingness`: all
            nats are then of log p(x_o, s), and do not compare with those of a model that leaves gaps out.
    """

    examples: int
    importance_samples: int
    nll: float
    nll_stderr: float
    elbo: float
    elbo_stderr: float
    reconstruction: float
    kl_per_level: list[float]
    active_units: list[int]
    bits_per_dim: float
    effective_sample_size: float
    unreliable: float
    baseline_nll: float | None = None
    carried: Carried | None = None
    columns: list[ColumnGain] | None = None
    gaps: list[str] = field(default_factory=list)

    @property
    def worse_than_baseline(self) -> bool:
        """Whether even L_K is below what independent elements reach."""
        return self.baseline_nll is not None and self.nll > self.baseline_nll

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """What was found, as the rows of a table: name, value, standard error."""
        baseline = (
            [] if self.baseline_nll is None else [("  baseline, independent elements", f"{self.baseline_nll:.3f}", "")]
        )
        levels = [
            row
            for t, (rate, active) in enumerate(zip(self.kl_per_level, self.active_units, strict=True), start=1)
            for row in ((f"  rate of level {t}", f"{rate:.3f}", ""), (f"  active units of level {t}", str(active), ""))
        ]
        if len(self.kl_per_level) > MANY_LEVELS:
            *below, top = self.kl_per_level
            levels = [
                (f"  rate of {len(below)} levels", f"{sum(below):.3f}", ""),
                ("  rate of the top", f"{top:.3f}", ""),
            ]
        k, of = self.importance_samples, " of p(x_o, s)" if self.gaps else ""
        return [
            (f"negative log-likelihood{of}, -L_{k}", f"{self.nll:.3f}", f"{self.nll_stderr:.3f}"),
            *baseline,
            ("-ELBO", f"{-self.elbo:.3f}", f"{self.elbo_stderr:.3f}"),
            ("  -reconstruction", f"{-self.reconstruction:.3f}", ""),
            *levels,
            ("bits per dimension", f"{self.bits_per_dim:.4f}", ""),
            (f"effective sample size of {k}", f"{self.effective_sample_size:.1f}", ""),
        ]

    def _repr_html_(self) -> str:
        of = f"; {of_what(self.gaps)}" if self.gaps else ""
        return html_table(
            f"{self.examples:,} examples, nats per example{of}", ["", "value", "standard error"], self.rows()
        )

    def __repr__(self) -> str:
        count, many = len(self.kl_per_level), len(self.kl_per_level) > MANY_LEVELS
        rates = " ".join(f"{rate:.2f}" for rate in self.kl_per_level)
        rates = f"{sum(self.kl_per_level):.2f} of {count} levels together" if many else rates
        units = f"{sum(self.active_units)} of them" if many else " ".join(map(str, self.active_units))
        return (
            f"Evaluation({self.examples:,} examples: -L_{self.importance_samples} {self.nll:.2f} +- "
            f"{self.nll_stderr:.2f} nats, -ELBO {-self.elbo:.2f} +- {self.elbo_stderr:.2f}, -reconstruction "
            f"{-self.reconstruction:.2f}, rates {rates}, active units {units}, "
            f"effective sample size {self.effective_sample_size:.1f}{'; of p(x_o, s)' if self.gaps else ''})"
        )


@one_at_a_time()
def log_likelihood(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    seed: int | None = None,
    given: Given = None,
    levels: int | None = None,
) -> Tensor:
    """(N,) L_K of each example with K = samples, nats: a lower bound on log p(x) in expectation; on log p(x_o) where
    gaps are left out, and on log p(x_o, s) where they are data, see `allegory.missingness`.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs, precision, compile: as in `evaluate`.
        seed: with one, the noise of an example depends on it and on the values of the example alone: a score, the
            same in every call and whatever the other examples are. Without, torch's generator gives the noise.
        given: c of a conditional model, (N, *context), or several; then it is log p(x | c).
        levels: as in `evaluate`.

    >>> al.log_likelihood(model, x, samples=10).shape
    torch.Size([7])
    """
    model = at_levels(model, levels)
    contexts = check_scored(model, x, samples, given)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile, given)
    weigh = compile_or_warn(_log_weights, x.device) if compile else _log_weights

    def total(rows: Tensor, noises: Iterator[Noise], *given: Tensor) -> tuple[Tensor]:
        return (torch.stack([weigh(model, rows, given, noise).logsumexp(0) for noise in noises]).logsumexp(0),)

    with evaluating(model, precision):
        seeds = None if seed is None else row_seeds(x, seed)
        (log_w,) = run_passes(x, Particles(model, x, samples, pairs, compile, seeds, contexts=contexts), total)
    return (log_w - math.log(samples)).to(x.dtype)


@one_at_a_time()
def evaluate(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    given: Given = None,
    levels: int | None = None,
) -> Evaluation:
    """L_K, the ELBO and its parts, active units and the effective sample size, of all examples.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs per pass; bounds the memory. By default as many as give a million
            numbers for p(x | z_1), or four million when compiled.
        precision: "float32", or "bfloat16" for the matrix products of the networks; "auto" as in `choose_speed`.
        compile: whether to compile a pass (torch.compile): a few seconds at the start, then faster; "auto" as there.
        given: c of a conditional model, (N, *context), or several. All numbers are then of p(x | c); where the prior
            reads c, a unit of the top level is active if its mean varies by more than what follows from c.
        levels: how many a diffusion is scored with, T; by default as many as it has. Each T is another model with the
            same network, and where a diffusion has infinitely many, one has to be chosen. A pass takes time in
            proportion to it.
    """
    model = at_levels(model, levels)
    result = score(model, x, samples, pairs, precision, compile, given).evaluation
    if samples > MIN_EFFECTIVE_SAMPLES and result.unreliable > 0.5:
        warnings.warn(
            f"L_{samples} says little: for {result.unreliable:.0%} of the examples the effective sample size is below "
            f"{MIN_EFFECTIVE_SAMPLES:g}, so the bound may be far below log p(x); use more samples, or train longer",
            stacklevel=2,
        )
    return result


@dataclass(frozen=True)
class Scores:
    """What K particles say of each example, from which all other numbers of an evaluation follow; nats, on x's device.

    Attributes:
        counts: (C,) the K of bounds, the last of them how many particles there were.
        bounds: (N, C) L_K, an average over all groups of K among the particles.
        effective_sample_size: (N,) ESS of all of them.
        terms: (N, 1 + T) E_q log p(x | z_1), and the rate of each level.
        active_units: of each level.
        numbers: how many numbers of x are there, or are gaps that are data.
        gaps: the columns whose gaps are data.
    """

    counts: list[int]
    bounds: Tensor
    effective_sample_size: Tensor
    terms: Tensor
    active_units: list[int]
    numbers: int
    gaps: list[str]

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """(K, the mean of L_K, its standard error), as `bound_curve` gives it."""
        columns = zip(self.counts, self.bounds.unbind(1), strict=True)
        return [(k, bound.mean().item(), standard_error(bound)) for k, bound in columns]

    @property
    def evaluation(self) -> Evaluation:
        """What `evaluate` gives."""
        bound, terms, ess = self.bounds[:, -1], self.terms, self.effective_sample_size
        elbo = terms[:, 0] - terms[:, 1:].sum(1)
        return Evaluation(
            examples=len(bound),
            importance_samples=self.counts[-1],
            nll=-bound.mean().item(),
            nll_stderr=standard_error(bound),
            elbo=elbo.mean().item(),
            elbo_stderr=standard_error(elbo),
            reconstruction=terms[:, 0].mean().item(),
            kl_per_level=terms[:, 1:].mean(0).tolist(),
            active_units=self.active_units,
            bits_per_dim=-bound.sum().item() / (self.numbers * math.log(2)),
            effective_sample_size=ess.mean().item(),
            unreliable=(~(ess >= MIN_EFFECTIVE_SAMPLES)).double().mean().item(),
            carried=carried_by(bound),
            gaps=self.gaps,
        )


@one_at_a_time()
def score(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    given: Given = None,
    counts: Sequence[int] = (),
) -> Scores:
    """What one pass over all examples, with K particles each, tells.

    Args:
        model, x, samples, pairs, precision, compile, given: as in `evaluate`.
        counts: the K of further bounds, each below samples, such as those of `curve_counts`.

    >>> found = score(model, x, samples=12, counts=[1, 5])
    >>> found.bounds.shape, found.evaluation.nll == -found.curve[-1][1]
    (torch.Size([7, 3]), True)
    """
    contexts = check_scored(model, x, samples, given)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile, given)
    weigh = compile_or_warn(_pass_statistics, x.device) if compile else _pass_statistics
    counts = sorted({*counts, samples})

    def combine(rows: Tensor, noises: Iterator[Noise], *given: Tensor) -> tuple[Tensor, ...]:
        log_w, terms, *means = _combine_passes(weigh(model, rows, given, noise) for noise in noises)
        ess = torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0))
        sums = []  # over the rows, of E[z_t | x], its square, and its error's, (3, *event_t) for each level
        for mean, square in zip(means[::2], means[1::2], strict=True):
            mean, square = mean / samples, square / samples
            error = (square - mean.square()).clamp(min=0) / max(1, samples - 1)
            sums.append(torch.stack([mean.sum(0), mean.square().sum(0), error.sum(0)]))
        return _bounds_of(log_w, counts), ess, terms / samples, *sums

    with evaluating(model, precision):
        bounds, ess, terms, *sums = run_passes(
            x, Particles(model, x, samples, pairs, compile, contexts=contexts), combine, summed=model.levels
        )
        scales = prior_variances(model, contexts=contexts)
    active = [
        int((square - mean.square() - error > ACTIVE_VARIANCE * scale).sum())
        for (mean, square, error), scale in zip((s / len(x) for s in sums), scales, strict=True)
    ]
    gaps = data_gaps(model)
    return Scores(counts, bounds, ess, terms, active, _observed_count(x, list(gaps)), list(gaps.values()))


@one_at_a_time()
def bound_curve(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
    given: Given = None,
    levels: int | None = None,
) -> list[tuple[int, float, float]]:
    """L_K against K: (K, the mean of L_K over x, its standard error), for K = 1, 2, 5, 10, ... up to `samples`.

    Every example's weights are drawn once; L_K averages over all groups of K among them. If the curve still
    rises at its end, log p(x) has not been reached.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: the largest K.
        pairs, precision, compile, given, levels: as in `evaluate`.

    >>> [k for k, bound, error in al.bound_curve(model, x, samples=12)]
    [1, 2, 5, 10, 12]
    """
    model = at_levels(model, levels)
    contexts = check_scored(model, x, samples, given)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile, given)
    counts = curve_counts(samples)
    weigh = compile_or_warn(_log_weights, x.device) if compile else _log_weights

    def averages(rows: Tensor, noises: Iterator[Noise], *given: Tensor) -> tuple[Tensor]:
        log_w = torch.cat([weigh(model, rows, given, noise) for noise in noises])
        return (_bounds_of(log_w, counts),)

    with evaluating(model, precision):
        (bounds,) = run_passes(x, Particles(model, x, samples, pairs, compile, contexts=contexts), averages)
    return [(k, bound.mean().item(), standard_error(bound)) for k, bound in zip(counts, bounds.unbind(1), strict=True)]


def curve_counts(samples: int) -> list[int]:
    """The K of a curve up to `samples`.

    >>> curve_counts(12)
    [1, 2, 5, 10, 12]
    """
    return sorted({k * 10**i for i in range(12) for k in (1, 2, 5) if k * 10**i < samples} | {samples})


def _bounds_of(log_w: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, C) L_K for each K in counts, from (S, B) log w: the mean over all groups of K among them."""
    samples = len(log_w)
    groups = [log_w[: samples // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k) for k in counts]
    return torch.stack([group.mean(0) for group in groups], 1)


def _log_weights(model: VAE, x: Tensor, given: Contexts, noise: Noise) -> Tensor:
    """(S, B) log w, in float64."""
    return model(x, samples=noise[0], noise=noise[1], given=given).log_weight.double()


def _pass_statistics(model: VAE, x: Tensor, given: Contexts, noise: Noise) -> list[Tensor]:
    """Of one pass, in float64: log w, (S, B); sums over the particles of log p(x | z_1) and of each rate, (B, 1 + T);
    for each level the sum of E[z_t | ...] and of its square, both (B, *event_t).
    """
    trace = model(x, samples=noise[0], noise=noise[1], given=given)
    log_px = trace.log_px
    log_w = (log_px + (trace.log_pz - trace.log_qz).sum(0)).double()
    terms = torch.cat([log_px[None], trace.kl]).double().sum(1).T
    found = [log_w, terms]
    for t, (q, p, z) in enumerate(zip(trace.q, trace.p[1:], trace.latents, strict=True), start=1):
        mean = conditional_means(q, z).double()
        if (trace.top_down and t < len(trace.q)) or (t == len(trace.q) and p.batch_shape):
            with suppress(NotImplementedError):  # then what follows from the levels above, or from c, is not taken out
                mean = (mean - p.mean) / p.stddev
        found += [mean.sum(0), mean.square().sum(0)]
    return found


def _observed_count(x: Any, gaps: Sequence[int]) -> int:
    """How many numbers of x, (N, *event), are there, or are gaps that are data; all of data on disk, which have no
    gaps.
    """
    if not isinstance(x, Tensor):
        return len(x) * math.prod(x.shape[1:])
    if gaps:
        x = x.index_fill(1, torch.tensor(gaps, device=x.device), 0)
    return x.numel() - int(x.isnan().sum())


def _combine_passes(passes: Iterable[list[Tensor]]) -> list[Tensor]:
    """The log w of all passes, (K, B), and the sums of `_pass_statistics` over them."""
    weights, sums = list[Tensor](), list[Tensor]()
    for log_w, *found in passes:
        weights.append(log_w)
        sums = [*map(torch.add, sums, found)] if sums else found
    return [torch.cat(weights), *sums]


def standard_error(x: Tensor) -> float:
    """The standard error of the mean of x: (N,); NaN for one example.

    >>> round(standard_error(torch.tensor([1.0, 2.0, 3.0])), 3)
    0.577
    """
    return (x.std(correction=1) / math.sqrt(len(x))).item() if len(x) > 1 else math.nan
