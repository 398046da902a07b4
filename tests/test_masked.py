"""Masked diffusion, by enumeration: with the conditionals of a joint law every order has its log p(x)."""

import itertools
import math

import pytest
import torch
from torch import nn

import allegory as al
from allegory.architectures import build, diffusion, masked_diffusion
from allegory.evaluation.marginals import independent_elements
from allegory.masked import MaskedDiffusion, Unmasking, Values
from allegory.networks import ImageDenoiser

D = 3


class Conditionals(nn.Module):
    """The logits of p(x_d | what is shown), of a joint law over k^D values."""

    def __init__(self, joint):
        super().__init__()
        self.joint = joint
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, codes, log_odds):
        k = self.joint.shape[0]
        codes = codes.unflatten(-1, (k + 1, D))
        seen = codes[..., :k, :] + codes[..., k:, :]  # (*batch, k, D) 1 where a value fits
        out = []
        for d in range(D):
            fits = [seen[..., e] if e != d else torch.ones_like(seen[..., e]) for e in range(D)]
            every = torch.einsum("abc,...a,...b,...c->...abc", self.joint, *fits)
            other = [-(D - e) for e in range(D) if e != d]
            out.append(every.sum(other).log())
        return torch.stack(out, -1).flatten(-2)


def exact(k=3, levels=None):
    torch.manual_seed(1)
    joint = torch.rand(k, k, k).pow(3)
    model = MaskedDiffusion(Conditionals(joint / joint.sum()), Values(D, k=k), levels).eval()
    x = torch.cartesian_prod(*[torch.arange(float(k))] * D)
    return model, x, (joint / joint.sum()).flatten().log()


