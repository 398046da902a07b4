r"""What may be overwritten: an earlier result of the same kind, and nothing else; never the data that are read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from allegory.data.builtin import BUILTIN
from allegory.data.tables import is_table
from allegory.runtime.storage import GENERATOR, check_regular
from allegory.training.directory import CONFIG, LAST, METRICS, WEIGHTS

__all__ = ["check_out"]


def check_out(out: str | Path, *sources: str | Path | None) -> None:
    """Checks that writing a result loses nothing: to be called before it is computed.

    Args:
        out: the file to be written.
        sources: the data that are read, or were trained on: built-in names, paths, or None.

    Raises:
        ValueError: it is the data, or among them; a file of a run; a file that is there, and no such result.

    >>> np.savez("mine.npz", x=np.ones(3))
    >>> check_out("mine.npz")
    Traceback (most recent call last):
    ValueError: mine.npz exists, and was not written by allegory; choose another name, or remove it
    """
    path = Path(out)
    whole, names = Path(os.path.realpath(path)), {row.name for row in BUILTIN}
    paths = [source for source in sources if source is not None and source not in names and os.path.exists(source)]
    for source in (Path(os.path.realpath(source)) for source in paths):
        if source in (whole, *whole.parents):
            raise ValueError(f"{out} is in the data that are read, {source}; choose another place for what is written")
    if path.name in (CONFIG, WEIGHTS, LAST, METRICS):
        raise ValueError(f"{out} has the name of a file of a run; choose another name")
    check_regular(path)
    if not path.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {path.parent}; make it first")
    if path.exists() and not _is_result(path):
        why = "a table does not tell who wrote it" if is_table(path) else "was not written by allegory"
        raise ValueError(f"{out} exists, and {why}; choose another name, or remove it")


def _is_result(path: Path) -> bool:
    """Whether a file is a page, a picture, a graph or arrays that allegory wrote."""
    with path.open("rb") as stream:
        head = stream.read(2000)
    if head.startswith(b"<!doctype html>"):
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in head or b"a report by allegory" in head
    if head.startswith(b"\x89PNG"):
        return f"Software\0{GENERATOR}".encode() in head
    if head.startswith(b"ALLEGORY"):  # a compressed file
        return True
    if f"\x12\x08{GENERATOR}".encode() in head[:32]:  # who made an ONNX graph
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == GENERATOR.encode()
    except (zipfile.BadZipFile, OSError, ValueError):
        return not head  # an empty file, such as mktemp makes
