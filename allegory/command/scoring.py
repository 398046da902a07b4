"""allegory evaluate, allegory diagnose: the likelihood of a run, and the state of its levels."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from allegory.command import console
from allegory.command.options import DIAGNOSE, EVALUATE, FOLDER, Command, with_argument, with_options

if TYPE_CHECKING:
    from allegory.evaluation.gains import ColumnGain

__all__ = ["diagnose", "evaluate"]

SHOWN_ROWS = 5


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(EVALUATE)
def evaluate(
    run: str, split: str, importance_samples: int, precision: str, curve: bool, ais: bool, ais_examples: int | None,
    data: str | None, json: bool, device: str,
) -> None:  # fmt: skip
    """Prints the likelihood of a split, with its standard error, and its parts.

    RUN is a run directory, as allegory train (--out) and al.save write it. It records its data and how they were split:
    the test split was used neither in training nor in choosing the weights.
    """
    from allegory.runtime import processes

    if ais_examples is not None and not ais:
        raise ValueError(f"--ais-examples {ais_examples} applies only with --ais; give both")
    opened = console.open_run(run, device, data)
    console.say_if_binarised(opened, split)
    precision, compile, notes = opened.choose_speed(split, importance_samples, precision)
    for note in notes:
        console.say(note)
    found = opened.evaluate(split, importance_samples, precision=precision, compile=compile)
    values: dict[str, Any] = {"split": split, "precision": precision, **found.as_dict()}
    if opened.offset is not None:
        values["offset"] = opened.offset.tolist()
    if curve:
        values["curve"] = opened.bound_curve(split, importance_samples, precision=precision, compile=compile)
    if ais:
        values["ais"] = opened.compare_with_ais(split, ais_examples or 100, importance_samples)
    if processes.rank() > 0:
        return
    if json:
        console.print_json(values)
        return
    from rich.markup import escape
    from rich.table import Table

    from allegory.evaluation.gains import gain_lines
    from allegory.missingness import of_what
    from allegory.views.terminal import show

    if opened.offset is not None:
        print(f"the model is of x - o, o = {reprlib.repr(opened.offset.tolist())}; a density does not depend on o")
    table = Table(title=f"{escape(run)}, {split}, {found.examples:,} examples, nats per example")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    if found.gaps:
        print(of_what(found.gaps))
    if found.worse_than_baseline:
        print(f"worse than independent elements, whose negative log-likelihood is {found.baseline_nll:.3f}")
    for row in found.rows():
        table.add_row(*row)
    for k, bound, error in values.get("curve", []):
        table.add_row(f"-L_{k}", f"{-bound:.3f}", f"{error:.3f}")
    if ais:
        beside = values["ais"]
        name = f"annealed importance sampling, {beside['examples']:,} examples"
        table.add_row(name, f"{beside['nll']:.3f}", f"{beside['nll_stderr']:.3f}")
        table.add_row(f"  -L_{importance_samples} of the same examples", f"{beside['nll_bound']:.3f}", "")
        table.add_row("  difference", f"{beside['difference']:.3f}", f"{beside['difference_stderr']:.3f}")
    show(table)
    if found.columns is not None:
        show(
            _columns_table(
                found.columns, "observed value, or row where gaps are data" if found.gaps else "observed value"
            )
        )
        for line in gain_lines(found.columns):
            print(line)
    if found.carried is not None:
        rows = [str(opened.data.row_names(split)[row]) for row in found.carried.rows[:SHOWN_ROWS]]
        rest = len(found.carried.rows) - len(rows)
        listed = ", ".join(rows) + (f" and {rest} more" if rest else "")
        print(f"without row {listed} the negative log-likelihood would be {found.carried.shift:.3f} nats lower")
    print(f"next: allegory diagnose {run}")


def _columns_table(columns: Sequence[ColumnGain], per: str) -> Any:
    """What the model says of each column, the largest gain first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"columns, nats per {per}")
    for name in ("column", "observed", "its marginal", "given z", "gain"):
        table.add_column(name, justify="left" if name == "column" else "right")
    for column in sorted(columns, key=lambda column: -column.gain):
        numbers = (f"{value:.3f}" for value in (column.baseline, column.nats, column.gain))
        table.add_row(escape(column.name), f"{column.observed:.0%}", *numbers)
    return table


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(DIAGNOSE)
def diagnose(run: str, split: str, examples: int, data: str | None, json: bool, device: str) -> None:
    """Reports which levels of a model work, which have collapsed, and what to try.

    RUN is a run directory, as allegory train and al.save write it.
    """
    opened = console.open_run(run, device, data)
    console.say_if_binarised(opened, split)
    found = opened.diagnose(split, examples)
    if json:
        console.print_json({"split": split, **found.as_dict()})
        return
    from rich.markup import escape
    from rich.table import Table

    from allegory.evaluation.diagnosis import COLUMNS
    from allegory.missingness import of_what
    from allegory.views.terminal import show

    table = Table(title=f"{escape(run)}, {found.evaluation.examples:,} examples of {split}, nats per example")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for row in found.rows():
        table.add_row(*row)
    show(table)
    for line in found.verdict:
        print(line)
    result = found.evaluation
    if result.gaps:
        print(of_what(result.gaps))
    if result.baseline_nll is not None:
        k = result.importance_samples
        print(f"-L_{k} is {result.nll:.2f} nats, the baseline of independent elements {result.baseline_nll:.2f}")
    print(f"next: allegory report {run}")
