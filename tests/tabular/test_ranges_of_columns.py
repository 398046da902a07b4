"""Conditions on columns: values, ranges and gaps as numbers x, against the rows that meet them."""

import datetime

import numpy as np
import pytest

from allegory.data.ranges import Range, as_range, parse_conditions
from allegory.tabular import Schema
from allegory.tabular.conditions import in_x

ROWS = 400


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    days = np.datetime64("2020-02-01") + rng.integers(0, 300, ROWS)
    return {
        "age": rng.integers(17, 90, ROWS),
        "price": rng.gamma(2, 30, ROWS).round(2) + 0.01,
        "depth": rng.normal(size=ROWS),
        "far": 1e7 + rng.integers(0, 500, ROWS) / 4,
        "day": days.astype("datetime64[s]"),
        "smokes": rng.integers(0, 2, ROWS),
        "town": np.array(["Rom", "Ulm", "Bern"], object)[rng.integers(0, 3, ROWS)],
    }


RANGES = [
    "age>=30", "age>30", "age<30.5", "price>99.99", "price<=12.34", "depth>0.5", "far<10000020.25", "far>10000050",
    "day>=2020-05-01", "day<2020-05-01", "smokes>=1", "smokes<1",
]  # fmt: skip


@pytest.mark.parametrize("text", RANGES)
def test_a_range_has_the_rows_that_lie_in_it(frame, text):
    schema = Schema.infer(frame)
    ((name, wanted),) = parse_conditions([text], list(frame)).items()
    column = next(column for column in schema.columns if column.name == name)
    low, high = in_x(column, wanted.low, wanted.high, wanted.above, wanted.below)
    x = schema.encode(frame)[:, schema.names.index(name)].float().double()
    value = wanted.low if wanted.high is None else wanted.high
    value = np.datetime64(value) if name == "day" else float(value)
    compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}
    meets = compare[text[len(name) :][: 2 if "=" in text else 1]](frame[name], value)
    assert ((x >= low) & (x <= high)).numpy().tolist() == meets.tolist()
    assert 0 < meets.sum() < ROWS


def test_a_value_is_its_number_whatever_its_type(frame):
    columns = {column.name: column for column in Schema.infer(frame).columns}
    assert in_x(columns["age"], 30, 30) == in_x(columns["age"], "30", "30") == in_x(columns["age"], 30.0, 30.0)
    assert in_x(columns["smokes"], 1, 1) == in_x(columns["smokes"], 1.0, 1.0) == in_x(columns["smokes"], "1", "1")
    assert in_x(columns["day"], "2020-05-01", "2020-05-01") == (in_x(columns["day"], datetime.datetime(2020, 5, 1),
                                                                     datetime.datetime(2020, 5, 1)))  # fmt: skip
    assert in_x(columns["town"], "Ulm", "Ulm") == (2.0, 2.0)
    (price, again) = in_x(columns["price"], "12.34", "12.34")
    assert price == again == pytest.approx(12.34)


def test_what_no_row_can_meet_is_refused(frame):
    columns = {column.name: column for column in Schema.infer(frame).columns}
    for name, wanted, words in [
        ("age", Range("30.2", "30.8"), "no row can lie at or above 30.2 and at or below 30.8, whose resolution is 1"),
        ("age", Range("40", "30"), "no row can lie at or above 40 and at or below 30$"),
        ("age", Range(None, "0", below=True), "no row can lie below 0, which is beyond 0 .."),
        ("age", Range("young", None), "'young' where a count is wanted"),
        ("age", Range("nan", None), "'nan' where a finite number is wanted"),
        ("day", Range("May", None), "'May' where a datetime is wanted"),
        ("smokes", Range("2", None), "no row can lie at or above 2; there are 0, 1"),
        ("town", Range("Bern", None), "its values have no order"),
    ]:
        with pytest.raises(ValueError, match=words):
            in_x(columns[name], wanted.low, wanted.high, wanted.above, wanted.below)


def test_the_order_of_a_type_counts():
    pandas = pytest.importorskip("pandas")
    sizes = pandas.Categorical(["S", "L", "M", "S"] * 20, categories=["S", "M", "L"], ordered=True)
    (column,) = Schema.infer(pandas.DataFrame({"size": sizes})).columns
    assert in_x(column, "M", None) == (1.0, 2.0)
    assert in_x(column, None, "M", below=True) == (0.0, 0.0)
    with pytest.raises(ValueError, match="no row can lie above L; there are S, M, L"):
        in_x(column, "L", None, above=True)


def test_a_pair_is_a_range_with_both_ends():
    assert as_range((1, None)) == Range(1)
    assert as_range([1, 2]) is None
