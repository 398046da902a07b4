"""Time to a number: seconds until the validation ELBO on `binarized-mnist` first reads -97 nats.

    python benchmarks/time_to_number.py [--pythae PYTHON] [--epochs 40] [--small]    # leave the machine alone meanwhile

784-300-300-40 and back, SiLU: this library, a plain loop over a DataLoader, and pythae, each at three learning rates,
of which the best counts. Set-up is counted, importing and reading the data are not. All score the same 10,000
validation images after every epoch, one draw an image, with the weights that they would keep. The plain loop and
pythae have batches of 100 and hold the learning rate; `fit` anneals it over 30 epochs, averages the weights and clips,
so that batches of 500 at a larger rate are as good to it, and they take less time. The plain loop is also shown with
batches of 500. A side stops three epochs after it was there. This library is shown in the precision that it chooses,
bfloat16 in the results here, and in float32.

Writes benchmarks/results/time_to_number.json and .png, the bound against seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import Plain
from matplotlib.figure import Figure
from sides import Elsewhere, machine, say
from torch.utils.data import DataLoader, TensorDataset

import allegory as al
from allegory.data import load

TARGET, BATCH, LARGE = -97.0, 100, 500
RATES, LARGE_RATES, FIT_RATES = (2.5e-4, 5e-4, 1e-3), (1e-3, 2e-3, 4e-3), (3e-3, 4e-3, 5e-3)
RESULTS = Path(__file__).with_name("results")
Curve = list[tuple[float, float]]  # seconds, bound


def ours(train: torch.Tensor, valid: torch.Tensor, lr: float, epochs: int, **settings: Any) -> Curve:
    steps, ends, calls = math.ceil(len(train) / LARGE), [], -1  # fit looks at the data once before

    def watch(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        if calls > 0 and calls % steps == 0:
            ends.append(time.perf_counter() - began)
        calls += 1
        return x

    began = time.perf_counter()
    torch.manual_seed(0)
    model = al.architectures.mlp(train.shape[1:], "bernoulli", latent=[40], hidden=[300, 300], data=train)
    record = al.fit(
        model, train, valid=valid, epochs=epochs, batch_size=LARGE, lr=lr, lr_warmup=100, transform=watch, **settings
    )
    ends.append(time.perf_counter() - began)
    return list(zip(ends, (line["elbo"] for line in record.history), strict=True))


def plain(train: torch.Tensor, valid: torch.Tensor, lr: float, epochs: int, batch: int) -> Curve:
    began, curve = time.perf_counter(), []
    torch.manual_seed(0)
    model = Plain()
    model.encoder = al.networks.mlp(784, [300, 300], 80)
    model.decoder = al.networks.mlp(40, [300, 300], 784)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    loader = DataLoader(TensorDataset(train.flatten(1)), batch_size=batch, shuffle=True)
    while len(curve) < epochs and not done(curve):
        model.train()
        for (rows,) in loader:
            loss = -model(rows).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            bound = torch.cat([model(rows) for rows in valid.flatten(1).split(1000)]).mean().item()
        curve.append((time.perf_counter() - began, bound))
    return curve


def pythae(python: str, data: str, lr: float, epochs: int) -> Curve:
    side = Elsewhere(python, "pythae_worker.py", "curve", data, BATCH, lr, "SiLU", "784,300,300,40", 0)
    curve: Curve = []
    while len(curve) < epochs and not done(curve):
        curve.append(tuple(side()))
    side.process.kill()
    return curve


def reached(curve: Curve) -> float:
    """Seconds until the target; infinite if it never was."""
    return next((seconds for seconds, bound in curve if bound >= TARGET), math.inf)


def done(curve: Curve) -> bool:
    """Whether it was there three epochs ago."""
    return reached(curve[:-3]) < math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds until a validation ELBO of -97 on binarized-mnist.")
    parser.add_argument("--pythae", metavar="PYTHON", help="the python of an environment that has pythae")
    parser.add_argument("--epochs", type=int, default=40, help="of the plain loop and pythae at most")
    parser.add_argument("--ours", type=int, default=30, metavar="EPOCHS", help="the budget of fit")
    parser.add_argument("--small", action="store_true", help="to see whether it works; writes nothing")
    options = parser.parse_args()
    data = load("binarized-mnist")
    train, valid = (data.train[:3000], data.valid[:1000]) if options.small else (data.train, data.valid)
    epochs, budget = (2, 2) if options.small else (options.epochs, options.ours)
    sides: dict[str, Any] = {
        "allegory": (FIT_RATES, lambda lr: ours(train, valid, lr, budget, precision="auto")),
        "allegory, float32": (FIT_RATES, lambda lr: ours(train, valid, lr, budget)),
        "plain loop": (RATES, lambda lr: plain(train, valid, lr, epochs, BATCH)),
        "plain loop, batches of 500": (LARGE_RATES, lambda lr: plain(train, valid, lr, epochs, LARGE)),
    }
    with tempfile.TemporaryDirectory() as folder:
        if options.pythae:
            source = f"{folder}/data.npz"
            np.savez(source, train=train.numpy(), valid=valid.numpy())
            sides["pythae"] = RATES, lambda lr: pythae(options.pythae, source, lr, epochs)
        curves: dict[str, dict[str, Curve]] = {name: {} for name in sides}
        for turn in range(3):
            for name, (rates, side) in sides.items():
                lr = rates[turn]
                curves[name][str(lr)] = curve = side(lr)
                seconds, bound = curve[-1]
                say(f"{name}, {lr:g}: {reached(curve):.1f} s to {TARGET:g}; {bound:.2f} after {seconds:.0f} s")
    best = {name: min(runs, key=lambda lr: (reached(runs[lr]), -runs[lr][-1][1])) for name, runs in curves.items()}
    times = {name: reached(curves[name][lr]) for name, lr in best.items()}
    for name, value in times.items():
        print(f"{name}: {value:.1f} s at {best[name]}, {value / times['allegory']:.2f} times as long")
    if options.small:
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, lr in best.items():
        axes.plot(*zip(*curves[name][lr], strict=True), marker=".", label=f"{name}, {lr}")
    axes.axhline(TARGET, color="grey", linewidth=1)
    axes.set(xlabel="seconds, set-up counted", ylabel="validation ELBO (nats)", ylim=(-125, -92))
    axes.legend(title="and its best learning rate")
    figure.savefig(RESULTS / "time_to_number.png", dpi=150)
    written = dict(machine=machine(), target=TARGET, seconds=times, learning_rates=best, curves=curves)
    (RESULTS / "time_to_number.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
