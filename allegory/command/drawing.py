"""allegory sample, reconstruct, encode: samples, reconstructions and latents of a run, as arrays and pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allegory.command import console
from allegory.command.options import (
    ENCODE,
    FILE,
    FOLDER,
    RECONSTRUCT,
    SAMPLE,
    TABLES,
    Command,
    with_argument,
    with_options,
)  # fmt: skip
from allegory.command.tables import names_of_rows, open_table, read_conditions, write_table

if TYPE_CHECKING:
    from allegory.views.runs import Run

__all__ = ["encode", "reconstruct", "sample"]


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(SAMPLE)
def sample(
    run: str,
    count: int,
    out: str,
    device: str,
    seed: int,
    temperature: float,
    given: str | None,
    importance_samples: int | None,
) -> None:
    """Samples from the model: `samples`, and `means`, the means of p(x | z_1) they were drawn from; of a table rows.

    \b
    Examples:
      allegory sample runs/digits --out samples.png
      allegory sample runs/people --count 1000 --out rows.csv
      allegory sample runs/people --count 1000 --out rows.csv --given "region=north,age>=30,age<40"
    """  # noqa: D301  click reads the backspace
    import torch

    from allegory.runtime.storage import write_arrays_in_parts
    from allegory.views.outputs import check_out

    opened = console.open_run(run, device)
    _check_suffix(out, *(TABLES if opened.is_table else (".npz", ".png")))
    check_out(out, opened.source)
    said = read_conditions(opened, given)
    if opened.is_table:
        of_columns = [name for name in said if str(name) not in {part.name for part in opened.conditions}]
        if importance_samples is not None and not of_columns:
            raise ValueError(f"--importance-samples {importance_samples} applies only with --given of columns")
        rows, ess = opened.sample_rows(count, said, temperature, seed, importance_samples, return_ess=True)
        write_table(opened, rows, out)
        print(f"{out}: {count} rows" + ("" if ess is None else f"; effective sample size {ess:,.0f}"))
        return
    if importance_samples is not None:
        raise ValueError(f"--importance-samples {importance_samples} is for a table; {run} is of none")
    parts = opened.draw(count, temperature, seed, opened.given_as(said, count, seed) if said else None)
    if Path(out).suffix.lower() == ".png":
        _save_sheet(out, opened, torch.cat([part.means.cpu() for part in parts]), columns=max(1, math.isqrt(count)))
    else:
        named = ({name: _in_units(opened, x) for name, x in part._asdict().items()} for part in parts)
        write_arrays_in_parts(Path(out), named)
    print(f"{out}: {count} samples")


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_options(RECONSTRUCT)
def reconstruct(run: str, out: str, split: str, count: int, data: str | None, device: str, seed: int) -> None:
    """Writes `originals` and `reconstructions`, the means of p(x | z_1) with z_1 ~ q(z_1 | x)."""
    from allegory.runtime.storage import write_arrays
    from allegory.views.figures import in_pairs
    from allegory.views.outputs import check_out

    _check_suffix(out, ".npz", ".png")
    opened = console.open_run(run, device, data)
    check_out(out, opened.source)
    console.say_if_binarised(opened, split)
    found = opened.reconstruct(split, count, seed)
    if Path(out).suffix.lower() == ".png":
        pairs, gaps = in_pairs(found.originals, found.reconstructions)
        _save_sheet(out, opened, pairs, 8, gaps)
    else:
        images = {name: _in_units(opened, x) for name, x in zip(found._fields[:2], found[:2], strict=True)}
        write_arrays(Path(out), {**images, "rows": found.rows})
    print(f"{out}: {len(found.rows)} pairs of {split}, original and reconstruction")


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("data", FILE, "DATA")
@with_options(ENCODE)
def encode(run: str, data: str, out: str, array: str | None, device: str, seed: int) -> None:
    """Writes the mean and the standard deviation of the latents of every example of DATA, in order.

    DATA is a path, all of which is encoded; or a built-in name, whose test split is. Of a folder, `names` has the file
    of each row, and `labels` its sub-folder. Of a table the columns that the training left out, such as ids, are
    written, too.

    \b
    Examples:
      allegory encode runs/digits digits --out codes.npz
      allegory encode runs/people rows.csv --out codes.csv
    """  # noqa: D301
    from allegory.runtime.storage import write_arrays
    from allegory.views.outputs import check_out

    opened = console.open_run(run, device)
    if opened.is_table:
        if array is not None:
            raise ValueError(f"--array {array} is for a .npz file; {run} is of a table")
        _encode_table(run, data, out, device, seed)
        return
    _check_suffix(out, ".npz")
    check_out(out, data, opened.source)
    arrays: dict[str, Any] = {}
    x, given = opened.read(data, array), opened.read_given(data, array)
    for t, (mean, spread) in enumerate(opened.encode(x, seed, given), start=1):
        arrays |= {f"z{t}_mean": mean, f"z{t}_std": spread}
    write_arrays(Path(out), arrays | _names(data))
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in arrays.items())
    print(f"{out}: {len(arrays['z1_mean'])} examples; {shapes}")


def _encode_table(run: str, data: str, out: str, device: str, seed: int) -> None:
    """The latents of each row, a column for each number; beside them the columns that tell the rows apart."""
    import numpy as np

    from allegory.runtime.storage import write_arrays

    _check_suffix(out, ".npz", *TABLES)
    opened, frame = open_table(run, data, device)
    with console.naming_flags():
        x, given = opened.read(frame), opened.read_given(frame)
    arrays: dict[str, Any] = {}
    for t, (mean, spread) in enumerate(opened.encode(x, seed, given), start=1):
        arrays |= {f"z{t}_mean": mean.cpu(), f"z{t}_std": spread.cpu()}
    latents = {
        f"{name}_{i}": values[:, i].double().numpy() for name, values in arrays.items() for i in range(values.shape[1])
    }
    names = names_of_rows(opened, frame, [*arrays, *latents])
    if out.lower().endswith(".npz"):
        write_arrays(Path(out), {**arrays, **{str(key): np.asarray(value, str) for key, value in names.items()}})
    else:
        write_table(opened, {**names, **latents}, out, frame)
    print(f"{out}: {len(x)} rows; {', '.join(f'{key} {tuple(value.shape)}' for key, value in arrays.items())}")


def _in_units(run: Run, x: Any) -> Any:
    """Examples in the units of the data; of an array of columns as one."""
    import torch

    return run.in_data_units(x) if run.schema is None else torch.from_numpy(run.schema.decode(x))


def _names(source: str) -> dict[str, Any]:
    """The files of a folder, and their sub-folders if there are any, in the order of its examples; none of a file."""
    import numpy as np

    from allegory.data import file_names

    names = file_names(source)
    labels = [str(Path(name).parent) for name in names]
    found = {"names": np.array(names)} if names else {}
    return found | ({"labels": np.array(labels)} if set(labels) - {"."} else {})


def _check_suffix(out: str, *suffixes: str) -> None:
    if not out.lower().endswith(suffixes):
        raise ValueError(f"--out {out}: wanted a name that ends in {' or '.join(suffixes)}")


def _save_sheet(out: str, run: Run, images: Any, columns: int, gaps: Any = None) -> None:
    from allegory.data.cutting import value_range
    from allegory.views.figures import save_sheet

    save_sheet(out, images, columns, *(run.range or value_range(images)), gaps)
