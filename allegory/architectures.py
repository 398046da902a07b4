r"""Architectures: plain functions that put networks, families and a prior together and return a `VAE`.

    mlp     multilayer perceptrons between vectors of latents: bottom-up or top-down, a Markov chain or not
    conv    a top-down ladder of convolutions for images, its latents grids z_t of (C_t, H_t, W_t)
    diffusion   a chain with a fixed encoder that adds noise, of any number of levels, or infinitely many
    masked_diffusion    the same of categories, with an encoder that masks them

Each records its arguments in `model.config`, plain JSON, from which `build` makes the same architecture again; with
the weights, that is all a saved run needs. A family of the library is recorded with its arguments; a custom family,
activation, block or prior by name only, {"own": "module.name"}, and has to be passed again: nothing is imported by a
name found in a file.

In a ladder p(z_t | s_{t+1}) starts at N(0, I) at every level, and a residual posterior near it; with the residual
blocks scaled by their number, depth has no cost at initialisation. The output's bias starts at the data's marginals,
see `allegory.initialization`, so that training does not have to learn the mean first.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from allegory import activations, families, likelihoods, priors
from allegory.activations import Activation, make_activation
from allegory.columnar import ColumnsFamily, ObservedFamily
from allegory.conditional import Conditional
from allegory.convolutions import ConvLadder, as_images, check_channels_first, check_scales, choose_scales
from allegory.diffusion import Denoising, Diffusion, DiffusionPrior, NoisedEncoder, NoiseSchedule
from allegory.discrete import OneHotFamily
from allegory.elements import Bins, Categories, Elements, Reals, TwoValues
from allegory.exposure import in_proportion
from allegory.factors import AroundFactors, begin_at_factors
from allegory.given import Reading, check_sizes
from allegory.initialization import check_shape, init_output_bias, init_units
from allegory.ladder import TopDown
from allegory.likelihoods import (
    Likelihood,
    first_category,
    input_width,
    make_family,
    make_input,
    output_width,
)
from allegory.masked import MaskedDiffusion, Unmasking, Values
from allegory.model import VAE
from allegory.networks import (
    ColumnSet,
    Concat,
    Denoiser,
    ImageDenoiser,
    Offset,
    Standardize,
    Sum,
    zeroed,
)
from allegory.perceptrons import Perceptrons
from allegory.priors import Prior, make_prior
from allegory.support import check_support
from allegory.trees import TreeFamily

__all__ = [
    "ACTIVATIONS", "DIFFUSED", "LATENT_FAMILIES", "LIKELIHOODS", "PRIORS", "build", "conv", "default_latent",
    "diffusion", "is_of_any_size", "masked_diffusion", "mlp", "resize",
]  # fmt: skip

PRIORS = priors.NAMES
"""Names of priors p(z_T)."""

ACTIVATIONS = activations.NAMES
"""Names of activations, classes of torch.nn."""

LATENT_FAMILIES = ("normal", "bernoulli", "one_hot")
"""Names of families of z_t, see `allegory.families`."""

LIKELIHOODS = likelihoods.NAMES
"""Names of families of p(x | z_1), see `allegory.families`."""

DIFFUSED = ("bernoulli", "categorical", "discretized", "normal")
"""What x of a diffusion consists of, see `allegory.elements`."""

MAX_PIXELS = 2**22  # that a start is looked for in, where all places have the same

Net: TypeAlias = str | nn.Module | Callable[[Sequence[int], int], nn.Module]
Block: TypeAlias = str | Callable[[int, int], nn.Module]


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
    lowest: int | None = None,
    row_names: Sequence[Any] | None = None,
    offset: Tensor | None = None,
    gaps: bool | None = None,
    given: Sequence[int] | None = None,
    given_data: Tensor | None = None,
    set_features: int | None = None,
    exposure: int | None = None,
    factors: bool = False,
    latent_family: str | Sequence[str] = "normal",
    latent_categories: int = 8,
    prior_levels: int = 10,
) -> VAE:
    """T = len(latent) levels of vectors, each link a multilayer perceptron. With T > 1 latents are read through
    `allegory.networks.Asinh`, so that deep chains stay stable at large learning rates.

    Args:
        event_shape: of x.
        likelihood: one of `LIKELIHOODS`, the family of p(x | z_1); or a custom family: a `families.Family`, or any
            callable (phi, event_dim) -> Distribution with an integer attribute `size`, how many numbers it reads per
            element of x. With `families.columns` the model begins as independent columns, each at its marginal optimum.
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
            returns the distribution of z_T, or a callable (*event_shape of z_T) -> such a module. Or "diffusion", with
            one level of latents: more levels above it, to which noise is added, and one denoiser, see
            `allegory.diffusion`; it is a longer chain, whose every number is as honest as of the others.
        components: K of a mixture or a VampPrior.
        data: (N, *event) training data. Sets the constants by which x is standardised (what the encoder reads, and for
            a likelihood among the library's location-scale families, the normals and Student's t, the units of its mu
            and sigma), the output's bias, and pseudo-inputs; see `allegory.units`. The sigma of `normal_fixed` is in
            units of x. Any other custom family works in the units of x: the encoder reads standardised x, the family
            is unchanged.
        lowest: the first of the categories; by default 0, or the smallest number of `data` if it is negative.
        row_names: (N,) what messages call the rows of `data`, such as `Data.row_names`; by default their numbers.
        offset: (*event) what was taken off `data`, such as `Data.offset`: messages give values with it.
        gaps: whether x may be NaN: what is missing is left out of the likelihood, and the encoder reads what is there,
            see `allegory.gaps`. By default where `data` have a gap. A table, `families.columns`, always may.
        given: shape of what is given, (k,), for a model of p(x | c); each network reads c beside its own context. By
            default that of `given_data`. The prior does not read it, unless it is one of your own that does.
        given_data: (N, k) c of the training data, or of more rows, of which the first are those of `data`. Sets the
            constants by which it is standardised, columns of 0 and 1 as they are; see `allegory.given`.
        set_features: of a table, the width of the features of a set encoder, see `allegory.networks.ColumnSet`: for
            many columns of which few are observed. By default the columns are read side by side.
        exposure: of counts: which of the k numbers that are given is the size over which they were made. Their mean is
            in proportion to it, see `allegory.exposure`; encoders read its logarithm, decoders do not read it.
        factors: of a table, whether it begins as a factor analysis of its numbers, with categories and points
            independent of these, rather than as independent columns: both networks are then what is added to its
            linear maps, see `allegory.factors`. It helps most where rows are few, or have gaps.
        latent_family: of z_1, ..., z_T, one of `LATENT_FAMILIES` for all, or one for each. Discrete latents,
            "bernoulli" and "one_hot", want the objective `loo` or `vimco`; of a discrete z_T the standard prior is of
            independent elements, uniform at first, and learned.
        latent_categories: k of one_hot latents; `latent` is how many of them there are.
        prior_levels: how many levels a prior by diffusion adds.

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
    likelihood, gaps = _gaps(likelihoods.in_columns(likelihood, event_shape), gaps, data)
    lowest = first_category(likelihood, lowest, data)
    likelihood, categories = likelihoods.canonical(likelihood, categories)
    k, reading = _reading(given, given_data, prior, exposure)
    config = dict(
        architecture="mlp", event_shape=list(event_shape), likelihood=_to_config(likelihood), latent=list(latent),
        hidden=list(hidden), categories=categories, activation=_to_config(activations.canonical(activation)),
        dropout=dropout, block=_to_config(block), top_down=top_down, residual=residual, markov=markov,
        prior=_to_config(prior), components=components, **_latent_config(latent_family, latent_categories),
        **_said(
            lowest=lowest or None, gaps=gaps or None, given=[k] if k else None, set_features=set_features or None,
            factors=factors or None, exposure=exposure, prior_levels=prior_levels if prior == "diffusion" else None,
        ),
    )  # fmt: skip
    laws = _latent_families(latent_family, latent_categories, len(latent))
    latent = [law.k * d if isinstance(law, OneHotFamily) else d for law, d in zip(laws, latent, strict=True)]
    sizes = None if exposure is None or given_data is None else given_data[:, exposure]
    sizes = sizes if sizes is None or data is None else sizes[: len(data)]  # data may be the first rows alone
    family, read = _likelihood_and_input(
        likelihood, event_shape, categories, lowest, gaps, data, row_names, offset, sizes
    )
    event_dim, outputs, rest = len(event_shape), output_width(family, event_shape), event_shape[1:]
    if exposure is not None and not torch.zeros(()).is_meta:
        in_proportion(family(torch.zeros(1, outputs, *rest), event_dim), torch.ones(1))  # counts, or an error
    table = isinstance(family, ColumnsFamily)  # begins as independent columns: q is the prior, and p the output's bias
    if set_features and not table:
        raise ValueError(f"set_features={set_features}: a set encoder reads the columns of a table, families.columns")
    if factors:
        _check_factors(table, top_down or not markov or laws[0] is not families.normal, k, set_features)
    input_layer = ColumnSet(read, set_features) if set_features else read
    first = nn.Sequential(input_layer, nn.Flatten(-event_dim))
    inputs = set_features or input_width(input_layer, event_shape[0]) * math.prod(rest)
    levels = Perceptrons(
        latent, laws, hidden, make_activation(activation), dropout, block, markov, table, reading,
        reading if reading is None or exposure is None else _without_size(reading),
    )  # fmt: skip
    encoder: TopDown | list[nn.Module]
    if top_down:
        encoder = levels.ladder(first, inputs, residual)
    elif factors:
        encoder = levels.chain(first, inputs + latent[0], lambda net: AroundFactors(net, read, family, latent[0]))
    else:
        encoder = levels.chain(first, inputs)
    to_x = levels.output(outputs * math.prod(rest))
    if data is not None:
        init_output_bias(to_x[-1], family, data, sizes)
    whole = _with_factors(to_x, first, encoder, family, latent[0], data) if factors else to_x
    to_event = levels.of_p(nn.Sequential(whole, nn.Unflatten(-1, (outputs, *rest))))
    decoder = [Conditional(to_event, family, event_dim, exposure), *levels.decoders(flat=top_down)]
    if prior == "diffusion":
        if len(latent) > 1 or top_down or k or laws[0] is not families.normal:
            raise ValueError("prior='diffusion': wanted one level of normal latents, latent=(D,), and nothing given")
        model = _with_diffusion(encoder, decoder, latent[0], prior_levels)
    else:
        read_by_top = event_shape if top_down or len(latent) == 1 else latent[-2:-1]
        p_top = make_prior(prior, (latent[-1],), encoder, components, read_by_top, data, laws[-1])
        model = VAE(p_top, encoder, decoder, None if markov else [Concat() for _ in latent])
    model.config = config
    return model


