"""What runs in pythae's own environment for bench.py: an epoch of training, or its L_1000, for each line it reads.

python pythae_worker.py train|nll COUNT BATCH

And for time_to_number.py and same_bound.py: an epoch of training and the validation bound, with the seconds so far;
of a perceptron whose encoder has these WIDTHS, as 784,300,300,40.

python pythae_worker.py curve DATA.npz BATCH LR ACTIVATION WIDTHS SEED
"""

import json
import sys
import tempfile
import time
from itertools import pairwise

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

WIDTH, LATENT, PIXELS = 400, 20, 784


class Encoder(BaseEncoder):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        mu, log_variance = self.net(x.flatten(1)).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


def perceptron(activation, *widths):
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def trainer_of(model, train, valid, batch, lr, folder):
    training = BaseTrainerConfig(
        output_dir=folder, per_device_train_batch_size=batch, per_device_eval_batch_size=1000, num_epochs=10**6,
        learning_rate=lr, no_cuda=True,
    )  # fmt: skip
    data = [BaseDataset(x, torch.ones(len(x))) for x in (train, valid)]
    trainer = BaseTrainer(model=model, train_dataset=data[0], eval_dataset=data[1], training_config=training)
    trainer.prepare_training()
    return trainer


def answer(value):
    print(f"= {json.dumps(value)}", flush=True)


def curve(source, batch, lr, activation, widths, seed):
    data = {key: torch.from_numpy(value).flatten(1) for key, value in np.load(source).items()}
    answer("ready")
    began = time.perf_counter()
    torch.manual_seed(seed)
    *widths, latent = map(int, widths.split(","))
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=latent, reconstruction_loss="bce")
    kind = getattr(nn, activation)
    encoder, decoder = perceptron(kind, *widths, 2 * latent), perceptron(kind, latent, *widths[::-1])
    model = VAE(config, encoder=Encoder(encoder), decoder=Decoder(decoder))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, data["train"], data["valid"], batch, lr, folder)
        for epoch, _ in enumerate(sys.stdin, start=1):
            trainer.train_step(epoch)
            bound = -float(trainer.eval_step(epoch))
            answer([time.perf_counter() - began, bound])


def speed(task, count, batch):
    x = (torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.13).float()
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    encoder = perceptron(nn.ReLU, PIXELS, WIDTH, 2 * LATENT)
    model = VAE(config, encoder=Encoder(encoder), decoder=Decoder(perceptron(nn.ReLU, LATENT, WIDTH, PIXELS)))
    if task == "train":
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(model, x, x[:1000], batch, 1e-3, folder)
            answer("ready")
            for epoch, _ in enumerate(sys.stdin, start=1):
                answer(float(trainer.train_step(epoch)))
    model.eval()
    answer("ready")
    for _ in sys.stdin:
        with torch.no_grad():
            answer(float(model.get_nll(x, n_samples=1000, batch_size=batch)))


if __name__ == "__main__":
    task, what, batch, *rest = sys.argv[1:]
    if task == "curve":
        lr, activation, widths, seed = rest
        curve(what, int(batch), float(lr), activation, widths, int(seed))
    else:
        speed(task, int(what), int(batch))
