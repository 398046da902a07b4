"""In a notebook an evaluation and a diagnosis are tables."""

from html.parser import HTMLParser

import torch

import allegory as al
from allegory.runtime.html import html_table


class Cells(HTMLParser):
    """The texts of a table, and that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_text_is_text():
    assert Cells(html_table("a < b", ["<i>"], [["x & y"]])).texts == ["a < b", "<i>", "x & y"]


def test_results_are_tables_with_the_numbers_of_the_command():
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double()
    x = (torch.rand(20, 6) < 0.5).double()
    found = al.evaluate(model, x, samples=5)
    texts = Cells(found._repr_html_()).texts
    assert texts[texts.index("negative log-likelihood, -L_5") + 1] == f"{found.nll:.3f}"
    assert [text for text in texts if "rate of level" in text] == ["\u2003rate of level 1", "\u2003rate of level 2"]
    diagnosis = al.diagnose(model, x, samples=5)
    texts = Cells(diagnosis._repr_html_()).texts
    assert texts[-len(diagnosis.verdict) :] == diagnosis.verdict
    assert f"{diagnosis.levels[0].rate:.2f}" in texts
