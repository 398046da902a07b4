"""What each objective claims: values against formulas, gradients against each other."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from linear_gaussian import EXACT, Relative, chain
from torch import nn
from torch.distributions import kl
from torch.testing import assert_close

import allegory as al
from allegory.runtime.modes import no_validation

KINDS = {**EXACT, "bottom-up, not Markov": {"markov": False}}
QUICK = ("bottom-up", "top-down, residual, not Markov")


def learnable(model):
    """The posterior's and the likelihood's biases, as parameters."""
    found = model.encoders.posteriors if isinstance(model.encoders, al.TopDown) else model.encoders
    laws = [q.q if isinstance(q, Relative) else q for q in found]
    for law in (*laws, model.decoders[0]):
        law.bias = nn.Parameter(law.bias)
        law.weight = nn.Parameter(law.weight)
    return [p for law in laws for p in law.parameters()], list(model.decoders[0].parameters())


def gradients(objective, model, parameters, x, samples, times):
    """(times, D) independent gradients of the mean of `objective`, each of one draw of the particles."""
    found = []
    for _ in range(times):
        bound = objective(model(x, samples=samples, held=getattr(objective, "held", False))).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)]))
    return torch.stack(found)


@pytest.mark.parametrize("objective", [al.stl, al.dreg])
@pytest.mark.parametrize("kind", EXACT)
def test_no_gradient_is_left_at_the_exact_posterior(kind, objective):
    model, evidence = chain(3, **EXACT[kind])
    q, _ = learnable(model)
    x = evidence().sample((4,))
    assert gradients(objective, model, q, x, samples=3, times=1).abs().max() < 1e-7
    assert gradients(al.iwae, model, q, x, samples=3, times=1).abs().max() > 1e-2


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_dreg_is_iwae_in_expectation_with_less_noise(kind):
    model, evidence = chain(2, **KINDS[kind])
    q, p = learnable(model)
    with torch.no_grad():
        for parameter in q:
            parameter += 0.05 * torch.randn_like(parameter)
    x = evidence().sample((2,)).repeat(150, 1)
    plain, double = (gradients(objective, model, q, x, samples=8, times=100) for objective in (al.iwae, al.dreg))
    error = (plain.var(0) / 100 + double.var(0) / 100).sqrt()
    assert bool(((plain.mean(0) - double.mean(0)).abs() < 5 * error).all())
    assert double.var(0).sum() < 0.85 * plain.var(0).sum()
    torch.manual_seed(1)
    plain = gradients(al.iwae, model, p, x, samples=8, times=1)
    torch.manual_seed(1)
    assert_close(gradients(al.dreg, model, p, x, samples=8, times=1), plain)  # p's gradient is the same, draw by draw


@pytest.mark.slow
def test_more_particles_drown_iwae_and_not_dreg():
    """The signal-to-noise ratio of the encoder's gradient, down as 1 / sqrt(S), up as sqrt(S) (Tucker et al. 2019)."""
    model, evidence = chain(1)
    q, _ = learnable(model)
    with torch.no_grad():
        q[0] += 0.1
    x = evidence().sample((1,)).repeat(20, 1)

    def signal_to_noise(objective, samples):
        found = gradients(objective, model, q, x, samples, times=300)
        return (found.mean(0).abs() / found.std(0)).mean()

    assert signal_to_noise(al.dreg, 64) > 2 * signal_to_noise(al.dreg, 2)
    assert signal_to_noise(al.iwae, 64) < signal_to_noise(al.iwae, 2)
    assert signal_to_noise(al.dreg, 64) > 5 * signal_to_noise(al.iwae, 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # of the compiler
@pytest.mark.parametrize("kind", ["top-down, residual"])
def test_a_compiled_dreg_has_the_same_gradient(kind):
    model, evidence = chain(2, **EXACT[kind])
    q, p = learnable(model)
    with torch.no_grad():
        q[0] += 0.1
    x = evidence().sample((5,))
    found = []
    for score in (lambda x: model(x, samples=4, held=True), None):
        objective = torch.compile(lambda x: al.dreg(model(x, samples=4, held=True)), backend="eager")
        torch.manual_seed(1)
        bound = al.dreg(score(x)) if score else objective(x)
        found.append(torch.autograd.grad(bound.mean(), [*q, *p]))
    assert_close(found[0], found[1])


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_dreg_keeps_the_expectation_at_any_beta(beta):
    model, evidence = chain(2)
    q, _ = learnable(model)
    with torch.no_grad():
        for parameter in q:
            parameter += 0.05 * torch.randn_like(parameter)
    x = evidence().sample((2,)).repeat(150, 1)

    def with_beta(objective):
        def weighed(trace):
            return objective(trace, beta)

        weighed.held = getattr(objective, "held", False)
        return gradients(weighed, model, q, x, samples=4, times=100)

    plain, double = with_beta(al.iwae), with_beta(al.dreg)
    error = (plain.var(0) / 100 + double.var(0) / 100).sqrt()
    assert bool(((plain.mean(0) - double.mean(0)).abs() < 5 * error).all())


def test_stl_is_the_elbo_in_expectation():
    model, evidence = chain(2, infer="down")
    q, _ = learnable(model)
    with torch.no_grad():
        for parameter in q:
            parameter += 0.05 * torch.randn_like(parameter)
    x = evidence().sample((2,)).repeat(600, 1)
    plain, path = (gradients(objective, model, q, x, samples=1, times=100) for objective in (al.elbo, al.stl))
    error = (plain.var(0) / 100 + path.var(0) / 100).sqrt()
    assert bool(((plain.mean(0) - path.mean(0)).abs() < 5 * error).all())


@pytest.fixture
def trace():
    model, evidence = chain(3, infer="down")
    for posterior in model.encoders.posteriors:
        posterior.bias = posterior.bias + 0.5
    return model(evidence().sample((5,)), samples=7)


def test_a_held_trace_has_the_same_values():
    model, evidence = chain(2)
    x = evidence().sample((5,))
    torch.manual_seed(2)
    plain = model(x, samples=3)
    torch.manual_seed(2)
    held = model(x, samples=3, held=True)
    assert_close(held.log_weight, plain.log_weight)
    assert_close(al.dreg(held), al.iwae(plain))
    assert_close(al.stl(held), plain.log_weight.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_given_latents_score_as_they_did_when_drawn(kind):
    model, evidence = chain(3, **KINDS[kind])
    trace = model(evidence().sample((5,)), samples=2)
    again = model.score(trace.x, trace.latents)
    assert_close(again.log_weight, trace.log_weight)
    assert_close(again.kl, trace.kl)


@pytest.mark.parametrize("objective", [al.stl, al.dreg])
def test_a_trace_that_is_not_held_is_refused(objective, trace):
    with pytest.raises(ValueError, match=r"held=True"):
        objective(trace)
    with torch.no_grad():
        objective(trace)


@pytest.mark.parametrize("top_down", [True, False])
def test_a_held_posterior_must_not_have_dropout(top_down):
    model = al.architectures.mlp((5,), "bernoulli", [3, 2], [4], dropout=0.1, top_down=top_down).double()
    with pytest.raises(ValueError, match=r"dropout would make it two different ones"):
        model(torch.zeros(2, 5), held=True)
    model.eval()(torch.zeros(2, 5), held=True)


class Dropping(nn.Module):
    """Dropout that is a function."""

    def forward(self, h):
        return F.dropout(h, 0.01, self.training)


class NoisyGate(nn.Module):
    """Noise from a generator of its own, which torch's knows nothing of."""

    chance = torch.Generator()

    def forward(self, h):
        return h + 0.1 * torch.randn(h.shape, generator=self.chance) if self.training else h


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.GRU(8, 8, num_layers=2, dropout=0.1, batch_first=True)

    def forward(self, h):
        return self.net(h[:, None])[0][:, 0]


RANDOM = {
    "function": Dropping,
    "recurrent": Recurrent,
    "relu": nn.RReLU,
    "own noise": NoisyGate,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
}
SAME = {"batch norm": lambda: nn.BatchNorm1d(8), "dropout of nothing": lambda: nn.Dropout(0.0), "plain": nn.Tanh}


def encoded_by(layer):
    network = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 6))
    decoder = al.Conditional(nn.Linear(3, 5), al.families.bernoulli)
    return al.VAE(al.StandardNormal(3), al.Conditional(network, al.families.normal), decoder)


