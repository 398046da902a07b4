r"""The likelihood that fits the values of x: what `--likelihood auto` chooses, and why, in one line.

    two values                                      bernoulli
    whole numbers 0..31, or 32 levels from below 0  categorical
    whole numbers 0..255                            discretized_logistic
    whole numbers beyond 255, as varied as counts   negative_binomial
    anything else                                   normal

Vectors of these last two kinds are looked at column by column: where one of at most 256 has a resolution, comes to the
same value again and again, has few values or is constant, each has a law of its own, "columns"; see `allegory.tabular`.

Shapes: N examples x, (N, *event); N rows, D columns of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from allegory.data.cutting import chunks, value_range
from allegory.data.recoding import two_values
from allegory.data.stored import Stored
from allegory.data.tables import as_frame
from allegory.data.values import remarks
from allegory.tabular import Schema
from allegory.tabular.frames import open_frame
from allegory.tabular.inference import names_rows
from allegory.tabular.resolution import find_step

__all__ = ["are_columns", "by_values", "choose_likelihood", "coarse_steps", "of_columns", "summarize"]

MAX_COLUMNS = 256  # with laws of their own, each of which takes its time in every step
LARGEST = 1e9  # rate of allegory.families.poisson and negative_binomial; float32 has no other numbers of that size
COARSE = 0.01  # of the spread of a column: steps from which on rounding is seen

COUNTS_SPREAD = 0.5  # variance of counts, in means, at least: of Poisson counts it is 1, a sample's half the time below


def choose_likelihood(x: Tensor) -> tuple[str, str]:
    """The likelihood that fits the values of `x`, (N, *event), and the reason, in one line.

    Two values: "bernoulli" (`to_binary` where they are not 0 and 1). Whole numbers in 0..31, or from a negative one
    up at most 31: "categorical". Whole numbers in 0..255: "discretized_logistic". Whole numbers from 0 on, up to more
    than 255, that vary at least half as much as Poisson counts: "negative_binomial". Otherwise: "normal". For dynamic
    data pass the `valid` split, since `train` holds probabilities. What `allegory.data.remarks` says of the values is
    in the reason.

    >>> choose_likelihood(torch.tensor([[1.0], [3.0], [16.0]]))
    ('categorical', 'whole numbers 1..16, 17 levels')
    >>> choose_likelihood(torch.tensor([[1.5, 3.0], [0.25, 900.0], [0.125, 20.0]] * 9))
    ('columns', 'columns of different kinds: 1 count, 1 positive')
    """
    name, why = by_values(x)
    schema = of_columns(x, name)
    if schema is not None:
        return "columns", summarize(schema)
    told = remarks(x, name)
    return name, "; ".join([why, *(told[:-1] if name == "normal" else told)])


def by_values(x: Tensor) -> tuple[str, str]:
    """As `choose_likelihood`, without what else there is to say of the values.

    >>> by_values(torch.tensor([[0.0], [255.0]]))
    ('bernoulli', 'two values, 0 and 255, taken as 0 and 1')
    """
    two = two_values(x)
    if two is not None:
        return "bernoulli", f"two values, {two[0]:g} and {two[1]:g}{'' if two == (0, 1) else ', taken as 0 and 1'}"
    low, high = value_range(x)
    if low != low:
        raise ValueError("every value of the data is missing (NaN): there is nothing to learn")
    if max(-low, high) <= LARGEST and all(bool(((part == part.round()) | part.isnan()).all()) for part in chunks(x)):
        return _choose_for_whole_numbers(x, low, high)
    why = f"real values, {low:g} to {high:g}"
    room = 0.07 if all(bool(((part == part.half()) | part.isnan()).all()) for part in chunks(x)) else 1e-3  # of a level
    # A density of discrete levels has no bound, and these are the most common ways in which they are hidden.
    for first, half, name, back in (
        (0.0, 255.0, "/ 255", "multiply by 255"),
        (-1.0, 127.5, "/ 127.5 - 1", "add 1 and multiply by 127.5"),
    ):
        steps = ((part - first) * half for part in chunks(x))
        if (
            low >= first
            and high <= 1
            and all(bool((part - part.round()).abs().nan_to_num(0).max() < room) for part in steps)
        ):
            return "normal", f"{why}; they look like grey levels {name}, so {back} to score them as levels"
    unit = "; continuous_bernoulli is a density on [0, 1] alone" if low >= 0 and high <= 1 else ""
    return "normal", f"{why}{unit}"


def of_columns(x: Any, name: str) -> Schema | None:
    """The schema of vectors whose columns each need a law of their own; None where one law serves all.

    Args:
        x: (N, D) all rows, a tensor or an array, without what was taken off; or anything else, which has no columns.
        name: what `by_values` found.
    """
    if isinstance(x, Stored) or not are_columns(x.shape[1:], name):
        return None
    frame = as_frame(x)
    opened = open_frame(frame)
    kinds = {i: "real" for i in opened.names if names_rows(i, opened.read(i))}
    schema = Schema.infer(frame, kinds)
    continuous = [c.kind in ("real", "positive") and c.resolution is None and not c.points for c in schema.columns]
    return None if all(continuous) or not schema.modelled else schema


def are_columns(event_shape: Sequence[int], name: str) -> bool:
    """Whether examples are looked at column by column.

    Args:
        event_shape: of an example.
        name: what `by_values` found.
    """
    return len(event_shape) == 1 and event_shape[0] <= MAX_COLUMNS and name in ("normal", "negative_binomial")


def coarse_steps(x: Tensor) -> dict[int, float]:
    """The columns of x, (N, D), that were rounded, with gaps, and to what: where values come again, and all are
    multiples of a step, of more than a hundredth of the spread.

    >>> coarse_steps(torch.stack([torch.arange(60) % 7, torch.randn(60)], 1))
    {0: 1.0}
    """
    found = {}
    for d, column in enumerate(x.detach().double().cpu().numpy().T):
        different, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        step = find_step(different) if len(different) > 1 and (counts > 1).any() else None
        if step is not None and step.size > COARSE * np.nanstd(column):
            found[d] = step.size
    return found


def summarize(schema: Schema) -> str:
    """The columns of a schema in a few words."""
    kinds = [column.kind for column in schema.columns]
    different = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in different)
    return f"columns of {'different kinds' if len(different) > 1 else 'their own'}: {counts}"


def _choose_for_whole_numbers(x: Any, low: float, high: float) -> tuple[str, str]:
    """The likelihood of whole numbers from `low` to `high`, and the reason."""
    if low < 0 and high - low <= 31:
        return "categorical", f"whole numbers {low:g}..{high:g}, {high - low + 1:g} levels"
    counts = "; for counts ask for poisson or negative_binomial" if low == 0 and x.dim() == 2 else ""
    if low >= 0 and high <= 31:
        return "categorical", f"whole numbers {low:g}..{high:g}, {high + 1:g} levels{counts}"
    if low >= 0 and high <= 255:
        return "discretized_logistic", f"whole numbers {low:g}..{high:g}, within 0..255{counts}"
    why = f"whole numbers {low:,.0f}..{high:,.0f}"
    if low < 0:
        shift = f"; add {-low:g} to score them as levels" if high - low <= 255 else ""
        return "normal", f"{why}{shift}"
    some = x[:10_000].double().flatten(1)
    varied = (some - some.nanmean(0)).square().nanmean(0) >= COUNTS_SPREAD * some.nanmean(0)
    if varied.double().mean() >= 0.5:
        return "negative_binomial", f"{why} that vary as counts do"
    return "normal", f"{why}, which vary less than counts do"
