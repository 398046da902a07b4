"""Every code block of the documentation runs, both languages say the same, and the site builds without a warning."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS / "en") for page in (DOCS / "en").rglob("*.md") if page.parent.name != "reference"
)  # the reference is in English alone
PAIRS = [(ROOT / "README.md", ROOT / "README.zh.md"), *((DOCS / "en" / page, DOCS / "zh" / page) for page in PAGES)]
WRITTEN = [ROOT / "README.md", ROOT / "README.zh.md", *DOCS.rglob("*.md")]
LONG = ("02-the-plain-vae.md", "04-independent-dimensions.md", "05-the-bound.md", "06-hierarchies.md")
LANGUAGES = {"en": "en", "zh": "zh_CN"}
needs_sphinx = pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the docs extra is not installed")


def code(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def structure(page):
    """Levels of the headings, formulas, links, tables, bold numbers, code: what a translation leaves as it is."""
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    formulas = re.findall(r"\$\$(.*?)\$\$", prose, re.S)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.M),
        "formulas": [re.sub(r"_\{.*\\text.*\}|\\text\{.*?\}|\s", "", formula) for formula in formulas],  # but for words
        "links": [
            link.split("#")[0].replace("/zh/", "/en/").replace(".zh.md", ".md")
            for link in re.findall(r"\]\(([^)]+)\)", prose)
        ],
        "tables": [row.count("|") for row in re.findall(r"^\|.*\|$", prose, re.M)],
        "numbers": re.findall(r"\*\*(-?[\d.]+)", prose),
        "lists": len(re.findall(r"^[*-] ", prose, re.M)),
        "code": [block for block in re.findall(r"```.*?```", text, flags=re.S) if "{toctree}" not in block],
    }


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG)) for page in PAGES], ids=str
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    exec(compile("\n".join(code(DOCS / "en" / page)), str(page), "exec"), {"__name__": "__main__"})


def test_both_languages_have_the_same_pages():
    assert sorted(page.relative_to(DOCS / "zh") for page in (DOCS / "zh").rglob("*.md")) == PAGES


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_translation_has_the_same_structure_and_code(english, chinese):
    assert structure(chinese) == structure(english)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def sphinx(docs, language, out, *options):
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-c", docs, *options]
    command += ["-D", f"language={LANGUAGES[language]}", docs / language, out / language]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def site(once):
    def build(out):
        for language in LANGUAGES:
            done = sphinx(DOCS, language, out)
            assert done.returncode == 0, done.stderr
        shutil.copy(DOCS / "index.html", out)
        return str(out)

    return Path(once("site", build))


@pytest.mark.slow
@needs_sphinx
def test_the_site_loads_nothing_from_elsewhere(site):
    load = r"""<(?!a\b)[^>]*\b(?:src|href|srcset|data)=["']?\s*(?:https?:)?//|url\(["']?(?:https?:)?//|@import"""
    for file in [file for kind in ("html", "css") for file in site.rglob(f"*.{kind}")]:
        assert not re.search(load, file.read_text()), file


@pytest.mark.slow
@needs_sphinx
def test_the_links_of_the_site_lead_somewhere_and_every_page_to_its_translation(site):
    for file in site.rglob("*.html"):
        text = file.read_text()
        links = {link for link in re.findall(r"""(?:href|src|url)=["']?([^"'#?> ]+)""", text) if "://" not in link}
        assert not [link for link in links if not (file.parent / link).exists()], file
    for page in PAGES:
        for language, other in (("en", "zh"), ("zh", "en")):
            file = site / language / page.with_suffix(".html")
            link = re.search(rf'<a href="([^"]+)" hreflang="{other}"', file.read_text())[1]
            assert (file.parent / link).resolve() == site / other / page.with_suffix(".html")


@pytest.mark.slow
@needs_sphinx
def test_the_formulas_of_the_site_need_no_script(site):
    for language in LANGUAGES:
        page = (site / language / "learn/05-the-bound.html").read_text()
        assert page.count("<math ") > 20
        assert "$" not in re.sub(r"<pre>.*?</pre>|<script.*?</script>", "", page, flags=re.S)


@pytest.mark.slow
@needs_sphinx
def test_the_reference_says_what_the_docstrings_say(site):
    page = (site / "en/reference/evaluation.html").read_text()
    assert "<ol" not in page  # "K." is a size
    assert all(f"<strong>{name}</strong>" in page for name in ("nll", "nll_stderr"))  # of one line
    assert 'href="#allegory.evaluation.bounds.evaluate"' in page
    assert "Two values, 0 and 1; phi: the log-odds." in (site / "en/reference/parts.html").read_text()
    assert "<pre><span></span>L_K  = E log mean_{k=1..K} w_k" in page


@pytest.mark.slow
@needs_sphinx
def test_chinese_is_searched(site):
    assert "\\u540e\\u9a8c" in (site / "zh/searchindex.js").read_text()
    assert "ChineseStemmer" not in (site / "zh/_static/language_data.js").read_text()  # there is none


@pytest.mark.slow
@needs_sphinx
def test_what_is_broken_or_missing_fails_the_build(tmp_path):
    docs = shutil.copytree(DOCS, tmp_path / "docs")
    with (docs / "en/index.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md) $\\nothing$\n")
    (docs / "en/alone.md").write_text("# Alone\n")
    data = docs / "en/reference/data.md"
    data.write_text(data.read_text().replace(".. automodule:: allegory.data.cave\n", ""))
    done = sphinx(docs, "en", tmp_path)
    assert done.returncode != 0
    for told in (
        "nowhere.md",
        r"unknown command: \nothing",
        "alone.md",
        "not in the reference: allegory.data.cave.draw",
    ):
        assert told in done.stderr


def test_formulas_are_drawn_in_a_font_that_comes_with_the_site():
    """Without a font that has a table for mathematics, as on a bare Linux, every subscript stands on the baseline."""
    css = (DOCS / "static" / "site.css").read_text()
    name, file = re.search(r'@font-face { font-family: ("\w+"); src: url\("(.*?)"\)', css).groups()
    assert re.search(r"^math { font-family: (.*?),", css, re.M)[1] == name
    assert (DOCS / "static" / file).read_bytes()[:4] == b"wOF2"
