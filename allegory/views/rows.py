r"""Rows: what a run of a table does with frames: it reads them, fills their gaps, scores rows and cells, draws rows.

A frame is of pandas, polars or pyarrow, an array, or a dictionary of columns; what comes back is of the same library.

Shapes: N rows, D columns of x, m draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allegory.data.conditions import Condition, encode_together
from allegory.data.files import read_raw
from allegory.data.ranges import Range, as_range
from allegory.data.tables import (
    as_frame,
    as_name,
    check_names,
    is_table,
    read_given_column,
    read_table,
    to_numbers,
)  # fmt: skip
from allegory.evaluation.bounds import log_likelihood
from allegory.evaluation.conditionals import log_cells, log_conditional
from allegory.evaluation.conditions import sample_given
from allegory.evaluation.imputation import fill, impute
from allegory.tabular.columns import CODED
from allegory.tabular.conditions import in_x
from allegory.tabular.copies import find_copies
from allegory.tabular.filling import fill as fill_frame

if TYPE_CHECKING:
    from allegory.tabular import Schema
    from allegory.views.runs import Run

__all__ = ["cells_of", "filled", "given_rows", "in_numbers", "open_rows", "read_rows", "sample", "score_rows"]

POINTS = ("best", "mean", "median", "mode")


def open_rows(run: Run, source: Any, array: str | None = None) -> Any:
    """The frame in a file, read as the training data were; a frame as it is.

    Args:
        run: of a table, or of an array of columns.
        source: a path, or a frame.
        array: the name of the one array of a .npz file that is taken.
    """
    if not isinstance(source, str | Path):
        return source
    reading = run.config["data"].get("reading") or {}
    if is_table(source):
        if array is not None:
            raise ValueError(f"{source} is a table; array={array!r} is for a .npz file")
        return read_table(Path(source), reading, run.schema)
    arrays, _, _ = read_raw(Path(source), array, run.gap_codes, [part.name for part in run.conditions])
    return np.concatenate([as_frame(x) for x in arrays.values()])


def read_rows(run: Run, frame: Any, strict: bool = False, where: str = "") -> Tensor:
    """(N, D) float32, a frame as the run's model takes it.

    Args:
        run: of a table.
        frame: with the columns of the training data, in any order.
        strict: whether values that were never seen are an error.
        where: the frame, in messages.
    """
    schema = _schema(run)
    x = to_numbers(schema, frame, where, strict).to(run.device)
    for i, column in enumerate(schema.modelled):
        if column.kind == "categorical" and bool((x[:, i] == len(column.values)).any()):
            first = int((x[:, i] == len(column.values)).nonzero()[0])
            row = torch.full_like(x[:1], torch.nan)
            row[0, i] = len(column.values)
            c, nothing = given_rows(run, frame), torch.zeros_like(row, dtype=torch.bool)
            context = None if c is None else c[first : first + 1]
            found = log_conditional(run.model, row, of=[i], given=nothing, context=context)
            p = found.values.exp().item()
            warnings.warn(f"column {column.name!r}: the model gives any value never seen {p:.2g} in all", stacklevel=3)
    return x


def filled(
    run: Run,
    frame: Any,
    draws: int | None,
    point: str | None,
    samples: int,
    method: str,
    seed: int,
    strict: bool,
    known: Mapping[Any, Any] | None = None,
    copies: bool = False,
) -> Any:
    """The frame with its gaps filled: m of them for `draws`, else one. What is `known` of the gaps of some columns is
    a value, a range, or None for gaps that stay; of the others, where `copies` are asked for, what rows that come again
    have is taken first.
    """
    x, schema, given = read_rows(run, frame, strict), _schema(run), given_rows(run, frame)
    if draws is not None and point is not None:
        raise ValueError(f"draws={draws} and point={point!r}: wanted one of them")
    if draws is None and method != "sir":
        raise ValueError(f"method={method!r} is of draws, which are not asked for; wanted draws=m, too")
    conditions = in_numbers(run, known or {})
    gaps = x.isnan()
    x = _from_copies(schema, x, conditions, seed) if copies else x
    x, between, kept = _known(x, _in_float32(schema, conditions))
    left = torch.zeros_like(gaps)
    left[:, kept] = gaps[:, kept]
    if draws is not None:
        if draws < 1:
            raise ValueError(f"draws={draws}: wanted at least 1")
        many = impute(run.model, x, draws, samples, method, seed=seed, given=given, between=between)
        rows = [_exactly(_as_found(one, gaps, left, conditions), conditions) for one in many]
        return [fill_frame(schema, frame, one) for one in rows]
    point = "best" if point is None else point
    if point not in POINTS:
        raise ValueError(f"point={point!r}: wanted one of {', '.join(POINTS)}")
    numbers = "median" if point == "best" else point
    each = ["mode" if column.kind in CODED else numbers for column in schema.modelled]
    best = fill(run.model, x, each, samples, seed, given=given, between=between)
    return fill_frame(schema, frame, _exactly(_as_found(best, gaps, left, conditions), conditions))


def _exactly(x: Tensor, conditions: Mapping[int, Any]) -> Tensor:
    """(N, D) float64 rows with what is known of them in all its digits, of which float32 has some."""
    x = x.double()
    for d, wanted in conditions.items():
        if isinstance(wanted, tuple):
            x[:, d] = x[:, d].clamp(*wanted)
        else:
            x[:, d] = torch.where(x[:, d].float() == torch.tensor(wanted).float(), wanted, x[:, d])
    return x


def _in_float32(schema: Schema, conditions: Mapping[int, Any]) -> dict[int, Any]:
    """The conditions, of which ranges between numbers that float32 does not tell apart are a little wider."""
    found = dict(conditions)
    for d, wanted in conditions.items():
        step = schema.modelled[d].step
        if isinstance(wanted, tuple) and step is not None:
            fine = [math.isfinite(end) and step.size < np.spacing(np.float32(abs(end))) for end in wanted]
            ends = zip(wanted, fine, (-1, 1), strict=True)
            found[d] = tuple(
                float(np.nextafter(np.float32(end), np.float32(side * np.inf))) if near else end
                for end, near, side in ends
            )
    return found


def _from_copies(schema: Schema, x: Tensor, conditions: Mapping[int, Any], seed: int) -> Tensor:
    """(N, D) the rows with what their copies among them have, but in columns whose gaps say something, or of which
    something is known.
    """
    gives = [not column.missing and d not in conditions for d, column in enumerate(schema.modelled)]
    numbers = x.cpu().numpy()
    found = find_copies(numbers, np.array(gives), seed)
    return x if found is None else torch.from_numpy(found.fill(numbers)).to(x)


def _known(x: Tensor, conditions: Mapping[int, Any]) -> tuple[Tensor, tuple[Tensor, Tensor] | None, list[int]]:
    """Rows (N, D) with known values in gaps; limits of the others, (1, D) both; and columns whose gaps stay."""
    x, low, high, kept = x.clone(), torch.full_like(x[:1], -torch.inf), torch.full_like(x[:1], torch.inf), []
    for d, wanted in conditions.items():
        if isinstance(wanted, tuple):
            low[0, d], high[0, d] = wanted
        elif wanted != wanted:
            kept.append(d)
        else:
            x[x[:, d].isnan(), d] = wanted
    limited = bool((low.isfinite() | high.isfinite()).any())
    return x, (low, high) if limited else None, kept


def _as_found(found: Tensor, gaps: Tensor, left: Tensor, conditions: Mapping[int, Any]) -> Tensor:
    """The rows, if all gaps are filled, but for those that stay."""
    still = (found.isnan() & gaps & ~left).nonzero()
    if conditions and len(still):
        raise ValueError(
            f"row {still[0, 0].item()}: under what is known of its gaps it has a probability of 0 in the model"
        )
    return found.masked_fill(left, torch.nan)


def score_rows(run: Run, frame: Any, samples: int, seed: int, strict: bool) -> Tensor:
    """(N,) minus L_K of each row, nats: the higher, the stranger."""
    x = read_rows(run, frame, strict)
    return -log_likelihood(run.model, x, samples, seed=seed, given=given_rows(run, frame)).cpu()


def cells_of(run: Run, frame: Any, samples: int, seed: int, strict: bool) -> Tensor:
    """(N, D) minus log p(x_d | the rest of the row), nats; NaN in gaps."""
    x = read_rows(run, frame, strict)
    return -log_cells(run.model, x, samples, seed, given=given_rows(run, frame)).cpu()


def given_rows(run: Run, frame: Any) -> Tensor | None:
    """(N, k) what is given with the rows of a frame; None for a run without."""
    if run.given_about is None:
        return None
    where, names = str(run.path), ", ".join(part.name for part in run.conditions)
    if not run.is_table:
        raise ValueError(
            f"{where} was trained on an array, whose rows do not say what is given with them ({names}); in Python "
            "al.log_likelihood and al.impute take given=, such as run.read_given(path), beside run.read(path)"
        )
    raw = {
        part.name: read_given_column(frame, part.name, where, "categorical" if part.categories else "real")
        for part in run.conditions
    }
    return encode_together(run.conditions, raw, where).to(run.device)


def sample(
    run: Run, n: int, given: Mapping[Any, Any], temperature: float, seed: int, samples: int | None
) -> tuple[Any, float | None]:
    """A frame of n rows under conditions, with what the model is given as last columns; and the effective sample size,
    None where nothing is said of the columns that are modelled.
    """
    schema, names = _schema(run), [part.name for part in run.conditions]
    of_given = {str(name): value for name, value in given.items() if str(name) in names}
    conditions = in_numbers(run, {name: value for name, value in given.items() if str(name) not in names})
    c, within = run.given_as(of_given, n, seed).to(run.device) if names else None, _in_float32(schema, conditions)
    if not conditions:
        x, ess = run.sample(n, temperature, seed, c), None
    elif temperature != 1:
        raise ValueError(f"temperature={temperature:g} is of draws from the prior; wanted 1 beside values of columns")
    elif c is None or bool((c == c[0]).all()):
        alike = None if c is None else c[:1]
        x, ess = sample_given(run.model, n, within, samples or 10_000, seed=seed, return_ess=True, given=alike)
    else:
        drawn = ", ".join(name for name in names if name not in of_given or as_range(of_given[name]) is not None)
        warnings.warn(
            f"{drawn}: given, not modelled, and so drawn as in the training data, whatever is said of other columns",
            stacklevel=3,
        )
        x, ess = _rows_of_their_own(run, within, n, seed, samples or 1000, c)
    frame = schema.decode(_exactly(x, conditions))
    return (frame if c is None else _with_columns(frame, run.conditions, c)), ess


def _rows_of_their_own(
    run: Run, conditions: Mapping[int, Any], n: int, seed: int, samples: int, c: Tensor
) -> tuple[Tensor, float]:
    """(n, D) rows under conditions, each with another c, (n, k)."""
    empty = torch.full((n, len(_schema(run).names)), torch.nan, device=run.device)
    x, between, left_out = _known(empty, conditions)
    drawn, ess = impute(run.model, x, 1, samples, seed=seed, return_ess=True, given=c, between=between, as_gaps=False)
    if bool(drawn.isnan().any()):
        raise ValueError("no row can meet the conditions: their probability is 0 under the model")
    drawn[0][:, left_out] = torch.nan
    return drawn[0], float(ess.min())


def _with_columns(frame: Any, parts: Sequence[Condition], c: Tensor) -> Any:
    """A frame with what is given as last columns."""
    import narwhals.stable.v2 as nw

    start, columns = 0, {}
    for part in parts:
        columns[part.name] = _as_column(part, c[:, start : start + part.count])
        start += part.count
    if isinstance(frame, dict):
        return {**frame, **columns}
    wrapped = nw.from_native(frame, eager_only=True)
    made = [nw.new_series(name, x.tolist(), backend=wrapped.implementation) for name, x in columns.items()]
    return wrapped.with_columns(*made).to_native()


def _as_column(part: Condition, c: Tensor) -> Any:
    """(n,) the values of what is given, (n, count): whole numbers as such."""
    if part.categories:
        words = part.categories
        whole = all(word.lstrip("-").isdecimal() and str(int(word)) == word for word in words)
        values = np.array([int(word) for word in words]) if whole else np.array(words, object)
        return values[c.argmax(1).cpu().numpy()]
    x = c[:, 0].cpu().numpy()
    if bool((x == np.rint(x)).all()):
        return x.astype(np.int64)
    return np.array([float(str(value)) for value in x])  # the digits that float32 has


def in_numbers(run: Run, given: Mapping[Any, Any]) -> dict[int, Any]:
    """Conditions on columns of a table as `sample_given` takes them: by the column of x, a number, a range, or NaN.

    Args:
        run: of a table.
        given: by column a value, a range (low, high) or `Range`, or None for a gap; text stands for what it says.

    Raises:
        ValueError: no such column, a value that it cannot have.
    """
    schema = _schema(run)
    names = [column.name for column in schema.columns]
    said = {as_name(name, names): value for name, value in given.items()}
    check_names([*names, *(part.name for part in run.conditions)], {"given": said}, str(run.path))
    found: dict[int, Any] = {}
    for name, value in said.items():
        column = next((column for column in schema.columns if column.name == name), None)
        if column is None:
            raise ValueError(f"given {name!r}: it is given with each row, and has no gaps")
        missing = value is None or (isinstance(value, float) and value != value)
        wanted = None if missing else as_range(value) or Range(value, value)
        if wanted is not None and wanted.low is None and wanted.high is None:
            raise ValueError(f"given {name!r}: a range without an end; wanted (low, high)")
        ends = None if wanted is None else in_x(column, wanted.low, wanted.high, wanted.above, wanted.below)
        if column.modelled:
            d = schema.names.index(name)
            found[d] = math.nan if ends is None else ends[0] if ends[0] == ends[1] else ends
        elif missing:
            raise ValueError(f"given {name!r}: no row can have a gap there, the column is constant")
    return found


def _schema(run: Run) -> Schema:
    if run.schema is None:
        raise ValueError(f"{run.path} was not trained on a table, whose rows these would be")
    return run.schema
