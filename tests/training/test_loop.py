"""What `fit` promises: the record, the schedules, exact resume, recovery, and clear errors."""

import functools
import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.data import binarize
from allegory.runtime import compilation
from allegory.runtime.storage import write_atomically
from allegory.training.recovery import MAX_RESTARTS
from allegory.training.validation import validate

N = 60


@pytest.fixture
def bits():
    centre = (torch.rand(4, 6) < 0.5).float()
    noise = (torch.rand(N, 6) < 0.1).float()
    return (centre[torch.randint(4, (N,))] - noise).abs().double()


def small(latent=(3, 2), dropout=0.1, seed=0):
    torch.manual_seed(seed)
    return al.architectures.mlp((6,), "bernoulli", latent=latent, hidden=[8], dropout=dropout).double()


def train(model, bits, **settings):
    arguments = dict(valid=bits[:20], epochs=4, batch_size=16, lr=5e-3, kl_warmup=3)
    return al.fit(model, bits[20:], **{**arguments, **settings})


def test_it_learns_keeps_the_best_weights_and_says_what_happened(bits):
    model = small()
    before = al.evaluate(model, bits[:20], samples=200).elbo
    record = train(model, bits, epochs=150, ema=0.9)
    assert not model.training
    assert (record.epoch, record.step, record.stopped) == (150, 150 * 3, "epochs")
    assert len(record.history) == 150
    assert record.best_bound == max(line["bound"] for line in record.history[1:])
    assert record.history[record.best_epoch - 1]["bound"] == record.best_bound
    after = al.evaluate(model, bits[:20], samples=200).elbo
    assert after > before + 0.5
    assert validate(model, bits[:20], al.elbo, 1, 0)["bound"] == record.best_bound
    line = record.history[-1]
    assert line["elbo"] == pytest.approx(line["reconstruction"] - sum(line["kl_per_level"]))
    assert line["train"] == pytest.approx(after, abs=1.0)


def test_a_seed_fixes_everything_and_the_global_generator_is_left_alone(bits):
    state = torch.get_rng_state()
    models = [small(), small(), small()]
    state = torch.get_rng_state()
    histories = [train(model, bits, seed=seed).history for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert torch.equal(state, torch.get_rng_state())
    assert histories[0] == histories[1] != histories[2]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)


def test_the_schedules_count_steps(bits):
    record = train(small(), bits, lr=0.1, lr_warmup=5, kl_warmup=8, lr_final=0.2)
    for line in record.history:
        last = line["step"] - 1
        assert line["beta"] == min(1, line["step"] / 8)
        cosine = 0.2 + 0.8 * (1 + math.cos(math.pi * last / 12)) / 2
        assert line["lr"] == pytest.approx(0.1 * min(1, (last + 1) / 5) * cosine)
    assert record.best_epoch is None or record.history[record.best_epoch - 1]["step"] >= 8


def test_the_warm_up_weighs_the_rate(bits):
    seen = []

    def objective(trace, beta):
        seen.append(beta)
        return al.elbo(trace, beta)

    train(small(), bits, objective=objective, kl_warmup=10, valid=None)
    assert seen[1:] == [min(1, (i + 1) / 10) for i in range(12)]  # the first is the check at the edge


def test_patience_ends_the_training_never_before_the_warm_up(bits):
    record = train(small(), bits, epochs=500, patience=3, lr=0.05, kl_warmup=30)
    assert record.stopped == "patience"
    assert record.history[record.best_epoch - 1]["step"] >= 30
    with pytest.warns(
        UserWarning, match=r"kl_warmup=1000 \(the KL reaches 2% of its value\) of a training of 15 steps"
    ):
        assert train(small(), bits, epochs=5, patience=1, lr=1e-9, kl_warmup=1000).stopped == "epochs"


def test_minutes_end_the_training(bits):
    record = train(small(), bits, epochs=None, minutes=0.02)
    assert record.stopped == "minutes"
    assert 1 <= record.seconds < 10


