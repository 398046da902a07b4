"""`binarized-mnist` with two levels of 200 bits each, trained by VIMCO: L_1000 of all 10,000 test images.

    python recipes/discrete.py SEED [MINUTES] > recipes/results/discrete_SEED.json

Each link is a perceptron with one hidden layer of 300. Draws of both levels are hard, so that the bound is that of a
model with discrete latents, and the gradient is unbiased.

After 40 seconds of one thread (AVX-512, bfloat16), L_100 of 2,000 validation images, batches of 100:

    lr 1e-3     139.9, still falling fast
    lr 3e-3     118.9; with a posterior that goes down, top_down=True, batches of 50, 130.1
    lr 8e-3     118.6

Without a warm-up of the KL level 2 is not used: 0.003 nats after 3,452 steps, 2.3 minutes of the processor, where
L_1000 of the test images was -102.78 +- 0.27. With 4,000 steps of warm-up it has 5.1 nats, and 199 of its bits are
active.

Reached with that and seed 1, in 16 minutes on less than half a thread of a machine of two x86-64 cores with much other
work beside, 6.9 minutes of the processor, 12,154 steps or 24 epochs: L_1000 of the test images -103.39 +- 0.30, the
ELBO -115.13, so that two levels are so far no better than one; of 22 % of the images the weights say that 1,000
particles are too few. L_10 of the validation images still rose, by 0.2 nats an epoch. Not run for its 20 minutes of a
whole thread yet.
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
        lr=4e-3, lr_warmup=300, kl_warmup=4000, ema=0.9995, precision="auto", compile="auto", seed=seed, progress=True,
    )  # fmt: skip
    reached(model, [record], data.test, recipe="discrete", seed=seed, precision="auto", compile="auto")
