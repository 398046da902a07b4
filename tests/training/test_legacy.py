"""Runs that were written before parameters had the units of the data keep their numbers."""

import json

import pytest
import torch
from torch.distributions import Normal, Poisson
from torch.testing import assert_close

import allegory as al
from allegory import architectures, families
from allegory.training.tensors import read_tensors, write_tensors

COUNTS = torch.tensor([[3.0, 0.0, 70.0], [8.0, 1.0, 20.0], [5.0, 0.0, 1.0], [4.0, 2.0, 40.0]])
REAL = torch.tensor([[0.3, -1.0, 70.0], [0.8, 1.0, 20.0], [-0.5, 0.0, 1.0], [0.4, 2.0, 40.0]])


class Small(al.VAE):
    """A class of one's own that uses the library's family."""

    def __init__(self):
        encoder = al.Conditional(torch.nn.Linear(3, 4), families.normal)
        super().__init__(al.StandardNormal(2), encoder, al.Conditional(torch.nn.Linear(2, 3), families.poisson))


def earlier(model, path, drop=(), rename=(), add=()):
    """The run as the earlier version wrote it: no `units`, its names of the weights; and the weights."""
    al.save(model, path)
    config = json.loads((path / "config.json").read_text())
    assert config.pop("units") == 2
    (path / "config.json").write_text(json.dumps(config))
    weights, _ = read_tensors(path / "weights.safetensors")
    weights = {dict(rename).get(key, key): value for key, value in weights.items() if key not in drop} | dict(add)
    write_tensors(path / "weights.safetensors", weights, {})
    return weights


def positive(s, bound=1e3):
    b = torch.tensor(bound).log()
    return (b * torch.tanh(s / b)).exp()


def test_counts_had_rates_up_to_a_million_and_were_read_on_a_linear_scale(tmp_path):
    model = architectures.mlp((3,), "poisson", [2], [], data=COUNTS)
    scale = {"decoders.0.family.loc", "decoders.0.family.scale"}
    weights = earlier(model, tmp_path / "run", drop=scale)
    found, z = al.load(tmp_path / "run"), torch.randn(4, 2)
    phi = model.decoders[0].network(z)
    assert_close(found.decoders[0](z).log_prob(COUNTS), Poisson(positive(phi, 1e6)).log_prob(COUNTS).sum(-1))
    name = "encoders.0.network.0.0."
    read = (COUNTS - weights[f"{name}loc"]) / weights[f"{name}scale"]
    assert_close(found.encode(COUNTS)[0].mean, model.encoders[0].network[1](read)[:, :2])
    al.save(found, tmp_path / "again")  # and stays what it is
    again = al.load(tmp_path / "again")
    assert_close(again.decoders[0](z).log_prob(COUNTS), found.decoders[0](z).log_prob(COUNTS), rtol=0, atol=0)
    assert_close(again.encode(COUNTS)[0].mean, found.encode(COUNTS)[0].mean, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"begun by an earlier version of allegory.* train into a new directory"):
        al.fit(model, COUNTS, epochs=1, out=tmp_path / "run", resume=True)


def test_a_class_of_ones_own_keeps_its_rates_and_the_library_its_family(tmp_path):
    model = Small()
    earlier(model, tmp_path / "run")
    found, z = al.load(tmp_path / "run", Small), torch.randn(4, 2)
    phi = model.decoders[0].network(z)
    assert_close(found.decoders[0](z).mean, positive(phi, 1e6))
    assert_close(families.poisson(phi).mean, positive(phi, 1e9))


@pytest.mark.parametrize("name", ["normal_shared", "normal_per_dimension"])
def test_sigma_was_the_parameter_itself(tmp_path, name):
    model = architectures.mlp((3,), name, [2], [], data=REAL)
    with torch.no_grad():
        model.decoders[0].family.family.s.add_(0.3)
    earlier(model, tmp_path / "run")
    law = al.load(tmp_path / "run").decoders[0](torch.zeros(4, 2))
    sigma = positive(torch.tensor(0.3)) * model.decoders[0].family.scale
    assert_close(law.log_prob(REAL), Normal(law.mean, sigma.expand(4, 3)).log_prob(REAL).sum(-1))


def test_pseudo_inputs_were_parameters_in_units_of_x(tmp_path):
    model = architectures.mlp((3,), "normal", [2], [], prior="vamp", components=4, data=REAL)
    inputs = torch.randn(4, 3)
    weights = dict(rename={"prior.standardized": "prior.inputs"}, drop={"prior.read.loc", "prior.read.scale"})
    earlier(model, tmp_path / "run", **weights, add={"prior.inputs": inputs})
    found, z = al.load(tmp_path / "run"), torch.randn(5, 2)
    assert_close(found.prior.inputs, inputs)
    wanted = model.encoders[0](inputs).log_prob(z[:, None]).logsumexp(-1) - torch.tensor(4.0).log()
    assert_close(found.prior().log_prob(z), wanted)


def test_the_mean_of_normal_fixed_was_in_units_of_x(tmp_path):
    family = families.normal_fixed(0.5)
    model = architectures.mlp((3,), family, [2], [], data=REAL)
    earlier(model, tmp_path / "run", drop={"decoders.0.family.loc", "decoders.0.family.scale"})
    z = torch.randn(4, 2)
    assert_close(al.load(tmp_path / "run", likelihood=family).decoders[0](z).mean, model.decoders[0].network(z))


def test_a_model_without_such_parts_says_nothing_of_units_and_resumes(tmp_path):
    bits = (REAL > 0.5).double()
    model = architectures.mlp((3,), "bernoulli", [2], [4], data=bits)
    al.fit(model, bits, epochs=1, out=tmp_path / "run")
    assert "units" not in json.loads((tmp_path / "run" / "config.json").read_text())
    assert al.fit(model, bits, epochs=2, out=tmp_path / "run", resume=True).epoch == 2
