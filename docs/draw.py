"""The figures of the course: `python docs/draw.py` writes docs/figures, in a minute.

Their words are symbols and names that both languages use.
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

import allegory as al
from allegory.data import cave, load
from allegory.views.figures import expected

FIGURES = Path(__file__).with_name("figures")


def panels(count: int, width: float = 9, height: float = 3.4) -> tuple[Figure, list]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count))


def shadows() -> Figure:
    """Chapter 1: shadows, and what else a place and a size allow."""
    shown = cave.draw(8, seed=3)
    place = [value[2:3].expand(1000, *value.shape[1:]) for value in (shown.position, shown.size, shown.light)]
    others = cave.draw(1000, seed=1)
    images = cave.cast(others.kind, others.rotation, *place, resolution=28).float()
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    rows = [shown.images, torch.cat([images[:7], images.mean(0, keepdim=True)])]
    for axis, image in zip(figure.subplots(2, 8).flat, torch.cat(rows), strict=True):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def plain() -> Figure:
    """Chapter 2: where the digits are in latent space, and what the decoder makes of that space."""
    torch.manual_seed(0)
    digits = load("digits")
    model = al.architectures.mlp((1, 8, 8), "categorical", latent=[2], hidden=[128], categories=17, data=digits.train)
    al.fit(model, digits.train, valid=digits.valid, epochs=60, batch_size=100, lr=3e-3)
    scans, labels = load_digits(return_X_y=True)
    label_of = {bytes(scan.astype(int).tolist()): label for scan, label in zip(scans, labels, strict=True)}
    names = [label_of[bytes(x.flatten().int().tolist())] for x in digits.train]
    figure, (left, right) = panels(2, width=9, height=4.3)
    with torch.no_grad():
        mean = model.encode(digits.train)[0].mean
        at = torch.linspace(-2.5, 2.5, 9)
        z = torch.cartesian_prod(at.flip(0), at).flip(1)  # z_2 upwards, z_1 to the right
        images = expected(model.decode(z))[:, 0].view(9, 9, 8, 8)
    dots = left.scatter(*mean.T, c=names, cmap="tab10", s=6)
    for share in (0.5, 0.9, 0.99):
        left.add_patch(Circle((0, 0), math.sqrt(-2 * math.log(1 - share)), fill=False, linestyle=":"))
    figure.colorbar(dots, ax=left, ticks=range(10))
    left.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
    tiles = torch.nn.functional.pad(images, (1, 1, 1, 1), value=16.0)
    right.imshow(tiles.permute(0, 2, 1, 3).reshape(90, 90), cmap="gray", extent=(-2.8, 2.8, -2.8, 2.8))
    right.set(xlabel="$z_1$", ylabel="$z_2$")
    return figure


def likelihoods() -> Figure:
    """Chapter 3: what squared error assumes, and what binary cross-entropy of greys integrates to."""
    figure, (left, right) = panels(2)
    weights = torch.logspace(-1, 5, 50)
    for elements, name in ((784, "mean"), (1, "sum")):
        left.plot(weights, [al.families.implied_sigma(w, elements=elements) for w in weights.tolist()], label=name)
    left.axhspan(0.05, 0.3, color="0.9")
    left.set(xlabel="w", ylabel=r"$\sigma$", xscale="log", yscale="log")
    left.legend()
    grid, logits = torch.linspace(0, 1, 2001), torch.linspace(-8, 8, 81)
    entropy = -torch.nn.functional.softplus(-logits[:, None]) * grid - torch.nn.functional.softplus(logits[:, None]) * (
        1 - grid
    )
    right.plot(logits, torch.trapezoid(entropy.exp(), grid), label=r"$p^x (1-p)^{1-x}$")
    law = al.families.continuous_bernoulli(logits[:, None].clone())
    density = torch.stack([law.log_prob(x.expand(81, 1)) for x in grid], 1).exp()
    right.plot(logits, torch.trapezoid(density, grid), label=r"$C(p)\, p^x (1-p)^{1-x}$")
    right.set(xlabel="logit p", ylabel=r"$\int_0^1 dx$", ylim=(0, 1.1))
    right.legend()
    return figure


def dimensions() -> Figure:
    """Chapter 4: what a dimension costs, and what the dimensions of a model of digits do."""
    figure, (left, right) = panels(2)
    mu = torch.linspace(-3, 3, 200)
    for sigma in (1.0, 0.5, 0.2, 0.05):
        left.plot(mu, 0.5 * (mu**2 + sigma**2 - 1) - torch.tensor(sigma).log(), label=rf"$\sigma = {sigma:g}$")
    left.set(xlabel=r"$\mu$", ylabel=r"KL($\mathcal{N}(\mu, \sigma^2)$ || $\mathcal{N}(0, 1)$), nats")
    left.legend()
    torch.manual_seed(0)
    digits = load("digits")
    model = al.architectures.mlp((1, 8, 8), "categorical", latent=[40], hidden=[128], categories=17, data=digits.train)
    al.fit(model, digits.train, valid=digits.valid, epochs=60, batch_size=100, lr=3e-3)
    q = model.encode(digits.test)[0].base_dist
    rates = kl_divergence(q, Normal(torch.zeros(40), torch.ones(40))).mean(0).sort(descending=True).values.detach()
    right.bar(range(1, 41), rates, label="nats")
    right.plot(range(1, 41), rates.cumsum(0) / rates.sum(), "k.-", label="cumulative, of 1")
    right.set(xlabel="dimension, sorted", ylabel="rate")
    right.legend()
    return figure


class Exact(nn.Module):
    """p(z | x) of the linear-Gaussian model x = w z + noise, its scale multiplied by `stretch`, its mean shifted."""

    def __init__(self, w: torch.Tensor, sigma: float, stretch: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.w, self.sigma, self.stretch, self.shift = w, sigma, stretch, shift

    def forward(self, x: torch.Tensor) -> Distribution:
        variance = 1 / (1 + self.w @ self.w / self.sigma**2)
        mean = variance * (x @ self.w) / self.sigma**2
        return Independent(Normal(mean[..., None] + self.shift, self.stretch * variance.sqrt()), 1)


class Linear(nn.Module):
    """p(x | z) = N(w z, sigma^2)."""

    def __init__(self, w: torch.Tensor, sigma: float) -> None:
        super().__init__()
        self.w, self.sigma = w, sigma

    def forward(self, z: torch.Tensor) -> Distribution:
        return Independent(Normal(z * self.w, self.sigma), 1)


def bounds() -> Figure:
    """Chapter 5: the bounds of a model whose likelihood is known, against how wrong the posterior is."""
    torch.manual_seed(0)
    w, sigma = torch.randn(5), 0.7
    evidence = MultivariateNormal(torch.zeros(5), w[:, None] * w + sigma**2 * torch.eye(5))
    x = evidence.sample((2000,))
    truth = evidence.log_prob(x).mean()
    figure, (left, right) = panels(2)
    stretches = [2**e for e in torch.linspace(-2.5, 1.5, 25).tolist()]
    shifts = torch.linspace(-0.6, 0.6, 25).tolist()
    for axis, settings, at in (
        (left, [dict(stretch=s) for s in stretches], stretches),
        (right, [dict(shift=s) for s in shifts], shifts),
    ):
        axis.axhline(truth, color="k", label=r"$\log p(x)$")
        for k in (1, 10, 100):
            values = []
            for wrong in settings:
                model = al.VAE(al.StandardNormal(1), Exact(w, sigma, **wrong), Linear(w, sigma))
                torch.manual_seed(1)
                with torch.no_grad():
                    trace = model(x, samples=100 if k == 1 else k)
                    values.append((al.elbo(trace) if k == 1 else al.iwae(trace)).mean())
            axis.plot(at, values, label="ELBO" if k == 1 else rf"$L_{{{k}}}$")
        axis.set(ylabel="nats", ylim=(truth - 3, truth + 0.3))
    left.set(xlabel=r"$\sigma_q / \sigma_{p(z|x)}$", xscale="log")
    left.set_xticks([0.25, 0.5, 1, 2], ["1/4", "1/2", "1", "2"])
    left.minorticks_off()
    right.set(xlabel=r"$\mu_q - \mu_{p(z|x)}$")
    left.legend(loc="lower center")
    return figure


def graphs() -> Figure:
    """Chapter 6: the chain that generates, and the two ways to infer, for T = 3."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    down, up, skip = [(3, 2), (2, 1), (1, 0)], [(0, 1), (1, 2), (2, 3)], [(0, 1), (0, 2), (0, 3)]
    drawn = (
        (r"$p(z_3)\,p(z_2|z_3)\,p(z_1|z_2)\,p(x|z_1)$", down),
        (r"$q(z_1|x)\,q(z_2|z_1)\,q(z_3|z_2)$", up),
        (r"$q(z_3|x)\,q(z_2|z_3,x)\,q(z_1|z_2,x)$", [*down[:2], *skip]),
    )
    for axis, (name, arrows) in zip(figure.subplots(1, 3), drawn, strict=True):
        axis.set(title=name, xlim=(-1.6, 1.6), ylim=(-0.5, 3.5), aspect="equal")
        axis.axis("off")
        for t in range(4):
            axis.add_patch(Circle((0, t), 0.3, facecolor="0.85" if t == 0 else "white", edgecolor="k", zorder=2))
            axis.text(0, t, "$x$" if t == 0 else f"$z_{t}$", ha="center", va="center", fontsize=13, zorder=3)
        for a, b in arrows:
            far = abs(a - b) > 1 or (a == 0 and len(arrows) > 3)
            style = f"arc3,rad={0.25 + 0.1 * abs(a - b)}" if far else "arc3"
            start, end = ((0.1, a), (0.1, b)) if far else ((0, a), (0, b))
            axis.annotate(
                "", end, start,
                arrowprops=dict(arrowstyle="-|>", color="k", shrinkA=19, shrinkB=19, connectionstyle=style),
            )  # fmt: skip
    return figure


