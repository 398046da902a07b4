r"""Caveats: what is said of data when they are read: what was taken off them, where they have gaps, and what makes the
held-out splits no measure.

Shapes: N examples, *event the shape of one; N rows, D columns of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from allegory.data.cutting import chunks
from allegory.data.leakage import near_copies, overlap
from allegory.data.values import unlike
from allegory.tabular.findings import measured, repeats_by_chance

if TYPE_CHECKING:
    from allegory.data.splits import Data

__all__ = ["caveats"]

WINDOW_ROWS = 101  # rows of a file in which overlapping windows are looked for
HELD = ("valid", "test")


def caveats(data: Data) -> list[str]:
    """What is to be known of data that were read, one line each."""
    return [*_of_offset(data), *_of_gaps(data), *_of_splits(data)]


def _of_offset(data: Data) -> list[str]:
    """What was taken off the values."""
    if data.offset is None:
        return []
    columns, first = data.offset.flatten().nonzero()[:, 0].tolist(), data.offset[data.offset != 0][0].item()
    index = ", ".join(map(str, data.offset.nonzero()[0].tolist()))
    where = f"{'column' if data.offset.dim() == 1 else 'index'} {index}"
    more = f", and others off {len(columns) - 1} more" if len(columns) > 1 else ""
    taken = int(first) if first == round(first) else first
    return [
        f"{taken} is taken off {where}{more}, since float32 could not tell the values apart; densities do not depend "
        "on it, and what a run writes has it again"
    ]


def _of_gaps(data: Data) -> list[str]:
    """How many values of an array are missing, and where; a table says so column by column. What was said to stand for
    gaps, where there are none.
    """
    codes = ", ".join(map(str, data.asked.get("gaps", ())))
    nowhere = [f"gaps={codes}: no value is that, and none is missing"] if codes else []
    if data.schema is not None:
        return [] if any(column.gaps for column in data.schema.columns) else nowhere
    splits = [getattr(data, split) for split in ("train", *HELD)]
    missing = torch.stack([part.isnan().sum(0) for x in splits for part in chunks(x)]).sum(0)
    count, total = int(missing.sum()), sum(map(len, splits)) * missing.numel()
    if not count:
        return nowhere
    places = missing.flatten().nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, places[:8])) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
    where = f"column{'s' * (len(places) > 1)} {listed}" if missing.dim() == 1 else f"{len(places):,} of its elements"
    return [f"{count:,} of {total:,} values are NaN, in {where}: gaps, which are left out of the likelihood"]


def _of_splits(data: Data) -> list[str]:
    """What makes the held-out splits no measure: rows that also stand in another, or nearly, or in other units."""
    lines, sizes, counts = [], {split: len(getattr(data, split)) for split in HELD}, data.equal_rows()
    equal = [f"{counts[split]} of {sizes[split]} {split} rows" for split in HELD if counts[split]]
    together = "rows that belong together stay together with --split groups, or ordered (in Python split=...)"
    if equal and not (data.schema is not None and repeats_by_chance(data.train.numpy(), sum(counts.values()))):
        lines.append(
            f"{' and '.join(equal)} equal rows of another split, so that what is held out may flatter the model; "
            f"{together}"
        )
    if data.split == "random" and (step := overlap(data._first_rows_of_file(WINDOW_ROWS))):
        lines.append(
            f"each row repeats the one before it, {step} further on, as windows of one series do: split at random, "
            "what is held out has nearly all been seen; --split ordered (in Python split='ordered') holds out the end"
        )
    elif isinstance(data.train, Tensor):
        shares = {split: _near_copies(data, split) for split in HELD}
        near = [f"{share:.0%} of {split} rows" for split, share in shares.items() if share]
        lines += [f"about {' and '.join(near)} nearly equal a row of train; {together}"] if near else []
    for split in (split for split in HELD if split not in data._splits_of_one_array()):
        if data.schema is None and (told := unlike(getattr(data, split), data.train)):
            lines.append(f"{split}: {told}; are they in the same units, of the same kind?")
    return lines


def _near_copies(data: Data, split: str) -> float:
    """The share of rows that nearly equal one of train; of a table by what is measured in it."""
    x, known = getattr(data, split), data.train
    if data.schema is None:
        return near_copies(x, known)
    columns: Any = measured(data.schema)
    return near_copies(x[:, columns], known[:, columns]) if len(columns) > 1 else 0.0
