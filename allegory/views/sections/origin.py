r"""Where a run comes from: its data, its model and its training; and how to reproduce it: command, seeds, versions,
machine and date. Files are named, folders are not.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from allegory.model import VAE
from allegory.runtime.environment import machine
from allegory.training.directory import versions
from allegory.views.layout import Section, Table, file_name, without_folders
from allegory.views.runs import Run, Summary

__all__ = ["how_to_reproduce", "origin"]

COLUMNS = ("property", "value")


def origin(summary: Summary, config: dict[str, Any], model: VAE | None) -> Section:
    """The data, the model and the training."""
    about = _data_config(config)
    rows = [("data", file_name(summary.data) if summary.data else "not recorded: the model was made in Python")]
    if about:
        sizes = " / ".join(f"{n:,}" for n in about.get("examples", []))
        dynamic = ", binarised each time they are drawn" if about.get("dynamic") else ""
        rows += [
            ("examples: train / valid / test", sizes and sizes + dynamic),
            ("shape of an example", " x ".join(map(str, about.get("event_shape", [])))),
            ("values", _values(about)),
        ]
    shapes = (model._event_shapes() if model else None) or []
    rows += [
        ("model", f"{summary.model} {model.extra_repr() if model else ''}".strip()),
        ("latents", _latents([" x ".join(map(str, shape)) for shape in shapes[1:]])),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}" if model else ""),
        ("objective", summary.objective),
    ]
    if summary.stopped != "saved":
        trained = f"{_counted(summary.epochs, 'epoch')}, {_counted(summary.steps, 'step')}"
        rows += [
            ("trained", f"{trained}, {summary.minutes:.1f} minutes"),
            ("ended by", summary.stopped or "not finished"),
        ]
    return Section("Data and model", tables=[Table(COLUMNS, [row for row in rows if row[1]])])


def _latents(shapes: list[str]) -> str:
    """The shapes of z_1, ..., z_T, neighbours of the same shape together.

    >>> _latents(["4 x 7 x 7", "4 x 7 x 7", "32"])
    'z_1, z_2 of 4 x 7 x 7, z_3 of 32'
    """
    parts = []
    for shape, group in groupby(enumerate(shapes, start=1), lambda pair: pair[1]):
        names = [f"z_{t}" for t, _ in group]
        parts.append(f"{', '.join(names) if len(names) < 3 else f'{names[0]} to {names[-1]}'} of {shape}")
    return ", ".join(parts)


def how_to_reproduce(run: Run, command: str, samples: int | None) -> Section:
    """How to reproduce the run, and the numbers on this page.

    Args:
        run: the run.
        command: that trains it; may be empty.
        samples: K of the bounds on this page; None where there are none.
    """
    config, summary = run.config, run.summary
    about, fit = _data_config(config), config["fit"]
    known = (run.source, run.path)
    saved = summary.stopped == "saved"
    rows = [
        ("command", without_folders(command, *known)),
        ("settings of fit", "" if command or not fit else without_folders(json.dumps(fit), *known)),
        ("seed of the training", "" if saved or not fit else str(summary.seed)),
        ("seed of the split", str(about["seed"]) if "seed" in about else ""),
        ("checksum of the data", str(about.get("checksum", ""))),
        ("versions", f"allegory {config.get('allegory', '?')}, torch {config.get('torch', '?')}"),
    ]
    word = "saved" if saved else "trained"
    for i, where in enumerate(config.get("machines", [])):
        again = "" if i == 0 else ", continued"
        rows += [(f"{word}{again}", _date(where["date"])), (f"{word} on", _machine(where))]
    here = machine(run.device)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with_noise = "" if samples is None else f"; its numbers with K = {samples} and seed 0"
    ours = versions()
    rows += [
        ("this page", f"{_date(now)}, by allegory {ours['allegory']}, torch {ours['torch']}{with_noise}"),
        ("written on", _machine(here)),
    ]
    return Section("How to reproduce it", tables=[Table(COLUMNS, [row for row in rows if row[1]])])


def _values(about: dict[str, Any]) -> str:
    """What the values of the data are, as far as it is recorded."""
    if two := about.get("two_values"):
        return f"{two[0]:g} and {two[1]:g}"
    low, high = about.get("range") or (None, None)
    return "" if low is None or high is None else f"from {low:g} to {high:g} in the training data"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _date(text: str) -> str:
    """A date of ISO 8601, to the minute."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text


def _machine(found: dict[str, Any]) -> str:
    """A machine, as `allegory.runtime.environment.machine` describes it, in one line."""
    threads = _counted(found["threads"], "thread")
    processes = f" in each of {found['processes']} processes" if found["processes"] > 1 else ""
    return (
        f"{found['device']}; {found['processor']}, {found['instructions']}, {threads}{processes}; "
        f"{found['system']}, Python {found['python']}"
    )


def _data_config(config: dict[str, Any]) -> dict[str, Any]:
    """What the run records about its data."""
    about = config.get("data")
    return about if isinstance(about, dict) else {}