def test_the_averaged_weights_are_what_is_evaluated(bits):
    follow, average = small(dropout=0), small(dropout=0)
    train(follow, bits, ema=0.0, valid=None, lr_final=1.0)
    train(average, bits, ema=0.999, valid=None, lr_final=1.0)
    torch.manual_seed(0)
    start = small(dropout=0)
    for a, b, c in zip(start.parameters(), average.parameters(), follow.parameters(), strict=True):
        assert (a - b).norm() < (a - c).norm()


def test_fewer_examples_than_a_batch_and_a_ragged_last_batch_count_every_example_once(bits):
    seen = []

    def watch(x):
        seen.append(x.clone())
        return x

    train(small(), bits, transform=watch, epochs=1)
    assert [len(x) for x in seen[1:]] == [16, 16, 8]  # the first is the check at the edge
    rows = torch.cat(seen[1:])
    assert_close(rows.sum(0), bits[20:].sum(0))
    assert train(small(), bits, batch_size=1000).step == 4


def test_dynamic_binarisation_draws_anew(bits):
    seen = []

    def draw(x):
        seen.append(binarize(x))
        return seen[-1]

    al.fit(small(), torch.full((10, 6), 0.5), epochs=3, batch_size=10, transform=draw)
    assert not torch.equal(seen[-1].sum(0), seen[-2].sum(0))


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_ctrl_c_saves_and_resume_goes_on_as_if_nothing_had_happened(bits, tmp_path, stop):
    handler = signal.getsignal(signal.SIGINT)
    whole = train(small(), bits, out=tmp_path / "whole")
    calls = 0

    def interrupt(x):
        nonlocal calls
        calls += 1
        if calls == stop + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    with pytest.raises(KeyboardInterrupt):
        train(small(), bits, out=tmp_path / "parts", transform=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    torch.manual_seed(99)
    model = small(seed=5)  # other weights: all comes from the checkpoint
    parts = train(model, bits, out=tmp_path / "parts", transform=interrupt, resume=True)
    assert parts.history == whole.history
    metrics = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "parts")]
    assert metrics[0] == metrics[1]
    assert [json.loads(line) for line in metrics[0].splitlines()] == whole.history
    weights = [load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "parts")]
    for key, value in weights[0].items():
        assert_close(weights[1][key], value, rtol=0, atol=0)
        assert_close(model.state_dict()[key], value, rtol=0, atol=0)


def test_where_validation_stalls_the_rate_falls_from_the_best_weights_on(bits):
    model, seen = small(), []

    def follow(line):
        seen.append([p.clone() for p in model.parameters()])

    record = train(model, bits, epochs=10_000, patience=4, lr=0.05, tracker=follow, ema=0.0)
    assert record.stopped == "patience"
    rates = [line["lr"] for line in record.history]
    stall = len(rates) - 4
    assert rates[stall - 1] > 0.0499
    assert rates[stall:] == sorted(rates[stall:], reverse=True)
    assert 0 < rates[-1] < 0.002
    before = record.history[:stall]
    best = max(range(1, stall), key=lambda i: before[i]["bound"])
    assert stall == best + 1 + 4
    for p, here in zip(seen[best], seen[stall - 1], strict=True):  # the line is tracked after going back
        assert_close(p, here, rtol=0, atol=0)
    assert record.best_bound >= before[best]["bound"]


def test_a_training_that_is_interrupted_while_it_anneals_goes_on(bits, tmp_path):
    settings = dict(epochs=10_000, patience=4, lr=0.05)
    whole = train(small(), bits, out=tmp_path / "whole", **settings)

    def interrupt(line):
        if line["epoch"] == whole.epoch - 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small(), bits, out=tmp_path / "parts", tracker=interrupt, **settings)
    parts = train(small(seed=5), bits, out=tmp_path / "parts", resume=True, **settings)
    assert parts.history == whole.history
    assert parts.stopped == "patience"