@pytest.mark.parametrize("k", [2, 3])
def test_infinitely_many_levels_have_the_evidence_of_every_x(k):
    model, x, evidence = exact(k)
    trace = model(x, samples=20)
    torch.testing.assert_close(trace.log_weight, evidence.expand(20, -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(al.log_likelihood(model, x, samples=3), evidence, rtol=0, atol=1e-12)
    assert model.levels == D


def subsets():
    return [torch.tensor(bits, dtype=torch.bool) for bits in itertools.product([False, True], repeat=D)]


def terms(model, x):
    """(2^D, B) how many are masked, and the sum of -log p_d over them, for each set of them."""
    found = []
    for mask in subsets():
        z = x.masked_fill(mask, model.decoders.values.mask)[None]
        p = Unmasking(z, model.decoders.values, torch.tensor(1.0), model.decoders.log_p(z))
        found.append(torch.where(mask, -p.log_p_of(x), 0.0).sum(-1)[0])
    return torch.stack(found)


def test_the_sum_of_one_step_is_the_evidence_over_all_masks():
    """E_order: (1 / n) of the masked, over n and all sets of n, is -log p(x), to 1e-12."""
    model, x, evidence = exact()
    sizes = torch.tensor([int(mask.sum()) for mask in subsets()])
    weight = torch.tensor([0.0 if n == 0 else 1 / n / math.comb(D, n) for n in sizes.tolist()])
    torch.testing.assert_close(weight @ terms(model, x), -evidence, rtol=0, atol=1e-12)


def bound_of(model, x, levels):
    """(B,) the ELBO of T levels, over all masks."""
    sizes, of_masks = torch.tensor([float(mask.sum()) for mask in subsets()]), terms(model, x)
    total = torch.zeros(len(x))
    for s in range(1, levels + 1):
        m = torch.tensor(s / levels)
        chance = m**sizes * torch.where(sizes == D, 1.0, (1 - m) ** (D - sizes))
        total = total - (chance @ of_masks) / s
    return total


@pytest.mark.parametrize("levels", [1, 2, 8])
@torch.no_grad()
def test_a_number_of_levels_has_the_bound_of_all_masks(levels):
    model, x, _ = exact(levels=levels)
    expected = bound_of(model, x, levels)
    for trace in (model(x, samples=1500), model.estimate(x, samples=1500)):
        bounds = trace.log_px - trace.kl.sum(0)
        error = bounds.std(0) / math.sqrt(1500)
        assert ((bounds.mean(0) - expected).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("levels", [None, 1, 3])
@torch.no_grad()
def test_an_estimate_has_the_reconstruction_and_the_rates_of_whole_traces(levels):
    """So that a weight of the rates means the same in both."""
    model, x, _ = exact(levels=levels)
    whole, one = model(x, samples=6000), model.estimate(x, samples=6000)
    parts = [(trace.log_px, trace.kl.sum(0)) for trace in (whole, one)]
    for expected, found in zip(*parts, strict=True):
        error = (expected.var(0) + found.var(0)).div(6000).sqrt()
        assert ((found.mean(0) - expected.mean(0)).abs() < 5 * error + 1e-9).all()


@torch.no_grad()
def test_more_levels_have_a_better_bound_on_average():
    """At finite T p is another law, so that the bound of a single x may be above log p(x) of the limit."""
    model, x, evidence = exact()
    gaps = [(evidence.exp() @ (evidence - bound_of(model, x, levels))).item() for levels in (1, 2, 8, 64, 512)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 < gaps[-1] < 0.01 < gaps[0]


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_the_weights_of_all_x_add_up_to_one(levels):
    model = masked_diffusion((D,), "categorical", levels, categories=3, width=8, blocks=1).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.3 * torch.randn_like(part))
    x = torch.cartesian_prod(*[torch.arange(3.0)] * D)
    with torch.no_grad():
        total = model(x, samples=3000).log_weight.exp().sum(1)
    assert abs(total.mean() - 1) < 5 * total.std() / math.sqrt(3000) + 1e-9


@pytest.mark.parametrize("levels", [None, 3])
def test_channels_have_numbers_of_values_of_their_own(levels):
    """All that exists is drawn and adds up to one, and nothing else: of an untrained model with random weights."""
    torch.manual_seed(0)
    k = [3, 2, 4]
    model = masked_diffusion((D,), "categorical", levels, categories=k, width=8, blocks=1).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.3 * torch.randn_like(part))
        x = torch.cartesian_prod(*(torch.arange(float(n)) for n in k))
        total = model(x, samples=2000).log_weight.exp().sum(1)
        drawn = model.sample(2000)
    assert abs(total.mean() - 1) < 5 * total.std() / math.sqrt(2000) + 1e-9
    assert drawn.unique(dim=0).shape == (24, D)
    assert (drawn.amax(0) == torch.tensor(k) - 1).all()
    assert build(model.config).config == model.config
    assert "up to 4 values" in repr(model)
    marginals = independent_elements(model, drawn).base_dist.logits.exp()
    torch.testing.assert_close(marginals.sum(1), torch.ones(D).double())
    assert [[p > 0 for p in each] for each in marginals.tolist()] == [[v < n for v in range(4)] for n in k]


def test_rows_of_channels_of_their_own_are_packed_and_come_back(tmp_path):
    x = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    model = masked_diffusion((2,), "categorical", categories=[3, 4], width=8, blocks=1, data=x)
    al.save(model, tmp_path / "run")
    again = al.load(tmp_path / "run").double()
    torch.testing.assert_close(al.decompress(again, al.compress(model, x)), x)


def test_of_equal_numbers_of_values_nothing_changes():
    same, list_of_same = Values(2, k=3), Values(2, k=[3, 3])
    z, phi = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.randn(5, 6)
    torch.testing.assert_close(same.read(z), list_of_same.read(z))
    torch.testing.assert_close(same.log_p(phi), list_of_same.log_p(phi))
    wider = Values(2, k=[3, 4])  # the first element as in `same`, of the codes and of the logits
    torch.testing.assert_close(wider.read(z)[:, [0, 2, 4, 7]], torch.eye(4)[[1, 0]])
    torch.testing.assert_close(wider.log_p(torch.cat([phi, phi[:, :1]], 1))[:, :3, 0], same.log_p(phi)[..., 0])


@pytest.mark.parametrize("levels", [None, 4])
def test_draws_follow_the_law_that_is_scored(levels):
    model, x, evidence = exact(2, levels)
    drawn = model.sample(20_000)
    place = (drawn * torch.tensor([4.0, 2.0, 1.0])).sum(1).long()
    shares = torch.bincount(place, minlength=8) / 20_000
    expected = evidence.exp()
    if levels:
        expected = model(x, samples=4000).log_weight.exp().mean(0)
    assert ((shares - expected).abs() < 5 * (expected / 20_000).sqrt() + (0.02 if levels else 0)).all()


@pytest.mark.parametrize("levels", [None, 4])
def test_gaps_are_completed_by_the_law_given_the_rest(levels):
    model, x, evidence = exact(3, levels)
    for known in ((0, 2.0), (1, 0.0)), ((2, 1.0),), ():
        row = torch.full((D,), math.nan)
        for d, value in known:
            row[d] = value
        torch.manual_seed(0)
        drawn = model.complete(torch.cat([row.expand(30_000, -1), x[5:6]]))
        assert (drawn[-1] == x[5]).all()
        assert all((drawn[:-1, d] == value).all() for d, value in known)
        fits = torch.stack([x[:, d] == value for d, value in known]).all(0) if known else torch.ones(27, dtype=bool)
        expected = evidence.masked_fill(~fits, -math.inf).softmax(0)
        shares = (drawn[:-1, None] == x).all(-1).double().mean(0)
        assert ((shares - expected).abs() < 5 * (expected / 30_000).sqrt() + 1e-9).all()
    assert model.complete(torch.zeros(0, D)).shape == (0, D)


def test_closed_and_sampled_rates_agree():
    for levels in (None, 5):
        model, x, _ = exact(2, levels)
        trace = model(x[:3], samples=20_000)
        sampled = trace.log_qz - trace.log_pz
        error = sampled.std(1) / math.sqrt(20_000) + trace.kl.std(1) / math.sqrt(20_000)
        assert ((sampled.mean(1) - trace.kl.mean(1)).abs() < 5 * error + 1e-9).all()


def test_a_step_that_cannot_be_has_no_mass():
    values = Values(2, k=2)
    z, x = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    q = Unmasking(z, values, torch.tensor(0.25), x=x)
    possible = {(0.0, 1.0): math.log(0.25), (2.0, 1.0): math.log(0.75), (1.0, 1.0): -math.inf, (0.0, 0.0): -math.inf}
    for value, expected in possible.items():
        assert q.log_prob(torch.tensor([value])).item() == pytest.approx(expected)
    one = Unmasking(torch.tensor([[2.0, 2.0]]), values, torch.tensor(0.5), x=x, one=True)
    assert one.log_prob(torch.tensor([[0.0, 2.0]])).item() == pytest.approx(math.log(0.5))
    assert one.log_prob(torch.tensor([[0.0, 1.0]])).item() == -math.inf
    assert one.log_prob(torch.tensor([[2.0, 2.0]])).item() == -math.inf


def test_one_element_is_shown_where_random_numbers_are_equal(monkeypatch):
    """As they are now and then in float32: of 784 masked elements the two smallest, in one of a hundred traces."""
    (model, x, evidence), uniform = exact(), torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: (uniform(*shape, **options) * 4).floor() / 4)
    torch.testing.assert_close(model(x, samples=20).log_weight, evidence.expand(20, -1), rtol=0, atol=1e-12)


def test_a_step_masks_as_many_as_it_counts(monkeypatch):
    model = masked_diffusion((1, 4, 4), width=8, blocks=1)
    assert model.config["net"] == "conv"
    x, uniform = (torch.rand(3, 1, 4, 4) < 0.5).double(), torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: (uniform(*shape, **options) * 4).floor() / 4)
    trace = model(x, samples=20)
    count = (trace.latents[0] == 2).flatten(2).sum(-1).double()
    torch.testing.assert_close(count, 1 / trace.p[1].share, rtol=0, atol=1e-9)
    assert bool(((trace.latents[0] == x) | (trace.latents[0] == 2)).all())


