"""Whether what is timed in bench.py gets as far: its network and settings on `binarized-mnist`, after equal epochs.

    python benchmarks/same_bound.py PYTHON [--epochs 20] [--seeds 3] [--small]

784-400-20-400-784, ReLU, Bernoulli, Adam at a constant rate of 1e-3 as in bench.py and in pythae, batches of 128 and of
1,000; PYTHON is that of an environment that has pythae. Every side is scored by the ELBO of the 10,000 validation
images, one draw an image, with the weights that it would keep: pythae's best, ours the best of the averaged ones.
Writes benchmarks/results/same_bound.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import LATENT, PIXELS, SETTINGS, WIDTH, network
from sides import Elsewhere, machine, say

import allegory as al
from allegory.data import load

RESULTS = Path(__file__).with_name("results")
SIDES = ("allegory, float32, compiled", "allegory, bfloat16, compiled")
Reached = tuple[float, float]  # bound, seconds


def ours(train: torch.Tensor, valid: torch.Tensor, batch: int, epochs: int, seed: int, side: str) -> Reached:
    began, model = time.perf_counter(), network(seed)
    settings = dict(batch_size=batch, lr=1e-3, lr_final=1.0, seed=seed, **SETTINGS[side])
    record = al.fit(model, train, valid=valid, epochs=epochs, **settings)
    assert record.best_bound is not None
    return record.best_bound, time.perf_counter() - began


def pythaes(python: str, data: str, batch: int, epochs: int, seed: int) -> Reached:
    side = Elsewhere(python, "pythae_worker.py", "curve", data, batch, 1e-3, "ReLU", f"{PIXELS},{WIDTH},{LATENT}", seed)
    curve = [side() for _ in range(epochs)]
    side.process.kill()
    return max(bound for _, bound in curve), curve[-1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description="The validation bound of what bench.py times, after equal epochs.")
    parser.add_argument("pythae", metavar="PYTHON", help="the python of an environment that has pythae")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="to see whether it works; writes nothing")
    options = parser.parse_args()
    data = load("binarized-mnist")
    count, epochs, seeds = (3000, 2, 1) if options.small else (None, options.epochs, options.seeds)
    train, valid = (x[:count].flatten(1) for x in (data.train, data.valid))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/data.npz"
        np.savez(source, train=train.numpy(), valid=valid.numpy())
        for seed in range(seeds):
            for batch in (128, 1000):
                reached = {side: ours(train, valid, batch, epochs, seed, side) for side in SIDES}
                reached["pythae"] = pythaes(options.pythae, source, batch, epochs, seed)
                for side, (bound, seconds) in reached.items():
                    found.append(dict(side=side, batch=batch, seed=seed, bound=bound, seconds=seconds))
                    say(f"{side}, batch {batch}, seed {seed}: {bound:.2f} after {epochs} epochs, {seconds:.0f} s")
    for batch in (128, 1000):
        for side in (*SIDES, "pythae"):
            bounds = [run["bound"] for run in found if (run["side"], run["batch"]) == (side, batch)]
            print(f"{side}, batch {batch}: {statistics.mean(bounds):.2f}, {min(bounds):.2f} to {max(bounds):.2f}")
    if not options.small:
        written = dict(machine=machine(), epochs=epochs, runs=found)
        (RESULTS / "same_bound.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
