"""Tables: interval likelihoods, points, ordinals, gaps, and their product, against scipy and by enumeration."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Beta, Normal
from torch.testing import assert_close

import allegory as al
from allegory import columnar, families, marginal
from allegory.distributions import DiscretizedLogistic, log_one_minus_exp
from allegory.gaps import Observed, log_prob_elements, takes_gaps
from allegory.intervals import Interval, ordinal_logits

NAN = float("nan")
LAWS = {"logistic": stats.logistic, "normal": stats.norm, "student_t": stats.t(5.0)}
WIDTH = 12


def mixed():
    return families.columns(
        [
            families.normal,
            families.categorical(3),
            families.interval(1.0, low=0, high=10),
            families.bernoulli,
            families.with_points(families.interval(0.5, components=3), [0.0, 40.0]),
            families.ordinal(5),
            families.zero_inflated_poisson,
            families.student_t,
            families.interval(0.01, low=0, log=True, law="student_t"),
            families.beta,
            families.categorical(3),
            families.negative_binomial,
        ]
    )


def interval(law, loc=0.3, scale=1.7, step=1.0, **settings):
    df = torch.tensor(5.0) if law == "student_t" else None
    return Interval(torch.tensor(loc), torch.tensor(scale), torch.tensor(step), law=law, df=df, **settings)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("step", [1e-6, 1.0, 50.0])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_an_interval_has_the_mass_that_scipy_gives_it(law, step, scale):
    x = step * torch.tensor([-3000.0, -50, -3, -1, 0, 1, 2, 7, 20, 100, 5000])
    a, b = ((x.numpy() + half * step - 0.3 * step) / (scale * step) for half in (-0.5, 0.5))
    mass = np.where(a > 0, LAWS[law].sf(a) - LAWS[law].sf(b), LAWS[law].cdf(b) - LAWS[law].cdf(a))
    found = interval(law, 0.3 * step, scale * step, step).log_prob(x)
    there = mass > 1e-250
    assert there.sum() >= 1
    assert_close(found[there], torch.from_numpy(np.log(mass[there])), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("df", [2.1, 5.0, 100.0])
def test_the_tails_of_an_interval_at_an_edge_are_those_of_scipy(law, df):
    reference = stats.t(df) if law == "student_t" else LAWS[law]
    x = torch.arange(-40.0, 41.0)
    given = Interval(torch.zeros(81), torch.ones(81), torch.ones(81), low=x, law=law, df=torch.full((81,), df))
    assert_close(given.log_prob(x), torch.from_numpy(reference.logcdf(x.numpy() + 0.5)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("edges", [{}, {"low": 0.0}, {"low": 0.0, "high": 7.0}, {"low": 3.0, "high": 3.0}])
def test_the_masses_of_the_grid_sum_to_one(law, edges):
    x = torch.arange(edges.get("low", -4000.0), edges.get("high", 4000.0) + 0.25, 0.5)
    total = interval(law, step=0.5, scale=0.7, **edges).log_prob(x).exp().sum()
    assert total == pytest.approx(1, abs=1e-6 if law == "student_t" else 1e-12)


def test_the_masses_of_a_logarithmic_grid_sum_to_one():
    law = interval("normal", loc=1.0, scale=0.8, step=0.5, low=2.0, log=True)
    x = torch.arange(2.0, 3000.0, 0.5)
    assert law.log_prob(x).exp().sum() == pytest.approx(1, abs=1e-12)
    bounds = np.log(np.arange(len(x)) * 0.5 + 0.75)
    cdf = stats.norm(1.0, 0.8).cdf(bounds)
    assert_close(law.log_prob(x[1:100]), torch.from_numpy(np.log(np.diff(cdf)[:99])), rtol=1e-9, atol=1e-9)


def test_nats_do_not_depend_on_the_unit():
    euros = torch.tensor([0.01, 12.34, 99.99, 1e4])
    given = families.interval(0.01, low=0), families.interval(1.0, low=0)
    for family, factor in zip(given, (1, 100), strict=True):
        family.loc.copy_(torch.tensor(30.0 * factor))
        family.scale.copy_(torch.tensor(12.0 * factor))
    phi = torch.tensor([0.2, -0.4])
    in_euros = given[0](phi).log_prob(euros[:, None])
    assert_close(in_euros, given[1](phi).log_prob((100 * euros)[:, None]), rtol=1e-9, atol=1e-9)


def test_no_likelihood_of_rounded_numbers_is_above_one():
    """A column that is always the same: a density would go to infinity."""
    x = torch.full((100, 1), 3.7)
    family = families.columns([families.interval(0.1)])
    model = al.architectures.mlp((1,), family, [1], [4], data=x)
    assert -1e-2 < al.log_likelihood(model, x, samples=5).mean() <= 1e-6


@pytest.mark.parametrize("law", LAWS)
def test_gradients_are_finite_however_far_away(law):
    x = torch.tensor([-1e6, -100, 0, 0.5, 1000, 1e7], dtype=torch.float32)
    for step in (1e-6, 1.0, 1e5):
        loc, scale = (torch.full((6,), v, dtype=torch.float32, requires_grad=True) for v in (0.0, 1.0))
        df = torch.full((6,), 4.0) if law == "student_t" else None
        Interval(loc, scale, torch.tensor(step), law=law, df=df, validate_args=False).log_prob(x).sum().backward()
        assert loc.grad.isfinite().all()
        assert scale.grad.isfinite().all()


@pytest.mark.parametrize("law", LAWS)
def test_samples_of_an_interval_lie_on_the_grid_and_follow_its_masses(law):
    given = interval(law, step=0.5, scale=0.8, low=-1.0, high=2.0)
    x = given.sample((20_000,))
    grid = torch.arange(-1.0, 2.25, 0.5)
    counts = torch.stack([(x == value).sum() for value in grid])
    assert counts.sum() == 20_000
    assert stats.chisquare(counts.numpy(), 20_000 * given.log_prob(grid).exp().numpy(), sum_check=False).pvalue > 1e-3
    assert given.support.check(grid).all()
    assert not given.support.check(torch.tensor([0.2, -1.5, 2.5])).any()


def test_cdf_is_the_sum_of_the_masses():
    given = interval("student_t", low=0.0, high=9.0)
    x = torch.arange(0.0, 10.0)
    assert_close(given.cdf(x), given.log_prob(x).exp().cumsum(0), rtol=0, atol=1e-8)


def test_points_beside_masses_sum_to_one_and_add_up():
    family = families.with_points(families.interval(1.0, low=0, high=9), [0.0, 5.0])
    phi = torch.randn(family.size)
    x = torch.arange(10.0)[:, None]
    law = family(phi)
    assert law.log_prob(x).exp().sum() == pytest.approx(1, abs=1e-12)
    rest = families.interval(1.0, low=0, high=9)(phi[3:]).log_prob(x).exp()
    weights = torch.softmax(phi[:3], 0)
    assert law.log_prob(x)[5].exp() == pytest.approx((weights[1] + weights[2] * rest[5]).item(), abs=1e-12)
    assert_close(law.mean[0], (law.log_prob(x).exp() * x[:, 0]).sum(), rtol=0.2, atol=0)  # edges move a mean


def test_points_beside_a_density_are_a_mass_beside_a_density():
    law = families.with_points(families.normal, [1.0]).double()(torch.tensor([0.0, 1.0, 0.5, 0.2]))
    point, rest = torch.softmax(torch.tensor([0.0, 1.0]), 0).log()
    assert law.log_prob(torch.ones(1)) == pytest.approx(point.item())
    base = families.normal(torch.tensor([0.5, 0.2])).log_prob(torch.tensor([0.3]))
    assert law.log_prob(torch.tensor([0.3])) == pytest.approx((rest + base).item())


@pytest.mark.parametrize("name", ["zero_inflated_poisson", "zero_inflated_negative_binomial"])
def test_zero_inflated_counts_sum_to_one_and_are_scipys(name):
    family = getattr(families, name)
    phi = torch.tensor([0.3, -0.2, 1.1, 0.4][: family.size])
    x = torch.arange(400.0)[:, None]
    mass = family(phi).log_prob(x).exp()
    assert mass.sum() == pytest.approx(1, abs=1e-9)
    zero = torch.softmax(phi[:2], 0)[0].item()
    rate = families.positive(phi[2], 1e9).item()
    if name.endswith("poisson"):
        reference = stats.poisson(rate)
    else:
        r = families.positive(phi[3], 1e9).item()
        reference = stats.nbinom(r, r / (r + rate))
    assert_close(mass[:5], torch.from_numpy(zero * (np.arange(5) == 0) + (1 - zero) * reference.pmf(np.arange(5))))


def test_beta_is_torchs_by_mean_and_precision():
    law = families.beta(torch.tensor([0.7, 1.2]))
    mean, precision = torch.sigmoid(torch.tensor(0.7)), 2 * families.positive(torch.tensor(1.2))
    x = torch.tensor([[0.1], [0.9]])
    assert_close(law.log_prob(x), Beta(mean * precision, (1 - mean) * precision).log_prob(x)[:, 0])
    assert not law.base_dist.support.check(torch.tensor([0.0, 1.0])).any()


def test_ordinal_masses_are_differences_of_cumulative_ones():
    cutpoints, eta = torch.tensor([-1.0, 0.5, 4.0]), torch.tensor(0.8)
    cumulative = torch.cat([torch.zeros(1), torch.sigmoid(cutpoints - eta), torch.ones(1)])
    assert_close(ordinal_logits(eta, cutpoints).exp(), torch.diff(cumulative))
    far = ordinal_logits(torch.tensor(200.0), cutpoints)  # where the differences themselves are zero
    assert far.isfinite().all()
    assert far[0] == pytest.approx(-201)


def test_columns_are_a_product():
    torch.manual_seed(0)
    family = mixed()
    phi = torch.randn(7, family.size)
    law = family(phi)
    x = law.sample((3,))
    assert (law.batch_shape, law.event_shape, x.shape) == ((7,), (12,), (3, 7, 12))
    elements = law.log_prob_elements(x)
    assert_close(elements.sum(-1), law.log_prob(x))
    assert_close(law.expand((2, 7)).log_prob(x[:2]), law.log_prob(x)[:2])
    categories = dict(zip(map(tuple, (c.tolist() for c in family.columns)), phi.split(family.sizes, -1), strict=True))
    alone = families.categorical(3)(categories[1, 10]).base_dist
    assert_close(elements[..., [1, 10]], alone.log_prob(x[..., [1, 10]]))


def test_a_small_mixed_table_sums_to_one():
    torch.manual_seed(1)
    family = families.columns(
        [families.categorical(3), families.interval(1.0, low=0, high=4), families.ordinal(4), families.bernoulli]
    )
    law = family(torch.randn(family.size).detach())
    cells = torch.cartesian_prod(*(torch.arange(float(k)) for k in (3, 5, 4, 2)))
    assert law.log_prob(cells).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("i", range(WIDTH))
def test_a_gap_is_left_out_and_has_no_gradient(i):
    torch.manual_seed(i)
    family = mixed()
    phi = torch.randn(family.size, requires_grad=True)
    law = family(phi)
    x = law.sample()
    x[i] = NAN
    rest = [j for j in range(WIDTH) if j != i]
    assert_close(law.log_prob(x), law.log_prob_elements(x)[rest].sum())
    (gradient,) = torch.autograd.grad(law.log_prob(x), phi)
    assert gradient.isfinite().all()
    alone = law.log_prob_elements(torch.full((WIDTH,), NAN))
    assert alone.tolist() == [0.0] * WIDTH


def test_observed_images_are_the_sum_over_what_is_there():
    phi = torch.randn(2, 2, 4, 4)
    law = families.observed(families.normal)(phi, 3)
    x = torch.randn(2, 1, 4, 4)
    x[0, 0, 1, 2] = NAN
    full = Normal(*_parameters(phi), validate_args=False).log_prob(x)
    full[0, 0, 1, 2] = 0
    assert_close(law.log_prob(x), full.sum((1, 2, 3)))
    assert takes_gaps(law)
    assert_close(log_prob_elements(families.normal(phi, 3), x), full)


def _parameters(phi):
    mu, s = phi.chunk(2, 1)
    return mu, families.positive(s)


def test_what_depends_on_itself_cannot_leave_one_out():
    law = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="independent elements"):
        log_prob_elements(law, torch.zeros(2))
    with pytest.raises(ValueError, match="normal_optimal"):
        families.observed(families.normal_optimal())


def test_families_come_back_from_json():
    again = families.columns([columnar.from_json(described) for described in mixed().described])
    torch.manual_seed(0)
    phi = torch.randn(again.size)
    x = again(phi).sample()
    assert_close(again(phi).log_prob(x), mixed()(phi).log_prob(x))
    with pytest.raises(ValueError, match="cannot build"):
        columnar.from_json({"name": "interval", "step": 1.0, "mine": 3})
    with pytest.raises(ValueError, match="cannot build"):
        columnar.from_json([3])


def table(n=600, gaps=0.2):
    """Rows of every kind of column that depend on one latent."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, generator=generator)
    u = torch.rand(n, 6, generator=generator)
    columns = [
        30 + 12 * z + 5 * torch.randn(n, generator=generator),
        (u[:, 0] * 3).floor(),
        (5 + 2 * z + u[:, 1]).round().clamp(0, 10),
        (u[:, 2] < torch.sigmoid(3 * z)).float(),
        torch.where(u[:, 3] < 0.6, 0.0, (40 * u[:, 3] * 2).round() / 2),
        (2.5 + z).round().clamp(0, 4),
        torch.poisson((1 + z).exp().clamp(max=50), generator=generator),
        torch.exp(z) * 100,
        torch.round(torch.exp(1 + z) * 100) / 100,
        torch.sigmoid(z),
        (u[:, 4] * 3).floor(),
        torch.poisson((2 + z).exp().clamp(max=90), generator=generator),
    ]
    x = torch.stack(columns, 1)
    if gaps:
        x[torch.rand(x.shape, generator=generator) < gaps] = NAN
    return x


