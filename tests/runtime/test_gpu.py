"""On a real GPU: the numbers of the CPU, no waiting, runs that move between the two. Skipped where there is none."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import allegory as al
from allegory.command import main
from allegory.runtime.precision import bfloat16_speedup

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

MODELS = {
    "perceptrons": lambda: al.architectures.mlp((1, 8, 8), "bernoulli", latent=[3, 2], hidden=[8]),
    "normals": lambda: al.architectures.mlp((1, 8, 8), "normal", latent=[3], hidden=[8], prior="mixture", components=4),
    "ladder": lambda: al.architectures.conv((1, 8, 8), "bernoulli", [4, 4, 5], [2, 2, 8], channels=8, blocks=1),
}


@pytest.fixture
def gpu():
    return torch.device("cuda")


@pytest.fixture
def x():
    """Patterns that a model can learn: rows of the same few pictures, with some of the bits turned."""
    torch.manual_seed(0)
    pictures, noise = torch.rand(4, 1, 8, 8) < 0.5, torch.rand(64, 1, 8, 8) < 0.05
    return (pictures[torch.arange(64) % 4] ^ noise).float()


def test_the_gain_of_bfloat16_is_measured_on_what_keeps_a_gpu_busy(gpu):
    assert bfloat16_speedup(gpu) > 1.5  # the function itself: the fixture that replaces it came later


@pytest.mark.parametrize("name", MODELS)
def test_densities_are_those_of_the_cpu(gpu, x, name):
    model, x = MODELS[name]().double().eval(), x.double()
    exact = al.log_likelihood(model, x, samples=2000)
    found = al.log_likelihood(model.to(gpu), x.to(gpu), samples=2000).cpu()
    torch.testing.assert_close(found.mean(), exact.mean(), rtol=0, atol=0.2)  # another generator, other noise


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["perceptrons", "ladder"])
def test_training_learns_and_waits_for_nothing(gpu, x, name, precision, compile):
    model = MODELS[name]().float().to(gpu)
    before = al.evaluate(model, x.to(gpu), samples=20).elbo
    drawn = 0

    def watch(rows):
        nonlocal drawn
        if len(rows) == 8:  # a step's; the second epoch's, but for its ends
            torch.cuda.set_sync_debug_mode("error" if 8 < drawn < 15 else "default")
            drawn += 1
        return rows

    try:
        al.fit(
            model, x.to(gpu), epochs=12, batch_size=8, lr=0.01, transform=watch, precision=precision, compile=compile
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert al.evaluate(model, x.to(gpu), samples=20).elbo > before + 5


def test_a_run_moves_between_the_gpu_and_the_cpu(gpu, x, tmp_path):
    settings = dict(batch_size=16, lr=0.01, out=tmp_path / "run", resume=True)
    for epochs, device in enumerate((gpu, torch.device("cpu"), gpu), 1):
        torch.manual_seed(0)
        model = MODELS["perceptrons"]().float().to(device)
        record = al.fit(model, x.to(device), epochs=epochs, **settings)
        assert record.epoch == epochs


def test_a_resumed_run_is_the_run_that_was_not_interrupted(gpu, x, tmp_path):
    found = []
    for stops in ([4], [2, 4]):
        for epochs in stops:
            torch.manual_seed(0)
            model = MODELS["perceptrons"]().float().to(gpu)
            al.fit(
                model, x.to(gpu), epochs=epochs, lr=lambda step, done: 0.01, batch_size=16,
                out=tmp_path / str(len(stops)), resume=True,
            )  # fmt: skip
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


def test_the_command_uses_the_gpu(x, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.tile(x.numpy().astype(np.uint8), (4, 1, 1, 1)))
    assert main(["train", "x.npy", "--out", "run", "--epochs", "2", "--latent", "2", "--hidden", "8"]) == 0
    capsys.readouterr()
    numbers = []
    for device in ("auto", "cuda", "cpu"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        words = ["evaluate", "run", "--importance-samples", "200", "--device", device, "--json"]
        assert main(words) == 0
        numbers.append(json.loads(capsys.readouterr().out))
        assert (torch.cuda.max_memory_allocated() > before) == (device != "cpu")
    keys = [key for key, value in numbers[0].items() if isinstance(value, float) and key.startswith("nll")]
    for key in keys:
        assert numbers[1][key] == pytest.approx(numbers[2][key], abs=0.3)
    for words in (["sample", "run", "--out", "s.png"], ["diagnose", "run"], ["report", "run"]):
        assert main(words) == 0


def test_a_network_of_ones_own_on_the_gpu(gpu, x):
    decoder = al.Conditional(nn.Sequential(nn.Linear(3, 64), nn.Unflatten(-1, (1, 8, 8))), al.families.bernoulli, 3)
    encoder = al.Conditional(nn.Sequential(nn.Flatten(-3), nn.Linear(64, 6)), al.families.normal)
    model = al.VAE(al.StandardNormal(3), encoder, decoder).float().to(gpu)
    record = al.fit(model, x.to(gpu), epochs=20, batch_size=16, lr=0.02)
    assert record.history[-1]["train"] > record.history[0]["train"] + 3