def _with_factors(
    to_x: nn.Sequential, first: nn.Module, encoder: Any, family: ColumnsFamily, latent: int, data: Tensor | None
) -> nn.Module:
    """The network of p(x | z_1) beside the linear map of a factor analysis, at which both p and q begin."""
    locations = zeroed(nn.Linear(latent, family.size))
    if data is not None:
        begin_at_factors(first, encoder[0].network[-1], to_x[-1], locations, family, data)
    return Sum([to_x, locations])


def _with_diffusion(encoder: Any, decoder: list[nn.Module], latent: int, levels: int) -> VAE:
    """A VAE of one level whose prior is a diffusion: more levels of the chain."""
    _check_counts(prior_levels=levels)
    denoiser = Denoiser((latent,), max(64, 2 * latent), 2, 2 * latent, waves=0)
    schedule = NoiseSchedule(5.0, -5.0)
    denoising = Denoising(denoiser, Reals(latent), schedule, levels, predicts="v", spread=True)
    return VAE(DiffusionPrior(denoising), NoisedEncoder(encoder[0], denoising), [*decoder, *denoising])


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
    padded: bool = False,
    lowest: int | None = None,
    row_names: Sequence[Any] | None = None,
    offset: Tensor | None = None,
    gaps: bool | None = None,
    given: Sequence[int] | None = None,
    given_data: Tensor | None = None,
    posterior_blocks: int = 1,
    any_size: bool = False,
) -> VAE:
    """A ladder of T levels of convolutions, as many as `latent` has numbers above 0, with a state through which p(z_t |
    z_{t+1}, ..., z_T) sees all levels above, and a residual top-down posterior: a small relative of Child's (2021) very
    deep VAE. With one level it is the plain convolutional VAE.

    Args:
        event_shape: of x, (C, H, W), or (H, W) of grey images.
        likelihood: one of `LIKELIHOODS`, the family of p(x | s_1), or a custom family; as in `mlp`.
        latent: channels of z_1, ..., z_T. Between them, or below, 0 is a grid with residual blocks and no latents, so
            that (0, 0, 4, 0, 0, 32) has the blocks of six levels and the latents of two.
        scales: the downsampling factor of each of these grids, level 1 first, each a multiple of the one below; by
            default they are spread evenly over the powers of two that leave a grid of at least 4 x 4 and, at the
            top, a single cell: z_T is a vector where x is square. A side of one cell stays as it is.
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
        padded: whether sides that the scales do not divide are padded for the networks; the likelihood is of x alone.
            Without scales it is decided with them: primes such as 29 x 31 are.
        lowest, row_names, offset, gaps: as in `mlp`.
        given, given_data: as in `mlp`. Each network reads c as a shift of its channels, by a linear map, before its
            residual blocks; p(z_t | ...) and p(x | s_1) have `blocks` more of them for it.
        posterior_blocks: residual blocks in each posterior below the top, where the features of x and the state meet.
            With 0 a level costs little beside its blocks up and down, which have said what there is to say.
        any_size: whether nothing in the model belongs to a place or to a size, so that `resize` gives it for images of
            another size. The top is a grid then, and what p(x | s_1) begins with is the same everywhere.

    Raises:
        ValueError: as `mlp`; data that are not images; scales that do not divide their sides.

    >>> model = conv((1, 8, 8), "bernoulli", latent=[2, 2, 4], scales=[2, 2, 4], channels=8, blocks=1)
    >>> [tuple(q.event_shape) for q in model.encode(torch.zeros(1, 1, 8, 8))]
    [(2, 4, 4), (2, 4, 4), (4, 2, 2)]
    """
    _check_widths(event_shape=event_shape)
    _check_widths(0, latent=latent)
    if not latent[-1]:
        raise ValueError(f"latent={list(latent)}: the last is the top, z_T, which needs latents; wanted it positive")
    if data is not None:
        check_channels_first(event_shape)
    images = as_images(event_shape)
    if scales is not None:
        _check_widths(scales=scales)
    if scales is None:
        scales, padded = choose_scales(images, len(latent), single=not any_size)
    scales = list(scales)
    stem = math.gcd(scales[0], 4) if stem is None else stem
    padded = padded or (any_size and any(side % scales[-1] for side in images[1:]))
    if any_size and prior != "standard":
        raise ValueError(f"any_size with prior={prior!r}: that prior is over a grid of one size; wanted 'standard'")
    likelihood, gaps = _gaps(likelihoods.in_columns(likelihood, event_shape), gaps, data)
    lowest = first_category(likelihood, lowest, data)
    likelihood, categories = likelihoods.canonical(likelihood, categories)
    k, reading = _reading(given, given_data, prior)
    config = dict(
        architecture="conv", event_shape=list(event_shape), likelihood=_to_config(likelihood), latent=list(latent),
        scales=scales, stem=stem, channels=channels, blocks=blocks, categories=categories, dropout=dropout,
        markov=markov, prior=_to_config(prior), components=components, checkpointed=checkpointed,
        **_said(lowest=lowest or None, padded=padded or None, gaps=gaps or None, given=[k] if k else None),
        **_said(any_size=any_size or None),
    )  # fmt: skip
    name = activations.canonical(activation)
    if name != "GELU":  # omitted where it is the default: earlier runs do not record it, and have to resume
        config["activation"] = _to_config(name)
    if posterior_blocks != 1:
        config["posterior_blocks"] = posterior_blocks
    act = make_activation(activation)
    _check_widths(scales=scales)
    _check_counts(stem=stem, channels=channels, blocks=blocks)
    _check_counts(0, posterior_blocks=posterior_blocks)
    check_scales(images, latent, stem, scales, padded)
    channels_of_x, height, width = images
    ladder = ConvLadder(
        latent, scales, stem, (height, width), channels, blocks, act, dropout, markov, checkpointed, lines, reading,
        posterior_blocks, any_size,
    )  # fmt: skip
    if any(ladder.kernel(scale) in ((1, 3), (3, 1)) for scale in (stem, *scales)):
        config["lines"] = True
    place = tuple(event_shape)  # the shape of what belongs to a place
    if any_size:
        data, row_names = _as_pixels(data, event_shape, row_names)
        place = (*event_shape[:-2], 1, 1)
    family, input_layer = _likelihood_and_input(likelihood, place, categories, lowest, gaps, data, row_names, offset)
    outputs = output_width(family, place) // (place[0] if len(place) == 2 else 1)
    bias = Offset(outputs, *place[-2:])
    if data is not None:
        init_output_bias(bias, family, data)
    read: nn.Module = input_layer
    write: nn.Module = bias
    if len(event_shape) == 2:  # the first dimension of an event is that by which a family counts
        read = nn.Sequential(input_layer, nn.Unflatten(-2, (-1, height)))
        write = nn.Sequential(bias, nn.Flatten(-3, -2))
    encoder = ladder.encoder(read, input_width(input_layer, channels_of_x))
    decoders, states = ladder.decoders(family, outputs, write, len(event_shape))
    p_top = make_prior(prior, ladder.grid, encoder, components, event_shape, data)
    model = VAE(p_top, encoder, decoders, states or None)
    model.config = config
    return model


