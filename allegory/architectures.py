r"""Architectures: plain functions that put networks, families and a prior together and return a `VAE`.

    mlp     multilayer perceptrons between vectors of latents: bottom-up or top-down, a Markov chain or not
    conv    a top-down ladder of convolutions for images, its latents grids z_t of (C_t, H_t, W_t)

Each records its arguments in `model.config`, plain JSON, from which `build` makes the same architecture again; with
the weights, that is all a saved run needs. A custom family, activation, block or prior is recorded by name only,
{"own": "module.name"}, and has to be passed again: nothing is imported by a name found in a file.

In a ladder p(z_t | s_{t+1}) starts at N(0, I) at every level, and a residual posterior near it; with the residual
blocks scaled by their number, depth has no cost at initialisation. The output's bias starts at the data's marginals
(Bernoulli, categorical, discretised logistic, counts; standardised data need none), so that training does not
have to learn the mean first.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from allegory import families
from allegory.conditional import Conditional, StandardNormal
from allegory.ladder import TopDown
from allegory.model import VAE
from allegory.networks import (
    Asinh,
    Carry,
    Checkpointed,
    Climb,
    Concat,
    Images,
    Lift,
    LogStandardize,
    Offset,
    OneHot,
    Residual,
    Standardize,
    Vectors,
    bottleneck,
    scaled,
)
from allegory.networks import mlp as perceptron
from allegory.priors import MixtureOfNormals, Shaped, VampPrior
from allegory.runtime.checks import no_tensor, reshaping
from allegory.units import units_of, warn_of

__all__ = ["ACTIVATIONS", "LIKELIHOODS", "PRIORS", "build", "conv", "default_latent", "mlp"]

PRIORS = ("standard", "mixture", "vamp", "flow")
"""Names of priors p(z_T)."""

CONTINUOUS = ("normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t")
COUNTS = ("poisson", "negative_binomial")
ACTIVATIONS = ("SiLU", "GELU", "ReLU", "LeakyReLU", "ELU", "Mish", "Softplus", "Tanh")
"""Names of activations, classes of torch.nn."""

LIKELIHOODS = (
    *CONTINUOUS,
    "bernoulli",
    "categorical",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "continuous_bernoulli",
    "poisson",
    "negative_binomial",
)
"""Names of families of p(x | z_1), see `allegory.families`."""

MEANT = {
    "gaussian": "normal", "gauss": "normal", "mse": "normal_shared", "bce": "bernoulli", "binary": "bernoulli",
    "softmax": "categorical", "cross_entropy": "categorical",
}  # fmt: skip

LOCATION_SCALE = (
    families.Normal, families.NormalFixed, families.NormalLearned, families.NormalOptimal, families.StudentTFamily,
)  # fmt: skip
LEVELS = (families.DiscretizedLogisticFamily, families.DiscretizedLogisticMixtureFamily)

Likelihood: TypeAlias = str | Callable[..., Distribution]
Activation: TypeAlias = str | Callable[[], nn.Module]
Block: TypeAlias = str | Callable[[int, int], nn.Module]
Prior: TypeAlias = str | Callable[..., nn.Module]


def mlp(
    event_shape: Sequence[int],
    likelihood: Likelihood = "normal",
    latent: Sequence[int] = (40,),
    hidden: Sequence[int] = (300, 300),
    categories: int | None = None,
    activation: Activation = "SiLU",
    dropout: float = 0.0,
    block: Block = "plain",
    top_down: bool = False,
    residual: bool = True,
    markov: bool = True,
    prior: Prior = "standard",
    components: int = 500,
    data: Tensor | None = None,
) -> VAE:
    """T = len(latent) levels of vectors, each link a multilayer perceptron. With T > 1 latents are read through
    `allegory.networks.Asinh`, so that deep chains stay stable at large learning rates.

    Args:
        event_shape: of x.
        likelihood: one of `LIKELIHOODS`, the family of p(x | z_1); or a custom family: a `families.Family`, or any
            callable (phi, event_dim) -> Distribution with an integer attribute `size`, how many numbers it reads per
            element of x.
        latent: width of z_1, ..., z_T.
        hidden: widths of the hidden layers of each encoder, from the bottom up; the decoders mirror them.
        categories: k of the categorical likelihood.
        activation: one of `ACTIVATIONS`, classes of torch.nn; or a callable that makes a module, such as nn.PReLU.
        dropout: in every hidden layer, in training. It helps where examples are few.
        block: of hidden layers, "plain", "gated" or "residual"; or a callable (inputs, outputs) -> module that makes
            one, called once for each hidden layer. See `allegory.networks.mlp`.
        top_down: whether the posterior is a ladder. Otherwise it is the chain of q(z_t | z_{t-1}).
        residual: for a ladder, whether it expresses z_t in the units of its prior.
        markov: whether p(z_{t-1} | z_t) sees only the level above. Otherwise it sees all of z_t, ..., z_T.
        prior: of z_T, one of `PRIORS`; see `allegory.priors`. "flow" needs the package zuko. Or a module whose call
            returns the distribution of z_T, or a callable (*event_shape of z_T) -> such a module.
        components: K of a mixture or a VampPrior.
        data: (N, *event) training data. Sets the constants by which x is standardised (what the encoder reads, and for
            a likelihood among the library's location-scale families, the normals and Student's t, the units of its mu
            and sigma), the output's bias, and pseudo-inputs; see `allegory.units`. The sigma of `normal_fixed` is in
            units of x. Any other custom family works in the units of x: the encoder reads standardised x, the family
            is unchanged.

    Raises:
        ValueError: an unknown name, widths that are not positive, a custom part of the wrong kind, or data that cannot
            be standardised.

    >>> model = mlp((1, 8, 8), "bernoulli", latent=[16, 4], hidden=[32], top_down=True)
    >>> model.sample(3).shape
    torch.Size([3, 1, 8, 8])
    >>> mlp((3,), al.families.normal_fixed(0.5), [2], activation=nn.PReLU).config["activation"]
    {'own': 'torch.nn.modules.activation.PReLU'}
    """
    _check_widths(event_shape=event_shape, latent=latent, hidden=hidden)
    likelihood, categories = _canonical_likelihood(likelihood, categories)
    config = dict(
        architecture="mlp", event_shape=list(event_shape), likelihood=_to_config(likelihood), latent=list(latent),
        hidden=list(hidden), categories=categories, activation=_to_config(_canonical_activation(activation)),
        dropout=dropout, block=_to_config(block), top_down=top_down, residual=residual, markov=markov,
        prior=_to_config(prior), components=components,
    )  # fmt: skip
    act = _activation(activation)
    event_dim, size, levels = len(event_shape), math.prod(event_shape), len(latent)
    family, read = _likelihood_and_input(likelihood, event_shape, categories, data)
    first = nn.Sequential(read, nn.Flatten(-event_dim))
    inputs = size * (family.size if isinstance(read, OneHot) else 1)

    def net(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
        return perceptron(inputs, hidden, outputs, act, dropout, block)

    def link(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
        """A network that reads the latents of a chain, and the features of x with them."""
        return Vectors(Asinh(), *net(inputs, hidden, outputs))

    encoder: TopDown | list[nn.Module]
    if top_down:
        width = hidden[-1] if hidden else 2 * max(latent)
        up: list[nn.Module] = [nn.Sequential(first, net(inputs, hidden[:-1], width))]
        for _ in range(levels - 1):  # residual: with plain layers no signal from x would reach the tenth level
            last = scaled(nn.Linear(width, width), levels)
            silent = [nn.Dropout(dropout)] if dropout else []
            up.append(Residual(act(), nn.Linear(width, width), act(), *silent, last))
        seen = [sum(latent[t + 1 : t + 2 if markov else levels]) for t in range(levels)]  # the state's width
        posteriors = [
            Conditional(Concat(link(width + above, hidden[-1:], 2 * z)), families.normal)
            for z, above in zip(latent[:-1], seen[:-1], strict=True)
        ]
        top = Conditional(nn.Sequential(act(), nn.Linear(width, 2 * latent[-1])), families.normal)
        encoder = TopDown(Climb(up), [*posteriors, top], residual)
    else:
        encoder = [
            Conditional(nn.Sequential(first, net(inputs, hidden, 2 * latent[0])), families.normal),
            *(Conditional(link(below, hidden, 2 * above), families.normal) for below, above in pairwise(latent)),
        ]
    states = [latent[t] if markov else sum(latent[t:]) for t in range(levels)]
    to_x = (link if levels > 1 else net)(states[0], hidden[::-1], family.size * size)
    shape = (family.size * event_shape[0], *event_shape[1:])
    if data is not None:
        _init_output_bias(to_x[-1], family, data)
    decoder = [Conditional(nn.Sequential(to_x, nn.Unflatten(-1, shape)), family, event_dim)]
    for above, below in zip(states[1:], latent[:-1], strict=True):
        down = link(above, hidden[::-1], 2 * below)
        if top_down:
            _zero_init(down[-1])
        decoder.append(Conditional(down, families.normal))
    model = VAE(
        _prior(
            prior, (latent[-1],), encoder, components, event_shape if top_down or levels == 1 else latent[-2:-1], data
        ),
        encoder,
        decoder,
        None if markov else [Concat() for _ in latent],
    )
    model.config = config
    return model


def conv(
    event_shape: Sequence[int],
    likelihood: Likelihood = "discretized_logistic",
    latent: Sequence[int] = (4, 32),
    scales: Sequence[int] | None = None,
    stem: int | None = None,
    channels: int = 64,
    blocks: int = 2,
    categories: int | None = None,
    dropout: float = 0.0,
    markov: bool = False,
    prior: Prior = "standard",
    components: int = 500,
    checkpointed: bool = False,
    data: Tensor | None = None,
    activation: Activation = "GELU",
    lines: bool = True,
) -> VAE:
    """A ladder of T = len(latent) levels of convolutions, with a state through which p(z_t | z_{t+1}, ..., z_T)
    sees all levels above, and a residual top-down posterior: a small relative of Child's (2021) very deep VAE. With
    one level it is the plain convolutional VAE.

    Args:
        event_shape: of x, (C, H, W).
        likelihood: one of `LIKELIHOODS`, the family of p(x | s_1), or a custom family; as in `mlp`.
        latent: channels of z_1, ..., z_T.
        scales: the downsampling factor of each level's grid, level 1 first, each a multiple of the one below; by
            default the levels are spread evenly over the powers of two that leave a grid of at least 4 x 4 and, at the
            top, a single cell: z_T is a vector where x is square.
        stem: the downsampling factor of the input and output grid; where it is finer than that of level 1 it has
            residual blocks, too. By default that of level 1, but at most 4.
        channels: of the features of x and of the state.
        blocks: residual blocks per level, up and down.
        categories: k of the categorical likelihood.
        dropout: in every block, in training.
        markov: whether p(z_{t-1} | z_t) sees only the level above.
        prior: of z_T, one of `PRIORS`, a module, or a callable (C_T, H_T, W_T) -> module; as in `mlp`.
        components: K of a mixture or a VampPrior.
        checkpointed: whether blocks are recomputed in the backward pass instead of storing their activations.
        data: (N, *event) training data; as in `mlp`.
        activation: one of `ACTIVATIONS`, or a callable that makes a module.
        lines: whether a grid one cell high, such as a sequence (C, 1, L), has kernels of 1 x 3, along it. Runs written
            by earlier versions had not.

    Raises:
        ValueError: as `mlp`; data that are not images; scales that do not divide their sides.

    >>> model = conv((1, 8, 8), "bernoulli", latent=[2, 2, 4], scales=[2, 2, 4], channels=8, blocks=1)
    >>> [tuple(q.event_shape) for q in model.encode(torch.zeros(1, 1, 8, 8))]
    [(2, 4, 4), (2, 4, 4), (4, 2, 2)]
    """
    _check_widths(event_shape=event_shape, latent=latent)
    if data is not None:
        _check_channels_first(event_shape)
    if scales is not None:
        _check_widths(scales=scales)
    levels = len(latent)
    scales = list(scales or _scales(event_shape, levels))
    stem = math.gcd(scales[0], 4) if stem is None else stem
    likelihood, categories = _canonical_likelihood(likelihood, categories)
    config = dict(
        architecture="conv", event_shape=list(event_shape), likelihood=_to_config(likelihood), latent=list(latent),
        scales=scales, stem=stem, channels=channels, blocks=blocks, categories=categories, dropout=dropout,
        markov=markov, prior=_to_config(prior), components=components, checkpointed=checkpointed,
    )  # fmt: skip
    name = _canonical_activation(activation)
    if name != "GELU":  # omitted where it is the default: earlier runs do not record it, and have to resume
        config["activation"] = _to_config(name)
    act = _activation(activation)
    _check_widths(scales=scales, stem=[stem], channels=[channels], blocks=[blocks])
    _check_scales(event_shape, latent, stem, scales)
    height, width = event_shape[1:]
    family, read = _likelihood_and_input(likelihood, event_shape, categories, data)
    inputs = event_shape[0] * (family.size if isinstance(read, OneHot) else 1)
    inner = max(1, channels // 2)
    depth = blocks * (levels + (scales[0] > stem))
    sequence = Checkpointed if checkpointed else nn.Sequential

    def kernel(scale: int) -> tuple[int, int]:
        """Across a grid of one cell a larger kernel would see only padding."""
        if not lines and min(height, width) <= scale:
            return 1, 1
        return 3 if height > scale else 1, 3 if width > scale else 1

    if any(kernel(scale) in ((1, 3), (3, 1)) for scale in (stem, *scales)):
        config["lines"] = True

    def body(scale: int) -> nn.Module:
        return sequence(*(bottleneck(channels, inner, kernel(scale), depth, act, dropout) for _ in range(blocks)))

    def squeeze(inputs: int, factor: int) -> list[nn.Module]:
        """Space to depth, and to the width of the ladder."""
        return [nn.PixelUnshuffle(factor), nn.Conv2d(inputs * factor**2, channels, 1)]

    def unsqueeze(outputs: int, factor: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, outputs * factor**2, 1), nn.PixelShuffle(factor)]

    up: list[nn.Module] = [read, *squeeze(inputs, stem)]
    if scales[0] > stem:
        up += [body(stem), *squeeze(channels, scales[0] // stem)]
    steps: list[nn.Module] = [nn.Sequential(*up, body(scales[0]))]
    for below, scale in pairwise(scales):
        finer = squeeze(channels, scale // below) if scale > below else []
        steps.append(nn.Sequential(*finer, body(scale)))

    def posterior(t: int) -> Conditional:
        """q(z_t | z_{t+1}, x), from the features of x and the state, or z_{t+1} itself in a Markov chain."""
        both: nn.Module = Concat(
            Images(
                nn.Conv2d(2 * channels, channels, 1),
                bottleneck(channels, inner, kernel(scales[t]), 1, act),
                act(),
                scaled(nn.Conv2d(channels, 2 * latent[t], 1), levels),
            ),
            event_dim=3,
        )
        if markov:
            factor = scales[t + 1] // scales[t]
            both = Lift(Images(nn.Conv2d(latent[t + 1], channels * factor**2, 1), nn.PixelShuffle(factor)), both)
        return Conditional(both, families.normal, event_dim=3)

    top = Conditional(nn.Sequential(act(), nn.Conv2d(channels, 2 * latent[-1], 1)), families.normal, event_dim=3)
    encoder = TopDown(Climb(steps), [*map(posterior, range(levels - 1)), top], residual=True)

    offset = Offset(family.size * event_shape[0], height, width)
    if data is not None:
        _init_output_bias(offset, family, data)
    down_to_x = [*unsqueeze(channels, scales[0] // stem), body(stem)] if scales[0] > stem else []
    heads = [[*down_to_x, act(), *unsqueeze(family.size * event_shape[0], stem), offset]]
    heads += [[act(), _zero_init(nn.Conv2d(channels, 2 * z, 1))] for z in latent[:-1]]
    states: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for t, (z, scale, head) in enumerate(zip(latent, scales, heads, strict=True)):
        below = scales[t - 1] if t else scale
        coarser = unsqueeze(channels, scale // below) if scale > below else []
        enter = scaled(nn.Conv2d(z, channels, 1), levels)
        down = [body(scale), *coarser]
        if markov:
            head = [enter, *down, *head]
        else:
            states.append(Carry(Images(enter), Images(*down)))
        decoder.append(Conditional(Images(*head), families.normal if t else family, event_dim=3))
    grid = (latent[-1], height // scales[-1], width // scales[-1])
    model = VAE(_prior(prior, grid, encoder, components, event_shape, data), encoder, decoder, states or None)
    model.config = config
    return model


def build(config: dict[str, Any], **own: Any) -> VAE:
    """The model that a `model.config` describes, with fresh weights.

    Args:
        config: as `mlp` and `conv` record it.
        own: the custom parts it was made with, by name: likelihood, activation, block or prior. A module is copied.

    Raises:
        ValueError: a description that this version does not know; a custom part that is missing, or that the
            description does not contain.

    >>> build(mlp((3,), "normal", [2], [4], activation=nn.PReLU).config, activation=nn.PReLU).levels
    1
    """
    architecture = config.get("architecture")
    if architecture not in ("mlp", "conv"):
        raise ValueError(f"unknown architecture {architecture!r}; this version builds 'mlp' and 'conv'")
    make: Callable[..., VAE] = mlp if architecture == "mlp" else conv
    arguments = {key: value for key, value in config.items() if key != "architecture"}
    if architecture == "conv":
        arguments.setdefault("lines", False)
    unknown = arguments.keys() - inspect.signature(make).parameters.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"the description of the model is not of this version: {names} is unknown")
    asked = {key: value["own"] for key, value in arguments.items() if isinstance(value, dict) and "own" in value}
    for key in own.keys() - asked.keys():
        raise ValueError(
            f"{key} was given, but the custom parts of the model are {' and '.join(asked) or 'none'}: its {key} is "
            f"{arguments.get(key)!r}"
        )
    missing = asked.keys() - own.keys()
    if missing:
        parts = " and ".join(f"its {key}, {asked[key]}," for key in asked if key in missing)
        wanted = ", ".join(f"{key}=..." for key in asked if key in missing)
        raise ValueError(f"the model was made with custom parts: {parts} has to be given again, as {wanted}")
    given = {key: copy.deepcopy(value) if isinstance(value, nn.Module) else value for key, value in own.items()}
    if given:
        return make(**{**arguments, **given})
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(f"the description of the model is not of this version: {error}") from None


def default_latent(levels: int | None = None, architecture: str = "mlp") -> tuple[int, ...]:
    """The default width of z_1, ..., z_T: 40 for vectors, halved at each level; for grids 4 channels per level, and 32
    at the top.

    Args:
        levels: T; by default 1 for vectors, 2 for grids.
        architecture: "mlp" or "conv".

    >>> default_latent(3), default_latent(3, "conv")
    ((40, 20, 10), (4, 4, 32))
    """
    if architecture == "conv":
        return (*[4] * ((levels or 2) - 1), 32)
    return tuple(max(2, 40 >> t) for t in range(levels or 1))


def _to_config(value: Any) -> Any:
    """The entry in `model.config`: a name as it is, a custom part by its qualified name."""
    if isinstance(value, str):
        return value
    thing = value.func if isinstance(value, functools.partial) else value
    thing = thing if hasattr(thing, "__qualname__") else type(thing)
    return {"own": f"{thing.__module__}.{thing.__qualname__}"}


def _canonical_likelihood(likelihood: Likelihood, categories: int | None) -> tuple[Likelihood, int | None]:
    """The name of a family of the library, if it has one, and its number of categories; a custom family unchanged."""
    if isinstance(likelihood, families.CategoricalFamily):
        return "categorical", likelihood.size
    names = (name for name in LIKELIHOODS if getattr(families, name) is likelihood)
    return next(names, likelihood), categories


def _likelihood_and_input(
    likelihood: Likelihood, event_shape: Sequence[int], categories: int | None, data: Tensor | None
) -> tuple[Any, nn.Module]:
    """The family of p(x | z_1), and the input layer of the encoder."""
    if isinstance(likelihood, str):
        family: Any = _likelihood(likelihood, event_shape, categories)
    else:
        family = _check_custom_likelihood(likelihood, event_shape)
    if data is not None and not isinstance(data, Tensor):
        raise ValueError(no_tensor("data", data))
    if data is not None and data.shape[1:] != torch.Size(event_shape):
        raise ValueError(
            f"data: examples of shape {tuple(data.shape[1:])}, but event_shape={tuple(event_shape)}"
            f"{reshaping(data.shape, event_shape)}"
        )
    read: nn.Module = (LogStandardize if isinstance(family, families.StandardizedCounts) else Standardize)(*event_shape)
    if isinstance(family, families.CategoricalFamily):
        read = OneHot(family.size, len(event_shape))
    if data is not None:
        _standardize(read, family, data, own=not isinstance(likelihood, str))
    return family, read


def _check_custom_likelihood(family: Any, event_shape: Sequence[int]) -> Any:
    """A custom family, checked; a location-scale family of the library is wrapped for standardised data."""
    if isinstance(family, type):
        raise ValueError(f"likelihood={family.__name__}: got a class, wanted a family, such as {family.__name__}()")
    size = getattr(family, "size", None)
    if not callable(family) or not isinstance(size, int) or size < 1:
        raise ValueError(
            f"likelihood={family!r}: wanted one of {', '.join(LIKELIHOODS)}, or a family, that is a callable "
            "(phi, event_dim) -> Distribution with an attribute size, how many numbers it reads per element"
        )
    if type(family) in LOCATION_SCALE:
        return families.standardized(family, torch.zeros(*event_shape), torch.ones(*event_shape))
    return family


def _prior(
    name: Prior, event_shape: tuple[int, ...], encoder: Any, components: int, read: Sequence[int], data: Tensor | None
) -> nn.Module:
    """p(z_T), z_T of `event_shape`, by name or a custom one; `read` is the shape of the input of q(z_T | .)."""
    if isinstance(name, nn.Module):
        return name
    if callable(name):
        prior = name(*event_shape)
        if not isinstance(prior, nn.Module):
            raise ValueError(
                f"prior{event_shape} made {type(prior).__name__}, wanted a torch.nn.Module whose call returns p(z_T)"
            )
        return prior
    if name == "standard":
        return StandardNormal(*event_shape)
    if name == "mixture":
        return MixtureOfNormals(components, *event_shape)
    if name == "vamp":
        top_down = isinstance(encoder, TopDown)
        first = encoder.network[0] if top_down else encoder[0].network
        reads_x = top_down or len(encoder) == 1
        if reads_x and any(isinstance(module, OneHot) for module in first.modules()):
            raise ValueError("a VampPrior learns its pseudo-inputs, and categories cannot be learned; use 'mixture'")
        if reads_x and data is not None:
            inputs = data[torch.arange(components) % len(data)]
            unit = next(part for part in first.modules() if isinstance(part, Standardize))
        else:
            inputs, unit = torch.randn(components, *read), Standardize(*read)
        return VampPrior(encoder if top_down else encoder[-1], inputs, unit)
    if name == "flow":
        try:
            import zuko
        except ImportError:
            raise ValueError("the prior 'flow' needs the package zuko: pip install zuko") from None
        flow = zuko.flows.MAF(math.prod(event_shape), transforms=2, hidden_features=(128, 128))
        return Shaped(flow, *event_shape) if len(event_shape) > 1 else flow
    raise ValueError(f"unknown prior {name!r}; wanted one of {', '.join(PRIORS)}, or a callable that makes a module")


@torch.no_grad()
def _zero_init(layer: Any) -> Any:
    """The layer, zero-initialised, so that p(z_t | s_{t+1}) begins at N(0, I)."""
    layer.weight.zero_()
    layer.bias.zero_()
    return layer


@torch.no_grad()
def _init_output_bias(last: Any, family: Any, data: Tensor) -> None:
    """Sets the last layer's bias so that p(x | z_1) begins at the marginals of the data. Whether these are in the
    family's support is checked elsewhere.
    """
    mean = data.mean(0)
    if isinstance(family, families.BernoulliFamily):
        start = torch.logit((data.sum(0) + 0.5) / (len(data) + 1), eps=1e-6)
    elif isinstance(family, families.CategoricalFamily):
        counts = torch.stack([(data == k).sum(0) for k in range(family.size)]) + 0.5
        start = (counts / counts.sum(0)).log()
    elif isinstance(family, families.DiscretizedLogisticFamily):
        half = (family.bins - 1) / 2
        spread = data.std(0, correction=0).clamp(min=1.0) * math.sqrt(3) / math.pi  # of a logistic of that variance
        start = torch.stack([mean / half - 1, (spread / half).log()])
    elif isinstance(family, families.StandardizedCounts):
        start = _counts_start(family, data)
    else:
        return
    last.bias.copy_(start.flatten().view_as(last.bias))


def _counts_start(family: families.StandardizedCounts, data: Tensor) -> Tensor:
    """Sets the units of the rate by the moments of the data; returns the output's bias, by which the rate begins at the
    mean, and the r of a negative binomial where it gives the variance, which is at least 1.01 times the mean.
    """
    mean, spread, wild = units_of(data)
    warn_of(wild)
    mean = mean.clamp(min=1e-2)
    bound: float = family.family.bound  # type: ignore[assignment]
    family.loc.copy_(families.inverse_positive(mean, bound))
    family.scale.copy_((torch.maximum(spread, mean.sqrt()) / mean).clamp(max=1))
    excess = spread.square() - mean
    r = torch.where(excess > 0, mean.square() / excess, math.inf).clamp(min=1e-2).minimum(100 * mean)
    return torch.stack([torch.zeros_like(r), families.inverse_positive(r, bound)][: family.size])


def _scales(event_shape: Sequence[int], levels: int) -> list[int]:
    """Powers of two that divide both sides and leave a grid of at least 4 x 4 (else 1), and a single cell, spread
    evenly over the levels from the top. Where more than 16 cells a side would be left, other factors, too; and no
    single cell, if that would still take hundreds of weights for each pair of channels.
    """
    sides = event_shape[1:]
    grids = _factors(sides, only_two=True)
    if max(sides, default=1) > 16 * grids[-1]:
        grids = _factors(sides, only_two=False)
    if len(set(sides)) == 1 and sides[0] <= 16 * grids[-1]:
        grids.append(sides[0])
    return [grids[-1 - t * len(grids) // levels] for t in reversed(range(levels))]


def _factors(sides: Sequence[int], only_two: bool) -> list[int]:
    """Products of the prime factors that both sides share, the smallest first, that leave 4 cells a side; else 1."""
    common, product, found, prime = math.gcd(*sides), 1, [], 2
    while common > 1 and not (only_two and prime > 2):
        if common % prime:
            prime += 1
            continue
        common, product = common // prime, product * prime
        if any(side < 4 * product for side in sides):
            break
        found.append(product)
    return found or [1]


def _check_channels_first(event_shape: Sequence[int]) -> None:
    if len(event_shape) == 3 and event_shape[2] in (1, 3, 4) and min(event_shape[:2]) > 4:
        height, width, channels = event_shape
        raise ValueError(
            f"examples of shape {tuple(event_shape)} look like images with the channels last; transpose them to "
            f"{(channels, height, width)}: x.permute(0, 3, 1, 2), or in numpy x.transpose(0, 3, 1, 2)"
        )


def _check_scales(event_shape: Sequence[int], latent: Sequence[int], stem: int, scales: Sequence[int]) -> None:
    if len(event_shape) != 3:
        hint = "; for grey images give x[:, None], with one channel" if len(event_shape) == 2 else ""
        raise ValueError(f"event_shape={list(event_shape)}: convolutions need images, (C, H, W){hint}")
    if len(scales) != len(latent):
        raise ValueError(f"scales={list(scales)}: wanted one for each of {len(latent)} levels")
    for below, scale in pairwise([1, stem, *scales]):
        if scale % below or any(side % scale for side in event_shape[1:]):
            raise ValueError(
                f"stem={stem}, scales={list(scales)}: {scale} is not a multiple of {below} that divides "
                f"{event_shape[1]} x {event_shape[2]}"
            )


def _likelihood(name: str, event_shape: Sequence[int], categories: int | None) -> families.Family:
    if name not in LIKELIHOODS:
        lower = name.lower()
        nearest = [MEANT[lower]] if lower in MEANT else difflib.get_close_matches(lower, LIKELIHOODS, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown likelihood {name!r}; {hint}wanted one of {', '.join(LIKELIHOODS)}")
    if name == "categorical":
        if categories is None:
            raise ValueError("the categorical likelihood needs its number of categories")
        return families.categorical(categories)
    family = getattr(families, name)
    if name == "normal_per_dimension":
        family = family(*event_shape)
    elif not isinstance(family, families.Family):
        family = family()
    if name in CONTINUOUS:
        return families.standardized(family, torch.zeros(*event_shape), torch.ones(*event_shape))
    return families.StandardizedCounts(family, *event_shape) if name in COUNTS else family


def _standardize(read: nn.Module, family: Any, data: Tensor, own: bool) -> None:
    """Sets how the encoder reads x, and the units of a location-scale likelihood."""
    loc, scale = _units(read, family, data, own)
    for module in (read, family):
        if isinstance(module, Standardize | families.Standardized):
            module.loc.copy_(loc)
            module.scale.copy_(scale)


def _units(read: nn.Module, family: Any, data: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """The location and the spread of x. For densities the spread is each element's own. Otherwise columns have their
    own, and pixels one, so that a pixel that hardly varies is not amplified; elements of two values are pixels.
    """
    constant = (data == data[0]).all(0)  # a rounded spread need not be zero
    density = isinstance(family, families.Standardized) and not isinstance(family.family, families.NormalFixed)
    if density and len(data) == 1:
        raise ValueError("one training example has no spread to standardise by; give more")
    if density and bool(constant.any()):
        raise ValueError(
            f"{int(constant.sum())} of {constant.numel()} elements of x are constant in the training data, the first "
            f"at {constant.nonzero()[0].tolist()}: a continuous density has no upper bound there; remove them, or use "
            "a likelihood of discrete values"
        )
    x = torch.log1p(data) if isinstance(read, LogStandardize) else data
    columns = data.dim() == 2 and (own or isinstance(family, (families.StandardizedCounts, *LEVELS)))
    if not density and not columns:
        spread = x.std(correction=0)
        return x.mean(0), torch.where(spread > 0, spread, 1.0).expand(x.shape[1:])
    loc, scale, wild = units_of(x)
    warn_of(wild)
    return loc, torch.where(constant, 1.0, scale)


def _canonical_activation(activation: Activation) -> Activation:
    """The name of a known activation of torch.nn; any other unchanged."""
    return next((name for name in ACTIVATIONS if getattr(nn, name) is activation), activation)


def _activation(name: Activation) -> Callable[[], nn.Module]:
    if not isinstance(name, str):
        try:
            made = name() if callable(name) and not isinstance(name, nn.Module) else None
        except TypeError:  # a function of x, such as torch.relu
            made = None
        if not isinstance(made, nn.Module):
            raise ValueError(f"activation={name!r}: wanted a callable that makes a module, such as torch.nn.PReLU")
        return name
    if name not in ACTIVATIONS:
        lower = {known.lower(): known for known in ACTIVATIONS}
        nearest = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[nearest[0]]!r}? " if nearest else ""
        raise ValueError(f"activation={name!r}: {hint}wanted one of torch.nn's {', '.join(ACTIVATIONS)}")
    return getattr(nn, name)


def _check_widths(**named: Any) -> None:
    """Checks shapes and widths: sequences of whole numbers, from 1 to what an int32 holds."""
    for name, widths in named.items():
        if isinstance(widths, Tensor):
            shape = tuple(widths.shape)
            raise ValueError(f"{name}: got a tensor of shape {shape}, wanted numbers, such as {shape[1:]}")
        if isinstance(widths, int):
            of = "one for each level" if name in ("latent", "scales") else "one for each dimension"
            of = "one for each layer" if name == "hidden" else of
            raise ValueError(f"{name}={widths}: wanted a sequence, {of}, such as {name}=({widths},)")
        if not isinstance(widths, Sequence) or isinstance(widths, str):
            raise ValueError(f"{name}={widths!r}: wanted a sequence of positive whole numbers")
        if any(not isinstance(width, int) or not 1 <= width < 2**31 for width in widths) or (
            name != "hidden" and not widths
        ):
            raise ValueError(f"{name}={list(widths)}: wanted positive whole numbers, at least one")
