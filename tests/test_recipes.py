"""What the long recipes are made of, in small."""

import json
import sys
from pathlib import Path

import pytest
import torch

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    """As `python recipes/NAME.py` finds its neighbours; and the precision of those runs."""
    monkeypatch.syspath_prepend(str(RECIPES))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)
    for name in ("common", "deep", "depth", "fair_depth", "planar"):
        sys.modules.pop(name, None)


def strokes(n: int) -> torch.Tensor:
    """(n, 1, 28, 28) binary images: a bar at one of a few places each."""
    x = torch.zeros(n, 1, 28, 28)
    for i, place in enumerate(torch.randint(4, 20, (n,)).tolist()):
        x[i, 0, 6:22, place : place + 4] = 1
    return x


def test_the_swirl_is_the_limit_of_its_mixtures():
    from planar import peaks, swirl

    x = swirl().sample((500,)).double()
    torch.testing.assert_close(swirl(1500).log_prob(x), swirl(4500).log_prob(x), rtol=0, atol=1e-3)
    assert peaks().sample((5,)).shape == (5, 2)


def test_deformed_images_stay_images_of_the_same_thing():
    from common import deformed

    x = strokes(400)
    y = deformed(x)
    assert y.shape == x.shape
    assert set(y.unique().tolist()) == {0.0, 1.0}
    same = (x == y).flatten(1).all(1).float().mean().item()
    assert 0.45 < same < 0.6  # half of them, and the few that were turned by nearly nothing
    assert y.mean().item() == pytest.approx(x.mean().item(), rel=0.03)
    inside = torch.minimum(x, y).sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert inside.min().item() > 0.3  # it lies where it was
    assert inside.mean().item() > 0.85


def test_the_deep_ladder_learns_in_small(capsys):
    from common import reached
    from deep import ladder, train

    torch.manual_seed(0)
    x = strokes(80)
    model = ladder(x[:64], latent=(2, 2, 4), channels=8, blocks=1)
    assert [tuple(q.event_shape) for q in model.encode(x[:1])] == [(2, 7, 7), (2, 7, 7), (4, 1, 1)]
    with torch.no_grad():
        before = model(x[64:]).log_px.mean().item()
    first = dict(valid=x[64:], epochs=12, batch_size=8, lr=1e-2, lr_warmup=5, kl_warmup=5, ema=0.9)
    records = train(model, x[:64], first, first | dict(epochs=2, lr=5e-4))
    assert [record.epoch for record in records] == [12, 2]
    assert records[-1].history[-1]["reconstruction"] > before + 20
    reached(model, records, x[64:], samples=2, recipe="deep", seed=0)
    said = json.loads(capsys.readouterr().out)
    assert said["recipe"] == "deep"
    assert said["steps"] == sum(record.step for record in records)
    assert said["test"]["examples"] == 16
    assert said["test"]["importance_samples"] == 2


def test_three_fires_throw_the_shadows_of_one_solid():
    from fair_depth import coloured

    x = coloured(64, seed=1)
    assert x.shape == (64, 3, 28, 28)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x.sum((2, 3)) > 0).all()  # each fire is hidden somewhere
    one, other = x[:, 0], x[:, 1]
    assert (one != other).flatten(1).any(1).all()
    overlap = torch.minimum(one, other).sum((1, 2)) / torch.minimum(one.sum((1, 2)), other.sum((1, 2)))
    assert overlap.mean().item() > 0.4  # of the same solid, a little aside
    areas = x.sum((2, 3))
    assert torch.corrcoef(areas.T).min().item() > 0.9


def test_the_fair_question_of_depth_has_the_same_blocks_at_every_depth():
    from fair_depth import LEVELS, ladder

    from allegory.networks import Residual

    x, blocks = strokes(20), set()
    for levels in LEVELS:
        model = ladder(levels, 8, x)
        assert model.levels == levels
        assert model(x[:2]).kl.shape == (levels, 1, 2)
        blocks.add(sum(isinstance(part, Residual) for part in model.modules()))
    assert blocks == {24}
