"""The command where something is wrong with the machine, the files or the numbers: one line, exit 2 or 130."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_command import fails

from allegory.command import console, entry, main
from allegory.command.options import GROUPS, TRAIN

TINY = ["--hidden", "4", "--latent", "2", "--epochs", "1", "--no-compile", "--precision", "float32"]


@pytest.fixture(autouse=True)
def _as_a_user(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def command(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "allegory", *arguments], stderr=subprocess.PIPE, text=True, check=False, **more
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with x.npz, of three splits, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("table")
    x = np.random.default_rng(0).normal(size=(100, 3)).astype("f4")
    np.savez(folder / "x.npz", train=x[:80], valid=x[80:90], test=x[90:])
    torch.set_default_dtype(torch.float32)
    assert main(["train", str(folder / "x.npz"), "--out", str(folder / "run"), *TINY]) == 0
    return folder


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        done = command(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (
        2, "allegory: cannot read or write standard output: No space left on device\n",
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
def test_a_full_disk_behind_standard_error_changes_no_exit_code():
    done = subprocess.run(
        f"{sys.executable} -m allegory train 2>/dev/full", shell=True, stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_closed_standard_output_is_one_line():
    done = subprocess.run(
        f"exec {sys.executable} -m allegory --version >&-", shell=True, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("allegory: standard output is closed")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_it_imports_ends_it_at_once():
    """A module that is slow to import stands before torch; Ctrl-C comes in the midst of it, and is swallowed there."""
    Path("torch.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    done = command("train", "digits", stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are of the main thread")
def test_after_the_imports_ctrl_c_is_an_exception_again():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        console.imports_done()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.imports_done()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # a caller's own is left alone
    finally:
        signal.signal(signal.SIGINT, before)


HUGE = "10000000000000000000"


@pytest.mark.parametrize(
    "flag", ["hidden", "latent", "levels", "samples", "components", "channels", "blocks", "epochs"]
)
def test_a_number_beyond_int64_is_one_line(flag, capsys):
    line = fails(capsys, "train", "digits", "--out", "run", f"--{flag}", HUGE)
    assert f"--{flag}: got '{HUGE}', wanted a whole number, {0 if flag == 'latent' else 1} or more, up to " in line
    assert not Path("run").exists()


def test_counts_beyond_int64_are_one_line(capsys):
    for words in (["sample", "run", "--out", "x.npz", "--count"], ["evaluate", "run", "--importance-samples"]):
        assert f"got '{HUGE}', wanted a whole number" in fails(capsys, *words, HUGE)


def test_a_split_that_moved_is_another_one(table, tmp_path, capsys):
    run = shutil.copytree(table / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "x.npz")
    (run / "config.json").write_text(json.dumps(config))
    x = np.concatenate([*np.load(table / "x.npz").values()])
    np.savez("x.npz", train=x[:20], valid=x[20:30], test=x[30:])  # 50 of the 70 test rows were trained on
    assert "x.npz has changed since" in fails(capsys, "evaluate", "run")


def test_nothing_of_a_users_is_written_over(table, tmp_path, capsys):
    x = np.ones((4, 3))
    np.savez("mine.npz", x=x)
    np.save("mine.npy", x)
    run, config = table / "run", (table / "run" / "config.json").read_bytes()
    data = (table / "x.npz").read_bytes()
    for words in (
        ["encode", run, "mine.npz", "--out", "mine.npz"],
        ["encode", run, "mine.npy", "--out", "mine.npz"],
        ["encode", run, "mine.npy", "--out", table / "x.npz"],
        ["sample", run, "--out", table / "x.npz"],
        ["reconstruct", run, "--out", "mine.npz"],
        ["report", run, "--out", "mine.npy"],
        ["report", run, "--out", run / "config.json"],
    ):
        fails(capsys, *words)
    assert (list(np.load("mine.npz")), (np.load("mine.npy") == x).all()) == (["x"], True)
    assert ((table / "x.npz").read_bytes(), (run / "config.json").read_bytes()) == (data, config)
    for _ in range(2):  # a result is written over
        assert main(["encode", str(run), "mine.npy", "--out", "z.npz"]) == 0


def test_a_training_that_is_refused_leaves_no_directory(capsys):
    np.save("x.npy", np.random.default_rng(0).normal(size=(30, 3)))
    Path("taken").mkdir()
    Path("taken/mine").touch()
    for words in (
        ["nowhere.npy", "--out", "run"],
        ["x.npy", "--out", "run", "--likelihood", "poisson"],
        ["x.npy", "--out", "run", "--architecture", "conv"],
        ["x.npy", "--out", "taken"],
    ):
        fails(capsys, "train", *words, *(word for word in TINY if word not in ("--hidden", "4")))
    assert sorted(os.listdir()) == ["taken", "x.npy"]


def test_a_pipe_or_a_device_where_a_file_is_wanted_does_not_hang(capsys):
    os.mkfifo("pipe.npy")
    Path("pictures").mkdir()
    os.mkfifo("pictures/a.png")
    for source, what in (("pipe.npy", "is a pipe"), ("/dev/zero", "is a device"), ("pictures", "a.png is a pipe")):
        assert what in fails(capsys, "train", source, "--out", "run")


def test_a_stored_setting_of_another_type_is_named(table, tmp_path, capsys):
    run = shutil.copytree(table / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for name, value in {"samples": "x", "hidden": 3.5, "prior": "none", "top_down": 1, "epochs": [2], "lr": {}}.items():
        changed = config | {"command": config["command"] | {name: value}}
        (run / "config.json").write_text(json.dumps(changed))
        assert f"command: {name} is {value!r}, wanted" in fails(
            capsys, "train", table / "x.npz", "--out", run, "--resume"
        )


def test_a_broken_run_does_not_end_the_listing(table, tmp_path, capsys):
    shutil.copytree(table / "run", tmp_path / "all" / "good")
    for name, text in {"a": "{", "b": "[" * 100_000, "c": '{"format": 1, "model": null, "fit": {"seed": [1]}}'}.items():
        (tmp_path / "all" / name).mkdir()
        (tmp_path / "all" / name / "config.json").write_text(text)
    shutil.copytree(table / "run", tmp_path / "all" / "z")
    (tmp_path / "all" / "z" / "metrics.jsonl").write_text("null\n")
    assert main(["runs", "all"]) == 0
    out, err = capsys.readouterr()
    assert "good" in out
    assert err.count("allegory: skipped: ") == 4


def test_the_command_alone_prints_its_help(capsys):
    assert main([]) == 0
    assert "Usage: allegory" in capsys.readouterr().out
    assert entry.root.name == "root"


def test_the_help_of_train_is_in_groups_with_examples_and_leaves_nothing_out(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert [title for title in GROUPS if f"\n{title}:\n" in out] == list(GROUPS)
    assert out.count("\n    allegory train ") == 4
    assert all(f"  {option.flag}" in out for option in TRAIN)
    assert main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "RUN is a run directory" in out
    assert "test (unseen)" in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_progress_that_cannot_be_written_ends_no_training(where):
    np.save("x.npy", np.random.default_rng(0).normal(size=(30, 3)))
    script = f"{sys.executable} -m allegory train x.npy --out run {' '.join(TINY)} {where}"
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("run: 1 epochs")
    assert Path("run/weights.safetensors").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
def test_a_full_disk_behind_the_words_of_completion_is_one_line():
    with open("/dev/full", "w") as full:
        done = command(stdout=full, env=os.environ | {"_ALLEGORY_COMPLETE": "bash_source"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_name_that_the_locale_cannot_write_is_written_by_its_numbers(table):
    shutil.copytree(table / "run", "r\u00fcn")
    done = command("runs", ".", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "r\\xfcn" in done.stdout
    done = command("evaluate", "\u00fc", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert done.stderr.startswith("allegory: \\xfc is not a run directory")


@pytest.mark.parametrize(
    "words",
    [["train", "digits", "--out"], ["train"], ["evaluate"], ["report", "run", "--out"], ["encode", "run"]],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(words, capsys):
    assert "got '', wanted a name" in fails(capsys, *words, "", *(["--out", "z.npz"] if words[0] == "encode" else []))
    assert os.listdir() == []


def pictures(folder, count=20):
    from PIL import Image

    Path(folder).mkdir()
    for i in range(count):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), "u1")).save(f"{folder}/{i}.png")


def test_nothing_is_written_among_the_images_that_are_the_data(capsys, monkeypatch):
    pictures("images")
    Path("images/deep").mkdir()
    assert "is in images, whose images are the data" in fails(capsys, "train", "images", "--out", "images/run")
    monkeypatch.chdir("images")
    assert "whose images are the data" in fails(capsys, "train", ".")
    monkeypatch.chdir("..")
    assert main(["train", "images", "--out", "run", *TINY]) == 0
    capsys.readouterr()
    for out in ("images/new.png", "images/deep/new.png"):
        assert "is in the data that are read" in fails(capsys, "sample", "run", "--out", out)
    for _ in range(2):  # its own result, with the names of the files, is written over
        assert main(["encode", "run", "images", "--out", "z.npz"]) == 0
    assert sorted(np.load("z.npz")) == ["names", "z1_mean", "z1_std"]


def test_a_model_that_the_memory_cannot_hold_is_refused_before_it_is_made(monkeypatch, capsys):
    monkeypatch.setattr("allegory.runtime.memory.available", lambda: 2.0**30)
    line = fails(capsys, "train", "digits", "--out", "run", "--hidden", "30000,30000")
    assert "parameters, which take about" in line
    assert "of 1.0 GiB of memory" in line
    assert not Path("run").exists()


def test_a_stored_setting_that_is_null_is_named(table, tmp_path, capsys):
    run = shutil.copytree(table / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for name in ("batch_size", "seed", "samples", "beta", "architecture", "lr"):
        (run / "config.json").write_text(json.dumps(config | {"command": config["command"] | {name: None}}))
        assert f"command: {name} is None, wanted" in fails(capsys, "train", table / "x.npz", "--out", run, "--resume")


def test_a_size_is_one_number_or_two(capsys):
    pictures("images")
    for size in ("4,4,4", "1,2,3,4"):
        assert "wanted width and height in pixels" in fails(capsys, "train", "images", "--out", "run", "--size", size)


def test_a_refused_resume_changes_nothing(table, tmp_path, capsys):
    run = shutil.copytree(table / "run", tmp_path / "run")
    content = bytearray((run / "last.safetensors").read_bytes())
    content[-3] ^= 1
    (run / "last.safetensors").write_bytes(content)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "its tensors are damaged" in fails(
        capsys, "train", table / "x.npz", "--out", run, "--resume", "--epochs", "3"
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_training_goes_on_where_its_data_have_moved(table, tmp_path, capsys):
    run = shutil.copytree(table / "run", tmp_path / "run")
    shutil.copy(table / "x.npz", "moved.npz")
    assert main(["train", "moved.npz", "--out", str(run), "--resume", "--epochs", "2"]) == 0
    assert json.loads((run / "config.json").read_text())["data"]["source"] == str(tmp_path / "moved.npz")


def test_two_trainings_of_one_second_have_a_run_each(monkeypatch, capsys):
    monkeypatch.setattr("time.strftime", lambda form: "-20300101-120000")
    for _ in range(2):
        assert main(["train", "digits", *TINY]) == 0
    assert sorted(os.listdir("runs")) == ["digits-20300101-120000", "digits-20300101-120000-2"]
