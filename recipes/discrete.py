"""`binarized-mnist` with two levels of 200 bits each, trained by VIMCO: L_1000 of all 10,000 test images.

    python recipes/discrete.py SEED [MINUTES] > recipes/results/discrete_SEED.json

Each link is a perceptron with one hidden layer of 300. Draws of both levels are hard, so that the bound is that of a
model with discrete latents, and the gradient is unbiased.

After 40 seconds of one thread (AVX-512, bfloat16), L_100 of 2,000 validation images, batches of 100:

    lr 1e-3     139.9, still falling fast
    lr 3e-3     118.9; with a posterior that goes down, top_down=True, batches of 50, 130.1
    lr 8e-3     118.6

Reached with lr 4e-3, seed 1, in 7.5 minutes on a third of a thread of a machine of two x86-64 cores with much other
work beside, 2.3 minutes of the processor, 3,452 steps or 6.9 epochs: L_1000 of the test images -102.78 +- 0.27, the
ELBO -119.6. Level 2 is not used (0.003 nats), so this is a model of one level of 200 bits so far, and of 28 % of the
images the weights say that 1,000 particles are too few. Not run for its 20 minutes yet.
"""

import sys

import torch
from common import reached

import allegory as al
from allegory.data import load

if __name__ == "__main__":
    seed, minutes = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = al.architectures.mlp(
        data.train.shape[1:], "bernoulli", latent=[200, 200], hidden=[300], latent_family="bernoulli", data=data.train
    )
    record = al.fit(
        model, data.train, valid=data.valid[:2000], objective=al.vimco, samples=10, minutes=minutes, batch_size=100,
        lr=4e-3, lr_warmup=300, ema=0.9995, precision="auto", compile="auto", seed=seed, progress=True,
    )  # fmt: skip
    reached(model, [record], data.test, recipe="discrete", seed=seed, precision="auto", compile="auto")
