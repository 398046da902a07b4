"""CSV and Parquet: what was written is read, whatever delimiter, encoding and decimals; errors are one line."""

import gzip
import importlib
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from allegory.tabular import Schema
from allegory.tabular.reading import BLOCK_ROWS, Dialect, read_frame
from allegory.tabular.writing import write_frame

R = np.random.default_rng(0)
ADULT = Path(__file__).parents[3] / "shared/data/tabular/adult_raw/adult.csv.gz"
FRAME = pd.DataFrame(
    {
        "i": R.integers(-99, 999, 60),
        "f": R.normal(size=60),
        "cents": R.lognormal(8, 1, 60).round(2),
        "gaps": np.where(np.arange(60) % 7, np.arange(60.0), np.nan),
        "s": np.array(["Köln", 'said "no"', "a, b; c", "two\nlines"], object)[np.arange(60) % 4],
        "b": np.arange(60) % 3 == 0,
        "zip": [f"0{i % 9}123" for i in range(60)],
        "day": pd.date_range("2021-01-03", periods=60).values.astype("M8[s]"),
        "time": pd.Timestamp("2021-01-03 07:30") + pd.to_timedelta(np.arange(60) * 977, "s"),
        "none": [np.nan] * 60,
    }
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_pandas_writes_what_is_read(path, delimiter, encoding, decimal):
    FRAME.to_csv(path, sep=delimiter, encoding=encoding, decimal=decimal, index=False)
    table = read_frame(path)
    assert (table.dialect.delimiter, table.dialect.encoding, table.dialect.decimal) == (delimiter, encoding, decimal)
    assert table["i"].dtype == np.int64
    assert table["b"].dtype == bool
    assert table["day"].dtype == "M8[D]"
    for name, column in table.items():
        np.testing.assert_array_equal(column, FRAME[name].to_numpy())
    again = path.with_name("again.csv")
    write_frame(table, again)
    found = pd.read_csv(
        again, sep=delimiter, encoding=encoding, decimal=decimal, dtype={"zip": str}, keep_default_na=True
    )
    pd.testing.assert_frame_equal(
        found,
        pd.read_csv(path, sep=delimiter, encoding=encoding, decimal=decimal, dtype={"zip": str}),
        check_exact=True,
    )


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.from_pandas, pa.Table.from_pandas], ids=["pandas", "polars", "pyarrow"]
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_what_is_written_is_read(path, make, suffix):
    path = path.with_suffix(suffix)
    write_frame(make(FRAME), path)
    table, columns = read_frame(path), FRAME.columns
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (suffix == ".csv.gz")
    if suffix == ".parquet":
        assert isinstance(table, pa.Table)
        table = {name: table[name].to_numpy() for name in columns}
    for name in columns:
        np.testing.assert_array_equal(table[name], FRAME[name].to_numpy())


def test_a_table_of_a_file_goes_through_a_schema_and_back(path):
    FRAME.to_csv(path, index=False, sep=";", decimal=",")
    table = read_frame(path)
    schema = Schema.infer(table)
    decoded = schema.decode(schema.encode(table), like=table)
    for name in table:
        np.testing.assert_array_equal(decoded[name], table[name])
        assert decoded[name].dtype == table[name].dtype
    write_frame(decoded, path.with_name("again.csv"), table.dialect)
    write_frame(table, path.with_name("first.csv"))
    assert path.with_name("again.csv").read_bytes() == path.with_name("first.csv").read_bytes()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_is_written_as_it_was_its_cents_and_its_ends_of_lines(path, newline):
    lines = ["price;weight;n;town", "1,50;0,125;3;Rom", "-2,00;10,0;4;NA", "n/a;1e-3;;NA", ";2,5;5;Ulm"]
    path.write_bytes((newline.join(lines) + newline).encode())
    table = read_frame(path)
    assert (table.dialect.places, table.dialect.gaps) == ({"price": 2}, {"town": "NA"})
    write_frame(table, path.with_name("again.csv"))
    again = path.with_name("again.csv").read_bytes()
    assert again == path.read_bytes().replace(b"1e-3", b"0,001").replace(b"n/a", b"")
    finer = table["price"] + 0.001  # which are written in full
    write_frame({"price": finer, "n": table["n"]}, path, table.dialect)
    np.testing.assert_array_equal(read_frame(path, decimal=",")["price"], finer)


