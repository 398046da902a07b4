"""Training: one loop, its parts, and the runs it writes."""

from allegory.training import trackers
from allegory.training.checkpoint import load, save
from allegory.training.loop import fit
from allegory.training.schedule import Cosine, Cyclical, Warmup
from allegory.training.state import Record

__all__ = ["Cosine", "Cyclical", "Record", "Warmup", "fit", "load", "save", "trackers"]