@pytest.mark.parametrize("name", [*RANDOM, *SAME])
def test_a_held_posterior_is_the_same_both_times_whatever_it_is_made_of(name):
    model, x = encoded_by((RANDOM | SAME)[name]()), torch.eye(5).repeat(4, 1)
    model(x, samples=2)  # a pass that is not held may be random
    model.eval()(x, held=True)
    model.train()
    for act in (lambda: model(x, samples=2, held=True), lambda: al.fit(model, x, epochs=1, objective=al.dreg)):
        with pytest.raises(ValueError, match=r"runs the posterior twice") if name in RANDOM else nullcontext():
            act()


def test_noise_in_the_decoder_alone_is_no_matter():
    decoder = al.Conditional(nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 5)), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(3), al.Conditional(nn.Linear(5, 6), al.families.normal), decoder)
    assert al.stl(model(torch.eye(5), samples=2, held=True)).isfinite().all()


def test_renyi_lies_between_the_bounds_it_joins(trace):
    log_w = trace.log_weight
    assert_close(al.renyi(trace, alpha=0.0), al.iwae(trace))
    assert_close(al.renyi(trace, alpha=1.0), log_w.mean(0))
    assert_close(al.renyi(trace, alpha=-math.inf), log_w.amax(0))
    assert_close(al.renyi(trace, alpha=math.inf), log_w.amin(0))
    with pytest.raises(ValueError, match="alpha=nan, wanted a number"):
        al.renyi(trace, alpha=math.nan)
    assert_close(al.renyi(trace, alpha=1 - 1e-6), log_w.mean(0), rtol=1e-4, atol=1e-4)
    assert_close(al.renyi(trace, alpha=-1e6), log_w.amax(0), rtol=1e-4, atol=1e-4)
    bounds = torch.stack([al.renyi(trace, alpha=alpha) for alpha in (-math.inf, -2.0, 0.0, 0.5, 1.0, 3.0)])
    assert bool((bounds.diff(dim=0) < 0).all())


