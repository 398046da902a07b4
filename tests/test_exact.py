"""What is known exactly (DESIGN section 7). tests/test_mutants.py breaks the library and expects these to notice."""

import math
import warnings

import numpy as np
import pytest
import torch
from linear_gaussian import EXACT, Relative, chain
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

import allegory as al
from allegory.evaluation import posterior_moments

SIGMAS = 5  # a fixed seed makes these tests certain; five standard errors make them survive another seed


def agree(sample, exact):
    """The mean of `sample` over dimension 0 is `exact`, within its standard error."""
    error = sample.std(0) / math.sqrt(len(sample))
    assert bool(((sample.mean(0) - exact).abs() < SIGMAS * error + 1e-9).all())


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_every_particle_weighs_the_evidence_at_the_exact_posterior(levels, kind, monkeypatch):
    model, evidence = chain(levels, **EXACT[kind])
    x = evidence().sample((7,))
    trace, log_px = model(x, samples=11), evidence().log_prob(x)
    assert_close(trace.log_weight, log_px.expand(11, 7), rtol=1e-7, atol=1e-7)
    assert_close(al.iwae(trace), log_px, rtol=1e-7, atol=1e-7)
    for most in (10, 30, 100):  # three passes an example, one, three examples a pass
        monkeypatch.setattr("allegory.evaluation.passes.pairs_per_pass", lambda model, x, most=most: most)
        assert_close(al.log_likelihood(model, x, samples=30), log_px, rtol=1e-7, atol=1e-7)
    agree(al.elbo(model(x.repeat(4000, 1))).view(4000, 7), log_px)


def posteriors(model):
    """The affine posteriors of a chain, level 1 first, to be made wrong."""
    found = model.encoders.posteriors if isinstance(model.encoders, al.TopDown) else model.encoders
    return [q.q if isinstance(q, Relative) else q for q in found]


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_the_gap_of_a_wrong_posterior_is_its_closed_form_kl(levels, kind):
    model, evidence = chain(levels, **EXACT[kind])
    x = evidence().sample((3,))
    gap, inflate = torch.zeros(()), 1.3
    for encoder in posteriors(model):
        shift = 0.3 * torch.randn(len(encoder.bias))
        gap += 0.5 * shift @ torch.linalg.solve(encoder.covariance, shift)
        gap += 0.5 * len(shift) * (inflate - 1 - math.log(inflate))
        encoder.bias = encoder.bias + shift
        encoder.covariance = inflate * encoder.covariance
    trace = model(x, samples=20_000)
    exact = evidence().log_prob(x) - gap
    agree(trace.log_weight, exact)
    agree(trace.log_px - trace.kl.sum(0), exact)
    assert bool((al.iwae(trace) > exact).all())


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_closed_and_sampled_rates_agree_level_by_level(levels, kind):
    model, evidence = chain(levels, **EXACT[kind])
    for encoder in posteriors(model):
        encoder.covariance = 1.5 * encoder.covariance
    trace = model(evidence().sample((3,)), samples=20_000)
    difference = trace.kl - (trace.log_qz - trace.log_pz)
    agree(difference.transpose(0, 1), torch.zeros(levels, 3))
    # The top is closed, and every level top-down: given the state its rate is not a sample but the divergence.
    for rate, q, p in list(zip(trace.kl, trace.q, trace.p[1:], strict=True))[0 if trace.top_down else -1 :]:
        assert_close(rate, kl_divergence(q, p.expand(q.batch_shape)).expand_as(rate))


@pytest.mark.parametrize("infer", ["up", "down"])
def test_the_posterior_moments_of_every_level_are_exact(infer):
    torch.manual_seed(4)
    up, evidence = chain(3)
    torch.manual_seed(4)
    model, _ = chain(3, infer=infer)
    x = evidence().sample((4,))
    moments = posterior_moments(model, x, samples=20_000)
    mean, cov = x, torch.zeros(4, 4)
    for encoder, (found, spread) in zip(up.encoders, moments, strict=True):
        mean = mean @ encoder.weight.T + encoder.bias
        cov = encoder.weight @ cov @ encoder.weight.T + encoder.covariance
        assert bool(((found - mean).abs() < SIGMAS * spread / math.sqrt(20_000) + 1e-9).all())
        assert_close(spread.square(), cov.diag().expand_as(spread), rtol=0.05, atol=0)
    exact = moments[0] if infer == "up" else moments[-1]  # the level that reads x alone is not sampled
    law = model.encoders[0](x) if infer == "up" else model.encoders.posteriors[-1](x)
    assert_close(exact, (law.mean, law.variance.sqrt()))


