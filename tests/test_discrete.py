"""Discrete latents: every number by enumeration of all of them, and gradients that are right on average."""

import itertools

import pytest
import torch
from torch.distributions import Categorical
from torch.testing import assert_close

import allegory as al
from allegory import families
from allegory.discrete import OneHot
from allegory.priors import Factorized

BITS = {1: (4,), 2: (3, 2)}


def codes(kind, d):
    """(C, width) every z of d bits, or of d categories of three."""
    if kind == "bernoulli":
        return torch.tensor(list(itertools.product([0.0, 1.0], repeat=d)))
    every = torch.tensor(list(itertools.product(range(3), repeat=d)))
    return torch.nn.functional.one_hot(every, 3).movedim(-1, -2).flatten(-2).to(torch.get_default_dtype())


def small(levels=1, kind="bernoulli", top_down=False, **more):
    torch.manual_seed(levels)
    model = al.architectures.mlp(
        (5,), "bernoulli", BITS[levels], [6], latent_family=kind, latent_categories=3, top_down=top_down, **more
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model, (torch.rand(3, 5) < 0.5).to(torch.get_default_dtype())


def enumerated(model, x, kind):
    """log p(x, z) and log q(z | x) of every z_1..T: (C, B) each."""
    levels = [codes(kind, d) for d in BITS[model.levels]]
    rows = [torch.stack(parts) for parts in zip(*itertools.product(*levels), strict=True)]
    trace = model.score(x, [z[:, None].expand(-1, len(x), -1) for z in rows])
    return trace.log_px + trace.log_pz.sum(0), trace.log_qz.sum(0)


CASES = [(1, "bernoulli", False), (1, "one_hot", False), (2, "bernoulli", False), (2, "one_hot", False),
         (2, "bernoulli", True), (2, "one_hot", True)]  # fmt: skip


@pytest.mark.parametrize(("levels", "kind", "top_down"), CASES)
def test_the_bound_is_that_of_all_latents_enumerated(levels, kind, top_down):
    model, x = small(levels, kind, top_down)
    with torch.no_grad():
        log_p, log_q = enumerated(model, x, kind)
        assert_close(log_q.logsumexp(0), torch.zeros(3), rtol=0, atol=1e-12)
        evidence, bound = log_p.logsumexp(0), (log_q.exp() * (log_p - log_q)).sum(0)
        torch.manual_seed(0)
        drawn = model(x, samples=4_000)
        error = 4 * drawn.log_weight.std(0) / 4_000**0.5
        assert bool(((al.elbo(drawn) - bound).abs() < error).all())  # with rates in closed form
        assert bool(((drawn.log_weight.mean(0) - bound).abs() < error).all())
        one, some = (al.log_likelihood(model, x, samples=k, seed=0) for k in (1, 500))
        weights = (drawn.log_weight - evidence).exp()
        assert bool(((some - evidence).abs() < 4.5 * weights.std(0) / 500**0.5).all())
        assert al.log_likelihood(model, x[1:], samples=1, seed=0).tolist() == one[1:].tolist()


def tuples(kind, model, particles):
    """z_1..T of all ordered choices of particles: (S, N, width) each."""
    levels = [codes(kind, d) for d in BITS[model.levels]]
    rows = [torch.stack(parts) for parts in zip(*itertools.product(*levels), strict=True)]
    chosen = torch.tensor(list(itertools.product(range(len(rows[0])), repeat=particles)))
    return [z[chosen.T] for z in rows]


def flat_gradient(value, model):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(0) if g is None else g.flatten() for g in found])


def expected(model, x, latents, objective):
    """The gradient of an objective, on average over all draws; and that of its own mean."""
    trace = model.score(x.expand(latents[0].shape[1], -1), latents)
    probability = trace.log_qz.sum((0, 1)).exp()
    estimated = flat_gradient((probability.detach() * objective(trace)).sum(), model)
    trace = model.score(x.expand(latents[0].shape[1], -1), latents)
    bound = trace.log_weight.mean(0) if objective is not al.vimco else al.iwae(trace)
    return estimated, flat_gradient((probability_of(trace) * bound).sum(), model)


