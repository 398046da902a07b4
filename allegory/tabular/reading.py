r"""Reading tables: CSV by the standard library, in blocks, so that a million rows by 30 columns take little more than
their numbers do; Parquet by whatever library of frames is installed.

    read_frame(path)    ->  Table: name -> array (N,), and how the file is written; of Parquet, a frame

A column is of whole numbers, of numbers, of True and False, of dates (2021-01-03, 2021-01-03 12:30:00), or of text.
Numbers with a leading zero, such as zip codes, are text. Delimiter, encoding and decimal comma are found, and can be
said.

Shapes: N rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from allegory.runtime.storage import check_regular
from allegory.tabular.columns import EXACT
from allegory.tabular.frames import Name, is_float64, shown

__all__ = ["GAPS", "Dialect", "Table", "read_frame"]

Array = NDArray[Any]

GAPS = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""What stands for a gap in a CSV file."""
DELIMITERS = (",", ";", "\t", "|")
BLOCK_ROWS, SNIFFED_LINES, SNIFFED_BYTES = 20_000, 200, 2**20
FEW = 3  # words in a column of numbers, that may stand for a gap
PARQUET = ("pyarrow", "polars", "pandas")  # in the order in which they are asked

LAST_NS = 2**63 // 1000  # microseconds from 1970, which nanoseconds of int64 reach
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
LONG = re.compile(r"\s*[-+]?\d{16,}\s*")  # a whole number, that float64 may not have
ZEROS = re.compile(r"^[-+]?0\d", re.MULTILINE)
THOUSANDS = re.compile(r"[-+]?\d{1,3}([ ,.'\u00a0\u202f]\d{3})+([.,]\d+)?")
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes:
        delimiter: between two fields.
        encoding: of the text.
        decimal: "." or ",".
        header: whether the first line has the names.
        newline: what ends a line.
        places: of columns all of whose numbers have as many decimal places, by the text of their name, how many: 2 of
            1.50 and 3.00.
        gaps: of columns all of whose gaps are the same word, which, such as "NA"; otherwise they are empty.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: str = "."
    header: bool = True
    newline: str = "\n"
    places: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)


class Table(dict[Name, Array]):
    """The columns of a CSV file, name -> (N,), with its `dialect`. Whole numbers are int64, others float64 with NaN for
    a gap, dates datetime64, True and False bool, text str objects with None for a gap; whole numbers of more than 15
    digits that have gaps are int objects.
    """

    dialect: Dialect = Dialect()


def read_frame(
    path: str | Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    gaps: Sequence[str] = GAPS,
    text: Collection[Name] = (),
) -> Any:
    r"""The table in a CSV file, also compressed by gzip, as a `Table`; or in a Parquet file, as a frame.

    Args:
        path: to the file; Parquet if it ends in .parquet or .pq, otherwise CSV.
        delimiter: between fields; by default the one of comma, semicolon, tab and bar that gives lines of equal length.
        encoding: by default UTF-16 where the file says so, UTF-8 if all of it is, else Windows' cp1252.
        decimal: "." or ","; by default the comma if the numbers have it.
        header: whether the first line has names; by default it must not be of numbers alone. Without, the columns are
            called 0, 1, ....
        gaps: fields that stand for a gap, beside the empty one.
        text: columns that are text, whatever they hold.

    Warns:
        UserWarning: a column of numbers is text for the sake of a few words, which may stand for a gap.

    Raises:
        ValueError: no file, an empty one, lines of another length, names that stand twice, thousands separators, no
            library that reads Parquet.

    >>> with open("people.csv", "w") as file:
    ...     _ = file.write("age;income;town\n30;1,5;Rom\n40;;Ulm\n")
    >>> read_frame("people.csv")
    {'age': array([30, 40]), 'income': array([1.5, nan]), 'town': array(['Rom', 'Ulm'], dtype=object)}
    """
    path = Path(path)
    check_regular(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; wanted a table, .csv or .parquet")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal={decimal!r}: wanted '.' or ','")
    encoding = encoding or _find_encoding(path)
    try:
        lines = _first_lines(path, encoding)
        if not lines:
            raise ValueError(f"{path}: it is empty; wanted a line of names and lines of values")
        delimiter = delimiter or _find_delimiter(lines)
        first = [name.strip() for name in next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))]
        newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
        dialect = Dialect(delimiter, encoding, decimal or ".", _has_header(path, first, header), newline)
        names: list[Name] = [*first] if dialect.header else [*range(len(first))]
        _check_names(path, names)
        codes = frozenset({"", *gaps})
        if decimal is None:
            dialect = replace(dialect, decimal=_find_decimal(path, lines, dialect, codes))
        return _read_columns(path, names, dialect, codes, text)
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"{path}: it is not written in {encoding} ({error}); say encoding=...") from None


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        content: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            yield io.TextIOWrapper(content, encoding=encoding, newline="")
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged ({error})") from None


