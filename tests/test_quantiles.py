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
from allegory.intervals import Interval
from allegory.quantiles import betainc, cdf, draw, has_draw, log_beyond, log_mass, quantile

t = partial(torch.tensor, dtype=torch.float64)
f = partial(torch.tensor, dtype=torch.float32)
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


def mass(law, low, high):
    return log_mass(law, low, high).exp()


FAR = {
    "poisson": (own.Poisson(f(2.0)), stats.poisson(2), 40.0),
    "negative binomial": (own.NegativeBinomial(f(3.0), probs=f(0.2)), stats.nbinom(3, 0.8), 60.0),
    "beta": (td.Beta(f(2.0), f(9.0)), stats.beta(2, 9), 0.98),
    "log-normal": (td.LogNormal(f(0.0), f(1.0)), stats.lognorm(1), 2e4),
    "normal": (td.Normal(f(0.0), f(1.0)), stats.norm(), 20.0),
}


@pytest.mark.parametrize("name", FAR)
def test_the_far_end_of_the_upper_tail_is_exact_in_float32(name):
    law, reference, limit = FAR[name]
    edge = f(limit)
    wanted = f(reference.logsf(edge.item()))
    assert_close(log_beyond(law, edge), wanted, rtol=1e-5, atol=0)
    above = edge + 1 if law.support.is_discrete else edge
    assert_close(log_mass(law, above, f(math.inf)), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "log"), [("logistic", False), ("normal", False), ("student_t", False), ("normal", True)]
)
def test_an_interval_keeps_the_digits_of_both_tails_in_float32(name, log):
    """In one tail as in the other, where the law is symmetric; the mass and the draws of what lies there."""
    one = f(1.0)
    law = Interval(0 * one, one, 0.5 * one, law=name, df=5 * one)
    reference = {"logistic": stats.logistic, "normal": stats.norm, "student_t": stats.t(5)}[name]
    low, edge = 30.0, 29.75
    if log:
        law = Interval(0 * one, one, 0.5 * one, low=0.0, law=name, log=True)
        low, edge = math.exp(10) // 0.5 * 0.5, math.log(math.exp(10) // 0.5 * 0.5 + 0.25)
    ends = f(low), f(math.inf)
    assert_close(log_mass(law, *ends), f(reference.logsf(edge)), rtol=1e-5, atol=0)
    u = t([0.01, 0.5, 0.9])
    found = draw(law, u, *ends)
    exact = torch.as_tensor(reference.isf(u.numpy() * reference.sf(edge)))
    exact = exact.exp() - 0.5 if log else exact
    assert (found >= low).all()
    assert ((found - exact).abs() <= 0.26 + 1e-6 * exact).all()
    if not log:
        assert_close(draw(law, u, -ends[1], -ends[0]), -found)


def test_a_rare_range_of_categories_is_exact_in_float32():
    law = td.Categorical(logits=f([0.0, -1.0, -25.0, -26.0]))
    low, high = f(2.0), f(3.0)
    total = math.log(1 + math.exp(-1) + math.exp(-25) + math.exp(-26))
    assert_close(log_mass(law, low, high).item(), -25 + math.log1p(math.exp(-1)) - total, rtol=1e-6, atol=0)
    assert draw(law, U, low, high).tolist() == [2.0 if u < 1 / (1 + math.exp(-1)) else 3.0 for u in U]


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
