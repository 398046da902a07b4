r"""Progress: a bar on a terminal, a bar below the cell in a notebook, elsewhere a plain line on standard error from
time to time; shown by default in a notebook, elsewhere on request.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from allegory.runtime import processes

__all__ = ["Progress", "about", "tell"]


class Progress:
    """Shows the progress of a training: rate, time left, the bound. Where it cannot be written (a full disk, a closed
    pipe, a terminal that is gone) the training goes on.

    Args:
        shown: whether to show it; None for only in a notebook.
        epochs, minutes: the budget.
        steps: updates per epoch.
    """

    def __init__(self, shown: bool | None, epochs: int | None, minutes: float | None, steps: int) -> None:
        self.shown, self.epochs, self.minutes, self.steps = shown, epochs, minutes, steps
        self.view: _PlainLines | _TerminalBar | _NotebookView | None = None
        self.bound: list[str] = []
        self.refreshed = self.began = time.monotonic()
        self.began_at: int | None = None
        self.position: Any = None

    def __enter__(self) -> Progress:
        notebook, self.shown = _in_notebook(), self.shown if processes.rank() == 0 else False
        if notebook and self.shown is not False:
            self.view = _NotebookView()
        elif self.shown:
            self.view = _TerminalBar() if sys.stderr.isatty() and _TerminalBar.moves() else _PlainLines()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.view is not None:
            now = self.position
            parts = [f"{now.epoch} epochs", f"{now.step:,} steps", _duration(self.seconds)] if now is not None else []
            with suppress(OSError):
                self.view.close(None if kind else 1.0, parts + self.bound)

    def step(self, position: Any, seconds: float, running: Callable[[], float | None] = lambda: None) -> None:
        """To be called after an update: moves the bar, or prints a line from time to time. The first update, which may
        compile, is no measure of the others: the time left is estimated from the second on.

        Args:
            position: of the loop.
            seconds: of the training so far.
            running: the mean bound of this epoch so far, shown until an epoch has ended; it may wait for the device.
        """
        if self.view is None:
            return
        self.position, self.seconds = position, seconds
        now = time.monotonic()
        if self.began_at is None:
            self.began_at, self.began = position.step, now
            return
        if now - self.refreshed < self.view.pause:
            return
        self.refreshed = now
        done, left = self._fraction(position, seconds, now)
        rate = (position.step - self.began_at) / max(1e-9, now - self.began)
        epochs = f"/{self.epochs}" if self.epochs is not None else ""
        bound = self.bound or [f"training bound {value:.2f}" for value in [running()] if value is not None]
        parts = [f"epoch {position.epoch + 1}{epochs}", f"{_duration(left)} left", *bound, f"{rate:.0f} steps/s"]
        with suppress(OSError):
            self.view.show(done, parts)

    def epoch(self, line: dict[str, Any], position: Any) -> None:
        """To be called after an epoch: remembers the bound to show."""
        if "objective" in line:
            self.bound = [f"validation objective {line['objective']:.2f}, bound {line['bound']:.2f}"]
            self.bound += [] if position.best_objective is None else [f"best objective {position.best_objective:.2f}"]
        elif "bound" in line:
            self.bound = [f"validation bound {line['bound']:.2f}"]
            self.bound += [] if position.best_bound is None else [f"best {position.best_bound:.2f}"]
        else:
            self.bound = [f"training bound {line['train']:.2f}"]

    def say(self, *lines: str) -> None:
        """Prints separate lines, above the bar."""
        if self.view is not None:
            for line in lines:
                with suppress(OSError):
                    self.view.say(line)

    def note(self, *lines: str) -> None:
        """Shows lines of their own, on standard error where there is no bar; unless nothing is to be shown."""
        if self.view is None and self.shown is None:
            with suppress(OSError):
                print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr, flush=True)
        self.say(*lines)

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


class _PlainLines:
    """Plain lines on standard error."""

    pause = 15.0  # seconds between two lines

    def show(self, done: float, parts: list[str]) -> None:
        self.say("  ".join(parts))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self, done: float | None, parts: list[str]) -> None:
        pass


class _TerminalBar:
    """A progress bar on a terminal, removed at the end."""

    pause = 0.2

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(bar_width=None), TextColumn("{task.description}"))
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("training", total=1.0)
        self.bar.start()

    @staticmethod
    def moves() -> bool:
        """Whether this terminal can redraw a line."""
        from rich.console import Console

        return not Console(stderr=True).is_dumb_terminal

    def show(self, done: float, parts: list[str]) -> None:
        width = self.bar.console.width
        while len("  ".join(parts)) > width - (11 if width > 40 else 6) and len(parts) > 1:
            parts = parts[:-1]
        self.bar.update(self.task, completed=done, description="  ".join(parts))

    def say(self, text: str) -> None:
        self.bar.console.print(text, highlight=False)

    def close(self, done: float | None, parts: list[str]) -> None:
        self.bar.stop()


class _NotebookView:
    """HTML below a notebook's cell; the final state stays there."""

    pause = 0.5

    def __init__(self) -> None:
        from IPython.display import display

        self.done, self.messages = 0.0, ""
        self.handle = display(self._html(["training"]), display_id=True)

    def _html(self, parts: list[str]) -> Any:
        from IPython.display import HTML

        bar = f'<progress max="1" value="{self.done:.4f}" style="width: 20em; max-width: 100%"></progress>'
        return HTML(f"<div>{bar} {html.escape(' · '.join(parts))}{self.messages}</div>")

    def show(self, done: float, parts: list[str]) -> None:
        self.done = done
        self.handle.update(self._html(parts))

    def say(self, text: str) -> None:
        self.messages += f"<br>{html.escape(text)}"

    def close(self, done: float | None, parts: list[str]) -> None:
        self.show(self.done if done is None else done, parts)


def _in_notebook() -> bool:
    """Whether this runs in a cell of a notebook."""
    shell = sys.modules.get("IPython")
    if shell is None:
        return False
    return "ZMQInteractiveShell" in [kind.__name__ for kind in type(shell.get_ipython()).__mro__]  # Colab subclasses it


def tell(line: str) -> None:
    """A line on standard error, in the first of several processes; where that is full, nothing."""
    if processes.rank() == 0:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def about(seconds: float) -> str:
    """A time in words, in the unit that suits it.

    >>> about(75), about(1020), about(9000), about(4e5)
    ('75 seconds', '17 minutes', '2.5 hours', '4.6 days')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    if seconds < 6_000:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 180_000:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
