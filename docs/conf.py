"""The site: `make docs` builds it once for each language, and any warning is an error.

The pages are plain Markdown. Formulas become MathML, which browsers draw by themselves, and nothing is loaded from
elsewhere. Docstrings are plain text: what is indented in them is set as it stands.
"""

import importlib
import os
import re
from pathlib import Path
from typing import Any

import click
import latex2mathml.converter
from docutils import nodes
from sphinx.addnodes import desc_annotation, pending_xref
from sphinx.application import Sphinx
from sphinx.search.zh import SearchChinese
from sphinx.util import logging

import allegory
from allegory.command.entry import root

LOGGER = logging.getLogger(__name__)
DOCS = Path(__file__).parent
PACKAGE = Path(allegory.__file__).parent
INTERNAL = (
    "__init__", "__main__", "version", "legacy", "activations", "checks", "convolutions", "draws", "held",
    "initialization", "family", "marginal", "perceptrons", "likelihoods", "moved", "notation", "positivity",
    "runtime.", "command.", "data.caveats", "data.cutting", "data.files", "data.leakage", "data.offsets", "data.parts",
    "data.pictures", "data.tables", "estimators.reading", "evaluation.passes", "sharing.arithmetic",
    "tabular.building", "tabular.description", "tabular.filling", "tabular.frames", "tabular.inference",
    "tabular.resolution", "training.rounding", "training.scale", "views.cells", "views.grids", "views.layout",
    "views.measured", "views.rows", "views.sections", "views.showing", "views.terminal",
)  # fmt: skip
ROOMS = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))
MODULES = [room for room in ROOMS if not room.startswith(INTERNAL) and not room.endswith("__init__")]
WIDTH = 80  # of the help of the command
PUBLIC = {m: importlib.import_module(f"allegory.{m}").__all__ for m in MODULES}

project = "allegory"
release = allegory.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]
highlight_language = "none"
html_theme = "furo"
html_title = "allegory"
html_copy_source = False
html_use_index = html_domain_indices = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"
smartquotes_action = "D"  # dashes alone
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpick_ignore_regex = [
    ("py:.*", r"(?!allegory\.).*"),  # what is not ours is documented elsewhere
    ("py:class", r"allegory\.(evaluation\.passes|tabular\.(frames|resolution))\..*"),  # internal
]

# Methods that scikit-learn adds, whose docstrings are its own.
REQUESTS = ", ".join(f"set_{name}_request" for name in ("fit", "transform", "inverse_transform", "predict", "score"))
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": REQUESTS,
}  # scikit-learn's own
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


REPAIRS = {  # where latex2mathml writes what TeX would not draw
    r">\\\|<": ">&#x02016;<",  # \big\|
    r"<mo>(?=&#x02016;)": '<mo stretchy="false">',  # \rVert
    r"<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",  # \sim
    r"<mi>(?=&#x000[4-7].;)": '<mi mathvariant="normal">',  # \mathrm of one letter
    r"(<mi>log</mi>)(?!<mo[^>]*>&#x00028;)": r'\1<mspace width="0.17em" />',
}


def mathml(node: nodes.Element, display: str) -> str:
    math = latex2mathml.converter.convert(node.astext(), display=display)
    for wrong, right in REPAIRS.items():
        math = re.sub(wrong, right, math)
    if "\\" in math:
        LOGGER.warning(f"a formula with an unknown command: {node.astext()}", location=node)
    return math


def visit_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def visit_math_block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="math">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def room_of(name: str) -> str:
    """The module of the reference that a dotted name begins with."""
    dotted = name.removeprefix("allegory.")
    return next((m for m in MODULES if dotted == m or dotted.startswith(f"{m}.")), "")


def linked(text: str, module: str) -> str:
    """A quoted name as a link, where it is in the reference, else as code."""
    dotted = text.removeprefix("allegory.").removeprefix("al.")
    home, _, name = dotted.rpartition(".")
    rooms = [m for m in MODULES if home in (m, m.split(".")[0], m.split(".")[-1])] if home else [module, *MODULES]
    for room in rooms:
        if name in PUBLIC.get(room, ()):
            return f":py:obj:`{text} <allegory.{room}.{name}>`"
    return f":py:mod:`{text} <allegory.{dotted}>`" if dotted in PUBLIC else f"``{text}``"


def escaped(block: str, module: str) -> str:
    words = re.split(r"`([^`]+)`", block)
    for i in range(0, len(words), 2):
        words[i] = re.sub(r"(?<![\w*])(\*\w+\*)(?![\w*])|[*|\\]|_(?!\w)", lambda m: m[1] or f"\\{m[0]}", words[i])
    for i in range(1, len(words), 2):
        words[i] = linked(re.sub(r"\s+", " ", words[i]), module) + "\\ " * words[i + 1][:1].isalnum()
    return re.sub(r"(?m)(?<=: )(\w)\.$", r"\1\\.", "".join(words))  # "K." begins no list


