"""Runs side by side: their files say what they were, whatever state they are in."""

import functools
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_command import fails
from torch import nn

import allegory as al
from allegory.command import main
from allegory.data import Data, load
from allegory.evaluation import baseline
from allegory.views import runs


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def train(out, epochs=2, lr=1e-3, **settings):
    torch.manual_seed(0)
    x = torch.rand(60, 6).round()
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8])
    return al.fit(model, x, valid=x[:20], epochs=epochs, lr=lr, out=out, about={"data": {"source": "bits"}}, **settings)


def test_a_run_is_told_as_its_record_has_it():
    record = train("runs/a", epochs=3, seed=5)
    run = runs.summary("runs/a")
    assert (run.data, run.model, run.latent, run.objective, run.seed) == ("bits", "mlp bernoulli", [3, 2], "elbo", 5)
    assert (run.epochs, run.steps, run.stopped) == (record.epoch, record.step, "epochs")
    assert run.minutes == record.seconds / 60
    assert run.best_epoch == record.best_epoch
    assert run.bound == record.best_bound
    assert run.kl_per_level == record.history[record.best_epoch - 1]["kl_per_level"]


def test_without_validation_data_there_is_no_bound():
    al.fit(al.architectures.mlp((6,), latent=[2], hidden=[8]), torch.randn(20, 6), epochs=1, out="runs/a")
    run = runs.summary("runs/a")
    assert (run.bound, run.elbo, run.best_epoch, run.kl_per_level) == (None, None, None, [])
    assert (run.data, run.epochs) == ("", 1)


def test_a_run_before_its_first_checkpoint_is_told_so_far():
    train("runs/a")
    (runs.Path("runs/a") / "last.safetensors").unlink()
    run = runs.summary("runs/a")
    assert (run.epochs, run.minutes, run.stopped, run.bound) == (0, 0.0, "", None)


