"""Columns that are finer than float32, in which models compute: what is scored, drawn and asked for is still right."""

import numpy as np
import pytest
import torch

import allegory as al
from allegory.command import main
from allegory.data.tables import to_numbers
from allegory.tabular import Schema
from allegory.tabular.findings import remarks
from allegory.tabular.resolution import Step, digits_of_float32, to_float32

CAP = 499_999.99


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Prices to the cent, a third of them the same."""
    torch.set_default_dtype(torch.float32)
    folder, generator = tmp_path_factory.mktemp("prices"), np.random.default_rng(0)
    prices = np.where(np.arange(400) % 3, np.exp(12.5 + 0.5 * generator.normal(size=400)).round(2), CAP)
    rows = (f"{price:.2f},{n}\n" for price, n in zip(prices, generator.poisson(9, 400), strict=True))
    (folder / "prices.csv").write_text("price,n\n" + "".join(rows))
    words = ["--epochs", "2", "--latent", "2", "--hidden", "8", "--out", str(folder / "run")]
    assert main(["train", str(folder / "prices.csv"), *words]) == 0
    return al.Run(folder / "run")


def test_what_is_no_point_is_none_in_float32_either():
    x = np.array([CAP, CAP + 0.01, CAP - 0.01, CAP + 0.02, 12.0, np.nan])
    single = to_float32(x, Step(0.01), (CAP,))
    assert single.dtype == np.float32
    assert (single == np.float32(CAP)).tolist() == [True, False, False, False, False, False]
    assert np.abs(single - x)[:5].max() < 0.05
    np.testing.assert_array_equal(to_float32(x, Step(0.01)), x.astype(np.float32))
    fine = np.array([9.2, 9.3])
    np.testing.assert_array_equal(to_float32(fine, Step(0.1), (9.2,)), fine.astype(np.float32))
    two = np.array([1e9, 1e9 + 1, 1e9 + 256])
    assert len(np.unique(to_float32(two, Step(1.0), (1e9, 1e9 + 256)))) == 3


def test_a_neighbour_of_a_point_has_not_its_mass(run, tmp_path):
    (tmp_path / "new.csv").write_text(f"price,n\n{CAP},9\n500000.00,9\n499999.98,9\n500001.00,9\n")
    cap, above, below, beside = run.score(tmp_path / "new.csv", cells=True)[:, 0].tolist()
    assert 0 < cap < 2
    assert above == pytest.approx(beside, abs=1e-3)
    assert below == pytest.approx(beside, abs=1e-3)
    assert beside > 15


def test_rows_meet_conditions_to_the_last_digit(run):
    prices = run.sample_rows(9, given={"price": 300_000.07})["price"]
    assert (prices == 300_000.07).all()
    prices = run.sample_rows(60, given={"price": (300_000.07, 300_000.09)})["price"]
    assert ((prices >= 300_000.07) & (prices <= 300_000.09)).all()
    frame = {"price": np.array([np.nan, 200_000.01, CAP]), "n": np.array([9, 9, 9])}
    filled = run.impute(frame, given={"price": (300_000.07, 300_000.08)})["price"]
    assert 300_000.07 <= filled[0] <= 300_000.08
    assert filled[1:].tolist() == [200_000.01, CAP]


def test_times_of_a_point_are_its_second():
    generator = np.random.default_rng(0)
    seconds = np.where(generator.random(600) < 0.3, 20_000_001, generator.integers(0, 4 * 10**7, 600))
    frame = {"t": np.datetime64("2024-01-01") + seconds.astype("m8[s]")}
    schema = Schema.infer(frame)
    (column,) = schema.columns
    assert len(column.points) == 1
    point = np.datetime64("2024-01-01") + np.timedelta64(20_000_001, "s")
    single = schema.decode(to_numbers(schema, frame).double())["t"]
    assert (single == point).mean() == (seconds == 20_000_001).mean()
    assert np.abs(single - frame["t"]).max() <= np.timedelta64(4, "s")
    assert (schema.decode(schema.encode(frame))["t"] == frame["t"]).all()
    assert digits_of_float32(np.array([20_000_000.0]), Step(1.0), (20_000_001.0,)) == 20_000_001  # one float32


def test_of_points_that_are_one_in_float32_the_more_frequent_is_one():
    generator = np.random.default_rng(0)
    x = np.exp(generator.normal(13, 1, 900)).round(2)
    x[::3], x[1::9], x[2::9] = 0.07, CAP, CAP + 0.01  # 0.07 is met most often, and near 0 in any case
    (column,) = Schema.infer({"a": x}).columns
    assert 0.07 in column.points
    assert len({np.float32(point) for point in column.points}) == len(column.points) == 2
    x[::3] = np.exp(generator.normal(13, 1, 300)).round(2)
    schema = Schema.infer({"a": x})
    (column,) = schema.columns
    assert len(column.points) == 2  # about what is taken off they are apart
    assert abs(float(column.origin) - CAP) < 1
    encoded = schema.encode({"a": x})
    np.testing.assert_array_equal(schema.decode(encoded)["a"], x)
    single = schema.decode(encoded.float().double())["a"]
    assert (single == CAP).sum() == (x == CAP).sum()
    assert (single == CAP + 0.01).sum() == (x == CAP + 0.01).sum()


def test_a_code_far_out_is_not_taken_off():
    x = np.random.default_rng(0).normal(size=900)
    x = np.where(np.arange(900) % 9, x.round(2), -1e7)
    (column,) = Schema.infer({"a": x}).columns
    assert (column.origin, column.points) == (0, (-1e7,))


def test_it_is_told():
    cents = np.exp(np.random.default_rng(0).normal(13, 1, 60)).round(2)
    (line,) = remarks({"a": cents}, Schema.infer({"a": cents}))
    assert "column 'a': its resolution is 0.01, but float32, in which models compute, tells its largest values" in line
    euros = (cents / 100).round(2)
    assert remarks({"a": euros}, Schema.infer({"a": euros})) == []
