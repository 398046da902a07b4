r"""A run as one page: its data and model, its likelihood, what its levels do, and its samples.

    report(run)  ->  RUN/report.html, self-contained: no script, nothing from a network

Everything is measured here, on the given examples x, or on examples drawn from the run's own data, with K particles
each: L_K and its parts, the rate of every level and of every unit, and the verdicts of `allegory.diagnose`. Images are
shown as they are, anything else as lines over its dimensions, in units of the data's standard deviation, and by its
marginals and correlations. Pictures of p(x | z) show its mean.

Shapes: N examples x, (N, *event); K particles; T levels; rows of n examples, (n, *event).
"""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allegory.evaluation.bounds import Evaluation, bound_curve, log_likelihood
from allegory.evaluation.diagnosis import Diagnosis, diagnose
from allegory.evaluation.moments import posterior_moments
from allegory.evaluation.passes import evaluating, pairs_per_pass
from allegory.model import VAE
from allegory.runtime.storage import write_atomically
from allegory.training.directory import METRICS, WEIGHTS
from allegory.views import plots
from allegory.views.figures import are_images, expected, sheet
from allegory.views.outputs import check_out
from allegory.views.runs import Run, Summary

__all__ = ["Figure", "Section", "report"]

SHOWN = 12  # examples in a row of images
LINES = 6  # examples, where they are lines
STEPS = 9  # of a path
UNITS = 6  # of a level
DIMENSIONS = 200  # of a line
EPOCHS = 400  # of a curve
LARGEST = 64  # pixels per side of an image; larger ones are averaged down to it
TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
DRAWS, MAX_NUMBERS = 2000, 2**21  # samples for the marginals; numbers in them, at most

Rows = list[tuple[str, Tensor]]  # the name of a row of examples, and the examples


@dataclass
class Figure:
    """HTML of one plot or of several, and a caption."""

    parts: list[str]
    caption: str = ""


@dataclass
class Section:
    """A part of the page: sentences, a table of names and values, figures."""

    title: str
    words: list[str] = field(default_factory=list)
    table: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def report(
    run: str | Path | Run,
    x: Tensor | None = None,
    *,
    out: str | Path | None = None,
    train: Tensor | None = None,
    model: VAE | Callable[..., VAE] | None = None,
    samples: int = 200,
    split: str | None = None,
    examples: int = 500,
    command: str = "",
    missing: str = "",
    device: torch.device | str = "cpu",
) -> Path:
    """Writes the report of a run, finished or not, and returns its path.

    Args:
        run: a run directory with a checkpoint, or a `Run`, with its model, data and device.
        x: (N, *event) examples it was not trained on; a few hundred are enough. By default examples of the data that
            the run records; where there are none, the parts that need data are left out.
        out: the file, RUN/report.html by default.
        train: (N', *event) examples it was trained on, for the gap between the two.
        model: needed only where the run's model was not made by `allegory.architectures`: the model, which gets the
            run's weights, or the class or function that makes it, as in `load`.
        samples: K of L_K.
        split: the split to draw examples from, "test" by default; for a given x, its name.
        examples: how many to draw from the run's data, and from the training data, at random.
        command: the command that reproduces the run, to be quoted.
        missing: why there is no x, to be printed; the run's data are then not searched for.
        device: where to compute.

    For a custom model that is not given, the report has only what the files record: data, model and training.

    Raises:
        ValueError: not a run, a run without a checkpoint, weights that do not fit, or x that the model cannot score.

    >>> record = al.fit(model, x, valid=x, epochs=2, out="run")
    >>> report("run", x, samples=10).name
    'report.html'
    """
    run = run if isinstance(run, Run) else Run(run, model, device=device)
    path = Path(out) if out is not None else run.path / "report.html"
    check_out(path, run.source)
    summary, config = run.summary, run.config
    if not any((run.path / name).exists() for name in (METRICS, WEIGHTS)):
        raise ValueError(f"{run.path} has no checkpoint yet: there is no {run.path / METRICS}; wait, or train again")
    if not run.knows_its_model:
        return _write(
            run,
            path,
            [
                _data_and_model(summary, config, None),
                _training(summary, config, run.history),
                _how_to_reproduce(summary, config, command),
            ],
            [f"Parts that need the model are left out: {_why_no_model(run)}."],
        )
    history, model = run.history, run.model
    baseline_nll = None
    if x is None and not missing:
        x, train, missing = _draw_examples(run, split or "test", examples)
        split = split or "test"
        baseline_nll = None if x is None else run.baseline_nll(x)  # of the same x as that of `evaluate`
    split = split or ""
    if x is not None:
        x = x.to(run.device)
        model.check(x, split or "x")
    train = None if train is None else train.to(run.device)
    verdict: list[str] = []
    with torch.random.fork_rng(), evaluating(model):
        torch.manual_seed(0)
        show = _Show(run, model, x)
        sections = [_data_and_model(summary, config, model)]
        if x is None:
            sections += [_training(summary, config, history), _samples(model, x, show)]
        else:
            torch.manual_seed(0)  # as before every bound, so that all of them have the same noise
            found = _without_warnings(lambda: diagnose(model, x, train, samples, baseline_nll))
            verdict = found.verdict[:1]
            rates = _unit_rates(model, x)
            sections += [_likelihood(model, x, found.evaluation, split), _training(summary, config, history)]
            sections += [_samples(model, x, show), _reconstructions(model, x, show)]
            sections += [_levels(model, x, found, rates, show), _latents(model, x, rates, show)]
            sections += [_extremes(model, x, samples, show)]
        sections.append(_how_to_reproduce(summary, config, command))
    notes = [line for line in verdict if line.startswith("worse than")]
    notes += [] if x is not None else [f"Parts that need data are left out: {missing or 'no examples were given'}."]
    return _write(run, path, sections, notes)


