"""How fast training and evaluation are: this library, a plain PyTorch loop, pythae, JAX, and the machine at its best.

    make bench                                       # some ten minutes; leave the machine alone meanwhile
    python benchmarks/bench.py [--pythae PYTHON] [--jax PYTHON] [--rounds 5] [--small] [--only NAME]

Writes benchmarks/results/bench.json and bench.md. PYTHON is that of an environment that has pythae, or jax and optax.

    training      an epoch of 60,000 examples, 784-400-20-400-784, ReLU, Bernoulli, Adam, batches of 128 and of 1,000
    evaluation    L_1000 of 10,000 examples with the same network, timed on some of them and scaled

Every side is a process of its own, and they take turns. The limit is the floating-point operations that the arithmetic
needs (forward, and twice that backward, less the gradient by x), over the rate at which this machine multiplies large
matrices of float32 in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import allegory as al  # isort: skip, before torch: it sets how long OpenMP's threads spin
import torch
from sides import Elsewhere, Setup, answer, compare, machine, matrix_rate, say
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WIDTH, LATENT, PIXELS = 400, 20, 784
WEIGHTS = PIXELS * WIDTH + WIDTH * 2 * LATENT + LATENT * WIDTH + WIDTH * PIXELS
RESULTS = Path(__file__).with_name("results")


def images(count: int) -> torch.Tensor:
    """(N, 784) binary noise: what the numbers are does not matter for speed."""
    return (torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.13).float()


def network(seed: int = 0) -> al.VAE:
    torch.manual_seed(seed)
    return al.architectures.mlp((PIXELS,), "bernoulli", latent=[LATENT], hidden=[WIDTH], activation="ReLU")


SETTINGS: dict[str, dict[str, Any]] = {
    "allegory, float32": {},
    "allegory, float32, compiled": dict(compile=True),
    "allegory, bfloat16": dict(precision="bfloat16"),
    "allegory, bfloat16, compiled": dict(precision="bfloat16", compile=True),
}


def train(model: al.VAE, x: torch.Tensor, batch: int, settings: dict[str, Any]) -> None:
    """`fit`, with all that it does: clipping, averaged weights, the watch for NaN. It waits before each epoch."""

    def pause(line: dict[str, Any]) -> None:
        answer(line.get("train"))
        sys.stdin.readline() or sys.exit()

    pause({})
    al.fit(model, x, epochs=10**6, batch_size=batch, lr=1e-3, tracker=pause, **settings)


class Plain(nn.Module):
    """The VAE of every tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, PIXELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mu, log_variance = self.encoder(x).chunk(2, -1)
        z = mu + torch.exp(0.5 * log_variance) * torch.randn_like(mu)
        log_px = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        return log_px + 0.5 * (1 + log_variance - mu**2 - log_variance.exp()).sum(-1)


def train_plainly(x: torch.Tensor, batch: int) -> None:
    """A plain loop over a DataLoader."""
    torch.manual_seed(0)
    model = Plain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True)
    answer("ready")
    for _ in sys.stdin:
        total = 0.0
        for (rows,) in loader:
            loss = -model(rows).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        answer(total)


def side(task: str, name: str, count: int, batch: int) -> None:
    """What runs in a process of its own: it answers when it is ready, and once for each line it reads."""
    x = images(count)
    if task == "nll":
        model = network().eval()
        answer("ready")
        for _ in sys.stdin:
            answer(al.log_likelihood(model, x, samples=1000, **SETTINGS[name]).mean().item())
    elif name == "plain loop":
        train_plainly(x, batch)
    else:
        train(network(), x, batch, SETTINGS[name])


def setups(task: str, names: list[str], count: int, batch: int, python: str | None) -> dict[str, Setup]:
    """A process for each side."""

    def setup(name: str) -> Setup:
        if name == "pythae":
            return lambda: Elsewhere(python or "", "pythae_worker.py", task, count, batch)
        return lambda: Elsewhere(sys.executable, "bench.py", "--side", task, name, count, batch)

    return {name: setup(name) for name in [*names, *(["pythae"] if python else [])]}