def resize(model: VAE, event_shape: Sequence[int], **own: Any) -> VAE:
    """The model, with the same weights, for images of another size. Its numbers are those of a model that never saw
    such a size: honest likelihoods, of what was learned at the other.

    Args:
        model: of `conv(..., any_size=True)`.
        event_shape: of x, (C, H, W) or (H, W).
        own: the custom parts it was made with, as of `build`.

    Raises:
        ValueError: any other model, unless its size is this one; another number of channels.

    >>> model = conv((1, 8, 8), "bernoulli", latent=[2], channels=8, blocks=1, any_size=True)
    >>> resize(model, (1, 20, 30)).sample(2).shape
    torch.Size([2, 1, 20, 30])
    """
    _check_widths(event_shape=event_shape)
    config = model.config or {}
    if list(event_shape) == config.get("event_shape"):
        return model
    if not is_of_any_size(model):
        raise ValueError(f"{type(model).__name__}: wanted a model of architectures.conv(..., any_size=True)")
    if len(event_shape) != len(config["event_shape"]) or list(event_shape[:-2]) != config["event_shape"][:-2]:
        raise ValueError(f"event_shape={list(event_shape)}: the model is of {config['event_shape']}, of any size")
    with torch.random.fork_rng([]):
        resized = build(config | {"event_shape": list(event_shape), "padded": False}, **own)
    resized = resized.to(next(model.parameters()))
    resized.load_state_dict(model.state_dict())
    return resized.train(model.training)


