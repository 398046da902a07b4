"""Numbers of which some were rounded further than others: one law, two resolutions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allegory as al
from allegory import families
from allegory.intervals import Interval, RoundedFurther, WithPoints
from allegory.mixtures import mixture_quantile, pick
from allegory.quantiles import cdf, draw, log_beyond, log_mass
from allegory.tabular import Schema
from allegory.tabular.columns import Column, check_column
from allegory.tabular.likelihood import family_of, family_of_all
from allegory.tabular.resolution import Step, find_coarser, find_points

COARSE = torch.arange(-20.0, 21.0) * 5
FINE = torch.arange(-400.0, 401.0)


def heaped(law="logistic", points=(), batch=(), components=1, log=False, seed=0):
    low = -400.0 if log else None
    family = families.rounded(
        families.interval(1.0, low=low, law=law, components=components, log=log), COARSE.tolist(), points
    ).double()
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(*batch, family.size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        family.family.loc.fill_(6.0 if log else 3.0)
        family.family.scale.fill_(0.1 if log else 20.0)
    return family(phi).base_dist


@pytest.mark.parametrize("law", ["logistic", "normal", "student_t"])
@pytest.mark.parametrize(("points", "components", "log"), [((), 1, False), ((0.0, 15.0), 3, False), ((-5.0,), 1, True)])
def test_masses_are_those_of_two_resolutions_and_sum_to_one(law, points, components, log):
    found = heaped(law, points, (4,), components, log)
    x = torch.arange(-400.0 if log else -20_000.0, 20_000.0, dtype=torch.float64)
    masses = found.log_prob(x[:, None, None]).exp()
    # Student's tails are long: what lies beyond is added
    total = (
        masses.sum(0)
        + log_beyond(found, x[-1:].expand(4, 1), True).exp()
        + log_beyond(found, x[:1].expand(4, 1), False).exp()
    )
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)
    weights, inner = found.log_shares.exp(), found.law
    for value in (-5.0, 15.0, 100.0, -100.0):
        at = torch.tensor(value, dtype=torch.float64)
        near = at + torch.arange(-2.0, 3.0, dtype=torch.float64)
        lower = torch.tensor(-math.inf) if value == -100 else at - 2.5
        upper = torch.tensor(math.inf) if value == 100 else at + 2.5
        coarse = inner.log_between(lower.double(), upper.double()).exp()
        if abs(value) < 100:  # five intervals of one; their edges meet those of the cell
            torch.testing.assert_close(coarse, inner.log_prob(near[:, None, None]).exp().sum(0), rtol=1e-9, atol=1e-13)
        expected = weights[..., -2] * coarse + weights[..., -1] * inner.log_prob(at).exp()
        if value in points:
            expected = expected + weights[..., list(points).index(value)]
        torch.testing.assert_close(found.log_prob(at).exp(), expected, rtol=1e-9, atol=1e-13)
    off = torch.tensor(7.0, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(off), weights[..., -1].log() + inner.log_prob(off), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("points", "components"), [((), 1), ((0.0,), 3)])
def test_it_is_the_law_with_points_whose_weights_are_those_of_the_cells(points, components):
    found = heaped("logistic", points, (3, 2), components)
    same = WithPoints(found.log_weights, found.values, found.law)
    x = torch.tensor([-100.0, -7.0, 0.0, 4.0, 5.0, 100.0, 300.0], dtype=torch.float64)
    for value in x:
        torch.testing.assert_close(found.log_prob(value), same.log_prob(value), rtol=1e-9, atol=1e-12)
        shape = value.expand(3, 2, 1)
        torch.testing.assert_close(cdf(found, shape), cdf(same, shape), rtol=1e-12, atol=0)
        torch.testing.assert_close(log_beyond(found, shape, True), log_beyond(same, shape, True), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.log_weights.logsumexp(-1), torch.zeros(3, 2, 1, dtype=torch.float64))
    torch.testing.assert_close(found.expand((5, 3, 2, 1)).log_prob(x[1]), found.log_prob(x[1]).expand(5, 3, 2, 1))
    torch.testing.assert_close(pick(found, (1,)).log_prob(x[2]), found.log_prob(x[2])[1])
    some = found.log_prob(x[:, None, None, None])
    assert some.shape == (7, 3, 2, 1)


def test_draws_and_quantiles_are_those_of_the_masses():
    found = heaped("logistic", (0.0,))
    torch.manual_seed(0)
    drawn = found.sample((40_000,)).flatten()
    by_u = draw(found.expand((40_000, 1)), torch.rand(40_000, 1, dtype=torch.float64)).flatten()
    x = FINE.double()
    masses = found.log_prob(x[:, None]).exp().flatten()
    for each in (drawn, by_u):
        share = (each[:, None] == x).double().mean(0)
        assert ((share - masses).abs() <= 5 * (masses / 40_000).sqrt() + 1e-4).all()
    at_most = masses.cumsum(0)
    for u in (0.03, 0.31, 0.5, 0.77):
        wanted = x[(at_most < u).sum()]
        assert mixture_quantile(found.expand((1, 1)), torch.ones(1, 1), u).item() == wanted.item()
    within = log_mass(found, torch.tensor([-7.0]), torch.tensor([12.0])).exp()
    inside = (x >= -7) & (x <= 12)
    torch.testing.assert_close(within, masses[inside].sum()[None], rtol=1e-6, atol=1e-9)
    some = draw(
        found.expand((4000, 1)), torch.rand(4000, 1, dtype=torch.float64), torch.tensor([-7.0]), torch.tensor([12.0])
    )
    assert some.min() >= -7
    assert some.max() <= 12


@pytest.mark.parametrize("law", ["logistic", "normal", "student_t"])
def test_gradients_are_finite_far_out_and_right(law):
    phi = torch.tensor(
        [0.3, -0.2, 0.5, 0.1, *([0.7] if law == "student_t" else [])], dtype=torch.float64, requires_grad=True
    )
    family = families.rounded(families.interval(1.0, law=law), COARSE.tolist()).double()
    for value in (-1e6, -100.0, 3.0, 5.0, 100.0, 1e6):
        x = torch.tensor([value], dtype=torch.float64)
        gradient = torch.autograd.grad(family(phi).log_prob(x), phi)[0]
        assert gradient.isfinite().all()
        if abs(value) < 1e4:
            assert torch.autograd.gradcheck(lambda phi, x=x: family(phi).log_prob(x), phi, atol=1e-6, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 10]), st.floats(0.2, 0.95))
def test_the_coarser_step_is_found_and_only_where_there_is_one(seed, factor, share):
    generator = np.random.default_rng(seed)
    x = generator.normal(50 * factor, 10 * factor, 20_000)
    rounded = generator.random(20_000) < share
    mixed = np.where(rounded, np.rint(x / factor) * factor, np.rint(x))
    values, counts = np.unique(mixed, return_counts=True)
    found = find_coarser(values, counts, Step(1.0), find_points(values, counts, Step(1.0)))
    assert found == (float(factor), ()) or (factor == 2 and share < 0.6)  # where each is met 1.5 times as often
    values, counts = np.unique(np.rint(x), return_counts=True)
    assert find_coarser(values, counts, Step(1.0), find_points(values, counts, Step(1.0))) == (None, ())


def frame(rows=4000, seed=0):
    generator = np.random.default_rng(seed)
    tall = generator.normal(170, 10, rows)
    kg = 0.5 * (tall - 170) + generator.normal(70, 6, rows)
    some = generator.random(rows) < 0.7
    return {"cm": np.rint(tall), "kg": np.where(some, np.rint(kg), np.round(kg, 1))}


def test_a_table_of_two_resolutions_is_printed_saved_and_trained():
    data = frame()
    schema = Schema.infer(data)
    cm, kg = schema.columns
    assert (kg.resolution, kg.coarse, kg.points) == (0.1, 1.0, ())
    assert cm.coarse is None
    assert "some rounded to 1" in str(schema)
    assert Schema.from_json(schema.to_json()) == schema
    x = schema.encode(data)
    family = schema.family()
    again = families.columns([family_of(column) for column in schema.columns])
    assert again.described == family.described
    torch.manual_seed(0)
    model = al.architectures.mlp((2,), family, latent=[2], hidden=[16], data=x)
    # it begins at the marginals: better than both resolutions alone, and than points that know nothing of each other
    begin = {}
    for name, law in {
        "rounded": family_of(kg),
        "fine": families.interval(0.1, low=0.0, components=3, log=True),
    }.items():
        only = al.architectures.mlp((1,), families.columns([law]), latent=[1], hidden=[4], data=x[:, 1:])
        only.eval()
        begin[name] = only.decoders[0](torch.zeros(1, 1)).log_prob(x[:, 1:]).mean().item()
    assert begin["rounded"] > begin["fine"] + 0.5
    record = al.fit(model, x[:3500], valid=x[3500:], epochs=3, seed=0, progress=False)
    assert math.isfinite(record.best_bound)
    drawn = model.eval().sample(2000)
    of_whole = ((drawn[:, 1] - drawn[:, 1].round()).abs() < 1e-3).double().mean().item()
    assert abs(of_whole - (0.7 + 0.3 / 10)) < 0.06
    with_gap = x[:200].clone()
    with_gap[:, 1] = math.nan
    filled = al.impute(model, with_gap, samples=100)
    print(filled)


def test_a_cap_and_a_flood_of_zeros_stay_points():
    generator = np.random.default_rng(0)
    x = np.minimum(np.rint(np.abs(generator.normal(60, 20, 9000))), 99.0)
    x = np.where(generator.random(9000) < 0.6, np.minimum(np.rint(x / 5) * 5, 95.0), x)
    x[generator.random(9000) < 0.3] = 0.0
    (column,) = Schema.infer({"hours": x}).columns
    assert column.coarse == 5.0
    assert 0.0 in column.points
    assert len(column.points) <= 2
    values = column.coarse_values
    assert (values[0], values[-1]) == (0.0, 95.0)  # 100 is beyond the cap
    encoded = torch.as_tensor(x)[:, None].float()
    torch.manual_seed(0)
    model = al.architectures.mlp((1,), family_of_all([column]), latent=[1], hidden=[4], data=encoded).eval()
    zeros = model.decoders[0](torch.zeros(1, 1)).log_prob(torch.zeros(1, 1)).exp().item()
    assert abs(zeros - (x == 0).mean()) < 0.02
    _, counts = np.unique(x, return_counts=True)
    entropy = (counts / len(x) * np.log(len(x) / counts)).sum()
    begun = -model.decoders[0](torch.zeros(1, 1)).log_prob(encoded).mean().item()
    assert entropy < begun < entropy + 0.1


def test_a_model_of_two_resolutions_is_saved_and_loaded(tmp_path):
    schema = Schema.infer(frame())
    x = schema.encode(frame())
    model = al.architectures.mlp((2,), schema.family(), latent=[2], hidden=[8], data=x).eval()
    al.save(model, tmp_path / "run")
    loaded = al.load(tmp_path / "run").eval()
    torch.testing.assert_close(loaded(x[:9]).p[0].mean, loaded(x[:9]).p[0].mean)
    torch.manual_seed(1)
    first = model(x[:9]).log_px
    torch.manual_seed(1)
    torch.testing.assert_close(loaded(x[:9]).log_px, first, rtol=0, atol=0)


def test_rows_have_decimals_where_the_step_is_finer_than_float32():
    generator = np.random.default_rng(0)
    alcohol = np.round(generator.normal(10.4, 1.0, 3000), 1)
    alcohol[::50] = np.round(9 + generator.integers(1, 9, 60) / 9, 11)
    data = {"alcohol": alcohol, "other": generator.normal(size=3000)}
    schema = Schema.infer(data)
    assert (schema.columns[0].resolution, schema.columns[0].coarse) == (1e-11, 0.1)
    assert Schema.from_json(schema.to_json()) == schema
    x = schema.encode(data)
    np.testing.assert_array_equal(schema.decode(x)["alcohol"], alcohol)
    rounded = schema.decode(x.float())["alcohol"]
    whole = np.isclose(alcohol * 10, np.rint(alcohol * 10), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(rounded[whole], alcohol[whole])  # and not 9.19999980927
    np.testing.assert_allclose(rounded, alcohol, rtol=1e-7)
    free = Schema.infer({"x": np.where(np.arange(900) % 3, generator.normal(size=900), 0.7)})
    (column,) = free.columns
    assert (column.resolution, column.points) == (None, (0.7,))
    assert (free.decode(torch.full((2, 1), 0.7).double().float())["x"] == 0.7).all()


def test_what_does_not_go_together_is_refused():
    inner = families.interval(1.0)
    with pytest.raises(ValueError, match=r"wanted two or more, in order"):
        families.rounded(inner, [5.0, 0.0])
    with pytest.raises(ValueError, match=r"wanted two or more, in order, a step apart"):
        families.rounded(inner, [0.0, 1e-9, 5.0])
    with pytest.raises(ValueError, match=r"got PointsFamily, wanted families.interval"):
        families.rounded(families.with_points(inner, [0.0]), [0.0, 5.0])
    with pytest.raises(ValueError, match=r"wanted families.interval"):
        families.rounded(families.normal, [0.0, 5.0])
    with pytest.raises(ValueError, match=r"got the points 3, wanted some of 0, 5"):
        families.rounded(inner, [0.0, 5.0], points=[3.0])
    with pytest.raises(ValueError, match=r"the value 2.5 is none of the family's"):
        families.rounded(inner, [0.0, 2.5, 5.0])  # whose masses would add up to more than one
    with pytest.raises(ValueError, match=r"the value 0 is none of the family's"):
        families.rounded(families.interval(1.0, low=3.0), [0.0, 5.0, 10.0])
    with pytest.raises(ValueError, match=r"rounded reads 4 numbers per element"):
        families.rounded(inner, [0.0, 5.0])(torch.zeros(3))
    column = Column("kg", "positive", "float64", resolution=0.1, range=(40.0, 90.0), coarse=1.0)
    assert column.coarse_values[:2] == (40.0, 41.0)
    for changes, match in (
        (dict(coarse=0.05), "wanted a multiple of it"),
        (dict(coarse=0.25), "wanted a multiple of it"),
        (dict(resolution=None), "wanted a multiple of it"),
        (dict(coarse=-1.0), "wanted a multiple of it"),
        (dict(coarse=500.0), "wanted two multiples within it"),
        (dict(range=(0.0, 1e6), resolution=0.5), "more than 700 multiples of coarse=1.0"),
        (dict(points=(40.3,)), "the point 40.3 is no multiple of coarse=1"),
    ):
        from dataclasses import replace

        with pytest.raises(ValueError, match=match):
            check_column(replace(column, **changes), "column 'kg'")
    assert isinstance(
        RoundedFurther(torch.zeros(2), COARSE, torch.arange(0), Interval(torch.zeros(1), torch.ones(1), torch.ones(1))),
        WithPoints,
    )
