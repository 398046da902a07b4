"""What is saved comes back, whatever made it; nothing is imported by a name that stands in a file."""

import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.training import checkpoint, directory, state, tensors


class Small(al.VAE):
    """A class of one's own."""

    def __init__(self, width, bits=(3,)):
        super().__init__(
            al.StandardNormal(width),
            al.Conditional(nn.Linear(bits[0], 2 * width), al.families.normal),
            al.Conditional(nn.Linear(width, bits[0]), al.families.bernoulli),
        )


def small(width=2):
    return Small(width)


X = (torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) < 0.4).double()


def same(first, second):
    for model in (first, second):
        model.eval()
    with torch.no_grad():
        torch.manual_seed(0)
        wanted = first(X).log_weight
        torch.manual_seed(0)
        assert_close(second(X).log_weight, wanted, rtol=0, atol=0)


def test_a_model_of_the_architectures_is_saved_without_training_and_comes_back(tmp_path):
    model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4])
    path = al.save(model, tmp_path / "a" / "run", about={"note": "mine"})
    assert path == tmp_path / "a" / "run"
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "weights.safetensors"]
    assert [file.name for file in path.parent.iterdir()] == ["run"]  # nothing is left beside it
    config = json.loads((path / "config.json").read_text())
    assert (config["format"], config["note"], config["fit"]) == (1, "mine", {})
    assert "class" not in config
    same(al.load(path), model)
    assert not al.load(path).training


@pytest.mark.parametrize(
    ("make", "arguments"), [(Small, {"width": 2, "bits": [3]}), (small, {}), (small, {"width": 4})]
)
def test_a_model_of_ones_own_comes_back_by_its_class_and_arguments(tmp_path, make, arguments):
    model = make(**arguments)
    al.save(model, tmp_path, arguments=arguments)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"] is None
    assert config["class"] == f"{__name__}.Small"
    assert config["arguments"] == arguments
    same(al.load(tmp_path, make), model)
    same(al.load(tmp_path, make(**arguments)), model)
    with pytest.raises(
        ValueError, match=r"its model, .*Small, was not made by allegory.architectures; build it"
    ) as error:
        al.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_type_of_the_weights_comes_back(tmp_path):
    al.save(Small(2).float(), tmp_path, arguments={"width": 2})
    assert al.load(tmp_path, Small).sample(1).dtype == torch.float32


def test_a_buffer_of_another_type_keeps_it_and_leaves_the_rest_alone(tmp_path):
    class Counted(Small):
        def __init__(self, width):
            super().__init__(width)
            self.register_buffer("a_count", torch.zeros(1, dtype=torch.float64))

    model = Counted(2).float()
    model.a_count = model.a_count.double()
    al.save(model, tmp_path / "run", arguments={"width": 2})
    again = al.load(tmp_path / "run", Counted)
    assert again.a_count.dtype == torch.float64
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again.sample(1).dtype == torch.float32


def test_a_run_of_fit_comes_back_by_its_class_too(tmp_path):
    model = Small(2)
    al.fit(model, X, epochs=1, out=tmp_path / "run", about={"arguments": {"width": 2}})
    same(al.load(tmp_path / "run", Small), model)


class Laplaces(al.families.Family):
    """A family that the library does not have."""

    size = 1

    def law(self, mu):
        return torch.distributions.Laplace(mu, 1.0)


def test_a_family_of_the_library_comes_back(tmp_path):
    model = al.architectures.mlp((3,), al.families.normal_fixed(0.5), latent=[2], hidden=[4])
    al.save(model, tmp_path)
    same(al.load(tmp_path), model)
    assert "normal_fixed" in str(al.Run(tmp_path))


def test_a_family_of_ones_own_is_given_again(tmp_path):
    family = Laplaces()
    model = al.architectures.mlp((3,), family, latent=[2], hidden=[4])
    al.save(model, tmp_path)
    same(al.load(tmp_path, likelihood=family), model)
    with pytest.raises(ValueError, match=r"its likelihood, .*test_checkpoint.Laplaces, has to be given again") as error:
        al.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_nothing_is_imported_by_a_name_that_stands_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    al.save(Small(2), tmp_path / "run", arguments={"width": 2})
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class": "trap.Small"}))
    with pytest.raises(ValueError, match=r"trap\.Small"):
        al.load(path.parent)
    same(al.load(path.parent, Small), al.load(path.parent, Small))
    assert "trap" not in sys.modules