def test_a_model_begins_as_independent_columns_at_their_optimum():
    x = table()
    for latent in ([2], [3, 2]):
        model = al.architectures.mlp((12,), mixed(), latent, [8], data=x)
        model.check(x)
        trace = model(x, samples=2)
        assert (trace.log_pz - trace.log_qz).abs().max() < 1e-12
        law = model.generate(1)
        optimum = law.log_prob(x)
        assert_close(trace.log_px, optimum.expand(2, -1))
        for _ in range(20):  # no other constant is better
            bias = model.decoders[0].network[0][-1].bias
            moved = model.decoders[0].family(bias + 0.02 * torch.randn_like(bias)).log_prob(x).mean()
            assert moved <= optimum.mean() + 1e-6


def test_a_table_trains_and_its_run_is_rebuilt(tmp_path):
    x = table()
    torch.manual_seed(0)
    model = al.architectures.mlp((12,), mixed(), [3], [32], data=x)
    before = al.log_likelihood(model, x, samples=20).mean()
    al.fit(model, x, epochs=30, batch_size=100, lr=3e-3, out=tmp_path / "run", progress=False)
    after = al.log_likelihood(model, x, samples=20)
    assert after.mean() > before + 1
    again = al.load(tmp_path / "run")
    torch.manual_seed(1)
    after = al.log_likelihood(model, x, samples=20)
    torch.manual_seed(1)
    assert_close(al.log_likelihood(again, x, samples=20), after)
    assert again.sample(5).shape == (5, 12)


