"""A resumed training is of the same data, networks and transform, and its checkpoint fits tensor by tensor."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import allegory as al
from allegory.data.stored import Mapped, Stored
from allegory.training import identity
from allegory.training.identity import describe_inputs
from allegory.training.state import State
from allegory.training.tensors import write_tensors

X, Y = ((torch.rand(60, 12, generator=torch.Generator().manual_seed(0)) < p).double() for p in (0.5, 0.05))


def build(activation=nn.ReLU):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 16), activation(), nn.Linear(16, 4))
    decoder = al.Conditional(nn.Linear(2, 12), al.families.bernoulli)
    return al.VAE(al.StandardNormal(2), al.Conditional(net, al.families.normal), decoder)


def train(run, **changed):
    settings = dict(model=build(), data=X, valid=X[:10], epochs=2, batch_size=20, out=run)
    return al.fit(**{**settings, **changed})


def flip(rows):
    return 1 - rows


OTHERS = {
    "training data of shape": dict(data=Y),
    r"training data of shape \(60, 12\), .*, not of shape \(30, 12\)": dict(data=X[:30]),
    "validation data of shape": dict(valid=Y[:10]),
    "not of no examples": dict(valid=None),
    "other networks": dict(model=lambda: build(nn.Tanh)),
    "transform = None, not flip": dict(transform=flip),
}


def made(value):
    """Models are made where the type of their numbers is known."""
    return value() if callable(value) and value is not flip else value


@pytest.mark.parametrize("message", OTHERS)
def test_a_resume_with_anything_else_is_refused(message, tmp_path):
    train(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path / "run", epochs=4, resume=True, **{key: made(value) for key, value in OTHERS[message].items()})
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert train(tmp_path / "run", epochs=4, resume=True).epoch == 4


def test_what_an_older_run_does_not_record_is_not_compared(tmp_path):
    train(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["inputs"]
    path.write_text(json.dumps(config))
    assert train(tmp_path / "run", epochs=3, resume=True).epoch == 3


def test_a_newer_torch_may_print_the_same_networks_otherwise(tmp_path):
    train(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text()) | {"torch": "2.11.0"}
    config["inputs"]["networks"] = "of another version"
    path.write_text(json.dumps(config))
    assert train(tmp_path / "run", epochs=3, resume=True).epoch == 3


def test_what_fit_writes_itself_is_not_taken_from_about(tmp_path):
    with pytest.raises(ValueError, match="about has inputs, which fit writes itself"):
        train(tmp_path / "run", about={"inputs": 3})
    assert not (tmp_path / "run").exists()


def test_data_on_disk_are_told_by_their_rows_and_ends(tmp_path):
    x, found = np.random.default_rng(0).random((300, 3), np.float32), []
    for name, values in (("a", x), ("same", x), ("other", np.r_[x[:299], 2 * x[299:]])):
        np.save(tmp_path / f"{name}.npy", values)
        stored = Stored(Mapped(np.load(tmp_path / f"{name}.npy", mmap_mode="r")))
        found.append(describe_inputs(build(), stored, stored.subset(torch.arange(299)), None))
    assert found[0]["data"] == found[1]["data"] != found[2]["data"]
    assert found[0]["data"] != found[0]["valid"] == found[1]["valid"]


def spoil(run, change):
    """Changes the tensors of the last checkpoint."""
    with safe_open(run / "last.safetensors", "pt") as file:
        tensors, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    write_tensors(run / "last.safetensors", change(tensors), json.loads(about["allegory"])["state"])


def without(part):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(part)}


def replaced(part, make):
    return lambda tensors: {key: make(value) if key.startswith(part) else value for key, value in tensors.items()}


SPOILT = {
    "optimizer/0/exp_avg is torch.float64 of shape ()": replaced("optimizer/0/exp_avg", lambda x: torch.ones(())),
    "optimizer/0/exp_avg is torch.float32 of shape": replaced("optimizer/0/exp_avg", lambda x: x.float()),
    "optimizer/0/step is torch.float32 of shape (3,)": replaced("optimizer/0/step", lambda x: torch.ones(3).float()),
    "lacks 18 tensors, such as optimizer/0/exp_avg": without("optimizer/"),
    "lacks 1 tensors, such as optimizer/1/exp_avg": without("optimizer/1/exp_avg_"),
    "lacks 6 tensors, such as best/": without("best/"),
    "has no place for 1 tensors, such as optimizer/9/step": lambda t: t | {"optimizer/9/step": torch.ones(())},
    "model/decoders.0.network.bias is torch.float32": replaced("model/decoders", lambda x: x.float()),
    "totals is torch.float64 of shape (2,)": replaced("totals", lambda x: x[:2].clone()),
    "random is torch.uint8 of shape (1, 8)": replaced("random", lambda x: x[:, :8].clone()),
    "lacks 1 tensors, such as random": without("random"),
    "model/decoders.0.network.bias has values that are not finite": replaced(
        "model/decoders.0.network.bias", lambda x: x / 0
    ),
    "optimizer/0/exp_avg has values that are not finite": replaced("optimizer/0/exp_avg", lambda x: x * torch.nan),
}


@pytest.mark.parametrize("message", SPOILT)
def test_every_tensor_of_a_checkpoint_is_looked_at_before_one_is_used(message, tmp_path):
    train(tmp_path / "run")
    spoil(tmp_path / "run", SPOILT[message])
    with pytest.raises(ValueError, match=r"last\.safetensors does not fit this model") as error:
        train(tmp_path / "run", epochs=4, resume=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_parameters_without_a_gradient_have_moments_too(tmp_path):
    model = build()
    model.decoders[0].spare = nn.Parameter(torch.ones(3))
    train(tmp_path / "run", model=model)
    again = build()
    again.decoders[0].spare = nn.Parameter(torch.ones(3))
    assert train(tmp_path / "run", model=again, epochs=4, resume=True).epoch == 4
    assert torch.equal(again.decoders[0].spare, torch.ones(3))


def test_a_run_without_its_last_checkpoint_is_not_begun_anew(tmp_path):
    run = tmp_path / "run"
    train(run)
    (run / "last.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=r"has weights and 2 epochs of metrics, but no last\.safetensors to resume"):
        train(run, epochs=9, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "last.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no last\.safetensors"):
        train(run, epochs=9, resume=True)


def test_the_first_checkpoint_is_there_before_its_weights(tmp_path, monkeypatch):
    """So that a kill between the two leaves what can be resumed."""
    written = []
    monkeypatch.setattr(
        "allegory.training.state.write_tensors",
        lambda path, *a: written.append(path.name) or write_tensors(path, *a),
    )
    train(tmp_path / "run")
    assert written[:2] == ["last.safetensors", "weights.safetensors"]


class OnCuda(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = True


def test_a_run_of_the_cpu_goes_on_on_a_gpu_and_back(tmp_path, monkeypatch):
    run, restored = tmp_path / "run", []
    train(run)
    state = State(build(), build(), 1e-3, 0.0)
    state.totals = state.totals.as_subclass(OnCuda)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.arange(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: restored.append(value))
    state.load(run, seed=0)
    assert torch.equal(restored[0], torch.arange(16, dtype=torch.uint8))
    assert state.position.step == 6
    spoil(run, lambda tensors: tensors | {"random_cuda": torch.zeros(1, 16, dtype=torch.uint8)})
    assert train(run, epochs=4, resume=True).epoch == 4


class Own(nn.Module):
    """What torch prints of it does not say which function it applies."""

    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(12, 4)

    def forward(self, x):
        return self.function(self.linear(x))


def own(function):
    torch.manual_seed(1)
    decoder = al.Conditional(nn.Linear(2, 12), al.families.bernoulli)
    return al.VAE(al.StandardNormal(2), al.Conditional(Own(function), al.families.normal), decoder)


SAME_NAMES = {
    "networks or a transform that computed": (
        dict(model=lambda: own(torch.tanh)), dict(model=lambda: own(torch.relu))
    ),
    "or a transform that computed": (dict(transform=lambda x: x), dict(transform=lambda x: 1 - x)),
    "lr of another schedule": (dict(lr=lambda step, done: 1e-3), dict(lr=lambda step, done: 1e-3 / (1 + step))),
    "beta of another schedule": (dict(beta=lambda step, done: 1.0), dict(beta=lambda step, done: done)),
    "objective of the same name, but of other code": (
        dict(objective=lambda trace, beta: al.elbo(trace, beta)), dict(objective=lambda trace, beta: al.iwae(trace))
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", SAME_NAMES)
def test_what_has_the_same_name_and_does_something_else_is_refused(message, tmp_path):
    first, second = ({k: v() if k == "model" else v for k, v in part.items()} for part in SAME_NAMES[message])
    train(tmp_path / "run", **first)
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", epochs=4, resume=True, **second)
    again = {k: v() if k == "model" else v for k, v in SAME_NAMES[message][0].items()}
    assert train(tmp_path / "run", epochs=4, resume=True, **again).epoch == 4


def test_a_trained_model_and_an_objective_that_counts_its_calls_go_on(tmp_path):
    calls = 0

    def objective(trace, beta):
        nonlocal calls
        calls += 1
        return al.elbo(trace, beta * min(1.0, calls / 100))

    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    decoder = al.Conditional(nn.Linear(2, 12), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(2), al.Conditional(net, al.families.normal), decoder)
    for epochs in (2, 3, 4):
        assert train(tmp_path / "run", model=model, objective=objective, epochs=epochs, resume=True).epoch == epochs


def test_an_objective_is_the_same_in_another_process_and_with_other_words():
    def objective(trace, beta):
        """Its words."""
        return trace if beta in {0.0, 8.0} else None

    def with_constants(change):
        other = type(objective)(
            objective.__code__.replace(co_consts=tuple(map(change, objective.__code__.co_consts))), {}
        )
        other.__doc__ = other.__code__.co_consts[0]
        return other

    orders = frozenset([0.0, 8.0]), frozenset([8.0, 0.0])
    assert repr(orders[0]) != repr(orders[1])  # as that of a set of words from one process to the next
    codes = [identity._code(with_constants(lambda c, o=o: o if isinstance(c, frozenset) else c)) for o in orders]
    assert codes[0] == codes[1] == identity._code(objective)
    assert identity._code(with_constants(lambda c: "Others." if c == "Its words." else c)) == codes[0]
    others = frozenset([1.0, 8.0])
    assert identity._code(with_constants(lambda c: others if isinstance(c, frozenset) else c)) != codes[0]
