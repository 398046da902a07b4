r"""Run directories: the files that a training writes, and what must be so before it writes them.

    config.json            how to build the model again, what it was trained on and how; versions
    weights.safetensors    the weights to use: the best on the validation set, averaged over steps
    last.safetensors       everything that `fit` needs to continue exactly
    metrics.jsonl          one line per epoch, at least up to last.safetensors, see `allegory.training.metrics`

Every file is written whole or not at all; metrics.jsonl grows by whole lines. A new run needs an empty directory, and a
resumed one the settings, data and networks that it was begun with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from allegory.data.builtin import BUILTIN
from allegory.legacy import parameter_units
from allegory.model import VAE
from allegory.runtime import processes
from allegory.runtime.environment import machine
from allegory.runtime.storage import check_regular, write_atomically
from allegory.training import schema
from allegory.training.identity import check_same_inputs
from allegory.training.metrics import METRICS
from allegory.version import __version__

__all__ = [
    "check_unoccupied", "machines", "new_run", "open_run", "read_config", "removed_if_unwritten",
    "stored_settings", "versions", "write_json",
]  # fmt: skip

FORMAT = 1
CONFIG, WEIGHTS, LAST = "config.json", "weights.safetensors", "last.safetensors"


def read_config(run: str | Path) -> dict[str, Any]:
    """config.json of a run, checked.

    Raises:
        ValueError: not a run directory, not JSON, or written by a newer version.
    """
    path = Path(run) / CONFIG
    check_regular(path)
    try:
        config = schema.parse(path.read_bytes(), str(path))
        version = config["format"]
    except (FileNotFoundError, NotADirectoryError):
        if str(run) in {row.name for row in BUILTIN}:
            raise ValueError(
                f"{run} is a data set, wanted a run directory; its data: allegory.data.load({str(run)!r})"
            ) from None
        raise ValueError(f"{run} is not a run directory: there is no {path}; `allegory train` writes one") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a run's configuration: {error!r}") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version!r}, this version of allegory reads format {FORMAT}; "
            f"it was written by allegory {config.get('allegory', '?')}"
        )
    for key in ("model", "fit"):
        if not isinstance(config.get(key), dict | None) or key not in config:
            raise ValueError(f"{path} was not written by allegory: it has no valid {key!r}")
    schema.check(config["model"] or {}, schema.MODEL, f"{path}, model")
    schema.check(config["fit"] or {}, schema.FIT, f"{path}, fit")
    known = config.get("machines", [])
    if not isinstance(known, list):
        raise ValueError(f"{path}: machines is {known!r}, wanted a list")
    for found in known:
        schema.check(found, schema.MACHINE, f"{path}, machines", tuple(schema.MACHINE))
    if isinstance(config.get("data"), dict) and "checksum" in config["data"]:  # else it is a user's own
        schema.check(config["data"], schema.DATA, f"{path}, data")
    return config


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def new_run(run: str | Path) -> Path:
    """Makes the directory of a new run.

    Raises:
        ValueError: it is not empty, or cannot be made.
    """
    path = Path(run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path)
    except OSError as error:
        raise ValueError(f"cannot make the run directory {path}: {error.strerror}") from None
    check_unoccupied(path)
    return path


def check_unoccupied(run: str | Path) -> None:
    """Checks that a directory is empty, but for what a killed write has left, or does not exist.

    Raises:
        ValueError: it is not empty, or no directory.
    """
    path = Path(run)
    if path.exists() and (not path.is_dir() or any(not _is_partial(entry) for entry in path.iterdir())):
        raise ValueError(f"{path} exists and is not empty; choose another directory, or resume the run in it")


@contextmanager
def removed_if_unwritten(run: Path | None) -> Iterator[None]:
    """Removes the directory of a run that ends by an error before its first checkpoint: the same command can be given
    again, with what was wrong put right.
    """
    names = (WEIGHTS, METRICS, LAST)
    is_new = run is not None and not any((run / name).exists() for name in names)
    try:
        yield
    except BaseException:
        if run is not None and is_new and processes.rank() == 0 and not (run / LAST).exists():
            remove_partial_files(run)
            for name in (CONFIG, WEIGHTS, METRICS):
                (run / name).unlink(missing_ok=True)
            with suppress(OSError):  # a tracker may have written there, too
                run.rmdir()
        raise


def remove_partial_files(run: Path) -> None:
    """Removes the partial files that a kill during a write has left in a run."""
    for entry in filter(_is_partial, run.iterdir()):
        entry.unlink()


def _is_partial(entry: Path) -> bool:
    """Whether a file is what a killed write has left of a file of a run."""
    names = "|".join(map(re.escape, (CONFIG, WEIGHTS, LAST, METRICS)))
    return re.fullmatch(rf"\.({names})\.\d+", entry.name) is not None


def versions() -> dict[str, str]:
    """The versions a run was made with."""
    return {"allegory": __version__, "torch": torch.__version__}


def machines(model: VAE, before: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The machines of a run, with the date on which each was first used: those of before, and this one if it is new.

    Args:
        model: on its device.
        before: the run's config so far.
    """
    known: list[dict[str, Any]] = (before or {}).get("machines", [])
    here = machine(next(model.parameters(), torch.empty(0)).device)
    return known if here in [{**other, "date": here["date"]} for other in known] else [*known, here]


