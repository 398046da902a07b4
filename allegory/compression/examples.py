r"""Examples as whole numbers: which numbers x consists of, and what a chunk has to say of its own.

    x = value(k) + what is left of the digits that x was stored with

A range that has no end, or a wide one, is that of the chunk; where the law says nothing of gaps, how often each element
is missing is. Digits that a multiple of the step does not have, such as those of 0.1 + 0.2, are kept beside the code.

Shapes: N examples of a chunk; x is (N, *event), C columns in a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Bernoulli, Independent

from allegory.columnar import Columns
from allegory.compression.lattice import Lattice, lattice_of
from allegory.compression.masses import Coding
from allegory.gaps import takes_gaps
from allegory.runtime.messages import describe_index
from allegory.tabular.resolution import Step, find_step

__all__ = ["Examples", "Resolution", "digits_beside", "find_resolution", "with_digits"]

KNOWN = 256  # values, up to which a law's own range is taken
LISTED = 10**6  # different values of a column, up to which its step is looked for
WIDE = 64  # columns, from which on all have one step

Resolution = tuple[list[float], list[float]]
"""Step and origin of each column of a table, or of all elements."""


@dataclass(frozen=True)
class _Part:
    """Elements whose laws are of one kind.

    Attributes:
        columns: (C,) which; None for the whole event.
        lattice: of them; None where the law has no numbers of its own, such as a tree.
        gaps: whether they may be missing, and the law says nothing of that.
    """

    columns: Tensor | None
    lattice: Lattice | None
    gaps: bool

    def of(self, x: Tensor) -> Tensor:
        return x if self.columns is None else x[..., self.columns]


class Examples:
    """What the numbers of x are.

    Args:
        law: p(x | z_1), (1, *event).
        resolution: of densities.

    Raises:
        ValueError: a law over what is no lattice; a density without a resolution.
    """

    def __init__(self, law: Any, resolution: Resolution | None = None) -> None:
        self.event = law.event_shape
        step = None if resolution is None else tuple(torch.tensor(part, dtype=torch.float64) for part in resolution)
        if isinstance(law, Columns):
            self.parts = [
                _part(part, columns, None if step is None else tuple(each[columns] for each in step))
                for part, columns in zip(law.parts, law.columns, strict=True)
            ]
        else:
            self.parts = [_part(law, None, step)]
        self.many = isinstance(law, Columns)

    def exact(self, x: Tensor, first: int = 0) -> Tensor:
        """(N, *event) float64, the multiples that x are.

        Args:
            first: the number of the first row, for messages.

        Raises:
            ValueError: numbers that are none.
        """
        found = x.double().clone()
        for part in self.parts:
            if part.lattice is None:
                continue
            own = part.of(found)
            k = part.lattice.index(own)
            value = part.lattice.value(k)
            outside = (k < part.lattice.first) | (k > part.lattice.last)
            if bool(outside.any()) or not torch.equal(own, value):  # seldom; it takes time
                digits = 8 * torch.finfo(x.dtype).eps * own.abs()
                wrong = (own - value).abs() > 1e-3 * part.lattice.step + digits
                self._check_whole(wrong | outside & ~own.isnan(), own, part, first)
                value = value.masked_fill(own.isnan(), torch.nan)
            if part.columns is None:
                found = value
            else:
                found[..., part.columns] = value
        return found

    def _check_whole(self, wrong: Tensor, own: Tensor, part: _Part, first: int) -> None:
        if not bool(wrong.any()):
            return
        row, *rest = at = tuple(wrong.nonzero()[0].tolist())
        place = rest if part.columns is None else [int(part.columns[rest[0]])]
        assert part.lattice is not None
        raise ValueError(
            f"x: {own[at].item():.10g} in {describe_index([first + row, *place])} is no multiple of the resolution "
            f"{part.lattice.step.expand(own.shape)[at].item():g}, and {int(wrong.sum()) - 1} more are none: wanted a "
            "smaller resolution="
        )

    def log_steps(self, x: Tensor) -> float:
        """The sum over x: (N, *event) of the logarithms of the steps of densities, by which they become masses."""
        total = 0.0
        for part in self.parts:
            if part.lattice is not None and part.lattice.between:
                own = part.of(x)
                total += float(part.lattice.step.log().expand(own.shape)[~own.isnan()].sum())
        return total

    def nats_of_gaps(self, x: Tensor) -> float:
        """What it takes to say which of x: (N, *event) are missing, where the law does not say it."""
        total = 0.0
        for part in self.parts:
            if part.gaps:
                share = part.of(x).isnan().double().mean(0)
                total += len(x) * float(Bernoulli(share, validate_args=False).entropy().sum())
        return total

    def measure(self, x: Tensor) -> list[int]:
        """What the receiver has to know of exact x: (N, *event)."""
        found: list[int] = []
        for part in self.parts:
            own = part.of(x)
            missing = own.isnan()
            if part.gaps:
                found += [int(missing.any()), *(missing.sum(0).flatten().tolist() if bool(missing.any()) else ())]
            if part.lattice is not None and part.lattice.count > KNOWN:
                k = part.lattice.index(own)
                low, high = k.masked_fill(missing, 2**62).amin(0), k.masked_fill(missing, -(2**62)).amax(0)
                ends = (torch.where(missing.all(0), 0, end).flatten() for end in (low, high - low))
                found += torch.cat([*ends]).tolist()
        return found

    def coding(self, measured: Iterator[int], rows: int) -> Any:
        """How p(x | z_1) is coded, of what `measure` found in so many rows; of columns a list."""
        found = []
        for part in self.parts:
            event = self.event if part.columns is None else Size((len(part.columns),))

            def take(event: Size = event) -> Tensor:
                return torch.tensor([next(measured) for _ in range(event.numel())]).view(event)

            gaps = take() / rows if part.gaps and next(measured) else None
            lattice = part.lattice
            if lattice is not None and lattice.count > KNOWN:
                low = take()
                lattice = lattice.within(low, low + take())
            found.append(Coding(lattice, gaps=gaps))
        return found if self.many else found[0]


def _part(law: Any, columns: Tensor | None, resolution: Any) -> _Part:
    gaps = takes_gaps(law) and not hasattr(law.base_dist, "log_missing")
    if not isinstance(law, Independent) or law.base_dist.event_shape:
        return _Part(columns, None, gaps)
    of_values = getattr(law.base_dist, "law", law.base_dist) if hasattr(law.base_dist, "log_missing") else law.base_dist
    return _Part(columns, lattice_of(of_values, resolution), gaps)


def digits_beside(x: Tensor, exact: Tensor) -> list[int]:
    """Where x: (N, *event) is stored with other digits than the multiples it is, and by how many units in the last
    place they differ; a flat list.
    """
    stored, made = (_digits(part) for part in (x.contiguous(), exact.to(x.dtype).contiguous()))
    at = np.flatnonzero(stored != made)
    return [len(at), *np.diff(at, prepend=0).tolist(), *(stored[at] - made[at]).tolist()]


def with_digits(exact: Tensor, dtype: torch.dtype, digits: Iterator[int]) -> Tensor:
    """X as it was stored, (N, *event); the opposite."""
    x = exact.to(dtype).contiguous()
    count = next(digits)
    at = np.cumsum([next(digits) for _ in range(count)], dtype=np.int64)
    _digits(x)[at] += np.array([next(digits) for _ in range(count)], dtype=_digits(x).dtype)
    return x


def _digits(x: Tensor) -> Any:
    """The bits of x as whole numbers, of which neighbours are neighbours."""
    return x.view(-1).numpy().view(f"i{x.element_size()}")


def find_resolution(x: Any, event: Sequence[int]) -> Resolution | None:
    """The smallest step of the numbers in x, of each column of a table, else of all; 0 where there is none.

    Args:
        x: (N, *event), a tensor or what is read by slices.
        event: the shape of an example.
    """
    columns = event[0] if len(event) == 1 else 1
    values: list[Any] = [np.zeros(0, np.float32)] * columns
    for begin in range(0, len(x), 10_000):
        rows = x[begin : begin + 10_000].numpy().reshape(-1, columns)
        for c in range(columns):
            found = rows[:, c][~np.isnan(rows[:, c])]
            values[c] = np.union1d(values[c].astype(rows.dtype), found)
            if len(values[c]) > LISTED:
                return None
    overall = find_step(np.unique(np.concatenate(values)))
    steps = [overall] * columns if columns > WIDE and overall else [find_step(each) or overall for each in values]
    none = Step(0.0)
    return [(step or none).size for step in steps], [(step or none).anchor for step in steps]
