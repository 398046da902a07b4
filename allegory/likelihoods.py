r"""Likelihoods by name: the family of p(x | z_1) of a name, for x of a given shape, and how an encoder reads such x.

    densities            over standardised x, stated per unit of x; the encoder reads x standardised
    counts               their log-rate in units of its own; the encoder reads log(1 + x), standardised
    categories           the encoder reads unit vectors
    gaps                 the encoder reads 0 there, and beside x whether it was observed
    columns              each as its kind
    everything else      as it is; the encoder reads x standardised

The constants by which x is standardised are 0 and 1 here, and set from data in `allegory.initialization`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from allegory import families
from allegory.columnar import (
    ColumnsFamily,
    IntervalFamily,
    LogNormalFamily,
    ObservedFamily,
    OrdinalFamily,
    PointsFamily,
    from_json,
    is_count_with_points,
    is_described,
    to_json,
)
from allegory.family import (
    CategoricalFamily,
    Family,
    Normal,
    NormalFixed,
    NormalLearned,
    NormalOptimal,
    StandardizedCounts,
    StudentTFamily,
)
from allegory.missingness import GapFamily
from allegory.networks import (
    Asinh,
    LogFrom,
    LogStandardize,
    OneHot,
    ReadColumns,
    ReadGaps,
    ReadPoints,
    Standardize,
)
from allegory.trees import TreeFamily

__all__ = [
    "NAMES", "Likelihood", "canonical", "first_category", "in_columns", "input_width", "make_family", "make_input",
    "output_width", "to_config",
]  # fmt: skip

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
SMALLEST = 1e-30  # added to a positive number before its logarithm is read: beside points it may be 0
LOCATION_SCALE = (
    Normal, NormalFixed, NormalLearned, NormalOptimal, StudentTFamily,
)  # fmt: skip

Likelihood: TypeAlias = str | Callable[..., Distribution] | dict[str, Any]


def canonical(likelihood: Likelihood, categories: int | None) -> tuple[Likelihood, int | None]:
    """The name of a family of the library, if it has one, and its number of categories; a custom family unchanged; the
    family, the columns or the tree that `to_config` has described.

    >>> canonical(al.families.categorical(3), None)
    ('categorical', 3)
    """
    if isinstance(likelihood, dict) and "columns" in likelihood:
        described = likelihood["columns"]
        if not isinstance(described, list):
            raise ValueError(f"likelihood: columns is {described!r:.60}, wanted a list")
        return ColumnsFamily([from_json(family) for family in described], likelihood.get("names")), categories
    if isinstance(likelihood, dict) and "family" in likelihood:
        return from_json(likelihood["family"]), categories
    if isinstance(likelihood, dict) and "tree" in likelihood:
        return TreeFamily(likelihood["tree"]), categories
    if isinstance(likelihood, CategoricalFamily):
        return "categorical", likelihood.size
    names = (name for name in NAMES if getattr(families, name) is likelihood)
    return next(names, likelihood), categories


def in_columns(likelihood: Likelihood, event_shape: Sequence[int]) -> Likelihood:
    """The likelihood; a family with a mechanism of its gaps as that of each column of x.

    Raises:
        ValueError: x that has no columns.

    >>> in_columns(al.families.indicated(al.families.normal), (3,))
    ColumnsFamily(...)
    """
    inner = likelihood.family if isinstance(likelihood, ObservedFamily) else likelihood
    if not isinstance(inner, GapFamily):
        return likelihood
    if len(event_shape) != 1:
        raise ValueError(
            f"{type(inner).__name__}: what a gap says is of the columns of a table, and x has examples of shape "
            f"{tuple(event_shape)}; wanted (D,)"
        )
    return ColumnsFamily([inner] * event_shape[0])


def to_config(likelihood: Likelihood) -> dict[str, Any] | None:
    """The entry of `model.config` of a tree, or of a family or columns of the library; None of anything else.

    >>> to_config(al.families.columns([al.families.bernoulli])), to_config(al.families.normal_fixed(0.1))
    ({'columns': [{'name': 'bernoulli'}]}, {'family': {'name': 'normal_fixed', 'sigma': 0.1}})
    """
    if isinstance(likelihood, TreeFamily):
        return {"tree": likelihood.parents.tolist()}
    if not isinstance(likelihood, Family):
        return None
    if not isinstance(likelihood, ColumnsFamily):
        described = to_json(likelihood)
        return {"family": described} if is_described(described) else None
    if not is_described(likelihood.described):
        return None
    return {"columns": likelihood.described, **({"names": likelihood.names} if likelihood.names else {})}


def first_category(likelihood: Likelihood, lowest: int | None, data: Any = None) -> int:
    """The first category: the given one, or that of a family, or the smallest number of the data, (N, *event), where it
    is a whole one below 0; else 0.

    >>> first_category("categorical", None, torch.tensor([[-2.0, 1.0]])), first_category("categorical", None)
    (-2, 0)
    """
    if isinstance(likelihood, CategoricalFamily):
        return likelihood.lowest
    if lowest is not None or likelihood != "categorical" or not isinstance(data, Tensor) or not len(data):
        return lowest or 0
    smallest = data.min().item()
    return int(smallest) if smallest < 0 and smallest == round(smallest) else 0


def make_family(
    likelihood: Likelihood, event_shape: Sequence[int], categories: int | None, lowest: int = 0, gaps: bool = False
) -> Any:
    """The family of p(x | z_1), by name or a custom one, and whether it leaves gaps out.

    Raises:
        ValueError: an unknown name, a custom family that is none, or categories without their number.

    >>> make_family("categorical", (8,), categories=3)
    CategoricalFamily(3)
    """
    if gaps:
        return ObservedFamily(make_family(likelihood, event_shape, categories, lowest))
    if isinstance(likelihood, ColumnsFamily):
        likelihood.outputs(event_shape)  # checks their number
        return copy.deepcopy(likelihood).to(torch.get_default_dtype())
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
    elif not isinstance(family, Family):
        family = family()
    if likelihood in CONTINUOUS:
        return _standardized(family, event_shape)
    return StandardizedCounts(family, *event_shape) if likelihood in COUNTS else family


def make_input(family: Any, event_shape: Sequence[int]) -> nn.Module:
    """The input layer of an encoder, by the family of p(x | z_1)."""
    if isinstance(family, ColumnsFamily):
        pairs = zip(family.blocks, family.columns, strict=True)
        return ReadColumns([ReadGaps(_column_input(block, len(index))) for block, index in pairs], family.columns)
    if isinstance(family, ObservedFamily):
        return ReadGaps(make_input(family.family, event_shape), len(event_shape))
    if isinstance(family, CategoricalFamily):
        return OneHot(family.size, len(event_shape), family.lowest)
    counts = isinstance(family, StandardizedCounts) or is_count_with_points(family)
    return (LogStandardize if counts else Standardize)(*event_shape)


def _column_input(block: Any, count: int) -> nn.Module:
    """How a block of columns is read: categories as unit vectors, numbers standardised, the far ones drawn nearer."""
    if isinstance(block, GapFamily):
        return _column_input(block.family, count)
    if isinstance(block, PointsFamily):
        return ReadPoints(_column_input(block.family, count), block.points)
    if isinstance(block, OrdinalFamily):
        return OneHot(block.k, 1)
    if isinstance(block, CategoricalFamily | StandardizedCounts):
        return make_input(block, (count,))
    if isinstance(block, LogNormalFamily):
        zeros = torch.zeros(count)
        return nn.Sequential(LogFrom(zeros, zeros + SMALLEST), Asinh())
    log = isinstance(block, IntervalFamily) and block.log
    return nn.Sequential(LogFrom(block.low, block.step) if log else Standardize(count), Asinh())


def input_width(layer: Any, count: int) -> int:
    """How many numbers an input layer makes of so many, along the first dimension of an event.

    >>> input_width(OneHot(5, 1), 3)
    15
    """
    if isinstance(layer, ReadColumns):
        indices = [getattr(layer, f"columns_{i}") for i in range(len(layer.reads))]
        return sum(input_width(read, len(index)) for read, index in zip(layer.reads, indices, strict=True))
    if isinstance(layer, ReadGaps):
        return input_width(layer.read, count) + count
    if isinstance(layer, ReadPoints):
        return input_width(layer.read, count) + len(layer.values)
    return count * (layer.k if isinstance(layer, OneHot) else 1)


def output_width(family: Any, event_shape: Sequence[int]) -> int:
    """How many numbers a family, or a user's own, reads for an event, along its first dimension."""
    return family.outputs(event_shape) if isinstance(family, Family) else family.size * event_shape[0]


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
    if type(family) in LOCATION_SCALE:
        return _standardized(family, event_shape)
    if is_count_with_points(family) and len(event_shape) == 1:
        return PointsFamily(StandardizedCounts(family.family, *event_shape), family.values.tolist())
    return family


def _standardized(family: Family, event_shape: Sequence[int]) -> Family:
    return families.standardized(family, torch.zeros(*event_shape), torch.ones(*event_shape))
