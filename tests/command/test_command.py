"""The command as a user types it: what it writes, what it prints, and one line and exit 2 for each mistake."""

import functools
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import allegory
import allegory as al
from allegory import architectures
from allegory.command import demo, main
from allegory.command.options import DEFAULTS, TRAINING
from allegory.command.training import MODEL
from allegory.data import splits
from allegory.evaluation import annealing
from allegory.runtime import compilation, precision
from allegory.training.loop import fit

TINY = ["--hidden", "16", "--latent", "4,2", "--epochs", "3", "--batch-size", "200"]


@pytest.fixture(autouse=True)
def _as_a_user(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLEGORY_DATA", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(run), *TINY, "--precision", "float32"]) == 0
    return run


def size(path):
    with Image.open(path) as image:
        return image.size


def fails(capsys, *arguments):
    """Exit 2, nothing on standard output, one line on standard error, which is returned."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    line = [line for line in err.splitlines() if line.startswith("allegory") and "warning" not in line]
    assert len(line) == 1, err
    assert "Traceback" not in err
    return line[0]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_values_and_files(tmp_path):
    script = """
    allegory() { %s -m allegory "$@"; }
    compopt() { echo "asks for $2"; }
    eval "$(allegory completion bash)"
    try() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _allegory_completion ./allegory
        echo "${COMPREPLY[@]}"
    }
    try allegory ev
    try allegory train digits --arch
    try allegory train digits --architecture c
    try allegory train dig
    try allegory evaluate ru
    """
    (tmp_path / "allegory").write_text(f"#!/bin/sh\nexec {sys.executable} -m allegory\n")
    (tmp_path / "allegory").chmod(0o755)
    done = subprocess.run(["bash", "-c", script % sys.executable], capture_output=True, text=True, check=True)
    wanted = ["evaluate", "--architecture", "conv", "asks for default", "", "asks for dirnames", ""]
    assert done.stdout.splitlines() == wanted, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_taught_too(shell, capsys):
    assert main(["completion", shell]) == 0
    assert f"_ALLEGORY_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_the_version_and_all_that_it_stands_on(capsys, monkeypatch):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{allegory.__version__}\n"
    told = types.SimpleNamespace(environment=lambda: {"allegory": "1", "nothing": float("nan")})
    monkeypatch.setitem(sys.modules, "allegory.runtime.environment", told)
    assert main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"allegory": "1", "nothing": None}
    assert "--json goes with --version" in fails(capsys, "--json")


def test_the_table_of_options_says_the_defaults_that_hold():
    """What it does not know itself, of architectures and of fit, is as it is there."""
    for option in TRAINING:
        for name, build in (("mlp", architectures.mlp), ("conv", architectures.conv)):
            if option.of == ("architecture", (name,)) or (option.name in MODEL[name] and option.name in DEFAULTS):
                assert inspect.signature(build).parameters[option.name].default == option.default, option.name
    known = inspect.signature(fit).parameters
    for name in ("samples", "batch_size", "lr", "beta", "weight_decay", "ema", "seed", "checkpoint_seconds"):
        assert known[name].default == DEFAULTS[name], name


def test_every_part_of_an_architecture_can_be_asked_for():
    for name, build in (("mlp", architectures.mlp), ("conv", architectures.conv)):
        parts = {*inspect.signature(build).parameters} - {"event_shape", "likelihood", "categories", "data", "residual"}
        parts -= {"lowest", "row_names", "offset", "gaps", "given", "given_data", "exposure"}  # found in the data
        parts -= {"lines", "padded"}  # of runs from before
        assert {*MODEL[name]} == parts
        assert {*MODEL[name]} <= {option.name for option in TRAINING}


def test_the_help_says_what_there_is(capsys):
    assert main(["train", "-h"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "--hidden H1,H2,.. mlp: widths of the hidden layers of each network (default: 300,300; 1000,1000 for up to",
        "--channels C conv: channels of the ladder (default: 64; for up to 10,000 pictures 32)",
        "--markov / --all-above",
        "DATA is a built-in name",
    ):
        assert words in out
    assert main(["--help"]) == 0
    assert "Lists and compares the runs in a folder: data, model" in " ".join(capsys.readouterr().out.split())


def test_a_run_has_a_dated_folder_by_default(capsys):
    assert main(["train", "digits", *TINY]) == 0
    out, err = capsys.readouterr()
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"digits-\d{8}-\d{6}", run.name)
    assert f"writing the run to {run}" in err
    assert f"next: allegory evaluate {run}" in out
    assert "--resume continues a run; name it: --out RUN" in fails(capsys, "train", "digits", "--resume")


def test_a_run_directory_is_self_contained(digits_run):
    assert sorted(path.name for path in digits_run.iterdir()) == [
        "config.json", "last.safetensors", "metrics.jsonl", "reconstructions.png", "samples.png", "weights.safetensors",
    ]  # fmt: skip
    config = json.loads((digits_run / "config.json").read_text())
    assert config["model"]["latent"] == [4, 2]
    assert config["model"]["likelihood"] == "categorical"
    assert config["data"]["source"] == "digits"
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert size(digits_run / "samples.png") == (8 * 98 + 2, 8 * 98 + 2)


def test_evaluate_prints_the_keys_of_the_contract(digits_run, capsys):
    assert main(["evaluate", str(digits_run), "--importance-samples", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {
        "examples", "split", "importance_samples", "nll", "nll_stderr", "elbo", "elbo_stderr", "reconstruction",
        "kl_per_level", "active_units", "bits_per_dim", "effective_sample_size",
    } <= result.keys()  # fmt: skip
    assert (result["examples"], result["split"], result["importance_samples"]) == (300, "test", 20)
    assert result["nll"] <= -result["elbo"] + 1e-6
    assert result["elbo"] == pytest.approx(result["reconstruction"] - sum(result["kl_per_level"]), abs=1e-4)
    assert result["bits_per_dim"] == pytest.approx(result["nll"] / 64 / np.log(2))
    assert len(result["kl_per_level"]) == len(result["active_units"]) == 2
    assert main(["evaluate", str(digits_run), "--importance-samples", "20", "--split", "valid"]) == 0
    out = capsys.readouterr().out
    assert "negative log-likelihood, -L_20" in out
    assert "bits per dimension" in out
    printed = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if "│" in line}
    parts = [float(printed[name]) for name in ("-reconstruction", "rate of level 1", "rate of level 2")]
    assert float(printed["-ELBO"]) == pytest.approx(sum(parts), abs=0.01)  # all of one sign
    assert main(["evaluate", str(digits_run), "--importance-samples", "20", "--precision", "bfloat16", "--json"]) == 0
    coarse = json.loads(capsys.readouterr().out)
    assert coarse["precision"] == "bfloat16"
    assert 0 < abs(coarse["nll"] - result["nll"]) < 0.02 * result["nll"]


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_one_example_has_no_error_and_json_no_nan(digits_run, capsys):
    x = np.random.default_rng(0).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)
    np.savez("three.npz", train=x, valid=x[:1], test=x[:1])
    train = ("--hidden", "8", "--latent", "2", "--epochs", "1", "--likelihood", "poisson")
    assert main(["train", "three.npz", "--out", "run", *train]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--importance-samples", "5", "--curve", "--json"]) == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    result = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert result["nll_stderr"] is None
    assert all(error is None for _, _, error in result["curve"])


def test_sample_reconstruct_encode(digits_run, tmp_path, capsys):
    assert main(["sample", str(digits_run), "--count", "10", "--out", "s.npz"]) == 0
    samples = np.load("s.npz")
    assert samples["samples"].shape == samples["means"].shape == (10, 1, 8, 8)
    assert set(np.unique(samples["samples"])) <= set(range(17))
    assert main(["sample", str(digits_run), "--count", "10", "--out", "s.png"]) == 0
    assert size("s.png") == (3 * 98 + 2, 4 * 98 + 2)
    assert main(["reconstruct", str(digits_run), "--count", "5", "--out", "r.npz"]) == 0
    assert np.load("r.npz")["originals"].shape == np.load("r.npz")["reconstructions"].shape == (5, 1, 8, 8)
    assert main(["reconstruct", str(digits_run), "--out", "r.png"]) == 0
    assert main(["encode", str(digits_run), "digits", "--out", "e.npz"]) == 0
    encoded = np.load("e.npz")
    assert {key: value.shape for key, value in encoded.items()} == {
        "z1_mean": (300, 4), "z1_std": (300, 4), "z2_mean": (300, 2), "z2_std": (300, 2),
    }  # fmt: skip
    assert bool((encoded["z2_std"] > 0).all())
    np.save("x.npy", np.zeros((3, 1, 8, 8)))
    assert main(["encode", str(digits_run), "x.npy", "--out", "e.npz"]) == 0
    assert np.load("e.npz")["z1_mean"].shape == (3, 4)


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_evaluate_checks_itself_and_diagnose_speaks(digits_run, capsys, monkeypatch):
    monkeypatch.setattr(annealing, "ais", functools.partial(allegory.ais, temperatures=20))
    run = str(digits_run)
    assert (
        main(["evaluate", run, "--importance-samples", "4", "--curve", "--ais", "--ais-examples", "2", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert [k for k, _, _ in result["curve"]] == [1, 2, 4]
    assert result["curve"][0][1] == pytest.approx(result["elbo"], abs=0.5)
    assert result["curve"][0][1] < result["curve"][1][1] < result["curve"][2][1]
    assert result["ais"]["examples"] == 2
    assert 0.3 < result["ais"]["acceptance"] < 1
    assert main(["diagnose", run, "--examples", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["evaluation"]["nll_stderr"] is None
    assert main(["diagnose", run, "--examples", "50"]) == 0
    out = capsys.readouterr().out
    assert "level 2 " in out
    assert "the training ELBO is" in out


LADDERS = {
    "top-down": ("--top-down", "--all-above", "--hidden", "16", "--latent", "4,2", "--block", "gated"),
    "conv": ("--architecture", "conv", "--channels", "8", "--latent", "2,2", "--scales", "2,4", "--blocks", "1"),
    "conv, Markov": (
        "--architecture",
        "conv",
        "--channels",
        "8",
        "--latent",
        "4,2",
        "--scales",
        "8,8",
        "--stem",
        "4",
        "--markov",
        "--blocks",
        "1",
    ),
    "mixture": ("--prior", "mixture", "--components", "9", "--hidden", "16", "--objective", "dreg", "--samples", "3"),
    "diffusion as the prior": ("--prior", "diffusion", "--prior-levels", "3", "--hidden", "16"),
    "free bits": ("--free-bits", "0.5", "--levels", "2", "--hidden", "16", "--beta", "1,2"),
    "renyi": ("--objective", "renyi", "--alpha", "0.2", "--samples", "2", "--hidden", "16"),
}


@pytest.mark.parametrize("kind", LADDERS)
def test_every_kind_of_model_trains_resumes_and_is_evaluated(kind, capsys):
    short = ("--batch-size", "400", "--epochs")
    assert main(["train", "digits", "--out", "run", *LADDERS[kind], *short, "1"]) == 0
    assert main(["train", "digits", "--out", "run", "--resume", "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--importance-samples", "2", "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["nll"])
    assert main(["diagnose", "run", "--examples", "20", "--json"]) == 0
    assert {"levels", "gap", "verdict", "evaluation"} <= json.loads(capsys.readouterr().out).keys()
    assert main(["sample", "run", "--out", "s.npz", "--count", "4"]) == 0
    assert main(["encode", "run", "digits", "--out", "e.npz"]) == 0


def test_datasets_lists_what_is_built_in(capsys):
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    for name in ("digits", "cave", "mnist", "fashion-mnist", "omniglot"):
        assert name in out


@pytest.mark.parametrize(
    ("values", "likelihood"),
    [
        (np.array([0.0, 255.0]), "bernoulli"),
        (np.arange(256.0), "discretized_logistic"),
        (np.arange(7.0), "categorical"),
        (np.array([-1.5, 0.25, 3.75, 100.0]), "columns"),
        (np.random.default_rng(1).normal(size=999), "normal"),
    ],
)
def test_the_likelihood_is_chosen_by_the_values_and_said(values, likelihood, capsys):
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.choice(values, (90, 5)))
    assert main(["train", "x.npy", "--out", "run", *TINY]) == 0
    assert f"likelihood: {likelihood}, because the data have" in capsys.readouterr().err
    assert main(["evaluate", "run", "--json", "--importance-samples", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 9


def test_few_large_examples_get_wide_layers_unless_others_are_asked_for(capsys):
    np.savez("flat.npz", x=(np.random.default_rng(0).random((40, 256)) < 0.5).astype(np.uint8))
    words = ["train", "flat.npz", "--epochs", "1", "--no-compile"]
    assert main([*words, "--out", "wide"]) == 0
    told = capsys.readouterr().err
    assert "few examples, 32 of 256 numbers: --hidden 1000,1000, --weight-decay 1" in told
    assert "give them as (N, 16, 16)" in told
    assert al.load("wide").config["hidden"] == [1000, 1000]
    assert main([*words, "--out", "narrow", "--hidden", "8"]) == 0
    assert "few examples, 32 of 256 numbers: --weight-decay 1" in capsys.readouterr().err
    assert al.load("narrow").config["hidden"] == [8]
    assert main([*words, "--out", "narrow", "--resume"]) == 0
    assert "few examples" not in capsys.readouterr().err


def test_few_pictures_get_convolutions_unless_perceptrons_are_asked_for(capsys):
    np.save("pictures.npy", (np.random.default_rng(0).random((40, 16, 16)) < 0.5).astype(np.uint8))
    words = ["train", "pictures.npy", "--epochs", "1", "--no-compile", "--out"]
    assert main([*words, "ladder", "--levels", "1"]) == 0
    told = "few examples, 32 of 256 numbers: --architecture conv, --channels 32, --blocks 1, --weight-decay 0.1"
    assert told in capsys.readouterr().err
    config = al.load("ladder").config
    assert (config["architecture"], config["channels"], config["latent"]) == ("conv", 32, [32])
    assert main([*words, "ladder", "--resume"]) == 0
    assert "few examples" not in capsys.readouterr().err
    for flag in (["--hidden", "8"], ["--latent", "4"], ["--architecture", "mlp"]):
        assert main([*words, flag[0][2:], *flag]) == 0
        assert "few examples, 32 of 256 numbers: --" in capsys.readouterr().err
        assert al.load(flag[0][2:]).config["architecture"] == "mlp"


def test_densities_are_in_the_units_of_the_data(capsys):
    """The same data in millimetres: every density is smaller by log 1000 a dimension."""
    x = np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0.5]])
    bounds = []
    for name, factor in (("metres", 1.0), ("millimetres", 1000.0)):
        np.save(f"{name}.npy", x * factor)
        assert main(["train", f"{name}.npy", "--out", name, *TINY, "--likelihood", "normal"]) == 0
        capsys.readouterr()
        assert main(["evaluate", name, "--json", "--importance-samples", "50"]) == 0
        bounds.append(json.loads(capsys.readouterr().out)["nll"])
    assert bounds[1] - bounds[0] == pytest.approx(3 * np.log(1000), abs=0.01)


@pytest.mark.filterwarnings("default:levels.npz. test. 45 of 45 values")
def test_mistakes_get_one_line(digits_run, capsys, tmp_path):
    rng = np.random.default_rng(0)
    np.save("ok.npy", rng.normal(size=(50, 5)))
    np.save("one.npy", rng.normal(size=(1, 5)))
    np.save("three.npy", rng.normal(size=(3, 5)))
    np.save("rounded.npy", np.full((1251, 1), 0.1, "f4"))  # the rounded standard deviation is not zero
    np.save("grey.npy", rng.random((50, 5)))
    np.save("constant.npy", rng.normal(size=(50, 5)) * np.array([1, 1, 0, 1, 1]))
    nan = rng.normal(size=(50, 5))
    nan[7, 2] = np.inf
    np.save("infinite.npy", nan)
    np.savez("levels.npz", train=rng.integers(0, 4, (50, 5)), valid=np.full((9, 5), 3), test=np.full((9, 5), 7))
    np.savez("rare.npz", train=rng.integers(0, 4, (50, 5)), test=np.full((9, 5), 9))
    train = lambda *more: ("train", *more, "--out", tmp_path / "new", "--epochs", "1")  # noqa: E731
    run = str(digits_run)
    wanted = {
        train("nothing.npy"): "nothing.npy",
        train("digit"): "did you mean 'digits'",
        train("one.npy"): "one",
        train("infinite.npy"): "infinity in 1 of 250 values, the first in row 7, column 2",
        train(
            "constant.npy", "--likelihood", "normal"
        ): "1 of 5 elements of x are constant in the training data, the first at [2]",
        train("grey.npy", "--likelihood", "bernoulli"): "continuous_bernoulli",
        train("ok.npy", "--likelihood", "poisson"): "the whole numbers 0, 1, 2, ...; the first is",
        train("ok.npy", "--likelihood", "normol"): "did you mean 'normal'",
        train("ok.npy", "--levels", "0"): "--levels: got '0', wanted a whole number, 1 or more",
        train("ok.npy", "--levels", "2", "--latent", "32"): "such as --latent 32,16",
        train("ok.npy", "--latent", "4,x"): "got 'x'",
        train("ok.npy", "--activation", "Relu"): "activation='Relu': did you mean 'ReLU'",
        train("ok.npy", "--free-bits", "-1"): "--free-bits: got '-1', wanted a number, 0 or more",
        train("ok.npy", "--free-bits", "1", "--objective", "iwae"): "--free-bits 1 applies only to --objective elbo",
        train("ok.npy", "--alpha", "nan", "--objective", "renyi"): "--alpha: got 'nan'",
        train("ok.npy", "--objective", "dreg", "--dropout", "0.1"): "dropout would make it two different ones",
        train("ok.npy", "--levels", "2", "--objective", "dreg", "--beta", "1,2"): "dreg takes one beta",
        train("ok.npy", "--alpha", "2"): "--alpha 2 applies only to --objective renyi, not to elbo",
        train("ok.npy", "--components", "5"): "--components 5 applies only to --prior mixture and vamp, not to",
        ("evaluate", run, "--ais-examples", "5"): "--ais-examples 5 applies only with --ais",
        train("ok.npy", "--beta", "1,2"): "beta=[1.0, 2.0]: wanted a number, at least 0, or one for each of 1 levels",
        train("ok.npy", "--latent-categories", "4"): "--latent-categories 4 applies only to --latent-family one_hot",
        train("ok.npy", "--channels", "8"): "--channels 8 applies only to --architecture conv, not to mlp",
        train("ok.npy", "--architecture", "conv"): "convolutions need images",
        train("digits", "--prior", "vamp"): "categories cannot be learned",
        train("ok.npy", "--prior", "vmap"): "did you mean 'vamp'",
        train("ok.npy", "--activation", "Module"): "activation='Module': wanted one of",
        train("ok.npy", "--device", "meta"): "--device meta: wanted auto, cpu, or cuda where",
        train("ok.npy", "--seed", "-1"): "--seed: got '-1'",
        train("ok.npy", "--hidden", "1000000,1000000"): "GiB of memory; wanted fewer or smaller levels or layers",
        train("three.npy"): "one training example has no spread",
        train("rounded.npy"): "1 of 1 elements of x are constant",
        train(
            "ok.npy", "--epoch", "3"
        ): "unknown argument '--epoch', did you mean '--epochs'?; see allegory train --help",
        train("ok.npy", "--device", "tpu9"): "--device tpu9",
        train("ok.npy", "--dynamic"): "dynamic",
        ("train", "ok.npy", "--out", run): "exists and is not empty",
        ("train", "ok.npy", "--out", "/proc/nowhere/run"): "cannot make the run directory",
        ("trian", "ok.npy"): "did you mean 'train'",
        ("evaluate", tmp_path / "none"): "is not a run directory",
        ("evaluate", run, "--split", "dev"): "wanted one of train, valid, test",
        ("evaluate", run, "--importance-samples", "0"): "got '0'",
        ("sample", run, "--out", "x.jpg"): ".npz or .png",
        ("sample", run, "--out", "nowhere/x.npz"): "there is no folder nowhere; make it first",
        ("sample", run, "--out", "x.npz", "--count", "0"): "allegory sample: --count: got '0', wanted a whole number",
        ("sample", run): "--out is missing; see allegory sample --help",
        ("train",): "DATA is missing; see allegory train --help",
        ("train", "ok.npy", "--latent"): "allegory train: option '--latent' requires an argument",
        ("datasets", "mnist"): "unexpected extra argument (mnist)",
        ("completion", "tcsh"): "wanted one of bash, zsh, fish",
        train("ok.npy", "--block", "gated", "--architecture", "conv"): "--block gated applies only to --architecture",
        train("ok.npy", "--top-down", "--architecture", "conv"): "--top-down applies only to --architecture mlp",
        ("encode", run, "ok.npy", "--out", "x.npz"): "was trained on (1, 8, 8)",
        ("encode", run, "digits", "--out", "x.txt"): ".npz",
    }
    for arguments, text in wanted.items():
        assert text in fails(capsys, *arguments), arguments
    assert main(["train", "levels.npz", "--out", "levels", "--epochs", "1", "--hidden", "4", "--latent", "2"]) == 0
    capsys.readouterr()
    np.save("nine.npy", np.full((2, 5), 9.0))  # a category that none of the three splits has
    assert "the integers 0 to 7; the first is 9 in row 0, column 0" in fails(
        capsys, "encode", "levels", "nine.npy", "--out", "x.npz"
    )
    assert main(["evaluate", "levels", "--importance-samples", "3"]) == 0
    capsys.readouterr()
    vectors = ("train", "ok.npy", "--out", "vectors", "--epochs", "1", "--hidden", "4", "--latent", "2")
    assert main(list(vectors)) == 0
    capsys.readouterr()
    assert "are not images" in fails(capsys, "sample", "vectors", "--out", "x.png")
    np.save("ok.npy", rng.normal(size=(50, 5)))
    assert "has changed since" in fails(capsys, "evaluate", "vectors")
    np.save("ok.npy", rng.normal(size=(50, 6)))
    assert "examples of shape (6,)" in fails(capsys, "evaluate", "vectors")
    os.unlink("ok.npy")
    assert "ok.npy" in fails(capsys, "evaluate", "vectors")


CONFIGS = {
    "fit": "it has no valid 'fit'",
    "model": "it has no valid 'model'",
    "command": "was not trained by `allegory train`",
    "format": "cannot be read as a run's configuration",
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_run_whose_config_was_edited_is_named(digits_run, capsys, tmp_path, key):
    run = shutil.copytree(digits_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    del config[key]
    (run / "config.json").write_text(json.dumps(config))
    assert CONFIGS[key] in fails(capsys, "train", "digits", "--out", run, "--resume")


def test_a_foreign_model_or_data_or_file_is_named(digits_run, capsys, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": {"source": "digits"}}))
    assert "does not record the data's checksum, dynamic" in fails(capsys, "evaluate", run)
    (run / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"depth": 3}}))
    assert "not of this version" in fails(capsys, "evaluate", run)
    (run / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, run / "weights.safetensors", {"allegory": "hello"})
    assert "weights.safetensors was not written by allegory" in fails(capsys, "evaluate", run)


def test_a_kill_in_the_first_write_leaves_a_directory_that_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.123").write_text("{")
    assert main(["train", "digits", "--out", "run", *TINY]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:L_. says little")
@pytest.mark.filterwarnings("ignore:lr_warmup=100")  # of a training of a few steps
def test_what_the_demo_says_next_works(monkeypatch, capsys):
    monkeypatch.setattr(demo, "fit", lambda *args, epochs, **more: allegory.fit(*args, epochs=1, **more))
    monkeypatch.setattr(demo, "IMPORTANCE_SAMPLES", 5)
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "independent pixels" in out
    assert main(out.splitlines()[-1].split()[1:]) == 0
    assert size("more.png") == (8 * 98 + 2, 8 * 98 + 2)
    assert main(["evaluate", "allegory-demo/levels-2", "--importance-samples", "3"]) == 0


def start(*arguments, **more):
    command = [sys.executable, "-m", "allegory", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more
    )  # fmt: skip


LONG = ["--hidden", "16", "--latent", "4,2", "--epochs", "40", "--batch-size", "100", "--dropout", "0.1", "--seed", "3"]
LONG += ["--precision", "float32", "--no-compile"]


def wait_for(path, lines):
    for _ in range(2400):
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never had {lines} lines")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", "digits", "--out", str(run), *LONG]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_resumes_bit_by_bit(whole_run, tmp_path, kill):
    runs = {"whole": whole_run, "killed": tmp_path / "killed"}
    process = start("train", "digits", "--out", runs["killed"], *LONG, "--checkpoint-seconds", "0")
    wait_for(runs["killed"] / "metrics.jsonl", lines=3)
    process.send_signal(kill)
    _, err = process.communicate()
    assert process.returncode == (130 if kill == signal.SIGINT else -9)
    if kill == signal.SIGINT:
        assert f"resume with: allegory train digits --out {runs['killed']} --resume" in err
        assert "Traceback" not in err
    before = (runs["killed"] / "metrics.jsonl").read_text()
    assert before.count("\n") < 40
    assert main(["train", "digits", "--out", str(runs["killed"]), "--resume"]) == 0
    metrics = [(run / "metrics.jsonl").read_bytes() for run in runs.values()]
    assert metrics[0] == metrics[1]
    assert (runs["whole"] / "weights.safetensors").read_bytes() == (runs["killed"] / "weights.safetensors").read_bytes()


def test_a_pipe_that_closes_is_no_error():
    process = subprocess.run(
        f"{sys.executable} -m allegory datasets | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in process.stderr


def test_a_run_that_was_fast_is_resumed_as_it_was(monkeypatch, capsys):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (90, 5)))
    train = ["train", "x.npy", "--out", "run", "--hidden", "8", "--latent", "2"]
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: 2.0)
    assert main([*train, "--epochs", "1"]) == 0
    assert "precision: bfloat16 in the networks, whose matrix products are 2.0 times as fast" in capsys.readouterr().err
    assert json.loads(Path("run/config.json").read_text())["fit"]["precision"] == "bfloat16"
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: 1.0)
    assert main([*train, "--epochs", "2", "--resume"]) == 0, capsys.readouterr().err


def test_a_compiler_is_found(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setenv("CXX", sys.executable)  # anything that is there
    assert compilation.has_compiler(cpu)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not compilation.has_compiler(cpu)


def test_without_a_compiler_nothing_is_compiled_and_that_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    model, x = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4]), torch.ones(9, 3).float()
    with pytest.warns(UserWarning, match="there is no compiler on this machine, so nothing is compiled"):
        assert al.fit(model.float(), x, epochs=1, compile=True).epoch == 1


@pytest.mark.filterwarnings("ignore:L_. says little")
@pytest.mark.parametrize("how", ["fit", "save"])
def test_a_run_of_python_can_all_that_a_run_can_where_the_data_are_given(how, capsys):
    torch.manual_seed(0)
    x = (torch.rand(40, 1, 4, 4) < 0.5).float()
    model = al.architectures.mlp((1, 4, 4), "bernoulli", latent=[2], hidden=[4])
    if how == "fit":
        al.fit(model, x, epochs=1, out="run")
    else:
        al.save(model, "run")
    assert main(["sample", "run", "--count", "9", "--out", "s.npz"]) == 0
    assert np.load("s.npz")["samples"].shape == (9, 1, 4, 4)
    assert main(["sample", "run", "--count", "9", "--out", "s.png"]) == 0
    assert Path("s.png").exists()
    np.savez("x.npz", train=255 * x[:20].numpy(), valid=255 * x[20:30].numpy(), test=255 * x[30:].numpy())
    assert main(["encode", "run", "x.npz", "--out", "e.npz"]) == 0  # two values, whatever they are called
    assert np.load("e.npz")["z1_mean"].shape == (40, 2)
    assert main(["runs", "."]) == 0
    assert main(["report", "run", "--out", "without.html"]) == 0
    out, err = capsys.readouterr()
    assert "parts that need data are left out: run does not record what data" in err
    for command in ("evaluate", "diagnose", "reconstruct"):
        assert "does not record what data" in fails(capsys, command, "run", *(["--out", "r.npz"] * (command[0] == "r")))
    few = ["--importance-samples", "5"]
    assert main(["evaluate", "run", "--data", "x.npz", *few, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["examples"] == 10
    assert "the test split here may contain training examples" in err
    assert main(["diagnose", "run", "--data", "x.npz"]) == 0
    assert main(["reconstruct", "run", "--data", "x.npz", "--out", "r.png"]) == 0
    assert main(["report", "run", "--data", "x.npz", *few]) == 0
    assert "left out" not in capsys.readouterr().err
    assert "Reconstructions" in Path("run/report.html").read_text()
    assert "Reconstructions" not in Path("without.html").read_text()


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_data_that_have_moved_are_given_and_others_are_not_taken(capsys):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (90, 5)))
    assert main(["train", "x.npy", "--out", "run", "--hidden", "8", "--latent", "2", "--epochs", "1"]) == 0
    Path("x.npy").rename("y.npy")
    capsys.readouterr()
    assert "x.npy" in fails(capsys, "evaluate", "run")
    assert main(["evaluate", "run", "--data", "y.npy", "--importance-samples", "3"]) == 0
    assert "may contain training examples" not in capsys.readouterr().err
    np.save("z.npy", np.random.default_rng(1).integers(0, 2, (90, 5)))
    assert "z.npy has changed since run was trained on it" in fails(capsys, "evaluate", "run", "--data", "z.npy")


@pytest.mark.parametrize("values", [(1, 2), (0.1, 0.7)])
@pytest.mark.filterwarnings("ignore:.*rows equal")
def test_two_values_come_back_as_they_were_called(values):
    x = np.random.default_rng(0).choice(np.float32(values), (60, 6), p=[0.7, 0.3])
    np.save("survey.npy", x)
    assert main(["train", "survey.npy", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2"]) == 0
    assert main(["sample", "run", "--count", "50", "--out", "drawn.npz"]) == 0
    drawn = np.load("drawn.npz")
    assert set(np.unique(drawn["samples"]).tolist()) == set(np.unique(x).tolist())
    assert min(values) < drawn["means"].min() < drawn["means"].max() < max(values)
    np.save("drawn.npy", drawn["samples"])
    assert main(["encode", "run", "drawn.npy", "--out", "z.npz"]) == 0
    assert main(["reconstruct", "run", "--count", "5", "--out", "pairs.npz"]) == 0
    pairs = np.load("pairs.npz")
    assert set(np.unique(pairs["originals"]).tolist()) <= set(np.unique(x).tolist())
    assert min(values) < pairs["reconstructions"].min()


@pytest.mark.filterwarnings("ignore:.* are they in the same units")
def test_rows_and_splits_are_named_as_the_user_has_them(capsys):
    train = ("--out", "run", "--hidden", "8", "--latent", "2", "--epochs", "1")
    x = np.random.default_rng(0).integers(0, 5, (100, 6))
    for row in (3, 50, 77, 99):  # of whichever split
        x[row, 2] = -7
    np.save("x.npy", x)
    told = fails(capsys, "train", "x.npy", *train, "--likelihood", "poisson")
    found = re.search(r"x.npy, (train|valid|test): .* the first is -7 in row (\d+), column 2; the data have", told)
    assert int(found[2]) in (3, 50, 77, 99)
    np.savez("x.npz", train=x[:3], valid=x[:3], test=x[75:80])
    told = fails(capsys, "train", "x.npz", *train, "--likelihood", "poisson")
    assert "x.npz, test: 1 of 30 values" in told
    assert "in row 2, column 2" in told
    assert "which --likelihood" in told
    assert not Path("run").exists()


def test_the_split_has_a_seed_of_its_own(capsys):
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    found = []
    for i, more in enumerate((["--seed", "1"], ["--seed", "2"], ["--split-seed", "1"], ["--split", "ordered"])):
        words = ["train", "x.npy", "--out", f"run{i}", "--hidden", "8", "--latent", "2", "--epochs", "1", *more]
        assert main(words) == 0
        assert main([*words[:4], "--resume", "--epochs", "2"]) == 0
        assert main(["evaluate", f"run{i}", "--importance-samples", "2", "--json"]) == 0
        found.append(json.loads(Path(f"run{i}/config.json").read_text())["data"])
    assert found[0] == found[1]
    assert len({about["checksum"] for about in found}) == 3
    assert found[3]["split"] == "ordered"


def test_a_run_from_before_the_split_had_a_seed_is_resumed(capsys):
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ["train", "x.npy", "--out", "run", "--hidden", "8", "--latent", "2", "--epochs", "1", "--seed", "3"]
    assert main([*words, "--split-seed", "3"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    for name in ("split", "split_seed", "array", "size"):
        del config["command"][name]
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["train", "x.npy", "--out", "run", "--resume", "--epochs", "2"]) == 0


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_a_folder_of_unlike_images_from_training_to_latents(capsys):
    rng = np.random.default_rng(0)
    for i in range(1, 13):
        folder = Path("scans") / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8 + i % 3, 8)).astype(np.uint8)).save(folder / f"{i}.png")
    train = ("train", "scans", "--out", "run", "--hidden", "8", "--latent", "2", "--epochs", "1")
    assert "wanted one size: --size 8,9" in fails(capsys, *train)
    assert main([*train, "--size", "6,7", "--split", "groups"]) == 2  # two groups for three splits
    assert main([*train, "--size", "6,7"]) == 0
    assert main(["evaluate", "run", "--importance-samples", "2", "--json"]) == 0
    assert main(["encode", "run", "scans", "--out", "z.npz"]) == 0
    found = np.load("z.npz")
    assert found["names"].tolist() == [f"cat/{i}.png" for i in range(1, 13, 2)] + [
        f"dog/{i}.png" for i in range(2, 13, 2)
    ]
    assert found["labels"].tolist() == ["cat"] * 6 + ["dog"] * 6
    assert len(found["z1_mean"]) == 12


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_the_training_split_of_dynamic_data_is_drawn_once_and_that_is_said(capsys, monkeypatch):
    chance = torch.Generator().manual_seed(0)
    grey = torch.rand(60, 1, 4, 4, generator=chance)
    bits = torch.bernoulli(torch.rand(20, 1, 4, 4, generator=chance), generator=chance)
    data = splits.Data("mnist", grey, bits[:10], bits[10:], True)
    for name in ("load", "_load"):
        monkeypatch.setattr(splits, name, lambda source, **choices: data)
    words = ("train", "mnist", "--dynamic", "--out", "run", "--epochs", "1", "--hidden", "8", "--latent", "2")
    assert main(words) == 0
    for command in (("evaluate", "--importance-samples", "2"), ("diagnose",), ("reconstruct", "--out", "r.npz")):
        capsys.readouterr()
        assert main([command[0], "run", "--split", "train", *command[1:]]) == 0
        assert "binarised once" in capsys.readouterr().err
    assert set(np.unique(np.load("r.npz")["originals"])) == {0, 1}


def test_runs_says_where_splits_differ(capsys):
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ("train", "x.npy", "--hidden", "8", "--latent", "2", "--epochs", "1")
    assert main([*words, "--out", "runs/a", "--seed", "1"]) == 0
    assert main([*words, "--out", "runs/b", "--seed", "2"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "cannot be compared" not in capsys.readouterr().out
    assert main([*words, "--out", "runs/c", "--split-seed", "2"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "x.npy: split or read in 2 ways, whose bounds cannot be compared" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("kept", [2**28, 100])
def test_the_same_answers_in_other_codes_have_the_same_likelihood(kept, capsys, monkeypatch):
    monkeypatch.setattr("allegory.data.parts.MAX_IN_MEMORY", kept)
    answers = np.random.default_rng(0).integers(0, 5, (100, 6)).astype("f4")
    found = []
    for shift in (0, -2):
        np.save("x.npy", answers + shift)
        run = f"run{shift}"
        assert main(["train", "x.npy", "--out", run, "--hidden", "8", "--latent", "2", "--epochs", "1"]) == 0
        assert main(["sample", run, "--count", "50", "--out", "drawn.npz"]) == 0
        drawn = np.load("drawn.npz")
        assert set(np.unique(drawn["samples"])) == set(np.unique(answers + shift))
        assert shift < drawn["means"].min() < drawn["means"].max() < 4 + shift
        np.save("drawn.npy", drawn["samples"])
        assert main(["encode", run, "drawn.npy", "--out", "z.npz"]) == 0
        capsys.readouterr()
        assert main(["evaluate", run, "--importance-samples", "10", "--json"]) == 0
        found.append((json.loads(capsys.readouterr().out), np.load("z.npz")["z1_mean"]))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


def test_ctrl_c_while_it_imports_ends_the_process():
    """A signal handler of Python's is not run amid the import of a C extension, or its exception is lost."""
    code = (
        "import signal, sys\n"
        "sys.argv = ['allegory', 'train', 'digits']\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            try:\n"
        "                signal.raise_signal(signal.SIGINT)\n"
        "            except KeyboardInterrupt:\n"
        "                pass  # lost, as C extensions lose it\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import runpy; runpy.run_module('allegory', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore:L_. says little")
