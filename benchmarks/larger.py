"""Sets that are larger than memory: how fast they are trained on, and that memory stays bounded.

    python benchmarks/larger.py [--small]           # some ten minutes; leave the machine alone meanwhile

    rate        examples a second, 784-400-20-400-784, batches of 128 and of 1,000: 400,000 images of 784 bytes in
                memory, and read from a .npy file, of which the system's cache has all, or none when an epoch begins
    limit       a process that may hold 512 MB beyond what it has after importing and a training on 1,000 examples: it
                is given a .npy file of ten times as much, then a folder of PNG images that have as much when decoded
                (96 x 96 x 3), neither in the cache. It trains for an epoch, and fails when it is to load the file.

Unix alone: the limit is RLIMIT_DATA. Writes benchmarks/results/larger.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sides import Epochs, Setup, compare, machine, say

import allegory as al
from allegory import files
from allegory.stored import Mapped, Pictures, Stored

PIXELS, SIDE, MIB = 784, 96, 2**20
RESULTS = Path(__file__).with_name("results")


def perceptron(shape: tuple[int, ...] = (PIXELS,)) -> al.VAE:
    torch.manual_seed(0)
    likelihood = "bernoulli" if shape == (PIXELS,) else "normal_shared"
    return al.architectures.mlp(shape, likelihood, latent=[20], hidden=[400], activation="ReLU")


def array_file(path: Path, count: int) -> Path:
    array = np.lib.format.open_memmap(path, mode="w+", dtype="u1", shape=(count, PIXELS))
    part = (np.random.default_rng(0).random((20_000, PIXELS)) < 0.13).astype("u1")
    for start in range(0, count, len(part)):
        array[start : start + len(part)] = part[: count - start]
    array.flush()
    return path


def folder_of_images(path: Path, count: int) -> Path:
    path.mkdir()
    smooth = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3)).astype("u1").repeat(8, 1).repeat(8, 2)
    for i in range(count):
        Image.fromarray(smooth[i % 64]).save(path / f"{i:06}.png")
    return path


def mapped(path: Path) -> Stored:
    return Stored(Mapped(np.load(path, mmap_mode="r")))


def forget(path: Path) -> None:
    """Takes a file, or those of a folder, out of the system's cache."""

    def one(file: Path) -> None:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, path.iterdir() if path.is_dir() else [path]))


def rates(path: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Examples a second of each side."""
    count = len(mapped(path))

    def training(data: Any, before: Callable[[], None]) -> Setup:
        def setup() -> Any:
            def fit(pause: Any) -> Any:
                return al.fit(perceptron(), data(), epochs=10**6, batch_size=batch, transform=pause)

            epochs = Epochs(fit, count, batch)

            def run() -> None:
                before()
                epochs()

            return run

        return setup

    sides = {
        "in memory": training(lambda: torch.from_numpy(np.load(path)).float(), lambda: None),
        "a file, in the cache": training(lambda: mapped(path), lambda: None),
        "a file, not in the cache": training(lambda: mapped(path), lambda: forget(path)),
    }
    found = compare(sides, rounds)
    return {name: side | dict(rate=count / side["median"]) for name, side in found.items()}


def limited(path: Path, allowed: int) -> dict[str, Any]:
    """What a process says that may hold so many bytes more."""
    command = [sys.executable, __file__, "--limited", str(path), str(allowed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def in_a_process_of_its_own(path: Path, allowed: int) -> None:
    import resource

    def held(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

    shape = (3, SIDE, SIDE) if path.is_dir() else (PIXELS,)
    al.fit(perceptron(shape), torch.rand(1000, *shape).round(), epochs=1, batch_size=500)
    base, resident = held("VmData"), held("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (base + allowed,) * 2)
    if path.is_dir():
        names = sorted(path.iterdir())
        data = Stored(Pictures(names, files._read_image, shape))
    else:
        data = mapped(path)
    began, first = 0.0, True

    def look(x: torch.Tensor) -> torch.Tensor:
        """Counts from the first batch on: what is before is fit's look at all of the data."""
        nonlocal began, first
        if len(x) <= 500 and first:
            began, first = time.perf_counter(), False
        return x

    asked = time.perf_counter()
    forget(path)
    record = al.fit(perceptron(shape), data, epochs=1, batch_size=500, transform=look)
    ended = time.perf_counter()
    peak, whole = held("VmHWM") - resident, "loaded"
    try:
        np.load(path) if path.is_file() else torch.empty(len(data), *shape, dtype=torch.uint8)
    except (MemoryError, RuntimeError) as error:
        whole = type(error).__name__
    told = dict(examples=len(data), bytes=int(np.prod(data.shape)), allowed=allowed, peak=peak, whole=whole)
    print(json.dumps(told | dict(look=began - asked, rate=len(data) / (ended - began), steps=record.step)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Sets that are larger than memory.")
    parser.add_argument("--small", action="store_true", help="to see whether it works; writes nothing")
    parser.add_argument("--limited", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.limited:
        return in_a_process_of_its_own(Path(options.limited[0]), int(options.limited[1]))
    count, allowed, rounds = (20_000, 320 * MIB, 1) if options.small else (400_000, 512 * MIB, 3)
    lines, found = ["| batch | side | examples a second | of the rate in memory |", "| --- | --- | --- | --- |"], {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = array_file(Path(folder, "some.npy"), count)
        for batch in (128, 1000):
            found[str(batch)] = sides = rates(path, batch, rounds)
            for name, side in sides.items():
                share = side["rate"] / sides["in memory"]["rate"]
                lines.append(f"| {batch:,} | {name} | {side['rate']:,.0f} | {share:.0%} |")
        lines += ["", "| set | examples | its size | allowed | most held | epoch, examples a second |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        sets = {
            "a .npy file": lambda: array_file(Path(folder, "large.npy"), 10 * allowed // PIXELS),
            "a folder of PNG images": lambda: folder_of_images(Path(folder, "images"), 10 * allowed // (3 * SIDE**2)),
        }
        for name, make in sets.items():
            say(f"{name}: being made")
            told = found[name] = limited(make(), allowed)
            assert told["whole"] != "loaded", "the limit does not hold"
            sizes = [f"{told[key] / MIB:,.0f} MiB" for key in ("bytes", "allowed", "peak")]
            lines.append(f"| {name} | {told['examples']:,} | {' | '.join(sizes)} | {told['rate']:,.0f} |")
    print("\n".join(lines))
    if options.small:
        return None
    head = ", ".join(f"{key} {value}" for key, value in machine().items())
    (RESULTS / "larger.json").write_text(json.dumps(dict(machine=machine(), found=found), indent=1) + "\n")
    (RESULTS / "larger.md").write_text("\n".join([head + ".", "", *lines]) + "\n")
    return None


if __name__ == "__main__":
    main()
