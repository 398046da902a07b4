"""The benchmark of synthetic rows beside real ones, in small, and without the environment of XGBoost."""

import sys
from pathlib import Path

import numpy as np
import pytest

from allegory.tabular import Table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("age", "fnlwgt", "town", "income")


@pytest.fixture
def two_samples(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    import two_samples

    yield two_samples
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


def people(count=600):
    """Of age follow the town and, but for every tenth row, the income."""
    random = np.random.RandomState(0)
    age = random.randint(20, 24, count)
    rich = np.where(random.rand(count) < 0.1, random.rand(count) < 0.5, age > 21)
    town, income = np.array(["Rom", "Ulm"], object)[age % 2], np.array(["<=50K", ">50K"], object)[rich.astype(int)]
    return Table(dict(zip(NAMES, (age, random.permutation(10 * count)[:count], town, income), strict=True)))


def test_codes_come_back_as_the_values_or_within_their_range(two_samples):
    import masked_rows

    table, random = people(), np.random.RandomState(1)
    for name, column in table.items():
        coding = masked_rows.Coding.of(column)
        codes = coding.encode(column)
        assert codes.min() == 0
        assert codes.max() == len(coding) - 1
        back = coding.decode(codes, random)
        if name == "fnlwgt":
            assert len(coding) == masked_rows.VALUES
            assert np.bincount(codes).max() <= 2 * np.bincount(codes).min()
            assert (coding.encode(back) == codes).all()
            assert (back.min() >= column.min(), back.max() <= column.max()) == (True, True)
        else:
            assert (back == column).all()


def test_a_masked_diffusion_draws_rows_of_the_table(two_samples, monkeypatch):
    import masked_rows

    monkeypatch.setattr(masked_rows, "VALID", 100)
    monkeypatch.setattr(masked_rows, "MASKED", {"width": 32, "blocks": 1})
    table = people()
    rows, took = two_samples.masked(table, 0, epochs=20, batch_size=50, lr=1e-2)
    assert list(rows) == list(table)
    assert [column.dtype.kind for column in rows.values()] == ["i", "i", "O", "O"]
    assert {len(column) for column in rows.values()} == {600}
    agree = (rows["town"] == np.array(["Rom", "Ulm"], object)[rows["age"] % 2]).mean()
    assert agree > 0.9
    apart = two_samples.independent(table, 0)
    assert abs((apart["town"] == np.array(["Rom", "Ulm"], object)[apart["age"] % 2]).mean() - 0.5) < 0.1
    assert "ELBO of the codes" in took
    wild = Table({**rows, "age": rows["age"] * 10})
    kept = two_samples.within(wild, table)
    assert set(kept["age"]) == {23}
    assert list(kept) == list(table)
    assert (kept["town"] == rows["town"]).all()


WORKER = """#!{python}
import csv, json, sys
worker, real, rows, test, seed = sys.argv[1:6]
found = [list(csv.reader(open(path))) for path in (real, rows, test)]
print(json.dumps(dict(worker=worker, heads=[t[0] for t in found], counts=[len(t) - 1 for t in found], seed=seed)))
"""


def test_the_worker_is_given_the_rows_and_copies_are_counted(two_samples, tmp_path):
    python = tmp_path / "python"
    python.write_text(WORKER.format(python=sys.executable))
    python.chmod(0o755)
    (tmp_path / "test.csv").write_text("30, 7, Rom, <=50K.\n31, 8, Ulm, >50K.\n")
    table = people()
    test = two_samples.read_test(tmp_path / "test.csv", table)
    assert test["income"].tolist() == ["<=50K", ">50K"]
    half = Table({name: np.concatenate([column[:300], column[300:][::-1]]) for name, column in table.items()})
    half["fnlwgt"][:150] = -1
    found = two_samples.measured(table, half, test, 3, python)
    assert found["heads"] == [list(NAMES)] * 3
    assert (found["counts"], found["seed"]) == ([600, 600, 2], "3")
    assert found["copies"] == (0.75, 1.0)
    assert Path(found["worker"]).is_file()