def test_gaps_of_an_array_are_found_and_read():
    x = torch.randn(200, 4) * torch.tensor([1.0, 10, 100, 1000])
    x[::3, 1] = NAN
    model = al.architectures.mlp((4,), "normal", [2], [8], data=x)
    assert model.config["gaps"] is True
    model.check(x)
    assert al.log_likelihood(model, x, samples=3).isfinite().all()
    rebuilt = al.architectures.build(model.config)
    rebuilt.load_state_dict(model.state_dict())
    values = []
    for each in (model, rebuilt):
        torch.manual_seed(1)
        values.append(al.log_likelihood(each, x, samples=3))
    assert_close(*values)
    images = torch.rand(50, 1, 8, 8)
    images[:, :, 3, 3:5] = NAN
    images[0, 0, 3, 3:5] = 0.5
    conv = al.architectures.conv((1, 8, 8), "continuous_bernoulli", [2, 4], channels=8, blocks=1, data=images)
    assert al.log_likelihood(conv, images, samples=2).isfinite().all()


def test_gaps_where_none_are_taken_say_which_families_take_them():
    x = torch.randn(20, 3)
    model = al.architectures.mlp((3,), "normal", [2], [8], data=x)
    x[4, 1] = NAN
    with pytest.raises(ValueError, match=r"row 4.*families\.observed"):
        model.check(x)
    with pytest.raises(ValueError, match="gaps=False"):
        al.architectures.mlp((3,), "normal", [2], [8], data=x, gaps=False)
    x[:, 2] = NAN
    with pytest.raises(ValueError, match="column 2 has no value"):
        al.architectures.mlp((3,), "normal", [2], [8], data=x)


