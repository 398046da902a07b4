r"""What is given with the examples of a data set, for a model of p(x | c).

    whole numbers, words      one of k categories each: c is a unit vector, (N, k); the categories sorted
    real numbers              c itself, (N,) or (N, k)
    several of them           c is all of them side by side

Every split has the same categories, those of the training data: of another the model would know nothing.

Shapes: N examples, k numbers given with each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.data.offsets import find_offset
from allegory.data.ranges import Range, as_conditions_of, as_range

__all__ = [
    "Condition", "Conditions", "as_conditions", "choose_given", "encode_conditions", "encode_together",
    "join_conditions", "recorded_conditions",
]  # fmt: skip

MOST_CATEGORIES = 1000
SHOWN = 8


@dataclass(frozen=True)
class Condition:
    """One of the things that are given.

    Attributes:
        name: what it is called: a column, an array of a file, or "folder" for the sub-folders of images.
        categories: their names; empty where it is numbers.
        count: how many numbers of c it has, as many as there are categories.
        exposure: whether it is the size over which counts were made, see `allegory.exposure`.
    """

    name: str
    categories: tuple[str, ...] = ()
    count: int = 1
    exposure: bool = False

    def __str__(self) -> str:
        if self.exposure:
            return f"{self.name}, the size of counts"
        if not self.categories:
            return f"{self.name}, {self.count} number{'s' * (self.count > 1)}"
        return f"{self.name}, {len(self.categories)} categories ({self.shown})"

    @property
    def shown(self) -> str:
        """The first of the categories."""
        return ", ".join(self.categories[:SHOWN]) + (", ..." if len(self.categories) > SHOWN else "")


@dataclass(frozen=True, eq=False, repr=False)
class Conditions:
    """What is given with the examples.

    Attributes:
        parts: what it is made of, in the order of c.
        values: (N, k) float32 of each split.
    """

    parts: tuple[Condition, ...]
    values: Mapping[str, Tensor]

    @property
    def names(self) -> list[str]:
        """What its parts are called."""
        return [part.name for part in self.parts]

    @property
    def exposure(self) -> int | None:
        """Which number of c is the size over which counts were made; None for none."""
        starts = [sum(part.count for part in self.parts[:i]) for i in range(len(self.parts))]
        return next((start for start, part in zip(starts, self.parts, strict=True) if part.exposure), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """(k,), the shape of what is given with one example."""
        return (sum(part.count for part in self.parts),)

    def described(self) -> str:
        """In words.

        >>> as_conditions("labels", {"train": np.array([3, 1, 1])}).described()
        'labels, 2 categories (1, 3)'
        """
        return "; ".join(map(str, self.parts))

    def about(self) -> dict[str, Any]:
        """Its description for a run, as JSON; `recorded_conditions` reads it."""
        digest = hashlib.sha256()
        for split in sorted(self.values):
            digest.update(self.values[split].contiguous().numpy().data)
        parts: list[dict[str, Any]] = [
            dict(name=part.name, categories=list(part.categories), count=part.count)
            | ({"exposure": True} if part.exposure else {})
            for part in self.parts
        ]
        return dict(parts=parts, shape=list(self.shape), checksum=digest.hexdigest())

    def __repr__(self) -> str:
        return f"Conditions({self.described()})"


def as_conditions(name: str, raw: Mapping[str, Any], where: str = "given", exposure: bool = False) -> Conditions:
    """What is given, from labels or numbers of each split.

    Args:
        name: what it is called.
        raw: (N,) labels or (N, k) numbers of each split, arrays; "train" among them.
        where: the source, in messages.
        exposure: whether it is the size over which counts were made: numbers, (N,), above 0.

    Raises:
        ValueError: neither labels nor numbers, gaps, too many categories, or one that is not in the training data; a
            size that is none.

    >>> found = as_conditions("y", {"train": np.array(["cat", "dog", "cat"]), "test": np.array(["dog"])})
    >>> found.parts[0].categories, found.values["test"]
    (('cat', 'dog'), tensor([[0., 1.]]))
    """
    train = np.asarray(raw["train"])
    if exposure:
        each = {split: encode_conditions(Condition(str(name), exposure=True), x, where) for split, x in raw.items()}
        return Conditions((Condition(str(name), exposure=True),), each)
    if train.dtype.kind not in "biuUSf" or (train.dtype.kind != "f" and train.ndim != 1) or train.ndim not in (1, 2):
        raise ValueError(
            f"{where}, {name}: shape {train.shape} of {train.dtype}; wanted a label for each example, a whole number "
            "or a word, or real numbers, (N,) or (N, k)"
        )
    categories = () if train.dtype.kind == "f" else tuple(str(value) for value in np.unique(train))
    if len(categories) > MOST_CATEGORIES:
        raise ValueError(
            f"{where}, {name}: {len(categories):,} different labels, wanted {MOST_CATEGORIES:,} at most; numbers that "
            "have a size are read as such where they are saved as floats"
        )
    offset = None if categories else find_offset(train.reshape(len(train), -1))
    if offset is not None:
        raise ValueError(
            f"{where}: float32 cannot tell the values of {name}, which are given, apart; subtract an offset, such as "
            f"{offset[offset != 0][0]:.16g}, from them in the file"
        )
    part = Condition(str(name), categories, len(categories) or (train.shape[1] if train.ndim == 2 else 1))
    return Conditions((part,), {split: encode_conditions(part, x, f"{where}, {split}") for split, x in raw.items()})


def join_conditions(each: Sequence[Conditions]) -> Conditions:
    """All of them side by side.

    >>> y, size = {"train": np.array(["cat", "dog"])}, {"train": np.array([0.5, 2.0])}
    >>> join_conditions([as_conditions("y", y), as_conditions("size", size)]).values["train"]
    tensor([[1.0000, 0.0000, 0.5000],
            [0.0000, 1.0000, 2.0000]])
    """
    values = {split: torch.cat([one.values[split] for one in each], 1) for split in each[0].values}
    return Conditions(tuple(part for one in each for part in one.parts), values)


def recorded_conditions(about: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The parts of what a run records, see `Conditions.about`."""
    return tuple(
        Condition(part["name"], tuple(part["categories"]), part["count"], part.get("exposure", False))
        for part in about["parts"]
    )


