r"""Networks: what maps a context to the parameters of a family. They know shapes, not distributions.

Shapes: *batch any leading dimensions; every network keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Climb", "Concat", "OneHot", "Standardize", "mlp"]


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Callable[[], nn.Module] = nn.SiLU,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A multilayer perceptron, (*batch, inputs) -> (*batch, outputs).

    Args:
        inputs, outputs: widths of the two ends.
        hidden: widths between, each followed by the activation and dropout.
        activation: called once for each hidden layer.
        dropout: probability of a hidden unit to be silent, while training.

    >>> mlp(3, [8], 2)(torch.zeros(5, 4, 3)).shape
    torch.Size([5, 4, 2])
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Standardize(nn.Module):
    """(x - loc) / scale, flattened: (*batch, *event) -> (*batch, D). The constants are kept with the weights.

    Args:
        event_shape: of x.
    """

    def __init__(self, *event_shape: int) -> None:
        super().__init__()
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(event_shape))
        self.register_buffer("scale", torch.ones(event_shape))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.loc) / self.scale).flatten(-self.loc.dim())


class OneHot(nn.Module):
    """Categories as unit vectors: (*batch, *event) of 0, ..., k - 1 -> (*batch, D * k).

    Args:
        k: categories.
        event_dim: dimensions of an event.
    """

    def __init__(self, k: int, event_dim: int) -> None:
        super().__init__()
        self.k, self.event_dim = k, event_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(x.long(), self.k).to(x.dtype).flatten(-self.event_dim - 1)


class Concat(nn.Sequential):
    """Several contexts side by side, (*batch, C_i, *rest) each, read by one network; their batches broadcast.

    Args:
        layers: what reads them: (*batch, sum C_i, *rest). None joins them and does nothing else.
        event_dim: dimensions of a context: 1 for a vector, 3 for an image.

    >>> Concat(nn.Linear(5, 7), event_dim=1)(torch.zeros(6, 2), torch.zeros(4, 6, 3)).shape
    torch.Size([4, 6, 7])
    """

    def __init__(self, *layers: nn.Module, event_dim: int = 1) -> None:
        super().__init__(*layers)
        self.event_dim = event_dim

    def forward(self, *contexts: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(*(c.shape[: -self.event_dim] for c in contexts))
        parts = [c.expand(*batch, *c.shape[-self.event_dim :]) for c in contexts]
        return super().forward(torch.cat(parts, -self.event_dim))


class Climb(nn.ModuleList):
    """A deterministic pass up, x -> (h_1, ..., h_T), h_t = step_t(h_{t-1}), h_0 = x.

    >>> [h.shape[1] for h in Climb([nn.Linear(5, 3), nn.Linear(3, 2)])(torch.zeros(1, 5))]
    [3, 2]
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = []
        for step in self:
            x = step(x)
            features.append(x)
        return tuple(features)