def is_of_any_size(model: VAE) -> bool:
    """Whether `resize` gives the model for images of another size."""
    return bool((model.config or {}).get("any_size"))


def _as_pixels(
    data: Tensor | None, event_shape: Sequence[int], row_names: Sequence[Any] | None
) -> tuple[Tensor | None, Sequence[Any] | None]:
    """(n, C, 1, 1) pixels of evenly spaced examples, each for itself, and the names of the rows they are of."""
    if data is None:
        return None, None
    check_shape(data, event_shape)
    each = math.prod(event_shape[-2:])
    step = math.ceil(len(data) * each / MAX_PIXELS)
    rows = range(0, len(data), step)
    pixels = data[::step] if len(event_shape) == 2 else data[::step].movedim(1, -1)
    names = [row if row_names is None else row_names[row] for row in rows for _ in range(each)]
    return pixels.reshape(-1, *event_shape[:-2], 1, 1), names


def diffusion(
    event_shape: Sequence[int],
    likelihood: str = "normal",
    levels: int | None = 100,
    net: Net | None = None,
    predicts: str | None = None,
    log_snr: Sequence[float] = (7.0, -7.0),
    learned: bool = True,
    spread: bool = False,
    width: int | None = None,
    blocks: int | None = None,
    dropout: float = 0.0,
    categories: int | None = None,
    bins: int = 256,
    lowest: int | None = None,
    data: Tensor | None = None,
    row_names: Sequence[Any] | None = None,
    offset: Tensor | None = None,
    cell: int | None = None,
) -> Diffusion:
    """A diffusion model as a VAE of T levels, each of x's shape, with a fixed encoder and one denoiser for all decoders
    (Kingma et al. 2021); see `allegory.diffusion`. Train it with the objective `elbo`.

    Args:
        event_shape: of x.
        likelihood: one of `DIFFUSED`: two values, categories, whole numbers 0, ..., bins - 1 in order, or real numbers.
        levels: T, one or more; None for infinitely many: then a number of levels is asked for where one is needed.
        net: the denoiser: "mlp", `allegory.networks.Denoiser`, or "conv", `ImageDenoiser`, the default for images; a
            module (z, log_snr) -> output, z: (*batch, *shape), log_snr: (*batch); or a callable (shape of z, channels
            of the output) -> such a module.
        predicts: what it puts out, from which follows the guess of what has no noise: "v" = alpha eps - sigma y, "eps"
            the noise, "x" that guess itself, or where x is "bernoulli" or "categorical" the logits that are added to
            those that an element's own noise leaves it: the net reads the mean by these, not z, and the model begins as
            independent elements. By default "x" of these two, "v" of the others.
        log_snr: log signal-to-noise ratios of level 1 and of level T.
        learned: whether they, and the ratios between them, are learned.
        spread: whether p(z_t | z_{t+1}) has the variance of the guess, not that of q alone: a better bound where
            levels are few.
        width, blocks: of the denoiser; by default 512 and 3 for "mlp", 128 and 8 for "conv".
        dropout: in the denoiser, in training.
        categories: k of "categorical".
        bins: n of "discretized".
        lowest: the first of the categories, as in `mlp`.
        data: (N, *event) training data: the law of single elements begins at the marginals, real numbers are
            standardised by it.
        row_names, offset: as in `mlp`.
        cell: the side, in pixels, of the cells that "conv" reads images as, by default 4: smaller ones are better at
            the same width, and slower.

    Raises:
        ValueError: log SNR that rises; levels < 1; an unknown name; data that cannot be standardised.

    >>> model = diffusion((3,), "normal", levels=20, width=16, blocks=1)
    >>> model.sample(2, levels=5).shape, model.eval()(torch.zeros(4, 3)).kl.shape
    (torch.Size([2, 3]), torch.Size([20, 1, 4]))
    """
    _check_widths(event_shape=event_shape)
    if not isinstance(log_snr, Sequence) or len(log_snr) != 2:
        raise ValueError(f"log_snr={log_snr}: wanted two numbers, of level 1 and of level T, such as (7, -7)")
    lowest = first_category(likelihood, lowest, data)
    predicts = ("x" if likelihood in ("bernoulli", "categorical") else "v") if predicts is None else predicts
    net = _default_net(event_shape) if net is None else net
    width, blocks = _sizes(net, width, blocks)
    config = dict(
        architecture="diffusion", event_shape=list(event_shape), likelihood=likelihood, levels=levels,
        net=_to_config(net), predicts=predicts, log_snr=[float(end) for end in log_snr], learned=learned, spread=spread,
        width=width, blocks=blocks, dropout=dropout, categories=categories, bins=bins,
        **_said(lowest=lowest or None, cell=cell),
    )  # fmt: skip
    schedule = NoiseSchedule(float(log_snr[0]), float(log_snr[1]), learned, shaped=levels is not None)
    elements = _elements(event_shape, likelihood, categories, bins, lowest, data, row_names, offset)
    if data is not None:
        check_support(elements.law(torch.zeros(1, *elements.shape), torch.zeros(())), data, "data", row_names)
    of_law = predicts == "x" and elements.width > 0
    outputs = elements.shape[0] * (1 if of_law or not spread else 2)
    denoiser = _denoiser(net, elements.shape, outputs, width, blocks, dropout, cell)
    model = Diffusion(denoiser, elements, schedule, levels, predicts, spread)
    model.config = config
    return model


