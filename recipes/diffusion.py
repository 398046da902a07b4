"""`binarized-mnist` as a diffusion of T = 100 levels with a learned schedule: the ELBO of all 10,000 test images.

    python recipes/diffusion.py SEED [MINUTES] > recipes/results/diffusion_SEED.json

The denoiser is a perceptron that puts out, for each pixel, log-odds that are added to those its own noise leaves it;
each step down has the variance of that guess. What is reported is the ELBO, by whole traces of all 100 levels (L_1).

Not run for its hour yet. After 30 minutes on a fifth of a thread, two x86-64 cores with much other work beside, seed 1,
7,307 steps or 19 epochs, the validation estimate was -99.1, with a schedule that bfloat16 rounded, since mended.
"""

import sys

import torch
from common import reached

import allegory as al
from allegory.data import load

if __name__ == "__main__":
    seed, minutes = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = al.architectures.diffusion(
        data.train.shape[1:], "bernoulli", levels=100, net="mlp", predicts="x", spread=True, width=512, blocks=3,
        data=data.train,
    )  # fmt: skip
    record = al.fit(
        model, data.train, valid=data.valid, minutes=minutes, batch_size=128, lr=1e-3, lr_warmup=300, ema=0.999,
        precision="auto", seed=seed, progress=True,
    )  # fmt: skip
    print(record, model, file=sys.stderr)
    reached(model, [record], data.test, recipe="diffusion", seed=seed, levels=100, precision="auto", samples=1)
