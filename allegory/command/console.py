"""What the commands share: they open a run, and say things to people and to programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from allegory.views.runs import Run

__all__ = ["device", "open_run", "print_json", "say"]


def say(text: str) -> None:
    """A line on standard error, of the first of several processes."""
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """A line of JSON on standard output. JSON has no NaN; the standard error of one example is null."""
    print(json.dumps(_without_nan(value)))


def device(name: str) -> torch.device:
    """What --device names, or one line that says so."""
    from allegory.runtime.devices import choose_device

    try:
        return choose_device(name)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def open_run(path: str, name: str, data: str | None = None) -> Run:
    """A run on a device, with the data that were given."""
    from allegory.views.runs import Run

    run = Run(path, data=data, device=device(name))
    if data is not None and not run.knows_its_data:
        say(f"{path} does not say on what it was trained: what is called test here may have been among that")
    return run


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if value != value else value