def test_a_file_without_names_keeps_its_cents(path):
    path.write_text("1.50,a\n2.00,b\n")
    table = read_frame(path, header=False)
    dialect = Dialect(**json.loads(json.dumps(asdict(table.dialect))))  # as a run records it
    write_frame(table, path.with_name("again.csv"), dialect)
    assert path.with_name("again.csv").read_text() == path.read_text()


@pytest.mark.skipif(not ADULT.exists(), reason="the raw Adult set is not here")
def test_adult_is_read_as_pandas_reads_it():
    table, frame = read_frame(ADULT), pd.read_csv(ADULT, skipinitialspace=True)
    assert list(table) == list(frame)
    for name in table:
        np.testing.assert_array_equal(table[name], frame[name].to_numpy())
    schema = Schema.infer(table, gaps=["?"])
    assert [column.gaps for column in schema.columns if column.gaps] == [1836, 1843, 583]
    decoded = schema.decode(schema.encode(table), like=table)
    assert all((decoded[name] == table[name]).all() for name in table)


def test_numbers_that_turn_to_text_late_are_text_from_the_start(path):
    path.write_text("a,b\n" + "".join(f"{i},{i}\n" for i in range(30_000)) + "many,1.5\nfew,2\none,3\nlast,4\n")
    table = read_frame(path)
    assert table["a"][:2].tolist() == ["0", "1"]
    assert table["b"].dtype == np.float64
    assert len(table["a"]) == len(table["b"]) == 30_004


def test_a_file_without_names_has_numbers(path):
    path.write_text("1,2.5\n3,4\n")
    with pytest.raises(ValueError, match=r"first line has numbers alone, 1, 2.5.*header=False"):
        read_frame(path)
    assert {name: column.tolist() for name, column in read_frame(path, header=False).items()} == {
        0: [1, 3],
        1: [2.5, 4],
    }
    assert list(read_frame(path, header=True)) == ["1", "2.5"]


