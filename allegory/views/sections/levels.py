r"""What the levels do: their rates and units, the diagnosis of each, and pictures in which they are redrawn. The rates
of many levels that share a network are a curve, over the levels and, of a diffusion, over log SNR.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from allegory.chain import FixedChain
from allegory.diffusion import Denoising
from allegory.evaluation.bounds import MANY_LEVELS
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
FIXED = (
    "In nats per example. rate: KL of posterior and prior, what the level costs. The encoder is fixed, so that no "
    "level can collapse."
)


def levels(model: VAE, x: Tensor, found: Measured, show: Show) -> Section:
    """The rate of each level and of each unit, the diagnosis, and what each level does."""
    states, rates = found.diagnosis.levels, found.unit_rates
    fixed, height = isinstance(model, FixedChain), 1.2 + 0.35 * min(len(states), 12)
    if isinstance(model, FixedChain) and len(states) > MANY_LEVELS:
        figures = [_curves(model, [v.rate for v in states])]
    elif fixed:
        figures = [Figure([plots.level_rates([v.rate for v in states], height=height)], "The rate of each level.")]
    else:
        active = [f"{v.active_units} of {v.units} active" for v in states]
        bars = plots.level_rates([v.rate for v in states], active, height=height)
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
    caption = "What each level does: z is drawn from the posterior given x, except for the levels named, which are "
    figures.append(show.rows(rows, caption + "redrawn from the prior, given those above them."))
    rows_of = found.diagnosis.rows()
    told = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows_of)]
    table = Table([COLUMNS[i] for i in told], [[row[i] for i in told] for row in rows_of], FIXED if fixed else CAPTION)
    return Section("What the levels do", tables=[table], figures=figures)


def _curves(model: FixedChain, rates: list[float]) -> Figure:
    """The rates of the levels below the top."""
    below, words = rates[:-1], "The rate of each level below the top, all of which share one network"
    levels = [float(t) for t in range(1, len(rates))]
    parts = [plots.rate_curve(levels, below, "level")]
    own = model.decoders
    if isinstance(own, Denoising):
        ratios = [own.log_snr(t).item() for t in range(1, len(rates) + 1)]
        steps = [(high - low, (high + low) / 2) for high, low in pairwise(ratios)]
        density = [rate / step for rate, (step, _) in zip(below, steps, strict=True)]
        parts.append(plots.rate_curve([middle for _, middle in steps], density, "log SNR", "unit of log SNR"))
        words += "; and what they cost by the unit of log SNR, whose area is the same for any number of levels"
    return Figure(parts, f"{words}. The top costs {rates[-1]:.2f}.")