def _write(run: Run, path: Path, sections: list[Section], notes: list[str]) -> Path:
    """Writes the page."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    summary = run.summary
    if not summary.stopped:
        notes.insert(0, f"This run has not finished: this is its state after epoch {summary.epochs}.")
    page = Environment(
        loader=PackageLoader("allegory", "views"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")
    text = page.render(run=run.path.resolve().name, summary=summary, notes=notes, sections=sections)
    write_atomically(path, text.encode(errors="backslashreplace"))  # a name that is no text
    return path


def _why_no_model(run: Run) -> str:
    try:
        _ = run.model
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _draw_examples(run: Run, split: str, examples: int) -> tuple[Tensor | None, Tensor | None, str]:
    """Examples of a split of the run's data, examples of its training data, and why there are none, if so."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            x, train = (run.data.subset(part, examples)[1] for part in (split, "train"))
        except ValueError as error:
            return None, None, " ".join(str(error).split())
    return x, train, ""


class _Show:
    """How examples are shown: images as they are, everything else as lines.

    Args:
        run: its data determine black and white.
        model: of the run.
        x: (N, *event) data, for their units; without them, samples from the model are used.
    """

    def __init__(self, run: Run, model: VAE, x: Tensor | None) -> None:
        some = model.sample(200) if x is None else x
        self.event_shape = tuple(some.shape[1:])
        self.images = are_images(self.event_shape)
        self.low, self.high = run.range or (some.min().item(), some.max().item())
        spread = some.std(0, correction=0)
        self.centre, self.spread = some.mean(0), torch.where(spread > 0, spread, 1)
        self.binary = self.low == 0 and self.high == 1 and bool(((some == 0) | (some == 1)).all())
        self.count = SHOWN if self.images else LINES

    def rows(self, rows: Rows, caption: str, along: bool = False) -> Figure:
        """Rows of examples, one below the other; with `along` each row is a path, otherwise each column belongs to one
        example.
        """
        if self.images:
            strips = "".join(f"<tr><th>{name}</th><td>{self.strip(images)}</td></tr>" for name, images in rows)
            return Figure([f'<table class="strips">{strips}</table>'], caption)
        if along:
            paths = [(name, [(str(i), self.line(v)) for i, v in enumerate(values)]) for name, values in rows]
            return Figure([plots.profile(lines, name, along=True, height=2.2) for name, lines in paths], caption)
        columns = zip(*(values for _, values in rows), strict=True)
        panels = [[(name, self.line(v)) for (name, _), v in zip(rows, column, strict=True)] for column in columns]
        return Figure([plots.profile(lines, f"example {i}", height=2.2) for i, lines in enumerate(panels, 1)], caption)

    def line(self, x: Tensor) -> Tensor:
        """(D,) an example in standard deviations of the data from their mean."""
        values = ((x - self.centre) / self.spread).flatten().cpu()
        return values[_evenly_spaced(range(len(values)), DIMENSIONS)]

    def strip(self, images: Tensor) -> str:
        """(n, *event) images side by side, as an HTML image with its width."""
        images = images.unsqueeze(1) if images.dim() == 3 else images
        side = max(images.shape[-2:])
        if side > LARGEST:
            size = [max(1, round(s * LARGEST / side)) for s in images.shape[-2:]]
            images, side = torch.nn.functional.interpolate(images, size, mode="area"), LARGEST
        pixels = sheet(images.cpu(), len(images), self.low, self.high, scale=max(1, LARGEST // side), gap=1).numpy()
        return _image(pixels, "images side by side")


def _image(pixels: Any, words: str) -> str:
    """(H, W, 3) uint8 as an HTML image: PNG if it is grey, JPEG in colour, a tenth of the size."""
    from PIL import Image

    file, grey = io.BytesIO(), bool((pixels[..., :1] == pixels).all())
    kind = "png" if grey else "jpeg"
    settings: dict[str, Any] = {"optimize": True} if grey else {"quality": 88}
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, kind, **settings)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = pixels.shape[:2]
    return f'<img alt="{words}" width="{width}" height="{height}" src="data:image/{kind};base64,{data}">'


def _data_and_model(summary: Summary, config: dict[str, Any], model: VAE | None) -> Section:
    """The data, the model and the training."""
    about = _data_config(config)
    rows = [("data", summary.data or "not recorded: the model was made in Python")]
    if about:
        sizes = " / ".join(f"{n:,}" for n in about.get("examples", []))
        rows.append(
            ("train / valid / test", sizes + (", binarised each time they are drawn" if about.get("dynamic") else ""))
        )
        rows.append(("an example", " x ".join(map(str, about.get("event_shape", [])))))
    shapes = (model._event_shapes() if model else None) or []
    rows += [
        ("model", f"{summary.model} {model.extra_repr() if model else ''}".strip()),
        ("latents", ", ".join(f"z_{t} of {' x '.join(map(str, shape))}" for t, shape in enumerate(shapes) if t)),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}" if model else ""),
        ("objective", summary.objective),
    ]
    if summary.stopped != "saved":
        trained = f"{summary.epochs:,} epochs, {summary.steps:,} steps, {summary.minutes:.1f} minutes"
        rows += [("trained", trained), ("ended by", summary.stopped or "not finished")]
    return Section("Data and model", table=[(name, value) for name, value in rows if value])


