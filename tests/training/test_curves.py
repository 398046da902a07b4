"""The curves of a training show its numbers."""

import pytest
from matplotlib.figure import Figure

import allegory as al

HISTORY = [
    dict(epoch=i, step=10 * i, train=-9.0 + i, bound=-8.0 + i, elbo=-8.0 + i, kl_per_level=[1.0], reconstruction=-9.0)
    for i in range(1, 4)
]


def test_a_record_draws_its_bounds():
    axis = Figure().subplots()
    assert al.Record(history=HISTORY).plot(axis) is axis
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "nats per example")
    assert all(tick == round(tick) for tick in axis.get_xticks())
    assert lines == {
        "objective, training": ([1, 2, 3], [-8.0, -7.0, -6.0]),
        "bound, validation": ([1, 2, 3], [-7.0, -6.0, -5.0]),
    }  # the ELBO is the bound here


def test_a_record_makes_a_figure_of_its_own(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    axis = al.Record(history=HISTORY).plot()
    assert axis.get_xlabel() == "epoch"
    pyplot.close(axis.figure)


def test_a_record_without_an_epoch_says_so():
    with pytest.raises(ValueError, match="nothing to draw"):
        al.Record().plot()
