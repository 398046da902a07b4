"""Memory: what a step frees is caching for the next step.

The C library gives freed memory back to the system as soon as it can, so that every step's tensors are mapped anew, and
each 4 kB of them is first touched through a page fault: hundreds to thousands a step, up to a third of the time of a
small network on a CPU. Within `caching` it stays with the process; at the end what is free goes back. `trim` gives it
back at once: with tensors of many sizes that come and go, the heap grows into its own holes (a training that needs 150
MB was seen at 1,400), so it is called now and then where sets larger than memory are read. glibc alone has the
switches; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["caching", "trim"]

TRIM, MAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
KEPT, LARGE = 2**30, 2**25  # bytes: free ones that are caching, at most; what is mapped by itself, always
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
    """Freed memory stays with the process until the outermost of these ends.

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
            library.mallopt(TRIM, 2 * LARGE)  # where glibc itself arrives after large tensors
            trim()


def trim() -> None:
    """What is free goes back to the system, holes in the heap too."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
