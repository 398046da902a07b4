r"""Trees: two-valued elements that depend on each other along a tree, given z.

    p(x | z) = prod_d p(x_d | x_pa(d), z),        each x_d has one parent pa(d) at most

With independent elements all dependence has to go through z. Pairs that nearly determine each other then cost z a
dimension each; along a tree they cost none (Correia et al. 2023, continuous mixtures of trees). The tree is the one of
Chow & Liu (1968), of all trees the likeliest: with the empirical I(x_d; x_e) as the lengths of the edges, the longest
that connects all elements.

Shapes: *batch any leading dimensions, N examples, D elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from allegory.distributions import Bernoulli
from allegory.family import Family
from allegory.runtime.messages import no_tensor
from allegory.runtime.precision import to_float32
from allegory.support import check_support

__all__ = ["TreeBernoulli", "TreeFamily", "chow_liu_parents"]


class TreeBernoulli(Distribution):
    """Elements 0 or 1, each given its parent.

    Args:
        given_zero, given_one: (*batch, D) log-odds of a one where the parent is 0, and where it is 1. Of an element
            without a parent the first are used.
        parents: (D,) the parent of each element; -1 for none.

    >>> law = TreeBernoulli(torch.zeros(2), torch.tensor([0.0, 9.0]), torch.tensor([-1, 0]))     # x_1 follows x_0
    >>> law.log_prob(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    tensor([-0.6933, -9.6933])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.boolean, 1)
    advice = Bernoulli.advice

    def __init__(
        self, given_zero: Tensor, given_one: Tensor, parents: Tensor, validate_args: bool | None = None
    ) -> None:
        self.given_zero, self.given_one, self.parents = given_zero, given_one, parents
        super().__init__(given_zero.shape[:-1], given_zero.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TreeBernoulli:
        shape = torch.Size(batch_shape) + self.event_shape
        return TreeBernoulli(
            self.given_zero.expand(shape), self.given_one.expand(shape), self.parents, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        above = F.pad(value, (1, 0))[..., self.parents + 1]  # 0 above an element without a parent
        logits, x = torch.broadcast_tensors(torch.where(above > 0, self.given_one, self.given_zero), value)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    def _validate_sample(self, value: Tensor) -> None:
        check_support(self, value)
        super()._validate_sample(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        x = self.given_zero.new_zeros(self._extended_shape(torch.Size(sample_shape)))
        for layer in layers_of(self.parents.tolist()):
            above = F.pad(x, (1, 0))[..., self.parents[layer] + 1]
            logits = torch.where(above > 0, self.given_one[..., layer], self.given_zero[..., layer])
            x[..., layer] = torch.bernoulli(logits.sigmoid())
        return x

    @property
    def mean(self) -> Tensor:
        """(*batch, D) P(x_d = 1)."""
        zero, one, mean = self.given_zero.sigmoid(), self.given_one.sigmoid(), torch.zeros_like(self.given_zero)
        for layer in layers_of(self.parents.tolist()):
            above = F.pad(mean, (1, 0))[..., self.parents[layer] + 1]
            found = zero[..., layer] * (1 - above) + one[..., layer] * above
            mean = mean.index_copy(-1, torch.tensor(layer, device=mean.device), found)
        return mean

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)


class TreeFamily(Family):
    """See `families.tree`, and `families.chow_liu`."""

    size = 2
    reads = "log-odds where the parent is 0, and where it is 1"

    def __init__(self, parents: Sequence[int] | Tensor) -> None:
        super().__init__()
        listed = parents.tolist() if isinstance(parents, Tensor) else list(parents)
        layers_of(listed)
        self.parents: Tensor
        self.register_buffer("parents", torch.tensor(listed))

    def outputs(self, event_shape: Sequence[int]) -> int:
        """How many numbers it reads for an event, along its first dimension."""
        if tuple(event_shape) != tuple(self.parents.shape):
            raise ValueError(f"tree: x has examples of shape {tuple(event_shape)}, wanted {tuple(self.parents.shape)}")
        return super().outputs(event_shape)

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The law of vectors x, from phi: (*batch, 2 * D)."""
        if event_dim != 1 or phi.shape[-1:] != (2 * len(self.parents),):
            raise ValueError(f"tree reads {2 * len(self.parents)} numbers per vector x, but got {tuple(phi.shape)}")
        given_zero, given_one = to_float32(phi).chunk(2, -1)
        return TreeBernoulli(given_zero, given_one, self.parents)

    def start(self, x: Tensor) -> Tensor:
        """(2, D) the log-odds of x: (N, D), each element given its parent, at which p(x | z) begins."""
        above = F.pad(x, (1, 0))[:, self.parents + 1]
        ones, count = torch.stack([((1 - above) * x).sum(0), (above * x).sum(0)]), above.sum(0)
        return torch.logit((ones + 0.5) / (torch.stack([len(x) - count, count]) + 1), eps=1e-6)

    def extra_repr(self) -> str:
        return f"{len(self.parents)} elements"


def chow_liu_parents(x: Tensor, pseudocount: float = 0.5) -> list[int]:
    """The parent of each element in the Chow-Liu tree of x, whose root is the first; by Prim's algorithm.

    Args:
        x: (N, D) of 0 and 1.
        pseudocount: added to how often each of the four values of a pair occurs.

    Raises:
        ValueError: no vectors of 0 and 1.

    >>> chow_liu_parents(torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]]))
    [-1, 0, 0]
    """
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    if x.dim() != 2 or not x.numel() or not bool(((x == 0) | (x == 1)).all()):
        raise ValueError(f"x: got shape {tuple(x.shape)}, wanted vectors of 0 and 1, (N, D), without gaps")
    information = _mutual_information(x.to(torch.get_default_dtype()), pseudocount)
    parents, nearest = [-1] * x.shape[1], information[0].clone()
    source, outside = torch.zeros_like(nearest, dtype=torch.long), torch.ones_like(nearest, dtype=torch.bool)
    outside[0] = False
    for _ in range(x.shape[1] - 1):
        d = int(nearest.masked_fill(~outside, -1).argmax())
        parents[d], outside[d] = int(source[d]), False
        closer = information[d] > nearest
        nearest, source = torch.where(closer, information[d], nearest), source.masked_fill(closer, d)
    return parents


def _mutual_information(x: Tensor, pseudocount: float) -> Tensor:
    """(D, D) I(x_d; x_e), nats, float64."""
    both = (x.T @ x).double()
    ones = x.sum(0).double()
    first, second = ones[:, None] - both, ones - both  # x_d = 1 and x_e = 0, and the other way round
    counts = torch.stack([len(x) - both - first - second, second, first, both]) + pseudocount
    p = (counts / counts.sum(0)).view(2, 2, *both.shape)
    return (p * (p.log() - p.sum(1, keepdim=True).log() - p.sum(0, keepdim=True).log())).sum((0, 1)).clamp(min=0)


def layers_of(parents: Sequence[int]) -> list[list[int]]:
    """The elements without a parent, then their children, and so on.

    Raises:
        ValueError: parents that are no elements, or a circle of them.

    >>> layers_of([-1, 2, 0, 0])
    [[0], [2, 3], [1]]
    """
    if not parents or any(isinstance(p, bool) or not isinstance(p, int) or not -1 <= p < len(parents) for p in parents):
        raise ValueError(f"parents={list(parents)!r:.80}: wanted the number of each element's parent, or -1 for none")
    children: dict[int, list[int]] = {}
    for element, parent in enumerate(parents):
        children.setdefault(parent, []).append(element)
    layers = [children.get(-1, [])]
    while layers[-1]:
        layers.append([child for element in layers[-1] for child in children.get(element, [])])
    if sum(map(len, layers)) < len(parents):
        missing = min(set(range(len(parents))) - {element for layer in layers for element in layer})
        raise ValueError(f"parents: element {missing} is its own ancestor, or below one that is; wanted a tree")
    return layers[:-1]
