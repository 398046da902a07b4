r"""Synthetic rows of Adult beside the real ones: how well XGBoost tells them apart, and what it learns from them.

    OMP_NUM_THREADS=1 python benchmarks/two_samples.py adult.csv adult.test.csv --xgboost xgb/bin/python

Protocol of TabSyn, TabDiff and TabPC (Zhang et al. 2024; Shi et al. 2025; 2026): a model learns from the 32,561 rows of
adult.data, all 15 columns, "?" a category, and as many rows of it are compared with these by xgboost_worker.py. C2ST is
1 where XGBoost cannot tell them apart and 0 where it always can; Trend is of pairs of columns; AUC is of the incomes of
the 16,281 rows of adult.test, by XGBoost that learned from synthetic rows.

    copy           the training rows themselves: C2ST and Trend are 1, whatever that is worth
    held out       the rows of adult.test, half as many: what real rows have; AUC not, which would be of rows it knows
    independent    each column of the training rows in an order of its own
    vae            the model of adult.py in its one setting
    in range       the same rows, with numbers that no training row reaches set to the first or the last that one has
    masked         a masked diffusion of codes in its one setting, see masked_rows.py

Both models choose the epoch by 2,049 training rows: the last of them, and of `masked` in a random order. Copies: the
share of rows that are a training row, in all columns, and in all but fnlwgt.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from adult import LABEL, Table
from masked_rows import masked
from sides import machine, say
from synthetic import copies, independent, synthetic

from allegory.tabular import read_frame

MEASURES = ("c2st", "trend", "shape", "auc")


def measured(real: Table, rows: Table, test: Table, seed: int, python: Path, *also: str) -> dict[str, Any]:
    """What the worker says of some rows, and the copies among them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("real.csv", "rows.csv", "test.csv")]
        for path, table in zip(paths, (real, rows, test), strict=True):
            with path.open("w", newline="") as file:
                columns = (table[name].tolist() for name in real)
                csv.writer(file).writerows([real, *zip(*columns, strict=True)])
        command = [python, Path(__file__).with_name("xgboost_worker.py"), *paths, seed, *also]
        found = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**json.loads(found), "copies": copies(rows, real)}


def read_test(path: Path, train: Table) -> Table:
    """The rows of adult.test, a file without names, whose labels end in a full stop."""
    columns = read_frame(path, header=False).values()
    test = Table(dict(zip(train, columns, strict=True)))
    return Table({**test, LABEL: np.array([label.rstrip(".") for label in test[LABEL]], object)})


def within(rows: Table, train: Table) -> Table:
    """Rows whose numbers beyond those of the training rows are the first or the last of these."""
    numbers = {name: column for name, column in train.items() if column.dtype.kind in "if"}
    return Table({**rows, **{name: rows[name].clip(seen.min(), seen.max()) for name, seen in numbers.items()}})


def sources(train: Table, test: Table, seed: int) -> Iterator[tuple[str, Table, str]]:
    """The name of each source of rows, the rows, and what they took."""
    yield "copy", train, "no time"
    yield "held out", test, "no time"
    yield "independent", independent(train, seed), "no time"
    drawn, took = synthetic(train, seed)
    yield "vae", drawn, took
    yield "in range", within(drawn, train), "no time"
    yield "masked", *masked(train, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="adult.csv, or .csv.gz, with a header")
    parser.add_argument("test", type=Path, help="adult.test, or .csv.gz, without one")
    parser.add_argument("--xgboost", type=Path, required=True, help="Python of an environment of xgboost and sdmetrics")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--causes", action="store_true", help="also C2ST of each column alone, and of all others")
    options = parser.parse_args()
    train = read_frame(options.csv)
    test = read_test(options.test, train)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print("| seed | rows | C2ST | trend | shape | AUC | copies | but for fnlwgt |\n| --- | --- |" + " --: |" * 6)
    for seed in options.seeds:
        for name, rows, took in sources(train, test, seed):
            found = measured(train, rows, test, seed, options.xgboost, *["causes"] * options.causes)
            numbers = " | ".join(f"{found[measure]:.4f}" for measure in MEASURES)
            print(f"| {seed} | {name} | {numbers} | {' | '.join(f'{share:.2%}' for share in found['copies'])} |")
            say(f"seed {seed}, {name}: {took}; measured in {found['cpu']:.0f} CPU seconds; {found.get('causes', '')}")


if __name__ == "__main__":
    main()
