"""Few pictures: how wide the layers should be, and how much decay, where there are 4,000 of them.

    OMP_NUM_THREADS=1 python benchmarks/few_pictures.py pictures.npz [--hidden 300 1000] [--weight-decay 0 1]

The file has the arrays train, valid and test, of zeros and ones. Two levels of 40 and 20 latents, two layers of each
width, batches of 128, learning rate 1e-3 annealed over 300 epochs or, where 20 epochs bring no better validation bound,
from there on. Printed are the ELBO of the validation and of the test pictures, and L_50 of the latter.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from sides import machine

import allegory as al
from allegory.data import load
from allegory.training.defaults import kl_warmup_steps


def row(data: al.data.Data, hidden: int, weight_decay: float, dropout: float, seed: int = 0) -> str:
    """A row of the table: one training, and its bounds."""
    torch.manual_seed(seed)
    model = al.architectures.mlp(
        data.event_shape, "bernoulli", latent=[40, 20], hidden=[hidden] * 2, dropout=dropout, data=data.train
    )
    begun = time.process_time()
    record = al.fit(
        model, data.train, valid=data.valid, epochs=300, patience=20, lr_warmup=100, seed=seed,
        kl_warmup=kl_warmup_steps(2, len(data.train)), weight_decay=weight_decay,
    )  # fmt: skip
    seconds, found = time.process_time() - begun, al.evaluate(model, data.test, samples=50)
    return (
        f"| {hidden} | {weight_decay:g} | {dropout:g} | {record.epoch} | {record.best_bound:.2f} | {found.elbo:.2f} | "
        f"{-found.nll:.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=".npz with the arrays train, valid and test")
    parser.add_argument("--hidden", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0])
    args = parser.parse_args()
    print(machine())
    print(
        "\n| width | decay | dropout | epochs | valid ELBO | test ELBO | L_50 | CPU s |\n|" + " --: |" * 8, flush=True
    )
    for setting in itertools.product(args.hidden, args.weight_decay, args.dropout):
        print(row(load(args.data), *setting), flush=True)
