"""A model that was collapsed on purpose is recognised, and so is one that was not."""

import functools
import math

import pytest
import torch
from linear_gaussian import chain

import allegory as al


@pytest.fixture(scope="module")
def data():
    """Sixteen noisy patterns of 20 bits, in four groups of like ones."""
    torch.manual_seed(0)
    groups = torch.rand(4, 20) < 0.5
    patterns = groups.repeat_interleave(4, 0) ^ (torch.rand(16, 20) < 0.2)
    x = patterns[torch.randint(16, (1200,))] ^ (torch.rand(1200, 20) < 0.03)
    return x.float()


def trained(data, latent, top_down=False, epochs=60, **more):
    torch.manual_seed(1)
    model = al.architectures.mlp((20,), "bernoulli", latent, hidden=[32], top_down=top_down, data=data[:1000])
    al.fit(model, data[:1000], epochs=epochs, batch_size=50, lr=3e-3, lr_final=0.1, **more)
    return model


@pytest.mark.parametrize("top_down", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_healthy_model_is_told_from_one_collapsed_on_purpose(data, top_down):
    torch.set_default_dtype(torch.float32)
    good = al.diagnose(trained(data, [4], top_down), data[1000:], data[:1000])
    assert good.healthy
    assert good.levels[0].verdict == "works"
    assert good.levels[0].active_units >= 2
    assert 1.5 < good.levels[0].information < min(good.levels[0].rate, math.log(16)) + 0.2  # which of the 16 it is
    assert good.levels[0].loss > 1
    assert str(good).startswith("level 1 works: its rate is")
    bad = al.diagnose(trained(data, [4], top_down, beta=50.0, epochs=20), data[1000:])
    assert not bad.healthy
    assert bad.levels[0].verdict == "collapsed"
    assert bad.levels[0].active_units == 0
    assert bad.levels[0].information < 0.05
    assert abs(bad.levels[0].loss) < 0.2
    assert "level 1 has collapsed: its rate is 0.0" in str(bad)
    assert "try a KL warm-up" in str(bad)


@pytest.mark.parametrize("top_down", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_one_level_that_collapsed_is_named(data, top_down):
    torch.set_default_dtype(torch.float32)
    beta = [1.0, 50.0]
    found = al.diagnose(trained(data, [4, 2], top_down, beta=beta), data[1000:])
    assert [level.verdict for level in found.levels] == ["works", "collapsed"]
    assert "level 2 has collapsed" in found.verdict[1]
    assert ("a top-down posterior" in found.verdict[1]) is not top_down


def test_a_level_the_rest_ignores_is_idle(data):
    """A posterior that moves for nothing: its rate is paid, and what is below does not look."""
    torch.set_default_dtype(torch.float32)
    model = trained(data, [4, 2], top_down=True, objective=functools.partial(al.free_bits, nats=1.0))
    with torch.no_grad():
        model.decoders[1].network[1].weight.zero_()  # p(z_1 | z_2) forgets z_2
        first = model.encoders.posteriors[0].network[0][1].weight  # and q(z_1 | h_1, z_2), too
        first[:, -2:] = 0
    found = al.diagnose(model, data[1000:])
    assert found.levels[1].rate > 0.1
    assert found.levels[1].verdict == "idle"
    assert "level 2 is idle" in found.verdict[1]


def test_overfitting_is_said(data):
    torch.set_default_dtype(torch.float32)
    x = torch.rand(60, 20).round()  # noise: all that can be learned is by heart
    torch.manual_seed(1)
    model = al.architectures.mlp((20,), "bernoulli", [8], hidden=[64])
    al.fit(model, x[:30], epochs=600, batch_size=30, lr=3e-3)
    found = al.diagnose(model, x[30:], x[:30])
    assert found.gap > 2
    assert "the model overfits" in str(found)
    assert found.as_dict()["levels"][0]["verdict"] == found.levels[0].verdict


def test_a_bound_of_one_particle_is_not_trusted():
    model, evidence = chain(1)
    model.encoders[0].bias = model.encoders[0].bias + 8
    assert "L_100 cannot be trusted: for" in str(al.diagnose(model, evidence().sample((50,))))


@pytest.mark.parametrize("infer", ["up", "down"])
def test_rates_information_and_losses_are_those_of_the_linear_gaussian_chain(infer):
    model, evidence = chain(2, infer=infer)
    x = evidence().sample((512,))
    found = al.diagnose(model, x, samples=50)
    exact = evidence().log_prob(x).mean().item()
    assert found.evaluation.elbo == pytest.approx(exact, abs=0.1)
    if infer == "up":  # I(z_1; x) of a jointly Gaussian pair, as far as 512 examples can tell: at most log 512
        joint = torch.cat([x.T, model(x).latents[0][0].T]).cov()
        blocks = [torch.logdet(joint[:4, :4]), torch.logdet(joint[4:, 4:]), torch.logdet(joint)]
        mutual = 0.5 * (blocks[0] + blocks[1] - blocks[2]).item()
        assert min(mutual, math.log(512)) * 0.6 < found.levels[0].information <= math.log(512)
    # With both levels from their priors what is left is E log p(x | z).
    blind = model.generate(100_000).log_prob(x[:1]).mean().item()
    alone = al.diagnose(model, x[:1].expand(200, -1), samples=500)
    if infer == "up":
        assert alone.levels[0].loss == pytest.approx(alone.evaluation.elbo - blind, rel=0.05)
