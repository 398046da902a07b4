r"""The main job on embedded data: a two-level VAE of 1,797 handwritten digits, trained, scored and shown in pictures.

Its likelihood is printed next to two baselines on the same split: independent pixels, and one level.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allegory import architectures
from allegory.data.description import describe
from allegory.data.splits import load
from allegory.evaluation.bounds import evaluate
from allegory.model import VAE
from allegory.training.directory import new_run, write_json
from allegory.training.loop import fit
from allegory.views.figures import expected, save_sheet
from allegory.views.page import report
from allegory.views.terminal import show

__all__ = ["digits_model", "independent_pixels", "run", "unused_name"]

GREY_LEVELS = 17
IMPORTANCE_SAMPLES = 1000


def digits_model(latent: list[int], out: Path | None, seed: int = 0, progress: bool = False) -> tuple[VAE, float]:
    """A VAE of `digits` with the given widths, trained on the training split; and the seconds it took."""
    digits = load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architectures.mlp(
            digits.event_shape, "categorical", latent, hidden=[256], categories=GREY_LEVELS, dropout=0.2
        )
    record = fit(
        model, digits.train, valid=digits.valid, epochs=200, batch_size=50, lr=1e-3, lr_warmup=100, kl_warmup=500,
        weight_decay=0.1, ema=0.99, patience=40, seed=seed, out=out, progress=progress,
        about={"data": describe(digits, "categorical", GREY_LEVELS)},
    )  # fmt: skip
    return model, record.seconds


def independent_pixels(train: Tensor, test: Tensor) -> Tensor:
    """(N,) log p(x) of `test` where each pixel has its own histogram, with one count added to each grey level."""
    counts = torch.stack([(train == level).sum(0) for level in range(GREY_LEVELS)]) + 1.0
    log_p = (counts / counts.sum(0)).log()
    return log_p.gather(0, test.long()).flatten(1).sum(1)


def walk(model: VAE, x: Tensor, steps: int = 11) -> Tensor:
    """(N // 2 * steps, *event): from the first to the second half of x, in a straight line between the means of their
    z_1.
    """
    (q, *_) = model.encode(x)
    start, end = q.mean.chunk(2)
    path = torch.stack([torch.lerp(start, end, weight) for weight in torch.linspace(0, 1, steps)], 1)
    return expected(model.decode(path.flatten(0, 1)))


def run(out: str | None = None) -> None:
    """Trains, prints the table, writes the pictures.

    Args:
        out: where to write; by default a new folder, allegory-demo, in the current one.
    """
    with new_run(out or unused_name("allegory-demo")) as folder:
        _train_and_report(folder)


def _train_and_report(folder: Path) -> None:
    from rich.table import Table

    digits = load("digits")
    began = time.monotonic()
    baseline = independent_pixels(digits.train, digits.test)
    error = (baseline.std() / len(baseline) ** 0.5).item()
    rows = [("independent pixels", f"{-baseline.mean().item():.2f} ± {error:.2f}", "", "")]
    results: dict[str, Any] = {}
    for latent in ([32], [32, 16]):
        name = f"VAE, T = {len(latent)}"
        print(f"training {name}", file=sys.stderr, flush=True)
        model, seconds = digits_model(latent, folder / f"levels-{len(latent)}", progress=True)
        torch.manual_seed(0)
        result = evaluate(model, digits.test, samples=IMPORTANCE_SAMPLES)
        results[name] = {**result.as_dict(), "seconds": seconds}
        rates = " + ".join(f"{rate:.1f}" for rate in result.kl_per_level)
        bounds = [f"{-result.elbo:.2f} ± {result.elbo_stderr:.2f}", f"{result.nll:.2f} ± {result.nll_stderr:.2f}"]
        rows.append((name, bounds[1], bounds[0], rates))

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        save_sheet(folder / "samples.png", expected(model.generate(80)), 16, 0, 16)
        x = digits.test[:40]
        pairs = torch.stack([x, expected(model.reconstruct(x))], 1).flatten(0, 1)
        save_sheet(folder / "reconstructions.png", pairs, 16, 0, 16)
        save_sheet(folder / "walk.png", walk(model, digits.test[40:56]), 11, 0, 16)
    write_json(folder / "results.json", results)
    page = report(folder / "levels-2", digits.test, train=digits.train, out=folder / "report.html", split="test")

    title = f"digits, {len(digits.test)} test scans of 17 grey levels; nats per scan ± standard error"
    table = Table(title=title)
    for column in ("", f"-L_{IMPORTANCE_SAMPLES}", "-ELBO", "rates, level 1 first"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        table.add_row(*row)
    show(table)
    print(f"{time.monotonic() - began:.0f} s. Written to {folder}: samples.png, reconstructions.png (originals left), ")
    print("walk.png (from one digit to another), results.json, and two runs.")
    print(f"Open {page} in a browser for the full report of the two-level model. Next:")
    print(f"  allegory sample {folder}/levels-2 --out more.png")


def unused_name(name: str) -> str:
    """`name`, or the first of name-2, name-3, ... that does not exist: a demo overwrites nothing."""
    taken = Path(name).exists()
    return next(f"{name}-{i}" for i in range(2, 10_000) if not Path(f"{name}-{i}").exists()) if taken else name
