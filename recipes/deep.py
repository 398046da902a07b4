"""`binarized-mnist`, T = 5: a ladder of convolutions for one GPU.

    python recipes/deep.py SEED > recipes/results/deep_SEED.json

z_5 is a vector of 32 with a mixture of 500 normals as prior, z_1 to z_4 are grids of 4 x 7 x 7; x is read and given on
a grid of 14 x 14. All share a state of 128 channels. The images are deformed a little during the first 40 minutes and
as they are during the last 5; the weights are chosen on validation images.

Not reached yet: this has run in small only (tests/test_recipes.py), never on a GPU.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import deformed, reached

import allegory as al
from allegory.data import load
from allegory.training import Record


def ladder(
    data: torch.Tensor, latent: Sequence[int] = (4, 4, 4, 4, 32), channels: int = 128, blocks: int = 2
) -> al.VAE:
    """Grids of 7 x 7 below a vector."""
    scales = [4] * (len(latent) - 1) + [28]
    return al.architectures.conv(
        (1, 28, 28), "bernoulli", latent, scales, stem=2, channels=channels, blocks=blocks, dropout=0.1,
        prior="mixture", components=500, data=data,
    )  # fmt: skip


def train(model: al.VAE, data: torch.Tensor, first: dict[str, Any], last: dict[str, Any]) -> list[Record]:
    """On deformed images, then on the images as they are."""
    return [al.fit(model, data, transform=deformed, **first), al.fit(model, data, **last)]


if __name__ == "__main__":
    seed = int(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load("binarized-mnist")
    torch.manual_seed(seed)
    model = ladder(data.train).to(device)
    settings = dict(
        valid=data.valid, batch_size=200, ema=0.9995, precision="auto", compile="auto", seed=seed, progress=True
    )
    first = settings | dict(minutes=40, lr=2e-3, lr_warmup=500, kl_warmup=5000)
    records = train(model, data.train, first, settings | dict(minutes=5, lr=2e-4))
    reached(model, records, data.test.to(device), precision="auto", compile="auto", recipe="deep", seed=seed)