def test_what_is_there_is_left_alone(tmp_path):
    al.save(Small(2), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="exists and is not empty"):
        al.save(Small(3), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is not empty"):
        al.save(Small(3), tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot make the run directory"):
        al.save(Small(3), "/proc/nowhere/run")


def test_a_failure_amid_the_writing_leaves_nothing(tmp_path, monkeypatch):
    def fails(path, content):
        raise ValueError("no space")

    monkeypatch.setattr(checkpoint, "write_atomically", fails)
    with pytest.raises(ValueError, match="no space"):
        al.save(Small(2), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_directory_appears_whole_by_one_rename(tmp_path, monkeypatch):
    rename = Path.replace

    def fails(self, target):
        if self.is_dir():
            assert not (tmp_path / "run").exists()
            assert sorted(file.name for file in self.iterdir()) == ["config.json", "weights.safetensors"]
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ValueError, match=r"cannot make the run directory .*: No space left"):
        al.save(Small(2), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_or_made_again_is_named(tmp_path):
    wrong = {
        "wanted what JSON can store": lambda: al.save(Small(2), tmp_path / "no", arguments={"width": torch.ones(2)}),
        "about has model": lambda: al.save(Small(2), tmp_path / "no", about={"model": 3}),
        "records no arguments, which Small does not take: missing": lambda: al.load(tmp_path / "run", Small),
        'records the arguments {"depth": 3}, which Small': lambda: al.load(tmp_path / "other", Small),
        "<lambda> made int, wanted a VAE": lambda: al.load(tmp_path / "run", lambda: 3),
        "model='Small': wanted a VAE, or the class": lambda: al.load(tmp_path / "run", "Small"),
        "likelihood: only for a model of allegory": lambda: al.load(tmp_path / "run", Small(2), likelihood=3),
        "the weights do not fit": lambda: al.load(tmp_path / "run", Small(3)),
        "likelihood: only for a model of": lambda: al.load(tmp_path / "run", small, likelihood=3),
    }
    al.save(Small(2), tmp_path / "run")
    al.save(Small(2), tmp_path / "other", arguments={"depth": 3})
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "no").exists()


def test_a_mistake_in_a_class_of_ones_own_is_its_own(tmp_path):
    def broken():
        raise TypeError("mine")

    al.save(Small(2), tmp_path / "run")
    with pytest.raises(TypeError, match="mine"):
        al.load(tmp_path / "run", broken)


def test_a_saved_model_is_no_training_to_resume(tmp_path):
    model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4])
    al.save(model, tmp_path)
    with pytest.raises(ValueError, match="was trained with"):
        al.fit(model, X, epochs=1, out=tmp_path, resume=True)


def trained(run, activation="SiLU", **more):
    torch.manual_seed(0)
    model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4], activation=activation)
    settings = dict(epochs=2, batch_size=5, out=run, about={"data": {"source": "here", "checksum": "abc"}})
    al.fit(model, X, valid=X, **{**settings, **more})
    return run


def changed(run, **values):
    """Edits config.json; `part__key` is a key in a part."""
    config = json.loads((run / "config.json").read_text())
    for name, value in values.items():
        *parts, key = name.split("__")
        at = config
        for part in parts:
            at = at[part]
        at[key] = value
    (run / "config.json").write_text(json.dumps(config))


EDITS = (
    {"model__activation": "ReLU"}, {"data__checksum": "abd"}, {"fit__seed": 7}, {"fit__samples": 2}, {"units": 3},
    {"model__residual": False}, {"arguments": {"width": 3}},
)  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_what_numbers_depend_on_is_not_edited_in_silence(tmp_path, edit):
    run = trained(tmp_path / "run")
    changed(run, **edit)
    for read in (al.load, lambda run: al.Run(run).model, lambda run: al.Run(run).summary):
        with pytest.raises(
            ValueError, match=r"run: config.json and (weights|last).safetensors are not of one training"
        ):
            read(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=r"not of one training|was trained with|begun by an earlier version"):
        trained(run, epochs=3, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "last.safetensors"])
def test_a_file_of_another_run_is_found(tmp_path, name):
    run, other = trained(tmp_path / "run"), trained(tmp_path / "other", "ReLU")
    (run / name).write_bytes((other / name).read_bytes())
    reads = {"weights.safetensors": al.load, "last.safetensors": lambda run: al.Run(run).summary}
    for read in [reads[name]] if name in reads else reads.values():
        with pytest.raises(ValueError, match="are not of one training"):
            read(run)


def test_the_place_of_the_data_the_budget_and_notes_may_change(tmp_path):
    run = trained(tmp_path / "run")
    changed(run, data__source="there", fit__epochs=7, note="mine", allegory="0.0", command={"epochs": 7})
    same(al.load(run), al.load(run))
    assert al.Run(run).summary.data == "there"


def test_a_model_that_is_given_needs_no_description(tmp_path):
    run = trained(tmp_path / "run")
    changed(run, model=None)
    al.load(run, al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4]))


