"""The chain, its trace, foreign parts, and what is said when levels do not fit."""

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal
from torch.nn.parallel.distributed import _find_tensors
from torch.testing import assert_close
from torch.utils._pytree import tree_map

import allegory as al
from allegory.distributions import NormalMixture, tempered
from allegory.evaluation.passes import evaluating
from allegory.runtime.modes import no_validation


def link(inputs, outputs, family=al.families.normal):
    return al.Conditional(nn.Linear(inputs, family.size * outputs), family)


def test_shapes_of_the_trace():
    model = al.architectures.mlp((2, 3), "normal", latent=[4, 3, 2], hidden=[5]).double()
    trace = model(torch.randn(7, 2, 3), samples=6)
    assert [z.shape for z in trace.latents] == [(6, 7, 4), (6, 7, 3), (6, 7, 2)]
    assert trace.log_px.shape == trace.log_weight.shape == (6, 7)
    assert trace.log_pz.shape == trace.log_qz.shape == trace.kl.shape == (3, 6, 7)
    assert [q.batch_shape for q in model.encode(torch.randn(7, 2, 3), samples=2)] == [(7,), (2, 7), (2, 7)]
    assert model.generate(5).mean.shape == model.sample(5).shape == (5, 2, 3)
    assert model.reconstruct(torch.randn(7, 2, 3), level=3).mean.shape == (7, 2, 3)
    assert "z_3 (6, 7, 2)" in repr(trace)
    assert model.extra_repr() == "p(z_3) p(z_2 | z_3) p(z_1 | z_2) p(x | z_1)"


def both(first, second, outputs, family=al.families.normal):
    """A conditional of two contexts."""
    return al.Conditional(al.networks.Concat(nn.Linear(first + second, family.size * outputs)), family)


def top_down(posteriors=None, steps=None, residual=False, **parts):
    """x of 5, z_1 of 3, z_2 of 2."""
    steps = steps or [nn.Linear(5, 8), nn.Linear(8, 6)]
    encoder = al.TopDown(al.networks.Climb(steps), posteriors or [both(8, 2, 3), link(6, 2)], residual)
    return al.VAE(al.StandardNormal(2), encoder, parts.pop("decoder", [link(3, 5), link(2, 3)]), **parts)


@pytest.mark.parametrize("residual", [True, False])
def test_shapes_top_down(residual):
    model, x = top_down(residual=residual).double(), torch.randn(7, 5)
    trace = model(x, samples=4)
    assert [z.shape for z in trace.latents] == [(4, 7, 3), (4, 7, 2)]
    assert trace.kl.shape == trace.log_pz.shape == (2, 4, 7)
    assert [q.batch_shape for q in model.encode(x, samples=4)] == [(4, 7), (7,)]
    assert model.reconstruct(x, level=2).batch_shape == (7,)
    assert model.sample(6).shape == (6, 5)
    (-al.elbo(trace).mean()).backward()
    assert all(bool((p.grad != 0).any()) for p in model.parameters())


def test_the_network_on_x_runs_once_top_down_too():
    seen = []
    model = top_down().double()
    model.encoders.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model(torch.randn(7, 5), samples=9)
    assert seen == [(7, 5)]


def test_a_chain_with_a_state_needs_all_levels_above():
    model = top_down(decoder=[link(5, 5), link(2, 3)], state=[al.networks.Concat(), al.networks.Concat()]).double()
    (z1, z2), x = [z[0] for z in model(torch.randn(7, 5)).latents], torch.randn(7, 5)
    assert model.decode((z1, z2), level=1).batch_shape == model.decode(z2, level=2).batch_shape == (7,)
    assert model.reconstruct(x).batch_shape == model.reconstruct(x, level=2).batch_shape == (7,)
    with pytest.raises(ValueError, match=r"level=1: got 1 latents, wanted z_1, ..., z_2; only a Markov chain"):
        model.decode(z1, level=1)
    with pytest.raises(ValueError, match=r"level=2: got 2 latents, wanted z_2, ..., z_2$"):
        model.decode((z1, z2), level=2)