def _likelihood(model: VAE, x: Tensor, found: Evaluation, split: str) -> Section:
    """L_K and its parts."""
    k, n = found.importance_samples, found.examples
    section = Section("Likelihood")
    section.words = [f"On {n:,} examples{f' of {split}' if split else ''}, in nats per example, K = {k}."]
    section.table = [
        (f"negative log-likelihood, -L_{k}", f"{found.nll:.2f} ± {found.nll_stderr:.2f}"),
        ("baseline, independent elements", "" if found.baseline_nll is None else f"{found.baseline_nll:.2f}"),
        ("-ELBO", f"{-found.elbo:.2f} ± {found.elbo_stderr:.2f}"),
        ("-reconstruction", f"{-found.reconstruction:.2f}"),
        ("rates, level 1 first", " + ".join(f"{rate:.2f}" for rate in found.kl_per_level)),
        ("bits per dimension", f"{found.bits_per_dim:.4f}"),
        ("effective sample size", f"{found.effective_sample_size:.1f} of {k}"),
    ]
    section.table = [(name, value) for name, value in section.table if value]
    torch.manual_seed(0)
    curve = bound_curve(model, x, k)
    if len(curve) > 1:
        words = (
            "The bound against K, with the 95 % interval of its mean over the examples. Where it still rises at the "
        )
        section.figures = [Figure([plots.curve(curve)], words + "right, log p(x) is higher than the number reported.")]
    return section


