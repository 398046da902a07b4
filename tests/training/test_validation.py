"""Validation: the bound of held-out data, and its parts."""

import torch
from torch.testing import assert_close

import allegory as al
from allegory.runtime import processes
from allegory.training.validation import validate

N = 60
x = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()


def chain():
    return al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double().eval()


def test_the_noise_is_by_place(monkeypatch):
    """So that it does not depend on how many processes share it."""
    model, found = chain(), []
    monkeypatch.setattr("allegory.training.validation.pairs_per_pass", lambda model, x, whole: 8)
    for several in (1, 3):
        totals = []
        for rank in range(several):
            monkeypatch.setattr(processes, "world_size", lambda several=several: several)
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(processes, "all_reduce", lambda x, totals=totals: totals.append(x.clone()) or x)
            validate(model, x, al.elbo, 1, 7)
        found.append(sum(totals))
    assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_the_parts_add_up_to_the_elbo_and_the_noise_is_that_of_the_seed():
    model = chain()
    found = validate(model, x, al.elbo, seed=3)
    assert found["elbo"] == found["reconstruction"] - sum(found["kl_per_level"])
    assert_close(found["bound"], found["elbo"], rtol=1e-12, atol=0)
    assert found == validate(model, x, al.elbo, seed=3)
    assert found != validate(model, x, al.elbo, seed=4)


def test_beta_is_1_and_the_mode_is_restored():
    seen, model = [], chain().train()
    validate(model, x, lambda trace, beta: seen.append(beta) or al.elbo(trace, beta))
    assert set(seen) == {1.0}
    assert model.training
