import os

# Tensors are small here: beside other work a second thread waits more than it helps.
os.environ["OMP_NUM_THREADS"] = "1"

import json

import pytest
import torch
from filelock import FileLock
from torch.distributions import Distribution

from allegory.runtime import precision


@pytest.fixture(autouse=True)
def _float64():
    """Laws are checked in float64, from a fixed seed, and no test leaves a global behind."""
    validate = Distribution._validate_args
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    Distribution.set_default_validate_args(validate)


@pytest.fixture(autouse=True)
def _nothing_is_fast(monkeypatch):
    """No test depends on what a clock finds fast: bfloat16 pays where a test says so, and nowhere else."""
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: 1.0)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): what make(folder) gives, as JSON; made once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def find(name, make):
        folder, written = base / name, base / f"{name}.json"
        with FileLock(base / f"{name}.lock"):
            if not written.exists():
                folder.mkdir()  # fails where it has failed before
                written.write_text(json.dumps(make(folder)))
        return json.loads(written.read_text())

    return find
