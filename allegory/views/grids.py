r"""Plots of tables: single columns and pairs of them, rows of the data beside drawn ones, and what columns gain.

Categories are bars, numbers are in bins of whole steps of their resolution.

Shapes: N rows of the data, N' drawn ones; a gap is NaN, and has no part in a plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.views.cells import ShownColumn
from allegory.views.plots import COLOURS, DOTS, INK, SMALL, as_svg, leave_room_above, legend_above, plain_ticks

__all__ = ["codes", "column_height", "gains", "numbers", "pair"]

CATEGORIES, BINS = 10, 30  # the most that are shown of a column
FEW, FEW_STEPS = 7, 12  # categories in a pair; steps of a column whose points are moved apart
TAIL = 0.002  # of the data, on each side, beyond the axis


def column_height(rows: int) -> float:
    """Inches of a plot of horizontal bars."""
    return 1.1 + 0.26 * rows


@as_svg
def codes(axis: Any, data: Tensor, drawn: Tensor, column: ShownColumn) -> None:
    """The share of each category, the most frequent ones of the data first.

    Args:
        data, drawn: (N,) and (N',) codes.
        column: what they are.
    """
    shares = [_shares(x, len(column.labels)) for x in (data, drawn)]
    order = frequent(data, column, CATEGORIES)
    names = [_cut(column.labels[code]) for code in order]
    rest = [float(share.sum() - share[order].sum()) for share in shares]
    kept = [[*share[order].tolist(), other] for share, other in zip(shares, rest, strict=True)]
    if len(order) < len(column.labels) and max(rest) > 0:
        names.append("others")
    at = np.arange(len(names))[::-1]
    for values, offset, label, colour in zip(kept, (0.2, -0.2), ("data", "drawn"), COLOURS, strict=False):
        axis.barh(at + offset, values[: len(names)], 0.4, label=label, color=colour)
    axis.set_yticks(at, names)
    axis.set(xlabel="share of the values that are there", title=column.short)
    legend_above(axis)


@as_svg
def numbers(axis: Any, data: Tensor, drawn: Tensor, column: ShownColumn) -> None:
    """The share of the values in each bin.

    Args:
        data, drawn: (N,) and (N',) values.
        column: what they are.
    """
    data, drawn = data[data.isfinite()].double(), drawn[drawn.isfinite()].double()
    edges = bin_edges(data, column.step)
    looks: list[dict[str, Any]] = [dict(fill=True, alpha=0.35), dict(linewidth=1.6)]
    for x, label, look, colour in zip((data, drawn), ("data", "drawn"), looks, COLOURS, strict=False):
        counts = np.histogram(x.numpy(), edges)[0]
        axis.stairs(counts / max(1, len(x)), edges, label=label, color=colour, **look)
    axis.set(xlabel=column.short, ylabel="share")
    value_ticks(axis.xaxis, column)
    leave_room_above(axis)
    axis.legend(loc="upper right", ncols=2)


def bin_edges(data: Tensor, step: float | None, bins: int = BINS) -> np.ndarray:
    """Of bins that are a whole number of steps wide, with values in their middle; they leave out the outermost values.

    >>> bin_edges(torch.arange(4.0), 1.0).tolist(), bin_edges(torch.arange(100.0), 1.0, 25)[:3].tolist()
    ([-0.5, 0.5, 1.5, 2.5, 3.5], [-0.5, 3.5, 7.5])
    """
    if not len(data):
        return np.array([0.0, 1.0])
    low, high = limits(data)
    if step is None:
        return np.linspace(low, high, min(bins, max(8, int(2 * len(data) ** 0.4))) + 1)
    steps = round((high - low) / step) + 1
    width = math.ceil(steps / bins)
    return low - step / 2 + step * width * np.arange(math.ceil(steps / width) + 1)


def limits(data: Tensor) -> tuple[float, float]:
    """Between which values are shown, of (N,) data without gaps."""
    tail = TAIL if len(data) * TAIL >= 1 else 0.0
    ordered = data.double().sort().values
    low, high = ordered[int(tail * (len(data) - 1))].item(), ordered[math.ceil((1 - tail) * (len(data) - 1))].item()
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def frequent(data: Tensor, column: ShownColumn, most: int) -> list[int]:
    """The codes of the data that are shown: in their order where they are few, else the most frequent ones first."""
    shares = _shares(data, len(column.labels))
    there = shares.nonzero()[:, 0].tolist()
    return there if len(there) <= most else shares.argsort(descending=True)[:most].tolist()


@as_svg
def pair(axis: Any, x: Tensor, data: Tensor, columns: Sequence[ShownColumn], title: str) -> None:
    """Two columns: points of numbers, the share of each combination of categories, points over categories.

    Args:
        x: (N, 2) what is shown, of the data or drawn.
        data: (N, 2) the data, which determine the axes.
        columns: what they are; a category is first.
        title: whose rows they are.
    """
    x, data = (rows[rows.isfinite().all(1)] for rows in (x, data))
    first, second = columns
    axis.set(title=title, xlabel=first.short, ylabel=second.short)
    order = [frequent(data[:, i], column, FEW) if column.labels else [] for i, column in enumerate(columns)]
    if second.labels:
        _contingency(axis, x, order, columns)
        return
    x = x[:DOTS]
    place = x[:, 0]
    if first.labels:
        code = torch.full((max(len(first.labels), int(place.max().item()) + 1 if len(x) else 1),), math.nan)
        code[order[0]] = torch.arange(len(order[0]), dtype=code.dtype)
        place = code[x[:, 0].long()] + 0.6 * _apart(len(x), 7.13)
        axis.set_xticks(range(len(order[0])), [_cut(first.labels[c], 8) for c in order[0]])
        axis.set_xlim(-0.5, max(1, len(order[0])) - 0.5)
    else:
        place = _spread(axis.set_xlim, x[:, 0], data[:, 0], first, 7.13)
        value_ticks(axis.xaxis, first)
    height = _spread(axis.set_ylim, x[:, 1], data[:, 1], second, 11.71)
    axis.scatter(place, height, s=9, linewidth=0, alpha=0.45, color=COLOURS[title != "data"])
    value_ticks(axis.yaxis, second)


def _spread(set_limits: Callable[..., Any], x: Tensor, data: Tensor, column: ShownColumn, turn: float) -> Tensor:
    """(N,) where numbers are shown, within limits by the data; those of a few steps beside each other."""
    low, high = limits(data) if len(data) else (0.0, 1.0)
    if column.step is None or (high - low) / column.step > FEW_STEPS:
        set_limits(*_room((low, high)))
        return x
    set_limits(low - column.step / 2, high + column.step / 2)
    return x + 0.6 * column.step * _apart(len(x), turn)


def _apart(n: int, turn: float) -> Tensor:
    """(n,) numbers between -0.5 and 0.5, none of them near the one before."""
    return torch.arange(n) * turn % 1 - 0.5


def _contingency(axis: Any, x: Tensor, order: Sequence[list[int]], columns: Sequence[ShownColumn]) -> None:
    """The share of the rows with each combination."""
    share = np.array([[((x[:, 0] == i) & (x[:, 1] == j)).sum().item() for i in order[0]] for j in order[1]])
    share = share / max(1, len(x))
    shown = axis.imshow(share, cmap="viridis", vmin=0, interpolation="nearest", aspect="auto")
    for which, codes_of, column, most in zip((axis.xaxis, axis.yaxis), order, columns, (8, 12), strict=True):
        which.set_ticks(range(len(codes_of)), [_cut(column.labels[code], most) for code in codes_of])
    if len(order[0]) > 3:
        axis.tick_params(axis="x", rotation=30)
    axis.grid(False)
    axis.figure.colorbar(shown, ax=axis, shrink=0.8, label="share of rows")


@as_svg
def gains(axis: Any, names: Sequence[str], values: Sequence[float]) -> None:
    """Nats gained by columns, the first at the top.

    Args:
        names: of the columns.
        values: nats per observed value, the model minus the column's own marginal.
    """
    at = np.arange(len(names))[::-1]
    colours = [COLOURS[0] if value > 0 else COLOURS[3] for value in values]
    bars = axis.barh(at, values, 0.7, color=colours)
    axis.bar_label(bars, [f"{round(value, 2) + 0.0:.2f}" for value in values], padding=4, fontsize=SMALL)
    axis.axvline(0, color=INK, linewidth=1.2, label="its own marginal")
    axis.set_yticks(at, names)
    low, high = min(0.0, *values), max(1e-3, *values)
    room = 0.22 * (high - low)
    axis.set(xlabel="gain, nats per observed value", xlim=(low - (room if low < 0 else 0), high + room))
    axis.margins(y=0.02)
    axis.grid(False, axis="y")
    legend_above(axis)


def value_ticks(axis: Any, column: ShownColumn) -> None:
    """A few values, in the words of the data; whole steps where there are only a few of those."""
    from matplotlib.ticker import MaxNLocator

    bins = 2 if column.column is not None and column.column.unit else 4  # dates are long
    whole = column.step is not None and column.step == round(column.step)
    axis.set_major_locator(MaxNLocator(nbins=bins, integer=whole))
    if column.column is None or (not column.column.unit and not column.column.origin):
        plain_ticks(axis)
    else:
        axis.set_major_formatter(lambda value, _: column.in_words(value))


def _shares(x: Tensor, size: int) -> Tensor:
    """(size,) the share of each code among the values that are there."""
    found = x[x.isfinite()].long().clamp(0, size - 1)
    return torch.bincount(found, minlength=size).double() / max(1, len(found))


def _cut(text: str, most: int = 14) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _room(ends: tuple[float, float]) -> tuple[float, float]:
    margin = 0.04 * (ends[1] - ends[0])
    return ends[0] - margin, ends[1] + margin
