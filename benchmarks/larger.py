"""Sets that are larger than memory: how fast they are trained on, and that memory stays bounded.

    python benchmarks/larger.py [--small] [--only rate|limit]     # some 20 minutes; leave the machine alone meanwhile

    rate        examples a second, 784-400-20-400-784, batches of 128 and of 1,000: 400,000 images of 784 bytes in
                memory, and read from a .npy file, of which the system's cache has all, or none when an epoch begins;
                every side is a process of its own
    limit       an epoch on a .npy file, then on a folder of PNG images (256 x 256 x 3), neither in the cache: what the
                process held at most, beyond what three steps on a single batch take, is to be less than
                512 MiB, where the .npy file, and the images when decoded, have ten times as much

Linux alone. Writes benchmarks/results/larger.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sides import Elsewhere, Setup, answer, compare, machine, say

import allegory as al
from allegory.data import files
from allegory.data.stored import Mapped, Pictures, Stored

PIXELS, SIDE, MIB = 784, 256, 2**20
RESULTS = Path(__file__).with_name("results")


def perceptron() -> al.VAE:
    torch.manual_seed(0)
    return al.architectures.mlp((PIXELS,), "bernoulli", latent=[20], hidden=[400], activation="ReLU")


def small() -> al.VAE:
    """For images so large that a wide perceptron would be what fills the memory."""
    torch.manual_seed(0)
    return al.architectures.mlp((3, SIDE, SIDE), "normal_shared", latent=[8], hidden=[16])


def array_file(path: Path, count: int) -> Path:
    array = np.lib.format.open_memmap(path, mode="w+", dtype="u1", shape=(count, PIXELS))
    part = (np.random.default_rng(0).random((20_000, PIXELS)) < 0.13).astype("u1")
    for start in range(0, count, len(part)):
        array[start : start + len(part)] = part[: count - start]
    array.flush()
    return path


def folder_of_images(path: Path, count: int) -> Path:
    path.mkdir()
    smooth = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype("u1").repeat(16, 1).repeat(16, 2)
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
    """Examples a second of each side, each a process of its own."""

    def setup(name: str) -> Setup:
        return lambda: Elsewhere(sys.executable, "larger.py", "--side", name, path, batch)

    found = compare({name: setup(name) for name in ("in memory", "cached", "not cached")}, rounds)
    return {name: side | dict(rate=len(mapped(path)) / side["median"]) for name, side in found.items()}


def training(name: str, path: Path, batch: int) -> None:
    """Trains, and waits before each epoch."""
    data: Any = torch.from_numpy(np.load(path)).float() if name == "in memory" else mapped(path)
    steps, done = math.ceil(len(data) / batch), 0

    def pause(rows: torch.Tensor) -> torch.Tensor:
        nonlocal done
        if len(rows) <= batch:  # more is the look at the data before the training
            if done % steps == 0:
                answer(done)
                sys.stdin.readline() or sys.exit()
                if name == "not cached":
                    forget(path)
            done += 1
        return rows

    al.fit(perceptron(), data, epochs=10**6, batch_size=batch, transform=pause)


def limited(path: Path) -> dict[str, Any]:
    """What a process says that trains on it for an epoch."""
    command = [sys.executable, __file__, "--limited", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def in_a_process_of_its_own(path: Path) -> None:
    def held(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

    shape, model, batch = ((3, SIDE, SIDE), small, 32) if path.is_dir() else ((PIXELS,), perceptron, 1000)
    resident = 0

    def watch(x: torch.Tensor) -> torch.Tensor:
        nonlocal resident
        resident = max(resident, held("VmRSS"))
        return x

    al.fit(model(), torch.rand(batch, *shape).round(), epochs=3, batch_size=batch, transform=watch)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    if path.is_dir():
        names = sorted(path.iterdir())
        data = Stored(Pictures(names, files._read_image, shape))
    else:
        data = mapped(path)
    began, first = 0.0, True

    def look(x: torch.Tensor) -> torch.Tensor:
        """Counts from the first batch on: what is before is fit's look at all of the data."""
        nonlocal began, first
        if len(x) <= batch and first:
            began, first = time.perf_counter(), False
        return x

    asked = time.perf_counter()
    forget(path)
    record = al.fit(model(), data, epochs=1, batch_size=batch, transform=look)
    ended = time.perf_counter()
    told = dict(examples=len(data), bytes=math.prod(data.shape), peak=held("VmHWM") - resident)
    print(json.dumps(told | dict(look=began - asked, rate=len(data) / (ended - began), steps=record.step)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Sets that are larger than memory.")
    parser.add_argument("--small", action="store_true", help="to see whether it works; writes nothing")
    parser.add_argument("--only", choices=("rate", "limit"), help="measure one part, keep the other's last results")
    parser.add_argument("--limited", help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return training(options.side[0], Path(options.side[1]), int(options.side[2]))
    if options.limited:
        return in_a_process_of_its_own(Path(options.limited))
    count, allowed, rounds = (20_000, 64 * MIB, 1) if options.small else (400_000, 512 * MIB, 3)
    results = RESULTS / "larger.json"
    found: dict[str, Any] = json.loads(results.read_text())["found"] if options.only else {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if options.only != "limit":
            path = array_file(Path(folder, "some.npy").absolute(), count)
            found |= {str(batch): rates(path, batch, rounds) for batch in (128, 1000)}
        if options.only != "rate":
            say("a .npy file")
            found["a .npy file"] = limited(array_file(Path(folder, "large.npy"), 10 * allowed // PIXELS))
            say("a folder of PNG images")
            found["a folder of PNG images"] = limited(
                folder_of_images(Path(folder, "images"), 10 * allowed // (3 * SIDE**2))
            )
    lines = ["| batch | side | examples a second | of the rate in memory |", "| --- | --- | --- | --- |"]
    for batch in ("128", "1000"):
        for name, side in found[batch].items():
            share = side["rate"] / found[batch]["in memory"]["rate"]
            lines.append(f"| {batch} | {name} | {side['rate']:,.0f} | {share:.0%} |")
    lines += ["", "| set | examples | its size | a tenth | most held | epoch, examples a second |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name in ("a .npy file", "a folder of PNG images"):
        told = found[name]
        sizes = [f"{value / MIB:,.0f} MiB" for value in (told["bytes"], told["bytes"] / 10, told["peak"])]
        lines.append(f"| {name} | {told['examples']:,} | {' | '.join(sizes)} | {told['rate']:,.0f} |")
    print("\n".join(lines))
    if options.small:
        return None
    head = ", ".join(f"{key} {value}" for key, value in machine().items())
    results.write_text(json.dumps(dict(machine=machine(), found=found), indent=1) + "\n")
    results.with_suffix(".md").write_text("\n".join([head + ".", "", *lines]) + "\n")
    return None


if __name__ == "__main__":
    main()