def test_the_network_on_x_runs_once_for_all_particles():
    seen = []
    model = al.architectures.mlp((5,), "normal", latent=[3, 2], hidden=[4]).double()
    model.encoders[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model(torch.randn(7, 5), samples=9)
    assert seen == [(7, 5)]


def test_samples_are_draws_and_not_means():
    model = al.VAE(al.StandardNormal(1), link(1, 1), al.Conditional(nn.Linear(1, 2), al.families.normal)).double()
    with torch.no_grad():
        model.decoders[0].network.weight.copy_(torch.tensor([[2.0], [0.0]]))
        model.decoders[0].network.bias.zero_()
    draws = model.sample(50_000)
    assert draws.var().item() == pytest.approx(4 + 1, rel=0.05)


def test_a_temperature_scales_the_deviations_of_the_latents_alone():
    model = al.VAE(al.StandardNormal(1), link(1, 1), al.Conditional(nn.Linear(1, 2), al.families.normal)).double()
    with torch.no_grad():
        model.decoders[0].network.weight.copy_(torch.tensor([[2.0], [0.0]]))
        model.decoders[0].network.bias.zero_()
    assert model.sample(50_000, temperature=0.5).var().item() == pytest.approx(4 * 0.25 + 1, rel=0.05)
    assert (model.generate(5, temperature=0).mean == 0).all()


def test_at_temperature_zero_what_is_below_is_its_mean():
    model = al.VAE(al.StandardNormal(2), [link(5, 3), link(3, 2)], [link(3, 5), link(2, 3)]).double()
    z2 = torch.randn(7, 2)
    expected = model.decoders[0](model.decoders[1](z2).mean).mean
    assert_close(model.decode(z2, level=2, temperature=0).mean, expected)
    with pytest.raises(ValueError, match="temperature=-1: wanted 0 or more"):
        model.generate(3, temperature=-1)


def test_a_cooled_mixture_keeps_its_components():
    law = NormalMixture(torch.tensor([0.0, math.log(3)]), torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.5], [2.0]]))
    cold = tempered(law, 0.5)
    assert_close(cold.mean, law.mean)
    assert_close(cold.variance, law.variance - 0.75 * (0.25 * 0.25 + 0.75 * 4))
    assert set(tempered(law, 0).sample((50,)).flatten().tolist()) == {-1.0, 1.0}
    with pytest.raises(ValueError, match=r"temperature=0\.5: wanted 1, since Gamma is not normal"):
        tempered(torch.distributions.Gamma(1.0, 1.0), 0.5)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_the_rates_of_the_units_sum_to_that_of_their_level(top_down, prior):
    model = al.architectures.mlp((5,), latent=[4, 3], hidden=[8], top_down=top_down, prior=prior, components=3).double()
    trace = model(torch.randn(7, 5), samples=2)
    first, last = trace.unit_kl
    assert first.shape == (2, 7, 4)
    assert_close(first.sum(-1), trace.kl[0])
    if prior == "mixture":
        assert last is None
    else:
        assert_close(last.sum(-1), trace.kl[1])


