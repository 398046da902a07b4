"""What the architectures promise: any depth starts sane, starts at the data, rebuilds from its configuration."""

import functools
import json
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory import architectures, networks
from allegory.distributions import NormalMixture
from allegory.priors import MixtureOfNormals, VampPrior

BITS = (torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).double()
MLP = {
    "bottom-up": {},
    "top-down": {"top_down": True},
    "top-down, absolute": {"top_down": True, "residual": False},
    "not Markov": {"markov": False},
    "top-down, not Markov": {"top_down": True, "markov": False},
    "gated": {"block": "gated"},
    "residual": {"block": "residual", "top_down": True},
    "mixture": {"prior": "mixture", "components": 7},
    "vamp": {"prior": "vamp", "components": 7},
    "vamp, top-down": {"prior": "vamp", "components": 7, "top_down": True},
    "flow": {"prior": "flow"},
}


def mlp(latent=(4, 3), likelihood="bernoulli", **more):
    return architectures.mlp((1, 8, 8), likelihood, latent, hidden=[8, 8], data=BITS, **more).double()


def conv(latent=(2, 3), likelihood="bernoulli", **more):
    settings = {"event_shape": (1, 8, 8), "channels": 8, "blocks": 1, "data": BITS, **more}
    return architectures.conv(likelihood=likelihood, latent=latent, **settings).double()


