"""Distribution functions and their inverses, against scipy; and draws of them against the density."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import distributions as td
from torch.testing import assert_close

import allegory as al
from allegory import distributions as own
from allegory.quantiles import betainc, cdf, draw, has_draw, mass, quantile

t = partial(torch.tensor, dtype=torch.float64)
U = torch.linspace(0.003, 0.997, 83, dtype=torch.float64)
SHARES = [0.1, 0.4, 0.2, 0.3]
LAWS = {
    "normal": (td.Normal(t(1.0), t(2.0)), stats.norm(1, 2)),
    "student_t": (td.StudentT(t(3.0), t(1.0), t(2.0)), stats.t(3, 1, 2)),
    "beta": (td.Beta(t(2.0), t(0.3)), stats.beta(2, 0.3)),
    "gamma": (td.Gamma(t(2.0), t(0.3)), stats.gamma(2, scale=1 / 0.3)),
    "poisson": (own.Poisson(t(3.3)), stats.poisson(3.3)),
    "many": (own.Poisson(t(1e6)), stats.poisson(1e6)),
    "negative binomial": (own.NegativeBinomial(t(2.5), logits=t(1.3)), stats.nbinom(2.5, special.expit(-1.3))),
    "bernoulli": (own.Bernoulli(t(0.4)), stats.bernoulli(special.expit(0.4))),
    "categories": (td.Categorical(probs=t(SHARES)), stats.rv_discrete(values=(range(4), SHARES))),
    "from -2": (own.ShiftedCategorical(t([0.1, 0.9]).log(), -2), stats.rv_discrete(values=([-2, -1], [0.1, 0.9]))),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_both_agree_with_scipy(name):
    law, reference = LAWS[name]
    x = quantile(law, U)
    assert_close(x, torch.as_tensor(reference.ppf(U.numpy())).to(x), atol=1e-9, rtol=1e-9)
    assert_close(cdf(law, x), torch.as_tensor(reference.cdf(x.numpy())), atol=1e-9, rtol=1e-9)


def test_a_discretized_logistic_adds_up():
    law = own.DiscretizedLogistic(t([2.2, 30.0]), t([1.5, 0.3]), bins=8)
    sums = law.log_prob(torch.arange(8.0)[:, None]).exp().cumsum(0)
    assert_close(cdf(law, torch.arange(8.0)[:, None]), sums)
    found = quantile(law, U[:, None])
    assert_close(found, (sums[:, None] < U[None, :, None]).sum(0).to(found))
    mixture = td.MixtureSameFamily(td.Categorical(torch.ones(2)), law)
    assert_close(cdf(mixture, torch.arange(8.0)), sums.mean(1))
    assert_close(quantile(mixture, U), (sums.mean(1)[:, None] < U).sum(0).to(found))


def test_a_mixture_is_inverted():
    law = td.MixtureSameFamily(td.Categorical(t([1.0, 3.0])), td.Normal(t([-2.0, 5.0]), t([1.0, 0.5])))
    assert_close(cdf(law, quantile(law, U)), U, atol=1e-9, rtol=0)


def test_the_incomplete_beta_function_is_that_of_scipy():
    x = torch.linspace(0, 1, 101)
    for a, b in [(0.01, 0.5), (2.0, 3.0), (1e3, 2.0), (0.5, 1e5), (1e4, 1e4)]:
        assert_close(betainc(t(a), t(b), x), torch.as_tensor(special.betainc(a, b, x.numpy())), atol=1e-10, rtol=1e-8)


def test_a_batch_broadcasts_and_independent_elements_are_looked_into():
    law = td.Independent(td.Normal(torch.zeros(3, 2), t([1.0, 2.0])), 1)
    u = torch.rand(5, 3, 2)
    assert_close(quantile(law, u), td.Normal(torch.zeros(2), t([1.0, 2.0])).icdf(u))
    assert has_draw(law)
    assert not has_draw(td.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert not has_draw(td.VonMises(t(0.0), t(1.0)))


def test_a_quantile_of_a_uniform_is_a_draw():
    law = own.NegativeBinomial(t(1.5), logits=t(0.5))
    x = quantile(law, torch.rand(20_000))
    values = torch.arange(8.0)
    shares, p = (x[:, None] == values).double().mean(0), law.log_prob(values).exp()
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all())
    assert np.isfinite(x.numpy()).all()


FAMILIES = {
    "interval": al.families.interval(0.5, low=-1),
    "normal interval": al.families.interval(0.1, law="normal"),
    "t interval": al.families.interval(0.5, high=3, law="student_t"),
    "log interval": al.families.interval(0.01, low=0, log=True),
    "mixture of intervals": al.families.interval(0.5, low=-2, high=2, components=3),
    "zeros": al.families.zero_inflated_poisson,
    "spike": al.families.with_points(al.families.normal, [0.0, 1.5]),
    "points on a grid": al.families.with_points(al.families.interval(0.5, low=-1), [0.0, 2.0]),
    "normal": al.families.normal,
    "student_t": al.families.student_t,
    "beta": al.families.beta,
    "continuous_bernoulli": al.families.continuous_bernoulli,
    "negative_binomial": al.families.negative_binomial,
    "categorical": al.families.categorical(4),
    "ordinal": al.families.ordinal(4),
    "bins": al.families.discretized_logistic_mixture(2, bins=9),
}  # fmt: skip
RANGES = [(-math.inf, math.inf), (0.0, 2.0), (1.0, math.inf), (-math.inf, 0.5)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_draw_within_a_range_follows_the_law_there(name):
    """Against draws of the whole law, those in the range picked out."""
    family = FAMILIES[name].double().requires_grad_(False)
    law = family(torch.randn(family.size)).base_dist
    whole = law.sample((20_000,)).double()[:, 0]
    near = 1e-6 if law.support.is_discrete else 0.0  # the grid was made in float32
    assert has_draw(law)
    for low, high in RANGES:
        edges = t([low]), t([high])
        picked = whole[(whole >= low - near) & (whole <= high + near)]
        share, n = mass(law, *edges)[0], len(picked)
        assert abs(share - n / 20_000) < 5 * math.sqrt(share * (1 - share) / 20_000) + 1e-4
        if n > 200:
            x = draw(law, torch.rand(n, 1), *edges)[:, 0].double()
            assert bool(((x >= low) & (x <= high)).all())
            rounded = x.round(decimals=5).numpy(), picked.round(decimals=5).numpy()
            assert stats.ks_2samp(*rounded, method="asymp").pvalue > 1e-4
            assert law.support.check(x[:, None]).all()


def test_an_interval_adds_up():
    law = al.families.interval(0.1, low=0.3).double()(torch.randn(2)).base_dist
    values = 0.3 + 0.1 * torch.arange(30.0)[:, None]
    assert_close(cdf(law, values), law.log_prob(values).exp().cumsum(0))
    assert_close(cdf(law, values + 0.05), law.log_prob(values).exp().cumsum(0))
    assert_close(mass(law, values[3:], values[3:])[:, 0], law.log_prob(values[3:]).exp()[:, 0])
    assert cdf(law, t([0.2])) == 0
    assert mass(law, t([0.61]), t([0.69])) == 0
    assert_close(mass(law, t([0.61]), t([0.79])), law.log_prob(t([0.7])).exp())
    u = torch.rand(50, 1) * cdf(law, values[-1])
    assert_close(quantile(law, u), 0.3 + 0.1 * (u > cdf(law, values).T).sum(1, keepdim=True))


def test_far_tails_keep_their_digits():
    law = td.Normal(t(0.0), t(1.0))
    assert_close(mass(law, t(9.0), t(10.0)), t(stats.norm.sf(9) - stats.norm.sf(10)), atol=0, rtol=1e-6)
    x = draw(law, U, t(9.0), t(math.inf))
    assert_close(x, torch.as_tensor(stats.truncnorm.ppf(1 - U.numpy(), 9, np.inf)), atol=1e-6, rtol=0)
    assert mass(law, t(60.0), t(math.inf)) == 0


def test_columns_are_drawn_together():
    family = al.families.columns([FAMILIES[name] for name in ("interval", "categorical", "zeros", "normal")])
    law = family.double()(torch.randn(3, family.size))
    low, high = t([0.5, 1, -math.inf, -1]), t([math.inf, 2, 1, 1])
    x = draw(law, torch.rand(500, 3, 4), low, high)
    assert bool(((x >= low) & (x <= high)).all())
    assert bool(law.log_prob(x).isfinite().all())
    assert_close(mass(law, low, high)[:, 1], law.parts[1].base_dist.probs[:, 0, 1:3].sum(-1))
