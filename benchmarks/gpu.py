"""Training on a GPU: examples a second and the share of what it can do, beside a plain loop.

    python benchmarks/gpu.py                         # some ten minutes
    python benchmarks/gpu.py --small --device cpu    # whether it works; writes nothing

    perceptron    784-400-20-400-784 (see bench.py), batches of 128 to 8,192
    ladder        20 levels of convolutions on 28 x 28, about 10 M parameters, batches of 64 and 256

The plain loop has its data on the device, too, and a step that is compiled and waits for nothing. The limit is the
floating-point operations of a step, counted by torch, over the rate at which this device multiplies large matrices.

Every side is a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from bench import RESULTS, Plain, images, network, train
from sides import Elsewhere, Setup, answer, compare, machine, matrix_rate, say
from torch.utils.flop_counter import FlopCounterMode

import allegory as al


def ladder(levels: int, channels: int) -> al.VAE:
    """Grids of 7 x 7 below a vector; 20 levels of 120 channels have about 10 M parameters."""
    torch.manual_seed(0)
    grids = levels - 1
    return al.architectures.conv(
        (1, 28, 28), "bernoulli", [4] * grids + [32], [4] * grids + [28], stem=4, channels=channels, blocks=2
    )


def operations(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Floating-point operations of one step, forward and backward, an example."""
    with FlopCounterMode(display=False) as counter:
        al.elbo(model(x), 1.0).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / len(x)


MODELS = {"perceptron": network, "ladder": lambda: ladder(20, 120), "small ladder": lambda: ladder(2, 8)}
SETTINGS: dict[str, dict[str, Any]] = {
    "allegory, bfloat16": dict(precision="bfloat16", compile=True),
    "allegory, float32": dict(compile=True),
}


def examples(model: torch.nn.Module, count: int) -> torch.Tensor:
    """(N, *event) as the model takes them."""
    return images(count).view(count, *model.generate(1).event_shape)


def train_plainly(x: torch.Tensor, batch: int) -> None:
    """The loop one would write, in bfloat16, with everything on the device."""
    torch.manual_seed(0)
    model = Plain().to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    @torch.compile
    def loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return -model(rows).mean()

    answer("ready")
    for _ in sys.stdin:
        for rows in torch.randperm(len(x), device=x.device).split(batch):
            optimizer.zero_grad()
            value = loss(x[rows])
            value.backward()
            optimizer.step()
        answer(value.item())  # waits for the device


def side(title: str, name: str, batch: int, steps: int, device: str) -> None:
    """What runs in a process of its own: an epoch for each line it reads."""
    model = MODELS[title]()
    x = examples(model, steps * batch).to(device)
    if name in SETTINGS:
        train(model.to(device), x, batch, SETTINGS[name])
    else:
        train_plainly(x, batch)


def measure(
    title: str, batches: list[int], steps: int, rounds: int, device: str, against: bool
) -> list[dict[str, Any]]:
    """One result a batch size."""
    model, results = MODELS[title](), []
    each = operations(model, examples(model, 16))
    for batch in batches:
        say(f"{title}, batch {batch}")
        names = [*SETTINGS, *(["plain loop, bfloat16"] if against else [])]
        found = compare({name: elsewhere(title, name, batch, steps, device) for name in names}, rounds)
        for one in found.values():
            one["examples_per_second"] = steps * batch / one["median"]
        results.append(dict(title=title, batch=batch, operations_per_example=each, sides=found))
    return results


def elsewhere(*arguments: Any) -> Setup:
    return lambda: Elsewhere(sys.executable, "gpu.py", "--side", *arguments)


def table(results: list[dict[str, Any]], rate: float) -> str:
    """Markdown: examples a second."""
    lines = [
        "| | batch | side | examples a second | of the limit | first run, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for name, side in result["sides"].items():
            speed = side["examples_per_second"]
            share = speed * result["operations_per_example"] / rate
            row = (
                result["title"],
                f"{result['batch']:,}",
                name,
                f"{speed:,.0f}",
                f"{share:.1%}",
                f"{side['first']:.1f}",
            )
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training on a GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a minute or two, to see whether it works; writes nothing")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        title, name, batch, steps, device = options.side
        return side(title, name, int(batch), int(steps), device)
    rate = matrix_rate(torch.bfloat16, device=options.device)
    say(f"bfloat16: {rate / 1e12:.1f} TFLOP/s")
    small = options.small
    rounds = 1 if small else options.rounds
    results = measure("perceptron", [128] if small else [128, 512, 2048, 8192], 4 if small else 200, rounds,
                      options.device, True)  # fmt: skip
    deep = "small ladder" if small else "ladder"
    say(f"the ladder has {sum(p.numel() for p in MODELS[deep]().parameters()):,} parameters")
    results += measure(deep, [16] if small else [64, 256], 2 if small else 50, rounds, options.device, False)
    print(table(results, rate))
    if not small:
        name = torch.cuda.get_device_name()
        about = dict(machine=machine() | dict(device=name), bfloat16_rate=rate, results=results)
        Path(RESULTS / "gpu.json").write_text(json.dumps(about, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
