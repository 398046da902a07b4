"""allegory export, push: the model of a run, for where there is no Python, and for others."""

from __future__ import annotations

from pathlib import Path

import click

from allegory.command import console
from allegory.command.options import EXPORT, FOLDER, PUSH, Command, PathOrName, with_argument, with_options

__all__ = ["export", "push"]


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(EXPORT)
def export(run: str, out: str, what: str) -> None:
    """Writes the model of a run as an ONNX graph, whose noise is an input.

    encode: x, noise -> z, mean and spread of q. decode: z -> mean and parameters of p(x | z). generate: noise -> the
    same. score: x, noise -> log_px, log_pz, log_qz, of which -L_K is made. Numbers of examples and of particles are
    free. The metadata have the configuration, and a checksum of the weights.

    \b
    Examples:
      allegory export runs/digits --out encoder.onnx
      allegory export runs/digits --out score.onnx --what score
    """  # noqa: D301
    from allegory.views.outputs import check_out

    opened = console.open_run(run, "cpu")
    check_out(out, opened.source)
    console.say(f"{what}: the graph is made, which takes seconds, or of a table of many kinds of columns a minute")
    found = opened.export(out, what)
    inputs, outputs = (
        ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in ends.items())
        for ends in (found.inputs, found.outputs)
    )
    print(f"{out}: {what}, {Path(out).stat().st_size / 1e6:.2f} MB; {inputs} -> {outputs}")
    if opened.reading:
        print(opened.reading)
    if found.difference is None:
        print("not checked: onnxruntime is not installed")
    else:
        print(f"onnxruntime gives the model's numbers, within {found.difference:.0e} of their size")


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("name", PathOrName("name"), "USER/NAME")
@with_options(PUSH)
def push(
    run: str, name: str, split: str, importance_samples: int, private: bool, data: str | None, device: str
) -> None:
    """Evaluates a run, and writes it to the Hugging Face Hub, with a model card that has the numbers.

    Log in before, with hf auth login, or set HF_TOKEN. Afterwards hf://USER/NAME stands for the run wherever RUN does.
    Of a table the categories of its columns are in config.json, and so are public.

    \b
    Examples:
      allegory push runs/digits me/digits
      allegory sample hf://me/digits --out samples.png
    """  # noqa: D301
    from allegory import views
    from allegory.sharing.hub import check_name

    check_name(name)
    opened = console.open_run(run, device, data)
    print(views.push(opened, name, split, importance_samples, private))
