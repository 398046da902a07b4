"""Diffusion: what is known exactly of Gaussian data, of which the best denoiser is linear (Kingma et al. 2021; Guo,
Shamai & Verdu 2005). Expectations of quadratic functions are exact sums over two points a dimension.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import allegory as al
from allegory.architectures import build, diffusion
from allegory.chain import spread_evenly
from allegory.diffusion import Diffusion, NoiseSchedule, alpha_sigma
from allegory.elements import Bins, Categories, Reals, TwoValues
from allegory.training.scale import remark_on_scale

B = math.log(1e3)  # of `positive`


class Best(nn.Module):
    """The best denoiser of N(0, C), and the variances of what it cannot know, in the form that a network has."""

    def __init__(self, covariance, predicts="v", spread=False):
        super().__init__()
        self.covariance, self.predicts, self.spread = covariance, predicts, spread
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z, log_snr):
        alpha, sigma = (part[..., None] for part in alpha_sigma(log_snr))
        eye = torch.eye(len(self.covariance))
        of_z = alpha[..., None] ** 2 * self.covariance + sigma[..., None] ** 2 * eye
        gain = alpha[..., None] * torch.linalg.solve(of_z, self.covariance).mT
        y = (gain @ z[..., None])[..., 0]
        out = {"x": y, "v": (alpha * z - y) / sigma, "eps": (z - alpha * y) / sigma}[self.predicts]
        if not self.spread:
            return out
        left = (self.covariance - alpha[..., None] * gain @ self.covariance).diagonal(dim1=-2, dim2=-1)
        return torch.cat([out, B * torch.atanh((left / sigma**2).log() / B)], -1)


def gaussian(variance=2.5, ends=(6.0, -5.0), levels=9, predicts="v", spread=False, pixel=None, covariance=None):
    """A diffusion with the best denoiser; p(x | z_1) with pi = N(0, pixel^2)."""
    covariance = torch.eye(1) * variance if covariance is None else covariance
    elements = Reals(len(covariance))
    if pixel is not None:
        elements.log_scale.data.fill_(30.0 if pixel == math.inf else B * math.atanh(math.log(pixel) / B))
    net = Best(covariance, predicts, spread)
    return Diffusion(net, elements, NoiseSchedule(*ends), levels, predicts, spread).eval()


def points(covariance):
    """(2 D, D) points whose mean is 0, and whose covariance is the given one."""
    root = math.sqrt(len(covariance)) * torch.linalg.cholesky(covariance).T
    return torch.cat([root, -root])


def exactly(model, of, covariance):
    """The mean of a quadratic function of x and of the noise, over both: of a trace."""
    x, eps = points(covariance), points(torch.eye(len(covariance)))
    marginals = [alpha_sigma(model.decoders.log_snr(t)) for t in range(1, model.levels + 1)]
    trace = model.score(x, [alpha * x + sigma * eps[:, None] for alpha, sigma in marginals])
    return of(trace).mean((-1, -2))


def mmse(variance, snr):
    return variance / (1 + variance * snr)


def nats_of(variance):
    return 0.5 * math.log(2 * math.pi * math.e * variance)


def kl_of_top(variance, snr):
    v = (1 + variance * snr) / (1 + snr)
    return 0.5 * (v - 1 - math.log(v))


def test_the_rates_are_weighted_squared_errors():
    for levels in (2, 9, 40):
        model = gaussian(levels=levels)
        snr = torch.linspace(6, -5, levels).exp()
        rates = exactly(model, lambda trace: trace.kl, model.decoders.net.covariance)
        expected = 0.5 * (snr[:-1] - snr[1:]) * mmse(2.5, snr[1:])
        torch.testing.assert_close(rates[:-1], expected, rtol=1e-9, atol=1e-12)


def test_few_levels_cost_in_proportion_to_one_in_t():
    limit = 0.5 * math.log((1 + 2.5 * math.exp(6)) / (1 + 2.5 * math.exp(-5)))
    excess = []
    for levels in (26, 51, 101):
        model = gaussian(levels=levels)
        rates = exactly(model, lambda trace: trace.kl[:-1].sum(0), model.decoders.net.covariance)
        excess.append((levels - 1) * (rates.item() - limit))
    assert excess[0] > excess[1] > excess[2] > 0
    a = [1 + 2.5 * math.exp(end) for end in (6, -5)]
    expected = 11 / 4 * (math.log(a[0] / a[1]) + 1 / a[0] - 1 / a[1])  # 16.28
    assert abs((8 * excess[2] - 6 * excess[1] + excess[0]) / 3 - expected) < 0.01  # without 1 / T and 1 / T^2


def in_the_limit(model, covariance=None, pieces=64, nodes=6, grid=None):
    """E of log p(x | z_1), and of both rates, of infinitely many levels, by quadrature over u."""
    at, weight = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(nodes))
    u = ((torch.arange(pieces)[:, None] + (at + 1) / 2) / pieces).flatten()
    weight = (weight / 2 / pieces).repeat(pieces)
    x, eps = points(covariance), points(torch.eye(len(covariance)))
    noise = eps.repeat_interleave(len(u), 0)[:, None].expand(-1, len(x), -1)
    places = u.repeat(len(eps))[:, None].expand(-1, len(x))
    trace = model.at_places(x, places, (noise, noise, noise))
    mean = torch.cat([trace.log_px[None], trace.kl]).unflatten(1, (len(eps), len(u))).mean((1, 3))
    return mean @ weight


def test_infinitely_many_levels_have_the_elbo_of_the_closed_form():
    s2, ends = 2.5, (6.0, -5.0)
    for pixel, gap in ((math.inf, 0.5 * math.log1p(1 / (s2 * math.exp(6)))), (math.sqrt(s2), 0.0)):
        model = gaussian(s2, ends, levels=None, pixel=pixel)
        log_px, below, top = in_the_limit(model, torch.eye(1) * s2)
        expected = 0.5 * math.log((1 + s2 * math.exp(6)) / (1 + s2 * math.exp(-5)))
        torch.testing.assert_close(below, torch.tensor(expected), rtol=0, atol=1e-9)
        nelbo = nats_of(s2) + gap + kl_of_top(s2, math.exp(-5))
        torch.testing.assert_close(below + top - log_px, torch.tensor(nelbo), rtol=0, atol=1e-8)
        assert pixel < math.inf or abs(nelbo - 1.877604) < 1e-6


def test_the_gradient_of_both_ends_is_that_of_the_closed_form():
    s2, model = 2.5, gaussian(levels=None, pixel=math.inf)
    log_px, below, top = in_the_limit(model, torch.eye(1) * s2)
    (found,) = torch.autograd.grad(below + top - log_px, model.decoders.schedule.ends)
    ends = model.decoders.schedule.ends
    bound = math.log(1e6)
    high = bound * torch.tanh(16 * ends[0] / bound)
    low = high - ends[1].exp()
    v = (1 + s2 * low.exp()) / (1 + low.exp())
    nelbo = 0.5 * torch.log1p(1 / (s2 * high.exp())) + 0.5 * (v - 1 - v.log())
    (expected,) = torch.autograd.grad(nelbo, ends)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-8)  # pi has a sigma of 1,000


@pytest.mark.parametrize("levels", [1, 2, 5, 40])
@pytest.mark.parametrize("predicts", ["v", "x", "eps"])
def test_with_the_variance_of_the_true_reverse_every_t_is_exact(levels, predicts):
    s2 = 2.5
    model = gaussian(s2, levels=levels, predicts=predicts, spread=True, pixel=math.sqrt(s2))
    elbo = exactly(model, lambda trace: trace.log_px - trace.kl.sum(0), torch.eye(1) * s2)
    low = model.decoders.log_snr(levels).exp().item()
    torch.testing.assert_close(-elbo.item(), nats_of(s2) + kl_of_top(s2, low), rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 7, 100])
def test_every_draw_weighs_the_evidence_where_the_posterior_is_exact(levels):
    model, x = gaussian(1.0, (7.0, -7.0), levels, spread=True), torch.tensor([[-1.3], [0.2], [4.0]])
    expected = Normal(0.0, 1.0).log_prob(x[:, 0])
    torch.testing.assert_close(model(x, samples=5).log_weight, expected.expand(5, 3), rtol=0, atol=1e-8)
    for _, bound, _ in al.bound_curve(model, x, samples=5):
        assert abs(bound - expected.mean().item()) < 1e-8
    torch.testing.assert_close(al.log_likelihood(model, x, samples=4, levels=6), expected, rtol=0, atol=1e-8)


def test_several_dimensions_are_a_sum_over_eigenvalues():
    torch.manual_seed(3)
    root = torch.randn(3, 3)
    covariance = root @ root.T + 0.1 * torch.eye(3)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    model = gaussian(covariance=covariance, levels=12)
    snr = torch.linspace(6, -5, 12).exp()
    rates = exactly(model, lambda trace: trace.kl[:-1].sum(0), covariance)
    expected = sum(0.5 * ((snr[:-1] - snr[1:]) * mmse(v, snr[1:])).sum() for v in eigenvalues)
    torch.testing.assert_close(rates, expected, rtol=1e-9, atol=0)
    _, below, _ = in_the_limit(gaussian(covariance=covariance, levels=None), covariance)
    expected = 0.5 * ((1 + eigenvalues * math.exp(6)) / (1 + eigenvalues * math.exp(-5))).log().sum()
    torch.testing.assert_close(below, expected, rtol=1e-9, atol=0)


def test_the_limit_does_not_depend_on_the_schedule_but_for_its_ends():
    found = []
    for shape in (torch.zeros(64), torch.linspace(-2, 2, 64), torch.randn(64)):
        model = gaussian(levels=None)
        model.decoders.schedule.weights.data = shape
        found.append(in_the_limit(model, torch.eye(1) * 2.5, nodes=12)[1].item())
    assert max(found) - min(found) < 1e-9


def test_the_schedule_keeps_its_digits_in_bfloat16():
    """In it neighbouring levels would have the same log SNR."""
    torch.set_default_dtype(torch.float32)
    schedule, u = NoiseSchedule(7.0, -7.0), torch.linspace(0, 1, 1001)
    nn.init.normal_(schedule.weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = schedule(u), schedule.slope(u)
    assert bool((found[0].diff() < 0).all())
    torch.testing.assert_close(found, (schedule(u), schedule.slope(u)), rtol=0, atol=0)


class BestOfTwo(nn.Module):
    """The best denoiser of two peaks."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z, log_snr):
        alpha, sigma = (part[..., None] for part in alpha_sigma(log_snr))
        peaks, variance = torch.tensor([-1.0, 1.0]), 0.2**2
        total = alpha**2 * variance + sigma**2
        which = Normal(alpha * peaks, total.sqrt()).log_prob(z).softmax(-1)
        y = peaks + alpha * variance / total * (z - alpha * peaks)
        return (which * y).sum(-1, keepdim=True)