def apart(entry: re.Match[str]) -> str:
    return "\n".join(f"{entry[1]}{name}{entry[3]}" for name in entry[2].split(", "))


def rest(lines: list[str], module: str) -> list[str]:
    """A docstring in plain text as reStructuredText: what is indented outside of a section is set as it stands."""
    out: list[str] = []
    section = literal = False
    for block in re.split(r"\n\s*\n", "\n".join(lines).rstrip()):
        if block.startswith("Attributes:"):  # napoleon takes one name a line
            block = re.sub(r"(?m)^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 .*)*)", apart, block)
        section = bool(re.match(r"[A-Z][a-z]+:\n ", block)) or (section and block.startswith(" "))
        was, literal = literal, block.startswith(" ") and not section
        out += ["::"] if literal and not was else []
        out.append(block if literal or block.startswith(">>>") else escaped(block, module))
    return [*"\n\n".join(out).split("\n"), ""]


def read_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rest(lines, room_of(name))
    if what in ("attribute", "data", "property"):  # napoleon would take "Counts: ..." for a type
        lines[:] = [line.replace(":", "\0") for line in lines]


def restore_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace("\0", ":") for line in lines]


def joined(app: Sphinx, page: str, source: list[str]) -> None:
    """Chinese has no space where a line ends."""
    chinese = r"[\u2e80-\u9fff\uff00-\uffef]"
    source[0] = re.sub(rf"(?<={chinese})\n(> )?(?={chinese})", "", source[0])


def add_help(app: Sphinx, page: str, source: list[str]) -> None:
    """Below `allegory COMMAND --help` in a block of its own stands what it prints."""

    def printed(asked: re.Match[str]) -> str:
        command = root.commands[asked[2]] if asked[2] else root
        with click.Context(command, info_name=asked[1], terminal_width=WIDTH) as context:
            return f"```text\n$ {asked[1]} --help\n\n{command.get_help(context)}\n```"

    source[0] = re.sub(r"```text\n(allegory(?: (\w+))?) --help\n```", printed, source[0])


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, and no page beside it has the same name, as reference.md beside reference/."""
    return path.is_dir() and not path.with_name(f"{path.name}.md").exists()


def follow(app: Sphinx, tree: nodes.document) -> None:
    """Links that leave the sources: to a page in the other language; else their text is left."""
    here = (Path(app.srcdir) / app.env.docname).parent
    for link in list(tree.findall(pending_xref)):
        target = link["reftarget"]
        if link.get("refdomain") == "doc" and Path(target).is_relative_to(DOCS):
            link.replace_self(nodes.reference("", "", *link.children, refuri=os.path.relpath(f"{target}.html", here)))
        elif (link["reftype"] == "myst" and _is_folder(here / target)) or os.path.isabs(target):
            link.replace_self(link.children)


class Pairs(SearchChinese):
    """Chinese is searched by pairs of characters: there are no spaces between its words."""

    language_name = "English"  # of the stemmer, which is for the English words
    js_splitter_code = r"""
        var splitQuery = (query) => [
            ...query.matchAll(/[a-zA-Z0-9_]+|[\u4e00-\u9fff](?=([\u4e00-\u9fff]))/g)
        ].map(([word, next]) => word + (next || ""));
    """

    def split(self, input: str) -> list[str]:
        pairs = re.findall(r"(?=([\u4e00-\u9fff]{2}))", input)
        return pairs + super().split(input)


def shorten(app: Sphinx, tree: nodes.document) -> None:
    """The value of a name, where it is long, is left out."""
    for value in list(tree.findall(desc_annotation)):
        if len(value.astext()) > 300:
            value.parent.remove(value)


def add_language(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    other = "zh" if app.config.language == "en" else "en"
    there = page if (DOCS / other / f"{page}.md").exists() else "reference" if "reference" in page else "index"
    context["other_language"], context["other_page"] = other, "../" * (page.count("/") + 1) + f"{other}/{there}.html"


def check(app: Sphinx, env: Any) -> None:
    """Every public name is in the reference."""
    found = env.get_domain("py").objects
    for module, names in PUBLIC.items() if app.config.language == "en" else ():
        for name in names:
            if f"allegory.{module}.{name}" not in found:
                LOGGER.warning(
                    f"not in the reference: allegory.{module}.{name}; wanted a docstring, and its module on a page of "
                    "docs/en/reference"
                )


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.add_search_language(Pairs)
    app.connect("source-read", joined)
    app.connect("source-read", add_help)
    app.connect("doctree-read", follow)
    app.connect("doctree-read", shorten)
    app.connect("html-page-context", add_language)
    app.connect("env-check-consistency", check)
