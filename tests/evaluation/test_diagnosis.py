"""A model that was collapsed on purpose is recognised, and so is one that was not."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from linear_gaussian import chain

import allegory as al
from allegory.evaluation import diagnosis


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


def test_what_is_worse_than_independent_elements_is_said_first(data):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(1)
    model = al.architectures.mlp((20,), "bernoulli", [4], hidden=[32])
    al.fit(model, data[:1000], epochs=1, batch_size=500, lr=1e-6)
    found = al.diagnose(model, data[1000:], data[:1000])
    assert found.evaluation.worse_than_baseline
    assert found.verdict[0].startswith(f"worse than independent elements: -L_100 is {found.evaluation.nll:.2f} nats")
    good = al.diagnose(trained(data, [4]), data[1000:], data[:1000])
    assert not good.evaluation.worse_than_baseline
    assert good.evaluation.nll < good.evaluation.baseline_nll - 1
    assert good.verdict[0].startswith("level 1 works")


def test_overfitting_does_not_depend_on_the_unit_of_the_data(monkeypatch):
    """In another unit every bound moves by the same number of nats."""
    model, evidence = chain(1)
    x = evidence().sample((50,))
    found, said = al.evaluate(model, x, samples=2), set()
    for moved in (-27.6, 0.0, 27.6):
        held_out = replace(found, elbo=moved - 11.4, elbo_stderr=0.1)
        on_train = replace(found, elbo=moved - 10.0, elbo_stderr=0.1)
        monkeypatch.setattr(diagnosis, "mean_log_prob", lambda law, x, moved=moved: moved - 40)
        said |= {*diagnosis._gap_line(held_out, x, on_train, "a law")}
    assert len(said) == 1
    assert said.pop().startswith("the training ELBO is 1.40 nats above the held-out one; the model overfits")
    monkeypatch.setattr(diagnosis, "mean_log_prob", lambda law, x: -100.0)  # 1.4 nats of 90 are few
    assert "overfits" not in diagnosis._gap_line(held_out, x, replace(held_out, elbo=held_out.elbo + 1.4), "a law")[0]
    noisy = replace(on_train, elbo_stderr=1.0)
    assert "overfits" not in diagnosis._gap_line(held_out, x, noisy, "a law")[0]


def in_another_unit(model, unit):
    """The same top-down model, its z_1 multiplied by `unit`."""

    class Times(torch.nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, *context):
            law = self.part(*context).base_dist
            return torch.distributions.Independent(torch.distributions.Normal(law.loc * unit, law.scale * unit), 1)

    class Reads(torch.nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, z):
            return self.part(z / unit)

    encoder, decoders = model.encoders, model.decoders
    posteriors = [Times(encoder.posteriors[0]), encoder.posteriors[1]]
    return al.VAE(
        model.prior, al.TopDown(encoder.network, posteriors, residual=False), [Reads(decoders[0]), Times(decoders[1])]
    )


def test_active_units_do_not_depend_on_the_unit_of_a_latent(data):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(1)
    model = al.architectures.mlp((20,), "bernoulli", [4, 2], hidden=[32], top_down=True, residual=False)
    al.fit(model, data[:1000], epochs=40, batch_size=50, lr=3e-3)
    counts = []
    for unit in (1.0, 0.05, 20.0):
        torch.manual_seed(0)
        counts.append(al.evaluate(in_another_unit(model, unit), data[1000:], samples=50).active_units)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][0] > 0


def test_a_ladder_level_that_is_its_prior_has_no_active_unit_though_its_prior_moves(data):
    torch.set_default_dtype(torch.float32)
    model = trained(data, [6, 4], top_down=True)
    with torch.no_grad():  # a residual posterior of zeros is the prior
        for p in model.encoders.posteriors[0].network[-1].parameters():
            p.zero_()
    found = al.diagnose(model, data[1000:])
    assert found.levels[0].verdict == "collapsed"
    assert found.levels[0].active_units == 0
    assert "level 1 has collapsed: its rate is 0.00 nats, and none of its 6 units varies with x" in str(found)


@pytest.mark.parametrize("kind", ["MAF", "NICE"])
def test_a_flow_as_posterior_is_diagnosed(kind):
    zuko = pytest.importorskip("zuko")
    x = (torch.rand(40, 6) < 0.5).double()
    flow = getattr(zuko.flows, kind)(3, 6, transforms=1, hidden_features=(8,)).double()
    decoder = al.Conditional(torch.nn.Linear(3, 6), al.families.bernoulli)
    found = al.diagnose(al.VAE(al.StandardNormal(3), flow, decoder), x, samples=20)
    assert math.isfinite(found.levels[0].information)
    assert found.levels[0].information <= math.log(40) + 1e-9


@pytest.mark.parametrize("levels", [2, 8])
def test_the_time_of_a_diagnosis_is_linear_in_the_levels(levels, monkeypatch):
    """Each level costs a pass through all of them, so all share the draws."""
    drawn = []
    monkeypatch.setattr(
        "allegory.evaluation.diagnosis._elbo_without", lambda model, x, c, t, samples: drawn.append(samples) or 0.0
    )
    model = al.architectures.mlp((6,), "bernoulli", [2] * levels, [4])
    al.diagnose(model, (torch.rand(20, 6) < 0.5).double(), samples=64)
    assert sum(drawn) == 64
