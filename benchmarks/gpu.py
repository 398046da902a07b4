"""Training on a GPU: examples a second and the share of what it can do, beside a plain loop.

    python benchmarks/gpu.py                         # some ten minutes
    python benchmarks/gpu.py --small --device cpu    # whether it works; writes nothing

    perceptron    784-400-20-400-784 (see bench.py), batches of 128 to 8,192
    ladder        20 levels of convolutions on 28 x 28, about 10 M parameters, batches of 64 and 256

The plain loop has its data on the device, too, and a step that is compiled and waits for nothing. The limit is the
floating-point operations of a step, counted by torch, over the rate at which this device multiplies large matrices.

Not reached yet: this has run in small on a CPU only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from bench import RESULTS, Plain, images, network
from sides import Epochs, Setup, compare, machine, matrix_rate, say
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


def ours(model: al.VAE, x: torch.Tensor, batch: int, **settings: Any) -> Setup:
    def setup() -> Epochs:
        def train(pause: Any) -> Any:
            return al.fit(model, x, epochs=10**6, batch_size=batch, transform=pause, compile=True, **settings)

        return Epochs(train, len(x), batch)

    return setup


def plain(x: torch.Tensor, batch: int, precision: torch.dtype) -> Setup:
    """The loop one would write, with everything on the device."""

    def setup() -> Any:
        torch.manual_seed(0)
        model = Plain().to(x.device)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        on_cpu = x.device.type == "cpu"

        @torch.compile
        def loss(rows: torch.Tensor) -> torch.Tensor:
            with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
                return -model(rows).mean()

        def run() -> None:
            for rows in torch.randperm(len(x), device=x.device).split(batch):
                optimizer.zero_grad()
                loss(x[rows]).backward()
                optimizer.step()
            if not on_cpu:
                torch.cuda.synchronize()

        return run

    return setup


def measure(
    title: str, model: al.VAE, batches: list[int], steps: int, rounds: int, device: str, against: bool
) -> list[dict[str, Any]]:
    """One result a batch size."""
    results = []
    model.to(device)
    each = operations(model, images(16).view(16, *model.generate(1).event_shape).to(device))
    for batch in batches:
        say(f"{title}, batch {batch}")
        x = images(steps * batch).view(steps * batch, *model.generate(1).event_shape).to(device)
        sides = {
            "allegory, bfloat16": ours(model, x, batch, precision="bfloat16"),
            "allegory, float32": ours(model, x, batch),
        }
        if against:
            sides["plain loop, bfloat16"] = plain(x, batch, torch.bfloat16)
        found = compare(sides, rounds)
        for side in found.values():
            side["examples_per_second"] = len(x) / side["median"]
        results.append(dict(title=title, batch=batch, operations_per_example=each, sides=found))
    return results


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
    options = parser.parse_args()
    rate = matrix_rate(torch.bfloat16, device=options.device)
    say(f"bfloat16: {rate / 1e12:.1f} TFLOP/s")
    small = options.small
    results = measure(
        "perceptron", network(), [128] if small else [128, 512, 2048, 8192], 4 if small else 200,
        1 if small else options.rounds, options.device, True,
    )  # fmt: skip
    deep = ladder(2, 8) if small else ladder(20, 120)
    say(f"the ladder has {sum(p.numel() for p in deep.parameters()):,} parameters")
    results += measure(
        "ladder", deep, [16] if small else [64, 256], 2 if small else 50, 1 if small else options.rounds,
        options.device, False,
    )  # fmt: skip
    print(table(results, rate))
    if not small:
        name = torch.cuda.get_device_name()
        about = dict(machine=machine() | dict(device=name), bfloat16_rate=rate, results=results)
        Path(RESULTS / "gpu.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
