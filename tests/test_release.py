"""What says a version says the same one, and the files that only other programs read can be read."""

import datetime
import re
from pathlib import Path

import pytest

import allegory

ROOT = Path(__file__).parents[1]
FORMS = ("bug", "feature", "question")


def read(name):
    return pytest.importorskip("yaml", reason="the docs extra is not installed").safe_load((ROOT / name).read_text())


def pinned(package):
    return re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]


def test_the_citation_is_of_this_version():
    citation = read("CITATION.cff")
    assert str(citation["version"]) == allegory.__version__
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "MIT")
    assert citation["title"] == "allegory"
    assert citation["authors"] == [{"name": "The allegory developers"}]
    assert citation["message"]


def test_the_changelog_has_this_version_of_that_day():
    released = read("CITATION.cff")["date-released"]
    assert isinstance(released, datetime.date)
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert titles[:2] == ["[Unreleased]", f"[{allegory.__version__}] - {released}"]


def test_what_changed_is_sorted_as_keep_a_changelog_says():
    known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for release in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1:]:
        kinds = re.findall(r"^### (.*)$", release, re.M)
        assert kinds == [kind for kind in known if kind in kinds]


def test_before_a_commit_ruff_is_that_of_the_tests():
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"].endswith("/astral-sh/ruff-pre-commit")
    assert repository["rev"] == f"v{pinned('ruff')}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


def test_every_system_runs_what_every_submission_runs():
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert {system.split("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert job["strategy"]["matrix"]["python"][0] == oldest


@pytest.mark.parametrize("name", FORMS)
def test_a_form_asks_something(name):
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)
    for page in re.findall(r"docs/[\w/.-]*\w", str(form)):
        assert (ROOT / page).exists(), page


def test_a_report_of_a_bug_has_what_is_needed():
    needed = {part["id"] for part in read(".github/ISSUE_TEMPLATE/bug.yml")["body"] if part.get("validations")}
    assert needed == {"code", "seen", "expected", "environment"}
    assert "`allegory --version --json`" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
