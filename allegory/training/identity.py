r"""What a training is made of besides its settings: its data, its networks, its functions, in a form that a run keeps.

A resumed training has to be of the same: bounds on other validation data cannot be compared, and the moments of the
optimizer belong to the loss that they were measured on. Tensors are told by a checksum of all their values; examples
that stay on disk by their rows and by the values of the first and of the last of them; networks by what torch prints of
their modules; functions by their names. They are told by what they compute, too, since a lambda is called as any other,
and torch does not print what a module of one's own does: the densities of a few examples, where each weight is a given
number, and schedules at some steps. An objective may count its calls, so that its code is compared.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from allegory.data.stored import Stored
from allegory.given import Contexts
from allegory.runtime import processes

__all__ = ["check_same_inputs", "describe_inputs"]

END_EXAMPLES = 100  # examples at either end of what stays on disk
TRIED, CLOSE = 8, 1e-3  # examples; by which part of itself a value may differ on another machine
WHEN = [(step, done) for step in (0, 1, 10, 100, 1000, 10_000) for done in (0.0, 0.1, 0.5, 0.9, 1.0)]


def describe_inputs(
    model: nn.Module,
    data: Any,
    valid: Any,
    transform: Callable[..., Any] | None,
    objective: Callable[..., Any] | None = None,
    schedules: Mapping[str, Callable[[int, float], Any]] | None = None,
    given: Contexts = (),
    valid_given: Contexts = (),
) -> dict[str, Any]:
    """The data, networks and functions of a training, as JSON.

    Args:
        model: as it begins.
        data, valid, transform, objective: as in `fit`.
        schedules: those that are functions, by name.
        given, valid_given: what is given with the data.

    >>> describe_inputs(model, x, None, torch.round)["data"]["shape"], describe_inputs(model, x, None, None)["valid"]
    ([7, 6], None)
    """
    modules = _without_addresses(nn.Module.__repr__(model)).replace("FSDP", "")  # sharded or not
    return dict(
        data=_describe(data),
        valid=None if valid is None else _describe(valid),
        networks=hashlib.sha256(modules.encode()).hexdigest(),
        transform=None if transform is None else getattr(transform, "__name__", _without_addresses(repr(transform))),
        schedules={name: _values(schedule) for name, schedule in (schedules or {}).items()},
        computes=_densities(model, data, transform, given),
        objective=None if objective is None else _code(objective),
        **{
            name: list(map(_describe, contexts))
            for name, contexts in {"given": given, "valid_given": valid_given}.items()
            if contexts
        },
    )


def check_same_inputs(run: Any, before: dict[str, Any], now: dict[str, Any], same_versions: bool) -> None:
    """Raises a ValueError, in one line, for what a resumed training no longer has.

    Args:
        run: its directory, for the message.
        before, now: as `describe_inputs` returns them; what an older run does not record is not compared.
        same_versions: whether torch and allegory are those of the run; others may print the same networks otherwise.
    """
    remedy = "resume with the same, or train into a new directory"
    for key, name in (("data", "training data"), ("valid", "validation data")):
        if key in before and before[key] != now[key]:
            old, new = (_in_words(found[key]) for found in (before, now))
            raise ValueError(f"{run} was trained with {name} of {old}, not of {new}; {remedy}")
    for key, name in (("given", "training"), ("valid_given", "validation")):
        if before and before.get(key, []) != now.get(key, []):
            old, new = (" and ".join(map(_in_words, found.get(key, []))) or "nothing" for found in (before, now))
            raise ValueError(f"{run} was trained with {old} given with the {name} data, not with {new}; {remedy}")
    if "transform" in before and before["transform"] != now["transform"]:
        raise ValueError(f"{run} was trained with transform = {before['transform']}, not {now['transform']}; {remedy}")
    if same_versions and "networks" in before and before["networks"] != now["networks"]:
        raise ValueError(
            f"{run} was trained with other networks: a layer, an activation or a setting of one differs in what "
            f"torch prints of the model; {remedy}"
        )
    for name, values in (before.get("schedules") or {}).items():
        if not _close(values, now["schedules"].get(name)):
            raise ValueError(f"{run} was trained with {name} of another schedule, with other values; {remedy}")
    computed, computes = before.get("computes") or {}, now["computes"] or {}
    comparable = same_versions and all(computed.get(key) == computes.get(key) for key in ("buffers", "device"))
    if comparable and not _close(computed.get("values"), computes.get("values")):
        one, other = computed["values"][0], computes["values"][0]
        raise ValueError(
            f"{run} was trained with networks or a transform that computed something else: log w of the same example "
            f"for the same weights was {one:.6g}, and is {other:.6g}; {remedy}"
        )
    code, now_code = before.get("objective") or {}, now["objective"] or {}
    if same_versions and code.get("python") == now_code.get("python") and code != now_code:
        raise ValueError(f"{run} was trained with an objective of the same name, but of other code; {remedy}")


@torch.no_grad()
def _densities(
    model: nn.Module, data: Any, transform: Callable[..., Any] | None, given: Contexts = ()
) -> dict[str, Any] | None:
    """Log w of some examples where each weight is a given number; None where that cannot be had, or is not the same
    twice. It depends on the buffers, too, which a training may move.
    """
    device = next(model.parameters()).device
    try:
        trial = copy.deepcopy(model).eval()
        for i, weight in enumerate(trial.parameters()):
            weight.copy_(0.1 * torch.sin(torch.arange(weight.numel(), device=device) + i).view_as(weight))

        def values() -> list[float]:
            with torch.random.fork_rng(), processes.together(False):
                torch.manual_seed(0)
                x = data[:TRIED].clone()
                x = (x if transform is None else transform(x)).to(device)
                return trial(x, given=tuple(c[:TRIED].to(device) for c in given)).log_weight[0].tolist()

        found = values()
        if found != values() or not all(map(math.isfinite, found)):
            return None
    except Exception:  # such as of a model that is sharded, or of a single use
        return None
    digest = hashlib.sha256()
    for name, buffer in model.named_buffers():
        digest.update(name.encode() + buffer.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return dict(values=found, device=device.type, buffers=digest.hexdigest())


def _code(function: Any) -> dict[str, str] | None:
    """What Python has compiled a function to, without its docstring; None for what is not written in it. A set has
    another order in each process.
    """
    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None:
        return None
    words = getattr(function, "func", function).__doc__
    constants = [value for value in code.co_consts if value != words and not hasattr(value, "co_code")]
    ordered = [sorted(map(repr, value)) if isinstance(value, frozenset) else value for value in constants]
    text = repr((code.co_code, ordered, code.co_names))
    return dict(python=sys.version, code=hashlib.sha256(text.encode()).hexdigest())


def _values(schedule: Callable[[int, float], Any]) -> list[float] | None:
    """Of a schedule, at some steps; None where it has none there."""
    try:
        return torch.stack([torch.as_tensor(schedule(*when), dtype=torch.float64) for when in WHEN]).flatten().tolist()
    except Exception:  # of a schedule that reads what only a training has
        return None


def _close(values: list[float] | None, others: list[float] | None) -> bool:
    """Whether values are the same but for rounding; those that could not be had are not compared."""
    if values is None or others is None:
        return True
    pairs = zip(values, others, strict=False)
    return len(values) == len(others) and all(abs(a - b) <= CLOSE * max(abs(a), abs(b), 1e-6) for a, b in pairs)


def _describe(x: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    if isinstance(x, Stored):
        parts: Any = (x.rows, x[:END_EXAMPLES], x[max(0, len(x) - END_EXAMPLES) :])
    else:
        parts = x.detach().split(max(1, 2**24 // max(1, x[:1].numel())))
    for part in parts:
        digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return dict(shape=list(x.shape), dtype=str(x.dtype), checksum=digest.hexdigest())


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _in_words(about: dict[str, Any] | None) -> str:
    if about is None:
        return "no examples"
    return f"shape {tuple(about['shape'])}, {about['dtype']}, checksum {about['checksum'][:8]}"
