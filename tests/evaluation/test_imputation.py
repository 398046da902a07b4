"""What is missing, drawn from its law given the rest: in a linear-Gaussian chain with gaps everything is known."""

import math
import warnings

import pytest
import torch
from linear_gaussian import Affine, Diagonal, Joint
from torch import nn
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal
from torch.testing import assert_close

import allegory as al
from allegory.evaluation.passes import Particles, row_seeds
from allegory.gaps import Observed
from allegory.quantiles import has_draw

NAN = math.nan


class Gappy(nn.Module):
    """The exact p(z | x_o) of jointly Gaussian z and x, whatever is missing in x; off by `shift` standard
    deviations, and `wide` times as wide."""

    def __init__(self, joint, name, shift=0.0, wide=1.0):
        super().__init__()
        self.joint, self.name, self.shift, self.wide = joint, name, shift, wide

    def forward(self, x):
        y = self.joint.where[self.name]
        mean, covariance = torch.zeros(len(x), len(y)), torch.zeros(len(x), len(y), len(y))
        for pattern in x.isnan().unique(dim=0):
            same = (x.isnan() == pattern).all(1)
            mean[same], covariance[same] = self.given(x[same][:, ~pattern], self.joint.where[0][~pattern])
        deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        mean = mean + self.shift * deviation
        if len(y) == 1:
            return Independent(Normal(mean, deviation * self.wide), 1)
        return MultivariateNormal(mean, covariance * self.wide**2)

    def given(self, values, c):
        joint, y = self.joint, self.joint.where[self.name]
        gain = torch.linalg.solve(joint.cov[c][:, c], joint.cov[c][:, y]).T
        rest = joint.cov[y][:, y] - gain @ joint.cov[c][:, y]
        return joint.mean[y] + (values - joint.mean[c]) @ gain.T, (rest + rest.T) / 2


class Decoder(Diagonal):
    """p(x | z) of independent elements, gaps left out."""

    def forward(self, z):
        law = super().forward(z).base_dist
        return Observed(law, 1)


def factor_analysis(latent=1, features=5, levels=1, **wrong):
    """A linear-Gaussian chain, its encoder exact whatever is missing, and the joint law."""
    joint, widths = Joint(), [features, *[latent] * levels]
    prior = Affine(None, torch.zeros(latent), torch.eye(latent))
    joint.add(levels, [], prior)
    decoders = []
    for t in range(levels, 0, -1):
        kind, below = (Decoder if t == 1 else Affine), widths[t - 1]
        noise = torch.diag(0.3 + torch.rand(below))
        decoders.insert(0, kind(torch.randn(below, widths[t]), torch.randn(below), noise))
        joint.add(t - 1, [t], decoders[0])
    encoders = [Gappy(joint, 1, **wrong), *(joint.conditional(t, [t - 1]) for t in range(2, levels + 1))]
    return al.VAE(al.StandardNormal(latent).double(), encoders, decoders), joint


def law_of(joint, row, of, given):
    """p(x_of | x_given) of a row, exactly."""
    y, c = joint.where[0][of], joint.where[0][given]
    gain = torch.linalg.solve(joint.cov[c][:, c], joint.cov[c][:, y]).T
    rest = joint.cov[y][:, y] - gain @ joint.cov[c][:, y]
    return MultivariateNormal(joint.mean[y] + gain @ (row[given] - joint.mean[c]), (rest + rest.T) / 2)


def gappy_rows(joint, n, missing=0.4):
    x = MultivariateNormal(joint.mean, joint.cov).sample((n,))[:, joint.where[0]]
    return x.masked_fill(torch.rand(x.shape) < missing, NAN)


