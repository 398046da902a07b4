r"""Precision: matrix products in bfloat16, where that pays, and everything else as it is.

with autocast(device, "bfloat16"):    what torch.autocast does; "float32" leaves all as it is
bfloat16_speedup(device)              measured here and now: 3 or 4 with instructions for it, 0.01 without
"""

from __future__ import annotations

import time

import torch

__all__ = ["autocast", "bfloat16_speedup"]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in `precision`, and everything else as it is.

    Raises:
        ValueError: neither "float32" nor "bfloat16".
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: wanted 'float32' or 'bfloat16'")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def bfloat16_speedup(device: torch.device) -> float:
    """How many times as fast a product of matrices is in bfloat16 as in float32, its rounding counted: 3 or 4 where
    there are instructions for it, below 1 where there are none.
    """
    a, b = torch.randn(256, 512, device=device), torch.randn(512, 512, device=device)
    times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other, and beside other work that is all one would measure
    try:
        for _ in range(20):
            for precision, found in times.items():
                with autocast(device, precision):
                    began = time.perf_counter()
                    (a @ b).sum().item()  # waits
                    found.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(times["float32"]) / min(times["bfloat16"])
