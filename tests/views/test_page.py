"""The page of a run: all that it has to show, for every kind of data and state of the run; in a real browser."""

import html
import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from test_command import fails
from torch.testing import assert_close

import allegory as al
from allegory.command import command_line, main
from allegory.command.options import TRAINING
from allegory.command.options import settings as chosen
from allegory.command.training import train as train_command
from allegory.views import measured
from allegory.views.page import report
from allegory.views.runs import summary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
EVERYTHING = [
    "Verdict", "Likelihood", "Data and model", "Training", "Samples", "Reconstructions", "What the levels do",
    "Latent space", "Most and least likely examples", "How to reproduce it",
]  # fmt: skip
WITHOUT_DATA = ["Verdict", "Data and model", "Training", "Samples", "How to reproduce it"]


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def bits():
    return (torch.rand(40, 1, 8, 8) < 0.3).float()


def vectors():
    return torch.randn(40, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 4.0], [0.0, 0.0, 0.1]])


def codes():
    return torch.randint(0, 5, (40, 4)).float()


def colours():
    return torch.randint(0, 256, (24, 3, 80, 80)).float()


def counts():
    """Of 1,500 things, of which a fifth is never there."""
    return torch.poisson(torch.rand(40, 1500) * 3 * (torch.arange(1500) % 5 > 0))


KINDS = {
    "bits": (bits, dict(likelihood="bernoulli", latent=[4, 3])),
    "vectors": (vectors, dict(likelihood="normal", latent=[2], prior="mixture", components=3)),
    "codes": (codes, dict(likelihood="categorical", categories=5, latent=[3, 2], top_down=True, markov=False)),
    "colours": (colours, dict(likelihood="discretized_logistic", latent=[2])),
    "counts": (counts, dict(likelihood="negative_binomial", latent=[2])),
    "deep": (vectors, dict(likelihood="normal_shared", latent=[2] * 12)),
    "one number": (lambda: torch.randn(40, 1), dict(likelihood="student_t", latent=[1])),
}

QUICK = ("bits", "vectors", "codes")


def train(kind, **settings):
    torch.manual_seed(0)
    data, parts = KINDS[kind]
    x = data()
    model = al.architectures.mlp(tuple(x.shape[1:]), hidden=[8], data=x, **parts)
    al.fit(model, x, valid=x[:20], **{**dict(epochs=3, batch_size=20, out="run"), **settings})
    return x


class Page(HTMLParser):
    """The tags that are open, what is loaded, and the words of a page."""

    def __init__(self, path):
        super().__init__()
        self.open, self.links, self.words, self.ids, self.count = [], [], [], [], {}
        self.text = Path(path).read_text()
        self.feed(re.sub(r"base64,[^\"]*", "", self.text))  # the parser takes minutes for long values

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        self.ids += [named["id"]] if "id" in named else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @staticmethod
    def words_of(text):
        """The words that are read, of the HTML of a page, without those of its style."""
        text = re.sub(r"<style>.*?</style>|base64,[^\"]*|<path [^>]*>", "", text, flags=re.S)
        return re.sub(r"<[^>]+>", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).split()

    def titles(self):
        return re.findall(r"<h2>(.*?)</h2>", self.text)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_page_has_everything_and_needs_nothing_else(kind):
    x = train(kind)
    page = Page(report("run", x, samples=20))
    assert page.open == []
    assert page.titles() == EVERYTHING
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "script" not in page.count
    assert len(page.text) < 5e6
    assert page.count["svg"] >= 5
    references = set(re.findall(r"url\(#([^)]+)\)", page.text)) | {v[1:] for v in page.links if v[0] == "#"}
    assert references <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "#010203" not in page.text


def test_a_page_says_what_was_measured():
    x = train("bits")
    text = Page(report("run", x, samples=30, split="test")).text
    model = al.load("run")
    torch.manual_seed(0)
    found = al.evaluate(model, x, samples=30)
    assert f"{found.nll:.2f} ± {found.nll_stderr:.2f}" in text
    assert " + ".join(f"{rate:.2f}" for rate in found.kl_per_level) in text
    best = summary("run").bound
    assert f"validation bound {best:.2f} nats" in text
    assert "Level 2" in text


