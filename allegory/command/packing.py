"""allegory compress, decompress: data as a file that is as long as the likelihood says, and back."""

from __future__ import annotations

import math
from pathlib import Path

import click

from allegory.command import console
from allegory.command.options import COMPRESS, DECOMPRESS, FILE, FOLDER, Command, with_argument, with_options

__all__ = ["compress", "decompress"]

SHORTER = -0.02  # overhead, below which a file is shorter for a reason that is told


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("data", FILE, "DATA")
@with_options(COMPRESS)
def compress(
    run: str, data: str, out: str, array: str | None, resolution: float | None, jobs: int, verify: bool, json: bool
) -> None:
    """Compresses data without loss, by bits back, to about -ELBO bits.

    DATA is a path, all of which is compressed; or a built-in name, whose test split is. Only the same run decompresses
    the file: its weights are not in it.

    \b
    Examples:
      allegory compress runs/people people.csv --out people.alg
      allegory compress runs/mnist mnist --out mnist.alg --jobs 2
    """  # noqa: D301
    from allegory.views.outputs import check_out

    opened = console.open_run(run, "cpu")
    check_out(out, data, opened.source)
    with console.naming_flags():
        found = opened.compress(data, out, array=array, resolution=resolution, jobs=jobs, verify=verify)
    if json:
        console.print_json(found.as_dict())
        return
    from rich.table import Table

    from allegory.views.terminal import show

    report = found.report
    table = Table(title=f"{Path(out).name}: {report.examples:,} examples of {report.numbers:,} numbers")
    for column in ("", "bytes", "bits per example", "bits per dimension"):
        table.add_column(column, justify="right" if column else "left")

    bits = {"-ELBO": report.negative_elbo / math.log(2)}
    bits |= {"which values are missing": report.gaps / math.log(2)} if report.gaps else {}
    bits |= {"net": report.net_bits, "the file": report.bits}
    bits |= {
        name: 8 * size / report.examples for name, size in sorted(found.others.items(), key=lambda other: other[1])
    }
    for name, each in bits.items():
        table.add_row(name, f"{each * report.examples / 8:,.0f}", f"{each:,.2f}", f"{each / report.numbers:.4f}")
    show(table)
    print(
        f"net is {report.overhead:+.2%} on what the draws should take; initial bits {report.initial_bits:,}; header "
        f"{report.header:,} bytes"
    )
    if report.overhead < SHORTER:
        print(
            "shorter than -ELBO, since no symbol has a mass below 2^-20: the model gives less to some values, which "
            "cost it more than they cost the file; it hardly fits these data"
        )
    if found.beside:
        print(f"beside the model, by xz: {', '.join(found.beside)}, {found.beside_bytes:,} bytes")
    size = f"the weights, {found.weights / 1e3:,.0f} kB, are not in the file"
    paid = "are never paid for: a general compressor makes it as short" if found.others else ""
    paid = f"are paid for after {found.paid_after:,} examples" if found.paid_after is not None else paid
    print(f"{size}{', and ' + paid if paid else ''}")
    told = (
        "the same file comes back, byte for byte"
        if found.same == "bytes"
        else "the same values come back, each of them"
    )
    if found.same == "values" and data.lower().endswith((".csv", ".tsv")):
        told += "; the file is written another way than this one"
    print(told + ("" if verify else "; not verified"))


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("file", FILE, "FILE")
@with_options(DECOMPRESS)
def decompress(run: str, file: str, out: str, jobs: int) -> None:
    """Writes the data that allegory compress made FILE of.

    RUN is the run that compressed it; another one, or a damaged file, is an error, and never other data.

    \b
    Example:
      allegory decompress runs/people people.alg --out people.csv
    """  # noqa: D301
    from allegory.views.outputs import check_out

    opened = console.open_run(run, "cpu")
    check_out(out, file, opened.source)
    print(f"{out}: {opened.decompress(file, out, jobs):,} examples")
