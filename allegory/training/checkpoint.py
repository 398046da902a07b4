r"""Run directories: the files that a training writes, and how a model is loaded from them.

    config.json            how to build the model again, what it was trained on and how; versions
    weights.safetensors    the weights to use: the best on the validation set, averaged over steps
    last.safetensors       everything that `fit` needs to continue exactly
    metrics.jsonl          one line per epoch, at least up to last.safetensors, see `allegory.training.metrics`

`fit(out=...)` writes all of it as it trains; `save` writes the first two, for a model that was trained elsewhere. A
model of `allegory.architectures` is rebuilt from config.json alone. For any other model config.json has the name of
the class and its arguments, and the class has to be passed to `load`: nothing is imported by a name found in a file.

Every file is written whole or not at all (beside, fsync, rename), and `save` writes the whole directory that way;
metrics.jsonl grows by whole lines. Tensors are stored as safetensors, with a SHA-256 of their names, types, shapes and
values that is checked when they are read. The rest is JSON, each value of which is checked, see
`allegory.training.schema`. No pickle is read or written.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from allegory.architectures import build
from allegory.data.builtin import BUILTIN
from allegory.earlier import as_before, units_of_parameters
from allegory.model import VAE, check_is_vae
from allegory.runtime import processes
from allegory.runtime.storage import check_regular, part_of, write_atomically
from allegory.training import schema
from allegory.training.identity import check_same_inputs
from allegory.training.metrics import METRICS
from allegory.version import __version__

__all__ = ["load", "read_config", "read_state", "read_tensors", "save", "write_json", "write_tensors"]

FORMAT = 1
CONFIG, WEIGHTS, LAST = "config.json", "weights.safetensors", "last.safetensors"


def save(
    model: VAE, path: str | Path, *, arguments: dict[str, Any] | None = None, about: dict[str, Any] | None = None
) -> Path:
    """Writes a model as a run directory, whole or not at all, however it was built and trained; `load` reads it.

    Args:
        model: any VAE, including an instance of a custom class.
        path: a new directory, or an empty one.
        arguments: the arguments of your class or function that rebuild the model, by name; JSON (tuples come back as
            lists). A model of `allegory.architectures` records its own.
        about: more JSON to store in config.json, such as {"data": allegory.data.describe(...)}.

    Returns:
        The directory.

    Raises:
        ValueError: a directory that is not empty or cannot be written; arguments that are not JSON; a sharded model;
            weights that are NaN.

    >>> model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4])
    >>> al.load(al.save(model, "saved")).sample(5).shape
    torch.Size([5, 3])
    """
    check_is_vae(model)
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    if any(hasattr(p, "to_local") for p in model.parameters()):
        raise ValueError("this model is sharded over processes; its run, fit's out, has the whole model: al.load(out)")
    broken = [name for name, x in model.state_dict().items() if x.is_floating_point() and bool(torch.isnan(x).any())]
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise ValueError(f"{broken[0]}{more} of the model are NaN, so that nothing it scores or draws is a number")
    config: dict[str, Any] = dict(format=FORMAT, **versions(), **units_of_parameters(model), model=model.config, fit={})
    if model.config is None or arguments is not None:
        config |= {"class": f"{type(model).__module__}.{type(model).__qualname__}", "arguments": arguments or {}}
    taken = config.keys() & (about or {}).keys()
    if taken:
        raise ValueError(f"about has {', '.join(sorted(taken))}, which save writes itself; choose another name")
    try:
        text = json.dumps(config | (about or {}), indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments and about: wanted what JSON can store, numbers, strings, lists: {error}") from None
    run = Path(os.path.abspath(path))
    part = part_of(run)
    try:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise ValueError(f"{path} exists and is not empty; choose another directory")
        part.mkdir(parents=True)
        write_tensors(part / WEIGHTS, uncompiled(model.state_dict()), {})
        write_atomically(part / CONFIG, text.encode())
        part.replace(run)
    except OSError as error:
        raise ValueError(f"cannot make the run directory {path}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Path(path)


def load(run: str | Path, model: VAE | Callable[..., VAE] | None = None, **own: Any) -> VAE:
    """The model of a run, with its best weights, in eval mode, on the CPU.

    Args:
        run: a run directory, as `fit` and `save` write it.
        model: needed only where the run's model was not made by `allegory.architectures`: the same model, built by you;
            or the class or function that makes it, which is called with the arguments given to `save` (for a run of
            `fit`, about={"arguments": {...}}).
        own: the custom parts of a model of `allegory.architectures`: likelihood, activation, block or prior.

    Raises:
        ValueError: not a run; a damaged or foreign file; weights that do not fit the model; a custom part that is
            missing.

    >>> class Small(al.VAE):
    ...     def __init__(self, width):
    ...         encoder = al.Conditional(nn.Linear(3, 2 * width), al.families.normal)
    ...         decoder = al.Conditional(nn.Linear(width, 3), al.families.bernoulli)
    ...         super().__init__(al.StandardNormal(width), encoder, decoder)
    >>> path = al.save(Small(width=2), "small", arguments={"width": 2})
    >>> al.load("small", Small)
    VAE: p(z_1: 2) p(x: 3 | z_1); q(z_1 | x); 25 parameters
    """
    config = read_config(run)
    weights, _ = read_tensors(Path(run) / WEIGHTS)
    if isinstance(model, nn.Module):
        if own:
            raise ValueError(
                f"{', '.join(own)}: only for a model of allegory.architectures, but a model was given; leave out one"
            )
        built: Any = model
    else:
        built = _build_custom(run, config, model, own) if model is not None else _build_from_config(run, config, own)
    own_names = {_uncompiled(name): name for name in built.state_dict()}
    weights = {own_names.get(_uncompiled(name), name): value for name, value in weights.items()}
    if "units" not in config:
        weights = as_before(built, weights)
    if built is not model:
        saved = [weights[name].dtype for name, _ in built.named_parameters() if name in weights]
        built.to(next(iter(saved), torch.get_default_dtype()))
        for name, tensor in (*built.named_parameters(), *built.named_buffers()):
            if name in weights:  # a buffer may be of another type
                tensor.data = tensor.data.to(weights[name].dtype)
    try:
        built.load_state_dict(weights)
    except RuntimeError:
        detail = _misfit(built.state_dict(), weights)
        raise ValueError(f"{Path(run) / WEIGHTS}: the weights do not fit the model: {detail}") from None
    return built.eval()


def uncompiled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that they have without torch.compile, so that a run does not depend on it."""
    return {_uncompiled(name): value for name, value in weights.items()}


