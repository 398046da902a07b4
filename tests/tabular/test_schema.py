"""decode(encode(frame)) is the frame, in every library and for all that people bring; a schema is JSON and back."""

import decimal
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from allegory.tabular import Schema
from allegory.tabular.filling import fill

R = np.random.default_rng(0)
DAYS = pd.date_range("2021-01-03", periods=60, freq="D")
WORDS = np.array(["Rom", "Ulm", "Köln", "São Paulo"], object)[R.integers(0, 4, 60)]


def some(values, missing, marker=None):
    """The values as objects, some of them missing."""
    out = np.array(values, object)
    out[:: missing or len(out) + 1] = marker
    return out


PANDAS = {
    "decimals": lambda: pd.DataFrame(
        {
            "a": [None if i % 9 == 0 else decimal.Decimal(i * 37 % 991) / 100 for i in range(60)],
            "two": [decimal.Decimal("0.1"), decimal.Decimal("0.25")] * 30,
        }
    ),
    "whole": lambda: pd.DataFrame({"a": R.integers(0, 99, 60), "b": R.integers(-500, 500, 60)}),
    "real": lambda: pd.DataFrame({"a": R.normal(size=60), "b": R.lognormal(8, 1, 60)}),
    "cents": lambda: pd.DataFrame({"a": R.lognormal(8, 1, 60).round(2), "b": np.arange(60) * 0.05}),
    "float rounding": lambda: pd.DataFrame({"a": R.integers(0, 200, 60) * 0.1}),
    "float with gaps": lambda: pd.DataFrame({"a": np.where(np.arange(60) % 7, R.normal(size=60), np.nan)}),
    "whole with gaps as float": lambda: pd.DataFrame({"a": np.where(np.arange(60) % 7, np.arange(60.0) ** 2, np.nan)}),
    "small types": lambda: pd.DataFrame(
        {
            "i8": R.integers(-99, 99, 60).astype("int8"),
            "u16": R.integers(0, 9999, 60).astype("uint16"),
            "f32": R.normal(size=60).astype("float32"),
            "f16": R.normal(size=60).astype("float16"),
        }
    ),
    "nullable": lambda: pd.DataFrame(
        {
            "i": pd.array(some(R.integers(0, 999, 60), 7, pd.NA), "Int64"),
            "f": pd.array(some(R.normal(size=60), 7, pd.NA), "Float64"),
            "b": pd.array(some(R.random(60) < 0.5, 7, pd.NA), "boolean"),
            "s": pd.array(some(WORDS, 7, pd.NA), "string"),
        }
    ),
    "large whole": lambda: pd.DataFrame(
        {"a": 2**60 + R.integers(0, 9999, 60), "b": 17 * 10**8 + R.integers(0, 99, 60)}
    ),
    "booleans": lambda: pd.DataFrame(
        {"a": R.random(60) < 0.3, "b": R.integers(0, 2, 60), "c": R.integers(0, 2, 60) * 1.0}
    ),
    "text": lambda: pd.DataFrame({"a": WORDS, "b": pd.Series(WORDS, dtype=object)}),
    "text with None": lambda: pd.DataFrame({"a": pd.Series(some(WORDS, 5), dtype=object)}),
    "text with NaN": lambda: pd.DataFrame({"a": pd.Series(some(WORDS, 5, np.nan), dtype=object), "b": some(WORDS, 6)}),
    "text with NA": lambda: pd.DataFrame({"a": pd.Series(some(WORDS, 5, pd.NA), dtype=object)}),
    "objects": lambda: pd.DataFrame(
        {
            "numbers": pd.Series(some([1, 2, 3, 999, 5] * 12, 5), dtype=object),
            "bool": pd.Series(some([True, False] * 30, 4), dtype=object),
            "mixed": pd.Series(some([1, "one"] * 30, 4), dtype=object),
            "date": pd.Series([*DAYS.date[:59], None], dtype=object),
        }
    ),
    "category": lambda: pd.DataFrame(
        {
            "unordered": pd.Categorical(WORDS, categories=["Ulm", "Rom", "unused", "Köln", "São Paulo"]),
            "ordered": pd.Categorical(
                some(["low", "high"] * 30, 9), categories=["low", "middle", "high"], ordered=True
            ),
            "whole": pd.Categorical([3, 1, 7] * 20),
            "one": pd.Categorical(["x"] * 60, categories=["x"]),
            "one of two": pd.Categorical(["x"] * 60, categories=["y", "x"]),
        }
    ),
    "dates": lambda: pd.DataFrame(
        {
            "day": DAYS.astype("datetime64[ns]"),
            "us": DAYS.astype("datetime64[us]") + pd.to_timedelta(R.integers(0, 10**9, 60), "us"),
            "s": DAYS.astype("datetime64[s]") + pd.to_timedelta(R.integers(0, 10**5, 60), "s"),
            "gaps": pd.Series(DAYS).where(np.arange(60) % 3 > 0),
            "zone": DAYS.tz_localize("Europe/Rome"),
            "ns": pd.Series(pd.to_datetime(1_700_000_000_000_000_000 + R.integers(0, 10**6, 60))),
        }
    ),
    "spans": lambda: pd.DataFrame({"a": pd.to_timedelta(R.integers(0, 9999, 60), "s"), "b": DAYS - DAYS[10]}),
    "constant": lambda: pd.DataFrame(
        {
            "a": [7] * 60,
            "b": ["mm"] * 60,
            "c": [0.1] * 60,
            "d": [DAYS[0]] * 60,
            "e": [True] * 60,
            "x": R.normal(size=60),
        }
    ),
    "constant with gaps": lambda: pd.DataFrame(
        {"a": some([7.5] * 60, 4, np.nan).astype(float), "b": pd.Series(some(["mm"] * 60, 4), dtype=object)}
    ),
    "missing throughout": lambda: pd.DataFrame(
        {
            "f": [np.nan] * 60,
            "o": pd.Series([None] * 60, dtype=object),
            "i": pd.array([pd.NA] * 60, "Int64"),
            "t": pd.Series([pd.NaT] * 60),
            "c": pd.Categorical([None] * 60, categories=["a", "b"]),
            "x": R.normal(size=60),
        }
    ),
    "odd names": lambda: pd.DataFrame(R.normal(size=(60, 4)), columns=["a b", 3, "ß,\n", ""]),
    "numbers as names": lambda: pd.DataFrame(R.normal(size=(60, 3))),
    "wavelengths as names": lambda: pd.DataFrame(R.normal(size=(60, 2)), columns=[400.5, 401.0]),
    "one row": lambda: pd.DataFrame({"a": [1.5], "b": ["x"], "c": [pd.Timestamp("2020-01-01")]}),
    "two rows": lambda: pd.DataFrame({"a": [1.5, np.nan], "b": ["x", "y"], "c": [3, 4]}),
    "standardised": lambda: pd.DataFrame({"a": (np.arange(60.0) - 29.5) / np.arange(60).std()}),
    "arrow inside": lambda: pd.DataFrame(
        {
            "i": pd.array(some(R.integers(0, 999, 60), 7), pd.ArrowDtype(pa.int64())),
            "s": pd.array(some(WORDS, 7), pd.ArrowDtype(pa.string())),
            "t": pd.array(DAYS.to_pydatetime(), pd.ArrowDtype(pa.timestamp("us"))),
        }
    ),
    "wild": lambda: pd.DataFrame(
        {"a": np.r_[np.zeros(40), R.lognormal(3, 2, 19), 1e12], "b": np.r_[[99999.0] * 30, np.arange(30) / 4]}
    ),
}
POLARS = {
    "numbers": lambda: pl.DataFrame(
        {"i": R.integers(0, 999, 60), "f": R.normal(size=60), "c": R.lognormal(size=60).round(2)}
    ),
    "small types": lambda: pl.DataFrame(
        {"a": R.integers(0, 99, 60).astype("u1"), "b": R.normal(size=60).astype("f4")},
        schema={"a": pl.UInt8, "b": pl.Float32},
    ),
    "nulls": lambda: pl.DataFrame(
        {
            "i": [None, *range(0, 590, 10)],
            "f": [None, *R.normal(size=59)],
            "b": [None, *([True] * 59)],
            "s": [None, *WORDS[1:]],
        }
    ),
    "NaN": lambda: pl.DataFrame({"f": [float("nan"), *R.normal(size=59)]}),
    "categories": lambda: pl.DataFrame({"a": WORDS.tolist(), "b": WORDS.tolist()}).with_columns(
        pl.col("a").cast(pl.Categorical), pl.col("b").cast(pl.Enum(["unused", *sorted(set(WORDS), reverse=True)]))
    ),
    "times": lambda: pl.DataFrame({"t": DAYS.to_pydatetime().tolist(), "d": DAYS.date.tolist()}).with_columns(
        z=pl.col("t").dt.replace_time_zone("Europe/Rome"),
        ms=pl.col("t").cast(pl.Datetime("ms")),
        gap=pl.when(pl.col("d").dt.day() > 5).then(pl.col("d")),
        span=pl.col("t") - pl.lit(DAYS[3].to_pydatetime()),
    ),
    "decimal": lambda: pl.DataFrame(
        {"a": [decimal.Decimal(int(i)) / 100 for i in R.integers(0, 99999, 60)]}, schema={"a": pl.Decimal(10, 2)}
    ),
    "empty columns": lambda: pl.DataFrame(
        {"a": [None] * 60, "b": [None] * 60, "x": R.normal(size=60), "c": ["x"] * 60}, schema_overrides={"b": pl.Int32}
    ),
}
PYARROW = {
    "numbers": lambda: pa.table(
        {"i": R.integers(0, 999, 60), "f": R.normal(size=60), "f4": R.normal(size=60).astype("f4")}
    ),
    "nulls": lambda: pa.table({"i": [None, *range(0, 590, 10)], "b": [None, *([True] * 59)], "s": [None, *WORDS[1:]]}),
    "NaN": lambda: pa.table({"f": [float("nan"), *R.normal(size=59)]}),
    "dictionary": lambda: pa.table(
        {
            "d": pa.array(WORDS.tolist()).dictionary_encode(),
            "o": pa.DictionaryArray.from_arrays(
                pa.array([0, 2, None] * 20, pa.int8()), pa.array(["low", "middle", "high"]), ordered=True
            ),
        }
    ),
    "times": lambda: pa.table(
        {
            "t": pa.array(DAYS.to_pydatetime()),
            "d": pa.array(DAYS.date),
            "z": pa.array(DAYS.to_pydatetime(), pa.timestamp("ms", "Europe/Rome")),
            "n": pa.array([None, *DAYS.date[1:]]),
        }
    ),
    "texts": lambda: pa.table(
        {"s": pa.array(WORDS.tolist(), pa.large_string()), "v": pa.array(WORDS.tolist(), pa.string_view())}
    ),
    "decimal": lambda: pa.table(
        {"a": pa.array([decimal.Decimal(int(i)) / 100 for i in R.integers(0, 99999, 60)], pa.decimal128(9, 2))}
    ),
    "null": lambda: pa.table({"n": pa.nulls(60), "x": R.normal(size=60), "i": pa.nulls(60, pa.int16())}),
    "chunks": lambda: pa.concat_tables(
        [pa.table({"d": pa.array(part).dictionary_encode()}) for part in (["a", "b", "a"] * 9, ["c", "b"] * 9)]
    ),
}
ARRAYS = {
    "float": lambda: R.normal(size=(60, 3)),
    "float32": lambda: R.normal(size=(60, 3)).astype("f4"),
    "whole": lambda: R.integers(0, 99, (60, 3)),
    "gaps": lambda: np.where(R.random((60, 3)) < 0.2, np.nan, R.normal(size=(60, 3))),
    "objects": lambda: np.stack([R.integers(0, 999, 60).astype(object), WORDS, some(WORDS, 5)], 1),
    "structured": lambda: np.array(
        [(i % 50, w, i / 4, d) for i, (w, d) in enumerate(zip(WORDS, DAYS.values, strict=True))],
        [("i", "i4"), ("s", "U12"), ("f", "f8"), ("t", "M8[s]")],
    ),
    "booleans": lambda: R.random((60, 2)) < 0.5,
}
LIBRARIES = {"pandas": PANDAS, "polars": POLARS, "pyarrow": PYARROW, "numpy": ARRAYS}
CASES = [(library, name) for library, frames in LIBRARIES.items() for name in frames]


