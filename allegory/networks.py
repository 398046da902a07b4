r"""Networks: the maps from a context to the parameters of a family. They know shapes, not distributions.

A residual network of N blocks computes x + f_1(x) + f_2(...) + ...; with the last layer of every f_n scaled by
1 / sqrt(N) at the start, the sum has the variance of x for any N, and fifty levels start out like one.

A chain of T links multiplies T gains: where each outputs a mean proportional to the z it reads, a large z grows by
orders of magnitude further down. Reading z through 3 asinh(z / 3) prevents that.

There is no batch normalisation: it would make the likelihood of an example depend on its neighbours.

Shapes: *batch any leading dimensions; every network keeps them. Images are (*batch, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from allegory.intervals import at_points

__all__ = [
    "Asinh",
    "Carry",
    "Checkpointed",
    "Climb",
    "ColumnSet",
    "Concat",
    "Crop",
    "Denoiser",
    "DepthToSpace",
    "ImageDenoiser",
    "Images",
    "Lift",
    "LogFrom",
    "LogSNR",
    "LogStandardize",
    "Offset",
    "OneHot",
    "ReadColumns",
    "ReadGaps",
    "ReadPoints",
    "Residual",
    "SpaceToDepth",
    "Standardize",
    "Sum",
    "Vectors",
    "bottleneck",
    "mlp",
    "scaled",
    "zeroed",
]


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Callable[[], nn.Module] = nn.SiLU,
    dropout: float = 0.0,
    block: str | Callable[[int, int], nn.Module] = "plain",
) -> Vectors:
    """A multilayer perceptron, (*batch, inputs) -> (*batch, outputs).

    Args:
        inputs, outputs: widths of input and output.
        hidden: widths of the hidden layers.
        activation: called once for each hidden layer.
        dropout: probability of zeroing a hidden unit, in training.
        block: the type of a hidden layer: "plain", activation(W h + b); "gated", (W h + b) * sigmoid(V h + c), without
            the activation (Dauphin et al. 2017); "residual", which adds to h itself where the width stays the same. Or
            a callable (inputs, outputs) -> module, (*batch, inputs) -> (*batch, outputs), called for each hidden layer.

    Raises:
        ValueError: an unknown block, or a callable that does not return a module.

    >>> mlp(3, [8, 8], 2, block="residual")(torch.zeros(5, 4, 3)).shape
    torch.Size([5, 4, 2])
    """
    if not callable(block) and block not in ("plain", "gated", "residual"):
        raise ValueError(f"block={block!r}: wanted 'plain', 'gated' or 'residual', or a callable (inputs, outputs)")
    layers: list[nn.Module] = []
    drop = [nn.Dropout(dropout)] if dropout else []
    for width in hidden:
        if callable(block):
            layer = block(inputs, width)
            if not isinstance(layer, nn.Module):
                raise ValueError(f"block({inputs}, {width}) made {type(layer).__name__}, wanted a torch.nn.Module")
            layers += [layer, *drop]
        elif block == "gated":
            layers += [nn.Linear(inputs, 2 * width), nn.GLU(-1), *drop]
        elif block == "residual" and layers and width == inputs:
            last = scaled(nn.Linear(width, width), len(hidden))
            layers.append(Residual(nn.Linear(width, width), activation(), *drop, last))
        else:
            layers += [nn.Linear(inputs, width), activation(), *drop]
        inputs = width
    return Vectors(*layers, nn.Linear(inputs, outputs))


def bottleneck(
    channels: int,
    inner: int,
    kernel: tuple[int, int],
    depth: int,
    activation: Callable[[], nn.Module] = nn.GELU,
    dropout: float = 0.0,
) -> nn.Module:
    """A residual block of four convolutions, 1x1 down to `inner` channels, two of `kernel`, 1x1 up again (Child 2021),
    (N, channels, H, W) -> the same.

    Args:
        channels, inner: channels outside and inside.
        kernel: height and width of the two inner convolutions; 1 where the grid is one cell high, or wide.
        depth: how many such blocks are stacked in the whole network.
        activation: called once for each convolution.
        dropout: probability of zeroing an inner unit, in training.
    """

    def convolve(inputs: int, outputs: int, sides: tuple[int, int] = (1, 1)) -> list[nn.Module]:
        return [activation(), nn.Conv2d(inputs, outputs, sides, padding=(sides[0] // 2, sides[1] // 2))]

    drop = [nn.Dropout(dropout)] if dropout else []
    return Residual(
        *convolve(channels, inner),
        *convolve(inner, inner, kernel),
        *convolve(inner, inner, kernel),
        *drop,
        activation(),
        scaled(nn.Conv2d(inner, channels, 1), depth),
    )


@torch.no_grad()
def scaled(layer: Any, depth: int) -> Any:
    """The layer, with its weights scaled by 1 / sqrt(depth) and its bias zeroed."""
    layer.weight.mul_(1 / math.sqrt(depth))
    layer.bias.zero_()
    return layer


@torch.no_grad()
def zeroed(layer: Any) -> Any:
    """The layer, with its weights and its bias zeroed."""
    layer.weight.zero_()
    layer.bias.zero_()
    return layer


class Asinh(nn.Module):
    """c asinh(z / c), (*shape) -> the same: z itself where it is small, c log(2 |z| / c) with z's sign where large.

    Args:
        scale: c, where the one regime turns into the other. Latents are of unit scale, so 3 leaves them nearly
            unchanged while training goes well.

    >>> Asinh()(torch.tensor([0.3, -3e3]))
    tensor([  0.2995, -22.8027])
    """

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * torch.asinh(z / self.scale)

    def extra_repr(self) -> str:
        return f"{self.scale:g}"


class Residual(nn.Sequential):
    """x + f(x), for a sequence of layers f."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Sum(nn.ModuleList):
    """The sum of what several networks make of the same context.

    >>> Sum([nn.Linear(3, 2), nn.Linear(3, 2)])(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self]).sum(0)


class Vectors(nn.Sequential):
    """Layers on vectors with any leading dimensions: (*batch, D) -> (*batch, D'). They see one such dimension: compiled
    with two, each activation is stored twice for the backward pass.

    >>> Vectors(nn.Linear(3, 8))(torch.zeros(4, 2, 3)).shape
    torch.Size([4, 2, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])


class Images(nn.Sequential):
    """Layers on images with any leading dimensions: (*batch, C, H, W) -> (*batch, C', H', W').

    >>> Images(nn.Conv2d(3, 8, 1))(torch.zeros(4, 2, 3, 5, 5)).shape
    torch.Size([4, 2, 8, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[:-3]
        return super().forward(x.reshape(-1, *x.shape[-3:])).unflatten(0, batch)


class Checkpointed(nn.Sequential):
    """Layers that store only their input for the backward pass, and are recomputed there (Chen et al. 2016): a third
    more time, and the memory of one block instead of all.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False)