def probability_of(trace):
    return trace.log_qz.sum((0, 1)).exp()


@pytest.mark.parametrize("objective", [al.loo, al.vimco])
@pytest.mark.parametrize(("levels", "kind", "top_down"), CASES)
def test_gradients_are_those_of_the_bound_on_average_over_all_draws(levels, kind, top_down, objective, monkeypatch):
    monkeypatch.setitem(BITS, 1, (2,))
    monkeypatch.setitem(BITS, 2, (1, 1))
    model, x = small(levels, kind, top_down)
    for particles in (2, 3):
        if kind == "one_hot" and particles == 3:
            continue
        estimated, exact = expected(model, x[:1], tuples(kind, model, particles), objective)
        assert exact.norm() > 0.1
        assert_close(estimated, exact, rtol=0, atol=1e-10)


def reinforce(trace):
    log_w, log_q = trace.log_weight, trace.log_qz.sum(0)
    return (log_w + log_w.detach() * log_q).mean(0)


def test_a_baseline_lowers_the_variance_and_the_score_is_needed(monkeypatch):
    monkeypatch.setitem(BITS, 1, (2,))
    model, x = small()
    latents = tuples("bernoulli", model, 2)
    exact = expected(model, x[:1], latents, reinforce)
    assert_close(exact[0], exact[1], rtol=0, atol=1e-10)
    wrong, right = expected(model, x[:1], latents, lambda trace: trace.log_weight.mean(0))
    assert (wrong - right).norm() > 0.1 * right.norm()

    def variance(objective):
        found = 0.0
        for i in range(latents[0].shape[1]):
            trace = model.score(x[:1], [z[:, i : i + 1] for z in latents])
            weight = probability_of(trace).item()
            found += weight * flat_gradient(objective(trace).sum(), model).square().sum().item()
        return found - right.square().sum().item()

    assert variance(al.loo) < variance(reinforce) / 2


