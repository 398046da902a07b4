"""Never a wrong byte: what is damaged, foreign or newer is an error of one line, and so is what cannot be coded."""

import builtins
import io
import struct

import pytest
import torch
from torch import nn

import allegory as al
from allegory.compression import container, write_file


@pytest.fixture
def model():
    return al.architectures.mlp((12,), "bernoulli", latent=[3], hidden=[8])


@pytest.fixture
def x():
    return (torch.rand(90, 12) < 0.5).double()


@pytest.fixture
def code(model, x):
    return al.compress(model, x, chunk=30)


def refused(model, code, words, **arguments):
    with pytest.raises(ValueError, match=words) as error:
        al.decompress(model, code, **arguments)
    assert "\n" not in str(error.value)


def test_another_model(model, x, code):
    refused(al.architectures.mlp((12,), "bernoulli", latent=[3], hidden=[8]), code, "made with another model")
    with torch.no_grad():
        next(model.decoders[0].parameters())[0] += 1e-6
    refused(model, code, "made with another model, or with other weights")


def test_every_byte_matters(model, x, code):
    wrong = 0
    for place in range(0, len(code), 23):
        damaged = bytearray(code)
        damaged[place] ^= 1 << place % 8
        refused(model, bytes(damaged), "damaged|this file has format|this is no file of allegory|truncated")
        wrong += 1
    assert wrong > 20


def test_a_damaged_chunk_is_named_and_costs_itself_alone(model, x, code):
    reader = container.Reader(io.BytesIO(code))
    damaged = bytearray(code)
    damaged[reader.places[2] - 8] ^= 16
    refused(model, bytes(damaged), "chunk 1 of 3 is damaged, 30 examples from 30 on")
    for rows in (slice(0, 30), slice(60, 90)):
        assert torch.equal(al.decompress(model, bytes(damaged), rows=rows), x[rows])


@pytest.mark.parametrize("length", [0, 5, 14, 60, -1, -13, -200])
def test_a_truncated_file(model, code, length):
    refused(model, code[:length], "this is no file of allegory|truncated")


def test_something_after_the_end(model, code):
    refused(model, code + b"\0", "truncated, damaged, or something was added")


def test_a_newer_format(model, code):
    newer = code[:8] + struct.pack("<H", container.FORMAT + 1) + code[10:]
    now = container.FORMAT
    refused(model, newer, f"has format {now + 1}, and this version of allegory reads format {now}: .*, or a newer one")
    older = code[:8] + struct.pack("<H", now - 1) + code[10:]
    refused(model, older, f"has format {now - 1}, .* wanted the version that wrote it$")


def test_what_is_no_code(model):
    refused(model, "x.alg", "got str, wanted the bytes that al.compress returned")


def test_parameters_that_differ_are_an_error(model, x, code, monkeypatch):
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: forward(self, x) * (1 + 1e-3))
    refused(model, code, "this machine computes other probabilities than the one that wrote it")


def test_a_difference_in_a_last_digit_is_none(model, x, code, monkeypatch):
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: forward(self, x) * (1 + 4e-16))
    assert torch.equal(al.decompress(model, code), x)


def test_rows_that_do_not_follow_on_each_other(model, code):
    refused(model, code, "wanted rows that follow on each other", rows=slice(0, 9, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 0.5, "outside the support of Bernoulli"),
        (lambda x: x[:0], "at least one example"),
        (lambda x: x.long(), "wanted floating point numbers"),
        (lambda x: x[:, :5], r"p\(x \| z_1\) is over"),
        (lambda x: x.numpy(), "got ndarray, wanted a tensor"),
    ],
)
def test_examples_that_the_model_cannot_score(model, x, change, words):
    with pytest.raises(ValueError, match=words):
        al.compress(model, change(x))


@pytest.mark.parametrize("name", ["chunk", "jobs"])
def test_counts(model, x, name):
    with pytest.raises(ValueError, match=f"{name}=0: wanted at least 1"):
        al.compress(model, x, **{name: 0})


def test_densities_want_a_resolution():
    model = al.architectures.mlp((4,), "normal", latent=[2], hidden=[4])
    x = torch.randn(50, 4)
    with pytest.raises(ValueError, match=r"numbers without a resolution have no code length: wanted resolution="):
        al.compress(model, x)
    with pytest.raises(ValueError, match=r"is no multiple of the resolution 0.01"):
        al.compress(model, x, resolution=0.01)
    with pytest.raises(ValueError, match="resolution=-1"):
        al.compress(model, x, resolution=-1)
    x = x.round(decimals=3)
    assert torch.equal(al.decompress(model, al.compress(model, x, resolution=0.001)), x)


def test_laws_that_cannot_be_coded(x):
    pytest.importorskip("zuko")
    model = al.architectures.mlp((12,), "bernoulli", latent=[3], hidden=[8], prior="flow")
    with pytest.raises(ValueError, match="NormalizingFlow: compression needs elements that are independent"):
        al.compress(model, x)


class Noisy(nn.Module):
    def forward(self, phi):
        return phi + torch.rand_like(phi)


def test_a_network_that_draws_at_random(x):
    decoder = al.Conditional(nn.Sequential(nn.Linear(3, 12), Noisy()), al.families.bernoulli)
    encoder = al.Conditional(nn.Linear(12, 6), al.families.normal)
    model = al.VAE(al.StandardNormal(3), encoder, decoder)
    with pytest.raises(ValueError, match="90 examples from 0 on were coded and not decoded to the same"):
        al.compress(model, x)


def test_the_package_that_is_missing(model, x, monkeypatch):
    imported = builtins.__import__

    def without(name, *arguments, **more):
        if name == "constriction":
            raise ImportError
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'allegory\[compress\]'"):
        al.compress(model, x)


def test_a_file_that_could_not_be_written_leaves_the_old_one(model, x, tmp_path, monkeypatch):
    path = tmp_path / "x.alg"
    path.write_bytes(b"old")
    monkeypatch.setattr(container.Writer, "close", lambda self: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_file(path, model, x)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
