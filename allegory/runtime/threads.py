r"""Several threads: one of them trains or scores at a time, and the others wait.

torch's generator, the argument checks of its distributions and Python's warning filters belong to the whole process.
What trains or scores switches them and puts them back; of two that overlapped, the results would depend on which comes
first, and what the last one puts back is what the other had switched. A thread that waits for longer than a moment says
for which one.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_at_a_time"]

SILENT_SECONDS = 2.0  # seconds of waiting of which nothing is said

_lock = threading.RLock()  # what trains also scores, in the same thread
_owner = ""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits until no other thread trains or scores."""
    global _owner
    lock = _lock
    if not lock.acquire(timeout=SILENT_SECONDS):
        warnings.warn(
            f"thread {threading.current_thread().name} waits for thread {_owner}, which trains or scores: one at a "
            "time does in a process, since torch's generator belongs to all of it; use several processes to do both",
            stacklevel=3,
        )
        lock.acquire()
    _owner = threading.current_thread().name
    try:
        yield
    finally:
        lock.release()


def _renew() -> None:
    """In a process that was forked nobody trains: the thread that did is not in it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
