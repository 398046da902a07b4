"""How cost grows with the levels, the latents' width, K, the image's side and the number of examples.

    python benchmarks/growth.py [--small]           # some ten minutes; leave the machine alone meanwhile

Seconds are the least of several runs, each in turn; memory is the peak of a process of its own, less what importing
takes. The exponent is the slope of log cost against log size over the larger half: 1 is linear. Writes
benchmarks/results/growth.json, .md and .png.

    levels      a step of 16 images 32 x 32 x 3, ladder of T levels of 32 channels; memory, also with checkpointing
    width       a step of 128 images 28 x 28, perceptron 784-400-D
    particles   L_K of 20 images 28 x 28, perceptron 784-400-20; and memory
    side        a step of 16 images, ladder of 4 levels
    examples    an epoch of N examples of 64 bytes, perceptron 64-64-8, batches of 1,000; up to a million in memory, and
                all read from a memory-mapped file; memory
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sides import machine, say

import allegory as al
from allegory.data.stored import Mapped, Stored

RESULTS = Path(__file__).with_name("results")
SIZES: dict[str, list[int]] = {
    "levels": [1, 2, 5, 10, 20, 50],
    "width": [8, 32, 128, 512, 2048],
    "particles": [1, 10, 100, 1000, 10_000],
    "side": [28, 40, 52, 64],
    "examples": [10**3, 10**4, 10**5, 10**6, 10**7],
}


def step(model: al.VAE, x: torch.Tensor, repeats: int = 5) -> float:
    """Seconds of forward, backward and AdamW's step."""
    optimizer, least = torch.optim.AdamW(model.parameters(), 1e-4, fused=True), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        optimizer.zero_grad()
        (-al.elbo(model(x)).mean()).backward()
        optimizer.step()
        least = min(least, time.perf_counter() - began)
    return least


