"""What is given with data: labels and numbers, of files and of folders, through a whole run."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import allegory as al
from allegory.command import main
from allegory.data import as_conditions, join_conditions, load
from allegory.data.conditions import choose_given, recorded_conditions
from allegory.data.ranges import Range, parse_conditions


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


def chosen(found, n=1, **said):
    return choose_given(found.parts, said, found.values["train"], n)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_each_row_keeps_its_label_in_every_split(labelled):
    arrays = dict(np.load(labelled))
    data = load(labelled, array="x", given="y", seed=3)
    assert data.given.parts[0].categories == ("ant", "bee", "cat")
    for split in ("train", "valid", "test"):
        (c,) = data.given_with(split)
        names = np.array(data.given.parts[0].categories)[c.argmax(1).numpy()]
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
    found = as_conditions("y", {"train": np.array([1, 2])})
    numbers = as_conditions("y", {"train": np.array([[0.5, 2.0]])})
    for call, words in {
        lambda: load(labelled, array="x", given=["y", "y"]): "given: 'y' is named twice",
        lambda: load(labelled, array="x", given="z"): "given 'z': wanted the arrays z; it holds x, y, size",
        lambda: load(tmp_path / "odd.npz", given="y"): "y has shape (3,), wanted a row for each of 4 examples",
        lambda: load(tmp_path / "gap.npz", given="y"): "y is NaN or infinite in row 0",
        lambda: load("digits", given="y"): "digits is built in",
        lambda: as_conditions("y", labels): "y is '7' in row 1, and nowhere in the training data",
        lambda: as_conditions("y", {"train": np.arange(2000)}): "2,000 different labels, wanted 1,000 at most",
        lambda: as_conditions("y", {"train": np.zeros((3, 2), int)}): "wanted a label for each example",
        lambda: chosen(found, y="3"): "given '3': wanted a category of y: 1, 2",
        lambda: chosen(found, y=3): "given 3: wanted a category of y: 1, 2",
        lambda: chosen(found, y=(1, 2)): "given y >=1, <=2: wanted a value, since y, 2 categories (1, 2) is no number",
        lambda: chosen(found, y=None): "given y=?: it is given with each row, not modelled, and has no gaps",
        lambda: chosen(found, z=1): "given 'z': nothing of that name is given; there is y",
        lambda: chosen(numbers, y="1,x"): "given '1,x': wanted 2 numbers, separated by commas, for y",
    }.items():
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()


def test_a_category_is_its_name_before_its_place():
    found = as_conditions("y", {"train": np.array([1, 2, 5])})
    assert chosen(found, y="1").argmax() == 0  # the name
    with pytest.raises(ValueError, match="given '0': wanted a category of y: 1, 2, 5"):  # not the first of them
        chosen(found, y="0")
    words = as_conditions("y", {"train": np.array(["cat", "dog"])})
    assert chosen(words, y="1").argmax() == chosen(words, y="dog").argmax() == 1
    assert chosen(found, y="5").argmax() == chosen(found, y=5).argmax() == 2


def test_what_is_not_said_is_as_in_examples_that_agree():
    town, age = np.array(["Rom", "Ulm"] * 500), np.arange(1000) % 60 + 0.5
    found = join_conditions([as_conditions("town", {"train": town}), as_conditions("age", {"train": age})])
    assert recorded_conditions(json.loads(json.dumps(found.about()))) == found.parts
    drawn = chosen(found, n=400, town="Ulm", age=(20, None))
    assert (drawn[:, 1] == 1).all()
    assert set(drawn[:, 2].tolist()) == {a for a in age[1::2].tolist() if a >= 20}
    assert (chosen(found, n=50, age=Range(high=1.5, below=True))[:, 2] == 0.5).all()
    assert chosen(found, town="Rom", age=7.25).tolist() == [[1, 0, 7.25]]  # all of it is said: it need not be there
    with pytest.raises(ValueError, match=r"given age=7\.25: no training example agrees with it; .*: town"):
        chosen(found, age=7.25)


def test_conditions_are_read_as_they_are_typed():
    names = ["age", "a=b", "town >= x", "size"]
    assert parse_conditions(["age >= 3", "age<7.5", "a=b=?", "town >= x=y", "size==1e3"], names) == {
        "age": Range("3", "7.5", below=True), "a=b": None, "town >= x": "y", "size": "1e3",
    }  # fmt: skip
    for texts, words in {
        ("age",): "given 'age': wanted NAME=VALUE",
        ("age=",): "given 'age=': wanted NAME=VALUE",
        ("ages=3",): "given 'ages=3': 'ages' is neither a column nor given; there are age, a=b",
        ("age>3", "age>=4"): "given 'age>=4': something else is said of 'age', too",
        ("age>3", "age=4"): "given 'age=4': something else is said of 'age', too",
        ("age=4", "age<4"): "given 'age<4': something else is said of 'age', too",
    }.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            parse_conditions(texts, names)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_command_trains_scores_and_draws_what_is_given(labelled, tmp_path, capsys):
    out, source = str(tmp_path / "run"), str(labelled)
    train = ["train", source, "--array", "x", "--given", "y", "--out", out, "--hidden", "16", "--latent", "2"]
    assert main([*train, "--epochs", "30", "--batch-size", "20", "--lr", "1e-2", "--no-compile", "--ema", "0.9"]) == 0
    assert "given y, 3 categories (ant, bee, cat)" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["data"]["given"]["parts"][0]["categories"][1]
        == "bee"
    )
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
    assert [part.name for part in run.conditions] == ["y"]
    for given in ("y=bee", "y>=bee", "z=3"):
        code = main(["sample", out, "--given", given, "--count", "5", "--out", str(tmp_path / "named.npz")])
        assert code == (0 if given == "y=bee" else 2)
    assert "given 'z=3': 'z' is neither a column nor given; there are y" in capsys.readouterr().err
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


def test_numbers_that_are_given_keep_their_digits(tmp_path):
    seconds, x = np.random.default_rng(0).uniform(0, 600, 60), np.zeros((60, 2))
    assert as_conditions("time", {"train": seconds}).values["train"].unique().numel() == 60
    with pytest.raises(ValueError, match=r"float32 cannot tell the values of time, .*, apart; subtract an offset"):
        as_conditions("time", {"train": 1.7e9 + seconds})
    assert as_conditions("year", {"train": 2000.0 + np.arange(60)}).values["train"].unique().numel() == 60
    np.savez(tmp_path / "x.npz", x=x, time=1.7e9 + seconds)
    with pytest.raises(ValueError, match="subtract an offset"):
        load(tmp_path / "x.npz", given="time")


def test_whole_numbers_that_are_given_may_have_a_size():
    with pytest.raises(ValueError, match="if it has a size, give it as a number"):
        as_conditions("year", {"train": np.arange(1990, 2000), "valid": np.array([2003])})
