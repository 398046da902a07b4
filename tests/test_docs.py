"""Every code block of the documentation runs, and both languages say the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS / "en") for page in (DOCS / "en").rglob("*.md"))


def code(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def structure(page):
    """Levels of the headings, formulas, links, pictures and the code: what a translation leaves as it is."""
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    formulas = re.findall(r"\$\$(.*?)\$\$", prose, re.S)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.M),
        "formulas": [re.sub(r"_\{.*\\text.*\}|\\text\{.*?\}|\s", "", formula) for formula in formulas],  # but for words
        "links": [link.replace("/zh/", "/en/") for link in re.findall(r"\]\(([^)]+)\)", prose)],
        "lists": len(re.findall(r"^[*-] ", prose, re.M)),
        "code": re.findall(r"```.*?```", text, flags=re.S),
    }


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_code_of_a_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(code(DOCS / "en" / page)))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=180, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_both_languages_have_the_same_pages():
    assert sorted(page.relative_to(DOCS / "zh") for page in (DOCS / "zh").rglob("*.md")) == PAGES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_translation_has_the_same_structure_and_code(page):
    assert structure(DOCS / "zh" / page) == structure(DOCS / "en" / page)


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md")], ids=lambda page: str(page.relative_to(DOCS)))
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        assert "://" in link or (page.parent / link).exists(), link
