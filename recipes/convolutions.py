"""`binarized-mnist` with convolutions, a row of the scoreboard each: L_1000 of all 10,000 test images.

    python recipes/convolutions.py ROW SEED > recipes/results/convolutions_ROW_SEED.json

    mixture   T = 1, z of 40, a mixture of 200 normals as prior, on the ELBO
    dreg      T = 1, z of 40, standard normal prior, on IWAE with the DReG gradient, S = 5
    markov    T = 2, z_1 of 4 x 7 x 7, z_2 of 32, p(x | z_1) p(z_1 | z_2), standard normal prior, on the ELBO

All are read and given on a grid of 7 x 7 x 64. The weights are chosen on 5,000 validation images. Of `markov` one run
was stopped after 17 epochs at a validation ELBO of -95.4, where the ladder stands at -87: perceptrons.py has a better
Markov chain.
"""

import sys

import torch
from common import reached

import allegory as al
from allegory.data import load

ROWS = {
    "mixture": (dict(latent=[40], prior="mixture", components=200), dict(kl_warmup=2000)),
    "dreg": (dict(latent=[40]), dict(objective=al.dreg, samples=5)),
    "markov": (dict(latent=[4, 32], markov=True), dict(kl_warmup=2000)),
}

if __name__ == "__main__":
    row, seed = sys.argv[1], int(sys.argv[2])
    network, settings = ROWS[row]
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = al.architectures.conv((1, 28, 28), "bernoulli", channels=64, blocks=3, data=data.train, **network)
    record = al.fit(
        model, data.train, valid=data.valid[:5000], minutes=40, batch_size=100, lr=2e-3, lr_warmup=200, ema=0.999,
        precision="auto", compile="auto", seed=seed, out=f"runs/{row}_{seed}", progress=True, **settings,
    )  # fmt: skip
    reached(model, [record], data.test, precision="auto", compile="auto", recipe=row, seed=seed)
