"""Which rows become which split, what they are called, and rows that stand in two of them."""

import numpy as np
import pytest
import torch

from allegory.data import Data, load, parts, read
from allegory.data.splits import reload


def of(data):
    return [getattr(data, split).flatten(1)[:, 0].long().tolist() for split in ("train", "valid", "test")]


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("kept", [2**28, 100])
@pytest.mark.parametrize("how", ["random", "ordered"])
def test_rows_are_called_as_in_the_file(how, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", kept)
    np.save(tmp_path / "x.npy", np.arange(120.0).reshape(60, 2) // 2)
    data = load(tmp_path / "x.npy", split=how)
    for split, rows in zip(
        ("train", "valid", "test"), of(Data("", data.train[:], data.valid[:], data.test[:])), strict=True
    ):
        assert data.row_names(split) == rows
    assert sorted(row for split in ("train", "valid", "test") for row in data.row_names(split)) == list(range(60))
    if how == "ordered":
        assert data.row_names("valid") == list(range(48, 54))
        assert data.row_names("test") == list(range(54, 60))


def test_ordered_takes_valid_from_the_end_of_train(tmp_path):
    x = np.arange(50.0)[:, None]
    data = load(saved(tmp_path / "x.npz", train=x[:40], test=x[40:]), split="ordered")
    assert of(data) == [list(range(36)), list(range(36, 40)), list(range(40, 50))]


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_split(seed, tmp_path):
    rng = np.random.default_rng(seed)
    groups = np.array([f"patient {i}" for i in rng.integers(0, 30, 300)])
    path = saved(tmp_path / "x.npz", x=np.arange(600.0).reshape(300, 2) // 2, groups=groups)
    data = load(path, split="groups", seed=seed)
    found = [set(groups[rows]) for rows in of(data)]
    assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]
    assert sorted(row for rows in of(data) for row in rows) == list(range(300))
    assert min(len(data.valid), len(data.test)) >= 30
    assert len(data.train) >= 200
    assert of(load(path, split="groups", seed=seed)) == of(data)


def test_a_group_for_each_split_is_enough_and_two_are_not(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    data = load(saved(tmp_path / "x.npz", x=x, groups=[0] * 16 + [1] * 3 + [2]), split="groups")
    assert sorted(map(len, (data.train, data.valid, data.test))) == [1, 3, 16]
    with pytest.raises(ValueError, match="cannot split 2 groups in 3"):
        load(saved(tmp_path / "x.npz", x=x, groups=[0] * 16 + [1] * 4), split="groups")
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); wanted a number or a name for each example"):
        load(saved(tmp_path / "x.npz", x=x, groups=[0, 1, 2]), split="groups")


def test_ways_to_split_that_mean_nothing_are_refused(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    np.save(tmp_path / "x.npy", x)
    three = saved(tmp_path / "x.npz", train=x[:10], valid=x[10:15], test=x[15:])
    for source, choices, told in (
        (tmp_path / "x.npy", {"split": "by name"}, "split='by name': wanted one of random, ordered, groups"),
        (tmp_path / "x.npy", {"split": "groups"}, "wanted an array `groups`"),
        (three, {"split": "ordered"}, "has its own splits"),
        ("digits", {"split": "ordered"}, "digits is built in and has its own splits"),
        ("digits", {"array": "x"}, "digits is built in"),
        (tmp_path / "x.npy", {"array": "x"}, "only a .npz file has arrays with names"),
        (tmp_path / "x.npy", {"size": (4, 4)}, "scales the images of a folder"),
    ):
        with pytest.raises(ValueError, match=told):
            load(source, **choices)


def test_arrays_of_other_names(tmp_path):
    x = np.arange(60.0).reshape(30, 2)
    keras = saved(tmp_path / "k.npz", x_train=x[:20], y_train=x[:20, 0], x_test=x[20:], y_test=x[20:, 0])
    with pytest.warns(UserWarning, match="x_train, x_test taken; left out: y_train, y_test"):
        data = load(keras)
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 10)
    medmnist = saved(tmp_path / "m.npz", train_images=x[:20], val_images=x[20:25], test_images=x[25:])
    assert torch.equal(load(medmnist).valid, torch.from_numpy(x[20:25]).float())
    several = saved(tmp_path / "s.npz", imgs=x, latents=x + 1, names=np.array([{}], object))
    with pytest.raises(ValueError, match=r"3 arrays \(imgs, latents, names\); .* --array NAME"):
        load(several)
    with pytest.warns(UserWarning, match="imgs taken; left out: latents, names"):  # which is not even opened
        assert torch.equal(read(several, array="imgs"), torch.from_numpy(x).float())
    with pytest.raises(ValueError, match="no array 'image' in it; it holds imgs, latents, names"):
        load(several, array="image")


def test_equal_rows_across_splits_are_counted(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 30)).repeat(25, 0)
    np.save(tmp_path / "x.npy", rows)
    with pytest.warns(UserWarning, match="100 of 100 valid rows and 100 of 100 test rows equal rows of another split"):
        load(tmp_path / "x.npy")
    np.savez(tmp_path / "g.npz", x=rows, groups=np.arange(1000) // 25)
    assert load(tmp_path / "g.npz", split="groups").equal_rows() == {"valid": 0, "test": 0}
    x = torch.arange(8.0).view(8, 1)
    x[3] = 0.0
    assert Data("", x[:3], -x[3:4], x[4:]).equal_rows() == {"valid": 1, "test": 0}  # -0.0 is 0.0


def test_a_run_reads_its_data_as_they_were_asked_for(tmp_path):
    x = np.arange(60.0).reshape(30, 2)
    path = saved(tmp_path / "x.npz", x=x, y=x[:, 0], groups=np.arange(30) // 3)
    with pytest.warns(UserWarning, match="left out: y"):
        data = load(path, array="x", split="groups", seed=3)
    about = data.scored_as("normal")[1]
    assert (about["array"], about["split"], about["seed"]) == ("x", "groups", 3)
    with pytest.warns(UserWarning, match="left out: y"):
        assert torch.equal(reload(about).test, data.test)
    plain = load(saved(tmp_path / "p.npz", x=x)).scored_as("normal")[1]
    assert not {"array", "split", "size"} & plain.keys()


def test_the_likelihood_does_not_depend_on_where_a_value_falls(tmp_path):
    x = np.random.default_rng(0).poisson(100, (100, 6))
    x[3, 2] = 300
    np.save(tmp_path / "x.npy", x)
    assert len({load(tmp_path / "x.npy", seed=seed).choose_likelihood()[0] for seed in range(30)}) == 1
    two = torch.tensor([[0.0], [1.0]])
    assert Data("", two, two, torch.tensor([[7.0]])).choose_likelihood()[0] != "bernoulli"
