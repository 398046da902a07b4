"""Data: the built-in sets and your own files, as three splits.

    load(source)           ->  Data: train, valid, test
    data.scored_as("auto") ->  Data as a likelihood takes them, and their description for a run
    reload(about)          ->  Data from the description in a run, checked
    read(source)           ->  all examples in one tensor, for a trained model to encode

A source is a built-in name (see `allegory.data.builtin`) or a path: a `.npy` file (one array), a `.npz` file (`train`,
`valid`, `test`; or `train`, `test`; or one array), a table, or a folder of images. Values stay in their own units; a
gap is NaN.

Shapes: N = examples, *event = the shape of one example; C, H, W = channels, height, width. All tensors are float32,
(N, *event); images are (N, C, H, W).
"""

from __future__ import annotations

import bisect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from allegory.data.builtin import BUILTIN, find, load_splits
from allegory.data.caveats import caveats
from allegory.data.conditions import (
    Condition,
    Conditions,
    as_conditions,
    encode_conditions,
    encode_together,
    join_conditions,
    recorded_conditions,
)  # fmt: skip
from allegory.data.cutting import cut, row_digests, value_range
from allegory.data.description import describe, is_described, recorded_offset
from allegory.data.files import read_raw, read_splits
from allegory.data.likelihood import are_columns, by_values, of_columns, summarize
from allegory.data.parts import Part
from allegory.data.recoding import binarize, to_binary, two_values
from allegory.data.stored import Stored
from allegory.data.tables import (
    ASKED,
    NUMBERS,
    READING,
    as_frame,
    infer_schema,
    is_csv,
    is_table,
    read_given_column,
    read_table,
    to_numbers,
)  # fmt: skip
from allegory.data.values import DENSITIES
from allegory.runtime import processes
from allegory.runtime.messages import check_counts
from allegory.tabular import Dialect, Schema
from allegory.tabular.schema import as_limits, as_list

WITH_OFFSET = (*DENSITIES, "bernoulli", "categorical")  # likelihoods that do not depend on where zero is

