r"""Plots, as inline SVG: lines and text take the page's colour, so that they are readable on light and dark
backgrounds, and every plot is narrow enough for a phone.

Shapes: N examples, D the elements of one, flattened; T levels.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allegory.training.curves import draw_history

__all__ = [
    "aggregate", "bounds", "correlations", "curve", "level_rates", "marginal", "parts", "profile", "projection",
    "schedule", "unit_rates",
]  # fmt: skip

INK = "#010203"  # a placeholder for the page's text colour
COLOURS = ["#4878d0", "#ee854a", "#55a868", "#d65f5f", "#956cb4", "#c2a13a", "#3aa6b9", "#8c613c"]
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "legend.frameon": False, "legend.labelcolor": INK, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.12, "grid.linewidth": 0.6, "lines.linewidth": 1.4, "mathtext.fontset": "dejavusans",
}  # fmt: skip
MARKED, DOTS = 100, 800  # the most points of a line with markers, and of a scatter plot
numbers = count()  # of plots, so that no two on a page share an id


def _as_svg(plot: Callable[..., None]) -> Callable[..., str]:
    """Turns a function that draws on given axes into one that returns SVG."""

    @functools.wraps(plot)
    def call(*arguments: Any, height: float = 2.9, **named: Any) -> str:
        import matplotlib  # when it is needed: importing it takes a while
        from cycler import cycler
        from matplotlib.figure import Figure

        style = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
        with matplotlib.rc_context({**style, "svg.hashsalt": f"allegory {next(numbers)}"}):
            figure = Figure(figsize=(4.4, height), layout="constrained")
            plot(figure.subplots(), *arguments, **named)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.S)
        svg = re.sub(r"\s+", " ", svg[svg.index("<svg") :]).replace(INK, "currentColor")
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        return re.sub(r'width="[^"]*" height="[^"]*"|height="[^"]*"', 'role="img"', svg, count=1)

    return call


@_as_svg
def bounds(axis: Any, history: Sequence[dict[str, Any]]) -> None:
    """The objective in training and the bound in validation against steps.

    Args:
        history: a line per epoch, as `Record.history`.
    """
    draw_history(axis, history)


@_as_svg
def parts(axis: Any, history: Sequence[dict[str, Any]]) -> None:
    """Reconstruction and the rate of each level, in validation, against steps.

    Args:
        history: a line per epoch, with `reconstruction` and `kl_per_level`.
    """
    history = [line for line in history if "kl_per_level" in line]
    step = [line["step"] for line in history]
    rates = np.array([line["kl_per_level"] for line in history]).T
    axis.stackplot(step, rates, labels=[f"rate of level {t}" for t in range(1, len(rates) + 1)][:8], alpha=0.75)
    distortion = -np.array([line["reconstruction"] for line in history])
    axis.plot(step, distortion, color=INK, label="-reconstruction")
    seen = np.isfinite(distortion + rates.sum(0))
    if seen.any():  # the first epochs are far above, and would hide the others
        low = min(0.0, np.quantile(distortion[seen], 0.02))
        high = np.quantile(np.maximum(distortion, rates.sum(0))[seen], 0.9)
        axis.set_ylim(low - 0.05 * (high - low) * (low < 0), high + 0.25 * (high - low) + 1e-9)
    axis.set(xlabel="step", ylabel="nats per example")
    axis.legend(loc="upper right", ncols=2, fontsize=7)


@_as_svg
def schedule(axis: Any, history: Sequence[dict[str, Any]], beta: str) -> None:
    """Learning rate and KL weight against steps, each divided by its maximum.

    Args:
        history: a line per epoch, with `lr` and `beta`, the fraction of the weight that the warm-up has reached.
        beta: the full weight, as text.
    """
    step, rate = [line["step"] for line in history], np.array([line["lr"] for line in history])
    axis.plot(step, rate / max(rate.max(), 1e-30), label=f"learning rate / {rate.max():.3g}")
    axis.plot(step, [np.mean(line["beta"]) for line in history], label=f"KL weight / {beta}")
    axis.set(xlabel="step", ylim=(0, 1.25))
    axis.legend(loc="upper right")


@_as_svg
def curve(axis: Any, found: Sequence[tuple[int, float, float]]) -> None:
    """L_K against K with its 95 % interval.

    Args:
        found: (K, L_K, its standard error), as `bound_curve` returns them.
    """
    k, bound, error = (np.array(values) for values in zip(*found, strict=True))
    axis.fill_between(k, bound - 1.96 * error, bound + 1.96 * error, alpha=0.2, linewidth=0)
    axis.plot(k, bound, ".-")
    axis.set(xscale="log", xlabel="K", ylabel="$L_K$, nats per example")


@_as_svg
def level_rates(axis: Any, rates: Sequence[float], active: Sequence[int], units: Sequence[int]) -> None:
    """The rate of each level, with how many of its units are active.

    Args:
        rates, active, units: of each level, level 1 first.
    """
    level = np.arange(1, len(rates) + 1)
    bars = axis.barh(level, rates)
    axis.bar_label(bars, [f" {a} of {n} active" for a, n in zip(active, units, strict=True)], fontsize=7)
    axis.set(xlabel="rate, nats per example", ylabel="level", xlim=(0, 1.35 * max(*rates, 1e-3)))
    axis.set_yticks(level if len(level) <= 10 else level[:: len(level) // 5])


@_as_svg
def unit_rates(axis: Any, rates: Sequence[Tensor | None]) -> None:
    """The rate of every unit of each level, sorted.

    Args:
        rates: (units,) of each level, level 1 first, nats; None where they are not available.
    """
    for t, values in enumerate(rates, start=1):
        if values is not None:
            ordered = values.flatten().sort(descending=True).values
            name, marker = f"level {t}" if t <= 8 else None, "." if len(ordered) <= MARKED else ""
            axis.plot(range(1, len(ordered) + 1), ordered, marker=marker, markersize=3, label=name)
    axis.set(xlabel="unit, sorted", ylabel="rate, nats")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.legend(ncols=2, fontsize=7)


@_as_svg
def aggregate(axis: Any, posterior: Tensor, prior: Tensor, names: Sequence[str]) -> None:
    """Draws from q(z | x) over the data and from p(z), in two dimensions.

    Args:
        posterior, prior: (N, 2).
        names: of the two dimensions.
    """
    axis.scatter(*prior[:DOTS].T, s=5, linewidth=0, alpha=0.45, label="prior", color=COLOURS[1])
    axis.scatter(*posterior[:DOTS].T, s=5, linewidth=0, alpha=0.6, label="aggregate posterior", color=COLOURS[0])
    axis.set(xlabel=names[0], ylabel=names[1])
    axis.legend(loc="upper right", fontsize=7, markerscale=2)


@_as_svg
def marginal(axis: Any, data: Tensor, drawn: Tensor, name: str, labels: tuple[str, str] = ("data", "model")) -> None:
    """The values of one dimension, in the data and in samples from the model; bars for a few whole numbers. Samples
    outside the range of the data are missing from the area below the line.

    Args:
        data, drawn: (N,) and (N',).
        name: of the dimension.
        labels: of the two histograms.
    """
    low, high = data.min().item(), data.max().item()
    if bool((data == data.round()).all()) and high - low <= 40:
        values = np.arange(low, high + 1)
        shares = [[(x == v).double().mean().item() for v in values] for x in (data, drawn)]
        axis.bar(values - 0.2, shares[0], 0.4, label=labels[0])
        axis.bar(values + 0.2, shares[1], 0.4, label=labels[1])
        axis.set(ylabel="fraction")
    else:
        tail = 0.001 if len(data) > 2000 else 0.0
        start, end = (data[:100_000].double().quantile(q).item() for q in (tail, 1 - tail))
        edges = np.linspace(start, end, 41) if start < end else np.linspace(low - 0.5, high + 0.5, 41)
        looks: list[dict[str, Any]] = [dict(histtype="stepfilled", alpha=0.35), dict(histtype="step", linewidth=1.4)]
        for x, label, look in zip((data, drawn), labels, looks, strict=True):
            weights = np.full(len(x), 1 / (len(x) * (edges[1] - edges[0])))
            axis.hist(x.numpy(), edges, weights=weights, label=label, **look)
        axis.set(ylabel="density")
    axis.set(xlabel=name)
    axis.legend(fontsize=7)


@_as_svg
def correlations(axis: Any, x: Tensor, title: str) -> None:
    """The correlations between dimensions.

    Args:
        x: (N, D).
        title: of the plot.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.nan_to_num(np.corrcoef(x.double().numpy().T))
    ends = (0.5, len(matrix) + 0.5)
    shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", extent=(*ends, *ends[::-1]))
    axis.set(title=title, xlabel="dimension")
    axis.grid(False)
    axis.figure.colorbar(shown, ax=axis, shrink=0.8)


@_as_svg
def projection(axis: Any, data: Tensor, drawn: Tensor, title: str) -> None:
    """Data and samples in the plane of the data's first two principal components.

    Args:
        data, drawn: (N, D) and (N', D); for D = 1 their histograms.
        title: of the plot.
    """
    axis.set(title=title)
    if data.shape[1] == 1:
        axis.hist([data[:, 0].numpy(), drawn[:, 0].numpy()], 40, density=True, label=["data", "model"])
    else:
        centre, spread = data.mean(0), data.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1)
        _, _, axes = torch.linalg.svd((data - centre) / spread, full_matrices=False)
        for x, label, colour in ((data, "data", COLOURS[0]), (drawn, "model", COLOURS[1])):
            place = ((x[:DOTS] - centre) / spread) @ axes[:2].T
            axis.scatter(*place.T, s=5, linewidth=0, alpha=0.5, label=label, color=colour)
        axis.set(xlabel="first principal component", ylabel="second")
    axis.legend(fontsize=7, markerscale=2)


@_as_svg
def profile(axis: Any, lines: Sequence[tuple[str, Tensor]], title: str, along: bool = False) -> None:
    """Examples as lines over their dimensions.

    Args:
        lines: name and (D,) values of each; a repeated name has one entry in the legend.
        title: of the plot.
        along: whether they are steps of a path, coloured in their order, instead of an example and its variants.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for name, _ in lines))
    for i, (name, values) in enumerate(lines):
        at, dot = np.arange(1, len(values) + 1), "." if len(values) <= MARKED else ""
        if along:
            step = matplotlib.colormaps["viridis"](0.1 + 0.8 * i / max(1, len(lines) - 1))
            axis.plot(at, values, color=step, marker="." if len(values) < 3 else "", linewidth=1)
        elif i == 0:
            axis.plot(at, values, marker=dot, color=INK, label=name, markersize=4, linewidth=0.8)
        else:
            first = all(name != before for before, _ in lines[:i])
            colour, marker = COLOURS[names.index(name) - 1], "." if len(values) < 3 else ""
            axis.plot(at, values, color=colour, alpha=0.7, label=name if first else None, linewidth=1, marker=marker)
    axis.set(title=title, xlabel="dimension", ylabel="standard deviations")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not along:
        axis.legend(fontsize=7)