def test_seeds_share_a_split_and_the_baseline_stands_beside_every_bound(capsys):
    np.save("small.npy", np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32))
    flags = ("--hidden", "8", "--latent", "2", "--epochs", "1", "--lr", "1e-6", "--likelihood", "normal")
    for seed in "01":
        assert main(["train", "small.npy", "--out", f"runs/{seed}", "--seed", seed, *flags]) == 0
    baseline = al.Run("runs/0").summary.baseline
    out = capsys.readouterr().out
    assert f"baseline of independent elements: {baseline:.2f}" in out
    assert al.Run("runs/0").summary.checksum == al.Run("runs/1").summary.checksum
    assert al.Run("runs/1").summary.baseline == baseline
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert f"{baseline:.2f}" in out
    assert "cannot be compared" not in out
    assert main(["evaluate", "runs/0", "--importance-samples", "5"]) == 0
    evaluated = capsys.readouterr().out
    assert main(["evaluate", "runs/0", "--importance-samples", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    x, train = al.Run("runs/0").data.test, al.Run("runs/0").data.train
    law = torch.distributions.Normal(train.mean(0), train.std(0, correction=0))
    assert found["baseline_nll"] == pytest.approx(-law.log_prob(x).sum(1).mean().item(), abs=1e-4)
    assert f"{found['baseline_nll']:.3f}" in evaluated
    assert evaluated.startswith("worse than independent elements") == (found["nll"] > found["baseline_nll"])
    assert main(["diagnose", "runs/0"]) == 0
    assert "the baseline of independent elements" in capsys.readouterr().out
    assert main(["report", "runs/0"]) == 0
    assert "baseline, independent elements" in Path("runs/0/report.html").read_text()


def test_the_ends_of_names_are_read_in_any_case(tmp_path):
    run = al.save(al.architectures.mlp((1, 8, 8), "bernoulli", [2], [4]), tmp_path / "run")
    assert main(["sample", str(run), "--count", "4", "--out", "samples.PNG"]) == 0
    assert Path("samples.PNG").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_effect_on_these_data_is_refused(tmp_path, capsys):
    np.save("x.npy", np.random.default_rng(0).normal(size=(40, 2)))
    for flag, value in (("--delimiter", ";"), ("--decimal", ","), ("--encoding", "utf-8")):
        assert "x.npy is no CSV file" in fails(capsys, "train", "x.npy", "--out", "run", flag, value)
    for words in (["digits"], ["x.npy", "--split", "ordered"]):
        assert "at random" in fails(capsys, "train", *words, "--split-seed", "3", "--out", "run")
    assert not Path("run").exists()
