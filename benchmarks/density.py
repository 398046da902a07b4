"""Densities of two-valued rows: L_1000 of a VAE beside circuits and continuous mixtures, nats per test row.

    OMP_NUM_THREADS=1 python benchmarks/density.py DATA [SET ...] [--seeds 0 1 2] [--json FILE]

DATA is a folder of NAME.npz: train, valid and test, the bits of 0/1 rows packed along the row, and how many there are,
`width`; of the twenty sets that density estimators are compared on (Lowd & Davis 2010, Van Haaren & Davis 2012).
One setting for all sets, chosen on validation rows: p(x | z) is a Chow-Liu tree, its conditionals a perceptron of z,
trained on the importance-weighted bound. Validation rows choose the weights, and stop the training. The test rows are
scored once, when it has ended. The likelihood of a circuit is exact, as is that of a tree; L_1000 is a lower bound.

The independent elements and the tree are computed here. Cited, not run: the continuous mixtures cm of Correia et al.
(2023), with independent and with tree leaves, EiNet (Peharz et al. 2020), and BestPC, the best circuit of any kind that
Correia et al. list.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch

import allegory as al
from allegory.evaluation import baseline

STEPS, BATCH = 3600, 250
SETTING = dict(latent=[16], hidden=[256, 256], dropout=0.1)
TRAINING = dict(
    objective=al.iwae, samples=8, batch_size=BATCH, lr=2e-3, lr_warmup=100, ema=0.999, precision="auto"
)  # fmt: skip
CITED = {
    "plants": {"EiNet": -13.68, "BestPC": -11.84, "cm": -12.39, "cm tree": -12.26},
    "baudio": {"EiNet": -39.79, "BestPC": -39.39, "cm": -39.04, "cm tree": -39.02},
    "bnetflix": {"EiNet": -56.54, "BestPC": -55.71, "cm": -55.24, "cm tree": -55.31},
    "accidents": {"EiNet": -35.59, "BestPC": -26.89, "cm": -33.27, "cm tree": -28.69},
    "dna": {"EiNet": -96.09, "BestPC": -79.05, "cm": -91.77, "cm tree": -84.91},
}


def read(path):
    """Training, validation and test rows, (N, D)."""
    stored = np.load(path)
    parts = (np.unpackbits(stored[part], axis=1, count=int(stored["width"])) for part in ("train", "valid", "test"))
    return [torch.from_numpy(part).float() for part in parts]


def train(rows, valid, seed):
    """The model, and the record of its training; the number of steps does not depend on the number of rows."""
    torch.manual_seed(seed)
    model = al.architectures.mlp(rows.shape[1:], al.families.chow_liu(rows), data=rows, **SETTING)
    steps = math.ceil(len(rows) / BATCH)
    epochs, patience = STEPS // steps, STEPS // (6 * steps)
    return model, al.fit(model, rows, valid=valid, epochs=epochs, patience=patience, seed=seed, **TRAINING)


def run(rows, valid, test, seed):
    """What one training reached, scored once on the test rows; the minutes are those of the processor."""
    start = time.process_time()
    model, record = train(rows, valid, seed)
    trained = time.process_time()
    torch.manual_seed(0)
    found = al.evaluate(model, test, samples=1000)
    return {
        "seed": seed,
        "bound": -found.nll,
        "stderr": found.nll_stderr,
        "elbo": found.elbo,
        "effective_sample_size": found.effective_sample_size,
        "active_units": found.active_units,
        "validation_bound": record.best_bound,
        "best_epoch": record.best_epoch,
        "epochs": record.epoch,
        "steps": record.step,
        "minutes": (trained - start) / 60,
        "scoring_minutes": (time.process_time() - trained) / 60,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def without_latents(rows, test):
    """The independent elements and the tree, exact."""
    family = al.families.chow_liu(rows)
    tree = family(family.start(rows).flatten()).log_prob(test).mean().item()
    return {
        "independent": baseline(al.architectures.mlp(rows.shape[1:], "bernoulli", [1], []), rows, test),
        "tree": tree,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", help="by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = " ".join(map(str, arguments.seeds))
    results = {
        "command": " ".join(["python benchmarks/density.py DATA", *arguments.sets, "--seeds", seeds]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "sets": {},
    }
    for path in sorted(arguments.data.glob("*.npz")):
        if arguments.sets and path.stem not in arguments.sets:
            continue
        rows, valid, test = read(path)
        found = without_latents(rows, test) | {"cited": CITED.get(path.stem, {}), "runs": []}
        results["sets"][path.stem] = found
        for seed in arguments.seeds:
            found["runs"].append(run(rows, valid, test, seed))
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1))
            ours = found["runs"][-1]
            peers = "  ".join(f"{name} {value:.2f}" for name, value in found["cited"].items())
            print(
                f"{path.stem:10} seed {seed}  L_1000 {ours['bound']:.3f} +- {ours['stderr']:.3f}  "
                f"{ours['minutes']:.1f} min  independent {found['independent']:.2f}  tree {found['tree']:.2f}  "
                f"cited: {peers}",
                flush=True,
            )


if __name__ == "__main__":
    main()
