"""What is given: p(x | c) is exact where everything is known, c reaches every conditional, and bad c is named."""

import re

import pytest
import torch
from linear_gaussian import EXACT, chain
from torch import nn
from torch.distributions import Independent, Normal
from torch.testing import assert_close

import allegory as al
from allegory.evaluation import compare_with_ais, posterior_moments

COVARIATES = 2


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("levels", [1, 2])
def test_every_particle_weighs_the_conditional_evidence_at_the_exact_posterior(levels, kind):
    model, evidence = chain(levels, **EXACT[kind], covariates=COVARIATES)
    c = torch.randn(7, COVARIATES)
    x = evidence(c).sample()
    log_px = evidence(c).log_prob(x)
    trace = model(x, samples=11, given=c)
    assert trace.p[-1].batch_shape == (7,)
    assert_close(trace.log_weight, log_px.expand(11, 7), rtol=1e-7, atol=1e-7)
    assert_close(al.log_likelihood(model, x, samples=30, given=c), log_px, rtol=1e-7, atol=1e-7)
    assert_close(model.score(x, trace.latents, given=c).log_weight, trace.log_weight)
    wrong = model(x, samples=11, given=c.flip(0)).log_weight
    assert bool(((wrong - log_px).abs() > 1e-3).any())


@pytest.mark.parametrize("infer", ["up", "down"])
def test_evaluation_is_of_what_is_given(infer):
    model, evidence = chain(2, features=(3, 2, 2), infer=infer, covariates=COVARIATES)
    c = torch.randn(20, COVARIATES)
    x = evidence(c).sample()
    exact = -evidence(c).log_prob(x).mean().item()
    found = al.evaluate(model, x, samples=20, given=c)
    assert found.nll == pytest.approx(exact, abs=1e-7)
    assert al.bound_curve(model, x, 5, given=c)[-1][1] == pytest.approx(-exact, abs=1e-7)
    diagnosis = al.diagnose(model, x, x, samples=20, given=c, train_given=c)
    assert diagnosis.evaluation.nll == pytest.approx(exact, abs=1e-7)
    assert abs(diagnosis.gap) < 1
    mean, spread = posterior_moments(model, x, samples=20, given=c)[0 if infer == "up" else 1]
    law = model.encode(x, given=c)[0 if infer == "up" else 1]
    assert_close((mean, spread), (law.mean, law.variance.sqrt()))


def test_annealing_is_of_what_is_given():
    model, evidence = chain(1, features=(2, 1), covariates=COVARIATES)
    c = torch.randn(3, COVARIATES)
    x = evidence(c).sample()
    settings = dict(examples=3, samples=10, chains=16, temperatures=60, leapfrog=4)
    assert abs(compare_with_ais(model, x, given=c, **settings)["difference"]) < 0.1
    assert abs(compare_with_ais(model, x, given=0 * c, **settings)["nll"] + evidence(c).log_prob(x).mean()) > 0.1


class Ignoring(nn.Module):
    """A module that is called with c, and adds it with a weight of zero."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *contexts):
        *own, c = contexts
        law = self.module(*own)
        base = law.base_dist
        return Independent(Normal(base.loc + 0 * c[..., :1], base.scale.expand(base.loc.shape)), 1)


class OnlyLatents(nn.Module):
    """A network that is called with c, and does not read it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, c):
        return self.network(x)


def pairs(top_down):
    """An unconditional model, and the same model with covariates of zero weight."""
    plain = al.architectures.mlp((5,), "normal", [3, 2], [8], top_down=top_down)
    encoders, decoders = plain.encoders, [Ignoring(part) for part in plain.decoders]
    if top_down:
        posteriors = [Ignoring(part) for part in encoders.posteriors]
        encoder = al.TopDown(OnlyLatents(encoders.network), posteriors, encoders.residual)
    else:
        encoder = [Ignoring(part) for part in encoders]
    return plain, al.VAE(Ignoring(plain.prior), encoder, decoders)


@pytest.mark.parametrize("top_down", [False, True])
def test_covariates_of_zero_weight_change_no_bit(top_down):
    plain, model = pairs(top_down)
    x, c = torch.randn(20, 5), torch.randn(20, 1)
    found = []
    for one, given in ((plain, {}), (model, {"given": c})):
        torch.manual_seed(1)
        found.append([
            *(getattr(one(x, samples=3, **given), name) for name in ("log_weight", "kl", "log_pz")),
            al.log_likelihood(one, x, samples=5, **given),
            one.sample(20, **given),
            one.reconstruct(x, level=2, **given).mean,
            al.ais(one, x[:2], 3, 3, **({"given": c[:2]} if given else {})).log_likelihood,
            *(rate for rate in al.evaluate(one, x, samples=2, **given).kl_per_level),
            *(level.loss for level in al.diagnose(one, x, samples=2, **given).levels),
        ])  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def joined(inputs, outputs, family=al.families.normal):
    """A conditional of a context, and of what is given with it."""
    return al.Conditional(al.networks.Concat(nn.Linear(inputs, outputs)), family)


