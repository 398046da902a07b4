r"""The verdict: whether a model is good for something, and why; the first thing on the page.

    bad       the bound is not a number; or it is not above that of independent elements by more than two standard
              errors of the difference, example by example
    mixed     it is above, but by less than half of the standard deviation of log p_0 over the examples, a measure
              without a unit; or a level does not work, the model overfits, L_K cannot be trusted, or the training has
              not finished
    good      it is above, and nothing was found
    unknown   there is nothing to compare with

Without examples the bound of the validation decides, as the training has recorded it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from allegory.evaluation.bounds import MIN_EFFECTIVE_SAMPLES
from allegory.evaluation.diagnosis import Diagnosis
from allegory.missingness import of_what
from allegory.views.layout import Section, Table
from allegory.views.measured import Measured, mean_and_error
from allegory.views.runs import Summary

__all__ = ["verdict", "verdict_from_training"]

SLIGHT_SPREADS = 0.5
SHOWN = 8  # levels with a line of their own
UNIT = "nats per example"
COLUMNS = ("quantity", "value", "standard error", "unit", "what it is")


def verdict(found: Measured, summary: Summary) -> Section:
    """The verdict on what was measured, with the baseline.

    Args:
        found: what was measured.
        summary: of the run.
    """
    result, k = found.evaluation, found.samples
    grade, headline = _judge(found, summary)
    rows = [(f"-L_{k}", f"{result.nll:.2f}", _error(result.nll_stderr), UNIT, f"the model; {_bound_is(k)}")]
    if found.gain is not None and result.baseline_nll is not None:
        gain, error = mean_and_error(found.gain)
        of_baseline = mean_and_error(found.gain - found.bounds)[1]
        rows += [
            ("baseline, independent elements", f"{result.baseline_nll:.2f}", _error(of_baseline), UNIT,
             "-log p(x) if the elements of x were independent, each with its own distribution in the training data"),
            ("gain", f"{gain:.2f}", _error(error), UNIT,
             "baseline minus the model, example by example; above zero the model has learned how elements depend on "
             "each other"),
        ]  # fmt: skip
    where = f"{result.examples:,} examples{f' of {found.examples.split}' if found.examples.split else ''}"
    of = found.examples.of
    drawn = f", drawn at random from {of:,}" if of is not None and of > result.examples else ""
    caption = (
        f"On {where}{drawn}, K = {k}. Lower is better, except for the gain. The standard error is over the examples."
    )
    of_gaps = [f"All {of_what(result.gaps)}."] if result.gaps else []
    words = [headline, *of_gaps, *_slight(found), *_findings(found.diagnosis), *_unfinished(summary)]
    return Section("Verdict", words, [Table(COLUMNS, rows, caption)], grade=grade)


def verdict_from_training(summary: Summary, why: str) -> Section:
    """The verdict by what the training has recorded.

    Args:
        summary: of the run.
        why: there is nothing better to go by.
    """
    bound, baseline = summary.bound, summary.baseline
    rows = []
    if bound is not None:
        rows.append(("-bound", f"{-bound:.2f}", UNIT, "the model, on the validation data, in training"))
    if baseline is not None:
        rows.append(("baseline, independent elements", f"{-baseline:.2f}", UNIT, "on the same data"))
    if bound is None:
        grade, headline = "unknown", "no verdict: nothing was measured, here or in training"
    elif not math.isfinite(bound):
        grade, headline = "bad", f"bad: the validation bound is {bound}"
    elif baseline is None:
        grade, headline = "unknown", f"no verdict: the validation bound is {bound:.2f} {UNIT}, and no baseline is known"
    else:
        gain = bound - baseline
        grade = "good" if gain > 0 and summary.stopped else "mixed" if gain > 0 else "bad"
        side = "better" if gain > 0 else "worse"
        headline = f"{grade}, as far as the training tells: {abs(gain):.2f} {UNIT} {side} than independent elements"
    of_gaps = [f"All {of_what(summary.gaps)}."] if summary.gaps else []
    words = [headline, *of_gaps, *_unfinished(summary), why]
    tables = [Table(("quantity", "value", "unit", "what it is"), rows, "Lower is better.")] if rows else []
    return Section("Verdict", words, tables, grade=grade)


def _judge(found: Measured, summary: Summary) -> tuple[str, str]:
    """The grade, and the sentence that gives it and its reason."""
    result = found.evaluation
    broken = int((~found.bounds.isfinite()).sum())
    if broken:
        return "bad", f"bad: the bound is not a finite number for {broken:,} of {result.examples:,} examples"
    wrong = _faults(found.diagnosis, summary)
    if found.gain is None:
        found_wrong = f"; {_joined(wrong)}" if wrong else ""
        return "unknown", f"no verdict: there is no baseline to compare with ({_no_baseline(found)}){found_wrong}"
    gain, error = mean_and_error(found.gain)
    size = f"{abs(gain):.2f}{'' if math.isnan(error) else f' ± {error:.2f}'} {UNIT}"
    if gain <= 0:
        return "bad", f"bad: {size} worse than independent elements"
    if gain < 2 * error:
        return "bad", f"bad: no better than independent elements; what it gains, {size}, is within the error"
    better = f"{'only ' if _slight(found) else ''}{size} better than independent elements"
    if _slight(found) and not wrong:
        return "mixed", f"mixed: {better}"
    if wrong:
        return "mixed", f"mixed: {better}, but {_joined(wrong)}"
    working = "its level works" if len(found.diagnosis.levels) == 1 else "all levels work"
    return "good", f"good: {better}, and {working}"


def _slight(found: Measured) -> list[str]:
    """That the gain is small, if so."""
    if found.gain is None or len(found.bounds) < 2 or not found.bounds.isfinite().all():
        return []
    gain, spread = found.gain.mean().item(), (found.bounds - found.gain).std().item()
    if not 0 < gain < SLIGHT_SPREADS * spread:
        return []
    return [
        f"the gain is small beside the spread of the baseline over the examples, {spread:.2f} nats: little has been "
        "learned; train longer, or with a larger learning rate"
    ]


def _faults(diagnosis: Diagnosis, summary: Summary) -> list[str]:
    """What is wrong, in a few words each."""
    states = {
        "collapsed": ("has collapsed", "have collapsed"),
        "idle": ("is idle", "are idle"),
        "weak": ("is weak", "are weak"),
    }
    faults = []
    for state, (one, several) in states.items():
        levels = [str(level.level) for level in diagnosis.levels if level.verdict == state]
        if levels:
            many = len(levels) > 1
            faults.append(f"level{'s' * many} {_joined(levels)} {several if many else one}")
    faults += ["the model overfits"] if diagnosis.overfits else []
    result = diagnosis.evaluation
    if result.importance_samples > MIN_EFFECTIVE_SAMPLES and result.unreliable > 0.5:
        faults.append(f"L_{result.importance_samples} cannot be trusted")
    return faults + (["the training has not finished"] if not summary.stopped else [])


def _findings(diagnosis: Diagnosis) -> list[str]:
    """The lines of the diagnosis; of many levels those that work are in one line."""
    levels, lines = diagnosis.levels, diagnosis.verdict
    if len(levels) <= SHOWN or all(level.information is None for level in levels):
        return lines
    working = [level.level for level in levels if level.verdict == "works"]
    listed = tuple(f"level {t} works" for t in working)
    first = [line for line in lines[:1] if diagnosis.evaluation.worse_than_baseline]
    first += [f"{len(working)} of {len(levels)} levels work: {_ranges(working)}"]
    return first + [line for line in lines if line not in first and not line.startswith(listed)]


def _ranges(levels: Sequence[int]) -> str:
    """Rising numbers in words, neighbours together.

    >>> _ranges([1, 2, 3, 5, 7, 8]), _ranges([])
    ('1 to 3, 5, 7, 8', 'none')
    """
    groups = [[t for _, t in group] for _, group in groupby(enumerate(levels), lambda pair: pair[1] - pair[0])]
    parts = [f"{g[0]} to {g[-1]}" if len(g) > 2 else ", ".join(map(str, g)) for g in groups]
    return ", ".join(parts) or "none"


def _no_baseline(found: Measured) -> str:
    known = found.examples.train is not None or found.examples.of_train is not None
    return "its likelihood has none" if known else "no training data were given"


def _unfinished(summary: Summary) -> list[str]:
    """That the run has not finished, if so."""
    return [] if summary.stopped else [f"This run has not finished: this is its state after epoch {summary.epochs}."]


def _bound_is(k: int) -> str:
    return "minus the ELBO" if k == 1 else "an upper bound on -log p(x) in expectation, the closer the larger K"


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.2f}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
