r"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere, nothing unless asked."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]

PLAIN_SECONDS = 15.0


class Progress:
    """Shows how a training goes: rate, time left, the bound.

    Args:
        shown: whether to show anything.
        epochs, minutes: the budget.
        steps: updates an epoch.
    """

    def __init__(self, shown: bool, epochs: int | None, minutes: float | None, steps: int) -> None:
        self.shown, self.epochs, self.minutes, self.steps = shown, epochs, minutes, steps
        self.bar: Any = None
        self.bound = ""
        self.refreshed = self.began = time.monotonic()
        self.began_at: int | None = None

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"))
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("training", total=1.0, text="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, position: Any, seconds: float) -> None:
        """To be called after an update: moves the bar, or prints a line now and then."""
        if not self.shown:
            return
        if self.began_at is None:
            self.began_at = position.step - 1
        now = time.monotonic()
        if now - self.refreshed < (0.2 if self.bar is not None else PLAIN_SECONDS):
            return
        self.refreshed = now
        done, left = self._fraction(position, seconds, now)
        rate = (position.step - self.began_at) / max(1e-9, now - self.began)
        epochs = f"/{self.epochs}" if self.epochs is not None else ""
        text = f"epoch {position.epoch + 1}{epochs}  {rate:.0f} steps/s  {_duration(left)} left{self.bound}"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
        else:
            print(text, file=sys.stderr, flush=True)

    def epoch(self, line: dict[str, Any], position: Any) -> None:
        """To be called after an epoch: remembers the bound to show."""
        if "bound" in line:
            best = "" if position.best_bound is None else f" (best {position.best_bound:.2f})"
            self.bound = f"  validation bound {line['bound']:.2f}{best}"
        else:
            self.bound = f"  training bound {line['train']:.2f}"

    def say(self, text: str) -> None:
        """Prints a line of its own, above the bar."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def _fraction(self, position: Any, seconds: float, now: float) -> tuple[float, float]:
        """How much of the budget is spent, and the seconds left."""
        options = []
        if self.epochs is not None:
            total = self.epochs * self.steps
            rate = (now - self.began) / max(1, position.step - (self.began_at or 0))
            options.append((position.step / total, max(0.0, (total - position.step) * rate)))
        if self.minutes is not None:
            options.append((seconds / (60 * self.minutes), max(0.0, 60 * self.minutes - seconds)))
        return min(options, key=lambda option: option[1])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
