r"""What the levels do: their rates and units, the diagnosis of each, and pictures in which they are redrawn."""

from __future__ import annotations

from torch import Tensor

from allegory.evaluation.diagnosis import COLUMNS
from allegory.model import VAE
from allegory.views import plots
from allegory.views.figures import expected
from allegory.views.layout import Figure, Section, Table, evenly_spaced
from allegory.views.measured import Measured
from allegory.views.showing import Rows, Show

__all__ = ["levels"]

CAPTION = (
    "In nats per example. rate: KL of posterior and prior, what the level costs. active units: those whose posterior "
    "mean varies with x. information: how much the level says about what its posterior sees. gain: how much the ELBO "
    "falls if the level is drawn from its prior instead."
)


def levels(model: VAE, x: Tensor, found: Measured, show: Show) -> Section:
    """The rate of each level and of each unit, the diagnosis, and what each level does."""
    states, rates = found.diagnosis.levels, found.unit_rates
    bars = plots.level_rates(
        [v.rate for v in states], [v.active_units for v in states], [v.units for v in states],
        height=1.2 + 0.35 * min(len(states), 12),
    )  # fmt: skip
    figures = [Figure([bars], "The rate of each level, and how many of its units vary with x.")]
    gone = [f"z_{t}" for t, values in enumerate(rates, start=1) if values is None]
    if len(gone) < len(rates):
        but = f" Not for {' and '.join(gone)}, where q or p does not factorise over units." if gone else ""
        figures.append(Figure([plots.unit_rates(rates)], f"The rate of every unit, sorted.{but}"))
    some, given = x[: show.count], show.given(len(x[: show.count]))
    rows: Rows = [("x", some)]
    for level in evenly_spaced(range(1, model.levels + 1), 5):
        redrawn = "" if level == 1 else "z_1" if level == 2 else f"z_1..{level - 1}"
        for _ in range(3 if redrawn else 1):
            shown = expected(model.reconstruct(some, level, given=given))
            rows.append((f"{redrawn} redrawn" if redrawn else "all kept", shown))
    rows += [("all redrawn", expected(model.generate(len(some), given=given))) for _ in range(2)]
    words = "What each level does: z is drawn from the posterior given x, except for the levels named, which are "
    figures.append(show.rows(rows, words + "redrawn from the prior, given those above them."))
    return Section("What the levels do", tables=[Table(COLUMNS, found.diagnosis.rows(), CAPTION)], figures=figures)
