r"""Samples from the model, beside the data; reconstructions; and the examples that it finds most and least likely.

Pictures of p(x | z_1) show its mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from allegory.given import Given
from allegory.model import VAE
from allegory.views import plots
from allegory.views.figures import expected
from allegory.views.layout import Figure, Section, evenly_spaced
from allegory.views.measured import Measured
from allegory.views.showing import Rows, Show

__all__ = ["extremes", "reconstructions", "samples_of", "takes_temperature"]

TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
DRAWS, MAX_NUMBERS = 2000, 2**21  # samples for the marginals; numbers in them, at most
SINGLE, PAIRED = 12, 60  # elements whose marginals, and whose correlations, are shown


def samples_of(model: VAE, x: Tensor | None, show: Show) -> Section:
    """Samples from the model, at several temperatures, and how they compare with the data."""
    section = Section("Samples")
    temperatures = TEMPERATURES if takes_temperature(model, show.given(1)) else (1.0,)
    if show.images:
        means = expected(model.generate(5 * show.count, given=show.given(5 * show.count))).split(show.count)
        words = "Samples from the prior, each shown as the mean of p(x | z_1)."
        section.figures.append(show.rows([("", images) for images in means], words))
        rows: Rows = []
        for temperature in temperatures:
            torch.manual_seed(1)  # the same draws, nearer to their means or farther from them
            rows.append((f"{temperature:g}", expected(model.generate(show.count, temperature, show.given(show.count)))))
        words = "The same samples at several temperatures, the factor on the standard deviations of all latents."
        section.figures += [show.rows(rows, words)] if len(temperatures) > 1 else []
    if x is None and not show.images:
        drawn = expected(model.generate(4 * show.count, given=show.given(4 * show.count))).split(show.count)
        rows = [(f"samples {i}", values) for i, values in enumerate(drawn, 1)]
        section.figures.append(show.paths(rows, "Samples from the prior, each shown as the mean of p(x | z_1)."))
    if x is None:
        return section
    data, drawn_x = show.values(x), _sample_in_parts(model.sample, x[0].numel(), show)
    if show.images:
        ink = plots.marginal(data.mean(1), drawn_x.mean(1), "mean of an image")
        section.figures.append(Figure([ink], "The mean of each image, in the data and in samples from p(x | z_1)."))
        if not show.binary:
            values = plots.marginal(data.flatten(), drawn_x.flatten(), "value")
            section.figures.append(Figure([values], "All values, in the data and in samples from p(x | z_1)."))
        return section
    clouds = []
    for temperature in temperatures if len(data) > 2 else ():
        sample = functools.partial(model.sample, temperature=temperature)
        tempered = _sample_in_parts(sample, x[0].numel(), show)[: len(data)]
        clouds.append(plots.projection(data, tempered, f"temperature {temperature:g}"))
    words = "Data and samples, in the plane in which the data vary most. The temperature multiplies the standard "
    section.figures += [Figure(clouds, words + "deviations of all latents.")] if clouds else []
    chosen = evenly_spaced(range(data.shape[1]), SINGLE)
    single = [plots.marginal(data[:, d], drawn_x[:, d], show.element(d), height=2.4) for d in chosen]
    some = _shown_of(len(chosen), data.shape[1], show)
    words = f"Single {show.elements}s, in the data and in samples from the model, in the units of the data."
    section.figures.append(Figure(single, words + some))
    if data.shape[1] > 1 and len(data) > 2:
        chosen = evenly_spaced(range(data.shape[1]), PAIRED)
        both = [
            plots.correlations(values[:, chosen], title, show.elements if len(chosen) == data.shape[1] else "shown")
            for values, title in ((data, "data"), (drawn_x, "model"))
        ]
        some = _shown_of(len(chosen), data.shape[1], show)
        section.figures.append(Figure(both, f"Correlations between {show.elements}s.{some}"))
    return section


def reconstructions(model: VAE, x: Tensor, show: Show) -> Section:
    """Originals, and reconstructions from several draws from their posterior."""
    some = x[: show.count]
    again = (expected(model.reconstruct(some, given=show.given(len(some)))) for _ in range(4))
    rows = [("x", some), *(("z ~ q(z | x)", means) for means in again)]
    words = "Originals, and with each the means of p(x | z_1) for four draws from its posterior."
    return Section("Reconstructions", figures=[show.rows(rows, words)])


def extremes(x: Tensor, found: Measured, show: Show) -> Section:
    """The most and the least likely examples."""
    section = Section("Most and least likely examples")
    order = found.bounds.argsort(descending=True).tolist()
    count, names = min(show.count, max(1, len(x) // 2)), found.examples.rows
    for name, rows in (("most", order[:count]), ("least", order[::-1][:count])):
        words = [f"{found.bounds[row]:.1f}{'' if show.images else ' nats'}" for row in rows]
        caption = f"The {name} likely examples, with L_{found.samples} of each in nats."
        if names:
            caption += f" Rows {', '.join(names[row] for row in rows)}."
        section.figures.append(Figure(show.cards(x[rows], words), caption))
    return section


def takes_temperature(model: VAE, given: Given = None) -> bool:
    """Whether its latents are normal, so that a temperature is defined.

    Args:
        model: any VAE.
        given: what is given with one example.
    """
    try:
        model.generate(1, temperature=0.5, given=given)
    except ValueError:
        return False
    return True


def _shown_of(shown: int, size: int, show: Show) -> str:
    return f" {shown} of {size:,} are shown, evenly spaced." if shown < size else ""


def _sample_in_parts(sample: Callable[..., Tensor], numbers: int, show: Show) -> Tensor:
    """(n, D) samples of so many numbers each, in the units of the data, drawn in ten parts: DRAWS of them, fewer where
    they are large.
    """
    each = max(1, min(DRAWS, MAX_NUMBERS // numbers) // 10)
    return torch.cat([show.values(sample(each, given=show.given(each))) for _ in range(10)])
