"""A step in one graph is the step in parts, and what it cannot do it leaves to that."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.runtime.compilation import has_compiler
from allegory.runtime.modes import no_validation
from allegory.training import fused
from allegory.training.batches import Batch
from allegory.training.fused import FusedStep
from allegory.training.state import State

compiling = pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")


def network(dropout=0.0):
    torch.manual_seed(0)
    return al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[8], dropout=dropout).double()


def bits():
    return (torch.rand(64, 6, generator=torch.Generator().manual_seed(0)) < 0.3).double()


def a_batch():
    return Batch(torch.arange(4), bits(), torch.arange(4))


def fused_of(model, score=lambda model, x, beta: al.elbo(model(x), beta)):
    return FusedStep(
        State(model, copy.deepcopy(model).requires_grad_(False), 1e-3, 0.0), score, batch=4, clip=2, skip=9
    )


@compiling
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_fused_step_is_the_step_in_parts(monkeypatch):
    """A hundred of them, with gradients scaled down and left out, weight decay, both warm-ups and the average."""
    done = []
    step = FusedStep.__call__
    monkeypatch.setattr(FusedStep, "__call__", lambda self, *rest: done.append(step(self, *rest)) or done[-1])
    settings = dict(epochs=25, batch_size=16, lr=1e-2, weight_decay=0.1, clip=1.0, skip=1.2, kl_warmup=9, lr_warmup=5)
    found = {}
    for compile in (False, True):
        model = network()
        model.encoders[0].network[1][0].bias.requires_grad_(False)
        record = al.fit(model, bits(), valid=bits()[:9], compile=compile, ema=0.9, **settings)
        found[compile] = record.history, model.state_dict()
    assert done == [False] * 100 + [True] * 100
    (lines, weights), (other_lines, other_weights) = found.values()
    assert sum(line["skipped"] for line in lines) > 3 < sum(line["clipped"] for line in lines)
    for line, other in zip(lines, other_lines, strict=True):
        assert line.pop("kl_per_level") == pytest.approx(other.pop("kl_per_level"), rel=1e-6)
        assert line == pytest.approx(other, rel=1e-6)
    for name, weight in weights.items():
        assert_close(other_weights[name], weight, rtol=0, atol=1e-6)


@compiling
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_compiled_training_resumes_as_if_nothing_had_happened(tmp_path):
    models = [network(dropout=0.1) for _ in range(2)]
    settings = dict(batch_size=16, lr=1e-2, compile=True, lr_final=1.0)
    record = al.fit(models[0], bits(), epochs=4, **settings)
    al.fit(models[1], bits(), epochs=2, out=tmp_path / "run", **settings)
    again = al.fit(models[1], bits(), epochs=4, out=tmp_path / "run", resume=True, **settings)
    assert again.history == record.history
    for found, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


def test_what_has_no_gradient_is_left_alone():
    model = network()
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model.encoders[0].network[1][0].bias.requires_grad_(False)
    whole = fused_of(model)
    state = torch.get_rng_state()
    whole._prepare(bits()[:4], 1.0)
    assert whole.usable
    names = {id(p): name for name, p in model.named_parameters()}
    wanted = {name for name, _ in network().named_parameters()} - {"encoders.0.network.1.0.bias"}
    assert {names[id(p)] for p in whole.learned} == wanted
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


@pytest.mark.parametrize("reason", ["buffers", "many", "compiler"])
def test_what_it_cannot_do_it_leaves_to_the_step_in_parts(reason, monkeypatch):
    model = network()
    if reason == "buffers":
        model.encoders[0].network[1].append(nn.BatchNorm1d(6).double())
    elif reason == "many":
        monkeypatch.setattr(fused, "MAX_PARAMETERS", 3)
    else:

        def broken(graph, inputs, options):
            raise RuntimeError("no compiler")

        monkeypatch.setattr("torch._inductor.compile", broken)
        monkeypatch.setattr(fused, "has_compiler", lambda device: True)
    whole = fused_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warned = pytest.warns(UserWarning, match="does not compile as a whole, and is taken in parts: no compiler")
    with no_validation(), warned if reason == "compiler" else nullcontext():
        assert not whole(a_batch(), 1e-3, 1.0, 0.9)
    assert not whole(a_batch(), 1e-3, 1.0, 0.9)
    for name, value in model.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)
    assert whole.state.totals.sum() == 0


@compiling
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_smaller_last_batch_is_taken_in_parts_uncompiled(monkeypatch):
    taken, compiled = [], []
    step = FusedStep.__call__
    monkeypatch.setattr(FusedStep, "__call__", lambda self, *rest: taken.append(step(self, *rest)) or taken[-1])
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: compiled.append(1) or graph)
    parts = "allegory.training.step.compile_or_warn"
    monkeypatch.setattr(parts, lambda function, device: lambda *arguments: pytest.fail("it was compiled"))
    al.fit(network(), bits(), epochs=2, batch_size=24, compile=True)
    assert taken == [True, True, False] * 2
    assert compiled == [1]


class Counting(nn.Linear):
    """A layer that does more than map tensors."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize("mine", ["module", "family", "hook", "gradient", "objective", "nothing"])
def test_code_of_ones_own_may_keep_a_state_and_is_never_frozen_in_a_graph(mine, monkeypatch):
    model, taken = network(), []
    if mine == "module":
        model.encoders[0].network[1][0] = Counting(6, 8).double()
    elif mine == "family":
        family = model.decoders[0].family
        del model.decoders[0].family
        model.decoders[0].family = lambda phi, event_dim: family(phi, event_dim)
    elif mine == "hook":
        model.register_forward_hook(lambda module, inputs, trace: None)
    elif mine == "gradient":
        next(model.parameters()).register_hook(lambda gradient: 0 * gradient)
    weights = iter(range(100))
    objective = (lambda trace, beta: al.elbo(trace, next(weights))) if mine == "objective" else al.elbo
    step = FusedStep.__call__
    monkeypatch.setattr(FusedStep, "__call__", lambda self, *rest: taken.append(step(self, *rest)) or taken[-1])
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    monkeypatch.setattr("allegory.training.step.compile_or_warn", lambda function, device: function)
    al.fit(model, bits(), objective=objective, epochs=1, batch_size=16, compile=True)
    assert taken == [mine == "nothing"] * 4