class Concat(nn.Sequential):
    """Several contexts concatenated, (*batch, C_i, *rest) each, then layers; the batch shapes broadcast.

    Args:
        layers: applied to the concatenation, (*batch, sum C_i, *rest); none for the concatenation alone.
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


class Lift(nn.Module):
    """network(c_1, ..., lift(c_n)): the last context is first resized to match the others.

    Args:
        lift: applied to the last context.
        network: applied to all of them, such as a `Concat`.
    """

    def __init__(self, lift: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.lift, self.network = lift, network

    def forward(self, *contexts: Tensor) -> Tensor:
        *others, last = contexts
        return self.network(*others, self.lift(last))


class Carry(nn.Module):
    """A state of fixed size, s_t = body(s_{t+1} + enter(z_t)); at the top s_T = body(enter(z_T)).

    Args:
        enter: maps z_t to what is added to the state.
        body: applied to the sum.
    """

    def __init__(self, enter: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.enter, self.body = enter, body

    def forward(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        entered = self.enter(z)
        return self.body(entered if state is None else state + entered)


class Crop(nn.Module):
    """The first rows and columns of images, (*batch, C, H', W') -> (*batch, C, H, W), without what a padding added.

    Args:
        height, width: H and W.

    >>> Crop(3, 5)(torch.zeros(2, 4, 4, 8)).shape
    torch.Size([2, 4, 3, 5])
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]

    def extra_repr(self) -> str:
        return f"{self.height}, {self.width}"


class SpaceToDepth(nn.Module):
    """torch's PixelUnshuffle with a factor for each side, (N, C, a H, b W) -> (N, C a b, H, W): for lines, a = 1.

    Args:
        a, b: factors of height and width.

    >>> SpaceToDepth(1, 4)(torch.zeros(2, 3, 1, 32)).shape
    torch.Size([2, 12, 1, 8])
    """

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        cells = x.unflatten(-1, (-1, self.b)).unflatten(-3, (-1, self.a))  # (N, C, H, a, W, b)
        return cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def extra_repr(self) -> str:
        return f"{self.a}, {self.b}"


