"""Rubin's rules against their definition and against scipy, and the coverage of what they give."""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.evaluation import impute_refitted, rubin
from allegory.quantiles import cdf


def test_the_rules_are_those_of_the_book():
    q, w = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    found = rubin(q, w, level=0.9)
    between = 1.2 * q.var(0)
    total = w.mean(0) + between
    df = 4 * (1 + w.mean(0) / between) ** 2
    half = torch.as_tensor(stats.t.ppf(0.95, df.numpy())) * total.sqrt()
    assert_close(found.estimate, q.mean(0))
    assert_close(found.variance, total)
    assert_close(found.degrees_of_freedom, df)
    assert_close(found.high - found.estimate, half)
    assert_close(found.estimate - found.low, half)
    assert_close(found.missing_information, (between + 2 * total / (df + 3)) / total)
    small = rubin(q, w, complete=20)
    observed = (1 - between / total) * 20 * 21 / 23
    assert_close(small.degrees_of_freedom, df * observed / (df + observed))


def test_draws_that_agree_have_the_variance_of_complete_data():
    found = rubin(torch.ones(4), torch.full((4,), 0.25))
    assert found.variance == 0.25
    assert found.degrees_of_freedom == math.inf
    assert found.missing_information == 0
    assert_close(found.high, 1 + 0.5 * torch.tensor(stats.norm.ppf(0.975)), atol=1e-6, rtol=0)


def test_its_intervals_cover_the_truth():
    """A normal mean, half of the values missing, proper draws of them; over 2000 repetitions."""
    n, m, times = 40, 10, 2000
    x = torch.randn(n // 2, times)
    variance = x.var(0) * (n / 2 - 1) / torch.distributions.Chi2(torch.tensor(n / 2 - 1)).sample((m, times))
    mean = x.mean(0) + variance.sqrt() * torch.randn(m, times) / math.sqrt(n / 2)
    drawn = mean[:, None] + variance.sqrt()[:, None] * torch.randn(m, n // 2, times)
    filled = torch.cat([x.expand(m, -1, -1), drawn], 1)
    found = rubin(filled.mean(1), filled.var(1) / n, complete=n - 1)
    covered = ((found.low < 0) & (found.high > 0)).double().mean()
    assert 0.93 < covered < 0.97


class Mean(nn.Module):
    """p(x) = N(mu, 1) in each column, whatever z is."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(2))

    def forward(self, z):
        family = al.families.observed(al.families.normal_fixed(1.0))
        return family(self.mu.expand(*z.shape[:-1], 2))


class Nothing(nn.Module):
    def forward(self, x):
        return al.families.normal(torch.zeros(len(x), 2))


def build():
    return al.VAE(al.StandardNormal(1), Nothing(), Mean())


def fit(model, rows):
    with torch.no_grad():
        model.decoders[0].mu.copy_(rows.nanmean(0))


def test_refits_add_the_uncertainty_of_the_model():
    """The mean of the filled values varies as a mean over all rows, not as one over the gaps alone."""
    x = torch.randn(80, 2)
    x[:, 1] = x[:, 1].masked_fill(torch.arange(80) < 40, math.nan)
    model = build()
    fit(model, x)
    once = al.impute(model, x, draws=150, samples=2)[:, :40, 1].mean(1)
    proper = impute_refitted(build, fit, x, draws=100, refits=100, samples=2)[:, :40, 1].mean(1)
    assert_close(once.var(), torch.tensor(1 / 40), rtol=0.5, atol=0)  # of the values alone
    assert_close(proper.var(), torch.tensor(2 / 40), rtol=0.5, atol=0)  # and of the mean that was fitted
    once, again = (impute_refitted(build, fit, x, draws=3, refits=2, samples=2) for _ in range(2))
    assert torch.equal(once, again)


def test_what_cannot_be_is_said_in_one_line():
    one = torch.ones(3)
    for arguments, message in [
        ((one[:1], one[:1]), r"of shapes \(1,\) and \(1,\): wanted one of each for m >= 2"),
        ((one, one[:2]), r"of shapes \(3,\) and \(2,\): wanted one of each"),
        ((one, -one), r"variances: got -1, wanted squared standard errors"),
        ((one, one, 95), r"level=95"),
    ]:
        with pytest.raises(ValueError, match=message):
            rubin(*arguments)
    with pytest.raises(ValueError, match=r"refits=3: wanted at most one for each of draws=2"):
        impute_refitted(build, fit, one[:, None], draws=2, refits=3)


def test_the_level_of_an_interval_is_that_of_its_t():
    found = rubin(torch.randn(4), torch.rand(4), level=0.8)
    law = torch.distributions.StudentT(found.degrees_of_freedom, found.estimate, found.variance.sqrt())
    assert_close(cdf(law, found.high) - cdf(law, found.low), torch.tensor(0.8))
