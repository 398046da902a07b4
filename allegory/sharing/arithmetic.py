r"""Functions that a graph has to compute itself, since the format has none, or runtimes lose their digits.

ONNX knows log(1 + x) and exp(x) - 1 as they are written, and no log Gamma. onnxruntime has no asinh in float64, and
takes the logarithm of the sigmoid, log 0 from -88 on in float32, where log sigmoid(x) = x. With u the rounded 1 + x
or exp(x) (Higham 2002, section 1.14),

    log(1 + x)   = x log(u) / (u - 1)                          x where u = 1
    exp(x) - 1   = x (u - 1) / log(u)                          x where u = 1
    asinh(x)     = sign(x) log(1 + |x| + x^2 / (1 + sqrt(1 + x^2)))
    log sigmoid(x) = min(x, 0) - log(1 + e^-|x|),              log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
    log Gamma(x) = (z - 1/2) log z - z + log(2 pi) / 2 + sum_k B_2k / (2k (2k - 1) z^(2k - 1)) - log x (x+1) .. (z-1)

with z = x + 8 below 8 and z = x above: Stirling's series, of seven terms, for x > 0.

Everything here is elementwise, in the type of x.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["DECOMPOSITIONS", "asinh", "expm1", "lgamma", "log1p", "log_sigmoid", "softplus"]

STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
LARGE = 1e9  # from where asinh(x) = log(2 x), in float64 to the last digit
FROM = 8  # where Stirling's series, with these terms, has all the digits of float64


def log1p(x: Tensor) -> Tensor:
    """Log(1 + x).

    >>> log1p(torch.tensor(1e-10))
    tensor(1.0000e-10)
    """
    u = 1 + x
    plain = (u == 1) | u.isinf()
    return torch.where(u == 1, x, torch.log(u) * torch.where(plain, 1.0, x / torch.where(plain, 1.0, u - 1)))


def expm1(x: Tensor) -> Tensor:
    """Exp(x) - 1.

    >>> expm1(torch.tensor([1e-10, -200.0]))
    tensor([ 1.0000e-10, -1.0000e+00])
    """
    u = torch.exp(x)
    d = u - 1
    plain = (d == 0) | (d == -1) | u.isinf()
    ratio = d * x / torch.log(torch.where(plain, 2.0, u))
    return torch.where(d == 0, x, torch.where(plain, d, ratio))


def asinh(x: Tensor) -> Tensor:
    """The inverse of sinh, which onnxruntime has in float32 alone.

    >>> asinh(torch.tensor([1e-10, -1e30]))
    tensor([ 1.0000e-10, -6.9771e+01])
    """
    a = x.abs()
    near, far = a.clamp(max=LARGE), a.clamp(min=LARGE)
    root = torch.sqrt(1 + near.square())
    return torch.sign(x) * torch.where(
        a < LARGE, log1p(near + near.square() / (1 + root)), torch.log(far) + math.log(2)
    )


def log_sigmoid(x: Tensor) -> Tensor:
    """Log(1 / (1 + e^-x)).

    >>> log_sigmoid(torch.tensor([-200.0, 0.0]))
    tensor([-200.0000,   -0.6931])
    """
    return x.clamp(max=0) - log1p(torch.exp(-x.abs()))


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """Log(1 + e^(beta x)) / beta, for every x: no threshold is needed.

    >>> softplus(torch.tensor([-20.0, 200.0]))
    tensor([2.0612e-09, 2.0000e+02])
    """
    y = beta * x
    return (y.clamp(min=0) + log1p(torch.exp(-y.abs()))) / beta


def lgamma(x: Tensor) -> Tensor:
    """Log Gamma(x) of x > 0.

    >>> lgamma(torch.tensor([0.5, 5.0, 1e6]))
    tensor([5.7236e-01, 3.1781e+00, 1.2816e+07])
    """
    small = x < FROM
    low, z = torch.where(small, x, 1.0), torch.where(small, x + FROM, x)
    series = torch.zeros_like(z)
    for term in reversed(STIRLING):
        series = series / z.square() + term
    large = (z - 0.5) * torch.log(z) - z + math.log(2 * math.pi) / 2 + series / z
    steps = low[..., None] + torch.arange(FROM, dtype=x.dtype, device=x.device)
    return large - torch.where(small, torch.log(steps).sum(-1), 0.0)


_ATEN = torch.ops.aten
DECOMPOSITIONS: dict[Any, Any] = {
    _ATEN.log1p.default: log1p,
    _ATEN.expm1.default: expm1,
    _ATEN.asinh.default: asinh,
    _ATEN.log_sigmoid.default: log_sigmoid,
    _ATEN.softplus.default: softplus,
    _ATEN.lgamma.default: lgamma,
}
"""What takes the place of torch's operators."""
