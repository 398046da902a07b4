"""Modules by the names that they had before the wings: `allegory.builtin` is `allegory.data.builtin`, found if it is
asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "find_spec"]

MOVED = {
    **dict.fromkeys(("builtin", "cave", "files", "stored"), "data"),
    **dict.fromkeys(("annealing", "diagnosis"), "evaluation"),
    **dict.fromkeys(("checkpoint", "sharding", "trackers"), "training"),
    **dict.fromkeys(("figures", "plots", "runs"), "views"),
}
"""The wing of each of these modules."""


class _Moved(Loader):
    """Loads a module by its name of today."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.rpartition(".")
        sys.modules[module.__name__] = import_module(f"{package}.{MOVED[name]}.{name}")


def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
    """The specification of a module of the package that has moved, as an importer asks for it; None for any other.

    >>> from allegory.builtin import shuffle_and_cut
    >>> shuffle_and_cut.__module__
    'allegory.data.builtin'
    """
    package, _, last = name.rpartition(".")
    return ModuleSpec(name, _Moved()) if package == "allegory" and last in MOVED else None