class DepthToSpace(SpaceToDepth):
    """The inverse of `SpaceToDepth`, (N, C a b, H, W) -> (N, C, a H, b W).

    >>> x = torch.randn(2, 3, 4, 10)
    >>> torch.equal(DepthToSpace(2, 5)(SpaceToDepth(2, 5)(x)), x)
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        cells = x.unflatten(1, (-1, self.a, self.b))  # (N, C, a, b, H, W)
        return cells.permute(0, 1, 4, 2, 5, 3).flatten(2, 3).flatten(3, 4)


class Climb(nn.ModuleList):
    """A deterministic pass up, x -> (h_1, ..., h_T), h_t = step_t(h_{t-1}), h_0 = x. The first step also reads what is
    given.

    >>> [h.shape[1] for h in Climb([nn.Linear(5, 3), nn.Linear(3, 2)])(torch.zeros(1, 5))]
    [3, 2]
    """

    def forward(self, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        features: list[Tensor] = []
        for step in self:
            features.append(step(features[-1]) if features else step(x, *given))
        return tuple(features)


class Offset(nn.Module):
    """x + b with a learned b for every element: the output bias of a network that shares its weights across positions.

    Args:
        shape: of b.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Standardize(nn.Module):
    """(x - loc) / scale: (*batch, *event) -> the same. The constants are stored with the weights.

    Args:
        event_shape: of x.
    """

    def __init__(self, *event_shape: int) -> None:
        super().__init__()
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(event_shape))
        self.register_buffer("scale", torch.ones(event_shape))

    def transform(self, x: Tensor) -> Tensor:
        """What is standardised: x itself."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return (self.transform(x) - self.loc) / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """The x that is read as y."""
        return self.loc + self.scale * y


class LogStandardize(Standardize):
    """(log(1 + x) - loc) / scale, for counts: a gene of 100,000 reads and one of three vary alike on it.

    >>> read = LogStandardize(2)
    >>> read(torch.tensor([0.0, 1e5]))
    tensor([ 0.0000, 11.5129])
    """

    def transform(self, x: Tensor) -> Tensor:
        """What is standardised: log(1 + x)."""
        return torch.log1p(x)

    def inverse(self, y: Tensor) -> Tensor:
        """The x that is read as y."""
        return torch.expm1(super().inverse(y))


class LogFrom(Standardize):
    """(log(x - low + step) - loc) / scale, for numbers from `low` up whose spread grows with their size.

    Args:
        low, step: (*event) where x begins, and its resolution.
    """

    def __init__(self, low: Tensor, step: Tensor) -> None:
        super().__init__(*low.shape)
        self.low: Tensor
        self.step: Tensor
        self.register_buffer("low", low.clone())
        self.register_buffer("step", step.clone())

    def transform(self, x: Tensor) -> Tensor:
        """What is standardised: log(x - low + step)."""
        return torch.log((x - self.low).clamp(min=0) + self.step)

    def inverse(self, y: Tensor) -> Tensor:
        """The x that is read as y."""
        return torch.exp(super().inverse(y)) + self.low - self.step


class ReadGaps(nn.Module):
    """x with gaps, as a network reads it: read(x) with 0 where x is NaN, and whether it is there, 0 or 1
    (Collier et al. 2020). (*batch, C, *rest) -> (*batch, n + C, *rest).

    Args:
        read: (*batch, C, *rest) -> (*batch, n, *rest), n a multiple of C, the input layer for x without gaps.
        event_dim: dimensions of an event, 1 + len(rest).

    >>> ReadGaps(Standardize(2), event_dim=1)(torch.tensor([[3.0, math.nan]]))
    tensor([[3., 0., 1., 0.]])
    """

    def __init__(self, read: nn.Module, event_dim: int = 1) -> None:
        super().__init__()
        self.read, self.event_dim = read, event_dim

    def forward(self, x: Tensor) -> Tensor:
        channel = -self.event_dim
        missing = x.isnan()
        y = self.read(torch.where(missing, getattr(self.read, "lowest", 0.0), x))
        repeats = [1] * (y.dim() + channel) + [y.shape[channel] // x.shape[channel]] + [1] * (-channel - 1)
        return torch.cat([y.masked_fill(missing.repeat(repeats), 0), (~missing).to(y.dtype)], channel)


class ReadColumns(nn.Module):
    """The columns of a table, as a network reads them: some by one layer, some by another.

    Args:
        reads: layers for (*batch, C) each.
        columns: which columns each of them reads, (C,).

    >>> read = ReadColumns([ReadGaps(OneHot(3, 1)), ReadGaps(Standardize(1))], [torch.tensor([1]), torch.tensor([0])])
    >>> read(torch.tensor([[5.0, 2.0]]))
    tensor([[0., 0., 1., 1., 5., 1.]])
    """

    def __init__(self, reads: Sequence[nn.Module], columns: Sequence[Tensor]) -> None:
        super().__init__()
        self.reads = nn.ModuleList(reads)
        for i, index in enumerate(columns):
            self.register_buffer(f"columns_{i}", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([read(x[..., getattr(self, f"columns_{i}")]) for i, read in enumerate(self.reads)], -1)


class ColumnSet(nn.Module):
    """A set encoder (Ma et al. 2019, the partial VAE): a sum over the columns that are observed, in which no order and
    no number of columns is fixed,

        h(x) = sum_{d observed} f(e_d + W_d read(x_d)) / sqrt(D)

    with an embedding e_d and weights W_d for each column, and one network f for all. (*batch, D) -> (*batch, n).

    Args:
        read: a `ReadColumns` of `ReadGaps`.
        features: n.

    >>> read = ReadColumns([ReadGaps(Standardize(3))], [torch.arange(3)])
    >>> ColumnSet(read, 8)(torch.tensor([[0.5, math.nan, 2.0]])).shape
    torch.Size([1, 8])
    """

    def __init__(self, read: Any, features: int) -> None:
        super().__init__()
        self.read = read
        counts = [len(getattr(read, f"columns_{i}")) for i in range(len(read.reads))]
        widths = [
            part(torch.zeros(1, count)).shape[-1] // count - 1 for part, count in zip(read.reads, counts, strict=True)
        ]
        self.weights = nn.ParameterList(
            torch.randn(width, count, features) / math.sqrt(width) for width, count in zip(widths, counts, strict=True)
        )
        self.embeddings = nn.ParameterList(torch.randn(count, features) for count in counts)
        self.shared = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        total: Any = 0
        for i, (part, weight, embedding) in enumerate(zip(self.read.reads, self.weights, self.embeddings, strict=True)):
            count = len(embedding)
            values, seen = part(x[..., getattr(self.read, f"columns_{i}")]).tensor_split([-count], -1)
            inner = torch.einsum("...nc,ncf->...cf", values.unflatten(-1, (-1, count)), weight) + embedding
            total = total + (self.shared(inner) * seen[..., None]).sum(-2)
        return total / math.sqrt(x.shape[-1])


class ReadPoints(nn.Module):
    """A value as it is otherwise read, and which of some points it is: (*batch, 1) -> (*batch, n + 1).

    Args:
        read: (*batch, 1) -> (*batch, 1).
        values: (n,) the points.
    """

    def __init__(self, read: nn.Module, values: Tensor) -> None:
        super().__init__()
        self.read = read
        self.values: Tensor
        self.register_buffer("values", values.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.read(x), at_points(x[..., 0], self.values).to(x.dtype)], -1)


class OneHot(nn.Module):
    """Categories as unit vectors: (*batch, C, *rest) of 0, ..., k - 1 -> (*batch, k * C, *rest).

    Args:
        k: categories.
        event_dim: dimensions of an event, 1 + len(rest).
        lowest: the first category, where it is not 0.

    >>> OneHot(3, event_dim=1)(torch.tensor([[0.0, 2.0]]))
    tensor([[1., 0., 0., 0., 0., 1.]])
    """

    def __init__(self, k: int, event_dim: int, lowest: int = 0) -> None:
        super().__init__()
        self.k, self.event_dim, self.lowest = k, event_dim, lowest

    def forward(self, x: Tensor) -> Tensor:
        channel = -self.event_dim
        return (
            F.one_hot(x.long() - self.lowest, self.k).to(x.dtype).movedim(-1, channel - 1).flatten(channel - 1, channel)
        )


class LogSNR(nn.Module):
    """log SNR as a network reads it: itself, and sines and cosines of it, (*batch) -> (*batch, 2 n + 1).

    Args:
        count: n, frequencies, pi / 16 times powers of two; log SNR lies within +- 14.

    >>> LogSNR(2)(torch.tensor([0.0]))
    tensor([[0., 0., 0., 1., 1.]])
    """

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / 16 * 2.0 ** torch.arange(count), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        angle = log_snr[..., None] * self.frequencies
        return torch.cat([log_snr[..., None] / 7, angle.sin(), angle.cos()], -1)


class Denoiser(nn.Module):
    """A perceptron that reads noisy latents and their log SNR, (z, log_snr) -> (*batch, C', *rest): residual blocks of
    one hidden layer each, whose units are scaled and shifted by the log SNR. It begins at 0.

    Args:
        shape: of z, (C, *rest).
        width: of the blocks, and of their hidden layers.
        blocks: how many.
        outputs: C', by default C.
        waves: how many sines and cosines of each element of z are read besides, their frequencies pi / 4 times powers
            of two: for a few elements whose density has fine structure. By default 6 for up to 16 elements, else none.
        dropout: in the hidden layers, in training.

    >>> Denoiser((2,), width=8, blocks=1)(torch.zeros(5, 4, 2), torch.zeros(5, 4)).shape
    torch.Size([5, 4, 2])
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 512,
        blocks: int = 3,
        outputs: int | None = None,
        waves: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        count = math.prod(shape)
        waves = (6 if count <= 16 else 0) if waves is None else waves
        self.shape = ((shape[0] if outputs is None else outputs), *shape[1:])
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / 4 * 2.0 ** torch.arange(waves), persistent=False)
        self.read, self.ratio = nn.Linear(count * (1 + 2 * waves), width), LogSNR()
        self.condition = nn.Sequential(nn.Linear(13, width), nn.SiLU())
        self.blocks = nn.ModuleList(_PerceptronBlock(width, blocks, dropout) for _ in range(blocks))
        self.write = zeroed(nn.Linear(width, math.prod(self.shape)))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        flat = z.reshape(log_snr.numel(), -1)
        angle = (flat[..., None] * self.frequencies).flatten(1)
        h = self.read(torch.cat([flat, angle.sin(), angle.cos()], 1))
        condition = self.condition(self.ratio(log_snr.reshape(-1)))
        for block in self.blocks:
            h = block(h, condition)
        return self.write(F.silu(h)).view(*log_snr.shape, *self.shape)


