"""`binarized-mnist` as a masked diffusion of infinitely many levels: the ELBO of all 10,000 test images.

    python recipes/masked.py SEED [MINUTES] > recipes/results/masked_SEED.json

Convolutions on cells of 2 x 2 pixels read which pixels are shown and which are masked, and give the log-odds of the
masked ones. The ELBO is the mean over all orders of the pixels; reported is an unbiased estimate of it, of 10 numbers
of masked pixels an image, spread evenly, with its standard error over the images. Validation is such an estimate, too,
of one number each and of 2,000 images, with the same noise every epoch: it tells epochs apart, and lies within a nat or
two.

After one minute of one thread (AVX-512, bfloat16), by 8 numbers each of 2,000 validation images:

    perceptron, 3 blocks of 512, lr 2e-3, batch 128     104.5
    convolutions, 8 blocks of 128, the same             103.6
    convolutions, 4 blocks of 96, the same               95.4
    the same, lr 4e-3                                    93.1
    the same, lr 3e-3, batch 64                          92.6

These have cells of 4 x 4. After 73 seconds of the processor, most of them the compiler's, on 4,000 validation images:

    4 blocks of 128, cells of 4 x 4        106.1, 419 steps
    6 blocks of 64, cells of 2 x 2         102.1, 389 steps

Reached with the latter, seed 1, in 27 minutes of one thread of a machine of two x86-64 cores with other work beside,
22.6 minutes of the processor, 10,510 steps or 13 epochs: minus the ELBO of the test images 84.24 +- 0.22. The former
had 86.64 +- 0.24 (seed 1, 10.5 minutes of the processor) and 87.33 +- 0.23 (seed 2, 18.3); the perceptron 94.95 after
11 epochs.
"""

import json
import math
import sys
import time

import torch
from common import machine

import allegory as al
from allegory.data import load
from allegory.evaluation.passes import evaluating

if __name__ == "__main__":
    seed, minutes = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = al.architectures.masked_diffusion(
        data.train.shape[1:], "bernoulli", net="conv", width=64, blocks=6, cell=2, data=data.train
    )
    record = al.fit(
        model, data.train, valid=data.valid[:2000], minutes=minutes, batch_size=64, lr=3e-3, lr_warmup=300, ema=0.9995,
        precision="auto", compile="auto", seed=seed, progress=True,
    )  # fmt: skip
    trained = time.process_time()
    torch.manual_seed(0)
    with evaluating(model):
        bound = torch.cat([al.elbo(model.estimate(x, samples=10)) for x in data.test.split(100)])
    found = dict(
        recipe="masked", seed=seed, machine=machine(), parameters=sum(p.numel() for p in model.parameters()),
        epochs=record.epoch, steps=record.step, minutes=round(record.seconds / 60, 1),
        cpu_minutes=round(trained / 60, 1), best_epoch=record.best_epoch,
        validation_bound=record.best_bound, elbo=bound.mean().item(), stderr=bound.std().item() / math.sqrt(len(bound)),
    )  # fmt: skip
    print(json.dumps(found, indent=1))
