r"""Rows: what a run of a table does with frames: it reads them, fills their gaps, scores rows and cells, draws rows.

A frame is of pandas, polars or pyarrow, an array, or a dictionary of columns; what comes back is of the same library.

Shapes: N rows, D columns of x, m draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allegory.data.conditions import encode_conditions
from allegory.data.files import read_raw
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
from allegory.evaluation.conditionals import log_cells
from allegory.evaluation.imputation import fill, impute
from allegory.tabular.columns import CODED, UNITS
from allegory.tabular.filling import fill as fill_frame

if TYPE_CHECKING:
    from allegory.tabular import Schema
    from allegory.views.runs import Run

__all__ = ["cells_of", "condition", "filled", "given_rows", "open_rows", "read_rows", "sample", "score_rows"]

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
        return read_table(Path(source), reading)
    arrays, _, _ = read_raw(Path(source), array, reading.get("gaps", ()))
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
            row = torch.full_like(x[:1], torch.nan)
            row[0, i] = len(column.values)
            p = log_likelihood(run.model, row, 1000, seed=0).exp().item()
            warnings.warn(f"column {column.name!r}: the model gives any value never seen {p:.2g} in all", stacklevel=3)
    return x


def filled(
    run: Run, frame: Any, draws: int | None, point: str | None, samples: int, method: str, seed: int, strict: bool
) -> Any:
    """The frame with its gaps filled: m of them for `draws`, else one."""
    x, schema, given = read_rows(run, frame, strict), _schema(run), given_rows(run, frame)
    if draws is not None and point is not None:
        raise ValueError(f"draws={draws} and point={point!r}: wanted one of them")
    if draws is not None:
        if draws < 1:
            raise ValueError(f"draws={draws}: wanted at least 1")
        many = impute(run.model, x, draws, samples, method, seed=seed, given=given)
        return [fill_frame(schema, frame, one) for one in many]
    point = "best" if point is None else point
    if point not in POINTS:
        raise ValueError(f"point={point!r}: wanted one of {', '.join(POINTS)}")
    numbers = "median" if point == "best" else point
    each = ["mode" if column.kind in CODED else numbers for column in schema.modelled]
    return fill_frame(schema, frame, fill(run.model, x, each, samples, seed, given=given))


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
    about = run.given_about
    if about is None:
        return None
    raw = read_given_column(frame, about["name"], str(run.path))
    return encode_conditions(about["name"], raw, about["categories"], str(run.path)).to(run.device)


def sample(run: Run, n: int, given: Mapping[Any, Any], temperature: float, seed: int) -> Any:
    """A frame of n rows, those of `given` with its values; what the model is given beside them, as a last column."""
    schema, about, said = _schema(run), run.given_about, dict(given)
    c = None
    if about is not None:
        text = said.pop(about["name"], None)
        rows = torch.randint(len(run.data.train), (n,), generator=torch.Generator().manual_seed(seed))
        drawn = run.data.given_with("train", rows)[0] if text is None else run.given_as(str(text)).expand(n, -1)
        c = drawn.to(run.device)
    if said:
        x = condition(run, said, n).to(run.device)
        x = impute(run.model, x, draws=1, seed=seed, given=c)[0] if x.isnan().any() else x
    else:
        x = run.sample(n, temperature, seed, c)
    frame = schema.decode(x)
    return frame if about is None or c is None else _with_column(frame, about, c)


def _with_column(frame: Any, about: Mapping[str, Any], c: Tensor) -> Any:
    """A frame with what is given as a last column."""
    import narwhals.stable.v2 as nw

    categories = np.array(about["categories"], object)
    values = categories[c.argmax(1).cpu().numpy()] if len(categories) else c[:, 0].double().cpu().numpy()
    if isinstance(frame, dict):
        return {**frame, about["name"]: values}
    wrapped = nw.from_native(frame, eager_only=True)
    column = nw.new_series(about["name"], values.tolist(), backend=wrapped.implementation)
    return wrapped.with_columns(column).to_native()


def condition(run: Run, given: Mapping[Any, Any], n: int) -> Tensor:
    """(n, D) rows in which all but some columns are missing.

    Args:
        run: of a table.
        given: the values of these columns; text stands for what it says, as in a file.
        n: how many.

    Raises:
        ValueError: no such column, a value that it cannot have.
    """
    schema = _schema(run)
    names = [column.name for column in schema.columns]
    said = {as_name(name, names): value for name, value in given.items()}
    check_names(names, {"given": said}, str(run.path))
    row = torch.full((1, len(schema.names)), torch.nan)
    for name, value in said.items():
        column = next(column for column in schema.columns if column.name == name)
        code = _code(column, value)
        if column.modelled:
            row[0, schema.names.index(name)] = code
    return row.expand(n, -1).clone()


def _code(column: Any, value: Any) -> float:
    """The number x of a value of a column."""
    if column.kind in CODED:
        words = {str(known): code for code, known in enumerate(column.values)}
        if str(value) not in words:
            raise ValueError(
                f"given {column.name!r}: no row can have {value!r}; wanted one of {', '.join(list(words)[:12])}"
            )
        return float(words[str(value)])
    try:
        if column.kind == "datetime":
            return float((np.datetime64(value, "ns").astype(np.int64) - int(column.origin)) / UNITS[column.unit])
        x = float(value) - float(column.origin)
    except ValueError:
        raise ValueError(f"given {column.name!r}: {value!r} where a {column.kind} is wanted") from None
    low, high = column.low, column.high
    if not np.isfinite(x) or (low is not None and x < low) or (high is not None and x > high):
        edges = " .. ".join("" if edge is None else f"{edge + float(column.origin):g}" for edge in (low, high))
        raise ValueError(f"given {column.name!r}: no row can have {value!r}, which is beyond {edges}")
    if column.step is not None:
        k = (x - column.step.anchor) / column.step.size
        if abs(k - round(k)) > 1e-3:
            raise ValueError(
                f"given {column.name!r}: no row can have {value!r}, whose resolution is {column.step.size:g}"
            )
    return x


def _schema(run: Run) -> Schema:
    if run.schema is None:
        raise ValueError(f"{run.path} was not trained on a table, whose rows these would be")
    return run.schema