def test_the_limit_is_the_information_that_the_ends_hold():
    """I-MMSE: the rates of infinitely many levels are I(x; z_1) - I(x; z_T), for any data."""
    ends, width, nodes = (5.0, -4.0), 0.2, 40
    model = Diffusion(BestOfTwo(), Reals(1), NoiseSchedule(*ends), None, "x").eval()
    gh, weight = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
    weight = weight / weight.sum()
    x = torch.cat([-1 + width * gh, 1 + width * gh])[:, None]
    at, of_u = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(60))
    u = ((at + 1) / 2).repeat_interleave(nodes)[:, None].expand(-1, len(x))
    noise = gh.repeat(60)[:, None, None].expand(-1, len(x), 1)
    with torch.no_grad():
        kl = model.at_places(x, u, (noise, noise, noise)).kl[0]
    mean = torch.einsum("unb,u,n,b->", kl.view(60, nodes, -1), of_u / 2, weight, weight.repeat(2) / 2)

    def information(log_snr):
        alpha, sigma = alpha_sigma(torch.tensor(log_snr))
        spread = (alpha**2 * width**2 + sigma**2).sqrt()
        law = MixtureSameFamily(Categorical(torch.ones(2)), Normal(alpha * torch.tensor([-1.0, 1.0]), spread))
        grid = torch.linspace(-8, 8, 200_001)
        density = law.log_prob(grid)
        return -torch.trapezoid(density.exp() * density, grid) - Normal(0.0, sigma).entropy()

    torch.testing.assert_close(mean, information(5.0) - information(-4.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("predicts", ["v", "eps"])
def test_one_level_at_a_time_is_the_sum_on_average(predicts):
    """Each level once: exactly the sum, for the same noise."""
    for spread in (False, True):
        model = gaussian(levels=8, predicts=predicts, spread=spread)
        x, eps = torch.tensor([[0.4], [-2.0]]), torch.tensor([[[0.3], [-1.1]]])
        marginals = [alpha_sigma(model.decoders.log_snr(t)) for t in range(1, 9)]
        whole = model.score(x, [alpha * x + sigma * eps for alpha, sigma in marginals])
        u = ((torch.arange(7) + 0.5) / 7)[:, None].expand(-1, 2)
        noise = eps.expand(7, -1, -1)
        one = model.at_places(x, u, (noise, noise, noise))
        torch.testing.assert_close(one.kl.mean(1)[0], whole.kl[:-1].sum(0)[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.kl[1, 0], whole.kl[-1, 0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.log_px[0], whole.log_px[0], rtol=1e-10, atol=1e-12)


def test_places_are_uniform_each_and_evenly_spread_together():
    u = torch.stack([spread_evenly(2, 3, torch.zeros(())) for _ in range(4000)])
    assert u.min() >= 0
    assert u.max() < 1
    gaps = u.flatten(1).sort(1).values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / 6), rtol=0, atol=1e-12)
    assert ((u.mean(0) - 0.5).abs() < 4 * math.sqrt(1 / 12 / 4000)).all()
    assert (((u**2).mean(0) - 1 / 3).abs() < 4 * math.sqrt(4 / 45 / 4000)).all()


def test_evenly_spread_places_take_noise_off_the_bound_and_not_its_mean():
    model, x = gaussian(levels=50), torch.randn(32, 1) * math.sqrt(2.5)
    with torch.no_grad():
        even = torch.stack([model.estimate(x).kl[0].mean() for _ in range(100)])
        apart = torch.stack([model.at_places(x, torch.rand(1, 32)).kl[0].mean() for _ in range(100)])
        whole = torch.stack([model(x).kl[:-1].sum(0).mean() for _ in range(10)])
    assert even.std() < apart.std()
    error = math.hypot(even.std() / math.sqrt(100), whole.std() / math.sqrt(10))
    assert abs(even.mean() - whole.mean()) < 4 * error


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: TwoValues(2, 3), range(2)),
        (lambda: Categories(2, 3, k=4, lowest=-1), range(-1, 3)),
        (lambda: Bins(2, 3, bins=5), range(5)),
    ],
    ids=["two values", "categories", "bins"],
)
def test_the_law_of_an_element_given_its_noise_is_bayes_rule(make, values):
    elements, values = make(), torch.tensor(list(values)).double()
    for part in elements.parameters():
        nn.init.normal_(part)
    log_snr = torch.tensor([[0.7, -1.2, 2.0]])
    z = torch.randn(1, 3, *elements.shape)
    alpha, sigma = (elements._spread(part) for part in alpha_sigma(log_snr))
    prior = {
        "TwoValues": lambda: torch.stack([-elements.log_odds * 0, elements.log_odds]),
        "Categories": lambda: elements.logits,
        "Bins": lambda: elements.logits[:, None, None].expand(-1, 2, 3),
    }[type(elements).__name__]()
    every = torch.stack([elements.read(v.expand(2, 3)) for v in values])
    noisy = Normal(alpha * every[:, None, None], sigma).log_prob(z)  # (k, 1, 3, *shape)
    if isinstance(elements, Categories):
        noisy = noisy.unflatten(-2, (elements.k, 2)).sum(-3)
    expected = (prior[:, None, None] + noisy).log_softmax(0)
    law = elements.law(z, log_snr)
    found = torch.stack([law.base_dist.log_prob(v) for v in values])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if elements.width:
        phi = torch.randn(1, 3, elements.width * 2, 3)
        logits = phi.unflatten(-2, (-1, 2)).movedim(-3, 0)
        logits = torch.cat([0 * logits, logits]) if isinstance(elements, TwoValues) else logits
        p = (expected + logits).softmax(0)
        if isinstance(elements, Categories):
            p = p.movedim(0, -3)[None]  # of each category's number
            flat = every.unflatten(-2, (elements.k, 2))
            mean = torch.einsum("lbkcd,kvcd->lbvcd", p[0], flat)
            square = torch.einsum("lbkcd,kvcd->lbvcd", p[0], flat**2)
            mean, square = mean.flatten(-3, -2), square.flatten(-3, -2)
        else:
            mean, square = ((p * every[:, None, None] ** power).sum(0) for power in (1, 2))
        guess, variance = elements.guess(phi, z, log_snr)
        torch.testing.assert_close(guess, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(variance, square - mean**2, rtol=1e-7, atol=1e-9)


def test_real_numbers_given_their_noise_are_conditioned_normals():
    elements = Reals(2)
    elements.standardize.loc.copy_(torch.tensor([3.0, -1.0]))
    elements.standardize.scale.copy_(torch.tensor([2.0, 0.1]))
    for part in elements.parameters():
        nn.init.normal_(part)
    z, log_snr = torch.randn(1, 4, 2), torch.tensor([[0.7, -1.2, 2.0, 0.0]])
    grid = torch.linspace(-12, 12, 40_001)[:, None, None, None]
    alpha, sigma = (part[..., None] for part in alpha_sigma(log_snr))
    prior = Normal(elements.mean, al.families.positive(elements.log_scale))
    joint = prior.log_prob(grid) + Normal(alpha * grid, sigma).log_prob(z)
    evidence = torch.logsumexp(joint, 0) + math.log(24 / 40_000)
    y = torch.randn(1, 4, 2)
    x = elements.standardize.inverse(y)
    expected = prior.log_prob(y) + Normal(alpha * y, sigma).log_prob(z) - evidence - elements.standardize.scale.log()
    torch.testing.assert_close(elements.law(z, log_snr).base_dist.log_prob(x), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("likelihood", "options", "values"),
    [("bernoulli", {}, 2), ("categorical", {"categories": 3}, 3), ("discretized", {"bins": 3}, 3)],
)
@pytest.mark.parametrize("predicts", ["v", "x"])
def test_the_weights_of_all_x_add_up_to_one(likelihood, options, values, predicts):
    """sum_x E_q w(x) = sum_x p(x), whatever the networks are."""
    settings = dict(predicts=predicts, spread=True, log_snr=(-0.5, -2), width=8, blocks=1)
    model = diffusion((2,), likelihood, 3, **settings, **options)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.1 * torch.randn_like(part))
        x = torch.cartesian_prod(*[torch.arange(float(values))] * 2)
        w = model.eval()(x, samples=4000).log_weight.exp()
    total = w.sum(1)
    assert abs(total.mean() - 1) < 4 * total.std() / math.sqrt(4000) < 0.2


