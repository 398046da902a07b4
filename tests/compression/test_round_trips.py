"""What comes back is what was given, to the bit: every family, order, number of levels and batch; any threads, strides
and batches; parts of a file; gaps; contexts.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allegory as al
from allegory.compression import coding, read_file, write_file
from allegory.compression.stack import Stack
from allegory.data.stored import Mapped, Stored

F = al.families
COUNTS = lambda n: torch.poisson(20 * torch.rand(n, 5))  # noqa: E731
FAMILIES = {
    "bernoulli": ("bernoulli", lambda n: (torch.rand(n, 5) < 0.3).double()),
    "categorical": (F.categorical(5, lowest=-1), lambda n: torch.randint(-1, 4, (n, 5)).double()),
    "ordinal": (F.ordinal(4), lambda n: torch.randint(0, 4, (n, 5)).double()),
    "tree": (F.tree([-1, 0, 0, 1, 1]), lambda n: (torch.rand(n, 5) < 0.3).double()),
    "8 bits": ("discretized_logistic", lambda n: torch.randint(0, 256, (n, 5)).double()),
    "mixture": (F.discretized_logistic_mixture(3, 40), lambda n: torch.randint(0, 40, (n, 5)).double()),
    "poisson": ("poisson", COUNTS),
    "negative_binomial": ("negative_binomial", COUNTS),
    "many zeros": (F.zero_inflated_negative_binomial, lambda n: COUNTS(n) * (torch.rand(n, 5) < 0.5)),
    "normal": ("normal", lambda n: torch.randn(n, 5).round(decimals=2)),
    "student_t": ("student_t", lambda n: torch.randn(n, 5).round(decimals=1)),
    "log_normal": (F.log_normal, lambda n: torch.randn(n, 5).exp().round(decimals=2) + 0.01),
    "beta": (F.beta, lambda n: torch.randint(1, 100, (n, 5)) / 100),
    "continuous_bernoulli": ("continuous_bernoulli", lambda n: torch.randint(0, 256, (n, 5)) / 255),
    "interval": (F.interval(0.1, low=0.0, high=2.0), lambda n: torch.randint(0, 21, (n, 5)) / 10),
    "interval, log": (F.interval(0.05, low=0, log=True), lambda n: (20 * torch.randn(n, 5).exp()).round() / 20),
    "interval, student_t": (F.interval(1, law="student_t", components=2), lambda n: (9 * torch.randn(n, 5)).round()),
    "points": (F.with_points(F.interval(1, low=0), [0, 99]), lambda n: torch.randint(0, 100, (n, 5)).double()),
    "points beside a density": (F.with_points(F.normal, [0.0]), lambda n: torch.randn(n, 5).relu().round(decimals=2)),
}
SLOW = pytest.mark.slow


def same(x, y):
    return x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=SLOW)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, dtype):
    family, draw = FAMILIES[name]
    x = draw(40).to(dtype)
    model = al.architectures.mlp((5,), family, latent=[3], hidden=[6], data=x).to(dtype)
    assert same(al.decompress(model, al.compress(model, x, resolution=0.01 if name == "beta" else None)), x)


ANY = dict(
    family=st.sampled_from(["bernoulli", "8 bits", "categorical", "interval", "normal"]),
    latent=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    latents=st.sampled_from(["normal", "bernoulli", "one_hot"]),
    top_down=st.booleans(),
    markov=st.booleans(),
    rows=st.integers(1, 40),
    chunk=st.integers(1, 40),
    spread=st.floats(0.1, 4),
    seed=st.integers(0, 2**20),
)


@settings(max_examples=6, deadline=None)
@given(**ANY)
def test_any_model(**drawn):
    check_any_model(**drawn)


@SLOW
@settings(max_examples=120, deadline=None)
@given(**ANY)
def test_many_models(**drawn):
    check_any_model(**drawn)


def check_any_model(family, latent, latents, top_down, markov, rows, chunk, spread, seed):
    torch.manual_seed(seed)
    likelihood, draw = FAMILIES[family]
    x = draw(rows)
    model = al.architectures.mlp(
        (5,), likelihood, latent=latent, hidden=[6], top_down=top_down and len(latent) > 1, markov=markov,
        latent_family=latents, latent_categories=3,
    )  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.add_(spread * torch.randn_like(p) / p[0].numel() ** 0.5 if p.dim() else 0)
    code = al.compress(model, x, chunk=chunk, verify=False)
    assert same(al.decompress(model, code), x)


@pytest.mark.parametrize("prior", ["mixture", "vamp", "diffusion"])
def test_learned_priors(prior):
    x = (torch.rand(30, 5) < 0.3).double()
    model = al.architectures.mlp(
        (5,), "bernoulli", latent=[3], hidden=[6], prior=prior, components=4, data=x, prior_levels=3
    )
    assert same(al.decompress(model, al.compress(model, x)), x)


def test_pictures_of_several_levels():
    x = torch.randint(0, 256, (6, 1, 8, 8)).double()
    model = al.architectures.conv((1, 8, 8), "discretized_logistic", data=x)
    assert same(al.decompress(model, al.compress(model, x)), x)


@pytest.mark.parametrize("event", [(3, 8, 8), (3, 9, 20), (3, 1, 5)], ids=str)
def test_pictures_of_another_size(event):
    seen, x = torch.randint(0, 256, (20, 3, 8, 8)).double(), torch.randint(0, 256, (5, *event)).double()
    model = al.architectures.conv((3, 8, 8), "discretized_logistic", channels=8, blocks=1, any_size=True, data=seen)
    assert same(al.decompress(model, al.compress(model, x)), x)
    own = al.architectures.resize(model, event)
    assert same(al.decompress(own, al.compress(own, x)), x)


def test_what_is_given_is_not_in_the_file():
    x, c = (torch.rand(30, 5) < 0.5).double(), torch.randn(30, 2)
    model = al.architectures.mlp((5,), "bernoulli", latent=[3, 2], hidden=[6], given=(2,), given_data=c)
    code = al.compress(model, x, given=c, chunk=12)
    assert same(al.decompress(model, code, given=c), x)
    assert same(al.decompress(model, code, given=c, rows=slice(11, 26)), x[11:26])
    with pytest.raises(ValueError, match="given: not what was given when this file was made"):
        al.decompress(model, code, given=c.flip(0))


@pytest.mark.parametrize("said", ["nothing", "indicated", "missing_above", "self_masking"])
def test_gaps_are_data(said):
    x = (10 * torch.randn(40, 3)).round()
    x[x > 9] = torch.nan
    x[0, 0] = torch.nan
    numbers = F.interval(1)
    family = {"nothing": lambda f: f, "missing_above": lambda f: F.missing_above(f, 9.0)}.get(said) or getattr(F, said)
    model = al.architectures.mlp((3,), F.columns([family(numbers)] * 3), latent=[2], hidden=[6], data=x)
    assert same(al.decompress(model, al.compress(model, x)), x)


def test_other_threads_strides_and_batches(monkeypatch):
    x = (torch.rand(40, 40) < 0.5).double()
    model = al.architectures.mlp((40,), "bernoulli", latent=[6, 4], hidden=[32])
    code = al.compress(model, x)
    assert code == al.compress(model, x.T.contiguous().T)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert same(al.decompress(model, code), x)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(coding, "BATCH", 7)
    smaller = al.compress(model, x)
    assert smaller != code
    monkeypatch.undo()
    assert same(al.decompress(model, smaller), x)


def test_a_file_is_read_in_parts(tmp_path):
    x = (torch.rand(50, 5) < 0.5).double()
    model = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[6])
    write_file(tmp_path / "x.alg", model, x, chunk=20)
    assert [len(part) for part in read_file(tmp_path / "x.alg", model)] == [20, 20, 10]
    found = list(read_file(tmp_path / "x.alg", model, rows=slice(38, 41)))
    assert [len(part) for part in found] == [2, 1]
    assert same(torch.cat(found), x[38:41])


def test_digits_that_the_resolution_does_not_have_come_back():
    x = torch.tensor([[0.1 + 0.2, 0.5, -0.0], [0.7, 12.0, 1e-17], [0.1, 0.2, torch.nan]]).repeat(20, 1)
    x[1:] = x[1:].round(decimals=1)
    model = al.architectures.mlp((3,), F.columns([F.interval(0.1)] * 3), latent=[2], hidden=[4], data=x)
    assert same(al.decompress(model, al.compress(model, x)), x)


def test_a_model_in_training_mode_is_coded_as_in_eval_mode_and_left_alone():
    x = (torch.rand(20, 5) < 0.5).double()
    model = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[6], dropout=0.5).train()
    random = torch.get_rng_state()
    code = al.compress(model, x)
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert same(al.decompress(model.eval(), code), x)


def test_the_words_that_a_stack_began_with_are_left():
    stack, masses = Stack(50), np.array([[1.0, 5.0, 2.0]] * 60)
    symbols = stack.pop(lambda code, s: code(s, "categorical", masses))
    assert not stack.is_first()
    stack.push(lambda code, s: code(s, "categorical", masses), symbols)
    assert stack.is_first()


DIFFUSED = {
    "bernoulli": lambda n: (torch.rand(n, 4) < 0.3).double(),
    "categorical": lambda n: torch.randint(0, 4, (n, 4)).double(),
    "discretized": lambda n: torch.randint(0, 256, (n, 4)).double(),
    "normal": lambda n: torch.randn(n, 4).round(decimals=2),
}


@pytest.mark.parametrize("levels", [pytest.param(1, marks=SLOW), 4])
@pytest.mark.parametrize("likelihood", DIFFUSED)
def test_diffusions(likelihood, levels):
    x = DIFFUSED[likelihood](20)
    more = dict(categories=4) if likelihood == "categorical" else {}
    model = al.architectures.diffusion((4,), likelihood, levels=levels, width=8, blocks=1, data=x, **more)
    assert same(al.decompress(model, al.compress(model, x)), x)


@pytest.mark.parametrize("levels", [None, 3])
def test_masked_diffusions_draw_nothing(levels, tmp_path):
    x = torch.randint(0, 3, (30, 4)).double()
    model = al.architectures.masked_diffusion((4,), "categorical", levels=levels, width=8, blocks=1, categories=3)
    report = write_file(tmp_path / "x.alg", model, x)
    assert same(torch.cat(list(read_file(tmp_path / "x.alg", model))), x)
    assert report.net_bits * 30 == pytest.approx(report.negative_elbo * 30 / np.log(2), abs=64)


def test_a_chain_with_a_fixed_encoder_begins_with_one_level(tmp_path):
    x = (torch.rand(2, 30) < 0.5).double()
    bits = []
    for levels in (2, 12):
        model = al.architectures.diffusion((30,), "bernoulli", levels=levels, width=8, blocks=1, data=x)
        bits.append(write_file(tmp_path / "x.alg", model, x).initial_bits)
    assert bits[1] < 2 * bits[0]


def test_levels_that_are_infinitely_many():
    model = al.architectures.diffusion((4,), "bernoulli", levels=None, width=8, blocks=1)
    with pytest.raises(ValueError, match="infinitely many levels"):
        al.compress(model, torch.zeros(3, 4))


@SLOW
def test_processes(tmp_path):
    x = (torch.rand(70, 5) < 0.5).double()
    model = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[6])
    code = al.compress(model, x, chunk=20, jobs=2)
    assert code == al.compress(model, x, chunk=20)
    assert same(al.decompress(model, code, jobs=2), x)


def test_examples_that_stay_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", (torch.rand(50, 5) < 0.5).byte().numpy())
    x = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    model = al.architectures.mlp((5,), "bernoulli", latent=[3], hidden=[6]).float()
    write_file(tmp_path / "x.alg", model, x, chunk=20)
    assert same(torch.cat(list(read_file(tmp_path / "x.alg", model))), x[:])
