"""What is given with data: labels and numbers, of files and of folders, through a whole run."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import allegory as al
from allegory.command import main
from allegory.data import as_conditions, load
from allegory.data.conditions import parse_condition


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)  # as a user has it; tests/conftest.py sets it back


@pytest.fixture
def labelled(tmp_path):
    """Two columns, which a label moves."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = rng.normal(size=(200, 2)) + 6 * np.eye(3)[y][:, :2]
    np.savez(tmp_path / "x.npz", x=x.astype("float32"), y=np.array(["ant", "bee", "cat"])[y], size=x[:, :1] ** 2)
    return tmp_path / "x.npz"


@pytest.mark.filterwarnings("ignore:.*left out")
def test_each_row_keeps_its_label_in_every_split(labelled):
    arrays = dict(np.load(labelled))
    data = load(labelled, array="x", given="y", seed=3)
    assert data.given.categories == ["ant", "bee", "cat"]
    for split in ("train", "valid", "test"):
        (c,) = data.given_with(split)
        names = np.array(data.given.categories)[c.argmax(1).numpy()]
        assert (names == arrays["y"][data.rows[split].numpy()]).all()
    (numbers,) = load(labelled, array="x", given="size").given_with("train")
    assert numbers.shape == (160, 1)
    assert load(labelled, array="x", given="y", split="ordered").given_with("test", slice(2))[0].shape == (2, 3)


