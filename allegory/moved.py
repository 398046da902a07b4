"""Modules by the names that they had before the wings: `allegory.builtin` is `allegory.data.builtin`.

The old names stand in sys.modules below the package's own, each for a module that is imported when something of it is
asked for. Nothing else of Python's importing is touched.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "keep_old_names"]

MOVED = {
    **dict.fromkeys(("builtin", "cave", "files", "stored"), "data"),
    **dict.fromkeys(("annealing", "diagnosis"), "evaluation"),
    **dict.fromkeys(("checkpoint", "sharding", "trackers"), "training"),
    **dict.fromkeys(("figures", "plots", "runs"), "views"),
}
"""The wing of each of these modules."""


class _Moved(ModuleType):
    """A module by an old name; its names are those of the module of today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what looks at all modules asks for these, and imports nothing
            raise AttributeError(name)
        package, _, room = self.__name__.rpartition(".")
        return getattr(import_module(f"{package}.{MOVED[room]}.{room}"), name)


def keep_old_names(package: str) -> None:
    """Lets the modules of a package be imported by their old names, too.

    >>> from allegory.builtin import shuffle_and_cut
    >>> shuffle_and_cut.__module__
    'allegory.data.builtin'
    """
    for room in MOVED:
        sys.modules[f"{package}.{room}"] = _Moved(f"{package}.{room}")