def jax_setup(python: str, precision: str, count: int, batch: int) -> Setup:
    return lambda: Elsewhere(python, "jax_worker.py", precision, count, batch)


def training(
    count: int, batch: int, precisions: list[str], python: str | None, jax: str | None, rounds: int
) -> dict[str, Any]:
    operations = count * (6 * WEIGHTS - 2 * PIXELS * WIDTH)
    names = [name for name in SETTINGS if any(precision in name for precision in precisions)]
    sides = setups("train", [*names, "plain loop"], count, batch, python)
    if jax:
        sides |= {f"JAX, {precision}": jax_setup(jax, precision, count, batch) for precision in precisions}
    return dict(title=f"training, batch {batch}", operations=operations, sides=compare(sides, rounds))


def evaluation(count: int, python: str | None, rounds: int) -> dict[str, Any]:
    operations = count * 1000 * 2 * (LATENT * WIDTH + WIDTH * PIXELS)
    found = compare(setups("nll", [*SETTINGS], count, 100, python), rounds)
    return dict(title=f"L_1000 of {count:,} examples", operations=operations, sides=found, scale=10_000 / count)


def table(result: dict[str, Any]) -> str:
    """Markdown: seconds and how they compare."""
    lines = [f"### {result['title']}", "", "| side | seconds | least to most | first run | times | of the limit |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    sides = result["sides"]
    base = sides.get("pythae", sides[next(iter(sides))])["median"]
    limit = result["operations"] / result["float32_rate"]
    for name, side in sides.items():
        lines.append(
            f"| {name} | {side['median']:.3f} | {side['least']:.3f} to {side['most']:.3f} | {side['first']:.2f} "
            f"| {base / side['median']:.2f} | {limit / side['median']:.0%} |"
        )
    lines.append(f"| the limit in float32 | {limit:.3f} | | | {base / limit:.2f} | 100% |")
    if "scale" in result:
        lines += ["", f"Of 10,000 examples: {result['scale']:g} times as long."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast training and evaluation are.")
    parser.add_argument("--pythae", metavar="PYTHON", help="the python of an environment that has pythae")
    parser.add_argument("--jax", metavar="PYTHON", help="the python of an environment that has jax and optax")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a few seconds, to see whether it works; writes nothing")
    parser.add_argument("--only", choices=("training", "evaluation"))
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        task, name, *numbers = options.side
        return side(task, name, *map(int, numbers))
    count, some, rounds = (3000, 10, 2) if options.small else (60_000, 200, options.rounds)
    rates = {"float32": matrix_rate(torch.float32), "bfloat16": matrix_rate(torch.bfloat16)}
    say(", ".join(f"{name}: {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    precisions = [name for name, rate in rates.items() if rate > rates["float32"] / 2]  # else it takes minutes an epoch
    if "bfloat16" not in precisions:
        say("bfloat16 is left out of training: this machine has no instructions for it")
    results = []
    if options.only != "evaluation":
        results += [training(count, batch, precisions, options.pythae, options.jax, rounds) for batch in (128, 1000)]
    if options.only != "training":
        results.append(evaluation(some, options.pythae, rounds))
    results = [dict(float32_rate=rates["float32"], rounds=rounds, **result) for result in results]
    path = RESULTS / "bench.json"
    if options.only and not options.small:  # the other part stays as it was
        kept = json.loads(path.read_text())["results"]
        kept = [old for old in kept if old["title"].startswith("L_") == (options.only == "training")]
        results = results + kept if options.only == "training" else kept + results
    about = dict(machine=machine(), matrix_rates=rates)
    written = "\n\n".join(map(table, results))
    print(written)
    if not options.small:
        head = ", ".join(f"{key} {value}" for key, value in about["machine"].items())
        gflops = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
        path.write_text(json.dumps(about | dict(results=results), indent=1) + "\n")
        (RESULTS / "bench.md").write_text(f"{head}; large matrices: {gflops}.\n\n{written}\n")
    return None


if __name__ == "__main__":
    main()
