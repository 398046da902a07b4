r"""Synthetic rows of Adult in place of real ones: what classifiers learn from them about real rows that were held out.

    OMP_NUM_THREADS=1 python benchmarks/synthetic.py adult.csv --splits 2022 2023 2024 2025 2026

Protocol of adversarial random forests (Watson et al. 2023): 22,694 rows to learn from and 9,867 to test on, stratified
by income; as many synthetic rows as training rows; four classifiers learn from them to tell incomes above 50,000, and
are tested on real rows. Accuracy, and F1 of the incomes above 50,000, are means of the four. The classifiers are those
of the package sdmetrics that the paper used: a tree of depth 15, AdaBoost, logistic regression and a perceptron, on
categories as zeros and ones, and numbers in units of their quartiles. AdaBoost was SAMME.R then, which scikit-learn has
since given up, so that it stands here.

    copy           the training rows themselves: what real rows of that number teach
    independent    each column of the training rows in an order of its own
    allegory       the model of adult.py in its one setting: an income by its frequency, other columns given that; the
                   last 2,049 training rows choose the epoch
    masked         where --masked says so: a masked diffusion in its one setting, see masked_rows.py; it, too, is told
                   which column is the label, which comes first in each row
    ARF            where --arf says so: adversarial random forests in an environment of their own, see arf_worker.py

Copies: the share of rows that are a training row, in all columns, and in all but fnlwgt, a weight that hardly comes
twice; of rows held out, too, which are no copies.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adult import LABEL, POSITIVE, Floats, Table, take, trained
from masked_rows import masked
from numpy.typing import NDArray
from sides import machine, say
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import OneHotEncoder, RobustScaler
from sklearn.tree import DecisionTreeClassifier

from allegory.tabular import read_frame

HELD_OUT, STUMPS = 10 / 33, 50


class AdaBoost:
    """SAMME.R with stumps and two classes (Zhu et al. 2009)."""

    def fit(self, x: Floats, y: NDArray[np.bool_]) -> AdaBoost:
        self.stumps, weight = [], np.full(len(x), 1 / len(x))
        for _ in range(STUMPS):
            self.stumps.append(DecisionTreeClassifier(max_depth=1, random_state=0).fit(x, y, weight))
            weight = weight * np.exp(-0.5 * np.where(y, 1, -1) * self._log_odds(self.stumps[-1], x))
            weight /= weight.sum()
        return self

    def predict(self, x: Floats) -> NDArray[np.bool_]:
        return sum(self._log_odds(stump, x) for stump in self.stumps) > 0

    @staticmethod
    def _log_odds(stump: DecisionTreeClassifier, x: Floats) -> Floats:
        log_p = np.log(stump.predict_proba(x).clip(np.finfo(float).eps))
        return log_p[:, 1] - log_p[:, 0]


def classifiers(seed: int) -> dict[str, Any]:
    return {
        "tree": DecisionTreeClassifier(max_depth=15, class_weight="balanced", random_state=seed),
        "AdaBoost": AdaBoost(),
        "logistic": LogisticRegression(solver="lbfgs", class_weight="balanced", max_iter=50),
        "perceptron": MLPClassifier((50,), max_iter=50, random_state=seed),
    }


def lessons(rows: Table, test: Table, seed: int) -> Floats:
    """(4, 2) accuracy and F1 on test rows of classifiers that learn from rows."""
    inputs = [name for name in test if name != LABEL]
    numbers = [name for name in inputs if test[name].dtype.kind in "if"]
    words = [name for name in inputs if name not in numbers]

    def categories(frame: Table) -> NDArray[Any]:
        return np.stack([frame[name].astype(str) for name in words], 1)

    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(categories(test))
    encoded = [
        np.concatenate([np.stack([frame[name] for name in numbers], 1), encoder.transform(categories(frame))], 1)
        for frame in (rows, test)
    ]
    scaler = RobustScaler().fit(encoded[0])
    x, x_test = map(scaler.transform, encoded)
    y, y_test = rows[LABEL] == POSITIVE, test[LABEL] == POSITIVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [classifier.fit(x, y).predict(x_test) for classifier in classifiers(seed).values()]
    return np.array([(accuracy_score(y_test, p), f1_score(y_test, p)) for p in found])


def copies(rows: Table, train: Table) -> tuple[float, float]:
    """The share of rows that are a training row, in all columns, and in all but fnlwgt."""

    def keys(frame: Table, but: str = "") -> list[tuple[Any, ...]]:
        return list(zip(*(frame[name].tolist() for name in train if name != but), strict=True))

    shares = []
    for but in ("", "fnlwgt"):
        known = set(keys(train, but))
        shares.append(float(np.mean([key in known for key in keys(rows, but)])))
    return shares[0], shares[1]


def independent(train: Table, seed: int) -> Table:
    generator = np.random.RandomState(seed)
    return Table({name: generator.permutation(column) for name, column in train.items()})


def synthetic(train: Table, seed: int) -> tuple[Table, str]:
    """As many rows of a model as it learned from, and what the training took."""
    ours = trained(train, seed)
    torch.manual_seed(seed)
    return ours.sample(len(train[LABEL])), str(ours)


def forests(train: Table, seed: int, python: Path) -> tuple[Table, str]:
    """As many rows of adversarial random forests, and what they took."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "train.csv"), Path(folder, "rows.csv")
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([train, *zip(*(column.tolist() for column in train.values()), strict=True)])
        command = [python, Path(__file__).with_name("arf_worker.py"), source, out, seed]
        seconds = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.strip()
        return read_frame(out), f"forests in {seconds} CPU seconds"


