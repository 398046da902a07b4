import os

# Tensors are small here: beside other work a second thread waits more than it helps.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def _float64():
    """Laws are checked in float64, from a fixed seed, and no test leaves a global behind."""
    validate = Distribution._validate_args
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    Distribution.set_default_validate_args(validate)
