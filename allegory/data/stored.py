r"""Examples that stay on disk and are read as they are drawn: for data sets larger than memory.

    Stored(source, rows)    takes the place of a tensor (N, *event) of data in `fit`, `evaluate`, `log_likelihood`,
                            `bound_curve` and `posterior_moments`
    Mapped(array)           a memory-mapped array, as its source
    Pictures(files, ...)    the images of a folder, as its source

A sparse matrix, `allegory.data.cells.Sparse`, is a source in memory, whose rows become dense as they are drawn.

Reading a single row from a disk takes as long as a piece of a quarter of a megabyte, and several pieces at once take as
long as one. So an epoch goes through the pieces in random order, and shuffles the examples within a pool of a few
hundred pieces at a time; while a pool is in use, the next one is read. A set no larger than a pool has the order that
it would have in memory.

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

from allegory.data.offsets import subtract_offset
from allegory.runtime.memory import trim

__all__ = ["Mapped", "Pictures", "Stored"]

CHUNK_NUMBERS = 2**22  # per part in a pass over the file
PIECE_BYTES, POOL_BYTES = 2**18, 2**26  # bytes
READ_THREADS = 8


class Stored:
    """(N, *event) float32 examples, read on indexing: `x[rows]` or `x[a:b]` is a tensor.

    Args:
        source: (M, *event) numbers. It has a shape, a dtype, and a piece, the number of rows that are best read
            together; indexed with a tensor of ascending rows of one piece it returns a tensor, in any thread.
        rows: (N,) the indices of these examples in the source; by default all of them.
        values: two values to be read as 0 and 1.
        device: the device of the tensors.

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
            raise ValueError(f"rows: wanted int64 from 0 to {len(source) - 1}, indices of the source's examples")
        self.range: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> Size:
        """(N, *event), as for a tensor."""
        return Size((len(self.rows), *self.source.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        x, places = self._read(index)
        return self._to_examples(x.index_select(0, places))

    def __repr__(self) -> str:
        return f"Stored{tuple(self.shape)}"

    def dim(self) -> int:
        """The number of dimensions, as for a tensor."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """True: examples are float32, whatever the dtype of the file."""
        return True

    def to(self, device: torch.device | str) -> Stored:
        """The same examples, read to another device."""
        return Stored(self.source, self.rows, self.values, device)

    def subset(self, rows: Tensor) -> Stored:
        """Some of these examples, (n,) rows, not read yet."""
        return Stored(self.source, self.rows[rows], self.values, self.device)

    def as_binary(self, values: tuple[float, float]) -> Stored:
        """The same examples, with two values read as 0 and 1."""
        return Stored(self.source, self.rows, values, self.device)

    def shuffled(self, generator: torch.Generator, batch: int) -> Tensor:
        """(N,) the order of an epoch: random pieces of the file, shuffled within pools of batches."""
        pool = self._pool_batches(batch) * batch
        if len(self) <= pool or getattr(self.source, "in_memory", False):
            return torch.randperm(len(self), generator=generator)
        pieces = self.in_file_order().split(self.source.piece)
        order = torch.cat([pieces[i] for i in torch.randperm(len(pieces), generator=generator)])
        for part in order.split(pool):
            part.copy_(part[torch.randperm(len(part), generator=generator)])
        return order

    def prefetch(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The examples of batches, each given by its rows, (n,): a pool of batches is read while the previous one is in
        use.
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
                    if given > POOL_BYTES:
                        given = 0
                        trim()

    def chunks(self) -> Iterator[tuple[list[Any], Tensor]]:
        """All examples in the order of the file, a few million numbers at a time, with what their rows are called in
        it: by their numbers, or by the names of the images of a folder.
        """
        numbers = CHUNK_NUMBERS // 4 if getattr(self.source, "in_memory", False) else CHUNK_NUMBERS
        size, names = max(1, numbers // max(1, self.shape[1:].numel())), getattr(self.source, "names", None)
        for which in self.in_file_order().split(size):
            rows = self.rows[which].tolist()
            yield [names[row] for row in rows] if names else rows, self[which]

    def min(self) -> Tensor:
        """() the smallest number."""
        return self._range()[0]

    def max(self) -> Tensor:
        """() the largest number."""
        return self._range()[1]

    def _range(self) -> tuple[Tensor, Tensor]:
        """Computed once: it reads the whole file."""
        if self.range is None:
            both = [(part.min(), part.max()) for _, part in self.chunks()]
            self.range = torch.stack([low for low, _ in both]).min(), torch.stack([high for _, high in both]).max()
        return self.range

    def in_file_order(self) -> Tensor:
        """(N,) the places of these examples in the order of the source, that of `chunks`."""
        # usually they are in that order already, and sorting would take memory
        ascending = bool((self.rows[1:] > self.rows[:-1]).all())
        return torch.arange(len(self)) if ascending else self.rows.argsort()

    def _pool_batches(self, batch: int) -> int:
        """The number of batches of that size in a pool; of what is in memory as it is read, one."""
        if getattr(self.source, "in_memory", False):
            return 1
        return max(1, POOL_BYTES // max(1, batch * self.shape[1:].numel() * self.source.dtype.itemsize))

    def _read(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """(n, *event) the source's rows, in its order, read from several pieces in parallel; (n,) the position of each.

        In numpy only: in a thread other than the training thread, torch would start a second team of OpenMP threads,
        and once there are more of them than processors, every training step is slower, by up to a half.
        """
        asked = self.rows.numpy()[index.numpy(force=True) if isinstance(index, Tensor) else index]
        order = asked.argsort()
        rows, places = asked[order], np.empty_like(order)
        places[order] = np.arange(len(order))
        x = torch.empty(len(rows), *self.shape[1:], dtype=self.source.dtype)
        numbers, starts = x.numpy(), np.flatnonzero(np.diff(rows // self.source.piece, prepend=-1))

        def fill(start: int, stop: int) -> None:
            numbers[start:stop] = self.source[torch.from_numpy(rows[start:stop])].numpy()

        with ThreadPoolExecutor(READ_THREADS) as readers:
            list(readers.map(fill, starts, [*starts[1:], len(rows)]))
        return x, torch.from_numpy(places)

    def _to_examples(self, x: Tensor) -> Tensor:
        """Rows of the source as examples for the model."""
        x = x.to(self.device, non_blocking=True)
        if self.values is not None:
            second = (x == self.values[1]).to(self.dtype)
            return torch.where(x.isnan(), x.to(self.dtype), second) if x.is_floating_point() else second
        return x.to(self.dtype)


class Mapped:
    """A memory-mapped array as a source. It is read from its file, since access to the mapped memory waits for the
    disk page by page.

    Args:
        array: (M, *event) real numbers of any type, as `numpy.load` returns them with `mmap_mode="r"`: the whole
            array, since a slice does not record where in the file it begins.
        offset: (*event) float64, what is taken off before the cast to float32; None for nothing.

    Raises:
        ValueError: a slice, or Fortran order; or, when it is read, a file that has become shorter.
    """

    def __init__(self, array: np.memmap[Any, Any], offset: Any = None) -> None:
        if isinstance(array.base, np.memmap) or not array.flags.c_contiguous:
            raise ValueError(
                f"{array.filename}: wanted the whole array in C order, as numpy.load(..., mmap_mode='r') returns it, "
                "not a slice of it; select examples with Stored(source, rows)"
            )
        self.array, self.offset, self.shape = array, offset, Size(array.shape)
        self.dtype = torch.uint8 if array.dtype in (np.uint8, np.bool_) else torch.float32
        self.size = array.itemsize * self.shape[1:].numel()  # of a row, in bytes
        self.piece = max(1, PIECE_BYTES // max(1, self.size))

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
            raise ValueError(f"{self.array.filename} has become shorter while it was in use: row {last} is missing")
        whole = bool((np.diff(rows.numpy()) == 1).all())
        chosen = numbers if whole else numbers[(rows - first).numpy()]
        moved = subtract_offset(chosen, self.offset)
        return torch.from_numpy(moved.astype(np.uint8 if self.dtype == torch.uint8 else np.float32, copy=False))


class Pictures:
    """The images of a folder as a source: (M, C, H, W) uint8, or float32 if deeper, each decoded on access.

    Args:
        folder: of the images.
        names: their paths in it; all are of one size.
        read: maps a file to its (H, W, 3) array.
        shape: of an image, (C, H, W); C = 1 if all are grey.
        bits: per channel, 8 or 16.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], read: Callable[[Path], Any], shape: Sequence[int], bits: int = 8
    ) -> None:
        self.folder, self.names, self.read, self.shape = folder, names, read, Size((len(names), *shape))
        self.dtype, self.piece = torch.uint8 if bits == 8 else torch.float32, 1

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        images = np.stack([self.read(self.folder / self.names[row]) for row in rows.tolist()]).transpose(0, 3, 1, 2)
        kept = images[:, : self.shape[1]]
        return torch.from_numpy(kept if self.dtype == torch.uint8 else kept.astype(np.float32))
