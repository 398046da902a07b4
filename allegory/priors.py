r"""Learned priors p(z_T). The standard normal, which has nothing to learn, is `allegory.StandardNormal`.

    mixture of normals   p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2)
    VampPrior            p(z) = 1/K sum_k q(z | u_k),  u_1..K learned pseudo-inputs       (Tomczak & Welling 2018)

The best prior for a given encoder is the aggregate posterior, the mean of q(z | x) over the data; both are mixtures
that can approach it, and neither has a closed-form KL, so the rate of the top level is sampled. A flow needs no
wrapper: a `zuko.flows.MAF(D)`, called without a context, is a distribution over vectors z, and so works as a prior;
for a grid it has to be wrapped in `Shaped`.

Cost per pass: K more rows through the encoder for a VampPrior, for any number of examples and particles, and 4 K D
multiplications per particle for both, against 2 (784 h + h^2 + h D) for a decoder of two layers of width h.

Shapes: K components, D = number of elements of z_T.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, ReshapeTransform, TransformedDistribution

from allegory.conditional import StandardNormal
from allegory.distributions import NormalMixture
from allegory.draws import law_of
from allegory.families import Family, normal
from allegory.ladder import TopDown
from allegory.marginal import fill_gaps
from allegory.networks import OneHot, ReadColumns, Standardize
from allegory.positivity import positive
from allegory.units import units_of

__all__ = ["Factorized", "MixtureOfNormals", "Shaped", "VampPrior", "make_prior"]

NAMES = ("standard", "mixture", "vamp", "flow")

Prior: TypeAlias = str | Callable[..., nn.Module]


def make_prior(
    prior: Prior,
    event_shape: Sequence[int],
    encoder: Any,
    components: int = 500,
    input_shape: Sequence[int] = (),
    data: Tensor | None = None,
    family: Family | None = None,
) -> nn.Module:
    """p(z_T), by name or a custom one.

    Args:
        prior: "standard", "mixture", "vamp" or "flow", which needs the package zuko; or a module whose call returns the
            distribution of z_T; or a callable (*event_shape) -> such a module.
        event_shape: of z_T.
        encoder: the VAE's `TopDown`, or its encoders, of which a VampPrior mixes the last.
        components: K of a mixture or a VampPrior.
        input_shape: of what q(z_T | .) reads.
        data: (N, *event) training data, by which the pseudo-inputs of a VampPrior begin where it reads x.
        family: of z_T, where it is discrete.

    Raises:
        ValueError: an unknown name, a callable that makes no module, a flow without zuko, pseudo-inputs of categories.

    >>> make_prior("mixture", (2,), encoder=None, components=5)().sample((3,)).shape
    torch.Size([3, 2])
    """
    if isinstance(prior, nn.Module):
        return prior
    if callable(prior):
        made = prior(*event_shape)
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"prior{tuple(event_shape)} made {type(made).__name__}, wanted a torch.nn.Module whose call returns "
                "p(z_T)"
            )
        return made
    if family is not None and family is not normal:
        if prior != "standard":
            raise ValueError(f"prior={prior!r} is of a normal z_T, and this one is discrete; wanted 'standard'")
        return Factorized(family, *event_shape)
    if prior == "standard":
        return StandardNormal(*event_shape)
    if prior == "mixture":
        return MixtureOfNormals(components, *event_shape)
    if prior == "vamp":
        return _make_vampprior(encoder, components, input_shape, data)
    if prior == "flow":
        return _make_flow(event_shape)
    raise ValueError(f"unknown prior {prior!r}; wanted one of {', '.join(NAMES)}, or a callable that makes a module")


def _make_vampprior(encoder: Any, components: int, input_shape: Sequence[int], data: Tensor | None) -> VampPrior:
    """A VampPrior whose pseudo-inputs begin at rows of the data; at noise where there are none, or q reads latents."""
    top_down = isinstance(encoder, TopDown)
    first = encoder.network[0] if top_down else encoder[0].network
    reads_x = top_down or len(encoder) == 1
    if reads_x and any(isinstance(module, OneHot) for module in first.modules()):
        raise ValueError("a VampPrior learns its pseudo-inputs, and categories cannot be learned; use 'mixture'")
    if reads_x and any(isinstance(module, ReadColumns) for module in first.modules()):
        raise ValueError("a VampPrior learns its pseudo-inputs, which a table of columns has not; use 'mixture'")
    if reads_x and data is not None:
        data = fill_gaps(data)
        inputs = data[torch.arange(components) % len(data)]
        unit = next(part for part in first.modules() if isinstance(part, Standardize))
    else:
        inputs, unit = torch.randn(components, *input_shape), Standardize(*input_shape)
    return VampPrior(encoder if top_down else encoder[-1], inputs, unit)


def _make_flow(event_shape: Sequence[int]) -> nn.Module:
    try:
        import zuko
    except ImportError:
        raise ValueError("the prior 'flow' needs the package zuko: pip install zuko") from None
    flow = zuko.flows.MAF(math.prod(event_shape), transforms=2, hidden_features=(128, 128))
    return Shaped(flow, *event_shape) if len(event_shape) > 1 else flow


class Factorized(nn.Module):
    """p(z) = prod_d p(z_d), of a family whose parameters are learned; they begin at 0, for a discrete family uniform.

    Args:
        family: of z, see `allegory.families`.
        event_shape: of z.

    >>> Factorized(al.families.bernoulli, 3)().mean
    tensor([0.5000, 0.5000, 0.5000], grad_fn=<SigmoidBackward0>)
    """

    def __init__(self, family: Family, *event_shape: int) -> None:
        super().__init__()
        self.family, self.event_dim = family, len(event_shape)
        self.phi = nn.Parameter(torch.zeros(family.outputs(event_shape), *event_shape[1:]))

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        return self.family(self.phi, self.event_dim)


class MixtureOfNormals(nn.Module):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), with all parameters learned.

    Args:
        components: K.
        event_shape: of z.

    >>> MixtureOfNormals(5, 2)().sample((3,)).shape
    torch.Size([3, 2])
    """

    in_float32 = True

    def __init__(self, components: int, *event_shape: int) -> None:
        super().__init__()
        _check_components(components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, *event_shape))
        self.s = nn.Parameter(torch.zeros(components, *event_shape))

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        return NormalMixture(self.logits, self.loc, positive(self.s))


