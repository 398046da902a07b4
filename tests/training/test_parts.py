"""The parts of the loop, each by itself: budget, clock, batches, averaging, state, step."""

import copy
import math
import os
import signal

import pytest
import torch
from torch.testing import assert_close

import allegory as al
from allegory.training.averaging import average_buffers, average_parameters
from allegory.training.batches import Batch, Batches
from allegory.training.budget import Budget
from allegory.training.clock import Clock, caught_signals
from allegory.training.recovery import MAX_RESTARTS, Recovery
from allegory.training.schedule import Cosine, Warmup
from allegory.training.state import Position, State
from allegory.training.step import Step, score_function


def small():
    torch.manual_seed(0)
    return al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8]).double()


@pytest.fixture
def x():
    return (torch.rand(10, 6) < 0.5).double()


def parts(x, **settings):
    model = small().train()
    state = State(model, copy.deepcopy(model).requires_grad_(False), 0.01, 0.0)
    step = Step(state, score_function(model, settings.pop("objective", al.elbo)), Cosine(0.01), Warmup(), **settings)
    return state, step


def test_a_budget_ends_by_what_comes_first():
    budget = Budget(epochs=3, minutes=1.0, patience=2, steps=4)
    assert budget.over(Position(epoch=2), 59.0) == ""
    assert budget.over(Position(epoch=3), 59.0) == "epochs"
    assert budget.over(Position(epoch=3), 60.0) == "minutes"
    assert budget.over(Position(epoch=2, step=8, best_epoch=0), 1.0) == ""
    assert budget.over(Position(epoch=2, step=11, best_epoch=0, stall_step=4), 1.0) == ""
    assert budget.over(Position(epoch=2, step=12, best_epoch=0, stall_step=4), 1.0) == "patience"
    assert budget.done(Position(step=6), 15.0) == 0.5
    assert budget.done(Position(step=6), 45.0) == 0.75
    assert Budget(minutes=2.0).done(Position(step=1000), 30.0) == 0.25


def test_after_a_stall_the_rest_of_the_schedules_takes_as_many_epochs():
    budget = Budget(epochs=1000, patience=2, steps=4)
    assert not budget.stalled(Position(epoch=4))
    assert not budget.stalled(Position(epoch=4, best_epoch=3))
    assert budget.stalled(Position(epoch=5, best_epoch=3))
    assert not budget.stalled(Position(epoch=9, best_epoch=3, stall_step=20))
    assert not Budget(epochs=1000).stalled(Position(epoch=50, best_epoch=3))
    at = [budget.done(Position(step=20 + i, stall_step=20, stall_done=0.2), 0.0) for i in (0, 1, 4, 8)]
    assert at == pytest.approx([20 / 4000, 0.3, 0.6, 1.0])
    assert Budget(minutes=1.0, patience=2, steps=4).done(Position(step=21, stall_step=20, stall_done=0.2), 45.0) == 0.75


def test_a_clock_goes_on_from_earlier_parts_and_says_when_a_checkpoint_is_due():
    clock = Clock(100.0, 0.0, signals := [])
    assert 100 <= clock.seconds < 110
    clock.update()
    assert clock.save_due
    assert not clock.stop_requested
    signals.append(signal.SIGINT)
    clock.update()
    assert clock.stop_requested
    never = Clock(0.0, None, [])
    never.update()
    assert not never.save_due


def test_signals_are_collected_and_the_second_one_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with caught_signals(True) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    with caught_signals(False) as caught:
        assert signal.getsignal(signal.SIGINT) is before


def test_batches_have_every_example_once_in_an_order_of_seed_and_epoch(x):
    batches = Batches(x, 4, seed=1)
    rows = [torch.cat([batch.rows for batch in batches.epoch(epoch)]) for epoch in (0, 0, 1)]
    assert len(batches) == 3
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert all(torch.equal(order.sort().values, torch.arange(10)) for order in rows)
    for batch in batches.epoch(0):
        assert torch.equal(batch.x, x[batch.rows])
    later = [batch.rows for batch in batches.epoch(0, start=1)]
    assert torch.equal(torch.cat(later), rows[0][4:])
    assert not torch.equal(next(iter(Batches(x, 4, seed=2).epoch(0))).rows, rows[0][:4])
    doubled = next(iter(Batches(x, 4, seed=1, transform=lambda part: 2 * part).epoch(0)))
    assert torch.equal(doubled.x, 2 * x[doubled.rows])


def test_the_average_is_that_of_its_formula():
    values = [torch.randn(3) for _ in range(30)]
    average, wanted = [values[0].clone()], values[0].clone()
    for step, value in enumerate(values[1:]):
        average_parameters(average, [value], ema=0.9, step=step)
        keep = min(0.9, (1 + step) / (10 + step))
        wanted = keep * wanted + (1 - keep) * value
    assert_close(average[0], wanted)
    average_parameters(average, [values[3]], ema=0.0, step=5)
    assert torch.equal(average[0], values[3])


