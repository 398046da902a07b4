"""The bounds of single examples of both splits, in the same bins, with the same K."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import allegory as al
from allegory.views import plots
from allegory.views.measured import Examples, measure
from allegory.views.sections.likelihood import likelihood


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    x = (torch.rand(50, 6) < 0.5).double()
    model = al.architectures.mlp((6,), "bernoulli", latent=[2], hidden=[8]).double()
    return measure(model, Examples(x[30:], x[:30], "test", 400, 30), samples=10)


@pytest.fixture
def histograms(monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "likelihoods", lambda *given: seen.append(given) or "<svg></svg>")
    return seen


def test_train_and_test_are_in_the_same_bins_and_every_example_counts(found, histograms):
    caption = likelihood(found).figures[0].caption
    edges, shares, means, name, gap = histograms[0]
    assert {split: sum(values) for split, values in shares.items()} == {
        "test": pytest.approx(1),
        "train": pytest.approx(1),
    }
    assert means == {"test": found.bounds.mean().item(), "train": found.train_bounds.mean().item()}
    wanted = np.histogram(found.bounds, edges)[0] / 20
    assert list(shares["test"]) == pytest.approx(list(wanted))
    assert (name, gap) == ("L_10", False)
    assert caption.startswith(
        "L_10 of single examples: 20 of test, drawn at random from 400 and all 30 of train, the same K and the same "
        "bins"
    )
    # The same noise, and the same K, as the number that is reported.
    assert found.bounds.mean().item() == pytest.approx(-found.evaluation.nll, abs=1e-6)


def test_overfitting_is_marked(found, histograms):
    worse = replace(found, diagnosis=replace(found.diagnosis, overfits=True), train_bounds=found.train_bounds + 3)
    caption = likelihood(worse).figures[0].caption
    assert histograms[0][-1] is True
    assert "nats above that of test: the model overfits." in caption


def test_an_example_far_away_is_counted_and_leaves_the_bins_alone(found, histograms):
    wild = found.bounds.clone()
    wild[3], wild[4] = -1e9, math.nan
    caption = likelihood(replace(found, bounds=wild)).figures[0].caption
    edges, shares, *_ = histograms[0]
    assert edges[0] > -100
    assert sum(shares["test"]) == pytest.approx(0.95)  # all but the one that is no number
    assert shares["test"][0] >= 0.05
    assert "1 beyond the axis is in the outermost bins." in caption
    assert "1 are no finite number, and are in no bin." in caption


def test_bounds_that_are_all_the_same_have_bins(found, histograms):
    same = torch.full((20,), -3.0, dtype=torch.float64)
    likelihood(replace(found, bounds=same, train_bounds=same[:1]))
    edges, shares, *_ = histograms[0]
    assert edges[0] < -3 < edges[-1]
    assert sum(shares["test"]) == sum(shares["train"]) == 1


def test_the_parts_add_up_and_have_units(found):
    section = likelihood(found)
    table = section.tables[0]
    assert table.columns == ("quantity", "value", "standard error", "unit", "what it is")
    value = {row[0]: float(row[1]) for row in table.rows}
    assert value["-ELBO"] == pytest.approx(value["-reconstruction"] + value["rate of level 1"], abs=0.02)
    assert all(row[3] and row[4] for row in table.rows)
