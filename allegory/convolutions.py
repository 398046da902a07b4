r"""The convolutional ladder: its grids, its blocks, and the columns that are built of them.

    up      x -> h_1 -> ... -> h_T       squeezed (space to depth) where the grid gets coarser, then residual blocks
    q       h_t, s_{t+1} -> q(z_t | z_{t+1}, x)
    down    s_T -> ... -> s_1 -> x       residual blocks, unsqueezed where the grid gets finer; heads: p(z_t | s_{t+1})

A level has one or more grids of blocks, rungs of the ladder: z_t is on the last of them, the others have no latents of
their own, and are passed on the way up to it and down from it.

A scale is a downsampling factor: at scale r the grid of an image (C, H, W) has H / r x W / r cells; of a line
(C, 1, L), 1 x L / r. Sides that the scales do not divide are padded with zeros for the networks, and their output is
cropped.

Shapes: images x, (C, H, W); features h_t and states s_t, (channels, H / r_t, W / r_t); z_t is (C_t, H / r_t, W / r_t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import nn

from allegory import families
from allegory.conditional import Conditional
from allegory.given import Reading, Shifted
from allegory.ladder import TopDown
from allegory.networks import (
    Carry,
    Checkpointed,
    Climb,
    Concat,
    Crop,
    DepthToSpace,
    Images,
    Lift,
    SpaceToDepth,
    bottleneck,
    scaled,
    zeroed,
)

__all__ = ["ConvLadder", "as_images", "check_channels_first", "check_scales", "choose_scales"]


@dataclass(frozen=True)
class ConvLadder:
    """A ladder of convolutions, from which its two columns are made.

    Attributes:
        latent: channels of z on each rung, from the bottom up; 0 where it has none.
        scales: of each rung's grid.
        stem: scale of the input and output grid.
        size: height and width of x.
        channels: of the features of x and of the state.
        blocks: residual blocks on each rung.
        posterior_blocks: and where features and state meet, in each posterior below the top.
        activation: makes one.
        dropout: in every block of the columns.
        markov: whether p(z_{t-1} | z_t) sees only the level above.
        checkpointed: whether blocks are recomputed in the backward pass.
        lines: whether a grid one cell high has kernels of 1 x 3.
        reading: how what is given is read; None where nothing is.
        any_size: whether the weights are the same for every size: no kernel and no layer depends on it.
    """

    latent: Sequence[int]
    scales: Sequence[int]
    stem: int
    size: tuple[int, int]
    channels: int
    blocks: int
    activation: Callable[[], nn.Module]
    dropout: float = 0.0
    markov: bool = False
    checkpointed: bool = False
    lines: bool = True
    reading: Reading | None = None
    posterior_blocks: int = 1
    any_size: bool = False

    @property
    def levels(self) -> int:
        """T, the number of levels of latents."""
        return len(self.rungs)

    @cached_property
    def rungs(self) -> list[int]:
        """Which rung z_1, ..., z_T are on."""
        return [i for i, channels in enumerate(self.latent) if channels]

    def _of_level(self, t: int) -> range:
        """The rungs of a level, t from 0, from the bottom up; its latents are on the last."""
        return range(self.rungs[t - 1] + 1 if t else 0, self.rungs[t] + 1)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of what the networks see: of x, with its padding."""
        height, width = (side if self._stays(side) else _round_up(side, self.scales[-1]) for side in self.size)
        return height, width

    @property
    def _is_padded(self) -> bool:
        return self.any_size or self.sides != self.size  # by 0 and more, so that the layers are the same ones

    @property
    def grid(self) -> tuple[int, int, int]:
        """The shape of z_T, the coarsest grid, (*event_T)."""
        height, width = (side if self._stays(side) else side // self.scales[-1] for side in self.sides)
        return self.latent[-1], height, width

    def _stays(self, side: int) -> bool:
        """Whether a side gets no coarser."""
        return side == 1 and not self.any_size

    def kernel(self, scale: int) -> tuple[int, int]:
        """The kernel of a grid; across a grid of one cell a larger one would see only padding."""
        height, width = self.sides
        if self.any_size:
            return 3, 3
        if not self.lines and min(height, width) <= scale:
            return 1, 1
        return 3 if height > scale else 1, 3 if width > scale else 1

    def encoder(self, input_layer: nn.Module, inputs: int) -> TopDown:
        """The pass up and the posterior.

        Args:
            input_layer: the input layer, x -> (inputs, H, W).
            inputs: its channels.
        """
        up = [input_layer, *self._squeeze(inputs, self.stem)]
        if self._is_padded:
            (height, width), (high, wide) = self.size, self.sides
            up.insert(1, nn.ZeroPad2d((0, wide - width, 0, high - height)))
        if self.scales[0] > self.stem:
            up += [self._body(self.stem), *self._squeeze(self.channels, self.scales[0] // self.stem)]
        body = self._climb(self._of_level(0))
        steps: list[nn.Module] = [nn.Sequential(*up, *body)]
        if self.reading is not None:
            shifted = body[0] if len(body) == 1 else nn.Sequential(*body)
            steps = [Shifted(shifted, self.reading, self.channels, nn.Sequential(*up))]
        steps += [nn.Sequential(*self._climb(self._of_level(t))) for t in range(1, self.levels)]
        top = nn.Sequential(self.activation(), nn.Conv2d(self.channels, 2 * self.latent[-1], 1))
        q_top = Conditional(self._shifted(top), families.normal, event_dim=3)
        return TopDown(Climb(steps), [*map(self._posterior, range(self.levels - 1)), q_top], residual=True)

    def decoders(
        self, family: Any, outputs: int, offset: nn.Module, event_dim: int = 3
    ) -> tuple[list[nn.Module], list[nn.Module]]:
        """p(x | s_1), p(z_1 | s_2), ..., and the modules of the state; none for a Markov chain.

        Args:
            family: of p(x | s_1).
            outputs: channels of its parameters.
            offset: their bias, (outputs, H, W) -> the parameters.
            event_dim: of x, 3, or 2 of grey pictures (H, W).
        """
        stem, finer = self.stem, self.scales[0] // self.stem
        to_x = [*self._unsqueeze(self.channels, finer), self._body(stem)] if finer > 1 else []
        crop = [Crop(*self.size)] if self._is_padded else []
        heads = [[*to_x, self.activation(), *self._unsqueeze(outputs, stem), *crop, offset]]
        widths = [self.latent[rung] for rung in self.rungs]
        heads += [[self.activation(), zeroed(nn.Conv2d(self.channels, 2 * z, 1))] for z in widths[:-1]]
        states: list[nn.Module] = []
        decoders: list[nn.Module] = []
        for t, (z, head) in enumerate(zip(widths, heads, strict=True)):
            enter = scaled(nn.Conv2d(z, self.channels, 1), self.levels)
            down = self._descend(self._of_level(t))
            if self.reading is not None:
                head = [self._body(self.scales[self.rungs[t - 1] if t else 0]), *head]
            first = [enter, *down] if self.markov else []
            if not self.markov:
                states.append(Carry(Images(enter), Images(*down)))
            network = Images(*head) if self.reading is not None else Images(*first, *head)
            shifted = self._shifted(network, Images(*first) if first else None)
            law, dims = (families.normal, 3) if t else (family, event_dim)
            decoders.append(Conditional(shifted, law, event_dim=dims))
        return decoders, states

    def _shifted(self, network: nn.Module, first: nn.Module | None = None) -> nn.Module:
        """The network, which reads what is given as a shift of the channels of its first context."""
        return network if self.reading is None else Shifted(network, self.reading, self.channels, first)

    def _posterior(self, t: int) -> Conditional:
        """q(z_t | z_{t+1}, x), t from 0, of the features of x and the state, or z_{t+1} itself in a Markov chain."""
        here = self.rungs[t]
        both: nn.Module = Concat(
            Images(
                nn.Conv2d(2 * self.channels, self.channels, 1),
                *self._blocks(self.scales[here], self.posterior_blocks, self.posterior_blocks, 0.0),
                self.activation(),
                scaled(nn.Conv2d(self.channels, 2 * self.latent[here], 1), self.levels),
            ),
            event_dim=3,
        )
        if self.markov:
            above = self.rungs[t + 1]
            a, b = self._factors(self.scales[above] // self.scales[here])
            lift = nn.Conv2d(self.latent[above], self.channels * a * b, 1)
            both = Lift(Images(lift, _depth_to_space(a, b)), both)
        return Conditional(self._shifted(both), families.normal, event_dim=3)

    def _climb(self, rungs: range) -> list[nn.Module]:
        """Up over some rungs, to the last of them."""
        layers: list[nn.Module] = []
        for rung in rungs:
            scale, below = self.scales[rung], self.scales[max(0, rung - 1)]
            layers += [*(self._squeeze(self.channels, scale // below) if scale > below else []), self._body(scale)]
        return layers

    def _descend(self, rungs: range) -> list[nn.Module]:
        """Down over some rungs, from the last of them, to the grid of the one below the first."""
        layers: list[nn.Module] = []
        for rung in reversed(rungs):
            scale, below = self.scales[rung], self.scales[max(0, rung - 1)]
            layers += [self._body(scale), *(self._unsqueeze(self.channels, scale // below) if scale > below else [])]
        return layers

    def _body(self, scale: int) -> nn.Module:
        """The residual blocks on a grid."""
        depth = self.blocks * (len(self.latent) + (self.scales[0] > self.stem))
        layers = self._blocks(scale, self.blocks, depth, self.dropout)
        return (Checkpointed if self.checkpointed else nn.Sequential)(*layers)

    def _blocks(self, scale: int, count: int, depth: int, dropout: float) -> list[nn.Module]:
        """Some of `depth` residual blocks."""
        kernel = self.kernel(scale)
        return [bottleneck(self.channels, self._inner, kernel, depth, self.activation, dropout) for _ in range(count)]

    @property
    def _inner(self) -> int:
        return max(1, self.channels // 2)

    def _factors(self, factor: int) -> tuple[int, int]:
        """By how much height and width get coarser: a side of one cell does not."""
        height, width = self.size
        return 1 if self._stays(height) else factor, 1 if self._stays(width) else factor

    def _squeeze(self, inputs: int, factor: int) -> list[nn.Module]:
        """Space to depth, and to the width of the ladder."""
        a, b = self._factors(factor)
        return [nn.PixelUnshuffle(a) if a == b else SpaceToDepth(a, b), nn.Conv2d(inputs * a * b, self.channels, 1)]

    def _unsqueeze(self, outputs: int, factor: int) -> list[nn.Module]:
        """Depth to space."""
        a, b = self._factors(factor)
        return [nn.Conv2d(self.channels, outputs * a * b, 1), _depth_to_space(a, b)]


def choose_scales(event_shape: Sequence[int], levels: int, single: bool = True) -> tuple[list[int], bool]:
    """Powers of two that divide both sides and leave a grid of at least 4 x 4 (else 1), and a single cell, spread
    evenly over the levels from the top. Where more than 16 cells a side would be left, other factors, too; and no
    single cell, if it is not wanted or would still take hundreds of weights for each pair of channels. Where no factor
    serves, as of primes, or of a line, the sides are padded to multiples of a power of two that leaves at most 9 cells.

    Returns:
        The scales, and whether they are of padded sides.

    >>> choose_scales((1, 32, 32), levels=5), choose_scales((1, 29, 31), levels=3)
    (([2, 4, 8, 32, 32], False), ([2, 4, 32], True))
    """
    sides = event_shape[1:]
    grids, padded = _factors(sides, only_two=True), False
    if max(sides, default=1) > 16 * grids[-1]:
        grids = _factors(sides, only_two=False)
    if grids == [1] and max(sides, default=1) > 16:
        longer = [side for side in sides if side > 1]
        largest = 2
        while -(-max(longer) // largest) > 9 and 2 * largest <= min(longer):
            largest *= 2
        grids = [2**i for i in range(1, largest.bit_length())]
        sides = [_round_up(side, largest) for side in longer]
        padded = sides != longer
    if single and len(set(sides)) == 1 and sides[0] <= 16 * grids[-1]:
        grids.append(sides[0])
    return [grids[-1 - t * len(grids) // levels] for t in reversed(range(levels))], padded


def _round_up(side: int, factor: int) -> int:
    """The next multiple of the factor."""
    return -(-side // factor) * factor


def _depth_to_space(a: int, b: int) -> nn.Module:
    return nn.PixelShuffle(a) if a == b else DepthToSpace(a, b)


def _factors(sides: Sequence[int], only_two: bool) -> list[int]:
    """Products of the prime factors that both sides share, the smallest first, that leave 4 cells a side; else 1."""
    common, product, found, prime = math.gcd(*sides), 1, [], 2
    while common > 1 and not (only_two and prime > 2):
        if common % prime:
            prime += 1
            continue
        common, product = common // prime, product * prime
        if any(side < 4 * product for side in sides):
            break
        found.append(product)
    return found or [1]


def as_images(event_shape: Sequence[int]) -> tuple[int, ...]:
    """(C, H, W) of images; grey ones may come as (H, W).

    Raises:
        ValueError: no images.

    >>> as_images((28, 28)), as_images((3, 32, 32))
    ((1, 28, 28), (3, 32, 32))
    """
    if len(event_shape) not in (2, 3):
        raise ValueError(f"event_shape={list(event_shape)}: convolutions need images, (C, H, W), or grey ones, (H, W)")
    return (1, *event_shape) if len(event_shape) == 2 else tuple(event_shape)


def check_channels_first(event_shape: Sequence[int]) -> None:
    """Raises a ValueError for images (H, W, C)."""
    if len(event_shape) == 3 and event_shape[2] in (1, 3, 4) and min(event_shape[:2]) > 4:
        height, width, channels = event_shape
        raise ValueError(
            f"examples of shape {tuple(event_shape)} look like images with the channels last; transpose them to "
            f"{(channels, height, width)}: x.permute(0, 3, 1, 2), or in numpy x.transpose(0, 3, 1, 2)"
        )


def check_scales(
    event_shape: Sequence[int], latent: Sequence[int], stem: int, scales: Sequence[int], padded: bool
) -> None:
    """Raises a ValueError unless the scales fit images (C, H, W) and one another."""
    if len(scales) != len(latent):
        raise ValueError(f"scales={list(scales)}: wanted one for each of {len(latent)} levels")
    sides = [side for side in event_shape[1:] if side > 1 and not padded]
    for below, scale in pairwise([1, stem, *scales]):
        if scale % below or any(side % scale for side in sides):
            raise ValueError(
                f"stem={stem}, scales={list(scales)}: {scale} is not a multiple of {below} that divides "
                f"{event_shape[1]} x {event_shape[2]}"
            )