def _training(summary: Summary, config: dict[str, Any], history: list[dict[str, Any]]) -> Section:
    """The bound and its parts over training."""
    section, skipped = Section("Training"), sum(line.get("skipped", 0) for line in history)
    history = [history[i] for i in _evenly_spaced(range(len(history)), EPOCHS)]
    if len(history) < 2:
        section.words = [
            "The model was saved without a training history."
            if summary.stopped == "saved"
            else "There are too few epochs for a curve."
        ]
        return section
    section.figures = [Figure([plots.bounds(history)], "The bound over training.")]
    if "kl_per_level" in history[0]:
        section.figures.append(Figure([plots.parts(history)], "The parts of -ELBO on the validation data."))
    beta = (config["fit"] or {}).get("beta", 1.0)
    parts = beta if isinstance(beta, list) else [beta]
    whole = ", ".join(part if isinstance(part, str) else f"{part:g}" for part in parts)
    section.figures.append(Figure([plots.schedule(history, whole)], "Learning rate and KL weight."))
    if summary.best_epoch is not None:
        epoch = f"{round(summary.best_epoch, 2):g}"
        best = f"The weights are those of epoch {epoch}, with a validation bound of {summary.bound:.2f}."
        section.words.append(best)
    if skipped:
        section.words.append(f"{skipped:,} of {summary.steps:,} gradients were skipped, far above the usual size.")
    return section


def _levels(model: VAE, x: Tensor, found: Diagnosis, rates: Sequence[Tensor | None], show: _Show) -> Section:
    """The rate of each level and of each unit, the diagnosis, and what each level does."""
    levels, verdict = found.levels, found.verdict
    if len(levels) > 8:  # those that work are listed in one line
        working = [level.level for level in levels if level.verdict == "works"]
        listed = tuple(f"level {t} works" for t in working)
        first = [line for line in found.verdict[:1] if found.evaluation.worse_than_baseline]
        verdict = [*first, f"{len(working)} of {len(levels)} levels work: {', '.join(map(str, working)) or 'none'}"]
        verdict += [line for line in found.verdict[len(first) :] if not line.startswith(listed)]
    bars = plots.level_rates(
        [v.rate for v in levels], [v.active_units for v in levels], [v.units for v in levels],
        height=1.2 + 0.35 * len(levels),
    )  # fmt: skip
    figures = [Figure([bars], "The rate of each level, and how many of its units vary with x.")]
    gone = [f"z_{t}" for t, values in enumerate(rates, start=1) if values is None]
    if len(gone) < len(rates):
        but = f" Not for {' and '.join(gone)}, where q or p does not factorise over units." if gone else ""
        figures.append(Figure([plots.unit_rates(rates)], f"The rate of every unit, sorted.{but}"))
    some = x[: show.count]
    rows: Rows = [("x", some)]
    for level in _evenly_spaced(range(1, model.levels + 1), 5):
        redrawn = "" if level == 1 else "z_1" if level == 2 else f"z_1..{level - 1}"
        rows += [(f"{redrawn} redrawn" if redrawn else "all kept", expected(model.reconstruct(some, level)))]
        rows += [(f"{redrawn} redrawn", expected(model.reconstruct(some, level))) for _ in range(2 if redrawn else 0)]
    rows += [("all redrawn", expected(model.generate(len(some)))) for _ in range(2)]
    words = "What each level does: z is drawn from the posterior given x, except for the levels named, which are "
    figures.append(show.rows(rows, words + "redrawn from the prior, given those above them."))
    return Section("What the levels do", words=verdict, figures=figures)


