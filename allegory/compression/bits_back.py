r"""Bits back: a model's own loops, in which every draw is a pop, and every density a push.

    sender, of x                                                          -log2 of
    bottom-up   pop z_1 ~ q(.|x);  push x by p(.|z_1);  pop z_2 ~ q(.|z_1);  push z_1 by p(.|z_2);  ...;  push z_T by p
    top-down    pop z_T ~ q(.|x), ..., z_1 ~ q(.|z_2, x);  push x by p(.|z_1), z_1 by p(.|z_2), ..., z_T by p
    with a state, bottom-up: pop z_1, ..., z_T;  push x, z_1, ..., z_T

The receiver takes the same steps backwards, a pop where there was a push, and so gives back what the sender drew from:
an example costs -log p(x, z) + log q(z | x), on average -ELBO (Frey & Hinton 1997; Townsend, Bird & Barber 2019).
Bottom-up, x is pushed before z_2 is drawn, so that what is needed to begin is one level's draw (Kingma, Abbeel & Ho
2019, Bit-Swap); top-down every q needs x, so that it is the draws of all levels (Townsend et al. 2020, HiLLoC).

Latents that are real numbers are drawn on a lattice. Bottom-up z_t is drawn before z_{t+1} is, so that its lattice is
the same for all; top-down it is in units of p(z_t | z_{t+1}), if that is normal, z_t = mu_p + sigma_p delta k. The
widths are a quarter of nearly the smallest deviation that a few examples show, a power of two for each element.

Shapes: B examples; x is (B, *event), z_t (1, B, *event_t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal

from allegory.compression.lattice import endless
from allegory.compression.masses import Coding, pop, push, rounded
from allegory.compression.stack import Stack
from allegory.draws import law_of
from allegory.given import Contexts, expand_contexts
from allegory.model import VAE

__all__ = ["BitsBack", "Grid", "find_grids"]

FINEST, RANGE = 0.001, 1.5  # which quantile of the deviations counts; the range of a lattice, over what was seen
PER_SIGMA = 4  # bins
LARGEST = 18  # bits of a lattice

Grid = tuple[list[int], int] | None
"""Of a level: for each element, or each channel, the exponent of delta = 2^-e; and the range, in units of z or of
sigma_p. None of discrete latents."""


class BitsBack:
    """A model, coded with a stack.

    Args:
        model: in float64 and eval mode.
        grids: of each level, level 1 first.
        events: the shape of z_1, ..., z_T.
        coding: how p(x | s_1) is coded.
    """

    def __init__(self, model: VAE, grids: Sequence[Grid], events: Sequence[Size], coding: Any) -> None:
        self.model, self.grids, self.events, self.coding = model, grids, events, coding
        self.levels: int = model.levels
        self.bottom_up = not model._top_down or model.encoders.has_bottom_up
        self.interleaved = self.bottom_up and model.states is None

    def send(self, stack: Stack, x: Tensor, contexts: Contexts = ()) -> Tensor:
        """Puts B examples on the stack. Returns (2, B) nats: of the z drawn log p(x, z) - log q(z | x); and log q(z) +
        H(q), on average over the latents, which is about 0 where what is drawn follows q.
        """
        model, beside, log_w = self.model, expand_contexts(contexts, (1, len(x))), torch.zeros(2, 1, len(x)).double()
        value = x[None]  # z_0, and bottom-up z_{t-1}

        def draw(t: int, q: Distribution, p: Distribution | None = None) -> Tensor:
            nonlocal value, log_w
            z = self._draw(stack, t, q, p, len(x))
            log_w[0] -= q.log_prob(z)
            log_w[1] += self._misfit(q, z)
            if self.interleaved:
                log_w[0] += self._push(stack, t - 1, law_of(model.decoders[t - 1], z, *beside), value)
                value = z
            return z

        if self.interleaved:
            latents, _ = model._infer_bottom_up(x, draw, contexts)
            log_w[0] += self._push(stack, self.levels, model._prior_law(contexts), latents[-1])
            return log_w[:, 0]
        if self.bottom_up:
            latents, _ = model._infer_bottom_up(x, draw, contexts)
            _, p, seen = model._generate_down(lambda t, p, state: latents[t - 1], contexts)
        else:
            latents, _, p, seen = model._infer_top_down(x, 1, draw, contexts)
        for t, (law, z) in enumerate(zip((law_of(model.decoders[0], *seen), *p), (value, *latents), strict=True)):
            log_w[0] += self._push(stack, t, law, z)
        return log_w[:, 0]

    def receive(self, stack: Stack, count: int, event: Size, contexts: Contexts = ()) -> Tensor:
        """(B, *event) the examples that are on top of the stack, the last that were sent."""
        model, above = self.model, None

        def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
            nonlocal above
            z = pop(stack, p, self._coding(t, p), Size((1, count, *p.event_shape)))
            if above is not None:
                self._give_back(stack, t + 1, model._bottom_up_law(t + 1, z, beside), None, above)
            above = z if self.interleaved else None
            return z

        beside = expand_contexts(contexts, (1, count))
        latents, p, seen = model._generate_down(choose, contexts)
        x = pop(stack, law_of(model.decoders[0], *seen), self.coding, Size((1, count, *event)))[0]
        if self.interleaved:
            self._give_back(stack, 1, model._bottom_up_law(1, x, contexts), None, latents[0])
            return x
        q = model._infer(x, 1, lambda t, q, p: latents[t - 1], contexts)[1]
        order = range(self.levels, 0, -1) if self.bottom_up else range(1, self.levels + 1)
        for t in order:
            self._give_back(stack, t, q[t - 1], p[t - 1], latents[t - 1])
        return x

    def _draw(self, stack: Stack, t: int, q: Any, p: Any, count: int) -> Tensor:
        """z_t by q."""
        return pop(stack, q, self._coding(t, p, drawn=True), Size((1, count, *q.event_shape)))

    def _give_back(self, stack: Stack, t: int, q: Any, p: Any, z: Tensor) -> None:
        """The opposite."""
        push(stack, q, self._coding(t, p, drawn=True), z)

    def _misfit(self, q: Any, z: Tensor) -> Tensor:
        """(1, B) (log q(z) + H(q)) / (all latents that are real numbers)."""
        if not isinstance(q, Independent) or q.base_dist.support.is_discrete:
            return torch.zeros(1, 1)
        real = sum(event.numel() for event, grid in zip(self.events, self.grids, strict=True) if grid is not None)
        return (q.log_prob(z) + q.entropy()) / real

    def _push(self, stack: Stack, t: int, p: Any, value: Tensor) -> Tensor:
        """z_t, or x = z_0, by p. Returns (1, B) nats of its density."""
        push(stack, p, self._coding(t, p) if t else self.coding, value)
        return p.log_prob(value)

    def _coding(self, t: int, p: Any, drawn: bool = False) -> Coding:
        grid = self.grids[t - 1]
        if grid is None:
            return Coding()
        event = self.events[t - 1]
        delta = torch.tensor(grid[0], dtype=torch.float64).neg().exp2().view(-1, *[1] * (len(event) - 1)).expand(event)
        end = (grid[1] / delta).log2().ceil().exp2().long()
        origin, step = torch.zeros_like(delta), delta
        if not self.bottom_up and _is_normal(p):
            p = rounded(p).base_dist
            origin, step = p.loc, p.scale * delta
        return Coding(endless(step, origin).within(-end, end), drawn)


class _Survey(BitsBack):
    """The same without a stack, that draws at random, and keeps the laws it meets."""

    def __init__(self, model: VAE) -> None:
        super().__init__(model, [], [], None)
        self.q: dict[int, Any] = {}
        self.p: dict[int, Any] = {}

    def _misfit(self, q: Any, z: Tensor) -> Tensor:
        return torch.zeros(1, 1)

    def _draw(self, stack: Any, t: int, q: Any, p: Any, count: int) -> Tensor:
        self.q[t] = q
        return q.expand((1, count)).sample()

    def _push(self, stack: Any, t: int, p: Any, value: Tensor) -> Tensor:
        self.p[t] = p
        return torch.zeros(1, 1)


def find_grids(model: VAE, x: Tensor, contexts: Contexts = ()) -> list[Grid]:
    """The grid of each level, from a few examples.

    Args:
        model: in float64 and eval mode.
        x: (B, *event).
    """
    survey = _Survey(model)
    survey.send(None, x, contexts)  # type: ignore[arg-type]
    return [_grid_of(survey.q[t], survey.p[t], survey.bottom_up) for t in range(1, survey.levels + 1)]


def _grid_of(q: Any, p: Any, bottom_up: bool) -> Grid:
    event = q.event_shape
    if q.support.is_discrete:
        return None
    mean, deviation = q.mean, q.stddev
    if _is_normal(p):
        if bottom_up:
            deviation = torch.minimum(deviation, p.stddev)
        else:
            mean, deviation = (mean - p.mean) / p.stddev, deviation / p.stddev
    reach = math.ceil(RANGE * float((mean.abs() + 9 * q.stddev if bottom_up else mean.abs() + 9 * deviation).max()))
    by_channel = deviation.reshape(-1, event[0], math.prod(event[1:]))
    finest = by_channel.movedim(1, 0).flatten(1).quantile(FINEST, dim=1)
    most = LARGEST - 1 - math.ceil(math.log2(reach))
    exponents = (PER_SIGMA / finest).log2().ceil().clamp(max=most)
    return exponents.int().tolist(), reach


def _is_normal(law: Any) -> bool:
    return isinstance(law, Independent) and isinstance(law.base_dist, Normal)
