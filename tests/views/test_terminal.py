"""Tables: on any terminal and in a pipe, no word or number is cut, and nothing is wider than the terminal."""

import os
import re
import subprocess
import sys

import pytest
from rich import box
from rich.table import Table

from allegory.command import main
from allegory.data.builtin import BUILTIN
from allegory.views.terminal import show

TABLE = """
from rich.table import Table
from allegory.views.terminal import show
table = Table(title="runs, nats an example")
for column in ("run", "bound", "rates"):
    table.add_column(column, justify="right")
table.add_row("some-folder/digits-20261128-173607", "-12345.67", " ".join(["1234.5"] * 30))
table.add_row("b", "", "2.5")
show(table)
"""


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 200])
def test_nothing_is_cut_or_wider_than_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    exec(TABLE, {})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert out.count("1234.5") == 30
    assert "-12345.67" in out
    assert "…" not in out
    assert ("│" in out) == (columns > 80)
    assert "digits-20261128-173607" in out.replace("\n", "")


def test_no_column_vanishes(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "24")
    table = Table("run", "data", box=box.SIMPLE)
    table.columns[0].overflow = "fold"
    table.add_column("bounds", no_wrap=True)
    table.add_row("somewhere", "digits", "-1234.56 -1234.56")
    show(table)
    assert {"somewhere", "digits", "-1234.56"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("columns", [30, 40, 80])
def test_the_data_sets_are_all_there(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out.split(f"{BUILTIN[0].name}: ")[0]
    assert "…" not in out
    words = out.split()
    for row in BUILTIN:
        assert {row.name, *(f"{count:,}" for count in row.splits)} <= set(words)


def test_a_pipe_has_no_width_and_no_escape_codes():
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=True, env=environment)
    assert "\x1b" not in done.stdout
    assert re.search(r"digits-20261128-173607 │ -12345.67 │ (1234.5 ){30}", done.stdout)


def test_a_terminal_without_colour_gets_no_escape_codes():
    from test_progress import on_a_terminal

    code = "import sys; sys.stdout = sys.stderr\n" + TABLE
    assert "\x1b" in on_a_terminal(code, TERM="xterm", COLUMNS="200")
    assert "\x1b" not in on_a_terminal(code, TERM="xterm", COLUMNS="200", NO_COLOR="1")
