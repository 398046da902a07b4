"""Modules are found by the names that they had, and nothing of Python's importing is changed for it."""

import importlib
import subprocess
import sys

import pytest

import allegory
from allegory import moved


@pytest.mark.parametrize("name", sorted(moved.MOVED))
def test_a_module_that_has_moved_is_found(name):
    there = importlib.import_module(f"allegory.{moved.MOVED[name]}.{name}")
    old = importlib.import_module(f"allegory.{name}")
    assert old.__all__ == there.__all__
    assert all(getattr(old, public) is getattr(there, public) for public in there.__all__)
    assert getattr(getattr(allegory, name), there.__all__[0]) is getattr(there, there.__all__[0])


def test_nothing_else_is(monkeypatch):
    for name in ("allegory.gan", "builtin", "allegory.data.nothing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    with pytest.raises(ImportError, match="nothing"):
        exec("from allegory.builtin import nothing")
    assert not hasattr(allegory, "gan")


def test_importing_leaves_python_s_importing_as_it_was():
    code = (
        "import sys\n"
        "before = sys.meta_path[:], sys.path[:], sys.path_hooks[:]\n"
        "import allegory\n"
        "assert (sys.meta_path, sys.path, sys.path_hooks) == before\n"
        "for module in [*sys.modules.values()]:\n"
        "    getattr(module, '__warningregistry__', None), getattr(module, '__file__', None)\n"
        "assert 'torch' not in sys.modules\n"
        "import allegory.builtin\n"
        "print(allegory.builtin.shuffle_and_cut.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "allegory.data.builtin\n"
