r"""The command `allegory`: train, evaluate, diagnose, report, sample, reconstruct, encode, impute, score, compress,
decompress, export, push, runs, datasets, completion, demo.

Results go to standard output, progress and remarks to standard error. Exit 0; 2 with one line that says what came,
what was wanted and what to do; 130 after Ctrl-C.

`torchrun --nproc-per-node N -m allegory train ...`, or evaluate, does the same in N processes; the first one speaks.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from allegory.command.console import as_flags, print_json, say
from allegory.command.drawing import encode, reconstruct, sample
from allegory.command.looking import completion, datasets, demo, report, runs
from allegory.command.options import nearest
from allegory.command.packing import compress, decompress
from allegory.command.scoring import diagnose, evaluate
from allegory.command.sharing import export, push
from allegory.command.tables import impute, score
from allegory.command.training import train
from allegory.version import __version__

__all__ = ["main", "root"]

COMMANDS = (
    train, evaluate, diagnose, report, sample, reconstruct, encode, impute, score, compress, decompress, export, push,
    runs, datasets, completion, demo,
)  # fmt: skip
PARALLEL_COMMANDS = ("train", "evaluate")  # what several processes do together


class Root(click.Group):
    """The commands, in an order of our own; one that there is not, and several processes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As one needs them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with the first line of its docstring, the whole of it."""
        lines = [(name, (command.help or "").split("\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or which one was meant."""
        if args[0] not in self.commands:
            raise click.UsageError(f"unknown command {args[0]!r}{nearest(args[0], list(self.commands))}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """In the processes that torchrun started where there are such."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return super().invoke(ctx)
        from allegory.runtime import processes

        with processes.process_group():
            return super().invoke(ctx)


@click.group(
    cls=Root,
    commands=COMMANDS,
    invoke_without_command=True,
    context_settings={"max_content_width": 120},
)
@click.option("--version", is_flag=True, help="print the version and exit; with --json, also of torch, and the machine")
@click.option("--json", is_flag=True, help="with --version: print one JSON object")
@click.help_option("-h", "--help", help="show this message and exit")
@click.pass_context
def root(context: click.Context, version: bool, json: bool) -> None:
    """Variational autoencoders of any depth, in nats."""
    if version:
        if json:
            print_json(import_module("allegory.runtime.environment").environment())
        else:
            print(__version__)
        context.exit()
    if json:
        raise click.UsageError("--json goes with --version, or after the name of a command", context)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    Args:
        arguments: what follows `allegory`; sys.argv's by default.
    """
    warnings.showwarning = _show_warning
    if sys.stderr is None:  # closed: print would take standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        say("allegory: standard output is closed; results go there, so open it, or send it to a file")
        return 2
    for stream in (sys.stdout, sys.stderr):  # a name that the locale cannot write is written by its numbers
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if "_ALLEGORY_COMPLETE" in os.environ:  # a shell asks for words
            root.main(prog_name="allegory")
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except click.UsageError as error:
        say(_line(error))
        return 2
    except KeyboardInterrupt:
        say("allegory: stopped")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        reason = error.strerror or " ".join(str(error).split())
        say(f"allegory: cannot read or write {error.filename or 'standard output'}: {reason}")
        return 2
    except (ValueError, FloatingPointError) as error:
        line, rank = " ".join(str(error).split()), os.environ.get("RANK", "0")
        if rank == "0":
            say(f"allegory: {line}")
        elif not getattr(error, "__notes__", []):  # what all were told, the first one says
            print(f"allegory, process {rank}: {line}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        of_memory = any(word in str(error) for word in ("alloc", "out of memory", "overflow"))
        if not of_memory and not isinstance(error, MemoryError):
            raise
        asked = re.search(r"allocate (\d+) bytes|allocate ([\d.]+ \w+)", str(error))
        size = "" if asked is None else asked[2] or f"{int(asked[1]) / 2**30:,.1f} GiB"
        detail = f" for another {size}" if size else ""
        print(f"allegory: not enough memory{detail}; a smaller model, batch or K needs less", file=sys.stderr)
        return 2


def _run(words: Sequence[str]) -> int:
    """The command."""
    words = list(words)
    _check_processes(words)
    try:
        with root.make_context("allegory", words) as context:
            root.invoke(context)
    except click.exceptions.Exit as stop:  # --help, --version
        return stop.exit_code
    return 0


def _drop_output() -> None:
    """Drops what is still to be written to standard output: the end of the process would try again, and fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_processes(words: Sequence[str]) -> None:
    """Several processes are for some commands only; the others must not even join them."""
    command = next((word for word in words if word in root.commands), None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command is not None and command not in PARALLEL_COMMANDS:
        raise ValueError(f"{command} works in one process; torchrun is for {' and '.join(PARALLEL_COMMANDS)}")


def _line(error: click.UsageError) -> str:
    """One line for what cannot be asked."""
    where = error.ctx.command_path if error.ctx else "allegory"
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.NoSuchOption) and error.ctx:
        flags = [flag for param in error.ctx.command.params for flag in (*param.opts, *param.secondary_opts)]
        message = f"unknown argument {error.option_name!r}{nearest(error.option_name, flags)}"
    elif isinstance(error, click.BadParameter) and error.param:
        name = error.param.opts[0] if isinstance(error.param, click.Option) else error.param.opts[0].upper()
        missing = isinstance(error, click.MissingParameter)
        message = f"{name} is missing" if missing else f"{name}: {error.message}"
    return f"{where}: {' '.join(message.split())}; see {where} --help"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(as_flags(f"allegory: warning: {message}"))