@pytest.mark.parametrize(("likelihood", "options", "k"), [("bernoulli", {}, 2), ("categorical", {"categories": 3}, 3)])
def test_a_network_that_gives_the_law_of_x_reads_what_each_element_says_alone(likelihood, options, k):
    """As a sum over the values of one element, by Bayes' rule."""
    read = []

    def net(shape, outputs):
        class Zero(nn.Module):
            def forward(self, z, log_snr):
                read.append(z)
                return torch.zeros_like(z)

        return Zero()

    model = diffusion((1,), likelihood, 2, net=net, predicts="x", **options)
    own, z, log_snr = model.decoders, torch.randn(5, 4, model.decoders.elements.shape[0]), torch.tensor(-0.3)
    pi = torch.rand(k).softmax(0)
    with torch.no_grad():
        parameter = own.elements.log_odds if k == 2 else own.elements.logits
        parameter.copy_((pi[1] / pi[0]).log().view(1) if k == 2 else pi.log()[:, None])
        own.guess(z, log_snr)
        y = own.elements.read(torch.arange(float(k))[:, None])  # (k, width)
        alpha, sigma = alpha_sigma(log_snr)
        chance = (pi.log() + Normal(alpha * y, sigma).log_prob(z[..., None, :]).sum(-1)).softmax(-1)
    torch.testing.assert_close(read[-1], chance @ y, rtol=0, atol=1e-12)