def test_a_run_may_be_extended(bits, tmp_path):
    train(small(), bits, out=tmp_path / "run", lr_final=1.0)
    record = train(small(), bits, out=tmp_path / "run", resume=True, epochs=6, lr_final=1.0)
    assert record.epoch == 6
    assert record.history == train(small(), bits, epochs=6, lr_final=1.0).history


def test_load_brings_the_best_model_back(bits, tmp_path):
    model = small()
    train(model, bits, out=tmp_path / "run")
    again = al.load(tmp_path / "run").double()
    assert not again.training
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert_close(a, b.to(a), rtol=1e-6, atol=1e-7)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json", "last.safetensors", "metrics.jsonl", "weights.safetensors",
    ]  # fmt: skip


class Fault:
    """Puts a NaN into one row at the calls of the given numbers."""

    def __init__(self, *calls):
        self.calls, self.at = 0, calls

    def __call__(self, x):
        self.calls += 1
        if self.calls in self.at:
            x = x.clone()
            x[3] = math.nan
        return x


def test_a_loss_that_is_not_finite_once_is_survived(bits, capsys):
    model = small(dropout=0)
    # Call 1 is the check at the edge, 6 the second batch of epoch 2, 9 the same batch when the epoch is run again.
    record = train(model, bits, transform=Fault(6, 9), progress=True, row_names=[f"scan{i}" for i in range(len(bits))])
    assert record.stopped == "epochs"
    assert record.history[-1]["lr"] < train(small(), bits).history[-1]["lr"] * 0.6
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    said = capsys.readouterr().err
    assert "epoch 2, step 5: log p(x | z_1) is not finite in 1 of 16 rows, examples scan" in said
    assert "learning rate times 0.5" in said


def test_a_training_that_has_left_its_place_is_taken_back(bits, capsys):
    """Four gradients in a row a thousand times as large as before."""
    calls, thrown = [-1], set(range(61, 65)) | {0}  # call 0 is the check at the edge

    def objective(trace, beta):
        calls[0] += trace.log_px.requires_grad  # not when validated
        return al.elbo(trace, beta) * (1e3 if calls[0] in thrown else 1.0)

    settings = dict(epochs=30, batch_size=8, skip=50.0, ema=0.0, lr_final=1.0)
    record = train(small(), bits, objective=objective, **settings, progress=True)
    assert (record.restarts, record.stopped, len(record.history)) == (1, "epochs", 30)
    assert sum(line["skipped"] for line in record.history) == 0
    assert record.history[-1]["lr"] == pytest.approx(record.history[0]["lr"] / 2)
    assert "4 times in a row, but not when the epoch was run again; going back" in " ".join(
        capsys.readouterr().err.split()
    )
    # A scale that stays is found again, said, and followed in the end.
    calls[0], thrown = -1, range(61, 10_000)
    record = train(small(), bits, objective=objective, **settings | dict(epochs=60), progress=True)
    assert (record.restarts, record.stopped) == (MAX_RESTARTS, "epochs")
    assert record.history[-1]["skipped"] == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "step 64: the gradient was above 50 times its usual size, 4 times in a row" in said


def test_restarts_are_counted_over_a_resume_and_leave_those_for_nan_alone(bits, tmp_path):
    calls = 0

    def objective(trace, beta):
        nonlocal calls
        calls += trace.log_px.requires_grad
        if calls == 63:
            os.kill(os.getpid(), signal.SIGINT)  # amid skips
        x = 1e3 if calls > 61 else 1.0
        return al.elbo(trace, beta) * (math.nan if calls in (600, 700) else x)

    settings = dict(
        objective=objective, batch_size=8, skip=50.0, ema=0.0, lr_final=1.0, out=tmp_path / "run", epochs=150
    )
    with pytest.raises(KeyboardInterrupt):
        train(small(), bits, **settings)
    record = train(small(), bits, **settings, resume=True)
    assert record.stopped == "epochs"
    assert record.restarts == MAX_RESTARTS + 2