def masked_diffusion(
    event_shape: Sequence[int],
    likelihood: str = "bernoulli",
    levels: int | None = None,
    net: Net | None = None,
    width: int | None = None,
    blocks: int | None = None,
    dropout: float = 0.0,
    categories: int | Sequence[int] | None = None,
    lowest: int | None = None,
    data: Tensor | None = None,
    cell: int | None = None,
) -> MaskedDiffusion:
    """A masked diffusion of two values or of categories, which shows the elements of x little by little; see
    `allegory.masked`. Train it with the objective `elbo`.

    Args:
        event_shape: of x.
        likelihood: "bernoulli" or "categorical".
        levels: T, one or more; by default infinitely many, of which D matter, one for each element of x.
        net: "mlp", `allegory.networks.Denoiser`, or "conv", `ImageDenoiser`, the default for images; or a module
            (codes, log_odds) -> logits, see `MaskedDiffusion`; or a callable (shape of codes, channels of logits) ->
            such a module.
        width, blocks, dropout: as in `diffusion`.
        categories: k of "categorical"; or one for each channel, (C,), as the columns of a table have them.
        lowest: the first of the categories, as in `mlp`.
        data: (N, *event) training data, at whose marginals it begins.
        cell: as in `diffusion`.

    Raises:
        ValueError: levels < 1; an unknown name; data of another shape.

    >>> model = masked_diffusion((3,), "categorical", categories=[4, 2, 9], width=16, blocks=1)
    >>> model.sample(2).shape, model.eval()(torch.zeros(5, 3)).log_weight.shape
    (torch.Size([2, 3]), torch.Size([1, 5]))
    """
    _check_widths(event_shape=event_shape)
    if likelihood not in ("bernoulli", "categorical"):
        raise ValueError(f"likelihood={likelihood!r}: wanted 'bernoulli' or 'categorical' in a masked diffusion")
    if likelihood == "categorical" and categories is None:
        raise ValueError("the categorical likelihood needs its number of categories")
    if likelihood == "bernoulli" and isinstance(categories, Sequence):
        raise ValueError(f"categories={list(categories)} with 'bernoulli', which has two values; wanted 'categorical'")
    lowest = first_category(likelihood, lowest, data)
    net = _default_net(event_shape) if net is None else net
    width, blocks = _sizes(net, width, blocks)
    config = dict(
        architecture="masked_diffusion", event_shape=list(event_shape), likelihood=likelihood, levels=levels,
        net=_to_config(net), width=width, blocks=blocks, dropout=dropout,
        categories=list(categories) if isinstance(categories, Sequence) else categories,
        **_said(lowest=lowest or None, cell=cell),
    )  # fmt: skip
    if data is not None:
        _check_data(data, event_shape)
    k = 2 if likelihood == "bernoulli" or categories is None else categories
    values = Values(*event_shape, k=k, lowest=lowest, data=data)
    reads = (values.reads, *event_shape[1:])
    model = MaskedDiffusion(_denoiser(net, reads, values.writes, width, blocks, dropout, cell, waves=0), values, levels)
    if data is not None:
        check_support(Unmasking(data[:1], values, torch.ones(1)), data, "data")
    model.config = config
    return model


