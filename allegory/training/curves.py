"""Curves: how a training went, drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["draw_history"]


def draw_history(axis: Any, history: Sequence[dict[str, Any]]) -> None:
    """Draws the objective in training and the bound in validation against epochs, nats per example.

    Args:
        axis: of matplotlib.
        history: a line per epoch, as `Record.history`.
    """
    from matplotlib.ticker import MaxNLocator  # when it is needed: importing it takes a while

    epoch = [line["epoch"] for line in history]
    shown = {"objective, training": "train", "bound, validation": "bound", "ELBO, validation": "elbo"}
    for label, key in shown.items():
        values: list[Any] = [line.get(key) for line in history]
        if None in values or (key == "elbo" and np.allclose(values, [line["bound"] for line in history])):
            continue
        axis.plot(epoch, values, label=label)
    finite = [v for line in history for key in ("train", "bound") if math.isfinite(v := line.get(key, math.nan))]
    if len(finite) > 10:  # the first epochs are far below, and would hide the others
        low, high = np.quantile(finite, 0.08), max(finite)
        axis.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
    axis.set(xlabel="epoch", ylabel="nats per example")
    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axis.legend(loc="lower right")
