"""Schedules: exact values, and functions of one's own in their place."""

import functools
import json
import math

import numpy as np
import pytest
import torch

import allegory as al
from allegory.training.schedule import Cosine, Cyclical, Warmup


@pytest.fixture
def x():
    return (torch.rand(60, 6) < 0.5).double()


def small():
    return al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double()


def test_a_cosine_is_that_of_its_formula():
    rate = Cosine(0.5, warmup=4, final=0.1)
    for step, done in [(0, 0.0), (2, 0.3), (3, 0.5), (10, 0.99), (11, 1.0), (12, 1.5)]:
        share = min(done, 1.0)
        wanted = 0.5 * min(1, (step + 1) / 4) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
        assert rate(step, done) == pytest.approx(wanted, rel=1e-12)


def test_a_cycle_rises_stays_and_begins_anew():
    beta = Cyclical(2.0, period=10, rise=0.5)
    one = [0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert [beta(step, 0.0) for step in range(20)] == pytest.approx(2 * one)
    assert torch.equal(Cyclical([1.0, 0.5], period=4, rise=1.0)(1, 0.0), torch.tensor([0.5, 0.25]))
    for wrong in (dict(period=0), dict(rise=0.0), dict(rise=1.5)):
        with pytest.raises(ValueError, match="wanted a period of at least one step"):
            Cyclical(1.0, **wrong)


def test_a_schedule_in_place_of_a_number_gives_the_same_training(x):
    torch.manual_seed(0)
    record = al.fit(small(), x, valid=x, epochs=3, batch_size=16, lr=0.01, lr_warmup=5, kl_warmup=4, beta=[1.0, 0.5])
    torch.manual_seed(0)
    again = al.fit(
        small(), x, valid=x, epochs=3, batch_size=16, lr=Cosine(0.01, warmup=5), beta=Warmup([1.0, 0.5], steps=4)
    )
    assert [line["train"] for line in again.history] == [line["train"] for line in record.history]
    assert [line["lr"] for line in again.history] == [line["lr"] for line in record.history]


def test_functions_of_ones_own_are_asked_at_every_step(x, tmp_path):
    seen, weights = [], []

    def rate(step, done):
        seen.append((step, done))
        return 0.01 / (1 + step)

    def objective(trace, beta):
        weights.append(beta)
        return al.elbo(trace, beta)

    own = dict(lr=rate, beta=lambda step, done: done, objective=objective)
    record = al.fit(small(), x, epochs=2, batch_size=20, out=tmp_path / "r", **own)
    assert seen[-6:] == [(step, step / 6) for step in range(6)]
    assert weights[-6:] == [step / 6 for step in range(6)]
    assert [line["lr"] for line in record.history] == [0.01 / 3, 0.01 / 6]
    settings = json.loads((tmp_path / "r" / "config.json").read_text())["fit"]
    assert (settings["lr"], settings["beta"]) == ("rate", "<lambda>")
    assert [line["beta"] for line in record.history] == [2 / 6, 5 / 6]


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        (r"lr: the schedule gives -1 at step 0", dict(lr=lambda step, done: -1)),
        (r"lr: the schedule gives .* wanted a number", dict(lr=lambda step, done: [0.1, 0.2])),
        (r"beta: the schedule gives .* or one for each of 2 levels", dict(beta=lambda step, done: [1.0, 1.0, 1.0])),
        (r"lr=inf: wanted a finite number", dict(lr=math.inf)),
        (r"lr_final=inf: wanted the fraction", dict(lr_final=math.inf)),
        (r"beta=inf: wanted a number, at least 0", dict(beta=math.inf)),
        (r"lr_warmup=3, lr_final=0.0: wanted neither of them", dict(lr=Cosine(0.1), lr_warmup=3)),
        (r"kl_warmup=3: wanted none", dict(beta=Cyclical(), kl_warmup=3)),
    ],
)
def test_schedules_that_make_no_sense(x, message, settings):
    with pytest.raises(ValueError, match=message):
        al.fit(small(), x, epochs=1, **settings)


def test_a_schedule_is_checked_at_every_step(x):
    with pytest.raises(ValueError, match="lr: the schedule gives nan at step 2"):
        al.fit(small(), x, epochs=2, batch_size=20, lr=lambda step, done: 0.1 if step < 2 else math.nan)
    with pytest.raises(ValueError, match="beta: the schedule gives -1 at step 5"):
        al.fit(small(), x, epochs=2, batch_size=20, beta=lambda step, done: 1 if step < 4 else -1)
    with pytest.raises(ValueError, match="lr: the schedule gives None at step 0"):
        al.fit(small(), x, epochs=1, lr=lambda step, done: None)


@pytest.mark.parametrize("value", [torch.tensor(0.01), np.float32(0.01)])
def test_numbers_of_other_types_are_numbers(x, value, tmp_path):
    histories = []
    for lr in (value, lambda step, done: value):
        torch.manual_seed(0)
        record = al.fit(small(), x, epochs=1, batch_size=20, lr=lr, lr_final=0.0, out=tmp_path / str(len(histories)))
        histories.append(record.history)
    assert histories[0][0]["lr"] < histories[1][0]["lr"] == pytest.approx(0.01)


def test_levels_may_have_a_schedule_with_any_objective(x):
    each = functools.partial(al.free_bits, nats=0.1)
    record = al.fit(small(), x, epochs=1, batch_size=20, beta=lambda step, done: [1.0, 0.5], objective=each)
    assert record.history[-1]["beta"] == [1.0, 0.5]


def test_no_weights_are_best_before_the_warm_up_of_a_schedule_has_ended(x):
    record = al.fit(small(), x, valid=x, epochs=4, batch_size=20, beta=Warmup(1.0, steps=9))
    assert record.best_epoch >= 3


def test_what_makes_no_sense_leaves_no_directory(x, tmp_path):
    with pytest.raises(ValueError, match=r"weight_decay=-1.0: wanted a number, at least 0"):
        al.fit(small(), x, epochs=1, weight_decay=-1.0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