def test_every_bound_of_a_page_is_of_one_pass_with_the_noise_of_the_public_functions(monkeypatch):
    seen, keep = [], measured.score
    monkeypatch.setattr(measured, "score", lambda *a, **k: seen.append(len(a[1])) or keep(*a, **k))
    x = train("bits")
    model, train_x = al.load("run"), bits()
    found = measured.measure(model, measured.Examples(x, train_x, "test"), samples=30)
    assert seen == [40, 40]  # once for x, once for the training examples

    def of(function, *arguments):
        torch.manual_seed(0)
        return function(model, *arguments, samples=30)

    assert_close(found.bounds, of(al.log_likelihood, x).double(), rtol=0, atol=1e-4)
    assert_close(found.train_bounds, of(al.log_likelihood, train_x).double(), rtol=0, atol=1e-4)
    assert_close(torch.tensor(found.curve), torch.tensor(of(al.bound_curve, x)), rtol=0, atol=1e-5)
    diagnosis = of(al.diagnose, x)
    one, other = (evaluation.as_dict() for evaluation in (found.evaluation, diagnosis.evaluation))
    for name in one.keys() - {"baseline_nll", "carried", "columns"}:
        assert one[name] == pytest.approx(other[name], rel=1e-12), name
    assert found.diagnosis.rows() == diagnosis.rows()
    assert found.diagnosis.gap == pytest.approx(of(al.evaluate, train_x).elbo - found.evaluation.elbo)


def test_the_weight_of_the_kl_is_that_of_the_training():
    x = train("bits", beta=[0.5, 4.0])
    assert "KL weight / 0.5, 4" in report("run", x, samples=5).read_text()


def test_a_split_of_one_example_is_reported():
    x = train("vectors")
    page = Page(report("run", x[:1], samples=5))
    assert page.titles() == EVERYTHING


def test_draws_outside_of_the_data_are_missing_below_the_line():
    from allegory.views import plots

    def top(drawn):
        svg = plots.marginal(data, drawn, "x")
        line = next(path for path in re.findall(r'd="([^"]*)"[^>]*stroke: #ee854a', svg) if path.count("L") > 20)
        return min(float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", line))

    data = torch.linspace(0, 1, 200)
    assert top(torch.cat([data[::10], torch.full((180,), 100.0)])) > top(data) + 50  # SVG counts from above


def test_the_random_state_is_left_as_it_was():
    x = train("bits")
    state = torch.get_rng_state()
    first = report("run", x, samples=5).read_text()
    assert torch.equal(state, torch.get_rng_state())
    # The ids of plots are their own, and the minute may change.
    strip = re.compile(r'(id="|#)[mp][0-9a-f]{10}|\d{4}-\d\d-\d\d \d\d:\d\d UTC')
    assert strip.sub("", first) == strip.sub("", report("run", x, samples=5, out="other.html").read_text())


def test_a_run_that_has_not_ended_is_reported_so_far():
    steps = 0

    def fails_later(x):
        nonlocal steps
        steps += len(x) <= 20
        if steps > 11:  # the first two compare the transform with that of a resumed training
            raise RuntimeError("the power is gone")
        return x

    with pytest.raises(RuntimeError, match="power"):
        train("bits", epochs=9, transform=fails_later, checkpoint_seconds=0)
    text = report("run", bits(), samples=5).read_text()
    assert "This run has not finished" in text
    assert "4 epochs" in text


def test_without_data_what_the_model_alone_can_show_is_shown():
    train("vectors")
    page = Page(report("run", missing="they are lost"))
    assert page.titles() == WITHOUT_DATA
    assert "Samples from the prior" in page.text
    assert "Parts that need data are left out: they are lost." in page.text


def test_what_is_no_run_and_what_has_no_checkpoint(capsys):
    Path("empty").mkdir()
    assert "empty is not a run directory" in fails(capsys, "report", "empty")
    assert "nowhere is not a run directory" in fails(capsys, "report", "nowhere")
    train("bits")
    for name in ("last.safetensors", "weights.safetensors", "metrics.jsonl"):
        Path("run", name).unlink()
    assert "no checkpoint yet" in fails(capsys, "report", "run")


def test_data_that_have_gone_or_changed_are_named(capsys):
    np.save("x.npy", bits().numpy())
    assert main(["train", "x.npy", "--out", "run", "--epochs", "2", "--latent", "2", "--hidden", "4"]) == 0
    assert main(["report", "run", "--importance-samples", "5"]) == 0
    assert Page("run/report.html").titles() == EVERYTHING
    assert "allegory train" in Path("run/report.html").read_text()
    capsys.readouterr()
    np.save("x.npy", 1 - bits().numpy())
    assert main(["report", "run", "--importance-samples", "5"]) == 0
    assert "has changed since" in capsys.readouterr().err
    Path("x.npy").unlink()
    assert main(["report", "run", "--out", "page.html"]) == 0
    assert "x.npy" in capsys.readouterr().err
    assert Page("page.html").titles() == WITHOUT_DATA
    assert "x.npy" in Path("page.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--levels 3 --hidden 32 --beta 0.5,1,2 --seed 4",
        "--latent 8,4 --top-down --all-above --prior mixture --components 7 --free-bits 0.5",
        "--architecture conv --markov --scales 2,4 --minutes 3 --no-compile --precision float32",
        "--objective renyi --alpha 0.3 --samples 4 --compile --dynamic --ema 0",
    ],
)
def test_the_command_that_is_quoted_asks_for_the_same(words):
    def settings(arguments):
        asked = train_command.make_context("train", list(arguments)).params
        names = {option.name for option in TRAINING}
        return chosen({}, {name: value for name, value in asked.items() if value is not None and name in names})

    asked = settings(["the data.npy", *words.split()])
    quoted = shlex.split(command_line("the data.npy", asked))
    assert quoted[:3] == ["allegory", "train", "the data.npy"]
    assert settings(quoted[2:]) == asked


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
@pytest.mark.parametrize("kind", ["bits", "vectors"])
def test_a_browser_shows_every_figure_and_has_nothing_to_complain_of(kind):
    playwright = pytest.importorskip("playwright.sync_api")
    path, said, asked = report("run", train(kind), samples=10).resolve(), [], set()
    with playwright.sync_playwright() as browsers, browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as it:
        for width, scheme in [(1200, "light"), (1200, "dark"), (390, "light")]:
            page = it.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.add(request.url.split(":")[0]))
            page.goto(path.as_uri())
            boxes = page.evaluate(
                "[...document.querySelectorAll('figure, figure svg, figure img')].map(e => {"
                " const r = e.getBoundingClientRect(); return [r.width, r.height, r.right, e.naturalWidth ?? 1] })"
            )
            assert len(boxes) > 20
            assert all(w > 20 and h > 20 and right <= width and inside > 0 for w, h, right, inside in boxes)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            colours = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.querySelector('svg text')).fill]"
            )
            light = [sum(map(int, re.findall(r"\d+", colour)[:3])) > 380 for colour in colours]
            assert light == ([False, True] if scheme == "dark" else [True, False])
    assert said == []
    assert asked <= {"file", "data"}