KINDS = [{}, {"latent": 2}, {"levels": 2}, {"latent": 2, "levels": 2}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_weight_is_the_evidence_of_what_is_there(kind):
    model, joint = factor_analysis(**kind)
    x = gappy_rows(joint, 8)
    x[0] = NAN
    exact = exact_log(joint, x, range(5), given=False)
    assert_close(model(x, samples=3).log_weight, exact.expand(3, -1), atol=1e-7, rtol=0)
    assert_close(al.log_likelihood(model, x, samples=3, seed=0), exact, atol=1e-7, rtol=0)
    result = al.evaluate(model, x, samples=3)
    assert abs(result.nll + exact.mean().item()) < 1e-7
    if kind == {}:
        m, v = model.encode(x)[0].mean, model.encode(x)[0].variance
        assert abs((m.square() + v - 1 - v.log()).mean() / 2 - result.kl_per_level[0]) < 1e-9


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", ["sir", "gibbs"])
def test_draws_follow_the_law_of_what_is_missing(kind, method):
    model, joint = factor_analysis(**kind)
    row = gappy_rows(joint, 1, 0.0)[0]
    row[[1, 3]] = NAN
    m, k = 2000, 2000
    x = al.impute(model, row.expand(2, -1), draws=m, samples=k, method=method, steps=3)
    gap = row.isnan()
    exact = law_of(joint, row, gap, ~gap)
    for copy in range(2):
        found = x[:, copy][:, gap]
        # Of K exact particles, which carry the draws: their mean is off by an error of its own.
        agrees(found, exact, m * k / (m + k))
    assert not bool((x[:, 0] == x[:, 1])[:, gap].any())  # equal rows, draws of their own


def agrees(found, exact, n):
    """Mean and covariance, within five standard errors of n independent draws."""
    variance, covariance = exact.variance, exact.covariance_matrix
    assert bool(((found.mean(0) - exact.mean).abs() < 5 * (variance / n).sqrt()).all())
    spread = (variance[:, None] * variance + covariance.square()).sqrt()
    assert bool(((found.T.cov() - covariance).abs() < 5 * spread / math.sqrt(n)).all())


def test_gibbs_is_exact_where_importance_resampling_is_not():
    model, joint = factor_analysis(shift=2.0, wide=1.5)
    row = gappy_rows(joint, 1, 0.0)[0]
    row[[0, 2, 4]] = NAN
    gap, m = row.isnan(), 2000
    exact = law_of(joint, row, gap, ~gap)
    with pytest.warns(UserWarning, match=r"for 1 of 1 rows the effective sample size of 12 is below 10, the smallest"):
        sir = al.impute(model, row[None], draws=m, samples=12)[:, 0, gap]
    gibbs = al.impute(model, row[None], draws=m, samples=12, method="gibbs", steps=60)[:, 0, gap]
    agrees(gibbs, exact, m)
    with pytest.raises(AssertionError):
        agrees(sir, exact, m)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_mean_is_the_conditional_mean(kind):
    model, joint = factor_analysis(**kind)
    x, k = gappy_rows(joint, 20), 4000
    filled, median = al.fill(model, x, samples=k), al.fill(model, x[:3], "median", samples=k)
    for i, row in enumerate(x):
        gap = row.isnan()
        if gap.any():
            exact = law_of(joint, row, gap, ~gap)
            error = exact.variance.sqrt() / math.sqrt(k)
            assert bool(((filled[i, gap] - exact.mean).abs() < 5 * error).all())
            assert i >= 3 or bool(((median[i, gap] - exact.mean).abs() < 7 * error).all())


def test_weights_correct_a_wrong_encoder():
    model, joint = factor_analysis(shift=1.0, wide=1.5)
    x = gappy_rows(joint, 30)
    filled = al.fill(model, x, samples=20_000)
    exact = torch.stack([exact_fill(joint, row) for row in x])
    assert_close(filled, exact, atol=0.05, rtol=0)
    found = al.log_conditional(model, x, of=[1, 4], samples=20_000)
    assert_close(found.values, exact_log(joint, x, [1, 4]), atol=0.05, rtol=0)


def exact_fill(joint, row):
    gap = row.isnan()
    return row if not gap.any() else row.masked_scatter(gap, law_of(joint, row, gap, ~gap).mean)


def exact_log(joint, x, of, given=True):
    """log p(x_of | the rest of what is there), or log p(x_of) alone."""
    found = []
    for row in x:
        wanted = torch.zeros(len(row), dtype=torch.bool).index_fill(0, torch.tensor([*of]), True)
        on, rest = wanted & ~row.isnan(), ~wanted & ~row.isnan() & given
        found.append(law_of(joint, row, on, rest).log_prob(row[on]) if on.any() else torch.zeros(()))
    return torch.stack(found)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_conditional_density_is_that_of_the_closed_form(kind):
    model, joint = factor_analysis(**kind)
    x = gappy_rows(joint, 12, 0.3)
    found = al.log_conditional(model, x, of=[0, 2], samples=4000)
    exact = exact_log(joint, x, [0, 2])
    assert bool(((found.values - exact).abs() <= 5 * found.standard_error + 1e-12).all())
    assert bool((found.standard_error < 0.1).all())
    assert bool(((found.effective_sample_size >= 1) & (found.effective_sample_size <= 4001)).all())
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[:, [0, 2]] = True
    assert_close(al.log_conditional(model, x, of=mask, given=~mask, samples=4000).values, found.values)


def test_the_standard_error_is_the_spread_over_seeds():
    model, joint = factor_analysis(shift=0.5, wide=1.5)
    x = gappy_rows(joint, 4, 0.2)
    found = [al.log_conditional(model, x, of=[1], samples=200, seed=seed) for seed in range(100)]
    spread = torch.stack([each.values for each in found]).std(0)
    error = torch.stack([each.standard_error for each in found]).mean(0)
    assert_close(error, spread, rtol=0.25, atol=0)


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_a_cell_is_scored_given_the_rest_of_its_row(kind):
    model, joint = factor_analysis(**kind)
    x = gappy_rows(joint, 6, 0.3)
    cells = al.log_cells(model, x, samples=4000)
    assert bool((cells.isnan() == x.isnan()).all())
    for d in range(x.shape[1]):
        there = ~x[:, d].isnan()
        assert_close(cells[there, d], exact_log(joint, x, [d])[there], atol=0.1, rtol=0)


def test_the_variance_of_multiple_imputation():
    """Of the mean of a column over the rows: between m draws it varies by the sum of the conditional variances."""
    model, joint = factor_analysis()
    x = gappy_rows(joint, 60, 0.5)
    means = al.impute(model, x, draws=400, samples=400)[:, :, 0].mean(1)
    gaps = [(row, row.isnan()) for row in x if row[0].isnan()]
    exact = sum(law_of(joint, row, gap, ~gap).variance[0] for row, gap in gaps) / len(x) ** 2
    assert_close(means.var(), exact, rtol=0.3, atol=0)


def test_what_is_observed_stays_to_the_bit():
    model, joint = factor_analysis()
    x = gappy_rows(joint, 30)
    for filled in (al.impute(model, x, draws=3), al.fill(model, x)[None], al.impute(model, x, method="gibbs", steps=2)):
        assert bool(((filled == x) | x.isnan()).all())
        assert not bool(filled.isnan().any())
        assert filled.dtype == x.dtype
    whole = al.fill(model, x)
    draws, ess = al.impute(model, whole, draws=2, return_ess=True)
    assert bool((draws == whole).all())
    assert bool(ess.isnan().all())


def everything(model, x):
    """Each public result of rows x, (N, *)."""
    yield from (al.impute(model, x, draws=2, samples=50, method=method, steps=2).movedim(1, 0) for method in METHODS)
    yield from (al.fill(model, x, estimate, samples=50) for estimate in ("mean", "median", "mode"))
    yield al.log_likelihood(model, x, samples=50, seed=3)
    found = al.log_conditional(model, x, of=[2], samples=50)
    yield from (found.values, found.standard_error, found.effective_sample_size)
    yield al.log_cells(model, x, samples=50).nan_to_num()


METHODS = ("sir", "gibbs")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_gives_the_same_whatever_stands_beside_it(kind):
    model, joint = factor_analysis(features=4, **kind)
    x = gappy_rows(joint, 12)
    order, state = torch.randperm(12), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = zip(everything(model, x), everything(model, x[order]), everything(model, x[7:8]), strict=True)
        for whole, shuffled, alone in results:
            assert_close(shuffled, whole[order], atol=1e-9, rtol=0)
            assert_close(alone, whole[7:8], atol=1e-9, rtol=0)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(al.impute(model, x, seed=1), al.impute(model, x))


class Quadrature:
    """p(x) of one latent dimension and categories, by summing over a fine grid of z."""

    def __init__(self, model):
        z = torch.linspace(-8, 8, 4001)
        self.log_pz = Normal(0.0, 1.0).log_prob(z) + math.log(z[1] - z[0])
        self.logits = model.decoders[0](z[:, None]).base_dist.logits  # (Z, D, k)

    def log_prob(self, row):
        there = (~row.isnan()).nonzero()[:, 0]
        values = row[there].long()
        return (self.log_pz + self.logits[:, there, values].sum(1)).logsumexp(0)


class Masked(nn.Module):
    def __init__(self, features, k):
        super().__init__()
        self.net = nn.Linear(2 * features, k)

    def forward(self, x):
        return self.net(torch.cat([x.nan_to_num(), x.isnan().to(x)], -1))


class Categories(nn.Module):
    def forward(self, phi, event_dim=1):
        return Observed(Categorical(logits=phi.unflatten(-1, (-1, 3))), 1)


def table():
    """A small table of categories, with one latent."""
    net = nn.Linear(1, 12)
    nn.init.normal_(net.weight, 0, 1.5)
    nn.init.normal_(net.bias)
    encoder = al.Conditional(Masked(4, 2), al.families.normal)
    nn.init.normal_(encoder.network.net.weight, 0, 0.1)
    nn.init.constant_(encoder.network.net.bias, 0.3)
    return al.VAE(al.StandardNormal(1), encoder, al.Conditional(net, Categories())).double()


def test_the_cells_of_a_small_table_by_quadrature():
    model = table()
    exact = Quadrature(model)
    cells = torch.cartesian_prod(*[torch.arange(3.0)] * 4)
    total = torch.stack([exact.log_prob(row) for row in cells]).logsumexp(0)
    assert abs(total) < 1e-6
    x = cells[torch.randint(81, (10,))]
    x[torch.rand(x.shape) < 0.3] = NAN
    found = al.log_cells(model, x, samples=20_000)
    for (i, d), value in [((i, d), found[i, d]) for i in range(10) for d in range(4) if not x[i, d].isnan()]:
        rest = x[i].clone()
        rest[d] = NAN
        assert abs(value - (exact.log_prob(x[i]) - exact.log_prob(rest))) < 0.05


def test_draws_and_estimates_of_categories():
    model = table()
    exact = Quadrature(model)
    row = torch.tensor([2.0, NAN, 0.0, 1.0])
    options = torch.stack([torch.tensor([2.0, v, 0.0, 1.0]) for v in range(3)])
    p = torch.stack([exact.log_prob(option) - exact.log_prob(row) for option in options]).exp()
    drawn = al.impute(model, row[None], draws=5000, samples=5000)[:, 0, 1]
    shares = torch.bincount(drawn.long(), minlength=3) / 5000
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / 2500).sqrt() + 1e-3).all())
    assert al.fill(model, row[None], "mode")[0, 1] == p.argmax()
    assert al.fill(model, row[None].expand(1, 4), ["mode"] * 4)[0, 1] == p.argmax()
    assert al.fill(model, row[None], "median", samples=4000)[0, 1] == (p.cumsum(0) < 0.5).sum()
    found = al.fill(model, row.expand(2, 4), ["mean", "mode", "median", "mean"])
    assert bool((found[:, 1] == p.argmax()).all())
    with pytest.raises(ValueError, match=r"estimate='mean': the law of column 1 is over categories"):
        al.fill(model, row[None])


