"""What the levels do: of few a bar each, of a long chain a curve."""

import math
import re
from itertools import pairwise

import pytest
import torch

import allegory as al
from allegory.views import measured, plots
from allegory.views.page import report


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def chain(kind, levels):
    torch.manual_seed(0)
    make = al.architectures.diffusion if kind == "diffusion" else al.architectures.masked_diffusion
    return make((1, 4, 4), "bernoulli", levels=levels, net="mlp", width=8, blocks=1)


def page(kind, levels, **settings):
    """The text of a report, and what the curves were drawn from."""
    x = (torch.rand(20, 1, 4, 4) < 0.4).float()
    al.fit(chain(kind, levels), x, valid=x, epochs=2, out="run")
    return report("run", x[:6], train=x, **settings).read_text()


def words_of(text):
    return " ".join(re.sub("<[^>]*>", " ", text).split())


@pytest.mark.parametrize("kind", ["diffusion", "masked"])
def test_many_levels_that_share_a_network_are_a_curve(kind, monkeypatch):
    drawn, plot = [], plots.rate_curve
    monkeypatch.setattr(plots, "rate_curve", lambda *given, **named: drawn.append(given) or plot(*given, **named))
    monkeypatch.setattr(measured, "_unit_rates", None)  # of elements of noise, which nobody asks for
    text = words_of(page(kind, 40))
    assert "1 to 4" in text
    assert "rate of 39 levels" in text
    assert "level 17" not in text
    assert "z_1 to z_40 of 1 x 4 x 4" in text
    assert "rates below the top" in text
    assert "Latent space" not in text
    assert "active units" not in text.partition("What the levels do")[2]
    levels, *by_ratio = drawn
    assert len(levels[0]) == len(levels[1]) == 39
    assert len(by_ratio) == (kind == "diffusion")
    for at, density, *_ in by_ratio:  # its area is what the levels cost together
        assert all(one > two for one, two in pairwise(at))
        width = 14.0 / 39
        assert sum(density) * width == pytest.approx(sum(levels[1]), rel=0.05)


def test_a_few_such_levels_are_bars(monkeypatch):
    monkeypatch.setattr(plots, "rate_curve", None)
    text = words_of(page("diffusion", 3, samples=5))
    assert "rate of level 3" in text
    assert "of 16 active" not in text


def test_the_time_of_a_diagnosis_grows_with_the_levels_and_not_faster(monkeypatch):
    calls = []
    for levels in (5, 40, 80):
        model = chain("diffusion", levels)
        calls.append(0)
        model.decoders.net.register_forward_hook(lambda *_: calls.__setitem__(-1, calls[-1] + 1))
        found = al.diagnose(model, (torch.rand(6, 1, 4, 4) < 0.4).float())
        assert len(found.levels) == len(found.as_dict()["levels"]) == levels
        assert len(found.rows()) == min(levels, 11)
        told = math.fsum(level.rate for level in found.levels)
        assert math.fsum(float(row[1]) for row in found.rows()) == pytest.approx(told, abs=0.1)
        assert found.evaluation.importance_samples == {5: 100, 40: 25, 80: 12}[levels]
    assert calls[2] <= 2.5 * calls[1]
