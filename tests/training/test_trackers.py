"""Trackers: each epoch once, whatever was killed when; the run does not depend on them."""

import json
import sys
import types

import pytest
import torch

import allegory as al
from allegory.command import main

NAMES = {
    "epoch", "lr", "beta", "train", "gradient_norm", "clipped", "skipped", "bound", "elbo", "reconstruction",
    "rate/level_1", "rate/level_2",
}  # fmt: skip
TINY = ["--hidden", "8", "--latent", "3,2", "--batch-size", "400", "--checkpoint-seconds", "0"]


class Killed(BaseException):
    """What no `except Exception` stops."""


@pytest.fixture
def bits():
    return (torch.rand(60, 6) < 0.5).double()


def train(bits, **settings):
    torch.manual_seed(0)
    model = al.architectures.mlp((6,), "bernoulli", latent=(3, 2), hidden=[8]).double()
    return al.fit(model, bits[20:], valid=bits[:20], batch_size=16, lr_final=1.0, **settings)


def train_killed(bits, tracker, out, epochs=9, kept=4, told=6):
    """Leaves a checkpoint of `kept` epochs, and a tracker that was told of `told`."""
    calls, fatal = 0, 1 + 3 * (told - kept) + 2  # the first is the check at the edge

    def kill(x):
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise Killed
        return x

    settings = dict(out=out, transform=kill)
    calls = fatal
    train(bits, epochs=kept, tracker=tracker(), **settings)
    calls = 0
    with pytest.raises(Killed):
        train(bits, epochs=epochs, tracker=tracker(), resume=True, checkpoint_seconds=1e9, **settings)
    return train(bits, epochs=epochs, tracker=tracker(), resume=True, **settings)


def scalars(line):
    rates = {f"rate/level_{t}": rate for t, rate in enumerate(line["kl_per_level"], start=1)}
    return {name: line[name] for name in NAMES if name in line} | rates


def test_a_tracker_is_told_the_history_and_does_not_touch_the_run(bits):
    told = []

    def track(line):
        told.append(json.loads(json.dumps(line)))
        line.clear()
        torch.rand(5)

    record = train(bits, epochs=4, tracker=track)
    assert told == record.history == train(bits, epochs=4).history


def test_an_epoch_that_is_undone_is_not_told(bits):
    told, calls = [], 0

    def spoil(x):
        nonlocal calls
        calls += 1
        return x.clone().fill_(torch.nan) if calls == 6 else x

    record = train(bits, epochs=4, transform=spoil, tracker=told.append)
    assert record.restarts == 1
    assert told == record.history


def test_a_tracker_that_fails_is_left_alone_and_the_run_goes_on(bits, tmp_path):
    calls = []

    def track(line):
        calls.append(line["epoch"])
        if line["epoch"] == 2:
            raise OSError("no space left")

    other = []
    with pytest.warns(UserWarning, match=r"tracker failed in epoch 2 and is not called again.*OSError: no space left"):
        record = train(bits, epochs=4, tracker=[track, other.append], out=tmp_path / "run")
    assert (record.epoch, calls) == (4, [1, 2])
    assert other == record.history
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert "tracker" not in (tmp_path / "run" / "config.json").read_text()