def _find_encoding(path: Path) -> str:
    with _opened(path, "latin-1") as file:
        start = file.buffer.read(4)  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if start.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    try:
        with _opened(path, "utf-8") as file:
            while file.read(SNIFFED_BYTES):
                pass
        return "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        with _opened(path, "cp1252") as file:
            while file.read(SNIFFED_BYTES):
                pass
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"


def _first_lines(path: Path, encoding: str) -> list[str]:
    with _opened(path, encoding) as file:
        lines = [line for line, _ in zip(file, range(SNIFFED_LINES), strict=False)]
    return [line for line in lines if line.strip()]


def _find_delimiter(lines: list[str]) -> str:
    """The one that divides the first line into the most fields, and nearly all others into as many; a comma where none
    does.
    """
    best, most = ",", 1
    for delimiter in DELIMITERS:
        try:
            lengths = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row]
        except csv.Error:
            continue
        length = lengths[0]
        if length > most and lengths.count(length) >= 0.9 * len(lengths):
            best, most = delimiter, length
    return best


def _has_header(path: Path, first: list[str], header: bool | None) -> bool:
    if header is not None:
        return header
    if all(re.fullmatch(NUMBER, field.replace(",", ".")) for field in first):
        raise ValueError(
            f"{path}: its first line has numbers alone, {', '.join(first[:3])}, where the names of the columns are "
            "wanted; header=False takes it as values, header=True as names"
        )
    return True


def _check_names(path: Path, names: list[Name]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: columns that stand twice in its first line: {shown(twice)}; give each its own name")


def _find_decimal(path: Path, lines: list[str], dialect: Dialect, gaps: frozenset[str]) -> str:
    """A comma, if the first lines have a column of numbers with one, and none with a point; what may be a thousands
    separator is no evidence.
    """
    rows = [row for row in csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=True) if row]
    commas = points = False
    for column in zip(*rows[dialect.header :], strict=False):
        fields = [field.strip() for field in column if field.strip() not in gaps]
        if fields and all(re.fullmatch(NUMBER, field.replace(",", ".")) for field in fields):
            points |= any("." in field for field in fields)
            commas |= any("," in field and not THOUSANDS.fullmatch(field) for field in fields)
    if commas and points:
        raise ValueError(f"{path}: some numbers have a decimal comma, others a decimal point; write them alike")
    return "," if commas else "."


def _read_columns(
    path: Path, names: list[Name], dialect: Dialect, gaps: frozenset[str], text: Collection[Name]
) -> Table:
    """All columns: those in which a word comes after numbers are read once more, as text."""
    columns = [_Column(dialect.decimal, gaps, name in text) for name in names]
    for _ in range(2):
        reading = [column for column in columns if column.again or not column.rows]
        for column in reading:
            column.start()
        for block in _blocks(path, len(names), dialect):
            for column, fields in zip(columns, zip(*block, strict=True), strict=True):
                if column in reading:
                    column.take(fields)
        if not any(column.again for column in columns):
            break
    if not columns[0].rows:
        raise ValueError(f"{path}: it has a line of names, and no values")
    table = Table(
        (name, column.finish(f"{path}: column {name!r}")) for name, column in zip(names, columns, strict=True)
    )
    by_name = [(str(name), column) for name, column in zip(names, columns, strict=True)]
    places = {name: max(column.places) for name, column in by_name if len(column.places) == 1 and any(column.places)}
    blanks = {name: max(column.blanks) for name, column in by_name if len(column.blanks) == 1 and any(column.blanks)}
    table.dialect = replace(dialect, places=places, gaps=blanks)
    return table