def open_run(
    out: str | Path | None,
    resume: bool,
    model: VAE,
    settings: dict[str, Any],
    about: dict[str, Any] | None,
    inputs: Callable[[], dict[str, Any]],
) -> Path | None:
    """Creates the directory of a training and its config.json; for a resumed one the settings are compared first.

    Args:
        out, resume, about: as in `fit`.
        model: the model that is trained.
        settings: of the training, JSON.
        inputs: describes its data and networks, see `allegory.training.identity`.

    Raises:
        ValueError: a directory that is not empty; or settings, data or networks other than those it was trained with.
    """
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the run directory to resume")
        return None
    run = Path(out)
    config: dict[str, Any] = dict(
        format=FORMAT,
        **versions(),
        machines=machines(model),
        **parameter_units(model),
        model=getattr(model, "config", None),
        fit=settings,
        inputs=inputs(),
    )
    taken = config.keys() & (about or {}).keys()
    if taken:
        raise ValueError(f"about has {', '.join(sorted(taken))}, which fit writes itself; choose another name")
    config |= about or {}
    if resume and (run / CONFIG).exists():
        before = read_config(run)
        config["machines"] = machines(model, before)
        _check_same_settings(run, before, config)
        same_versions = all(before.get(name) == version for name, version in versions().items())
        check_same_inputs(run, before.get("inputs") or {}, config["inputs"], same_versions)
        _check_not_lost(run)
        remove_partial_files(run)
    else:
        new_run(run)
    write_json(run / CONFIG, config)
    return run


def stored_settings(out: str | Path | None) -> dict[str, Any]:
    """The settings the run in a directory was trained with; empty if there is no run yet."""
    exists = out is not None and (Path(out) / CONFIG).exists()
    return (read_config(out)["fit"] or {}) if out is not None and exists else {}


def _check_not_lost(run: Path) -> None:
    """A run with weights but without its last checkpoint cannot be resumed, and must not be begun anew in its place."""
    if (run / WEIGHTS).exists() and not (run / LAST).exists():
        epochs = len((run / METRICS).read_text().splitlines()) if (run / METRICS).exists() else 0
        raise ValueError(
            f"{run} has weights and {epochs} epochs of metrics, but no {LAST} to resume from; copy that file back, or "
            "train into a new directory"
        )


def _check_same_settings(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A resumed run keeps its settings; only its budget may grow."""
    budget = ("epochs", "minutes", "patience")
    if before.get("units") != now.get("units"):
        raise ValueError(
            f"{run} was begun by an earlier version of allegory, which had parameters in other units; it can be loaded "
            "and evaluated, but not resumed: train into a new directory"
        )
    others = ("allegory", "torch", "machines", "fit", "inputs", "command")
    pairs = [(key, before.get(key), now[key]) for key in now if key not in others]
    pairs += [(key, before["fit"].get(key), value) for key, value in now["fit"].items() if key not in budget]
    for key, old, new in pairs:
        if json.loads(json.dumps(new)) != old:
            raise ValueError(
                f"{run} was trained with {key} = {old}, not {new}; resume with the same settings (only "
                f"{', '.join(budget)} may change), or train into a new directory"
            )
