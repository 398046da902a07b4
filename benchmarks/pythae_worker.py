"""What runs in pythae's own environment for bench.py: an epoch of training, or its L_1000, for each line it reads.

python pythae_worker.py train|nll COUNT BATCH
"""

import json
import sys
import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

WIDTH, LATENT, PIXELS = 400, 20, 784


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENT))

    def forward(self, x):
        mu, log_variance = self.net(x).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, PIXELS))

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


def answer(value):
    print(f"= {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    task, count, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    x = (torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.13).float()
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    if task == "train":
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder, per_device_train_batch_size=batch, num_epochs=10**6, learning_rate=1e-3, no_cuda=True
            )
            data = BaseDataset(x, torch.ones(count))
            trainer = BaseTrainer(model=model, train_dataset=data, training_config=training)
            trainer.prepare_training()
            answer("ready")
            for epoch, _ in enumerate(sys.stdin, start=1):
                answer(float(trainer.train_step(epoch)))
    else:
        model.eval()
        answer("ready")
        for _ in sys.stdin:
            with torch.no_grad():
                answer(float(model.get_nll(x, n_samples=1000, batch_size=batch)))