class Diffusion(nn.Module):
    """q(z_t | z_{t-1}) = N(a z, (1 - a^2) I): an encoder without parameters."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, z):
        return Independent(Normal(self.a * z, math.sqrt(1 - self.a**2)), 1)


def test_a_fixed_encoder_is_an_encoder():
    decoders = [link(2, 2) for _ in range(3)]
    model = al.VAE(al.StandardNormal(2), [Diffusion(0.9)] * 3, decoders).double()
    x = torch.randn(200, 2) * 0.3 + 1
    before = al.log_likelihood(model, x, samples=50).mean()
    al.fit(model, x, epochs=60, batch_size=50, lr=1e-2)
    assert al.log_likelihood(model, x, samples=50).mean() > before + 0.3


@pytest.mark.filterwarnings("default")
def test_a_zuko_flow_is_a_prior_and_an_encoder():
    zuko = pytest.importorskip("zuko")
    prior = zuko.flows.MAF(2, transforms=1, hidden_features=(8,)).double()
    encoder = zuko.flows.MAF(2, 5, transforms=1, hidden_features=(8,)).double()
    model = al.VAE(prior, encoder, link(2, 5).double())
    trace = model(torch.randn(3, 5), samples=4)
    assert_close(trace.kl, trace.log_qz - trace.log_pz)  # no closed form: the sampled one
    (-al.elbo(trace).mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sample(6).shape == (6, 5)


@pytest.mark.parametrize("latent", [[3], [3, 2]])
def test_the_readable_loss_compiles_whole(latent):
    model = al.architectures.mlp((5,), "bernoulli", latent=latent, hidden=[4]).double()
    x = (torch.rand(6, 5) < 0.5).double()
    with no_validation():
        loss = torch.compile(lambda x: -al.elbo(model(x)).mean(), fullgraph=True, backend="eager")
        assert math.isfinite(loss(x).item())


def test_importing_and_scoring_leave_the_global_validation_alone():
    from torch.distributions import Distribution

    assert Distribution._validate_args
    model = al.architectures.mlp((5,), "normal", latent=[2], hidden=[4]).double()
    al.log_likelihood(model, torch.randn(3, 5), samples=2)
    al.fit(model, torch.randn(8, 5), epochs=1)
    assert Distribution._validate_args


def test_rounded_networks_are_scored_with_exact_densities():
    model = al.architectures.mlp((5,), "normal", latent=[2], hidden=[16]).float()
    x = torch.randn(50, 5, dtype=torch.float32)
    found = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        found.append(al.log_likelihood(model, x, samples=100, precision=precision))
    exact, coarse = found
    assert coarse.dtype == torch.float32
    assert 0 < (exact - coarse).abs().max() < 0.3  # nats; one weight in a hundred may be another
    with pytest.raises(ValueError, match="precision='half', compile=False: wanted 'float32', 'bfloat16' or 'auto'"):
        al.evaluate(model, x, precision="half")


def test_a_deep_copy_and_a_state_dict_bring_the_model_back():
    model = al.architectures.mlp((5,), "normal", latent=[3, 2], hidden=[4], data=torch.randn(9, 5))
    again = al.architectures.build(copy.deepcopy(model.config))
    again.load_state_dict(model.state_dict())
    x = torch.randn(3, 5, dtype=torch.float32)
    torch.manual_seed(1)
    first = model.float()(x).log_weight
    torch.manual_seed(1)
    assert_close(again.float()(x).log_weight, first, rtol=0, atol=0)


WRONG = {
    r"2 encoders and 1 decoders": lambda: al.VAE(al.StandardNormal(2), [link(5, 3), link(3, 2)], link(2, 5)),
    r"0 encoders": lambda: al.VAE(al.StandardNormal(2), [], []),
    r"level 2: the encoder gives z_2 of shape \(2,\), but p\(z_2\) is over \(3,\)": lambda: al.VAE(
        al.StandardNormal(3), [link(5, 3), link(3, 2)], [link(3, 5), link(2, 3)]
    )(torch.zeros(2, 5)),
    r"level 1: the encoder gives z_1 of shape \(3,\), but p\(z_1 \| z_2\) is over \(1,\)": lambda: al.VAE(
        al.StandardNormal(2), [link(5, 3), link(3, 2)], [link(3, 5), link(2, 1)]
    )(torch.zeros(2, 5)),
    r"x has examples of shape \(5,\), but p\(x \| z_1\) is over \(4,\)": lambda: al.VAE(
        al.StandardNormal(2), link(5, 2), link(2, 4)
    )(torch.zeros(2, 5)),
    r"q\(z_1 \| x\).* batch shape \(3, 2\) and event shape \(\).*Independent": lambda: al.VAE(
        al.StandardNormal(2),
        al.Conditional(nn.Linear(5, 4), lambda phi, event_dim: Normal(phi[..., :2], phi[..., 2:].exp())),
        link(2, 5),
    )(torch.zeros(3, 5)),
    r"level 1: the encoder gives z_1 of shape \(4,\), but p\(z_1 \| z_2\) is over \(3,\)": lambda: top_down(
        [both(8, 2, 4), link(6, 2)]
    )(torch.zeros(2, 5)),
    r"level 2: the encoder gives z_2 of shape \(1,\), but p\(z_2\) is over \(2,\)": lambda: top_down(
        [both(8, 2, 3), link(6, 1)]
    )(torch.zeros(2, 5)),
    r"level 1, q\(z_1 \| z_2, x\) has batch shape \(2,\).* wanted batch shape \(3, 2\)": lambda: top_down(
        [OneContext(link(8, 3)), link(6, 2)]
    )(torch.zeros(2, 5), samples=3),
    r"level 1: the encoder gives z_1 of shape \(1,\), but p\(z_1 \| z_2\) is over \(3,\); batch": lambda: top_down(
        [both(8, 2, 1), link(6, 2)], residual=True
    )(torch.zeros(2, 5)),
    r"3 encoders and 2 decoders": lambda: top_down([both(8, 2, 3), both(8, 2, 3), link(6, 2)]),
    r"2 encoders and 2 decoders and 1 states": lambda: top_down(state=[al.networks.Concat()]),
    r"posterior of 2 levels reads h_1, ..., h_2; got 1": lambda: top_down(steps=[nn.Linear(5, 8)])(torch.zeros(2, 5)),
    r"posterior of 2 levels reads h_1, ..., h_2; got one tensor": lambda: al.VAE(
        al.StandardNormal(2), al.TopDown(nn.Linear(5, 8), [both(8, 2, 3), link(8, 2)]), [link(3, 5), link(2, 3)]
    )(torch.zeros(2, 5)),
    r"level 1: a residual posterior needs p and q to be both normal, .* but they are StudentT and Normal": lambda: (
        top_down(decoder=[link(3, 5), link(2, 3, al.families.student_t)], residual=True)(torch.zeros(2, 5))
    ),
    r"samples=0": lambda: al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5))(torch.zeros(2, 5), samples=0),
    r"level 1: .*Categorical has no reparameterised sample": lambda: al.VAE(
        al.Conditional(nn.Linear(1, 6), al.families.categorical(3)),
        al.Conditional(nn.Linear(5, 6), lambda phi, d: Independent(Categorical(logits=phi.unflatten(-1, (2, 3))), 1)),
        link(2, 5),
    )(torch.zeros(3, 5)),
    r"level=3: this model has levels 1 to 2": lambda: al.VAE(
        al.StandardNormal(2), [link(5, 3), link(3, 2)], [link(3, 5), link(2, 3)]
    ).reconstruct(torch.zeros(2, 5), level=3),
    r"nn.Sequential": lambda: al.VAE(al.StandardNormal(2), nn.Sequential(link(5, 2)), link(2, 5)),
    r"unknown likelihood 'gauss'": lambda: al.architectures.mlp((5,), "gauss"),
    r"latent=\[0\]": lambda: al.architectures.mlp((5,), latent=[0]),
    r"activation='Nope'": lambda: al.architectures.mlp((5,), activation="Nope"),
    r"number of categories": lambda: al.architectures.mlp((5,), "categorical"),
    r"2 of 5 elements of x are constant .* \[1\]": lambda: al.architectures.mlp(
        (5,), "normal", data=torch.randn(9, 5) * torch.tensor([1.0, 0, 1, 0, 1])
    ),
    r"x: 2 values are NaN or infinite, the first in row 1, column 3": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5)),
        torch.tensor([[0.0] * 5, [0, 0, 0, math.nan, 0], [math.inf, 0, 0, 0, 0]]),
    ),
    r"x: got torch.int64": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5)), torch.zeros(3, 5, dtype=torch.long)
    ),
    r"x: got shape \(0, 5\)": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5)), torch.zeros(0, 5)
    ),
    r"examples of shape \(4,\), but p\(x \| z_1\) is over \(5,\)": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5)), torch.zeros(3, 4)
    ),
    r"the integers 0 to 3; the first is 4 in row 1, column 2": lambda: al.log_likelihood(
        al.architectures.mlp((5,), "categorical", categories=4), torch.tensor([[0.0] * 5, [1, 2, 4, 1, 2]])
    ),
    r"p\(x \| z_1\) was given \(1, 3\), which it cannot read": lambda: al.evaluate(
        al.VAE(al.StandardNormal(3), link(5, 2), link(2, 5)), torch.zeros(3, 5)
    ),
    r"p\(z_1 \| z_2\) was given \(4, 7\), which it cannot read": lambda: al.VAE(
        al.StandardNormal(7), [link(5, 3), link(3, 2)], [link(3, 5), link(2, 3)]
    ).sample(4),
    r"p\(x \| z_1\) was given \(1, 3\), which": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), [link(5, 3), link(3, 2)], [link(4, 5), link(2, 3)]), torch.zeros(3, 5)
    ),
    r"q\(z_2 \| z_1\) was given \(1, 1, 3\), which": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), [link(5, 3), link(4, 2)], [link(3, 5), link(2, 3)]), torch.zeros(3, 5)
    ),
    r"q\(z_1 \| z_2, x\) was given \(1, 8\) and \(1, 1, 2\), which": lambda: al.log_likelihood(
        top_down(posteriors=[both(8, 4, 3), link(6, 2)]), torch.zeros(3, 5)
    ),
    r"samples=0: wanted K": lambda: al.log_likelihood(
        al.VAE(al.StandardNormal(2), link(5, 2), link(2, 5)), torch.zeros(3, 5), samples=0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_said_in_one_line(message):
    with pytest.raises(ValueError, match=message) as error:
        WRONG[message]()
    assert "\n" not in str(error.value)


def test_nothing_wrong_with_discrete_latents_without_gradients():
    bits = al.families.bernoulli
    model = al.VAE(FixedBits(), al.Conditional(nn.Linear(5, 3), bits), link(3, 5)).double()
    with torch.no_grad():
        assert model(torch.randn(2, 5), samples=3).kl.shape == (1, 3, 2)


class OneContext(nn.Module):
    """A posterior that does not look at the state."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, h, state):
        return self.law(h)


