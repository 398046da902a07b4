r"""Evaluation: the likelihood of a model, in nats per example.

    L_K  = E log mean_{k=1..K} w_k        rises to log p(x) with K; L_1 = ELBO                (Burda et al. 2016)
    ESS  = (sum_k w_k)^2 / sum_k w_k^2    between 1 and K; near 1 one particle dominates L_K, which then says little
    active units of level t: those whose posterior mean E[z_t | x] varies over x by more than 0.01 of the variance of
                             the prior, which is 1 for N(0, I)     (Burda et al. 2016). Below the top of a ladder it is
                             the mean of (E q - E p) / sd p, with p(z_t | z_{t+1}): what follows from the levels above
                             is no activity of this one. So the unit of z does not matter.
                             Where the mean is a Monte Carlo mean over particles, the variance of its error is
                             subtracted, which needs K > 1: with a single particle its noise counts as activity

L_K is a lower bound on log p(x) in expectation, so minus L_K is an upper bound on the negative log-likelihood: always
state K. Every example counts once, none is dropped; a NaN shows.

In bfloat16 the networks' matrix products are rounded, the densities are not: the rounded networks are a model in their
own right, and L_K is a valid bound on its likelihood.

Everything here runs without gradients, in eval mode, in passes of about `pairs` (example, particle) pairs, so that
memory does not grow with K or N. By default a pass makes about a million numbers for p(x | z_1), which still fit
into a cache; compiled, which goes over them once, four times as many. Where q is normal, the noise of an example
depends only on torch's seed and on its position among the examples: a result does not depend on `pairs`.

Each process scores what it is given. Within `al.together()` all processes of torch.distributed call these functions
with the same arguments, which is checked: each scores its share of the examples, and all get the whole result, which is
that of one process. Of several threads one scores at a time.

Shapes: S particles per pass, B examples per pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.families import BernoulliFamily, CategoricalFamily
from allegory.ladder import TopDown
from allegory.model import VAE, check_is_vae
from allegory.runtime import processes
from allegory.runtime.checks import no_validation
from allegory.runtime.compilation import choose_compile, compile_or_warn, timed
from allegory.runtime.html import html_table
from allegory.runtime.memory import caching
from allegory.runtime.modes import eval_mode
from allegory.runtime.precision import autocast, choose_precision
from allegory.runtime.threads import one_at_a_time

__all__ = [
    "Evaluation",
    "bears_rounding",
    "bound_curve",
    "choose_speed",
    "evaluate",
    "log_likelihood",
    "posterior_moments",
    "prior_variances",
]

ACTIVE = 0.01
PAYS = 60.0  # seconds of evaluation from which on compiling it does
TRUSTED = 2.0


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
        bits_per_dim: nll in bits per element of x. For a density it depends on the unit of x.
        effective_sample_size: ESS of the K weights, averaged over the examples.
        unreliable: the fraction of examples whose ESS is below 2, or NaN, as where every weight is zero.
        baseline_nll: minus the mean of log p(x) where the elements of x are independent, each at its marginal optimum
            in the training data, see `allegory.evaluation.marginals`; None where no training data are known.
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
        k = self.importance_samples
        return [
            (f"negative log-likelihood, -L_{k}", f"{self.nll:.3f}", f"{self.nll_stderr:.3f}"),
            *baseline,
            ("-ELBO", f"{-self.elbo:.3f}", f"{self.elbo_stderr:.3f}"),
            ("  -reconstruction", f"{-self.reconstruction:.3f}", ""),
            *levels,
            ("bits per dimension", f"{self.bits_per_dim:.4f}", ""),
            (f"effective sample size of {k}", f"{self.effective_sample_size:.1f}", ""),
        ]

    def _repr_html_(self) -> str:
        return html_table(f"{self.examples:,} examples, nats per example", ["", "value", "standard error"], self.rows())

    def __repr__(self) -> str:
        rates = " ".join(f"{rate:.2f}" for rate in self.kl_per_level)
        return (
            f"Evaluation({self.examples:,} examples: -L_{self.importance_samples} {self.nll:.2f} +- "
            f"{self.nll_stderr:.2f} nats, -ELBO {-self.elbo:.2f} +- {self.elbo_stderr:.2f}, -reconstruction "
            f"{-self.reconstruction:.2f}, rates {rates}, active units {' '.join(map(str, self.active_units))}, "
            f"effective sample size {self.effective_sample_size:.1f})"
        )


@contextmanager
def evaluating(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """No gradients, eval mode, no argument validation; restores the mode of every part afterwards."""
    device = next(model.parameters(), torch.empty(0)).device
    with one_at_a_time(), eval_mode(model), torch.no_grad(), no_validation(), caching(), autocast(device, precision):
        yield


@one_at_a_time()
def log_likelihood(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
) -> Tensor:
    """(N,) L_K of each example with K = samples, nats: a lower bound on log p(x) in expectation.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        pairs, precision, compile: as in `evaluate`.

    >>> al.log_likelihood(model, x, samples=10).shape
    torch.Size([7])
    """
    _check(model, x, samples)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile)
    weigh = compile_or_warn(_log_weights, x.device) if compile else _log_weights

    def score(rows: Tensor, noises: Iterator[Noise]) -> tuple[Tensor]:
        return (torch.stack([weigh(model, rows, noise).logsumexp(0) for noise in noises]).logsumexp(0),)

    with evaluating(model, precision):
        (log_w,) = _gather(x, _Particles(model, x, samples, pairs, compile), score)
    return (log_w - math.log(samples)).to(x.dtype)


@one_at_a_time()
def evaluate(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
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
    """
    _check(model, x, samples)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile)
    weigh = compile_or_warn(_pass_statistics, x.device) if compile else _pass_statistics

    def score(rows: Tensor, noises: Iterator[Noise]) -> tuple[Tensor, ...]:
        log_w, log_w2, terms, *means = _combine_passes(weigh(model, rows, noise) for noise in noises)
        sums = []  # over the rows, of E[z_t | x], its square, and its error's, (3, *event_t) for each level
        for mean, square in zip(means[::2], means[1::2], strict=True):
            mean, square = mean / samples, square / samples
            error = (square - mean.square()).clamp(min=0) / max(1, samples - 1)
            sums.append(torch.stack([mean.sum(0), mean.square().sum(0), error.sum(0)]))
        return log_w, log_w2, terms / samples, *sums

    with evaluating(model, precision):
        log_w, log_w2, terms, *sums = _gather(
            x, _Particles(model, x, samples, pairs, compile), score, summed=model.levels
        )
        scales = prior_variances(model)
    bound = log_w - math.log(samples)
    ess = torch.exp(2 * log_w - log_w2)
    elbo = terms[:, 0] - terms[:, 1:].sum(1)
    active = [
        int((square - mean.square() - error > ACTIVE * scale).sum())
        for (mean, square, error), scale in zip((s / len(x) for s in sums), scales, strict=True)
    ]
    result = Evaluation(
        examples=len(x),
        importance_samples=samples,
        nll=-bound.mean().item(),
        nll_stderr=_stderr(bound),
        elbo=elbo.mean().item(),
        elbo_stderr=_stderr(elbo),
        reconstruction=terms[:, 0].mean().item(),
        kl_per_level=terms[:, 1:].mean(0).tolist(),
        active_units=active,
        bits_per_dim=-bound.mean().item() / (math.prod(x.shape[1:]) * math.log(2)),
        effective_sample_size=ess.mean().item(),
        unreliable=(~(ess >= TRUSTED)).double().mean().item(),
    )
    if samples > TRUSTED and result.unreliable > 0.5:
        warnings.warn(
            f"L_{samples} says little: for {result.unreliable:.0%} of the examples the effective sample size is below "
            f"{TRUSTED:g}, so the bound may be far below log p(x); use more samples, or train longer",
            stacklevel=2,
        )
    return result