def test_buffers_are_copied():
    model, average = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    model(torch.randn(5, 2))
    average_buffers(average, model)
    assert torch.equal(average.running_mean, model.running_mean)
    assert average.num_batches_tracked == 1


def test_a_state_comes_back_as_it_was_and_what_was_captured_does_not_move(x):
    state, step = parts(x)
    rows = torch.arange(10)
    step(Batch(rows, x), 0.0)
    state.best = {"a": torch.ones(1)}
    good = state.capture()
    step(Batch(rows, x), 0.1)
    after = {key: value.clone() for key, value in state.model.state_dict().items()}
    state.best["a"] += 1
    state.restore(good)
    assert state.position.step == 1
    assert state.best["a"] == 1
    step(Batch(rows, x), 0.1)  # with the same noise, moments and median
    for key, value in state.model.state_dict().items():
        assert torch.equal(value, after[key]), key


def test_one_step_is_adamw_by_hand(x):
    state, step = parts(x, clip=math.inf, skip=math.inf, ema=0.0)
    reference = small().train()
    optimizer = torch.optim.AdamW(reference.parameters(), 0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(3):
        torch.manual_seed(7)
        step(Batch(torch.arange(10), x), 0.0)
        torch.manual_seed(7)
        optimizer.zero_grad()
        (-al.elbo(reference(x)).mean()).backward()
        optimizer.step()
    for ours, theirs in zip(state.model.parameters(), reference.parameters(), strict=True):
        assert_close(ours, theirs)
    for mean, theirs in zip(state.averages, reference.parameters(), strict=True):
        assert_close(mean, theirs)
    assert state.totals[2] == 3


def test_the_end_of_an_epoch_counts_and_clears(x):
    state, step = parts(x)
    for rows in (torch.arange(4), torch.arange(4, 8), torch.arange(8, 10)):
        step(Batch(rows, x[rows]), 0.0)
    total = state.totals[0].item()
    line = state.end_epoch(examples=10, batch_size=4, warmed=0.5)
    assert (line["epoch"], line["step"], line["beta"]) == (1, 3, 0.5)
    assert line["train"] == total / 10
    assert not state.totals.any()
    assert state.position.batch == 0


def test_an_epoch_that_was_cut_off_is_told_and_not_counted(x):
    state, step = parts(x)
    for rows in (torch.arange(4), torch.arange(4, 8)):
        step(Batch(rows, x[rows]), 0.0)
    total = state.totals[0].item()
    line = state.end_epoch(examples=10, batch_size=4, warmed=0.5)
    assert line["epoch"] == 2 / 3
    assert line["train"] == total / 8
    assert (state.position.epoch, state.position.batch) == (0, 2)
    assert state.totals.any()


def test_only_warm_and_better_weights_are_kept(x):
    state, step = parts(x)
    state.keep_if_best(dict(epoch=1, bound=-3.0), warm=False)
    assert not state.best
    state.keep_if_best(dict(epoch=1, bound=-3.0), warm=True)
    step(Batch(torch.arange(10), x), 0.0)
    state.keep_if_best(dict(epoch=2, bound=-4.0), warm=True)
    assert (state.position.best_epoch, state.position.best_bound) == (1, -3.0)
    first = "decoders.0.network.0.0.weight"
    assert torch.equal(state.weights()[first], small().state_dict()[first])


def test_an_epoch_that_is_lost_goes_back_to_its_beginning_at_half_the_rate(x):
    calls = []

    def objective(trace, beta):
        calls.append(1)
        return al.elbo(trace, beta) * (math.nan if len(calls) == 2 else 1.0)

    state, step = parts(x, objective=objective)
    batches = Batches(x, 5, seed=0)
    recovery = Recovery(state, step, batches, Budget(epochs=1, steps=2), samples=1, precision="float32")
    recovery.take_snapshot()
    start = [p.detach().clone() for p in state.learned]
    for batch in batches.epoch(0):
        step(batch, 0.0)
    assert recovery.failed()
    assert "the failure did not occur again" in recovery.restart(0.0)
    assert (state.position.step, state.position.restarts, state.position.lr_scale) == (0, 1, 0.5)
    assert not torch.equal(torch.get_rng_state(), recovery.snapshot[0]["random"])  # other noise than that which failed
    assert all(torch.equal(p, before) for p, before in zip(state.learned, start, strict=True))
    assert not recovery.failed()
    state.position.failures = MAX_RESTARTS
    calls.clear()
    for batch in batches.epoch(0):
        step(batch, 0.0)
    with pytest.raises(FloatingPointError, match=f"{MAX_RESTARTS} restarts from the last good weights"):
        recovery.restart(0.0)
