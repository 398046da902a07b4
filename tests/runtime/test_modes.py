"""Parts that are frozen in eval mode stay as they are, whatever scores or trains the model around them."""

import copy

import pytest
import torch
from torch import nn

import allegory as al
from allegory.evaluation import posterior_moments
from allegory.training.validation import validate

SCORING = {
    "log_likelihood": lambda model, x: al.log_likelihood(model, x, samples=3),
    "evaluate": lambda model, x: al.evaluate(model, x, samples=3),
    "bound_curve": lambda model, x: al.bound_curve(model, x, samples=3),
    "moments": lambda model, x: posterior_moments(model, x, samples=3),
    "diagnose": lambda model, x: al.diagnose(model, x, samples=3),
    "ais": lambda model, x: al.ais(model, x, chains=2, temperatures=2),
    "validate": lambda model, x: validate(model, x, al.elbo),
    "check": lambda model, x: model.check(x),
    "refused": lambda model, x: refused(model, x + 0.5),
    "repr": lambda model, x: repr(model),
    "sample": lambda model, x: model.sample(3),
}


def refused(model, x):
    with pytest.raises(ValueError, match="x: "):
        model.check(x)


@pytest.fixture
def x():
    return (torch.rand(32, 12) < 0.5).double()


def with_a_frozen_body():
    body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)).requires_grad_(False)
    encoder = al.Conditional(nn.Sequential(body, nn.Linear(16, 4)), al.families.normal)
    model = al.VAE(al.StandardNormal(2), encoder, al.Conditional(nn.Linear(2, 12), al.families.bernoulli))
    body.eval()
    return model, body


@pytest.mark.filterwarnings("ignore:L_3 says little")
@pytest.mark.parametrize("name", SCORING)
def test_what_scores_leaves_every_part_in_its_mode(name, x):
    model, _ = with_a_frozen_body()
    before = {part: part.training for part in model.modules()}
    assert set(before.values()) == {True, False}
    SCORING[name](model, x)
    assert {part: part.training for part in model.modules()} == before


@pytest.mark.parametrize("objective", [al.elbo, al.stl])
def test_a_training_leaves_a_frozen_part_as_it_was(objective, x):
    model, body = with_a_frozen_body()
    before = copy.deepcopy(body.state_dict())
    for _ in range(2):  # the second time all of the model is in eval mode
        learned = model.encoders[0].network[1].weight.clone()
        al.fit(model, x, valid=x, epochs=2, batch_size=16, objective=objective)
        assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
        assert not torch.equal(model.encoders[0].network[1].weight, learned)


def test_what_is_learned_or_in_training_mode_is_trained(x):
    model, body = with_a_frozen_body()
    body.train()
    mean = body[1].running_mean.clone()
    al.fit(model, x, epochs=1, batch_size=16)
    assert not torch.equal(body[1].running_mean, mean)
    model, body = with_a_frozen_body()
    body.requires_grad_(True)
    al.fit(model, x, epochs=1, batch_size=16)
    assert not torch.equal(body[1].running_mean, mean)
