"""What every doctest finds in its namespace, torch, np, nn, al, a small model with its data; and an empty folder."""

import numpy as np
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
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
        doctest_namespace.update(torch=torch, np=np, nn=nn, al=al, model=model, x=x)
