r"""Likelihoods by name: the family of p(x | z_1) of a name, for x of a given shape, and how an encoder reads such x.

    densities            over standardised x, stated per unit of x; the encoder reads x standardised
    counts               their log-rate in units of its own; the encoder reads log(1 + x), standardised
    categories           the encoder reads unit vectors
    everything else      as it is; the encoder reads x standardised

The constants by which x is standardised are 0 and 1 here, and set from data in `allegory.initialization`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from allegory import families
from allegory.networks import LogStandardize, OneHot, Standardize

__all__ = ["NAMES", "Likelihood", "canonical", "first_category", "make_family", "make_input"]

CONTINUOUS = ("normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t")
COUNTS = ("poisson", "negative_binomial")
NAMES = (
    *CONTINUOUS,
    "bernoulli",
    "categorical",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "continuous_bernoulli",
    *COUNTS,
)
MEANT = {
    "gaussian": "normal", "gauss": "normal", "mse": "normal_shared", "bce": "bernoulli", "binary": "bernoulli",
    "softmax": "categorical", "cross_entropy": "categorical",
}  # fmt: skip
LOCATION_SCALE = (
    families.Normal, families.NormalFixed, families.NormalLearned, families.NormalOptimal, families.StudentTFamily,
)  # fmt: skip

Likelihood: TypeAlias = str | Callable[..., Distribution]


def canonical(likelihood: Likelihood, categories: int | None) -> tuple[Likelihood, int | None]:
    """The name of a family of the library, if it has one, and its number of categories; a custom family unchanged.

    >>> canonical(al.families.categorical(3), None)
    ('categorical', 3)
    """
    if isinstance(likelihood, families.CategoricalFamily):
        return "categorical", likelihood.size
    names = (name for name in NAMES if getattr(families, name) is likelihood)
    return next(names, likelihood), categories


def first_category(likelihood: Likelihood, lowest: int | None, data: Any = None) -> int:
    """The first category: the given one, or that of a family, or the smallest number of the data, (N, *event), where it
    is a whole one below 0; else 0.

    >>> first_category("categorical", None, torch.tensor([[-2.0, 1.0]])), first_category("categorical", None)
    (-2, 0)
    """
    if isinstance(likelihood, families.CategoricalFamily):
        return likelihood.lowest
    if lowest is not None or likelihood != "categorical" or not isinstance(data, Tensor) or not len(data):
        return lowest or 0
    smallest = data.min().item()
    return int(smallest) if smallest < 0 and smallest == round(smallest) else 0


def make_family(likelihood: Likelihood, event_shape: Sequence[int], categories: int | None, lowest: int = 0) -> Any:
    """The family of p(x | z_1), by name or a custom one.

    Raises:
        ValueError: an unknown name, a custom family that is none, or categories without their number.

    >>> make_family("categorical", (8,), categories=3)
    CategoricalFamily(3)
    """
    if not isinstance(likelihood, str):
        return _checked(likelihood, event_shape)
    if likelihood not in NAMES:
        lower = likelihood.lower()
        nearest = [MEANT[lower]] if lower in MEANT else difflib.get_close_matches(lower, NAMES, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown likelihood {likelihood!r}; {hint}wanted one of {', '.join(NAMES)}")
    if likelihood == "categorical":
        if categories is None:
            raise ValueError("the categorical likelihood needs its number of categories")
        return families.categorical(categories, lowest)
    family = getattr(families, likelihood)
    if likelihood == "normal_per_dimension":
        family = family(*event_shape)
    elif not isinstance(family, families.Family):
        family = family()
    if likelihood in CONTINUOUS:
        return _standardized(family, event_shape)
    return families.StandardizedCounts(family, *event_shape) if likelihood in COUNTS else family


def make_input(family: Any, event_shape: Sequence[int]) -> nn.Module:
    """The input layer of an encoder, by the family of p(x | z_1)."""
    if isinstance(family, families.CategoricalFamily):
        return OneHot(family.size, len(event_shape), family.lowest)
    return (LogStandardize if isinstance(family, families.StandardizedCounts) else Standardize)(*event_shape)


def _checked(family: Any, event_shape: Sequence[int]) -> Any:
    """A custom family, checked; a location-scale family of the library is wrapped for standardised data."""
    if isinstance(family, type):
        raise ValueError(f"likelihood={family.__name__}: got a class, wanted a family, such as {family.__name__}()")
    size = getattr(family, "size", None)
    if not callable(family) or not isinstance(size, int) or size < 1:
        raise ValueError(
            f"likelihood={family!r}: wanted one of {', '.join(NAMES)}, or a family, that is a callable "
            "(phi, event_dim) -> Distribution with an attribute size, how many numbers it reads per element"
        )
    return _standardized(family, event_shape) if type(family) in LOCATION_SCALE else family


def _standardized(family: families.Family, event_shape: Sequence[int]) -> families.Family:
    return families.standardized(family, torch.zeros(*event_shape), torch.ones(*event_shape))
