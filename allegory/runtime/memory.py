"""Memory: memory freed by one step is kept for the next.

The C library returns freed memory to the system as soon as it can, so that every step's tensors are mapped again, and
each 4 kB of them is first touched through a page fault: hundreds to thousands per step, up to a third of the time of a
small network on a CPU. Within `caching` it stays with the process; at the end free memory is returned. `trim` returns
it at once: with tensors of many sizes the heap fragments (a training that needs 150 MB was seen at 1,400), so it is
called from time to time while data sets larger than memory are read. Only glibc has these switches; elsewhere nothing
happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["caching", "trim"]

TRIM, MAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
KEPT, LARGE = 2**30, 2**25  # bytes: the most free memory to keep; the size from which a block is mapped on its own
inside = 0


@cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):  # Windows has no library of that name
        return None


@contextmanager
def caching() -> Iterator[None]:
    """Freed memory stays with the process until the outermost of these contexts ends.

    >>> with caching():
    ...     record = al.fit(model, x, epochs=1)
    """
    global inside
    library = _glibc()
    if library is None:
        yield
        return
    inside += 1
    library.mallopt(MAP, LARGE)
    library.mallopt(TRIM, KEPT)
    try:
        yield
    finally:
        inside -= 1
        if not inside:
            library.mallopt(TRIM, 2 * LARGE)  # the value that glibc itself adapts to after large tensors
            trim()


def trim() -> None:
    """Returns free memory to the system, including holes in the heap."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
