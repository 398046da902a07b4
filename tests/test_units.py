"""No single row sets a unit, and the unit of x changes no result."""

import math
import re
import warnings

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

import allegory as al
from allegory import architectures, families, likelihoods, networks
from allegory.priors import VampPrior
from allegory.units import units_of


def test_units_are_the_mean_and_the_standard_deviation_where_nothing_is_wild():
    x = torch.randn(500, 2, 3) * torch.tensor([1.0, 1e3, 1e-3]) + 7
    units = units_of(x)
    assert units.outliers is None
    assert_close(units.loc, x.mean(0))
    assert_close(units.scale, x.std(0, correction=0))
    rain = torch.where(torch.rand(500, 1) < 0.7, 0.0, torch.rand(500, 1) * 6)
    flags = (torch.rand(500, 1) < 0.01).double()
    two = torch.where(torch.rand(500, 1) < 0.8, 0.01 * torch.randn(500, 1), 10 + torch.randn(500, 1))
    for column in (rain, flags, two):
        assert units_of(column).outliers is None
        assert_close(units_of(column).scale, column.std(0, correction=0))


@pytest.mark.parametrize("value", [-9999.0, 1e6, 1e20, 9.96921e36, 3e38])
@pytest.mark.parametrize("share", [0.001, 0.1])
def test_a_fill_value_moves_nothing_and_is_named_with_its_row(value, share):
    clean = torch.randn(1000, 3, dtype=torch.float32) + 4
    fill = torch.rand(1000, 3) < share
    fill[17, 1] = True
    x, kept = clean.masked_fill(fill, value), [clean[~fill[:, i], i].double() for i in range(3)]
    units = units_of(x)
    assert_close(units.loc, torch.stack([part.mean() for part in kept]))
    assert_close(units.scale, torch.stack([part.std(correction=0) for part in kept]))
    assert x[units.outliers.row, units.outliers.element[0]] == value
    assert (units.outliers.far_values, units.outliers.repeats) == (fill.sum(), fill.sum())
    build = lambda: architectures.mlp((3,), "student_t", [2], [4], data=x)  # noqa: E731
    if value > 1e9:
        with pytest.raises(ValueError, match=r"row \d+ of the training data, column \d: .* drop those rows"):
            build()
    else:
        with pytest.warns(
            UserWarning, match=rf"row \d+ of the training data, column \d: {re.escape(f'{value:g}')} is .* spreads"
        ):
            model = build()
        assert_close(model.decoders[0].family.scale, units.scale.to(model.decoders[0].family.scale))


def test_one_wild_row_does_not_change_the_model_of_the_others():
    x = torch.randn(800, 3) @ torch.randn(3, 3) + 0.3 * torch.randn(800, 3)
    wild = x.clone()
    wild[5] = 1e5
    models = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (x, wild):
            torch.manual_seed(0)
            models.append(architectures.mlp((3,), "student_t", [2], [16], data=data))
            al.fit(models[-1], data, epochs=6, lr=1e-2, ema=0.9)
    clean, other = (-al.log_likelihood(model, x[6:], samples=20).mean() for model in models)
    assert abs(clean - other) < 0.2