def test_a_loss_that_is_never_finite_ends_with_level_and_rows(bits):
    class Bad(torch.nn.Module):
        def forward(self, z):
            s = z[..., :1].log() if self.training else z[..., :1]
            return al.families.normal(torch.cat([s.expand(*z.shape[:-1], 3)] * 2, -1))

    model = small()
    model.decoders[1] = Bad()
    model.encoders[1].network[-1].weight.data.zero_()
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step 1: .*level 1.* not finite in \d+ of 16 rows, examples"
    ):
        train(model, bits)


def test_beta_weighs_each_level_and_validation_is_at_1_and_at_beta(bits):
    seen = []

    def objective(trace, beta):
        seen.append(torch.as_tensor(beta).tolist())
        return al.elbo(trace, beta)

    record = train(small(), bits, objective=objective, beta=[1.0, 4.0], kl_warmup=2, epochs=1)
    assert seen[1:] == [[0.5, 2.0], [1.0, 4.0], [1.0, 4.0], 1.0, [1.0, 4.0]]  # the first is the check at the edge
    assert record.history[0]["beta"] == 1.0
    train(small(), bits, objective=objective, beta=3.0, kl_warmup=2, epochs=1)
    assert seen[7:] == [1.5, 3.0, 3.0, 1.0, 3.0]
    train(small(), bits, objective=objective, beta=1.0, kl_warmup=2, epochs=1)
    assert seen[13:] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("beta", [0.01, lambda step, done: 0.01, al.training.Cyclical(0.01, period=4)])
def test_the_weights_are_chosen_by_what_is_trained(bits, beta):
    """At beta = 0.01 the bound at beta = 1 is best before anything is learned."""
    record = train(small(dropout=0), bits, beta=beta, kl_warmup=0, epochs=60, lr=0.02, ema=0.0)
    objectives = [line["objective"] for line in record.history]
    assert record.best_objective == max(objectives)
    assert record.best_epoch == objectives.index(max(objectives)) + 1 > 10
    line = record.history[record.best_epoch - 1]
    assert record.best_bound == line["bound"] < max(line["bound"] for line in record.history) - 0.5
    assert line["objective"] == pytest.approx(line["reconstruction"] - 0.01 * sum(line["kl_per_level"]))
    assert f"best objective {record.best_objective:.2f}, bound {record.best_bound:.2f} in epoch" in repr(record)


def test_at_beta_1_the_bound_chooses(bits):
    record = train(small(), bits)
    assert record.best_objective is None
    assert "objective" not in record.history[0]


def test_a_resume_keeps_the_best_objective(bits, tmp_path):
    settings = dict(beta=0.1, lr_final=1.0, valid=bits[:20])
    train(small(), bits, out=tmp_path / "run", **settings)
    again = train(small(), bits, out=tmp_path / "run", resume=True, epochs=6, **settings)
    whole = train(small(), bits, epochs=6, **settings)
    assert (again.best_objective, again.best_epoch) == (whole.best_objective, whole.best_epoch)


