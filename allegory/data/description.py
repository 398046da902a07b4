r"""What a run records of its data: where they are, how they were split and read, and a checksum of their values.

    describe(data, ...)         ->  JSON, for config.json
    is_described(data, about)   ->  whether these are still the same values, in the same splits

A run that moved finds its data again, and data that changed are noticed before a number is compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allegory.data.builtin import BUILTIN
from allegory.data.cutting import chunks, value_range
from allegory.data.tables import READING

if TYPE_CHECKING:
    from allegory.data.splits import Data

__all__ = ["checksum", "describe", "is_described", "recorded_offset"]


def describe(
    data: Data,
    likelihood: str,
    categories: int | None = None,
    two_values: Sequence[float] | None = None,
    seed: int | None = None,
    lowest: float = 0.0,
) -> dict[str, Any]:
    """The description of its data that a run stores, as JSON: where they are, how they were split and read, a checksum.

    Args:
        data: as `load` returned them, two values already as 0 and 1.
        likelihood, categories: of the model.
        two_values: the values of 0 and 1 in the source, for Bernoulli data.
        seed: of the split; by default that of the data.
        lowest: the first of the categories.

    >>> describe(al.data.load("digits"), "categorical", 17)["source"]
    'digits'
    """
    parts = (data.train, data.valid, data.test)
    choices = {
        "split": data.split,
        "array": data.array,
        "size": data.size and list(data.size),
        "lowest": int(lowest) or None,
        "offset": None if data.offset is None else data.offset.flatten().tolist(),
        "given": None if data.given is None else data.given.about(),
        "schema": None if data.schema is None else data.schema.to_json(),
        "reading": {key: _plain(data.asked[key]) for key in READING if key in data.asked} or None,
        "dialect": data.dialect and asdict(data.dialect),
    }
    built_in = data.name in {row.name for row in BUILTIN}
    return dict(
        source=data.name if built_in else str((data.place or Path(data.name)).resolve()),
        dynamic=data.dynamic,
        seed=data.seed if seed is None else seed,
        event_shape=list(data.event_shape),
        examples=[len(part) for part in parts],
        likelihood=likelihood,
        categories=categories,
        two_values=None if two_values is None else list(two_values),
        range=list(value_range(data.train)),
        checksum=checksum(data),
        **{name: value for name, value in choices.items() if value is not None and value != "random"},
    )


def checksum(data: Data) -> str:
    """SHA-256 of the values of the three splits; of a split on disk, in the order of the file."""
    digest = hashlib.sha256()
    for split in (data.train, data.valid, data.test):
        for part in chunks(split):
            digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def is_described(data: Data, about: dict[str, Any]) -> bool:
    """Whether these are the data of a description: the same values, in the same splits.

    Args:
        data: two values already as 0 and 1.
        about: as `describe` returns it.

    >>> import dataclasses
    >>> data = al.data.load("digits")
    >>> moved = dataclasses.replace(data, train=data.train[:-1], valid=torch.cat([data.train[-1:], data.valid]))
    >>> about = describe(data, "poisson")
    >>> is_described(data, about), is_described(moved, about)
    (True, False)
    """
    sizes = [len(part) for part in (data.train, data.valid, data.test)]  # the checksum runs over all of them
    if about.get("given") is not None and (data.given is None or data.given.about() != about["given"]):
        return False
    if list(data.event_shape) != about["event_shape"] or sizes != about.get("examples", sizes):
        return False
    return checksum(data) == about["checksum"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def recorded_offset(about: dict[str, Any], run: str) -> Any:
    """(*event) float64, the offset in the description of a run's data, an array; None where it has none.

    Raises:
        ValueError: one of another shape than an example.
    """
    shape, offset = about["event_shape"], about.get("offset")
    if offset is None:
        return None
    if len(offset) != math.prod(shape):
        raise ValueError(f"{run}: config.json has an offset of {len(offset)} numbers for examples of shape {shape}")
    return np.array(offset, np.float64).reshape(shape)
