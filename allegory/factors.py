r"""Factor analysis of a table with gaps, where a VAE of it may begin (Rubin & Thayer 1982; Lucas et al. 2019).

    y_d = b_d + w_d' z + e_d,      z ~ N(0, I),  e_d ~ N(0, psi_d)

    p(z | y_o) = N(V sum_o w_d (y_d - b_d) / psi_d, V),      V^-1 = I + sum_o w_d w_d' / psi_d

with the sum over the elements o that are observed. EM maximises the likelihood of these and of one more row, which
says w = 0 and psi = 1. After each step z is rescaled to unit covariance, which saves most of the steps (PX-EM, Liu,
Rubin & Wu 1998). In the end z is rotated so that V is diagonal for a row without gaps: independent normals are exact.

The networks of a model that begins here are what is added to these linear maps:

    q(z | x):       mean E[z | y_o] + f_1(x),  log standard deviation  log sd[z | y_o] + f_2(x)
    p(x_d | z):     location b_d + w_d' z + g_d(z)

Shapes: N rows y: (N, D), NaN in gaps; L factors; W (D, L), b and psi (D,); F features of x, of which D are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allegory.columnar import SHARPEST, ColumnsFamily, IntervalFamily, PointsFamily
from allegory.family import Normal, Standardized, StudentTFamily
from allegory.likelihoods import input_width
from allegory.positivity import inverse_positive, positive

__all__ = ["AroundFactors", "Factors", "begin_at_factors", "factor_analysis", "posterior_of_factors"]

ITERATIONS, MAX_ROWS = 50, 5000
LEAST_NOISE = 1e-3  # psi, of a column of unit variance
BOUND = 1e3  # of the sigma of q and of densities, as `positive` has it


class Factors(NamedTuple):
    """A factor analysis: W (D, L), b (D,), psi (D,)."""

    loadings: Tensor
    bias: Tensor
    noise: Tensor


def posterior_of_factors(factors: Factors, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (*batch, L) and the covariance (*batch, L, L) of z given what is observed of y: (*batch, D).

    >>> factors = Factors(torch.ones(2, 1), torch.zeros(2), torch.ones(2))
    >>> mean, covariance = posterior_of_factors(factors, torch.tensor([[3.0, math.nan]]))
    >>> mean.item(), covariance.item()
    (1.5, 0.5)
    """
    w, bias, noise = factors
    seen, scaled = ~y.isnan(), w / noise[:, None]
    eye = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    products = (w[:, :, None] * scaled[:, None, :]).flatten(1)
    covariance = torch.linalg.inv(eye + (seen.to(w.dtype) @ products).unflatten(-1, eye.shape))
    pull = torch.where(seen, y - bias, 0.0) @ scaled
    return (covariance @ pull[..., None])[..., 0], covariance


@torch.no_grad()
def factor_analysis(y: Tensor, latent: int, iterations: int = ITERATIONS) -> Factors:
    """The factor analysis of rows, in float64.

    Args:
        y: (N, D) in units of about 1, with gaps; at most 5,000 rows, evenly spaced, are looked at.
        latent: L, of which D - 1 are used: the loadings of further ones are 0.
        iterations: of EM.

    >>> z = torch.randn(500, 1)
    >>> factors = factor_analysis(z + 0.5 * torch.randn(500, 3), 1)
    >>> bool(((factors.noise - 0.25).abs() < 0.1).all())
    True
    """
    y = y[:: math.ceil(len(y) / MAX_ROWS)].double()
    used = max(0, min(latent, y.shape[1] - 1))
    seen, filled = ~y.isnan(), torch.where(y.isnan(), 0.0, y)
    zero = torch.zeros_like(filled[0])
    factors = Factors(_principal_axes(filled, used), zero, torch.ones_like(zero))
    one_row = torch.eye(used + 1, dtype=y.dtype, device=y.device)
    for _ in range(iterations if used else 0):
        mean, covariance = posterior_of_factors(factors, y)
        z = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
        square = z[:, :, None] * z[:, None, :]
        square[:, :used, :used] += covariance
        squares = (seen.double().T @ square.flatten(1)).unflatten(1, one_row.shape) + one_row
        products = filled.T @ z
        w = torch.linalg.solve(squares, products)
        noise = (filled.square().sum(0) - (w * products).sum(1) + 1) / (seen.sum(0) + 1)
        spread = torch.linalg.cholesky(square[:, :used, :used].mean(0))
        factors = Factors(w[:, :used] @ spread, w[:, used], noise.clamp(min=LEAST_NOISE))
    w = factors.loadings
    turn = torch.linalg.eigh(w.T @ (w / factors.noise[:, None])).eigenvectors.flip(1)
    return factors._replace(loadings=nn.functional.pad(w @ turn, (0, latent - used)))


def _principal_axes(y: Tensor, count: int) -> Tensor:
    """(D, count) of rows without gaps, each as long as y spreads along it."""
    _, lengths, axes = torch.linalg.svd(y, full_matrices=False)
    found = (axes.T * lengths)[:, :count] / math.sqrt(len(y))
    return nn.functional.pad(found, (0, count - found.shape[1]))


