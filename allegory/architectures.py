r"""Architectures: plain functions that put networks, families and a prior together and return a `VAE`.

Each records its arguments in `model.config`, plain JSON, from which `build` makes the same architecture again; with
the weights beside it, that is all a saved run needs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from allegory import families
from allegory.conditional import Conditional, StandardNormal
from allegory.model import VAE
from allegory.networks import OneHot, Standardize
from allegory.networks import mlp as perceptron

__all__ = ["ACTIVATIONS", "LIKELIHOODS", "build", "mlp"]

CONTINUOUS = ("normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t")
ACTIVATIONS = ("SiLU", "GELU", "ReLU", "LeakyReLU", "ELU", "Mish", "Softplus", "Tanh")
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


def mlp(
    event_shape: Sequence[int],
    likelihood: str = "normal",
    latent: Sequence[int] = (40,),
    hidden: Sequence[int] = (300, 300),
    categories: int | None = None,
    activation: str = "SiLU",
    dropout: float = 0.0,
    data: Tensor | None = None,
) -> VAE:
    """The Markovian chain of T = len(latent) levels, each link a multilayer perceptron, with N(0, I) at the top.

    Args:
        event_shape: of x.
        likelihood: one of `LIKELIHOODS`, the family of p(x | z_1).
        latent: width of z_1, ..., z_T.
        hidden: widths of the hidden layers of each encoder, from below; the decoders mirror them.
        categories: k of the categorical likelihood.
        activation: one of `ACTIVATIONS`, classes of torch.nn.
        dropout: in every hidden layer, while training. It pays where examples are few.
        data: (N, *event) training data. Sets the constants by which x is standardised: what the encoder reads, and
            for a continuous likelihood the units of its mu and sigma. Without it x is taken as it is.

    >>> model = mlp((1, 8, 8), "bernoulli", latent=[16, 4], hidden=[32])
    >>> model.sample(3).shape
    torch.Size([3, 1, 8, 8])
    """
    config = dict(
        architecture="mlp",
        event_shape=list(event_shape),
        likelihood=likelihood,
        latent=list(latent),
        hidden=list(hidden),
        categories=categories,
        activation=activation,
        dropout=dropout,
    )
    _check_widths(event_shape, latent, hidden)
    act = _activation(activation)
    event_dim, size = len(event_shape), math.prod(event_shape)
    family = _likelihood(likelihood, event_shape, categories)
    read: nn.Module = Standardize(*event_shape)
    inputs = size
    if isinstance(family, families.CategoricalFamily):
        read, inputs = OneHot(family.size, event_dim), size * family.size
    if data is not None:
        _standardize(read, family, data, per_element=likelihood in CONTINUOUS)

    def up(inputs: int, outputs: int) -> nn.Sequential:
        return perceptron(inputs, hidden, outputs, act, dropout)

    def down(inputs: int, outputs: int) -> nn.Sequential:
        return perceptron(inputs, hidden[::-1], outputs, act, dropout)

    widths = list(pairwise(latent))
    encoder = [
        Conditional(nn.Sequential(read, up(inputs, 2 * latent[0])), families.normal),
        *(Conditional(up(below, 2 * above), families.normal) for below, above in widths),
    ]
    shape = (family.size * event_shape[0], *event_shape[1:])
    to_x = nn.Sequential(down(latent[0], family.size * size), nn.Unflatten(-1, shape))
    decoder = [
        Conditional(to_x, family, event_dim),
        *(Conditional(down(above, 2 * below), families.normal) for below, above in widths),
    ]
    model = VAE(StandardNormal(latent[-1]), encoder, decoder)
    model.config = config
    return model


def build(config: dict[str, Any]) -> VAE:
    """The model that a `model.config` describes, with fresh weights."""
    arguments = {key: value for key, value in config.items() if key != "architecture"}
    if config.get("architecture") != "mlp":
        raise ValueError(f"unknown architecture {config.get('architecture')!r}; this version builds 'mlp'")
    try:
        return mlp(**arguments)
    except TypeError as error:
        raise ValueError(f"the description of the model is not of this version: {error}") from None


def _likelihood(name: str, event_shape: Sequence[int], categories: int | None) -> families.Family:
    if name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}; wanted one of {', '.join(LIKELIHOODS)}")
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
        family = families.standardized(family, torch.zeros(*event_shape), torch.ones(*event_shape))
    return family


def _standardize(read: nn.Module, family: families.Family, data: Tensor, per_element: bool) -> None:
    """The encoder reads (x - mean) / spread. For continuous data the spread is each element's own and the likelihood
    shares it; for pixels it is one number, since a pixel that hardly varies is no louder for it.
    """
    mean, spread = data.mean(0), data.std(0, correction=0)
    still = (data == data[0]).all(0).nonzero()  # a rounded spread need not be zero
    if not per_element:
        spread = data.std(correction=0).expand_as(spread)
        spread = torch.where(spread > 0, spread, 1.0)
    elif len(data) == 1:
        raise ValueError("one training example has no spread to standardise by; give more")
    elif len(still):
        raise ValueError(
            f"{len(still)} of {spread.numel()} elements of x are constant in the training data, the first at "
            f"{still[0].tolist()}: a continuous density has no upper bound there; remove them, or use a likelihood "
            "of discrete values"
        )
    for module in (read, family):
        if hasattr(module, "loc"):
            module.loc.copy_(mean)  # type: ignore[operator]
            module.scale.copy_(spread)  # type: ignore[operator]


def _activation(name: str) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        lower = {known.lower(): known for known in ACTIVATIONS}
        nearest = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[nearest[0]]!r}? " if nearest else ""
        raise ValueError(f"activation={name!r}: {hint}wanted one of torch.nn's {', '.join(ACTIVATIONS)}")
    return getattr(nn, name)


def _check_widths(event_shape: Sequence[int], latent: Sequence[int], hidden: Sequence[int]) -> None:
    for name, widths in (("event_shape", event_shape), ("latent", latent), ("hidden", hidden)):
        if any(width < 1 for width in widths) or (name != "hidden" and not widths):
            raise ValueError(f"{name}={list(widths)}: wanted positive whole numbers, at least one")
