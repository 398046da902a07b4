"""Why several levels? `binarized-mnist` with T = 1, 2, 3, 5 and 10 levels and equal time.

    for T in 1 2 3 5 10; do python recipes/depth.py $T > recipes/results/depth_$T.json; done
    python recipes/depth.py docs/depth.png

The top is a vector of 32 with a standard normal prior, each level below it a grid of 4 x 7 x 7. The fewer levels, the
more residual blocks each has (3, 3, 2, 1, 1): up to T = 5 the networks are about equally deep, at T = 10 deeper. The
weights are chosen on 5,000 validation images; what is scored is every fifth test image (they are sorted by digit), with
K = 100.

Reached: 87.30, 84.82, 85.58, 85.58 and 89.92, standard error over the images 0.47 (commit 1ded6c1, one thread each,
another training beside; trained and scored in bfloat16).
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from common import reached
from matplotlib import colormaps
from matplotlib.figure import Figure

import allegory as al
from allegory.data import load

MINUTES, SEED = 8, 0
BLOCKS = {1: 3, 2: 3, 3: 2, 5: 1, 10: 1}
RESULTS = Path(__file__).with_name("results")


def train(levels: int) -> None:
    """Prints what T = levels reached."""
    data = load("binarized-mnist")
    torch.manual_seed(SEED)
    model = al.architectures.conv(
        (1, 28, 28), "bernoulli", latent=[*[4] * (levels - 1), 32], scales=[*[4] * (levels - 1), 28], stem=4,
        blocks=BLOCKS[levels], data=data.train,
    )  # fmt: skip
    record = al.fit(
        model, data.train, valid=data.valid[:5000], minutes=MINUTES, batch_size=100, lr=2e-3, lr_warmup=200,
        kl_warmup=2000, ema=0.999, precision="auto", compile="auto", seed=SEED, progress=True,
    )  # fmt: skip
    reached(
        model, [record], data.test[::5], precision="auto", compile="auto", samples=100, recipe="depth", levels=levels
    )


def draw(path: str, recipe: str, depths: Iterable[int], title: str) -> None:
    """A figure of all depths: the bound of each seed, and their mean, and where the rate of the first goes."""
    found = {levels: [*RESULTS.glob(f"{recipe}_{levels}.json"), *sorted(RESULTS.glob(f"{recipe}_{levels}_[0-9].json"))]
             for levels in depths}  # fmt: skip
    seeds = {levels: [json.loads(each.read_text()) for each in paths] for levels, paths in found.items() if paths}
    runs = {levels: of_levels[0] for levels, of_levels in seeds.items()}
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [str(levels) for levels in runs]
    bounds = [[run["test"]["nll"] for run in of_levels] for of_levels in seeds.values()]
    errors = [run["test"]["nll_stderr"] for run in runs.values()]
    left.errorbar(names, [sum(each) / len(each) for each in bounds], errors, marker="o", capsize=3)
    for name, each in zip(names, bounds, strict=True):
        left.plot([name] * len(each), each, ".", color="grey")
    left.set(xlabel="levels T", ylabel="$-L_{100}$, test (nats)", title=title)
    most = max(runs)
    for name, run in zip(names, runs.values(), strict=True):
        base = 0.0
        for t, rate in enumerate(run["test"]["kl_per_level"], start=1):
            colour = colormaps["viridis"]((t - 1) / max(1, most - 1))
            right.bar(name, rate, bottom=base, color=colour, edgecolor="white", label=f"$z_{{{t}}}$")
            base += rate
    handles, labels = right.get_legend_handles_labels()
    by_level = dict(zip(labels, handles, strict=True))
    right.legend(by_level.values(), by_level.keys(), fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    right.set(xlabel="levels T", ylabel="rate (nats)", title="where the information is")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        train(int(sys.argv[1]))
    else:
        draw(sys.argv[1], "depth", BLOCKS, f"{MINUTES} minutes of one core each")