WRONG = {
    "empty": ("", "it is empty"),
    "names alone": ("a,b\n", "no values"),
    "ragged": ("a,b\n1,2\n3,4,5\n", "line 3: 3 fields; wanted 2"),
    "ragged after a long field": ('a,b\n"x\ny",2\n3\n', "line 4: 1 fields; wanted 2"),
    "names that stand twice": ("a,b,a\n1,2,3\n", "stand twice in its first line: 'a'"),
    "thousands": ('a,b\n1,"1,234"\n2,"12,345"\n3,7\n', "column 'b'.*separators, such as '1,234'.*decimal=','"),
    "thousands, German": ("a;b\n0,5;1.234,5\n2,5;3,5\n", "column 'b'.*thousands separators, such as '1.234,5'"),
    "thousands, Swiss": ("a,b\n0.5,1'234.5\n2.5,3.5\n", "column 'b'.*thousands separators, such as \"1'234.5\""),
    "two decimals": ("a;b\n0,5;1.5\n2,5;3.5\n", "some numbers have a decimal comma, others a decimal point"),
    "an open quote": ('a,b\n1,"2\n' + "3,4\n" * 40_000, "line .*is a quote left open"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(path, name):
    content, said = WRONG[name]
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_frame(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_words_among_numbers_may_be_gaps_and_that_is_said(path):
    path.write_text("a,b\n" + "".join(f"{i if i % 9 else '?'},{i}\n" for i in range(99)))
    with pytest.warns(UserWarning, match=r"column 'a' has numbers, but for '\?' in 11 rows.*gaps=\['\?'\]"):
        read_frame(path)
    assert np.isnan(read_frame(path, gaps=["?"])["a"]).sum() == 11


def test_other_mistakes_are_one_line_too(path, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no such file"):
        read_frame(path)
    with pytest.raises(ValueError, match="is a folder"):
        read_frame(tmp_path)
    path.write_text("a,b\n1,ö\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not written in ascii.*say encoding="):
        read_frame(path, encoding="ascii")
    with pytest.raises(ValueError, match="not written in klingon"):
        read_frame(path, encoding="klingon")
    with pytest.raises(ValueError, match="decimal='x'"):
        read_frame(path, decimal="x")
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 999)[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_frame(path.with_suffix(".csv.gz"))
    path.with_suffix(".parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="pyarrow cannot read it"):
        read_frame(path.with_suffix(".parquet"))
    for room in ("reading", "writing"):
        monkeypatch.setattr(importlib.import_module(f"allegory.tabular.{room}"), "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="reading Parquet needs one of pyarrow, polars, pandas: pip install pyarrow"):
        read_frame(path.with_suffix(".parquet"))
    with pytest.raises(ValueError, match="writing Parquet needs one of"):
        write_frame({"a": np.zeros(2)}, path.with_name("b.parquet"))
    with pytest.raises(ValueError, match=r"cannot write .*No such file"):
        write_frame({"a": np.zeros(2)}, tmp_path / "nowhere" / "b.csv", Dialect())


def test_the_end_of_a_packed_file_is_read_in_any_case(tmp_path):
    write_frame({"a": np.arange(3)}, tmp_path / "A.CSV.GZ")
    assert gzip.decompress((tmp_path / "A.CSV.GZ").read_bytes()) == b"a\n0\n1\n2\n"


def test_whole_numbers_of_many_digits_keep_them_beside_gaps(tmp_path):
    path, big = tmp_path / "stars.csv", 1234567890123456789
    path.write_text("star,n\n" + "".join(f"{big + 7 * i * i if i != 3 else ''},{i % 7}\n" for i in range(40)))
    table = read_frame(path)
    assert table["star"][:5].tolist() == [big, big + 7, big + 28, None, big + 112]
    write_frame(table, tmp_path / "again.csv", table.dialect)
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    schema = Schema.infer(table)
    assert (schema.decode(schema.encode(table))["star"] == table["star"]).all()
    # small ones are float64, as ever
    path.write_text("star,n\n" + "".join(f"{2**53 - i if i != 3 else ''},{i}\n" for i in range(40)))
    assert read_frame(path)["star"].dtype == np.float64


@pytest.mark.parametrize("fraction_first", [True, False])
def test_whole_numbers_of_many_digits_beside_fractions_are_text(tmp_path, fraction_first):
    fields = [str(2**53 + 1 + 2 * i) for i in range(BLOCK_ROWS)]
    fields = ["1.5", *fields] if fraction_first else [*fields, "1.5"]
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{field},1\n" for field in fields))
    table = read_frame(path)
    assert table["a"].tolist() == fields
    with pytest.raises(ValueError, match=r"'a' \(text, 20,001 different values in .* rows: numbers, such as"):
        Schema.infer(table)
    path.write_text("a,b\n" + "".join(f"{field},1\n" for field in ("1e300", str(2**60), "0.5") * 9))
    assert read_frame(path)["a"].dtype == np.float64  # 2^60 is a float64


def test_times_keep_their_nanoseconds(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("t,x\n2024-01-01 00:00:00.123456789,1\n2024-01-01 00:00:01,2\n")
    table = read_frame(path)
    assert table["t"].astype(np.int64).tolist() == [1704067200123456789, 1704067201000000000]
    write_frame(table, tmp_path / "u.csv")
    assert "2024-01-01 00:00:00.123456789" in (tmp_path / "u.csv").read_text()
    path.write_text("t,x\n9999-12-31 00:00:00.123456789,1\n2024-01-01 00:00:01,2\n")
    assert read_frame(path)["t"].tolist() == ["9999-12-31 00:00:00.123456789", "2024-01-01 00:00:01"]


def test_an_empty_line_of_one_column_is_a_gap_but_at_the_end(tmp_path):
    path = tmp_path / "o.csv"
    path.write_text("b\n1\n\n3\n\n\n4\n\n\n")
    found = read_frame(path)["b"]
    np.testing.assert_array_equal(found, [1, np.nan, 3, np.nan, np.nan, 4])
    write_frame({"b": found}, tmp_path / "p.csv")
    np.testing.assert_array_equal(read_frame(tmp_path / "p.csv")["b"], found)
    path.write_text("a,b\n1,2\n\n3,4\n")
    assert read_frame(path)["b"].tolist() == [2, 4]


def test_columns_that_are_said_to_be_text_are(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("zip,n,day,yes\n12345,1,2024-01-01,True\n,2,2024-01-02,False\n")
    table = read_frame(path, text=["zip", "day", "yes"])
    assert table["zip"].tolist() == ["12345", None]
    assert table["day"].tolist() == ["2024-01-01", "2024-01-02"]
    assert table["yes"].tolist() == ["True", "False"]
    assert table["n"].tolist() == [1, 2]