def mixture(law: Distribution, z: torch.Tensor) -> torch.Tensor:
    """The log-density of as many equally likely components as `law` has rows."""
    log_p = law.log_prob(z[:, None])
    return log_p.logsumexp(1) - math.log(log_p.shape[1])


def misfit() -> Figure:
    """Chapter 6: the codes of level 1, what a standard normal and what a second level offer, and the bill in nats."""
    torch.manual_seed(0)
    angle = torch.linspace(0, 1.5 * math.pi, 400)
    frame, noise = torch.linalg.qr(torch.randn(10, 2))[0], 0.3
    arc = 3 * torch.stack([angle.cos(), angle.sin()], 1) @ frame.T
    train, test = (arc[torch.randint(400, (4000,))] + noise * torch.randn(4000, 10) for _ in range(2))
    one = al.VAE(
        al.StandardNormal(2),
        al.Conditional(nn.Linear(10, 2), al.families.normal_per_dimension(2)),
        al.Conditional(nn.Linear(2, 10), al.families.normal_shared()),
    )
    al.fit(one, train, epochs=10, batch_size=400, lr=0.05)
    with torch.no_grad():
        codes = one.encode(train)[0].sample((2,)).flatten(0, 1)
    two = al.architectures.mlp((2,), "normal", latent=[2], hidden=[64], data=codes)
    al.fit(two, codes, epochs=100, batch_size=400, lr=0.01)
    read = one.encoders[0].network
    with torch.no_grad():
        torch.manual_seed(1)
        q = one.encode(test)[0]
        z, spread = q.sample(), noise**2 * read.weight @ read.weight.T + q.variance[0].diag()
        log_q, log_p = mixture(MultivariateNormal(read(arc), spread), z), one.prior().log_prob(z)
        log_p2, bound = al.log_likelihood(two, z, samples=100), al.elbo(two(z, samples=20))
        offered = two.sample(2000)
    figure, (left, middle, right) = panels(3, height=3.2)
    for axis, dots in ((left, z[:2000]), (middle, offered)):
        axis.scatter(*dots.T, s=3, linewidth=0)
        for share in (0.5, 0.9, 0.99):
            axis.add_patch(Circle((0, 0), math.sqrt(-2 * math.log(1 - share)), fill=False, linestyle=":"))
        axis.set(xlabel="$z_{1,1}$", ylabel="$z_{1,2}$", aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4))
    left.set(title="$q(z_1)$")
    middle.set(title="$p_2(z_1)$")
    before, after, gap = ((a - b).mean().item() for a, b in ((log_q, log_p), (log_q, log_p2), (log_p2, bound)))
    right.bar(["T = 1"], [before], label=r"KL($q(z_1)\,\|\,p(z_1)$)")
    right.bar(["T = 2"], [after], label=r"KL($q(z_1)\,\|\,p_2(z_1)$)")
    right.bar(["T = 2"], [gap], bottom=[after], label=r"$\mathbb{E}$ KL($q(z_2|z_1)\,\|\,p_2(z_2|z_1)$)")
    right.set(ylabel="nats", ylim=(0, 1.6 * before))
    right.legend(fontsize="small")
    return figure