def test_values_outside_a_column_are_named():
    model = al.architectures.mlp((12,), mixed(), [2], [8], data=table())
    for column, value in ((1, 3.0), (2, 0.5), (2, 11.0), (3, 2.0), (9, 1.0), (5, 7.0), (6, -1.0)):
        x = table(20, gaps=0)
        x[13, column] = value
        with pytest.raises(ValueError, match=rf"row 13, column {column}"):
            model.check(x)
    x = table(20)
    x[3, 0] = math.inf
    with pytest.raises(ValueError, match="infinite"):
        model.check(x)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: families.interval(0.0), "positive number"),
        (lambda: families.interval(1.0, low=3, high=2), "low below high"),
        (lambda: families.interval(1.0, law="cauchy"), "one of logistic"),
        (lambda: families.interval(1.0, log=True), "low has to be given"),
        (lambda: families.interval(1.0, components=0), "at least one"),
        (lambda: families.with_points(families.normal, [1.0, 1.0]), "different ones"),
        (lambda: families.columns([]), "one a column"),
        (lambda: families.columns(["normal"]), "column 0"),
        (lambda: families.columns([families.normal], ["a", "b"]), "2 names"),
        (lambda: families.ordinal(1), "at least 2"),
        (lambda: al.architectures.mlp((3,), families.columns([families.normal])), r"wanted \(1,\)"),
    ],
)
def test_mistakes_have_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_filling_keeps_the_marginals():
    x = table()
    filled = marginal.fill_gaps(x)
    for i in range(x.shape[1]):
        observed = x[~x[:, i].isnan(), i]
        assert_close(filled[:, i].mean(), observed.mean(), rtol=0.1, atol=0.1)
        assert set(filled[:, i].tolist()) == set(observed.tolist())
    assert_close(filled[~x.isnan()], x[~x.isnan()])


