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

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt
TRIM_BYTES, MMAP_BYTES = 2**30, 2**25  # the most free memory to keep; from which size on a block is mapped on its own
nesting = 0  # of these contexts


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
    global nesting
    library = _glibc()
    if library is None:
        yield
        return
    nesting += 1
    library.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
    try:
        yield
    finally:
        nesting -= 1
        if not nesting:
            library.mallopt(M_TRIM_THRESHOLD, 2 * MMAP_BYTES)  # what glibc itself adapts to after large tensors
            trim()


def trim() -> None:
    """Returns free memory to the system, including holes in the heap."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
