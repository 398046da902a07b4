r"""What is given with the examples of a data set, for a model of p(x | c).

    whole numbers, words      one of k categories each: c is a unit vector, (N, k); the categories sorted
    real numbers              c itself, (N,) or (N, k)

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

__all__ = ["Conditions", "as_conditions", "encode_conditions", "parse_condition"]

MOST_CATEGORIES = 1000
SHOWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class Conditions:
    """What is given with the examples.

    Attributes:
        name: what it is called: an array of a file, or "folder" for the sub-folders of images.
        values: (N, k) float32 of each split.
        categories: the names of the k categories; empty where numbers are given.
    """

    name: str
    values: Mapping[str, Tensor]
    categories: Sequence[str] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(k,), the shape of what is given with one example."""
        return tuple(self.values["train"].shape[1:])

    def described(self) -> str:
        """In words.

        >>> as_conditions("labels", {"train": np.array([3, 1, 1])}).described()
        'labels, 2 categories (1, 3)'
        """
        if not self.categories:
            return f"{self.name}, {self.shape[0]} number{'s' * (self.shape[0] > 1)}"
        more = ", ..." if len(self.categories) > SHOWN else ""
        return f"{self.name}, {len(self.categories)} categories ({', '.join(self.categories[:SHOWN])}{more})"

    def about(self) -> dict[str, Any]:
        """Its description for a run, as JSON."""
        digest = hashlib.sha256()
        for split in sorted(self.values):
            digest.update(self.values[split].contiguous().numpy().data)
        found = dict(name=self.name, categories=list(self.categories), shape=list(self.shape))
        return found | {"checksum": digest.hexdigest()}

    def __repr__(self) -> str:
        return f"Conditions({self.described()})"


def as_conditions(name: str, raw: Mapping[str, Any], where: str = "given") -> Conditions:
    """What is given, from labels or numbers of each split.

    Args:
        name: what it is called.
        raw: (N,) labels or (N, k) numbers of each split, arrays; "train" among them.
        where: the source, in messages.

    Raises:
        ValueError: neither labels nor numbers, gaps, too many categories, or one that is not in the training data.

    >>> found = as_conditions("y", {"train": np.array(["cat", "dog", "cat"]), "test": np.array(["dog"])})
    >>> found.categories, found.values["test"]
    (['cat', 'dog'], tensor([[0., 1.]]))
    """
    train = np.asarray(raw["train"])
    if train.dtype.kind not in "biuUSf" or (train.dtype.kind != "f" and train.ndim != 1) or train.ndim not in (1, 2):
        raise ValueError(
            f"{where}, {name}: shape {train.shape} of {train.dtype}; wanted a label for each example, a whole number "
            "or a word, or real numbers, (N,) or (N, k)"
        )
    categories = [] if train.dtype.kind == "f" else [str(value) for value in np.unique(train)]
    if len(categories) > MOST_CATEGORIES:
        raise ValueError(
            f"{where}, {name}: {len(categories):,} different labels, wanted {MOST_CATEGORIES:,} at most; numbers that "
            "have a size are read as such where they are saved as floats"
        )
    values = {split: encode_conditions(name, part, categories, f"{where}, {split}") for split, part in raw.items()}
    return Conditions(name, values, categories)


def encode_conditions(name: str, raw: Any, categories: Sequence[str], where: str = "given") -> Tensor:
    """(N, k) float32 of labels, or of numbers where there are no categories.

    Args:
        name: what it is called.
        raw: (N,) labels or (N, k) numbers.
        categories: of the training data.
        where: in messages.

    Raises:
        ValueError: a label that is no category, or a number that is not finite.
    """
    raw = np.asarray(raw)
    if not categories:
        try:
            numbers = raw.astype(np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {name} has values of type {raw.dtype}, wanted real numbers") from None
        if not np.isfinite(numbers).all():
            row = int(np.argwhere(~np.isfinite(numbers))[0][0])
            raise ValueError(f"{where}: {name} is NaN or infinite in row {row}; drop such rows, or fill them in")
        return torch.from_numpy(numbers.reshape(len(numbers), -1))
    places = {category: i for i, category in enumerate(categories)}
    words = [str(value) for value in raw]
    for row, word in enumerate(words):
        if word not in places:
            raise ValueError(
                f"{where}: {name} is {word!r} in row {row}, and nowhere in the training data: the model would know no "
                "such category; leave those rows out, or split in another way"
            )
    found = torch.tensor([places[word] for word in words], dtype=torch.long)
    return torch.nn.functional.one_hot(found, len(categories)).float()


def parse_condition(text: str, about: Mapping[str, Any]) -> Tensor:
    """(1, k) float32, what is given in words: the name of a category, or its place, or k numbers, separated by commas.

    Args:
        text: as it is typed.
        about: as a run records it, see `Conditions.about`.

    Raises:
        ValueError: no such category, or other than k numbers.

    >>> about = as_conditions("y", {"train": np.array(["cat", "dog"])}).about()
    >>> parse_condition("dog", about), parse_condition("0", about)
    (tensor([[0., 1.]]), tensor([[1., 0.]]))
    """
    categories, (count,) = list(about["categories"]), about["shape"]
    if categories:
        place = categories.index(text) if text in categories else int(text) if text.isdecimal() else count
        if place < count:
            return torch.nn.functional.one_hot(torch.tensor([place]), count).float()
        more = ", ..." if count > SHOWN else ""
        raise ValueError(f"given {text!r}: wanted a category of {about['name']}: {', '.join(categories[:SHOWN])}{more}")
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"given {text!r}: wanted {count} number{'s' * (count > 1)} for {about['name']}, with commas")
    return torch.tensor([numbers])