COLUMNS = [al.families.normal, al.families.categorical(3), al.families.interval(1.0, low=0)]
COLUMNS += [al.families.zero_inflated_poisson]


class MaskedWithContext(Masked):
    def forward(self, x, c):
        return self.net(torch.cat([x.nan_to_num(), x.isnan().to(x), c], -1))


TABLE = torch.tensor([[0.3, NAN, 2.0, NAN], [NAN, 2.0, NAN, 0.0], [NAN] * 4, [0.1, 1.0, 3.0, 4.0]], dtype=torch.float64)


def test_a_table_is_filled_column_by_column():
    model = al.architectures.mlp((4,), al.families.columns(COLUMNS), latent=[2], hidden=[16]).double()
    filled = al.impute(model, TABLE, draws=500, samples=500)
    assert bool(((filled == TABLE) | TABLE.isnan()).all())
    assert bool(model.generate(1).log_prob(filled.flatten(0, 1)).isfinite().all())  # values that the columns can take
    mean = al.fill(model, TABLE, ["mean", "mode", "mean", "mean"], samples=2000)
    error = filled.std(0, correction=0) / math.sqrt(300)
    close = (mean - filled.mean(0)).abs() < 6 * error + 1e-9
    assert bool(close[:, [0, 2, 3]].all())
    assert bool((mean[:, 1] == mean[:, 1].round()).all())
    with pytest.raises(ValueError, match=r"estimate='mean': the law of column 1 is over categories"):
        al.fill(model, TABLE)


