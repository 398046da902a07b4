"""What the rates of a chain are, in closed form: chapter 6 of the course, for linear-Gaussian chains at one x."""

import math

import pytest
import torch
from linear_gaussian import Affine, Joint, chain
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

import allegory as al


def expected(joint, law, name, given=()):
    """E log N(y; W c + b, C) for y and c of a joint distribution."""
    y, c = joint.rows([name]), joint.rows(given)
    weight = law.weight if given else torch.zeros(len(y), 0)
    away = joint.mean[y] - weight @ joint.mean[c] - law.bias
    across = weight @ joint.cov[c][:, y]
    spread = joint.cov[y][:, y] - across - across.T + weight @ joint.cov[c][:, c] @ weight.T + away.outer(away)
    precision = torch.linalg.inv(law.covariance)
    return -0.5 * ((precision * spread).sum() - precision.logdet() + len(y) * math.log(2 * math.pi))


def information(joint, a, b, given=()):
    """I(a; b | given)."""

    def log_det(*names):
        rows = joint.rows(names)
        return joint.cov[rows][:, rows].logdet() if names else torch.zeros(())

    return 0.5 * (log_det(a, *given) + log_det(b, *given) - log_det(*given) - log_det(a, b, *given))


def posterior(model, x):
    """q(z_1..T | x) at one x. (t, "again") is a second draw of q(z_t | z_{t-1}) for the same z_{t-1}."""
    q = Joint()
    for t, encoder in enumerate(model.encoders, start=1):
        law = encoder if t > 1 else Affine(None, encoder.weight @ x + encoder.bias, encoder.covariance)
        for name in (t, (t, "again")):
            q.add(name, [t - 1] if t > 1 else [], law)
    return q


def wrong_chain(levels, seed):
    """A chain whose posterior is not the right one, some x, log p(x), and the posterior at x."""
    torch.manual_seed(seed)
    model, evidence = chain(levels)
    for encoder in model.encoders:
        encoder.weight = encoder.weight + 0.2 * torch.randn_like(encoder.weight)
        encoder.covariance = 1.3 * encoder.covariance
    x = evidence().sample()
    return model, x, evidence().log_prob(x), posterior(model, x)


def reconstruction(model, x, joint):
    decoder = model.decoders[0]
    below = Joint()
    below.mean, below.cov, below.where = joint.mean, joint.cov, dict(joint.where)
    below.add(0, [], Affine(None, x, torch.zeros(len(x), len(x))))
    return expected(below, decoder, 0, [1])


def summed_divergences(model, x, q):
    """E log p(x | z_1) - sum_t E KL(q(z_t | z_{t-1}) || p(z_t | z_{t+1})), each z_{t+1} drawn along the chain."""
    total, levels = reconstruction(model, x, q), model.levels
    for t, encoder in enumerate(model.encoders, start=1):
        prior, above = (model.prior, []) if t == levels else (model.decoders[t], [t + 1])
        entropy = 0.5 * (encoder.covariance.logdet() + len(encoder.bias) * math.log(2 * math.pi * math.e))
        total = total + entropy + expected(q, prior, (t, "again"), above)
    return total


def elbo(model, x, laws):
    """The ELBO of the top-down posterior with q(z_t | z_{t+1}) = laws[t - 1], all at one x."""
    r, levels = Joint(), model.levels
    for t in range(levels, 0, -1):
        r.add(t, [t + 1] if t < levels else [], laws[t - 1])
    total = reconstruction(model, x, r)
    for t in range(1, levels + 1):
        prior, above = (model.prior, []) if t == levels else (model.decoders[t], [t + 1])
        total = total + expected(r, prior, t, above) - expected(r, laws[t - 1], t, above)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_divergences_below_the_top_give_the_bound_of_independent_levels_less_their_information(seed):
    """T = 2: ELBO of q(z_1 | x) q(z_2 | x), less I(z_1; z_2 | x)."""
    model, x, evidence, q = wrong_chain(2, seed)
    first, second = q.conditional(1), q.conditional(2)
    first.weight = torch.zeros(len(first.bias), len(second.bias))
    independent = elbo(model, x, [first, second])
    assert_close(summed_divergences(model, x, q), independent - information(q, 1, 2))
    assert information(q, 1, 2) > 0
    assert independent < evidence


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_divergences_below_the_top_are_a_lower_bound_for_any_number_of_levels(levels):
    """ELBO of r less sum_t I(z_t'; z_{t-1} | z_{t+1}, x), where r(z_t | z_{t+1}, x) is the law of z_t', drawn again."""
    model, x, evidence, q = wrong_chain(levels, seed=levels)
    above = {t: [t + 1] if t < levels else [] for t in range(1, levels + 1)}
    laws = [q.conditional((t, "again"), above[t]) for t in above]
    lost = sum(information(q, (t, "again"), t - 1, above[t]) for t in range(2, levels + 1))
    assert_close(summed_divergences(model, x, q), elbo(model, x, laws) - lost)
    assert summed_divergences(model, x, q) < evidence