def test_splits_of_a_file_have_their_own(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    np.savez(tmp_path / "x.npz", x_train=x[:30], x_test=x[30:], y_train=np.arange(30) % 2, y_test=np.arange(10) % 2)
    data = load(tmp_path / "x.npz", given="y")
    for split, first in (("train", 0), ("valid", 0), ("test", 30)):
        (c,) = data.given_with(split)
        rows = [int(np.argwhere((x == row.numpy()).all(1))[0][0]) - first for row in getattr(data, split)]
        assert (c.argmax(1).numpy() == np.array(rows) % 2).all()


def test_what_cannot_be_given_is_named(labelled, tmp_path):
    np.savez(tmp_path / "odd.npz", x=np.zeros((4, 2)), y=np.zeros(3))
    np.savez(tmp_path / "gap.npz", x=np.zeros((40, 2)), y=np.array([np.nan] * 40))
    labels = {"train": np.array([1, 2]), "test": np.array([1, 7])}
    about = as_conditions("y", {"train": np.array([1, 2])}).about()
    for call, words in {
        lambda: load(labelled, array="x", given="z"): "given 'z': wanted the arrays z; it holds x, y, size",
        lambda: load(tmp_path / "odd.npz", given="y"): "y has shape (3,), wanted a row for each of 4 examples",
        lambda: load(tmp_path / "gap.npz", given="y"): "y is NaN or infinite in row 0",
        lambda: load("digits", given="y"): "digits is built in",
        lambda: as_conditions("y", labels): "y is '7' in row 1, and nowhere in the training data",
        lambda: as_conditions("y", {"train": np.arange(2000)}): "2,000 different labels, wanted 1,000 at most",
        lambda: as_conditions("y", {"train": np.zeros((3, 2), int)}): "wanted a label for each example",
        lambda: parse_condition("3", about): "given '3': wanted a category of y: 1, 2",
        lambda: parse_condition("1,x", {**about, "categories": []}): "given '1,x': wanted 2 numbers for y",
    }.items():
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()


def test_a_category_is_its_name_before_its_place():
    about = as_conditions("y", {"train": np.array([1, 2, 5])}).about()
    assert parse_condition("1", about).argmax() == 0  # the name
    assert parse_condition("0", about).argmax() == 0  # no name: the place
    assert parse_condition("5", about).argmax() == 2


@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_command_trains_scores_and_draws_what_is_given(labelled, tmp_path, capsys):
    out, source = str(tmp_path / "run"), str(labelled)
    train = ["train", source, "--array", "x", "--given", "y", "--out", out, "--hidden", "16", "--latent", "2"]
    assert main([*train, "--epochs", "30", "--batch-size", "20", "--lr", "1e-2", "--no-compile", "--ema", "0.9"]) == 0
    assert "given y, 3 categories (ant, bee, cat)" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["given"]["categories"][1] == "bee"
    assert main(["evaluate", out, "--importance-samples", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] < 6
    assert main(["diagnose", out, "--json"]) == 0
    for given, column in (("bee", 1), ("0", 0)):
        drawn = str(tmp_path / f"{given}.npz")
        assert main(["sample", out, "--given", given, "--count", "50", "--out", drawn]) == 0
        mean = np.load(drawn)["samples"].mean(0)
        assert mean[column] > 4 > mean[1 - column]
    assert main(["sample", out, "--count", "90", "--out", str(tmp_path / "all.npz")]) == 0
    assert (np.load(tmp_path / "all.npz")["samples"].mean(0) < 4).all()
    assert main(["sample", out, "--given", "dog", "--out", str(tmp_path / "x2.npz")]) == 2
    assert "given 'dog': wanted a category of y: ant, bee, cat" in capsys.readouterr().err
    assert main(["encode", out, source, "--array", "x", "--out", str(tmp_path / "z.npz")]) == 0
    assert main([*train, "--epochs", "31", "--resume", "--given", "size"]) == 2
    run = al.Run(out)
    assert run.given_about["name"] == "y"
    assert run.reconstruct(count=5).reconstructions.shape == (5, 2)
    assert run.sample(3, given=run.given_as("cat")).shape == (3, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_report_of_a_conditional_run(labelled, tmp_path):
    out = str(tmp_path / "run")
    train = ["train", str(labelled), "--array", "x", "--given", "y", "--out", out, "--hidden", "16", "--latent", "2,2"]
    assert main([*train, "--epochs", "2", "--no-compile"]) == 0
    assert main(["report", out, "--examples", "50", "--importance-samples", "5"]) == 0


def test_folders_are_categories(tmp_path):
    rng = np.random.default_rng(0)
    for label, base in (("dark", 0), ("light", 200)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(20):
            pixels = (base + rng.integers(0, 50, (4, 4))).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    data = load(tmp_path / "images", given="folder")
    for split in ("train", "valid", "test"):
        (c,) = data.given_with(split)
        assert torch.equal(c.argmax(1), (getattr(data, split).flatten(1).mean(1) > 100).long())
    with pytest.raises(ValueError, match="wanted 'folder'"):
        load(tmp_path / "images", given="y")
    with pytest.raises(ValueError, match="wanted 'folder'"):
        load(tmp_path / "images" / "dark", given="folder")


@pytest.mark.slow
def test_digits_are_learned_better_with_their_labels():
    from sklearn.datasets import load_digits

    digits = load("digits")
    y = torch.as_tensor(load_digits().target)
    images = torch.as_tensor(load_digits().images).float()[:, None]
    lookup = {image.numpy().tobytes(): label for image, label in zip(images, y, strict=True)}
    c, valid, test = (
        torch.nn.functional.one_hot(torch.stack([lookup[image.numpy().tobytes()] for image in split]), 10).float()
        for split in (digits.train, digits.valid, digits.test)
    )
    train, held, seen = ((split > 7).float() for split in (digits.train, digits.valid, digits.test))
    found = []
    for given in (False, True):
        torch.manual_seed(0)
        own = dict(given_data=c) if given else {}
        model = al.architectures.mlp((1, 8, 8), "bernoulli", [6], [64], data=train, **own)
        also = dict(given=c, valid_given=valid) if given else {}
        al.fit(model, train, valid=held, epochs=30, batch_size=50, lr=3e-3, ema=0.99, **also)
        found.append(al.evaluate(model, seen, 20, given=test if given else None).nll)
    assert found[1] < found[0] - 1
    drawn = model.sample(200, given=torch.eye(10).repeat_interleave(20, 0))
    distance = torch.cdist(drawn.flatten(1), train.flatten(1))
    nearest = c.argmax(1)[distance.argmin(1)]
    assert (nearest == torch.arange(10).repeat_interleave(20)).float().mean() > 0.7