def earlier(run, **dtypes):
    """Rewrites the weights as an earlier version did, without hashes."""
    weights, _ = tensors.read_tensors(run / "weights.safetensors")
    weights = {name: value.to(dtypes.get(name.replace(".", "_"), value.dtype)) for name, value in weights.items()}
    save_file(weights, run / "weights.safetensors", {"allegory": "{}"})


def test_a_run_without_hashes_that_asks_for_a_huge_model_takes_no_memory(tmp_path, monkeypatch):
    run = trained(tmp_path / "run")
    earlier(run)
    made, build = [], checkpoint.build
    monkeypatch.setattr(checkpoint, "build", lambda *a, **k: made.append(build(*a, **k)) or made[-1])
    for hidden, message in (
        ([2**17, 2**17], "do not fit the model"),
        ([2**31 - 1] * 3, "no such model can be made|do not fit"),
    ):
        changed(run, model__hidden=hidden)
        with pytest.raises(ValueError, match=message) as error:
            al.load(run)
        assert "\n" not in str(error.value)
    assert all(p.is_meta for model in made for p in model.parameters())


def test_weights_of_another_type_are_refused(tmp_path):
    run = trained(tmp_path / "run")
    name = next(name for name in tensors.read_tensors(run / "weights.safetensors")[0] if name.endswith("bias"))
    for dtype in (torch.int64, torch.float16):
        earlier(run, **{name.replace(".", "_"): dtype})
        with pytest.raises(
            ValueError, match=f"do not fit the model: .* is {dtype}, wanted torch.float64|wanted {dtype}"
        ):
            al.load(run)


def test_of_two_trainings_in_one_directory_the_second_is_refused(tmp_path):
    run, told = tmp_path / "a" / "run", []

    def second(line):
        for resume in (False, True):
            with pytest.raises(ValueError, match=r"is not empty|is in use") as error:
                trained(run, epochs=5, resume=resume)
            told.append(str(error.value))

    trained(run, tracker=second, epochs=1)
    assert "is not empty" in told[0]
    assert "is in use: another training writes to it" in told[1]
    assert trained(run, epochs=3, resume=True)  # and the lock is gone


def test_a_training_that_is_refused_leaves_no_directories_and_takes_none(tmp_path):
    (tmp_path / "mine").mkdir()

    def fails(line):
        raise KeyboardInterrupt

    for run in (tmp_path / "a" / "b" / "run", tmp_path / "mine"):
        with pytest.raises(KeyboardInterrupt):
            trained(run, tracker=fails)
    assert [(path.name, [*path.iterdir()]) for path in tmp_path.iterdir()] == [("mine", [])]


def test_a_run_without_its_configuration_is_not_begun_anew(tmp_path):
    run = trained(tmp_path / "run")
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has weights.safetensors, but no config.json; copy that file back"):
        trained(run, resume=True)
    run = trained(tmp_path / "again")
    for name in ("weights.safetensors", "last.safetensors"):
        (run / name).unlink()
    with pytest.raises(ValueError, match=r"has 2 epochs of metrics, but no last.safetensors"):
        trained(run, resume=True)
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(ValueError, match="is a pipe"):
        trained(run, resume=True)


def test_data_that_have_moved_are_the_same_data(tmp_path):
    run = trained(tmp_path / "run")
    moved = {"data": {"source": "there", "checksum": "abc"}}
    trained(run, epochs=3, resume=True, about=moved)
    assert al.Run(run).summary.data == "there"
    assert al.Run(run).summary.epochs == 3
    with pytest.raises(ValueError, match="was trained with data"):
        trained(run, epochs=4, resume=True, about={"data": {"source": "there", "checksum": "abd"}})


def test_no_clipping_is_strict_json_and_can_be_resumed(tmp_path):
    run = trained(tmp_path / "run", clip=math.inf)
    json.loads((run / "config.json").read_text(), parse_constant=pytest.fail)
    trained(run, clip=math.inf, epochs=3, resume=True)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"fit": config["fit"] | {"clip": math.inf}}))  # as before
    for name in ("weights", "last"):  # which had no hashes either
        values, state = tensors.read_tensors(run / f"{name}.safetensors")
        state.pop("config")
        tensors.write_tensors(run / f"{name}.safetensors", values, state)
    trained(run, clip=math.inf, epochs=4, resume=True)
    assert al.Run(run).summary.epochs == 4


