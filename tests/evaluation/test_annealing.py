"""Annealed importance sampling meets what is known exactly, and holds it from both sides."""

import math

import pytest
import torch
from linear_gaussian import chain
from test_exact import one_dimension, quadrature  # noqa: F401
from torch import nn
from torch.distributions import Categorical, Exponential, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

import allegory as al
from allegory.evaluation.annealing import _hmc, _Target


def agrees(found, exact, chains):
    """Within five standard errors of log mean w, as the spread of the weights tells."""
    error = ((chains / found.effective_sample_size - 1) / chains).sqrt()
    assert bool(((found.log_likelihood - exact).abs() < 5 * error + 0.01).all())
    assert bool((error < 0.8).all())  # and so it says something


@pytest.mark.parametrize(
    ("levels", "markov"),
    [(1, True), pytest.param(3, True, marks=pytest.mark.slow), pytest.param(3, False, marks=pytest.mark.slow)],
)
def test_it_meets_the_evidence_of_the_linear_gaussian_chain(levels, markov):
    model, evidence = chain(levels, markov=markov)
    x = evidence().sample((8,))
    found = al.ais(model, x, chains=16, temperatures=200)
    agrees(found, evidence().log_prob(x), 16)
    assert bool((found.acceptance > 0.5).all() & (found.acceptance < 0.8).all())


@pytest.mark.slow
def test_it_owes_nothing_to_the_encoder():
    model, evidence = chain(2)
    x = evidence().sample((4,))
    for encoder in model.encoders:
        encoder.bias = encoder.bias + 5
    bound = al.log_likelihood(model, x, samples=100)
    assert bool((bound < evidence().log_prob(x) - 3).all())
    agrees(al.ais(model, x, temperatures=300), evidence().log_prob(x), 16)


def test_it_meets_the_quadrature_in_one_dimension(one_dimension):  # noqa: F811
    model, x = one_dimension
    found = al.ais(model, x, chains=32, temperatures=200)
    agrees(found, quadrature(model, x).detach(), 32)


def test_a_costly_prior_is_computed_once():
    model = al.architectures.mlp((5,), "normal", latent=[2], hidden=[4], prior="vamp", components=3).double()
    passes = []
    model.prior.register_forward_hook(lambda *_: passes.append(1))
    al.ais(model, torch.randn(4, 5), chains=2, temperatures=3, leapfrog=2)
    assert len(passes) <= 3  # two ask what x may be, and whether the levels fit


def test_few_temperatures_are_unbiased():
    """E[w] = p(x) whatever the schedule, pilot included: the mean of many coarse estimates is exact."""
    model, evidence = chain(1, features=(2, 1))
    x = evidence().sample((2,))
    found = al.ais(model, x.repeat_interleave(400, 0), chains=50, temperatures=4, leapfrog=2)
    w = (found.log_likelihood.view(2, 400) - evidence().log_prob(x)[:, None]).exp()
    error = w.std(1) / math.sqrt(400)
    assert bool(((w.mean(1) - 1).abs() < 5 * error).all())
    assert bool((error < 0.1).all())


@pytest.mark.parametrize("temperatures", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_on_simulated_data_the_two_directions_hold_the_truth_between_them(temperatures):
    model, evidence = chain(2)
    latents, _, seen = model._generate_down(lambda t, p, s: p.sample((30,) if s is None else ()))
    x = model.decoders[0](*seen).sample()
    lower = al.ais(model, x, temperatures=temperatures).log_likelihood
    upper = al.ais(model, x, temperatures=temperatures, posterior=latents).log_likelihood
    exact = evidence().log_prob(x)
    assert lower.mean() < exact.mean() + 0.02
    assert upper.mean() > exact.mean() - 0.02
    assert (upper - lower).mean() < (0.1 if temperatures == 300 else 10)


def test_hmc_leaves_its_target_as_it_is():
    model, evidence = chain(1, features=(3, 2))
    x = evidence().sample((1,))
    target = _Target(model, x)
    law = model.encoders[0](x[0])
    u = law.sample((20_000, 1))
    for _ in range(3):
        u, log_px, accepted = _hmc(target, u, torch.tensor(1.0), torch.tensor([0.4]), leapfrog=5)
    assert 0.5 < accepted.mean() < 0.999
    error = law.variance.sqrt() / math.sqrt(20_000)
    assert bool(((u[:, 0].mean(0) - law.mean).abs() < 5 * error).all())
    assert_close(u[:, 0].T.cov(), law.covariance_matrix, rtol=0.05, atol=0.01)
    assert_close(log_px, model.decoders[0](u).log_prob(x))


class Bits(nn.Module):
    def forward(self):
        return al.families.bernoulli(torch.zeros(3))


def test_a_mixture_of_torch_is_a_prior_too():
    """Its support is a wrapped one, and goes everywhere all the same."""

    class Mixture(nn.Module):
        def forward(self):
            components = Independent(Normal(torch.tensor([[-1.0, 0.0], [1.0, 2.0]]), torch.ones(2, 2)), 1)
            return MixtureSameFamily(Categorical(torch.ones(2)), components)

    likelihood = al.Conditional(nn.Linear(2, 5), al.families.bernoulli)
    model = al.VAE(Mixture(), al.Conditional(nn.Linear(5, 4), al.families.normal), likelihood).double()
    x = torch.zeros(2, 5)
    found = al.ais(model, x, chains=20, temperatures=50).log_likelihood
    assert_close(found, al.log_likelihood(model, x, samples=20_000), atol=0.2, rtol=0)


def test_what_cannot_be_is_said_in_one_line():
    model = al.VAE(
        Bits(),
        al.Conditional(nn.Linear(5, 3), al.families.bernoulli),
        al.Conditional(nn.Linear(3, 5), al.families.bernoulli),
    ).double()
    with pytest.raises(ValueError, match=r"level 1 is discrete: annealed importance sampling needs gradients"):
        al.ais(model, torch.zeros(2, 5))
    model, _ = chain(2)
    for name in ("chains", "temperatures", "leapfrog"):
        with pytest.raises(ValueError, match=f"{name}=0: wanted at least 1"):
            al.ais(model, torch.zeros(2, 4), **{name: 0})
    with pytest.raises(ValueError, match=r"posterior: got 1 latents of \[3\] examples, wanted 2 of 2"):
        al.ais(model, torch.zeros(2, 4), posterior=[torch.zeros(3, 3)])
    sizes = [q.event_shape for q in model.encode(torch.zeros(2, 4))]
    with pytest.raises(ValueError, match=r"posterior: got z_1, z_2, ... of shapes .*, wanted "):
        al.ais(model, torch.zeros(2, 4), posterior=[torch.zeros(2, 9), torch.zeros(2, *sizes[1])])

    class Rates(nn.Module):
        def forward(self):
            return Independent(Exponential(torch.ones(3)), 1)

    model = al.VAE(
        Rates(),
        al.Conditional(nn.Linear(5, 6), al.families.normal),
        al.Conditional(nn.Linear(3, 5), al.families.bernoulli),
    )
    with pytest.raises(ValueError, match=r"level 1 has support .*GreaterThan.*need latents over all real numbers"):
        al.ais(model.double(), torch.zeros(2, 5))
