"""`mnist` or `fashion-mnist` in 8 bits, T = 3: a ladder of convolutions whose pixels are mixtures of three logistics.

    python recipes/grey.py DATA SEED [MINUTES] > recipes/results/grey_DATA_SEED.json
    python benchmarks/compression.py DATA --run runs/grey_DATA_SEED

z_3 is a vector of 32 with a mixture of 200 normals as prior, z_2 a grid of 4 x 7 x 7, z_1 one of 8 x 7 x 7, each with
one block of 64 channels up and one down, and none in its posterior (see `fair_depth.py`). The weights are chosen on
5,000 validation images; every 10th test image is scored with K = 100.

Reached with seed 1 in 75 minutes, of which 34 and 38 were of the processor, one thread of two x86-64 cores (AVX2,
float32) with much other work beside: mnist 7,283 steps, 14.6 epochs, validation ELBO -656.0; test ELBO -654.2 +- 4.9,
-L_100 644.3, 1.186 bits a pixel. fashion-mnist 8,249 steps, 16.5 epochs, -1745.4; -1727.0 +- 15.4, 1706.6, 3.140. The
files of all test images are in `benchmarks/results/compression.md`. On mnist z_3 is not used, 0.01 nats.
"""

import sys

import torch
from common import reached

import allegory as al
from allegory.data import load

if __name__ == "__main__":
    name, seed = sys.argv[1], int(sys.argv[2])
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
    data = load(name)
    torch.manual_seed(seed)
    model = al.architectures.conv(
        data.event_shape, al.families.discretized_logistic_mixture(3), latent=[8, 4, 32], scales=[4, 4, 28],
        channels=64, blocks=1, posterior_blocks=0, prior="mixture", components=200, data=data.train,
    )  # fmt: skip
    record = al.fit(
        model, data.train, valid=data.valid[:5000], minutes=minutes, batch_size=100, lr=2e-3, lr_warmup=200,
        kl_warmup=2000, ema=0.999, precision="float32", compile="auto", seed=seed, out=f"runs/grey_{name}_{seed}",
        progress=True,
    )  # fmt: skip
    reached(model, [record], data.test[::10], samples=100, compile="auto", recipe="grey", data=name, seed=seed)
