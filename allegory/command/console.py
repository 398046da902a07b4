"""What the commands share: opening a run, and output for people and for programs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from allegory.views.runs import Run

__all__ = ["as_flags", "device", "imports_done", "naming_flags", "open_run", "print_json", "say", "say_if_binarised"]


FLAGS = (  # what a message for Python says of reading a table, as it is typed
    (r"drop=\['([^',]*)'\]", r"--drop '\1'"),
    (r"drop=\[([\d, ]*)\]", r"--drop \1"),
    (r"columns=\{'?([^':]*)'?: '(\w+)'\}", r"--column '\1=\2'"),
    (r"gaps=\{[^:]*: \[([^\]]*)\]\}", r"--gaps '\1'"),
    (r"gaps=\['([^',]*)'\]", r"--gaps '\1'"),
    (r"gaps=\[([^\]]*)\]", r"--gaps \1"),
    (r"header=False", "--no-header"),
    (r"header=True", "--header"),
    (r"(decimal|encoding|delimiter)=", r"--\1 "),
)


def as_flags(text: str) -> str:
    """A message for Python, with the arguments by which a table is read as options of the command.

    >>> as_flags("leave it out with drop=['id'], or say columns={'id': 'count'}")
    "leave it out with --drop 'id', or say --column 'id=count'"
    """
    for pattern, flag in FLAGS:
        text = re.sub(pattern, flag, text)
    return text


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Errors of reading a table name the options of the command."""
    try:
        yield
    except ValueError as error:
        raise ValueError(as_flags(str(error))) from None


def imports_done(source: str | None = None) -> None:
    """To be called once torch and all that a command needs is imported: from here on Ctrl-C is a KeyboardInterrupt.

    Args:
        source: the data that will be read; what reads them is imported here.
    """
    if source == "digits":
        import sklearn.datasets  # noqa: F401
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as allegory.__main__ set it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def say(text: str) -> None:
    """Prints a line on standard error, in the first of several processes; where that is full, nothing."""
    if os.environ.get("RANK", "0") == "0":  # this process's rank, as torchrun sets it
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def say_if_binarised(run: Run, split: str) -> None:
    """Says that grey training data are scored as one draw of bits."""
    if split == "train" and run.data.dynamic:
        say("train holds grey levels, which training binarises each time they are drawn; here they are binarised once")


def print_json(value: Any) -> None:
    """Prints a line of JSON on standard output. JSON has neither NaN nor infinity: they are null, such as the standard
    error of one example.
    """
    from allegory.runtime.storage import as_json

    print(as_json(value))


def device(name: str) -> torch.device:
    """The device that --device names, or a one-line error."""
    from allegory.runtime.devices import choose_device

    try:
        return choose_device(name)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def open_run(path: str, name: str, data: str | None = None) -> Run:
    """A run on a device, with the given data."""
    from allegory.views.runs import Run

    run = Run(path, data=data, device=device(name))
    imports_done(run.source)
    if data is not None and not run.knows_its_data:
        say(f"{path} does not record what it was trained on: the test split here may contain training examples")
    return run