def _default_net(event_shape: Sequence[int]) -> str:
    return "conv" if len(event_shape) == 3 and min(event_shape[1:]) > 1 else "mlp"


def _sizes(net: Any, width: int | None, blocks: int | None) -> tuple[int, int]:
    """Width and blocks of a denoiser, by default those of its kind."""
    width = (128 if net == "conv" else 512) if width is None else width
    blocks = (8 if net == "conv" else 3) if blocks is None else blocks
    _check_counts(width=width, blocks=blocks)
    return width, blocks


def _denoiser(
    net: Net,
    shape: Sequence[int],
    outputs: int,
    width: int,
    blocks: int,
    dropout: float,
    cell: int | None,
    waves: int | None = None,
) -> nn.Module:
    """The network of a diffusion, which reads (*batch, *shape) and puts out so many channels."""
    if cell is not None:
        _check_counts(cell=cell)
        if net != "conv":
            raise ValueError(f"cell={cell} is of net='conv'; the denoiser is {net!r}")
    if isinstance(net, nn.Module):
        return net
    if not isinstance(net, str):
        return net(shape, outputs)
    if net == "mlp":
        return Denoiser(shape, width, blocks, outputs, waves, dropout)
    if net != "conv":
        raise ValueError(f"net={net!r}: wanted 'mlp', 'conv', or a module (z, log_snr) -> output")
    if len(shape) != 3:
        raise ValueError(f"net='conv' reads images, (C, H, W), and x has {len(shape)} dimensions; wanted 'mlp'")
    return ImageDenoiser(shape, width, blocks, outputs, 4 if cell is None else cell, dropout)


