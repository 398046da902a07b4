r"""Tensors on disk: a safetensors file, with JSON beside the tensors, and checksums of both.

Tensors are stored with a SHA-256 of their names, types, shapes and values, and the JSON with one of its text; both are
checked when they are read. Every file is written whole or not at all (beside, fsync, rename). No pickle is read or
written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from allegory.runtime.storage import check_regular, write_atomically
from allegory.training import schema

__all__ = ["read_state", "read_tensors", "uncompiled", "write_tensors"]


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
    stored = metadata or {}
    try:
        found = schema.parse(stored["allegory"], str(path))
    except (KeyError, ValueError):
        raise ValueError(f"{path} was not written by allegory") from None
    if not isinstance(found, dict) or stored.keys() != {"allegory"}:
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


def uncompiled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that they have without torch.compile, so that a run does not depend on it.

    >>> list(uncompiled({"_orig_mod.prior.s": torch.zeros(1)}))
    ['prior.s']
    """
    return {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