class Ticking:
    """A monotonic clock that advances by a second at each reading."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_minutes_plan_the_warm_ups_within_them(bits, monkeypatch):
    monkeypatch.setattr("allegory.training.clock.time.monotonic", Ticking())
    record = train(small(), bits, epochs=None, minutes=1.0, kl_warmup=2000, lr_warmup=100)
    assert record.stopped == "minutes"
    quarter = [line for line in record.history if line["step"] >= 16]
    assert record.step < 70
    assert all(line["beta"] == 1.0 for line in quarter)
    assert record.history[0]["beta"] < 0.5
    assert record.best_epoch is not None
    assert max(line["lr"] for line in record.history) > 0.8 * 5e-3 / 2


def test_a_part_of_an_epoch_is_no_epoch_and_goes_on(bits, tmp_path, monkeypatch):
    seen = []

    def watch(x):
        seen.append(len(x))
        return x

    settings = dict(epochs=2, batch_size=4, kl_warmup=0, transform=watch, out=tmp_path / "run")  # ten steps an epoch
    monkeypatch.setattr("allegory.training.clock.time.monotonic", Ticking())
    record = train(small(), bits, minutes=0.08, **settings)
    assert (record.epoch, record.stopped) == (0, "minutes")
    part = record.step / 10
    assert 0 < part < 1
    assert [line["epoch"] for line in record.history] == [part]
    assert record.best_epoch == record.passes == part
    assert f"{part:g} epochs" in repr(record)
    first = record.step
    record = train(small(), bits, minutes=1000.0, **settings, resume=True)
    assert (record.epoch, record.step, record.stopped) == (2, 20, "epochs")
    assert [line["epoch"] for line in record.history] == [part, 1, 2]
    assert first < 10
    assert record.history[1]["step"] == 10


def test_another_budget_says_what_happens_to_the_rate(bits, tmp_path, capsys):
    train(small(), bits, out=tmp_path / "run")
    assert capsys.readouterr().err == ""
    train(small(), bits, out=tmp_path / "run", resume=True, epochs=8)
    said = capsys.readouterr().err
    assert "resumed with another budget, epochs 4 -> 8: the learning rate goes from 8.5e-05 to 2.5e-03" in said
    train(small(), bits, out=tmp_path / "run", resume=True, epochs=8)
    assert capsys.readouterr().err == ""


def test_the_metrics_say_what_was_clipped_and_skipped(bits):
    record = train(small(), bits, clip=1e-3, skip=1e9)
    assert [(line["clipped"], line["skipped"]) for line in record.history] == [(3, 0)] * 4
    record = train(small(), bits, clip=1e-3, skip=1e-2, epochs=8)
    assert sum(line["skipped"] for line in record.history) == 18  # three of every four
    plain = train(small(), bits)
    assert sum(line["skipped"] + line["clipped"] for line in plain.history) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.parametrize(
    ("objective", "compile"),
    [
        (al.dreg, False),
        pytest.param(al.dreg, True, marks=pytest.mark.slow),
        (al.stl, False),
        (functools.partial(al.free_bits, nats=0.3), False),
        (al.renyi, False),
    ],
)
def test_every_objective_trains(bits, objective, compile, tmp_path):
    model = small(dropout=0)
    before = al.evaluate(model, bits[20:], samples=50).nll
    train(model, bits, objective=objective, samples=4, epochs=40, compile=compile, out=tmp_path / "run")
    assert al.evaluate(model, bits[20:], samples=50).nll < before - 0.1
    name = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]["objective"]
    assert name in ("dreg", "stl", "free_bits(nats=0.3)", "renyi")


def test_an_objective_that_cannot_be_is_said_before_a_run_is_made(bits, tmp_path):
    for nats in (-1.0, math.nan, [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="free bits: got"):
            train(small(), bits, objective=functools.partial(al.free_bits, nats=nats), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


WRONG = {
    "beta=-1.0: wanted a number": dict(beta=-1.0),
    "one for each of 2 levels": dict(beta=[1.0, 2.0, 3.0]),
    "skip=0": dict(skip=0),
    "needs a budget": dict(epochs=None),
    "epochs=0": dict(epochs=0),
    "batch_size=0": dict(batch_size=0),
    "samples=0": dict(samples=0),
    "lr=-1": dict(lr=-1.0),
    "lr=nan": dict(lr=math.nan),
    "lr_final=-1": dict(lr_final=-1.0),
    "ema=1": dict(ema=1.0),
    "patience=0": dict(patience=0),
    "resume=True needs out": dict(resume=True),
    "validation data: examples of shape": dict(valid=torch.zeros(3, 5, dtype=torch.float64)),
}


@pytest.mark.parametrize("message", WRONG)
def test_settings_that_make_no_sense(bits, message):
    with pytest.raises(ValueError, match=message):
        train(small(), bits, **WRONG[message])


@pytest.mark.parametrize(
    ("message", "spoil"),
    [
        (
            r"training data: 1 values are NaN or infinite, the first in row 7, column 2",
            lambda x: x[7, 2].fill_(math.nan),
        ),
        (
            r"training data: 1 of 240 values .* 0\.3 in row 7, column 2.*continuous_bernoulli",
            lambda x: x[7, 2].fill_(0.3),
        ),
    ],
)
def test_data_are_looked_at_once_and_named(bits, message, spoil):
    data = bits[20:].clone()
    spoil(data)
    with pytest.raises(ValueError, match=message):
        al.fit(small(), data, epochs=1)


def test_one_example_and_none(bits):
    for data in (bits[:1], bits[:0]):
        with pytest.raises(ValueError, match="at least two examples"):
            al.fit(small(), data, epochs=1)


def test_a_run_directory_is_never_overwritten_and_never_mixed(bits, tmp_path):
    run = tmp_path / "run"
    train(small(), bits, out=run)
    with pytest.raises(ValueError, match="exists and is not empty"):
        train(small(), bits, out=run)
    with pytest.raises(ValueError, match=r"was trained with lr = 0.005, not 0.1"):
        train(small(), bits, out=run, resume=True, lr=0.1)
    with pytest.raises(ValueError, match=r"was trained with model"):
        train(small(latent=(2,)), bits, out=run, resume=True)


def damage(run, name, how):
    path = run / name
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "foreign":
        path.write_bytes(b"PK\x03\x04 not ours")


@pytest.mark.parametrize("how", ["missing", "truncated", "foreign"])
@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_damaged_run_is_named_in_one_line(bits, tmp_path, name, how):
    run = tmp_path / "run"
    train(small(), bits, out=run, epochs=1)
    damage(run, name, how)
    with pytest.raises(ValueError, match=name) as error:
        al.load(run)
    assert "\n" not in str(error.value)


def test_a_run_of_a_newer_version_and_weights_that_do_not_fit(bits, tmp_path):
    run = tmp_path / "run"
    train(small(), bits, out=run, epochs=1)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99, this version of allegory reads format 1"):
        al.load(run)
    (run / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "hidden": [9]}}))
    with pytest.raises(ValueError, match="the weights do not fit the model"):
        al.load(run)
    (run / "config.json").write_text(json.dumps({**config, "model": None}))
    with pytest.raises(ValueError, match="build it and pass it"):
        al.load(run)
    assert al.load(run, model=small()).levels == 2


def test_a_truncated_checkpoint_is_not_resumed(bits, tmp_path):
    run = tmp_path / "run"
    train(small(), bits, out=run)
    damage(run, "last.safetensors", "truncated")
    with pytest.raises(ValueError, match=r"last.safetensors is damaged"):
        train(small(), bits, out=run, resume=True, epochs=9)


def test_no_space_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot write .*file: No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


class Falls(nn.Module):
    """A bias of -relu(w) that its first steps put to zero, whence no gradient comes any more."""

    def __init__(self):
        super().__init__()
        self.linear, self.w = nn.Linear(1, 6), nn.Parameter(torch.full((50,), 1e-4))

    def forward(self, z):
        return self.linear(z) - torch.relu(self.w).sum()


def test_the_moments_of_silent_units_become_zero_and_not_subnormal(tmp_path):
    torch.manual_seed(0)
    encoder = al.Conditional(nn.Linear(6, 2), al.families.normal)
    decoder = al.Conditional(Falls(), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(1), encoder, decoder)
    al.fit(model, torch.ones(8, 6), epochs=1000, batch_size=8, lr=0.01, out=tmp_path / "run")
    last = load_file(tmp_path / "run" / "last.safetensors")
    silent = next(i for i, p in enumerate(model.parameters()) if p.shape == (50,))
    assert not (model.decoders[0].network.w > 0).any()
    for key in ("exp_avg", "exp_avg_sq"):
        moment = last[f"optimizer/{silent}/{key}"].abs()
        assert not ((moment > 0) & (moment < torch.finfo(torch.float32).tiny)).any()
    assert (last[f"optimizer/{silent}/exp_avg"] == 0).all()


@pytest.mark.parametrize("objective", [lambda t, beta: al.elbo(t, beta).mean(), lambda t, beta: t.log_weight])
def test_an_objective_of_another_shape_is_refused(bits, objective, tmp_path):
    with pytest.raises(ValueError, match=r"objective <lambda>: got \(.*\) for 2 examples, wanted \(B,\)"):
        train(small(), bits, objective=objective, samples=3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_leaves_the_best_weights(bits):
    def stop(line):
        if line["epoch"] == 5:
            raise KeyboardInterrupt

    model, other = small(), small()
    with pytest.raises(KeyboardInterrupt):
        train(model, bits, epochs=9, lr_final=1.0, tracker=stop)
    train(other, bits, epochs=5, lr_final=1.0)
    assert not model.training
    for found, wanted in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


def mine(trace, beta):
    """What is not of the library is compiled in parts."""
    return al.elbo(trace, beta)


def test_what_does_not_compile_is_trained_as_it_is(bits, monkeypatch):
    def broken(function, **settings):
        def call(*arguments):
            raise RuntimeError("\nno Python.h\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    with pytest.warns(UserWarning, match="fails on this machine, so nothing is compiled: no Python.h$"):
        record = train(small(), bits, compile=True, objective=mine)
    assert record.history == train(small(), bits).history


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.filterwarnings("ignore:kl_warmup=3")  # of a training of one step
def test_every_training_is_compiled_however_many_there_were(bits, monkeypatch):
    graphs = []
    compile = torch.compile

    def counted(function, **settings):
        return compile(function, backend=lambda graph, inputs: graphs.append(1) or graph.forward, **settings)

    monkeypatch.setattr(torch, "compile", counted)
    monkeypatch.setattr(compilation, "has_compiler", lambda device: True)
    for width in range(3, 15):
        before = len(graphs)
        train(small(latent=[width], dropout=0), bits[:36], compile=True, epochs=1, valid=None, objective=mine)
        assert len(graphs) > before, width


def test_half_a_checkpoint_that_a_kill_has_left_goes_with_a_resume(bits, tmp_path):
    train(small(), bits, out=tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    for name in (".last.safetensors.123", ".metrics.jsonl.7", ".mine"):
        (tmp_path / "run" / name).write_text("x")
    train(small(), bits, out=tmp_path / "run", resume=True, epochs=6)
    assert {path.name for path in (tmp_path / "run").iterdir()} == names | {".mine"}


def test_arrays_are_refused_by_name(bits):
    with pytest.raises(ValueError, match=r"training data: got ndarray, wanted a tensor"):
        al.fit(small(), bits.numpy(), epochs=1)
    with pytest.raises(ValueError, match=r"validation data: got list, wanted a tensor"):
        al.fit(small(), bits, valid=bits.tolist(), epochs=1)


@pytest.mark.parametrize(("count", "size", "other"), [(129, 128, 129), (9, 2, 3), (4, 1, 2)])
def test_a_last_batch_of_one_and_batch_normalisation_are_refused_before_a_run(tmp_path, count, size, other):
    x = torch.rand(count, 12).round()
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    decoder = al.Conditional(nn.Linear(2, 12), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(2), al.Conditional(net, al.families.normal), decoder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"{count} examples in batches of {size} .* BatchNorm .* such as {other}$"):
        al.fit(model, x, epochs=1, batch_size=size, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert al.fit(model, x, epochs=1, batch_size=other).epoch == 1


def test_there_is_no_training_in_inference_mode():
    x = torch.rand(8, 3)
    with torch.inference_mode():
        made = al.architectures.mlp((3,), "continuous_bernoulli", [1], [2])
        with pytest.raises(ValueError, match=r"under torch\.inference_mode"):
            al.fit(al.architectures.mlp((3,), "continuous_bernoulli", [1], [2]), x, epochs=1)
    with pytest.raises(ValueError, match=r"under torch\.inference_mode"):
        al.fit(made, x, epochs=1)
