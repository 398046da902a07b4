r"""Latents that are categories: D of them, each one of k, as the unit vectors of their codes.

    z = (e_{c_1}, ..., e_{c_D}),        log p(z) = sum_d log softmax(l_d)[c_d],       c_d in {0, ..., k - 1}

z has the layout of `allegory.networks.OneHot`, so that a network reads it as it reads any vector or grid: first all
elements that say whether c_d is 0, then those that say whether it is 1. Draws are hard, so every density, rate and
bound is that of a discrete model. A draw has no gradient with respect to l; the objectives `loo` and `vimco` have an
unbiased one. Straight-through (Bengio, Léonard & Courville 2013) passes the gradient of softmax(l) on as if z were
that: the value is honest, the gradient is biased.

Shapes: D latents, k categories; l and z are (*batch, k * D, *rest).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, OneHotCategorical, constraints, kl_divergence
from torch.distributions.kl import register_kl

from allegory.family import Family
from allegory.runtime.precision import to_float32

__all__ = ["OneHot", "OneHotFamily"]


SINGLE = Size()


class _UnitVectors(constraints.Constraint):
    """Zeros, and for each category variable a one."""

    is_discrete = True

    def __init__(self, k: int, event_dim: int) -> None:
        self.k, self.event_dim = k, event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        codes = value.unflatten(-self.event_dim, (self.k, -1))
        valid = ((codes == 0) | (codes == 1)).all(-self.event_dim - 1) & (codes.sum(-self.event_dim - 1) == 1)
        return valid.flatten(valid.dim() - self.event_dim).all(-1)


class OneHot(Distribution):
    """D independent categories, as unit vectors; see the module.

    Args:
        logits: (*batch, k * D, *rest).
        k: categories.
        event_dim: 1 + len(rest).
        straight_through: whether draws pass on the gradient of their probabilities.

    >>> law = OneHot(torch.zeros(7, 12), k=4)
    >>> law.batch_shape, law.event_shape, law.sample().sum(-1)[0]
    (torch.Size([7]), torch.Size([12]), tensor(3.))
    >>> law.log_prob(law.sample())[0] / 3                       # log 1/4
    tensor(-1.3863)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        logits: Tensor,
        k: int,
        event_dim: int = 1,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.k, self.event_dim, self.has_rsample = k, event_dim, straight_through
        self.logits = self._grouped(logits).log_softmax(-1)
        split = logits.dim() - event_dim
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Unit vectors."""
        return _UnitVectors(self.k, self.event_dim)

    @property
    def categories(self) -> OneHotCategorical:
        """The law of each, with batch shape (*batch, D, *rest) and event shape (k,)."""
        return OneHotCategorical(logits=self.logits, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(*batch, k * D, *rest) the probabilities."""
        return self.flat(self.logits.exp())

    @property
    def mode(self) -> Tensor:
        """(*batch, k * D, *rest) the unit vectors of the likeliest."""
        return self.flat(self.categories.mode)

    @property
    def variance(self) -> Tensor:
        """(*batch, k * D, *rest) that of each element."""
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: Any = SINGLE) -> Tensor:
        """(*sample_shape, *batch, k * D, *rest)."""
        with torch.no_grad():
            return self.flat(self.categories.sample(Size(sample_shape)))

    def rsample(self, sample_shape: Any = SINGLE) -> Tensor:
        """Such draws, with the gradient of the probabilities."""
        if not self.has_rsample:
            raise NotImplementedError("OneHot: hard draws have no gradient; straight_through=True has a biased one")
        return self.sample(sample_shape) + (self.mean - self.mean.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch) nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._summed((self.logits * self._grouped(value)).sum(-1))

    def entropy(self) -> Tensor:
        """(*batch) nats."""
        return self._summed(self.categories.entropy())

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHot:
        """With another batch shape."""
        wide = self.logits.expand(*batch_shape, *self.logits.shape[-self.event_dim - 1 :])
        return OneHot(self.flat(wide), self.k, self.event_dim, self.has_rsample, validate_args=False)

    def shifted(self, p: OneHot) -> OneHot:
        """The law whose logits are these and those of p, as a residual posterior has them; it is drawn as this one."""
        self._check_like(p)
        flat = self.flat(self.logits + p.logits)
        return OneHot(flat, self.k, self.event_dim, self.has_rsample, validate_args=False)

    def _grouped(self, flat: Tensor) -> Tensor:
        """(*batch, D, *rest, k) of (*batch, k * D, *rest)."""
        return flat.unflatten(-self.event_dim, (self.k, -1)).movedim(-self.event_dim - 1, -1)

    def flat(self, grouped: Tensor) -> Tensor:
        """(*batch, k * D, *rest) of what each category variable has, (*batch, D, *rest, k)."""
        channel = -self.event_dim
        return grouped.movedim(-1, channel - 1).flatten(channel - 1, channel)

    def _check_like(self, p: OneHot) -> None:
        if self.k != p.k:
            raise ValueError(f"one_hot({self.k}) and one_hot({p.k}): q and p of a level are of the same categories")

    def _summed(self, of_each: Tensor) -> Tensor:
        return of_each.flatten(of_each.dim() - self.event_dim).sum(-1)


@register_kl(OneHot, OneHot)
def _kl(q: OneHot, p: OneHot) -> Tensor:
    q._check_like(p)
    return q._summed(kl_divergence(q.categories, p.categories))


class OneHotFamily(Family):
    """See `families.one_hot`."""

    size = 1
    reads = "logits"

    def __init__(self, k: int, straight_through: bool = False) -> None:
        super().__init__()
        if not hasattr(k, "__index__") or k < 2:
            raise ValueError(f"one_hot({k}): wanted a whole number of categories, 2 or more")
        self.k, self.straight_through = k, straight_through

    def forward(self, phi: Tensor, event_dim: int = 1) -> Distribution:
        """The distribution over unit vectors, from phi: (*batch, k * D, *rest)."""
        if phi.dim() < event_dim or phi.shape[-event_dim] % self.k:
            raise ValueError(
                f"one_hot({self.k}) reads {self.k} numbers for each latent, along dimension {-event_dim} of the "
                f"network's output, but that output has shape {tuple(phi.shape)}"
            )
        return OneHot(to_float32(phi), self.k, event_dim, self.straight_through)

    def extra_repr(self) -> str:
        return f"{self.k}, straight_through=True" if self.straight_through else str(self.k)
