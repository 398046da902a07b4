"""Distribution functions and their inverses, against scipy; and draws of them against the density."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import distributions as td
from torch.testing import assert_close

from allegory import distributions as own
from allegory.quantiles import betainc, cdf, has_quantile, quantile

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
    assert has_quantile(law)
    assert not has_quantile(td.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert not has_quantile(td.VonMises(t(0.0), t(1.0)))


def test_a_quantile_of_a_uniform_is_a_draw():
    law = own.NegativeBinomial(t(1.5), logits=t(0.5))
    x = quantile(law, torch.rand(20_000))
    values = torch.arange(8.0)
    shares, p = (x[:, None] == values).double().mean(0), law.log_prob(values).exp()
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all())
    assert np.isfinite(x.numpy()).all()