MODELS = {
    **{f"mlp, {kind}": lambda more=more: mlp(**more) for kind, more in MLP.items()},
    "mlp, one level, vamp": lambda: mlp(latent=[4], prior="vamp", components=7),
    "mlp, one level, top-down": lambda: mlp(latent=[4], top_down=True),
    "conv": conv,
    "conv, one level": lambda: conv(latent=[3]),
    "conv, Markov": lambda: conv(latent=[2, 3, 4], scales=[2, 8, 8], markov=True),
    "conv, a finer stem": lambda: conv(latent=[2, 3], scales=[4, 8], stem=2),
    "conv, four levels": lambda: conv(latent=[2, 2, 2, 3], scales=[2, 2, 4, 8]),
    "conv, grids without latents": lambda: conv(latent=[0, 2, 0, 3], scales=[2, 2, 4, 8], posterior_blocks=0),
    "conv, Markov, without latents": lambda: conv(latent=[2, 0, 4], scales=[2, 4, 8], markov=True),
    "conv, mixture": lambda: conv(prior="mixture", components=5),
    "conv, flow": lambda: conv(prior="flow"),
    "conv, vamp": lambda: conv(prior="vamp", components=5),
    "conv, checkpointed": lambda: conv(checkpointed=True, dropout=0.1),
}
QUICK = [name for name in MODELS if name.startswith("mlp") or name == "conv"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # zuko's


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_samples_and_comes_back(name):
    model = MODELS[name]()
    trace = model(BITS[:5], samples=3)
    assert trace.kl.shape == (model.levels, 3, 5)
    assert bool(torch.isfinite(trace.log_weight).all())
    (-al.elbo(trace).mean()).backward()
    for parameter, gradient in ((key, p.grad) for key, p in model.named_parameters()):
        assert gradient is not None, parameter
        assert bool(torch.isfinite(gradient).all()), parameter
    with torch.no_grad():
        assert model.eval().sample(4).shape == (4, 1, 8, 8)
        assert model.reconstruct(BITS[:5], level=model.levels).mean.shape == (5, 1, 8, 8)
    again = architectures.build(json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(1)
        first = model.eval()(BITS[:5]).log_weight
        torch.manual_seed(1)
        assert_close(again.eval()(BITS[:5]).log_weight, first, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_weights_are_unbiased(name):
    """E_q[w] is p(x), and so is the mean of p(x | z_1) over draws of the prior."""
    model, x = MODELS[name]().eval(), BITS[:1]
    with torch.no_grad():
        log_w = model(x, samples=40_000).log_weight[:, 0]
        log_p = model.generate(40_000).log_prob(x)
        both = [(weights - weights.max()).exp() for weights in (log_w, log_p)]
        means = [w.mean().log() + v.max() for w, v in zip(both, (log_w, log_p), strict=True)]
        errors = [w.std() / w.mean() / 200 for w in both]
    assert abs(means[0] - means[1]) < 5 * (errors[0] ** 2 + errors[1] ** 2).sqrt() + 1e-9


def test_a_grid_without_latents_has_the_blocks_of_one_with():
    scales, sparse = [2, 2, 4, 8], conv(latent=[0, 2, 0, 3], scales=[2, 2, 4, 8], posterior_blocks=0)
    dense = conv(latent=[2, 2, 2, 3], scales=scales, posterior_blocks=0)
    assert (sparse.levels, dense.levels) == (2, 4)
    blocks = [sum(isinstance(part, networks.Residual) for part in model.modules()) for model in (sparse, dense)]
    assert blocks == [8, 8]  # four up, four down
    assert sum(isinstance(part, networks.Residual) for part in conv(latent=[2, 2, 2, 3], scales=scales).modules()) == 11
    assert [tuple(z.shape[2:]) for z in sparse(BITS[:1]).latents] == [(2, 4, 4), (3, 1, 1)]
    given = torch.randn(len(BITS), 2, dtype=torch.float64)
    trace = conv(latent=[0, 2, 0, 3], scales=scales, given_data=given)(BITS[:5], given=given[:5])
    assert trace.kl.shape == (2, 1, 5)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_fifty_levels_start_like_one(architecture):
    bounds = []
    for levels in (1, 50):
        torch.manual_seed(0)
        if architecture == "mlp":
            model = mlp(latent=[4] * levels, top_down=True, markov=False, block="residual")
        else:
            model = conv(latent=[2] * levels, scales=[2] * (levels // 2) + [4] * (levels - levels // 2))
        trace = model(BITS, samples=2)
        bounds.append(trace.log_px.mean().item())
        assert trace.kl.mean() < 4  # nats a level
        (-al.elbo(trace).mean()).backward()
        norms = torch.stack([p.grad.norm() for p in model.parameters()])
        assert bool(torch.isfinite(norms).all())
        assert norms.norm() < 1e4
    assert abs(bounds[0] - bounds[1]) < 0.15 * abs(bounds[0])


class Laplaces(al.families.Family):
    """A family that the library does not have."""

    size = 2

    def law(self, mu, s):
        return torch.distributions.Laplace(mu, al.families.positive(s))


def unit_laplace(phi, event_dim):
    """A family that is a function."""
    return torch.distributions.Independent(torch.distributions.Laplace(phi, 1.0), event_dim)


unit_laplace.size = 1


class Maxout(nn.Module):
    """A block of one's own."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, h):
        return self.linear(h).unflatten(-1, (2, -1)).amax(-2)


class Cauchy(nn.Module):
    """A prior of one's own, of z_T of any shape."""

    def __init__(self, *shape):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(shape))

    def forward(self):
        return torch.distributions.Independent(torch.distributions.StudentT(3.0, self.loc), self.loc.dim())


OWN = {
    "likelihood": [Laplaces(), unit_laplace],
    "activation": [nn.PReLU, lambda: nn.LeakyReLU(0.3)],
    "block": [Maxout],
    "prior": [Cauchy, MixtureOfNormals],
}


@pytest.mark.parametrize(
    "family",
    [
        al.families.normal_fixed(0.5),
        al.families.discretized_logistic_mixture(3, bins=2),
        al.families.interval(0.5, low=0.0, components=2),
        al.families.with_points(al.families.log_normal, [0.0, 1.0]),
        al.families.rounded(al.families.interval(0.5, low=-3.0, high=3.0), [0.0, 1.0]),
        al.families.zero_inflated_poisson,
    ],
    ids=repr,
)
def test_a_family_of_the_library_is_recorded_with_its_arguments(family):
    model = mlp(likelihood=family)
    config = json.loads(json.dumps(model.config, allow_nan=False))
    assert set(config["likelihood"]) == {"family"}
    again = architectures.build(config).double()
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    for each in (again, model):
        torch.manual_seed(0)
        each.found = each.eval()(BITS[:4]).log_px
    assert torch.equal(again.found, model.found)
    given = architectures.build(config, likelihood=family)  # as a run of before asks for it
    assert given.config == model.config


def test_a_family_of_ones_own_within_one_of_the_library_is_given_again():
    family = al.families.columns([al.families.with_points(Laplaces(), [0.0]), al.families.normal])
    model = architectures.mlp((2,), family, [2], [4])
    assert model.config["likelihood"] == {"own": "allegory.columnar.ColumnsFamily"}
    assert architectures.build(model.config, likelihood=family).config == model.config


@pytest.mark.parametrize("build", [mlp, conv])
@pytest.mark.parametrize(("name", "own"), [(name, own) for name, values in OWN.items() for own in values])
def test_what_is_ones_own_enters_is_recorded_by_name_and_given_again(build, name, own):
    if (build, name) == (conv, "block"):
        pytest.skip("a ladder of convolutions has blocks of its own")
    own = functools.partial(own, 5) if own is MixtureOfNormals else own
    model = build(**{name: own})
    config = json.loads(json.dumps(model.config))
    thing = own.func if isinstance(own, functools.partial) else own if hasattr(own, "__qualname__") else type(own)
    module = thing.__module__.replace("allegory.family", "allegory.families")
    assert config[name] == {"own": f"{module}.{thing.__qualname__}"}
    assert bool(torch.isfinite(al.elbo(model(BITS[:5]))).all())
    assert any(isinstance(part, nn.PReLU) for part in model.modules()) == (own is nn.PReLU)
    with pytest.raises(
        ValueError, match=f"its {name}, .*{thing.__name__}, has to be given again, as {name}=..."
    ) as error:
        architectures.build(config)
    assert "\n" not in str(error.value)
    again = architectures.build(config, **{name: own}).double()
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    scores = []
    for each in (model, again):
        torch.manual_seed(1)
        scores.append(each.eval()(BITS[:5]).log_weight)
    assert_close(*scores, rtol=0, atol=0)


def test_a_module_of_ones_own_is_copied_when_a_model_is_built_again():
    prior = Cauchy(3)
    model = mlp(prior=prior)
    assert model.prior is prior
    assert architectures.build(model.config, prior=prior).prior is not prior


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        (dict(likelihood=al.families.bernoulli), "likelihood", "bernoulli"),
        (dict(likelihood=al.families.normal_shared), "likelihood", "normal_shared"),
        (dict(likelihood=al.families.categorical(2)), "categories", 2),
        (dict(activation=nn.GELU), "activation", "GELU"),
    ],
)
def test_what_the_library_has_under_a_name_is_recorded_by_it(given, name, value):
    config = mlp(**given).config
    assert config[name] == value
    assert architectures.build(config).levels == 2


@pytest.mark.parametrize("likelihood", [al.families.normal, al.families.normal_shared(), al.families.student_t])
def test_a_location_scale_family_of_the_library_is_standardised_however_it_is_given(likelihood):
    x = 1000 + 50 * torch.randn(200, 3)
    law = architectures.mlp((3,), likelihood, [2], data=x).double().generate(50)
    assert_close(law.mean.mean(0), x.mean(0), rtol=0.05, atol=0)


@pytest.mark.parametrize("likelihood", [Laplaces(), al.families.normal_fixed(50.0)])
def test_any_other_family_speaks_in_the_units_of_x_and_the_encoder_reads_standardised_x(likelihood):
    x = torch.tensor([1000.0, 0.0, 7.0]) + torch.tensor([50.0, 1.0, 0.0]) * torch.randn(200, 3)
    model = architectures.mlp((3,), likelihood, [2], data=x).double()
    read = next(part for part in model.encoders[0].modules() if isinstance(part, networks.Standardize))
    assert_close(read(x).mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(read(x).std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    law = model.generate(50)
    if isinstance(likelihood, Laplaces):
        assert law.mean.abs().max() < 10
    else:  # its sigma is 50 of the data's own units, and it begins at their mean
        assert_close(law.stddev, torch.full_like(law.stddev, 50.0))
        z, unit = torch.randn(4, 2), torch.where(x.std(0) > 0, x.std(0, correction=0), 1.0)
        found, phi = model.decoders[0](z).mean, model.decoders[0].network(z)
        assert_close(found, x.mean(0) + unit * phi, rtol=1e-6, atol=1e-5)
        assert ((law.mean.mean(0) - x.mean(0)) / unit).abs().max() < 0.3


def test_an_earlier_ladder_of_convolutions_does_not_say_its_activation():
    assert "activation" not in conv().config
    assert conv(activation="ReLU").config["activation"] == "ReLU"
    assert not any(isinstance(part, nn.GELU) for part in conv(activation="ReLU").modules())


@pytest.mark.parametrize("build", [mlp, conv])
def test_the_output_starts_at_the_marginals_of_the_data(build):
    model = build()
    with torch.no_grad():
        mean = model.generate(200).mean.mean(0)
    frequency = (BITS.sum(0) + 0.5) / (len(BITS) + 1)
    assert (mean - frequency).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        ("categorical", torch.randint(0, 5, (50, 1, 8, 8)).float()),
        ("discretized_logistic", torch.randint(90, 140, (50, 1, 8, 8)).float()),
        ("poisson", torch.poisson(torch.full((50, 1, 8, 8), 30.0))),
        ("negative_binomial", torch.poisson(torch.full((50, 1, 8, 8), 30.0))),
    ],
)
@pytest.mark.parametrize("architecture", [architectures.mlp, architectures.conv])
def test_a_start_at_the_marginals_is_a_better_start(architecture, likelihood, x):
    bounds = []
    for data in (x, None):
        torch.manual_seed(0)
        model = architecture((1, 8, 8), likelihood, [3], categories=5, data=data).double()
        bounds.append(al.elbo(model(x.double())).mean().item())
    assert bounds[0] > bounds[1]
    if likelihood == "categorical":
        assert bounds[0] == pytest.approx(-64 * math.log(5), rel=0.05)


def test_checkpointing_changes_memory_and_not_the_gradient():
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = conv(latent=[2, 2], checkpointed=checkpointed, dropout=0.2)
        torch.manual_seed(1)
        al.elbo(model(BITS[:5])).mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("shape", [(1, 1, 32), (1, 32, 1)])
def test_a_line_has_kernels_along_it_and_earlier_runs_keep_theirs(shape):
    model = architectures.conv(shape, "bernoulli", latent=[2, 4], channels=8, blocks=1).double()
    kernels = {layer.kernel_size for layer in model.modules() if isinstance(layer, nn.Conv2d)}
    assert kernels == {(1, 1), tuple(3 if side > 1 else 1 for side in shape[1:])}
    x, far = torch.zeros(1, *shape), torch.zeros(1, *shape)
    far.view(-1)[1] = 1.0
    means = [model.encode(each)[0].mean.flatten(2)[0, :, 0] for each in (x, far)]  # of the first cell
    assert not torch.equal(*means)
    again = architectures.build(json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    earlier = architectures.build({key: value for key, value in model.config.items() if key != "lines"})
    assert {layer.kernel_size for layer in earlier.modules() if isinstance(layer, nn.Conv2d)} == {(1, 1)}
    assert "lines" not in conv().config


@pytest.mark.slow
def test_a_line_is_learned_as_what_goes_along_it():
    """A sequence x_t = 0.95 x_{t-1} + noise: independent elements have 45.4 nats, the truth 9.3."""
    x = torch.randn(600, 32, dtype=torch.float32)
    for t in range(1, 32):
        x[:, t] = 0.95 * x[:, t - 1] + math.sqrt(1 - 0.95**2) * x[:, t]
    x = x.view(-1, 1, 1, 32).double()
    model = architectures.conv((1, 1, 32), "normal", latent=[2, 8], channels=16, blocks=1, data=x[:500]).double()
    al.fit(model, x[:500], epochs=12, batch_size=50, lr=4e-3)
    assert -al.log_likelihood(model, x[500:], samples=50).mean() < 32


def mlp_of(x, **more):
    return architectures.mlp((1, 8, 8), "categorical", [2], [8], data=x, **more)


def conv_of(x, **more):
    return architectures.conv((1, 8, 8), "categorical", [2, 2], channels=4, blocks=1, data=x, **more)


def test_larger_images_and_colour():
    model = architectures.conv((3, 64, 64), "discretized_logistic", latent=[2] * 5, channels=8, blocks=1)
    assert model.config["scales"] == [2, 4, 8, 16, 64]
    x = torch.randint(0, 256, (2, 3, 64, 64)).float()
    assert al.elbo(model(x)).shape == (2,)
    for levels, scales, stem in ((1, [28], 4), (2, [4, 28], 4), (3, [2, 4, 28], 2), (5, [2, 4, 4, 28, 28], 2)):
        config = architectures.conv((1, 28, 28), "bernoulli", latent=[2] * levels, channels=8).config
        assert (config["scales"], config["stem"]) == (scales, stem)
    for shape, scales in (
        ((1, 13, 13), [1, 13]), ((1, 13, 16), [1, 1]), ((1, 32, 64), [4, 8]), ((1, 33, 33), [3, 33]),
        ((1, 75, 75), [15, 75]), ((1, 105, 105), [15, 105]), ((1, 100, 100), [4, 100]), ((1, 60, 60), [4, 60]),
        ((1, 101, 101), [8, 112]), ((1, 100, 75), [5, 5]), ((1, 1, 32), [4, 32]), ((1, 29, 31), [4, 32]),
        ((1, 17, 19), [4, 20]), ((1, 1, 101), [8, 112]), ((1, 101, 1), [8, 112]), ((1, 1, 128), [8, 128]),
        ((1, 5, 97), [2, 4]), ((1, 127, 131), [4, 16]),
    ):  # fmt: skip
        model = architectures.conv(shape, "bernoulli", latent=[2] * 2, channels=16)
        assert model.config["scales"] == scales
        assert sum(p.numel() for p in model.parameters()) < 500_000


@pytest.mark.parametrize("shape", [(1, 29, 31), (3, 17, 19), (2, 1, 101), (1, 101, 1)])
@pytest.mark.parametrize("markov", [False, True])
def test_sides_that_no_scale_divides_are_padded_and_the_likelihood_is_of_x_alone(shape, markov):
    model = architectures.conv(
        shape, "bernoulli", latent=[2, 2, 4], channels=8, blocks=1, markov=markov, data=torch.ones(9, *shape)
    ).double()
    assert model.config["padded"]
    x = (torch.rand(3, *shape) < 0.5).double()
    assert model.sample(2).shape == (2, *shape)
    assert model.generate(1).mean.mean() > 0.9  # the output's bias is one of x, and begins at the data
    laws = model.encode(x)
    assert math.prod(laws[-1].event_shape) == 4
    trace = model(x)
    assert trace.log_px.shape == (1, 3)
    model.check(x)
    ends = x.clone()
    ends[..., -1, -1] = 1 - ends[..., -1, -1]  # the last pixel is read, and scored
    assert not torch.equal(laws[-1].mean, model.encode(ends)[-1].mean)
    again = architectures.build(json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(x)[-1].mean, laws[-1].mean)
    assert "padded" not in conv().config


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "categorical", "discretized_logistic_mixture"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 11)], ids=str)
def test_grey_pictures_without_a_channel_are_those_with_one(likelihood, shape):
    torch.manual_seed(0)
    x = torch.randn(20, *shape) if likelihood == "normal" else torch.randint(2, (20, *shape)).float()
    bounds, samples = [], []
    for data in (x, x[:, None]):
        torch.manual_seed(1)
        model = conv(event_shape=data.shape[1:], likelihood=likelihood, data=data, categories=3)
        again = architectures.build(model.config).double()
        again.load_state_dict(model.state_dict())
        torch.manual_seed(2)
        bounds.append(al.elbo(again(data.double())))
        samples.append(again.sample(3))
    assert samples[0].shape == (3, *shape)
    assert_close(samples[0], samples[1].squeeze(1), rtol=0, atol=0)
    assert_close(*bounds, rtol=1e-12, atol=0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "categorical", "poisson"])
