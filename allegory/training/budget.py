"""The budget of a training: when it is exhausted, and how much of it is spent.

    done = max(seconds / minutes, step / (epochs * steps))              all schedules are functions of it

Where validation stalls, which is when `patience` epochs have brought no better bound, the rest of the schedules is gone
through in as many epochs, from where the weights were best, whatever is left of the budget:

    done = d + (1 - d) (step - s) / (patience * steps)                  d, s: the share done and the step at the stall
"""

from __future__ import annotations

from dataclasses import dataclass

from allegory.training.state import Position

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """The limits of a training; the first one reached ends it.

    Args:
        epochs, minutes: at most; None for no limit.
        patience: epochs without a better validation bound; and epochs of annealing after that.
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
        return "patience" if self.patience is not None and self._annealed(now) >= 1 else ""

    def stalled(self, now: Position) -> bool:
        """Whether it is time to anneal: there was no better bound for `patience` epochs."""
        waited = 0 if now.best_epoch is None else now.epoch - now.best_epoch
        return self.patience is not None and now.stall_step is None and waited >= self.patience

    def done(self, now: Position, seconds: float) -> float:
        """How much of the budget is spent, 0 to 1."""
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        by_step = 0.0 if self.epochs is None else now.step / (self.epochs * self.steps)
        annealed = min(1.0, self._annealed(now))
        return max(by_time, by_step, now.stall_done + (1 - now.stall_done) * annealed if annealed else 0.0)

    def _annealed(self, now: Position) -> float:
        """How much of the annealing after a stall has been gone through; 0 before that."""
        if self.patience is None or now.stall_step is None:
            return 0.0
        return (now.step - now.stall_step) / (self.patience * self.steps)
