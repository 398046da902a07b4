r"""A table: what each column gains over its own marginal, drawn rows beside those of the data, and what is surprising.

    surprise of a row      -L_K
    surprise of a cell     -log p(x_d | the rest of its row), beside what the values of column d usually have

Shapes: N rows x, (N, D), with gaps; a rows that are looked at cell by cell.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from allegory.evaluation.conditionals import log_cells
from allegory.evaluation.gains import ColumnGain, gain_lines
from allegory.given import take_rows
from allegory.model import VAE
from allegory.tabular.findings import remarks
from allegory.views import grids
from allegory.views.cells import ShownColumn, shown_columns
from allegory.views.layout import Figure, Section, Table
from allegory.views.measured import Examples, Measured
from allegory.views.runs import Run
from allegory.views.showing import Show

__all__ = ["columns_of", "drawn_rows", "surprising"]

SHOWN, BARS, LINES = 12, 24, 12  # columns with a marginal; columns in a bar chart or a table; findings
PAIRS, PAIRED, CLASSES = 4, 40, 6  # pairs that are shown; columns among which they are looked for; classes of values
DRAWS, MAX_NUMBERS = 2000, 2**21  # rows that are drawn; numbers in them, at most
ROWS, LISTED, CELLS = 50, 10, 5000  # the strangest rows, and how many are listed; cells that are scored
CELL_SAMPLES = 200


def columns_of(run: Run, model: VAE, found: Measured) -> Section:
    """What each column gains, what is in the table twice, and where it has gaps.

    Args:
        run: of a table.
        model: of the run.
        found: what was measured.
    """
    columns, known = shown_columns(run, model), _gains(found)
    section = Section("Columns", [*gain_lines(_named(columns, known)), *_remarks(run, found.examples)])
    if known:
        order = _by_nats(found, len(columns))[:BARS]
        names, values = [columns[d].short for d in order], [known[d].gain for d in order]
        bars = grids.gains(names, values, height=grids.column_height(len(order)))
        caption = "What the model says of each column beyond the column's own marginal, the baseline, in nats per "
        caption += "observed value, with z given the whole row; what z costs is paid once for all of them, so that "
        caption += f"the gains sum to more than the model gains.{_some(len(order), len(columns))}"
        section.figures.append(Figure([bars], caption))
        rows = [
            (columns[d].name, f"{known[d].nats:.3f}", f"{known[d].baseline:.3f}", f"{known[d].gain:.3f}") for d in order
        ]
        per = "observed value, or, where gaps are data, per row" if found.evaluation.gaps else "observed value"
        units = f"In nats per {per}; of a density it depends on the unit."
        heads = ("column", "log p(x_d | z_1)", "its own marginal", "gain")
        section.tables.append(Table(heads, rows, units))
    section.tables.append(_gap_table(columns, found.examples))
    return section


def drawn_rows(run: Run, model: VAE, found: Measured, show: Show) -> Section:
    """Single columns and pairs of columns, in the data and in rows that the model draws.

    Args:
        run, model, found: as of `columns_of`.
        show: what is given with the draws.
    """
    columns, x = shown_columns(run, model), found.examples.x.cpu()
    each = max(1, min(DRAWS, MAX_NUMBERS // len(columns)) // 10)
    drawn = torch.cat([model.sample(each, given=show.given(each)).cpu() for _ in range(10)])
    order = _by_nats(found, len(columns))
    single = [_marginal(x[:, d], drawn[:, d], columns[d]) for d in order[:SHOWN]]
    words = f"Single columns: {len(x):,} rows of the data and {len(drawn):,} drawn ones, gaps left out; bins are whole "
    words += "steps of a column that has a resolution."
    if found.evaluation.columns:
        words += " The columns that gain most are first."
    section = Section("Drawn rows", figures=[Figure(single, words + _some(len(single), len(columns)))])
    for one, other, nats in _dependent(x, columns, order[:PAIRED]):
        pair = sorted((one, other), key=lambda d: not columns[d].labels)
        two = [columns[d] for d in pair]
        both = [
            grids.pair(rows[:, pair], x[:, pair], two, title, height=3.2)
            for rows, title in ((x, "data"), (drawn, "drawn"))
        ]
        words = f"{two[0].name} and {two[1].name}: among the pairs that depend on each other most in the data, by "
        section.figures.append(Figure(both, f"{words}{nats:.2f} nats."))
    return section


def surprising(run: Run, model: VAE, found: Measured) -> Section:
    """The rows that the model finds least likely, and the cells that fit the rest of their row least.

    Args:
        run, model, found: as of `columns_of`.
    """
    columns, x, k = shown_columns(run, model), found.examples.x, found.samples
    section = Section("Surprising rows and cells")
    strange = found.bounds.argsort()[: min(ROWS, max(LISTED, CELLS // len(columns)))]
    usual = torch.tensor([gain.nats for gain in _gains(found)] or [0.0] * len(columns))
    samples, contexts = min(k, CELL_SAMPLES), take_rows(found.examples.given, strange.to(x.device))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .* rows the effective sample size")  # said in the caption
        cells = log_cells(model, x[strange.to(x.device)], samples, given=contexts).cpu()
    excess = usual - cells  # NaN in gaps
    values = x[strange.to(x.device)].cpu()
    rows = []
    for i, row in enumerate(strange[:LISTED].tolist()):
        worst = excess[i].nan_to_num(-torch.inf).topk(min(3, len(columns))).indices.tolist()
        worst = [d for d in worst if excess[i, d] > 0]
        told = ", ".join(f"{columns[d].name} = {columns[d].in_words(values[i, d].item())}" for d in worst)
        rows.append((_row_name(found.examples, row), f"{-found.bounds[row]:.2f}", told))
    caption = (
        f"The rows that are least likely, by -L_{k} in nats, and in each what surprises most given the rest of it."
    )
    section.tables.append(Table(("row", "value", "most surprising in it"), rows, caption))
    section.tables.append(_cell_table(found, columns, strange, values, cells, excess, bool(usual.any()), samples))
    carried = found.evaluation.carried
    if carried is not None:
        named = ", ".join(_row_name(found.examples, row) for row in carried.rows[:LISTED])
        some = f"{len(carried.rows)} rows carry" if len(carried.rows) > 1 else "one row carries"
        section.words.append(
            f"{some} the mean: without {'them' if len(carried.rows) > 1 else 'it'} -L_{k} would be "
            f"{carried.shift:.2f} nats lower: {named}"
        )
    return section


def _cell_table(
    found: Measured, columns: Sequence[ShownColumn], strange: Tensor, values: Tensor, cells: Tensor, excess: Tensor,
    known: bool, samples: int,
) -> Table:  # fmt: skip
    """The most surprising of some cells."""
    ranked = excess.nan_to_num(-torch.inf).flatten().topk(min(LISTED, excess.numel())).indices.tolist()
    rows = []
    for place in ranked:
        i, d = divmod(place, len(columns))
        if values[i, d].isnan():
            continue
        usual = (cells[i, d] + excess[i, d]).item()
        row = (_row_name(found.examples, int(strange[i])), columns[d].name, columns[d].in_words(values[i, d].item()))
        rows.append((*row, f"{cells[i, d]:.2f}", *([f"{usual:.2f}"] if known else [])))
    heads = ("row", "column", "what it has", "log p(x_d | rest)", *(["usual"] if known else []))
    caption = f"The cells that fit the rest of their row least, of the {len(strange)} least likely rows, in nats; an "
    caption += f"estimate with {samples} particles, neither a lower bound nor an upper one."
    caption += " usual: the mean of log p(x_d | z_1), z given the row; the table is by the difference." if known else ""
    return Table(heads, rows, caption)


def _marginal(data: Tensor, drawn: Tensor, column: ShownColumn) -> str:
    if not column.labels:
        return grids.numbers(data, drawn, column, height=2.4)
    shown = min(len(column.labels), grids.CATEGORIES + 1)
    return grids.codes(data, drawn, column, height=max(2.4, grids.column_height(shown)))


def _gap_table(columns: Sequence[ShownColumn], examples: Examples) -> Table:
    """The share of gaps in each column; drawn rows have none."""
    parts = {examples.split or "x": examples.x}
    if examples.train is not None and examples.split != "train":
        parts["train"] = examples.train
    missing = {split: rows.isnan().double().cpu() for split, rows in parts.items()}
    shares = torch.stack([rows.mean(0) for rows in missing.values()], 1)
    heads = ("column", *(f"gaps in {split}" for split in parts), "in drawn rows")
    whole = [f"{(rows.sum(1) == 0).double().mean():.1%}" for rows in missing.values()]
    rows = [("rows without a gap", *whole, "100.0%")]
    gone = [d for d in shares.sum(1).argsort(descending=True).tolist() if shares[d].any()]
    rows += [(columns[d].name, *(f"{share:.1%}" for share in shares[d].tolist()), "0.0%") for d in gone[:BARS]]
    caption = "The share of the values that are missing. " if gone else "No value is missing. "
    if len(gone) > BARS:
        caption += f"{BARS} of {len(gone):,} columns with gaps are shown, those with most of them."
    elif 0 < len(gone) < len(columns):
        caption += "The other columns have none."
    return Table(heads, rows, caption.strip())


def _remarks(run: Run, examples: Examples) -> list[str]:
    """What is in the table twice and what follows from what, where its columns are known."""
    if run.schema is None or examples.train is None:
        return []
    train = run.data.train if examples.of_train is not None else examples.train
    if not isinstance(train, Tensor):
        return []
    found = remarks(train.cpu(), run.schema)
    return found[:LINES] + ([f"{len(found) - LINES} more remarks are left out"] if len(found) > LINES else [])


def _dependent(x: Tensor, columns: Sequence[ShownColumn], among: Sequence[int]) -> list[tuple[int, int, float]]:
    """The pairs of columns that depend on each other most, by the mutual information of classes of their values, less
    what it has by chance (Miller 1955), nats.
    """
    classes = {d: _classes(x[:, d], bool(columns[d].labels)) for d in among}
    found = []
    for one, other in combinations(among, 2):
        both = x[:, [one, other]].isfinite().all(1)
        if int(both.sum()) < 20:
            continue
        counts = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
        counts.index_put_((classes[one][both], classes[other][both]), torch.ones(int(both.sum())).double(), True)
        share = counts / counts.sum()
        rows, sides = share.sum(1, keepdim=True), share.sum(0, keepdim=True)
        nats = torch.xlogy(share, share / (rows * sides).clamp(min=1e-300)).sum().item()
        by_chance = (int((rows > 0).sum()) - 1) * (int((sides > 0).sum()) - 1) / (2 * int(both.sum()))
        found.append((one, other, nats - by_chance))
    return sorted((each for each in found if each[2] > 0), key=lambda each: -each[2])[:PAIRS]


def _classes(x: Tensor, coded: bool) -> Tensor:
    """(N,) classes 0, 1, ... of values: the most frequent categories, and all others; of numbers by their rank."""
    seen = x[x.isfinite()]
    if coded:
        values, counts = seen.unique(return_counts=True)
        kept = values[counts.argsort(descending=True)[: CLASSES - 1]]
        found = (x[:, None] == kept).long()
        return torch.where(found.any(1), found.argmax(1), CLASSES - 1)
    if not len(seen):
        return torch.zeros(len(x), dtype=torch.long)
    inner = torch.linspace(0, 1, CLASSES + 1, dtype=torch.float64)[1:-1]
    edges = seen.double()[:100_000].quantile(inner).unique()
    return torch.bucketize(x.double().nan_to_num(), edges, right=True).clamp(max=CLASSES - 1)


def _by_nats(found: Measured, size: int) -> list[int]:
    """The columns, those of most nats gained first; in their order where that is not known."""
    known = _gains(found)
    return sorted(range(size), key=lambda d: -known[d].gain) if known else list(range(size))


def _gains(found: Measured) -> list[ColumnGain]:
    return found.evaluation.columns or []


def _named(columns: Sequence[ShownColumn], known: Sequence[ColumnGain]) -> list[ColumnGain]:
    return [
        ColumnGain(column.name, gain.observed, gain.nats, gain.baseline, gain.gain)
        for column, gain in zip(columns, known, strict=bool(known))
    ]


def _row_name(examples: Examples, row: int) -> str:
    return examples.rows[row] if examples.rows else f"row {row}"


def _some(shown: int, size: int) -> str:
    return f" {shown} of {size:,} columns are shown." if shown < size else ""
