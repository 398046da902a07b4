"""Thirty seeds of a T = 10 ladder on `cave` at an aggressive learning rate, beside the one-level model.

    python benchmarks/stability.py > benchmarks/results/stability.json

Every seed must end finite, skip only now and then, and end with a better validation bound than every seed of the
one-level model, which is trained the same way for the same number of steps.

Reached, commit 8ab79e4, two x86-64 cores, torch 2.13, 67 to 125 s a seed on one of them: all finite, at most 0.8 % of
the steps left out, 17 of 30 seeds taken back once or twice to an epoch's start; all 30 better (-45.8 to -42.2) than the
best of five one-level models (-49.6 to -48.3). When links read their latents as they are, each of 18 seeds looked at
had bursts in which the gradient grows by some thirty orders of magnitude; one or two of thirty do not recover.
"""

import json
import math
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor

import torch

import allegory as al
from allegory.data import cave

SEEDS, LR, EPOCHS, BATCH = 30, 1e-2, 12, 128
MODELS = {
    "T=1": dict(latent=[40], hidden=[128, 128]),
    "T=10": dict(latent=[8] * 10, hidden=[128, 128], block="residual", top_down=True, markov=False),
}


def train(job: tuple[str, int]) -> dict:
    name, seed = job
    torch.set_num_threads(1)
    data, valid = cave.draw(20_000, seed=1).images, cave.draw(2_000, seed=2).images
    torch.manual_seed(seed)
    model = al.architectures.mlp((1, 28, 28), "bernoulli", data=data, **MODELS[name])
    try:
        record = al.fit(
            model, data, valid=valid, epochs=EPOCHS, batch_size=BATCH, lr=LR, lr_warmup=100, kl_warmup=1500, ema=0.99,
            seed=seed,
        )  # fmt: skip
    except FloatingPointError as error:
        print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)
        return dict(
            model=name, seed=seed, bound=-1e9, finite=False, skipped=0, steps=1, restarts=0
        )  # JSON has no infinity
    last = record.history[-1]
    result = dict(
        model=name,
        seed=seed,
        bound=record.best_bound,
        rates=last["kl_per_level"],
        clipped=sum(line["clipped"] for line in record.history),
        skipped=sum(line["skipped"] for line in record.history),
        steps=record.step,
        restarts=record.restarts,
        finite=all(bool(torch.isfinite(p).all()) for p in model.parameters()) and math.isfinite(last["bound"]),
        seconds=record.seconds,
    )
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    jobs = [("T=1", seed) for seed in range(5)] + [("T=10", seed) for seed in range(seeds)]
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "2"))) as pool:
        runs = list(pool.map(train, jobs))
    worst = {name: min(run["bound"] for run in runs if run["model"] == name) for name in MODELS}
    best = max(run["bound"] for run in runs if run["model"] == "T=1")
    summary = dict(
        machine=f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        learning_rate=LR,
        epochs=EPOCHS,
        batch_size=BATCH,
        worst_bound=worst,
        best_bound_of_one_level=best,
        all_finite=all(run["finite"] for run in runs),
        all_below_the_one_level_model=all(run["bound"] > best for run in runs if run["model"] == "T=10"),
        most_skipped=max(run["skipped"] / run["steps"] for run in runs),
        most_restarts=max(run["restarts"] for run in runs),
    )
    print(json.dumps({**summary, "runs": runs}, indent=1))