class FixedBits(nn.Module):
    def forward(self):
        return al.families.bernoulli(torch.zeros(3))


class Topics(nn.Module):
    """A softmax over the wrong dimension."""

    def __init__(self, inputs, outputs, dim):
        super().__init__()
        self.words, self.dim = nn.Linear(inputs, outputs), dim

    def forward(self, z):
        return self.words(torch.softmax(z, self.dim))


class Attention(nn.Module):
    """A Transformer that reads the first dimension as a sequence."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, 8), nn.Linear(8, outputs)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)

    def forward(self, z):
        return self.leave(self.mix(self.enter(z)))


class Recurrent(nn.Module):
    """A recurrent net that does, so that the later particles depend on the earlier ones; or backwards."""

    def __init__(self, inputs, outputs, backwards=False):
        super().__init__()
        self.net, self.backwards = nn.GRU(inputs, outputs), backwards

    def forward(self, z):
        return self.net(z.flip(0))[0].flip(0) if self.backwards else self.net(z)[0]


class BatchNormalized(nn.Module):
    """Normalises by the batch, in eval mode too."""

    def forward(self, x):
        return x - x.mean(0)


class MixingLaw(nn.Module):
    """A prior whose density mixes examples, which no network does."""

    def forward(self):
        law = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
        plain = law.log_prob
        law.log_prob = lambda z: plain(z) + z.sum((1, 2), keepdim=False)[:, None]
        return law


def of_normals(*networks):
    return [al.Conditional(network, al.families.normal) for network in networks]


MIXING = {
    "p(x | z_1) of one example and particle depends on the other examples": lambda: al.VAE(
        al.StandardNormal(3), link(5, 3), al.Conditional(Topics(3, 5, dim=1), al.families.bernoulli)
    ),
    "p(x | z_1) of one example and particle depends on the other particles": lambda: al.VAE(
        al.StandardNormal(3), link(5, 3), al.Conditional(Attention(3, 5), al.families.bernoulli)
    ),
    "p(z_1 | z_2) of one example and particle depends on the other particles": lambda: al.VAE(
        al.StandardNormal(2), [link(5, 3), link(3, 2)],
        [link(3, 5, al.families.bernoulli), *of_normals(Recurrent(2, 6))],
    ),
    "p(z_1 | z_2) of one example and particle depends on the other particles: it": lambda: al.VAE(
        al.StandardNormal(2), [link(5, 3), link(3, 2)],
        [link(3, 5, al.families.bernoulli), *of_normals(Recurrent(2, 6, backwards=True))],
    ),
    "q(z_1 | x) of one example and particle depends on the other examples": lambda: al.VAE(
        al.StandardNormal(3), *of_normals(nn.Sequential(BatchNormalized(), nn.Linear(5, 6))),
        link(3, 5, al.families.bernoulli),
    ),
    "q(z_2 | z_1) of one example and particle depends on the other particles": lambda: al.VAE(
        al.StandardNormal(2), [link(5, 3), *of_normals(Topics(3, 4, dim=0))],
        [link(3, 5, al.families.bernoulli), link(2, 3)],
    ),
    "q(z_1 | z_2, x) of one example and particle depends on the other examples": lambda: al.VAE(
        al.StandardNormal(2),
        al.TopDown(
            al.networks.Climb([nn.Linear(5, 4), nn.Linear(4, 6)]),
            [*of_normals(al.networks.Concat(Topics(4 + 2, 6, dim=1), event_dim=1)), link(6, 2)],
        ),
        [link(3, 5, al.families.bernoulli), link(2, 3)],
    ),
    "p(z_1) of one example and particle depends on the other examples": lambda: al.VAE(
        MixingLaw(), link(5, 3), link(3, 5, al.families.bernoulli)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", MIXING)
def test_a_network_that_mixes_neighbours_is_refused_and_named(message):
    model, x = MIXING[message](), torch.eye(5)
    for act in (
        lambda: model.check(x),
        lambda: al.log_likelihood(model, x, samples=2),
        lambda: al.fit(model, x, epochs=1),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            act()


class Twofold(nn.Linear):
    """Another layer with every call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.calls * super().forward(x)