def test_the_divergences_of_a_trace_are_those_in_closed_form():
    model, x, _, q = wrong_chain(3, seed=1)
    trace = model(x[None], samples=5_000)
    shape = trace.log_px.shape
    pairs = zip(trace.q, trace.p[1:], strict=True)
    terms = [kl_divergence(law.expand(shape), p.expand(shape)) for law, p in pairs]
    sample = (trace.log_px - sum(terms)).squeeze(1)
    assert abs(sample.mean() - summed_divergences(model, x, q)) < 5 * sample.std() / math.sqrt(len(sample))


def test_at_the_exact_posterior_the_divergences_lose_the_information_both_ways():
    """T = 2: log p(x) - N = I(z_1; z_2 | x) + KL(q(z_1 | x) q(z_2 | x) || p(z_1, z_2 | x))."""
    torch.manual_seed(3)
    model, evidence = chain(2)
    x = evidence().sample()
    q = posterior(model, x)
    rows = q.rows([1, 2])
    parts = torch.block_diag(*(q.cov[q.rows([t])][:, q.rows([t])] for t in (1, 2)))
    apart = MultivariateNormal(q.mean[rows], parts)
    together = MultivariateNormal(q.mean[rows], q.cov[rows][:, rows])
    lost = information(q, 1, 2) + kl_divergence(apart, together)
    assert_close(summed_divergences(model, x, q), evidence().log_prob(x) - lost)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_rates_at_the_exact_posterior_are_informations_and_those_bottom_up_may_be_negative(levels):
    """Bottom-up I(z_t; z_{t-1}) - I(z_t; z_{t+1}), top-down I(x; z_t) - I(x; z_{t+1}), averaged over p(x)."""
    rates = {}
    for infer in ("up", "down"):
        torch.manual_seed(1)
        model, evidence = chain(levels, features=(2, 2, 2, 2, 2, 2), infer=infer)
        joint = Joint()
        joint.add(levels, [], model.prior)
        for t in range(levels, 0, -1):
            joint.add(t - 1, [t], model.decoders[t - 1])
        below = {"up": lambda t: t - 1, "down": lambda t: 0}[infer]
        rates[infer] = model(evidence().sample((4_000,))).kl.squeeze(1)
        for t, rate in enumerate(rates[infer], start=1):
            exact = information(joint, t, below(t))
            if t < levels:
                exact = exact - information(joint, t + 1, t if infer == "up" else 0)
            assert abs(rate.mean() - exact) < 5 * rate.std() / math.sqrt(len(rate))
        total = rates[infer].sum(0)
        assert abs(total.mean() - information(joint, 1, 0)) < 5 * total.std() / math.sqrt(len(total))
    assert rates["down"].mean(1).min() > 0
    assert (rates["up"].mean(1).min() < 0) == (levels == 5)


def test_training_the_second_level_is_training_a_vae_on_the_codes_of_the_first():
    """Whatever level 2 is, the bound of both exceeds that of level 1 by E_q(z_1)[ELBO_2(z_1) - log p(z_1)]."""
    torch.manual_seed(0)
    one = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[4]).double()
    two = al.architectures.mlp((3,), "normal", latent=[2], hidden=[4]).double()
    both = al.VAE(two.prior, [*one.encoders, *two.encoders], [*one.decoders, *two.decoders])
    x = (torch.rand(6, 5) < 0.5).double()
    noise = [torch.randn(7, 6, 3), torch.randn(7 * 6, 2).view(1, 42, 2)]
    with torch.no_grad():
        first = one(x, samples=7, noise=noise[:1])
        codes = first.latents[0].flatten(0, 1)
        second = two(codes, noise=noise[1:])
        whole = both(x, samples=7, noise=[noise[0], noise[1].view(7, 6, 2)])
        gain = second.log_weight.view(7, 6) - first.log_pz[0]
    assert_close(whole.log_weight, first.log_weight + gain)
