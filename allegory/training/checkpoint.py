r"""Checkpoints: a model, written as a run directory and loaded from one.

`fit(out=...)` writes the whole of a run directory as it trains, see `allegory.training.directory`; `save` writes its
config.json and weights.safetensors, for a model that was trained elsewhere, the whole directory or nothing. A model of
`allegory.architectures` is rebuilt from config.json alone. For any other model config.json has the name of the class
and its arguments, and the class has to be passed to `load`: nothing is imported by a name found in a file.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allegory.architectures import build
from allegory.legacy import convert_legacy, parameter_units
from allegory.model import VAE, check_is_vae
from allegory.runtime.storage import temporary_path, write_atomically
from allegory.sharing.hub import fetch
from allegory.training.directory import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    check_not_older,
    check_same_run,
    config_digest,
    machines,
    read_config,
    versions,
)
from allegory.training.tensors import read_tensors, uncompiled, write_tensors

__all__ = ["load", "save"]


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
    if broken := _nan_among(model.state_dict()):
        raise ValueError(f"{broken} of the model are NaN, so that nothing it scores or draws is a number")
    config: dict[str, Any] = dict(
        format=FORMAT, **versions(), machines=machines(model), **parameter_units(model), model=model.config, fit={}
    )
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
    part = temporary_path(run)
    try:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise ValueError(f"{path} exists and is not empty; choose another directory")
        part.mkdir(parents=True)
        write_tensors(part / WEIGHTS, uncompiled(model.state_dict()), {"config": config_digest(json.loads(text))})
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
        run: a run directory, as `fit` and `save` write it; or "hf://user/name", which `push` has written.
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
    run = fetch(run)
    config = read_config(run)
    weights, state = read_tensors(Path(run) / WEIGHTS)
    check_not_older(Path(run), state)
    if broken := _nan_among(weights):
        raise ValueError(f"{Path(run) / WEIGHTS} is damaged: {broken} are NaN; restore the file")
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
    own_names = {next(iter(uncompiled({name: value}))): name for name, value in built.state_dict().items()}
    weights = {own_names.get(name, name): value for name, value in uncompiled(weights).items()}
    if "units" not in config:
        weights = convert_legacy(built, weights)
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


def _nan_among(tensors: dict[str, Tensor]) -> str:
    """The first tensor with a NaN, and how many more there are, in words; empty where there is none."""
    broken = [name for name, x in tensors.items() if x.is_floating_point() and bool(torch.isnan(x).any())]
    return f"{broken[0]}{f' and {len(broken) - 1} more tensors' if len(broken) > 1 else ''}" if broken else ""


def _misfit(run: str | Path, differences: list[str]) -> ValueError:
    """The error that names the first of the differences, and says how many there are."""
    more = f", and {len(differences) - 1} more differences" if len(differences) > 1 else ""
    return ValueError(f"{Path(run) / WEIGHTS}: the weights do not fit the model: {differences[0]}{more}")


def _check_buildable(run: str | Path, config: dict[str, Any], own: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Compares the weights with the model that a configuration describes, without the memory that it would take."""
    try:
        with torch.device("meta"):
            model = _build_from_config(run, config, own)
            weights = convert_legacy(model, weights) if "units" not in config else weights
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
