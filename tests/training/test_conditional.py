"""Training of p(x | c): what is given goes with its examples, whole, in parts, from disk, and when it goes on."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.data.stored import Mapped, Stored
from allegory.runtime import processes
from allegory.runtime.compilation import has_compiler
from allegory.training.batches import Batches


def conditional_vae():
    torch.manual_seed(0)
    joined = [al.Conditional(al.networks.Concat(nn.Linear(5, 4)), al.families.normal) for _ in range(2)]
    return al.VAE(al.StandardNormal(2), *joined).float()


def examples(n=60):
    c = nn.functional.one_hot(torch.arange(n) % 3, 3).float()
    return torch.randn(n, 2, dtype=torch.float32) + 4 * c[:, :2], c


@pytest.mark.parametrize("transform", [None, lambda x: x + 1])
def test_each_example_keeps_what_is_given_with_it(transform):
    x = torch.arange(10.0)[:, None]
    seen = [
        (batch.x - int(transform is not None), batch.given[0])
        for batch in Batches(x, 4, seed=0, transform=transform, contexts=(10 * x,)).epoch(0)
    ]
    for rows, c in seen:
        assert torch.equal(10 * rows, c)
    assert sorted(torch.cat([rows for rows, _ in seen]).flatten().tolist()) == list(range(10))


def test_so_it_is_with_examples_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10.0)[:, None])
    stored = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")), torch.tensor([7, 2, 9, 0, 4]))
    c = torch.tensor([7.0, 2, 9, 0, 4])[:, None]
    for batch in Batches(stored, 2, seed=0, contexts=(c,)).epoch(0):
        assert torch.equal(batch.x.double(), batch.given[0])


def test_training_learns_what_is_given_and_a_resumed_one_needs_it_again(tmp_path):
    (x, c), out = examples(), tmp_path / "run"
    settings = dict(valid=x, batch_size=20, lr=1e-2, ema=0.9, out=out)
    model = conditional_vae()
    al.fit(model, x, given=c, valid_given=c, epochs=20, **settings)
    own, wrong = (al.log_likelihood(model, x, 20, given=given).mean() for given in (c, c.roll(1, 0)))
    assert own > wrong + 1
    for given, words in (({}, "given with the training data, not with nothing"), ({"given": 1 - c}, "not with shape")):
        other = {} if not given else {"valid_given": c}
        with pytest.raises(ValueError, match=words if given else "cannot read|given"):
            al.fit(conditional_vae(), x, **given, **other, epochs=21, resume=True, **settings)
    again = conditional_vae()
    al.fit(again, x, given=c, valid_given=c, epochs=21, resume=True, **settings)
    whole = conditional_vae()
    al.fit(whole, x, given=c, valid_given=c, epochs=21, **{**settings, "out": None})


def test_data_on_disk_train_as_in_memory(tmp_path):
    x, c = examples()
    np.save(tmp_path / "x.npy", x.numpy())
    stored = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    found = []
    for data in (x, stored):
        model = conditional_vae()
        al.fit(model, data, given=c, epochs=2, batch_size=16)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_transform_leaves_what_is_given_as_it_is():
    x, c = examples()
    found = []
    for transform in (None, lambda x: x + 0):
        model = conditional_vae()
        al.fit(model, x, given=c, transform=transform, epochs=2, batch_size=16)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_step_that_is_compiled_whole_gathers_what_is_given():
    x, c = examples()
    torch.set_default_dtype(torch.float32)
    found = []
    for compile in (False, True):
        model = al.architectures.mlp((2,), "normal", [2], [8], given=(3,), data=x, given_data=c)
        torch.manual_seed(1)
        record = al.fit(model, x, given=c, epochs=30, batch_size=20, compile=compile, lr=1e-2)
        found.append(record.history[-1]["train"])
        wrong = al.log_likelihood(model, x, 20, given=c.roll(1, 0)).mean()
        assert al.log_likelihood(model, x, 20, given=c).mean() > wrong + 1  # each row was read with its own
    assert_close(found[0], found[1], atol=0.3, rtol=0)


def test_bad_conditions_are_named_before_a_training():
    x, c = examples()
    for arguments, words in (
        (dict(given=c[:5]), "given: got shape \\(5, 3\\) for 60 examples"),
        (dict(given=c, valid=x), "given has 1 tensors, valid_given 0"),
        (dict(given=c, valid_given=c), "valid_given: there is no valid"),
        (dict(given=torch.full_like(c, torch.nan)), "training data, given: 180 values are NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            al.fit(conditional_vae(), x, epochs=1, **arguments)


def test_what_is_given_is_compared_between_processes_by_all_its_values():
    c = torch.zeros(5000, 3)
    other = c.clone()
    other[2500, 1] = 1
    assert processes._fingerprint((c,)) == processes._fingerprint((c.clone(),))
    assert processes._fingerprint((c,)) != processes._fingerprint((other,))
