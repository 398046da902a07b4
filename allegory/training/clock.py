"""The clock of a training, and what a signal asks for: as all processes see it, lest one waits for another for ever."""

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
    """The time of a training over all its resumed parts, as all processes see it.

    Args:
        seconds: that earlier parts took.
        checkpoint_seconds: how often a checkpoint is due; None for never.
        signals: what has been caught, see `caught_signals`.

    Attributes:
        seconds: spent so far, when `look` was called last.
        save_due, stop_asked: whether a checkpoint is due, and whether a signal has come.
    """

    def __init__(self, seconds: float, checkpoint_seconds: float | None, signals: list[int]) -> None:
        self.checkpoint_seconds, self.signals = checkpoint_seconds, signals
        self.saved = time.monotonic()
        self.origin = self.saved - seconds
        self.look()

    def look(self) -> None:
        """Agrees with all processes on the time."""
        moment = time.monotonic()
        due = self.checkpoint_seconds is not None and moment - self.saved > self.checkpoint_seconds
        self.seconds, any_due, any_stop = processes.all_reduce_max(moment - self.origin, due, bool(self.signals))
        self.save_due, self.stop_asked = any_due > 0, any_stop > 0

    def checkpoint_written(self) -> None:
        """The next checkpoint is due after another `checkpoint_seconds`."""
        self.saved = time.monotonic()


@contextmanager
def caught_signals(active: bool) -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in a list instead of tearing a step apart; a second one does, in a process alone.

    Args:
        active: whether to; elsewhere than in the main thread it cannot be done.
    """
    caught: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: Any) -> None:
        if caught and processes.world_size() == 1:  # torchrun passes on what the terminal has sent already
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    except RuntimeError:
        if processes.world_size() > 1:  # torchrun ends all as soon as one has died: the others still say why
            del before[signal.SIGTERM]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
