"""allegory sample, reconstruct, encode: samples, reconstructions and latents of a run, as arrays and pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allegory.command import console
from allegory.command.options import ENCODE, FILE, FOLDER, RECONSTRUCT, SAMPLE, Command, asks, takes

if TYPE_CHECKING:
    from allegory.views.runs import Run

__all__ = ["encode", "reconstruct", "sample"]


@click.command(cls=Command)
@takes("run", FOLDER, "RUN")
@asks(SAMPLE)
def sample(run: str, count: int, out: str, device: str, seed: int, temperature: float) -> None:
    """Samples from the model: `samples`, and `means`, the means of p(x | z_1) they were drawn from."""
    import torch

    from allegory.views.figures import expected

    _check_suffix(out, ".npz", ".png")
    opened = console.open_run(run, device)
    torch.manual_seed(seed)
    means = expected(opened.generate(count, temperature, seed))
    arrays = {"samples": opened.sample(count, temperature, seed), "means": means}
    arrays = {name: opened.in_units_of_source(x) for name, x in arrays.items()}
    _write(out, opened, arrays, means, columns=max(1, math.isqrt(count)))
    print(f"{out}: {count} samples")


@click.command(cls=Command)
@takes("run", FOLDER, "RUN")
@asks(RECONSTRUCT)
def reconstruct(run: str, out: str, split: str, count: int, data: str | None, device: str, seed: int) -> None:
    """Writes `originals` and `reconstructions`, the means of p(x | z_1) with z_1 ~ q(z_1 | x)."""
    import torch

    _check_suffix(out, ".npz", ".png")
    opened = console.open_run(run, device, data)
    found = opened.reconstruct(split, count, seed)
    pairs = torch.stack([found.originals, found.reconstructions], 1).flatten(0, 1)
    parts = ("originals", "reconstructions")
    arrays = found._asdict() | {name: opened.in_units_of_source(getattr(found, name)) for name in parts}
    _write(out, opened, arrays, pairs, columns=8)
    print(f"{out}: {len(found.rows)} pairs of {split}, original and reconstruction")


@click.command(cls=Command)
@takes("run", FOLDER, "RUN")
@takes("data", FILE, "DATA")
@asks(ENCODE)
def encode(run: str, data: str, out: str, device: str, seed: int) -> None:
    """Writes the mean and the standard deviation of the latents of every example of DATA, in order.

    DATA is a path, all of which is encoded; or a built-in name, whose test split is.
    """
    _check_suffix(out, ".npz")
    opened = console.open_run(run, device)
    arrays: dict[str, Any] = {}
    for t, (mean, spread) in enumerate(opened.encode(data, seed), start=1):
        arrays |= {f"z{t}_mean": mean, f"z{t}_std": spread}
    _write(out, opened, arrays, None, columns=1)
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in arrays.items())
    print(f"{out}: {len(arrays['z1_mean'])} examples; {shapes}")


def _check_suffix(out: str, *suffixes: str) -> None:
    if Path(out).suffix not in suffixes:
        raise ValueError(f"--out {out}: wanted a name that ends in {' or '.join(suffixes)}")


def _write(out: str, run: Run, arrays: dict[str, Any], picture: Any, columns: int) -> None:
    from allegory.runtime.storage import write_arrays
    from allegory.views.figures import save_sheet

    if Path(out).suffix == ".npz":
        write_arrays(Path(out), arrays)
        return
    save_sheet(out, picture, columns, *(run.range or (picture.min().item(), picture.max().item())))
