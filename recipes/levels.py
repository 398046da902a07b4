r"""What each level of a hierarchy does: the figure of the README, from a run of any data of images.

    allegory train binarized-mnist --architecture conv --levels 3 --scales 4,4,28 --prior mixture --components 200 \
        --lr 2e-3 --batch-size 100 --minutes 11 --out runs/levels
    python recipes/levels.py runs/levels docs/levels.png

Each column begins with an image of the test split. Below it, z_1..t are drawn anew from the prior given the levels
above, which are those of the image's posterior: what stays is what the levels above t hold, what changes is what the
levels up to t add.

The figure's run: 6 epochs in 11 minutes of one x86-64 core that other work shared, seed 0, validation bound -95.27;
the training is ended by the clock.
"""

import sys

import torch
from matplotlib.figure import Figure

import allegory as al
from allegory.data import load
from allegory.training.directory import read_config
from allegory.views.figures import expected

SHOWN, DRAWS = 10, 2

if __name__ == "__main__":
    run, out = sys.argv[1:]
    about, model = read_config(run)["data"], al.load(run)
    data = load(about["source"], dynamic=about["dynamic"], seed=about["seed"])
    torch.manual_seed(0)
    x = data.test[torch.randperm(len(data.test))[:SHOWN]]
    rows = [("x", x)]
    with torch.no_grad():
        for level in range(1, model.levels + 2):
            name = "all kept" if level == 1 else "z_1 anew" if level == 2 else f"z_1..z_{level - 1} anew"
            for _ in range(1 if level == 1 else DRAWS):
                law = model.generate(SHOWN) if level > model.levels else model.reconstruct(x, level)
                rows.append((name, expected(law)))
    figure = Figure(figsize=(0.75 * SHOWN + 1.4, 0.75 * len(rows)), layout="constrained")
    for (name, images), axes in zip(rows, figure.subplots(len(rows), SHOWN), strict=True):
        for image, axis in zip(images, axes, strict=True):
            axis.imshow(image[0], cmap="gray_r", vmin=about["range"][0], vmax=about["range"][1])
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(out, dpi=90)