def test_predictions_are_three_forms_of_one_guess():
    x, traces = torch.randn(3, 1), []
    noise = [torch.randn(2, 3, 1) for _ in range(5)]
    for predicts in ("v", "x", "eps"):
        traces.append(gaussian(levels=5, predicts=predicts)(x, samples=2, noise=noise).log_weight)
    torch.testing.assert_close(traces[0], traces[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(traces[0], traces[2], rtol=1e-10, atol=1e-10)


def test_draws_in_few_steps_follow_the_law_that_is_scored():
    model = gaussian(1.0, (7.0, -7.0), levels=None, spread=False)
    with pytest.raises(ValueError, match=r"infinitely many levels.*model.sample\(n, levels=100\)"):
        model.sample(5)
    exact = gaussian(1.0, (7.0, -7.0), levels=50, spread=True)
    for levels in (None, 4):
        x = exact.sample(20_000, levels=levels)
        assert abs(x.mean()) < 4 / math.sqrt(20_000)
        assert abs(x.var() - 1) < 4 * math.sqrt(2 / 20_000)
    cold = exact.generate(3, temperature=0).mean
    assert bool((cold.abs() < 1e-9).all())
    assert exact.sample(1000, temperature=0.5).std() < 0.8


def prior_by_diffusion(levels=4, size=2):
    model = al.architectures.mlp((3,), "normal", [size], [8], prior="diffusion", prior_levels=levels)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.1 * torch.randn_like(part))
    return model


def test_the_posterior_of_a_prior_by_diffusion_is_that_of_noise_added_step_by_step():
    """From the top down it is the same joint law as from the bottom up."""
    model, x = prior_by_diffusion(), torch.randn(5, 3)
    trace = model(x, samples=6)
    snr = [model.prior.denoising.log_snr(t) for t in range(1, 5)]
    z = trace.latents
    law = model.encoders.network(x)
    total = law.log_prob(z[0])
    alpha, sigma = torch.ones(()), torch.zeros(())
    for t, of in enumerate(snr, start=1):
        alpha_s, sigma_s = alpha_sigma(of)
        a = alpha_s / alpha
        total = total + Normal(a * z[t - 1], (sigma_s**2 - a**2 * sigma**2).sqrt()).log_prob(z[t]).sum(-1)
        alpha, sigma = alpha_s, sigma_s
    torch.testing.assert_close(trace.log_qz.sum(0), total, rtol=0, atol=1e-9)


def test_with_the_best_denoiser_a_prior_by_diffusion_is_the_standard_normal():
    model, x = prior_by_diffusion(5), torch.randn(4, 3)
    model.prior.denoising.net = Best(torch.eye(2), "v", spread=True)
    model.prior.denoising.elements = Reals(2)
    plain = al.VAE(al.StandardNormal(2), model.encoders.network, model.decoders[0])
    trace = model(x, samples=7)
    expected = plain.score(x, trace.latents[:1]).log_weight
    torch.testing.assert_close(trace.log_weight, expected, rtol=0, atol=1e-8)


def test_a_prior_by_diffusion_trains_and_comes_back(tmp_path):
    model, x = prior_by_diffusion(), torch.randn(40, 3)
    assert len({value.data_ptr() for value in model.state_dict().values()}) == len(model.state_dict())
    record = al.fit(model, x, valid=x, epochs=2, out=tmp_path / "run")
    assert math.isfinite(record.best_bound)
    again = al.load(tmp_path / "run").double()
    noise = [torch.randn(1, 40, 2) for _ in range(5)]
    torch.testing.assert_close(again(x, noise=noise).log_weight, model(x, noise=noise).log_weight)
    assert len(al.evaluate(model, x, samples=2).kl_per_level) == 5
    assert model.sample(3, temperature=0.7).shape == (3, 3)
    with pytest.raises(ValueError, match="prior='diffusion': wanted one level of normal latents"):
        al.architectures.mlp((3,), "normal", [3, 2], prior="diffusion")


def trained_form(likelihood="bernoulli", **options):
    return diffusion((1, 4, 4), likelihood, 6, predicts="x", width=8, blocks=1, **options)


def test_the_network_stands_once_in_the_weights_and_comes_back(tmp_path):
    model = trained_form()
    assert len({name.rsplit(".", 1)[0] for name in model.state_dict() if "write" in name}) == 1
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in model.state_dict().values())
    x = (torch.rand(40, 1, 4, 4) < 0.3).double()
    record = al.fit(model, x, valid=x, epochs=2, out=tmp_path / "run")
    assert record.epoch == 2
    assert math.isfinite(record.best_bound)
    for again in (al.load(tmp_path / "run"), al.load(al.save(model, tmp_path / "saved"))):
        again = again.double()
        torch.manual_seed(0)
        first = model(x).log_weight
        torch.manual_seed(0)
        torch.testing.assert_close(again(x).log_weight, first)
        assert again.levels == 6
        assert again.sample(2, levels=3).shape == (2, 1, 4, 4)
    assert build(model.config).config == model.config


