r"""Files of a run: data as its model codes them, and back, in their own form.

    pack(run, "rows.csv", "rows.alg")        ->  Packed: how long the file is, beside -ELBO and general compressors
    unpack(run, "rows.alg", "again.csv")     ->  the rows as they were

The model codes what it models. What else is in a table, columns that the training left out or that are given, is kept
beside it, by xz. Before a file counts as written it is read again: every value has to come back, or there is an error;
whether a CSV file comes back to the byte, or only its values (of 1.50, 1.5), is found out and told.

Shapes: N examples x, (N, *event).
"""

from __future__ import annotations

import base64
import bz2
import io
import lzma
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allegory.compression import Report, read_about, read_file, write_file
from allegory.data import file_names
from allegory.data.files import read_raw
from allegory.data.tables import SUFFIXES
from allegory.runtime.storage import check_regular, write_arrays, write_atomically
from allegory.tabular import Dialect, write_frame
from allegory.tabular.frames import open_frame
from allegory.tabular.reading import read_frame
from allegory.training.directory import WEIGHTS
from allegory.views.rows import open_rows

if TYPE_CHECKING:
    from allegory.views.runs import Run

__all__ = ["Packed", "pack", "unpack"]

TEXTS = (".csv", ".tsv")
COMPARED_BYTES = 2**28  # of data, at most, for general compressors: xz takes a minute for 60 MB


