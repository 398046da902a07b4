"""What runs in pythae's own environment: trains its VAE and writes the weights. See against_pythae.py.

python pythae_side.py DATA.npz OUT.npz EPOCHS BATCH SEED
"""

import sys
import tempfile
import time

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput  # noqa: F401  (fails early where pythae is missing)
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from torch import nn

WIDTHS, LATENT = (300, 300), 40


def layers(inputs, outputs):
    parts = []
    for width in WIDTHS:
        parts += [nn.Linear(inputs, width), nn.SiLU()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.net = layers(784, 2 * LATENT)

    def forward(self, x):
        mu, log_variance = self.net(x.flatten(1)).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.net = layers(LATENT, 784)

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).view(-1, 1, 28, 28))


if __name__ == "__main__":
    source, out, epochs, batch, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    data = {key: torch.from_numpy(value).float() for key, value in np.load(source).items()}
    torch.manual_seed(seed)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=batch, per_device_eval_batch_size=1000, num_epochs=epochs,
            learning_rate=1e-3, seed=seed, no_cuda=True,
        )  # fmt: skip
        began = time.monotonic()
        pipeline = TrainingPipeline(model=model, training_config=training)
        pipeline(train_data=data["train"], eval_data=data["valid"])
        seconds = time.monotonic() - began
    # The pipeline leaves its best weights in the model it was given.
    weights = {key: value.cpu().numpy() for key, value in model.state_dict().items()}
    np.savez(out, seconds=seconds, **weights)
