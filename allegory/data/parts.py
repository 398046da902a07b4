"""What reading arrays and reading folders share: the parts that are read, the names of splits, errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["MAX_IN_MEMORY", "WANTED", "Part", "describe_error", "given_names", "naming_errors", "split_names"]

MAX_IN_MEMORY = 2**28
"""The most numbers that are held in memory."""

WANTED = "wanted a .npy or .npz file of numbers, a table (.csv, .parquet), or a folder of images"
_SPLITS = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
           "test": "test", "testing": "test"}  # fmt: skip


class Part(NamedTuple):
    """Examples that were read.

    Attributes:
        x: (N, *event) a tensor, or `Stored`.
        names: of the files they come from, relative to their folder; empty where they come from one file.
        groups: (N,) what belongs together: the array `groups`, or the sub-folders; None if there is none.
        offset: (*event) float64, what was taken off x; None where nothing was.
        given: by name (N, ...) what is given with each, labels or numbers; None where nothing was asked for.
    """

    x: Any
    names: Sequence[str] = ()
    groups: Any = None
    offset: Any = None
    given: Any = None


def split_names(names: Iterable[str]) -> dict[str, list[str]]:
    """The names that mean a split, by split: train, x_train, train_images, and so on.

    >>> split_names(["x_train", "y_train", "val_images", "test"])
    {'train': ['x_train'], 'valid': ['val_images'], 'test': ['test']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        bare = re.sub(r"^x_|_(x|images|data)$", "", name.lower())
        if bare in _SPLITS:
            found.setdefault(_SPLITS[bare], []).append(name)
    return found


def given_names(names: Sequence[str], given: str) -> dict[str, str]:
    """The arrays of a file that hold what is given, by split; one for all is named "".

    Args:
        names: of all arrays.
        given: what is asked for.

    >>> given_names(["x_train", "y_train", "x_test", "y_test"], "y"), given_names(["x", "y"], "y")
    ({'train': 'y_train', 'test': 'y_test'}, {'': 'y'})
    """
    if given in names:
        return {"": given}
    both = {f"{given}_{alias}": split for alias, split in _SPLITS.items()}
    both |= {f"{alias}_{given}": split for alias, split in _SPLITS.items()}
    return {both[name]: name for name in names if name in both}


@contextmanager
def naming_errors(path: Path, advice: str = WANTED) -> Iterator[None]:
    """Turns any error in reading `path` into one ValueError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file or folder; {WANTED}, or a built-in name (allegory datasets)") from error
    except Exception as error:  # a damaged file may raise anything in numpy, zipfile or Pillow
        raise ValueError(f"{path}: cannot be read ({describe_error(error)}); {advice}") from error


def describe_error(error: Exception) -> str:
    """Why something cannot be read, in a few words."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "allow_pickle" in words or "Python objects" in words:
        return "it holds Python objects, which are never loaded"
    return " ".join(words.split())
