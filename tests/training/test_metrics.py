"""metrics.jsonl, and what is checked when the files of a run are read."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import allegory as al
from allegory.training import checkpoint, metrics, schema
from allegory.training.directory import read_config
from allegory.training.tensors import read_state, read_tensors, write_tensors


def small():
    torch.manual_seed(0)
    return al.architectures.mlp((4,), "bernoulli", latent=[2], hidden=[4])


X = torch.rand(12, 4, generator=torch.Generator().manual_seed(1)).round()


def train(out, epochs=3, **more):
    return al.fit(small(), X.double(), valid=X.double(), epochs=epochs, batch_size=4, out=out, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_default_dtype(torch.float64)
    path = tmp_path_factory.mktemp("runs") / "run"
    train(path)
    return path


def test_the_header_of_a_checkpoint_does_not_grow_with_the_history(tmp_path):
    sizes = []
    for epochs in (10, 50):
        train(tmp_path / str(epochs), epochs)
        sizes.append(len(json.dumps(read_state(tmp_path / str(epochs) / "last.safetensors"))))
    assert abs(sizes[1] - sizes[0]) < 20


def test_lines_are_appended_and_what_a_kill_has_left_beyond_the_checkpoint_goes(tmp_path):
    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "run", 3)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    again = train(tmp_path / "run", 6, resume=True)
    wanted = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert again.history == wanted
    assert [line["epoch"] for line in wanted] == [1, 2, 3, 4, 5, 6]
    writer = metrics.Metrics()
    first = writer.write(tmp_path, whole.history[:2])
    assert metrics.read(tmp_path, {"epoch": 2, **first}) == whole.history[:2]
    inode = os.stat(tmp_path / "metrics.jsonl").st_ino
    last = writer.write(tmp_path, whole.history)
    assert metrics.read(tmp_path, {"epoch": 2, **first}) == whole.history[:2]  # an older checkpoint
    assert metrics.read(tmp_path, {"epoch": 6, **last}) == whole.history
    assert os.stat(tmp_path / "metrics.jsonl").st_ino == inode


def test_a_run_of_an_earlier_version_has_no_hashes_and_its_history_in_the_checkpoint(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")
    history = metrics.read(run, read_state(run / "last.safetensors"))
    position = {k: v for k, v in read_state(old / "last.safetensors").items() if k not in ("metrics", "lines")} | {
        "history": history
    }
    for name, state in (("weights", {}), ("last", position)):
        save_file(load_file(old / f"{name}.safetensors"), old / f"{name}.safetensors", {"allegory": json.dumps(state)})
    assert al.Run(old).history == history
    assert torch.equal(al.load(old).encoders[0].network[1][0].weight, al.load(run).encoders[0].network[1][0].weight)
    assert train(old, 4, resume=True).history[:3] == history
    assert "sha256" in json.loads(safe_open(old / "weights.safetensors", "pt").metadata()["allegory"])


@pytest.mark.parametrize("name", ["weights.safetensors", "last.safetensors"])
def test_every_flipped_byte_is_found(run, tmp_path, name):
    content = bytearray((run / name).read_bytes())
    generator = torch.Generator().manual_seed(0)
    for at in torch.randint(len(content), (60,), generator=generator).tolist():
        content[at] ^= 1 << at % 8
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            read_tensors(tmp_path / name)
        assert "\n" not in str(error.value)
        content[at] ^= 1 << at % 8


def test_a_flipped_digit_of_the_history_is_found(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")
    text = (old / "metrics.jsonl").read_text()
    (old / "metrics.jsonl").write_text(text.replace('"step": 6', '"step": 7'))
    with pytest.raises(ValueError, match=r"metrics.jsonl has changed since it was written"):
        train(old, 4, resume=True)
    (old / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl cannot be read"):
        train(old, 4, resume=True)


DEEP = json.loads("[" * 500 + "]" * 500)
WRONG = {
    "model: latent is": {"model": {"latent": 2}},
    "model: hidden is": {"model": {"hidden": [10**19]}},
    "model: activation is 2": {"model": {"activation": 2}},
    "model: markov is 'yes', wanted true or false": {"model": {"markov": "yes"}},
    "fit: seed is": {"fit": {"seed": 10**30}},
    "fit: beta is": {"fit": {"beta": DEEP}},
    "data: source is None, wanted a string": {"data": {"checksum": "", "source": None}},
    "data: range is 3, wanted a list, 2 of": {"data": {"checksum": "", "range": 3}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_value_of_another_type_is_named_with_its_file(run, tmp_path, message):
    (part, values), *_ = WRONG[message].items()
    config = read_config(run)
    config[part] = {**config.get(part, {}), **values}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        read_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}, ")
    assert len(str(error.value)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"format": ' + "9" * 5000 + "}", "\xff", "[1]", "7"])
def test_what_json_cannot_hold_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"config.json cannot be read") as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_a_pipe_where_a_file_of_a_run_is_wanted_does_not_hang(tmp_path):
    for name, read in (("config.json", read_config), ("weights.safetensors", checkpoint.load)):
        (tmp_path / name).mkdir(parents=True) if name != "config.json" else os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="wanted a regular file"):
            read(tmp_path) if name == "config.json" else read_tensors(tmp_path / name)


def test_what_is_written_passes(run):
    assert schema.check(read_state(run / "last.safetensors"), schema.POSITION, "", ("epoch", "step", "batch"))
    assert read_config(run)["model"] == small().config


def test_a_training_that_fails_before_its_first_checkpoint_leaves_no_directory(tmp_path):
    def fails(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", tracker=fails)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", 5, resume=True, tracker=fails)
    assert al.Run(tmp_path / "run").summary.epochs == 3


def test_weights_that_do_not_fit_are_named_without_the_words_of_torch(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")
    weights, _ = read_tensors(run / "weights.safetensors")
    (first, value), *_ = ((name, value) for name, value in weights.items() if value.dim() == 2)
    for changed, message in (
        ({**weights, first: value[:1]}, rf"do not fit the model: {first} has shape \(1, .*\), wanted \("),
        ({k: v for k, v in weights.items() if k != first}, f"do not fit the model: {first} is missing$"),
        ({**weights, "mine": value, "more": value}, "mine is not of the model, and 1 more differences"),
    ):
        write_tensors(old / "weights.safetensors", changed, {})
        with pytest.raises(ValueError, match=message) as error:
            al.load(old)
        assert "state_dict" not in str(error.value)


def without_hashes(run, **position):
    """Rewrites a run as an earlier version did, with another position."""
    state = read_state(run / "last.safetensors")
    history = metrics.read(run, state)
    state = {key: value for key, value in state.items() if key not in ("metrics", "lines", "config")}
    state |= {"history": history, **position}
    for name, value in (("weights", {}), ("last", state)):
        save_file(load_file(run / f"{name}.safetensors"), run / f"{name}.safetensors", {"allegory": json.dumps(value)})


POSITIONS = (
    {"epoch": -1}, {"step": -5}, {"batch": -1}, {"seconds": float("nan")}, {"seconds": -1e9},
    {"best_epoch": float("inf")}, {"lr_scale": float("inf")},
)  # fmt: skip


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_a_position_out_of_range_is_named(run, tmp_path, position):
    old = shutil.copytree(run, tmp_path / "run")
    without_hashes(old, **position)
    with pytest.raises(ValueError, match=rf"position: {next(iter(position))} is .*, wanted a"):
        train(old, 4, resume=True)


def test_a_key_that_stands_twice_is_found(run, tmp_path):
    text = (run / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.rstrip()[:-1] + ', "fit": {}}')
    with pytest.raises(ValueError, match=r"config.json cannot be read .*: 'fit' stands in it twice"):
        read_config(tmp_path)


@pytest.mark.parametrize("values", [{"split": 3}, {"lowest": "x"}, {"size": [8]}, {"array": 1}, {"seed": -1}], ids=str)
def test_every_choice_of_how_the_data_are_read_is_looked_at(run, tmp_path, values):
    config = read_config(run) | {"data": {"checksum": "", **values}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"data: {next(iter(values))} is"):
        read_config(tmp_path)


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path, monkeypatch):
    from allegory.training import loop

    bounds, measure = iter([float("nan"), -2.0, -3.0]), loop.validate
    monkeypatch.setattr(loop, "validate", lambda *a, **k: measure(*a, **k) | {"bound": next(bounds)})
    record = train(tmp_path / "run")
    assert (record.best_epoch, record.best_bound) == (2, -2.0)
