"""`binarized-mnist`, T = 1 and T = 2 with a bottom-up posterior: L_1000 of all 10,000 test images.

    python recipes/binarized_mnist.py 1 > recipes/results/binarized_mnist_1.json
    python recipes/binarized_mnist.py 2 > recipes/results/binarized_mnist_2.json

The fixed binarisation (50,000 / 10,000 / 10,000). Everything was chosen on the validation set, the test set was scored
once, at the end. The training is ended by the clock, so another machine reaches another number.

NUMBERS
"""

import json
import os
import platform
import sys

import torch

import allegory as al
from allegory.data import load

LEVELS = {
    1: dict(latent=[40], hidden=[300, 300], minutes=20, samples=5),  # 784-300-300-40
    2: dict(latent=[50, 30], hidden=[200, 200], minutes=29.5, samples=4),
}

if __name__ == "__main__":
    recipe = LEVELS[int(sys.argv[1])]
    data = load("binarized-mnist")
    torch.manual_seed(0)
    model = al.architectures.mlp(
        data.event_shape, "bernoulli", latent=recipe["latent"], hidden=recipe["hidden"], data=data.train
    )
    record = al.fit(
        model, data.train, valid=data.valid, objective=al.iwae, samples=recipe["samples"], minutes=recipe["minutes"],
        batch_size=100, lr=1e-3, lr_warmup=500, ema=0.9995, precision="bfloat16", seed=0, progress=True,
    )  # fmt: skip
    torch.manual_seed(0)
    result = al.evaluate(model, data.test, samples=1000)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        json.dumps(
            {
                "machine": machine,
                "seed": 0,
                **recipe,
                "epochs": record.epoch,
                "seconds": record.seconds,
                "best_epoch": record.best_epoch,
                "validation_bound": record.best_bound,
                "test": result.as_dict(),
            },
            indent=1,
        )
    )