def test_gaps_of_a_linear_gaussian_model_are_marginalised_exactly():
    """At the exact posterior of what is observed, log w = log p(x_observed) for every particle (probabilistic PCA)."""
    generator = torch.Generator().manual_seed(3)
    w, mu, sigma = torch.randn(5, 2, generator=generator), torch.randn(5, generator=generator), 0.3
    x = torch.randn(6, 5, generator=generator)
    x[torch.rand(6, 5, generator=generator) < 0.4] = NAN

    def decode(z):
        mean = z @ w.T + mu
        return Observed(Normal(mean, torch.full_like(mean, sigma)), 1)

    class Exact(torch.nn.Module):
        def forward(self, x):
            seen = (~x.isnan()).to(x.dtype)
            precision = torch.eye(2) + (w.T[None] * seen[:, None]) @ w / sigma**2
            covariance = torch.linalg.inv(precision)
            mean = covariance @ (w.T @ ((x - mu).nan_to_num() * seen)[..., None]) / sigma**2
            return torch.distributions.MultivariateNormal(mean[..., 0], covariance)

    class Decoder(torch.nn.Module):
        def forward(self, z):
            return decode(z)

    class Prior(torch.nn.Module):
        def forward(self):
            return torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))

    trace = al.VAE(Prior(), Exact(), Decoder())(x, samples=4)
    for i, row in enumerate(x):
        seen = ~row.isnan()
        covariance = (w @ w.T + sigma**2 * torch.eye(5))[seen][:, seen]
        exact = torch.distributions.MultivariateNormal(mu[seen], covariance).log_prob(row[seen])
        assert_close(trace.log_weight[:, i], exact.expand(4), rtol=0, atol=1e-7)