def test_a_model_of_any_size_knows_no_place(likelihood):
    """What is shifted by the coarsest grid's scale has the same posterior a cell further on, away from the edges."""
    torch.manual_seed(0)
    x = torch.randn(9, 2, 8, 8) if likelihood == "normal" else torch.randint(2, (9, 2, 8, 8)).double()
    model = conv(event_shape=(2, 8, 8), likelihood=likelihood, categories=3, data=x, any_size=True).eval()
    for part in model.parameters():
        part.data += 0.3 * torch.randn_like(part)
    large, scale = architectures.resize(model, (2, 64, 64)), model.config["scales"][-1]
    picture = x.mean() * torch.ones(1, 2, 64, 64)
    picture[..., 28:36, 28:36] = x[:1]
    q, shifted = (large.encode(y.double())[-1].mean for y in (picture, picture.roll(scale, -1)))
    inner = slice(64 // scale // 2 - 1, 64 // scale // 2 + 2)
    assert_close(q[..., inner, inner], shifted[..., inner, slice(inner.start + 1, inner.stop + 1)])
    assert (q[..., inner, inner] - shifted[..., inner, inner]).abs().max() > 1e-3
    torch.manual_seed(1)
    bound = al.elbo(model(x))
    torch.manual_seed(1)
    assert_close(al.elbo(architectures.resize(large, (2, 8, 8))(x)), bound, rtol=0, atol=0)


def test_a_model_of_any_size_begins_at_the_marginals_of_all_pixels():
    x = (torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.2).double()
    model = conv(event_shape=(8, 8), data=x, any_size=True)
    assert_close(model.sample(200).mean(), x.mean(), atol=0.05, rtol=0)


def test_data_of_another_shape_are_not_stretched():
    with pytest.raises(ValueError, match=r"data: examples of shape \(1,\), but event_shape=\(2,\)"):
        architectures.mlp((2,), "normal", data=torch.randn(9, 1))


@pytest.mark.parametrize("build", [mlp_of, conv_of])
def test_categories_may_begin_anywhere(build):
    x = torch.randint(-2, 3, (50, 1, 8, 8)).double()
    torch.manual_seed(1)
    model = build(x, categories=5).double()
    torch.manual_seed(1)
    usual = build(x + 2, categories=5).double()
    assert model.config["lowest"] == -2
    assert "lowest" not in usual.config
    torch.manual_seed(2)
    found = model(x)
    torch.manual_seed(2)
    assert torch.equal(found.log_px, usual(x + 2).log_px)
    torch.manual_seed(3)
    drawn = model.sample(100)
    torch.manual_seed(3)
    assert torch.equal(drawn, usual.sample(100) - 2)
    model.check(x)
    with pytest.raises(ValueError, match="the integers -2 to 2; the first is 3 in row 7, index 0, 1, 1"):
        model.check(
            x.index_put((torch.tensor(7), torch.tensor(0), torch.tensor(1), torch.tensor(1)), torch.tensor(3.0))
        )
    again = architectures.build(json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    torch.manual_seed(2)
    assert torch.equal(again(x).log_px, found.log_px)
    assert al.evaluation.baseline(model, x, x) == pytest.approx(al.evaluation.baseline(usual, x + 2, x + 2))
    law = al.families.categorical(5, lowest=-2)(torch.randn(3, 5 * 4))
    assert law.expand((2, 3)).log_prob(torch.zeros(4)).shape == (2, 3)
    values = law.base_dist.enumerate_support()[:, 0, 0]
    assert values.tolist() == [-2, -1, 0, 1, 2]
    total = torch.stack([law.base_dist.log_prob(v) for v in values]).logsumexp(0)
    assert_close(total, torch.zeros_like(total))
    assert al.views.figures.expected(law).shape == (3, 4)
    assert (al.views.figures.expected(law) - law.sample((20_000,)).double().mean(0)).abs().max() < 0.05


def test_a_markov_ladder_can_begin_in_the_middle():
    model = MODELS["conv, Markov"]().eval()
    trace = model(BITS[:4])
    assert model.decode(trace.latents[1][0], level=2).event_shape == (1, 8, 8)
    with pytest.raises(ValueError, match="only a Markov chain"):
        conv(latent=[2, 3, 4]).eval().decode(trace.latents[0][0])


def test_residual_blocks_keep_the_variance():
    x = torch.randn(200, 64)
    deep = networks.mlp(64, [64] * 50, 64, nn.Tanh, block="residual")[:-1]
    assert 0.2 < deep(x).std() / deep[:2](x).std() < 5


def test_the_mixture_is_torchs_mixture():
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    logits, loc, scale = torch.randn(6), torch.randn(6, 3, 2) + 20, torch.rand(6, 3, 2) + 0.02
    ours = NormalMixture(logits, loc, scale)
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 2))
    z = theirs.sample((4, 5))
    assert_close(ours.log_prob(z), theirs.log_prob(z))
    assert_close((ours.mean, ours.variance), (theirs.mean, theirs.variance))
    assert ours.sample().shape == (3, 2)
    single = NormalMixture(logits.float(), loc.float(), scale.float())
    rounded = MixtureSameFamily(
        Categorical(logits=logits.float().double()),
        Independent(Normal(loc.float().double(), scale.float().double()), 2),
    )
    assert_close(single.log_prob(z.float()).double(), rounded.log_prob(z.float().double()), rtol=1e-6, atol=1e-4)
    draws = ours.sample((50_000,))
    error = draws.std(0) / math.sqrt(50_000)
    assert bool(((draws.mean(0) - ours.mean).abs() < 5 * error).all())


