"""A graph gives the model's numbers, for other numbers of examples and of particles; or it is not written."""

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import allegory as al
from allegory.command import main
from allegory.draws import from_noise
from allegory.sharing import arithmetic, graph

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxscript", reason="the export extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")

A, F = al.architectures, al.families
COUNTS = torch.tensor([[0.0, 3.0, 250.0, 7.0], [1.0, 255.0, 2.0, 9.0], [128.0, 0.0, 64.0, 5.0]])


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [end.name for end in session.get_outputs()]
    feeds = {name: np.asarray(value) for name, value in inputs.items()}
    return dict(zip(names, map(torch.from_numpy, session.run(None, feeds)), strict=True))


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def test_log_gamma_and_its_like_have_all_digits():
    x = torch.logspace(-300, 300, 100_001)
    torch.testing.assert_close(arithmetic.lgamma(x), torch.lgamma(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(arithmetic.log1p(x), torch.log1p(x), rtol=1e-14, atol=0)
    for y in (x.clamp(max=700), -x):
        torch.testing.assert_close(arithmetic.expm1(y), torch.expm1(y), rtol=1e-14, atol=0)
        torch.testing.assert_close(arithmetic.log_sigmoid(y), nn.functional.logsigmoid(y), rtol=1e-14, atol=1e-300)
        softplus = torch.logaddexp(y, torch.zeros_like(y))
        torch.testing.assert_close(arithmetic.asinh(y), torch.asinh(y), rtol=1e-14, atol=1e-300)
        torch.testing.assert_close(arithmetic.softplus(y), softplus, rtol=1e-14, atol=1e-300)


def test_uniform_noise_makes_discrete_draws_of_their_probabilities():
    u = ((torch.arange(6000) + 0.5) / 6000)[:, None, None]
    bits = F.bernoulli(torch.tensor([[-1.0, 0.3]]))
    torch.testing.assert_close(
        from_noise(bits, u.expand(-1, 1, 2), 6000, 1, scored=True).mean(0), bits.mean, atol=1e-3, rtol=0
    )
    vectors = F.one_hot(3)(torch.tensor([[0.1, 1.0, -1.0, 0.0, 0.5, 2.0]]))
    drawn = from_noise(vectors, u.expand(-1, 1, 2), 6000, 1, scored=True)
    assert bool(vectors.support.check(drawn).all())
    torch.testing.assert_close(drawn.mean(0), vectors.mean, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="no reparameterised sample"):
        from_noise(bits, u.expand(-1, 1, 2), 6000, 1)


def test_bounds_can_be_computed_outside(tmp_path, monkeypatch):
    """The likelihood is one whose tails onnxruntime loses, log sigmoid(-100) = -inf, as torch's exporter writes it."""
    torch.manual_seed(0)
    model = A.mlp((4,), "discretized_logistic", latent=[2], hidden=[8], categories=256).float()
    found = al.export(model, tmp_path / "score.onnx", "score", about={"note": "ours"})
    assert found.difference < 1e-5
    assert found.inputs == {"x": ["batch", 4], "eps_1": ["samples", "batch", 2]}
    assert found.outputs["log_pz"] == [1, "samples", "batch"]

    passes = []
    forward = al.VAE.forward
    monkeypatch.setattr(
        al.VAE, "forward", lambda self, x, **k: passes.append((x, k.get("noise"))) or forward(self, x, **k)
    )
    x = COUNTS.float()
    bounds = al.log_likelihood(model, x, samples=20, seed=1)
    passes = [(rows, noise) for rows, noise in passes if noise is not None]
    outside = []
    for rows, (eps,) in passes:
        terms = run(found.path, x=rows, eps_1=eps)
        log_w = terms["log_px"] + (terms["log_pz"] - terms["log_qz"]).sum(0)
        outside.append(torch.logsumexp(log_w.double(), 0) - math.log(20))
    torch.testing.assert_close(torch.cat(outside).float(), bounds, rtol=1e-5, atol=1e-4)

    wrong = x.index_fill(1, torch.tensor([0]), 0.5)  # no level of grey
    terms = run(found.path, x=wrong, eps_1=passes[0][1][0].expand(-1, 3, -1))
    assert bool(terms["log_px"].isnan().all())
    assert not terms["log_pz"].isnan().any()

    said = metadata(found.path)
    assert (said["what"], said["note"], said["allegory"]) == ("score", "ours", al.__version__)
    assert json.loads(said["model"]) == model.config
    assert said["weights_blake2b"] == graph.weights_digest(al.load(al.save(model, tmp_path / "run")))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert said["weights_blake2b"] != graph.weights_digest(model)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x).view(len(x), 4)


REFUSED = {
    "freezes": (
        lambda: al.VAE(
            al.StandardNormal(2),
            al.Conditional(Frozen(), F.normal),
            al.Conditional(nn.Linear(2, 3), F.bernoulli),
        ),
        "encode",
        "fixes the number of examples",
    ),
    "mixture": (lambda: A.mlp((3,), "bernoulli", [2], [4], prior="mixture", components=3), "generate", "NormalMixture"),
    "masked": (lambda: A.masked_diffusion((3,), "bernoulli", levels=2), "score", "Unmasking"),
    "infinite": (lambda: A.diffusion((3,), "bernoulli", levels=None), "score", "infinitely many levels"),
    "deep": (lambda: A.diffusion((3,), "bernoulli", levels=100), "score", "with_levels"),
    "what": (lambda: A.mlp((3,), "bernoulli", [2], [4]), "sample", "wanted one of encode, decode"),
    "no model": (lambda: nn.Linear(3, 3), "encode", "wanted a VAE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_graph_is_refused_in_one_line(case, tmp_path):
    make, what, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        al.export(make().float(), tmp_path / "no.onnx", what)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_name_or_a_package_that_is_missing_is_told(tmp_path, monkeypatch):
    model = A.mlp((3,), "bernoulli", [2], [4])
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        al.export(model, tmp_path / "model.pt")
    found = importlib.util.find_spec
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(ValueError, match=r"install onnxscript: pip install 'allegory\[export\]'"):
        al.export(model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_graph_that_is_not_the_model_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "DECOMPOSITIONS", {})  # as torch writes log sigmoid
    model = A.mlp((4,), "discretized_logistic", latent=[2], hidden=[8], categories=256).float()
    with pytest.raises(ValueError, match="the graph's log_px is not the model's"):
        al.export(model, tmp_path / "score.onnx", "score")
    assert not list(tmp_path.iterdir())


def table():
    x = torch.stack([torch.randn(90), torch.randint(3, (90,)) * 1.0, torch.randn(90).mul(10).round() / 10], 1)
    x = x.masked_fill(torch.rand_like(x) < 0.2, math.nan)
    return A.mlp((3,), F.columns([F.normal, F.categorical(3), F.interval(0.1)]), [2], [4], data=x, gaps=True)


GRAPHS = {
    "ladder": (lambda: A.mlp((5,), "negative_binomial", [3, 2], [4], top_down=True, markov=False), "score"),
    "images": (lambda: A.conv((1, 7, 9), "bernoulli", latent=[2, 3], channels=8, blocks=1), "encode"),
    "given": (lambda: A.mlp((5,), "normal", [3, 2], [4], given=(2,), given_data=torch.rand(9, 2)), "generate"),
    "one hot": (lambda: A.mlp((5,), "poisson", [3], [4], latent_family="one_hot", latent_categories=3), "score"),
    "table": (table, "score"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_every_kind_of_model_has_a_graph(name, tmp_path):
    make, what = GRAPHS[name]
    found = al.export(make().float(), tmp_path / "model.onnx", what)
    assert found.difference < 1e-4
    assert all("batch" in shape for shape in (*found.inputs.values(), *found.outputs.values()))


@pytest.mark.slow
def test_bits_have_the_same_bound_outside(tmp_path):
    model = A.mlp((5,), "bernoulli", [3, 2], [4], latent_family="one_hot", latent_categories=3)
    path = al.export(model, tmp_path / "score.onnx", "score").path
    x, noise = (torch.rand(6, 5) < 0.5).double(), [torch.rand(8, 6, 3), torch.rand(8, 6, 2)]
    terms = run(path, x=x, u_1=noise[0], u_2=noise[1])
    with torch.no_grad():
        trace = model.eval()(x, 8, noise=noise)
    torch.testing.assert_close(terms["log_px"] + (terms["log_pz"] - terms["log_qz"]).sum(0), trace.log_weight)


@pytest.mark.slow
def test_the_command_writes_the_graph_of_a_run(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{i % 7},{'ab'[i % 2]}" for i in range(60))
    (tmp_path / "rows.csv").write_text(f"number,letter\n{rows}\n")
    assert main(["train", "rows.csv", "--out", "run", "--epochs", "1", "--hidden", "4", "--latent", "2"]) == 0
    for _ in range(2):  # its own result may be written over
        capsys.readouterr()
        assert main(["export", "run", "--out", "m.onnx"]) == 0
        told = capsys.readouterr().out
    assert "encode, 0." in told
    assert "x (batch, 2), eps_1 (samples, batch, 2) -> z_1" in told
    assert "x is a row as Schema.encode gives it" in told
    assert "onnxruntime gives the model's numbers" in told
    said = json.loads(metadata("m.onnx")["run"])
    assert "source" not in said["data"]
    schema = al.tabular.Schema.from_json(said["data"]["schema"])
    x = schema.encode({"number": [3, None], "letter": ["b", "a"]}).float()
    z = run("m.onnx", x=x, eps_1=torch.zeros(1, 2, 2))
    torch.testing.assert_close(z["z_1"][0], al.Run("run").encode(x)[0][0])
    (tmp_path / "theirs.onnx").write_bytes(b"theirs")
    assert main(["export", "run", "--out", "theirs.onnx"]) == 2
    assert main(["export", "run", "--out", "m.pt"]) == 2
    assert main(["export", "run", "--out", "m.onnx", "--what", "all"]) == 2
    assert "theirs.onnx exists, and was not written by allegory" in capsys.readouterr().err