def test_a_set_encoder_does_not_depend_on_the_order_of_columns_and_trains():
    x = table(300)
    torch.manual_seed(0)
    model = al.architectures.mlp((WIDTH,), mixed(), [2], [16], data=x, set_features=8)
    rebuilt = al.architectures.build(model.config)
    rebuilt.load_state_dict(model.state_dict())
    features = model.encoders[0].network[0][0]
    assert_close(rebuilt.encoders[0].network[0][0](x), features(x))
    hidden = x.clone()
    hidden[:, 0] = NAN
    alone = torch.full_like(x, NAN)
    alone[:, 0] = x[:, 0]
    assert_close(features(hidden) + features(alone), features(x))  # a sum over what is observed
    before = al.log_likelihood(model, x, samples=10).mean()
    al.fit(model, x, epochs=25, batch_size=100, lr=2e-2, progress=False)
    assert al.log_likelihood(model, x, samples=10).mean() > before + 0.3
    with pytest.raises(ValueError, match="columns of a table"):
        al.architectures.mlp((3,), "normal", set_features=8)


def test_the_pseudo_inputs_of_a_vampprior_have_no_gaps():
    x = torch.randn(60, 3)
    x[::2, 1] = NAN
    model = al.architectures.mlp((3,), "normal", [2], [8], prior="vamp", components=20, data=x)
    assert model.prior.inputs.isfinite().all()
    assert al.log_likelihood(model, x, samples=3).isfinite().all()
    with pytest.raises(ValueError, match="mixture"):
        al.architectures.mlp((WIDTH,), mixed(), [2], [8], prior="vamp", data=table())


def test_a_table_is_built_without_numbers():
    """As a run does that checks whether its description can be built."""
    described = al.architectures.mlp((WIDTH,), mixed(), [2], [8]).config
    with torch.device("meta"):
        assert al.architectures.build(described).decoders[0].family.size == mixed().size


