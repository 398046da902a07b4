r"""What a training is made of besides its settings: its data, its networks, its transform, in a form that a run keeps.

A resumed training has to be of the same: bounds on other validation data cannot be compared, and the moments of the
optimizer belong to the loss that they were measured on. Tensors are told by a checksum of all their values; examples
that stay on disk by their rows and by the values of the first and of the last of them; networks by what torch prints of
their modules; functions by their names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from allegory.data.stored import Stored

__all__ = ["check_same_inputs", "describe_inputs"]

END_EXAMPLES = 100  # examples at either end of what stays on disk


def describe_inputs(model: nn.Module, data: Any, valid: Any, transform: Callable[..., Any] | None) -> dict[str, Any]:
    """The data, networks and transform of a training, as JSON.

    Args:
        model: as it begins.
        data, valid, transform: as in `fit`.

    >>> describe_inputs(model, x, None, torch.round)["data"]["shape"], describe_inputs(model, x, None, None)["valid"]
    ([7, 6], None)
    """
    modules = _without_addresses(nn.Module.__repr__(model)).replace("FSDP", "")  # sharded or not
    return dict(
        data=_describe(data),
        valid=None if valid is None else _describe(valid),
        networks=hashlib.sha256(modules.encode()).hexdigest(),
        transform=None if transform is None else getattr(transform, "__name__", _without_addresses(repr(transform))),
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
    if "transform" in before and before["transform"] != now["transform"]:
        raise ValueError(f"{run} was trained with transform = {before['transform']}, not {now['transform']}; {remedy}")
    if same_versions and "networks" in before and before["networks"] != now["networks"]:
        raise ValueError(
            f"{run} was trained with other networks: a layer, an activation or a setting of one differs in what "
            f"torch prints of the model; {remedy}"
        )


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
