r"""Resolution: the step of the numbers in a column, the values that come again and again, and the edges of its range.

    step       the largest delta of which all numbers are multiples, from an anchor: whole numbers, cents, 0.05, halves,
               a sensor's step; none where numbers are truly continuous
    points     values that are met far more often than those around them: 0, a cap, 99,999
    coarser    a coarser step, to which many of the numbers were rounded: whole kilograms, beside a few of 0.1
    edges      what values cannot pass: 0 for counts and amounts, 0 and 1 for shares, a cap at which they pile up

All of it is found in all rows, and no seed decides. Rounding to float64, or to float32 where the values are such, does
not count: 0.1 + 0.2 is a multiple of 0.1.

Shapes: N values, U different ones, in order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Step",
    "decimals_of",
    "digits_of_float32",
    "find_coarser",
    "find_edges",
    "find_points",
    "find_step",
    "snap",
    "to_decimals",
    "to_float32",
]

Array = NDArray[Any]

ROUNDING = 8.0  # units in the last place, that arithmetic may have cost
MAX_DECIMALS = 12
CERTAIN = 1e-6  # the probability that multiples of a smaller step are multiples of this one by chance
MAX_LATTICE = 100_000  # steps within the range, where they are no decimals
MIN_LATTICE = 5  # different values
MIN_REPEATS, MAX_POINTS = 10, 64
EXCESS, ERRORS = 1.5, 5.0  # of a point over those beside it: times, standard errors
MIN_GAIN, MIN_GAIN_OF_DENSITY = 5e-4, 2e-3  # nats per row; a mass beside a density makes nats depend on the unit
PASSES = 4
FACTORS = [a * 10**b for b in range(MAX_DECIMALS + 1) for a in (2, 5, 10)]  # a coarser step over the step
MIN_COARSE, MAX_COARSE = 8, 700  # points that ask for one, its multiples
MIN_GAIN_OF_COARSE, MAX_OTHERS = 0.05, 0.05  # nats per row, and the share of rows at points that are no such multiples
WINDOW = 0.05  # of the values on each side, with which the count of one is compared
OFTEN, MAX_SIDE_BY_SIDE, FAR_ABOVE, MANY_STEPS = 0.02, 4, 10.0, 50  # of values that hide each other


class Step(NamedTuple):
    """All values are anchor + k size, for whole k."""

    size: float
    anchor: float = 0.0


def find_step(values: Array, whole: bool = False) -> Step | None:
    """The step of different values, (U,), in order; `whole` where their type holds whole numbers alone.

    >>> find_step(np.array([0.1 + 0.2, 0.5, 0.7, 12.0])), find_step(np.arange(25) / 2)
    (Step(size=0.1, anchor=0.0), Step(size=0.5, anchor=0.0))
    >>> find_step(np.sort(np.random.default_rng(0).normal(size=100))) is None
    True
    """
    if len(values) < 2:
        return Step(1.0) if whole or (len(values) and float(values[0]).is_integer()) else None
    if whole:
        return _decimal_step(values.astype(np.int64), 0)
    values = values.astype(np.float64)
    epsilons = [2.0**-52]
    if len(values) > 2 and np.array_equal(values, values.astype(np.float32).astype(np.float64)):
        epsilons.append(2.0**-23)
    for epsilon in epsilons:
        for decimals in range(MAX_DECIMALS + 1):
            scaled = values * 10.0**decimals
            room = ROUNDING * epsilon * np.abs(scaled)
            if room.max() > 0.05:
                break
            if (np.abs(scaled - np.rint(scaled)) <= room).all():
                return _decimal_step(np.rint(scaled).astype(np.int64), decimals)
    return _lattice(values, epsilons[-1])


def _decimal_step(multiples: Array, decimals: int) -> Step:
    """The step of values that are `multiples`, (U,), of 10^-decimals."""
    common = int(np.gcd.reduce(np.diff(multiples)))
    first = int(multiples[0])
    power = 1  # the largest power of ten that is left after rounding is certain; other factors need as much evidence
    sizes = sorted({common // k for k in range(1, 101) if common % k == 0} | {1}, reverse=True)
    for size in sizes:
        if size > 1 and (len(multiples) - 1) * math.log(size) >= -math.log(CERTAIN) and len(multiples) >= MIN_LATTICE:
            power = size
            break
    anchor = first % power
    return Step(power / 10**decimals, anchor / 10**decimals)


def _lattice(values: Array, epsilon: float) -> Step | None:
    """The step of values that are no decimals, such as whole numbers that were standardised: Euclid, with rounding."""
    if len(values) < MIN_LATTICE:
        return None
    room = 4 * ROUNDING * epsilon * np.abs(values).max()
    steps = np.diff(values)
    steps = steps[steps > room]
    if len(steps) < len(values) / 2:  # beside a wild value all others would be rounding
        return None
    size, least = steps.min(), max((values[-1] - values[0]) / MAX_LATTICE, 100 * room)
    while size > least:
        rest = np.abs(steps - np.rint(steps / size) * size)
        if (rest <= room * np.maximum(1, steps / size)).all():
            k = np.rint((values - values[0]) / size)
            size = float((values[-1] - values[0]) / k[-1])
            return Step(size, float(values[0]))
        size = rest[rest > room * np.maximum(1, steps / size)].min()
    return None


def decimals_of(step: Step) -> int | None:
    """How many decimals the step and its anchor have; None for more than twelve.

    >>> decimals_of(Step(0.05)), decimals_of(Step(1 / 3))
    (2, None)
    """
    for decimals in range(MAX_DECIMALS + 1):
        scaled = np.array([step.size, step.anchor]) * 10.0**decimals
        if (np.abs(scaled - np.rint(scaled)) <= ROUNDING * 2.0**-52 * np.abs(scaled)).all() and scaled[0] >= 0.5:
            return decimals
    return None


def snap(x: Array, step: Step, loose: bool = False) -> Array:
    """The nearest multiples of a step, (N,), with no more digits than they have: 3 steps of 0.1 are 0.3.

    Args:
        x: (N,).
        step: of it.
        loose: whether what differs from a multiple by rounding alone stays as it is.

    >>> x = np.array([0.149, 0.1 + 0.2])
    >>> snap(x, Step(0.05)).tolist(), snap(x, Step(0.05), loose=True).tolist()
    ([0.15, 0.3], [0.15, 0.30000000000000004])
    """
    nearest = step.anchor + np.rint((x - step.anchor) / step.size) * step.size
    decimals = decimals_of(step)
    if decimals is not None:
        nearest = np.rint(nearest * 10.0**decimals) / 10.0**decimals
    room = 4 * ROUNDING * 2.0**-52 * np.maximum(np.abs(x), abs(step.anchor))
    return np.where(np.abs(x - nearest) <= room, x, nearest) if loose else nearest


def to_decimals(x: Array, step: Step, origin: float) -> Array:
    """x, (N,), in which what adding an origin has made of a decimal is that decimal again.

    >>> to_decimals(np.array([-281_123.1 + 500_000.0]), Step(0.1), 500_000.0).tolist()
    [218876.9]
    """
    decimals = decimals_of(step) if origin else None
    if decimals is None:
        return x
    nearest = np.rint(x * 10.0**decimals) / 10.0**decimals
    room = 4 * ROUNDING * 2.0**-52 * np.maximum(np.abs(x), abs(origin))
    return np.where(np.abs(x - nearest) <= room, nearest, x)


def digits_of_float32(x: Array, step: Step | None, points: tuple[float, ...] = ()) -> Array:
    """x, (N,), in which what float32 has made of a decimal is that decimal again: a point, or a number between the
    multiples of a step that is finer than the digits of float32, of which the shortest decimal is taken.

    >>> x = np.array([9.2, 9.533333]).astype(np.float32).astype(np.float64)
    >>> digits_of_float32(x, Step(1e-11)).tolist(), digits_of_float32(x, None, (9.2,)).tolist()
    ([9.2, 9.533333], [9.2, 9.533332824707031])
    """
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    exact = single == x
    for point in points:
        x = np.where(exact & (single == np.float32(point)), point, x)
    if step is not None:
        fine = exact & (step.size < np.spacing(np.abs(single)))
        if fine.any():
            fine[fine] = snap(x[fine], step) != x[fine]
            x = x.copy()
            x[fine] = single[fine].astype(str).astype(np.float64)
    return x


def to_float32(x: Array, step: Step | None, points: tuple[float, ...] = ()) -> Array:
    """(N,) float32 of x, (N,), in which what is no point is none: where float32 has one number for both, x is the next.

    >>> to_float32(np.array([499_999.99, 500_000.0]), Step(0.01), (499_999.99,))
    array([500000.  , 500000.03], dtype=float32)
    """
    single = x.astype(np.float32)
    if step is None or not points or step.size >= np.spacing(np.float32(np.abs(points).max())):
        return single
    values = np.unique(points)
    nearest = values[np.searchsorted((values[1:] + values[:-1]) / 2, x).clip(max=len(values) - 1)]
    same = (single == nearest.astype(np.float32)) & (np.abs(x - nearest) > step.size / 4)
    return np.where(same, np.nextafter(single, np.where(x > nearest, np.inf, -np.inf).astype(np.float32)), single)


def find_points(values: Array, counts: Array, step: Step | None) -> tuple[float, ...]:
    """Which of the different values, (U,), with their counts, (U,), come again and again, in order.

    A value is met at least ten times, half as often again as a value beside it, and more often by five standard errors:
    among a twentieth of all on the one side or the other, on average over the steps there, or over the values that
    there are, where there is no step. Values that come again and again side by side do not count as each other's
    neighbours. And its own probability, in place of that of those beside it, saves at least
    0.0005 nats per row, or 0.002 where there is no step.

    >>> find_points(np.arange(5), np.array([600, 3, 2, 4, 1]), Step(1.0))
    (0.0,)
    """
    least = MIN_GAIN_OF_DENSITY if step is None else MIN_GAIN
    often, found = np.flatnonzero(counts >= MIN_REPEATS), _side_by_side(values, counts, step)
    for _ in range(PASSES if len(values) > 1 else 0):  # what was found is no longer around the others
        rest = counts.copy()
        rest[found] = 0
        expected = np.maximum(_expected(values, rest, often, step), 1e-300)
        excess = counts[often] / expected
        gain = counts[often] / counts.sum() * np.log(np.maximum(excess, 1e-300))
        sure = counts[often] - expected > ERRORS * np.sqrt(np.maximum(expected, 1))
        found = often[sure & (excess > EXCESS) & (gain >= least)]
    most = np.sort(found[np.argsort(-counts[found], kind="stable")[:MAX_POINTS]])
    return tuple(float(value) for value in values[most])


def _side_by_side(values: Array, counts: Array, step: Step | None) -> Array:
    """Places of values that hide each other, such as 9.99 and 10.00: two to four that are met in a fiftieth of all rows
    each, one after the other, and ten times as often as what is around them all.
    """
    often = np.flatnonzero(counts >= max(MIN_REPEATS, OFTEN * counts.sum()))
    found: set[int] = set()
    if step is not None and (values[-1] - values[0]) / step.size < MANY_STEPS:
        return often[:0]
    for many in range(2, MAX_SIDE_BY_SIDE + 1):
        for first in range(len(often) - many + 1):
            places, rest = often[first : first + many], counts.copy()
            rest[places] = 0
            if (counts[places] > FAR_ABOVE * _expected(values, rest, places, step)).all():
                found |= {*places.tolist()}
    return np.array(sorted(found), np.int64)


def find_coarser(
    values: Array, counts: Array, step: Step | None, points: tuple[float, ...]
) -> tuple[float | None, tuple[float, ...]]:
    """A coarser step, of which far more of the different values, (U,), with their counts, (U,), are multiples than
    would be by chance, since some were rounded further than others, and the points that are left then; None and all
    points where there is no such step, or it does not account for them.

    Args:
        values, counts: (U,), in order.
        step: of the values.
        points: what `find_points` has found.

    >>> x, counts = np.arange(100, 180), np.where(np.arange(80) % 5, 2, 40)
    >>> find_coarser(x, counts, Step(1.0), find_points(x, counts, Step(1.0)))
    (5.0, ())
    """
    if step is None or step.anchor or len(points) < MIN_COARSE:
        return None, points
    best: tuple[float | None, tuple[float, ...]] = (None, points)
    least, total = MIN_GAIN_OF_COARSE, counts.sum()
    for factor in FACTORS:
        coarse = float(f"{factor * step.size:.12g}")
        k = np.rint(values / coarse)
        there = np.abs(values - k * coarse) < 0.25 * step.size
        if k[-1] - k[0] > MAX_COARSE or there.sum() < MIN_COARSE:
            continue
        left = find_points(values[there], counts[there], Step(coarse))
        others = find_points(values[~there], counts[~there], Step(step.size * factor / (factor - 1)))
        special = np.isin(values, left)  # which are often met for another reason: a 0, a cap
        explained = there & np.isin(values, points) & ~special
        share = counts[there & ~special].sum() / counts[~special].sum()
        if explained.sum() < MIN_COARSE or not 1 / factor < share < 1:
            continue
        rounded = (share - 1 / factor) / (1 - 1 / factor)
        gain = share * math.log(rounded * factor + 1 - rounded) + (1 - share) * math.log(1 - rounded)
        beside = counts[np.isin(values, others)].sum() / total
        if gain > least and len(left) < len(points) / 4 and beside <= MAX_OTHERS:
            best, least = (coarse, left), gain
    return best


def _expected(values: Array, counts: Array, places: Array, step: Step | None) -> Array:
    """How often the values at some places would be met if they were like those below them, or, if more, above them."""
    total, met = (np.concatenate([[0], np.cumsum(part)]) for part in (counts, counts > 0))
    reach = max(MIN_REPEATS, WINDOW * total[-1])
    first = np.maximum(np.searchsorted(total, total[places] - reach, side="right") - 1, 0)
    last = np.minimum(np.searchsorted(total, total[places + 1] + reach, side="left") - 1, len(values) - 1)
    sides = ((first, places), (places + 1, last + 1))
    if step is None:
        cells = [met[end] - met[start] for start, end in sides]
    else:
        cells = [
            np.rint((values[places] - values[first]) / step.size),
            np.rint((values[last] - values[places]) / step.size),
        ]
    means = [(total[end] - total[start]) / np.maximum(n, 1) for (start, end), n in zip(sides, cells, strict=True)]
    return np.maximum(*means)


def find_edges(values: Array, points: tuple[float, ...], whole: bool) -> tuple[float | None, float | None]:
    """What values cannot pass, below and above, None where nothing is known: 0 where none is negative; 1 for shares;
    the smallest or the largest where they pile up there.

    >>> find_edges(np.array([0.0, 0.4, 1.0]), (), False), find_edges(np.array([1.0, 2.0, 90.0]), (90.0,), True)
    ((0.0, 1.0), (0.0, 90.0))
    """
    if not len(values):
        return None, None
    smallest, largest = float(values[0]), float(values[-1])
    low = smallest if smallest in points else 0.0 if smallest >= 0 else None
    share = not whole and smallest >= 0 and 0.5 < largest <= 1
    high = largest if largest in points else 1.0 if share else None
    return low, high
