r"""The likelihood: L_K and its parts, the bounds of single examples, and L_K against K."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from allegory.evaluation.bounds import MANY_LEVELS
from allegory.missingness import of_what
from allegory.views import plots
from allegory.views.layout import Figure, Section, Table
from allegory.views.measured import Measured, mean_and_error
from allegory.views.sections.verdict import COLUMNS, UNIT

__all__ = ["likelihood"]

BINS = 8, 30


def likelihood(found: Measured) -> Section:
    """The bound, its parts, and its distribution over the examples."""
    result, k = found.evaluation, found.samples
    *below, top = result.kl_per_level
    many = len(below) >= MANY_LEVELS
    rates = f"{sum(below):.2f} + {top:.2f}" if many else " + ".join(f"{rate:.2f}" for rate in result.kl_per_level)
    told = f"; {sum(below):.2f} is of the {len(below)} levels below the top" if many else ""
    of = f" of {found.examples.split}" if found.examples.split else ""
    words = [
        f"On {result.examples:,} examples{of}, in nats per example, K = {k}.",
        f"-L_{k} is {result.nll:.2f} ± {result.nll_stderr:.2f} {UNIT}. -ELBO is -reconstruction and the rates of the "
        f"levels: {-result.elbo:.2f} = {-result.reconstruction:.2f} + {rates}{told}.",
    ]
    what_rate, what_units = "KL of posterior and prior: what the level costs", "whose posterior mean varies with x"
    levels = found.diagnosis.levels
    of_levels = [(f"rate of level {v.level}", f"{v.rate:.2f}", "", UNIT, what_rate) for v in levels]
    of_levels += [
        (f"active units of level {v.level}", str(v.active_units), "", f"units, of {v.units}", what_units)
        for v in levels
    ]
    if many:
        what_rate = what_rate.replace("the level costs", "they cost")
        of_levels = [
            (f"rate of {len(below)} levels", f"{sum(below):.2f}", "", UNIT, what_rate),
            ("rate of the top", f"{top:.2f}", "", UNIT, "the same of the last level"),
        ]
    if result.gaps:
        words.append(f"All {of_what(result.gaps)}: they do not compare with those of a model that leaves gaps out.")
    of_x = "p(x_o, s)" if result.gaps else "p(x)"
    what = f"minus the bound on log {of_x} with K = {k}"
    rows = [
        (f"-L_{k}", f"{result.nll:.2f}", f"{result.nll_stderr:.2f}", UNIT, what),
        ("-ELBO", f"{-result.elbo:.2f}", f"{result.elbo_stderr:.2f}", UNIT, "the same with K = 1: the sum of the next"),
        ("-reconstruction", f"{-result.reconstruction:.2f}", "", UNIT, "-log p(x | z_1), z_1 drawn from the posterior"),
        *of_levels,
        ("bits per dimension", f"{result.bits_per_dim:.4f}", "", "bits per element of x", f"-L_{k}, divided by the "
         "elements of x and log 2; of a density it depends on the unit of x"),
        ("effective sample size", f"{result.effective_sample_size:.1f}", "", f"particles, of {k}", "how many of the K "
         "carry weight; near 1 L_K says little"),
    ]  # fmt: skip
    section = Section("Likelihood", words, [Table(COLUMNS, rows, "The standard error is over the examples.")])
    section.figures = [_distribution(found)]
    if len(found.curve) > 1:
        caption = "L_K against K, with the 95 % interval of its mean over the examples. Where it still rises at the "
        section.figures.append(
            Figure([plots.curve(found.curve)], caption + "right, log p(x) is higher than the number reported.")
        )
    return section


def _distribution(found: Measured) -> Figure:
    """The bounds of single examples, of both splits in the same bins."""
    examples, k = found.examples, found.samples
    parts = {examples.split or "x": found.bounds}
    counts = [_drawn(examples.split or "x", len(found.bounds), examples.of)]
    if found.train_bounds is not None and examples.split != "train":
        parts["train"] = found.train_bounds
        counts.append(_drawn("train", len(found.train_bounds), examples.of_train))
    finite = {split: values[values.isfinite()].numpy() for split, values in parts.items()}
    edges = _edges(np.concatenate(list(finite.values())), min(map(len, finite.values())))
    shares = {split: _shares(values, edges, len(parts[split])) for split, values in finite.items()}
    means = {split: values.mean().item() for split, values in parts.items()}
    gap = found.diagnosis.overfits and len(parts) > 1
    svg = plots.likelihoods(edges, shares, means, f"L_{k}", gap)
    caption = f"L_{k} of single examples: {' and '.join(counts)}, the same K and the same bins; dashed, the means."
    if len(parts) > 1:
        caption += f" {_difference(found.bounds, parts['train'], examples.split or 'x', gap)}"
    outside = sum(int(((values < edges[0]) | (values > edges[-1])).sum()) for values in finite.values())
    if outside:
        caption += f" {outside:,} beyond the axis {'is' if outside == 1 else 'are'} in the outermost bins."
    lost = sum(len(values) - len(finite[split]) for split, values in parts.items())
    return Figure([svg], caption + (f" {lost:,} are no finite number, and are in no bin." if lost else ""))


def _drawn(split: str, count: int, of: int | None) -> str:
    if of is None:
        return f"{count:,} of {split}"
    return f"{count:,} of {split}, drawn at random from {of:,}" if count < of else f"all {count:,} of {split}"


def _difference(bounds: Tensor, train: Tensor, split: str, overfits: bool) -> str:
    (held_out, one), (trained, other) = mean_and_error(bounds), mean_and_error(train)
    error = math.hypot(one, other)
    side = "above" if trained >= held_out else "below"
    size = f"{abs(trained - held_out):.2f}{'' if math.isnan(error) else f' ± {error:.2f}'}"
    told = ": the model overfits" if overfits else ""
    return f"The mean of train is {size} nats {side} that of {split}{told}."


def _edges(values: np.ndarray, fewest: int) -> np.ndarray:
    """Of the bins; a few examples far away do not decide on them."""
    if not len(values):
        return np.linspace(-1.0, 0.0, BINS[0] + 1)
    low, high = values.min(), values.max()
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 8 * max(three - half, half - quarter)
    if reach > 0:
        low, high = max(low, half - reach), min(high, half + reach)
    margin = 0.0 if high > low else max(0.5, 1e-6 * abs(low))
    bins = int(np.clip(np.sqrt(fewest), *BINS))
    return np.linspace(low - margin, high + margin, bins + 1)


def _shares(values: np.ndarray, edges: np.ndarray, examples: int) -> np.ndarray:
    """The share of the examples in each bin; what lies beyond the edges is in the outermost ones."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares: np.ndarray = counts / examples
    return shares
