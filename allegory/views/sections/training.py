r"""The training: the bound and its parts over the epochs, in validation and in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allegory.views import plots
from allegory.views.layout import Figure, Section, evenly_spaced
from allegory.views.runs import Summary

__all__ = ["training"]

EPOCHS = 400  # of a curve
HEIGHT = 3.5  # of the plots, with room for their legends


def training(summary: Summary, settings: dict[str, Any], history: list[dict[str, Any]]) -> Section:
    """The curves of a training.

    Args:
        summary: of the run.
        settings: of `fit`.
        history: a line per epoch.
    """
    section, skipped = Section("Training"), sum(line.get("skipped", 0) for line in history)
    history = [history[i] for i in evenly_spaced(range(len(history)), EPOCHS)]
    if len(history) < 2:
        saved = summary.stopped == "saved"
        section.words = [
            "The model was saved without a training history." if saved else "There are too few epochs for a curve."
        ]
        return section
    best, baseline = summary.best_epoch, summary.baseline
    beside = "" if baseline is None else " Dashed: independent elements, on the same data."
    beta = settings.get("beta", 1.0)
    warmed = 0.0 if isinstance(beta, str) else _warmed(history)
    rises = " Until the warm-up of the KL has ended, what is maximised in training is no bound." if warmed else ""
    curves = plots.bounds(history, best, baseline, warmed, height=HEIGHT)
    section.figures = [Figure([curves], f"The bound over training; higher is better.{beside}{rises}")]
    if "kl_per_level" in history[0]:
        caption = "-ELBO on the validation data, lower is better: -reconstruction, and on it the rates of the levels."
        names = ("rates below the top", "rate of the top") if summary.fixed else ()
        low, _ = plots.stack_limits(history)
        caption += " The axis does not begin at zero: the grey area is cut off." if low > 0 else ""
        section.figures.append(
            Figure([plots.parts(history, best, baseline, names, height=HEIGHT)], f"{caption}{beside}")
        )
    parts = beta if isinstance(beta, list) else [beta]
    whole = ", ".join(part if isinstance(part, str) else f"{part:g}" for part in parts)
    caption = "The learning rate and the weight of the KL, each as a fraction of its maximum."
    section.figures.append(Figure([plots.schedule(history, whole, height=HEIGHT)], caption))
    norms = [line.get("gradient_norm", math.nan) for line in history]
    if all(norm > 0 and math.isfinite(norm) for norm in norms):
        caption = "The norm of the gradient, its mean over each epoch, before it is clipped."
        section.figures.append(Figure([plots.gradients(history, height=HEIGHT)], caption))
    if best is not None:
        epoch = f"{round(best, 2):g}"
        section.words.append(f"The weights are those of epoch {epoch}, with a validation bound of {summary.bound:.2f}.")
    if skipped:
        section.words.append(f"{skipped:,} of {summary.steps:,} gradients were skipped, far above the usual size.")
    return section


def _warmed(history: list[dict[str, Any]]) -> float:
    """The first epoch at whose end the KL has its full weight; 0 without a warm-up."""
    cold = [float(np.mean(line["beta"])) < 1 for line in history]
    if not cold[0]:
        return 0.0
    epochs = [line["epoch"] for line in history]
    return float(epochs[cold.index(False)] if False in cold else epochs[-1])
