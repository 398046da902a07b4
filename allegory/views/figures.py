r"""Pictures: sheets of images, as PNG.

A picture of p(x | z_1) shows its mean, which is not a sample: a sample of independent pixels looks noisy. For
categories it shows the expected level.

Shapes: images are (N, H, W) or (N, C, H, W) with C = 1 or 3; values are scaled from [low, high] to black and white.
What is no number (NaN) has no grey: a picture refuses it, a sheet in a report shows it in magenta.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from allegory.data.cutting import value_range
from allegory.given import Contexts, take_rows
from allegory.model import VAE
from allegory.runtime.storage import write_atomically

__all__ = ["are_images", "expected", "picture", "save_pictures", "save_sheet", "sheet"]


def expected(law: Distribution) -> Tensor:
    """(*batch, *event) the mean of a distribution over x; for categories the expected level; a sample where the
    distribution has no mean.
    """
    base = law.base_dist if isinstance(law, Independent) else law
    if isinstance(base, Categorical):
        levels = torch.arange(base.probs.shape[-1], dtype=base.probs.dtype, device=base.probs.device)
        return (base.probs * levels).sum(-1) + getattr(base, "lowest", 0)
    try:
        return law.mean
    except NotImplementedError:
        return law.sample()


def are_images(event_shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape can be shown.

    >>> are_images((1, 8, 8)), are_images((12,))
    (True, False)
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def sheet(images: Tensor, columns: int, low: float, high: float, scale: int = 1, gap: int = 2) -> Tensor:
    """Many images as one, (H', W', 3) uint8, row by row; NaN is magenta.

    Args:
        images: (N, H, W) or (N, C, H, W).
        columns: images per row.
        low, high: values shown as black and as white.
        scale: factor by which each pixel is enlarged.
        gap: pixels between images.

    >>> sheet(torch.rand(6, 1, 4, 4), columns=3, low=0, high=1).shape
    torch.Size([14, 20, 3])
    """
    if images.dim() == 3:
        images = images[:, None]
    images = ((images - low) / (high - low)).clamp(0, 1).expand(-1, 3, -1, -1)
    images = torch.where(images.isnan(), images.new_tensor([1.0, 0.0, 1.0]).view(3, 1, 1), images)
    images = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    n, _, height, width = images.shape
    rows = -(-n // columns)
    page = torch.full((3, gap + rows * (height + gap), gap + columns * (width + gap)), 0.5)
    for i, image in enumerate(images.cpu()):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        page[:, top : top + height, left : left + width] = image
    return (page * 255).round().to(torch.uint8).movedim(0, -1)


def picture(
    images: Tensor,
    columns: int = 8,
    low: float | None = None,
    high: float | None = None,
    gaps: Tensor | None = None,
) -> Any:
    """Many images as one of PIL's, row by row, small ones enlarged; as the last line of a notebook's cell it is shown.

    Args:
        images: (N, H, W) or (N, C, H, W), such as samples.
        columns: images per row.
        low, high: values shown as black and as white; by default the smallest and the largest of these images.
        gaps: of the shape of the images, where NaN is a gap of the data, shown in magenta; by default nowhere.

    Raises:
        ValueError: not images, none at all, values that are no finite numbers, or low above high.

    >>> picture(torch.rand(6, 1, 8, 8), columns=3).size
    (296, 198)
    """
    from PIL import Image

    images = torch.as_tensor(images).detach()
    images = images if images.is_floating_point() else images.float()
    if not are_images(tuple(images.shape[1:])) or not images.numel():
        raise ValueError(f"images: got shape {tuple(images.shape)}, wanted (N, H, W) or (N, C, H, W) with C = 1 or 3")
    known = images.isfinite() if gaps is None else images.isfinite() | (images.isnan() & gaps)
    if not known.all():
        wrong = (~known).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"images: {len(wrong)} of {len(images)} have values that are NaN or infinite, the first of them image "
            f"{wrong[0]}; a picture would show them as black: look for what made them, or replace them, as by "
            "torch.nan_to_num"
        )
    smallest, largest = value_range(images)
    low, high = smallest if low is None else low, largest if high is None else high
    if not low <= high:
        raise ValueError(f"low={low}, high={high}: wanted low, shown as black, below high, shown as white")
    if not columns >= 1:
        raise ValueError(f"columns={columns}: wanted at least 1")
    scale = max(1, 96 // max(images.shape[-2:]))
    return Image.fromarray(sheet(images, columns, low, max(high, low + 1e-9), scale).numpy())


def save_sheet(
    path: str | Path, images: Tensor, columns: int, low: float, high: float, gaps: Tensor | None = None
) -> None:
    """Writes a picture as PNG, whole or not at all; the arguments are those of `picture`.

    Raises:
        ValueError: as of `picture`, or no space or permission to write.
    """
    import io

    from PIL import PngImagePlugin

    if not are_images(tuple(images.shape[1:])):
        raise ValueError(
            f"{path}: examples of shape {tuple(images.shape[1:])} are not images (H, W) or (C, H, W) with C = 1 or 3; "
            "write .npz instead"
        )
    file: Any = io.BytesIO()
    said = PngImagePlugin.PngInfo()
    said.add_text("Software", "allegory")  # so that it may be written over, see `allegory.views.outputs`
    try:
        drawn = picture(images, columns, low, high, gaps)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    drawn.save(file, format="png", pnginfo=said)
    write_atomically(Path(path), file.getvalue())


def in_pairs(originals: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor]:
    """(2N, *event) originals, each before its reconstruction; and where they have gaps, those of originals."""
    gaps = torch.stack([originals.isnan(), torch.zeros_like(reconstructions, dtype=torch.bool)], 1)
    return torch.stack([originals, reconstructions], 1).flatten(0, 1), gaps.flatten(0, 1)


def save_pictures(folder: str | Path, model: VAE, x: Tensor, contexts: Contexts = ()) -> list[Path]:
    """Writes samples.png, the means of p(x | z_1) for 64 draws from the prior, and reconstructions.png, originals and
    their reconstructions, always with the same noise. Nothing is written where the data are not images.

    Args:
        folder: where to write.
        model: to draw from.
        x: (N, *event) data; the first 32 are reconstructed, and all of them determine black and white.
        contexts: what is given with them, (N, *context) each; the draws are of the first of these, too.

    Returns:
        The paths written.

    >>> save_pictures(".", model, x)        # vectors
    []
    """
    if not are_images(tuple(x.shape[1:])):
        return []
    low, high = value_range(x)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        device = next(model.parameters()).device
        contexts = tuple(c.to(device) for c in contexts)
        again = expected(model.reconstruct(x[:32].to(device), given=take_rows(contexts, slice(32)))).cpu()
        draws = expected(model.generate(64, given=take_rows(contexts, torch.arange(64) % len(x))))
    written = [Path(folder) / "samples.png", Path(folder) / "reconstructions.png"]
    save_sheet(written[0], draws, 8, low, high)
    pairs, gaps = in_pairs(x[:32], again)
    save_sheet(written[1], pairs, 8, low, high, gaps)
    return written