__all__ = ["Data", "load", "load_together", "read", "read_given", "reload"]


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Three splits, each (N, *event) float32: tensors, or `Stored` if too large for memory.

    `name` is the source: a built-in name or a path. `dynamic` means that `train` holds grey levels in [0, 1], to be
    binarised by `binarize` each time they are drawn, while `valid` and `test` were binarised once. `seed`, `split`,
    `array` and `size` are what `load` was asked for, `asked` what it was told of a table. `rows` has the number in its
    file of each row of each split, and `names` the names of all files, where the source is a folder. `offset`, (*event)
    float64, is what was taken off all values, where float32 could not tell them apart; None where nothing was. `given`
    is what is given with the examples, see `allegory.data.conditions`; None where nothing was asked for. `schema` says
    what the columns of a table are: x is what it encodes, and a gap is NaN; `dialect` how its file is written. `place`
    is the absolute path of what was read; None where nothing was.

    >>> Data("ours", torch.zeros(8, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    Data('ours', event_shape=(2,), train=8, valid=1, test=1)
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    dynamic: bool = False
    seed: int = 0
    split: str = "random"
    array: str | None = None
    size: tuple[int, int] | None = None
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    names: Sequence[str] = ()
    offset: Tensor | None = None
    given: Conditions | None = None
    schema: Schema | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    dialect: Dialect | None = None
    place: Path | None = None

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.train.shape[1:]

    @property
    def head(self) -> Tensor:
        """(n, *event) the training data, for the initialisation in `allegory.architectures`; of data on disk as many
        examples as have 2^26 numbers, of a sparse matrix 2^20.
        """
        x = self.train
        if isinstance(x, Tensor):
            return x
        most = 2**20 if getattr(x.source, "in_memory", False) else 2**26
        return x[: max(1, most // math.prod(x.shape[1:]))]

    def choose_likelihood(self) -> tuple[str, str]:
        """The likelihood that fits the values of all splits, and why; see the function of that name.

        >>> load("digits").choose_likelihood()
        ('categorical', 'whole numbers 0..16, 17 levels')
        """
        if self.schema is not None:
            return "columns", summarize(self.schema)
        if self.exposure is not None:
            return "negative_binomial", "a size, over which they were counted"
        name, why = self._by_values
        if self.columns is not None:
            return "columns", summarize(self.columns)
        if self.offset is None:
            return name, why
        return name if name in WITH_OFFSET else "normal", f"{why}, once their offset is taken off"

    @cached_property
    def _by_values(self) -> tuple[str, str]:
        return by_values(self.valid if self.dynamic else self._all_examples())

    @cached_property
    def columns(self) -> Schema | None:
        """The schema of vectors whose columns each need a law of their own, from the rows of all splits in the type of
        their file; None where one law serves all, and for data that are no vectors.
        """
        if self.schema is not None:
            return self.schema
        if self.dynamic or len(self.event_shape) != 1 or not isinstance(self.train, Tensor):
            return None
        if any(self.asked.get(key) for key in ASKED):
            return infer_schema(self._vectors(), self.asked, self.name)
        name, _ = self._by_values
        return of_columns(self._vectors(), name) if are_columns(self.event_shape, name) else None

    def _vectors(self) -> Any:
        """(N, D) the rows of all splits, of a file in its own type, without what was taken off them."""
        if self.place is not None and self.place.is_file():
            arrays, _, _ = read_raw(
                self.place, self.array, self.asked.get("gaps", ()), () if self.given is None else self.given.names
            )
            return np.concatenate([as_frame(x) for x in arrays.values()])
        return as_frame(self.with_offset(self._all_examples()))

    def _in_columns(self) -> Data:
        """The data as numbers of the columns of their schema."""
        if self.schema is not None:
            return self
        schema, vectors = self.columns, len(self.event_shape) == 1 and isinstance(self.train, Tensor)
        if schema is None and vectors and not self.dynamic:
            schema = infer_schema(self._vectors(), self.asked, self.name)
        if schema is None:
            raise ValueError(
                f"{self.name}: {tuple(self.event_shape)} is no row of a table; columns is the likelihood of vectors"
            )
        if self.place is not None and self.place.is_file():
            given = () if self.given is None else self.given.names
            read = read_splits(self.place, self.array, given=given, schema=schema, gaps=self.asked.get("gaps", ()))
            examples, _ = cut(read, self.seed, self.split, self.name)
            return replace(self, **examples, schema=schema, offset=None)
        parts: dict[str, Any] = {
            split: to_numbers(schema, as_frame(self.with_offset(getattr(self, split))), f"{self.name}, {split}")
            for split in ("train", "valid", "test")
        }
        return replace(self, **parts, schema=schema, offset=None)

    def scored_as(self, likelihood: str = "auto") -> tuple[Data, dict[str, Any]]:
        """The data as a likelihood takes them, and their description for a run (see `describe`): for a Bernoulli the
        two values become 0 and 1; everything else stays in its own units.

        Args:
            likelihood: a name of `allegory.architectures.LIKELIHOODS`, or "auto", chosen by the values.

        Raises:
            ValueError: a third value in valid or test.

        >>> x = torch.tensor([[0.0], [255.0], [0.0], [255.0]])
        >>> data, about = Data("ours", x, x[:2], x[2:]).scored_as("auto")
        >>> about["likelihood"], about["two_values"], data.train.flatten().tolist()
        ('bernoulli', [0.0, 255.0], [0.0, 1.0, 0.0, 1.0])
        """
        name = self.choose_likelihood()[0] if likelihood == "auto" else likelihood
        if self.schema is not None and name != "columns":
            raise ValueError(
                f"{self.name} is a table, and each of its columns has a likelihood of its own: {name} is for arrays; "
                "wanted auto, and --column NAME=KIND, in Python columns={...}, where a column is something else"
            )
        if name == "columns":
            data = self._in_columns()
            _check_seen(data)
            return data, describe(data, name)
        if self.offset is not None and name not in WITH_OFFSET:
            raise ValueError(
                f"{self.name}: float32 holds these values only with an offset taken off, and {name} has a fixed 0; "
                "wanted a likelihood of real values, such as normal, or rescaled values"
            )
        splits = (self.train, self.valid, self.test)
        ranges = [value_range(part) for part in splits] if name == "categorical" else []
        lowest = min((0.0, *(low for low, _ in ranges)))
        categories = int(max(high for _, high in ranges) - lowest) + 1 if ranges else None
        values = two_values(self.train) if name == "bernoulli" and not self.dynamic else None
        data = self._to_binary(values)
        return data, describe(data, name, categories, values, lowest=lowest)

    def with_offset(self, x: Tensor) -> Tensor:
        """Examples (*, *event) with the offset that was taken off them, in float64; as they are where none was."""
        return x if self.offset is None else x.double() + self.offset.to(x.device)

    def subset(self, split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Random rows of a split, (n,), and their examples, (n, *event), n = count, or all of them if fewer. Those of
        `train` are binarised if the data are `dynamic`.

        Args:
            split: "train", "valid" or "test".
            count: number of examples.
            seed: of the selection.

        >>> rows, x = load("digits").subset("test", 5)
        >>> rows.shape, x.shape
        (torch.Size([5]), torch.Size([5, 1, 8, 8]))
        """
        check_counts(examples=count)
        x = getattr(self, split)
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
        return rows, binarize(x[rows]) if self.dynamic and split == "train" else x[rows]

    def given_with(self, split: str, rows: Tensor | slice = slice(None)) -> tuple[Tensor, ...]:
        """What is given with examples of a split: (n, k), or nothing.

        Args:
            split: "train", "valid" or "test".
            rows: which of them; by default all.
        """
        return () if self.given is None else (self.given.values[split][rows],)

    @property
    def exposure(self) -> int | None:
        """Which number of what is given is the size over which counts were made; None for none."""
        return None if self.given is None else self.given.exposure

    def row_names(self, split: str) -> Sequence[Any]:
        """What the user calls the rows of a split: numbers in the file, or the names of the files; for messages.

        >>> load("digits").row_names("test")[:3]
        range(0, 3)
        """
        rows = self.rows[split].tolist() if split in self.rows else range(len(getattr(self, split)))
        return [self.names[row] for row in rows] if self.names else rows

    def equal_rows(self) -> dict[str, int]:
        """How many rows of valid equal one of train, and how many of test equal one of train or valid.

        >>> x = torch.arange(6.0).view(6, 1)
        >>> Data("ours", x[:4], x[4:], x[3:5]).equal_rows()
        {'valid': 0, 'test': 2}
        """
        seen, counts = set(row_digests(self.train)), {}
        for split in ("valid", "test"):
            found = list(row_digests(getattr(self, split)))
            counts[split] = sum(digest in seen for digest in found)
            seen.update(found)
        return counts

    def _splits_of_one_array(self) -> list[str]:
        """The splits that were cut from the array from which train was."""
        if not self.rows:
            return ["train"]
        return ["train"] + [
            split for split in ("valid", "test") if not torch.isin(self.rows[split], self.rows["train"]).any()
        ]

    def _first_rows_of_file(self, count: int) -> Tensor:
        """The first rows of the array that was cut, in its order."""
        splits = self._splits_of_one_array()
        rows = torch.cat([self.rows[split] for split in splits])
        ends = np.cumsum([0, *(len(self.rows[split]) for split in splits)])
        chosen = rows.argsort()[:count].tolist()
        places = [(bisect.bisect(ends, i) - 1, i) for i in chosen]
        return torch.cat([getattr(self, splits[k])[torch.tensor([i - int(ends[k])])] for k, i in places])

    def _all_examples(self) -> Tensor:
        """The rows of all splits, (N, *event)."""
        parts: Any = (self.train, self.valid, self.test)
        if isinstance(self.train, Stored):
            rows = torch.cat([part.rows for part in parts])
            return cast(Tensor, Stored(self.train.source, rows, self.train.values))
        return torch.cat(parts)

    def _to_binary(self, values: Sequence[float] | None) -> Data:
        """The two values as 0 and 1."""
        if values is None or list(values) == [0.0, 1.0]:
            return self
        first, second = values
        parts: dict[str, Any] = {}
        for split in ("train", "valid", "test"):
            try:
                parts[split] = to_binary(getattr(self, split), (first, second), self.row_names(split))
            except ValueError as error:
                raise ValueError(f"{self.name}, {split}: {error}") from None
        return replace(self, **parts)

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, valid={len(self.valid)}, test={len(self.test)}"
        dynamic = ", dynamic=True" if self.dynamic else ""
        dynamic += "" if self.given is None else f", given={self.given.described()!r}"
        return f"Data({self.name!r}, event_shape={tuple(self.event_shape)}, {sizes}{dynamic})"


def load(
    source: str | Path,
    *,
    dynamic: bool = False,
    seed: int = 0,
    split: str = "random",
    array: str | None = None,
    size: int | Sequence[int] | None = None,
    given: str | Sequence[str] = (),
    exposure: str | None = None,
    columns: Mapping[Any, str] | None = None,
    drop: Any = (),
    gaps: Any = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    missing_above: Mapping[Any, Any] | None = None,
    missing_below: Mapping[Any, Any] | None = None,
    indicators: Sequence[Any] | bool = (),
) -> Data:
    """The three splits of a built-in set, or of a path.

    A string that is a built-in name means that set, split as the module describes, whatever the `seed`
    (`./mnist` means a folder). It is downloaded once, verified by its checksum, and cached
    (`Builtin.folder`).

    Anything else is a path. One array, or a folder of images, is split 80 : 10 : 10, with at least one example in each
    split. Where a `.npz` file has only `train` and `test`, a tenth of `train` becomes `valid`. The names x_train, val
    and the like are understood. Images (png, jpg, jpeg, jfif, bmp, gif, webp, tif, tiff; of several frames the first)
    are taken from a folder and its sub-folders, in the order of their names, 2 before 10, with values 0..255, or
    0..65535 where the files have 16 bits: (1, H, W) where all of them are grey, else (3, H, W). Sub-folders named
    train, valid, test are the splits. A `.npy` file or a folder that would take more than a gigabyte stays on disk, and
    is read as it is drawn.

    A table (.csv, .tsv, also .gz, and .parquet) has a `schema`, inferred from all of its rows, see
    `allegory.tabular.Schema`: x is (N, D), one number for each column that is not constant, and a gap is NaN.

    Args:
        source: a built-in name, or a path.
        dynamic: see below.
        seed: of a random split.
        split: "random"; "ordered", the first rows for train and the last for test, as for a series; "groups", at
            random, but with all rows of a group in one split: the rows of one value of the array `groups` of a `.npz`
            file, or the images of one sub-folder.
        array: the name of the one array of a `.npz` file that is taken.
        size: width and height to which the images of a folder are scaled and cropped, or one number for both.
        given: what is given with the examples, for a model of p(x | c): a column of a table, or an array of a `.npz`
            file, labels or numbers (NAME_train and so on where it has splits), or several of them; or "folder", the
            sub-folders that the images are in.
        exposure: a column, or an array (N,), of the sizes over which counts were made; it is given, too, after all
            others, see `allegory.exposure`. The counts of a table are then negative binomials.
        columns: kinds of columns of a table, by name, where another is wanted than the one found; also of what is
            given, categories ("categorical") or numbers ("real").
        drop: a column of a table that is left out, such as an id, or several.
        gaps: what stands for a gap, such as "?" or -999, or several such values.
        delimiter, encoding, decimal, header: how a CSV file is written, by default as found in it; see
            `allegory.tabular.read_frame`.
        missing_above, missing_below, indicators: what it says of a value of a table that it is missing; see
            `allegory.tabular.Schema.infer`.

    Warns:
        UserWarning: parts of the source that are not taken; rows that stand in two splits, which flatter a model.

    `dynamic` is for mnist, fashion-mnist and omniglot: `train` in [0, 1], to be binarised each time it is drawn by
    `binarize`; `valid` and `test` binarised. Raises ValueError, in one line, if anything is wrong
    with the name, the file, its values or the network.

    >>> load("digits")
    Data('digits', event_shape=(1, 8, 8), train=1197, valid=300, test=300)
    """
    asked = {
        "columns": columns, "drop": as_list(drop), "gaps": as_list(gaps), "delimiter": delimiter, "encoding": encoding,
        "decimal": decimal, "header": header, "missing_above": as_limits("missing_above", missing_above),
        "missing_below": as_limits("missing_below", missing_below),
        "indicators": indicators if isinstance(indicators, bool) else as_list(indicators),
    }  # fmt: skip
    said = {key: value for key, value in asked.items() if value or value is False}
    _check_is_csv(source, said)
    data = _load(
        source, dynamic=dynamic, seed=seed, split=split, array=array, size=size, given=given, exposure=exposure, **said
    )
    for line in [] if _is_builtin(source) else caveats(data):
        warnings.warn(f"{source}: {line}", stacklevel=2)
    return data


def _check_is_csv(source: str | Path, said: Mapping[str, Any]) -> None:
    """Checks that what is said of how a CSV file is written is said of one."""
    of_csv = [key for key in READING if key in said and key != "gaps"]
    if of_csv and not is_csv(source):
        raise ValueError(f"{source} is no CSV file; {of_csv[0]}={said[of_csv[0]]!r} says how one is written")


def _load(source: str | Path, *, dynamic: bool = False, **choices: Any) -> Data:
    """As `load`, without a remark."""
    if dynamic and not (_is_builtin(source) and find(str(source)).dynamic):
        known = ", ".join(row.name for row in BUILTIN if row.dynamic)
        raise ValueError(f"{source}: dynamic binarisation is defined for {known} only")
    if not _is_builtin(source):
        return _load_path(Path(source), str(source), **choices)
    of_path = {
        "split": "random",
        "array": None,
        "size": None,
        "given": (),
        "exposure": None,
        **dict.fromkeys((*ASKED, *READING)),
    }
    for name, default in of_path.items():
        if choices.get(name, default) not in (default, []):
            raise ValueError(f"{source} is built in and has its own splits; {name}={choices[name]!r} is for a path")
    train, valid, test = load_splits(find(str(source)), dynamic)
    return Data(str(source), train, valid, test, dynamic, choices.get("seed", 0))


def _load_path(
    path: Path,
    name: str,
    seed: int = 0,
    split: str = "random",
    array: str | None = None,
    size: int | Sequence[int] | None = None,
    offset: Any = "find",
    given: str | Sequence[str] = (),
    exposure: str | None = None,
    schema: Schema | None = None,
    **asked: Any,
) -> Data:
    given = [*([given] if isinstance(given, str) else given), *([] if exposure is None else [exposure])]
    given = _each_once(given)
    if is_table(path):
        return _load_table(path, name, seed, split, schema, given, asked, exposure, array=array, size=size)
    wanted = _width_and_height(size)
    if asked and path.is_dir():
        raise ValueError(f"{name} is a folder of images; {', '.join(asked)} is for tables")
    parts = read_splits(path, array, wanted, offset, given=given, schema=schema, gaps=asked.get("gaps", ()))
    examples, rows = cut(parts, seed, split, name)
    names = [file for part in parts.values() for file in part.names]
    taken = next(iter(parts.values())).offset
    return Data(
        name, **examples, seed=seed, split=split, array=array, size=wanted, rows=rows, names=names,
        offset=None if taken is None else torch.from_numpy(taken), schema=schema, asked=asked,
        given=_conditions(given, parts, rows, name, exposure), place=path.absolute(),
    )  # fmt: skip


def _each_once(names: Sequence[str]) -> list[str]:
    """The names of what is given, of which none may stand twice."""
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"given: {twice[0]!r} is named twice; wanted each once")
    return list(names)


def _conditions(
    names: Sequence[str], parts: Mapping[str, Any], rows: Mapping[str, Tensor], where: str, exposure: str | None = None
) -> Conditions | None:
    """What is given with the rows of each split, which count from the first of all names, or of the part."""
    together = any(part.names for part in parts.values())
    found = []
    for name in names:
        for label, part in parts.items() if name == exposure else ():  # counts rows as the source does
            encode_conditions(Condition(name, exposure=True), part.given[name], ", ".join(filter(None, (where, label))))
        whole = np.concatenate([np.asarray(part.given[name]) for part in parts.values()]) if together else None
        raw = {}
        for split, chosen in rows.items():
            part = parts.get(split) or parts.get("") or parts["train"]
            raw[split] = (np.asarray(part.given[name]) if whole is None else whole)[chosen.numpy()]
        found.append(as_conditions(name, raw, where, name == exposure))
    return join_conditions(found) if found else None


def _load_table(
    path: Path,
    name: str,
    seed: int,
    split: str,
    schema: Schema | None,
    given: Sequence[str],
    asked: dict[str, Any],
    exposure: str | None = None,
    **of_others: Any,
) -> Data:
    for option, value in of_others.items():
        if value is not None:
            raise ValueError(f"{name} is a table; {option}={value!r} is for arrays and images")
    frame = read_table(path, asked, schema)
    kinds, dropped = dict(asked.get("columns") or {}), [*asked.get("drop", ())]
    if both := [column for column in given if column in dropped]:
        raise ValueError(f"{name}: column {both[0]!r} is given, and is to be left out (drop); wanted one of them")
    if exposure is not None and kinds.get(exposure, "real") not in NUMBERS:
        raise ValueError(
            f"{name}: column {exposure!r} is the size of counts (exposure), and said to be {kinds[exposure]}"
        )
    raw = {
        column: read_given_column(frame, column, name, "real" if column == exposure else kinds.get(column))
        for column in given
    }
    if schema is None:
        modelled = {column: kind for column, kind in kinds.items() if column not in given}
        schema = infer_schema(frame, {**asked, "columns": modelled, "drop": [*dropped, *given]}, name)
    x, dialect = to_numbers(schema, frame, name), getattr(frame, "dialect", None)
    del frame
    parts = {"": Part(x, given=raw)}
    examples, rows = cut(parts, seed, split, name)
    return Data(
        name, **examples, seed=seed, split=split, rows=rows, schema=schema, asked=asked, dialect=dialect,
        given=_conditions(given, parts, rows, name, exposure), place=path.absolute(),
    )  # fmt: skip


def _check_seen(data: Data) -> None:
    """Checks that training has a value of each column that it is to learn."""
    assert data.schema is not None
    if not data.schema.modelled:
        raise ValueError(f"{data.name}: every column is the same throughout, or missing: there is nothing to model")
    lacking = data.train.isnan().all(0).nonzero()[:, 0].tolist()
    if lacking:
        column = data.schema.names[lacking[0]]
        raise ValueError(
            f"{data.name}: the training split has no value of column {column!r}, all are in the others; leave it out "
            f"(--drop {column}), or split in another way (--split-seed)"
        )


def _width_and_height(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Width and height, of which one number means both."""
    if size is None:
        return None
    numbers = [size] if isinstance(size, int) else list(size)
    if len(numbers) not in (1, 2) or any(not hasattr(n, "__index__") or n < 1 for n in numbers):
        raise ValueError(f"size={size}: wanted width and height in pixels, or one number for both")
    return int(numbers[0]), int(numbers[-1])


def load_together(source: str | Path, **choices: Any) -> Data:
    """As `load`, called in all processes of a group: the first one downloads, the others wait for it.

    >>> load_together("digits").event_shape
    torch.Size([1, 8, 8])
    """
    return _together(load, source, **choices)


def _together(call: Callable[..., Data], source: str | Path, **choices: Any) -> Data:
    if processes.world_size() > 1:
        processes.broadcast(lambda: bool(call(source, **choices)))
    return call(source, **choices)


def reload(about: dict[str, Any], run: str = "the run", source: str | Path | None = None) -> Data:
    """The data from the description in a run, split and read in the same way, in all of several processes.

    Args:
        about: as `describe` returns it and config.json stores it.
        run: name of the run in messages.
        source: where the data are now, if they have moved.

    Raises:
        ValueError: an incomplete description; the data are gone, or have changed.

    >>> reload(load("digits").scored_as("auto")[1])
    Data('digits', event_shape=(1, 8, 8), train=1197, valid=300, test=300)
    """
    missing = {"source", "dynamic", "seed", "event_shape", "two_values", "range", "checksum"} - about.keys()
    if missing:
        raise ValueError(f"{run}: its config.json does not record the data's {', '.join(sorted(missing))}; train again")
    source = about["source"] if source is None else source
    choices: dict[str, Any] = {key: about[key] for key in ("split", "array", "size") if key in about}
    choices["offset"] = recorded_offset(about, run)
    parts = () if about.get("given") is None else recorded_conditions(about["given"])
    choices["given"] = [part.name for part in parts if not part.exposure]
    choices["exposure"] = next((part.name for part in parts if part.exposure), None)
    choices |= about.get("reading") or {}
    if about.get("schema") is not None:
        kinds = {part.name: "categorical" if part.categories else "real" for part in parts}
        choices |= {"columns": kinds} if kinds and is_table(source) else {}
        choices["schema"] = Schema.from_json(about["schema"])
    data = _together(_load, source, dynamic=about["dynamic"], seed=about["seed"], **choices)
    if list(data.event_shape) != about["event_shape"]:
        raise ValueError(
            f"{source} has examples of shape {tuple(data.event_shape)}, {run} was trained on "
            f"{tuple(about['event_shape'])}"
        )
    data = data._to_binary(about["two_values"])
    if not is_described(data, about):
        raise ValueError(
            f"{source} has changed since {run} was trained on it, so its test split may hold examples the "
            "model was trained on; restore the file, or train again"
        )
    return data


def read_given(source: str | Path, about: Mapping[str, Any], array: str | None = None) -> Tensor:
    """(N, k) what is given with the examples that `read` reads from a path.

    Args:
        source: a path.
        about: as a run records what is given, see `Conditions.about`.
        array: as in `read`.

    Raises:
        ValueError: nothing of that name in it, or a category that was not in the training data.
    """
    if _is_builtin(source):
        raise ValueError(
            f"{source} is built in, and nothing is given with it; wanted "
            f"{', '.join(part['name'] for part in about['parts'])} beside the examples"
        )
    parts = recorded_conditions(about)
    names = [part.name for part in parts]
    found = read_splits(Path(source), array, given=names).values()
    raw = {name: np.concatenate([np.asarray(part.given[name]) for part in found]) for name in names}
    return encode_together(parts, raw, str(source))


def read(
    source: str | Path,
    *,
    dynamic: bool = False,
    array: str | None = None,
    size: int | Sequence[int] | None = None,
    offset: Any = None,
    channels: int | None = None,
    gaps: Any = (),
    given: Sequence[str] = (),
) -> Tensor:
    """All examples of a path, (N, *event), in their own order; for a built-in set its test split. `array` and `size` as
    in `load`.

    A table is encoded by a schema of its own; `al.Run.read` has that of a run. For a `.npz` file with splits: train,
    then valid, then test. Raises ValueError as `load` does, and for values that float32 cannot tell apart without an
    `offset`, (*event) numbers that are taken off, such as `Data.offset`; zeros for none. `channels`, 1 or 3, are those
    of the images of a folder, by default 1 where all are grey. `gaps` are numbers, or of a table
    words, too, that stand for a gap; `given` are arrays of a `.npz` file that are given with the examples, see
    `read_given`.

    >>> read("digits").shape
    torch.Size([300, 1, 8, 8])
    """
    if dynamic or _is_builtin(source):
        return load(source, dynamic=dynamic).test
    if is_table(source):
        frame = read_table(Path(source), {"gaps": as_list(gaps)})
        return to_numbers(infer_schema(frame, {"gaps": as_list(gaps)}, str(source)), frame, str(source))
    wanted = "find" if offset is None else np.asarray(offset, np.float64) if np.any(offset) else None
    scaled = _width_and_height(size)
    found = [*read_splits(Path(source), array, scaled, wanted, channels, given, gaps=as_list(gaps)).values()]
    if offset is None and found[0].offset is not None:
        first = np.argwhere(found[0].offset)[0].tolist()
        raise ValueError(
            f"{source}: float32 cannot tell the values of index {', '.join(map(str, first))} apart; subtract an "
            f"offset, such as {found[0].offset[tuple(first)]:.16g}, by read(offset=...) or in the file: it changes no "
            "density (`load` does so, and gives it as `Data.offset`)"
        )
    parts = [part.x for part in found]
    if isinstance(parts[0], Stored) and len(parts) > 1:
        return cast(Tensor, Stored(parts[0].source))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _is_builtin(source: str | Path) -> bool:
    """Whether it means a built-in set; a bare word that is neither a set nor a path raises ValueError."""
    if isinstance(source, Path):
        return False
    if source in {row.name for row in BUILTIN}:
        return True
    if Path(source).suffix or len(Path(source).parts) > 1 or os.path.exists(source):
        return False
    return bool(find(source))
