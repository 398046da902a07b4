"""The commonest mistakes, and the one line each of them gets: what came, what was wanted, what to do."""

import pytest
import torch
from torch import nn

import allegory as al

X = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).round().double()


def vae(encoder=None, decoder=None):
    return al.VAE(
        al.StandardNormal(2),
        encoder or al.Conditional(nn.Linear(3, 4), al.families.normal),
        decoder or al.Conditional(nn.Linear(2, 3), al.families.bernoulli),
    )


PLAIN = r"returned a tensor of shape .* wanted a torch.distributions.Distribution: .* al.Conditional\(network, "


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model(X),
        lambda model: al.fit(model, X, epochs=1),
        lambda model: al.evaluate(model, X),
        lambda model: al.log_likelihood(model, X),
    ],
    ids=["call", "fit", "evaluate", "log_likelihood"],
)
@pytest.mark.parametrize("parts", [{"encoder": nn.Linear(3, 4)}, {"decoder": nn.Linear(2, 3)}], ids=["q", "p"])
def test_a_plain_network_where_a_conditional_is_wanted(parts, use):
    with pytest.raises(ValueError, match=PLAIN):
        use(vae(**parts).double())


@pytest.mark.parametrize("function", [al.evaluate, al.log_likelihood, al.diagnose, al.bound_curve, al.ais])
def test_arrays_where_a_tensor_is_wanted(function):
    with pytest.raises(ValueError, match=r"got ndarray, wanted a tensor, such as torch.as_tensor\("):
        function(vae(), X.numpy())


MLP = al.architectures.mlp
MISTAKES = {
    r"latent=2: wanted a sequence, one for each level, such as latent=\(2,\)": lambda: MLP((3,), latent=2),
    r"hidden=64: wanted a sequence, one for each layer, such as hidden=\(64,\)": lambda: MLP((3,), hidden=64),
    r"event_shape=3: wanted a sequence, one for each dimension": lambda: MLP(3),
    r"latent=2: wanted a sequence": lambda: al.architectures.conv((1, 8, 8), latent=2),
    r"hidden=\[10000000000000000000\]: wanted positive whole": lambda: MLP((3,), hidden=[10**19]),
    r"latent=\[2.5\]: wanted positive whole numbers": lambda: MLP((3,), latent=[2.5]),
    r"latent='2': wanted a sequence of positive whole": lambda: MLP((3,), latent="2"),
    r"data: got ndarray, wanted a tensor": lambda: MLP((3,), "bernoulli", data=X.numpy()),
    r"objective='iwae': wanted a function, such as objective=al.iwae": lambda: fit(objective="iwae"),
    r"objective='iwea': wanted a function, such as objective=al.elbo": lambda: fit(objective="iwea"),
    r"epochs='3': wanted a number": lambda: fit(epochs="3"),
    r"lr='1e-3': wanted a number": lambda: fit(lr="1e-3"),
    r"batch_size=2.5: wanted a whole number, 1 or more": lambda: fit(batch_size=2.5),
    r"samples=2.5: wanted a whole number, 1 or more": lambda: fit(samples=2.5),
    r"seed=10+: wanted a whole number": lambda: fit(seed=10**30),
    r"samples=2.5: wanted K >= 1": lambda: al.evaluate(vae().double(), X, samples=2.5),
    r"samples=10+: wanted K >= 1": lambda: al.log_likelihood(vae().double(), X, samples=10**30),
    r"of torch.float64, but its weights are torch.float32: convert the data, x.to\(torch.float32\)": lambda: (
        al.evaluate(vae().float(), X)
    ),
    r"digits is a data set, wanted a run directory; its data: allegory.data.load\('digits'\)": lambda: al.load(
        "digits"
    ),
}


def fit(**more):
    return al.fit(vae().double(), X, **{"epochs": 1, **more})


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)


def test_an_activation_is_given_by_its_class_or_its_name():
    assert MLP((3,), activation=nn.ReLU).config == MLP((3,), activation="ReLU").config
