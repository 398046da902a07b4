r"""What a page is made of: sections of sentences, tables and figures; and names in the place of paths.

A page is made to be passed on: it names files, and no folder of the machine it was written on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Figure", "Section", "Table", "evenly_spaced", "file_name", "without_folders"]

ABSOLUTE = re.compile(r"""(?<![\w.~/\\:)])(?:/|~/|[A-Za-z]:[/\\])[^\s'"`,;:()<>]*[^\s'"`,;:()<>.]""")


@dataclass
class Figure:
    """HTML of one plot or of several, and a caption."""

    parts: list[str]
    caption: str = ""


@dataclass
class Table:
    """The names of its columns, its rows, and a caption; the first cell of a row is its name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass
class Section:
    """A part of the page: sentences, tables, figures. One with a grade, "good", "mixed", "bad" or "unknown", is a
    verdict, whose first sentence says why.
    """

    title: str
    words: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    grade: str = ""


def evenly_spaced(values: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the values, evenly spaced, from the first to the last.

    >>> evenly_spaced(range(1, 101), 3), evenly_spaced(range(2), 3)
    ([1, 51, 100], [0, 1])
    """
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def file_name(source: str | Path) -> str:
    r"""The name of a file or a folder, without where it is; a built-in name is its own.

    >>> file_name("/home/ada/data/x.npy"), file_name("C:/data/x.npy"), file_name("digits"), file_name("../pictures/")
    ('x.npy', 'x.npy', 'digits', 'pictures')
    """
    return re.split(r"[/\\]", str(source).rstrip("/\\"))[-1] or "data"


def without_folders(text: str, *known: str | Path | None) -> str:
    """A sentence in which files are called by their names alone.

    Args:
        text: the sentence.
        known: paths that may be in it, also relative ones and ones with spaces. Other absolute paths are found.

    >>> without_folders("runs/my data/x.npy has changed; see /tmp/a.log.", "runs/my data/x.npy")
    'x.npy has changed; see a.log.'
    """
    forms = {str(form) for path in known if path for form in (path, Path(path), Path(path).resolve())}
    for form in sorted(forms, key=len, reverse=True):
        if re.search(r"[/\\]", form):
            text = text.replace(form, file_name(form))
    return ABSOLUTE.sub(lambda found: file_name(found[0]), text)