def test_a_vampprior_is_the_mean_posterior_of_its_inputs_and_learns_them():
    encoder = al.Conditional(nn.Linear(5, 4), al.families.normal).double()
    inputs = torch.randn(9, 5)
    prior = VampPrior(encoder, inputs)
    z = torch.randn(4, 3, 2)
    exact = encoder(inputs).log_prob(z[:, :, None]).logsumexp(-1) - math.log(9)
    assert_close(prior().log_prob(z), exact)
    prior().log_prob(z).sum().backward()
    assert bool((prior.standardized.grad != 0).all())


def test_a_linear_vampprior_gives_the_exact_evidence():
    """With a linear encoder and decoder, p(x) is a mixture of normals (published_results 5.4.5)."""
    prior = MixtureOfNormals(4, 2).double()
    with torch.no_grad():
        prior.s.normal_()
    weight, bias, sigma = torch.randn(5, 2), torch.randn(5), 0.7
    decoder = al.Conditional(nn.Linear(2, 5), al.families.normal_fixed(sigma)).double()
    with torch.no_grad():
        decoder.network.weight.copy_(weight)
        decoder.network.bias.copy_(bias)
    encoder = al.Conditional(nn.Linear(5, 4), al.families.normal).double()
    inverse = torch.linalg.pinv(weight)
    with torch.no_grad():
        encoder.network.weight.copy_(torch.cat([inverse, torch.zeros(2, 5)]))
        encoder.network.bias.copy_(torch.cat([-inverse @ bias, torch.zeros(2)]))
    model, law = al.VAE(prior, encoder, decoder), prior()
    x = model.sample(3)
    exact = torch.stack([
        law.log_weights[k] + torch.distributions.MultivariateNormal(
            weight @ law.loc[k] + bias, weight @ law.scale[k].square().diag() @ weight.T + sigma**2 * torch.eye(5)
        ).log_prob(x)
        for k in range(4)
    ]).logsumexp(0)  # fmt: skip
    with torch.no_grad():
        weights = model(x, samples=400_000).log_weight
    error = (weights - exact).exp().std(0) / math.sqrt(400_000)
    assert bool((((weights - exact).exp().mean(0) - 1).abs() < 5 * error).all())


