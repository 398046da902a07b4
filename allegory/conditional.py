r"""Conditional distributions: modules whose call returns a `torch.distributions.Distribution`.

    p(y | c):  context c, (*batch, *context)  ->  Distribution with batch shape (*batch) and event shape (*event).

That sentence is the whole contract. No base class is needed: any module that fulfils it can be an encoder, a decoder
or a prior, such as a flow from the zuko library, or a fixed map without parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.exposure import in_proportion
from allegory.runtime.precision import to_float32

__all__ = ["Conditional", "StandardNormal"]

FAMILIES = ("allegory.families", "allegory.family")  # which stand above this module


class Conditional(nn.Module):
    """A network, then a family: p(y | c) = family(network(c)).

    Args:
        network: maps (*batch, *context) to the family's parameters, (*batch, size * C, *rest).
        family: maps those to a distribution; see `allegory.families`.
        event_dim: how many dimensions an event y has: 1 for a vector, 3 for an image (C, H, W).
        exposure: for counts y: which number of the last context, of what is given, is the size that their mean is in
            proportion to, see `allegory.exposure`.

    Raises:
        ValueError: no module, no family, or the function that makes one.

    >>> p = Conditional(nn.Linear(2, 2 * 5), al.families.normal)
    >>> p(torch.zeros(7, 2)).mean.shape
    torch.Size([7, 5])
    """

    in_float32 = True  # whatever precision its network ran in, see `allegory.draws.law_of`

    def __init__(
        self,
        network: nn.Module,
        family: Callable[..., Distribution],
        event_dim: int = 1,
        exposure: int | None = None,
    ) -> None:
        super().__init__()
        _check_parts(network, family)
        self.network = network
        self.family = family
        self.event_dim = event_dim
        self.exposure = exposure

    def forward(self, *context: Tensor) -> Distribution:
        """The distribution of y given context: (*batch, *context); as many contexts as the network takes."""
        law = self.family(to_float32(self.network(*context)), self.event_dim)
        return law if self.exposure is None else in_proportion(law, context[-1][..., self.exposure])


class StandardNormal(nn.Module):
    """N(0, I), the fixed prior p(z_T) of the plain VAE. No parameters.

    Args:
        event_shape: of z_T, a number for each dimension.

    Raises:
        ValueError: anything but whole numbers.

    >>> StandardNormal(3)().sample((5,)).shape
    torch.Size([5, 3])
    """

    in_float32 = True

    def __init__(self, *event_shape: int) -> None:
        super().__init__()
        if not all(hasattr(size, "__index__") and size > 0 for size in event_shape):
            given = event_shape[0] if len(event_shape) == 1 else event_shape
            raise ValueError(f"StandardNormal: got {given!r}, wanted whole numbers, StandardNormal(16) or (4, 8, 8)")
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(event_shape), persistent=False)

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        law = Normal(self.zero, torch.ones_like(self.zero))
        return Independent(law, self.zero.dim())

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.zero.shape))


def _check_parts(network: Any, family: Any) -> None:
    """Checks what is easily confused: a family, its class, the function that makes it, and a distribution."""
    name = getattr(family, "__name__", type(family).__name__)
    if type(network).__module__ in FAMILIES:
        raise ValueError(f"Conditional: got the family {type(network).__name__} first, wanted it after the network")
    if not callable(network):
        raise ValueError(f"Conditional: got {type(network).__name__} for the network, wanted a torch.nn.Module")
    if not callable(family):
        raise ValueError(f"Conditional: got the family {family!r:.80}, wanted one such as al.families.normal")
    if isinstance(family, type):
        raise ValueError(f"Conditional: got the class {name}, wanted a family, such as al.families.normal")
    if isinstance(family, FunctionType) and family.__module__ in FAMILIES:
        raise ValueError(f"Conditional: got the function {name}, wanted what it makes, al.families.{name}(...)")
