r"""Plots, as inline SVG: lines and text take the page's colour, so that they are readable on light and dark
backgrounds. A plot is shown at least `WIDTH` pixels wide, on a phone, too, and there no text is smaller than eleven
pixels; what is counted has whole numbers on its axis.

Shapes: N examples, D the elements of one, flattened; T levels.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.training.curves import draw_history

__all__ = [
    "WIDTH", "aggregate", "as_svg", "bounds", "correlations", "curve", "gradients", "leave_room_above", "legend_above",
    "level_rates", "likelihoods", "marginal", "parts", "path", "plain_ticks", "profile", "projection", "rate_curve",
    "schedule", "stack_limits", "unit_rates",
]  # fmt: skip

WIDTH = 328
"""Pixels, of the narrowest column of a page."""

INK = "#010203"  # a placeholder for the page's text colour
COLOURS = ["#4878d0", "#ee854a", "#55a868", "#d65f5f", "#956cb4", "#c2a13a", "#3aa6b9", "#8c613c"]
INCHES, TEXT, SMALL = 4.0, 11, 10  # of a plot; of its text, in points: 12.5 and 11.4 pixels where it is 328 wide
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": TEXT, "axes.titlesize": TEXT,
    "legend.fontsize": SMALL, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "legend.frameon": False, "legend.labelcolor": INK, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.12, "grid.linewidth": 0.6, "lines.linewidth": 1.4, "axes.formatter.useoffset": False,
    "axes.unicode_minus": True, "legend.borderaxespad": 0.2, "legend.handlelength": 1.4, "legend.labelspacing": 0.3,
    "legend.columnspacing": 1.0,
}  # fmt: skip
MARKED, DOTS = 30, 800  # the most points of a line with markers, and of a scatter plot
MAX_LEGEND = 6  # levels in a legend
numbers = count()  # of plots, so that no two on a page share an id


def as_svg(plot: Callable[..., None]) -> Callable[..., str]:
    """Turns a function that draws on given axes into one that returns SVG."""

    @functools.wraps(plot)
    def call(*arguments: Any, height: float = 2.9, **named: Any) -> str:
        import matplotlib  # when it is needed: importing it takes a while
        from cycler import cycler
        from matplotlib.figure import Figure

        style = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
        with matplotlib.rc_context({**style, "svg.hashsalt": f"allegory {next(numbers)}"}):
            figure = Figure(figsize=(INCHES, height), layout="constrained")
            plot(figure.subplots(), *arguments, **named)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.S)
        svg = re.sub(r"\s+", " ", svg[svg.index("<svg") :]).replace(INK, "currentColor")
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        return re.sub(r'width="[^"]*" height="[^"]*"|height="[^"]*"', 'role="img"', svg, count=1)

    return call


def _whole_ticks(axis: Any) -> None:
    """Whole numbers alone on an axis, with separators of thousands."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def plain_ticks(axis: Any) -> None:
    """Plain numbers on an axis: exponents would be too small to read."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def _level_colours(levels: int) -> list[Any]:
    """A colour for each level: their own for a few, else from dark to light."""
    import matplotlib

    if levels <= len(COLOURS):
        return COLOURS[:levels]
    return [matplotlib.colormaps["viridis"](0.05 + 0.9 * t / (levels - 1)) for t in range(levels)]


def _level_names(levels: int, name: str) -> list[str | None]:
    """What stands in the legend: each level of a few, else some of them."""
    count = min(levels, MAX_LEGEND)
    named = {round(i * (levels - 1) / max(1, count - 1)) for i in range(count)}
    return [f"{name} {t + 1}" if t in named else None for t in range(levels)]


def _epochs(axis: Any, history: Sequence[dict[str, Any]], best: float | None) -> list[float]:
    """The epochs of the history, on the x axis, and a line at the one whose weights are kept."""
    if best is not None:
        axis.axvline(best, color=INK, linestyle=":", linewidth=1, label="weights kept")
    axis.set_xlabel("epoch")
    _whole_ticks(axis.xaxis)
    return [line["epoch"] for line in history]


def legend_above(axis: Any, columns: int = 2) -> None:
    """A legend above the axes, where it covers nothing."""
    if axis.get_legend():
        axis.get_legend().remove()
    axis.figure.legend(loc="outside upper left", ncols=columns)


@as_svg
def bounds(
    axis: Any,
    history: Sequence[dict[str, Any]],
    best: float | None = None,
    baseline: float | None = None,
    warmed: float = 0.0,
) -> None:
    """The objective in training and the bound in validation against epochs.

    Args:
        history: a line per epoch, as `Record.history`.
        best: the epoch whose weights are kept.
        baseline: what independent elements reach in validation, nats per example.
        warmed: the epoch in which the warm-up of the KL ended; until then the objective is no bound.
    """
    draw_history(axis, history)
    if warmed:
        axis.axvspan(0, warmed, color="0.5", alpha=0.15, linewidth=0, label="KL warm-up")
    if baseline is not None:
        low, high = axis.get_ylim()
        axis.axhline(baseline, color=COLOURS[3], linestyle="--", linewidth=1, label="independent elements")
        room = high - low
        axis.set_ylim(low if baseline < low - 2 * room else min(low, baseline - 0.05 * room), high)
    _epochs(axis, history, best)
    legend_above(axis)


@as_svg
def parts(
    axis: Any,
    history: Sequence[dict[str, Any]],
    best: float | None = None,
    baseline: float | None = None,
    names: Sequence[str | None] = (),
) -> None:
    """-ELBO in validation, in its parts, against epochs: -reconstruction, and on it the rate of each level, level 1
    first.

    Args:
        history: a line per epoch, with `reconstruction` and `kl_per_level`.
        best: the epoch whose weights are kept.
        baseline: what independent elements reach in validation, nats per example.
        names: of the rates; by default their levels.
    """
    history = [line for line in history if "kl_per_level" in line]
    epoch = _epochs(axis, history, best)
    edges = _stack(history)
    levels = len(edges) - 1
    low, high = stack_limits(history)
    if low >= 0:
        axis.fill_between(epoch, low, edges[0], color="0.5", alpha=0.35, linewidth=0, label="-reconstruction")
    else:  # of densities it may be negative, and an area would mean nothing
        axis.plot(epoch, edges[0], color="0.5", label="-reconstruction")
    names = names or _level_names(levels, "rate")
    for t, (colour, name) in enumerate(zip(_level_colours(levels), names, strict=True)):
        axis.fill_between(epoch, edges[t], edges[t + 1], color=colour, alpha=0.75, linewidth=0, label=name)
    axis.plot(epoch, edges[-1], color=INK, label="-ELBO")
    if baseline is not None:
        axis.axhline(-baseline, color=COLOURS[3], linestyle="--", linewidth=1, label="independent")
        high = max(high, -baseline + 0.05 * (high - low)) if -baseline < high + 2 * (high - low) else high
    axis.set(ylabel="nats per example", ylim=(low, high + 0.05 * (high - low)))
    legend_above(axis)


def stack_limits(history: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """What `parts` shows: from zero, where that leaves its parts visible; without the first epochs, which are far above
    and would hide the others.

    Args:
        history: a line per epoch, with `reconstruction` and `kl_per_level`.
    """
    edges = _stack([line for line in history if "kl_per_level" in line])
    seen = edges[:, np.isfinite(edges).all(0)]
    if not seen.size:
        return 0.0, 1.0
    low, high = float(seen.min()), float(np.quantile(seen.max(0), 0.9))
    high = high if high > low else low + 1.0
    if 0 < low < 8 * (high - low):
        return 0.0, high
    return low - 0.1 * (high - low), high


def _stack(history: Sequence[dict[str, Any]]) -> np.ndarray:
    """(T + 1, epochs) -reconstruction, and on it the sums of the rates, level 1 first."""
    rates = np.array([line["kl_per_level"] for line in history], float).T
    distortion = -np.array([line["reconstruction"] for line in history], float)
    return distortion + np.concatenate([np.zeros((1, len(history))), rates.cumsum(0)])


@as_svg
def schedule(axis: Any, history: Sequence[dict[str, Any]], beta: str) -> None:
    """Learning rate and KL weight against epochs, each divided by its maximum.

    Args:
        history: a line per epoch, with `lr` and `beta`, the fraction of the weight that the warm-up has reached.
        beta: the full weight, as text.
    """
    rate = np.array([line["lr"] for line in history])
    epoch = _epochs(axis, history, None)
    axis.plot(epoch, rate / max(rate.max(), 1e-30), label=f"learning rate / {rate.max():.3g}")
    axis.plot(epoch, [np.mean(line["beta"]) for line in history], label=f"KL weight / {beta}")
    axis.set(ylabel="fraction of the maximum", ylim=(0, 1.05))
    legend_above(axis, columns=1)


@as_svg
def gradients(axis: Any, history: Sequence[dict[str, Any]]) -> None:
    """The mean norm of the gradient in each epoch.

    Args:
        history: a line per epoch, with `gradient_norm`.
    """
    norms = [line["gradient_norm"] for line in history]
    axis.plot(_epochs(axis, history, None), norms)
    axis.set(ylabel="norm of the gradient")
    if max(norms) > 30 * min(norms):
        axis.set_yscale("log")
        plain_ticks(axis.yaxis)
    else:
        axis.set_ylim(0)


@as_svg
def curve(axis: Any, found: Sequence[tuple[int, float, float]]) -> None:
    """L_K against K with its 95 % interval.

    Args:
        found: (K, L_K, its standard error), as `bound_curve` returns them.
    """
    k, bound, error = (np.array(values) for values in zip(*found, strict=True))
    axis.fill_between(k, bound - 1.96 * error, bound + 1.96 * error, alpha=0.2, linewidth=0)
    axis.plot(k, bound, ".-")
    axis.set(xscale="log", xlabel="K", ylabel="L_K, nats per example")
    decades = [10**i for i in range(10) if 10**i <= k[-1]]
    axis.set_xticks(decades if len(decades) > 1 else k)
    plain_ticks(axis.xaxis)


@as_svg
def likelihoods(axis: Any, edges: Sequence[float], shares: dict[str, Sequence[float]], means: dict[str, float],
                name: str, gap: bool = False) -> None:  # fmt: skip
    """Histograms of the bounds of examples, with their means.

    Args:
        edges: of the bins, of all histograms.
        shares: the share of the examples in each bin, by split.
        means: of each split.
        name: of the bound.
        gap: whether what lies between the two means is marked as overfitting.
    """
    looks: list[dict[str, Any]] = [dict(fill=True, alpha=0.35), dict(linewidth=1.6)]
    for (split, values), look, colour in zip(shares.items(), looks, COLOURS, strict=False):
        axis.stairs(values, edges, color=colour, label=split, **look)
        axis.axvline(means[split], color=colour, linestyle="--", linewidth=1.2)
    if gap:
        axis.axvspan(*sorted(means.values()), color=COLOURS[3], alpha=0.35, linewidth=0, label="overfitting")
    top = max(max(values, default=0) for values in shares.values())
    axis.set(xlabel=f"{name} of an example, nats", ylabel="share of the examples", ylim=(0, 1.05 * top or 1))
    legend_above(axis, columns=3)


@as_svg
def level_rates(axis: Any, rates: Sequence[float], words: Sequence[str] = ()) -> None:
    """The rate of each level.

    Args:
        rates: of each level, level 1 first.
        words: that stand beside them, such as how many units are active.
    """
    level = np.arange(1, len(rates) + 1)
    bars = axis.barh(level, rates, height=0.7, color=_level_colours(len(rates)))
    if words:
        axis.bar_label(bars, list(words), padding=5, fontsize=SMALL)
    finite = [rate for rate in rates if math.isfinite(rate)]
    low, high = min([0.0, *finite]), max([1e-3, *finite])
    axis.set(
        xlabel="rate, nats per example",
        ylabel="level",
        xlim=(1.1 * low, high + (0.75 if words else 0.1) * (high - low)),
    )
    axis.set_yticks(level if len(level) <= 10 else level[:: len(level) // 5])
    axis.margins(y=0.02)


@as_svg
def rate_curve(axis: Any, at: Sequence[float], rates: Sequence[float], name: str, per: str = "") -> None:
    """The rate of many levels as a curve.

    Args:
        at: where each level lies.
        rates: of the levels, nats per example, or per unit of `at`.
        name: of what `at` is.
        per: the unit of `at`, if the rates are per one.
    """
    axis.fill_between(at, rates, alpha=0.25, linewidth=0)
    axis.plot(at, rates)
    axis.set(xlabel=name, ylabel=f"rate, nats{f' per {per}' if per else ''}")
    axis.set_ylim(min(0.0, *rates))
    axis.margins(x=0)
    if at[0] > at[-1]:  # from the data on the left to noise, as over the levels
        axis.invert_xaxis()


@as_svg
def unit_rates(axis: Any, rates: Sequence[Tensor | None]) -> None:
    """The rate of every unit of each level, sorted.

    Args:
        rates: (units,) of each level, level 1 first, nats; None where they are not available.
    """
    names, colours = _level_names(len(rates), "level"), _level_colours(len(rates))
    for values, name, colour in zip(rates, names, colours, strict=True):
        if values is not None:
            ordered = values.flatten().sort(descending=True).values
            marker = "." if len(ordered) <= MARKED else ""
            axis.plot(range(1, len(ordered) + 1), ordered, marker=marker, markersize=5, label=name, color=colour)
    axis.set(xlabel="unit, the one of the highest rate first", ylabel="rate, nats per example")
    lowest = [values.min().item() for values in rates if values is not None and values.isfinite().all()]
    axis.set_ylim(min([0.0, *lowest]))
    _whole_ticks(axis.xaxis)
    axis.legend(ncols=2)


@as_svg
def aggregate(axis: Any, posterior: Tensor, prior: Tensor, names: Sequence[str]) -> None:
    """Draws from q(z | x) over the data and from p(z), in two dimensions.

    Args:
        posterior, prior: (N, 2).
        names: of the two dimensions.
    """
    axis.scatter(*prior[:DOTS].T, s=12, linewidth=0, alpha=0.45, label="prior", color=COLOURS[1])
    axis.scatter(*posterior[:DOTS].T, s=12, linewidth=0, alpha=0.6, label="aggregate posterior", color=COLOURS[0])
    axis.set(xlabel=names[0], ylabel=names[1])
    leave_room_above(axis)
    axis.legend(loc="upper right", markerscale=2, ncols=2)


@as_svg
def marginal(axis: Any, data: Tensor, drawn: Tensor, name: str, labels: tuple[str, str] = ("data", "model")) -> None:
    """The values of one dimension, in the data and in samples from the model; bars for a few whole numbers. Samples
    outside the range of the data are missing from the area below the line.

    Args:
        data, drawn: (N,) and (N',).
        name: of the dimension.
        labels: of the two histograms.
    """
    data, drawn = data[data.isfinite()], drawn[drawn.isfinite()]
    low, high = (data.min().item(), data.max().item()) if len(data) else (0.0, 1.0)
    if bool((data == data.round()).all()) and high - low <= 40:
        values = np.arange(low, high + 1)
        shares = [[(x == v).double().mean().item() for v in values] for x in (data, drawn)]
        axis.bar(values - 0.2, shares[0], 0.4, label=labels[0])
        axis.bar(values + 0.2, shares[1], 0.4, label=labels[1])
        axis.set(ylabel="share")
        _whole_ticks(axis.xaxis)
    else:
        tail = 0.001 if len(data) > 2000 else 0.0
        start, end = (data[:100_000].double().quantile(q).item() for q in (tail, 1 - tail))
        bins = int(min(40, max(10, 2 * len(data) ** 0.4)))
        edges = np.linspace(start, end, bins + 1) if start < end else np.linspace(low - 0.5, high + 0.5, 41)
        looks: list[dict[str, Any]] = [dict(histtype="stepfilled", alpha=0.35), dict(histtype="step", linewidth=1.4)]
        for x, label, look in zip((data, drawn), labels, looks, strict=True):
            weights = np.full(len(x), 1 / (max(1, len(x)) * (edges[1] - edges[0])))
            axis.hist(x.numpy(), edges, weights=weights, label=label, **look)
        axis.set(ylabel="density")
    axis.set(xlabel=name)
    leave_room_above(axis)
    axis.legend(loc="upper right", ncols=2)


def leave_room_above(axis: Any) -> None:
    """Room for a legend above what is drawn."""
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.2 * (high - low))


@as_svg
def correlations(axis: Any, x: Tensor, title: str, name: str = "column") -> None:
    """The correlations between dimensions.

    Args:
        x: (N, D).
        title: of the plot.
        name: of a dimension; they are counted from 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.nan_to_num(_correlate(x.double().numpy()))
    ends = (-0.5, len(matrix) - 0.5)
    shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", extent=(*ends, *ends[::-1]))
    axis.set(title=title, xlabel=name, ylabel=name)
    _whole_ticks(axis.xaxis)
    _whole_ticks(axis.yaxis)
    axis.grid(False)
    axis.figure.colorbar(shown, ax=axis, shrink=0.8, label="correlation", ticks=[-1, 0, 1])


def _correlate(x: np.ndarray) -> np.ndarray:
    """(D, D) the correlations of (N, D), each over the rows in which both are there."""
    there = ~np.isnan(x)
    if there.all():
        found: np.ndarray = np.corrcoef(x.T)
        return found
    m = there.astype(float)
    x = np.where(there, x - np.nan_to_num(np.nanmean(x, 0)), 0)
    rows, sums, squares = m.T @ m, x.T @ m, (x**2).T @ m
    spread = squares - sums**2 / rows
    return (x.T @ x - sums * sums.T / rows) / np.sqrt(spread * spread.T)


@as_svg
def projection(axis: Any, data: Tensor, drawn: Tensor, title: str) -> None:
    """Data and samples in the plane of the data's first two principal components; a gap (NaN) is at the mean.

    Args:
        data, drawn: (N, D) and (N', D); for D = 1 their histograms.
        title: of the plot.
    """
    axis.set(title=title)
    if data.shape[1] == 1:
        axis.hist([data[~data.isnan()].numpy(), drawn[:, 0].numpy()], 40, density=True, label=["data", "model"])
        axis.set(xlabel="value", ylabel="density")
    else:
        centre = data.nanmean(0).nan_to_num()
        spread = (data - centre).square().nanmean(0).sqrt()
        spread = torch.where(spread > 0, spread, 1)
        scaled = [((x - centre) / spread).nan_to_num() for x in (data, drawn)]  # a gap is at the mean
        _, _, axes = torch.linalg.svd(scaled[0], full_matrices=False)
        for x, label, colour in zip(scaled, ("data", "model"), COLOURS, strict=False):
            place = x[:DOTS] @ axes[:2].T
            axis.scatter(*place.T, s=12, linewidth=0, alpha=0.5, label=label, color=colour)
            if label == "data":  # the same limits at every temperature
                limits = axis.get_xlim(), axis.get_ylim()
        axis.set(xlabel="first component", ylabel="second component", xlim=limits[0], ylim=limits[1])
    leave_room_above(axis)
    axis.legend(loc="upper right", markerscale=2, ncols=2)


@as_svg
def profile(axis: Any, at: Sequence[int], lines: Sequence[tuple[str, Tensor]], title: str, name: str,
            limits: tuple[float, float], legend: bool = True) -> None:  # fmt: skip
    """An example and its variants over their elements: points where they are few, as of the columns of a table, which
    have no order, else lines.

    Args:
        at: (D,) the elements that are shown, counted from 0.
        lines: name and (D,) values of each, the example first; a repeated name has one entry in the legend.
        title: of the plot.
        name: of an element.
        limits: of the values.
        legend: whether there is one.
    """
    names, few = list(dict.fromkeys(name for name, _ in lines)), len(at) <= MARKED
    for i, (label, values) in enumerate(lines):
        look: dict[str, Any] = dict(linestyle="", marker="o" if i == 0 else "x", markersize=5) if few else {}
        first = all(label != before for before, _ in lines[:i])
        look |= dict(color=INK if i == 0 else COLOURS[names.index(label) - 1], label=label if first else None)
        axis.plot(at, values, linewidth=1, alpha=1 if i == 0 else 0.7, **look)
    _over_elements(axis, title, name, limits)
    if legend:
        axis.legend(loc="upper right", ncols=2)


@as_svg
def path(axis: Any, at: Sequence[int], steps: Tensor, title: str, name: str, limits: tuple[float, float]) -> None:
    """The steps of a path over their elements, coloured in their order from dark to light.

    Args:
        at: (D,) the elements that are shown, counted from 0.
        steps: (n, D) values.
        title: of the plot.
        name: of an element.
        limits: of the values.
    """
    import matplotlib

    for i, values in enumerate(steps):
        colour = matplotlib.colormaps["viridis"](0.1 + 0.8 * i / max(1, len(steps) - 1))
        look: dict[str, Any] = dict(linestyle="", marker="o", markersize=4) if len(at) <= MARKED else {}
        axis.plot(at, values, color=colour, linewidth=1, **look)
    _over_elements(axis, title, name, limits)


def _over_elements(axis: Any, title: str, name: str, limits: tuple[float, float]) -> None:
    axis.set(title=title, xlabel=name, ylabel="standard deviations", ylim=limits)
    _whole_ticks(axis.xaxis)