def test_infinitely_many_levels_train_and_come_back(tmp_path):
    x = torch.randn(30, 2)
    model = diffusion((2,), "normal", None, width=8, blocks=1, data=x)
    al.fit(model, x, epochs=2, batch_size=10, out=tmp_path / "run")
    again = al.load(tmp_path / "run").double()
    assert again.levels is None
    assert "infinitely many levels" in repr(again)
    noise = [torch.randn(1, 30, 2) for _ in range(5)]
    found, expected = (part.with_levels(5)(x, noise=noise, levels="all").log_weight for part in (again, model))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("levels", [4, None])
def test_a_run_with_a_learned_schedule_is_resumed(tmp_path, levels):
    """What is learned is no part of what a model is known by; of infinitely many levels there is a run, too."""
    x, settings = torch.randn(40, 2), dict(batch_size=20, lr=0.1, out=tmp_path / "run")
    model = diffusion((2,), "normal", levels, width=8, blocks=1)
    before = model.decoders.schedule.describe()
    al.fit(model, x, valid=x, epochs=1, **settings)
    assert model.decoders.schedule.describe() != before
    again = diffusion((2,), "normal", levels, width=8, blocks=1)
    assert al.fit(again, x, valid=x, epochs=2, resume=True, **settings).epoch == 2
    assert al.load(tmp_path / "run").levels == levels
    with pytest.raises(ValueError, match="was trained with model"):
        al.fit(
            diffusion((2,), "normal", levels, learned=False, width=8, blocks=1), x, epochs=3, resume=True, **settings
        )