def test_the_noise_of_a_mean_over_particles_is_no_activity():
    """Where the posterior is the prior everywhere, nothing varies with x, whatever the levels above drew."""
    link = al.Conditional(nn.Linear(2, 6), al.families.normal).double()
    flat = al.Conditional(nn.Linear(5, 4), al.families.normal).double()
    with torch.no_grad():
        link.network.weight.mul_(3)
        flat.network.weight.zero_()
    decoder = al.Conditional(nn.Linear(3, 5), al.families.normal_fixed()).double()
    encoder = al.TopDown(al.networks.Climb([nn.Identity(), nn.Identity()]), [Above(link), flat])
    model = al.VAE(al.StandardNormal(2), encoder, [decoder, link])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert al.evaluate(model, torch.randn(300, 5), samples=100).active_units == [0, 0]


def test_the_noise_of_a_level_below_is_no_activity():
    """Bottom-up, where z_1 does not depend on x, neither does z_2, however much it depends on z_1."""
    flat, link = (al.Conditional(nn.Linear(i, 2 * o), al.families.normal).double() for i, o in ((5, 3), (3, 2)))
    down = [al.Conditional(nn.Linear(i, 2 * o), al.families.normal).double() for i, o in ((3, 5), (2, 3))]
    with torch.no_grad():
        flat.network.weight.zero_()
        link.network.weight.mul_(4)
    model = al.VAE(al.StandardNormal(2), [flat, link], down)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert al.evaluate(model, torch.randn(300, 5), samples=100).active_units == [0, 0]


class Above(nn.Module):
    """A posterior that is the prior."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, h, state):
        return self.law(state)


@pytest.mark.parametrize("infer", ["up", "down"])
def test_weights_are_unbiased_whatever_the_posterior_where_the_chain_is_not_markov(infer):
    model, evidence = chain(3, infer=infer, markov=False)
    for encoder in posteriors(model):
        encoder.covariance = 1.5 * encoder.covariance
    x = evidence().sample((2,))
    agree((model(x, samples=100_000).log_weight - evidence().log_prob(x)).exp(), torch.ones(2))


@pytest.mark.parametrize("markov", [True, False])
def test_samples_follow_the_evidence(markov):
    model, evidence = chain(3, markov=markov)
    x = model.sample(100_000)
    agree(x, evidence().mean)
    assert_close(x.T.cov(), evidence().covariance_matrix, rtol=0.05, atol=0.2)
    whole = model.reconstruct(
        evidence().sample((5000,)), level=1
    ).sample()  # x -> z ~ p(z | x) -> x leaves p(x) as it is
    agree(whole, evidence().mean)


def test_a_linear_vae_trained_to_convergence_is_probabilistic_pca():
    d, q, n = 6, 2, 400
    factors = torch.randn(n, q) @ torch.randn(q, d) * 1.5
    x = factors + 0.5 * torch.randn(n, d) + torch.randn(d)
    eigen = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / n).flip(0)
    noise = eigen[q:].mean()
    best = -0.5 * (eigen[:q].log().sum() + (d - q) * noise.log() + d * math.log(2 * math.pi) + d)
    model = al.VAE(
        al.StandardNormal(q),
        al.Conditional(nn.Linear(d, 2 * q), al.families.normal),
        al.Conditional(nn.Linear(q, d), al.families.normal_shared()),
    )
    al.fit(model, x, epochs=1500, batch_size=n, lr=3e-2, samples=4, ema=0.99)
    result = al.evaluate(model, x, samples=4000)
    assert abs(result.elbo - best) < 0.01
    assert abs(-result.nll - best) < 0.01


def test_one_level_is_the_textbook_formula():
    model = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[4]).double()
    x = (torch.rand(6, 5) < 0.5).double()
    torch.manual_seed(1)
    bound = al.elbo(model(x))
    torch.manual_seed(1)
    mu, s = model.encoders[0].network(x).chunk(2, -1)
    sigma = al.families.positive(s)
    z = mu + sigma * torch.empty(1, 6, 3).normal_()
    logits = model.decoders[0].network(z)[0]
    log_px = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    rate = -0.5 * (1 + 2 * sigma.log() - mu**2 - sigma**2).sum(-1)
    assert_close(bound, log_px - rate)
    parameters = list(model.parameters())  # and so is its gradient, through the draw
    found, wanted = (torch.autograd.grad(value.mean(), parameters) for value in (bound, log_px - rate))
    assert_close(found, wanted)


class Rotation(nn.Module):
    """N(a z, 1 - a^2): leaves N(0, I) as it is, and is its own inverse in distribution."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, z):
        return Independent(Normal(self.a * z, math.sqrt(1 - self.a**2)), 1)


