"""`binarized-mnist`, T = 1 and T = 2 with a bottom-up posterior: L_1000 of all 10,000 test images.

    python recipes/binarized_mnist.py LEVELS SEED > recipes/results/binarized_mnist_LEVELS_SEED.json

The fixed binarisation (50,000 / 10,000 / 10,000). The weights of a run are chosen on the validation set; the settings
and the seeds 1, 2, 3 were fixed before any of these six runs was scored on test. While the recipe was found, earlier
runs (seed 0) had been scored on test.

Reached on one thread of a machine of two x86-64 cores (AVX-512, bfloat16), other work beside, torch 2.13, commit
cb80724 (seed 2 of T = 1 with the memory of `evaluate` mended), trained in bfloat16, scored in float32; mean and
standard deviation over the seeds, the standard error over the images is 0.24; published: trained on the ELBO, on IWAE
with S = 5 (Burda et al. 2016).

    T = 1   88.45 +- 0.04   (88.42, 88.45, 88.50)   100 epochs, 10 minutes         88.71, 87.63
    T = 2   87.03 +- 0.14   (87.19, 86.90, 87.01)   100 epochs, 10 to 11 minutes   88.08, 86.17

At T = 2 the KL warm-up matters: without it the second level collapsed. Since that commit the output's bias begins at
the data, clipping is relative and AdamW's beta_2 is 0.99, so a new run gives other digits.
"""

import sys
from typing import Any

import torch
from common import reached
from torch import nn

import allegory as al
from allegory.data import load
from allegory.networks import Standardize, mlp

normal, bernoulli = al.families.normal, al.families.bernoulli


def one_level(train: torch.Tensor, **prior: Any) -> al.VAE:
    """The 784-300-300-40 perceptron of the literature."""
    return al.architectures.mlp(train.shape[1:], "bernoulli", latent=[40], hidden=[300, 300], data=train, **prior)


def two_levels(train: torch.Tensor) -> al.VAE:
    """784-300-300-50, 50-100-100-30: a small network is enough between the latents."""
    read = Standardize(1, 28, 28)
    read.loc.copy_(train.mean(0))
    read.scale.fill_(train.std())
    picture = nn.Unflatten(-1, (1, 28, 28))
    return al.VAE(
        al.StandardNormal(30),
        [
            al.Conditional(nn.Sequential(read, nn.Flatten(-3), mlp(784, [300, 300], 2 * 50)), normal),
            al.Conditional(mlp(50, [100, 100], 2 * 30), normal),
        ],
        [
            al.Conditional(nn.Sequential(mlp(50, [300, 300], 784), picture), bernoulli, event_dim=3),
            al.Conditional(mlp(30, [100, 100], 2 * 50), normal),
        ],
    )


RECIPES = {
    1: (one_level, dict(samples=5)),
    2: (two_levels, dict(samples=4, kl_warmup=5000)),
}

if __name__ == "__main__":
    levels, seed = int(sys.argv[1]), int(sys.argv[2])
    build, settings = RECIPES[levels]
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = build(data.train)
    record = al.fit(
        model, data.train, valid=data.valid, objective=al.iwae, epochs=100, batch_size=100, lr=1e-3, lr_warmup=500,
        ema=0.9995, precision="auto", compile="auto", seed=seed, progress=True, **settings,
    )  # fmt: skip
    reached(model, [record], data.test, recipe="binarized_mnist", levels=levels, seed=seed, **settings)