def assert_same(found, frame):
    if isinstance(frame, pd.DataFrame):
        pd.testing.assert_frame_equal(found, frame, check_exact=True, check_freq=False)
    elif isinstance(frame, pl.DataFrame):
        assert found.schema == frame.schema
        assert found.equals(frame)
    elif isinstance(frame, pa.Table):
        assert found.schema == frame.schema
        assert found.unify_dictionaries().combine_chunks().to_pylist().__repr__() == frame.to_pylist().__repr__()
    else:
        assert found.dtype == frame.dtype
        np.testing.assert_array_equal(found, frame)


@pytest.mark.parametrize(("library", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_decoding_what_was_encoded_gives_the_frame(library, name):
    frame = LIBRARIES[library][name]()
    schema = Schema.infer(frame)
    x = schema.encode(frame)
    assert x.dtype == torch.float64
    assert x.shape == (len(frame), len(schema.names))
    assert_same(schema.decode(x), frame)
    again = Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    assert again == schema
    assert_same(again.decode(again.encode(frame)), frame)
    assert len(str(schema).splitlines()) >= len(schema.columns) + 1


def test_frames_of_all_libraries_have_the_same_numbers():
    columns = {
        "i": R.integers(0, 999, 60),
        "f": np.where(np.arange(60) % 7, R.normal(size=60), np.nan),
        "s": WORDS,
        "b": R.random(60) < 0.5,
        "t": DAYS.values.astype("M8[us]"),
    }
    schema = Schema.infer(columns)
    x = schema.encode(columns)
    lists = {name: column.tolist() for name, column in columns.items()}
    structured = np.empty(60, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        structured[name] = column
    for frame in (pd.DataFrame(columns), pl.DataFrame(lists), pa.table(lists), structured, lists):
        torch.testing.assert_close(schema.encode(frame), x, rtol=0, atol=0, equal_nan=True)


def test_the_order_of_the_columns_does_not_matter():
    frame = PANDAS["nullable"]()
    schema = Schema.infer(frame)
    torch.testing.assert_close(
        schema.encode(frame[["s", "b", "i", "f"]]), schema.encode(frame), rtol=0, atol=0, equal_nan=True
    )


def test_a_table_like_another_has_its_library_its_order_its_index_and_what_was_dropped():
    frame = pd.DataFrame({"id": np.arange(60), "s": WORDS, "i": R.integers(0, 999, 60)}, index=np.arange(60)[::-1])
    schema = Schema.infer(frame, drop=["id"])
    x = schema.encode(frame)
    turned = frame[["i", "id", "s"]]
    pd.testing.assert_frame_equal(schema.decode(x, like=turned), turned)
    pd.testing.assert_frame_equal(schema.decode(x[:5], like=turned), turned[["i", "s"]][:5].reset_index(drop=True))
    other = pl.DataFrame(
        {"s": pl.Series(WORDS.tolist(), dtype=pl.Enum(sorted(set(WORDS))[::-1])), "i": frame["i"].to_list()}
    )
    assert schema.decode(x, like=other).equals(other)
    assert schema.decode(x, like=other).schema == other.schema


def test_whole_numbers_stay_whole_where_gaps_are_left():
    schema = Schema.infer(pd.DataFrame({"i": R.integers(0, 999, 60), "b": [True, False] * 30}))
    decoded = schema.decode(torch.tensor([[3.2, torch.nan], [torch.nan, 1.0]]))
    assert decoded.dtypes.astype(str).tolist() == ["Int64", "boolean"]
    assert decoded["i"].tolist() == [3, pd.NA]


@pytest.mark.parametrize("codes", [[-9.0], [-9.0, -99.0], [-9.0, np.nan], [-9.0, -99.0, np.nan]])
def test_every_code_of_a_gap_is_one_when_the_table_is_encoded(codes):
    age = np.random.default_rng(0).integers(20, 60, 200).astype(float)
    for i, code in enumerate(codes):
        age[10 * i : 10 * i + 10] = code
    schema = Schema.infer({"age": age}, gaps=[-9, -99])
    x = schema.encode({"age": age})
    assert int(x.isnan().sum()) == 10 * len(codes) == schema.columns[0].gaps
    assert x[~x.isnan()].min() >= 20
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert torch.equal(again.encode({"age": age}).nan_to_num(-1), x.nan_to_num(-1))


def blood(n=60):
    """Glucose up to 300, income with gaps, a town with gaps, an age without."""
    glucose = np.round(R.normal(250, 60, n), 1)
    income, town = R.integers(20, 90, n).astype(float), np.array(["Rom", "Ulm", None] * (n // 3), object)
    income[::4] = np.nan
    return {
        "glucose": np.where(glucose > 300, np.nan, glucose),
        "income": income,
        "town": town,
        "age": R.normal(size=n),
    }


def test_one_thing_is_said_as_several_are():
    words = np.array(["NA", "N", "A", "b"] * 9, object)
    schema = Schema.infer({"id": np.arange(36), "a": words, "n": np.arange(36) % 5}, drop="id", gaps="NA")
    assert schema.dropped == ("id",)
    assert schema.columns[0].values == ("A", "N", "b")  # text of two letters is no list of two codes
    assert schema.columns[0].gaps == 9
    assert Schema.infer({"a": np.array([1, 2, -9] * 9)}, gaps=-9).columns[0].gaps == 9
    assert Schema.infer({"a": np.array([1, 2, -9] * 9)}, gaps={"a": -9}).columns[0].gaps == 9
    with pytest.raises(ValueError, match=r"missing_above=\['glucose'\]: wanted limits by column, {'glucose': 300}"):
        Schema.infer(blood(), missing_above=["glucose"])


def test_times_of_which_all_are_missing_are_filled():
    days = np.array(["2021-01-01", "2021-01-03", "2021-02-05"] * 9, "datetime64[s]")
    schema = Schema.infer({"day": days})
    done = fill(schema, {"day": np.full(27, None, object)}, schema.encode({"day": days}))
    assert (np.asarray(done["day"], "datetime64[s]") == days).all()


def test_what_a_gap_means_is_said_by_column():
    frame = blood()
    schema = Schema.infer(frame, missing_above={"glucose": 300}, missing_below={"income": None}, indicators=["town"])
    assert [column.missing for column in schema.columns] == ["above", "below", "indicated", ""]
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    with pytest.raises(
        ValueError, match=r"column 'glucose': 2 values, such as 400, are above 300, where every value is "
    ):
        schema.encode({**frame, "glucose": np.where(np.arange(len(frame["glucose"])) < 2, 400.0, 100.0)})
    told = str(schema)
    for words in ("missing above 300", "missing below a limit to be learned", "gaps as data"):
        assert words in told
    names = [type(block).__name__ for block in schema.family().blocks]
    assert names[:3] == ["CensoredFamily", "SelfMaskedFamily", "IndicatedFamily"]
    edited = Schema.infer(frame).with_column("glucose", missing="above", limit=300.0, high=None)
    assert edited.columns[0] == schema.columns[0]
    every = Schema.infer(frame, missing_above={"glucose": "300"}, indicators=True)
    assert [column.missing for column in every.columns] == ["above", "indicated", "indicated", ""]
    days = np.array(["2021-01-01", "2021-01-03", "NaT"] * 9, "datetime64[D]")
    column = Schema.infer({"day": days}, missing_above={"day": "2021-02-01"}).columns[0]
    assert column.limit * {"D": 1, "s": 1 / 86_400}[column.unit] * 1.0 + float(column.origin) / 86_400e9 == 18_659.0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"missing_above": {"glucose": 200}},
            "column 'glucose': .* is there, and values above 200 are said to be missing",
        ),
        ({"missing_below": {"income": 50}}, "column 'income': 20 is there, and values below 50|column 'income': 2"),
        ({"missing_above": {"sugar": 300}}, "missing_above: no column 'sugar' in the frame"),
        ({"indicators": ["sugar"]}, "indicators: no column 'sugar' in the frame"),
        ({"missing_above": {"town": None}}, "column 'town' is categorical, whose values are not large or small"),
        ({"missing_above": {"age": None}}, "column 'age' has no gaps, so that nothing can be said or learned"),
        ({"indicators": ["age"]}, "column 'age' has no gaps"),
        ({"missing_above": {"glucose": "much"}}, "missing_above: column 'glucose': 'much' where a"),
        ({"missing_above": {"income": 99}, "indicators": ["income"]}, "is in missing_above and indicators"),
    ],
)
def test_what_cannot_be_said_of_a_gap(said, message):
    with pytest.raises(ValueError, match=message):
        Schema.infer(blood(), **said)


def test_fields_of_a_gap_go_together():
    schema = Schema.infer(blood())
    for changes, message in [
        ({"missing": "odd"}, "missing is 'odd'; wanted one of"),
        ({"limit": 300.0}, "limit is 300, but missing is ''"),
        (
            {"missing": "above", "limit": 310.0, "high": 305.0},
            "no value can be above 310, since the edge of the column",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            schema.with_column("glucose", **changes)
