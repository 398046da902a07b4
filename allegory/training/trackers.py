r"""Trackers: where else the metrics of a training go, epoch by epoch, while it goes on.

    fit(..., tracker=f)     f(line) after every epoch, in the first process, with the line of `Record.history`
    f(line)                 each number under its name, the rate of level t as rate/level_t, against line["step"]

A tracker is a function, and yours is as good as those here: `lambda line: run.log(line)`; there may be several. It is
told of an epoch before the checkpoint that keeps it: a resumed training, which goes on from the last checkpoint, leaves
no epoch out, and may tell some again. Whatever a kill has left, a curve has each of them once:

    TensorBoard     the first line of a training purges what was there from its step on
    W&B             the run keeps its id in its directory. The first line is preceded by those of metrics.jsonl that the
                    server lacks; offline, where no server says what it has, by all of them: `wandb sync` the last part
                    alone, RUN/wandb/latest-run, which is whole

A history that is over can be told as well: `for line in record.history: f(line)`. metrics.jsonl is written whatever a
tracker does, and is what counts: a tracker that fails is left alone for the rest of the training, which says so in a
warning and goes on.
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
                with torch.random.fork_rng():  # it may draw
                    track(copy.deepcopy(line))
            except Exception as error:
                self.trackers.remove(track)
                warnings.warn(
                    f"the tracker failed in epoch {line['epoch']} and is not called again in this training, which goes "
                    f"on: {type(error).__name__}: {error}",
                    stacklevel=3,
                )


def tensorboard(folder: str | Path) -> Tracker:
    """Scalars for TensorBoard; needs `pip install allegory[tensorboard]`.

    Args:
        folder: where its event files go, such as "runs/digits/tensorboard". It is made with the first line.

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

    def tell(line: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=line["step"])
        for name, value in _scalars(line).items():
            writer.add_scalar(name, value, line["step"])
        writer.flush()  # a kill leaves what was told

    return tell


def wandb(folder: str | Path, project: str | None = None, **settings: Any) -> Tracker:
    """A run of Weights & Biases; needs `pip install allegory[wandb]`, and a login or WANDB_MODE=offline.

    It begins with the first line, and ends with the process, with `wandb.finish()`, or where another one begins.

    Args:
        folder: fit's out, the run directory: W&B writes in its folder wandb, and the run's id is kept there. A tracker
            of the same folder goes on with the same run.
        project: its project; if None, what WANDB_PROJECT says, or allegory.
        settings: what else `wandb.init` takes, such as name, entity, config, tags, mode.

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

    def tell(line: dict[str, Any]) -> None:
        nonlocal run
        if run is None:
            place = project or os.environ.get("WANDB_PROJECT") or "allegory"
            where = dict(project=place, dir=str(folder), id=_run_id(Path(folder) / "wandb"), resume="allow")
            run = client.init(**{**where, "reinit": "finish_previous", **settings})
            metrics = Path(folder) / "metrics.jsonl"
            for text in metrics.read_text().splitlines() if metrics.exists() else ():
                before = json.loads(text)
                if run.starting_step <= before["step"] < line["step"]:
                    run.log(_scalars(before), step=before["step"])
        if line["step"] >= run.starting_step:
            run.log(_scalars(line), step=line["step"])

    return tell


def _run_id(folder: Path) -> str:
    """The id of the W&B run that is kept there; a new one where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "id"
    if not kept.exists() or not kept.read_text():
        kept.write_text(secrets.token_hex(4))
    return kept.read_text()


def _scalars(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line by their names; the step is what they are drawn against."""
    rates = {f"rate/level_{t}": rate for t, rate in enumerate(line.get("kl_per_level", []), start=1)}
    return {name: value for name, value in line.items() if name not in ("step", "kl_per_level")} | rates


def _import_failure(package: str, error: ImportError) -> ValueError:
    return ValueError(f"{package} cannot be imported ({error}); install it: pip install allegory[{package}]")
