"""OpenMP: its threads, when they wait for each other, sleep soon."""

from __future__ import annotations

import os
import sys

__all__ = ["limit_spinning"]


def limit_spinning() -> None:
    """Sets `GOMP_SPINCOUNT=1000`, unless the user says otherwise. OpenMP's threads spin for milliseconds by default:
    that is a few per cent faster on idle cores, four times as slow beside one busy process, and on some virtual
    machines, which move a thread only when it wakes, half as fast. Without effect once torch is loaded.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
