"""The commonest mistakes, and the one line each of them gets: what came, what was wanted, what to do."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allegory as al
from allegory.data import load

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
PAIRS = TensorDataset(X, X[:, 0])
Q = al.Conditional(nn.Linear(3, 4), al.families.normal)


def pictures(*layers):
    return nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (1, 3, 4)), *layers)


def flat():
    return al.Conditional(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), al.families.normal)


def broken():
    model = vae()
    nn.init.constant_(model.decoders[0].network.weight, float("nan"))
    return model


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
    r"training data: got DataLoader, wanted a tensor of all examples, .* torch.cat\(": lambda: al.fit(
        vae(), DataLoader(PAIRS), epochs=1
    ),
    r"training data: got TensorDataset, wanted a tensor, .* torch.stack": lambda: al.fit(vae(), PAIRS, epochs=1),
    r"training data: got a tuple of 2, wanted a tensor of the examples alone: labels": lambda: al.fit(
        vae(), (X, X[:, 0]), epochs=1
    ),
    r"training data: got list, wanted a tensor, such as torch.stack\(x\)": lambda: al.fit(vae(), [*X], epochs=1),
    r"x: got Data, wanted a tensor: one of its splits, such as data.train": lambda: al.evaluate(vae(), load("digits")),
    r"training data: got str, wanted a tensor, such as allegory.data.load\('digits'\).train": lambda: al.fit(
        vae(), "digits", epochs=1
    ),
    r"model: got Tensor, wanted a VAE, and the data after it": lambda: al.fit(X, vae(), epochs=1),
    r"model: got Linear, wanted a VAE": lambda: al.evaluate(nn.Linear(3, 3), X),
    r"model: got DataParallel, wanted the VAE inside of it, model.module": lambda: al.fit(
        nn.DataParallel(vae()), X, epochs=1
    ),
    r"model: none of its parameters has requires_grad": lambda: al.fit(vae().requires_grad_(False), X, epochs=1),
    r"a single number for each example looks like labels": lambda: al.fit(vae().double(), X[:, 0], epochs=1),
    r"x: examples of shape \(\), .* one example alone is x\[None\]": lambda: al.evaluate(vae().double(), X[0]),
    r"x: examples of shape \(1, 3\), but .* x.flatten\(1\) fits": lambda: al.evaluate(vae().double(), X[:, None]),
    r"got torch.complex128, wanted floating point": lambda: al.evaluate(vae(), X.to(torch.complex128)),
    r"got a sparse tensor, torch.sparse_coo, wanted a dense one": lambda: al.evaluate(vae(), X.to_sparse()),
    r"x is on meta, the model on cpu": lambda: al.evaluate(vae().double(), X.to("meta")),
    r"but its weights are torch.bfloat16: draws and densities are in float32": lambda: al.evaluate(
        vae().bfloat16(), X.bfloat16()
    ),
    r"over \(4,\), in a batch of \(1, 1, 3\): wanted Conditional\(\.\.\., event_dim=3\)": lambda: al.evaluate(
        vae(decoder=al.Conditional(pictures(), al.families.bernoulli)).double(), torch.zeros(4, 1, 3, 4)
    ),
    r"al.networks.Images and Vectors make one of its two leading": lambda: al.evaluate(
        vae(flat(), al.Conditional(pictures(nn.Conv2d(1, 1, 1)), al.families.bernoulli, 3)).double(),
        torch.zeros(4, 1, 3, 4),
    ),
    r"prior: got the class StandardNormal, wanted": lambda: al.VAE(al.StandardNormal, Q, Q),
    r"prior: got Normal, wanted a module whose call": lambda: al.VAE(torch.distributions.Normal(0, 1), Q, Q),
    r"got StandardNormal, wanted conditionals: VAE\(prior, encoder, decoder\)": lambda: al.VAE(
        Q, Q, al.StandardNormal(2)
    ),
    r"the prior, Conditional, cannot be called without arguments|missing": lambda: al.evaluate(
        al.VAE(nn.Linear(3, 2), Q, al.Conditional(nn.Linear(2, 3), al.families.bernoulli)).double(), X
    ),
    r"got NoneType, wanted conditionals": lambda: al.VAE(al.StandardNormal(2), None, None),
    r"got the family 'normal', wanted one such as al.fam": lambda: al.Conditional(nn.Linear(3, 4), "normal"),
    r"got the function normal_shared, wanted what it makes, al.families.normal_shared": lambda: al.Conditional(
        nn.Linear(3, 4), al.families.normal_shared
    ),
    r"got the class Normal, wanted a family, such as al.families.normal": lambda: al.Conditional(
        nn.Linear(3, 4), torch.distributions.Normal
    ),
    r"got the family Normal first, wanted it after the network": lambda: al.Conditional(
        al.families.normal, nn.Linear(3, 4)
    ),
    r"StandardNormal: got \(2,\), wanted whole numbers, StandardNormal\(16\)": lambda: al.StandardNormal((2,)),
    r"unknown likelihood 'bernouli'; did you mean 'bernoulli'\?": lambda: MLP((3,), "bernouli"),
    r"unknown likelihood 'gaussian'; did you mean 'normal'\?": lambda: MLP((3,), "gaussian"),
    r"event_shape: got a tensor of shape \(8, 3\), wanted numbers, such as \(3,\)": lambda: MLP(X, "bernoulli"),
    r"data: examples of shape \(3,\), but event_shape=\(4,\)": lambda: MLP((4,), "bernoulli", data=X),
    r"data: examples of shape \(\), but .* one example alone": lambda: MLP((3,), data=X[0]),
    r"got VAE, wanted the trace of a pass, model\(x\)": lambda: al.elbo(vae(), X),
    r"got Tensor, wanted the trace of a pass": lambda: al.iwae(X),
    r"objective=Tensor: wanted a function, such as objective=al.elbo": lambda: fit(
        objective=al.elbo(vae().double()(X))
    ),
    r"objective elbo\(beta=4\) cannot be called with \(trace, beta\): .* fit\(\.\.\., beta=4.0\)": lambda: fit(
        objective=functools.partial(al.elbo, beta=4)
    ),
    r"objective <lambda>: its result has no gradient": lambda: fit(objective=lambda t, beta: al.elbo(t, beta).detach()),
    r"beta='4': wanted a number, or one for each of 1 levels": lambda: fit(beta="4"),
    r"beta=None: wanted a number": lambda: fit(beta=None),
    r"lr=None: wanted a number": lambda: fit(lr=None),
    r"weight_decay='x': wanted a number": lambda: fit(weight_decay="x"),
    r"epochs=2.5: wanted a whole number": lambda: fit(epochs=2.5),
    r"transform='binarize': wanted a function": lambda: fit(transform="binarize"),
    r"transform: got ndarray for a batch of examples, wanted a tensor": lambda: fit(transform=lambda x: x.numpy()),
    r"transform: got 16 examples for 8, wanted as many": lambda: fit(transform=lambda x: torch.cat([x, x])),
    r"n=2.5: wanted at least one, a whole number": lambda: vae().sample(2.5),
    r"samples='3': wanted at least one particle": lambda: vae().double()(X, samples="3"),
    r"decoders.0.network.weight of the model are NaN": lambda: al.save(broken(), "broken"),
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


def test_gradients_of_what_made_the_data_or_switched_off_do_not_matter():
    made = X @ torch.randn(3, 3, dtype=X.dtype, requires_grad=True)
    model = vae(decoder=al.Conditional(nn.Linear(2, 6), al.families.normal)).double()
    with torch.no_grad():
        plain = al.fit(model, made, epochs=2, batch_size=4).history
    assert not torch.is_inference_mode_enabled()
    again = vae(decoder=al.Conditional(nn.Linear(2, 6), al.families.normal)).double()
    assert len(plain) == len(al.fit(again, made, epochs=2, batch_size=4).history) == 2


def test_a_transform_in_place_leaves_the_data_as_they_are():
    x = X.clone()
    al.fit(vae().double(), x, epochs=2, transform=lambda rows: rows.mul_(-1).add_(1))
    assert torch.equal(x, X)
    al.fit(vae().double(), x, epochs=2, transform=lambda rows: rows.mul_(-1).add_(1), objective=al.stl)
    assert torch.equal(x, X)


def test_a_lazy_layer_is_trained():
    model = vae(encoder=al.Conditional(nn.LazyLinear(4), al.families.normal)).double()
    assert al.fit(model, X, epochs=1).epoch == 1


def test_a_model_that_is_compiled_is_saved_by_its_own_names(tmp_path):
    model = MLP((3,), "bernoulli", latent=[2], hidden=[4]).double()
    whole = torch.compile(model, backend="eager")
    al.fit(whole, X, epochs=1, out=tmp_path / "run")
    part = MLP((3,), "bernoulli", latent=[2], hidden=[4]).double()
    part.load_state_dict(model.state_dict())
    part.decoders[0] = torch.compile(part.decoders[0], backend="eager")
    al.save(part, tmp_path / "part")
    for found in (
        al.load(tmp_path / "run"),
        al.load(al.save(whole, tmp_path / "whole")),
        al.load(tmp_path / "part", part),
    ):
        pairs = zip(found.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_the_last_step_is_looked_at(tmp_path):
    """A step of this size leaves weights whose bound is not finite, and no pass follows it."""
    with pytest.warns(UserWarning, match=r"after the last step give \d of 8 examples no finite bound"):
        al.fit(vae().float(), X.float(), epochs=1, lr=1e38)


def test_a_scale_that_a_training_cannot_leave_is_warned_of():
    x = torch.randint(0, 256, (200, 6)).double()
    own = al.VAE(
        al.StandardNormal(3),
        al.Conditional(al.networks.mlp(6, [64], 6), al.families.normal),
        al.Conditional(al.networks.mlp(3, [64], 12), al.families.discretized_logistic()),
    ).double()
    with pytest.warns(UserWarning, match=r"of the sigmas of q\(z_1 \| x\) begin at 0.001 or above 50, .* 0 to 255"):
        al.fit(own, x, epochs=1)
    counts = torch.poisson(torch.full((200, 3), 3e4))
    model = MLP((3,), "poisson", latent=[2], hidden=[2]).double()
    nn.init.zeros_(model.encoders[0].network[1][-1].weight)
    with pytest.warns(UserWarning, match=r"p\(x \| z_1\) begins at [\d,]+ nats for each element of x"):
        al.fit(model, counts, epochs=1)
    small = MLP((3,), "normal", latent=[2], hidden=[4]).double()
    small.decoders[0].family = al.families.normal
    with pytest.warns(UserWarning, match=r"x varies by [\d.e-]+, and sigma of p\(x \| z_1\) is at least 0.001"):
        al.fit(small, 1e-5 * torch.randn(200, 3), epochs=1)


@pytest.mark.parametrize("likelihood", ["normal", "discretized_logistic", "poisson", "categorical"])
@pytest.mark.parametrize("latent", [[2], [3, 2]])
def test_models_that_know_the_data_begin_well(likelihood, latent):
    x = torch.randint(0, 256, (200, 6)).double()
    x = x + torch.rand(200, 6).double() if likelihood == "normal" else x  # rounded numbers are no density's
    for top_down in (False, True):
        more = dict(categories=256) if likelihood == "categorical" else {}
        model = MLP((6,), likelihood, latent, [64], data=x, top_down=top_down, **more).double()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            al.fit(model, x, epochs=1)
