r"""How a page shows examples: images as they are, everything else as lines over the elements, in standard deviations of
the data from their mean.

Shapes: rows of n examples, (n, *event); D elements of an example, flattened.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from torch import Tensor

from allegory.given import Contexts, take_rows
from allegory.model import VAE
from allegory.views import plots
from allegory.views.figures import are_images, sheet
from allegory.views.layout import Figure, evenly_spaced
from allegory.views.runs import Run

__all__ = ["Rows", "Show"]

IMAGES, LINES = 12, 6  # examples in a row
ELEMENTS = 200  # of a line
LARGEST = 64  # pixels per side of an image; larger ones are averaged down to it

Rows = list[tuple[str, Tensor]]
"""The name of a row of examples, and the examples."""


class Show:
    """Examples as HTML.

    Args:
        run: its data determine black and white, and the units of values.
        model: of the run.
        x: (N, *event) data, for their scale; without them, samples from the model are used.
        contexts: what is given with them, (N, *context) each.

    Attributes:
        images: whether examples are shown as images.
        count: of examples in a row.
        elements: what the elements of an example are called: columns, or elements.
    """

    def __init__(self, run: Run, model: VAE, x: Tensor | None, contexts: Contexts = ()) -> None:
        self.contexts = contexts
        some = model.sample(200, given=self.given(200)) if x is None else x
        self.event_shape = tuple(some.shape[1:])
        self.images = are_images(self.event_shape) and min(self.event_shape[-2:]) > 1
        self.count = IMAGES if self.images else LINES
        self.elements = "column" if len(self.event_shape) == 1 else "element"
        finite = some[some.isfinite()]
        low, high = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 1.0)
        self.low, self.high = run.range or (low, high)
        self.high = self.high if self.high > self.low else self.low + 1
        centre = some.nanmean(0)  # gaps are no values
        spread = (some - centre).square().nanmean(0).sqrt()
        self.centre, self.spread = centre.nan_to_num(), torch.where(spread > 0, spread, 1)
        self.binary = (self.low, self.high) == (0, 1) and bool(((finite == 0) | (finite == 1)).all())
        self._run = run

    def given(self, n: int) -> Contexts:
        """What is given with n examples: the first of the data, over again where they are fewer.

        Args:
            n: how many.
        """
        return take_rows(self.contexts, torch.arange(n) % len(self.contexts[0])) if self.contexts else ()

    def values(self, x: Tensor) -> Tensor:
        """(n, D) examples in the units of the data, on the CPU."""
        return self._run.in_data_units(x).flatten(1).cpu()

    def element(self, d: int) -> str:
        """The name of an element, counted from 0 as in messages.

        Args:
            d: its place among the D elements.
        """
        if len(self.event_shape) == 1:
            return f"column {d}"
        index = [int(i) for i in torch.unravel_index(torch.tensor(d), self.event_shape)]
        return f"element {', '.join(map(str, index))}"

    def rows(self, rows: Rows, caption: str) -> Figure:
        """Rows of examples, one below the other; each column belongs to one example."""
        if self.images:
            return Figure([self._strips(rows)], caption)
        at = self._shown()
        values = [(name, self._scaled(x)[:, at]) for name, x in rows]
        low, high = _limits([v for _, v in values])
        limits = low, high + 0.3 * (high - low)  # with room for the legend
        panels = [[(name, v[i]) for name, v in values] for i in range(len(rows[0][1]))]
        parts = [
            plots.profile(at, lines, f"example {i}", self.elements, limits, legend=i == 1, height=2.4)
            for i, lines in enumerate(panels, 1)
        ]
        return Figure(parts, f"{caption} {self._scale()}")

    def paths(self, rows: Rows, caption: str) -> Figure:
        """Paths, whose examples are steps in their order; each row, or panel, is one."""
        if self.images:
            return Figure([self._strips(rows)], caption)
        at = self._shown()
        values = [(name, self._scaled(x)[:, at]) for name, x in rows]
        limits = _limits([v for _, v in values])
        parts = [plots.path(at, v, name, self.elements, limits, height=2.4) for name, v in values]
        return Figure(parts, f"{caption} From dark to light along the path. {self._scale()}")

    def cards(self, x: Tensor, words: list[str]) -> list[str]:
        """Single examples with a line of words for each, as HTML."""
        if self.images:
            cards = [f"{self.strip(x[i : i + 1])}<small>{text}</small>" for i, text in enumerate(words)]
            return [f'<div class="cards">{"".join(f"<span>{card}</span>" for card in cards)}</div>']
        at = self._shown()
        values = self._scaled(x)[:, at]
        limits = _limits([values])
        return [
            plots.profile(at, [("x", line)], text, self.elements, limits, legend=False, height=2.4)
            for line, text in zip(values, words, strict=True)
        ]

    def strip(self, images: Tensor) -> str:
        """(n, *event) images side by side, as an HTML image with its width."""
        images = images.unsqueeze(1) if images.dim() == 3 else images
        side = max(images.shape[-2:])
        if side > LARGEST:
            size = [max(1, round(s * LARGEST / side)) for s in images.shape[-2:]]
            images, side = torch.nn.functional.interpolate(images, size, mode="area"), LARGEST
        pixels = sheet(images.cpu(), len(images), self.low, self.high, scale=max(1, LARGEST // side), gap=1).numpy()
        return _image(pixels, "images side by side")

    def _strips(self, rows: Rows) -> str:
        strips = "".join(f"<tr><th>{name}</th><td>{self.strip(images)}</td></tr>" for name, images in rows)
        return f'<table class="strips">{strips}</table>'

    def _scaled(self, x: Tensor) -> Tensor:
        """(n, D) in standard deviations of the data from their mean."""
        return ((x - self.centre) / self.spread).flatten(1).cpu()

    def _shown(self) -> list[int]:
        """The elements that are shown of a line."""
        return evenly_spaced(range(self.centre.numel()), ELEMENTS)

    def _scale(self) -> str:
        size = self.centre.numel()
        some = f" {ELEMENTS} of {size:,} {self.elements}s are shown, evenly spaced." if size > ELEMENTS else ""
        return f"In standard deviations of the data from their mean; {self.elements}s count from 0.{some}"


def _limits(values: list[Tensor]) -> tuple[float, float]:
    """The same limits for all panels, with a margin."""
    every = torch.cat([v.flatten() for v in values])
    every = every[every.isfinite()]
    low, high = (every.min().item(), every.max().item()) if len(every) else (0.0, 0.0)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _image(pixels: Any, words: str) -> str:
    """(H, W, 3) uint8 as an HTML image: PNG if it is grey, JPEG in colour, a tenth of the size."""
    from PIL import Image

    file, grey = io.BytesIO(), bool((pixels[..., :1] == pixels).all())
    kind = "png" if grey else "jpeg"
    settings: dict[str, Any] = {"optimize": True} if grey else {"quality": 88}
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, kind, **settings)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = pixels.shape[:2]
    return f'<img alt="{words}" width="{width}" height="{height}" src="data:image/{kind};base64,{data}">'