@dataclass(frozen=True)
class Packed:
    """What `pack` has made.

    Attributes:
        report: of the coding, see `allegory.compression.Report`.
        same: what comes back: "bytes", the file itself; or "values", each value; "" where data that stay on disk were
            not compared.
        beside: columns that the model does not code.
        beside_bytes: what they take in the file.
        others: bytes of the same data under general compressors, by name; those that are installed.
        weights: bytes of the weights, which who unpacks has to have.
    """

    report: Report
    same: str
    beside: list[str]
    beside_bytes: int
    others: dict[str, int]
    weights: int

    @property
    def paid_after(self) -> int | None:
        """After how many examples like these the weights have paid for themselves, beside the best of the others; None
        where they never do.
        """
        if not self.others:
            return None
        saved = (min(self.others.values()) - self.report.total) / self.report.examples
        return math.ceil(self.weights / saved) if saved > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, for JSON; bits are per example where nothing else is said."""
        report, ln2 = self.report, math.log(2)
        return {
            "examples": report.examples,
            "bytes": report.total,
            "bits_per_example": report.bits,
            "bits_per_dim": report.bits_per_dimension,
            "elbo": -report.negative_elbo,
            "negative_elbo_bits": report.negative_elbo / ln2,
            "gaps_bits": report.gaps / ln2,
            "net_bits_per_example": report.net_bits,
            "overhead": report.overhead,
            "initial_bits": report.initial_bits,
            "header_bytes": report.header,
            "same": self.same,
            "beside": self.beside,
            "beside_bytes": self.beside_bytes,
            "others": self.others,
            "weights_bytes": self.weights,
            "paid_after": self.paid_after,
        }


def pack(
    run: Run,
    source: str | Path,
    path: str | Path,
    *,
    array: str | None = None,
    resolution: float | None = None,
    jobs: int = 1,
    verify: bool = True,
) -> Packed:
    """Writes data as a file of about -ELBO bits an example.

    Args:
        run: whose model codes.
        source: a built-in name, of which it is the test split, or a path, as of `Run.read`.
        path: of the file.
        array: the name of the one array of a .npz file that is taken.
        resolution: of densities, see `al.compress`.
        jobs: processes.
        verify: whether all of it is read again before it counts.

    Raises:
        ValueError: data that the model gives no probability; a table of which a value would not come back, such as a
            category that the training data do not have; as `al.compress`.
    """
    settings: dict[str, Any] = {"resolution": resolution, "jobs": jobs, "verify": verify}
    weights = (run.folder / WEIGHTS).stat().st_size
    if run.schema is not None:
        return _pack_table(run, source, Path(path), array, settings, weights)
    x, given = run.read(source, array), run.read_given(source, array)
    about: dict[str, Any] = {"kind": "array", "names": list(file_names(str(source))), "event": list(x.shape[1:])}
    values = _own_values(source, array, run)
    if values is None and isinstance(x, Tensor):
        values = _smallest(run.in_data_units(x).cpu().numpy())
    if values is not None:
        about |= {"dtype": str(values.dtype), "event": list(values.shape[1:]), "gap": _gap_of(values, run.gap_codes)}
        if not _equal(_restored(run, x, about), values):
            raise ValueError(
                f"{source}: its values, {values.dtype}, do not come back from those that the model reads, float32; "
                "wanted values that float32 has"
            )
    if given is not None:
        about["given"] = {"shape": list(given.shape), "values": _packed(given.float().cpu().numpy().tobytes())}
    report = write_file(path, run.model, x, given, about=about, **settings)
    others = {} if values is None else _others(_bits(values))
    return Packed(report, "" if values is None else "values", [], 0, others, weights)


def _pack_table(
    run: Run, source: str | Path, path: Path, array: str | None, settings: dict[str, Any], weights: int
) -> Packed:
    schema = run.schema
    assert schema is not None
    frame = open_rows(run, source, array)
    x, given = run.read(frame, strict=True), run.read_given(frame if run.is_table else source, array)
    opened = open_frame(frame)
    known = {column.name for column in schema.columns}
    beside = {name: opened.column(name) for name in opened.names if name not in known}
    about: dict[str, Any] = {"kind": "table", "columns": opened.names}
    dialect: Dialect | None = getattr(frame, "dialect", None)
    about["dialect"] = None if dialect is None else asdict(dialect)
    if beside:
        about["beside"] = _packed(_as_text(beside))
    rebuilt = _rebuilt(run, x, about)
    _check_same(rebuilt, frame, str(source))
    text = _as_text(rebuilt, dialect)
    raw = _content(source)
    about["ended"] = next((ended for ended in (True, False) if _with_end(text, dialect, ended) == raw), None)
    report = write_file(path, run.model, x, given, about=about, **settings)
    kept, same = len(about.get("beside", "")) * 3 // 4, "values" if about["ended"] is None else "bytes"
    return Packed(report, same, [str(name) for name in beside], kept, _others(raw or text), weights)


def unpack(run: Run, path: str | Path, out: str | Path, jobs: int = 1) -> int:
    """Writes the data of a file that `pack` has made; returns how many examples there are.

    Args:
        run: with the same model.
        path: of the file.
        out: of the data: .csv, .csv.gz or .parquet for a table, else .npy or .npz (`x`, and `names` of files).
        jobs: processes.

    Raises:
        ValueError: a file of another model, a damaged one, or one that `al.compress` has made; as `al.decompress`.
    """
    about, out = read_about(path), Path(out)
    if not about:
        raise ValueError(f"{path} was not made of a file or a data set, and only al.decompress reads it")
    ends = SUFFIXES if about["kind"] == "table" else (".npy", ".npz")
    if not str(out).lower().endswith(ends):
        kind = "a table" if about["kind"] == "table" else "an array"
        raise ValueError(f"{out}: {path} holds {kind}; wanted a name that ends in {' or '.join(ends)}")
    if about["kind"] == "table":
        beside = _beside(about)
        given = None if run.given_about is None else run.read_given({name: beside[name] for name in beside})
        x = torch.cat(list(read_file(path, run.model, given, jobs=jobs)))
        dialect = about["dialect"] and Dialect(**about["dialect"])
        table = _rebuilt(run, x, about)
        if about["ended"] is None or out.suffix.lower() not in TEXTS:
            write_frame(table, out, dialect)
        else:
            write_atomically(out, _with_end(_as_text(table, dialect), dialect, about["ended"]))
        return len(x)
    stored = about.get("given")
    c = None
    if stored is not None:
        values = np.frombuffer(_unpacked(stored["values"]), np.float32).reshape(stored["shape"])
        c = torch.from_numpy(values.copy())
    x = torch.cat(list(read_file(path, run.model, c, jobs=jobs)))
    values = _restored(run, x, about)
    if out.suffix.lower() == ".npz":
        write_arrays(out, {"x": values, **({"names": np.array(about["names"])} if about["names"] else {})})
    else:
        stream = io.BytesIO()
        np.save(stream, values)
        write_atomically(out, stream.getvalue())
    return len(x)


def _rebuilt(run: Run, x: Tensor, about: dict[str, Any]) -> Any:
    """The table of x, with what was kept beside it, in the order of its columns."""
    assert run.schema is not None
    table, beside = open_frame(run.schema.decode(x.double())), _beside(about)
    return {name: beside[name] if name in beside else table.column(name) for name in about["columns"]}


def _check_same(rebuilt: Any, frame: Any, where: str) -> None:
    """Raises a ValueError for the first value that would not come back."""
    one, other = open_frame(rebuilt), open_frame(frame)
    for name in other.names:
        back, wanted = one.read(name), other.read(name)
        gaps = back.missing != wanted.missing
        there = ~wanted.missing & ~back.missing
        different = np.zeros(len(gaps), bool)
        different[there] = _plain(back, there) != _plain(wanted, there)
        wrong = np.flatnonzero(gaps | different)
        if len(wrong):
            raise ValueError(
                f"{where}: column {name!r}, row {wrong[0]}: the value would not come back ({len(wrong)} of "
                f"{len(gaps)} rows); it is finer than the resolution that the training data have, or than float32, or "
                "was never seen: leave the column out of the training (--drop), which keeps it beside, or train on "
                "this table"
            )


def _plain(values: Any, rows: Any) -> Any:
    if values.sort == "label":
        return np.array([str(level) for level in values.levels], object)[values.data[rows]]
    return values.data[rows]


def _beside(about: dict[str, Any]) -> Any:
    if "beside" not in about:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "beside.csv"
        path.write_bytes(_unpacked(about["beside"]))
        return read_frame(path, delimiter=",", encoding="utf-8", decimal=".", header=True)


def _as_text(frame: Any, dialect: Dialect | None = None) -> bytes:
    """A table as the bytes of its CSV file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_frame(frame, path, dialect or Dialect())
        return path.read_bytes()


