"""What test_mutants.py starts: `python mistaken.py < mistakes.json`, [{what, module, right, wrong, laws}, ...].

A process imports what the laws need, but the package, once, and forks for every mistake: there the module is imported
with the mistake in it, and the laws run up to the first that fails. Written: {what: [pytest's code, what it said]}.
"""

import gc
import json
import os
import sys
import tempfile
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import numpy  # noqa: F401
import pytest
import scipy.integrate
import scipy.stats  # noqa: F401
import torch._dynamo  # noqa: F401

TESTS = Path(__file__).parent
NOT_MADE = 99  # nobody imported the module


class Mistaken(SourceFileLoader):
    """Loads a module with `right` replaced by `wrong`."""

    right = wrong = ""
    made = False

    def get_code(self, fullname):
        source = self.get_data(self.path).decode()
        Mistaken.made = True
        return compile(source.replace(self.right, self.wrong), self.path, "exec", dont_inherit=True)


class Finder:
    """Finds one module, to be loaded with a mistake."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        there = PathFinder.find_spec(name, path).origin
        return spec_from_file_location(name, there, loader=Mistaken(name, there))


def run(mistake, said):
    """In a process of its own: pytest's code on the laws."""
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    Mistaken.right, Mistaken.wrong = mistake["right"], mistake["wrong"]
    sys.meta_path.insert(0, Finder("allegory." + mistake["module"].replace("/", ".")))
    laws = [str(TESTS / law) for law in mistake["laws"]]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each takes a second
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        root = f"--rootdir={TESTS.parent}", f"-c{TESTS.parent}/pyproject.toml"
        code = pytest.main([*root, "--override-ini=addopts=-q -x -p no:cacheprovider", *laws])
        os.chdir(TESTS)
    return int(code) if Mistaken.made else NOT_MADE


def main():
    assert "allegory" not in sys.modules
    found = {}
    gc.collect()
    gc.freeze()
    for mistake in json.load(sys.stdin):
        with tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if child == 0:
                code = 98
                try:
                    code = run(mistake, said)
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            found[mistake["what"]] = [code, said.read()]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