class Other(nn.Module):
    """A trained encoder with another spread."""

    def __init__(self, encoder: nn.Module, factor: float) -> None:
        super().__init__()
        self.encoder, self.factor = encoder, factor

    def forward(self, x: torch.Tensor) -> Distribution:
        q = self.encoder(x).base_dist
        return Independent(Normal(q.loc, self.factor * q.scale), 1)


class Blind(nn.Module):
    """The prior as an encoder."""

    def forward(self, x: torch.Tensor) -> Distribution:
        return Independent(Normal(torch.zeros(len(x), 1), 1.0), 1)


def curves() -> Figure:
    """Chapter 7: the bound against K for three encoders of one decoder."""
    torch.manual_seed(0)
    decoder = al.Conditional(nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20)), al.families.bernoulli)
    encoder = al.Conditional(nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 2)), al.families.normal)
    model = al.VAE(al.StandardNormal(1), encoder, decoder)
    for parameter in decoder.parameters():
        parameter.data.mul_(5)
    x = model.sample(500)
    al.fit(model, x, epochs=60, batch_size=50, lr=0.01)
    z = torch.linspace(-8, 8, 4001)
    with torch.no_grad():
        log_joint = decoder(z.view(-1, 1, 1)).log_prob(x) + Normal(0.0, 1.0).log_prob(z)[:, None]
        truth = (log_joint.logsumexp(0) + (z[1] - z[0]).log()).mean()
    figure, (left, right) = panels(2)
    left.axhline(truth, color="k", label=r"$\log p(x)$")
    names = (r"$q(z|x)$", r"$q(z|x), \sigma / 4$", r"$p(z)$")
    for name, other in zip(names, (encoder, Other(encoder, 0.25), Blind()), strict=True):
        wrong = al.VAE(al.StandardNormal(1), other, decoder)
        torch.manual_seed(1)
        curve = al.bound_curve(wrong, x, samples=1000)
        left.plot([k for k, *_ in curve], [bound for _, bound, _ in curve], ".-", label=name)
        sizes = [(k, al.evaluate(wrong, x, samples=k).effective_sample_size) for k in (2, 10, 100, 1000)]
        right.plot(*zip(*sizes, strict=True), ".-", label=name)
    right.plot([1, 1000], [1, 1000], "k:")
    left.set(xlabel="K", ylabel=r"$L_K$, nats", xscale="log", ylim=(truth - 1.5, truth + 0.1))
    right.set(xlabel="K", ylabel="ESS", xscale="log", yscale="log")
    left.legend()
    return figure


