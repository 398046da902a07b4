"""Every family is normalised, samples what it scores, and its closed forms are those of its samples."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Independent, kl_divergence
from torch.testing import assert_close

import allegory as al
from allegory import families
from allegory.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    NegativeBinomial,
    OptimalNormal,
    bernoulli_log_mass,
)
from allegory.runtime.modes import no_validation

LOC, SCALE = torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5])
CONTINUOUS = {
    "normal": (families.normal, -math.inf, math.inf),
    "normal_fixed": (families.normal_fixed(0.3), -math.inf, math.inf),
    "normal_shared": (families.normal_shared(), -math.inf, math.inf),
    "normal_per_dimension": (families.normal_per_dimension(2), -math.inf, math.inf),
    "normal_optimal": (families.normal_optimal().eval(), -math.inf, math.inf),
    "student_t": (families.student_t, -math.inf, math.inf),
    "log_normal": (families.log_normal, 0, math.inf),
    "continuous_bernoulli": (families.continuous_bernoulli, 0, 1),
    "standardized": (families.standardized(families.normal, LOC, SCALE), -math.inf, math.inf),
    "standardized_t": (families.standardized(families.student_t, LOC, SCALE), -math.inf, math.inf),
}
DISCRETE = {
    "bernoulli": (families.bernoulli, 2),
    "categorical": (families.categorical(5), 5),
    "discretized_logistic": (families.discretized_logistic(), 256),
    "discretized_logistic_2": (families.discretized_logistic(2), 2),
    "discretized_logistic_16": (families.discretized_logistic(16), 16),
    "mixture": (families.discretized_logistic_mixture(3), 256),
    "mixture_4": (families.discretized_logistic_mixture(2, bins=4), 4),
    "poisson": (families.poisson, 400),
    "negative_binomial": (families.negative_binomial, 3000),
}


def example(family, batch=(), event=2):
    """The family's distribution at random parameters."""
    return family(torch.randn(*batch, family.size * event))


def element(law, i):
    """log p of element i alone, as a function of a one-dimensional tensor."""
    return lambda x: law.base_dist.log_prob(x[:, None].expand(-1, law.event_shape[-1]))[:, i]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_integrate_to_one(name):
    family, low, high = CONTINUOUS[name]
    law = example(family)
    for i in range(2):
        log_p = element(law, i)
        density = lambda v, log_p=log_p: log_p(torch.tensor([v])).exp().item()  # noqa: E731
        parts = [low, -1.0, 3.0, high] if low == -math.inf else [low, high]
        total = sum(integrate.quad(density, a, b, limit=200)[0] for a, b in pairwise(parts))
        assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("seed", range(5))