def test_free_bits_charge_what_is_above_them(trace):
    rates = trace.kl.mean(1)
    low, high = rates.mean(1).min() / 2, rates.max() * 2
    assert_close(al.free_bits(trace, nats=0.0, average=True), al.elbo(trace))
    assert_close(al.free_bits(trace, nats=low.item(), average=True), al.elbo(trace))
    assert_close(al.free_bits(trace, nats=high.item(), average=False), trace.log_px.mean(0) - 3 * high)
    assert_close(al.free_bits(trace, nats=high.item(), average=True).mean(), trace.log_px.mean() - 3 * high)
    only = al.free_bits(trace, nats=[0.0, 1e3, 0.0], average=False)
    assert_close(only, trace.log_px.mean(0) - rates[0] - 1e3 - rates[2])
    assert_close(al.free_bits(trace, 2.0, nats=1e3, average=False), trace.log_px.mean(0) - 2 * 3e3)


@pytest.mark.parametrize("average", [True, False])
def test_free_bits_leave_a_level_below_them_alone(average):
    model = al.architectures.mlp((5,), "bernoulli", latent=[3, 2], hidden=[4]).double()
    trace = model((torch.rand(6, 5) < 0.5).double())
    for nats, wanted in ((1e3, 0.0), (0.0, None)):
        bound = al.free_bits(trace, nats=[0.0, nats], average=average) + al.elbo(trace, torch.tensor([1.0, 0.0])) * -1
        top = list(model.encoders[1].parameters())
        rate = torch.autograd.grad(bound.mean(), top, retain_graph=True)
        if wanted is None:
            assert any(bool((g.abs() > 1e-6).any()) for g in rate)
        else:
            assert all(bool((g.abs() < 1e-12).all()) for g in rate)


def test_free_bits_say_what_is_wrong(trace):
    with pytest.raises(ValueError, match=r"free bits: got -1.0 nats, wanted 0 or more"):
        al.free_bits(trace, nats=-1.0)
    with pytest.raises(ValueError, match=r"wanted one number, or one for each of 3 levels"):
        al.free_bits(trace, nats=[1.0, 2.0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.parametrize("objective", [al.elbo, al.iwae, al.free_bits, al.renyi])
@pytest.mark.parametrize("top_down", [False, True])
def test_an_objective_of_a_checked_model_compiles_whole(objective, top_down):
    """Where torch looked up the divergence of two laws for the first time, the graph would break."""
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8], top_down=top_down).double()
    x = (torch.rand(5, 6) < 0.5).double()
    for known in list(kl._KL_MEMOIZE):
        del kl._KL_MEMOIZE[known]
    model.check(x)
    torch.compiler.reset()

    whole = torch.compile(lambda x: objective(model(x, samples=2)), fullgraph=True, backend="eager")
    with no_validation():
        assert whole(x).shape == (5,)