def test_a_chain_of_both_kinds_has_the_gradient_of_its_bound():
    """z_1 normal, of fixed noise, z_2 a bit."""
    torch.manual_seed(3)
    model = al.architectures.mlp((5,), "bernoulli", [2, 1], [6], latent_family=["normal", "bernoulli"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    x = (torch.rand(1, 5) < 0.5).to(torch.get_default_dtype()).expand(4, 5)
    noise = torch.randn(2, 1, 2).expand(2, 4, 2)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).T[..., None]

    def drawn():
        law = model.encoders[0](x).base_dist
        return model.score(x, (law.loc + law.scale * noise, bits))

    trace = drawn()
    weight = trace.log_qz[1].sum(0).exp()
    exact = flat_gradient((weight * trace.log_weight.mean(0)).sum(), model)
    trace = drawn()
    found = flat_gradient((trace.log_qz[1].sum(0).exp().detach() * al.loo(trace)).sum(), model)
    assert_close(found, exact, rtol=0, atol=1e-10)
    trace = drawn()
    exact = flat_gradient((trace.log_qz[1].sum(0).exp() * al.iwae(trace)).sum(), model)
    trace = drawn()
    found = flat_gradient((trace.log_qz[1].sum(0).exp().detach() * al.vimco(trace)).sum(), model)
    assert_close(found, exact, rtol=0, atol=1e-10)


def test_straight_through_has_the_honest_value_and_a_biased_gradient():
    torch.manual_seed(0)
    model = al.VAE(
        Factorized(families.one_hot(3), 3), al.Conditional(torch.nn.Linear(5, 3), families.one_hot(3, True)),
        al.Conditional(torch.nn.Linear(3, 5), families.bernoulli),
    )  # fmt: skip
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    assert bool(model(x).log_weight.isfinite().all())  # draws have a gradient: no objective is refused
    hard, x = torch.eye(3)[None], x.expand(3, 5)
    q = model.encode(x)[0]
    through = model.score(x, [hard + q.mean - q.mean.detach()])
    weight = probability_of(through)
    assert_close(through.log_weight, model.score(x, [hard]).log_weight)
    biased = flat_gradient((weight.detach() * through.log_weight[0]).sum(), model)
    trace = model.score(x, [hard])
    exact = flat_gradient((probability_of(trace) * trace.log_weight[0]).sum(), model)
    assert (biased - exact).norm() > 0.01 * exact.norm()
    drawn = families.one_hot(3, True)(torch.zeros(2, 3, requires_grad=True)).rsample()
    assert drawn.requires_grad
    assert sorted(drawn[0].tolist()) == [0, 0, 1]


def test_vimco_is_the_bound_of_its_particles_and_loo_the_mean():
    model, x = small(2)
    torch.manual_seed(0)
    with torch.no_grad():
        trace = model(x, samples=6, scored=True)
        assert_close(al.vimco(trace), al.iwae(trace))
        assert_close(al.loo(trace), trace.log_weight.mean(0))


@pytest.mark.parametrize(("objective", "same"), [(al.loo, lambda t: t.log_weight.mean(0)), (al.vimco, al.iwae)])
def test_of_normal_latents_alone_they_have_the_gradient_of_the_draws(objective, same):
    torch.manual_seed(0)
    model = al.architectures.mlp((5,), "bernoulli", [3, 2], [6])
    x = (torch.rand(3, 5) < 0.5).to(torch.get_default_dtype())
    noise = [torch.randn(4, 3, d) for d in (3, 2)]
    wanted = flat_gradient(same(model(x, samples=4, noise=noise)).sum(), model)
    assert wanted.norm() > 0.1
    for scored in (False, True):
        trace = model(x, samples=4, noise=noise, scored=scored)
        assert not trace.scored
        assert_close(flat_gradient(objective(trace).sum(), model), wanted, rtol=0, atol=1e-12)


EVERY = [al.elbo, al.free_bits, al.stl, al.iwae, al.dreg, al.renyi, al.loo, al.vimco]


@pytest.mark.parametrize("objective", EVERY)
def test_an_objective_takes_no_trace_of_another_gradient(objective):
    discrete, x = small(2)
    torch.manual_seed(0)
    normal = al.architectures.mlp((5,), "bernoulli", [3, 2], [6])
    held, scored = (getattr(objective, name, False) for name in ("held", "scored"))
    for model, trace_held, trace_scored, fits in (
        (normal, False, False, not held), (normal, True, False, held), (normal, True, True, held),
        (discrete, False, True, scored), (discrete, True, True, False),
    ):  # fmt: skip
        trace = model(x, samples=3, held=trace_held, scored=trace_scored)
        if fits:
            assert objective(trace).requires_grad
        else:
            with pytest.raises(ValueError, match=rf"{objective.__name__}.*(held|gradient)"):
                objective(trace)
        with torch.no_grad():
            assert bool(objective(trace).isfinite().all())


def test_a_single_level_is_encoded_with_gradients_and_two_are_not():
    model, x = small(1)
    assert model.encode(x)[0].base_dist.logits.requires_grad
    model, x = small(2)
    with pytest.raises(ValueError, match="has no reparameterised sample"):
        model.encode(x)  # the law of level 2 is that of a draw of level 1


def test_a_residual_posterior_is_drawn_as_q_says():
    torch.manual_seed(0)

    def chain(p, q):
        both = al.networks.Concat(torch.nn.Linear(4 + 2, 6), event_dim=1)
        encoder = al.TopDown(
            al.networks.Climb([torch.nn.Linear(5, 4), torch.nn.Linear(4, 4)]),
            [al.Conditional(both, q), al.Conditional(torch.nn.Linear(4, 4), families.normal)], residual=True,
        )  # fmt: skip
        decoder = [
            al.Conditional(torch.nn.Linear(6, 5), families.bernoulli), al.Conditional(torch.nn.Linear(2, 6), p)
        ]  # fmt: skip
        return al.VAE(al.StandardNormal(2), encoder, decoder)

    x = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    for p_through, q_through in itertools.product([False, True], repeat=2):
        trace = chain(families.one_hot(3, p_through), families.one_hot(3, q_through))(x, samples=2, scored=True)
        assert trace.scored is not q_through
        assert_close(trace.q[0].logits.logsumexp(-1), torch.zeros(2, 1, 2), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"one_hot\(3\) and one_hot\(2\)"):
        chain(families.one_hot(2), families.one_hot(3))(x, scored=True)


def test_one_hot_is_a_product_of_categoricals():
    torch.manual_seed(0)
    logits = torch.randn(7, 3 * 2 * 4, 5)
    law, other = OneHot(logits, 4, 2), OneHot(torch.randn_like(logits), 4, 2)
    plain = Categorical(logits=logits.unflatten(1, (4, 6)).movedim(1, -1))
    z = law.sample((11,))
    c = z.unflatten(-2, (4, 6)).argmax(-3)
    assert_close(law.log_prob(z), plain.log_prob(c).sum((-1, -2)))
    assert_close(law.entropy(), plain.entropy().sum((-1, -2)))
    theirs = Categorical(logits=other.logits)
    assert_close(
        torch.distributions.kl_divergence(law, other), torch.distributions.kl_divergence(plain, theirs).sum((-1, -2))
    )
    assert_close(law.sample((20_000,)).mean(0), law.mean, rtol=0, atol=0.02)
    assert_close(law.expand((3, 7)).log_prob(z[:3]), law.log_prob(z[:3]))
    assert bool(law.support.check(z).all())
    assert not bool(law.support.check(z * 0.5).any())
    assert_close(al.networks.OneHot(4, 2)(c.to(z.dtype)), z)
    with pytest.raises(ValueError, match="2 or more"):
        families.one_hot(1)
    with pytest.raises(ValueError, match="reads 4 numbers for each latent"):
        families.one_hot(4)(torch.zeros(3, 6))


def test_discrete_latents_are_trained_saved_and_evaluated(tmp_path):
    torch.manual_seed(0)
    x = (torch.rand(400, 1) < 0.5).float() * torch.ones(400, 8)
    x = torch.where(torch.rand(400, 8) < 0.05, 1 - x, x)
    for kind, objective in (("bernoulli", al.loo), ("one_hot", al.vimco)):
        model = al.architectures.mlp((8,), "bernoulli", [2], [16], latent_family=kind, latent_categories=2, data=x)
        al.fit(
            model, x, valid=x[:100], objective=objective, samples=4, epochs=8, batch_size=50, lr=2e-2,
            out=tmp_path / kind, progress=False,
        )  # fmt: skip
        found = al.evaluate(model, x, samples=50)
        assert found.nll < found.baseline_nll - 2 if found.baseline_nll else found.nll < 3.2
        again = al.load(tmp_path / kind)
        assert (
            al.log_likelihood(again, x, samples=3, seed=1).tolist()
            == al.log_likelihood(model, x, samples=3, seed=1).tolist()
        )
        assert al.diagnose(model, x[:100]).levels[0].verdict == "works"
        assert model.sample(3).shape == (3, 8)


def test_what_cannot_be_is_said():
    model, x = small()
    with pytest.raises(ValueError, match=r"Bernoulli has no reparameterised sample.*al.loo or al.vimco"):
        al.elbo(model(x))
    for objective in (al.loo, al.vimco):
        with pytest.raises(ValueError, match="got one particle, wanted two or more"):
            objective(model(x, scored=True))
        with pytest.raises(ValueError, match="got one particle"):
            al.fit(model, x, objective=objective, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"al.loo or al.vimco"):
        al.fit(model, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match="latent_family"):
        al.architectures.mlp((5,), "bernoulli", [2, 2], latent_family=["normal"])
    with pytest.raises(ValueError, match="discrete; wanted 'standard'"):
        al.architectures.mlp((5,), "bernoulli", [2], latent_family="bernoulli", prior="mixture")
    with pytest.raises(ValueError, match=r"one_hot\(3\) and one_hot\(2\)"):  # a rate of both would mean nothing
        torch.distributions.kl_divergence(OneHot(torch.zeros(6), 3), OneHot(torch.zeros(6), 2))
    with pytest.raises(ValueError, match=r"column 1 .* a family of whole rows"):
        families.columns([families.normal, families.one_hot(3)])
    with pytest.raises(ValueError, match=r"column 0 .* a family of whole rows"):
        families.columns([families.tree([-1])])
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, temperature=0.5)
