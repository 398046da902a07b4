"""Several processes give what one gives: two real ones, on loopback, by torchrun."""

import copy
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import allegory as al
from allegory.command import main
from allegory.runtime import processes
from allegory.runtime.modes import no_validation
from allegory.training.arguments import _check_last_batch, _check_objective
from allegory.training.state import State

HERE = Path(__file__).parent
ALONE = [sys.executable]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(HERE.parents[1])}


def run(command, *tasks):
    """What each of [name, task, out, *arguments] gives, by name."""
    done = subprocess.run(
        [*command, str(HERE / "together.py"), json.dumps(tasks)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


# What starting processes costs is paid once for all tasks that go together, by whichever worker of pytest comes first.


@pytest.fixture(scope="session")
def alone(once):
    """In one process."""
    return once(
        "alone", lambda out: run(ALONE, *([task, task, f"{out}/{task}"] for task in (*SAME, "own", "seen", "lost")))
    )


@pytest.fixture(scope="session")
def together(once):
    """In two, and each has the whole model."""
    names = (*SAME, "own", "differing", "seen", "lost", "various", "unfit", "ladder")
    again = ["whole", "resumed", 6], ["parts", "resumed", 3]

    def make(out):
        found = run(
            TOGETHER,
            *([name, name, f"{out}/{name}"] for name in names),
            *([name, task, f"{out}/{name}", epochs] for name, task, epochs in again),
        )
        return found | {"out": str(out)}

    return once("together", make)


@pytest.fixture(scope="session")
def sharded(once):
    """In two, over which the model is sharded."""

    def make(out):
        found = run(
            TOGETHER,
            ["fit", "fit", f"{out}/fit", "cpu"],
            ["ladder", "ladder", f"{out}/ladder", "cpu"],
            ["whole", "resumed", f"{out}/whole", 6, "cpu"],
            ["parts", "resumed", f"{out}/parts", 3, "cpu"],
            ["unfitting", "unfitting", f"{out}/unfitting"],
        )
        return found | {"out": str(out)}

    return once("sharded", make)


SAME = ("fit", "pooled", "score")


def flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [v for part in value for v in flat(part)]
    return [] if value is None else [value]


@pytest.mark.slow
@pytest.mark.parametrize("task", SAME)
def test_two_processes_give_what_one_gives(task, alone, together):
    assert len(flat(alone[task])) > 50
    assert flat(together[task]) == pytest.approx(flat(alone[task]), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_processes_with_rows_of_their_own_score_their_own_and_none_waits(alone, together):
    assert len(flat(alone["own"])) > 50
    assert flat(together["own"]) == pytest.approx(flat(alone["own"]), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_what_differs_between_processes_is_said_in_all_of_them(together):
    names = ["x", "samples", "model", "data", "valid", "seed"]
    for name, (first, second) in zip(names, together["differing"], strict=True):
        assert first == second
        assert first.startswith(f"{name} is not the same in the 2 processes")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.ones(3), torch.ones(3), True),
        (torch.ones(3), torch.ones(1, 3), False),
        (torch.ones(3).double(), torch.ones(3).float(), False),
        (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), False),
        (torch.tensor([0.0, math.nan]), torch.tensor([0.0, math.nan]), True),
        (torch.arange(6.0).view(2, 3).T, torch.arange(6.0).view(2, 3).T.contiguous(), True),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
        (3, 4, False),
    ],
)
def test_what_processes_were_given_is_compared(one, other, same, monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "all_gather", lambda found: [found, {"x": processes._fingerprint(other)}])
    monkeypatch.setattr(processes, "_meet", lambda what: None)
    with nullcontext() if same else pytest.raises(ValueError, match=r"x is not the same in the 2 processes"):
        processes.check_same("fit", x=one)