@one_at_a_time()
def bound_curve(
    model: VAE,
    x: Tensor,
    samples: int = 1000,
    pairs: int | None = None,
    precision: str = "float32",
    compile: bool | str = False,
) -> list[tuple[int, float, float]]:
    """L_K against K: (K, the mean of L_K over x, its standard error), for K = 1, 2, 5, 10, ... up to `samples`.

    Every example's weights are drawn once; L_K averages over all groups of K among them. If the curve still
    rises at its end, log p(x) has not been reached.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: the largest K.
        pairs, precision, compile: as in `evaluate`.

    >>> [k for k, bound, error in al.bound_curve(model, x, samples=12)]
    [1, 2, 5, 10, 12]
    """
    _check(model, x, samples)
    precision, compile, _ = choose_speed(model, x, samples, precision, compile)
    ladder = sorted({k * 10**i for i in range(12) for k in (1, 2, 5) if k * 10**i < samples} | {samples})
    weigh = compile_or_warn(_log_weights, x.device) if compile else _log_weights

    def averages(rows: Tensor, noises: Iterator[Noise]) -> tuple[Tensor]:
        log_w = torch.cat([weigh(model, rows, noise) for noise in noises])
        groups = [log_w[: samples // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k) for k in ladder]
        return (torch.stack([group.mean(0) for group in groups], 1),)

    with evaluating(model, precision):
        (bounds,) = _gather(x, _Particles(model, x, samples, pairs, compile), averages)
    return [(k, bound.mean().item(), _stderr(bound)) for k, bound in zip(ladder, bounds.unbind(1), strict=True)]


@one_at_a_time()
def posterior_moments(model: VAE, x: Tensor, samples: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every latent given x, level 1 first, each (N, *event_t). Exact where the
    posterior depends on x alone, at level 1 bottom-up and at level T top-down; elsewhere averaged over `samples` draws.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: draws of the levels below.
    """
    _check(model, x, samples)

    def moments(rows: Tensor, noises: Iterator[Noise]) -> tuple[Tensor, ...]:
        latents, laws = model._infer(rows, samples)
        return tuple(part for q, z in zip(laws, latents, strict=True) for part in _conditional_moments(q, z))

    with evaluating(model):
        found = _gather(x, _Particles(model, x, samples, None), moments)
    return [(mean, variance.sqrt()) for mean, variance in zip(found[::2], found[1::2], strict=True)]


@one_at_a_time()
def choose_speed(
    model: VAE, x: Tensor, samples: int, precision: str = "auto", compile: bool | str = "auto"
) -> tuple[str, bool, list[str]]:
    """The precision of an evaluation, and whether to compile it, as requested or as measured to be faster; and notes on
    the choice, to be printed.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        precision: "float32", "bfloat16" or "auto": bfloat16 where it pays, and x is Bernoulli or categorical.
        compile: True, False or "auto": where the evaluation would take more than a minute.

    >>> choose_speed(model, x, samples=10)[1]
    False
    """
    if precision not in ("float32", "bfloat16", "auto") or compile not in (True, False, "auto"):
        raise ValueError(
            f"precision={precision!r}, compile={compile!r}: wanted 'float32', 'bfloat16' or 'auto', and True, False or "
            "'auto'"
        )
    precision, first = processes.broadcast(lambda: choose_precision(precision, x.device, bears_rounding(model)))

    rows, particles = max(1, pairs_per_pass(model, x) // samples), min(samples, pairs_per_pass(model, x))
    passes = len(x) * samples / (min(rows, len(x)) * particles)

    def expected_seconds() -> float:
        with evaluating(model, precision), torch.random.fork_rng():
            once = lambda: model(x[:rows], samples=particles).log_weight  # noqa: E731
            return passes * timed(once, x.device, enough=PAYS / passes)

    pays, second = processes.broadcast(lambda: choose_compile(compile, x.device, expected_seconds, PAYS))
    return precision, pays, [note for note in (first, second) if note]


def bears_rounding(model: VAE) -> bool:
    """Whether a model's networks can run in bfloat16 at little cost in likelihood: if x is discrete. A density may be
    narrower than what bfloat16 resolves.

    >>> bears_rounding(model)
    True
    """
    return isinstance(getattr(model.decoders[0], "family", None), BernoulliFamily | CategoricalFamily)


Noise = tuple[int, Sequence[Tensor | None]]  # S, and the noise of S particles for `VAE.forward`


class _Particles:
    """K particles for each of N examples: how many a pass takes, and their noise.

    Args:
        model: any VAE, in eval mode.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs per pass.
        compile: whether a pass is compiled.
    """

    SHARED = 64  # pairs that share a generator: seeding one takes as long as drawing a thousand numbers

    def __init__(self, model: VAE, x: Tensor, samples: int, pairs: int | None, compile: bool = False) -> None:
        limit = pairs_per_pass(model, x)
        pairs = pairs or limit * (4 if compile else 1)
        self.size = math.ceil(samples / math.ceil(samples / limit))
        self.passes = [min(self.size, samples - start) for start in range(0, samples, self.size)]
        self.block = max(1, self.SHARED // self.size)
        self.rows = max(1, pairs // (self.size * self.block)) * self.block
        self.chunk = max(1, pairs // self.rows)  # particles at a time, for the rows of a pass
        seed = int(torch.randint(2**62, ()))
        self.device, self.seed = x.device, processes.broadcast(lambda: seed)
        self.shapes = [(q.event_shape, q.mean.dtype) if _is_normal(q) else None for q in model.encode(x[:1])]

    def noise(self, start: int, count: int) -> Iterator[Noise]:
        """The noise of each pass, for the examples from `start` on, a multiple of the block."""
        blocks = range(start // self.block, math.ceil((start + count) / self.block))
        generators = [torch.Generator(self.device).manual_seed(self.seed + i) for i in blocks]

        def draw(particles: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            size = (particles, self.block, *shape)
            parts = [torch.randn(size, generator=g, dtype=dtype, device=self.device) for g in generators]
            return torch.cat(parts, 1)[:, :count]

        for particles in self.passes:
            drawn = [None if shape is None else draw(particles, *shape) for shape in self.shapes]
            for part in range(0, particles, self.chunk):
                noises = [None if noise is None else noise[part : part + self.chunk] for noise in drawn]
                yield min(self.chunk, particles - part), noises


def _is_normal(q: Distribution) -> bool:
    """Whether its draws are mu + sigma eps."""
    law = type(q.base_dist if isinstance(q, Independent) else q)
    return issubclass(law, Normal) and law.rsample is Normal.rsample


def _pass_statistics(model: VAE, x: Tensor, noise: Noise) -> list[Tensor]:
    """The sums of one pass, in float64: log sum w and log sum w^2, (B,); sums over the particles of log p(x | z_1) and
    of each rate, (B, 1 + T); for each level the sum of E[z_t | ...] and of its square, both (B, *event_t).
    """
    trace = model(x, samples=noise[0], noise=noise[1])
    log_px = trace.log_px
    log_w = (log_px + (trace.log_pz - trace.log_qz).sum(0)).double()
    terms = torch.cat([log_px[None], trace.kl]).double().sum(1).T
    found = [log_w.logsumexp(0), (2 * log_w).logsumexp(0), terms]
    for t, (q, p, z) in enumerate(zip(trace.q, trace.p[1:], trace.latents, strict=True), start=1):
        mean = _conditional_means(q, z).double()
        if trace.top_down and t < len(trace.q):
            with suppress(NotImplementedError):  # then what follows from the levels above is not taken out
                mean = (mean - p.mean) / p.stddev
        found += [mean.sum(0), mean.square().sum(0)]
    return found


def prior_variances(model: VAE, draws: int = 1000) -> list[Tensor]:
    """The variance of each unit of z_t under the prior, (*event_t), level 1 first: exact where the law of z_T tells it,
    else by draws, with a seed of their own. Below the top of a ladder 1, a scalar: its means are in units of the prior.

    Args:
        model: any VAE.
        draws: from the prior.

    >>> prior_variances(model)[-1]
    tensor([1., 1.])
    """
    devices = list({p.device for p in model.parameters() if p.is_cuda})
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        if isinstance(model.encoders, TopDown):
            top, below = model.prior(), [torch.ones(())] * (model.levels - 1)
            drawn = top.sample((draws,)).double().var(0)
        else:
            latents, laws, _ = model._generate_down(lambda t, p, state: p.sample((draws,) if state is None else ()))
            *below, drawn = (z.double().var(0) for z in latents)
            top = laws[-1]
    with suppress(NotImplementedError):
        drawn = top.variance
    return [*(variance.to(drawn.device) for variance in below), drawn]


def _log_weights(model: VAE, x: Tensor, noise: Noise) -> Tensor:
    """(S, B) log w, in float64."""
    return model(x, samples=noise[0], noise=noise[1]).log_weight.double()


def _combine_passes(passes: Iterable[list[Tensor]]) -> list[Tensor]:
    """The sums of `_pass_statistics` over all passes."""
    sums: list[Tensor] = []
    for found in passes:
        sums = [*map(torch.logaddexp, sums[:2], found[:2]), *map(torch.add, sums[2:], found[2:])] if sums else found
    return sums


def _conditional_means(q: Distribution, z: Tensor) -> Tensor:
    """E[z_t | ...] of each particle, (S, B, *event_t); the draws themselves where q has no mean."""
    try:
        return q.mean.expand(z.shape)
    except NotImplementedError:
        return z


def _conditional_moments(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """E[z_t | x] and Var[z_t | x], each (B, *event_t), from q and the draws of S particles."""
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError:
        return z.mean(0), z.var(0, correction=0)
    if mean.dim() < z.dim():
        return mean, variance
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)


def pairs_per_pass(model: VAE, x: Tensor) -> int:
    """How many (example, particle) pairs of x: (N, *event) to take in one pass, given the numbers that p(x | z_1)
    needs; where these are few, the hidden layers are the limit.
    """
    size = getattr(getattr(model.decoders[0], "family", None), "size", 1)
    return max(100, min(2**14, 2**20 // (size * math.prod(x.shape[1:]))))


def _gather(
    x: Tensor, particles: _Particles, score: Callable[[Tensor, Iterator[Noise]], tuple[Tensor, ...]], summed: int = 0
) -> tuple[Tensor, ...]:
    """Calls `score` on some rows of x at a time and gathers the results, (B, *) each, as (N, *); the last `summed` of
    them are summed over x instead. Several processes take the rows in turn.

    Results are written into preallocated tensors: small results kept from one pass to the next would be allocated in
    the large blocks that a pass frees, the next pass would need new blocks, and memory would grow with N.
    """
    whole: list[Tensor] = []
    starts = processes.local_rows(torch.arange(0, len(x), particles.rows)).tolist()
    for start in starts or [0]:  # a process without rows needs the shapes of the results, too
        rows = x[start : start + particles.rows]
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(particles.seed + start)  # for what does not use the given noise
            parts = score(rows, particles.noise(start, len(rows)))
        each = len(parts) - summed
        if not whole:
            whole = [part.new_zeros(len(x), *part.shape[1:]) for part in parts[:each]]
            whole += [torch.zeros_like(part) for part in parts[each:]]
        if starts:
            for all_rows, part in zip(whole[:each], parts[:each], strict=True):
                all_rows[start : start + len(rows)] = part
            for sums, part in zip(whole[each:], parts[each:], strict=True):
                sums += part
    return tuple(map(processes.all_reduce, whole))


def _stderr(x: Tensor) -> float:
    return (x.std(correction=1) / math.sqrt(len(x))).item() if len(x) > 1 else math.nan


def _check(model: VAE, x: Tensor, samples: int) -> None:
    check_is_vae(model)
    if not hasattr(samples, "__index__") or not 1 <= samples < 2**31:
        raise ValueError(f"samples={samples}: wanted K >= 1 particles, a whole number below 2^31")
    processes.check_same("an evaluation", samples=samples, x=getattr(x, "rows", x), model=model)
    model.check(x)