class VampPrior(nn.Module):
    """p(z_T) = 1/K sum_k q(z_T | u_k): a mixture of the model's own posterior at K learned inputs.

    Args:
        encoder: the VAE's `TopDown`, or the last of its encoders, q(z_T | z_{T-1}); shared, not copied. Its posterior
            has to be normal.
        inputs: (K, *event) initial values of u_1..K: rows of the training data, or for the last of several encoders
            tensors like z_{T-1}.
        read: how the encoder reads x; by default a standardisation by the mean and the spread of `inputs`. The
            parameters are read(u_1..K), so that learning does not depend on the unit of x.

    >>> encoder = al.Conditional(nn.Linear(5, 2 * 2), al.families.normal)
    >>> prior = VampPrior(encoder, torch.randn(10, 5))
    >>> al.VAE(prior, encoder, al.Conditional(nn.Linear(2, 5), al.families.bernoulli)).sample(3).shape
    torch.Size([3, 5])
    """

    in_float32 = True

    def __init__(self, encoder: nn.Module, inputs: Tensor, read: Standardize | None = None) -> None:
        super().__init__()
        _check_components(len(inputs))
        self.encoder = encoder
        self.read = _standardize_by(inputs) if read is None else copy.deepcopy(read)
        self.standardized = nn.Parameter(self.read(inputs.detach()).clone())

    @property
    def inputs(self) -> Tensor:
        """(K, *event) u_1..K, in units of x."""
        return self.read.inverse(self.standardized)

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        encoder, u = self.encoder, self.inputs
        law: Any = encoder.top(u) if isinstance(encoder, TopDown) else law_of(encoder, u)
        base = getattr(law, "base_dist", law)
        if not isinstance(base, torch.distributions.Normal):
            raise ValueError(f"a VampPrior mixes normal posteriors, but q(z_T | u) is {type(base).__name__}")
        return NormalMixture(base.loc.new_zeros(len(base.loc)), base.loc, base.scale)

    def extra_repr(self) -> str:
        return f"{len(self.standardized)} pseudo-inputs"


class Shaped(nn.Module):
    """A prior over vectors, such as a flow, reshaped to events with the same number of elements.

    Args:
        prior: its call returns a distribution over vectors.
        event_shape: of z.

    >>> Shaped(al.StandardNormal(12), 3, 2, 2)().sample((5,)).shape
    torch.Size([5, 3, 2, 2])
    """

    def __init__(self, prior: nn.Module, *event_shape: int) -> None:
        super().__init__()
        self.prior = prior
        self.event_shape = torch.Size(event_shape)

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        law = self.prior()
        return TransformedDistribution(law, ReshapeTransform(law.event_shape, self.event_shape))


def _standardize_by(x: Tensor) -> Standardize:
    """A standardisation by the mean of x, and by the spread of each column, or of all elements of an image."""
    units = units_of(x)
    overall = (x.double() - units.loc).square().mean().sqrt()
    overall = torch.where(overall > 0, overall, 1.0)
    read = Standardize(*x.shape[1:]).to(x)
    read.loc.copy_(units.loc)
    read.scale.copy_(torch.where(units.scale > 0, units.scale, 1.0) if x.dim() == 2 else overall)
    return read


def _check_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"components={components}: wanted at least one")