def test_a_mode_is_where_the_density_is_largest():
    """Of a normal it is the mean; of a table that of each column, whatever its kind."""
    model, joint = factor_analysis()
    x = gappy_rows(joint, 10, 0.3)
    mode, mean = al.fill(model, x, "mode", samples=2000), al.fill(model, x, samples=2000)
    assert bool(((mode - mean).abs() < 0.5).all())
    kinds = [al.families.interval(1.0, low=0), al.families.categorical(3, lowest=1), al.families.poisson]
    table = al.architectures.mlp((3,), al.families.columns(kinds), latent=[1], hidden=[4]).double()
    found = al.fill(table, torch.full((1, 3), NAN), "mode", samples=2000)[0]
    drawn = al.impute(table, torch.full((1, 3), NAN), draws=4000, samples=4000)[:, 0]
    for d in range(3):
        values, counts = drawn[:, d].unique(return_counts=True)
        assert counts[values == found[d]] > counts.max() - 5 * counts.max().sqrt()


def test_what_is_given_is_read_with_every_row():
    """A conditional model: p(x_m | x_o, c) depends on c, and a row does not depend on those beside it."""
    family = al.families.columns(COLUMNS)
    decoder = al.Conditional(al.networks.Concat(nn.Linear(2 + 2, family.size), event_dim=1), family)
    encoder = al.Conditional(MaskedWithContext(5, 4), al.families.normal)
    model = al.VAE(al.StandardNormal(2), encoder, decoder).double()
    c = torch.randn(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for work in (
            lambda x, c: al.impute(model, x, draws=3, samples=50, given=c).movedim(1, 0),
            lambda x, c: al.impute(model, x, draws=3, samples=50, method="gibbs", steps=3, given=c).movedim(1, 0),
            lambda x, c: al.fill(model, x, ["mean", "mode", "median", "mean"], samples=50, given=c),
            lambda x, c: al.log_conditional(model, x, of=[0, 1], samples=50, context=c).values,
            lambda x, c: al.log_cells(model, x, samples=50, given=c).nan_to_num(),
        ):
            whole = work(TABLE, c)
            assert_close(work(TABLE.flip(0), c.flip(0)), whole.flip(0), atol=1e-9, rtol=0)
            assert not torch.equal(work(TABLE, c + 1), whole)
    with pytest.raises(ValueError, match="given"):
        al.impute(model, TABLE)


def test_a_law_that_is_no_function_of_a_uniform_is_drawn_row_by_row():
    class Angles(nn.Module):
        def forward(self, phi, event_dim=1):
            return Observed(torch.distributions.VonMises(phi, torch.ones_like(phi)), 1)

    net = nn.Linear(1, 3)
    model = al.VAE(
        al.StandardNormal(1), al.Conditional(Masked(3, 2), al.families.normal), al.Conditional(net, Angles())
    ).double()
    assert not has_draw(model.generate(2))
    x = torch.randn(6, 3).masked_fill(torch.rand(6, 3) < 0.5, NAN)
    whole = al.impute(model, x, draws=3, samples=50)
    assert_close(al.impute(model, x.flip(0), draws=3, samples=50), whole.flip(1))
    filled = al.fill(model, x, "median", samples=50)
    assert_close(al.fill(model, x[2:], "median", samples=50), filled[2:])


def test_many_particles_in_several_passes_are_as_one(monkeypatch):
    model, joint = factor_analysis(shift=0.5, wide=1.5)
    x = gappy_rows(joint, 3, 0.5)
    monkeypatch.setattr("allegory.evaluation.passes.pairs_per_pass", lambda model, x: 100)
    filled, ess = al.impute(model, x, draws=4000, samples=4000, return_ess=True)
    exact = torch.stack([exact_fill(joint, row) for row in x])
    assert_close(filled.mean(0), exact, atol=0.15, rtol=0)
    mean = al.fill(model, x, samples=4000)
    assert_close(mean, exact, atol=0.1, rtol=0)
    monkeypatch.undo()
    _, same = al.impute(model, x, draws=2, samples=4000, return_ess=True)
    assert_close(al.fill(model, x, samples=4000), mean, atol=0.1, rtol=0)
    assert_close(same, ess, rtol=0.1, atol=0, equal_nan=True)


def test_annealing_with_gaps_meets_the_closed_form():
    model, joint = factor_analysis(latent=2)
    x = gappy_rows(joint, 6)
    exact = al.log_likelihood(model, x, samples=1)  # every weight is the evidence
    found = al.ais(model, x, chains=16, temperatures=100)
    error = ((16 / found.effective_sample_size - 1) / 16).sqrt()
    assert bool(((found.log_likelihood - exact).abs() < 5 * error + 0.01).all())


def test_what_cannot_be_is_said_in_one_line():
    model, joint = factor_analysis()
    x = gappy_rows(joint, 3)
    for settings, message in [
        ({"draws": 0}, "draws=0: wanted at least 1"),
        ({"samples": 0}, "samples=0: wanted K >= 1"),
        ({"method": "mice"}, "method='mice': wanted 'sir' or 'gibbs'"),
        ({"steps": 0}, "steps=0: wanted at least 1"),
        ({"seed": 0.5}, "seed=0.5: wanted a whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            al.impute(model, x, **settings)
    with pytest.raises(ValueError, match=r"estimate='best': wanted mean, median, mode, or one of them for each column"):
        al.fill(model, x, "best")
    with pytest.raises(ValueError, match=r"estimate=\['mean'\]: wanted"):
        al.fill(model, x, ["mean"])
    for of, given, message in [
        ([0, 1], [1], r"of and given: element \[1\] is in both"),
        ([7], None, r"of=\[7\]: wanted columns 0 to 4"),
        ([], None, "of: wanted a boolean mask"),
        (torch.ones(3, dtype=torch.bool), None, r"of: got a mask of shape \(3,\), wanted \(3, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            al.log_conditional(model, x, of=of, given=given)


def test_particles_that_are_spread_evenly_are_standard_normal_each():
    model, joint = factor_analysis()
    x = gappy_rows(joint, 400)
    particles = Particles(model, x, 32, seeds=row_seeds(x, 0, apart=True), even=True)
    noise = torch.cat([eps[0] for i in range(0, 400, 50) for _, eps in particles.noise(i, 50)], 1)
    assert noise.shape == (32, 400, 1)
    assert bool((noise.mean(0).abs() < 0.25).all())  # of independent ones a third would be beyond
    assert bool((noise.mean(1).abs() < 5 / 20).all())
    assert bool(((noise.var(1) - 1).abs() < 5 * math.sqrt(2 / 400)).all())


def test_a_median_beside_points_is_one_of_them():
    families = [al.families.with_points(al.families.normal, [0.0]), al.families.normal]
    data = torch.randn(200, 2).double()
    data[:150, 0] = 0
    model = al.architectures.mlp((2,), al.families.columns(families), latent=[1], hidden=[4], data=data).double()
    assert al.fill(model, torch.tensor([[NAN, 1.0]]).double(), "median", samples=64)[0, 0] == 0


def test_an_encoder_that_reads_gaps_as_numbers_is_refused():
    """All values were NaN."""
    model, x = al.architectures.mlp((3,), "normal", [2], [8]), torch.randn(5, 3)
    for score in (lambda: al.log_conditional(model, x, of=[0], samples=2), lambda: al.log_cells(model, x, samples=2)):
        with pytest.raises(ValueError, match="x without what is wanted: row 0 has gaps, and the encoder reads them"):
            score()


def test_columns_are_meant_by_their_numbers():
    model = al.architectures.mlp((2,), "normal", [1], [2], data=torch.arange(6.0).view(3, 2))
    with pytest.raises(ValueError, match=r"of=\['age'\]: wanted columns by their numbers"):
        al.log_conditional(model, torch.zeros(3, 2), of=["age"], given=[1])
