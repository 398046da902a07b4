r"""Trackers: further destinations of a training's metrics, epoch by epoch, while it runs.

    fit(..., tracker=f)     f(line) after every epoch, in the first process, with the line of `Record.history`
    f(line)                 each number under its name, the rate of level t as rate/level_t, against line["step"]

A tracker is any function, such as `lambda line: run.log(line)`; there may be several. It is called with an epoch before
the checkpoint that contains it: a resumed training, which continues from the last checkpoint, omits no epoch, and may
report some again. However a run was killed, a curve has each epoch once:

    TensorBoard     the first line of a training purges earlier entries from its step on
    W&B             the run stores its id in its directory. The first line is preceded by those of metrics.jsonl that
    the
                    server lacks; offline, where there is no server to ask, by all of them: then `wandb sync` only the
                    last part, RUN/wandb/latest-run, which is complete

A finished history can be reported, too: `for line in record.history: f(line)`. metrics.jsonl is written whatever a
tracker does, and is authoritative: a tracker that fails is not called again in this training, which continues with a
warning.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from allegory.runtime import processes
from allegory.runtime.storage import nulls_as_nan

__all__ = ["Tracker", "Trackers", "tensorboard", "wandb"]

Tracker = Callable[[dict[str, Any]], None]
"""(line) -> None, called with each epoch's line of the history."""


class Trackers:
    """Several trackers, called one after the other in the first process; one that raises is not called again, with a
    warning.

    Args:
        trackers: one, or several.

    >>> lines = []
    >>> Trackers(lines.append)({"epoch": 1, "step": 10})
    >>> lines
    [{'epoch': 1, 'step': 10}]
    """

    def __init__(self, trackers: Tracker | Sequence[Tracker]) -> None:
        given = [trackers] if callable(trackers) else list(trackers)
        self.trackers = given if processes.rank() == 0 else []

    def __call__(self, line: dict[str, Any]) -> None:
        """Calls them with an epoch's line of `Record.history`."""
        for track in list(self.trackers):
            try:
                with torch.random.fork_rng():  # it may use random numbers
                    track(copy.deepcopy(line))
            except Exception as error:
                self.trackers.remove(track)
                warnings.warn(
                    f"the tracker failed in epoch {line['epoch']} and is not called again in this training, which "
                    f"continues: {type(error).__name__}: {error}",
                    stacklevel=3,
                )


def tensorboard(folder: str | Path) -> Tracker:
    """Scalars for TensorBoard; needs `pip install tensorboard`.

    Args:
        folder: the directory of its event files, such as "runs/digits/tensorboard". It is created with the first line.

    Raises:
        ValueError: tensorboard is not installed.

    >>> track = al.trackers.tensorboard("runs/digits/tensorboard")  # doctest: +SKIP
    >>> record = al.fit(model, x, epochs=2, out="runs/digits", tracker=track)  # doctest: +SKIP
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _import_failure("tensorboard", error) from None
    writer: Any = None

    def track(line: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=line["step"])
        for name, value in _scalars(line).items():
            writer.add_scalar(name, value, line["step"])
        writer.flush()  # so that a kill loses nothing

    return track


def wandb(folder: str | Path, project: str | None = None, **settings: Any) -> Tracker:
    """A run of Weights & Biases; needs `pip install wandb`, and a login or WANDB_MODE=offline.

    It begins with the first line, and ends with the process, with `wandb.finish()`, or when another run begins.

    Args:
        folder: fit's out, the run directory: W&B writes to its folder wandb, and the run's id is stored there. A
            tracker of the same folder continues the same run.
        project: its project; if None, that of WANDB_PROJECT, or allegory.
        settings: further arguments of `wandb.init`, such as name, entity, config, tags, mode.

    Raises:
        ValueError: wandb is not installed, or there is no login.

    >>> track = al.trackers.wandb("runs/digits", mode="offline")  # doctest: +SKIP
    >>> record = al.fit(model, x, epochs=2, out="runs/digits", tracker=track)  # doctest: +SKIP
    """
    try:
        import wandb as client
    except ImportError as error:
        raise _import_failure("wandb", error) from None
    mode = settings.get("mode") or os.environ.get("WANDB_MODE", "online")
    if mode == "online" and client.run is None and not client.login(prompt=False, verify=False):
        raise ValueError(
            "wandb: there is no login; run `wandb login`, or set WANDB_MODE=offline and sync the run later"
        )
    run: Any = None

    def track(line: dict[str, Any]) -> None:
        nonlocal run
        if run is None:
            place = project or os.environ.get("WANDB_PROJECT") or "allegory"
            where = dict(project=place, dir=str(folder), id=_run_id(Path(folder) / "wandb"), resume="allow")
            run = client.init(**{**where, "reinit": "finish_previous", **settings})
            metrics = Path(folder) / "metrics.jsonl"
            for text in metrics.read_text().splitlines() if metrics.exists() else ():
                before = nulls_as_nan(json.loads(text))
                if run.starting_step <= before["step"] < line["step"]:
                    run.log(_scalars(before), step=before["step"])
        if line["step"] >= run.starting_step:
            run.log(_scalars(line), step=line["step"])

    return track


def _run_id(folder: Path) -> str:
    """The id of the W&B run stored in the folder; a new one if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "id"
    if not path.exists() or not path.read_text():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def _scalars(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line by name, except the step, which is the x axis."""
    scalars: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, list):  # one for each level
            name = "rate" if name == "kl_per_level" else name
            scalars |= {f"{name}/level_{t}": part for t, part in enumerate(value, start=1)}
        elif name != "step":
            scalars[name] = value
    return scalars


def _import_failure(package: str, error: ImportError) -> ValueError:
    return ValueError(f"{package} cannot be imported ({error}); install it: pip install {package}")