def test_it_trains_and_comes_back(tmp_path):
    x = (torch.rand(60, 6) < torch.tensor([0.1, 0.5, 0.9] * 2)).double()
    x[:, 3:] = x[:, :3]
    model = masked_diffusion((6,), "bernoulli", width=16, blocks=1, data=x)
    before = al.elbo(model.eval().estimate(x, samples=20)).mean()
    record = al.fit(model, x, valid=x, epochs=30, batch_size=20, lr=1e-2, out=tmp_path / "run")
    assert al.elbo(model.estimate(x, samples=20)).mean() > before + 0.5
    assert record.best_bound > -math.log(2) * 6
    again = al.load(tmp_path / "run").double()
    torch.manual_seed(0)
    first = al.log_likelihood(model, x, samples=2)
    torch.manual_seed(0)
    torch.testing.assert_close(al.log_likelihood(again, x, samples=2), first)
    assert build(model.config).config == model.config
    result = al.evaluate(model, x, samples=3)
    assert len(result.kl_per_level) == 6
    assert result.baseline_nll is None
    assert al.diagnose(model, x, x, samples=2).healthy
    assert model.sample(4, levels=2).shape == (4, 6)


@pytest.mark.parametrize("make", [masked_diffusion, diffusion])
def test_images_are_read_as_cells_of_the_size_that_is_asked_for(make):
    for cell, asked in ((4, {}), (2, {"cell": 2})):
        model = make((1, 6, 6), "bernoulli", levels=3, width=8, blocks=1, **asked)
        again = build(model.config)
        assert again.config == model.config
        grids = [m.net.place.bias.shape for m in again.modules() if isinstance(getattr(m, "net", None), ImageDenoiser)]
        assert set(grids) == {(8, -(-6 // cell), -(-6 // cell))}
        assert al.elbo(again.eval()(torch.zeros(2, 1, 6, 6))).shape == (2,)


MISTAKES = {
    "levels=0: wanted one or more": lambda: masked_diffusion((2,), levels=0),
    "likelihood='normal': wanted 'bernoulli' or 'categorical'": lambda: masked_diffusion((2,), "normal"),
    "needs its number of categories": lambda: masked_diffusion((2,), "categorical"),
    r"categories=\[2, 3\] with 'bernoulli', which has two values": lambda: masked_diffusion((2,), categories=[2, 3]),
    "categories=1: wanted two or more": lambda: masked_diffusion((2,), "categorical", categories=1),
    r"categories=\[3, 1.5\]: wanted two or more": lambda: masked_diffusion((2,), "categorical", categories=[3, 1.5]),
    r"the network was given z of shape \(1, 3, 2\), as \(1, 3, 6\), and gave \(1, 3, 6\), wanted \(1, 3, 4\)": lambda: (
        masked_diffusion((2,), net=Same())(torch.zeros(3, 2))
    ),
    "1 of 6 values are outside the support": lambda: al.log_likelihood(
        masked_diffusion((2,)), torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]), 2
    ),
    r"x: got the shape \(4, 3\), wanted \(B, 2\)": lambda: masked_diffusion((2,)).complete(torch.zeros(4, 3)),
    "x: got 2, which is none of the values of its element: MaskedDiffusion": lambda: masked_diffusion((2,)).complete(
        torch.tensor([[math.nan, 2.0]])
    ),
    "x: got 0.5, which is none": lambda: masked_diffusion((2,)).complete(torch.tensor([[0.5, math.nan]])),
    "log_weight: this trace is of one random level": lambda: masked_diffusion((2,))(torch.zeros(3, 2)).log_weight,
    "wanted 1, since Certain is not normal": lambda: masked_diffusion((2,)).sample(2, temperature=0.5),
    "data: 1 of 4 values are outside the support of .*0 or 1; the first is 0.5 in row 1": lambda: masked_diffusion(
        (2,), data=torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    ),
    "data: 1 of 4 values are outside the support of .*0 to 2": lambda: masked_diffusion(
        (2,), "categorical", categories=3, data=torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    ),
    r"categories=\[3, 2, 2\]: wanted one number for each of the 2 channels": lambda: masked_diffusion(
        (2,), "categorical", categories=[3, 2, 2]
    ),
    "data: 1 of 4 values are outside .*0 by channel to 2, 1; the first is 2 in row 1": lambda: masked_diffusion(
        (2,), "categorical", categories=[3, 2], data=torch.tensor([[2.0, 1.0], [0.0, 2.0]])
    ),
    "data: examples of shape": lambda: masked_diffusion((2,), data=torch.zeros(5, 3)),
}


class Same(nn.Module):
    def forward(self, codes, log_odds):
        return codes


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_in_one_line(message):
    with pytest.raises(ValueError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)
