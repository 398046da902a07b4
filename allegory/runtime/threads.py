r"""Several threads: one of them trains or scores at a time, and the others wait.

torch's generator, the argument checks of its distributions and Python's warning filters belong to the whole process.
What trains or scores switches them and puts them back; of two that overlapped, the results would depend on which comes
first, and what the last one puts back is what the other had switched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_at_a_time"]

_lock = threading.RLock()  # what trains also scores, in the same thread


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits until no other thread trains or scores."""
    with _lock:
        yield
