"""allegory impute, score: the gaps of a table filled, and its rows and cells scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allegory.command import console
from allegory.command.options import FILE, FOLDER, IMPUTE, SCORE, TABLES, Command, names, with_argument, with_options

if TYPE_CHECKING:
    from allegory.views.runs import Run

__all__ = ["check_table", "impute", "names_of_rows", "open_table", "read_conditions", "score", "write_table"]


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("data", FILE, "DATA")
@with_options(IMPUTE)
def impute(
    run: str, data: str, out: str, draws: int | None, point: str | None, importance_samples: int, method: str,
    given: str | None, copies: bool, strict: bool, seed: int, device: str,
) -> None:  # fmt: skip
    """Fills the gaps of a table, and leaves everything else as it is.

    RUN is a run of `allegory train people.csv`, DATA a table with its columns (.csv, .parquet), in any order.

    \b
    Examples:
      allegory impute runs/people gaps.csv --out filled.csv
      allegory impute runs/people gaps.csv --out filled.csv --draws 5
      allegory impute runs/people gaps.csv --out filled.csv --given "age>=18"

    Without --draws each gap has its best value: of numbers the median, of categories the likeliest. With --draws M it
    writes M tables, filled-1.csv to filled-M.csv, each a draw of what is missing: analyse each, and pool what was found
    (in Python al.evaluation.rubin). What --given says is of gaps alone: what is observed stays.
    """  # noqa: D301  click reads the backspace
    if draws is None and method != "sir":
        raise ValueError(f"--method {method} is of draws; give --draws M, too")
    if draws is not None and point is not None:
        raise ValueError(
            f"--point {point} is of one table of best values, and --draws {draws} of draws; give one of them"
        )
    from allegory.tabular.filling import count_gaps
    from allegory.tabular.frames import open_frame

    opened, frame = open_table(run, data, device, out)
    assert opened.schema is not None
    said = read_conditions(opened, given)
    with console.naming_flags():
        many = opened.impute(
            frame, draws, point, samples=importance_samples, method=method, seed=seed, strict=strict, given=said,
            copies=copies,
        )  # fmt: skip
    if draws is None:
        write_table(opened, many, out, frame)
        before, after = (count_gaps(opened.schema, one) for one in (frame, many))
        left = f", {after:,} left" if after else ""
        print(f"{out}: {open_frame(frame).rows:,} rows, {before - after:,} gaps filled{left}")
        return
    for i, one in enumerate(many, start=1):
        write_table(opened, one, _numbered(out, i), frame)
    print(f"{_numbered(out, 1)} to {_numbered(out, draws)}: {draws} draws")


@click.command(cls=Command)
@with_argument("run", FOLDER, "RUN")
@with_argument("data", FILE, "DATA")
@with_options(SCORE)
def score(
    run: str, data: str, out: str, cells: bool, importance_samples: int, strict: bool, seed: int, device: str
) -> None:
    """Scores each row of a table: minus its log-likelihood, in nats. The higher, the less likely the row is.

    A row's score depends on its values alone. The columns that the training left out, such as ids, are written beside
    it. With --cells each cell is scored, too: how surprising it is, given the rest of its row.

    \b
    Examples:
      allegory score runs/people rows.csv --out scores.csv
      allegory score runs/people rows.csv --out scores.csv --cells
    """  # noqa: D301
    from allegory.evaluation.gains import data_gaps
    from allegory.missingness import of_what

    opened, frame = open_table(run, data, device, out)
    settings: dict[str, Any] = {"samples": importance_samples, "seed": seed, "strict": strict}
    assert opened.schema is not None
    of_cells = [f"score of {name}" for name in opened.schema.names] if cells else []
    with console.naming_flags():
        names = names_of_rows(opened, frame, ["score", *of_cells])
        found = {**names, "score": opened.score(frame, **settings).double().numpy()}
        if cells:
            each = opened.score(frame, cells=True, **settings).double().numpy()
            found |= {name: each[:, i] for i, name in enumerate(of_cells)}
    write_table(opened, found, out, frame)
    scores = found["score"]
    print(f"{out}: {len(scores):,} rows, {scores.mean():.3f} nats on average, {scores.max():.3f} at most")
    if gaps := data_gaps(opened.model):
        print(of_what(gaps.values()))


def open_table(run: str, data: str, device: str, *outs: str) -> tuple[Run, Any]:
    """A run of a table, and the frame in a file; the files that will be written are checked."""
    from allegory.views.outputs import check_out
    from allegory.views.rows import open_rows

    for out in outs:
        check_table(out)
    opened = console.open_run(run, device)
    if opened.schema is None:
        raise ValueError(f"{run} was not trained on a table; wanted a run of allegory train people.csv, say")
    for out in outs:
        check_out(out, data, opened.source)
    with console.naming_flags():
        return opened, open_rows(opened, data)


def read_conditions(run: Run, given: str | None) -> dict[Any, Any]:
    """What --given says, by name; of a model that is given one thing alone, also without its name."""
    from allegory.data.ranges import OPERATOR, parse_conditions

    if given is None:
        return {}
    parts = run.conditions
    columns = [column.name for column in run.schema.columns] if run.is_table and run.schema else []
    if len(parts) == 1 and (given in parts[0].categories or not OPERATOR.search(given)):
        return {parts[0].name: given}
    if not parts and not columns:
        raise ValueError(f"--given {given}: {run.path} does not record that anything is given with its examples")
    return parse_conditions(names(given), [*columns, *(part.name for part in parts)])


def check_table(out: str) -> None:
    """Checks that a file to be written has the name of a table."""
    if not out.lower().endswith(TABLES):
        raise ValueError(f"--out {out}: wanted a table, whose name ends in .csv, .csv.gz or .parquet")


def write_table(run: Run, frame: Any, out: str, like: Any = None) -> None:
    """Writes a frame; CSV as the file is written that it follows, or that the run was trained on."""
    from allegory.tabular import Dialect, write_frame

    recorded = run.config["data"].get("dialect")
    dialect = getattr(like, "dialect", None) or (Dialect(**recorded) if recorded else None)
    write_frame(frame, out, dialect)


def names_of_rows(run: Run, frame: Any, found: Sequence[str]) -> dict[Any, Any]:
    """The columns that the training left out, such as ids, by which a row is found again; `found` are the names of what
    is written beside them.
    """
    from allegory.tabular.frames import open_frame

    assert run.schema is not None
    opened = open_frame(frame)
    names = [name for name in opened.names if name in run.schema.dropped]
    if both := [name for name in names if str(name) in found]:
        raise ValueError(
            f"column {both[0]!r}, which the training left out, would be written beside results of the same name; "
            "rename it, and train again"
        )
    return {name: _as_array(opened.column(name)) for name in names}


def _as_array(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "to_numpy") else column


def _numbered(out: str, i: int) -> str:
    """The name of one of several files: filled.csv.gz is filled-1.csv.gz."""
    path = Path(out)
    stem, *ends = path.name.split(".")
    return str(path.with_name(".".join([f"{stem}-{i}", *ends])))
