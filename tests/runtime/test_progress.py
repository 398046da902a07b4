"""Progress: HTML in a notebook, a line that moves on a terminal, plain lines elsewhere, silence unless asked."""

import os
import pty
import re
import subprocess
import sys
import types

import pytest
import torch

import allegory as al
from allegory.runtime import progress

STEP = """
import types
from allegory.runtime import progress
progress._TerminalBar.pause = progress._PlainLines.pause = 0
now = types.SimpleNamespace(epoch=2, step=7, best_bound=-83.1)
with progress.Progress(True, 100, None, 3) as bar:
    bar.epoch({"bound": -83.25}, now)
    bar.step(now, 1.0)
    now.step = 8
    bar.step(now, 1.0)
    bar.say("all is well")
"""
TERMINALS = {
    **{columns: dict(TERM="xterm", COLUMNS=str(columns)) for columns in (30, 58, 80, 100)},
    "colours": dict(TERM="xterm-256color", COLUMNS="100"),
    "no colours": dict(TERM="xterm-256color", COLUMNS="100", NO_COLOR="1"),
    "dumb": dict(TERM="dumb"),
}


class Cell:
    """A stand-in for IPython in a notebook: what is below the cell."""

    def __init__(self, monkeypatch, shell="ZMQInteractiveShell"):
        self.shown = []
        ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        ipython.get_ipython = type(shell, (), {})
        display.HTML, display.display = str, self.display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, html, display_id):
        assert display_id
        self.shown.append(html)
        return types.SimpleNamespace(update=self.shown.append)


def train(model, x, **settings):
    return al.fit(model.double(), x.double(), valid=x.double(), batch_size=3, epochs=4, **settings)


@pytest.fixture
def model():
    return al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8])


@pytest.fixture
def bits():
    return (torch.rand(7, 6) < 0.5).float()


def test_a_notebook_shows_a_bar_by_default(model, bits, monkeypatch, capsys):
    cell = Cell(monkeypatch)
    monkeypatch.setattr(progress._NotebookView, "pause", 0.0)
    record = train(model, bits)
    assert len(cell.shown) == 1 + record.step  # the first step is no measure of the others
    assert re.search(r"epoch 1/4 · \d:\d\d left · training bound -\d\.\d\d", cell.shown[1])
    done = [float(re.search(r'value="([\d.]+)"', html).group(1)) for html in cell.shown]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == 1
    assert re.search(r"epoch 3/4 · \d:\d\d left · validation bound", cell.shown[-5])
    last = record.history[-1]["bound"]
    assert "> 4 epochs · 12 steps · 0:0" in cell.shown[-1]
    assert cell.shown[-1].endswith(f" · validation bound {last:.2f} · best {record.best_bound:.2f}</div>")
    assert capsys.readouterr() == ("", "")


def test_what_is_said_stays_below_the_bar_escaped(monkeypatch):
    cell = Cell(monkeypatch)
    bar = progress.Progress(True, 2, None, 3).__enter__()
    bar.say("a < b")
    bar.__exit__(KeyError, KeyError(), None)
    assert "<br>a &lt; b" in cell.shown[-1]
    assert 'value="0.0000"' in cell.shown[-1]


@pytest.mark.parametrize("shell", [None, "TerminalInteractiveShell", "NoneType"])
def test_it_is_silent_elsewhere_and_where_it_is_told_so(model, bits, monkeypatch, capsys, shell):
    cell = Cell(monkeypatch, shell or "ZMQInteractiveShell")
    train(model, bits, progress=False if shell is None else None)
    assert cell.shown == []
    assert capsys.readouterr() == ("", "")


def test_a_first_step_that_compiles_is_no_estimate(monkeypatch):
    cell = Cell(monkeypatch)
    monkeypatch.setattr(progress._NotebookView, "pause", 0.0)
    times = iter([0.0, 60.0, 60.5, 61.0])  # a minute for the first step, half a second for each later one
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.Progress(True, 10, None, 10) as bar:
        for step in (1, 2, 3):
            bar.step(types.SimpleNamespace(epoch=0, step=step, best_bound=None), 1.0)
    assert [re.search(r"\S+ left", html).group() for html in cell.shown if "left" in html] == ["0:49 left", "0:48 left"]


def on_a_terminal(code, **environment):
    """What a terminal is sent on standard error."""
    here, there = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=there,
        stdout=subprocess.DEVNULL,
        stderr=there,
        env={**os.environ, **environment},
    ) as process:
        os.close(there)
        sent = b""
        while True:
            try:
                part = os.read(here, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not part:
                break
            sent += part
    os.close(here)
    assert process.returncode == 0, sent
    return sent.decode()


def lines(sent):
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", sent)]


@pytest.fixture(scope="module")
def on_terminals():
    """What each of TERMINALS is sent by STEP; one process, which imports torch once."""
    each = "exec(step); sys.stderr.write('\\x1e'); sys.stderr.flush()"
    code = f"import os, sys\nstep = {STEP!r}\nbefore = dict(os.environ)\n"
    code += f"for more in {list(TERMINALS.values())!r}:\n"
    code += f"    os.environ.clear(); os.environ.update(before | more)\n    {each}"
    sent = on_a_terminal(code).split("\x1e")
    return dict(zip(TERMINALS, sent[:-1], strict=True))


@pytest.mark.parametrize(("columns", "cut"), [(30, "left"), (58, "-83.25"), (80, "-83.10"), (100, "steps/s")])
def test_a_bar_is_never_wider_than_the_terminal_and_cuts_no_number(columns, cut, on_terminals):
    sent = on_terminals[columns]
    assert max(map(len, lines(sent))) <= columns
    (shown,) = {line.split("epoch", 1)[1] for line in lines(sent) if "epoch 3/100" in line}
    assert shown.rstrip().endswith(cut)
    assert "all is well" in lines(sent)
    bar = next(line for line in lines(sent) if "epoch 3/100" in line).split("epoch")[0].strip()
    assert len(bar) >= (10 if columns > 40 else 5)


def test_without_colour_there_is_none_and_a_dumb_terminal_gets_plain_lines(on_terminals):
    colour = re.compile(r"\x1b\[[0-9;]*m")
    assert colour.search(on_terminals["colours"])
    assert not colour.search(on_terminals["no colours"])
    sent = on_terminals["dumb"]
    assert "\x1b" not in sent
    assert re.match(r"epoch 3/100  \d+:\d\d left  validation bound -83.25  best -83.10  \d+ steps/s\r\n", sent)


def test_a_pipe_gets_plain_lines():
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == ["epoch 3/100", "all is well"]