def _check_data(data: Tensor, event_shape: Sequence[int]) -> None:
    """Of a diffusion."""
    init_units(Standardize(*event_shape), None, data, event_shape, False)  # checks its shape
    if not bool(torch.isfinite(data).all()):
        raise ValueError("data: some values are NaN or infinite; a diffusion has no gaps: remove or replace them")


def _elements(
    event_shape: Sequence[int],
    likelihood: str,
    categories: int | None,
    bins: int,
    lowest: int,
    data: Tensor | None,
    row_names: Sequence[Any] | None,
    offset: Tensor | None,
) -> Elements:
    """What x of a diffusion consists of."""
    if likelihood not in DIFFUSED:
        raise ValueError(f"likelihood={likelihood!r}: wanted one of {', '.join(DIFFUSED)} in a diffusion")
    if data is not None:
        _check_data(data, event_shape)
    if likelihood == "bernoulli":
        return TwoValues(*event_shape, data=data)
    if likelihood == "categorical":
        if categories is None:
            raise ValueError("the categorical likelihood needs its number of categories")
        return Categories(*event_shape, k=categories, lowest=lowest, data=data)
    if likelihood == "discretized":
        return Bins(*event_shape, bins=bins, data=data)
    standardize = Standardize(*event_shape)
    if data is not None:
        family = make_family("normal", event_shape, None)
        init_units(standardize, family, data, event_shape, False, row_names, offset)
    return Reals(*event_shape, standardize=standardize)


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
    makers: dict[Any, Callable[..., VAE]] = {
        "mlp": mlp,
        "conv": conv,
        "diffusion": diffusion,
        "masked_diffusion": masked_diffusion,
    }
    if architecture not in makers:
        raise ValueError(f"unknown architecture {architecture!r}; this version builds {', '.join(makers)}")
    make = makers[architecture]
    arguments = {key: value for key, value in config.items() if key != "architecture"}
    if architecture == "conv":
        arguments.setdefault("lines", False)
    unknown = arguments.keys() - inspect.signature(make).parameters.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"the description of the model is not of this version: {names} is unknown")
    asked = {key: value["own"] for key, value in arguments.items() if isinstance(value, dict) and "own" in value}
    described = {key for key, value in arguments.items() if isinstance(value, dict) and "family" in value}
    for key in own.keys() - asked.keys() - described:  # a family that is described may be given, too
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


def _reading(given: Any, given_data: Any, prior: Any, exposure: int | None = None) -> tuple[int, Reading | None]:
    """How many numbers are given, 0 for none, and how they are read."""
    if given is None and given_data is None:
        if exposure is not None:
            raise ValueError(
                f"exposure={exposure}: which of the numbers that are given; wanted given or given_data, too"
            )
        return 0, None
    given = tuple(given_data.shape[1:]) if given is None else given
    _check_widths(given=given)
    if len(given) != 1:
        raise ValueError(f"given={list(given)}: wanted the shape of vectors, (k,); flatten what is given, or embed it")
    if given_data is not None and (given_data.dim() != 2 or list(given_data.shape[1:]) != list(given)):
        raise ValueError(f"given_data: got shape {tuple(given_data.shape)}, wanted (N, {given[0]}), as given says")
    if prior == "vamp":
        raise ValueError(
            "prior='vamp' mixes posteriors q(z | u), which here read c, too; wanted another one with given"
        )
    if exposure is not None and not (hasattr(exposure, "__index__") and 0 <= exposure < given[0]):
        raise ValueError(f"exposure={exposure!r}: wanted which of the {given[0]} numbers that are given, from 0 on")
    reading = Reading(given[0], exposure)
    if given_data is not None and exposure is not None:
        check_sizes(given_data[:, exposure], "given_data")
    if given_data is not None:
        reading.fit(given_data)
    return given[0], reading


