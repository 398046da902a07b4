r"""Run directories: the files that a training writes, and what must be so before it writes them.

    config.json            how to build the model again, what it was trained on and how; versions
    weights.safetensors    the weights to use: the best on the validation set, averaged over steps
    last.safetensors       everything that `fit` needs to continue exactly
    metrics.jsonl          one line per epoch, at least up to last.safetensors, see `allegory.training.metrics`

Every file is written whole or not at all; metrics.jsonl grows by whole lines. A new run needs an empty directory, and a
resumed one the settings, data and networks that it was begun with. While a training writes a run, no other can. Weights
and checkpoints keep a SHA-256 of what config.json says of model, data and settings: no file stands for another run's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from allegory.data.builtin import BUILTIN
from allegory.legacy import parameter_units
from allegory.model import VAE
from allegory.runtime import processes
from allegory.runtime.environment import machine
from allegory.runtime.storage import check_regular, locked, write_atomically
from allegory.training import schema
from allegory.training.identity import check_same_inputs
from allegory.training.metrics import METRICS
from allegory.training.tensors import read_state
from allegory.version import __version__

__all__ = [
    "check_not_older", "check_same_run", "check_unoccupied", "config_digest", "machines", "new_run", "open_run",
    "read_config", "stored_settings", "versions", "write_config", "write_json",
]  # fmt: skip

FORMAT = 1
CONFIG, WEIGHTS, LAST = "config.json", "weights.safetensors", "last.safetensors"
BUDGET = ("epochs", "minutes", "patience")
"""The settings that a resumed training may change."""


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
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path} is ")
        reason = "it has no 'format'" if isinstance(error, KeyError | TypeError) else reason
        raise ValueError(f"{path} cannot be read as a run's configuration: {reason}") from None
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
    inputs = schema.check(config.get("inputs") or {}, schema.INPUTS, f"{path}, inputs")
    nested = {"data": schema.EXAMPLES, "valid": schema.EXAMPLES, "computes": schema.COMPUTED}
    for key in filter(inputs.get, nested):
        schema.check(inputs[key], nested[key], f"{path}, inputs, {key}", tuple(nested[key]))
    for key in ("given", "valid_given"):
        for found in inputs.get(key, []):
            schema.check(found, schema.EXAMPLES, f"{path}, inputs, {key}", tuple(schema.EXAMPLES))
    if isinstance(config.get("data"), dict) and "checksum" in config["data"]:  # else it is a user's own
        schema.check(config["data"], schema.DATA, f"{path}, data")
    return config


def config_digest(config: dict[str, Any]) -> str:
    """The SHA-256 of what a configuration says that numbers depend on: all but the place of the data, the versions, and
    the budget, which a resumed training may change.

    >>> config_digest({"fit": {"seed": 0, "epochs": 5}}) == config_digest({"fit": {"seed": 0, "epochs": 9}})
    True
    """
    kept: dict[str, Any] = {key: config.get(key) for key in ("model", "units", "arguments", "data", "fit")}
    for key, free in {"data": ("source",), "fit": BUDGET}.items():
        if isinstance(kept[key], dict):
            kept[key] = {name: value for name, value in kept[key].items() if name not in free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def check_same_run(run: Path, config: dict[str, Any], state: dict[str, Any], name: str) -> None:
    """Checks that a file was written with this configuration; files of earlier versions do not say so.

    Args:
        run: the directory.
        config: its configuration.
        state: the JSON of the file.
        name: of the file.

    Raises:
        ValueError: the one or the other is of another run, or was changed.
    """
    if state.get("config", config_digest(config)) != config_digest(config):
        raise ValueError(
            f"{run}: {CONFIG} and {name} are not of one training: {CONFIG} is of another run, or was changed; restore "
            "both"
        )


def check_not_older(run: Path, state: dict[str, Any]) -> None:
    """Checks that weights are no older copy. They are written before the checkpoint, so that a kill between the two
    leaves them newer, never older; what earlier versions and `save` write has no step.

    Args:
        run: the directory.
        state: the JSON of its weights.

    Raises:
        ValueError: the checkpoint is of a later step.
    """
    if "step" not in state or not (run / LAST).exists():
        return
    schema.check(state, schema.POSITION, f"{run / WEIGHTS}, position")
    later = schema.check(read_state(run / LAST), schema.POSITION, f"{run / LAST}, position", ("step",))["step"]
    if later > state["step"]:
        raise ValueError(
            f"{run}: {WEIGHTS} is of step {state['step']:,}, an older copy than {LAST}, of step {later:,}; restore it, "
            f"or take {LAST} away to use the older weights"
        )


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


@contextmanager
def new_run(run: str | Path) -> Iterator[Path]:
    """The directory of a new run, which no other training can write to meanwhile. If the context ends by an error
    before a checkpoint is written, it is removed again: the same command can be given again, with what was wrong put
    right.

    Raises:
        ValueError: it is not empty, or cannot be made, or another training has just begun there.
    """
    path, ours = Path(run), False
    check_unoccupied(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        _make_folder(path)
        with locked(path):
            check_unoccupied(path)
            remove_partial_files(path)
            ours = True
            yield path
    except BaseException:
        for name in (CONFIG, WEIGHTS, METRICS) if ours and not (path / LAST).exists() else ():
            with suppress(OSError):
                (path / name).unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # others may have written there, too
                folder.rmdir()
        raise


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the run directory {path}: {error.strerror}") from None


def check_unoccupied(run: str | Path) -> None:
    """Checks that a directory is empty, but for what a killed write has left, or does not exist.

    Raises:
        ValueError: it is not empty, or no directory.
    """
    path = Path(run)
    if path.exists() and (not path.is_dir() or any(not _is_partial(entry) for entry in path.iterdir())):
        raise ValueError(f"{path} exists and is not empty; choose another directory, or resume the run in it")


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


@contextmanager
def open_run(
    out: str | Path | None,
    resume: bool,
    model: VAE,
    settings: dict[str, Any],
    about: dict[str, Any] | None,
    inputs: Callable[[], dict[str, Any]],
) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """The directory of a training, see `new_run`, and its configuration, to be written once nothing can be refused any
    more; for a resumed one the settings are compared. The first of several processes does it.

    Args:
        out, resume, about: as in `fit`.
        model: the model that is trained.
        settings: of the training, JSON.
        inputs: describes its data and networks, see `allegory.training.identity`.

    Raises:
        ValueError: a directory that is not empty; settings, data or networks other than those it was trained with; or
            another training that writes to it.
    """
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the run directory to resume")
        yield None, {}
        return
    run = Path(out)

    def opened() -> tuple[Path, dict[str, Any]]:
        config = _configuration(model, settings, about, inputs)
        if resume and os.path.lexists(run / CONFIG):
            stack.enter_context(locked(run))
            return run, _resumed(run, config | {"machines": machines(model, read_config(run))})
        left = [name for name in (WEIGHTS, LAST, METRICS) if os.path.lexists(run / name)]
        if resume and left:
            raise ValueError(
                f"{run} has {left[0]}, but no {CONFIG}; copy that file back, or train into a new directory"
            )
        return stack.enter_context(new_run(run)), config

    with ExitStack() as stack:
        yield processes.broadcast(opened)


def write_config(run: Path | None, config: dict[str, Any]) -> None:
    """Writes config.json, in the first process; nothing where there is no run."""
    if run is not None and processes.rank() == 0:
        write_json(run / CONFIG, config)


def _resumed(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a resumed run, with what is not given again, after comparing it with that of before."""
    before = read_config(run)
    _check_same_settings(run, before, config)
    same_versions = all(before.get(name) == version for name, version in versions().items())
    check_same_inputs(run, before.get("inputs") or {}, config["inputs"], same_versions)
    _check_not_lost(run)
    if (run / LAST).exists():
        check_same_run(run, before, read_state(run / LAST), LAST)
    remove_partial_files(run)
    return {**{key: value for key, value in before.items() if key not in config}, **config}


