"""Training: one loop, and what is kept of it."""

from allegory.training import trackers
from allegory.training.checkpoint import load, save
from allegory.training.loop import Record, fit

__all__ = ["Record", "fit", "load", "save", "trackers"]
