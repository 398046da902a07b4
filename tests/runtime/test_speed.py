"""Precision and compilation: chosen by what is measured, and said."""

import itertools
import math

import pytest
import torch

import allegory as al
from allegory.runtime import compilation, precision
from allegory.runtime.compilation import choose_compile, compile_seconds, time_call
from allegory.runtime.precision import bfloat16_speedup, choose_precision

CPU = torch.device("cpu")


@pytest.fixture
def speedup(monkeypatch):
    def set_to(value):
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: value)

    return set_to


def test_the_speedup_is_a_number_and_leaves_the_threads():
    threads = torch.get_num_threads()
    assert 0 < bfloat16_speedup(CPU) < math.inf
    assert torch.get_num_threads() == threads


def test_the_speedup_is_that_of_float32(monkeypatch):
    """Whatever the default is: autocast leaves float64 as it is, and a product of it is no faster in bfloat16."""
    assert torch.get_default_dtype() == torch.float64
    full, made = torch.full, []
    monkeypatch.setattr(torch, "full", lambda *shape, **more: made.append(full(*shape, **more)) or made[-1])
    bfloat16_speedup.__wrapped__(CPU)
    assert {tensor.dtype for tensor in made} == {torch.float32}


def test_the_speedup_is_that_of_the_clock(monkeypatch):
    """On this one a product of float32 takes three times as long, whatever is fast here."""
    small = torch.randn
    seconds = itertools.accumulate(1.0 if torch.is_autocast_enabled("cpu") else 3.0 for _ in itertools.count())
    monkeypatch.setattr(torch, "randn", lambda *shape, **more: small(4, 4, **more))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(seconds))
    assert bfloat16_speedup.__wrapped__(CPU) == 3.0


def test_auto_takes_bfloat16_where_it_pays(speedup):
    speedup(3.2)
    name, why = choose_precision("auto", CPU, tolerant=True)
    assert name == "bfloat16"
    assert "3.2 times as fast" in why
    assert choose_precision("auto", CPU, tolerant=False) == ("float32", "")
    speedup(0.009)
    name, why = choose_precision("auto", CPU, tolerant=True)
    assert name == "float32"
    assert "0.009 times as fast" in why


def test_bfloat16_on_a_machine_without_it_warns_with_the_factor(speedup):
    speedup(0.01)
    with pytest.warns(UserWarning, match="matrix products take 100.0 times as long"):
        assert choose_precision("bfloat16", CPU, tolerant=True) == ("bfloat16", "")
    speedup(2.0)
    assert choose_precision("bfloat16", CPU, tolerant=True) == ("bfloat16", "")


def test_auto_compiles_what_takes_long_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    assert choose_compile("auto", CPU, lambda: 119.0) == (False, "")
    compile, why = choose_compile("auto", CPU, lambda: 1200.0)
    assert compile
    assert "20 minutes" in why
    assert "half a minute" in why
    assert choose_compile("auto", CPU, lambda: 1200.0, cost=301.0) == (False, "")  # more than a quarter
    assert choose_compile("auto", CPU, lambda: 1200.0, cost=299.0)[0]
    assert "takes up to a minute" in choose_compile("auto", CPU, lambda: 1200.0, cost=50.0)[1]
    assert "takes up to 3 minutes" in choose_compile("auto", CPU, lambda: 1200.0, cost=130.0)[1]
    assert choose_compile(True, CPU, lambda: 0.0) == (True, "")
    monkeypatch.setattr(compilation, "has_compiler", lambda device: False)
    assert choose_compile("auto", CPU, lambda: 1200.0) == (False, "")


def test_what_compiling_takes_grows_with_the_operations_of_the_loss():
    x = torch.ones(3, requires_grad=True)
    once, often = x.sum(), x
    for _ in range(200):
        often = often.sin()
    assert compile_seconds(torch.ones(())) == compilation.COMPILE_SECONDS  # nothing to differentiate
    assert compile_seconds(often.sum()) - compile_seconds(once) == pytest.approx(
        200 * compilation.SECONDS_PER_OPERATION
    )
    shared = once + once  # counted once
    assert compile_seconds(shared) - compile_seconds(once) == pytest.approx(compilation.SECONDS_PER_OPERATION)