def _uncompiled(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _misfit(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """The first difference between the tensors of a model and those of a file, and how many there are."""
    differences = [f"{key} is missing" for key in wanted if key not in found]
    differences += [f"{key} is not of the model" for key in found if key not in wanted]
    differences += [
        f"{key} has shape {tuple(found[key].shape)}, wanted {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    more = f", and {len(differences) - 1} more differences" if len(differences) > 1 else ""
    return f"{differences[0]}{more}" if differences else "its tensors cannot be set"


def _build_from_config(run: str | Path, config: dict[str, Any], own: dict[str, Any]) -> VAE:
    """A model of `allegory.architectures`, from its description."""
    if config["model"] is None:
        name = config.get("class") or f"{VAE.__module__}.{VAE.__qualname__}"
        raise ValueError(
            f"{run}: its model, {name}, was not made by allegory.architectures; build it and pass it, or the class or "
            "function that makes it: load(run, model)"
        )
    try:
        return build(config["model"], **own)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from None


def _build_custom(run: str | Path, config: dict[str, Any], make: Any, own: dict[str, Any]) -> VAE:
    """The model that the caller's class or function makes from the arguments recorded in the run."""
    name, arguments = getattr(make, "__name__", repr(make)), config.get("arguments") or {}
    if own:
        raise ValueError(
            f"{', '.join(own)}: only for a model of allegory.architectures, but {name} was given; leave out one"
        )
    if not callable(make):
        raise ValueError(f"model={make!r}: wanted a VAE, or the class or function that makes it")
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        recorded = f"the arguments {json.dumps(arguments)}" if arguments else "no arguments"
        raise ValueError(
            f"{run} records {recorded}, which {name} does not take: {error}; build the model and pass it"
        ) from None
    model = make(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} made {type(model).__name__}, wanted a VAE")
    return model  # type: ignore[return-value]


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
    if isinstance(config.get("data"), dict) and "checksum" in config["data"]:  # else it is a user's own
        schema.check(config["data"], schema.DATA, f"{path}, data")
    return config


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and the JSON kept with them.

    Raises:
        ValueError: missing, damaged, changed since it was written, or not written by allegory.
    """
    with _opened(path) as file:
        state, digest = _state(path, file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if digest and digest != _digest(tensors):
        raise ValueError(f"{path} has changed since it was written: its tensors are damaged")
    return tensors, state


def read_state(path: Path) -> dict[str, Any]:
    """The JSON of a safetensors file, without its tensors.

    Raises:
        ValueError: as `read_tensors`.
    """
    with _opened(path) as file:
        return _state(path, file.metadata())[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"there is no {path}; the run was stopped before its first checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None


def _state(path: Path, metadata: dict[str, str] | None) -> tuple[dict[str, Any], str]:
    """The JSON of a safetensors file, and the SHA-256 of its tensors, which older files do not have."""
    kept = metadata or {}
    try:
        found = schema.parse(kept["allegory"], str(path))
    except (KeyError, ValueError):
        raise ValueError(f"{path} was not written by allegory") from None
    if not isinstance(found, dict) or kept.keys() != {"allegory"}:
        raise ValueError(f"{path} was not written by allegory")
    if not found.keys() & {"state", "sha256"}:
        return found, ""
    of_state, _, of_tensors = str(found.get("sha256", "")).partition(" ")
    if of_state != hashlib.sha256(json.dumps(found.get("state")).encode()).hexdigest():
        raise ValueError(f"{path} has changed since it was written: its header is damaged")
    return found["state"], of_tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes tensors and JSON into one safetensors file, whole or not at all."""
    data = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    digest = f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()} {_digest(data)}"
    text = json.dumps({"state": state, "sha256": digest})  # one key: safetensors writes several in any order
    write_atomically(path, serialize(data, {"allegory": text}))


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
        sweep(path)
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
    if path.exists() and (not path.is_dir() or any(not _is_part(entry) for entry in path.iterdir())):
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
            sweep(run)
            for name in (CONFIG, WEIGHTS, METRICS):
                (run / name).unlink(missing_ok=True)
            with suppress(OSError):  # a tracker may have written there, too
                run.rmdir()
        raise


def sweep(run: Path) -> None:
    """Removes the partial files that a kill during a write has left in a run."""
    for entry in filter(_is_part, run.iterdir()):
        entry.unlink()


def _is_part(entry: Path) -> bool:
    """Whether a file is what a killed write has left of a file of a run."""
    names = "|".join(map(re.escape, (CONFIG, WEIGHTS, LAST, METRICS)))
    return re.fullmatch(rf"\.({names})\.\d+", entry.name) is not None


def versions() -> dict[str, str]:
    """The versions a run was made with."""
    return {"allegory": __version__, "torch": torch.__version__}


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
        **units_of_parameters(model),
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
        _check_same_settings(run, before, config)
        same_versions = all(before.get(name) == version for name, version in versions().items())
        check_same_inputs(run, before.get("inputs") or {}, config["inputs"], same_versions)
        _check_not_lost(run)
        sweep(run)
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
    pairs = [
        (key, before.get(key), now[key]) for key in now if key not in ("allegory", "torch", "fit", "inputs", "command")
    ]
    pairs += [(key, before["fit"].get(key), value) for key, value in now["fit"].items() if key not in budget]
    for key, old, new in pairs:
        if json.loads(json.dumps(new)) != old:
            raise ValueError(
                f"{run} was trained with {key} = {old}, not {new}; resume with the same settings (only "
                f"{', '.join(budget)} may change), or train into a new directory"
            )
