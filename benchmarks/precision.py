"""What bfloat16 costs: the same training in both precisions, scored by the same estimator in float32.

    python benchmarks/precision.py perceptron SEED > benchmarks/results/precision_perceptron_SEED.json
    python benchmarks/precision.py ladder SEED > benchmarks/results/precision_ladder_SEED.json

`binarized-mnist`, equal epochs, data in the same order: 784-300-300-40 (30 epochs of batches of 100, all test images),
and the ladder of recipes/ladder.py (12 epochs, every fifth test image, K = 100). The noise of the two differs as soon
as the weights do, so that two seeds differ, too; what counts is the mean over seeds.
"""

import json
import sys
from typing import Any

import torch
from sides import machine, say

import allegory as al
from allegory.data import load

MODELS: dict[str, Any] = {
    "perceptron": dict(build=al.architectures.mlp, latent=[40], hidden=[300, 300]),
    "ladder": dict(build=al.architectures.conv, latent=[4, 32], channels=64, blocks=3, prior="mixture", components=200),
}
TRAINING: dict[str, dict[str, Any]] = {
    "perceptron": dict(epochs=30, lr=1e-3),
    "ladder": dict(epochs=12, lr=2e-3, lr_warmup=200, kl_warmup=2000),
}
SCORING = {"perceptron": (1, 1000), "ladder": (5, 100)}


def reached(name: str, seed: int, precision: str) -> dict[str, Any]:
    """One training, and what it came to."""
    build, parts = MODELS[name]["build"], {key: value for key, value in MODELS[name].items() if key != "build"}
    data, (every, samples) = load("binarized-mnist"), SCORING[name]
    torch.manual_seed(seed)
    model = build((1, 28, 28), "bernoulli", data=data.train, **parts)
    record = al.fit(
        model, data.train, valid=data.valid[:5000], batch_size=100, precision=precision, compile=True, seed=seed,
        progress=True, **TRAINING[name],
    )  # fmt: skip
    torch.manual_seed(0)
    test = al.evaluate(model, data.test[::every], samples=samples, compile=True)
    say(f"{name}, seed {seed}, {precision}: {test.nll:.3f}")
    return dict(seconds=record.seconds, validation_bound=record.best_bound, test=test.as_dict())


if __name__ == "__main__":
    name, seed = sys.argv[1], int(sys.argv[2])
    results = {precision: reached(name, seed, precision) for precision in ("float32", "bfloat16")}
    cost = results["bfloat16"]["test"]["nll"] - results["float32"]["test"]["nll"]
    print(json.dumps(dict(name=name, seed=seed, machine=machine(), cost=cost, results=results), indent=1))
