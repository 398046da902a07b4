"""Eight peaks and a swirl in the plane, whose densities are known, as diffusions: how far the ELBO is from log p(x).

    python recipes/planar.py peaks|swirl SEED [MINUTES] > recipes/results/planar_NAME_SEED.json

    peaks     eight normals of sigma 0.15 on a circle of radius 2
    swirl     one and a half turns of a spiral, from radius 0.67 to 2, with noise of sigma 0.1

Of each there are 200,000 training points. T = 100 levels with a learned schedule and the variance of the guess, scored
by whole traces of 10,000 fresh points, and as other T with the same network.

Reached with seed 1 on a part of one thread of a machine of two x86-64 cores, much other work beside, torch 2.13: log
p(x) minus the ELBO in nats, and its standard error,

    peaks     T = 100: 0.037 +- 0.002    T = 500: 0.016 +- 0.001    8 minutes, 6,242 steps (20,000 fresh points)
    swirl     T = 100: 0.021 +- 0.002    T = 500: 0.014 +- 0.001    12 minutes, 3.9 of the processor, 16,514 steps

The swirl had 0.039 and 0.028 after 2,202 steps.
"""

import json
import math
import sys
import time

import torch
from common import machine
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import allegory as al


def peaks() -> MixtureSameFamily:
    """Eight of them."""
    angle = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angle.cos(), angle.sin()], -1)
    return MixtureSameFamily(Categorical(torch.ones(8)), Independent(Normal(centres, 0.15), 1))


def swirl(points: int = 1500) -> MixtureSameFamily:
    """A spiral, as a mixture of so many normals, which stand closer than a tenth of their sigma."""
    angle = 1.5 * math.pi * (1 + 2 * (torch.arange(points) + 0.5) / points)
    centres = (2 / 4.5 / math.pi * angle)[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    return MixtureSameFamily(Categorical(torch.ones(points)), Independent(Normal(centres, 0.1), 1))


if __name__ == "__main__":
    name, seed = sys.argv[1], int(sys.argv[2])
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    law = {"peaks": peaks, "swirl": swirl}[name]()
    torch.manual_seed(seed)
    train, test = law.sample((200_000,)), law.sample((10_000,))
    truth = torch.cat([law.log_prob(part) for part in test.split(2000)])
    model = al.architectures.diffusion((2,), "normal", levels=100, spread=True, width=128, blocks=3, data=train)
    record = al.fit(
        model, train, minutes=minutes, batch_size=512, lr=2e-3, lr_warmup=200, ema=0.999, compile="auto", seed=seed,
        progress=True,
    )  # fmt: skip
    trained = time.process_time()
    gaps = {}
    for levels in (100, 500):
        gap = truth - al.log_likelihood(model, test, samples=1, levels=levels)
        gaps[levels] = [gap.mean().item(), gap.std().item() / math.sqrt(len(gap))]
    found = dict(
        recipe="planar", data=name, seed=seed, machine=machine(), steps=record.step,
        minutes=round(record.seconds / 60, 1), cpu_minutes=round(trained / 60, 1),
        entropy=-truth.mean().item(), model=repr(model),
        gap_and_standard_error=gaps,
    )  # fmt: skip
    print(json.dumps(found, indent=1))
