r"""metrics.jsonl: the history of a training, a line of JSON per epoch.

    Metrics().write(run, history)  ->  number and SHA-256 of its lines; writes the whole file at first, then what is new
    read(run, position)            ->  the history up to a checkpoint, checked by the SHA-256 that the checkpoint keeps

The file may be longer than the history of the last checkpoint: it is written first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from allegory.runtime.storage import append, as_json, check_regular, nulls_as_nan, write_atomically
from allegory.training.schema import LINE, check, parse

__all__ = ["METRICS", "Metrics", "read"]

METRICS = "metrics.jsonl"
"""The name of the file."""


class Metrics:
    """The file of one training, in the process that writes it."""

    def __init__(self) -> None:
        self.lines = 0
        self.digest = hashlib.sha256()

    def write(self, run: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Writes what is new in the history, which only grows; returns number and SHA-256 of all lines, `lines` and
        `metrics`.

        Args:
            run: the directory.
            history: a dictionary per epoch.
        """
        new = "".join(as_json(line) + "\n" for line in history[self.lines :]).encode()
        if self.lines == 0:  # what a killed training has left there may be longer than its checkpoint
            write_atomically(run / METRICS, new)
        elif new:
            append(run / METRICS, new)
        self.lines = len(history)
        self.digest.update(new)
        return dict(lines=self.lines, metrics=self.digest.hexdigest())


def read(run: Path, position: dict[str, Any]) -> list[dict[str, Any]]:
    """The history up to a checkpoint, one dictionary per epoch.

    Args:
        run: the directory.
        position: of the checkpoint; older ones hold the history itself. Empty where there is no checkpoint: all lines.

    Raises:
        ValueError: a missing or damaged file.
    """
    path = run / METRICS
    if "history" in position:
        lines, where = position["history"], "the history in the last checkpoint"
        if not isinstance(lines, list):
            raise ValueError(f"{run}: {where} is not a list; the file is damaged")
    else:
        check_regular(path)
        try:
            texts = path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}; the last checkpoint needs it") from None
        count = position.get("lines", position.get("epoch", 0))
        texts = texts[:count] if position else [text for text in texts if text.endswith(b"\n")]
        if len(texts) < count:
            raise ValueError(f"{path} is damaged: it has {len(texts)} lines, wanted {count}, one per epoch")
        if "metrics" in position and hashlib.sha256(b"".join(texts)).hexdigest() != position["metrics"]:
            raise ValueError(f"{path} has changed since it was written: it is damaged, or was edited")
        lines, where = [nulls_as_nan(parse(text, str(path))) for text in texts], str(path)
    required = ("epoch", "step", "lr", "beta", "train")
    return [check(line, LINE, f"{where}, line {i}", required) for i, line in enumerate(lines, start=1)]