def ladder(levels: int, side: int = 32, checkpointed: bool = False) -> tuple[al.VAE, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randint(256, (16, 3, side, side)).float()
    scales = sorted([4, 4, 2, 2][t % 4] for t in range(levels)) if side % 4 == 0 else None
    model = al.architectures.conv(
        (3, side, side), latent=[4] * levels, scales=scales, stem=2, channels=32, blocks=1, checkpointed=checkpointed
    )
    return model, x


def perceptron(pixels: int, hidden: int, latent: int) -> al.VAE:
    torch.manual_seed(0)
    return al.architectures.mlp((pixels,), "bernoulli", latent=[latent], hidden=[hidden])


def bits(count: int, pixels: int) -> torch.Tensor:
    return (torch.rand(count, pixels, generator=torch.Generator().manual_seed(0)) < 0.2).float()


def epoch(x: Any) -> float:
    """Seconds an epoch: of three less one, which has the setting up."""
    times = []
    for epochs in (1, 1, 3):
        model, began = perceptron(64, 64, 8), time.perf_counter()
        al.fit(model, x, epochs=epochs, batch_size=1000)
        times.append(time.perf_counter() - began)
    return max(1e-6, times[2] - times[1]) / 2


def file(folder: str, count: int) -> str:
    """A file of that many examples of 64 bytes."""
    path = f"{folder}/{count}.npy"
    if not Path(path).exists():
        array = np.lib.format.open_memmap(path, mode="w+", dtype="u1", shape=(count, 64))
        for start in range(0, count, 10**5):
            array[start : start + 10**5] = bits(min(10**5, count - start), 64).numpy()
        array.flush()
    return path


def measure(what: str, size: int, folder: str, repeats: int = 3) -> float:
    """Seconds."""
    if what == "levels":
        return step(*ladder(size))
    if what == "side":
        return step(*ladder(4, size))
    if what == "width":
        return step(perceptron(784, 400, size), bits(128, 784), 20)
    if what == "examples in memory":
        return epoch(torch.from_numpy(np.load(file(folder, size))).float())
    if what == "examples":
        return epoch(Stored(Mapped(np.load(file(folder, size), mmap_mode="r"))))
    model, x, least = perceptron(784, 400, 20), bits(20, 784), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        al.log_likelihood(model, x, samples=size)
        least = min(least, time.perf_counter() - began)
    return least


def memory(what: str, size: int, folder: str) -> float:
    """Peak megabytes of a process that does it once, less what it has after importing."""
    command = [sys.executable, __file__, "--memory", what, str(size), folder]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def in_memory_of_its_own(what: str, size: int, folder: str) -> None:
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    if what.startswith("levels"):
        step(*ladder(size, checkpointed="checkpointed" in what), repeats=2)
    else:
        measure(what, size, folder, 1)
    print(held("VmHWM") - before)


def held(what: str) -> float:
    """Megabytes of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of log cost against log size, over the larger half."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def draw(seconds: dict[str, dict[int, float]], slopes: dict[str, float]) -> Figure:
    """Cost against size, a panel each."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axes, (what, found) in zip(figure.subplots(2, 3).flat, seconds.items(), strict=True):
        axes.loglog(list(found), list(found.values()), marker="o")
        axes.set_xticks(
            list(found),
            [f"{size:,}" if size < 10**5 else f"$10^{{{len(str(size)) - 1}}}$" for size in found],
            fontsize=8,
        )
        ends = [min(found.values()), max(found.values())]
        axes.set_yticks(ends, [f"{value:.3g}" for value in ends])
        axes.minorticks_off()
        axes.set_title(f"{what}: exponent {slopes[what]:.2f}", fontsize=10)
        axes.set_ylabel("seconds")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="How cost grows.")
    parser.add_argument("--small", action="store_true", help="to see whether it works; writes nothing")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        return in_memory_of_its_own(options.memory[0], int(options.memory[1]), options.memory[2])
    sizes = {what: values[:3] if options.small else values for what, values in SIZES.items()}
    sizes["examples in memory"] = sizes["examples"][:-1] if not options.small else sizes["examples"]
    seconds: dict[str, dict[int, float]] = {what: {} for what in sizes}
    peaks: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, values in sizes.items():
            for size in values:
                seconds[what][size] = measure(what, size, folder)
            say(f"{what}: " + ", ".join(f"{size:,}: {value:.4f} s" for size, value in seconds[what].items()))
        for what in ("levels", "levels, checkpointed", "particles", "examples"):
            values = sizes[what.split(",")[0]]
            peaks[what] = {size: memory(what, size, folder) for size in (values[len(values) // 2], values[-1])}
            say(f"{what}: " + ", ".join(f"{size:,}: {value:.0f} MB" for size, value in peaks[what].items()))
    lines = ["| what | sizes | seconds | exponent |", "| --- | --- | --- | --- |"]
    slopes = {what: exponent(list(found), list(found.values())) for what, found in seconds.items()}
    for what, found in seconds.items():
        written = ", ".join(f"{value:.3g}" for value in found.values())
        lines.append(f"| {what} | {', '.join(f'{size:,}' for size in found)} | {written} | {slopes[what]:.2f} |")
    lines += ["", "| what | peak memory, MB |", "| --- | --- |"]
    for what, found in peaks.items():
        lines.append(f"| {what} | {', '.join(f'{size:,}: {value:.0f}' for size, value in found.items())} |")
    print("\n".join(lines))
    if options.small:
        return None
    draw(seconds, slopes).savefig(RESULTS / "growth.png", dpi=150)
    about = dict(machine=machine(), seconds=seconds, exponents=slopes, memory=peaks)
    (RESULTS / "growth.json").write_text(json.dumps(about, indent=1) + "\n")
    head = ", ".join(f"{key} {value}" for key, value in about["machine"].items())
    (RESULTS / "growth.md").write_text("\n".join([head + ".", "", *lines]) + "\n")
    return None


if __name__ == "__main__":
    main()