def events(folder):
    """What TensorBoard shows: {name: {step: value}}; a step that came twice is seen."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {}
    for name in read.Tags()["scalars"]:
        points = read.Scalars(name)
        found[name] = {point.step: point.value for point in points}
        assert len(found[name]) == len(points)
    return found


def same(found, history):
    assert {line["step"] for line in history} == set(found["bound"])
    assert set(found) == NAMES
    for line in history:
        for name, value in scalars(line).items():
            assert found[name][line["step"]] == pytest.approx(value, rel=1e-6), name


def test_tensorboard_reads_back_every_epoch_once_after_a_kill(bits, tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run" / "tensorboard"
    record = train_killed(bits, lambda: al.trackers.tensorboard(folder), tmp_path / "run")
    assert len(record.history) == 9
    same(events(folder), record.history)
    track = al.trackers.tensorboard(folder)
    for line in record.history:  # told again, it is the same curve
        track(line)
    same(events(folder), record.history)


def test_a_training_without_validation_data_has_fewer_names(bits, tmp_path):
    pytest.importorskip("tensorboard")
    torch.manual_seed(0)
    model = al.architectures.mlp((6,), "bernoulli", latent=(3, 2), hidden=[8]).double()
    al.fit(model, bits, epochs=2, tracker=al.trackers.tensorboard(tmp_path))
    assert set(events(tmp_path)) == {"epoch", "lr", "beta", "train", "gradient_norm", "clipped", "skipped"}


class Server(types.ModuleType):
    """A stand-in for wandb: what the server has of each run, and how much of it a part of a training did not send."""

    def __init__(self, key=True, online=True):
        super().__init__("wandb")
        self.key, self.online, self.run, self.rows, self.begun = key, online, None, {}, []

    def login(self, prompt, verify):
        assert not prompt
        assert not verify
        return self.key

    def init(self, **settings):
        rows = self.rows.setdefault(settings["id"], {}) if self.online else {}
        assert settings["resume"] == "allow"
        self.begun.append((settings, rows))
        return types.SimpleNamespace(starting_step=max(rows) + 1 if rows else 0, log=lambda r, step: put(rows, r, step))


def put(rows, row, step):
    assert step > max(rows, default=0)
    rows[step] = row


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server)
    return server


def test_wandb_is_told_every_epoch_once_under_one_id_after_a_kill(bits, tmp_path, server):
    record = train_killed(bits, lambda: al.trackers.wandb(tmp_path / "run", "ours", tags=["a"]), tmp_path / "run")
    wanted = {line["step"]: scalars(line) for line in record.history}
    assert list(server.rows.values()) == [wanted]
    assert len(server.begun) == 3
    settings = server.begun[0][0]
    assert (settings["project"], settings["tags"], settings["dir"]) == ("ours", ["a"], str(tmp_path / "run"))


def test_what_wandb_never_got_comes_from_the_metrics(bits, tmp_path, server):
    track = lambda: al.trackers.wandb(tmp_path / "run")  # noqa: E731
    train(bits, epochs=4, out=tmp_path / "run", tracker=track())
    (rows,) = server.rows.values()
    del rows[9], rows[12]
    record = train(bits, epochs=6, out=tmp_path / "run", tracker=track(), resume=True)
    assert rows == {line["step"]: scalars(line) for line in record.history}


def test_offline_each_part_is_whole(bits, tmp_path, server):
    server.online = False
    record = train_killed(bits, lambda: al.trackers.wandb(tmp_path / "run"), tmp_path / "run")
    assert server.begun[-1][1] == {line["step"]: scalars(line) for line in record.history}
    assert len({settings["id"] for settings, _ in server.begun}) == 1


def test_two_runs_are_two_and_without_a_login_it_says_so_at_once(bits, tmp_path, server, monkeypatch):
    for run in ("a", "b"):
        train(bits, epochs=1, out=tmp_path / run, tracker=al.trackers.wandb(tmp_path / run))
    assert len(server.rows) == 2
    server.key = False
    with pytest.raises(ValueError, match=r"there is no login; run `wandb login`, or set WANDB_MODE=offline"):
        al.trackers.wandb(tmp_path)
    al.trackers.wandb(tmp_path, mode="offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    al.trackers.wandb(tmp_path)


def test_the_command_tells_both_and_keeps_neither_as_a_setting(tmp_path, server, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    torch.set_default_dtype(torch.float32)
    run = tmp_path / "run"
    begin = ["train", "digits", "--out", str(run), *TINY]
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    assert main([*begin, "--epochs", "2", "--tensorboard", "--wandb"]) == 0
    config = json.loads((run / "config.json").read_text())
    assert "wandb" not in json.dumps(config)
    assert "tensorboard" not in json.dumps(config)
    assert main([*begin, "--epochs", "3", "--tensorboard", "--resume"]) == 0
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(events(run / "tensorboard")["bound"]) == [line["step"] for line in history]
    (settings, rows), = server.begun  # fmt: skip
    assert (settings["project"], settings["name"], sorted(rows)) == ("ours", "run", [3, 6])
    assert settings["config"]["latent"] == [3, 2]
    monkeypatch.delenv("WANDB_PROJECT")
    assert main([*begin, "--epochs", "4", "--resume", "--wandb"]) == 0
    assert sorted(server.begun[-1][1]) == [3, 6, 9, 12]
    assert server.begun[-1][0]["project"] == "allegory"


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_said_before_the_training(tmp_path, monkeypatch, capsys, package):
    for name in [
        name for name in sys.modules if name.split(".")[0] == package or name.startswith("torch.utils.tensor")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"pip install {package}"):
        getattr(al.trackers, package)(tmp_path)
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *TINY, f"--{package}"]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("allegory:")]
    assert out == ""
    assert len(lines) == 1
    assert lines[0].endswith(f"install it: pip install {package}")
    assert not (tmp_path / "run").exists()