class AroundFactors(nn.Module):
    """The parameters of q(z | x), from the features of x: those of the factor analysis of its numbers, and what a
    network adds. (*batch, F) -> (*batch, 2 L).

    Args:
        network: reads the features, and E[z | y_o]: (*batch, F + L).
        read: the `ReadColumns` that makes the features.
        family: of the columns.
        latent: L.
    """

    def __init__(self, network: nn.Module, read: Any, family: ColumnsFamily, latent: int) -> None:
        super().__init__()
        self.network = network
        begins = [0]
        for part, index in zip(read.reads, family.columns, strict=True):
            begins.append(begins[-1] + input_width(part, len(index)))
        values, seen, points = list[int](), list[int](), torch.zeros(begins[-1], 0)
        for block in _numbers(family):
            begin, end, count = begins[block.place], begins[block.place + 1], block.columns
            flags = torch.zeros(begins[-1], count)
            flags[begin + count : end - count] = 1.0
            values += range(begin, begin + count)
            seen += range(end - count, end)
            points = torch.cat([points, flags], 1)
        self.values: Tensor
        self.seen: Tensor
        self.points: Tensor
        self.register_buffer("values", torch.tensor(values, dtype=torch.long), persistent=False)
        self.register_buffer("seen", torch.tensor(seen, dtype=torch.long), persistent=False)
        self.register_buffer("points", points, persistent=False)
        self.loadings: Tensor
        self.bias: Tensor
        self.noise: Tensor
        self.register_buffer("loadings", torch.zeros(len(values), latent))
        self.register_buffer("bias", torch.zeros(len(values)))
        self.register_buffer("noise", torch.ones(len(values)))

    def numbers(self, features: Tensor) -> Tensor:
        """(*batch, D) y, as the encoder reads it; NaN in gaps, and at points, which have no location."""
        seen = features[..., self.seen] - features @ self.points
        return features[..., self.values].masked_fill(seen < 0.5, math.nan)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # an inverse takes more than bfloat16
            factors = Factors(self.loadings, self.bias, self.noise)
            mean, covariance = posterior_of_factors(factors, self.numbers(features))
            log_sd = covariance.diagonal(dim1=-2, dim2=-1).log() / 2
            b = math.log(BOUND)
            s = b * torch.atanh((log_sd / b).clamp(min=-0.99))  # positive(s) is sd
        return torch.cat([mean, s], -1) + self.network(torch.cat([features, mean], -1))


@torch.no_grad()
def begin_at_factors(
    first: nn.Module, around: Any, last: Any, locations: nn.Linear, family: ColumnsFamily, data: Tensor
) -> None:
    """Sets where a model of a table begins, by a factor analysis of its numbers.

    Args:
        first: makes features of x.
        around: the `AroundFactors` that reads them.
        last: the layer of the decoder that ends in phi, its bias at the marginals.
        locations: the linear map, of z, that is added to it.
        family: of the columns.
        data: (N, D) with gaps.
    """
    y = around.numbers(first(data.to(around.noise.dtype)))
    if not y.shape[-1]:
        return
    found = factor_analysis(y, around.loadings.shape[1])
    for name, value in found._asdict().items():
        getattr(around, name).copy_(value)
    rows = [(block, row) for block in _numbers(family) for c in range(block.columns) for row in block.rows(c)]
    for block, (d, mu, s) in rows:
        root = found.noise[d].sqrt()
        locations.weight[mu] = found.loadings[d].to(locations.weight)
        last.bias[mu] = last.bias[mu] * root + found.bias[d]
        last.bias[s] = inverse_positive(positive(last.bias[s], block.bound) * root, block.bound)


class _Numbers(NamedTuple):
    """A block of columns whose law has a location and a scale, in the units in which the encoder reads it."""

    place: int  # of the block
    before: int  # columns of numbers in the blocks before it
    columns: int
    first: int  # number of phi that is a location
    components: int
    bound: float  # of the scale

    def rows(self, c: int) -> list[tuple[int, int, int]]:
        """Of a column its place among the numbers, and which elements of phi are the location and the scale of each
        component.
        """
        locations = [self.first + j * self.columns + c for j in range(self.components)]
        return [(self.before + c, mu, mu + self.components * self.columns) for mu in locations]


def _numbers(family: ColumnsFamily) -> Iterator[_Numbers]:
    begin = before = 0
    for place, (block, size) in enumerate(zip(family.blocks, family.sizes, strict=True)):
        law: Any = block.family if isinstance(block, PointsFamily) else block
        logits = block.logits if isinstance(block, PointsFamily) else 0
        count = len(family.columns[place])
        found = None
        if isinstance(law, IntervalFamily):
            weights = law.components if law.components > 1 else 0
            found = _Numbers(place, before, count, begin + logits + weights * count, law.components, SHARPEST)
        elif isinstance(law, Standardized) and isinstance(law.family, Normal | StudentTFamily):
            found = _Numbers(place, before, count, begin + logits, 1, BOUND)
        if found is not None:
            yield found
            before += count
        begin += size