@pytest.mark.parametrize("row", [0, 7])
def test_an_encoder_that_reads_a_gap_as_a_number_is_refused(row):
    """Its scores would be NaN, and what it imputes would mean nothing."""
    x = torch.randn(20, 3)
    x[row, 1] = NAN
    family, network = families.observed(families.normal), torch.nn.Linear(3, 4)
    q = al.Conditional(network, families.normal)
    p = al.Conditional(torch.nn.Linear(2, 6), family)
    for work in (lambda model: al.evaluate(model, x, samples=2), lambda model: al.fit(model, x, epochs=1)):
        with pytest.raises(ValueError, match=f"row {row} has gaps, and the encoder reads them as numbers.*ReadGaps"):
            work(al.VAE(al.StandardNormal(2), q, p))


@pytest.mark.parametrize("row", [0, 7])
def test_examples_with_gaps_are_told_from_models_that_mix_them(row):
    x = torch.randn(20, 3)
    x[row:] = x[row]
    x[row:, 1] = NAN

    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 4)

        def forward(self, x):
            return self.inner(x.nan_to_num() - x.nan_to_num().mean(0))

    q = al.Conditional(Mixing(), families.normal)
    model = al.VAE(al.StandardNormal(2), q, al.Conditional(torch.nn.Linear(2, 6), families.observed(families.normal)))
    x[-1] = torch.tensor([0.5, NAN, 1.0])  # another row, with the same gaps
    with pytest.raises(ValueError, match="depends on the other examples"):
        al.evaluate(model, x, samples=2)


def test_points_are_found_in_numbers_of_any_precision():
    read = al.networks.ReadPoints(torch.nn.Identity(), torch.tensor([0.1, 0.2], dtype=torch.float32))
    assert_close(read(torch.tensor([[0.1]], dtype=torch.float64))[0, 1:], torch.tensor([1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("factors", [False, True])
def test_columns_that_no_density_in_float32_can_score_are_refused(factors):
    def model(family, x):
        return al.architectures.mlp((2,), families.columns([family] * 2), [1], [4], data=x, factors=factors)

    x = torch.randn(30, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match="a column that is constant"):
        model(families.log_normal, torch.full_like(x, 2.0))
    with pytest.raises(ValueError, match="inf in row 3, column 0; wanted finite numbers"):
        model(families.normal, x.index_fill(0, torch.tensor(3), torch.inf))
    with pytest.raises(ValueError, match=r"column 1 of x has a spread of .*e-30, whose square float32 cannot hold"):
        model(families.normal, x * torch.tensor([1.0, 1e-30]).float())
    model(families.normal, x.double() * 1e-30)


def test_a_wide_law_keeps_its_digits_where_a_compiler_writes_exp_minus_1_for_expm1(monkeypatch):
    monkeypatch.setattr(torch, "expm1", lambda x: torch.exp(x) - 1)  # as torch's has it, in its vectorised code
    wide = torch.tensor([1.0, 1e3, 1e5, 1e8, 1e10], dtype=torch.float32, requires_grad=True)
    zeros = torch.zeros(5, dtype=torch.float32)
    log_p = Interval(zeros, wide, zeros + 1).log_prob(zeros)
    (slope,) = torch.autograd.grad(log_p.sum(), wide)
    h = 0.5 / wide.detach().double()
    assert_close(log_p.double(), torch.log(torch.tanh(h / 2)), rtol=0, atol=5e-6)
    assert_close((slope * wide).double(), -h / torch.sinh(h), rtol=1e-5, atol=0)


def test_log_one_minus_exp_has_all_its_digits(monkeypatch):
    u = torch.logspace(-9, 2, 200)
    wanted = torch.log(-torch.expm1(-u))
    assert_close(log_one_minus_exp(u), wanted, rtol=2e-15, atol=1e-300)
    monkeypatch.setattr(torch, "expm1", lambda x: torch.exp(x) - 1)
    bins, scale = torch.arange(2.0).float(), torch.tensor([1e3, 1e7]).float()
    found = DiscretizedLogistic(torch.zeros(2).float(), scale, 256).log_prob(bins + 1)
    assert_close(found.double(), -torch.log(4 * scale.double()), rtol=0, atol=5e-6)