class Noisy(nn.Linear):
    """Noise of its own, in eval mode too."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


@pytest.mark.parametrize(
    "layer", [Topics(4, 6, dim=-1), nn.LayerNorm(4), nn.BatchNorm1d(4), Twofold(4, 4), Noisy(4, 4)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_that_mixes_nothing_is_not_refused(layer, dtype):
    network = nn.Sequential(nn.Linear(5, 4), layer, nn.LazyLinear(6)).to(dtype)
    model = al.VAE(al.StandardNormal(3), *of_normals(network), link(3, 5, al.families.bernoulli)).to(dtype)
    state = torch.get_rng_state()
    model.check(torch.eye(5).to(dtype))
    model.check(torch.ones(1, 5).to(dtype))  # no other to compare with
    assert torch.equal(torch.get_rng_state(), state)


def test_densities_that_are_far_away_are_not_taken_for_mixed_ones():
    """Rounding moves a density in units of its size."""
    model = al.VAE(al.StandardNormal(3), link(5, 3), al.Conditional(nn.Linear(3, 5), al.families.normal_fixed(1e-3)))
    model.float().check(1e4 * torch.randn(50, 5, dtype=torch.float32))


class Own(nn.Module):
    """A conditional that is none of this library's: its law has the precision of its network."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.network = nn.Linear(inputs, 2 * outputs)

    def forward(self, x):
        mu, s = self.network(x).chunk(2, -1)
        return Independent(Normal(mu, s.exp()), 1)


