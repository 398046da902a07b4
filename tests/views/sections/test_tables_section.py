"""The page of a table: its columns by name, gaps, drawn rows, and what is surprising."""

import html
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import allegory as al
from allegory import families
from allegory.tabular import Schema
from allegory.views.cells import ShownColumn, shown_columns
from allegory.views.page import report
from allegory.views.sections import tables

NAMES = ["age", "town", "kids", "noise"]
TITLES = [
    "Verdict", "Likelihood", "Data and model", "Training", "Columns", "Drawn rows", "Reconstructions",
    "What the levels do", "Latent space", "Surprising rows and cells", "How to reproduce it",
]  # fmt: skip


@pytest.fixture(autouse=True)
def float32(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def people(n=160):
    """Age and town go together; the last row has an age that no other has."""
    town = torch.randint(0, 3, (n,)).float()
    x = torch.stack([(30 + 10 * town + torch.randn(n)).round(), town, torch.poisson(torch.ones(n)), torch.randn(n)], 1)
    x[torch.rand(x.shape) < 0.1] = math.nan
    x[:, 3] = torch.randn(n)
    x[-1] = torch.tensor([99.0, 0.0, 1.0, 0.0])
    return x


def save(x, path="run"):
    law = families.columns(
        [families.interval(1.0, low=0), families.categorical(4), families.poisson, families.normal], NAMES
    )
    return al.save(al.architectures.mlp((4,), law, [2], [8], data=x), path)


def of(section):
    """The rows of the tables of a section on a page, as words."""
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", section, re.S)
    ]


def test_a_page_of_a_table_names_its_columns_its_gaps_and_what_is_strange():
    x = people()
    path = report(save(x[:-1]), x[80:], train=x[:80], samples=20, split="test")
    text = html.unescape(path.read_text())
    assert re.findall(r"<h2>(.*?)</h2>", text) == TITLES
    sections = dict(zip(TITLES, re.split(r"<h2>", text)[1:], strict=True))
    found = of(sections["Columns"])
    assert {row[0] for row in found} >= {"column", *NAMES, "rows without a gap"}
    gaps = next(row for row in found if row[0] == "age" and "%" in row[1])
    assert gaps[1:] == [f"{x[80:, 0].isnan().double().mean():.1%}", f"{x[:80, 0].isnan().double().mean():.1%}", "0.0%"]
    assert ["noise", "0.0%", "0.0%", "0.0%"] not in found  # without gaps it is not listed
    assert "columns gained nothing over" in sections["Columns"]  # the model is at its start
    assert "nats per observed value" in sections["Columns"]
    strange = of(sections["Surprising rows and cells"])
    assert strange[1][0] == "row 79"
    assert strange[1][2].startswith("age = 99")
    cells = strange[strange.index(["row", "column", "what it has", "log p(x_d | rest)", "usual"]) :]
    assert cells[1][:3] == ["row 79", "age", "99"]
    assert float(cells[1][3]) < float(cells[1][4]) - 1
    assert "age" in sections["Drawn rows"]
    assert str(Path.cwd()) not in text
    assert "nan" not in [cell for row in (*found, *strange) for cell in row]


def test_the_pair_that_depends_on_each_other_is_found():
    torch.manual_seed(0)
    n = 4000
    coin, other = torch.randint(0, 2, (2, n)).float()
    number = torch.randn(n) + 3 * coin
    x = torch.stack([torch.randn(n), coin, torch.randint(0, 9, (n,)).float(), coin, number, other], 1)
    x[:50, 1] = math.nan
    columns = [ShownColumn(str(d), tuple("0123456789") if d in (1, 2, 3, 5) else ()) for d in range(6)]
    found = tables._dependent(x, columns, range(6))
    assert found[0][:2] == (1, 3)
    assert found[0][2] == pytest.approx(math.log(2), abs=2e-3)  # two equal coins
    assert {pair[:2] for pair in found[1:3]} == {(1, 4), (3, 4)}
    assert all(nats < 5e-3 for *_, nats in found[3:])  # what is left by chance


def test_a_schema_gives_the_words_and_what_is_twice():
    rng = np.random.default_rng(0)
    town = rng.choice(["Rom", "Ulm", "Bad Aibling"], 80)
    frame = {"town": town.astype(object), "again": town.astype(object), "year": 1_000_000_000 + rng.integers(0, 9, 80)}
    schema = Schema.infer(frame)
    x = schema.encode(frame).float()
    path = al.save(al.architectures.mlp((3,), schema.family(), [1], [4], data=x), "run")
    run = al.Run(path)
    run.schema = schema
    columns = shown_columns(run, run.model)
    assert [column.name for column in columns] == ["town", "again", "year"]
    assert [columns[0].in_words(code) for code in (0.0, 3.0)] == ["Bad Aibling", "never seen"]
    assert columns[2].in_words(float(x[0, 2])) == str(frame["year"][0])
    said = tables._remarks(run, tables.Examples(x, x, "test"))
    assert said[0] == "columns 'town' and 'again' are equal: one of them says it all; drop=['again']"


def test_the_digits_of_float32_are_not_shown():
    frame = {"weight": np.round(np.random.default_rng(0).normal(70, 9, 90), 1)}
    schema = Schema.infer(frame)
    x = schema.encode(frame).float()
    (column,) = schema.modelled
    shown = ShownColumn("weight", step=column.resolution, column=column)
    assert [shown.in_words(value) for value in x[:, 0].tolist()] == [f"{value:g}" for value in frame["weight"]]