def test_numbers_far_from_the_noise_are_remarked_on():
    x = torch.randn(20, 2) * 50 + 1000
    settings = dict(width=8, blocks=1)
    assert "is of a size of 99" in remark_on_scale(diffusion((2,), "normal", 3, **settings), x)
    assert remark_on_scale(diffusion((2,), "normal", 3, data=x, **settings), x) == ""
    assert remark_on_scale(diffusion((2,), "bernoulli", 3, **settings), (x > 1000).double()) == ""


def test_a_copy_is_of_its_own():
    import copy

    model = trained_form().eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for part in other.parameters():
            part.add_(1.0)
    noise, x = [torch.zeros(1, 2, 1, 4, 4)] * 6, torch.ones(2, 1, 4, 4)
    assert not torch.allclose(other(x, noise=noise).log_weight, model(x, noise=noise).log_weight)


def test_training_sees_one_level_and_evaluation_all():
    model, x = gaussian(levels=7), torch.randn(4, 1)
    assert model(x, samples=3).kl.shape == model.train()(x, samples=3, levels="all").kl.shape == (7, 3, 4)
    trace = model(x, samples=3)
    assert trace.kl.shape == (2, 3, 4)
    assert al.elbo(trace).shape == (4,)
    assert [None if part is None else part.shape for part in trace.unit_kl] == [(3, 4, 1), (3, 4, 1)]
    torch.testing.assert_close(torch.stack([part.sum(-1) for part in trace.unit_kl]), trace.kl)
    assert al.evaluate(model, x, samples=2).kl_per_level[6] < 0.1
    assert len(al.evaluate(model, x, samples=2, levels=3).kl_per_level) == 3
    assert len(al.evaluate(gaussian(levels=None), x, samples=2, levels=4).kl_per_level) == 4
    assert model.training


