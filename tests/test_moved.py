"""Modules are found by the names that they had, and are the same."""

import importlib
import sys

import pytest

import allegory
from allegory import moved


@pytest.mark.parametrize("name", sorted(moved.MOVED))
def test_a_module_that_has_moved_is_found(name):
    there = importlib.import_module(f"allegory.{moved.MOVED[name]}.{name}")
    assert importlib.import_module(f"allegory.{name}") is there


def test_nothing_else_is(monkeypatch):
    for name in ("allegory.gan", "builtin", "allegory.data.nothing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    assert moved.find_spec("allegory.views.builtin") is None
    assert not hasattr(allegory, "gan")
