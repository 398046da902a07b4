"""Memory: memory freed by one step is kept for the next.

The C library returns freed memory to the system as soon as it can, so that every step's tensors are mapped again, and
each 4 kB of them is first touched through a page fault: hundreds to thousands per step, up to a third of the time of a
small network on a CPU. Within `caching` it stays with the process; at the end free memory is returned. `trim` returns
it at once: with tensors of many sizes the heap fragments (a training that needs 150 MB was seen at 1,400), so it is
called from time to time while data sets larger than memory are read. Only glibc has these switches; elsewhere nothing
happens.

`available` says how much there is, since Linux gives out more than it has, and kills who uses it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["available", "caching", "trim"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt
TRIM_BYTES, MMAP_BYTES = 2**30, 2**25  # the most free memory to keep; from which size on a block is mapped on its own
nesting = 0  # of these contexts


def available() -> float:
    """Bytes of memory that this process may still take; infinite where the system does not say.

    >>> available() > 0
    True
    """
    found = [float("inf")]
    with suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024.0 * int(lines["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError):  # of a container
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(cached.get("inactive_file", 0)) + int(cached.get("active_file", 0)))
    return min(found)


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