def test_a_law_is_not_rounded_whatever_made_it():
    x, decoder = (torch.rand(5, 8) < 0.5).float(), [link(200, 8, al.families.bernoulli), Own(3, 200)]
    model = al.VAE(al.StandardNormal(3), [Own(8, 200), Own(200, 3)], decoder).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trace = model(x, samples=4)
        found = {"log_qz": trace.log_qz, "log_pz": trace.log_pz}
        laws = {"log_qz": trace.q, "log_pz": trace.p[1:]}
        assert model.encode(x)[0].mean.dtype == model.generate(3).mean.dtype == model.sample(3).dtype == torch.float32
    for name, densities in found.items():
        for law, z, found in zip(laws[name], trace.latents, densities, strict=True):
            wide = Normal(law.mean.double(), law.stddev.double())
            exact = wide.log_prob(z.double()).sum(-1).float()
            assert_close(found, exact, rtol=1e-5, atol=1e-4)
    assert (trace.latents[0] != trace.latents[0].bfloat16()).double().mean() > 0.9


def test_a_family_that_is_a_function_reads_no_rounded_numbers():
    given = []
    family = lambda phi, event_dim: given.append(phi.dtype) or al.families.bernoulli(phi, event_dim)  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16):
        al.Conditional(nn.Linear(3, 5).float(), family)(torch.zeros(2, 3).float())
    assert given == [torch.float32]