def _configuration(
    model: VAE, settings: dict[str, Any], about: dict[str, Any] | None, inputs: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The content of config.json."""
    config: dict[str, Any] = dict(
        format=FORMAT,
        **versions(),
        machines=machines(model),
        **parameter_units(model),
        model=getattr(model, "config", None),
        fit=_as_written(settings),
        inputs=inputs(),
    )
    taken = config.keys() & (about or {}).keys()
    if taken:
        raise ValueError(f"about has {', '.join(sorted(taken))}, which fit writes itself; choose another name")
    return config | (about or {})


def stored_settings(out: str | Path | None) -> dict[str, Any]:
    """The settings the run in a directory was trained with; empty if there is no run yet."""
    exists = out is not None and (Path(out) / CONFIG).exists()
    return (read_config(out)["fit"] or {}) if out is not None and exists else {}


def _check_not_lost(run: Path) -> None:
    """A run with weights or metrics but without its last checkpoint cannot be resumed, and must not be begun anew in
    its place.
    """
    if (run / LAST).exists():
        return
    check_regular(run / METRICS)
    epochs = (run / METRICS).read_bytes().count(b"\n") if (run / METRICS).exists() else 0
    weights = (run / WEIGHTS).exists()
    if weights or epochs:
        what = f"weights and {epochs} epochs of metrics" if weights else f"{epochs} epochs of metrics"
        raise ValueError(
            f"{run} has {what}, but no {LAST} to resume from; copy that file back, or train into a new directory"
        )


def _check_same_settings(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A resumed run keeps its settings; only its budget may grow, and its data may lie elsewhere."""
    if before.get("units") != now.get("units"):
        raise ValueError(
            f"{run} was begun by an earlier version of allegory, which had parameters in other units; it can be loaded "
            "and evaluated, but not resumed: train into a new directory"
        )
    others = ("allegory", "torch", "machines", "fit", "inputs", "command")
    pairs = [(key, before.get(key), now[key]) for key in now if key not in others]
    pairs += [(key, (before["fit"] or {}).get(key), value) for key, value in now["fit"].items() if key not in BUDGET]
    for key, old, new in pairs:
        old, new = _as_written(old), _as_written(new)
        if new != old and not (key == "data" and _same_data(old, new)):
            raise ValueError(
                f"{run} was trained with {key} = {old}, not {new}; resume with the same settings (only "
                f"{', '.join(BUDGET)} may change), or train into a new directory"
            )


def _as_written(value: Any) -> Any:
    """A value as JSON holds it: tuples are lists, and infinity, such as a clip of it, is null."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def _same_data(old: Any, new: Any) -> bool:
    """Whether two descriptions of data differ in their place alone."""
    if not (isinstance(old, dict) and isinstance(new, dict) and old.get("checksum")):
        return False
    return {**old, "source": ""} == {**new, "source": ""}
