"""Few pictures: perceptrons or convolutions, how wide, and how much decay, where there are 4,000 of them.

    OMP_NUM_THREADS=1 python benchmarks/few_pictures.py pictures.npz [--hidden 300 1000] [--channels 32]
        [--weight-decay 0 1] [--epochs 300]

The file has the arrays train, valid and test, (N, 28, 28) of zeros and ones. Perceptrons: two levels of 40 and 20
latents, two layers of each width, learning rate 1e-3. Convolutions: a ladder of two levels, 4 x 7 x 7 and 32, with a
residual block each, learning rate 2e-3. Batches of 128; the rate is annealed over the epochs or, where 20 bring no
better validation bound, from there on. Printed are the ELBO of the validation and of the test pictures, and L_50 of
the latter.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import torch
from sides import machine

import allegory as al
from allegory.data import load
from allegory.training.defaults import kl_warmup_steps


def row(
    data: al.data.Data, kind: str, width: int, weight_decay: float, dropout: float, epochs: int, seed: int = 0
) -> str:
    """A row of the table: one training, and its bounds."""
    torch.manual_seed(seed)
    about: dict[str, Any] = dict(dropout=dropout, data=data.train)
    if kind == "hidden":
        lr, model = 1e-3, al.architectures.mlp(data.event_shape, "bernoulli", [40, 20], hidden=[width] * 2, **about)
    else:
        lr, model = 2e-3, al.architectures.conv(data.event_shape, "bernoulli", channels=width, blocks=1, **about)
    begun = time.process_time()
    record = al.fit(
        model, data.train, valid=data.valid, epochs=epochs, patience=20, lr=lr, lr_warmup=100, seed=seed,
        kl_warmup=kl_warmup_steps(2, len(data.train), epochs=epochs), weight_decay=weight_decay, precision="auto",
        compile="auto",
    )  # fmt: skip
    seconds, found = time.process_time() - begun, al.evaluate(model, data.test, samples=50)
    return (
        f"| {kind} {width} | {weight_decay:g} | {dropout:g} | {record.epoch} | {record.best_bound:.2f} "
        f"| {found.elbo:.2f} | {-found.nll:.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=".npz with the arrays train, valid and test")
    parser.add_argument("--hidden", type=int, nargs="*", default=[300, 1000])
    parser.add_argument("--channels", type=int, nargs="*", default=[32])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0])
    args = parser.parse_args()
    print(machine())
    print(
        "\n| width | decay | dropout | epochs | valid ELBO | test ELBO | L_50 | CPU s |\n|" + " --: |" * 8, flush=True
    )
    kinds = [("hidden", width) for width in args.hidden] + [("channels", width) for width in args.channels]
    for kind, *setting in itertools.product(kinds, args.weight_decay, args.dropout):
        print(row(load(args.data), *kind, *setting, args.epochs), flush=True)