@pytest.mark.filterwarnings("default")
def test_the_density_of_a_flow_is_not_rounded():
    zuko = pytest.importorskip("zuko")
    flow = zuko.flows.MAF(2, transforms=2, hidden_features=[16]).float()
    model = al.VAE(flow, zuko.flows.MAF(2, 5, transforms=1).float(), link(2, 5, al.families.bernoulli).float())
    x = torch.eye(5).float()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            trace = model(x, samples=3)
            log_pz, log_qz = trace.log_pz, trace.log_qz
        z = trace.latents[0]
        assert_close(log_pz[0], flow().log_prob(z), rtol=0, atol=0)
        assert_close(log_qz[0], model.encoders[0](x).log_prob(z), rtol=0, atol=0)


@pytest.mark.parametrize("prior", ["standard", "mixture", "vamp"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_pass_compiles_in_one_piece(prior, precision):
    """What breaks it at the prior or at a posterior is compiled once for each level, and after eight not at all."""
    x = (torch.rand(4, 1, 8, 8) < 0.5).float()
    model = al.architectures.conv(
        (1, 8, 8), "bernoulli", [2, 2, 3], [2, 2, 8], channels=4, blocks=1, prior=prior, components=3, data=x
    ).float()
    given = model.sample(4)
    whole = torch.compile(lambda x: model(x, samples=2).log_weight, fullgraph=True, backend="eager")
    with evaluating(model), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        assert whole(given).dtype == torch.float32


@pytest.mark.parametrize("objective", [al.elbo, al.iwae, al.stl, al.dreg])
@pytest.mark.parametrize("top_down", [False, True])
def test_engines_see_the_tensors_of_a_trace_and_may_exchange_them(objective, top_down):
    """As DistributedDataParallel does, which has gradients pass through copies of its own."""
    model = al.architectures.mlp((5,), "bernoulli", [3, 2], [4], top_down=top_down, prior="mixture").double()
    x, held, found, passed = torch.eye(5), hasattr(objective, "held"), [], []

    def copied(x):
        x = x.clone()
        x.register_hook(passed.append)
        return x

    for exchange in (lambda trace: trace, lambda trace: tree_map(copied, trace)):
        torch.manual_seed(1)
        bound = objective(exchange(model(x, samples=3, held=held)))
        found.append(torch.autograd.grad(bound.sum(), list(model.parameters())))
    assert_close(found[0], found[1])
    assert len(passed) > 3
    reached = {id(p) for tensor in _find_tensors(model(x)) for p in leaves(tensor.grad_fn)}
    assert all(id(p) in reached for p in model.parameters())


def leaves(node):
    """The parameters that a gradient reaches from a node of its graph."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [above for above, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


def test_independence_is_checked_again_when_a_weight_or_a_part_has_changed():
    class Mixed(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    mixed = Mixed(3, 4)
    nn.init.zeros_(mixed.weight)
    encoder = al.Conditional(mixed, al.families.normal)
    decoder = al.Conditional(nn.Linear(2, 6), al.families.normal)
    model, x = al.VAE(al.StandardNormal(2), encoder, decoder), torch.randn(5, 3)
    model.check(x)
    model.check(x)
    with torch.no_grad():
        mixed.weight.copy_(torch.randn(4, 3))
    with pytest.raises(ValueError, match="depends on the other examples"):
        model.check(x)
    model.encoders[0] = al.Conditional(nn.Linear(3, 4), al.families.normal)
    model.check(x)
    model.decoders[0] = al.Conditional(nn.Sequential(nn.Linear(2, 3), nn.Softmax(0)), al.families.normal_fixed(1.0))
    with pytest.raises(ValueError, match="depends on the other"):
        model.check(x)
