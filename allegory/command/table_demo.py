r"""The main job on an embedded table: scikit-learn's 442 people with diabetes, of whom every fifth value is taken away.

A VAE of its columns is trained on the table with the gaps. Its bound is printed beside that of independent columns; its
guesses at what was taken away beside the mean, or the commonest value, of each column; and a few rows that it draws.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allegory import architectures
from allegory.command.demo import unused_name
from allegory.data.splits import load
from allegory.objectives import iwae
from allegory.tabular import read_frame, write_frame
from allegory.training.directory import new_run
from allegory.training.loop import fit
from allegory.views.runs import Run
from allegory.views.terminal import show

__all__ = ["imputation_errors", "people", "run", "with_gaps"]

MISSING, EPOCHS, IMPORTANCE_SAMPLES, ROWS = 0.2, 150, 500, 5

Table = dict[str, Any]


def people() -> Table:
    """The columns of scikit-learn's diabetes data, in their own units: name -> (442,)."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    columns = dict(zip(found.feature_names, found.data.T, strict=True))
    sex = np.array(["a", "b"], object)[columns["sex"].astype(int) - 1]
    return {**columns, "sex": sex, "progress": found.target}


def with_gaps(table: Table, seed: int = 0) -> Table:
    """The table without a share of its values, at random."""
    rng = np.random.default_rng(seed)
    return {
        name: np.where(rng.random(len(values)) < MISSING, None if values.dtype == object else np.nan, values)
        for name, values in table.items()
    }


def imputation_errors(whole: Table, gaps: Table, filled: Table) -> list[tuple[Any, ...]]:
    """For each column what it is off, of the values that were taken away, and what its mean would be: for numbers the
    mean absolute error, in standard deviations; for categories the share of wrong ones, beside the commonest.
    """
    rows = []
    for name, values in whole.items():
        if values.dtype == object:
            at = np.array([value is None for value in gaps[name]])
            known, counts = np.unique(gaps[name][~at].astype(str), return_counts=True)
            wrong = [float((guess != values[at]).mean()) for guess in (filled[name][at], known[counts.argmax()])]
        else:
            at, spread = np.isnan(gaps[name].astype(float)), values.std()
            center: NDArray[Any] = np.nanmedian(gaps[name].astype(float))
            wrong = [float(np.abs(guess - values[at]).mean() / spread) for guess in (filled[name][at], center)]
        rows.append((name, *wrong))
    return rows


def run(out: str | None = None) -> None:
    """Trains, prints the tables, writes the run, the table with gaps, and the one that is filled.

    Args:
        out: where to write; by default a new folder, allegory-demo, in the current one.
    """
    with new_run(out or unused_name("allegory-demo")) as folder:
        _train_and_print(folder)


def _train_and_print(folder: Path) -> None:
    from rich.table import Table as Printed

    began = time.monotonic()
    whole = people()
    write_frame(with_gaps(whole), folder / "gaps.csv")
    examples, about = load(folder / "gaps.csv").scored_as()
    assert examples.schema is not None
    print(examples.schema, file=sys.stderr, flush=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architectures.mlp(
            examples.event_shape, examples.schema.family(), [4], [64], dropout=0.1, data=examples.train
        )
    fit(
        model, examples.train, valid=examples.valid, objective=iwae, samples=5, epochs=EPOCHS, batch_size=50, lr=2e-3,
        lr_warmup=50, ema=0.98, patience=40, out=folder / "run", progress=True, about={"data": about},
    )  # fmt: skip
    opened, gaps = Run(folder / "run"), read_frame(folder / "gaps.csv")
    result = opened.evaluate("test", IMPORTANCE_SAMPLES)
    filled = opened.impute(gaps, samples=IMPORTANCE_SAMPLES)
    write_frame(filled, folder / "filled.csv")

    print(f"{result.examples} people that the training has not seen, nats per row:")
    print(f"  independent columns     {result.baseline_nll:.2f}")
    print(f"  the model, -L_{IMPORTANCE_SAMPLES}       {result.nll:.2f} ± {result.nll_stderr:.2f}")
    table = Printed(title=f"what was taken away, {MISSING:.0%} of all values: mean error, in standard deviations")
    for column in ("column", "the model", "the median"):
        table.add_column(column, justify="left" if column == "column" else "right")
    errors = imputation_errors(whole, gaps, filled)
    for name, ours, simple in errors:
        table.add_row(f"{name}, share of wrong ones" if name == "sex" else name, f"{ours:.2f}", f"{simple:.2f}")
    mean = np.mean([error[1:] for error in errors], axis=0)
    table.add_row("on average", *(f"{value:.2f}" for value in mean))
    show(table)
    drawn = opened.sample_rows(ROWS)
    table = Printed(title="people that never were")
    for name in drawn:
        table.add_column(str(name), justify="right")
    for row in zip(*drawn.values(), strict=True):
        table.add_row(*(value if isinstance(value, str) else f"{value:g}" for value in row))
    show(table)
    print(f"{time.monotonic() - began:.0f} s. Written to {folder}: gaps.csv, filled.csv, and a run. Next:")
    print(f"  allegory sample {folder}/run --count 1000 --out more.csv --given sex=b")