WRONG = {
    r"p\(z_1\) is over \(3,\)": lambda: al.VAE(
        MixtureOfNormals(4, 3), al.Conditional(nn.Linear(5, 4), al.families.normal), nn.Identity()
    )(torch.zeros(2, 5)),
    r"components=0": lambda: MixtureOfNormals(0, 3),
    r"unknown prior 'vmap'": lambda: mlp(prior="vmap"),
    r"likelihood=Laplaces: got a class, wanted a family, such as Laplaces\(\)": lambda: mlp(likelihood=Laplaces),
    r"a callable \(phi, event_dim\) -> Distribution with an attribute size": lambda: mlp(likelihood=lambda phi, n: phi),
    r"activation=ReLU\(\): wanted a callable that makes a module": lambda: mlp(activation=nn.ReLU()),
    r"activation=.*: wanted a callable that makes a module": lambda: conv(activation=lambda: 3),
    r"activation=<built-in method relu.*: wanted a callable that makes a module": lambda: mlp(activation=torch.relu),
    r"block\(64, 8\) made int, wanted a torch.nn.Module": lambda: mlp(block=lambda inputs, outputs: 3),
    r"prior\(3,\) made tuple, wanted a torch.nn.Module": lambda: mlp(prior=lambda *shape: shape),
    r"prior was given, but the custom parts of the model are none: its prior is 'standard'": lambda: (
        architectures.build(mlp().config, prior=Cauchy)
    ),
    r"block='dense'": lambda: mlp(block="dense"),
    r"pseudo-inputs, and categories cannot": lambda: mlp([3], "categorical", categories=5, prior="vamp"),
    r"scales=\[2\]: wanted one for each of 2": lambda: conv(scales=[2]),
    r"scales=\[2, 3\]: 3 is not a multiple of 2": lambda: conv(scales=[2, 3]),
    r"scales=\[3, 3\]: 3 is not a multiple of 1 that divides 8 x 8": lambda: conv(scales=[3, 3]),
    r"latent=\[\]: wanted whole numbers from 0 on": lambda: architectures.conv((1, 8, 8), "bernoulli", latent=[]),
    r"latent=\[2, 0\]: the last is the top": lambda: conv(latent=[2, 0]),
    r"stem=3, scales=\[2, 8\]: 3 is not a multiple of 1": lambda: conv(stem=3),
    r"shape \(16, 12, 3\) look like images with the channels last; transpose them to \(3, 16, 12\)": lambda: (
        architectures.conv((16, 12, 3), "bernoulli", data=torch.rand(4, 16, 12, 3).round())
    ),
    r"any_size with prior='vamp'": lambda: architectures.conv((1, 8, 8), prior="vamp", any_size=True),
    r"wanted a model of architectures.conv\(..., any_size=True\)": lambda: architectures.resize(conv(), (1, 9, 9)),
    r"event_shape=\[2, 9, 9\]: the model is of \[1, 8, 8\], of any size": lambda: architectures.resize(
        conv(any_size=True), (2, 9, 9)
    ),
    r"convolutions need images, \(C, H, W\), or grey ones, \(H, W\)": lambda: architectures.conv((5,), "bernoulli"),
    r"unknown architecture 'rnn'": lambda: architectures.build({"architecture": "rnn"}),
    r"a VampPrior mixes normal posteriors, but q\(z_T \| u\) is StudentT": lambda: VampPrior(
        al.Conditional(nn.Linear(5, 6), al.families.student_t), torch.zeros(2, 5)
    )(),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_said_in_one_line(message):
    with pytest.raises(ValueError, match=message) as error:
        WRONG[message]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("markov", [True, False])
def test_a_chain_of_steep_links_does_not_grow_from_level_to_level(monkeypatch, markov):
    model = al.architectures.mlp((6,), "bernoulli", [4] * 10, [16], top_down=True, markov=markov).double()
    with torch.no_grad():
        for link in model.decoders[1:]:
            link.network[-1].weight.normal_(0, 5)

    def largest():
        latents, *_ = model._generate_down(lambda t, p, state: torch.randn(50, 4) if state is None else p.mean)
        return latents[0].abs().max().item()

    assert largest() < 1e3
    monkeypatch.setattr(al.networks.Asinh, "forward", lambda self, z: z)
    assert largest() > 1e6


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "discretized_logistic_mixture", "poisson"])
def test_images_with_gaps_are_scored_where_torch_checks_them_and_may_be_compiled(likelihood):
    x = torch.arange(160.0).view(10, 1, 4, 4) % 7
    x[1:, 0, 0, ::2] = torch.nan
    model = al.architectures.conv((1, 4, 4), likelihood, latent=[1], channels=4, blocks=1, data=x)
    al.elbo(model(x)).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert al.fit(model, x, epochs=1, compile="auto").epoch == 1
