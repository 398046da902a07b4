r"""Examples that stay in their files, and are read as they are drawn: for sets that are larger than memory.

    Stored(source, rows)    stands for a tensor (N, *event) of data in `fit`, `evaluate`, `log_likelihood`,
                            `bound_curve` and `posterior_moments`
    Mapped(array)           a memory-mapped array, as its source
    Pictures(files, ...)    the images of a folder, as its source

Shapes: M examples in the source, N of them here, *event the shape of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

__all__ = ["Mapped", "Pictures", "Stored"]

NUMBERS = 2**24  # of a piece


class Stored:
    """(N, *event) float32 examples, read when they are asked for: `x[rows]` or `x[a:b]` is a tensor.

    Args:
        source: (M, *event) numbers of any type: it has a shape, and gives a tensor for a tensor of rows.
        rows: (N,) which of the source's examples these are; by default all of them.
        values: two values to be taken as 0 and 1.
        device: where to put what is read.

    >>> x = Stored(torch.arange(12, dtype=torch.uint8).view(6, 2), torch.tensor([4, 0, 2]))
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
        self.range: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> Size:
        """(N, *event), as of a tensor."""
        return Size((len(self.rows), *self.source.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        rows = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        return self._read(rows)

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

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """All examples in the order of the file, some million numbers at a time, and what to call them."""
        size = max(1, NUMBERS // max(1, self.shape[1:].numel()))
        for rows in self.rows.sort().values.split(size):
            yield f"examples {int(rows[0])} to {int(rows[-1])} of the file", self._read(rows)

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

    def _read(self, rows: Tensor) -> Tensor:
        x = self.source[rows]
        x = x.to(self.dtype) if self.values is None else (x == self.values[1]).to(self.dtype)
        return x.to(self.device)


class Mapped:
    """A memory-mapped array as a source.

    Args:
        array: (M, *event) real numbers of any type.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array, self.shape = array, Size(array.shape)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.take(self.array, rows.numpy(), 0).astype(np.float32))


class Pictures:
    """The images of a folder as a source: (M, C, H, W) uint8, each decoded when it is asked for.

    Args:
        files: of the images, all of one size.
        read: the file's (H, W, 3) array.
        shape: of an image, (C, H, W); C = 1 where all are grey.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], Any], shape: Sequence[int]) -> None:
        self.files, self.read, self.shape = files, read, Size((len(files), *shape))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Tensor) -> Tensor:
        images = [torch.tensor(self.read(self.files[row])) for row in rows.tolist()]
        if not images:
            return torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        return torch.stack(images).permute(0, 3, 1, 2)[:, : self.shape[1]]