def _samples(model: VAE, x: Tensor | None, show: _Show) -> Section:
    """Samples from the model, at several temperatures, and how they compare with the data."""
    section = Section("Samples")
    temperatures = TEMPERATURES if _takes_temperature(model) else (1.0,)
    if show.images:
        means = expected(model.generate(5 * SHOWN)).split(SHOWN)
        words = "Samples from the prior, each shown as the mean of p(x | z_1)."
        section.figures.append(show.rows([("", images) for images in means], words))
        rows = []
        for temperature in temperatures:
            torch.manual_seed(1)  # the same draws, nearer to their means or farther from them
            rows.append((f"{temperature:g}", expected(model.generate(SHOWN, temperature))))
        words = "The same samples at several temperatures, the factor on the standard deviations of all latents."
        section.figures += [show.rows(rows, words)] if len(temperatures) > 1 else []
    if x is None and not show.images:
        lines = [("a sample", values) for values in expected(model.generate(4 * LINES)).split(LINES)]
        section.figures.append(
            show.rows(lines, "Samples from the prior, each shown as the mean of p(x | z_1).", along=True)
        )
    if x is None:
        return section
    data, draws = x.flatten(1).cpu(), _sample_in_parts(model.sample, x[0].numel())
    if show.images:
        ink = plots.marginal(data.mean(1), draws.mean(1), "mean of an image")
        section.figures.append(Figure([ink], "The mean of each image, in the data and in samples from p(x | z_1)."))
        if not show.binary:
            values = plots.marginal(data.flatten(), draws.flatten(), "value")
            section.figures.append(Figure([values], "All values, in the data and in samples from p(x | z_1)."))
        return section
    clouds = []
    for temperature in temperatures if len(data) > 2 else ():
        tempered = _sample_in_parts(functools.partial(model.sample, temperature=temperature), x[0].numel())[: len(data)]
        clouds.append(plots.projection(data, tempered, f"temperature {temperature:g}"))
    words = "Data and samples, in the plane in which the data vary most. The temperature multiplies the standard "
    section.figures += [Figure(clouds, words + "deviations of all latents.")] if clouds else []
    dimensions = _evenly_spaced(range(data.shape[1]), 12)
    single = [plots.marginal(data[:, d], draws[:, d], f"dimension {d + 1}", height=2.2) for d in dimensions]
    section.figures.append(Figure(single, "Single dimensions, in the data and in samples from the model."))
    if data.shape[1] > 1 and len(data) > 2:
        columns = _evenly_spaced(range(data.shape[1]), 60)
        both = [plots.correlations(v[:, columns], title) for v, title in ((data, "data"), (draws, "model"))]
        some = f" {len(columns)} of {data.shape[1]} are shown, evenly spaced." if len(columns) < data.shape[1] else ""
        section.figures.append(Figure(both, f"Correlations between dimensions.{some}"))
    return section


def _reconstructions(model: VAE, x: Tensor, show: _Show) -> Section:
    """Originals, and reconstructions from several draws from their posterior."""
    some = x[: show.count]
    rows = [("x", some), *(("z ~ q(z | x)", expected(model.reconstruct(some))) for _ in range(4))]
    words = "Originals, and with each the means of p(x | z_1) for four draws from its posterior."
    return Section("Reconstructions", figures=[show.rows(rows, words)])


