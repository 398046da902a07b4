"""Threads that wait sleep soon, unless the user says otherwise or torch has been loaded."""

import os
import subprocess
import sys

import pytest

from allegory.runtime import openmp


@pytest.mark.parametrize(
    ("variables", "loaded", "count"),
    [
        ({}, False, "1000"),
        ({}, True, None),
        ({"OMP_WAIT_POLICY": "active"}, False, None),
        ({"GOMP_SPINCOUNT": "5"}, False, "5"),
    ],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(variables, loaded, count, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(openmp.sys, "modules", {"torch": None} if loaded else {})
    monkeypatch.setenv("GOMP_SPINCOUNT", os.environ.get("GOMP_SPINCOUNT", ""))  # put back at the end, whatever is set
    if not variables.get("GOMP_SPINCOUNT"):
        del os.environ["GOMP_SPINCOUNT"]
    openmp.limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == count


def test_importing_allegory_is_enough():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import os, allegory; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1000\n"
