"""`cave` at 28x28, T = 2: shadows, their reconstructions, and what else could have thrown an ambiguous one.

    python recipes/cave.py docs/cave.png

Reached, seed 0, 6 minutes of training in bfloat16 on one of two x86-64 cores that other work shared (24 epochs), torch
2.13, scored in float32: on the first 1,000 test shadows -L_200 = 37.05 +- 0.29 nats, ELBO -39.38, rates 8.6 + 9.6. In
the figure z_2 holds place and size, and z_1 ~ p(z_1 | z_2) gives other solids there; below stand real shadows close to
the first one in the latent space, thrown by other kinds of solid. The training is ended by the clock.
"""

import sys

import torch
from matplotlib.figure import Figure

import allegory as al
from allegory.data import cave, load
from allegory.views.figures import expected

MINUTES = 6.0
SHOWN = 8


def ambiguous(shadows: cave.Shadows, codes: torch.Tensor, near: int = 30) -> torch.Tensor:
    """Rows of the shadows whose nearest neighbours in latent space were thrown by the most kinds of solid."""
    neighbours = torch.cdist(codes, codes).topk(near, largest=False).indices
    votes = torch.nn.functional.one_hot(shadows.kind[neighbours], len(cave.KINDS)).float().mean(1)
    entropy = -(votes * votes.clamp(min=1e-9).log()).sum(1)
    return entropy.topk(len(codes)).indices


if __name__ == "__main__":
    data = load("cave")
    torch.manual_seed(0)
    model = al.architectures.mlp(data.event_shape, "bernoulli", latent=[24, 10], hidden=[300, 300], data=data.train)
    record = al.fit(
        model, data.train, valid=data.valid, minutes=MINUTES, batch_size=100, lr=1e-3, lr_warmup=200, kl_warmup=2000,
        precision="auto", progress=True,
    )  # fmt: skip
    torch.manual_seed(0)
    result = al.evaluate(model, data.test[:1000], samples=200)
    print(f"{record.epoch} epochs; 1,000 test shadows: -L_200 {result.nll:.2f} +- {result.nll_stderr:.2f}, ELBO "
          f"{result.elbo:.2f}, rates {[round(rate, 1) for rate in result.kl_per_level]}")  # fmt: skip

    # Fresh shadows with their factors: what a posterior draw looks like, and who throws such shadows.
    shadows = cave.draw(4000, seed=77)
    with torch.no_grad():
        codes = model.encode(shadows.images)[0].mean
        rows = ambiguous(shadows, codes)[: 40 * SHOWN : 40]
        x = shadows.images[rows]
        again = expected(model.reconstruct(x))
        draws = [expected(model.reconstruct(x, level=2)) for _ in range(6)]
    solids = torch.cdist(codes[rows], codes).topk(400, largest=False).indices

    figure = Figure(figsize=(1.15 * SHOWN, 13.5), layout="constrained")
    titles = ["shadow", "reconstruction", *["z_1 ~ p(z_1 | z_2)"] * 6, *["like it, thrown by"] * 4]
    axes = figure.subplots(len(titles), SHOWN)
    for column in range(SHOWN):
        seen, others = {int(shadows.kind[rows[column]])}, []
        for row in solids[column].tolist():  # the nearest shadow of each further kind of solid
            if int(shadows.kind[row]) not in seen:
                seen.add(int(shadows.kind[row]))
                others.append(row)
        pictures = [x[column], again[column], *(draw[column] for draw in draws)]
        names = [cave.KINDS[shadows.kind[rows[column]]], *[""] * 7]
        pictures += [shadows.images[row] for row in others[:4]]
        names += [cave.KINDS[shadows.kind[row]] for row in others[:4]]
        for line, axis in enumerate(axes[:, column]):
            axis.set(xticks=[], yticks=[])
            if line < len(pictures):
                axis.imshow(1 - pictures[line][0], cmap="gray", vmin=0, vmax=1)
                axis.set_title(names[line], fontsize=7, pad=1)
            else:
                axis.axis("off")
            if column == 0:
                axis.set_ylabel(titles[line], fontsize=7, rotation=0, ha="right", va="center")
    figure.savefig(sys.argv[1], dpi=110)
