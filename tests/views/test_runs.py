"""Runs side by side: their files say what they were, whatever state they are in."""

import json

import pytest
import torch
from test_command import fails

import allegory as al
from allegory.command import main
from allegory.views import runs


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def train(out, epochs=2, lr=1e-3, **settings):
    torch.manual_seed(0)
    x = torch.rand(60, 6).round()
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8])
    return al.fit(model, x, valid=x[:20], epochs=epochs, lr=lr, out=out, about={"data": {"source": "bits"}}, **settings)


def test_a_run_is_told_as_its_record_has_it():
    record = train("runs/a", epochs=3, seed=5)
    run = runs.summary("runs/a")
    assert (run.data, run.model, run.latent, run.objective, run.seed) == ("bits", "mlp bernoulli", [3, 2], "elbo", 5)
    assert (run.epochs, run.steps, run.stopped) == (record.epoch, record.step, "epochs")
    assert run.minutes == record.seconds / 60
    assert run.best_epoch == record.best_epoch
    assert run.bound == record.best_bound
    assert run.kl_per_level == record.history[record.best_epoch - 1]["kl_per_level"]


def test_without_validation_data_there_is_no_bound():
    al.fit(al.architectures.mlp((6,), latent=[2], hidden=[8]), torch.randn(20, 6), epochs=1, out="runs/a")
    run = runs.summary("runs/a")
    assert (run.bound, run.elbo, run.best_epoch, run.kl_per_level) == (None, None, None, [])
    assert (run.data, run.epochs) == ("", 1)


def test_a_run_before_its_first_checkpoint_is_told_so_far():
    train("runs/a")
    (runs.Path("runs/a") / "last.safetensors").unlink()
    run = runs.summary("runs/a")
    assert (run.epochs, run.minutes, run.stopped, run.bound) == (0, 0.0, "", None)


def test_the_command_lists_the_best_first_and_leaves_out_what_is_damaged(capsys):
    train("runs/short", epochs=1, lr=1e-5)
    train("runs/deep/long", epochs=20, lr=1e-2)
    train("runs/broken")
    (runs.Path("runs/short") / "last.safetensors").rename("kept")
    assert main(["runs", "runs"]) == 0
    out = capsys.readouterr().out
    assert out.index("deep") < out.index("0..")  # what has no bound yet comes last
    runs.Path("kept").rename("runs/short/last.safetensors")
    (runs.Path("runs/broken") / "last.safetensors").write_bytes(b"no")
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out.index("deep/long") < out.index("short")
    assert "broken" not in out
    assert err.startswith("allegory: left out: runs/broken/last.safetensors")
    assert main(["runs", "runs", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["bound"] > second["bound"]
    assert [run["path"] for run in (first, second)] == ["runs/deep/long", "runs/short"]
    assert runs.find("runs/short") == [runs.Path("runs/short")]


@pytest.mark.parametrize("data", ["mnist", {"source": 3}, {}, None], ids=str)
def test_a_run_of_a_users_own_is_listed_under_its_name(data, capsys):
    model = al.architectures.mlp((6,), latent=[2], hidden=[8])
    al.fit(model, torch.randn(20, 6), epochs=1, out="runs/[red]", about={"data": data})
    assert main(["runs"]) == 0
    assert "[red]" in capsys.readouterr().out


def test_a_folder_without_runs_is_an_error(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no run in it" in fails(capsys, "runs", "empty")
    assert "there is no such folder" in fails(capsys, "runs")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert main(["runs", "empty"]) == 0
    assert "left out" in capsys.readouterr().err