def encode_conditions(part: Condition, raw: Any, where: str = "given") -> Tensor:
    """(N, k) float32 of labels, or of numbers where there are no categories.

    Args:
        part: what they are.
        raw: (N,) labels or (N, k) numbers.
        where: in messages.

    Raises:
        ValueError: a label that is no category, or a number that is not finite.
    """
    raw = np.asarray(raw)
    if not part.categories:
        try:
            numbers = raw.astype(np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {part.name} has values of type {raw.dtype}, wanted real numbers") from None
        if not np.isfinite(numbers).all():
            row = int(np.argwhere(~np.isfinite(numbers))[0][0])
            raise ValueError(f"{where}: {part.name} is NaN or infinite in row {row}; drop such rows, or fill them in")
        numbers = numbers.reshape(len(numbers), -1)
        if numbers.shape[1] != part.count:
            raise ValueError(f"{where}: {part.name} has {numbers.shape[1]} numbers a row, wanted {part.count}")
        if part.exposure and (numbers <= 0).any():
            row = int(np.argwhere(numbers <= 0)[0][0])
            raise ValueError(
                f"{where}: {part.name}, the size of counts, is {numbers[row, 0]:g} in row {row}, wanted above 0: "
                "counts over nothing say nothing; drop such rows"
            )
        return torch.from_numpy(numbers)
    places = {category: i for i, category in enumerate(part.categories)}
    words = [str(value) for value in raw]
    for row, word in enumerate(words):
        if word not in places:
            sizes = "; if it has a size, give it as a number, a float (of a table --column NAME=real)"
            raise ValueError(
                f"{where}: {part.name} is {word!r} in row {row}, and nowhere in the training data: the model would know"
                f" no such category; leave those rows out, or split in another way{sizes if word.isdigit() else ''}"
            )
    found = torch.tensor([places[word] for word in words], dtype=torch.long)
    return torch.nn.functional.one_hot(found, part.count).float()


def encode_together(parts: Sequence[Condition], raw: Mapping[str, Any], where: str = "given") -> Tensor:
    """(N, k) float32 of all parts, from the labels or numbers of each by its name."""
    return torch.cat([encode_conditions(part, raw[part.name], where) for part in parts], 1)


def choose_given(parts: Sequence[Condition], said: Mapping[str, Any], train: Tensor, n: int, seed: int = 0) -> Tensor:
    """(n, k) what is given with n draws: what is said of it, the rest as in random training examples that agree.

    Args:
        parts: what is given.
        said: of some parts, by name: a category, or, of categories that are words, its place; a number, or k of them,
            also as text with commas; or (low, high), a range of numbers, both ends included.
        train: (N, k) what is given with the training examples; without a row where each part has a value.
        n: how many.
        seed: of the choice.

    Raises:
        ValueError: no such part, no such category; no training example that agrees, where not everything is said.

    >>> y = as_conditions("y", {"train": np.array(["cat", "dog", "dog"])})
    >>> choose_given(y.parts, {"y": "cat"}, y.values["train"], 2)
    tensor([[1., 0.],
            [1., 0.]])
    """
    known = [part.name for part in parts]
    if unknown := [name for name in said if name not in known]:
        raise ValueError(f"given {unknown[0]!r}: nothing of that name is given; there is {', '.join(known)}")
    agrees, values, start = torch.ones(len(train), dtype=torch.bool), [], 0
    for part in parts:
        own = train[:, start : start + part.count]
        start += part.count
        if part.name not in said:
            continue
        wanted = as_range(said[part.name]) if part.count == 1 or part.categories else None
        if wanted is None:
            values.append(_value(part, said[part.name]))
            agrees &= (own == values[-1]).all(1)
        else:
            agrees &= _within(part, own, wanted)
    if len(values) == len(parts):
        return torch.cat(values, 1).expand(n, -1)
    rows = agrees.nonzero()[:, 0]
    if not len(rows):
        lacking = ", ".join(name for name in known if name not in said) or "one value of each"
        raise ValueError(
            f"given {as_conditions_of(said)}: no training example agrees with it; say what else is given: {lacking}"
        )
    return train[rows[torch.randint(len(rows), (n,), generator=torch.Generator().manual_seed(seed))]]


def _value(part: Condition, value: Any) -> Tensor:
    """(1, k) of a category, its place, or numbers, as they may be typed."""
    if value is None:
        raise ValueError(
            f"given {part.name}=?: it is given with each row, not modelled, and has no gaps; wanted a value"
        )
    if part.categories:
        text = str(value)
        place = part.count
        if text in part.categories:
            place = part.categories.index(text)
        elif isinstance(value, str) and text.isdecimal() and not any(map(_is_number, part.categories)):
            place = int(text)
        if place < part.count:
            return torch.nn.functional.one_hot(torch.tensor([place]), part.count).float()
        raise ValueError(f"given {value!r}: wanted a category of {part.name}: {part.shown}")
    try:
        split = value.split(",") if isinstance(value, str) else np.asarray(value, float).reshape(-1).tolist()
        numbers = [float(number) for number in split]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != part.count or not np.isfinite(numbers).all():
        wanted = "a number" if part.count == 1 else f"{part.count} numbers, separated by commas,"
        raise ValueError(f"given {value!r}: wanted {wanted} for {part.name}")
    return torch.tensor([numbers], dtype=torch.float32)


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _within(part: Condition, own: Tensor, wanted: Range) -> Tensor:
    """(N,) whether what is given with the training examples, (N, k), lies in a range."""
    if part.categories or part.count > 1:
        raise ValueError(f"given {part.name} {wanted}: wanted a value, since {part} is no number with an order")
    low, high = (None if edge is None else _value(part, edge).item() for edge in (wanted.low, wanted.high))
    x = own[:, 0]
    found = torch.ones(len(x), dtype=torch.bool)
    if low is not None:
        found &= (x > low) if wanted.above else (x >= low)
    if high is not None:
        found &= (x < high) if wanted.below else (x <= high)
    return found