def _blocks(path: Path, width: int, dialect: Dialect) -> Iterator[list[list[str]]]:
    """The rows, some at a time."""
    with _opened(path, dialect.encoding) as file:
        reader = csv.reader(file, delimiter=dialect.delimiter, skipinitialspace=True)
        block: list[list[str]] = []
        skip, empty = dialect.header, 0
        try:
            for row in reader:
                if not row or skip:
                    empty += width == 1 and not skip  # of one column an empty line is a gap, but at the end
                    skip = skip and not row
                    continue
                block += [[""] for _ in range(empty)]
                empty = 0
                if len(row) != width:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(row)} fields; wanted {width}, as in the first line "
                        f"(between them: {dialect.delimiter!r})"
                    )
                block.append(row)
                if len(block) >= BLOCK_ROWS:
                    yield block
                    block = []
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; is a quote left open?") from None
        if block:
            yield block


class _Column:
    """What is known of a column so far: blocks of numbers, or of codes of words."""

    def __init__(self, decimal: str, gaps: frozenset[str], text: bool) -> None:
        self.decimal, self.gaps, self.is_text, self.said = decimal, gaps, text, text
        self.again = False
        self.start()

    def start(self) -> None:
        self.rows, self.whole, self.again = 0, True, False
        self.blocks: list[Array] = []
        self.missing: list[Array] = []
        self.words: dict[str, int] = {}
        self.places: set[int] = set()  # how many decimal places there are
        self.blanks: set[str] = set()  # what stands for a gap

    def take(self, fields: tuple[str, ...]) -> None:
        """One block more."""
        self.rows += len(fields)
        if self.again:
            return
        if self.is_text:
            words, gaps = self.words, self.gaps
            stripped = [field.strip() for field in fields]
            self.blanks |= gaps.intersection(stripped)
            codes = [-1 if word in gaps else words.setdefault(word, len(words)) for word in stripped]
            self.blocks.append(np.array(codes, np.int32))
            return
        numbers = self._numbers(fields)
        if numbers is None:
            self.is_text = True
            self.again = self.rows > len(fields)
            self.blocks, self.missing, self.places = [], [], set()
            if not self.again:
                self.rows = 0
                self.take(fields)

    def _numbers(self, fields: tuple[str, ...]) -> bool | None:
        """Takes the fields as numbers; None where they are not."""
        at = np.fromiter((field.strip() in self.gaps for field in fields), bool, len(fields))
        self.blanks |= {field.strip() for field, gap in zip(fields, at, strict=True) if gap} if at.any() else set()
        known = [field for field, gap in zip(fields, at, strict=True) if not gap] if at.any() else list(fields)
        joined = "\n".join(known)
        if self.decimal == ",":
            if "." in joined:
                return None
            joined = joined.replace(",", ".")
            known = joined.split("\n") if known else []
        if ZEROS.search(joined) or "_" in joined:
            return None
        try:
            if self.whole and not re.search(r"[.eEnN]", joined):
                numbers = np.array([int(field) for field in known], np.int64)
            else:
                before, self.whole = self.blocks if self.whole else [], False
                if _has_more_digits(known, before):
                    return None
                numbers = np.array([float(field) for field in known], np.float64)
            self.places |= {_places(field) for field in known} if "." in joined or not known else {0}
        except (ValueError, OverflowError):
            return None
        block = np.zeros(len(fields), numbers.dtype)
        block[~at] = numbers
        self.blocks.append(block)
        self.missing.append(at)
        return True

    def finish(self, where: str) -> Array:
        """(N,) all blocks together."""
        whole = np.concatenate(self.blocks)
        self.blocks = []
        if self.is_text:
            return self._text(whole, where)
        missing = np.concatenate(self.missing)
        if missing.any() and whole.dtype == np.int64 and _is_long(whole).any():
            whole = whole.astype(object)  # no float64, which would round them
            whole[missing] = None
        elif missing.any() or whole.dtype != np.int64:
            whole = whole.astype(np.float64)
            whole[missing] = np.nan
        return whole

    def _text(self, codes: Array, where: str) -> Array:
        """Words as what all of them are: dates, True and False, or text."""
        words = list(self.words)
        counts = np.bincount(codes[codes >= 0], minlength=len(words))
        if self.said:
            return np.array([*words, None], object)[codes]
        if words and set(words) <= {"True", "False"}:
            table = np.array([word == "True" for word in words] + [None], object)
            return table[codes] if (codes < 0).any() else table[codes].astype(bool)
        if words and all(map(DATE.fullmatch, words)):
            longest = max(map(len, words))
            try:
                dates = np.array([*words, "NaT"], "M8[D]" if longest == len("2021-01-03") else "M8[us]")
                fits = (np.abs(dates[:-1].astype(np.int64)) < LAST_NS).all()
                if longest <= len("2021-01-03 12:30:00.123456"):
                    return dates[codes]
                if fits:
                    return np.array([*words, "NaT"], "M8[ns]")[codes]
            except ValueError:
                pass
        self._doubts(words, counts, where)
        table = np.array([*words, None], object)
        return table[codes]

    def _doubts(self, words: list[str], counts: Array, where: str) -> None:
        """What is no number, in a column that has numbers otherwise."""
        points = [word.replace(",", ".") if self.decimal == "," else word for word in words]
        others = [i for i, word in enumerate(points) if not re.fullmatch(NUMBER, word)]
        if any(ZEROS.match(word) for word in words):
            return
        thousands = [words[i] for i in others if THOUSANDS.fullmatch(words[i])]
        if thousands and len(thousands) == len(others):
            raise ValueError(
                f"{where} has numbers with thousands separators, such as {thousands[0]!r}; write them without"
                + (", or say decimal=','" if "," in thousands[0] and self.decimal == "." else "")
            )
        few = [words[i] for i in others]
        if 0 < len(few) <= FEW and len(words) > 2 * len(few) and counts[others].sum() < counts.sum() / 2:
            warnings.warn(
                f"{where} has numbers, but for {shown(few)} in {counts[others].sum()} rows, and is taken as text; "
                f"gaps={few} reads them as gaps",
                stacklevel=6,
            )