def _with_end(text: bytes, dialect: Dialect | None, ended: bool) -> bytes:
    """The text of a file, with or without an end of its last line."""
    return text if ended else text.removesuffix((dialect or Dialect()).newline.encode())


def _content(source: Any) -> bytes:
    """The bytes of a CSV file that is not compressed; of anything else none."""
    if not isinstance(source, str | Path) or Path(source).suffix.lower() not in TEXTS:
        return b""
    check_regular(Path(source))
    return Path(source).read_bytes()


def _own_values(source: Any, array: str | None, run: Run) -> Any:
    """(N, *) the array in a .npy or .npz file, of its own type; None of anything else, or of what stays on disk."""
    if Path(source).suffix.lower() not in (".npy", ".npz") or not os.path.isfile(source):
        return None
    names = [part.name for part in run.conditions]
    arrays = list(read_raw(Path(source), array, given=names)[0].values())
    if any(isinstance(part, np.memmap) for part in arrays):
        return None
    return np.concatenate(arrays)


def _smallest(values: Any) -> Any:
    """The array in the smallest type that has its values."""
    for dtype in ("uint8", "float32"):
        with np.errstate(invalid="ignore", over="ignore"):  # a gap is no byte
            small = values.astype(dtype)
        if _equal(small.astype(values.dtype), values):
            return small
    return values


def _restored(run: Run, x: Any, about: dict[str, Any]) -> Any:
    """The values of x as the data call them, of their type and shape."""
    values = run.in_data_units(x).cpu().numpy()
    if about.get("gap") is not None:
        values = np.where(np.isnan(values), about["gap"], values)
    return values.reshape(len(values), *about["event"]).astype(about.get("dtype", "float32"))


def _gap_of(values: Any, codes: list[Any]) -> Any:
    """The number that stands for all gaps in an array; None where there is none, or where several do."""
    found = [code for code in codes if np.isin(values, values.dtype.type(code)).any()]
    return found[0] if len(found) == 1 else None


def _equal(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))


def _bits(values: Any) -> bytes:
    """An array as general compressors like it best: two values as bits, whole numbers up to 255 as bytes."""
    found = np.unique(values[:1000])
    if len(found) <= 2 and bool(np.isin(values, found).all()):
        return np.packbits(values == found[-1]).tobytes()
    return bytes(_smallest(values).tobytes())


def _others(raw: bytes) -> dict[str, int]:
    """How many bytes general compressors make of the same, each at its best."""
    if not 0 < len(raw) <= COMPARED_BYTES:
        return {}
    coders: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
        "bz2": lambda content: bz2.compress(content, 9),
    }
    for name in ("compression.zstd", "zstandard"):  # of Python 3.14, and the package
        try:
            module = import_module(name)
        except ImportError:
            continue
        coders["zstd"] = lambda content, coder=module: coder.compress(content, 22)  # type: ignore[misc]
        break
    return {name: len(coder(raw)) for name, coder in coders.items()}


def _packed(content: bytes) -> str:
    return base64.b64encode(lzma.compress(content, preset=9)).decode()


def _unpacked(text: str) -> bytes:
    return lzma.decompress(base64.b64decode(text))
