r"""Exposure: the size n over which counts were made, such as the reads of a cell, person-years, the length of a text.

    log E[x_d | z, n] = eta_d + log n       rates eta from the network, log n an offset

    Poisson(n rate)
    negative binomial of mean n mu and variance n mu + (n mu)^2 / r:  x | g ~ Poisson(n g), g ~ Gamma(r, r / mu)
    points beside one of them, as in zero-inflated counts, keep their masses

Twice the size, twice the mean, whatever the network is (McCullagh & Nelder 1989). A size is given, never modelled.

Shapes: the law has batch (*batch) and event (*event); sizes are (*batch).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent

from allegory.columnar import Columns
from allegory.distributions import NegativeBinomial, Poisson
from allegory.gaps import Observed
from allegory.intervals import WithPoints
from allegory.missingness import GapLaw

__all__ = ["in_proportion"]


def in_proportion(law: Distribution, size: Tensor) -> Distribution:
    """The law of counts whose mean is `size` times that of `law`. Columns of a table that are no counts stay.

    Args:
        law: of independent counts: Poisson, negative binomial, also with points or gaps; or of columns with counts.
        size: (*batch), above 0.

    Raises:
        ValueError: a law of something else.

    >>> law = al.families.poisson(torch.zeros(2, 3))
    >>> in_proportion(law, torch.tensor([1.0, 500.0])).mean
    tensor([[  1.,   1.,   1.],
            [500., 500., 500.]])
    """
    found = _scaled(law, size)
    if found is None:
        raise ValueError(
            f"exposure: {_name(law)} is no law of counts, whose mean could be in proportion to a size; wanted poisson, "
            "negative_binomial, or one of them with points"
        )
    return found


def _scaled(law: Any, size: Tensor) -> Any:
    """The law in proportion; None where it is not of counts."""
    if isinstance(law, Columns):
        parts = [_scaled(part, size) for part in law.parts]
        if all(part is None for part in parts):
            return None
        return Columns([new or old for new, old in zip(parts, law.parts, strict=True)], law.columns)
    if isinstance(law, Independent):
        n = law.reinterpreted_batch_ndims
        inner = _scaled(law.base_dist, size[(..., *[None] * n)])
        return None if inner is None else type(law)(inner, n, validate_args=False)
    if isinstance(law, GapLaw):
        inner = _scaled(law.law, size)
        return None if inner is None else law.of_values(inner)
    if isinstance(law, WithPoints):
        inner = _scaled(law.law, size)
        return None if inner is None else WithPoints(law.log_weights, law.values, inner)
    if isinstance(law, Poisson):
        return Poisson(law.rate * size, validate_args=False)
    if isinstance(law, NegativeBinomial):
        return NegativeBinomial(law.total_count, logits=law.logits + size.log(), validate_args=False)
    return None


def _name(law: Any) -> str:
    while isinstance(law, Independent | Observed):
        law = law.base_dist
    return type(law).__name__