def test_timed_is_the_least_of_several():
    calls = []
    assert 0 <= time_call(lambda: calls.append(1), CPU) < 1
    assert len(calls) > 1
    calls.clear()
    time_call(lambda: calls.append(1), CPU, stop_below=60.0)
    assert calls == [1]  # a short training does not wait for a measurement longer than itself


def test_fit_measures_what_is_left_open_and_a_resume_keeps_to_it(speedup, monkeypatch, tmp_path):
    import json

    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    speedup(0.5)
    x = (torch.rand(30, 6) < 0.5).double()
    model = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8]).double()
    settings = dict(batch_size=10, precision="auto", compile="auto", out=tmp_path / "run")
    al.fit(model, x, epochs=1, **settings)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert (stored["precision"], stored["compile"]) == ("float32", False)
    speedup(5.0)
    al.fit(model, x, epochs=2, resume=True, **settings)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert (stored["precision"], stored["compile"]) == ("float32", False)
    with pytest.raises(ValueError, match="precision='float16': wanted"):
        al.fit(model, x, epochs=1, precision="float16")
    with pytest.raises(ValueError, match="compile='maybe': wanted"):
        al.fit(model, x, epochs=1, compile="maybe")


def test_measuring_draws_no_numbers():
    bfloat16_speedup.cache_clear()
    state = torch.get_rng_state()
    bfloat16_speedup(CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_measures_what_is_left_open(speedup, monkeypatch):
    from allegory.evaluation import speed

    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    model = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8]).double().eval()
    continuous = al.architectures.mlp((6,), "normal", latent=[3], hidden=[8]).double()
    x = (torch.rand(30, 6) < 0.5).double()
    state = torch.get_rng_state()
    speedup(3.0)
    assert speed.choose_speed(model, x, 10)[:2] == ("bfloat16", False)
    assert speed.choose_speed(continuous, x, 10)[:2] == ("float32", False)
    monkeypatch.setattr(speed, "time_call", lambda function, device, stop_below: function() is None or 1e6)
    _, compile, notes = speed.choose_speed(model, x, 10)
    assert compile
    assert len(notes) == 2
    assert torch.equal(state, torch.get_rng_state())
    speedup(0.1)
    torch.set_rng_state(state)
    measured = al.log_likelihood(model, x, 4, precision="auto", compile=False)
    torch.set_rng_state(state)
    assert torch.equal(al.log_likelihood(model, x, 4), measured)
    with pytest.raises(ValueError, match="wanted 'float32', 'bfloat16' or 'auto'"):
        al.evaluate(model, x, precision="half")


@pytest.mark.parametrize(
    ("budget", "asked", "compiled"),
    [
        (dict(epochs=10), "auto", False),  # 10 batches an epoch of a second each: 100 s
        (dict(epochs=13), "auto", True),
        (dict(epochs=13, minutes=1), "auto", False),
        (dict(minutes=1), "auto", False),
        (dict(minutes=10), "auto", True),
        (dict(epochs=1, minutes=10), "auto", False),
        (dict(epochs=13), False, False),
        (dict(epochs=1), True, True),
    ],
)
def test_a_training_is_compiled_if_its_budget_is_long(budget, asked, compiled, monkeypatch):
    from allegory.training import arguments

    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    monkeypatch.setattr(arguments, "time_call", lambda function, device, stop_below: function() is None or 1.0)
    x = (torch.rand(100, 6) < 0.5).double()
    model = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8]).double()
    settings = dict(
        samples=1, epochs=None, minutes=None, batch_size=10, lr=0.01, lr_warmup=0, lr_final=0.0, kl_warmup=0, beta=1.0,
        weight_decay=0.0, clip=2.0, skip=100.0, ema=0.9, patience=None, seed=0,
        precision="float32", compile=asked, objective=al.elbo,
    )  # fmt: skip
    plan = arguments.plan(model, x, None, None, settings | budget, None, None, resume=False)
    assert plan.compile == compiled
    assert len(plan.notes) == (compiled and asked == "auto")
    assert all(p.grad is None for p in model.parameters())
