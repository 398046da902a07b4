r"""Listings: what the files of a run say of it, without its model and its data.

They read only config.json and the metadata of the last checkpoint, in a few milliseconds per run, so that a run in
progress is listed in its current state. Bounds can be compared where data, protocol and objective agree.

Shapes: T levels. Bounds are in nats per example.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from allegory.training import metrics, schema
from allegory.training.directory import CONFIG, LAST, check_same_run, read_config
from allegory.training.tensors import read_state

__all__ = ["Summary", "find", "read_history", "read_position", "summary"]

MECHANISMS = ("missing", "self_masking", "indicated")  # as allegory.columnar describes their families


@dataclass(frozen=True)
class Summary:
    """One run; nats per example, on its validation data.

    Attributes:
        path: its directory.
        data: the source given to the command; empty where the run was made in Python.
        checksum: of the data and their splits; empty where the run does not record it.
        model: architecture and likelihood; for a model built by hand the name of its class, if that is recorded.
        latent: widths of the levels, level 1 first.
        levels: T of a chain with a fixed encoder; None where it has infinitely many, and of all others, whose T is the
            number of their widths.
        fixed: whether it is such a chain. The rates are then two, of all levels below the top, and of the top.
        objective, seed: of the training.
        epochs, steps, minutes: done so far; an epoch that the clock has cut off is not counted.
        stopped: "epochs", "minutes" or "patience"; "saved" where `save` wrote it; empty where it was interrupted, or
            is still running.
        best_epoch: the epoch whose weights are kept; None without validation data, or before the warm-up has ended.
        baseline: what independent elements reach on the same data, see `allegory.evaluation.marginals`; None where the
            run does not record it.
        bound, elbo, kl_per_level: of that epoch, or else of the last; None before the first validation.
        gaps: the columns of a table whose gaps are data, see `allegory.missingness`: bounds are of log p(x_o, s).
    """

    path: str
    data: str
    checksum: str
    model: str
    latent: list[int]
    objective: str
    seed: int
    epochs: int
    steps: int
    minutes: float
    stopped: str
    best_epoch: float | None
    baseline: float | None
    bound: float | None
    elbo: float | None
    kl_per_level: list[float]
    gaps: list[str] = field(default_factory=list)
    levels: int | None = None
    fixed: bool = False

    @property
    def depth(self) -> str:
        """The widths of the levels, or how many a chain with a fixed encoder has, in a word."""
        return f"T={self.levels or 'inf'}" if self.fixed else ",".join(map(str, self.latent))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts, for JSON."""
        return asdict(self)


def find(folder: str | Path) -> list[Path]:
    """The run directories in a folder, at any depth, sorted by name; the folder itself if it is one.

    Raises:
        ValueError: no such folder, or no run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; wanted one that contains run directories, as --out names them")
    found = sorted(path.parent for path in folder.rglob(CONFIG))
    if not found:
        raise ValueError(f"{folder}: no run in it; wanted a folder that `allegory train --out` has written to")
    return found


def summary(run: str | Path) -> Summary:
    """The model, data, progress and bound of a run.

    Raises:
        ValueError: not a run, or its checkpoint is damaged.
    """
    config, position = read_config(run), read_position(Path(run) / LAST)
    check_same_run(Path(run), config, position, LAST)
    history = read_history(Path(run), position) if position else []
    kept = [line for line in history if line["epoch"] == position.get("best_epoch")] or history[-1:]
    scored: dict[str, Any] = kept[0] if kept and "elbo" in kept[0] else {}
    model, fit, data = config["model"] or {}, config["fit"] or {}, config.get("data")
    return Summary(
        path=str(run),
        data=str(data["source"]) if isinstance(data, dict) and "source" in data else "",
        checksum=str(data.get("checksum", "")) if isinstance(data, dict) else "",
        model=" ".join(_short_name(model[key]) for key in ("architecture", "likelihood") if key in model)
        or _short_name({"own": config.get("class", "")}),
        latent=[width for width in model.get("latent", []) if width],
        objective=str(fit.get("objective", "")),
        seed=int(fit.get("seed", 0)),
        epochs=position.get("epoch", 0),
        steps=position.get("step", 0),
        minutes=position.get("seconds", 0.0) / 60,
        stopped=position.get("stopped", "") if fit else "saved",
        best_epoch=position.get("best_epoch"),
        baseline=position.get("baseline"),
        bound=scored.get("bound"),
        elbo=scored.get("elbo"),
        kl_per_level=list(scored.get("kl_per_level", [])),
        gaps=_gaps(model.get("likelihood")),
        levels=model.get("levels"),
        fixed="levels" in model,
    )


def _gaps(likelihood: Any) -> list[str]:
    """The columns of a likelihood, as config.json has it, whose gaps are data."""
    if not isinstance(likelihood, dict) or "columns" not in likelihood:
        return []
    names = likelihood.get("names") or [f"column {i}" for i in range(len(likelihood["columns"]))]
    pairs = zip(names, likelihood["columns"], strict=False)
    return [str(name) for name, family in pairs if isinstance(family, dict) and family.get("name") in MECHANISMS]


def _short_name(value: Any) -> str:
    """A name; for a custom part the last component of its qualified name."""
    for kind in ("columns", "tree"):
        if isinstance(value, dict) and kind in value:
            return kind
    if isinstance(value, dict) and "family" in value:
        return str(value["family"].get("name"))
    return str(value["own"]).rpartition(".")[-1] if isinstance(value, dict) and "own" in value else str(value)


def read_history(run: Path, position: dict[str, Any]) -> list[dict[str, Any]]:
    """The history up to the last checkpoint; empty where the run was copied without it."""
    exists = "history" in position or (run / metrics.METRICS).exists()
    return metrics.read(run, position) if exists else []


def read_position(path: Path) -> dict[str, Any]:
    """The position in the last checkpoint, without its tensors; empty before the first one."""
    if not os.path.lexists(path):  # a link that leads nowhere is damage
        return {}
    return schema.check(read_state(path), schema.POSITION, f"{path}, position", ("epoch", "step"))