def _latents(model: VAE, x: Tensor, found: Sequence[Tensor | None], show: _Show) -> Section:
    """Traversals of the most active units, interpolations, the aggregate posterior and the prior."""
    section = Section("Latent space")
    means = [mean for mean, _ in posterior_moments(model, x[: 2 * LINES], samples=50)]
    z = [latents[0].reshape(len(x), -1) for latents in model._infer(x, 1)[0]]
    rates = [v.var(0, correction=0) if r is None else r.flatten() for v, r in zip(z, found, strict=True)]
    still = 0.0 if _takes_temperature(model) else 1.0
    for t in _evenly_spaced(range(1, model.levels + 1), 3):
        rows: Rows = []
        for unit in rates[t - 1].topk(min(UNITS, len(rates[t - 1]))).indices.tolist():
            path = means[t - 1][:1].reshape(1, -1).repeat(STEPS, 1)
            low, high = (z[t - 1][:, unit].quantile(q).item() for q in (0.02, 0.98))
            path[:, unit] = torch.linspace(low, high, STEPS)
            above = [mean[:1].expand(STEPS, *mean.shape[1:]) for mean in means[t:]]
            law = model.decode([path.view(-1, *means[t - 1].shape[1:]), *above], t, still)
            rows.append((f"unit {unit + 1} of z_{t}", expected(law)))
        words = f"Along the most active units of level {t}, over the range that each takes in the data."
        words += " The levels below are at the means of their priors." if t > 1 and not still else ""
        section.figures.append(show.rows(rows, words, along=True))
    rows = []
    for i in range(min(4, len(x) // 2)):
        weights = torch.linspace(0, 1, STEPS).tolist()
        between = [torch.stack([torch.lerp(m[2 * i], m[2 * i + 1], w) for w in weights]) for m in means]
        rows.append((f"from {2 * i + 1} to {2 * i + 2}", expected(model.decode(between))))
    words = "From one example to another, in a straight line between the means of their latents."
    section.figures += [show.rows(rows, words, along=True)] if rows else []
    prior = model.prior().sample((len(x),)).reshape(len(x), -1)
    if z[-1].shape[1] == 1:
        labels = ("aggregate posterior", "prior")
        plot = plots.marginal(z[-1][:, 0].cpu(), prior[:, 0].cpu(), f"z_{model.levels}", labels)
        section.figures.append(Figure([plot], "The aggregate posterior, q(z | x) over the data, and the prior."))
    else:
        pair = sorted(rates[-1].topk(2).indices.tolist())
        names = [f"unit {unit + 1} of z_{model.levels}" for unit in pair]
        plot = plots.aggregate(z[-1][:, pair].cpu(), prior[:, pair].cpu(), names, height=3.8)
        words = "The aggregate posterior, q(z | x) over the data, and the prior: the top level's two most active units."
        section.figures.append(Figure([plot], words))
    return section


def _extremes(model: VAE, x: Tensor, samples: int, show: _Show) -> Section:
    """The most and the least likely examples."""
    section = Section("Most and least likely examples")
    torch.manual_seed(0)
    bound = log_likelihood(model, x, samples)
    order = bound.argsort(descending=True).tolist()
    count = min(show.count, max(1, len(x) // 2))
    for name, rows in (("most", order[:count]), ("least", order[::-1][:count])):
        if show.images:
            cards = [f"{show.strip(x[row : row + 1])}<small>{bound[row]:.1f}</small>" for row in rows]
            parts = [f'<div class="cards">{"".join(f"<span>{card}</span>" for card in cards)}</div>']
        else:
            parts = [plots.profile([("x", show.line(x[row]))], f"{bound[row]:.1f} nats", height=2.0) for row in rows]
        section.figures.append(Figure(parts, f"The {name} likely examples, with L_{samples} of each in nats."))
    return section


def _how_to_reproduce(summary: Summary, config: dict[str, Any], command: str) -> Section:
    """How to reproduce the run."""
    about = _data_config(config)
    rows = [
        ("command", command),
        ("settings of fit", "" if command or not config["fit"] else json.dumps(config["fit"])),
        ("versions", f"allegory {config.get('allegory', '?')}, torch {config.get('torch', '?')}"),
        ("seed", "" if summary.stopped == "saved" else str(summary.seed)),
        ("checksum of the data", str(about.get("checksum", ""))),
    ]
    return Section("How to reproduce it", table=[(name, value) for name, value in rows if value])


def _data_config(config: dict[str, Any]) -> dict[str, Any]:
    """What the run records about its data."""
    about = config.get("data")
    return about if isinstance(about, dict) else {}


def _unit_rates(model: VAE, x: Tensor) -> list[Tensor | None]:
    """The mean rate of every unit, (*event_t), level 1 first."""
    found = []
    for rows in x.split(max(1, pairs_per_pass(model, x) // 4)):
        rates = model(rows, samples=4).unit_kl
        found.append([None if rate is None else rate.mean(0).sum(0).cpu() for rate in rates])
    levels = zip(*found, strict=True)
    return [None if level[0] is None else torch.stack(level).sum(0) / len(x) for level in levels]


def _takes_temperature(model: VAE) -> bool:
    """Whether its latents are normal, so that a temperature is defined."""
    try:
        model.generate(1, temperature=0.5)
    except ValueError:
        return False
    return True


def _sample_in_parts(sample: Callable[[int], Tensor], numbers: int) -> Tensor:
    """Samples of so many numbers each, flattened, drawn in ten parts: DRAWS of them, fewer where they are large."""
    each = max(1, min(DRAWS, MAX_NUMBERS // numbers) // 10)
    return torch.cat([sample(each).flatten(1).cpu() for _ in range(10)])


def _evenly_spaced(values: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the values, evenly spaced, from the first to the last."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def _without_warnings(function: Callable[[], Any]) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "L_")  # the page shows it
        return function()
