"""The clock of a training, and its signals: agreed on by all processes, so that none waits for another forever."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allegory.runtime import processes

__all__ = ["Clock", "caught_signals"]


class Clock:
    """The time of a training over all its resumed parts, the same in all processes.

    Args:
        seconds: time spent in earlier parts.
        checkpoint_seconds: seconds between checkpoints; None for no checkpoints.
        signals: the signals caught so far, see `caught_signals`.

    Attributes:
        seconds: spent so far, at the last call of `update`.
        save_due, stop_requested: whether a checkpoint is due, and whether a signal has come.
    """

    def __init__(self, seconds: float, checkpoint_seconds: float | None, signals: list[int]) -> None:
        self.checkpoint_seconds, self.signals = checkpoint_seconds, signals
        self.saved = time.monotonic()
        self.origin = self.saved - seconds
        self.update()

    def update(self) -> None:
        """Agrees with all processes on the time."""
        moment = time.monotonic()
        due = self.checkpoint_seconds is not None and moment - self.saved > self.checkpoint_seconds
        self.seconds, any_due, any_stop = processes.all_reduce_max(moment - self.origin, due, bool(self.signals))
        self.save_due, self.stop_requested = any_due > 0, any_stop > 0

    def checkpoint_written(self) -> None:
        """The next checkpoint is due after another `checkpoint_seconds`."""
        self.saved = time.monotonic()


@contextmanager
def caught_signals(active: bool) -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in a list instead of interrupting a step; a second one interrupts, in a single
    process.

    Args:
        active: whether to; it works only in the main thread.
    """
    caught: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: Any) -> None:
        if caught and processes.world_size() == 1:  # torchrun forwards what the terminal has already sent
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    except RuntimeError:
        if processes.world_size() > 1:  # torchrun ends all once one has died: let the others report why
            del before[signal.SIGTERM]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
