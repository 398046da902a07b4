"""What a column is found to be, what is refused by name, what can be said, and what is said at use."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from allegory.tabular import Schema

R = np.random.default_rng(0)
N = 200
WORDS = np.array(["Rom", "Ulm", "Köln"], object)[np.arange(N) % 3]
KINDS = {
    "real": (R.normal(size=N), "real"),
    "whole and negative": (R.integers(-999, 999, N), "real"),
    "positive": (R.lognormal(size=N), "positive"),
    "count": (R.integers(0, 999, N), "count"),
    "few whole numbers": (R.integers(3, 9, N), "count"),
    "truth": (R.random(N) < 0.5, "binary"),
    "0 and 1": (np.arange(N) % 2, "binary"),
    "1 and 2": (np.arange(N) % 2 + 1, "binary"),
    "text": (WORDS, "categorical"),
    "text of numbers": (WORDS, "categorical"),
    "two words": (np.array(["a", "b"], object)[np.arange(N) % 2], "categorical"),
    "time": (np.datetime64("2021-01-01") + np.arange(N), "datetime"),
    "the same": (np.full(N, 3.5), "constant"),
    "missing": (np.full(N, np.nan), "constant"),
    "few reals": (R.normal(size=3)[np.arange(N) % 3], "categorical"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_found_in_the_values(name):
    values, kind = KINDS[name]
    assert Schema.infer({"a": values, "b": R.normal(size=N)}).columns[0].kind == kind


def test_nothing_depends_on_the_order_of_the_rows():
    frame = {name: values for name, (values, _) in KINDS.items()}
    order = R.permutation(N)
    assert Schema.infer(frame) == Schema.infer({name: values[order] for name, values in frame.items()})


IDS = {
    "id": (np.arange(N), "without a hole"),
    "row": (R.permutation(N) + 1, "without a hole"),
    "customer_id": (np.arange(N) * 7 + 100_000, "all different"),
    "name": (np.array([f"Mr {i}" for i in range(N)], object), "text, 200 different values in 200 rows"),
    "uuid": (np.array([f"{R.bytes(8).hex()}" for _ in range(N)], object), "text, 200 different"),
}


def test_columns_that_only_tell_rows_apart_are_refused_by_name_all_at_once():
    frame = {name: values for name, (values, _) in IDS.items()} | {"x": R.normal(size=N), "town": WORDS}
    with pytest.raises(ValueError, match="only tell the rows apart") as caught:
        Schema.infer(frame)
    for name, (_, why) in IDS.items():
        assert repr(name) in str(caught.value)
        assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    schema = Schema.infer(frame, drop=list(IDS))
    assert schema.names == ("x", "town")
    torch.testing.assert_close(schema.encode(frame), schema.encode({"x": frame["x"], "town": WORDS}), rtol=0, atol=0)
    assert len(Schema.infer({"id": IDS["name"][0]}, columns={"id": "categorical"}).columns[0].values) == N


def test_times_and_numbers_that_grow_are_no_ids():
    Schema.infer({"year": np.arange(1800, 2000) * 2, "t": np.arange(N) * 0.5, "price": np.arange(N) ** 2})


def test_a_kind_and_a_resolution_can_be_said():
    frame = {"zip": R.integers(1, 99, N) * 100, "price": R.integers(1, 9999, N) / 20, "grade": WORDS}
    schema = Schema.infer(frame, columns={"zip": "categorical", "grade": "ordinal"}, resolution={"price": 0.01})
    assert [column.kind for column in schema.columns] == ["categorical", "positive", "ordinal"]
    assert schema.columns[1].resolution == 0.01
    decoded = schema.decode(schema.encode(frame))
    np.testing.assert_array_equal(decoded["zip"], frame["zip"])
    assert decoded["zip"].dtype == np.int64


@pytest.mark.parametrize(
    ("frame", "options", "said"),
    [
        ({"a": WORDS}, {"columns": {"b": "count"}}, "columns: no column 'b' in the frame; it has 'a'"),
        ({"a": WORDS}, {"drop": ["b"]}, "drop: no column 'b'"),
        ({"a": WORDS}, {"gaps": {"b": [1]}}, "gaps: no column 'b'"),
        ({"a": WORDS}, {"resolution": {"b": 1.0}}, "resolution: no column 'b'"),
        ({"a": WORDS}, {"drop": ["a"]}, "no columns"),
        ({"a": WORDS}, {"columns": {"a": "odd"}}, "kind is 'odd'; wanted one of real"),
        ({"a": WORDS}, {"columns": {"a": "real"}}, "said to be real, and holds 'Köln'"),
        ({"a": WORDS}, {"columns": {"a": "constant"}}, "said to be constant"),
        ({"a": WORDS}, {"columns": {"a": "binary"}}, "binary with 3 values; wanted 2"),
        ({"a": R.normal(size=N)}, {"columns": {"a": "count"}}, "said to be count, and holds"),
        ({"a": R.random(N)}, {"columns": {"a": "count"}}, "not whole"),
        ({"a": R.random(N)}, {"columns": {"a": "circular"}}, "sine and the cosine as two columns"),
        ({"a": R.random(N)}, {"columns": {"a": "datetime"}}, "said to be datetime, and holds numbers"),
        ({"a": R.random(N)}, {"resolution": {"a": -1.0}}, "resolution is -1.0; wanted a number above 0"),
        ({"a": KINDS["time"][0]}, {"columns": {"a": "categorical"}}, "holds times; convert them to text"),
        ({"a": np.array([1.0, np.inf])}, {}, "column 'a': holds an infinite number"),
        ({"a": np.array([1j, 2])}, {}, "column 'a': dtype complex128 is not taken; give its real and imaginary parts"),
        ({"a": np.array([b"x"])}, {}, "column 'a': .*astype"),
        ({"a": [{"x": 1}]}, {}, "column 'a': holds objects"),
        ({"a": [Decimal("1.23456789012345678901"), Decimal(2)]}, {}, "column 'a': holds the Decimal 1.234567"),
        ({"a": [(1, 2), (3, 4)]}, {}, "column 'a': holds objects of type tuple"),
        ({"a": [True, "x"]}, {}, "column 'a': holds objects of type bool, str"),
        ({"a": np.array([2**64 - 1], np.uint64)}, {}, "too large for a number"),
        ({"a": np.array([1, 2**53 + 3])}, {"columns": {"a": "real"}}, "column .a.: holds 9007199254740995"),
        ({"a": np.array([2**53 + 1, 0.5], object)}, {}, "column 'a': holds 9007199254740993, of which float64 has"),
        (pl.DataFrame({"a": pl.Series([10**20, 1], dtype=pl.Int128)}), {}, "column 'a': type Int128 holds larger"),
        (
            pl.DataFrame({"a": pl.Series([None, Decimal("12345678901234567.89")], dtype=pl.Decimal(38, 2))}),
            {},
            "column 'a': holds the Decimal 12345678901234567.89, which float64 does not",
        ),
        (pa.table({"a": pa.array([Decimal(10**18 + 1), Decimal(1)])}), {}, "column 'a': holds the Decimal 10000000"),
        ({"a": R.integers(2**60, 2**62, N)}, {}, "column 'a': .*drop it if it only tells the rows apart"),
        ({"a": [f"{i % 28 + 1}.{i % 12 + 1}.2021" for i in range(84)]}, {}, "dates, such as '1.1.2021'; convert"),
        ({"a": [1], "b": [1, 2]}, {}, "columns of 1, 2 rows"),
        ({"a": np.zeros((3, 2))}, {}, r"column 'a': an array of shape \(3, 2\)"),
        ({("a", "b"): [1]}, {}, "a column is called"),
        (np.zeros(3), {}, r"an array of shape \(3,\); wanted a table"),
        (3, {}, "int is no table; wanted a frame of pandas, polars or pyarrow"),
        (pl.DataFrame({"a": [1]}).lazy(), {}, "collect"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "stand twice in the frame: 'a'"),
        (pa.table([[1], [2]], names=["a", "a"]), {}, "stand twice in the frame: 'a'"),
        (pd.DataFrame({"a": pd.period_range("2021", periods=3, freq="M")}), {}, "type period.M. is not taken"),
        (pd.DataFrame({"a": pd.cut(np.arange(9.0), 3)}), {}, r"rename_categories\(str\)"),
        (pl.DataFrame({"a": [[1], [2]]}), {}, "type List"),
        (pa.table({"a": pa.array([1, 2], pa.time32("s"))}), {}, "circular: give its sine and cosine"),
        ({"a": np.array(["2021-01-01", "9999-12-31"], "M8[D]")}, {}, "outside of the years 1678 to 2261; .*gaps="),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(frame, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        Schema.infer(frame, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [dict, pd.DataFrame, lambda c: pl.DataFrame({k: v.tolist() for k, v in c.items()})])
def test_codes_of_gaps_are_gaps_and_come_back(make):
    days = np.where(np.arange(N) % 5, np.datetime64("2021-01-01") + np.arange(N) % 50, np.datetime64("9999-12-31"))
    frame = make(
        {
            "job": np.where(np.arange(N) % 9, WORDS, "?"),
            "age": np.where(np.arange(N) % 7, R.integers(17, 90, N), -999),
            "day": days.astype("M8[s]"),
        }
    )  # fmt: skip
    schema = Schema.infer(frame, gaps=["?", -999, "9999-12-31"])
    x = schema.encode(frame)
    assert torch.isnan(x).sum(0).tolist() == [23, 29, 40]
    assert "?" not in schema.columns[0].values
    decoded = schema.decode(x)
    assert list(decoded["job"]) == list(frame["job"])
    assert list(decoded["age"]) == list(frame["age"])
    by_name = Schema.infer(frame, gaps={"job": ["?"], "day": ["9999-12-31"]})
    assert torch.isnan(by_name.encode(frame)).sum(0).tolist() == [23, 0, 40]


def test_a_category_never_seen_is_warned_of_and_has_a_code_of_its_own():
    schema = Schema.infer({"town": WORDS, "yes": np.arange(N) % 2, "x": R.normal(size=N)})
    new = {"town": np.array(["Rom", "Bonn", None, "Bonn"], object), "yes": [0, 1, 1, 0], "x": [0.0] * 4}
    with pytest.warns(UserWarning, match="column 'town': 2 values were never seen, 'Bonn'; .*one value never seen"):
        x = schema.encode(new)
    assert x[:, 0].nan_to_num(-1).tolist() == [1, 3, -1, 3]
    assert schema.decode(x)["town"].tolist() == ["Rom", None, None, None]
    with pytest.raises(ValueError, match=r"column 'town': 2 values were never seen, 'Bonn'$"):
        schema.encode(new, strict=True)
    with pytest.warns(UserWarning, match="column 'yes': 1 values were never seen, 2; they are taken as gaps"):
        assert torch.isnan(schema.encode(new | {"town": ["Rom"] * 4, "yes": [0, 2, 1, 1]})[1, 1])


def test_another_value_of_a_constant_column_is_warned_of():
    schema = Schema.infer({"unit": np.full(N, "mm", object), "x": R.normal(size=N)})
    with pytest.warns(UserWarning, match="column 'unit': 1 values were never seen, 'cm'"):
        schema.encode({"unit": ["cm"], "x": [0.0]})


def test_numbers_that_the_model_has_no_place_for_are_warned_of():
    capped = np.minimum(R.integers(0, 999, N), 600)
    schema = Schema.infer({"n": capped, "x": R.normal(size=N)})
    with pytest.warns(UserWarning, match="column 'n': 0.7 is finer than its resolution 1; rounded to it"):
        assert schema.encode({"n": [0.7, 3], "x": [0.0, 0.0]})[:, 0].tolist() == [1, 3]
    with pytest.warns(UserWarning, match="column 'n': -3 is beyond 0; taken as it, which stands for all beyond"):
        assert schema.encode({"n": [-3, 3], "x": [0.0, 0.0]})[:, 0].tolist() == [0, 3]
    with pytest.warns(UserWarning, match="column 'n': 2 values, such as 700, are beyond 600"):
        assert schema.encode({"n": [700, 800], "x": [0.0, 0.0]})[:, 0].tolist() == [600, 600]
    with pytest.raises(ValueError, match=r"-3 is beyond 0$"):
        schema.encode({"n": [-3, 3], "x": [0.0, 0.0]}, strict=True)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"x": [0.0], "n": [1]}, "the frame has no column 'town'"),
        ({"x": [0.0], "n": [1], "town": ["Rom"], "y": [1]}, "the frame has 'y', which the schema does not know"),
        ({"x": [0.0], "n": [1], "Town": ["Rom"]}, "no column 'town', and has 'Town'"),
        ({"x": ["a"], "n": [1], "town": ["Rom"]}, "column 'x': 'a' where numbers are wanted"),
        ({"x": ["3", "n/k"], "n": [1, 1], "town": ["Rom", "Ulm"]}, "column 'x': 'n/k' where numbers are wanted"),
        ({"x": ["3", "4"], "n": [1, 1], "town": ["Rom", "Ulm"]}, "column 'x': '3' where numbers are wanted"),
        ({"x": [0.0], "n": [1], "town": [3]}, "column 'town': 3 where values such as 'Köln' are wanted"),
    ],
)
def test_a_frame_of_other_columns_is_refused_by_their_names(frame, said):
    schema = Schema.infer({"x": R.normal(size=N), "n": R.integers(0, 999, N), "town": WORDS})
    with pytest.raises(ValueError, match=said):
        schema.encode(frame)


def test_one_row_with_one_value_missing_is_encoded():
    schema = Schema.infer(pd.DataFrame({"n": R.integers(0, 999, N), "town": WORDS}))
    x = schema.encode(pd.DataFrame({"n": [None], "town": ["Ulm"]}))
    assert x[0, 1] == 2
    assert torch.isnan(x[0, 0])


@pytest.mark.parametrize("unit", ["ns", "us", "ms", "s"])
def test_float32_holds_times(unit):
    start = np.datetime64("2024-02-29T12:00", unit)
    times = start + (R.integers(0, 86_400, N) * np.timedelta64(1, "s")).astype(f"m8[{unit}]")
    schema = Schema.infer({"t": times, "day": start.astype("M8[D]") + np.arange(N) % 90})
    assert [column.unit for column in schema.columns] == ["s", "D"]
    assert [column.resolution for column in schema.columns] == [1, 1]
    decoded = schema.decode(schema.encode({"t": times, "day": start.astype("M8[D]") + np.arange(N) % 90}).float())
    np.testing.assert_array_equal(decoded["t"], times)


def test_float32_tells_large_whole_numbers_apart():
    numbers = 17 * 10**8 + R.integers(0, 10**5, N)
    schema = Schema.infer({"n": numbers, "m": numbers / 100})
    x = schema.encode({"n": numbers, "m": numbers / 100}).float()
    decoded = schema.decode(x)
    np.testing.assert_array_equal(decoded["n"], numbers)
    np.testing.assert_array_equal(decoded["m"], numbers / 100)


def test_numbers_are_rounded_to_the_resolution():
    frame = {"n": R.integers(0, 999, N), "cents": R.lognormal(8, 1, N).round(2), "x": R.normal(size=N)}
    decoded = Schema.infer(frame).decode(torch.tensor([[3.4, 2.004, 0.123456789]], dtype=torch.float64))
    assert [column.tolist() for column in decoded.values()] == [[3], [2.0], [0.123456789]]


def test_codes_that_are_none_are_gaps():
    schema = Schema.infer({"town": WORDS, "yes": np.arange(N) % 2 == 0, "x": R.normal(size=N)})
    decoded = schema.decode(torch.tensor([[-1.0, 2.0, 0.0], [0.4, 0.6, 0.0], [9.0, -7.0, 0.0]]))
    assert decoded["town"].tolist() == [None, "Köln", None]
    np.testing.assert_array_equal(decoded["yes"], [np.nan, 1, np.nan])


@pytest.mark.parametrize(
    ("x", "said"),
    [(torch.zeros(3, 1), r"x has shape \(3, 1\); wanted \(N, 2\)"), (torch.full((1, 2), torch.inf), "infinite")],
)
def test_x_of_another_shape_is_refused(x, said):
    with pytest.raises(ValueError, match=said):
        Schema.infer({"n": R.integers(0, 999, N), "town": WORDS}).decode(x)


def test_a_column_can_be_described_otherwise():
    schema = Schema.infer({"n": R.integers(0, 999, N), "town": WORDS})
    edited = schema.with_column("n", kind="real", low=None, resolution=5, points=[0])
    assert edited.columns[0].kind == "real"
    assert edited.columns[0].points == (0,)
    assert schema.columns[0].kind == "count"
    assert edited.with_column("town", kind="ordinal", values=["Ulm", "Rom", "Köln"]).columns[1].values[0] == "Ulm"
    for changes, said in (
        ({"kind": "categorical"}, "categorical with 0 values; wanted 1 or more: infer the schema with columns="),
        ({"colour": 1}, "a column has no 'colour'; it has name, kind"),
        ({"resolution": "fine"}, "resolution is 'fine'; wanted float"),
        ({"low": 3.0, "high": 1.0}, "low is 3.0 and high is 1.0; wanted low below high"),
        ({"kind": "circular"}, "circular"),
        ({"kind": "datetime"}, "unit is ''; wanted one of D, s"),
    ):
        with pytest.raises(ValueError, match=f"column 'n'.*{said}"):
            schema.with_column("n", **changes)
    with pytest.raises(ValueError, match="no column 'm'"):
        schema.with_column("m", kind="real")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain.pop("columns"), "wanted an object with a list of columns"),
        (lambda plain: plain.update(container="excel"), "container is 'excel'"),
        (lambda plain: plain.update(dropped="id"), "dropped is 'id'"),
        (lambda plain: plain["columns"].append(3), " is 3; wanted an object"),
        (lambda plain: plain["columns"].append(plain["columns"][0]), "'n' stands twice"),
        (lambda plain: plain["columns"][0].pop("kind"), "column 'n' has no kind"),
        (lambda plain: plain["columns"][0].update(colour=1), "unknown field 'colour'"),
        (lambda plain: plain["columns"][0].update(rows="many"), "rows is 'many'; wanted int"),
        (lambda plain: plain["columns"][0].update(resolution=float("nan")), "resolution is nan"),
        (lambda plain: plain["columns"][0].update(points=["a"]), "points is"),
        (lambda plain: plain["columns"][0].update(range=[1]), "range is"),
        (lambda plain: plain["columns"][1].update(values=["a", "a"]), "stands twice in values"),
        (lambda plain: plain["columns"][1].update(values=[["a"]]), "values is"),
        (lambda plain: plain["columns"][1].update(ordered=1), "ordered is 1; wanted bool"),
    ],
)
def test_json_that_is_no_schema_is_refused_in_one_line(change, said):
    plain = json.loads(json.dumps(Schema.infer({"n": R.integers(0, 999, N), "town": WORDS}).to_json()))
    change(plain)
    with pytest.raises(ValueError, match=f"^schema.*{said}") as caught:
        Schema.from_json(plain)
    assert "\n" not in str(caught.value)


def test_a_schema_is_printed_as_a_table():
    frame = {name: values for name, (values, _) in KINDS.items()} | {
        "job": np.where(np.arange(N) % 9, WORDS, "?"),
        "id": np.arange(N),
    }
    schema = Schema.infer(frame, gaps=["?"], drop=["id"])
    lines = str(schema).splitlines()
    assert len(lines) == len(schema.columns) + 2
    assert max(map(len, lines)) < 200
    assert lines[-1] == "dropped: id"
    text = str(schema)
    for part in ("2021-01-01 .. 2021-07-19", "categorical(3 + 1)", "0.12 ('?')", "bernoulli", "again and again"):
        assert part in text
    assert repr(schema).startswith("Schema(16 columns of 200 rows: 5 categorical, 3 binary, 2 constant, ")
