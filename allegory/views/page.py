r"""A run as one page: the verdict first, then its likelihood, its training, its samples, and what its levels do.

    report(run)  ->  RUN/report.html, self-contained: no script, nothing from a network, no path of the machine

Everything is measured here, see `allegory.views.measured`, on the given examples x, or on examples drawn from the run's
own data. Images are shown as they are, a table by its columns, pairs of columns, and its strangest rows and cells,
anything else over its elements, in units of the data's standard deviation, and by its marginals and correlations.
Pictures of p(x | z) show its mean. Each section is in a room of its own, `allegory.views.sections`.

Shapes: N examples x, (N, *event); K particles; T levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from allegory.chain import FixedChain
from allegory.evaluation.gains import has_columns
from allegory.evaluation.passes import evaluating, few_particles
from allegory.given import Given, as_contexts
from allegory.model import VAE
from allegory.runtime.storage import write_atomically
from allegory.training.directory import METRICS, WEIGHTS
from allegory.views import plots
from allegory.views.layout import Section, file_name, without_folders
from allegory.views.measured import Examples, draw_examples, measure
from allegory.views.outputs import check_out
from allegory.views.runs import Run
from allegory.views.sections.latents import latents
from allegory.views.sections.levels import levels
from allegory.views.sections.likelihood import likelihood
from allegory.views.sections.origin import how_to_reproduce, origin
from allegory.views.sections.samples import extremes, reconstructions, samples_of
from allegory.views.sections.tables import columns_of, drawn_rows, surprising
from allegory.views.sections.training import training
from allegory.views.sections.verdict import verdict, verdict_from_training
from allegory.views.showing import Show

__all__ = ["report"]

SAMPLES = 200


def report(
    run: str | Path | Run,
    x: Tensor | None = None,
    *,
    out: str | Path | None = None,
    train: Tensor | None = None,
    model: VAE | Callable[..., VAE] | None = None,
    samples: int | None = None,
    split: str | None = None,
    examples: int = 500,
    command: str = "",
    missing: str = "",
    device: torch.device | str = "cpu",
    given: Given = None,
    train_given: Given = None,
) -> Path:
    """Writes the report of a run, finished or not, and returns its path.

    Args:
        run: a run directory with a checkpoint, or a `Run`, with its model, data and device.
        x: (N, *event) examples it was not trained on; a few hundred are enough. By default examples of the data that
            the run records; where there are none, the parts that need data are left out.
        out: the file, RUN/report.html by default.
        train: (N', *event) examples it was trained on, for the gap between the two, and for the baseline; by default
            drawn from the run's data along with x.
        model: needed only where the run's model was not made by `allegory.architectures`: the model, which gets the
            run's weights, or the class or function that makes it, as in `load`.
        samples: K of L_K; by default 200, or of a diffusion of many levels fewer.
        split: the split to draw examples from, "test" by default; for a given x, its name.
        examples: how many to draw from the run's data, and from the training data, at random.
        command: the command that reproduces the run, to be quoted.
        missing: why there is no x, to be printed; the run's data are then not searched for.
        device: where to compute.
        given, train_given: c of a conditional model, with x and with train; of the run's data it is known.

    For a custom model that is not given, the report has only what the files record: data, model and training.

    Raises:
        ValueError: not a run, a run without a checkpoint, weights that do not fit, or x that the model cannot score.

    >>> record = al.fit(model, x, valid=x, epochs=2, out="run")
    >>> report("run", x, samples=10).name
    'report.html'
    """
    run = run if isinstance(run, Run) else Run(run, model, device=device)
    path = Path(out) if out is not None else run.folder / "report.html"
    check_out(path, run.source)
    if not any((run.folder / name).exists() for name in (METRICS, WEIGHTS)):
        raise ValueError(f"{run.path} has no checkpoint yet: there is no {run.path / METRICS}; wait, or train again")
    if not run.knows_its_model:
        why = f"Parts that need the model are left out: {_why_no_model(run)}."
        sections = [verdict_from_training(run.summary, why), origin(run.summary, run.config, None)]
        sections += [training(run.summary, run.settings, run.history), how_to_reproduce(run, command, None)]
        return _write(run, path, sections)
    samples = few_particles(run.model, SAMPLES) if samples is None else samples
    found, why = None, without_folders(missing, run.source, run.path)
    if x is not None:
        found = _given(run, x, train, split or "", given, train_given)
    elif not missing:
        found, why = _drawn(run, split or "test", examples)
    why = f"Parts that need data are left out: {why}."
    with torch.random.fork_rng(), evaluating(run.model):
        torch.manual_seed(0)
        sections = _without_data(run, command, why) if found is None else _with_data(run, found, samples, command)
    return _write(run, path, sections)


def _with_data(run: Run, found: Examples, samples: int, command: str) -> list[Section]:
    """All sections, in their order."""
    model, x, summary = run.model, found.x, run.summary
    show = Show(run, model, x, found.given)
    measured = measure(model, found, samples)
    table = has_columns(model)
    drawn = (
        [columns_of(run, model, measured), drawn_rows(run, model, measured, show)]
        if table
        else [samples_of(model, x, show)]
    )
    return [
        verdict(measured, summary),
        likelihood(measured),
        origin(summary, run.config, model),
        training(summary, run.settings, run.history),
        *drawn,
        reconstructions(model, x, show),
        levels(model, x, measured, show),
        *([] if isinstance(model, FixedChain) else [latents(model, x, measured, show)]),
        surprising(run, model, measured) if table else extremes(x, measured, show),
        how_to_reproduce(run, command, samples),
    ]


def _without_data(run: Run, command: str, why: str) -> list[Section]:
    """What the model and the files alone can show."""
    return [
        verdict_from_training(run.summary, why),
        origin(run.summary, run.config, run.model),
        training(run.summary, run.settings, run.history),
        *_samples_alone(run),
        how_to_reproduce(run, command, None),
    ]


def _samples_alone(run: Run) -> list[Section]:
    """Samples without data; none of a conditional model, which would be of something given."""
    if (run.model.config or {}).get("given") or run.given_about is not None:
        return []
    return [samples_of(run.model, None, Show(run, run.model, None))]


def _given(
    run: Run, x: Tensor, train: Tensor | None, split: str, given: Given = None, train_given: Given = None
) -> Examples:
    """The given examples, on the run's device; the baseline is fitted to the given training examples, else to those of
    the run's data, if they can be read.
    """
    x, law = x.to(run.device), None
    contexts = tuple(c.to(run.device) for c in as_contexts(given, len(x)))
    of_train = () if train is None else tuple(c.to(run.device) for c in as_contexts(train_given, len(train)))
    run.model.check(x, split or "x", given=contexts)
    if train is None:
        try:
            law = run.independent_elements
        except ValueError:
            law = None
    train = None if train is None else train.to(run.device)
    return Examples(x, train, split, law=law, given=contexts, train_given=of_train)


def _drawn(run: Run, split: str, examples: int) -> tuple[Examples | None, str]:
    """Examples of the run's data, or why there are none."""
    try:
        found = draw_examples(run, split, examples)
    except ValueError as error:
        return None, without_folders(" ".join(str(error).split()), run.source, run.path)
    run.model.check(found.x, split, given=found.given)
    return found, ""


def _why_no_model(run: Run) -> str:
    try:
        _ = run.model
    except ValueError as error:
        return without_folders(" ".join(str(error).split()), run.source, run.path)
    return ""


def _write(run: Run, path: Path, sections: list[Section]) -> Path:
    """Writes the page."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    page = Environment(
        loader=PackageLoader("allegory", "views"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")
    summary = run.summary
    text = page.render(
        run=run.path.resolve().name, summary=summary, data=file_name(summary.data) if summary.data else "",
        sections=sections, width=plots.WIDTH,
    )  # fmt: skip
    write_atomically(path, text.encode(errors="backslashreplace"))
    return path