@pytest.fixture
def store(monkeypatch):
    """That of two processes, of which this is the first."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    return store


def test_a_process_that_does_not_come_is_missed_and_may_come_later(store, monkeypatch):
    monkeypatch.setattr(processes, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(processes, "MISSING_SECONDS", 1.0)
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="process 0 waits in fit for process 1 of 2: all of them have to call it"),
            pytest.raises(ValueError, match=r"has waited \d seconds in fit .* alone, with al.together\(False\)"),
        ):
            processes._meet("fit")
    store.set("allegory/1/1", "fit")
    processes._meet("fit")  # both are here
    store.set("allegory/1/2", "an evaluation")
    with pytest.raises(ValueError, match="an evaluation in process 1; let all call the same"):
        processes._meet("fit")


def test_each_process_may_work_alone(monkeypatch):
    monkeypatch.setattr(processes, "_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert (processes.world_size(), processes.rank()) == (1, 0)
    with al.together():
        assert (processes.world_size(), processes.rank()) == (2, 1)
        with al.together(False), al.together():
            assert (processes.world_size(), processes.rank()) == (1, 0)
        assert processes.world_size() == 2
    model, x = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[7]), torch.ones(4, 6)
    with al.together(False):
        assert al.fit(model.double(), x, epochs=1).epoch == 1


def test_a_share_of_one_has_no_statistics(monkeypatch):
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
    decoder = al.Conditional(torch.nn.Linear(2, 6), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(2), al.Conditional(net, al.families.normal), decoder)
    x = torch.ones(64, 6)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"batches of 31 leave one of 2 processes a single .* such as 32$"):
        _check_last_batch(model, x, None, 31)
    _check_last_batch(model, x, None, 32)


@pytest.mark.slow
def test_two_processes_that_share_a_model_give_what_one_gives(alone, sharded):
    assert len(flat(alone["fit"])) > 50
    assert flat(sharded["fit"]) == pytest.approx(flat(alone["fit"]), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_every_example_is_drawn_once_an_epoch(alone, together):
    (alone,), (first, second) = alone["seen"], together["seen"]
    for epoch in range(2):
        one, two = (part[20 * epoch : 20 * epoch + 20] for part in (first, second))
        assert sorted(one + two) == list(range(40))
        batches = [sorted(alone[40 * epoch + i : 40 * epoch + i + 8]) for i in range(0, 40, 8)]
        assert [sorted(one[i : i + 4] + two[i : i + 4]) for i in range(0, 20, 4)] == batches


@pytest.mark.slow
@pytest.mark.parametrize("how", ["together", "sharded"])
def test_a_run_goes_on_in_as_many_processes_bit_by_bit_and_in_another_number(how, request, tmp_path):
    first = request.getfixturevalue(how)
    whole, parts = first["whole"], first["parts"]
    assert len(parts) == 3
    assert (Path(first["out"]) / "parts" / "metrics.jsonl").exists()
    for copy_of in ("parts", "alone"):
        shutil.copytree(Path(first["out"]) / "parts", tmp_path / copy_of)
    shard = ["cpu"] if how == "sharded" else []
    assert run(TOGETHER, ["parts", "resumed", str(tmp_path / "parts"), 6, *shard])["parts"] == whole
    alone = run(ALONE, ["alone", "resumed", str(tmp_path / "alone"), 6])["alone"]
    assert alone[:3] == parts
    assert [line["step"] for line in alone] == [line["step"] for line in whole]
    assert alone[-1]["bound"] == pytest.approx(whole[-1]["bound"], abs=0.5)  # other noise
    assert alone != whole


@pytest.mark.slow
def test_a_model_that_is_sharded_trains_as_one_that_is_not(together, sharded):
    *cut, held = sharded["ladder"]
    *whole, everything = together["ladder"]
    assert flat(cut) == pytest.approx(flat(whole), rel=1e-9, abs=1e-9)
    assert everything[0] == everything[1]
    assert max(held) < 0.6 * everything[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shard="mps"), "shard='mps': wanted 'cpu' or 'cuda'"),
        (dict(out=None), "shard: wanted out"),
        (dict(compile=True), "shard: a sharded model is not compiled"),
        (dict(objective=al.dreg), "shard: dreg holds the posterior's weights"),
        ({}, "shard: there is one process"),
    ],
)
def test_what_does_not_go_with_sharding_is_said(settings, message, tmp_path):
    model = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8])
    with pytest.raises(ValueError, match=message):
        al.fit(model, torch.ones(4, 6), epochs=1, **dict(shard="cpu", out=tmp_path / "run") | settings)


@pytest.mark.slow
def test_a_model_that_cannot_be_cut_or_is_sharded_is_said(sharded):
    shared, again, evaluated = sharded["unfitting"]
    assert shared.startswith("shard: two networks share a parameter")
    assert again == evaluated == "this model is sharded over processes; load the whole model from its run, al.load(out)"


def test_moments_are_restored_to_where_the_parameter_is():
    model = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[7])
    learned = list(model.parameters())
    there = [torch.nn.Parameter(p.to("meta")) for p in learned]  # stands for a GPU
    average = copy.deepcopy(model)
    state = State(model, average, 1e-3, 0.0)
    state.learned, state.optimizer = there, torch.optim.AdamW(there, fused=False)
    tensors, position = state.capture()
    tensors |= {f"optimizer/{i}/exp_avg": torch.ones(p.shape) for i, p in enumerate(learned)}
    state.restore((tensors, position))
    assert {moments["exp_avg"].device.type for moments in state.optimizer.state.values()} == {"meta"}


@pytest.mark.slow
def test_a_sharded_training_by_the_command(tmp_path):
    train = ["-m", "allegory", "train", "digits", "--out", str(tmp_path / "run"), "--epochs", "1", "--hidden", "8"]
    train += ["--precision", "float32"]
    done = subprocess.run([*TOGETHER, *train, "--shard"], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 epochs" in done.stdout
    assert "Warning" not in done.stderr
    assert (tmp_path / "run" / "samples.png").exists()
    assert al.load(tmp_path / "run").sample(2).shape == (2, 1, 8, 8)


@pytest.mark.slow
def test_a_mistake_that_one_process_sees_ends_all_of_them(together):
    assert "exists and is not empty" in together["unfit"]


@pytest.mark.slow
def test_the_rows_that_are_not_finite_are_named_whoever_has_them(alone, together):
    assert "FloatingPointError" in together["lost"]
    assert together["lost"] == alone["lost"]


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_and_leaves_a_good_checkpoint(tmp_path):
    out = tmp_path / "run"
    train = ["-m", "allegory", "train", "digits", "--out", str(out), "--epochs", "100000", "--hidden", "8"]
    train += ["--no-compile", "--precision", "float32"]
    job = subprocess.Popen(
        [*TOGETHER, *train, "--checkpoint-seconds", "0.5"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=ENVIRONMENT,
    )  # fmt: skip
    try:
        waited = time.monotonic()
        while not (out / "last.safetensors").exists() and time.monotonic() - waited < 300:
            time.sleep(0.2)
        workers = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGKILL)
        _, said = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode != 0
    assert "another process of this training has died (Connection" in said or "died (Read error" in said
    assert f"{out} keeps the last checkpoint: run the same command with --resume" in said
    assert al.load(out).sample(3).dtype == torch.float64
    epochs = len((out / "metrics.jsonl").read_text().splitlines())
    done = subprocess.run(
        [sys.executable, *train, "--resume", "--epochs", str(epochs + 2)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == epochs + 2


@pytest.mark.slow
def test_held_objectives_and_random_states_of_two_processes(together):
    weights, randoms = together["various"]
    assert weights[0] == weights[1]
    assert randoms[0] != randoms[1]


@pytest.mark.slow
def test_a_mistake_of_the_second_process_is_said(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("0", "1"):  # the same examples, but for one that the second process finds broken
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 2, (90, 5)))
    (tmp_path / "1.npy").write_bytes(b"nothing")
    script = tmp_path / "rank.sh"
    script.write_text(f"exec {sys.executable} -m allegory train {tmp_path}/$RANK.npy --out {tmp_path}/run --epochs 1")
    done = subprocess.run(
        [*TOGETHER, "--no-python", "bash", str(script)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode != 0
    assert f"allegory, process 1: {tmp_path}/1.npy: cannot be read" in done.stderr


def test_other_commands_want_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sample", "run", "--out", "x.png"]) == 2
    assert capsys.readouterr().err == "allegory: sample works in one process; torchrun is for train and evaluate\n"


def test_the_weights_of_levels_are_tried_where_the_model_is():
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[7]).to("meta")  # stands for a GPU
    objective = functools.partial(al.free_bits, nats=1.0)
    with no_validation():
        _check_objective(model, objective, False, torch.ones(4, 6), None, 1, torch.ones(2))
