"""How two ways of doing the same thing are timed against each other.

A benchmark is a set of sides. A side is a setup, which returns a run without arguments. After a first run of each (the
compiler's, which is kept apart) the sides take turns, round by round, so that whatever else the machine does falls on
all of them. One side is set up twice: what the two differ by is noise.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Setup = Callable[[], Callable[[], Any]]


def compare(sides: dict[str, Setup], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each side: its setup, its first run, and median, least and most of the rounds."""
    runs: dict[str, Callable[[], Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    control = next(iter(sides))
    for name, setup in {**sides, f"{control}, again": sides[control]}.items():
        began = time.perf_counter()
        runs[name] = setup()
        ready = time.perf_counter()
        runs[name]()
        found[name] = dict(setup=ready - began, first=time.perf_counter() - ready, rounds=[])
        say(f"  {name}: set up in {found[name]['setup']:.1f} s, first run {found[name]['first']:.2f} s")
    names = list(runs)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.perf_counter()
            runs[name]()
            found[name]["rounds"].append(time.perf_counter() - began)
    for name, result in found.items():
        times = result["rounds"]
        result |= dict(median=statistics.median(times), least=min(times), most=max(times))
        say(f"  {name}: {result['median']:.3f} s ({result['least']:.3f} to {result['most']:.3f})")
    return found


class Elsewhere:
    """A side in a process of its own, maybe of another environment: it reads a line for each run, and answers."""

    def __init__(self, python: str, script: str, *arguments: Any) -> None:
        command = [python, str(Path(__file__).with_name(script)), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.hear()

    def hear(self) -> Any:
        while line := self.process.stdout.readline():  # type: ignore[union-attr]
            if line.startswith("= "):
                return json.loads(line[2:])
        raise RuntimeError(f"the other side ended with {self.process.wait()}")

    def __call__(self) -> Any:
        self.process.stdin.write("run\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.hear()


def answer(value: Any) -> None:
    """What such a process says: it is ready, or has done a run."""
    print(f"= {json.dumps(value)}", flush=True)


def matrix_rate(precision: torch.dtype, seconds: float = 2.0, device: str = "cpu") -> float:
    """Floating-point operations a second of a product of large matrices: what the device can do at most."""
    n = 2048 if device == "cpu" else 8192
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    a, b = torch.randn(n, n, device=device).to(precision), torch.randn(n, n, device=device).to(precision)
    best, end = 0.0, time.perf_counter() + seconds
    a @ b
    while time.perf_counter() < end:
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def machine() -> dict[str, Any]:
    """Where and with what this runs."""
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return dict(
        cpu=model,
        architecture=platform.machine(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
