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
values that is checked when they are read, and one of what config.json says of model, data and settings: neither file
stands for another run's. The rest is JSON, each value of which is checked, see `allegory.training.schema`. No pickle is
read or written. While a training writes a run, no other can.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from allegory.architectures import build
from allegory.data.builtin import BUILTIN
from allegory.earlier import as_before, units_of_parameters
from allegory.model import VAE
from allegory.runtime import processes
from allegory.runtime.storage import check_regular, locked, part_of, write_atomically
from allegory.training import schema
from allegory.training.identity import check_same_inputs
from allegory.training.metrics import METRICS
from allegory.version import __version__

__all__ = ["load", "read_config", "read_state", "read_tensors", "save", "write_json", "write_tensors"]

FORMAT = 1
CONFIG, WEIGHTS, LAST = "config.json", "weights.safetensors", "last.safetensors"
BUDGET = ("epochs", "minutes", "patience")
"""The settings that a resumed training may change."""


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
        ValueError: a directory that is not empty or cannot be written; arguments that are not JSON; a sharded model.

    >>> model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4])
    >>> al.load(al.save(model, "saved")).sample(5).shape
    torch.Size([5, 3])
    """
    if any(hasattr(p, "to_local") for p in model.parameters()):
        raise ValueError("this model is sharded over processes; its run, fit's out, has the whole model: al.load(out)")
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
        write_tensors(part / WEIGHTS, model.state_dict(), {"config": config_digest(json.loads(text))})
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
    weights, state = read_tensors(Path(run) / WEIGHTS)
    if isinstance(model, nn.Module):
        if own:
            raise ValueError(
                f"{', '.join(own)}: only for a model of allegory.architectures, but a model was given; leave out one"
            )
        built: Any = model
    elif model is not None:
        built = _build_custom(run, config, model, own)
    else:
        if state.get("config") != config_digest(config):  # it may ask for a model of any size
            _check_buildable(run, config, own, weights)
        built = _build_from_config(run, config, own)
    if "units" not in config:
        weights = as_before(built, weights)
    if built is not model:
        _check_types(run, built, weights, one=model is None)
        saved = [weights[name].dtype for name, _ in built.named_parameters() if name in weights]
        built.to(next(iter(saved), torch.get_default_dtype()))
        for name, tensor in (*built.named_parameters(), *built.named_buffers()):
            if name in weights:  # a buffer may be of another type
                tensor.data = tensor.data.to(weights[name].dtype)
    try:
        built.load_state_dict(weights)
    except RuntimeError:
        raise _misfit(run, _differences(built.state_dict(), weights) or ["its tensors cannot be set"]) from None
    if built is not model:  # a model that is given is not made of what config.json says
        check_same_run(Path(run), config, state, WEIGHTS)
    return built.eval()


def _misfit(run: str | Path, differences: list[str]) -> ValueError:
    """The error that names the first of the differences, and says how many there are."""
    more = f", and {len(differences) - 1} more differences" if len(differences) > 1 else ""
    return ValueError(f"{Path(run) / WEIGHTS}: the weights do not fit the model: {differences[0]}{more}")


def _check_buildable(run: str | Path, config: dict[str, Any], own: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Compares the weights with the model that a configuration describes, without the memory that it would take."""
    try:
        with torch.device("meta"):
            model = _build_from_config(run, config, own)
            weights = as_before(model, weights) if "units" not in config else weights
    except NotImplementedError:  # a part that looks at numbers
        return
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{Path(run) / CONFIG}: no such model can be made: {reason}") from None
    differences = _differences(model.state_dict(), weights)
    if differences:
        raise _misfit(run, differences)


def _check_types(run: str | Path, model: nn.Module, weights: dict[str, Tensor], one: bool) -> None:
    """Checks that real numbers are stored where the model has them; in `one` type, where the library made it."""
    parameters = {name: p for name, p in model.named_parameters() if name in weights}
    like = next((weights[name].dtype for name in parameters), torch.get_default_dtype())
    for name, value in (*parameters.items(), *model.named_buffers()):
        found = weights.get(name, value).dtype
        if found.is_floating_point != value.is_floating_point() or (one and name in parameters and found != like):
            wanted = like if like.is_floating_point else value.dtype
            raise _misfit(run, [f"{name} is {found}, wanted {wanted if value.is_floating_point() else value.dtype}"])


def _differences(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """How the tensors of a file differ from those of a model."""
    differences = [f"{key} is missing" for key in wanted if key not in found]
    differences += [f"{key} is not of the model" for key in found if key not in wanted]
    differences += [
        f"{key} has shape {tuple(found[key].shape)}, wanted {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    return differences


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


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes tensors and JSON into one safetensors file, whole or not at all."""
    data = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    digest = f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()} {_digest(data)}"
    text = json.dumps({"state": state, "sha256": digest})  # one key: safetensors writes several in any order
    write_atomically(path, serialize(data, {"allegory": text}))


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
            sweep(path)
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
    if path.exists() and (not path.is_dir() or any(not _is_part(entry) for entry in path.iterdir())):
        raise ValueError(f"{path} exists and is not empty; choose another directory, or resume the run in it")


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
            return run, _resumed(run, config)
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
    sweep(run)
    return {**{key: value for key, value in before.items() if key not in config}, **config}


def _configuration(
    model: VAE, settings: dict[str, Any], about: dict[str, Any] | None, inputs: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The content of config.json."""
    config: dict[str, Any] = dict(
        format=FORMAT,
        **versions(),
        **units_of_parameters(model),
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
    pairs = [
        (key, before.get(key), now[key]) for key in now if key not in ("allegory", "torch", "fit", "inputs", "command")
    ]
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