def test_a_run_knows_when_and_on_what_it_was_made(tmp_path, monkeypatch):
    """Each machine once, with the date on which it was first used: however often a training is resumed there."""

    def machines():
        return directory.read_config(tmp_path / "run").get("machines")

    x = torch.rand(20, 3).round().double()
    again = dict(valid=x, batch_size=10, out=tmp_path / "run", resume=True)
    model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4]).double()
    al.fit(model, x, epochs=1, **again)
    (first,) = machines()
    assert first["device"] == "cpu"
    here = directory.machine
    later = {"date": "2031-01-01T00:00:00+00:00"}
    monkeypatch.setattr(directory, "machine", lambda device: {**here(device), **later})
    al.fit(model, x, epochs=2, **again)
    assert machines() == [first]
    monkeypatch.setattr(directory, "machine", lambda device: {**here(device), **later, "processor": "another"})
    al.fit(model, x, epochs=3, **again)
    assert machines() == [first, {**first, **later, "processor": "another"}]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for wrong in (3, [3], [{**first, "threads": "two"}], [{"date": "today"}]):
        (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "machines": wrong}))
        with pytest.raises(ValueError, match="machines"):
            directory.read_config(tmp_path / "run")


def test_an_older_copy_of_the_same_run_s_weights_is_found(tmp_path):
    run, weights = tmp_path / "run", "weights.safetensors"
    older = (trained(run) / weights).read_bytes()
    newer = (trained(run, epochs=4, resume=True) / weights).read_bytes()
    (run / weights).write_bytes(older)
    for read in (al.load, lambda run: al.Run(run).sample(1)):
        with pytest.raises(ValueError, match=r"weights.safetensors is of step 8, an older copy than .* of step 16"):
            read(run)
    last = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").unlink()  # they are good weights
    same(al.load(run), al.load(run))
    (run / "last.safetensors").write_bytes(last)
    trained(run, epochs=4, resume=True)  # a resume writes them anew
    assert (run / weights).read_bytes() == newer


def test_weights_that_a_kill_has_left_newer_than_the_checkpoint_are_no_fault(tmp_path, monkeypatch):
    run = trained(tmp_path / "run")
    write = state.write_tensors

    def killed(path, values, position):
        if path.name == "last.safetensors" and position["step"] > 8:
            raise KeyboardInterrupt
        write(path, values, position)

    monkeypatch.setattr(state, "write_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(run, epochs=3, resume=True)
    monkeypatch.undo()
    same(al.load(run), al.load(run))
    resumed = (trained(run, epochs=3, resume=True) / "weights.safetensors").read_bytes()
    twice = trained(tmp_path / "twice")
    assert resumed == (trained(twice, epochs=3, resume=True) / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("part", ["average", "best", "model"])
def test_a_nan_in_a_checkpoint_without_hashes_is_refused(tmp_path, part):
    run = trained(tmp_path / "run")
    values, position = tensors.read_tensors(run / "last.safetensors")
    name = next(key for key in values if key.startswith(f"{part}/") and key.endswith("weight"))
    values[name].view(-1)[3] = math.nan
    save_file(values, run / "last.safetensors", {"allegory": json.dumps(position)})
    with pytest.raises(ValueError, match=rf"last.safetensors does not fit this model: {part}/.* not finite") as error:
        trained(run, epochs=3, resume=True)
    assert "\n" not in str(error.value)


def test_nan_weights_without_hashes_are_refused(tmp_path):
    run = trained(tmp_path / "run")
    values, _ = tensors.read_tensors(run / "weights.safetensors")
    for value in values.values():
        value.view(-1)[0] = math.nan
    save_file(values, run / "weights.safetensors", {"allegory": "{}"})
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged: .* more tensors are NaN; restore the file$"):
        al.load(run)


@pytest.mark.parametrize("step", [None, "x", 3.5, -1, [8]])
def test_a_step_of_another_type_without_hashes_is_refused(tmp_path, step):
    run = trained(tmp_path / "run")
    values, _ = tensors.read_tensors(run / "weights.safetensors")
    save_file(values, run / "weights.safetensors", {"allegory": json.dumps({"step": step})})
    with pytest.raises(ValueError, match=r"weights.safetensors, position: step is .*, wanted a whole number"):
        al.load(run)


@pytest.mark.parametrize(
    "edit",
    [{"inputs": 3}, {"inputs__data": []}, {"inputs__data": {"shape": 3}}, {"inputs__data__shape": [1, "x"]},
     {"inputs__valid": "x"}, {"inputs__computes": [1]}, {"inputs__computes__values": [[1], 2]},
     {"inputs__objective": 1}, {"inputs__schedules": {"lr": ["x"]}}, {"inputs__schedules": 1},
     {"inputs__networks": None}, {"inputs__given": "x"}, {"inputs__given": [{"shape": [3]}]},
     {"inputs__valid_given": [3]}],
    ids=str,
)  # fmt: skip
def test_what_a_run_records_of_its_inputs_is_checked(tmp_path, edit):
    run = trained(tmp_path / "run")
    changed(run, **edit)
    with pytest.raises(ValueError, match=r"config.json, inputs.*(wanted|has no)") as error:
        trained(run, epochs=3, resume=True)
    assert "\n" not in str(error.value)
