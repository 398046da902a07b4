"""The same data, network, batch size and epochs: pythae's VAE and ours, both scored by our estimator, in one run.

    python -m venv pythae_env && pythae_env/bin/pip install torch==2.13.0 pythae==0.1.2
    python benchmarks/against_pythae.py pythae_env/bin/python > benchmarks/results/against_pythae.json

`binarized-mnist`, 784-300-300-40 and back, SiLU, ELBO, Adam at 1e-3, batches of 100. Everything else is what each
library does when not told otherwise: pythae keeps the best weights on the validation set; ours does too, of weights
averaged over steps, with a cosine to a learning rate of zero and the output's bias at the data's mean.

Reached, three seeds, one thread of two x86-64 cores that other work shared, torch 2.13, commit 2a0566a; -L_1000
and the ELBO of all 10,000 test images, mean and standard deviation over the seeds:

    pythae     93.18 +- 0.20   -97.92 +- 0.38   161, 284, 189 s
    allegory   90.93 +- 0.24   -94.99 +- 0.20   152, 319, 179 s

The seconds of one seed compare, those of different seeds do not: the machine was not equally busy.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributions import Independent, Normal

import allegory as al
from allegory.data import load

EPOCHS, BATCH, SEEDS, K = 30, 100, 3, 1000


class LogVariance(nn.Module):
    """N(mu, exp(log sigma^2)), pythae's posterior."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Independent:
        mu, log_variance = self.network(x.flatten(-3)).chunk(2, -1)
        return Independent(Normal(mu, (0.5 * log_variance).exp()), 1)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return al.networks.mlp(inputs, [300, 300], outputs)


def pythaes(weights: dict[str, np.ndarray]) -> al.VAE:
    """pythae's trained networks as a VAE of ours."""
    encoder, decoder = perceptron(784, 80), perceptron(40, 784)
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        prefix = f"{name}.net."
        part = {key.removeprefix(prefix): torch.from_numpy(v) for key, v in weights.items() if key.startswith(prefix)}
        network.load_state_dict(part)
    to_x = nn.Sequential(decoder, nn.Unflatten(-1, (1, 28, 28)))
    return al.VAE(al.StandardNormal(40), LogVariance(encoder), al.Conditional(to_x, al.families.bernoulli, event_dim=3))


def ours(train: torch.Tensor, valid: torch.Tensor, seed: int) -> tuple[al.VAE, float]:
    began = time.monotonic()
    torch.manual_seed(seed)
    model = al.architectures.mlp((1, 28, 28), "bernoulli", latent=[40], hidden=[300, 300], data=train)
    al.fit(model, train, valid=valid, epochs=EPOCHS, batch_size=BATCH, lr=1e-3, seed=seed)
    return model, time.monotonic() - began


if __name__ == "__main__":
    theirs = sys.argv[1]
    data = load("binarized-mnist")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "data.npz", Path(folder) / "weights.npz"
        np.savez(source, train=data.train.numpy(), valid=data.valid.numpy())
        for seed in range(SEEDS):
            side = Path(__file__).with_name("pythae_side.py")
            command = [theirs, str(side), str(source), str(out), str(EPOCHS), str(BATCH), str(seed)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            weights = dict(np.load(out))
            candidates = {"pythae": (pythaes(weights), float(weights["seconds"]))}
            candidates["allegory"] = ours(data.train, data.valid, seed)
            for name, (model, seconds) in candidates.items():
                torch.manual_seed(0)
                result = al.evaluate(model, data.test, samples=K)
                runs.append(dict(library=name, seed=seed, training_seconds=seconds, **result.as_dict()))
                print(
                    name,
                    seed,
                    f"{seconds:.0f} s",
                    f"{result.nll:.2f}",
                    f"{result.elbo:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    summary = {
        name: {
            key: [statistics.mean(values), statistics.stdev(values)]
            for key in ("nll", "elbo", "training_seconds")
            if (values := [run[key] for run in runs if run["library"] == name])
        }
        for name in ("pythae", "allegory")
    }
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        json.dumps(
            {
                "machine": machine,
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "importance_samples": K,
                "mean_and_deviation_over_seeds": summary,
                "runs": runs,
            },
            indent=1,
        )
    )
