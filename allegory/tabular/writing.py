r"""Writing tables: CSV by the standard library, with whole numbers as such and the dialect of the file that was read;
Parquet by the library of the frame.

Shapes: N rows.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from allegory.runtime.storage import atomic_path, check_regular
from allegory.tabular.building import library
from allegory.tabular.frames import Frame, Values, open_frame
from allegory.tabular.reading import PARQUET, Dialect, Table

__all__ = ["write_frame"]

Array = NDArray[Any]

BLOCK_ROWS = 20_000


def write_frame(frame: Any, path: str | Path, dialect: Dialect | None = None) -> None:
    r"""Writes a table, whole or not at all: Parquet if the path ends in .parquet or .pq, otherwise CSV, compressed if
    it ends in .gz. A gap is an empty field, or what was one in all rows of the file that the frame was read from.

    Args:
        frame: of pandas, polars or pyarrow, an array, or a dictionary of columns.
        path: to write to.
        dialect: how CSV is written; by default as the file was that the frame was read from, else comma, UTF-8, point.

    Raises:
        ValueError: no table, no library that writes Parquet, no space or permission.

    >>> write_frame({"n": np.array([1.0, np.nan]), "town": np.array(["Rom", None], object)}, "towns.csv")
    >>> Path("towns.csv").read_text()
    'n,town\n1,Rom\n,\n'
    """
    path = Path(path)
    check_regular(path)
    opened = open_frame(frame)
    dialect = dialect or (frame.dialect if isinstance(frame, Table) else Dialect())
    try:
        with atomic_path(path) as part:
            if path.suffix.lower() in (".parquet", ".pq"):
                _write_parquet(frame, opened, part)
            else:
                _write_csv(opened, part, dialect, path.suffix.lower() == ".gz")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}; an existing file is unchanged") from None


def _write_csv(opened: Frame, path: Path, dialect: Dialect, packed: bool) -> None:
    columns = [_Texts(opened.read(name), str(name), dialect) for name in opened.names]
    with _created(path, dialect.encoding, packed) as file:
        writer = csv.writer(file, delimiter=dialect.delimiter, lineterminator=dialect.newline)
        if dialect.header:
            writer.writerow(opened.names)
        for start in range(0, opened.rows, BLOCK_ROWS):
            parts = [column.block(slice(start, start + BLOCK_ROWS)) for column in columns]
            writer.writerows(zip(*parts, strict=True))


@contextmanager
def _created(path: Path, encoding: str, packed: bool) -> Iterator[IO[str]]:
    with path.open("wb") as raw:
        content: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else raw
        with io.TextIOWrapper(content, encoding=encoding, newline="") as file:
            yield file


class _Texts:
    """A column as the fields of a file."""

    def __init__(self, values: Values, name: str, dialect: Dialect) -> None:
        self.values, self.decimal, self.blank = values, dialect.decimal, dialect.gaps.get(name, "")
        self.places, places = None, dialect.places.get(name)
        data = values.data
        if places is not None and values.sort == "number":
            there = data[~values.missing]
            exact = np.abs(there).max(initial=0) < 2**53 / 10**places
            self.places = places if exact and (np.round(there, places) == there).all() else None
        self.whole = values.sort == "number" and (
            data.dtype.kind == "i"
            or (
                bool((data[~values.missing] == np.rint(data[~values.missing])).all())
                and float(np.abs(data[~values.missing]).max(initial=0)) < 1e15
            )
        )

    def block(self, rows: slice) -> list[str]:
        data, missing = self.values.data[rows], self.values.missing[rows]
        return [self.blank if gap else text for text, gap in zip(self._texts(data, missing), missing, strict=True)]

    def _texts(self, data: Array, missing: Array) -> list[str]:
        sort = self.values.sort
        if sort == "label":
            levels = [str(level) for level in self.values.levels]
            return [levels[code] if not gap else "" for code, gap in zip(data.tolist(), missing.tolist(), strict=True)]
        if sort == "number" and self.places is not None:
            return [f"{value:.{self.places}f}".replace(".", self.decimal) for value in data.tolist()]
        if sort == "number" and self.whole:
            return [str(value) for value in np.where(missing, 0, data).astype(np.int64).tolist()]
        if sort == "number":
            small = "float32" in self.values.dtype.lower() or self.values.dtype == "float"
            numbers = data.astype(np.float32).astype(str).tolist() if small else map(repr, data.tolist())
            return [text.replace(".", self.decimal) for text in numbers]
        if sort == "datetime":
            return [text.replace("T", " ") for text in np.datetime_as_string(_coarse(data, missing)).tolist()]
        return [str(value) for value in data.tolist()]


def _coarse(data: Array, missing: Array) -> Array:
    """Times in the largest unit that holds them: days, seconds, or as they are."""
    data = np.where(missing, np.datetime64(0, "s"), data)
    for unit in ("D", "s", "ms", "us"):
        coarse = data.astype(f"M8[{unit}]")
        if (coarse == data).all():
            return coarse
    return data


def _write_parquet(frame: Any, opened: Frame, path: Path) -> None:
    if opened.container == "pandas":
        frame.to_parquet(path, index=False)
    elif opened.container == "polars":
        frame.write_parquet(path)
    elif opened.container == "pyarrow":
        import_module("pyarrow.parquet").write_table(frame, path)
    else:
        name = next((name for name in PARQUET if find_spec(name)), None)
        if name is None:
            raise ValueError(f"{path}: writing Parquet needs one of {', '.join(PARQUET)}: pip install pyarrow")
        columns = {str(name): opened.column(name) for name in opened.names}
        module = library(name)
        made = module.table(columns) if name == "pyarrow" else module.DataFrame(columns)
        _write_parquet(made, open_frame(made), path)
