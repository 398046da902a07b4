r"""Diagnosis: which levels of a model work, which have collapsed, and what to do.

For each level t, on held-out data:

    rate            E_q[log q(z_t | ...) - log p(z_t | s_{t+1})], the cost of the level in the bound
    active units    elements of z_t whose posterior mean varies over x, in units of the prior, see
                    `allegory.evaluation.bounds`                                               (Burda et al. 2016)
    information     E KL(q(z_t | c) || mean_c' q(z_t | c')), how much z_t says about the context of its posterior:
                    c = z_{t-1} bottom-up; top-down c = x, with the levels above kept. With N contexts (at most
                    512, top-down 64) it cannot exceed log N
    loss            the ELBO, minus the ELBO when the level is drawn from its prior instead: its gain. Bottom-up,
                    the levels above are replaced with it, since they are inferred from it. The draws are shared out
                    among the levels, so that the time grows with T and not with T^2

Verdicts, with these thresholds:

    worse           even L_K is below what independent elements reach, `allegory.evaluation.marginals`: the first line
    collapsed       rate < 0.1 nats, and no unit active: the posterior is the prior, the level is a source of noise
    idle            loss < 0.1 nats though the rate is not small: it costs, and gains nothing
    weak            rate < 1 nat, or fewer than one unit in twenty active, while another level has ten times the rate
    overfitted      a gap between training and held-out ELBO above one nat, above two standard errors, and above 2 % of
                    what the training ELBO gains over independent elements, a difference that has no unit
    untrusted       more than half of the examples with an effective sample size below 2: L_K says little

Of a chain whose encoder is fixed, `allegory.chain`, levels are judged together: none can collapse, information and
losses are not measured, and the time is proportional to T. Its many levels are told in groups of neighbours.

Collapse has two usual causes. The KL is paid from the first step, while the decoder has not learned to use z: a warm-up
of the KL or free bits help. Or the level's posterior sees x through the noise of all levels below: a top-down
posterior helps.

Shapes: N examples, M of them as alternative contexts, T levels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.chain import FixedChain, at_levels
from allegory.draws import draw_to
from allegory.evaluation.bounds import MANY_LEVELS, MIN_EFFECTIVE_SAMPLES, Evaluation, Scores, score
from allegory.evaluation.gains import column_gains, gain_lines, has_columns
from allegory.evaluation.marginals import independent_elements, mean_log_prob
from allegory.evaluation.passes import evaluating, few_particles, pairs_per_pass
from allegory.given import Contexts, Given, as_contexts, expand_contexts, take_rows
from allegory.ladder import TopDown
from allegory.model import VAE
from allegory.runtime.html import html_table
from allegory.runtime.threads import one_at_a_time

__all__ = ["COLUMNS", "SAMPLES", "Diagnosis", "Level", "diagnose", "diagnose_scored"]

SAMPLES = 100
"""Particles of an example, by default; fewer of a long chain."""
COLLAPSED_NATS = 0.1
WEAK_NATS = 1.0
OVERFIT_NATS, OVERFIT_SHARE = 1.0, 0.02
OVERFITS = "the model overfits"
MAX_CONTEXTS = 64
GROUPS = 10  # of the levels of a long chain
COLUMNS = ("level", "rate", "active units", "information", "gain", "verdict")
"""Of `Diagnosis.rows`."""


@dataclass(frozen=True)
class Level:
    """What `diagnose` found about one level.

    Attributes:
        level: t.
        rate, information, loss: nats per example; see the module. The last two are None where they are not measured,
            as where the encoder is fixed.
        active_units, units: how many elements of z_t vary with x, of how many.
        verdict: "works", "weak", "idle" or "collapsed".
    """

    level: int
    rate: float
    information: float | None
    loss: float | None
    active_units: int
    units: int
    verdict: str


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        levels: level 1 first.
        evaluation: of the held-out data.
        gap: the training ELBO minus the held-out one, nats; None without training data.
        verdict: in plain words, a line for each finding.
        overfits: whether the gap is overfitting, see the module.
    """

    levels: list[Level]
    evaluation: Evaluation
    gap: float | None
    verdict: list[str]
    overfits: bool = False

    @property
    def healthy(self) -> bool:
        """Whether every level works."""
        return all(level.verdict == "works" for level in self.levels)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts, for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each level, level 1 first, or for levels that lie together, where a fixed encoder has many; the
        columns are `COLUMNS`.
        """
        if len(self.levels) > MANY_LEVELS and all(level.information is None for level in self.levels):
            return self._grouped_rows()
        return [
            (
                str(level.level), f"{level.rate:.2f}",
                "" if level.information is None else f"{level.active_units} of {level.units}",
                "" if level.information is None else f"{level.information:.2f}",
                "" if level.loss is None else f"{level.loss:.2f}", level.verdict,
            )
            for level in self.levels
        ]  # fmt: skip

    def _grouped_rows(self) -> list[tuple[str, ...]]:
        """A row for each of ten groups of levels below the top, and for the top."""
        *below, top = self.levels
        size = math.ceil(len(below) / GROUPS)
        rows: list[tuple[str, ...]] = []
        for group in [*(below[start : start + size] for start in range(0, len(below), size)), [top]]:
            first, last = group[0].level, group[-1].level
            rate, verdicts = sum(level.rate for level in group), sorted({level.verdict for level in group})
            name = str(first) if first == last else f"{first} to {last}"
            rows.append((name, f"{rate:.2f}", "", "", "", ", ".join(verdicts)))
        return rows

    def _repr_html_(self) -> str:
        title = f"{self.evaluation.examples:,} examples, nats per example"
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.verdict)
        return html_table(title, COLUMNS, self.rows()) + lines

    def __str__(self) -> str:
        return "\n".join(self.verdict)

    def __repr__(self) -> str:
        gap = "" if self.gap is None else f"; gap {self.gap:.2f} nats"
        if len(self.levels) > MANY_LEVELS and self.healthy:
            return f"Diagnosis(all {len(self.levels)} levels work{gap})"
        return f"Diagnosis({', '.join(f'level {level.level} {level.verdict}' for level in self.levels)}{gap})"


@one_at_a_time()
@torch.no_grad()
def diagnose(
    model: VAE,
    x: Tensor,
    train: Tensor | None = None,
    samples: int | None = None,
    baseline_nll: float | None = None,
    given: Given = None,
    train_given: Given = None,
    levels: int | None = None,
) -> Diagnosis:
    """Checks every level of a model, and reports what is wrong and what to try.

    Args:
        model: any VAE.
        x: (N, *event) held-out data; a few hundred examples are enough.
        train: (N', *event) training data, for the gap between the two, and for the baseline.
        samples: K of the bound, and draws for the means; by default 100, or of a diffusion of many levels fewer, see
            `allegory.evaluation.passes.few_particles`.
        baseline_nll: of x, as in `Evaluation`, if it is already known.
        given, train_given: c of a conditional model, (N, *context) and (N', *context), or several.
        levels: of a diffusion, as in `evaluate`.

    >>> diagnosis = al.diagnose(model, x)
    >>> [level.level for level in diagnosis.levels], len(diagnosis.verdict)
    ([1, 2], 2)
    """
    model = at_levels(model, levels)
    samples = few_particles(model, SAMPLES) if samples is None else samples
    scores = score(model, x, samples, given=given)
    on_train = None if train is None else score(model, train, samples, given=train_given)
    law = None if train is None else independent_elements(model, train, as_contexts(given, len(x)))
    if baseline_nll is None and law is not None:
        baseline_nll = -mean_log_prob(law, x)
    return diagnose_scored(model, x, scores, train, on_train, baseline_nll, law, given)


@torch.no_grad()
def diagnose_scored(
    model: VAE,
    x: Tensor,
    scores: Scores,
    train: Tensor | None = None,
    on_train: Scores | None = None,
    baseline_nll: float | None = None,
    law: Distribution | None = None,
    given: Given = None,
) -> Diagnosis:
    """`diagnose`, of examples that have been scored.

    Args:
        model, x, train, baseline_nll, given: as there.
        scores, on_train: of x and of train, with the same K.
        law: independent elements, fitted to the training data, see `allegory.evaluation.marginals`.
    """
    contexts, samples = as_contexts(given, len(x)), scores.counts[-1]
    columns = column_gains(model, x, law, given=given) if law is not None and has_columns(model) else None
    result = replace(scores.evaluation, baseline_nll=baseline_nll, columns=columns)
    draws, fixed = max(1, samples // model.levels), isinstance(model, FixedChain)
    with evaluating(model):
        losses: list[float | None] = [
            None if fixed else result.elbo - _elbo_without(model, x, contexts, t, draws)
            for t in range(1, model.levels + 1)
        ]
        information: list[float | None] = [None] * model.levels
        if not fixed:
            information = list(_information(model, x[:512], take_rows(contexts, slice(512))))
        units = [math.prod(q.event_shape) for q in model.encode(x[:1], given=take_rows(contexts, slice(1)))]
    rates = result.kl_per_level
    levels = [
        Level(t, rate, information[t - 1], losses[t - 1], result.active_units[t - 1], units[t - 1], "works")
        for t, rate in enumerate(rates, start=1)
    ]
    levels = levels if fixed else [replace(level, verdict=_verdict(level, rates)) for level in levels]
    trained = None if on_train is None else on_train.evaluation
    gap = None if trained is None else trained.elbo - result.elbo
    ladder = isinstance(model.encoders, TopDown)
    on_gap = _gap_line(result, train, trained, law)
    of_levels = [_chain_line(rates)] if fixed else _level_lines(levels, ladder)
    lines = [*_baseline_line(result), *of_levels, *on_gap, *_trust_line(result)]
    lines += gain_lines(result.columns)
    return Diagnosis(levels, result, gap, lines, any(OVERFITS in line for line in on_gap))


def _verdict(level: Level, rates: list[float]) -> str:
    if level.rate < COLLAPSED_NATS and not level.active_units:
        return "collapsed"
    if level.loss is not None and level.loss < COLLAPSED_NATS:
        return "idle"
    if max(rates) > 10 * level.rate and (level.rate < WEAK_NATS or level.active_units * 20 < level.units):
        return "weak"
    return "works"


def _baseline_line(result: Evaluation) -> list[str]:
    if not result.worse_than_baseline:
        return []
    return [
        f"worse than independent elements: -L_{result.importance_samples} is {result.nll:.2f} nats, and elements that "
        f"are independent of each other, each at its marginal optimum, have {result.baseline_nll:.2f}; train longer, "
        "with a larger learning rate, or with a smaller weight of the KL at the start"
    ]


def _level_lines(levels: list[Level], ladder: bool) -> list[str]:
    lines = []
    for level in levels:
        t, rate, units = level.level, level.rate, f"{level.active_units} of {level.units} units"
        if level.verdict == "collapsed":
            advice = ["a KL warm-up of a few thousand steps", "free bits"]
            advice += [] if ladder or len(levels) == 1 else ["a top-down posterior"]
            advice += ["fewer levels"] if len(levels) > 1 else ["a less powerful decoder", "a smaller beta"]
            lines.append(
                f"level {t} has collapsed: its rate is {rate:.2f} nats, and none of its {level.units} units varies "
                f"with x; try {', '.join(advice[:-1])}, or {advice[-1]}"
            )
        elif level.verdict == "idle" and level.loss is not None:
            lines.append(
                f"level {t} is idle: it costs {rate:.2f} nats, but drawing it from its prior instead "
                f"{'costs only' if level.loss >= 0 else 'gains'} {abs(level.loss):.2f}; the levels below ignore it: "
                "train longer, or with a longer KL warm-up"
            )
        elif level.verdict == "weak":
            lines.append(
                f"level {t} is weak: its rate is {rate:.2f} nats, and {units} vary with x; "
                "try free bits, a longer KL warm-up, or a narrower level"
            )
        else:
            lines.append(f"level {t} works: its rate is {rate:.2f} nats, and {units} vary with x")
    return lines


def _chain_line(rates: list[float]) -> str:
    """Of the levels of a chain whose encoder is fixed."""
    *below, top = rates
    most = max(range(len(rates)), key=rates.__getitem__)
    together = f"the {len(below)} levels below the top cost {sum(below):.2f} nats together, " if below else ""
    return (
        f"the encoder is fixed, so that no level can collapse: {together}the top {top:.2f}; most is said at level "
        f"{most + 1}, {rates[most]:.2f} nats"
    )


def _gap_line(
    result: Evaluation, train: Tensor | None, on_train: Evaluation | None, law: Distribution | None
) -> list[str]:
    """The gap between training and held-out ELBO, and whether it is overfitting, by differences of nats alone: those
    have no unit.
    """
    if train is None or on_train is None:
        return []
    gap, error = on_train.elbo - result.elbo, math.hypot(on_train.elbo_stderr, result.elbo_stderr)
    learned = 0.0 if law is None else max(0.0, on_train.elbo - mean_log_prob(law, train))
    large = gap > OVERFIT_NATS and not gap < 2 * error and gap > OVERFIT_SHARE * learned
    remedy = f"; {OVERFITS}: try dropout, weight decay, a smaller network, or more data" if large else ""
    side = "above" if gap >= 0 else "below"
    return [f"the training ELBO is {abs(gap):.2f} nats {side} the held-out one{remedy}"]


def _trust_line(result: Evaluation) -> list[str]:
    if result.importance_samples <= MIN_EFFECTIVE_SAMPLES or result.unreliable <= 0.5:
        return []
    return [
        f"L_{result.importance_samples} cannot be trusted: for {result.unreliable:.0%} of the examples one "
        "particle carries all the weight; use more importance samples, or check with annealed importance sampling"
    ]


def _elbo_without(model: VAE, x: Tensor, contexts: Contexts, level: int, samples: int) -> float:
    """The ELBO with z_level drawn from its prior, bottom-up along with all levels above it."""
    bound = _elbo_without_top_down if isinstance(model.encoders, TopDown) else _elbo_without_bottom_up
    size = max(1, pairs_per_pass(model, x) // samples)
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    return torch.cat([bound(model, x[i], take_rows(contexts, i), level, samples).double() for i in parts]).mean().item()


def _elbo_without_top_down(model: VAE, x: Tensor, contexts: Contexts, level: int, samples: int) -> Tensor:
    features, beside_state = model.encoders(x, *contexts), expand_contexts(contexts, (samples, len(x)))
    rates = [torch.zeros(samples, len(x)).to(x)]

    def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
        if t == level:
            return draw_to(p, (samples, len(x)))
        c = contexts if state is None else beside_state
        q = model.encoders.posterior(t, features[t - 1], state, p, c)
        z = draw_to(q, (samples, len(x)))
        rates.append(q.log_prob(z) - p.log_prob(z))
        return z

    *_, seen = model._generate_down(choose, contexts)
    return (model.decoders[0](*seen).log_prob(x) - torch.stack(rates).sum(0)).mean(0)


def _elbo_without_bottom_up(model: VAE, x: Tensor, contexts: Contexts, level: int, samples: int) -> Tensor:
    latents, q = model._infer_bottom_up(x, model._sampler(samples), contexts)
    rates = [torch.zeros(samples, len(x)).to(x)]

    def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
        if t >= level:
            return draw_to(p, (samples, len(x)))
        rates.append(q[t - 1].log_prob(latents[t - 1]) - p.log_prob(latents[t - 1]))
        return latents[t - 1]

    *_, seen = model._generate_down(choose, contexts)
    return (model.decoders[0](*seen).log_prob(x) - torch.stack(rates).sum(0)).mean(0)


def _information(model: VAE, x: Tensor, contexts: Contexts) -> list[float]:
    """E KL(q(z_t | c) || mean_c' q(z_t | c')) of each level, nats; at most log N bottom-up, log M top-down. Top-down
    what is given is kept below the top, as the levels above are; elsewhere it belongs to c.
    """
    trace = model(x, given=contexts)
    if not trace.top_down:
        found = []
        for encoder, context, z in zip(
            model.encoders, (x, *(z[0] for z in trace.latents[:-1])), trace.latents, strict=True
        ):
            q = encoder(context, *contexts)
            own = q.log_prob(z[0])
            # (N, N'): row n's draw under every context. A flow scores only as many events as it has contexts.
            every = torch.stack([q.log_prob(row.expand_as(z[0])) for row in z[0]])
            found.append((own - every.logsumexp(1) + math.log(len(x))).mean().item())
        return found
    features, beside_state = model.encoders(x, *contexts), expand_contexts(contexts, (1, len(x)))
    rows = torch.randperm(len(x), device=x.device)[: MAX_CONTEXTS - 1]
    others = [h[rows] for h in features]
    itself = rows[:, None] == torch.arange(len(x), device=x.device)  # an example's own context is counted once
    found = []

    def compare(t: int, p: Distribution, state: Tensor | None) -> Tensor:
        z = trace.latents[t - 1]
        own = trace.q[t - 1].log_prob(z)[0]
        if state is None:
            q = model.encoders.posterior(t, others[t - 1], None, p, take_rows(contexts, rows))
            other = torch.stack([q.log_prob(row) for row in z[0]], 1)
        else:
            each = (h.expand(len(x), *h.shape) for h in others[t - 1])
            found_q = (model.encoders.posterior(t, h, state, p, beside_state) for h in each)
            other = torch.stack([q.log_prob(z)[0] for q in found_q])
        every = torch.cat([own[None], other.masked_fill(itself, -math.inf)])
        count = 1 + (~itself).sum(0)
        found.insert(0, (own - every.logsumexp(0) + count.log()).mean().item())
        return z

    model._generate_down(compare, contexts)
    return found