def test_a_bound_of_one_level_has_no_weight_and_is_in_no_logarithm():
    model, x = gaussian(levels=7).train(), torch.randn(4, 1)
    trace = model(x, samples=3)
    for wrong in (al.iwae, al.stl, al.dreg, al.renyi, al.loo, al.vimco, al.free_bits, lambda t: t.log_weight):
        with pytest.raises(ValueError, match=r"this trace is of one random level|held posterior"):
            wrong(trace)
    with pytest.raises(ValueError, match="beta: got 7 numbers, and the rates of this trace are 2"):
        al.elbo(trace, beta=torch.ones(7))
    with pytest.raises(ValueError, match="one random level of each example has no log w"):
        model(x, held=True)


def test_a_bound_of_many_particles_is_not_above_the_evidence():
    """Of closed rates in the place of the weights it is: beyond log p(x) = -0.967, at -0.760."""

    class Fixed(nn.Module):
        def __init__(self, variance, follow):
            super().__init__()
            self.scale, self.follow = math.sqrt(variance), follow

        def forward(self, c):
            return Independent(Normal(self.follow * c, torch.full_like(c, self.scale)), 1)

    model = al.VAE(al.StandardNormal(1), Fixed(0.5, 0.0), Fixed(0.1, 1.0))
    evidence = Normal(0.0, math.sqrt(1.1)).log_prob(torch.tensor(0.0))
    found = al.log_likelihood(model, torch.zeros(1, 1), samples=40_000)
    assert abs(found - evidence) < 0.03


def test_time_is_linear_in_the_levels(monkeypatch):
    calls = []
    forward = Best.forward
    monkeypatch.setattr(Best, "forward", lambda self, z, log_snr: calls.append(1) or forward(self, z, log_snr))
    counts = []
    for levels in (10, 40):
        calls.clear()
        al.diagnose(gaussian(levels=levels), torch.randn(20, 1), samples=4)
        counts.append(len(calls))
    assert counts[1] < 5 * counts[0]


def test_many_levels_are_told_together():
    assert repr(al.diagnose(gaussian(levels=40), torch.randn(5, 1), samples=2)) == "Diagnosis(all 40 levels work)"
    result = al.evaluate(gaussian(levels=40), torch.randn(5, 1), samples=2)
    assert "of 40 levels together" in repr(result)
    assert [name.strip() for name, *_ in result.rows()][3:5] == ["rate of 39 levels", "rate of the top"]
    assert (
        len(
            repr(al.evaluate(gaussian(levels=9), torch.randn(5, 1), samples=2)).split("rates ")[1].split(",")[0].split()
        )
        == 9
    )


def test_a_diagnosis_judges_the_levels_of_a_fixed_encoder_together():
    found = al.diagnose(gaussian(levels=5), torch.randn(20, 1), samples=4)
    assert found.healthy
    assert found.levels[0].loss is None
    assert any(
        line.startswith("the encoder is fixed") and "the 4 levels below the top" in line for line in found.verdict
    )
    assert found.rows()[0][4] == ""


class Wrong(nn.Module):
    def forward(self, z, log_snr):
        return z[..., :1]


