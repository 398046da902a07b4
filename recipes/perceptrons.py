"""`binarized-mnist` with perceptrons, a row of the scoreboard each: L_1000 of all 10,000 test images.

    python recipes/perceptrons.py ROW SEED > recipes/results/perceptrons_ROW_SEED.json

    iwae      T = 1, 784-300-300-40, standard normal prior, on IWAE, S = 5
    dreg      the same with the DReG gradient, S = 10
    mixture   as iwae, with a mixture of 500 normals as prior
    markov    T = 2, p(x | z_1) p(z_1 | z_2) p(z_2), 784-300-300-50 and 50-100-100-30, bottom-up, on IWAE, S = 5

A perceptron learns the 50,000 training images by heart: after 60 epochs of IWAE it is 3 nats better on them than on
others. So the images are deformed a little while it learns, and as they are in the last ten epochs; the gap is then 1.7
nats. The weights are chosen on validation images.

Reached on one thread of a machine of two x86-64 cores (AVX-512, bfloat16), other work beside, torch 2.13, trained and
scored in bfloat16:

    iwae      86.82 +- 0.08 (86.73, 86.84, 86.89; commits a72331c, 7b3cf73), 160 epochs, 21 to 24 minutes; without the
              deformations 88.45 after 100 epochs
    dreg      86.47 +- 0.13 (86.40, 86.39, 86.62; commits 7b3cf73, dd50337), 130 epochs, 31 to 35 minutes
    mixture   84.58 +- 0.09 (84.67, 84.58, 84.48; commits 7b3cf73, dd50337), 160 epochs, 32 to 34 minutes; on the ELBO,
              200 and 10 epochs, 85.35 (seed 1, commit b860245)
    markov    85.21 +- 0.15 (85.07, 85.36, 85.19; commits 7b3cf73, dd50337), 210 epochs, 33 to 43 minutes
"""

import functools
import sys

import torch
from binarized_mnist import one_level, two_levels
from common import deformed, reached

import allegory as al
from allegory.data import load

ROWS = {
    "iwae": (one_level, dict(objective=al.iwae, samples=5, epochs=150)),
    "dreg": (one_level, dict(objective=al.dreg, samples=10, epochs=120)),
    "mixture": (
        functools.partial(one_level, prior="mixture", components=500),
        dict(objective=al.iwae, samples=5, epochs=150),
    ),
    "markov": (two_levels, dict(objective=al.iwae, samples=5, epochs=200, kl_warmup=5000)),
}

if __name__ == "__main__":
    row, seed = sys.argv[1], int(sys.argv[2])
    build, settings = ROWS[row]
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = build(data.train)
    settings |= dict(
        valid=data.valid, batch_size=100, ema=0.9995, precision="auto", compile="auto", seed=seed, progress=True
    )
    first = al.fit(model, data.train, transform=deformed, lr=1e-3, lr_warmup=500, **settings)
    last = al.fit(model, data.train, lr=2e-4, **settings | dict(epochs=10, kl_warmup=0))
    reached(model, [first, last], data.test, recipe=row, seed=seed, precision="auto", compile="auto")
