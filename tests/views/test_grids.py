"""Plots of tables show the shares of what is there, in whole steps, with text large enough to be read."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from allegory.tabular.columns import Column
from allegory.views import grids, plots
from allegory.views.cells import ShownColumn

TOWN = ShownColumn("town of birth, as it was told", ("Rom", "Ulm", "Paris"))
AGE = ShownColumn("age", step=1.0)
NOISE = ShownColumn("noise")
MANY = ShownColumn("word", tuple(f"word {i}" for i in range(40)))
DAY = ShownColumn("day", step=1.0, column=Column("day", "datetime", "datetime64[ns]", unit="D", origin=0))


def rows(n=300):
    x = torch.stack([torch.randint(0, 3, (n,)).double(), torch.randint(17, 90, (n,)).double(), torch.randn(n)], 1)
    x[::7] = math.nan
    return x


def drawn(plot, *arguments):
    figure = Figure(figsize=(plots.INCHES, 2.9), layout="constrained")
    axis = figure.subplots()
    plot.__wrapped__(axis, *arguments)
    figure.canvas.draw()
    return axis


def every_plot():
    torch.manual_seed(0)
    x = rows()
    yield "codes", grids.codes(x[:, 0], x[:, 0], TOWN)
    yield "numbers", grids.numbers(x[:, 1], x[:, 1], AGE)
    yield "days", grids.numbers(x[:, 1], x[:, 1], DAY)
    yield "two categories", grids.pair(x[:, [0, 0]], x[:, [0, 0]], (TOWN, TOWN), "data")
    yield "category and number", grids.pair(x[:, [0, 1]], x[:, [0, 1]], (TOWN, AGE), "drawn")
    yield "gains", grids.gains(["age", "town"], [0.3, -0.1])


@pytest.mark.parametrize(("name", "svg"), list(every_plot()), ids=lambda value: value[:20])
def test_no_text_is_smaller_than_eleven_pixels(name, svg):
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", svg)]
    assert len(sizes) > 3
    assert min(sizes) * plots.WIDTH / width >= 11


@pytest.mark.parametrize("step", [1.0, 0.25, 100.0])
@pytest.mark.parametrize("values", [2, 5, 31, 1000])
def test_bins_are_whole_steps_and_no_value_is_on_an_edge(step, values):
    data = 7 * step + step * torch.arange(values).double()
    edges = grids.bin_edges(data, step)
    width = np.diff(edges) / step
    assert width == pytest.approx(np.full(len(width), round(width[0])))
    assert len(width) <= grids.BINS
    assert np.abs(data.numpy()[:, None] - edges).min() == pytest.approx(step / 2)
    if values <= 31:  # none is in the tails
        assert np.histogram(data, edges)[0].sum() == values


def test_the_shares_are_of_what_is_there():
    x = rows()
    axis = drawn(grids.codes, x[:, 0], x[:100, 0], TOWN)
    assert [text.get_text() for text in axis.get_yticklabels()] == ["Rom", "Ulm", "Paris"]
    for bars, data in zip(axis.containers, (x, x[:100]), strict=True):
        seen = data[data[:, 0].isfinite(), 0]
        assert [bar.get_width() for bar in bars] == pytest.approx(
            [(seen == k).double().mean().item() for k in range(3)]
        )
    axis = drawn(grids.numbers, x[:, 1], x[:, 1], AGE)
    for patch in axis.patches:
        assert patch.get_data().values.sum() == pytest.approx(1, abs=0.02)


def test_of_many_categories_the_most_frequent_are_shown_and_the_others_counted():
    x = torch.arange(40.0).repeat_interleave(torch.arange(1, 41))
    axis = drawn(grids.codes, x, x, MANY)
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == [*(f"word {i}" for i in range(39, 29, -1)), "others"]
    assert sum(bar.get_width() for bar in axis.containers[0]) == pytest.approx(1)


def test_two_categories_are_a_table_of_shares():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0], [1.0, math.nan]])
    (image,) = drawn(grids.pair, x, x, (TOWN, TOWN), "data").get_images()
    assert np.asarray(image.get_array()).tolist() == [[0.25, 0, 0], [0.25, 0.25, 0], [0, 0, 0.25]]


def test_days_are_told_as_dates():
    x = torch.arange(10, 200).double()
    ticks = [text.get_text() for text in drawn(grids.numbers, x, x, DAY).xaxis.get_ticklabels()]
    assert any(text.startswith("1970-0") for text in ticks)


def test_a_column_that_is_missing_throughout_stops_no_plot():
    nothing = torch.full((20,), math.nan)
    both = torch.stack([nothing, nothing], 1)
    assert grids.numbers(nothing, nothing, AGE).startswith("<svg")
    assert grids.codes(nothing, nothing, TOWN).startswith("<svg")
    assert grids.pair(both, both, (TOWN, AGE), "data").startswith("<svg")


def test_gaps_of_arrays_are_left_out_of_correlations_and_planes():
    torch.manual_seed(0)
    once = torch.randn(200)
    x = torch.stack([once, 2 * once, torch.randn(200)], 1)
    whole = drawn(plots.correlations, x, "data").get_images()[0].get_array()
    x[::9, 0] = math.nan
    gapped = drawn(plots.correlations, x, "data").get_images()[0].get_array()
    both = x[~x[:, 0].isnan()].double().numpy()
    assert gapped[0, 1] == pytest.approx(1)
    assert gapped[0, 2] == pytest.approx(np.corrcoef(both[:, 0], both[:, 2])[0, 1])
    assert gapped[1, 2] == pytest.approx(whole[1, 2])
    places = drawn(plots.projection, x, x[:50], "temperature 1").collections
    assert all(np.isfinite(points.get_offsets()).all() for points in places)
