"""Rows under conditions, and gaps that say something, against closed forms and against rejection."""

import math

import pytest
import torch
from scipy import stats
from test_imputation import NAN, Decoder, agrees, factor_analysis, gappy_rows, law_of
from torch.testing import assert_close

import allegory as al
from allegory.gaps import Observed
from allegory.missingness import Censored, missing_above, missing_below


def test_values_leave_the_conditional_law():
    model, joint = factor_analysis(latent=2)
    n = 3000
    found = al.sample_given(model, n, {0: 0.5, 3: -1.0}, samples=3000, seed=0)
    row = torch.tensor([0.5, NAN, NAN, -1.0, NAN])
    gap = row.isnan()
    assert bool((found[:, ~gap] == row[~gap]).all())
    agrees(found[:, gap], law_of(joint, row, gap, ~gap), n / 2)
    assert torch.equal(found, al.sample_given(model, n, {0: 0.5, 3: -1.0}, samples=3000, seed=0))
    assert not torch.equal(al.sample_given(model, 5, {0: 0.5}), al.sample_given(model, 5, {0: 0.5}))


@pytest.mark.parametrize("method", ["sir", "gibbs"])
def test_ranges_are_as_by_rejection(method):
    model, joint = factor_analysis()
    law = torch.distributions.MultivariateNormal(joint.mean, joint.cov)
    x = law.sample((400_000,))[:, joint.where[0]]
    low, high = joint.mean[joint.where[0]] + 0.5, joint.mean[joint.where[0]] + 1.5
    x = x[((x[:, :2] >= low[:2]) & (x[:, :2] <= high[:2])).all(1)]
    ranges = {d: (low[d].item(), high[d].item()) for d in (0, 1)}
    found = al.sample_given(model, 3000, ranges, samples=3000, method=method, steps=5, seed=0)
    assert bool(((found[:, :2] >= low[:2]) & (found[:, :2] <= high[:2])).all())
    error = (x.var(0) * (1 / len(x) + 2 / 3000)).sqrt()
    assert bool(((found.mean(0) - x.mean(0)).abs() < 5 * error).all())
    assert_close(found.T.cov(), x.T.cov(), rtol=0.2, atol=0.1)


def test_a_table_is_drawn_under_conditions():
    kinds = [al.families.normal, al.families.categorical(3), al.families.interval(1.0, low=0)]
    model = al.architectures.mlp((3,), al.families.columns(kinds), latent=[2], hidden=[8]).double()
    x = al.sample_given(model, 5000, {1: 2.0, 2: (2, 5), 0: NAN})
    assert x.shape == (5000, 3)
    assert bool(x[:, 0].isnan().all())
    assert set(x[:, 1].tolist()) == {2.0}
    assert set(x[:, 2].tolist()) <= {2.0, 3.0, 4.0, 5.0}
    with pytest.raises(ValueError, match=r"conditions \{2: \(0.2, 0.8\)\}: no row can meet them"):
        al.sample_given(model, 3, {2: (0.2, 0.8)})
    for conditions, message in [
        ({5: 1.0}, "column 5, wanted one of 0 to 2"),
        ({"a": 1.0}, "column 'a', wanted one of 0 to 2"),
        ({0: (2.0, 1.0)}, r"column 0: got \(2.0, 1.0\), wanted a range"),
        ({1: 7.0}, "7"),
        ({0: None}, "column 0: got None, wanted a number, or a range"),
        ({0: ("x", 1.0)}, "column 0: got 'x', wanted a number, or a range"),
        ({0: torch.zeros(2)}, r"column 0: got tensor\(\[0., 0.\]\), wanted a number, or a range"),
    ]:
        with pytest.raises(ValueError, match=message):
            al.sample_given(model, 3, conditions)
    with pytest.raises(ValueError, match="n=0: wanted at least 1"):
        al.sample_given(model, 0, {})