def test_upper_levels_that_change_nothing_change_nothing():
    encoder = al.Conditional(nn.Linear(5, 6), al.families.normal)
    decoder = al.Conditional(nn.Linear(3, 5), al.families.bernoulli)
    one = al.VAE(al.StandardNormal(3), encoder, decoder).double()
    same = [Rotation(0.7), Rotation(-0.4)]
    three = al.VAE(al.StandardNormal(3), [encoder, *same], [decoder, *same]).double()
    x = (torch.rand(4, 5) < 0.5).double()
    torch.manual_seed(3)
    plain = one(x, samples=9)
    torch.manual_seed(3)
    deep = three(x, samples=9)
    assert_close(deep.latents[0], plain.latents[0])
    assert_close(deep.log_weight, plain.log_weight)


def quadrature(model, x, nodes=200):
    """log p(x) of a model with one latent dimension, by Gauss-Hermite."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    z, w = torch.from_numpy(z), torch.from_numpy(w / w.sum())
    log_px = model.decode(z[:, None, None].expand(-1, len(x), 1)).log_prob(x)
    return (log_px + w.log()[:, None]).logsumexp(0)


@pytest.fixture
def one_dimension():
    model = al.architectures.mlp((6,), "bernoulli", latent=[1], hidden=[5]).double()
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter.mul_(3)
    return model, (torch.rand(5, 6) < 0.5).double()


@torch.no_grad()
def test_weights_are_unbiased_and_l_k_rises_to_the_quadrature(one_dimension):
    model, x = one_dimension
    exact = quadrature(model, x)
    agree((model(x, samples=100_000).log_weight - exact).exp(), torch.ones(5))
    bounds = torch.stack([al.iwae(model(x.repeat(2000, 1), samples=k)).view(2000, 5).mean(0) for k in (1, 4, 16, 64)])
    assert bool((bounds.diff(dim=0) > 0).all())
    assert bool((bounds < exact).all())
    assert_close(al.log_likelihood(model, x, samples=100_000), exact, rtol=0, atol=2e-2)


@torch.no_grad()
def test_l_1_is_the_elbo(one_dimension):
    model, x = one_dimension
    trace = model(x.repeat(4000, 1))
    agree((al.iwae(trace) - al.elbo(trace)).view(4000, 5), torch.zeros(5))
    many = model(x, samples=4000)
    assert_close(al.elbo(many), (many.log_px - many.kl.sum(0)).mean(0))


def test_the_slope_of_l_k_is_half_the_variance_of_the_weights():
    """log p(x) - L_K = Var(w) / (2 K p(x)^2) + O(K^-2), for a posterior that is a little off."""
    model, evidence = chain(1)
    model.encoders[0].bias = model.encoders[0].bias + 0.2
    x = evidence().sample((2,))
    exact = evidence().log_prob(x)
    variance = (model(x, samples=400_000).log_weight - exact).exp().var(0)
    k = 16
    gaps = exact - al.iwae(model(x.repeat(20_000, 1), samples=k)).view(20_000, 2)
    assert_close(gaps.mean(0), variance / (2 * k), rtol=0.15, atol=0)


def test_beta_weighs_the_rates_level_by_level():
    model, evidence = chain(2)
    trace = model(evidence().sample((3,)), samples=2)
    beta = torch.tensor([0.5, 3.0])
    exact = (trace.log_px - 0.5 * trace.kl[0] - 3 * trace.kl[1]).mean(0)
    assert_close(al.elbo(trace, beta), exact)
    assert_close(al.elbo(trace, 4.0), (trace.log_px - 4 * trace.kl.sum(0)).mean(0))
    assert_close(al.iwae(trace, 1.0), torch.logsumexp(trace.log_weight, 0) - math.log(2))


@pytest.mark.parametrize("objective", [al.elbo, al.iwae])
@pytest.mark.parametrize("latent", [[3], [3, 2], [4, 3, 2]])
def test_gradients_reach_every_parameter(objective, latent):
    model = al.architectures.mlp((5,), "normal", latent=latent, hidden=[4]).double()
    (-objective(model(torch.randn(6, 5), samples=3)).mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("latent", [[3], [3, 2]])
def test_a_row_does_not_depend_on_its_neighbours(latent):
    model = al.architectures.mlp((5,), "normal", latent=latent, hidden=[4]).double()
    x, other = torch.randn(4, 5), torch.randn(4, 5)
    other[0] = x[0]
    weights = []
    for rows in (x, other):
        torch.manual_seed(2)
        weights.append(model(rows, samples=3).log_weight[:, 0])
    assert_close(weights[0], weights[1], rtol=0, atol=0)
