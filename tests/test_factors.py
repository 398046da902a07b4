"""Factor analysis with gaps, and models that begin there."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

import allegory as al
from allegory import architectures, families
from allegory.estimators import VAEImputer
from allegory.factors import Factors, factor_analysis, posterior_of_factors

D, L = 6, 2


@pytest.fixture
def rows():
    """(3,000, D) standardised rows of a factor analysis, and its loadings."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(D, L, generator=g, dtype=torch.float64)
    y = torch.randn(3000, L, generator=g, dtype=torch.float64) @ w.T
    y = y + 0.5 * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return (y - y.mean(0)) / y.std(0), w


def covariance_of(factors):
    return factors.loadings @ factors.loadings.T + factors.noise.diag()


def gappy(y, share=0.4):
    return y.masked_fill(torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < share, math.nan)


def test_posterior_is_the_conditional_normal_of_what_is_observed():
    g = torch.Generator().manual_seed(0)
    factors = Factors(
        *(torch.randn(*s, generator=g, dtype=torch.float64) for s in ((D, L), (D,))), torch.full((D,), 0.3)
    )
    y = gappy(torch.randn(5, D, generator=g, dtype=torch.float64))
    mean, covariance = posterior_of_factors(factors, y)
    for row, m, v in zip(y, mean, covariance, strict=True):
        o = ~row.isnan()
        w = factors.loadings[o]
        gain = w.T @ torch.linalg.inv(w @ w.T + 0.3 * torch.eye(len(w), dtype=torch.float64))
        assert_close(m, gain @ (row[o] - factors.bias[o]), atol=1e-6, rtol=0)
        assert_close(v, torch.eye(L, dtype=torch.float64) - gain @ w, atol=1e-6, rtol=0)


def test_without_gaps_it_is_that_of_scikit_learn(rows):
    y, _ = rows
    found = factor_analysis(y, L, iterations=300)
    other = FactorAnalysis(L, tol=1e-10, max_iter=5000, svd_method="lapack").fit(y.numpy())
    assert_close(covariance_of(found), torch.tensor(other.get_covariance()), atol=0.01, rtol=0)
    law = MultivariateNormal(found.bias, covariance_of(found))
    assert_close(law.log_prob(y).mean(), torch.tensor(other.score(y.numpy())), atol=1e-3, rtol=0)
    precision = found.loadings.T @ (found.loadings / found.noise[:, None])
    assert_close(precision, precision.diag().diag(), atol=1e-8, rtol=0)


def test_gaps_take_little_from_it(rows):
    y, _ = rows
    whole, found = factor_analysis(y, L), factor_analysis(gappy(y), L)
    assert_close(covariance_of(found), covariance_of(whole), atol=0.08, rtol=0)


def test_more_factors_than_columns_have_no_loadings(rows):
    y, _ = rows
    found = factor_analysis(y[:, :3], 5)
    assert found.loadings.shape == (3, 5)
    assert not found.loadings[:, 2:].any()
    assert not factor_analysis(y[:, :1], 2).loadings.any()


def columns():
    """Two blocks of numbers, one with points beside it, and a category that the analysis leaves alone."""
    return families.columns(
        [
            families.normal, families.categorical(3), families.interval(0.1), families.normal,
            families.with_points(families.interval(0.1), [0.0]), families.normal, families.normal,
        ]
    )  # fmt: skip


@pytest.fixture
def table(rows):
    """(3,000, 7) what these columns score: a category between columns of numbers, and half a column of points."""
    y, _ = rows
    x = torch.cat([y[:, :1], (y[:, 1:2] > 0).double(), y[:, 1:]], 1)
    x[:, [2, 4]] = (x[:, [2, 4]] / 0.1).round() * 0.1
    x[::2, 4] = 0.0
    return gappy(x, 0.3)


def reader(model):
    """The layers of q: what makes features, and `AroundFactors`."""
    return model.encoders[0].network


def build(x, **more):
    return architectures.mlp((7,), columns(), latent=[3], hidden=[8], data=x, factors=True, **more).double()


