"""Every code block of the documentation runs, both languages say the same, and the site builds without a warning."""

import functools
import html
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from allegory.command.entry import root

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS / "en") for page in (DOCS / "en").rglob("*.md") if page.parent.name != "reference"
)  # the reference is in English alone
PAIRS = [(ROOT / "README.md", ROOT / "README.zh.md"), *((DOCS / "en" / page, DOCS / "zh" / page) for page in PAGES)]
WRITTEN = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
LONG = (
    "02-the-plain-vae.md",
    "04-independent-dimensions.md",
    "05-the-bound.md",
    "06-hierarchies.md",
    "first-steps.md",
)
WIDTH = 88  # columns of code that the site shows without scrolling
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
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG))
        for page in PAGES
        if page.name != "index.md"  # its code is the first example
    ],
    ids=str,
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


@pytest.mark.slow
def test_the_first_example_prints_what_is_shown_and_draws_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    exec(code(ROOT / "README.md")[0], {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"
    for page in (ROOT / "README.md", *(DOCS / language / "index.md" for language in LANGUAGES)):
        shown = re.search(r"```text\n(.*?)```", page.read_text(), re.S)[1]
        number = r"\d+\.\d+"
        assert re.sub(number, "#", " ".join(shown.split())) == re.sub(number, "#", " ".join(printed.split()))
        for found, wanted in zip(re.findall(number, printed)[:3], re.findall(number, shown)[:3], strict=True):
            assert abs(float(found) - float(wanted)) < 1  # nats; processors round differently


def test_the_first_example_is_the_same_everywhere():
    (first, *_), *others = (code(page) for page in (ROOT / "README.md", DOCS / "en/index.md", DOCS / "zh/index.md"))
    assert others == [[first], [first]]
    assert 8 <= len([line for line in first.splitlines() if line.strip()]) <= 14


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_its_column(page):
    blocks = re.findall(r"^```(?!\{)\w*\n(.*?)^```", page.read_text(), re.S | re.M)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > WIDTH]


def prose(page):
    """A page without its code, where brackets are no links."""
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(), flags=re.S | re.M)


def links(text):
    """Where links and images lead, also those of references and of HTML."""
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"""(?:href|src)=["']([^"']+)""", text)
    named = dict(re.findall(r"^\[([^\]]+)\]:\s*(\S+)", text, re.M))
    return inline + [named.get(name, f"[{name}] is not defined") for name in re.findall(r"\]\[([^\]]+)\]", text)]


def anchors(page):
    """The names of a page's headings, as GitHub and the site make them."""
    text, found = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), []
    for title in re.findall(r"^#+ (.*)$", text, re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    for link in links(prose(page)):
        if "://" in link:
            assert re.fullmatch(r"https?://[\w.-]+\.\w+(/\S*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT), link
        assert there.exists(), link
        assert there.relative_to(ROOT).parts[:1] != ("build",), link
        assert not anchor or (there.suffix == ".md" and anchor in anchors(there)), link


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `a`: b\n\n[x](#two) [y][z] `[not](a link)`\n\n```\n# Two\n[nor](this)\n```\n\n## One a b\n")
    assert links(prose(page)) == ["#two", "[z] is not defined"]
    assert anchors(page) == ["one-a-b", "one-a-b-1"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_is_on_the_page_of_the_command(language):
    page = (DOCS / language / "command.md").read_text()
    asked = re.findall(r"^allegory (\w+) --help$", page, re.M)
    assert re.findall(r"^## (\w+)", page, re.M) == asked == list(root.commands)


def test_the_bibliography_has_what_is_cited_and_nothing_else():
    def plain(text):
        return text.replace("ø", "oe")

    entries = re.findall(r"^\* (.*?) (\d{4})\. ", plain((DOCS / "en/bibliography.md").read_text()), re.M)
    listed = [(re.split(r", | & | et al\.", authors), year) for authors, year in entries]
    sources = [*ROOT.glob("allegory/**/*.py"), *ROOT.glob("recipes/*.py"), *DOCS.rglob("*.md"), ROOT / "README.md"]
    text = plain("\n".join(page.read_text() for page in sources if page.name != "bibliography.md"))
    name, year = r"[A-ZÀ-Þ]\w+(?:-[A-Z]\w+)?", r"(?:19|20)\d\d"
    cited = {
        found
        for pattern in (
            rf"({name})(?:,? (?:&|and) {name}|\s+et\s+al\.),?\s+\(?({year})\b",
            rf"[(]({name}) ({year})\b",
            rf"({name})(?:'s)? [(]({year})[)]",
        )
        for found in re.findall(pattern, text)
    }
    assert len(cited) > 25
    assert not [(n, y) for n, y in cited if not any(n in authors and y == when for authors, when in listed)]
    assert not [e for e in listed if not re.search(rf"({'|'.join(e[0])})\b[^\n]{{0,80}}\b{e[1]}", text)]


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


@functools.cache
def named(page):
    """The ids of a page of the site, to which anchors lead."""
    return set(re.findall(r"""\bid=["']?([^"'> ]+)""", page.read_text()))


@pytest.mark.slow
@needs_sphinx
def test_the_help_of_every_command_is_on_the_site(site):
    for language in LANGUAGES:
        page = html.unescape(re.sub(r"<[^>]+>", "", (site / language / "command.html").read_text()))
        assert "Usage: allegory [OPTIONS]" in page
        for name, command in root.commands.items():
            assert f"$ allegory {name} --help" in page
            assert all(flag in page for option in command.params for flag in option.opts if flag.startswith("--"))


@pytest.mark.slow
@needs_sphinx
def test_the_links_of_the_site_lead_somewhere_and_every_page_to_its_translation(site):
    for file in site.rglob("*.html"):
        text = file.read_text()
        for link in {link for link in re.findall(r"""(?:href|src|url)=["']?([^"'> ]+)""", text) if "://" not in link}:
            path, _, anchor = html.unescape(link).partition("#")
            there = file.parent / unquote(path.split("?")[0]) if path else file
            assert there.exists(), (file, link)
            names = named(there) if anchor and there.suffix == ".html" else ()
            assert not names or unquote(anchor) in names, (file, link)
    for page in PAGES:
        for language, other in (("en", "zh"), ("zh", "en")):
            file = site / language / page.with_suffix(".html")
            link = re.search(rf'<a href="([^"]+)" hreflang="{other}"', file.read_text())[1]
            assert (file.parent / link).resolve() == site / other / page.with_suffix(".html")


@pytest.mark.slow
@needs_sphinx
def test_a_link_to_a_page_is_a_link_on_the_site(site):
    """One whose text alone is left, as that to the reference was, leads nowhere."""
    for language in LANGUAGES:
        for page in PAGES:
            written = [link.split("#")[0] for link in links(prose(DOCS / language / page)) if "://" not in link]
            pages = {(DOCS / language / page.parent / link).resolve() for link in written if link.endswith(".md")}
            wanted = {target.relative_to(DOCS).with_suffix(".html") for target in pages if target.is_relative_to(DOCS)}
            file = site / language / page.with_suffix(".html")
            article = re.search(r"<article.*</article>", file.read_text(), re.S)[0]
            found = {
                link.split("#")[0] for link in re.findall(r"""href=["']?([^"'> ]+)""", article) if "://" not in link
            }
            assert not wanted - {(file.parent / link).resolve().relative_to(site.resolve()) for link in found}, file


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