def conditional_vae(prior=None):
    """x of 2, c of 3, z of 2."""
    return al.VAE(prior or al.StandardNormal(2), joined(5, 4), joined(5, 4))


def test_a_prior_reads_what_is_given_if_its_call_takes_it():
    x, c = torch.randn(4, 2), torch.randn(4, 3)
    model = conditional_vae(al.Conditional(nn.Linear(3, 4), al.families.normal))
    trace = model(x, samples=6, given=c)
    assert trace.p[-1].batch_shape == (4,)
    assert trace.kl.shape == (1, 6, 4)
    model.check(x, given=c)
    assert conditional_vae()(x, given=c).p[-1].batch_shape == ()
    assert model.sample(4, given=c).shape == (4, 2)
    assert model.sample(9, given=c[:1]).shape == (9, 2)
    z = torch.randn(6, 4, 2)
    assert model.decode(z, given=c.expand(6, 4, 3)).batch_shape == (6, 4)
    two = conditional_vae(joined(3, 4))
    assert two(x, given=(c[:, :1], c[:, 1:])).log_weight.shape == (1, 4)


@pytest.mark.parametrize("objective", [al.objectives.stl, al.objectives.dreg])
def test_a_held_posterior_reads_what_is_given(objective):
    model, evidence = chain(1, features=(3, 2), covariates=COVARIATES)
    for part in (*model.encoders, *model.decoders):
        part.weight = nn.Parameter(part.weight)
    c = torch.randn(5, COVARIATES)
    x = evidence(c).sample()
    bound = objective(model(x, samples=3, held=True, given=c))
    assert_close(bound, evidence(c).log_prob(x))
    bound.sum().backward()
    assert_close(model.encoders[0].weight.grad, torch.zeros_like(model.encoders[0].weight), atol=1e-9, rtol=0)


class Mixing(nn.Module):
    """What is given with one example reaches the others."""

    def forward(self, x, c):
        return Independent(Normal(x[..., :2] + c.mean(-2, keepdim=True)[..., :2], torch.ones(2)), 1)


def test_an_example_that_reads_what_is_given_with_others_is_found():
    x, c = torch.randn(6, 2), torch.randn(6, 3)
    model = al.VAE(al.StandardNormal(2), joined(5, 4), Mixing())
    with pytest.raises(ValueError, match=r"p\(x \| z_1\) of one example and particle depends on the other examples"):
        model.check(x, given=c)
    conditional_vae().check(x, given=c)


def test_what_cannot_be_read_is_named_in_one_line():
    x, c = torch.randn(4, 2), torch.randn(4, 3)
    conditional, plain = (
        conditional_vae(),
        al.VAE(al.StandardNormal(2), *(al.Conditional(nn.Linear(2, 4), al.families.normal),) * 2),
    )
    broken = c.clone()
    broken[2, 1] = torch.nan
    for call, words in {
        lambda: plain.check(x, given=c): "given: p(x | z_1) reads nothing that is given",
        lambda: plain.check(x, given=c[:3]): "x, given: got shape (3, 3) for 4 examples, wanted 4 rows",
        lambda: conditional(x, given=c[:3]): "given: got shape (3, 3) for 4 examples",
        lambda: conditional.check(x, given=c.tolist()): "x, given: got list, wanted a tensor",
        lambda: conditional.check(
            x, given=broken
        ): "x, given: 1 values are NaN or infinite, the first in row 2, column 1",
        lambda: conditional.sample(5, given=c): "given: got shape (4, 3) for 5 examples",
        lambda: al.evaluate(conditional, x, given=broken): "1 values are NaN or infinite",
    }.items():
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()


class Pair(nn.Module):
    """A network of two contexts, no fewer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x, c):
        return self.layer(torch.cat([x, c], -1))


def test_a_model_that_wants_something_given_says_so():
    part = al.Conditional(Pair(), al.families.normal)
    model = al.VAE(al.StandardNormal(2), part, part)
    with pytest.raises(ValueError, match=r"p\(x \| z_1\) cannot be called with its own context alone: .* given=c"):
        model.check(torch.randn(4, 2))
    with pytest.raises(ValueError, match="p\\(x \\| z_1\\) was given"):
        conditional_vae().check(torch.randn(4, 2))
