"""allegory report, runs, datasets, completion, demo: reports and listings."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allegory.command import console
from allegory.command.options import (
    DEMO,
    FOLDER,
    REPORT,
    RUNS,
    Choice,
    Command,
    check_stored,
    command_line,
    with_argument,
    with_options,
)

if TYPE_CHECKING:
    from allegory.views.runs import Summary

MANY = 20  # levels, from which on their rates are told together

__all__ = ["completion", "datasets", "demo", "report", "runs"]


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(REPORT)
def report(
    run: str, out: str | None, split: str, examples: int, importance_samples: int | None, data: str | None, device: str
) -> None:
    """Writes one self-contained page of a run: curves, likelihoods, samples, what each level does, the diagnosis."""
    import allegory.views.page  # noqa: F401  before the run is opened: from there on Ctrl-C is an exception
    from allegory.views.layout import file_name

    opened = console.open_run(run, device, data)
    command, about = opened.config.get("command"), opened.config.get("data")
    source = str(about.get("source", "")) if isinstance(about, dict) else ""
    quoted = ""
    if isinstance(command, dict) and source:
        quoted = command_line(file_name(source), check_stored(command, f"{Path(run) / 'config.json'}"))
    path = opened.report(out, split=split, examples=examples, samples=importance_samples, command=quoted)
    for part in ("data", "model") if opened.knows_its_model else ("model",):
        try:
            getattr(opened, part)
        except ValueError as error:
            console.say(f"allegory: parts that need {'data' if part == 'data' else 'the model'} are left out: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    print(f"next: allegory sample {run} --out samples.png")


@click.command(cls=Command)
@with_argument("folder", FOLDER, "[DIR]", default="runs")
@with_options(RUNS)
def runs(folder: str, json: bool) -> None:
    """Lists and compares the runs in a folder: data, model, and the bound each reached.

    DIR is the folder that contains them, at any depth (default: runs).
    """
    from allegory.missingness import of_what
    from allegory.views.runs import find, summary

    found = []
    for path in find(folder):
        try:
            found.append(summary(path))
        except (ValueError, OSError) as error:
            console.say(f"allegory: skipped: {' '.join(str(error).split())}")
    if not found:
        raise ValueError(f"{folder}: none of the runs in it can be read; the reasons are above")
    found.sort(key=lambda run: (run.data, math.inf if run.bound is None else -run.bound))
    if json:
        console.print_json([run.as_dict() for run in found])
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from allegory.views.terminal import show

    table = Table(
        title=f"runs in {escape(folder)}, nats per example on the validation data", box=box.SIMPLE, pad_edge=False
    )
    table.add_column("run", overflow="fold")
    for column in ("data", "model", "objective"):
        table.add_column(column)
    for column in ("epochs", "minutes", "bound", "baseline", "rates, level 1 first"):
        table.add_column(column, justify="right", no_wrap=column != "rates, level 1 first")
    for run in found:
        model = " ".join(filter(None, [*run.model.split()[:1], run.depth]))
        table.add_row(
            escape(os.path.relpath(run.path, folder)), escape(Path(run.data).name), escape(model),
            escape(run.objective), f"{run.epochs}" if run.stopped else f"{run.epochs}..", f"{run.minutes:.1f}",
            "" if run.bound is None else f"{run.bound:.2f}",
            "" if run.baseline is None else f"{run.baseline:.2f}", _rates(run),
        )  # fmt: skip
    show(table)
    if any(run.baseline is not None for run in found):
        print("baseline: what independent elements reach, each at its marginal optimum")
    for source in sorted({run.data for run in found}):
        kinds = sorted({run.checksum for run in found if run.data == source} - {""})
        if len(kinds) > 1:
            parts = [[os.path.relpath(run.path, folder) for run in found if run.checksum == kind] for kind in kinds]
            groups = "; ".join(", ".join(paths) for paths in parts)
            print(f"{source}: split or read in {len(kinds)} ways, whose bounds cannot be compared: {groups}")
    for run in (run for run in found if run.gaps):
        print(f"{os.path.relpath(run.path, folder)}: {of_what(run.gaps)}")
    if any(not run.stopped for run in found):
        print("..: not finished, continue with --resume; or still running")


def _rates(run: Summary) -> str:
    """The rates of its levels; of a chain with a fixed encoder those below the top together, and so of many levels."""
    rates = run.kl_per_level
    if run.fixed and rates:
        return f"{sum(rates[:-1]):.1f} below the top, {rates[-1]:.1f}"
    return (
        f"{sum(rates):.1f} of {len(rates)} levels" if len(rates) > MANY else " ".join(f"{rate:.1f}" for rate in rates)
    )


@click.command(cls=Command)
@with_options(())
def datasets() -> None:
    """Lists the built-in data sets."""
    from rich.table import Table

    from allegory.data.builtin import BUILTIN, cached
    from allegory.views.terminal import show

    table = Table(title="built-in data sets")
    for column in ("name", "shape", "train / valid / test", "download", "cached"):
        table.add_column(column, no_wrap=True)
    for row in BUILTIN:
        size = "embedded" if row.embedded else f"{row.size / 1e6:.1f} MB"
        splits = " / ".join(f"{n:,}" for n in row.splits)
        table.add_row(row.name, "x".join(map(str, row.shape)), splits, size, "yes" if cached(row.name) else "no")
    show(table)
    for row in BUILTIN:
        print(f"{row.name}: {row.source}. Licence: {row.licence}.")


@click.command(cls=Command)
@with_argument("shell", Choice(("bash", "zsh", "fish")), "bash|zsh|fish")
@with_options(())
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the completion script of a shell: eval "$(allegory completion bash)", or zsh, fish."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    print(found(context.find_root().command, {}, "allegory", "_ALLEGORY_COMPLETE").source())


@click.command(cls=Command)
@with_options(DEMO)
def demo(out: str | None, table: bool) -> None:
    """Trains a hierarchical VAE on embedded data and reports its likelihood; with --table a VAE of a table with gaps.

    \b
    Examples:
      allegory demo
      allegory demo --table
    """  # noqa: D301  click reads the backspace
    from allegory.command import demo as of_digits
    from allegory.command import table_demo

    console.imports_done()
    (table_demo if table else of_digits).run(out)
