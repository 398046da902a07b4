"""Gaps that are data: exact sums and integrals, the estimate of not-MIWAE, known mechanisms, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.columnar import from_json, to_json
from allegory.data.stored import Mapped, Stored
from allegory.families import columns, indicated, missing_above, missing_below, self_masking
from allegory.gaps import Observed
from allegory.marginal import set_units
from allegory.missingness import Indicated, SelfMasked, SelfMaskedFamily, gap_columns, missing_range, without_gaps
from allegory.quantiles import edge_beyond, log_beyond

NAN = math.nan
GAP = torch.tensor([NAN]).double()
WHOLE = al.families.interval(1.0, low=0)
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(64))
LOG_NODES = WEIGHTS.log() - 0.5 * math.log(2 * math.pi)


def placed(family, loc=4.0, scale=2.03, location=0.5, slope=1.7):
    """A self-masking family whose limit may be anywhere around loc."""
    family.place(torch.tensor([loc]), torch.tensor([scale]))
    with torch.no_grad():
        family.location.fill_(location)
        family.raw_slope.copy_(al.families.inverse_positive(torch.tensor([slope])))
    return family


def held(family, limit, middle=-0.5, spread=0.7):
    """A family whose location and scale are bounded."""
    family.hold(*(torch.tensor(part) for part in (limit, middle, spread)))
    return family


@pytest.mark.parametrize(
    "family",
    [
        missing_above(WHOLE, 4.0),
        held(missing_above(WHOLE, 4.0), 4.0),
        held(missing_below(al.families.with_points(WHOLE, [9.0]), 4.0), 4.0),
        held(missing_above(al.families.negative_binomial, 4.0), 4.0),
        held(missing_above(al.families.interval(1.0, low=0, high=20, components=2, log=True), 4.0), math.log(5.0)),
        held(self_masking(al.families.poisson), 2.0),
        missing_below(al.families.interval(1.0, low=0, law="normal"), 3.0),
        missing_above(al.families.with_points(WHOLE, [0.0, 7.0]), 4.5),
        missing_below(al.families.poisson, 2.0),
        missing_above(al.families.interval(1.0, low=0, high=20, components=2), 4.0),
        placed(self_masking(WHOLE)),
        placed(self_masking(al.families.with_points(WHOLE, [0.0]), above=False)),
        placed(self_masking(al.families.interval(1.0, low=0, law="student_t", components=2))),
        placed(self_masking(al.families.negative_binomial)),
        indicated(al.families.poisson),
        indicated(al.families.categorical(3)),
    ],
    ids=lambda family: f"{type(family).__name__} of {type(family.family).__name__}",
)
@torch.no_grad()
def test_values_and_the_gap_sum_to_one(family):
    law = family.double()(0.5 * torch.randn(family.size))
    heavy = "student" in str(family)
    support, grid = law.base_dist.support, torch.arange(20_000.0 if heavy else 500.0)[:, None]
    grid = grid[: family.family.size] if family.family.codes else grid
    total = law.log_prob(grid[support.check(grid)[:, 0]]).exp().sum() + law.log_prob(GAP).exp()
    assert_close(total, torch.ones(()), atol=1e-4 if heavy else 1e-9, rtol=0)


def test_tails_keep_their_digits():
    x = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0])
    normal, student = torch.distributions.Normal(0.5, 2.0), torch.distributions.StudentT(3.0, 0.5, 2.0)
    for above, name in ((True, "logsf"), (False, "logcdf")):
        for law, exact in ((normal, stats.norm(0.5, 2.0)), (student, stats.t(3.0, 0.5, 2.0))):
            found = log_beyond(law, x, above)
            assert_close(found, torch.from_numpy(getattr(exact, name)(x.numpy())), rtol=1e-7, atol=1e-12)
    law = al.families.interval(0.5, law="normal")(torch.zeros(2)).base_dist
    assert_close(log_beyond(law, torch.tensor([30.0])), torch.tensor([stats.norm.logsf(30.25)]), rtol=1e-9, atol=0)
    assert_close(log_beyond(law, torch.tensor([30.1])), torch.tensor([stats.norm.logsf(30.25)]), rtol=1e-9, atol=0)
    assert log_beyond(normal, torch.tensor([-math.inf, math.inf])).tolist() == [0.0, -math.inf]
    assert edge_beyond(law, torch.tensor([2.0]), above=False).item() == 1.75
    capped = al.families.interval(1.0, low=0, high=5)(torch.zeros(2)).base_dist
    assert log_beyond(capped, torch.tensor([5.0])).item() == -math.inf
    assert log_beyond(capped, torch.tensor([-1.0])).item() == 0.0


LAWS_WITH_LOCATION = [
    al.families.normal,
    al.families.student_t,
    al.families.log_normal,
    al.families.interval(0.01, law="normal"),
    al.families.interval(0.01, low=0, log=True),
    al.families.interval(0.01, components=2),
    al.families.with_points(al.families.interval(0.01), [0.0]),
]


@pytest.mark.parametrize("inner", LAWS_WITH_LOCATION, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("above", [True, False])
def test_a_location_is_not_far_beyond_the_limit_whatever_the_network_says(inner, above):
    """t + R s v / (1 + v^4)^(1/4), and as it was on the side that is seen; sigma likewise."""
    sign, beyond = (1, missing_above) if above else (-1, missing_below)
    family = held(beyond(inner, 1.0), 0.3, 0.3 - 5 * sign, 0.7).double()
    phi = torch.linspace(-80, 80, 161)[:, None].repeat(1, family.size)
    law, plain = family(phi).base_dist.law, inner(phi).base_dist
    while not hasattr(law, "loc"):
        law, plain = (getattr(part, "component_distribution", getattr(part, "law", None)) for part in (law, plain))
    room, unit = 1.4, math.pi / math.sqrt(3) if getattr(law, "law", "") == "logistic" else 1.0
    excess = sign * (plain.loc - 0.3)
    expected = torch.where(excess > 0, 0.3 + sign * excess / (1 + (excess / room) ** 4) ** 0.25, plain.loc)
    assert_close(law.loc, expected)
    assert (sign * (law.loc - 0.3)).max() < room
    assert_close(law.scale, plain.scale / (1 + (plain.scale * unit / room) ** 4) ** 0.25)
    assert (law.scale * unit).max() < room + 1e-12
    unset = beyond(inner, 1.0).double()(phi)  # before any data
    assert_close(unset.log_prob(torch.full((161, 1), 1.0)), inner(phi).log_prob(torch.full((161, 1), 1.0)))


@pytest.mark.parametrize("above", [True, False])
def test_the_mean_of_counts_is_not_far_beyond_the_limit(above):
    beyond = missing_above if above else missing_below
    for inner in (al.families.poisson, al.families.negative_binomial):
        family = held(beyond(inner, 30.0), 30.0, 20.0 if above else 40.0, 5.0).double()
        law = family(torch.linspace(-4, 12, 9)[:, None].repeat(1, family.size)).base_dist.law
        mean = inner(torch.linspace(-4, 12, 9)[:, None].repeat(1, family.size)).base_dist.mean
        excess = (mean - 30.0) if above else (30.0 - mean)
        bent = 30.0 + (1 if above else -1) * excess / (1 + (excess / 10) ** 4) ** 0.25
        assert_close(law.mean, torch.where(excess > 0, bent, mean))


def test_a_scale_that_was_given_is_kept():
    family = held(missing_above(al.families.normal_fixed(9.0), 0.0), 0.0)
    assert family(torch.zeros(1)).base_dist.law.scale.item() == 9.0


@pytest.mark.parametrize("limit", [4.0, 2.0, -1.0])
def test_how_far_is_by_a_normal_law_of_the_whole_column(limit):
    """The mean and the spread come back, whatever the share that is hidden: 31, 69 and 98 %."""
    x = torch.from_numpy(stats.norm(3.0, 2.0).ppf((np.arange(20_000) + 0.5) / 20_000))[:, None]
    for sign, beyond in ((1, missing_above), (-1, missing_below)):
        y, edge = (sign * x), sign * limit
        seen = y.masked_fill(sign * y > sign * edge, NAN)
        known, learned = beyond(al.families.normal, edge), self_masking(al.families.normal, above=sign > 0)
        pointed = beyond(al.families.with_points(al.families.normal, [9.0]), edge)
        for family, rows in (
            (known, seen),
            (learned, seen),
            (pointed, torch.cat([seen, seen.new_full((9000, 1), 9.0)])),
        ):
            block = columns([family]).blocks[0].double()
            set_units(block, rows)
            assert_close(block.turn, torch.tensor([sign * max(limit, 3.0)]), atol=0.02, rtol=0)
            assert_close(block.room, torch.tensor([sign * 4.0]), atol=0.03, rtol=0)


def test_where_no_value_varies_there_is_a_spread_all_the_same():
    family = columns([missing_above(al.families.interval(1.0), 5.0)]).blocks[0].double()
    set_units(family, torch.tensor([[5.0], [5.0], [NAN]]))
    assert family.room.item() == 1.0  # 2 spreads of half a step


def censored(reach, law, limit):
    """A family as it is, or was before there was a bound."""
    described = {"name": "missing", "low": limit, "family": to_json(law)}
    return from_json(described | ({} if reach is None else {"reach": reach}))


@pytest.mark.parametrize(("reach", "least", "most"), [(None, 20.0, math.inf), (2.0, 1.0, 2.0)])
def test_gaps_alone_drive_a_location_no_further_than_the_bound(reach, least, most):
    """Climbing P(X > c), of which nothing says how far: dozens of spreads where there is no bound."""
    family = columns([censored(reach, al.families.student_t, 0.0)]).blocks[0]
    seen = torch.from_numpy(stats.halfnorm.ppf((np.arange(500) + 0.5) / 500))[:, None]
    set_units(family, torch.cat([-seen, seen * NAN]))
    loc = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([loc], lr=10.0)
    for _ in range(30):
        optimizer.zero_grad()
        (-family(torch.cat([loc, torch.zeros(2)])).log_prob(GAP)).sum().backward()
        optimizer.step()
    assert least < family(torch.cat([loc, torch.zeros(2)])).base_dist.law.loc.item() < most


def test_values_filled_in_far_beyond_all_that_is_seen_are_warned_of():
    other = torch.arange(100.0)[:, None] % 2
    ash = torch.where(other > 0, NAN, 0.1 * torch.randn(100, 1).round())
    x = torch.cat([ash, other + 0.01 * torch.randn(100, 1)], 1)
    for reach in (2.0, None):
        law = columns([censored(reach, al.families.interval(0.1), 5.0), al.families.normal], names=["ash", "age"])
        model = al.architectures.mlp((2,), law, latent=[1], hidden=[16], data=x)
        if reach:
            filled = al.fill(model, x, samples=50)[ash[:, 0].isnan(), 0]
            al.impute(model, x, draws=3, samples=50)  # and of draws of a bounded law nothing is said
            assert filled.min() > 5
            assert filled.max() < 5 + 1.3 * 2 * 6.3  # of a normal law with a half above 5 and the rest at 0
        else:
            told = r"50 of 50 values of ash, the farthest .* spreads beyond; do not believe the mean there"
            with pytest.warns(UserWarning, match=told):
                al.fill(model, x, samples=50)
            told = r"1[45]\d of 150 values of ash, the farthest .* spreads beyond; do not believe the draws there"
            with pytest.warns(UserWarning, match=told):
                al.impute(model, x, draws=3, samples=50)


def test_runs_from_before_the_bound_keep_their_law():
    phi = torch.tensor([40.0, 0.3])
    for old in ({"name": "missing", "low": 1.0}, {"name": "self_masking", "above": True}):
        described = old | {"family": {"name": "normal"}}
        family = from_json(described)
        assert to_json(family) == described
        assert not {"turn", "room"} & family.state_dict().keys()
        block = columns([family, from_json(described | {"reach": 2.0})]).blocks
        assert len(block) == 2
        for part in block:
            set_units(part, torch.tensor([[0.0], [0.5], [NAN]]).double())
        assert block[0](phi).base_dist.law.loc.item() > 10
        assert block[1](phi).base_dist.law.loc.item() < 3.5
    with pytest.raises(ValueError, match=r"reach=-1\.0: wanted a number above 0"):
        from_json({"name": "missing", "low": 1.0, "reach": -1.0, "family": {"name": "normal"}})


@pytest.mark.parametrize("above", [True, False])
def test_self_masking_is_a_sigmoid_and_its_integral(above):
    family = placed(self_masking(al.families.normal, above), 0.3, 0.7)
    law = family(torch.tensor([0.2, 0.1]))
    x = torch.linspace(-8, 8, 400_001)[:, None]
    odds = 1.7 * ((1 if above else -1) * (x - 0.3) / 0.7 - 0.5)
    recorded = law.base_dist.log_recorded(x)
    inside = odds.abs() < 5
    assert (recorded - nn.functional.logsigmoid(-odds))[inside].abs().max() < 0.11  # half a step of 1.7 / 8
    recorded = recorded[:, 0]
    density = law.base_dist.law.log_prob(x)[:, 0].exp()
    step = (x[1] - x[0])[0]
    assert_close(law.log_prob(GAP).exp(), (density * -torch.expm1(recorded)).sum() * step, atol=1e-5, rtol=0)
    assert_close(law.log_prob(GAP).exp(), (density * torch.sigmoid(odds)[:, 0]).sum() * step, atol=2e-3, rtol=0)


def test_gradients_are_those_of_differences():
    family = placed(self_masking(al.families.with_points(al.families.interval(0.5), [1.0])), 1.3, 0.7)
    phi, names = torch.randn(family.size), [name for name, _ in family.named_parameters()]

    def score(phi, *parts):
        law = torch.func.functional_call(family, dict(zip(names, parts, strict=True)), phi)
        return law.log_prob(GAP), law.log_prob(torch.tensor([1.5]))

    parts = [part.detach().clone().requires_grad_() for part in family.parameters()]
    assert torch.autograd.gradcheck(score, (phi.requires_grad_(), *parts))
    for other in (missing_above(al.families.student_t, 1.0), indicated(al.families.normal)):
        phi = torch.randn(other.size, requires_grad=True)
        assert torch.autograd.gradcheck(lambda phi, other=other: other(phi).log_prob(GAP), phi)
    far = missing_above(al.families.interval(0.01), 60.0)(torch.zeros(2, dtype=torch.float32, requires_grad=True))
    (slope,) = torch.autograd.grad(far.log_prob(GAP.float()).sum(), far.base_dist.law.loc)
    assert 0.9 < slope.item() < 1.1


def gone(block, x):
    """P(s = 1 | x) of numbers x."""
    law = SelfMasked(torch.distributions.Normal(torch.zeros(1), 1.0), block.places.T, block.levels.T, block.above)
    return -torch.expm1(law.log_recorded(x[..., None]))[..., 0].detach()


class Fixed(nn.Module):
    """p(x | z) of columns whose locations are a z + b, and the other numbers constant."""

    def __init__(self, family, slopes, phi):
        super().__init__()
        self.family, self.slopes, self.phi = family, slopes, phi

    def forward(self, z):
        return self.family(self.phi + z * self.slopes)


class Wide(nn.Module):
    """q(z | x) = N(0, 1.3)."""

    def forward(self, x):
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(len(x), 1), 1.3), 1)


def line(family):
    """A model with one latent, p(x | z) = family(phi + slopes z), and log p(x, s) by Gauss-Hermite quadrature."""
    phi, slopes = 0.3 * torch.randn(family.size), 0.8 * torch.randn(family.size)
    model = al.VAE(al.StandardNormal(1), Wide(), Fixed(family, slopes, phi)).requires_grad_(False)

    def exact(x):
        return torch.logsumexp(LOG_NODES[:, None] + model.decoders[0](NODES[:, None, None]).log_prob(x), 0)

    return model, exact


def mixed():
    """A family of four columns, one of each mechanism and one without."""
    families = [
        missing_above(al.families.normal, 0.7),
        self_masking(al.families.normal),
        indicated(al.families.bernoulli),
        al.families.normal,
    ]
    family = columns(families)
    placed(next(block for block in family.blocks if isinstance(block, SelfMaskedFamily)), 0.0, 1.0)
    return family


ROWS = torch.tensor([[NAN, NAN, NAN, 0.3], [0.2, NAN, 1.0, NAN], [NAN, -0.5, 0.0, 1.0], [0.1, 0.4, NAN, -2.0]]).double()


def test_the_bound_rises_to_log_p_of_what_is_observed_and_missing():
    model, exact = line(mixed())
    found = al.log_likelihood(model, ROWS, samples=10_000, seed=0)
    assert_close(found, exact(ROWS), atol=0.03, rtol=0)
    few = al.log_likelihood(model, ROWS.repeat(500, 1), samples=2).view(500, 4)
    assert bool((few.mean(0) < exact(ROWS) + 3 * few.std(0) / math.sqrt(500)).all())


def test_it_is_the_quantity_that_not_miwae_draws_for():
    """log mean_k p(x_o | z_k) p(s | x_o, x_mk) p(z_k) / q(z_k), x_mk drawn from p(x_m | z_k)."""
    family = columns([self_masking(al.families.normal), al.families.normal])
    block = placed(family.blocks[0], 0.0, 1.0)
    model, exact = line(family)
    x, k = torch.tensor([[NAN, 0.4]]), 100_000
    with torch.no_grad():
        trace = model(x, samples=k)
        drawn = trace.p[0].parts[0].base_dist.law.sample()
        log_s = gone(block, drawn)[..., 0].log()
        rest = trace.p[0].parts[1].log_prob(x[:, 1:])
        log_w = rest + log_s + (trace.log_pz - trace.log_qz).sum(0)
        assert_close(log_w.logsumexp(0) - math.log(k), exact(x), atol=0.02, rtol=0)


def test_all_patterns_of_a_table_sum_to_one_and_samples_have_them():
    model, exact = line(columns([indicated(al.families.bernoulli)] * 2))
    table = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, NAN])] * 2)
    p = exact(table).exp()
    assert_close(p.sum(), torch.ones(()))
    assert_close(al.log_likelihood(model, table, samples=20_000, seed=0).exp(), p, atol=0.005, rtol=0)
    n = 40_000
    drawn = model.sample(n)
    code = torch.where(drawn.isnan(), 2.0, drawn) @ torch.tensor([3.0, 1.0])
    share = torch.bincount(code.long(), minlength=9) / n
    assert bool(((share - p).abs() < 5 * (p / n).sqrt()).all())


def test_what_is_missing_is_drawn_from_its_law_given_that_it_is():
    family = columns([self_masking(al.families.normal), al.families.normal])
    block = placed(family.blocks[0], 0.0, 1.0)
    model, _ = line(family)
    x = torch.tensor([[NAN, 0.4]])
    law = model.decoders[0](NODES[:, None])
    grid = torch.linspace(-8, 8, 20_001)
    values, other = law.parts[0].base_dist.law, law.parts[1]
    joint = LOG_NODES + other.log_prob(x[:, 1:])  # (64,)
    missing = gone(block, grid)
    p = (joint[:, None].exp() * values.log_prob(grid).exp() * missing).sum(0)
    p = p / p.sum()
    mean = (p * grid).sum()
    deviation = ((p * grid.square()).sum() - mean.square()).sqrt()
    for method, draws in (("sir", 2000), ("gibbs", 500)):
        drawn = al.impute(model, x, draws=draws, samples=2000, method=method, steps=5)[:, 0, 0]
        assert abs(drawn.mean() - mean) < 5 * deviation / math.sqrt(draws / 2)
        assert abs(drawn.std() - deviation) < 0.1 * deviation
    assert abs(al.fill(model, x, samples=4000)[0, 0] - mean) < 0.06


def test_what_is_known_of_a_gap_goes_with_the_mechanism():
    """A value that is missing, and known to be at most 1: weights and draws, against sums over a grid."""
    families = [self_masking(al.families.normal), missing_above(al.families.normal, 0.2), al.families.normal]
    family = columns(families)
    block = placed(family.blocks[0], 0.0, 1.0)
    model, _ = line(family)
    x, high = torch.tensor([[NAN, NAN, 0.4]]), torch.tensor([1.0, 0.9, math.inf])
    drawn = al.impute(model, x, draws=2000, samples=2000, between=(torch.full((3,), -math.inf), high))[:, 0]
    law = model.decoders[0](NODES[:, None])
    grid = torch.linspace(-8, 8, 20_001)[:, None, None]
    one, two, other = (part.base_dist.law if i < 2 else part for i, part in enumerate(law.parts))
    missing = gone(block, grid[:, 0, 0])[:, None]
    first = (one.log_prob(grid).exp() * missing[:, None] * (grid <= 1))[..., 0]
    second = (two.log_prob(grid).exp() * (grid > 0.2) * (grid <= 0.9))[..., 0]
    w = LOG_NODES.exp() * other.log_prob(x[0, 2:]).exp() * first.sum(0) * second.sum(0)
    w = w / w.sum()
    for d, p in enumerate((first, second)):
        p = (w * p / p.sum(0)).nan_to_num(0.0).sum(1)  # 0 where the weight is
        mean = (p * grid[:, 0, 0]).sum()
        deviation = ((p * grid[:, 0, 0].square()).sum() - mean.square()).sqrt()
        assert abs(drawn[:, d].mean() - mean) < 5 * deviation / math.sqrt(1000)
        assert abs(drawn[:, d].std() - deviation) < 0.1 * deviation
        assert drawn[:, d].max() <= high[d]


def test_gibbs_knows_that_the_pattern_depends_on_z():
    model, _ = line(columns([indicated(al.families.normal), al.families.normal]))
    x = torch.tensor([[NAN, 0.4]])
    one, other = (
        al.impute(model, x, draws=1000, samples=2000, method=method, steps=10)[:, 0, 0] for method in ("sir", "gibbs")
    )
    assert abs(one.mean() - other.mean()) < 5 * one.std() * math.sqrt(2 / 500)
    assert abs(one.std() / other.std() - 1) < 0.15


@pytest.mark.parametrize("method", ["sir", "gibbs"])
def test_what_is_not_known_is_no_gap(method):
    """Rows under conditions, and a value that is left out, do not depend on the mechanism."""
    model, _ = line(mixed())
    law = model.decoders[0](torch.zeros(1, 1))
    assert_close(
        without_gaps(law).log_prob(torch.tensor([[NAN, NAN, NAN, 0.0]])), law.parts[-1].log_prob(torch.zeros(1))
    )
    rows = al.sample_given(model, 1000, {3: 0.5}, samples=2000, method=method, steps=3, seed=0)
    assert not bool(rows.isnan().any())
    z = LOG_NODES + model.decoders[0](NODES[:, None]).parts[-1].log_prob(torch.tensor([0.5]))
    w = torch.softmax(z, 0)
    locations = model.decoders[0](NODES[:, None]).parts[0].base_dist.law.loc[:, 0]
    assert abs(rows[:, 0].mean() - (w * locations).sum()) < 5 * rows[:, 0].std() / math.sqrt(500)
    assert 0.1 < (rows[:, 0] > 0.7).double().mean() < 0.9  # the limit is nothing to them


def test_a_known_mechanism_is_found_again():
    """The large values of one of two columns are missing: the limit, the slope and what is missing come back."""
    n = 1500
    z = torch.randn(n, 1)
    complete = torch.cat([z, z], 1) + 0.5 * torch.randn(n, 2)
    gone = torch.rand(n) < torch.sigmoid(4 * (complete[:, 0] - 0.5))
    x = complete.clone()
    x[gone, 0] = NAN
    family = columns([self_masking(al.families.normal), al.families.normal])
    model = al.architectures.mlp((2,), family, latent=[1], hidden=[16], data=x)
    al.fit(model, x, epochs=12, batch_size=150, lr=2e-2, objective=al.iwae, samples=5, progress=False)
    block = model.decoders[0].family.blocks[0]
    unit = 8 * (block.places[1] - block.places[0])
    limit = block.places.mean() + (block.location + block.grid.mean()) * unit
    assert abs(limit.item() - 0.5) < 0.3
    assert 2 < (block.slope / unit).item() < 8
    filled = al.fill(model, x, samples=100)[gone, 0]
    truth, at_random = complete[gone, 0], complete[gone, 1] / 1.25  # E[x_0 | x_1], as if it were missing at random
    assert abs((filled - truth).mean()) < 0.2 < (truth - at_random).mean()
    assert (filled - truth).square().mean() < 0.8 * (at_random - truth).square().mean()


def test_a_table_begins_at_its_marginals():
    x = torch.randn(3000, 3) * 2 + 1
    x[:, 0] = x[:, 0].where(x[:, 0] < 2, NAN)
    x[:, 1] = x[:, 1].where(torch.rand(3000) < 0.75, NAN)
    family = columns([missing_above(al.families.normal, 2.0), indicated(al.families.normal), al.families.normal])
    model = al.architectures.mlp((3,), family, latent=[2], hidden=[8], data=x)
    law = model.generate(1)
    censored = law.parts[0].base_dist
    assert abs(censored.law.loc.item() - 1) < 0.15
    assert abs(censored.law.scale.item() - 2) < 0.15
    assert abs(law.parts[1].base_dist.log_missing.exp().item() - 0.25) < 0.03
    found = al.evaluate(model, x, samples=10)
    assert found.gaps == ["column 0", "column 1"]
    assert "of p(x_o, s)" in repr(found)
    assert "of p(x_o, s)" in found.rows()[0][0]
    assert "which values of column 0, column 1 are missing" in found._repr_html_()
    base = al.evaluation.baseline(model, x, x)
    assert_close(torch.tensor(-found.nll), torch.tensor(base), atol=0.01, rtol=0)  # independent columns


def test_rows_on_disk_are_scored_as_those_in_memory(tmp_path):
    model = al.architectures.mlp((2,), columns([al.families.normal, missing_above(al.families.normal, 9.0)]), [1], [4])
    x = torch.randn(6, 2).float()
    np.save(tmp_path / "x.npy", x.numpy())
    stored = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    found = []
    for rows in (x, stored):
        torch.manual_seed(0)
        found.append(al.evaluate(model.float(), rows, samples=3).bits_per_dim)
    assert found[0] == found[1]


def test_a_model_with_mechanisms_is_saved_and_loaded(tmp_path):
    families = [
        missing_above(al.families.interval(0.5, low=0), 3.0),
        missing_below(al.families.normal, -0.1),
        self_masking(al.families.with_points(al.families.normal, [0.0]), above=False),
        indicated(al.families.ordinal(3)),
        missing_above(al.families.interval(0.25, low=0), 4.0),
    ]
    for family in families:
        described = to_json(family)
        assert to_json(from_json(json.loads(json.dumps(described)))) == described
    x = torch.tensor([[0.5, 0.1, 0.0, 2.0, 0.25], [NAN] * 5, [3.0, 2.0, -1.5, 1.0, 4.0], [1.0, 0.3, 0.7, 0.0, 1.0]])
    x = x.float().repeat(10, 1)
    torch.set_default_dtype(torch.float32)
    model = al.architectures.mlp((5,), columns(families, names=list("abcde")), latent=[2], hidden=[8], data=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = al.save(model, tmp_path / "run")
    again, run = al.load(path), al.Run(path)
    scores = al.log_likelihood(model, x, samples=10, seed=0)
    assert torch.equal(scores, al.log_likelihood(again, x, samples=10, seed=0))
    assert torch.equal(scores, al.log_likelihood(run.model, x, samples=10, seed=0))
    assert again.config == model.config
    assert gap_columns(again.decoders[0].family) == dict(enumerate("abcde"))
    single = al.architectures.mlp((2,), missing_above(al.families.normal, 1.0), latent=[2], hidden=[4])
    assert al.load(al.save(single, tmp_path / "single")).config["likelihood"]["columns"][1]["low"] == 1.0


def test_columns_of_one_mechanism_are_one_block():
    family = columns(
        [missing_above(al.families.normal, float(c)) for c in range(5)] + [indicated(al.families.normal)] * 2
    )
    assert [len(index) for index in family.columns] == [5, 2]
    law = family(torch.zeros(family.size))
    gap = [log_beyond(torch.distributions.Normal(0.0, 1.0), torch.tensor(float(c))) for c in range(5)]
    assert_close(law.log_prob_elements(torch.full((7,), NAN)), torch.stack([*gap, *[torch.tensor(0.5).log()] * 2]))
    low, high = missing_range(law)
    assert_close(low[:5], torch.arange(5.0))
    assert low[5:].isneginf().all()
    assert high.isposinf().all()


def test_counts_in_proportion_to_a_size_keep_their_mechanism():
    from allegory.exposure import in_proportion

    size = torch.tensor([3.0])
    law = in_proportion(columns([missing_above(al.families.poisson, 2.0), al.families.normal])(torch.zeros(1, 3)), size)
    gap = law.log_prob_elements(torch.full((1, 2), NAN))[0, 0]
    assert_close(gap, torch.tensor(stats.poisson(3.0).logsf(2)))


def test_a_gap_that_is_indicated_is_drawn():
    law = Observed(Indicated(torch.distributions.Poisson(torch.full((2,), 3.0)), torch.tensor([-40.0, 40.0])), 1)
    assert law.sample((50,)).isnan().tolist() == [[False, True]] * 50


def test_what_is_refused():
    with pytest.raises(ValueError, match="CategoricalFamily is of categories, which are not large or small"):
        self_masking(al.families.categorical(3))
    with pytest.raises(ValueError, match="of categories"):
        missing_above(al.families.ordinal(3), 1.0)
    with pytest.raises(ValueError, match="SelfMaskedFamily has a mechanism of its gaps already"):
        indicated(self_masking(al.families.normal))
    with pytest.raises(ValueError, match=r"is of the columns of a table, and x has examples of shape \(1, 4, 4\)"):
        al.architectures.mlp((1, 4, 4), missing_above(al.families.normal, 0.0), [2], [4])
    model = al.architectures.mlp((2,), missing_above(al.families.normal, 1.0), latent=[2], hidden=[4])
    with pytest.raises(ValueError, match=r"none above 1 is in, but missing; the first is 3 in row 1, column 0"):
        al.evaluate(model, torch.tensor([[0.5, NAN], [3.0, 0.2]]), samples=2)