INFINITE = "infinitely many levels.*wanted a number of them"
MISTAKES = {
    r"log_snr=\(-7.0, 7.0\) rises with the level": lambda: diffusion((2,), log_snr=(-7, 7)),
    r"log_snr=\(3.0, 3.0\) rises": lambda: diffusion((2,), log_snr=(3, 3)),
    r"log_snr=\(20.0, -7.0\): wanted numbers between": lambda: diffusion((2,), log_snr=(20, -7)),
    r"log_snr=\(7,\): wanted two numbers": lambda: diffusion((2,), log_snr=(7,)),
    r"log_snr=7.0: wanted two numbers": lambda: diffusion((2,), log_snr=7.0),
    r"beta=\[1.0, 1.0\]: wanted a number, at least 0$": lambda: al.fit(
        diffusion((2,), levels=None, width=8, blocks=1), torch.randn(4, 2), epochs=1, beta=[1.0, 1.0]
    ),
    "row 0 has gaps, and a diffusion reads none": lambda: al.log_conditional(
        diffusion((2,), levels=2, width=8, blocks=1), torch.randn(3, 2), of=[0], samples=2
    ),
    r"levels=0: wanted one or more": lambda: diffusion((2,), levels=0),
    r"levels=-3: wanted one or more": lambda: gaussian().with_levels(-3),
    r"levels=2.5: wanted one or more, a whole number": lambda: diffusion((2,), levels=2.5),
    r"levels=0: wanted one or more, a whole": lambda: al.evaluate(gaussian(), torch.zeros(2, 1), levels=0),
    r"predicts='mean': wanted one of v, x, eps": lambda: diffusion((2,), predicts="mean"),
    r"likelihood='poisson': wanted one of bernoulli": lambda: diffusion((2,), "poisson"),
    r"needs its number of categories": lambda: diffusion((2,), "categorical"),
    r"categories=\[2, 3\]: wanted": lambda: diffusion((2,), "categorical", categories=[2, 3]),
    r"net='unet': wanted 'mlp', 'conv'": lambda: diffusion((2,), net="unet"),
    r"cell=0: wanted a positive whole number": lambda: diffusion((1, 4, 4), net="conv", cell=0),
    r"cell=2 is of net='conv'; the denoiser is 'mlp'": lambda: diffusion((2,), cell=2),
    r"net='conv' reads images": lambda: diffusion((2,), net="conv"),
    r"spread=True: infinitely many": lambda: diffusion((2,), levels=None, spread=True),
    r"the denoiser was given z of shape \(1, 3, 2\) and gave \(1, 3, 1\), wanted \(1, 3, 2\)": lambda: diffusion(
        (2,), net=Wrong()
    )(torch.zeros(3, 2)),
    r"the denoiser was given": lambda: al.log_likelihood(diffusion((2,), net=Wrong()), torch.zeros(3, 2), 5),
    rf"{INFINITE}": lambda: al.evaluate(diffusion((2,), levels=None), torch.zeros(3, 2)),
    rf"(?s).{INFINITE}": lambda: al.bound_curve(diffusion((2,), levels=None), torch.zeros(3, 2)),
    rf"(?s)..{INFINITE}": lambda: al.diagnose(diffusion((2,), levels=None), torch.zeros(3, 2)),
    rf"(?s)...{INFINITE}": lambda: diffusion((2,), levels=None)(torch.zeros(3, 2), levels="all"),
    rf"(?s)....{INFINITE}": lambda: diffusion((2,), levels=None).encode(torch.zeros(3, 2)),
    rf"(?s).....{INFINITE}": lambda: diffusion((2,), levels=None).decode(torch.zeros(3, 2)),
    r"log_weight: this trace is of one .*model.with_levels\(1000\)": lambda: (
        diffusion((2,), levels=None)(torch.zeros(3, 2)).log_weight
    ),
    r"levels='some': wanted 'all' or 'one'": lambda: gaussian()(torch.zeros(3, 1), levels="some"),
    r"levels=5: VAE has the levels that it was built with": lambda: al.evaluate(
        al.architectures.mlp((2,), "normal", [1], [3]), torch.zeros(3, 2), levels=5
    ),
    r"given: the denoiser of a diffusion reads nothing": lambda: gaussian()(torch.zeros(3, 1), given=torch.zeros(3, 1)),
    r"noise: wanted a whole trace": lambda: gaussian()(torch.zeros(3, 1), noise=[None] * 9, levels="one"),
    r"samples=0": lambda: gaussian()(torch.zeros(3, 1), samples=0, levels="one"),
    r"x: 1 of 6 values are outside the support": lambda: al.log_likelihood(
        diffusion((2,), "bernoulli"), torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, 0.0]]), 2
    ),
    r"NaN": lambda: al.log_likelihood(diffusion((2,)), torch.tensor([[0.0, math.nan]]), 2),
    r"data: 1 of 4 values are outside the support of .*0 or 1; the first is 0.5 in row 1": lambda: diffusion(
        (2,), "bernoulli", data=torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    ),
    r"data: 1 of 2 values are outside the support of .*0 to 255; the first is 256": lambda: diffusion(
        (2,), "discretized", data=torch.tensor([[0.0, 256.0]])
    ),
    r"prior_levels=0: wanted a positive whole number": lambda: al.architectures.mlp(
        (3,), "normal", [2], [4], prior="diffusion", prior_levels=0
    ),
    r"data: some values are NaN or infinite": lambda: diffusion(
        (2,), "bernoulli", data=torch.tensor([[0.0, math.nan]])
    ),
}


@pytest.mark.parametrize("message", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_told_in_one_line(message):
    with pytest.raises(ValueError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("likelihood", "options"), [("bernoulli", {}), ("categorical", {"categories": 3})])
def test_values_and_categories_begin_as_independent_elements(likelihood, options):
    torch.manual_seed(0)
    share = torch.tensor([0.1, 0.3, 0.6]) if options else torch.tensor([0.2, 0.8])
    x = torch.multinomial(share, 4 * 2000, replacement=True).view(2000, 4).float()
    model = diffusion((4,), likelihood, 200, width=8, blocks=1, data=x, **options).eval()
    entropy = -(share * share.log()).sum() * 4
    assert -al.evaluate(model, x[:500], samples=1).elbo == pytest.approx(entropy.item(), abs=0.3)  # by v 14.3
    assert model.config["predicts"] == "x"
    assert diffusion((4,), "normal", 5, width=8, blocks=1).config["predicts"] == "v"
