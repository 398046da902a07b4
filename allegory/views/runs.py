r"""Runs side by side: what was trained on what, and what it came to.

A run is told by its files alone, config.json and what is kept with its last checkpoint, in a few milliseconds, so that
one that is still going on is told as far as it is. Bounds compare where data, protocol and objective do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from allegory.training.checkpoint import CONFIG, LAST, read_config

__all__ = ["Run", "find", "summary"]


@dataclass(frozen=True)
class Run:
    """One run; nats an example, on its validation data.

    Attributes:
        path: its directory.
        data: the source that the command was given; empty where the run was made in Python.
        model: architecture and likelihood; empty where the model was built by hand.
        latent: widths of the levels, level 1 first.
        objective, seed: what was maximised, and from where.
        epochs, steps, minutes: done so far.
        stopped: "epochs", "minutes" or "patience"; empty where it was interrupted, or goes on.
        best_epoch: whose weights are kept; None without validation data, or before the warm-up has ended.
        bound, elbo, kl_per_level: of that epoch, or else of the last; None where there are none yet.
    """

    path: str
    data: str
    model: str
    latent: list[int]
    objective: str
    seed: int
    epochs: int
    steps: int
    minutes: float
    stopped: str
    best_epoch: int | None
    bound: float | None
    elbo: float | None
    kl_per_level: list[float]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts, for JSON."""
        return asdict(self)


def find(folder: str | Path) -> list[Path]:
    """The run directories in a folder, however deep, by name; the folder itself where it is one.

    Raises:
        ValueError: there is no such folder, or no run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; wanted one with run directories, as --out names them")
    found = sorted(path.parent for path in folder.rglob(CONFIG))
    if not found:
        raise ValueError(f"{folder}: no run in it; wanted a folder in which `allegory train --out` has written")
    return found


def summary(run: str | Path) -> Run:
    """What a run was, and how far it came.

    Raises:
        ValueError: not a run, or its checkpoint is damaged.
    """
    config, position = read_config(run), _position(Path(run) / LAST)
    history = position.get("history", [])
    kept = [line for line in history if line["epoch"] == position.get("best_epoch")] or history[-1:]
    scored: dict[str, Any] = kept[0] if kept and "elbo" in kept[0] else {}
    model, fit, data = config["model"] or {}, config["fit"] or {}, config.get("data")
    return Run(
        path=str(run),
        data=str(data["source"]) if isinstance(data, dict) and "source" in data else "",
        model=" ".join(str(model[key]) for key in ("architecture", "likelihood") if key in model),
        latent=list(model.get("latent", [])),
        objective=str(fit.get("objective", "")),
        seed=int(fit.get("seed", 0)),
        epochs=position.get("epoch", 0),
        steps=position.get("step", 0),
        minutes=position.get("seconds", 0.0) / 60,
        stopped=position.get("stopped", ""),
        best_epoch=position.get("best_epoch"),
        bound=scored.get("bound"),
        elbo=scored.get("elbo"),
        kl_per_level=list(scored.get("kl_per_level", [])),
    )


def _position(path: Path) -> dict[str, Any]:
    """What is written with the last checkpoint, without its tensors; nothing before the first one."""
    try:
        with safe_open(path, framework="np") as file:
            return json.loads((file.metadata() or {})["allegory"])
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or was not written by allegory: {error}") from None
