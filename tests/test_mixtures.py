"""Mixtures over particles: their quantiles by brute force, and what picks elements of a law and draws evenly."""

import math

import pytest
import torch
from test_quantiles import FAMILIES
from torch import distributions as td
from torch.testing import assert_close

import allegory as al
from allegory.mixtures import even, mixture_mean, mixture_quantile, pick, strata
from allegory.quantiles import cdf
from allegory.runtime.modes import no_validation

MORE = {
    "points beside a grid": al.families.with_points(al.families.interval(1.0), [0.25, -0.75, 0.5]),
    "bernoulli": al.families.bernoulli,
    "from 1": al.families.categorical(3, lowest=1),
}
K, G = 7, 12


def mixture(name, g=G):
    """A law (K, G) and its weights, some of them 0."""
    family = (FAMILIES | MORE)[name].double().requires_grad_(False)
    law = pick(family(torch.randn(K, g, family.size)).base_dist, (slice(None), slice(None), 0))
    weights = torch.softmax(2 * torch.randn(K, g), 0)
    weights[0] = 0
    return law, weights / weights.sum(0)


def step_of(law):
    """How far below a value there is surely no other; of continuous laws far enough to see a difference."""
    law = getattr(law, "law", law) if isinstance(law, al.intervals.WithPoints) else law
    law = getattr(law, "component_distribution", law)
    return law.step.flatten()[0] / 8 if hasattr(law, "step") else 1e-6


@pytest.mark.parametrize("name", FAMILIES | MORE)
def test_a_quantile_is_the_first_value_that_reaches_it(name):
    law, weights = mixture(name)
    for u in (0.5, 0.2):
        x = mixture_quantile(law, weights, u).double()
        reached, before = ((weights * cdf(law, y)).sum(0) for y in (x, x - step_of(law)))
        assert bool((reached >= u - 1e-9).all())
        assert bool((before < u + 1e-9).all())


def test_a_quantile_of_normals_is_that_of_a_fine_grid():
    law, weights = mixture("normal")
    grid = torch.linspace(-20, 20, 4_001)[:, None, None]
    sums = (weights * law.cdf(grid)).sum(1)
    assert_close(mixture_quantile(law, weights), grid[(sums < 0.5).sum(0), 0, 0], atol=0.011, rtol=0)
    alone = mixture_quantile(law, torch.eye(K)[:, :1].expand(K, G).contiguous(), 0.3)
    assert_close(alone, law.icdf(torch.tensor(0.3))[0], atol=1e-8, rtol=0)


def test_a_quantile_at_a_point_is_the_point_to_the_bit():
    law = td.Normal(torch.zeros(K, 1), 1.0)
    beside = al.intervals.WithPoints(torch.tensor([0.0, 3.0, 0.0]).expand(K, 1, 3), torch.tensor([-0.1, 0.1]), law)
    assert mixture_quantile(beside, torch.full((K, 1), 1 / K)) == torch.tensor(0.1).double()


def test_the_same_quantile_whatever_stands_beside_it():
    law, weights = mixture("mixture of intervals")
    for name in ("normal", "mixture of intervals"):
        law, weights = mixture(name)
        alone = [mixture_quantile(pick(law, (slice(None), slice(g, g + 1))), weights[:, g : g + 1]) for g in range(G)]
        assert torch.equal(torch.cat(alone), mixture_quantile(law, weights))


@pytest.mark.parametrize("name", FAMILIES | MORE)
def test_picked_elements_have_the_density_that_they_had(name):
    family = (FAMILIES | MORE)[name].double().requires_grad_(False)
    index = (torch.tensor([[0, 3], [2, 2]]), torch.tensor([1, 0]), torch.tensor([1, 0]))
    with no_validation():  # points may lie beside a grid
        law = family(torch.randn(4, 3, 2 * family.size)).base_dist
        x = law.sample().double()
        picked = pick(law, index)
        assert picked.batch_shape == x[index].shape
        assert_close(picked.log_prob(x[index]), law.log_prob(x)[index])
        assert picked.sample().shape == x[index].shape


def test_a_mean_is_the_weighted_one():
    law, weights = mixture("spike")
    expected = (weights * law.mean).sum(0)
    assert_close(mixture_mean(law, weights), expected)
    assert bool(mixture_mean(*mixture("categorical")).isnan().all())


def test_strata_give_each_component_what_it_is_worth():
    weights = torch.softmax(torch.randn(K, 50), 0)
    chosen = strata(weights, 20, torch.rand(50))
    counts = torch.stack([(chosen == k).sum(0) for k in range(K)])
    assert bool(((counts - 20 * weights).abs() < 1 + 1e-9).all())


def test_draws_are_even_and_uniform():
    u = even(64, torch.rand(4000))
    gaps = torch.diff(u.sort(0).values, dim=0)
    assert gaps.max() < 3 / 64
    assert abs(u[5].mean() - 0.5) < 5 / math.sqrt(12 * 4000)