def test_masses_sum_to_one_and_moments_are_theirs(name, seed):
    torch.manual_seed(seed)
    family, values = DISCRETE[name]
    law = example(family)
    x = torch.arange(float(values))
    for i in range(2):
        p = element(law, i)(x).exp()
        assert_close(p.sum(), torch.ones(()), rtol=0, atol=1e-9)
        if name != "categorical":
            mean = (p * x).sum()
            assert_close(law.mean[i], mean, rtol=1e-6, atol=1e-9)
            assert_close(law.variance[i], (p * (x - mean) ** 2).sum(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
@torch.no_grad()
def test_samples_follow_the_density(name):
    """Kolmogorov-Smirnov against the density's own integral."""
    family, low, high = CONTINUOUS[name]
    law = example(family)
    draws = law.sample((4000,))
    for i in range(2):
        a, b = (low, high) if high == 1 else (draws[:, i].min() - 1, draws[:, i].max() + 1)
        grid = torch.linspace(float(a), float(b), 200_001)
        if name == "log_normal":
            grid = torch.linspace(draws[:, i].log().min() - 1, draws[:, i].log().max() + 1, 200_001).exp()
        cdf = torch.cumulative_trapezoid(element(law, i)(grid).exp(), grid)
        cdf = torch.cat([torch.zeros(1), cdf]) / cdf[-1]
        uniform = np.interp(draws[:, i].numpy(), grid.numpy(), cdf.numpy())
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_follow_the_mass(name):
    """Chi-squared, values of small expectation pooled."""
    family, values = DISCRETE[name]
    law = example(family)
    draws = law.sample((20_000,))
    for i in range(2):
        expected = 20_000 * element(law, i)(torch.arange(float(values))).exp()
        found = torch.bincount(draws[:, i].long(), minlength=values).double()
        often = expected >= 10
        assert found.sum() == 20_000
        if int(often.sum()) < 2:
            continue
        pooled = [torch.cat([c[often], c[~often].sum()[None] + 1e-9]) for c in (found, expected)]
        assert stats.chisquare(*pooled, sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
@pytest.mark.parametrize("batch", [(), (3,), (4, 3)])
def test_shapes(name, batch):
    family, _ = {**{k: v[:2] for k, v in CONTINUOUS.items()}, **DISCRETE}[name]
    law = example(family, batch)
    assert (law.batch_shape, law.event_shape) == (torch.Size(batch), torch.Size([2]))
    x = law.sample((5,))
    assert law.log_prob(x).shape == (5, *batch)
    if name in ("normal_per_dimension", "standardized", "standardized_t"):
        return
    image = family(torch.randn(*batch, 2 * family.size, 3, 4), event_dim=3)
    assert image.event_shape == (2, 3, 4)
    assert image.log_prob(image.sample()).shape == batch


CLOSED = ["normal", "normal_fixed", "normal_shared", "continuous_bernoulli", "standardized"]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_kl_is_the_sampled_one_and_the_sum_over_dimensions(name):
    family = CONTINUOUS[name][0]
    q, p = example(family), example(family)
    x = q.rsample((200_000,))
    sampled = q.log_prob(x) - p.log_prob(x)
    error = sampled.std() / math.sqrt(len(x))
    closed = kl_divergence(q, p)
    assert abs(sampled.mean() - closed) < 5 * error + 1e-12
    assert_close(closed, kl_divergence(q.base_dist, p.base_dist).sum())
    if "continuous" not in name:
        entropy = -q.log_prob(x)
        assert abs(entropy.mean() - q.entropy()) < 5 * entropy.std() / math.sqrt(len(x))


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_elements_are_independent(name):
    """log p of the event is the sum over its elements."""
    family, _ = {**{k: v[:2] for k, v in CONTINUOUS.items()}, **DISCRETE}[name]
    law = example(family, (3,))
    x = law.sample()
    assert_close(law.log_prob(x), law.base_dist.log_prob(x).sum(-1))


def test_sigma_is_bounded_and_always_has_a_gradient():
    s = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    sigma = families.positive(s)
    sigma.sum().backward()
    assert bool((sigma > 0.999e-3).all() & (sigma < 1.001e3).all())
    assert bool((s.grad > 0).all())
    assert_close(families.positive(torch.tensor(0.01)), torch.tensor(math.exp(0.01)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("bound", [1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_positive_number_has_a_gradient_however_far_it_is(bound, dtype):
    b = math.log(bound)
    for far in (50.0, 62.0, 70.0, 200.0, 1e3, 1e6):
        s = torch.tensor([-far, far], dtype=dtype, requires_grad=True)
        sigma = families.positive(s, bound)
        (gradient,) = torch.autograd.grad(sigma.log().sum(), s)
        assert bool((gradient > 0).all())
        assert_close(sigma.log().detach(), b * torch.tanh(s.detach() / b), rtol=2e-5, atol=0)
        assert_close(gradient[0], gradient[1], rtol=1e-4, atol=0)
    s = torch.linspace(-6 * b, 6 * b, 1001, dtype=dtype, requires_grad=True)
    found = [function(s) for function in (lambda s: families.positive(s, bound), lambda s: (b * (s / b).tanh()).exp())]
    assert torch.equal(*found)
    assert torch.equal(*(torch.autograd.grad(sigma.sum(), s)[0][1:-1] for sigma in found))
    s = torch.linspace(5.99 * b, 6.01 * b, 2001, dtype=torch.float64)  # where one goes over into the other
    log_sigma = families.positive(s, bound).log() / b
    slope = log_sigma.diff() / s.diff() * b
    assert_close(slope[999], slope[1001], rtol=1e-3, atol=0)
    assert bool((slope > 0).all())


def test_against_scipy():
    x = torch.arange(6.0)
    log_mean, log_r = torch.tensor(0.4), torch.tensor(-0.3)
    mean, r = families.positive(log_mean, 1e9).item(), families.positive(log_r, 1e9).item()
    law = families.negative_binomial(torch.stack([log_mean, log_r]).expand(6, 2))
    assert_close(law.log_prob(x[:, None]), torch.from_numpy(stats.nbinom.logpmf(x.numpy(), r, r / (r + mean))))
    law = families.student_t(torch.tensor([0.5, 0.2, -0.1]).expand(6, 3))
    nu, scale = 2 + families.positive(torch.tensor(-0.1)), families.positive(torch.tensor(0.2))
    assert_close(law.log_prob(x[:, None]), torch.from_numpy(stats.t.logpdf(x.numpy(), nu, 0.5, scale)))


@pytest.mark.parametrize("bins", [2, 3, 16, 32, 256, 1024])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 100.0])
def test_discretized_logistic_is_the_difference_of_distribution_functions(bins, scale):
    loc = torch.tensor([-3.0, 0.0, 0.4 * bins, bins - 1.0, bins + 5.0])
    law = DiscretizedLogistic(loc, torch.tensor(scale), bins)
    x = torch.arange(float(bins))[:, None]
    edges = torch.cat([torch.tensor([-math.inf]), torch.arange(bins - 1) + 0.5, torch.tensor([math.inf])])
    upper = stats.logistic.cdf(edges[1:, None].numpy(), loc.numpy(), scale)
    lower = stats.logistic.cdf(edges[:-1, None].numpy(), loc.numpy(), scale)
    mass = law.log_prob(x).exp()
    assert_close(mass, torch.from_numpy(upper - lower), rtol=1e-6, atol=1e-12)
    assert_close(mass.sum(0), torch.ones(5), rtol=0, atol=1e-10)


def test_discretized_logistic_keeps_its_tails_in_float32():
    law = DiscretizedLogistic(torch.tensor(10.0, dtype=torch.float32), torch.tensor(0.5, dtype=torch.float32))
    log_p = law.log_prob(torch.tensor([200.0], dtype=torch.float32))
    assert log_p.item() == pytest.approx(-(200 - 0.5 - 10) / 0.5 + math.log(1 - math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("logit", [0.0, 0.01, 0.15, 0.25, 3.0, 12.0, 20.0, 50.0, 300.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_continuous_bernoulli_is_the_truncated_exponential_at_any_odds(logit, sign):
    law = ContinuousBernoulli(torch.tensor(sign * logit, dtype=torch.float32))
    exact = stats.truncexpon(b=logit, scale=1 / logit) if logit else stats.uniform()
    x = torch.linspace(0, 1, 101, dtype=torch.float32)
    mirrored = (1 - x if sign > 0 else x).double().numpy()
    assert_close(law.log_prob(x).double(), torch.from_numpy(exact.logpdf(mirrored)), rtol=1e-5, atol=1e-5)
    mean = 1 - exact.mean() if sign > 0 else exact.mean()
    assert law.mean.item() == pytest.approx(mean, abs=2e-6)
    assert law.variance.item() == pytest.approx(exact.var(), rel=1e-4, abs=1e-6)
    assert law.entropy().item() == pytest.approx(exact.entropy(), abs=2e-5)
    draws = law.sample((4000,)).double().numpy()
    assert stats.kstest(1 - draws if sign > 0 else draws, exact.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("mean", "total"), [(1e-6, 1e-6), (20.0, 1e4), (20.0, 9e5), (300.0, 3e5), (5e5, 1e6), (3.0, 0.01)]
)
def test_negative_binomial_keeps_its_digits_in_float32(mean, total):
    n, m = (torch.tensor(v, dtype=torch.float32) for v in (total, mean))
    law = NegativeBinomial(n, logits=m.log() - n.log())
    x = torch.unique(torch.linspace(0, 3 * mean + 30, 500).round())
    exact = stats.nbinom.logpmf(x.numpy(), n.item(), torch.sigmoid(-law.logits.double()).item())
    assert_close(law.log_prob(x.float()).double(), torch.from_numpy(exact), rtol=1e-5, atol=2e-3)


def test_standardized_counts_the_change_of_variables():
    family = families.standardized(families.normal, LOC, SCALE)
    phi, x = torch.randn(5, 4), torch.randn(5, 2)
    plain = families.normal(phi).log_prob((x - LOC) / SCALE)
    assert_close(family(phi).log_prob(x), plain - SCALE.log().sum())


def test_optimal_sigma_is_the_maximum_likelihood_one_and_its_running_value_scores():
    family = families.normal_optimal()
    x, mu = torch.randn(50, 4), torch.randn(50, 4, requires_grad=True)
    variance = (x - mu).square().mean().detach()
    law = family(mu)
    assert isinstance(law.base_dist, OptimalNormal)
    (grad,) = torch.autograd.grad(law.log_prob(x).sum(), mu)
    best = -0.5 * x.numel() * ((x - mu).square().mean().log() + 1 + math.log(2 * math.pi))
    assert_close(family(mu).log_prob(x).sum(), best)
    assert_close(grad, torch.autograd.grad(best, mu)[0])
    assert_close(family.variance, variance)  # from the first batch on, not only in the end
    for scale in (2.0, 0.5):
        family(mu).log_prob(mu.detach() + scale * (x - mu.detach()))
    assert family.seen == 4
    assert_close(family.variance, (2 + 4 + 0.25) / 4 * variance)
    family.variance.copy_(variance)
    in_units = families.standardized(family, torch.tensor(1.0), torch.tensor(2.0))
    assert_close(in_units(mu).log_prob(1 + 2 * x).sum(), best - x.numel() * math.log(2))
    scores = family.eval()(mu).log_prob(x)
    assert_close(family(mu[:1]).log_prob(x[:1]), scores[:1])  # no neighbour matters


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 784])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
def test_a_logarithm_of_many_factors_keeps_its_digits(size, scale):
    logits, x = scale * torch.randn(2, 100, size), (torch.rand(100, size) < 0.2).double()
    wanted = torch.distributions.Bernoulli(logits=logits).log_prob(x.expand_as(logits)).sum(-1)
    assert_close(bernoulli_log_mass(logits, x), wanted, rtol=1e-13, atol=1e-13)
    logits = logits.float()
    wanted = torch.distributions.Bernoulli(logits=logits.double()).log_prob(x.expand_as(logits)).sum(-1)
    found = bernoulli_log_mass(logits, x.float()).double()
    assert_close(found, wanted, rtol=1e-6, atol=size * 6e-8)
    assert abs((found - wanted).mean()) < 3e-7 * abs(wanted.mean()) + size * 3e-8  # no bias in the last digits


def test_a_compiled_score_of_bernoullis_is_the_sum_of_the_elements():
    law = lambda logits: families.bernoulli(logits, 3)  # noqa: E731
    logits, x = torch.randn(2, 4, 3, 5, 7), torch.rand(4, 3, 5, 7).round()
    wanted = torch.distributions.Bernoulli(logits=logits).log_prob(x.expand_as(logits)).flatten(2).sum(-1)
    assert_close(law(logits).log_prob(x), wanted, rtol=1e-13, atol=1e-13)
    compiled = torch.compile(lambda logits, x: law(logits).log_prob(x), backend="eager")
    with torch.no_grad(), no_validation():
        assert_close(compiled(logits, x), wanted, rtol=1e-13, atol=1e-13)


def test_bernoulli_refuses_grey_values_and_says_what_to_use():
    law, x = families.bernoulli(torch.zeros(3, 4)), torch.zeros(3, 4)
    x[1, 2] = 0.25
    with pytest.raises(
        ValueError, match=r"1 of 12 values .* 0\.25 in row 1, column 2.*continuous_bernoulli.*discretized"
    ):
        law.log_prob(x)


def test_a_parameter_tensor_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"Normal reads 2 numbers .* shape \(3, 5\)"):
        families.normal(torch.zeros(3, 5))


@pytest.mark.parametrize("name", al.architectures.LIKELIHOODS)
def test_every_likelihood_builds_scores_and_samples(name):
    model = al.architectures.mlp((1, 2, 3), name, latent=[2], hidden=[4], categories=5).double()
    x = model.sample(7)
    assert x.shape == (7, 1, 2, 3)
    model.check(x)
    bound = al.elbo(model(x, samples=2))
    assert bound.shape == (7,)
    assert bool(torch.isfinite(bound).all())
    assert isinstance(model.decoders[0](torch.zeros(2)), Independent)


@pytest.mark.parametrize(("weight", "beta", "elements"), [(1.0, 1.0, 1), (0.3, 4.0, 1), (1.0, 0.1, 12)])
def test_a_squared_error_is_a_normal_of_the_implied_sigma(weight, beta, elements):
    x, mu = torch.randn(12), torch.randn(12, requires_grad=True)
    sigma = families.implied_sigma(weight, beta, elements)
    log_px = families.normal_fixed(sigma)(mu).log_prob(x)
    (error,) = torch.autograd.grad(weight / elements * ((x - mu) ** 2).sum(), mu)
    (density,) = torch.autograd.grad(-beta * log_px, mu)
    assert torch.allclose(error, density)


def test_a_weight_that_is_not_positive_implies_nothing():
    with pytest.raises(ValueError, match="wanted numbers above zero"):
        families.implied_sigma(weight=0)