PEAKS, WIDTH = torch.tensor([-1.0, 1.0]), 0.2


class Noisier(nn.Module):
    """q(z_t | z_{t-1}), fixed."""

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.a = a

    def forward(self, z: torch.Tensor) -> Distribution:
        return Independent(Normal(self.a.sqrt() * z, (1 - self.a).sqrt()), 1)


class Cleaner(nn.Module):
    """The normal with the moments of q(z_{t-1} | z_t), for data of two peaks."""

    def __init__(self, before: torch.Tensor, a: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.variance, self.a = before.sqrt() * PEAKS, before * WIDTH**2 + 1 - before, a

    def forward(self, z: torch.Tensor) -> Distribution:
        total = self.a * self.variance + 1 - self.a
        which = Normal(self.a.sqrt() * self.mean, total.sqrt()).log_prob(z).softmax(-1)
        means = self.mean + self.variance * self.a.sqrt() / total * (z - self.a.sqrt() * self.mean)
        mean = (which * means).sum(-1, keepdim=True)
        spread = (which * (means - mean) ** 2).sum(-1, keepdim=True)
        return Independent(Normal(mean, (spread + self.variance * (1 - self.a) / total).sqrt()), 1)


def diffusion(levels: int) -> al.VAE:
    log_snr = torch.linspace(7, -7, levels)
    kept = torch.cat([torch.ones(1), log_snr.sigmoid()])
    a = kept[1:] / kept[:-1]
    cleaners = [Cleaner(*pair) for pair in zip(kept, a, strict=False)]
    return al.VAE(al.StandardNormal(1), [Noisier(a_t) for a_t in a], cleaners)


@torch.no_grad()
def infinity() -> Figure:
    """Chapter 8: the gap of a chain with a fixed encoder, and what it does."""
    torch.manual_seed(0)
    data = MixtureSameFamily(Categorical(torch.ones(2)), Normal(PEAKS, WIDTH))
    x = data.sample((20_000, 1))
    truth, depths = data.log_prob(x).squeeze(1), [2, 4, 8, 16, 32, 64, 128]
    gaps = [(truth - diffusion(levels)(x).log_weight[0]).mean() for levels in depths]
    figure, (left, right) = panels(2)
    left.plot(depths, gaps, ".-")
    left.set(xlabel="T", ylabel=r"$\log p(x)$ - ELBO, nats", xscale="log", yscale="log")
    left.set_xticks(depths, depths)
    left.minorticks_off()
    levels = 64
    model = diffusion(levels)
    clouds = torch.stack([x[:, 0], *(z[0, :, 0] for z in model(x).latents)])
    density = torch.stack([torch.histc(cloud, 160, -3.2, 3.2) for cloud in clouds])
    right.imshow(density.T, origin="lower", aspect="auto", extent=(0, levels, -3.2, 3.2), cmap="Greys")
    walk = [torch.randn(60, 1)]
    for decoder in reversed(model.decoders):
        walk.insert(0, decoder(walk[0]).sample())
    right.plot(range(levels + 1), torch.cat(walk, 1).T, color="C0", alpha=0.35, linewidth=0.7)
    right.set(xlabel="t", ylabel="$z_t$", ylim=(-3.2, 3.2))
    return figure


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    for draw in (shadows, plain, likelihoods, dimensions, bounds, graphs, misfit, curves, infinity):
        draw().savefig(FIGURES / f"{draw.__name__}.png", dpi=110)