def test_model_begins_at_its_posterior_and_its_locations(table):
    model = build(table)
    first, around = reader(model)
    y = around.numbers(first(table))
    places = [0, 3, 5, 6, 2, 4]  # blocks in the order of their first columns: numbers, category, intervals, points
    read = table[:, places]
    at_point = read == 0
    assert torch.equal(y.isnan(), read.isnan() | (at_point & (torch.tensor(places) == 4)))
    factors = Factors(around.loadings, around.bias, around.noise)
    mean, covariance = posterior_of_factors(factors, y)
    q = model.encode(table)[0]
    assert_close(q.mean, mean, atol=1e-6, rtol=0)
    assert_close(q.stddev, covariance.diagonal(dim1=-2, dim2=-1).sqrt(), atol=1e-5, rtol=0)
    z = torch.randn(4, 3, dtype=torch.float64)
    law = model.decode([z])
    normals = law.parts[0].base_dist
    base = model.decode([torch.zeros(1, 3, dtype=torch.float64)]).parts[0].base_dist
    scale = table[:, places[:4]].nan_to_num(nan=math.nan)
    sd = torch.stack([c[~c.isnan()].std(correction=0) for c in scale.unbind(1)])
    assert_close(normals.loc - base.loc, sd * (z @ around.loadings[:4].T), atol=1e-5, rtol=1e-5)
    assert_close(normals.scale[0], sd * around.noise[:4].sqrt(), atol=1e-5, rtol=1e-4)
    category = law.parts[1].base_dist.probs
    assert_close(category, category[:1].expand_as(category))


def test_it_begins_better_than_independent_columns(table):
    bounds = [
        al.log_likelihood(model, table[:500], 50, seed=0).mean().item()
        for model in (build(table), architectures.mlp((7,), columns(), [3], [8], data=table).double())
    ]
    assert bounds[0] > bounds[1] + 0.5


def test_without_gaps_its_bound_is_nearly_its_density(rows):
    y, _ = rows
    y = y / 20 + 1  # what the encoder reads is drawn in only where it is far out
    model = architectures.mlp((D,), families.columns([families.normal] * D), [L], [8], data=y, factors=True).double()
    loc, scale = y.mean(0), y.std(0, correction=0)
    w, b, noise = (getattr(reader(model)[1], name) for name in ("loadings", "bias", "noise"))
    covariance = scale[:, None] * (w @ w.T + noise.diag()) * scale
    exact = MultivariateNormal(loc + scale * b, covariance).log_prob(y).mean()
    assert_close(al.log_likelihood(model, y, 200, seed=0).mean(), exact, atol=0.05, rtol=0)


def test_it_is_built_again_from_its_configuration(table):
    model = build(table)
    again = architectures.build(model.config).double()
    again.load_state_dict(model.state_dict())
    assert_close(again.encode(table)[0].mean, model.encode(table)[0].mean)


def test_data_may_be_float64_and_the_model_float32(table):
    torch.set_default_dtype(torch.float32)
    model = architectures.mlp((7,), columns(), [3], [8], data=table, factors=True)
    assert_close(model.encode(table.float())[0].mean.double(), build(table).encode(table)[0].mean, atol=1e-3, rtol=1e-3)


def test_it_trains_in_bfloat16(table):
    model = build(table[:200]).float()
    al.fit(model, table[:200].float(), epochs=1, precision="bfloat16")


@pytest.mark.parametrize(
    "other",
    [{"top_down": True, "latent": [2, 2]}, {"markov": False, "latent": [2, 2]}, {"given": (1,)}, {"set_features": 4}],
)
def test_where_there_is_no_beginning(other):
    with pytest.raises(ValueError, match=r"factors=True: a factor analysis is where a table begins, .* normal latents"):
        architectures.mlp((7,), columns(), **{"latent": [2], "hidden": [8], "factors": True, **other})


def test_numbers_alone_have_factors():
    with pytest.raises(ValueError, match="factors=True"):
        architectures.mlp((3,), "normal", [2], [8], factors=True)
    x = torch.randint(0, 3, (50, 2)).double()
    model = architectures.mlp((2,), families.columns([families.categorical(3)] * 2), [2], [8], data=x, factors=True)
    assert_close(model.double().encode(x)[0].mean, torch.zeros(50, 2, dtype=torch.float64))


def test_the_imputer_begins_with_the_best_linear_prediction(rows):
    y, _ = rows
    x, hidden = y[:1000].numpy(), gappy(y[:1000]).isnan().numpy()
    filled = VAEImputer(max_iter=1, learning_rate=1e-12, samples=500, random_state=0).fit_transform(
        np.where(hidden, np.nan, x)
    )
    covariance = torch.cov(y.T)
    best = y[:1000].clone()
    for row, gaps in zip(best, torch.tensor(hidden), strict=True):
        o = ~gaps
        row[gaps] = covariance[gaps][:, o] @ torch.linalg.solve(covariance[o][:, o], row[o]) if bool(o.any()) else 0.0
    error, least = (((values - x)[hidden] ** 2).mean() for values in (filled, best.numpy()))
    assert error < 1.05 * least
    assert least < 0.5
