r"""Runs on the Hugging Face Hub, over the package huggingface_hub: a repository "user/name" with

    config.json, weights.safetensors    of the run
    README.md                           what the model is, and how it was evaluated
    SHA256SUMS                          of both files of the run, as `sha256sum` writes and checks them

"hf://user/name", or "hf://user/name@revision", stands for the run wherever a run directory does. Nothing of it is read
before the checksums of its files were compared; what huggingface_hub has fetched once stays in its cache. The variables
HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE say which hub, who one is, and where the cache lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from allegory.runtime.messages import first_line

__all__ = ["SCHEME", "check_name", "fetch", "upload"]

SCHEME = "hf://"
"""What the name of a run on the hub begins with."""

FILES = ("config.json", "weights.safetensors")  # of a run, all that a model needs
SUMS, CARD = "SHA256SUMS", "README.md"


def fetch(run: str | Path) -> Path:
    """The directory of a run: of "hf://user/name" what was fetched, everything else as it is.

    Raises:
        ValueError: huggingface_hub is not installed; no such repository, no run in it, or a file that is not the one
            that was pushed; no connection.

    >>> fetch("runs/mnist").as_posix()
    'runs/mnist'
    """
    if not str(run).startswith(SCHEME):
        return Path(run)
    name, _, revision = str(run)[len(SCHEME) :].partition("@")
    check_name(name)
    hub = _hub()
    try:
        folder = hub.snapshot_download(
            name,
            revision=revision or None,
            endpoint=os.environ.get("HF_ENDPOINT"),
            cache_dir=os.environ.get("HF_HUB_CACHE"),
            allow_patterns=[*FILES, SUMS],
            tqdm_class=hub.utils.tqdm,
        )
    except Exception as error:  # of the client that it uses, of any kind
        raise ValueError(f"{run} cannot be fetched: {_reason(error)}") from None
    return _checked(Path(folder), str(run))


def _checked(folder: Path, run: str) -> Path:
    """The folder, if the files in it are those that were pushed."""
    for name in (SUMS, *FILES):
        if not (folder / name).is_file():
            raise ValueError(f"{run} is not a run that allegory has pushed: there is no {name}")
    sums = dict(line.split("  ", 1)[::-1] for line in (folder / SUMS).read_text().splitlines() if "  " in line)
    for name in FILES:
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sums.get(name):
            raise ValueError(f"{run}: {name} is not the one that was pushed, {SUMS} says; nothing of it was read")
    return folder


def upload(run: str | Path, name: str, card: str, private: bool = False) -> str:
    """Writes a run to a repository, which is made where there is none, in one commit. Of config.json the place of the
    data is left out, which is nobody else's.

    Args:
        run: its directory.
        name: "user/name".
        card: README.md.
        private: whether a new repository is.

    Returns:
        Its address.

    Raises:
        ValueError: no such name; huggingface_hub is not installed; no permission, no connection.
    """
    check_name(name)
    hub = _hub()
    contents = {file: (Path(run) / file).read_bytes() for file in FILES}
    contents["config.json"] = _without_places(contents["config.json"])
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in contents.items())
    contents |= {SUMS: sums.encode(), CARD: card.encode()}
    operations = [hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=part) for file, part in contents.items()]
    try:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, operations, commit_message="A run of allegory")
    except Exception as error:  # of the client that it uses, of any kind
        raise ValueError(f"cannot push to {name}: {_reason(error)}") from None
    return str(address)


def check_name(name: str) -> None:
    """Raises a ValueError for anything but "user/name".

    >>> check_name("name")
    Traceback (most recent call last):
    ValueError: 'name' is no repository: wanted user/name, of letters, digits, '-', '_' and '.'
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"{name!r} is no repository: wanted user/name, of letters, digits, '-', '_' and '.'")


def _without_places(config: bytes) -> bytes:
    """The configuration, with the name of a file of data in the place of its path."""
    found = json.loads(config)
    data = found.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        data["source"] = re.split(r"[/\\]", data["source"].rstrip("/\\"))[-1]
    return (json.dumps(found, indent=2) + "\n").encode()


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise ValueError("the hub needs the package huggingface_hub: pip install 'allegory[hub]'") from None


def _reason(error: Exception) -> str:
    """The first line of an error of huggingface_hub, and what it says of the cause."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    meant = {
        401: "the hub does not know you: log in with `hf auth login`, or set HF_TOKEN",
        403: "the hub does not let you: your token has no right to write there",
        404: "there is no such repository or revision, or it is private and HF_TOKEN is not of its owner",
    }
    return meant.get(status, first_line(error)) if status is not None else first_line(error)