def measured(
    frame: Table, split: int, arf: Path | None, diffusion: bool
) -> dict[str, tuple[Floats, tuple[float, float]]]:
    """Of each source of rows the lessons and the copies, in one split; of the rows held out the copies."""
    both = train_test_split(np.arange(len(frame[LABEL])), test_size=HELD_OUT, stratify=frame[LABEL], random_state=split)
    train, test = (take(frame, rows) for rows in both)
    drawn, took = synthetic(train, split)
    sources = {"copy": train, "independent": independent(train, split), "allegory": drawn}
    if diffusion:
        sources["masked"], also_took = masked(train, split, LABEL)
        took = f"{took}; masked: {also_took}"
    if arf:
        sources["ARF"], forests_took = forests(train, split, arf)
        took = f"{took}; {forests_took}"
    found = {"held out": (np.full((4, 2), np.nan), copies(test, train))}
    for name, rows in sources.items():
        found[name] = lessons(rows, test, split), copies(rows, train)
        say(f"split {split}, {name}: mean {found[name][0].mean(0).round(4)}, each {found[name][0].round(4).tolist()}")
    say(f"split {split}: {took}; copies { ({name: shares for name, (_, shares) in found.items()}) }")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="adult.csv, or .csv.gz, with a header")
    parser.add_argument("--splits", type=int, nargs="+", default=range(2022, 2027), help="seeds of the splits")
    parser.add_argument("--arf", type=Path, help="Python of an environment that has arfpy")
    parser.add_argument("--masked", action="store_true", help="rows of a masked diffusion, too")
    options = parser.parse_args()
    frame = read_frame(options.csv)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    found = [measured(frame, split, options.arf, options.masked) for split in options.splits]
    header = " | ".join((*classifiers(0), "mean", "deviation", "copies", "but for fnlwgt"))
    print(f"\n| accuracy / F1 of >50K | {header} |\n| --- |{' --- |' * 8}")
    for name in found[0]:
        learned = np.array([split[name][0] for split in found])
        mean, deviation = learned.mean(0), learned.mean(1).std(0)
        cells = [f"{accuracy:.4f} / {f1:.4f}" for accuracy, f1 in (*mean, mean.mean(0), deviation)]
        cells += [f"{share:.2%}" for share in np.mean([split[name][1] for split in found], 0)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
