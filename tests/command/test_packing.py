"""A file that is compressed comes back, byte for byte or value for value; every mistake is one line and exit 2."""

import bz2
import json
import lzma
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_command import fails

import allegory as al
from allegory.command import main

pytest.importorskip("constriction", reason="the compress extra is not installed")

TRAIN = ["--epochs", "1", "--hidden", "4", "--latent", "2", "--precision", "float32", "--no-compile"]


@pytest.fixture(autouse=True)
def _as_a_user(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def rows(count=120):
    """A table with an id, gaps, text with a comma, a constant, and a label."""
    lines = ["id,age,town,height,unit,label"]
    for i in range(count):
        age = "" if i % 7 == 0 else 20 + i * 13 % 40
        town = ['"Rom, IT"', "Ulm", "Paris"][i % 3]
        lines.append(f"p{i},{age},{town},{150 + i * 17 % 50 + 0.5},mm,{'ab'[i % 2]}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    (folder / "rows.csv").write_text(rows())
    out = ["--out", str(folder / "run"), "--drop", "id", "--given", "label"]
    assert main(["train", str(folder / "rows.csv"), *out, *TRAIN]) == 0
    return folder / "run"


def test_a_table_comes_back_byte_for_byte(table_run, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text(rows())
    assert main(["compress", str(table_run), "rows.csv", "--out", "rows.alg", "--jobs", "1"]) == 0
    told = capsys.readouterr().out
    for said in (
        "120 examples of 3 numbers", "-ELBO", "which values are missing", "the file", "xz", "bz2", "initial bits",
        "beside the model, by xz: id, label,", "the same file comes back, byte for byte", "are not in the file",
    ):  # fmt: skip
        assert said in told, said
    assert main(["decompress", str(table_run), "rows.alg", "--out", "again.csv"]) == 0
    assert "again.csv: 120 examples" in capsys.readouterr().out
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize("form", ["windows", "no last end", "both"])
def test_the_ends_of_lines_come_back(form, table_run, tmp_path, capsys):
    text = rows() if form == "windows" else rows().removesuffix("\n")
    text = text if form == "no last end" else text.replace("\n", "\r\n")
    (tmp_path / "rows.csv").write_bytes(text.encode())
    assert main(["compress", str(table_run), "rows.csv", "--out", "rows.alg"]) == 0
    assert "the same file comes back, byte for byte" in capsys.readouterr().out
    assert main(["decompress", str(table_run), "rows.alg", "--out", "again.csv"]) == 0
    assert (tmp_path / "again.csv").read_bytes() == text.encode()


def test_what_is_written_another_way_comes_back_value_for_value(table_run, tmp_path, capsys):
    other = rows().replace("\n", "\r\n").replace(",mm,", ', "mm",').replace(",Ulm,", ', "Ulm",')
    (tmp_path / "rows.csv").write_bytes(other.encode())
    assert main(["compress", str(table_run), "rows.csv", "--out", "rows.alg", "--no-verify"]) == 0
    told = capsys.readouterr().out
    assert "the same values come back, each of them; the file is written another way" in told
    assert "not verified" in told
    assert main(["decompress", str(table_run), "rows.alg", "--out", "again.csv"]) == 0
    assert (tmp_path / "again.csv").read_text() == rows()


def test_the_numbers_are_those_of_the_file(table_run, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text(rows())
    assert main(["compress", str(table_run), "rows.csv", "--out", "rows.alg", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    size = (tmp_path / "rows.alg").stat().st_size
    assert found["bytes"] == size
    assert found["bits_per_example"] == pytest.approx(8 * size / 120)
    assert found["bits_per_dim"] == pytest.approx(8 * size / 120 / 3)
    assert found["negative_elbo_bits"] == pytest.approx(-found["elbo"] / np.log(2))
    raw = rows().encode()
    assert found["others"]["xz"] == len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    assert found["others"]["bz2"] == len(bz2.compress(raw, 9))
    weights = (table_run / "weights.safetensors").stat().st_size
    assert found["weights_bytes"] == weights
    saved = (min(found["others"].values()) - size) / 120
    assert found["paid_after"] == (int(np.ceil(weights / saved)) if saved > 0 else None)


@pytest.fixture(scope="module")
def bits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits")
    model = al.architectures.mlp((1, 4, 4), "bernoulli", [2], [4]).float()
    x = (torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    np.save(folder / "x.npy", (x.numpy() * 255).astype(np.uint8))
    about = {
        "data": al.data.describe(
            al.data.load(str(folder / "x.npy")).scored_as("bernoulli")[0], "bernoulli", two_values=[0.0, 255.0]
        )
    }
    return al.save(model, folder / "run", about=about), folder / "x.npy"


def test_arrays_come_back_with_their_values_and_types(bits_run, tmp_path, capsys):
    run, path = bits_run
    for out in ("again.npy", "again.npz"):
        assert main(["compress", str(run), str(path), "--out", "x.alg"]) == 0
        assert main(["decompress", str(run), "x.alg", "--out", out]) == 0
    wanted = np.load(path)
    for again in (np.load("again.npy"), np.load("again.npz")["x"]):
        assert again.dtype == np.uint8
        assert np.array_equal(again, wanted)
    packed = len(lzma.compress(np.packbits(wanted > 0).tobytes(), preset=9 | lzma.PRESET_EXTREME))
    capsys.readouterr()
    assert main(["compress", str(run), str(path), "--out", "x.alg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["others"]["xz"] == packed  # two values are bits to others, too


def test_a_folder_of_images_comes_back_with_their_names(bits_run, tmp_path):
    run, path = bits_run
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(np.load(path)[:3]):
        Image.fromarray(image[0]).save(tmp_path / "pictures" / f"{i}.png")
    assert main(["compress", str(run), "pictures", "--out", "x.alg"]) == 0
    assert main(["decompress", str(run), "x.alg", "--out", "again.npz"]) == 0
    again = np.load("again.npz")
    assert list(again["names"]) == ["0.png", "1.png", "2.png"]
    assert np.array_equal(again["x"], np.load(path)[:3])


def test_pictures_of_another_size_come_back(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, shape in (("small", (20, 8, 8)), ("large", (4, 20, 13))):
        np.save(f"{name}.npy", (rng.random(shape) < 0.3).astype(np.uint8))
    words = ["--architecture", "conv", "--channels", "4", "--blocks", "1", "--epochs", "1", "--no-compile"]
    assert main(["train", "small.npy", "--out", "run", *words]) == 0
    capsys.readouterr()
    assert "large.npy has examples of shape (20, 13)" in fails(capsys, "compress", "run", "large.npy", "--out", "x.alg")
    assert main(["train", "small.npy", "--out", "any", "--any-size", *words]) == 0
    assert main(["compress", "any", "large.npy", "--out", "x.alg"]) == 0
    assert main(["decompress", "any", "x.alg", "--out", "again.npy"]) == 0
    assert np.array_equal(np.load("again.npy"), np.load("large.npy"))
    assert main(["encode", "any", "large.npy", "--out", "codes.npz"]) == 0
    assert np.load("codes.npz")["z1_mean"].shape[0] == 4


def test_what_cannot_come_back_is_refused(table_run, tmp_path, capsys):
    header, first, *others = rows().splitlines()
    cases = {
        first.replace(first.split(",")[1], "") + "\nq,30,Oslo,160.5,mm,a": "Oslo",  # a town never seen
        "q,30,Ulm,160.123,mm,a": "height",  # finer than the resolution
        "q,30,Ulm,160.5,cm,a": "unit",  # another constant
        "q,30,Ulm,160.5,mm,c": "label",  # never given
    }
    for lines, named in cases.items():
        (tmp_path / "rows.csv").write_text("\n".join([header, lines, *others]) + "\n")
        line = fails(capsys, "compress", table_run, "rows.csv", "--out", "rows.alg")
        assert named in line
        assert not (tmp_path / "rows.alg").exists()
    (tmp_path / "rows.csv").write_text(header + "\n")
    assert "no values" in fails(capsys, "compress", table_run, "rows.csv", "--out", "rows.alg")
    (tmp_path / "rows.csv").write_text("\n".join(line.rpartition(",")[0] for line in rows().splitlines()))
    assert "label" in fails(capsys, "compress", table_run, "rows.csv", "--out", "rows.alg")


def test_every_mistake_is_one_line(table_run, bits_run, tmp_path, capsys, monkeypatch):
    run, path = bits_run
    assert main(["compress", str(run), str(path), "--out", "x.alg"]) == 0
    code = (tmp_path / "x.alg").read_bytes()
    middle = len(code) * 2 // 3
    damaged = {
        "short.alg": (code[:-9], "truncated"),
        "empty.alg": (b"", "does not begin with ALLEGORY"),
        "flipped.alg": (code[:middle] + bytes([code[middle] ^ 1]) + code[middle + 1 :], "damaged"),
        "newer.alg": (code[:8] + b"\x09\x00" + code[10:], "format 9"),
    }
    capsys.readouterr()
    for name, (content, message) in damaged.items():
        (tmp_path / name).write_bytes(content)
        assert message in fails(capsys, "decompress", run, name, "--out", "y.npy")
    torch.manual_seed(7)
    other = al.save(al.architectures.mlp((1, 4, 4), "bernoulli", [2], [4]).float(), tmp_path / "other")
    (tmp_path / "python.alg").write_bytes(al.compress(al.load(run), torch.zeros(3, 1, 4, 4)))

    np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4)).astype(np.uint8))
    cases = {
        ("decompress", other, "x.alg", "--out", "y.npy"): "another model",
        ("decompress", run, "x.alg", "--out", "y.csv"): "wanted a name that ends in .npy or .npz",
        ("decompress", run, "python.alg", "--out", "y.npy"): "only al.decompress reads it",
        ("decompress", run, "nothing.alg", "--out", "y.npy"): "nothing.alg",
        ("decompress", run, "x.alg", "--out", "x.alg"): "x.alg",
        ("decompress", "nowhere", "x.alg", "--out", "y.npy"): "not a run directory",
        ("compress", run, "nothing.npy", "--out", "y.alg"): "nothing.npy",
        ("compress", run, "grey.npy", "--out", "y.alg"): "wanted only 0 and 255",
        ("compress", run, path, "--out", path): "in the data that are read",
        ("compress", run, path, "--out", "no/y.alg"): "there is no folder",
        ("compress", run, path, "--out", "y.alg", "--jobs", "0"): "--jobs",
        ("compress", run, path, "--out", "y.alg", "--resolution", "-1"): "--resolution",
        ("compress", run, path): "--out",
    }
    for arguments, message in cases.items():
        assert message in fails(capsys, *arguments), arguments
    assert not list(tmp_path.glob("y.*"))
    monkeypatch.setitem(sys.modules, "constriction", None)

    assert "constriction" in fails(capsys, "compress", run, path, "--out", "y.alg")


def test_an_array_with_gaps_comes_back(bits_run, tmp_path, capsys):
    model = al.architectures.mlp((4,), "bernoulli", [2], [4], gaps=True)
    x = np.where(np.arange(80).reshape(20, 4) % 7 == 0, np.nan, np.arange(80).reshape(20, 4) % 2)
    np.save("x.npy", x)
    run = al.save(model, tmp_path / "run")
    capsys.readouterr()
    assert main(["compress", str(run), "x.npy", "--out", "x.alg"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["decompress", str(run), "x.alg", "--out", "again.npy"]) == 0
    np.testing.assert_array_equal(np.load("again.npy"), x)


def test_a_file_shorter_than_the_bound_says_why(tmp_path, capsys):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "counts.npy", generator.poisson(generator.random((400, 1)) * 300 + np.zeros((400, 4))))
    assert main(["train", "counts.npy", "--likelihood", "poisson", "--out", "run", *TRAIN]) == 0
    capsys.readouterr()
    assert main(["compress", "run", "counts.npy", "--out", "counts.alg", "--jobs", "1"]) == 0
    assert "shorter than -ELBO, since no symbol has a mass below 2^-20" in " ".join(capsys.readouterr().out.split())
