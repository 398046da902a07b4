r"""Precision: matrix products in bfloat16, where that pays, and everything else unchanged.

with autocast(device, "bfloat16"):    as torch.autocast; "float32" changes nothing
bfloat16_speedup(device)              measured on this machine: 3 or 4 with instructions for it, 0.01 without
"""

from __future__ import annotations

import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast", "autocast_enabled", "bfloat16_speedup", "choose_precision", "to_float32", "without_autocast"]

MIN_SPEEDUP = 1.5  # the least speed-up at which bfloat16 is chosen


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in `precision`, and everything else unchanged.

    Raises:
        ValueError: neither "float32" nor "bfloat16".
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: wanted 'float32' or 'bfloat16'")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def autocast_enabled() -> bool:
    """Whether matrix products are rounded here."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def without_autocast() -> AbstractContextManager[Any]:
    """Nothing is rounded inside: draws and densities, for which flows run their networks, are of one and the same law.

    >>> with autocast(torch.device("cpu"), "bfloat16"), without_autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            return torch.autocast(device, enabled=False)
    return nullcontext()


def to_float32(x: Tensor) -> Tensor:
    """A network's output as a density needs it: in float32 where it was computed in bfloat16 or float16, of which only
    three digits are right.

    >>> to_float32(torch.ones(2, dtype=torch.bfloat16)).dtype, to_float32(torch.ones(2, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@cache
def bfloat16_speedup(device: torch.device) -> float:
    """How many times as fast a matrix product is in bfloat16 as in float32, including the conversion: 3 or 4 with
    instructions for it, 0.01 without. Measured once.
    """
    rows, size = (256, 512) if device.type == "cpu" else (4096, 4096)  # a GPU takes as long to be asked for less
    a, b = (torch.full((n, size), 0.5, dtype=torch.float32, device=device) for n in (rows, size))
    times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    threads, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)  # with more, and other work running, one would only measure how they wait for each other
    try:
        while len(times["bfloat16"]) < 2 or (len(times["bfloat16"]) < 20 and time.perf_counter() - began < 0.2):
            for precision, found in times.items():
                with autocast(device, precision):
                    start = time.perf_counter()
                    (a @ b).sum().item()  # synchronises
                    found.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times["float32"]) / min(times["bfloat16"])


def choose_precision(requested: str, device: torch.device, tolerant: bool) -> tuple[str, str]:
    """The precision to use, and a line that explains the choice if it was left open.

    Args:
        requested: "float32", "bfloat16", or "auto" for the faster one.
        device: where to run.
        tolerant: whether rounded networks cost little likelihood: a density may be narrower than what bfloat16
            resolves, probabilities are not.

    >>> choose_precision("float32", torch.device("cpu"), tolerant=True)
    ('float32', '')
    """
    if requested == "auto" and not tolerant:
        return "float32", ""
    if requested == "float32":
        return requested, ""
    speedup = bfloat16_speedup(device)
    if requested == "bfloat16":
        if speedup < 1:
            warnings.warn(
                f"precision='bfloat16': matrix products take {1 / speedup:.1f} times as long here as in float32; "
                "use 'float32', or 'auto'",
                stacklevel=2,
            )
        return requested, ""
    if speedup < MIN_SPEEDUP:
        return "float32", f"precision: float32; matrix products in bfloat16 are {speedup:.2g} times as fast here"
    return "bfloat16", (
        f"precision: bfloat16 in the networks, whose matrix products are {speedup:.1f} times as fast here; densities "
        "stay in float32"
    )