def _is_long(whole: Array) -> Array:
    """Which of the whole numbers float64 may not have."""
    return (whole > EXACT) | (whole < -EXACT)


def _has_more_digits(fields: Sequence[str], before: Sequence[Array]) -> bool:
    """Whether a whole number has more digits than float64, in a column that has fractions, too.

    Args:
        fields: of the first block with a fraction, or of one after it.
        before: the blocks before the first fraction, of whole numbers.
    """
    long = [int(field) for field in fields if len(field) > 15 and LONG.fullmatch(field)]
    return not all(map(is_float64, [*long, *(int(x) for block in before for x in block[_is_long(block)])]))


def _places(number: str) -> int:
    """How many decimal places a number is written with."""
    decimals = number.strip().partition(".")[2]
    return len(decimals) if not decimals or decimals.isdecimal() else 0


def _read_parquet(path: Path) -> Any:
    name = next((name for name in PARQUET if find_spec(name)), None)
    if name is None:
        raise ValueError(f"{path}: reading Parquet needs one of {', '.join(PARQUET)}: pip install pyarrow")
    try:
        if name == "pyarrow":
            return import_module("pyarrow.parquet").read_table(path)
        return import_module(name).read_parquet(path)
    except Exception as error:  # each library has errors of its own
        raise ValueError(f"{path}: {name} cannot read it ({str(error).splitlines()[0]})") from None
