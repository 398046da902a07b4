"""A run comes back from a hub as it went, its files checked; every mistake is one line."""

import hashlib
import json
import re

import pytest
import torch
from hub import serving

import allegory as al
from allegory.command import main
from allegory.sharing import hub as room
from allegory.views.publication import model_card

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    model = al.architectures.mlp((1, 8, 8), "poisson", [2], [4])
    data = al.data.load("digits")
    return al.save(model, tmp_path / "run", about={"data": al.data.describe(data, "poisson")})


def test_a_run_comes_back_as_it_went(hub, run, capsys):
    assert main(["push", str(run), "user/digits", "--importance-samples", "2"]) == 0
    assert capsys.readouterr().out == f"{hub.address}/user/digits\n"
    files = hub.repositories["user/digits"]
    assert set(files) == {"config.json", "weights.safetensors", "README.md", "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in room.FILES)
    assert files["SHA256SUMS"].decode() == sums

    found, own = al.load("hf://user/digits"), al.load(run)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), own.parameters(), strict=True))
    again = al.Run("hf://user/digits@main")
    evaluation = al.Run(run).evaluate(samples=2)
    assert again.evaluate(samples=2).nll == evaluation.nll

    card = files["README.md"].decode()
    assert card == model_card(al.Run(run), evaluation, "user/digits")
    for said in (
        "library_name: allegory",
        f"| negative log-likelihood, -L_2 | {evaluation.nll:.3f} | {evaluation.nll_stderr:.3f} |",
        "over 300 examples of the test split",
        "bound of 2 particles",
        "* Data: digits, in its own splits: ",
        "worse than independent elements",
        "1,197 for train, 300 for validation, 300 for test",
        f"`{al.Run(run).config['data']['checksum']}`",
        "* Likelihood: poisson.",
        "used neither in training nor in choosing the weights",
        'al.load("hf://user/digits")',
    ):
        assert said in card


def test_the_place_of_the_data_stays_at_home(hub, run):
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "/home/me/secret/rows.npy"
    (run / "config.json").write_text(json.dumps(config))
    room.upload(run, "user/digits", "card")
    pushed = hub.repositories["user/digits"]["config.json"]
    assert b"secret" not in pushed
    assert json.loads(pushed)["data"]["source"] == "rows.npy"
    al.load("hf://user/digits")


def test_a_file_that_was_changed_is_not_read(hub, run, monkeypatch, tmp_path):
    room.upload(run, "user/digits", "card")
    pushed = dict(hub.repositories["user/digits"])
    for name in room.FILES:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / f"cache of {name}"))
        hub.repositories["user/digits"][name] = pushed[name].replace(b"a", b"b", 1)
        with pytest.raises(ValueError, match=f"{name} is not the one that was pushed"):
            al.load("hf://user/digits")
        hub.repositories["user/digits"] = dict(pushed)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "another"))
    del hub.repositories["user/digits"]["SHA256SUMS"]
    with pytest.raises(ValueError, match="not a run that allegory has pushed: there is no SHA256SUMS"):
        al.load("hf://user/digits")


MISTAKES = {
    "hf://digits": "'digits' is no repository: wanted user/name",
    "hf://user/../digits": "is no repository",
    "hf://user/none": "there is no such repository or revision, or it is private",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_fetched_is_told_in_one_line(name, hub, capsys):
    assert main(["evaluate", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert MISTAKES[name] in line


def test_what_cannot_be_pushed_is_told_in_one_line(hub, run, monkeypatch, capsys):
    told = []
    for arguments in (
        [str(run), "digits"],
        ["nowhere", "user/digits"],
        [str(run), "user/digits", "--split", "all"],
    ):
        assert main(["push", *arguments]) == 2
        told += capsys.readouterr().err.splitlines()
    assert [re.search(r"is no repository|is not a run directory|wanted one of train", line)[0] for line in told] == [
        "is no repository", "is not a run directory", "wanted one of train",
    ]  # fmt: skip
    assert not hub.asked
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(ValueError, match="the hub does not know you: log in"):
        room.upload(run, "user/digits", "card")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="cannot push to user/digits: "):
        room.upload(run, "user/digits", "card")
    monkeypatch.setattr(room, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ValueError, match=r"pip install 'allegory\[hub\]'"):
        al.load("hf://user/digits")
