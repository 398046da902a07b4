r"""Examples that stay in their files, and are read as they are drawn: for sets that are larger than memory.

    Stored(source, rows)    stands for a tensor (N, *event) of data in `fit`, `evaluate`, `log_likelihood`,
                            `bound_curve` and `posterior_moments`
    Mapped(array)           a memory-mapped array, as its source
    Pictures(files, ...)    the images of a folder, as its source

A disk gives a row from somewhere no sooner than a piece of a quarter of a megabyte, and many pieces at once as soon as
one. So an epoch goes through the pieces in random order, and mixes the examples of one pool of some hundred pieces at
a time; while a pool is in use, the next one is read. A set that is not larger than a pool is in the order that it would
have in memory.

Shapes: M examples in the source, N of them here, *event the shape of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from allegory.runtime.memory import trim

__all__ = ["Mapped", "Pictures", "Stored"]

NUMBERS = 2**22  # that are looked at together
PIECE, POOL = 2**18, 2**26  # bytes
READERS = 8


class Stored:
    """(N, *event) float32 examples, read when they are asked for: `x[rows]` or `x[a:b]` is a tensor.

    Args:
        source: (M, *event) numbers. It has a shape, the dtype of what it gives, and the number of rows that are best
            read together, its piece; for a tensor of ascending rows of one piece it gives a tensor, in any thread.
        rows: (N,) which of the source's examples these are; by default all of them.
        values: two values to be taken as 0 and 1.
        device: where to put what is read.

    >>> np.save("x.npy", np.arange(12, dtype="u1").reshape(6, 2))
    >>> x = Stored(Mapped(np.load("x.npy", mmap_mode="r")), torch.tensor([4, 0, 2]))
    >>> x.shape, x[1:]
    (torch.Size([3, 2]), tensor([[0., 1.],
            [4., 5.]]))
    """

    dtype = torch.float32

    def __init__(
        self,
        source: Any,
        rows: Tensor | None = None,
        values: tuple[float, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.values, self.device = source, values, torch.device(device)
        self.rows = torch.arange(len(source)) if rows is None else rows
        ends = [int(end) for end in self.rows.aminmax()] if len(self.rows) else []
        if self.rows.dtype != torch.int64 or any(not 0 <= end < len(source) for end in ends):
            raise ValueError(f"rows: wanted int64 from 0 to {len(source) - 1}, which of the source's examples")
        self.range: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> Size:
        """(N, *event), as of a tensor."""
        return Size((len(self.rows), *self.source.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        x, places = self._read(index)
        return self._to_examples(x.index_select(0, places))

    def __repr__(self) -> str:
        return f"Stored{tuple(self.shape)}"

    def dim(self) -> int:
        """1 and the dimensions of an example."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """What is read is, whatever the file has."""
        return True

    def to(self, device: torch.device | str) -> Stored:
        """The same, to be put on another device when it is read."""
        return Stored(self.source, self.rows, self.values, device)

    def subset(self, rows: Tensor) -> Stored:
        """Some of these examples, (n,) rows, not read yet."""
        return Stored(self.source, self.rows[rows], self.values, self.device)

    def taken_as_bits(self, values: tuple[float, float]) -> Stored:
        """The same with two values taken as 0 and 1."""
        return Stored(self.source, self.rows, values, self.device)

    def shuffled(self, generator: torch.Generator, batch: int) -> Tensor:
        """(N,) all of them, to be drawn in this order: random pieces of the file, mixed within a pool of batches."""
        pool = self._pool_batches(batch) * batch
        if len(self) <= pool:
            return torch.randperm(len(self), generator=generator)
        pieces = self._in_file_order().split(self.source.piece)
        order = torch.cat([pieces[i] for i in torch.randperm(len(pieces), generator=generator)])
        for part in order.split(pool):
            part.copy_(part[torch.randperm(len(part), generator=generator)])
        return order

    def ahead(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The examples of batches of which (n,) are given: a pool of them at a time is read while the one before is
        in use.
        """
        several = self._pool_batches(max(map(len, batches), default=1))
        pools = [batches[i : i + several] for i in range(0, len(batches), several)]
        with ThreadPoolExecutor(1) as reader:
            given = 0  # bytes, since memory was last trimmed
            coming = [reader.submit(self._read, torch.cat([*pool])) for pool in pools[:1]]
            for i, pool in enumerate(pools, start=1):
                x, places = coming[0].result()
                coming = [reader.submit(self._read, torch.cat([*following])) for following in pools[i : i + 1]]
                for where in places.split([len(batch) for batch in pool]):
                    examples = self._to_examples(x.index_select(0, where))
                    yield examples
                    given += examples.nbytes
                    if given > POOL:
                        given = 0
                        trim()

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """All examples in the order of the file, some million numbers at a time, and what to call them."""
        size = max(1, NUMBERS // max(1, self.shape[1:].numel()))
        for which in self._in_file_order().split(size):
            rows = self.rows[which]
            yield f"examples {int(rows[0])} to {int(rows[-1])} of the file", self[which]

    def min(self) -> Tensor:
        """() the smallest number."""
        return self._range()[0]

    def max(self) -> Tensor:
        """() the largest number."""
        return self._range()[1]

    def _range(self) -> tuple[Tensor, Tensor]:
        """Read once: it may be a long way through."""
        if self.range is None:
            both = [(part.min(), part.max()) for _, part in self.pieces()]
            self.range = torch.stack([low for low, _ in both]).min(), torch.stack([high for _, high in both]).max()
        return self.range

    def _in_file_order(self) -> Tensor:
        """(N,) these examples in the order of the source; most often they are, and then no sorting takes memory."""
        ascending = bool((self.rows[1:] > self.rows[:-1]).all())
        return torch.arange(len(self)) if ascending else self.rows.argsort()

    def _pool_batches(self, batch: int) -> int:
        """How many batches of that size a pool has."""
        return max(1, POOL // max(1, batch * self.shape[1:].numel() * self.source.dtype.itemsize))

    def _read(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """(n, *event) what the source has, in its order, from many pieces at the same time; (n,) where in it each is.

        All by numpy: in a thread other than the one that trains, torch would start a second team of OpenMP threads, and
        as soon as there are more of them than processors, every step of the first is slower, by up to a half.
        """
        asked = self.rows.numpy()[index.numpy(force=True) if isinstance(index, Tensor) else index]
        order = asked.argsort()
        rows, places = asked[order], np.empty_like(order)
        places[order] = np.arange(len(order))
        x = torch.empty(len(rows), *self.shape[1:], dtype=self.source.dtype)
        numbers, starts = x.numpy(), np.flatnonzero(np.diff(rows // self.source.piece, prepend=-1))

        def fill(start: int, stop: int) -> None:
            numbers[start:stop] = self.source[torch.from_numpy(rows[start:stop])].numpy()

        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(fill, starts, [*starts[1:], len(rows)]))
        return x, torch.from_numpy(places)

    def _to_examples(self, x: Tensor) -> Tensor:
        """What the source has as what the model takes."""
        x = x.to(self.device, non_blocking=True)
        return x.to(self.dtype) if self.values is None else (x == self.values[1]).to(self.dtype)


class Mapped:
    """A memory-mapped array as a source. It is read from its file, since who touches the mapped memory waits for the
    disk page by page.

    Args:
        array: (M, *event) real numbers of any type, as `numpy.load` gives them with `mmap_mode="r"`: all of them, for a
            slice does not say where in the file it begins.

    Raises:
        ValueError: a slice, or numbers in Fortran's order; or, when it is read, a file that has become shorter.
    """

    def __init__(self, array: np.memmap[Any, Any]) -> None:
        if isinstance(array.base, np.memmap) or not array.flags.c_contiguous:
            raise ValueError(
                f"{array.filename}: wanted the whole array in C's order, as numpy.load(..., mmap_mode='r') gives it, "
                "not a slice of it; choose examples by Stored(source, rows)"
            )
        self.array, self.shape = array, Size(array.shape)
        self.dtype = torch.uint8 if array.dtype in (np.uint8, np.bool_) else torch.float32
        self.size = array.itemsize * self.shape[1:].numel()  # of a row, in bytes
        self.piece = max(1, PIECE // max(1, self.size))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        first, last = int(rows[0]), int(rows[-1])
        numbers = np.empty((last + 1 - first, *self.shape[1:]), self.array.dtype)
        with open(str(self.array.filename), "rb") as file:
            file.seek(self.array.offset + first * self.size)
            found = file.readinto(numbers.data) if numbers.size else 0
        if found < numbers.nbytes:
            raise ValueError(f"{self.array.filename} has become shorter while it was in use: row {last} is not there")
        whole = bool((np.diff(rows.numpy()) == 1).all())
        kept = numbers if whole else numbers[(rows - first).numpy()]
        return torch.from_numpy(kept.astype(np.uint8 if self.dtype == torch.uint8 else np.float32, copy=False))


class Pictures:
    """The images of a folder as a source: (M, C, H, W) uint8, each decoded when it is asked for.

    Args:
        files: of the images, all of one size.
        read: the file's (H, W, 3) array.
        shape: of an image, (C, H, W); C = 1 where all are grey.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], Any], shape: Sequence[int]) -> None:
        self.files, self.read, self.shape = files, read, Size((len(files), *shape))
        self.dtype, self.piece = torch.uint8, 1

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        images = np.stack([self.read(self.files[row]) for row in rows.tolist()])
        return torch.from_numpy(images.transpose(0, 3, 1, 2)[:, : self.shape[1]])