def test_writing_a_report_is_all_that_waits_for_its_libraries():
    import subprocess

    code = "import sys, allegory, allegory.views; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_baseline_of_a_report_is_that_of_evaluate(tmp_path):
    """It is fitted to all of the training data, not to the examples that are drawn for the gap."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 7, (200, 6)))
    words = ["train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--epochs", "1", "--hidden", "8"]
    assert main([*words, "--latent", "2"]) == 0
    run = al.Run(tmp_path / "run")
    text = al.report(run, samples=5, examples=40).read_text()
    _, drawn = run.data.subset("test", 40)
    assert f"{run.baseline_nll(drawn):.2f}" in text
    assert abs(run.baseline_nll(drawn) - al.diagnose(run.model, drawn, drawn, samples=2).evaluation.baseline_nll) > 0.01


def test_a_page_names_no_folder(tmp_path, monkeypatch):
    """Of the machine on which it was made: it is made to be passed on."""
    secret = tmp_path / "ada's secret folder"
    secret.mkdir()
    np.save(secret / "x.npy", bits().numpy())
    run = secret / "runs" / "mine"
    words = ["train", str(secret / "x.npy"), "--out", str(run), "--epochs", "2", "--latent", "2", "--hidden", "4"]
    assert main(words) == 0
    quick = ["--importance-samples", "5", "--out", "page.html"]
    pages = {}
    for name in ("with data", "without"):
        assert main(["report", str(run), *quick]) == 0
        pages[name] = Path("page.html").read_text()
        (secret / "x.npy").unlink(missing_ok=True)
    own = al.architectures.mlp((6,), al.families.normal_fixed(0.5), [2], [4])  # not rebuilt from its files
    pages["without model"] = al.report(al.save(own, secret / "runs" / "own"), out="other.html").read_text()
    for name, text in pages.items():
        words = " ".join(Page.words_of(text))
        assert ("x.npy" in words) == (name != "without model"), name
        for place in (tmp_path.name, "secret", str(Path.home()), os.getcwd()):
            assert place not in html.unescape(text), (name, place)
        assert not re.search(r"(?<![\w.<)/])/[\w.-]+/", words), name
    assert "allegory train x.npy --latent 2" in pages["with data"]
    assert "left out" in pages["without"]


def test_a_page_opens_with_the_verdict_and_the_baseline():
    train("bits")
    run = al.Run("run", data=None)
    page = Page(report(run, bits(), samples=10, train=bits()))
    first = page.text.split("<h2>")[1]
    assert first.startswith("Verdict")
    assert re.search(r'<p class="headline">(Good|Mixed|Bad|No verdict): ', first)
    assert "independent elements" in first
    assert '<th scope="row">baseline, independent elements</th>' in first
    assert '<section id="part-1" class="verdict ' in page.text


def test_a_broken_model_is_called_broken(monkeypatch):
    keep = measured.score

    def broken(*given, **settings):
        found = keep(*given, **settings)
        return replace(found, bounds=torch.full_like(found.bounds, float("nan")))

    monkeypatch.setattr(measured, "score", broken)
    text = report("run", train("vectors"), samples=5, train=vectors()).read_text()
    assert "Bad: the bound is not a finite number for 40 of 40 examples." in text


def test_every_table_names_its_columns_and_every_number_its_unit():
    text = report("run", train("bits"), samples=10).read_text()
    tables = re.findall(r'<table class="numbers">(.*?)</table>', text, re.S)
    assert len(tables) == 5
    for table in tables:
        assert re.findall(r'<th scope="col"[^>]*>(.+?)</th>', table)
    assert "bits per element of x" in text
    assert "information: how much the level says" in text


def test_a_page_says_when_on_what_and_with_what():
    text = report("run", train("bits"), samples=10, command="allegory train bits.npy").read_text()
    where = json.loads(Path("run/config.json").read_text())["machines"]
    assert len(where) == 1
    words = html.unescape(text)
    for told in (
        where[0]["date"][:16].replace("T", " ") + " UTC", where[0]["processor"], where[0]["instructions"],
        f"allegory {al.__version__}, torch {torch.__version__}", "seed of the training", "allegory train bits.npy",
        f"Python {sys.version.split()[0]}", "its numbers with K = 10 and seed 0",
    ):  # fmt: skip
        assert told in words, told


def test_values_are_in_the_units_of_the_data(monkeypatch):
    """Categories from -2 on are counted from 0 in the model, and are -2 and more on the page."""
    from allegory.views import plots

    np.save("x.npy", np.random.default_rng(0).integers(-2, 3, (60, 4)))
    assert main(["train", "x.npy", "--out", "run", "--epochs", "1", "--latent", "2", "--hidden", "4"]) == 0
    seen, keep = [], plots.marginal
    monkeypatch.setattr(plots, "marginal", lambda *a, **k: seen.append(a) or keep(*a, **k))
    text = al.report(al.Run("run"), samples=5).read_text()
    columns = {name: (data, drawn) for data, drawn, name, *_ in seen if name.startswith("column")}
    assert list(columns) == [f"column {d}" for d in range(4)]
    assert min(data.min() for data, _ in columns.values()) == -2
    assert min(drawn.min() for _, drawn in columns.values()) == -2
    assert "from -2 to 2 in the training data" in text


def test_a_line_is_no_image_of_one_pixel_in_height():
    torch.manual_seed(0)
    x = torch.randn(40, 1, 1, 16)
    model = al.architectures.mlp((1, 1, 16), "normal", latent=[2], hidden=[4], data=x)
    page = Page(report(al.save(model, "line"), x, samples=5, train=x))
    assert 'table class="strips"' not in page.text
    assert "standard deviations" in page.text


def test_the_elements_of_a_long_example_keep_their_numbers():
    text = report("run", train("counts"), samples=5).read_text()
    labels = {int(label.replace(",", "")) for label in re.findall(r"<text[^>]*>([\d,]+)</text>", text)}
    assert max(labels) >= 1000
    assert "200 of 1,500 columns are shown, evenly spaced" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_a_browser_draws_no_text_of_a_plot_smaller_than_eleven_pixels():
    playwright = pytest.importorskip("playwright.sync_api")
    path = report("run", train("vectors"), samples=10).resolve()
    sizes = (
        "[...document.querySelectorAll('svg text, svg tspan')].map(e =>"
        " parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b))"
    )
    with playwright.sync_playwright() as browsers, browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as it:
        for width in (360, 390, 800, 1280, 1920):
            page = it.new_page(viewport={"width": width, "height": 800})
            page.goto(path.as_uri())
            found = page.evaluate(sizes)
            assert len(found) > 100
            assert min(found) >= 11, width
            assert max(found) < 18, width


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_paper_is_white_and_has_no_links():
    playwright = pytest.importorskip("playwright.sync_api")
    path = report("run", train("bits"), samples=10).resolve()
    with playwright.sync_playwright() as browsers, browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as it:
        page = it.new_page(color_scheme="dark")
        page.goto(path.as_uri())
        page.emulate_media(media="print", color_scheme="dark")
        look = "getComputedStyle(document.body).{}".format
        assert page.evaluate(look("backgroundColor")) == "rgb(255, 255, 255)"
        assert page.evaluate(look("color")) == "rgb(28, 32, 36)"
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert page.pdf().startswith(b"%PDF")
