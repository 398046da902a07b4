"""What every doctest finds in its namespace: torch, nn, al, and a small model with its data."""

import pytest
import torch
from torch import nn

import allegory as al


@pytest.fixture(autouse=True)
def _doctest_names(request: pytest.FixtureRequest, doctest_namespace: dict[str, object]) -> None:
    torch.manual_seed(0)
    if isinstance(request.node, pytest.DoctestItem):
        model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8])
        x = (torch.rand(7, 6) < 0.5).float()
        doctest_namespace.update(torch=torch, nn=nn, al=al, model=model, x=x)
