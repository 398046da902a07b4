"""The budget of a training: when it is exhausted, and how much of it is spent."""

from __future__ import annotations

from dataclasses import dataclass

from allegory.training.state import Position

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """The limits of a training; the first one reached ends it.

    Args:
        epochs, minutes: at most; None for no limit.
        patience: epochs without a better validation bound.
        steps: updates per epoch.

    >>> Budget(epochs=2, steps=10).over(Position(epoch=2), seconds=5.0)
    'epochs'
    >>> Budget(epochs=2, minutes=1.0, steps=10).done(Position(step=5), seconds=45.0)
    0.75
    """

    epochs: int | None = None
    minutes: float | None = None
    patience: int | None = None
    steps: int = 1

    def over(self, now: Position, seconds: float) -> str:
        """Why the training is over, "minutes", "epochs" or "patience"; empty if it is not."""
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return "minutes"
        if self.epochs is not None and now.epoch >= self.epochs:
            return "epochs"
        waited = 0 if now.best_epoch is None else now.epoch - now.best_epoch
        return "patience" if self.patience is not None and waited >= self.patience else ""

    def done(self, now: Position, seconds: float) -> float:
        """How much of the budget is spent, 0 to 1."""
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return by_time if self.epochs is None else max(by_time, now.step / (self.epochs * self.steps))
