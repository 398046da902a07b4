"""What a GPU asks of the code, as far as a machine without one can tell: on torch's device "meta" a look at a number,
for which a GPU would wait, is an error, and so is what mixes it with another device.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import allegory as al
from allegory.data.stored import Mapped, Stored
from allegory.evaluation import passes
from allegory.training import arguments, recovery, step


class Generator(torch.Generator):
    """It is on the CPU, whatever is asked: "meta" has none."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)


@pytest.fixture
def meta(monkeypatch):
    """Lets through what does not know this device, and the checks at the edge, which look at the data."""
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **settings: adamw(*args, **settings))
    monkeypatch.setattr(arguments, "_check_data", lambda model, data, *rest: (data, rest[3]))
    for check in ("_check_objective", "warn_of_scale"):
        monkeypatch.setattr(arguments, check, lambda *args: None)
    monkeypatch.setattr(al.VAE, "check", lambda *args, **settings: None)
    for module in (step, recovery, passes):
        monkeypatch.setattr(module, "autocast", lambda device, precision: nullcontext())
    return torch.device("meta")


MODELS = {
    "perceptrons": lambda: al.architectures.mlp((1, 8, 8), "bernoulli", latent=[3, 2], hidden=[8]),
    "flow": lambda: al.architectures.mlp((1, 8, 8), "normal", latent=[3], hidden=[8], prior="flow"),
    "ladder": lambda: al.architectures.conv(
        (1, 8, 8), "categorical", [4, 4, 5], [2, 2, 8], categories=3, channels=8, blocks=1, prior="mixture",
        components=4,
    ),
}  # fmt: skip
OBJECTIVES = [al.elbo, al.iwae, al.dreg]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("stored", [False, True])
def test_a_step_of_training_waits_for_nothing(meta, name, objective, stored, tmp_path):
    seen = []
    x = torch.zeros(10, 1, 8, 8, dtype=torch.float32, device=meta)
    if stored:
        np.save(tmp_path / "x.npy", np.zeros((10, 1, 8, 8), np.uint8))
        x = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    model = MODELS[name]().float().to(meta)
    model._compared = True  # the posteriors of a held trace, in the first step alone
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors") as error:
        al.fit(
            model, x, objective=objective, samples=3, epochs=1, batch_size=4, kl_warmup=3,
            transform=lambda rows: seen.append(rows.device) or rows,
        )  # fmt: skip
    assert seen == [meta] * 3
    assert [entry.name for entry in error.traceback if entry.path.parent.name == "training"] == ["fit", "failed"]


@pytest.mark.parametrize("name", MODELS)
def test_scoring_waits_for_nothing(meta, name):
    model, x = MODELS[name]().float().to(meta), torch.zeros(10, 1, 8, 8, dtype=torch.float32, device=meta)
    assert al.log_likelihood(model, x, samples=50, pairs=100).device == meta
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors") as error:
        al.evaluate(model, x, samples=50, pairs=100)
    names = [entry.name for entry in error.traceback if entry.path.parent.name == "evaluation"]
    assert names[0] == "evaluate"
    assert not {"run_passes", "_pass_statistics", "noise"} & {*names}
