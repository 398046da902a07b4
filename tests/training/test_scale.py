"""What a training is told of its networks before it begins: where they end, and in what units they read."""

import re
import warnings

import pytest
import torch
from torch import nn

import allegory as al
from allegory.training.scale import remark_on_scale

X = torch.bernoulli(torch.full((40, 12), 0.4), generator=torch.Generator().manual_seed(0)).double()


class Functional(nn.Module):
    """Squashes its output without a layer."""

    def __init__(self, squash, outputs=12):
        super().__init__()
        self.net, self.squash = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs)), squash

    def forward(self, z):
        return self.squash(self.net(z))


def remark(to_x, family=al.families.bernoulli, to_z=None, event_dim=1):
    torch.manual_seed(0)
    encoder = al.Conditional(nn.Linear(12, 4) if to_z is None else to_z, al.families.normal)
    return remark_on_scale(al.VAE(al.StandardNormal(2), encoder, al.Conditional(to_x, family, event_dim)).double(), X)


SQUASHED = {
    "a layer": (nn.Sequential(nn.Linear(2, 12), nn.Sigmoid()), al.families.bernoulli, "ends in Sigmoid, .* log-odds"),
    "within another": (
        nn.Sequential(nn.Sequential(nn.Linear(2, 12), nn.Sigmoid()), nn.Dropout(0.1), nn.Unflatten(-1, (12,))),
        al.families.bernoulli,
        "ends in Sigmoid",
    ),
    "a function": (Functional(torch.sigmoid), al.families.bernoulli, "puts out 0..1 alone, and .* log-odds"),
    "a softmax": (
        nn.Sequential(nn.Linear(2, 24), nn.Softmax(-1)), al.families.categorical(2), "ends in Softmax, .* logits"
    ),
    "a softmax, a function": (
        Functional(lambda y: y.softmax(-1), 24), al.families.categorical(2), "puts out 0..1 alone, .* logits"
    ),
    "tanh": (Functional(torch.tanh), al.families.bernoulli, r"puts out -1\.\.1 alone"),
    "relu": (Functional(torch.relu, 24), al.families.normal, "never puts out a number below 0, .* mu and log sigma"),
    "units of the data": (
        nn.Sequential(nn.Linear(2, 24), nn.ReLU()),
        al.families.standardized(al.families.normal, torch.tensor(0.5), torch.tensor(0.5)),
        "ends in ReLU, .* mu and log sigma",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SQUASHED)
def test_a_network_that_ends_within_a_range_is_told(name):
    network, family, message = SQUASHED[name]
    told = remark(network, family)
    assert re.search(rf"^the network of p\(x \| z_1\) {message}.*, any real numbers: leave that layer out$", told), told


def test_so_is_an_encoder():
    told = remark(nn.Linear(2, 12), to_z=nn.Sequential(nn.Linear(12, 4), nn.ReLU()))
    assert told.startswith("the network of q(z_1 | x) ends in ReLU, and its family reads mu and log sigma")


@pytest.mark.parametrize(
    ("network", "family"),
    [
        (nn.Linear(2, 12), al.families.bernoulli),
        (nn.Sequential(nn.Linear(2, 12), nn.LeakyReLU()), al.families.bernoulli),
        (nn.Sequential(nn.Linear(2, 24), nn.LogSoftmax(-1)), al.families.categorical(2)),
        (nn.Sequential(nn.Linear(2, 12), nn.Sigmoid()), al.families.normal_fixed(0.1)),  # a mean of grey levels
        (Functional(torch.sigmoid), al.families.normal_shared()),
        (Functional(lambda y: 20 * y.tanh()), al.families.bernoulli),
        (Functional(torch.zeros_like), al.families.bernoulli),  # as at the start of a ladder
    ],
)
def test_others_are_not(network, family):
    assert remark(network, family) == ""


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("likelihood", al.architectures.LIKELIHOODS)
def test_nor_are_the_models_of_the_library(likelihood, top_down):
    x = X + torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) * (likelihood in al.likelihoods.CONTINUOUS)
    model = al.architectures.mlp((12,), likelihood, [4, 2], [16], categories=2, top_down=top_down, data=x)
    assert remark_on_scale(model, x) == ""


def test_fit_says_so_before_it_trains():
    model = al.VAE(
        al.StandardNormal(2),
        al.Conditional(nn.Linear(12, 4), al.families.normal),
        al.Conditional(nn.Sequential(nn.Linear(2, 12), nn.Sigmoid()), al.families.bernoulli),
    )
    with pytest.warns(UserWarning, match=r"^the network of p\(x \| z_1\) ends in Sigmoid"):
        al.fit(model, X, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        al.fit(al.architectures.mlp((12,), "bernoulli", [2], [8], data=X), X, epochs=1)