def test_the_command_lists_the_best_first_and_leaves_out_what_is_damaged(capsys):
    train("runs/short", epochs=1, lr=1e-5)
    train("runs/deep/long", epochs=20, lr=1e-2)
    train("runs/broken")
    (runs.Path("runs/short") / "last.safetensors").rename("kept")
    assert main(["runs", "runs"]) == 0
    out = capsys.readouterr().out
    assert out.index("deep") < out.index("0..")  # what has no bound yet comes last
    runs.Path("kept").rename("runs/short/last.safetensors")
    (runs.Path("runs/broken") / "last.safetensors").write_bytes(b"no")
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out.index("deep/long") < out.index("short")
    assert "broken" not in out
    assert err.startswith("allegory: skipped: runs/broken/last.safetensors")
    assert main(["runs", "runs", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["bound"] > second["bound"]
    assert [run["path"] for run in (first, second)] == ["runs/deep/long", "runs/short"]
    assert runs.find("runs/short") == [runs.Path("runs/short")]


@pytest.mark.parametrize("data", ["mnist", {"source": 3}, {}, None], ids=str)
def test_a_run_of_a_users_own_is_listed_under_its_name(data, capsys):
    model = al.architectures.mlp((6,), latent=[2], hidden=[8])
    al.fit(model, torch.randn(20, 6), epochs=1, out="runs/[red]", about={"data": data})
    assert main(["runs"]) == 0
    assert "[red]" in capsys.readouterr().out


def test_a_folder_without_runs_is_an_error(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no run in it" in fails(capsys, "runs", "empty")
    assert "no such folder; wanted one" in fails(capsys, "runs")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert main(["runs", "empty"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert ["skipped" in said[0], "none of the runs in it can be read" in said[1]] == [True, True]


class Small(al.VAE):
    """A class of one's own."""

    def __init__(self, width=2):
        super().__init__(
            al.StandardNormal(width),
            al.Conditional(nn.Linear(6, 2 * width), al.families.normal),
            al.Conditional(nn.Linear(width, 6), al.families.bernoulli),
        )


def bits(name="bits"):
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(1)).round()
    return Data(name, x[:40], x[40:50], x[50:])


def described(out, **settings):
    """A run that knows its data."""
    np.savez("bits.npz", train=2 * bits().train.numpy(), valid=2 * bits().valid.numpy(), test=2 * bits().test.numpy())
    data, about = load("bits.npz").scored_as("auto")
    model = al.architectures.mlp((6,), about["likelihood"], latent=[3, 2], hidden=[8])
    return al.fit(model, data.train, valid=data.valid, epochs=3, out=out, about={"data": about}, **settings)


def test_a_run_is_what_was_trained_on_what_and_how():
    record = described("run", seed=4, lr=0.01)
    run = al.Run("run")
    assert (run.settings["seed"], run.settings["lr"], run.settings["epochs"]) == (4, 0.01, 3)
    assert run.history == record.history
    assert run.model is run.model
    assert not run.model.training
    assert torch.equal(run.data.test, bits().test)  # 0 and 2 in the file, 0 and 1 here
    assert run.summary.best_epoch == record.best_epoch
    assert run.range == (0.0, 1.0)
    assert re.fullmatch(r"Run\('run', mlp bernoulli 3,2 on .*bits.npz, 3 epochs, bound -\d+\.\d\d\)", repr(run))
    runs.Path("run/metrics.jsonl").unlink()
    assert al.Run("run").history == []  # a run that was copied without it


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_a_run_can_what_the_functions_can_and_leaves_the_random_state_alone():
    described("run")
    run, x = al.Run("run"), bits().test
    state = torch.get_rng_state()
    found = [run.evaluate(samples=5), run.bound_curve(samples=5), run.diagnose(examples=7)]
    pairs, encoded, draws = run.reconstruct(count=4), run.encode(x), run.sample(5, temperature=0.5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(0)
    reference = -baseline(run.model, bits().train, x)
    assert found[0] == replace(al.evaluate(run.model, x, samples=5), baseline_nll=reference)
    torch.manual_seed(0)
    assert found[1] == al.bound_curve(run.model, x, samples=5)
    torch.manual_seed(0)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:7]
    few = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:7]
    reference = -baseline(run.model, bits().train, x[rows])
    diagnosis = al.diagnose(run.model, x[rows], bits().train[few], baseline_nll=reference)
    assert found[2].as_dict() == diagnosis.as_dict()
    assert torch.equal(pairs.originals, x[pairs.rows])
    assert pairs.reconstructions.shape == (4, 6)
    assert [tuple(mean.shape) for mean, _ in encoded] == [(10, 3), (10, 2)]
    torch.manual_seed(0)
    assert torch.equal(draws, run.model.sample(5, temperature=0.5))
    assert not torch.equal(draws, run.sample(5, temperature=0.5, seed=1))
    np.save("twos.npy", 2 * x.numpy())
    assert torch.equal(run.read("twos.npy"), x)
    assert torch.equal(run.encode("twos.npy")[0][0], encoded[0][0])


def test_ais_stands_beside_the_bound(monkeypatch):
    described("run")
    quick = functools.partial(al.ais, temperatures=30, chains=4)
    monkeypatch.setattr("allegory.evaluation.annealing.ais", quick)
    found = al.Run("run").compare_with_ais(examples=5, samples=50)
    assert found["examples"] == 5
    assert found["difference"] == pytest.approx(found["nll_bound"] - found["nll"], abs=1e-4)
    assert abs(found["difference"]) < 2


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_a_model_of_ones_own_is_evaluated_and_reported_where_its_class_and_data_are_given():
    al.save(Small(3), "run", arguments={"width": 3})
    run = al.Run("run", Small, data=bits())
    assert repr(run) == "Run('run', Small, saved)"
    assert (run.settings, run.history) == ({}, [])
    assert run.evaluate(samples=5).examples == 10
    assert run.report(samples=5, examples=10) == runs.Path("run/report.html")
    text = runs.Path("run/report.html").read_text()
    assert "Reconstructions" in text
    assert "has not finished" not in text
    assert "The model was saved without a training history" in text
    assert "0 epochs" not in text
    with pytest.raises(ValueError, match=r"Small, was not made by allegory\.architectures"):
        _ = al.Run("run", data=bits()).model
    assert al.report("run", bits().test, model=Small, samples=5) == runs.Path("run/report.html")


class Laplaces(al.families.Family):
    """A family that the library does not have."""

    size = 1

    def law(self, mu):
        return torch.distributions.Laplace(mu, 1.0)


def test_of_a_model_of_ones_own_a_report_has_what_the_files_say(capsys):
    al.fit(Small(), bits().train, valid=bits().valid, epochs=3, out="run")
    al.save(al.architectures.mlp((6,), Laplaces(), [2], [8]), "other")
    assert not al.Run("run").knows_its_model
    assert not al.Run("other").knows_its_model
    assert al.Run("other", likelihood=Laplaces()).knows_its_model
    for run in ("run", "other"):
        assert main(["report", run]) == 0
        assert f"parts that need the model are left out: {run}: " in capsys.readouterr().err
        text = runs.Path(run, "report.html").read_text()
        assert "Parts that need the model are left out" in text
        assert "How to reproduce it" in text
        assert "Samples" not in text
    assert "The bound over training" in runs.Path("run/report.html").read_text()


def test_a_family_of_ones_own_is_given_again():
    family = Laplaces()
    al.save(al.architectures.mlp((6,), family, [2], [8]), "run")
    assert repr(al.Run("run")) == "Run('run', mlp Laplaces 2, saved)"
    assert al.Run("run", likelihood=family).sample(3).shape == (3, 6)
    with pytest.raises(ValueError, match=r"its likelihood, .*test_runs\.Laplaces, has to be given again"):
        al.Run("run").sample(3)


def test_a_family_of_the_library_is_not():
    family = al.families.normal_fixed(0.5)
    al.save(al.architectures.mlp((6,), family, [2], [8]), "run")
    assert repr(al.Run("run")) == "Run('run', mlp normal_fixed 2, saved)"
    assert al.Run("run").knows_its_model
    torch.testing.assert_close(al.Run("run").sample(3, seed=0), al.Run("run", likelihood=family).sample(3, seed=0))


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_two_values_become_bits_for_a_bernoulli_alone():
    x = 255 * bits().train
    for likelihood, high in (("bernoulli", 1.0), ("poisson", 255.0)):
        al.save(al.architectures.mlp((6,), likelihood, [2], [8]), likelihood)
        run = al.Run(likelihood, data=Data("grey", x, x[:5], x[5:10]))
        assert run.data.test.max() == high
        np.save("x.npy", x.numpy())
        assert run.read("x.npy").max() == high
    al.save(Small(), "own")
    assert al.Run("own", Small, data=Data("grey", x, x, x)).data.train.max() == 1.0


def test_what_a_run_cannot_give_is_said_in_one_line():
    described("run")
    al.save(Small(), "own")
    damaged = al.Run("run")
    wrong = {
        "nowhere is not a run directory": lambda: al.Run("nowhere"),
        "own does not record what data it was trained on; give them": lambda: al.Run("own", Small).evaluate(),
        "split='dev': wanted one of train, valid, test": lambda: al.Run("run").evaluate("dev"),
        "bits is not the data run was trained on": lambda: al.Run("run", data=replace(bits(), test=bits().train)).data,
        "n=0: wanted at least 1": lambda: al.Run("run").sample(0),
        "count=0: wanted at least 1": lambda: al.Run("run").reconstruct(count=0),
        "device tpu9: wanted auto, cpu": lambda: al.Run("run", device="tpu9"),
        "is damaged": lambda: damaged.history,
    }
    for message, call in wrong.items():
        if call is wrong["is damaged"]:
            runs.Path("run/metrics.jsonl").write_text("{")
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_data_in_memory_that_are_the_same_are_taken():
    described("run")
    assert torch.equal(al.Run("run", data=bits()).data.test, bits().test)


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_dynamic_training_data_are_binarised_once_to_be_scored(monkeypatch):
    grey = bits().train * 0.5 + 0.25
    al.save(al.architectures.mlp((6,), "bernoulli", [2], [8]), "run")
    run = al.Run("run", data=replace(bits(), train=grey, dynamic=True))
    assert run.evaluate("train", samples=3) == run.evaluate("train", samples=3)
    assert {*run.data.subset("train", 20)[1].unique().tolist()} == {0.0, 1.0}


def test_a_report_draws_from_the_data_that_the_run_remembers():
    described("run")
    al.report("run", samples=5, examples=10)
    text = runs.Path("run/report.html").read_text()
    assert "On 10 examples of test, in nats per example" in text
    assert "Parts that need data are left out" not in text
    runs.Path("bits.npz").unlink()
    al.Run("run").report("other.html")
    assert "Parts that need data are left out" in runs.Path("other.html").read_text()


def test_the_summary_of_a_saved_model():
    al.save(Small(), "runs/own")
    told = runs.summary("runs/own")
    assert (told.model, told.stopped, told.epochs, told.bound) == ("Small", "saved", 0, None)


def test_many_draws_come_in_parts_and_leave_the_global_generator_alone(tmp_path, monkeypatch):
    run = al.Run(al.save(al.architectures.mlp((6,), "bernoulli", [3], [5]), tmp_path / "run"))
    one = run.sample(7, seed=3)
    torch.manual_seed(3)
    with torch.no_grad():
        assert torch.equal(one, run.model.generate(7).sample())  # what fits one part is drawn as ever
    monkeypatch.setattr("allegory.views.runs.pairs_per_pass", lambda model, x: 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    parts = []
    for part in run.draw(8, seed=3):
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_grad_enabled()
        parts.append(part)
    assert [len(part.samples) for part in parts] == [len(part.means) for part in parts] == [3, 3, 2]
    assert torch.equal(run.sample(8, seed=3), torch.cat([part.samples for part in parts]))
    assert len(torch.cat([part.means for part in parts]).unique(dim=0)) == 8
    with pytest.raises(ValueError, match="n=0: wanted at least 1"):
        run.sample(0)


@pytest.mark.filterwarnings("ignore")
def test_data_in_other_units_than_those_of_the_training_are_told(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 10, 100] + [0, 50, 0]
    np.save("x.npy", x)
    main(["train", "x.npy", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2"])
    run = al.Run("run")

    def told(x):
        np.save("y.npy", x)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            run.encode("y.npy")
        return [str(one.message) for one in found if "y.npy" in str(one.message)]

    for usual in (x, x[:1], x[5:8], 3 * x + 5, np.r_[x, [[1e6] * 3]]):
        assert told(usual) == []
    assert re.search(r"y.npy: its values are .* spreads of the training data away from their mean", *told(1000 * x))
    assert re.search(r"y.npy: its values vary by 0\.001 of what the training data do; are they in", *told(x / 1000))
    gaps = np.where(np.random.default_rng(1).random(x.shape) < 0.1, np.nan, x)
    np.save("x.npy", gaps)
    main(["train", "x.npy", "--out", "gaps", "--epochs", "1", "--hidden", "8", "--latent", "2"])
    run = al.Run("gaps")
    assert told(gaps) == []
    assert re.search(r"y.npy: its values are .* spreads", *told(1000 * gaps))
    assert re.search(r"y.npy: its values vary by 0\.001 of", *told(gaps / 1000))


@pytest.mark.filterwarnings("ignore")
def test_a_categorical_run_keeps_the_codes_of_its_data():
    x = np.random.default_rng(0).integers(-2, 3, (100, 4))
    np.save("x.npy", x)
    assert main(["train", "x.npy", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2"]) == 0
    run = al.Run("run")
    assert run.data.train.min() == -2
    assert {*run.sample(500).flatten().tolist()} <= {-2, -1, 0, 1, 2}
    assert main(["sample", "run", "--count", "9", "--out", "s.npz"]) == 0
    assert main(["encode", "run", "s.npz", "--array", "samples", "--out", "z.npz"]) == 0
    assert run.evaluate(samples=3).baseline_nll == pytest.approx(4 * np.log(5), rel=0.1)


def test_data_that_a_model_cannot_score_are_refused_before_the_baseline_is_fitted_to_them():
    al.save(al.architectures.mlp((1, 8, 8), "bernoulli", [2], [4]), "run")
    for found in ("diagnose", "evaluate"):
        with pytest.raises(ValueError, match="outside the support of Bernoulli"):
            getattr(al.Run("run", data="digits"), found)()


def test_a_chain_with_a_fixed_encoder_is_listed_with_its_levels_and_two_rates(capsys):
    x = (torch.rand(20, 4) < 0.5).float()
    for levels in (30, None):
        model = al.architectures.masked_diffusion((4,), "bernoulli", levels=levels, width=8, blocks=1)
        al.fit(model, x, valid=x, epochs=1, out=f"runs/{levels}")
    al.fit(al.architectures.mlp((4,), "bernoulli", [1] * 30, [2]), x, valid=x, epochs=1, out="runs/deep")
    main(["runs"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "masked_diffusion T=30" in shown
    assert "masked_diffusion T=inf" in shown
    assert shown.count("below the top, 0.0") == 2
    assert "of 30 levels" in shown
    assert len(runs.summary("runs/deep").as_dict()["kl_per_level"]) == 30  # JSON stays complete
    model = al.architectures.diffusion((4,), "bernoulli", levels=None, width=8, blocks=1)
    al.fit(model, x, valid=x, epochs=1, out="runs/endless")
    with pytest.raises(ValueError, match=r"of a run al.Run\(path, levels=1000\)"):
        al.report("runs/endless", x, train=x)
    assert al.report(al.Run("runs/endless", levels=25), x, train=x, samples=2).exists()
    assert repr(al.Run("runs/30")) == "Run('runs/30', masked_diffusion bernoulli T=30, 1 epochs, bound " + (
        f"{runs.summary('runs/30').bound:.2f})"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", [-999.9, 1e20])
def test_what_stands_for_gaps_in_an_array_does_so_for_the_run_too(code):
    """float32, as in the file, has neither number."""
    x = np.random.default_rng(0).integers(-20, 20, (200, 3)).astype(np.float32) / 2
    x[::6, 1] = code
    np.save("x.npy", x)
    train = ["train", "x.npy", "--gaps", str(code), "--likelihood", "normal", "--out", "run", "--epochs", "1"]
    assert main([*train, "--hidden", "8", "--latent", "2"]) == 0
    run = al.Run("run")
    wanted = np.where(np.isclose(x, code), np.nan, x)
    np.testing.assert_array_equal(run.read("x.npy"), wanted)
    assert int(run.data.train.isnan().sum()) > 20
    assert main(["evaluate", "run", "--importance-samples", "2"]) == 0
    assert main(["compress", "run", "x.npy", "--resolution", "0.5", "--out", "x.alg"]) == 0
    assert main(["decompress", "run", "x.alg", "--out", "again.npy"]) == 0
    np.testing.assert_array_equal(np.load("again.npy"), x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("likelihood", ["normal", "columns"])
def test_arrays_that_are_given_stand_beside_the_examples(likelihood, capsys):
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 3, 200), rng.poisson(400, (200, 3)).astype(np.float32)
    np.savez("x.npz", x=x, y=y)
    train = ["train", "x.npz", "--given", "y", "--likelihood", likelihood, "--out", "run", "--epochs", "1"]
    assert main([*train, "--hidden", "8", "--latent", "2"]) == 0
    run = al.Run("run")
    np.testing.assert_array_equal(run.in_data_units(run.read("x.npz")), x)
    np.testing.assert_array_equal(run.read_given("x.npz").argmax(1), y)
    assert main(["evaluate", "run", "--importance-samples", "2"]) == 0
    assert main(["encode", "run", "x.npz", "--out", "z.npz"]) == 0
    resolution = ["--resolution", "1"] if likelihood == "normal" else []
    assert main(["compress", "run", "x.npz", *resolution, "--out", "x.alg"]) == 0
    if likelihood == "columns":
        capsys.readouterr()
        assert "do not say what is given with them" in fails(capsys, "score", "run", "x.npz", "--out", "scores.csv")


@pytest.mark.filterwarnings("ignore")
def test_a_run_and_its_data_stay_where_they_were_opened(tmp_path, monkeypatch):
    """As in a loop over folders that have a run of the same name each."""
    opened = []
    for name, mean in (("a", 0), ("b", 9)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        np.save("x.npy", mean + np.random.default_rng(0).integers(0, 2000, (60, 2)) / 1000)
        main(["train", "x.npy", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2"])
        opened.append((al.Run("run"), load("x.npy")))
    for (run, data), mean in zip(opened, (1, 10), strict=True):
        assert run.sample(200).mean() == pytest.approx(mean, abs=0.5)
        assert run.summary.bound == al.Run(run.folder).summary.bound
        scored, about = data.scored_as("columns")
        assert scored.schema.columns[0].range[0] >= mean - 1
        assert about["source"] == run.source


@pytest.mark.filterwarnings("ignore")
def test_what_is_given_far_from_the_training_data_is_told(capsys):
    rng = np.random.default_rng(0)
    year = rng.integers(1950, 2020, 200).astype(float)
    x = rng.normal(size=(200, 2))
    np.savez("x.npz", x=x, year=year)
    train = ["train", "x.npz", "--given", "year", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2"]
    assert main(train) == 0
    run = al.Run("run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.read_given("x.npz")
        run.given_as({"year": 2030}, 3)
        run.given_as({"year": (1960, 1980)}, 3)
    with pytest.warns(UserWarning, match="given: year is 4.* spreads of the training data away from their middle"):
        run.given_as({"year": 3000}, 3)
    np.savez("x.npz", x=x, year=1000 * year)
    with pytest.warns(UserWarning, match="x.npz: year is .* spreads .*; is it in the same units"):
        run.read_given("x.npz")


@pytest.mark.parametrize("count", [0, -5, 1.5])
def test_a_number_of_examples_is_one_or_more(count):
    """As an index -5 would mean all but five."""
    run = al.Run(al.save(al.architectures.mlp((1, 8, 8), "poisson", [2], [4]), "run"), data="digits")
    for call in (
        lambda: run.data.subset("test", count),
        lambda: run.diagnose(examples=count),
        lambda: run.compare_with_ais(examples=count),
        lambda: run.reconstruct(count=count),
        lambda: run.sample(count),
    ):
        with pytest.raises(ValueError, match="wanted at least 1, a whole number"):
            call()
