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


BUILT = {
    "mlp": (al.architectures.mlp, dict(latent=[2], hidden=[8])),
    "chain": (al.architectures.mlp, dict(latent=[3, 2], hidden=[8])),
    "ladder": (al.architectures.mlp, dict(latent=[3, 2], hidden=[8], top_down=True)),
    "all above": (al.architectures.mlp, dict(latent=[3, 2], hidden=[8], markov=False)),
    "conv": (al.architectures.conv, dict(latent=[2, 3], channels=8, blocks=1)),
    "conv, Markov": (al.architectures.conv, dict(latent=[2, 3], channels=8, blocks=1, markov=True)),
    "conv, one level": (al.architectures.conv, dict(latent=[3], channels=8, blocks=1)),
}


@pytest.mark.parametrize("name", BUILT)
def test_every_network_of_an_architecture_reads_what_is_given_and_a_run_keeps_how(name, tmp_path):
    make, settings = BUILT[name]
    x = (torch.rand(9, 1, 4, 4) < 0.5).double()
    c = torch.cat([nn.functional.one_hot(torch.arange(9) % 3, 3), 50 + 10 * torch.randn(9, 1)], 1)
    model = make((1, 4, 4), "bernoulli", given=(4,), given_data=c, **settings).double()
    with torch.no_grad():  # a network begins without what its last layer reads
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.check(x, given=c)
    c = c.requires_grad_()
    latents = [z.detach() for z in model(x, given=c).latents]
    trace = model.score(x, latents, given=c)
    for density in (trace.log_px, *trace.log_pz[:-1], *trace.log_qz):
        (gradient,) = torch.autograd.grad(density.sum(), c, retain_graph=True)
        assert bool((gradient.abs().sum(0) > 0).all())
    c = c.detach()
    again = al.load(al.save(model, tmp_path / "run")).double()
    assert_close(again.score(x, latents, given=c).log_weight, model.score(x, latents, given=c).log_weight)
    for call in (lambda: model(x), lambda: model.sample(2), lambda: al.evaluate(model, x)):
        with pytest.raises(ValueError, match=r"^[^\n]*this model is of x given c[^\n]*$"):
            call()


def test_what_was_never_there_and_what_does_not_fit_is_named():
    c = nn.functional.one_hot(torch.tensor([0, 1, 0, 1]), 3).double()
    x = torch.randn(4, 2)
    model = al.architectures.mlp((2,), "normal", [2], [4], data=x, given_data=c).double()
    assert model.config["given"] == [3]
    for call, words in {
        lambda: model.sample(
            1, given=torch.eye(3)[2:]
        ): "column 2 is 1 in row 0, and was 0 in all of the training data",
        lambda: model.check(x, given=torch.arange(4)): "labels become unit vectors",
        lambda: model.check(x, given=c[:, :2]): "got shape (4, 2), wanted (N, 3)",
        lambda: model.check(x, given=c.long()): "wanted floating point numbers",
        lambda: al.architectures.mlp((2,), given=(3, 2)): "wanted the shape of vectors, (k,)",
        lambda: al.architectures.mlp((2,), given=(2,), given_data=c): "given_data: got shape (4, 3)",
        lambda: al.architectures.mlp((2,), given=(3,), prior="vamp"): "prior='vamp' mixes posteriors",
        lambda: al.architectures.mlp((2,), "normal", [2]).double().check(x, given=c): "this model takes none",
    }.items():
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()


def test_numbers_are_standardised_and_labels_are_not():
    c = torch.cat([100 + 7 * torch.randn(500, 1), (torch.rand(500, 1) < 0.2).double()], 1)
    read = al.given.Reading(2)
    read.fit(c)
    assert_close(read(c).mean(0)[0], torch.zeros(()), atol=1e-9, rtol=0)
    assert_close(read(c).std(0, correction=0)[0], torch.ones(()))
    assert torch.equal(read(c)[:, 1], c[:, 1])


def test_what_is_given_far_from_all_else_is_named_before_training():
    c, x = torch.randn(500, 2), torch.randn(500, 3)
    c[7, 1] = -9999.0
    with pytest.warns(UserWarning, match=r"given: 1 of 1000 values .* row 7 of the training data, column 1: -9999 is"):
        al.architectures.mlp((3,), latent=[1], hidden=[4], data=x, given_data=c)
    c[7, 1] = 1e20
    with pytest.raises(ValueError, match=r"given: .* 1e\+20 is .* no network in float32 reaches so far"):
        al.architectures.mlp((3,), latent=[1], hidden=[4], data=x, given_data=c)
