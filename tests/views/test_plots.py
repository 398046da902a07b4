"""Plots show their numbers, large enough to be read, and count in whole numbers."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from allegory.views import plots

BEST, BASELINE = 4.0, -12.0


def history(epochs, levels=2, reconstruction=-6.0):
    def line(i):
        bound = -9 - 4 / i
        return dict(
            epoch=i, step=100 * i, lr=0.1 / i, beta=min(1.0, i / 3), train=bound - 1 / i, bound=bound, elbo=bound,
            gradient_norm=10.0 / i, reconstruction=reconstruction - 4 / i, kl_per_level=[3.0 / levels] * levels,
        )  # fmt: skip

    return [line(i) for i in range(1, epochs + 1)]


def every_plot():
    torch.manual_seed(0)
    cloud, few = torch.randn(60, 4), torch.randint(0, 3, (60,)).double()
    yield "bounds", plots.bounds(history(7), BEST, BASELINE, 3.0)
    yield "parts", plots.parts(history(7), BEST, BASELINE)
    yield "parts of many levels", plots.parts(history(30, levels=40))
    yield "schedule", plots.schedule(history(7), "1")
    yield "gradients", plots.gradients(history(7))
    yield "curve", plots.curve([(1, -9.0, 0.1), (2, -8.9, 0.1), (1000, -8.0, 0.1)])
    yield (
        "likelihoods",
        plots.likelihoods([0, 1, 2], {"test": [0.5, 0.5], "train": [0, 1]}, {"test": 1, "train": 1.5}, "L_9"),
    )
    yield "level_rates", plots.level_rates([1.0, 12.5, 0.0], ["1 of 16 active", "12 of 128 active", "0 of 4 active"])
    yield "level_rates alone", plots.level_rates([1.0, 12.5, 0.0])
    yield "rate_curve", plots.rate_curve([3.0, 1.0, -2.0], [0.1, 12.5, 0.4], "log SNR", "unit of log SNR")
    yield "unit_rates", plots.unit_rates([torch.rand(50) * 9, None, torch.rand(3)])
    yield "aggregate", plots.aggregate(cloud[:, :2], cloud[:, 2:], ["z_1[0]", "z_1[3]"])
    yield "marginal", plots.marginal(cloud[:, 0], cloud[:, 1], "column 0")
    yield "bars", plots.marginal(few, few.flip(0), "column 0")
    yield "correlations", plots.correlations(cloud, "data")
    yield "projection", plots.projection(cloud, cloud, "temperature 1")
    yield "profile", plots.profile(range(4), [("x", cloud[0]), ("again", cloud[1])], "example 1", "column", (-3, 3))
    yield "path", plots.path(range(4), cloud[:5], "z_1[2]: -1.0 to 1.0", "column", (-3, 3))


@pytest.mark.parametrize(("name", "svg"), list(every_plot()), ids=lambda value: value if " " not in value else "")
def test_no_text_is_smaller_than_eleven_pixels_where_it_is_shown(name, svg):
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", svg)]
    assert len(sizes) > 3
    assert min(sizes) * plots.WIDTH / width >= 11


def drawn(plot, *arguments, **named):
    """The axis on which a plot has been drawn."""
    figure = Figure(figsize=(plots.INCHES, 2.9), layout="constrained")
    axis = figure.subplots()
    plot.__wrapped__(axis, *arguments, **named)
    figure.canvas.draw()
    return axis


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


@pytest.mark.parametrize("epochs", [2, 3, 4, 7, 60, 4000])
@pytest.mark.parametrize("plot", ["bounds", "parts", "gradients"])
def test_epochs_are_whole(plot, epochs):
    found = ticks(drawn(getattr(plots, plot), history(epochs)).xaxis)
    assert len(found) >= 2
    assert all(re.fullmatch(r"-?[\d,]+", text) for text in found)
    assert len(set(found)) == len(found)


def test_levels_units_columns_and_categories_are_whole():
    for levels in (1, 2, 3, 11, 50):
        axis = drawn(plots.level_rates, [1.0] * levels, ["1 of 2 active"] * levels).yaxis
        assert set(ticks(axis)) <= {str(t) for t in range(1, levels + 1)}
    few = torch.tensor([0.0, 1.0, 1.0, 2.0])
    for axis in (
        drawn(plots.unit_rates, [torch.tensor([1.0, 0.5])]).xaxis,
        drawn(plots.marginal, few, few, "column 0").xaxis,
        drawn(plots.profile, [0, 1, 2], [("x", few[:3])], "", "column", (0, 3)).xaxis,
        drawn(plots.correlations, torch.randn(9, 3), "data").yaxis,
        drawn(plots.curve, [(1, -9.0, 0.1), (30, -8.0, 0.1)]).xaxis,
    ):
        assert all(re.fullmatch("−?[\\d,]+|-?[\\d,]+", text) for text in ticks(axis))


@pytest.mark.parametrize("reconstruction", [-60.0, 50.0])
def test_rates_stand_on_the_reconstruction_and_reach_the_bound(reconstruction):
    lines = history(7, levels=3, reconstruction=reconstruction)
    axis = drawn(plots.parts, lines)
    bands = {band.get_label(): band.get_paths()[0].get_extents() for band in axis.collections}
    assert [name for name in bands if name.startswith("rate")] == ["rate 1", "rate 2", "rate 3"]
    (top,) = [line for line in axis.get_lines() if line.get_label() == "-ELBO"]
    wanted = [-line["reconstruction"] + sum(line["kl_per_level"]) for line in lines]
    assert list(top.get_ydata()) == pytest.approx(wanted)
    for t in (1, 2, 3):
        (band,) = [band for band in axis.collections if band.get_label() == f"rate {t}"]
        y = band.get_paths()[0].vertices[:, 1]
        assert y.max() - y.min() == pytest.approx(1 + 4 - 4 / 7)  # a rate of 1, over a stack that falls by 4 - 4/7
    assert bands["rate 3"].y1 == pytest.approx(max(wanted))
    assert bands["rate 1"].y0 == pytest.approx(-lines[-1]["reconstruction"])
    if reconstruction < 0:
        assert bands["-reconstruction"].y1 == pytest.approx(-lines[0]["reconstruction"])
    else:  # a line: an area below zero would mean nothing
        assert "-reconstruction" in [line.get_label() for line in axis.get_lines()]


def test_overfitting_is_marked_between_the_means():
    shares, means = {"test": [0.5, 0.5], "train": [0, 1]}, {"test": 1, "train": 1.5}
    axis = drawn(plots.likelihoods, [0, 1, 2], shares, means, "L_9", True)
    (span,) = [patch for patch in axis.patches if patch.get_label() == "overfitting"]
    box = span.get_path().transformed(span.get_patch_transform()).get_extents()
    assert (box.x0, box.x1) == (1, 1.5)
    assert not [
        p
        for p in drawn(plots.likelihoods, [0, 1], {"test": [1.0]}, {"test": 0.5}, "L_9").patches
        if p.get_label() == "overfitting"
    ]


def test_many_levels_have_a_legend_that_can_be_read():
    axis = drawn(plots.parts, history(5, levels=40))
    names = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert [name for name in names if name.startswith("rate")] == [
        "rate 1",
        "rate 9",
        "rate 17",
        "rate 24",
        "rate 32",
        "rate 40",
    ]


def test_the_shown_elements_are_called_by_their_own_numbers():
    at = list(range(0, 1500, 10))
    axis = drawn(plots.profile, at, [("x", torch.zeros(len(at)))], "", "element", (-1, 1))
    (line,) = axis.get_lines()
    assert list(line.get_xdata()) == at


def test_what_is_no_number_does_not_stop_a_plot():
    nothing = torch.full((20,), math.nan)
    assert plots.marginal(nothing, nothing, "x").startswith("<svg")
    lines = [{**line, "reconstruction": math.nan, "kl_per_level": [math.nan]} for line in history(3)]
    assert plots.parts(lines).startswith("<svg")
    assert plots.bounds([{**line, "bound": math.nan, "elbo": math.nan} for line in lines]).startswith("<svg")
    assert plots.level_rates([math.nan, 1.0]).startswith("<svg")
    assert plots.unit_rates([nothing]).startswith("<svg")
    nowhere = {"test": np.zeros(2)}
    assert plots.likelihoods([0, 1, 2], nowhere, {"test": math.nan}, "L_9").startswith("<svg")
