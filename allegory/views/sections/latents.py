r"""The latent space: along single units, from one example to another, and the aggregate posterior beside the prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from allegory.draws import draw_to
from allegory.evaluation.moments import posterior_moments
from allegory.given import expand_contexts
from allegory.model import VAE
from allegory.views import plots
from allegory.views.figures import expected
from allegory.views.layout import Figure, Section, evenly_spaced
from allegory.views.measured import Measured
from allegory.views.sections.samples import takes_temperature
from allegory.views.showing import Rows, Show

__all__ = ["latents"]

STEPS = 9  # of a path
UNITS = 6  # of a level
LEVELS, PAIRS = 3, 4  # that are traversed; of examples


def latents(model: VAE, x: Tensor, found: Measured, show: Show) -> Section:
    """Traversals of the most active units, interpolations, the aggregate posterior and the prior."""
    section = Section("Latent space")
    means = [mean for mean, _ in posterior_moments(model, x[: 2 * PAIRS], 50, given=show.given(len(x[: 2 * PAIRS])))]
    drawn = [z[0] for z in model._infer(x, 1, None, show.contexts)[0]]
    z = [values.reshape(len(x), -1) for values in drawn]
    measured = zip(z, found.unit_rates, strict=True)
    rates = [v.var(0, correction=0).cpu() if r is None else r.flatten() for v, r in measured]
    still = 0.0 if takes_temperature(model, show.given(1)) else 1.0
    for t in evenly_spaced(range(1, model.levels + 1), LEVELS):
        shape, rows = drawn[t - 1].shape[1:], []
        for unit in rates[t - 1].topk(min(UNITS, len(rates[t - 1]))).indices.tolist():
            path = means[t - 1][:1].reshape(1, -1).repeat(STEPS, 1)
            low, high = (z[t - 1][:, unit].quantile(q).item() for q in (0.02, 0.98))
            path[:, unit] = torch.linspace(low, high, STEPS)
            above = [mean[:1].expand(STEPS, *mean.shape[1:]) for mean in means[t:]]
            law = model.decode([path.view(-1, *shape), *above], t, still, expand_contexts(show.given(1), (STEPS,)))
            rows.append((f"{_unit(t, unit, shape)}: {low:.1f} to {high:.1f}", expected(law)))
        words = (
            f"Along the most active units of level {t}, from the second to the 98th of a hundred of the values that "
        )
        words += "each takes in the data; the other units are at the posterior mean of the first example."
        words += " The levels below are at the means of their priors." if t > 1 and not still else ""
        section.figures.append(show.paths(rows, words))
    rows = _interpolations(model, means, show)
    words = "From one example to another, in the order of the reconstructions, in a straight line between the means of "
    section.figures += [show.paths(rows, words + "their latents.")] if rows else []
    prior = draw_to(model._prior_law(show.contexts), (len(x),)).reshape(len(x), -1)
    section.figures.append(_aggregate(model.levels, z[-1].cpu(), prior.cpu(), rates[-1], drawn[-1].shape[1:]))
    return section


def _interpolations(model: VAE, means: list[Tensor], show: Show) -> Rows:
    rows: Rows = []
    for i in range(min(PAIRS, len(means[0]) // 2)):
        weights = torch.linspace(0, 1, STEPS).tolist()
        given = tuple(torch.stack([torch.lerp(c[2 * i], c[2 * i + 1], w) for w in weights]) for c in show.contexts)
        between = [torch.stack([torch.lerp(m[2 * i], m[2 * i + 1], w) for w in weights]) for m in means]
        rows.append((f"example {2 * i + 1} to {2 * i + 2}", expected(model.decode(between, given=given))))
    return rows


def _aggregate(level: int, z: Tensor, prior: Tensor, rates: Tensor, shape: Any) -> Figure:
    """Draws of the top level from q(z | x), over the data, and from the prior."""
    words = "The aggregate posterior, q(z | x) over the data, and the prior"
    if z.shape[1] == 1:
        plot = plots.marginal(z[:, 0], prior[:, 0], f"z_{level}", ("aggregate posterior", "prior"))
        return Figure([plot], f"{words}.")
    pair = sorted(rates.topk(2).indices.tolist())
    names = [_unit(level, unit, shape) for unit in pair]
    plot = plots.aggregate(z[:, pair], prior[:, pair], names, height=3.8)
    return Figure([plot], f"{words}: the two most active units of the top level.")


def _unit(level: int, unit: int, shape: Any) -> str:
    """A unit of z_level, by its index, which counts from 0."""
    index = [int(i) for i in torch.unravel_index(torch.tensor(unit), tuple(shape))]
    return f"z_{level}[{', '.join(map(str, index))}]"