def test_limits_that_mean_nothing_are_refused():
    model, joint = factor_analysis()
    x = gappy_rows(joint, 3)
    for between, message in [
        ((0.0, 1.0), "between: wanted two tensors"),
        (torch.zeros(2), "between: wanted two tensors"),
        ((torch.zeros(5), torch.ones(5), torch.ones(5)), "between: wanted two tensors"),
        ((torch.zeros(2), torch.ones(2)), r"between: got shapes \(2,\) and \(2,\), wanted \(3, 5\)"),
        ((torch.tensor(5.0), torch.tensor(1.0)), r"between: got \(5, 1\) in row 0, column 0, wanted \(low, high\)"),
        ((torch.full((5,), NAN), torch.ones(5)), r"between: got \(nan, 1\) in row 0, column 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            al.fill(model, x, between=between)


def test_gaps_between_limits_are_truncated_normals():
    model, joint = factor_analysis()
    row = gappy_rows(joint, 1, 0.0)[0]
    row[2] = NAN
    gap = row.isnan()
    exact = law_of(joint, row, gap, ~gap)
    mean, deviation = exact.mean.item(), exact.variance.sqrt().item()
    limits = torch.tensor(mean + deviation), torch.tensor(mean + 2 * deviation)
    x = al.impute(model, row[None], draws=4000, samples=4000, between=limits)[:, 0, 2]
    truncated = stats.truncnorm(1, 2, mean, deviation)
    assert bool(((x >= limits[0]) & (x <= limits[1])).all())
    assert abs(x.mean() - truncated.mean()) < 5 * truncated.std() / math.sqrt(2000)


class Above(Decoder):
    """The last column is only recorded up to 0.3."""

    def forward(self, z):
        law = super().forward(z).base_dist
        low = torch.tensor([-math.inf] * 4 + [0.3])
        return Observed(Censored(law, low, math.inf), 1)


def censored():
    """A model whose last column is missing above 0.3, and rows of it."""
    model, joint = factor_analysis(wide=1.5)
    decoder = model.decoders[0]
    model.decoders[0] = Above(decoder.weight, decoder.bias, decoder.covariance)
    x = gappy_rows(joint, 12, 0.0)
    return model, joint, x.masked_fill(torch.arange(5) == 4, NAN)


def test_a_gap_above_a_limit_has_the_mass_beyond():
    model, joint, x = censored()
    gap = x[0].isnan()
    found = al.log_likelihood(model, x, samples=20_000, seed=0)
    laws = [law_of(joint, row, gap, ~gap) for row in x]
    evidence = torch.stack([law_of(joint, row, ~gap, gap & False).log_prob(row[~gap]) for row in x])
    beyond = torch.tensor([stats.norm.logsf(0.3, law.mean.item(), law.variance.sqrt().item()) for law in laws])
    assert_close(found, evidence + beyond, atol=0.05, rtol=0)


def test_such_a_gap_is_filled_beyond_the_limit():
    model, joint, x = censored()
    gap = x[0].isnan()
    mean = al.fill(model, x, samples=20_000)
    drawn = al.impute(model, x, draws=20)
    assert bool((drawn[..., 4] > 0.3).all())
    for row, value in zip(x, mean[:, 4], strict=True):
        law = law_of(joint, row, gap, ~gap)
        m, s = law.mean.item(), law.variance.sqrt().item()
        assert abs(value - stats.truncnorm((0.3 - m) / s, math.inf, m, s).mean()) < 0.05


def test_leaving_a_value_out_is_no_such_gap():
    """log p(x_0 | the rest), where the last column is neither: being left out is not being above the limit."""
    model, joint, _ = censored()
    x = gappy_rows(joint, 5, 0.0)
    found = al.log_conditional(model, x, of=[0], given=[1, 2, 3], samples=20_000).values
    of, given = torch.tensor([1, 0, 0, 0, 0]).bool(), torch.tensor([0, 1, 1, 1, 0]).bool()
    exact = torch.stack([law_of(joint, row, of, given).log_prob(row[of]) for row in x])
    assert_close(found, exact, atol=0.05, rtol=0)


def test_families_of_such_gaps():
    below = missing_below(al.families.normal, -1.0)(torch.zeros(1, 2))
    assert_close(below.log_prob(torch.tensor([[NAN]]))[0], torch.tensor(stats.norm.logcdf(-1.0)))
    table = al.families.columns([al.families.normal, missing_above(al.families.normal, 1.0)])
    law = table.double()(torch.zeros(4))
    gap = law.log_prob(torch.tensor([NAN, NAN]))
    assert_close(gap, torch.tensor(stats.norm.logsf(1.0)))
    model = al.architectures.mlp((2,), table, latent=[2], hidden=[8]).double()
    x = torch.tensor([[NAN, NAN], [0.2, NAN]])
    assert bool((al.impute(model, x, draws=50)[..., 1] >= 1.0).all())
    with pytest.raises(ValueError, match="wanted low below high"):
        missing_above(al.families.normal, math.inf)


def test_an_edge_is_a_censored_value():
    """interval(high=c): a value recorded as c stands for c and everything above."""
    law = al.families.interval(0.5, high=2.0, law="normal")(torch.zeros(2)).base_dist
    assert_close(law.log_prob(torch.tensor([2.0]))[0], torch.tensor(stats.norm.logsf(1.75)), atol=1e-6, rtol=0)


def test_the_best_value_within_limits_is_that_of_the_truncated_law():
    model, joint = factor_analysis()
    x = gappy_rows(joint, 1).nan_to_num(0.5).repeat(2, 1)
    x[:, 1] = NAN
    gap = torch.arange(5) == 1
    law = law_of(joint, x[0], gap, ~gap)
    mean, deviation = law.mean.item(), law.covariance_matrix.sqrt().item()
    limit = mean + 0.3 * deviation
    low = torch.full((1, 5), -torch.inf)
    low[0, 1] = limit
    between = (low, torch.full((1, 5), torch.inf))
    exact = stats.truncnorm(0.3, torch.inf, loc=mean, scale=deviation)
    for estimate, value in (("mean", exact.mean()), ("median", exact.median())):
        found = al.fill(model, x, estimate, samples=20_000, between=between)[:, 1]
        assert found[0] == found[1]
        assert found[0].item() == pytest.approx(value, abs=0.03 * exact.std())
    assert limit <= al.fill(model, x, "mode", samples=2000, between=between)[0, 1].item() < exact.ppf(0.2)


def test_the_likeliest_category_is_one_of_those_that_are_possible():
    kinds = [al.families.categorical(4), al.families.normal]
    model = al.architectures.mlp((2,), al.families.columns(kinds), latent=[2], hidden=[8]).double()
    with torch.no_grad():
        model.decoders[0].network[0][-1].bias[:4] = torch.tensor([3.0, 0.0, 1.0, 2.0])
    x = torch.tensor([[NAN, 0.0]])
    assert al.fill(model, x, "mode")[0, 0] == 0
    between = torch.tensor([[1.0, -torch.inf]]), torch.tensor([[2.0, torch.inf]])
    assert al.fill(model, x, "mode", between=between)[0, 0] == 2