U = [("mlp", [2], {}), ("mlp", [3, 2], {}), ("mlp", [3, 2], {"top_down": True}), ("conv", [1, 2], {})]
UNITED = [*likelihoods.CONTINUOUS, "normal_fixed"]
EVERY = [(name, "standard", *rest) for name in UNITED for rest in U] + [
    ("normal", prior, *rest) for prior in architectures.PRIORS[1:] for rest in U
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # zuko's
@pytest.mark.parametrize(("likelihood", "prior", "architecture", "latent", "more"), EVERY)
def test_the_unit_of_x_changes_no_result(likelihood, prior, architecture, latent, more):
    shape = (1, 4, 4) if architecture == "conv" else (6,)
    data, size = torch.randn(64, *shape).cumsum(-1) + 2, math.prod(shape)
    results = []
    for unit in (1e-4, 1.0, 1e4):
        x = unit * data
        family = families.normal_fixed(2.0 * unit) if likelihood == "normal_fixed" else likelihood
        torch.manual_seed(0)
        small = {"channels": 4, "blocks": 1} if architecture == "conv" else {"hidden": [8]}
        build = getattr(architectures, architecture)
        model = build(shape, family, latent, prior=prior, components=5, data=x, **small, **more)
        al.fit(model, x, epochs=3, batch_size=16, lr=1e-2, ema=0.5)
        torch.manual_seed(0)
        found = al.evaluate(model, x, samples=4)
        results.append([found.nll - size * math.log(unit), *found.kl_per_level])
        results[-1] += (model.sample(3) / unit).flatten().tolist()
    for result in (results[0], results[2]):
        assert_close(torch.tensor(result), torch.tensor(results[1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["normal_shared", "normal_per_dimension"])
def test_a_learned_sigma_reaches_the_residual_within_a_short_training(name):
    """In 200 steps of a rate of 1e-3, log sigma itself would come no further than 0.1."""
    x = torch.randn(400, 1) + 0.02 * torch.randn(400, 4)
    model = architectures.mlp((4,), name, [1], [32], data=x)
    with torch.no_grad():  # a decoder that is already right, so that sigma alone has to move
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    family = model.decoders[0].family
    for parameter in family.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(family.parameters(), 1e-3)
    residual = 0.05 * family.scale
    for _ in range(250):
        optimizer.zero_grad()
        law = family(torch.zeros(400, 4))
        (-law.log_prob(family.loc + residual * torch.randn(400, 4)).mean()).backward()
        optimizer.step()
    assert_close(law.stddev[0] / family.scale, torch.full((4,), 0.05), rtol=0.15, atol=0)


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_the_pseudo_inputs_of_a_vampprior_of_ones_own_are_in_units_of_their_spread(unit):
    x = unit * (torch.randn(20, 3) * torch.tensor([1.0, 1.0, 0.0]) + 5)
    prior = VampPrior(al.Conditional(torch.nn.Linear(3, 4), families.normal), x)
    assert_close(prior.inputs, x)
    assert prior.standardized.abs().max() < 5


COUNTS = ["poisson", "negative_binomial"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("mean", [0.3, 10.0, 1e3, 1e5, 8e6])
def test_counts_of_any_size_begin_at_their_marginals(name, mean):
    x = (torch.poisson(torch.full((400, 2), mean)) if mean < 1e5 else mean + mean**0.5 * torch.randn(400, 2)).round()
    model = architectures.mlp((2,), name, [1], [4], data=x)
    with torch.no_grad():
        model.decoders[0].network[0][-1].weight.zero_()
        law = model.generate(1)
    assert_close(law.mean[0], x.mean(0), rtol=1e-4, atol=0)
    exact = -stats.poisson.logpmf(x.numpy(), x.mean(0).numpy()).sum(1).mean()
    assert -law.log_prob(x).mean().item() == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_any_size_are_learned_in_a_short_training(name):
    top = 2e6
    x = (top + math.sqrt(top) * torch.randn(800, 2, dtype=torch.float32)).round()
    model = architectures.mlp((2,), name, [1], [8], data=x).float()
    al.fit(model, x, epochs=15, lr=3e-3)
    nll = -al.log_likelihood(model, x, samples=10).mean().item()
    assert nll == pytest.approx(1 + math.log(2 * math.pi * top), abs=0.3)


def test_the_mass_of_a_poisson_keeps_its_digits_in_float32():
    for top in (1e-3, 1.0, 1e3, 1e6, 1.6e7):
        rate = torch.tensor(top, dtype=torch.float32)
        x = (rate + rate.sqrt() * torch.linspace(-3, 3, 7, dtype=torch.float32)).clamp(min=0).round()
        found = al.distributions.Poisson(rate).log_prob(x)
        assert_close(found.double(), torch.from_numpy(stats.poisson.logpmf(x, rate.double())), rtol=1e-6, atol=1e-6)


def test_a_gene_of_many_reads_and_one_of_few_are_read_alike():
    rates = torch.tensor([3.0, 1e5])
    x = torch.poisson(torch.distributions.Gamma(2.0, 2.0).sample((500, 2)) * rates)
    model = architectures.mlp((2,), "negative_binomial", [1], data=x)
    read = next(part for part in model.modules() if isinstance(part, networks.Standardize))
    assert_close(read(x).std(0, correction=0), torch.ones(2), rtol=1e-5, atol=0)
    assert_close(read.inverse(read(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bound", [1e3, 1e9])
def test_the_inverse_of_positive(bound):
    value = torch.logspace(-math.log10(bound) + 0.1, math.log10(bound) - 0.1, 50)
    assert_close(families.positive(families.inverse_positive(value, bound), bound), value, rtol=1e-6, atol=0)


def test_what_is_far_from_all_others_is_named_as_its_user_calls_it():
    x = torch.randn(300, 3)
    x[17, 1] = -9999.0
    names = [f"patient {i}" for i in range(300)]
    for build in (architectures.mlp, lambda *a, **more: architectures.mlp(*a, top_down=True, **more)):
        with pytest.warns(UserWarning, match=r"; row patient 17 of the training data, column 1: -9999 is "):
            build((3,), "normal", [2], [4], data=x, row_names=names)
    counts = torch.poisson(torch.full((300, 3), 9.0))
    counts[17, 1] = 1e6
    with pytest.warns(UserWarning, match=r"; row patient 17 of the training data, column 1: 1e\+06 is ") as told:
        architectures.mlp((3,), "poisson", [2], [4], data=counts, row_names=names)
    assert len(told) == 1  # in the units of the counts, once
    counts[17, 1] = -9999
    with pytest.raises(ValueError, match=r"training data: 1 of 900 .* the first is -9999 in row patient 17, column 1"):
        al.fit(architectures.mlp((3,), "poisson", [2], [4]), counts, epochs=1, row_names=names)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_a_spread_whose_square_float32_cannot_hold_is_refused(unit):
    x = torch.randn(100, 2)
    x[:, 1] *= unit
    with pytest.raises(ValueError, match=r"element \[1\] of x has a spread of .*, whose square float32 cannot hold"):
        architectures.mlp((2,), "normal", [2], [4], data=x)
    architectures.mlp((2,), "normal", [2], [4], data=x.clamp(-1e12, 1e12) if unit > 1 else x * 1e15)


def test_counts_beyond_every_rate_are_refused():
    with pytest.raises(ValueError, match=r"a mean of .*e\+10, and the rate of a count ends at 1e\+09; wanted"):
        architectures.mlp((2,), "poisson", [2], [4], data=(1e11 * torch.rand(50, 2)).round())
