"""`binarized-mnist` as a masked diffusion of infinitely many levels: the ELBO of all 10,000 test images.

    python recipes/masked.py SEED [MINUTES] > recipes/results/masked_SEED.json

Convolutions on cells of 4 x 4 pixels read which pixels are shown and which are masked, and give the log-odds of the
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

Reached with 4 blocks of 128, seed 1, in 34 minutes on a third of a thread of a machine of two x86-64 cores with much
other work beside, 10.5 minutes of the processor, 6,676 steps or 8.5 epochs: minus the ELBO of the test images 86.64 +-
0.24. Seed 2, in 30 minutes, 18.3 of the processor, 10,193 steps or 13 epochs: 87.33 +- 0.23, so that twice the time
gained nothing, and two seeds lie as far apart. The perceptron had 94.95 after 11 epochs. Not run for its half hour of
two cores, an hour of the processor.
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
        data.train.shape[1:], "bernoulli", net="conv", width=128, blocks=4, data=data.train
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