class _PerceptronBlock(nn.Module):
    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.enter, self.film = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)), nn.Linear(width, 2 * width)
        self.leave = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), scaled(nn.Linear(width, width), depth))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).chunk(2, 1)
        return h + self.leave(self.enter(h) * (1 + scale) + shift)


class ImageDenoiser(nn.Module):
    """Convolutions that read noisy images and their log SNR, (z, log_snr) -> (*batch, C', H, W): residual blocks, see
    `bottleneck`, on a grid of cells of `cell` x `cell` pixels, whose channels are scaled and shifted by the log SNR,
    and which know where they are. It begins at 0.

    Args:
        shape: of z, (C, H, W).
        channels: of the grid; half of them inside a block.
        blocks: how many.
        outputs: C', by default C.
        cell: the side of a cell; sides that it does not divide are padded.
        dropout: in the blocks, in training.

    >>> ImageDenoiser((1, 6, 10), channels=8, blocks=1)(torch.zeros(5, 1, 6, 10), torch.zeros(5)).shape
    torch.Size([5, 1, 6, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        blocks: int = 8,
        outputs: int | None = None,
        cell: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inputs, height, width = shape
        outputs = inputs if outputs is None else outputs
        self.shape, self.padding = (outputs, height, width), (0, -width % cell, 0, -height % cell)
        rows, columns = -(-height // cell), -(-width // cell)
        self.read = nn.Sequential(SpaceToDepth(cell, cell), nn.Conv2d(inputs * cell**2, channels, 3, padding=1))
        self.place = Offset(channels, rows, columns)
        self.ratio, self.condition = LogSNR(), nn.Sequential(nn.Linear(13, channels), nn.SiLU())
        kernel = (3 if rows > 1 else 1, 3 if columns > 1 else 1)
        self.films = nn.ModuleList(zeroed(nn.Linear(channels, 2 * channels)) for _ in range(blocks))
        inner: list[Any] = [
            bottleneck(channels, max(1, channels // 2), kernel, blocks, dropout=dropout) for _ in range(blocks)
        ]
        self.blocks = nn.ModuleList(nn.Sequential(*layers) for layers in inner)
        last = zeroed(nn.Conv2d(channels, outputs * cell**2, 3, padding=1))
        self.write = nn.Sequential(nn.GELU(), last, DepthToSpace(cell, cell), Crop(height, width))

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        h = self.place(self.read(F.pad(z.reshape(-1, *z.shape[-3:]), self.padding)))
        condition = self.condition(self.ratio(log_snr.reshape(-1)))
        for film, block in zip(self.films, self.blocks, strict=True):
            scale, shift = film(condition)[..., None, None].chunk(2, 1)
            h = h + block(h * (1 + scale) + shift)
        return self.write(h).view(*log_snr.shape, *self.shape)
