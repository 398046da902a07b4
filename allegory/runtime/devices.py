"""Devices: where to compute, by name."""

from __future__ import annotations

import torch

__all__ = ["choose_device"]


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name; for "auto" the GPU if there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: no such device on this machine.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {name}: wanted auto, cpu, or cuda where this machine has it") from None
    return device
