r"""Schedules: the learning rate and the KL's weight at each step.

    schedule(step, done) -> value       step: updates so far; done: how much of the budget is spent, 0 to 1

A schedule is any function: `fit(..., lr=lambda step, done: 1e-3 / (1 + step)**0.5)`. Those here have a repr with their
settings, so that a run records what it was trained with.

    Cosine      peak * min(1, (step + 1) / warmup) * [final + (1 - final) (1 + cos(pi done)) / 2]
    Warmup      value * min(1, (step + 1) / steps): the KL's weight grows in steps, whatever the size of the data
    Cyclical    the same again and again, every `period` steps                                  (Fu et al. 2019)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Cosine", "Cyclical", "Schedule", "Warmup", "WithinMinutes", "warmup_steps"]

WARMUP_SHARE = 0.25

Schedule = Callable[[int, float], Any]
"""(step, done) -> a number; for beta also one for each level, level 1 first."""


@dataclass(frozen=True)
class Cosine:
    """A linear warm-up to `peak`, then a cosine down to the fraction `final` of it at the end of the budget.

    Args:
        peak: the largest value.
        warmup: steps to reach it.
        final: the fraction of it that is left at the end.

    >>> rate = Cosine(1e-3, warmup=10)
    >>> rate(0, 0.0), rate(9, 0.0), rate(1000, 1.0)
    (0.0001, 0.001, 0.0)
    """

    peak: float
    warmup: int = 0
    final: float = 0.0

    def __call__(self, step: int, done: float) -> float:
        cosine = self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        return self.peak * min(1.0, (step + 1) / max(1, self.warmup)) * cosine


@dataclass(frozen=True)
class Warmup:
    """A linear warm-up to `value`, constant afterwards.

    Args:
        value: a number, or one for each level, level 1 first.
        steps: to reach it.

    >>> Warmup(1.0, steps=4)(0, 0.0), Warmup([1.0, 0.5], steps=4)(1, 0.0)
    (0.25, tensor([0.5000, 0.2500]))
    """

    value: float | Sequence[float] = 1.0
    steps: int = 0

    def __call__(self, step: int, done: float) -> Any:
        return _scaled(self.value, min(1.0, (step + 1) / max(1, self.steps)))


@dataclass(frozen=True)
class Cyclical:
    """A warm-up that restarts every `period` steps: levels that have collapsed get another chance (Fu et al. 2019).

    Args:
        value: as in `Warmup`.
        period: steps per cycle.
        rise: the fraction of a cycle in which the value is reached; it then stays until the next cycle begins.

    >>> beta = Cyclical(1.0, period=100, rise=0.5)
    >>> beta(0, 0.0), beta(49, 0.0), beta(99, 0.0), beta(100, 0.0)
    (0.02, 1.0, 1.0, 0.02)
    """

    value: float | Sequence[float] = 1.0
    period: int = 1000
    rise: float = 0.5

    def __post_init__(self) -> None:
        if self.period < 1 or not 0 < self.rise <= 1:
            raise ValueError(f"{self!r}: wanted a period of at least one step, and a rise above 0 and up to 1")

    def __call__(self, step: int, done: float) -> Any:
        return _scaled(self.value, min(1.0, (step % self.period + 1) / (self.rise * self.period)))


class WithinMinutes:
    """A schedule for a budget in minutes: its warm-up ends within a quarter of it, however few steps a machine takes.

    Args:
        schedule: of any kind.

    >>> beta = WithinMinutes(Warmup(1.0, steps=1000))
    >>> beta(9, 0.0), beta(9, 0.125), beta(9, 0.25)
    (0.01, 0.501, 1.0)
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.warmup = schedule, warmup_steps(schedule)

    def __call__(self, step: int, done: float) -> Any:
        return self.schedule(max(step, math.floor(self.warmup * done / WARMUP_SHARE)), done)


def warmup_steps(schedule: Any) -> int:
    """The steps of a schedule's warm-up, of those that are known to have one.

    >>> warmup_steps(Cosine(1e-3, warmup=10)), warmup_steps(lambda step, done: 1.0)
    (10, 0)
    """
    schedule = getattr(schedule, "schedule", schedule)
    if isinstance(schedule, Cosine):
        return schedule.warmup
    return schedule.steps if isinstance(schedule, Warmup) else 0


def _scaled(value: float | Sequence[float], factor: float) -> Any:
    return value * factor if isinstance(value, int | float) else torch.tensor(value) * factor
