r"""The support of a distribution: whether values have any probability under it, and how its error says so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, constraints

from allegory.runtime.messages import describe_index

__all__ = ["check_support", "rows_in_support"]


def check_support(law: Distribution, x: Tensor, name: str = "x", rows: Sequence[Any] | None = None) -> None:
    """Raises a ValueError, in one line, where `law` gives values of `x` no probability.

    Args:
        law: any distribution whose event shape `x` ends with.
        x: (N, *event) values.
        name: of `x` in the message.
        rows: (N,) what the user calls the rows of `x`; by default their numbers.
    """
    product: Any = law
    if not hasattr(product, "parts"):
        return _check(law, x, name, rows)
    for part, columns in zip(product.parts, product.columns, strict=True):
        _check(part, x, name, rows, columns.tolist())
    return None


def _check(
    law: Distribution, x: Tensor, name: str, rows: Sequence[Any] | None, columns: Sequence[int] | None = None
) -> None:
    """As `check_support`, of some columns of x."""
    x = x if columns is None else x[..., columns]
    law, support, supported = _supported(law, x)
    if not bool(supported.all()):
        first = (~supported).nonzero()[0].tolist()
        place = first if columns is None else [*first[:-1], columns[first[-1]]]
        advice = f" {law.advice}" if hasattr(law, "advice") else ""
        raise ValueError(
            f"{name}: {int((~supported).sum())} of {supported.numel()} values are outside the support of "
            f"{_law_name(law)}, {_support_name(support)}; the first is "
            f"{x[tuple(first)].flatten()[0].item():g} in {describe_index(place, rows)}.{advice}"
        )


def rows_in_support(law: Distribution, x: Tensor) -> Tensor:
    """(*batch, N) whether `law` gives all values of each example a probability, with the batch dimensions that its
    support has.

    Args:
        law, x: as in `check_support`.

    >>> rows_in_support(al.families.bernoulli(torch.zeros(2)), torch.tensor([[0.0, 1.0], [0.5, 1.0]]))
    tensor([ True, False])
    """
    product: Any = law
    parts = [(law, x)]
    if hasattr(product, "parts"):
        parts = [(part, x[..., columns]) for part, columns in zip(product.parts, product.columns, strict=True)]
    found = [_supported(*part)[2] for part in parts]
    event = x.dim() - 1
    rows = [ok.flatten(ok.dim() - event).all(-1) if ok.dim() > event else ok for ok in found]
    return reduce(torch.logical_and, rows)


def _supported(law: Distribution, x: Tensor) -> tuple[Distribution, Any, Tensor]:
    """The law of the elements, its support, and where x has a probability; the elements, or whole examples."""
    gaps = getattr(law, "takes_gaps", False)
    while isinstance(law, Independent):
        law = law.base_dist
    support: Any = law.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return law, support, support.check(x) | (x.isnan() if gaps else False)


def _law_name(law: Distribution) -> str:
    if isinstance(law, MixtureSameFamily):
        return f"a mixture of {type(law.component_distribution).__name__}"
    if hasattr(law, "values"):
        return f"points beside {_law_name(law.law)}"  # type: ignore[attr-defined]
    return type(law).__name__


def _support_name(support: Any) -> str:
    if isinstance(support, type(constraints.boolean)):
        return "0 or 1"
    if isinstance(support, constraints.integer_interval):
        most = torch.as_tensor(support.upper_bound).flatten().tolist()
        by_channel = f"by channel to {', '.join(map(str, most))}" if len(most) > 1 else f"to {int(most[0])}"
        return f"the integers {int(support.lower_bound)} {by_channel}"
    if isinstance(support, type(constraints.nonnegative_integer)):
        return "the whole numbers 0, 1, 2, ..."
    if isinstance(support, constraints.interval):
        return f"the numbers from {support.lower_bound:g} to {support.upper_bound:g}"
    return str(support)