def _without_size(reading: Reading) -> Reading:
    """How decoders read what is given, all but the size of counts."""
    blind = copy.deepcopy(reading)
    blind.hidden = True
    blind.loc[reading.exposure], blind.scale[reading.exposure] = 0, 1
    return blind


def _to_config(value: Any) -> Any:
    """The entry in `model.config`: a name as it is, columns by their families, a tree by its edges; a custom part by
    its qualified name.
    """
    described = likelihoods.to_config(value)
    if isinstance(value, str) or described is not None:
        return described or value
    thing = value.func if isinstance(value, functools.partial) else value
    thing = thing if hasattr(thing, "__qualname__") else type(thing)
    module = "allegory.families" if thing.__module__ == "allegory.family" else thing.__module__  # as runs record it
    return {"own": f"{module}.{thing.__qualname__}"}


def _latent_families(latent_family: str | Sequence[str], categories: int, levels: int) -> list[families.Family]:
    """The family of each level."""
    names = [latent_family] * levels if isinstance(latent_family, str) else list(latent_family)
    wanted = f"wanted one of {', '.join(LATENT_FAMILIES)}, or one for each of {levels} levels"
    if len(names) != levels or not all(name in LATENT_FAMILIES for name in names):
        raise ValueError(f"latent_family={latent_family!r}: {wanted}")
    made = {"normal": lambda: families.normal, "bernoulli": lambda: families.bernoulli}
    return [made.get(name, lambda: families.one_hot(categories))() for name in names]


def _latent_config(latent_family: str | Sequence[str], categories: int) -> dict[str, Any]:
    names = [latent_family] if isinstance(latent_family, str) else list(latent_family)
    if set(names) == {"normal"}:
        return {}
    kept = {"latent_family": latent_family if isinstance(latent_family, str) else names}
    return kept | ({"latent_categories": categories} if "one_hot" in names else {})


def _gaps(likelihood: Likelihood, gaps: bool | None, data: Tensor | None) -> tuple[Likelihood, bool]:
    """The likelihood without gaps, and whether x has some. Columns have their own way to leave them out."""
    if isinstance(likelihood, ObservedFamily):
        return likelihood.family, True
    if isinstance(likelihood, ColumnsFamily) or (isinstance(likelihood, dict) and "columns" in likelihood):
        return likelihood, False
    found = isinstance(data, Tensor) and data.is_floating_point() and bool(data.isnan().any())
    if found and gaps is False:
        raise ValueError("data: some values are NaN, but gaps=False; leave it out, or fill the values in")
    return likelihood, found if gaps is None else gaps


def _check_factors(table: bool, ladder: bool, k: int, set_features: int | None) -> None:
    if not table or ladder or k or set_features:
        raise ValueError(
            "factors=True: a factor analysis is where a table begins, families.columns, in a chain of normal "
            "latents; wanted it without top_down, markov=False, given and set_features"
        )


def _said(**arguments: Any) -> dict[str, Any]:
    """Entries of `model.config` that are left out where there is nothing to say, as in the runs of earlier versions."""
    return {name: value for name, value in arguments.items() if value is not None}


def _likelihood_and_input(
    likelihood: Likelihood,
    event_shape: Sequence[int],
    categories: int | None,
    lowest: int,
    gaps: bool,
    data: Tensor | None,
    row_names: Sequence[Any] | None,
    offset: Tensor | None,
    sizes: Tensor | None = None,
) -> tuple[Any, nn.Module]:
    """The family of p(x | z_1), and the input layer of the encoder, in the units of the data."""
    family = make_family(likelihood, event_shape, categories, lowest, gaps)
    input_layer = make_input(family, event_shape)
    if data is not None:
        custom = not isinstance(likelihood, str | TreeFamily)
        init_units(input_layer, family, data, event_shape, custom, row_names, offset, sizes)
    return family, input_layer


def _check_widths(least: int = 1, /, **named: Any) -> None:
    """Checks shapes and widths: sequences of whole numbers, from `least` to what an int32 holds."""
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
        if any(not isinstance(width, int) or not least <= width < 2**31 for width in widths) or (
            name != "hidden" and not widths
        ):
            positive = "positive whole numbers" if least else "whole numbers from 0 on"
            raise ValueError(f"{name}={list(widths)}: wanted {positive}, at least one")


def _check_counts(least: int = 1, /, **named: Any) -> None:
    """Checks numbers that are not sequences."""
    for name, count in named.items():
        if not isinstance(count, int) or isinstance(count, bool) or not least <= count < 2**31:
            positive = "a positive whole number" if least else "a whole number from 0 on"
            raise ValueError(f"{name}={count!r}: wanted {positive}")
