r"""Conditional densities of a VAE: log p(x_of | x_given), and of each cell given the rest of its row.

    log p(x_of | x_given) = log E[p(x_of | z) | x_given]  ~  log sum_k w_k v_k - log sum_k w_k
    z_k ~ q(z | x_given),   w_k = p(x_given, z_k) / q(z_k | x_given),   v_k = p(x_of | z_k)

with the same z in both sums (self-normalised importance sampling). It tends to the truth as K grows, with a bias of
order 1 / K: it is neither a lower bound nor an upper one. Whatever is in neither is integrated over. To trust it:

    ESS       of the weights w_k and of w_k v_k, the smaller: how many particles carry the estimate
    error     sqrt(sum_k w_k^2 (v_k / R - 1)^2) / sum_k w_k,   R = sum w v / sum w, to first order the standard
              deviation of the estimate

Shapes: K particles, S per pass, B rows per pass, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allegory.evaluation.passes import Noise, Particles, check_scored, evaluating, row_seeds, run_passes
from allegory.evaluation.resampling import warn_of_few
from allegory.gaps import log_prob_elements
from allegory.given import Contexts, Given, take_rows
from allegory.model import VAE
from allegory.runtime.messages import no_tensor
from allegory.runtime.modes import forked_rng
from allegory.runtime.threads import one_at_a_time

__all__ = ["LogConditional", "log_cells", "log_conditional"]

Elements = Tensor | Sequence[int]
ADVICE = "use more samples"


@dataclass(frozen=True)
class LogConditional:
    """The result of `log_conditional`.

    Attributes:
        values: (N,) log p(x_of | x_given), nats.
        standard_error: (N,) of the values, nats, by the spread of the particles.
        effective_sample_size: (N,) between 1 and K.
    """

    values: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


@one_at_a_time()
def log_conditional(
    model: VAE,
    x: Tensor,
    of: Elements,
    given: Elements | None = None,
    samples: int = 1000,
    seed: int = 0,
    context: Given = None,
) -> LogConditional:
    """Log p(x_of | x_given) of each row, by self-normalised importance sampling: neither a lower bound nor an upper
    one, see `allegory.evaluation.conditionals`. What is in neither is integrated over, and so is every gap; a row
    whose `of` is all gaps has 0. Where gaps are data, a gap that is in one of them counts as one.

    Args:
        model: any VAE whose likelihood takes gaps.
        x: (N, *event) data; a NaN is a gap.
        of: the elements whose density is wanted: a boolean mask that broadcasts against x, or indices of columns.
        given: the elements that are known, in the same form; all others by default.
        samples: K.
        seed: of the noise, which for a row depends on this and on what is given in it.
        context: c of a conditional model, (N, *context), or several; elsewhere called `given`.

    Raises:
        ValueError: an element in both; no element at all; a likelihood that takes no gaps.

    >>> model = al.architectures.mlp((6,), al.families.observed(al.families.bernoulli), latent=[2], hidden=[8])
    >>> found = al.log_conditional(model, x, of=[0], given=[3, 4])
    >>> x[:, 0] = 1 - x[:, 0]
    >>> other = al.log_conditional(model, x, of=[0], given=[3, 4])
    >>> bool(((found.values.exp() + other.values.exp() - 1).abs() < 1e-5).all())
    True
    """
    contexts = check_scored(model, x, samples, context)
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    wanted = _mask(x, of, "of")
    known = ~wanted if given is None else _mask(x, given, "given")
    if bool((wanted & known).any()):
        at = (wanted & known).nonzero()[0, 1:].tolist()
        raise ValueError(f"of and given: element {at} is in both, wanted none")
    found = _estimate(model, x, wanted, known, samples, seed, contexts)
    warn_of_few(found.effective_sample_size, samples, ADVICE)
    return found


@one_at_a_time()
def log_cells(model: VAE, x: Tensor, samples: int = 1000, seed: int = 0, given: Given = None) -> Tensor:
    """(N, *event) log p(x_d | the rest of the row) of each cell, nats; NaN in gaps. The lower, the more surprising is
    this value in this row. One element after the other, as `log_conditional`.

    Args:
        model, x, samples, seed: as of `log_conditional`.
        given: c of a conditional model, (N, *context), or several.

    >>> model = al.architectures.mlp((6,), al.families.observed(al.families.bernoulli), latent=[2], hidden=[8])
    >>> al.log_cells(model, x, samples=100).shape
    torch.Size([7, 6])
    """
    contexts = check_scored(model, x, samples, given)
    if not isinstance(x, Tensor):
        raise ValueError(no_tensor("x", x))
    cells, fewest = torch.full_like(x, torch.nan), torch.full((len(x),), torch.nan, device=x.device)
    observed = ~x.isnan()
    for d in observed.flatten(1).any(0).nonzero()[:, 0].tolist():
        rows = observed.flatten(1)[:, d].nonzero()[:, 0]
        wanted = torch.zeros_like(observed[:1])
        wanted.flatten()[d] = True
        found = _estimate(model, x[rows], wanted, ~wanted, samples, seed, take_rows(contexts, rows))
        cells.flatten(1)[rows, d] = found.values
        fewest[rows] = fewest[rows].fmin(found.effective_sample_size.to(fewest))
    warn_of_few(fewest, samples, ADVICE)
    return cells


def _estimate(
    model: VAE, x: Tensor, wanted: Tensor, known: Tensor, samples: int, seed: int, contexts: Contexts
) -> LogConditional:
    given, known, wanted = x.masked_fill(~known, torch.nan), known.expand(x.shape), wanted.expand(x.shape)

    def score(index: Tensor, noises: Iterator[Noise], *contexts: Tensor) -> tuple[Tensor]:
        sums = torch.full((5, len(index)), -torch.inf, dtype=torch.float64, device=x.device)
        for particles, noise in noises:
            trace = model(given[index], samples=particles, noise=noise, given=contexts)
            elements = log_prob_elements(trace.p[0], x[index]).double()
            before, v = (torch.where(chosen[index], elements, 0).flatten(2).sum(2) for chosen in (known, wanted))
            w = before + (trace.log_pz - trace.log_qz).sum(0).double()
            parts = torch.stack([w, w + v, 2 * w, 2 * w + v, 2 * (w + v)])
            sums = torch.logaddexp(sums, parts.logsumexp(1))
        return (sums.T,)

    with evaluating(model), forked_rng(model):
        log_prob_elements(model.generate(1, given=take_rows(contexts, slice(1))), x[:1])  # refuses a law without them
        model._check_gaps(given, contexts, "x without what is wanted", None)
        particles = Particles(model, given, samples, seeds=row_seeds(given, seed), contexts=contexts)
        (sums,) = run_passes(torch.arange(len(x), device=x.device), particles, score)
    w, wv, w2, w2v, wv2 = sums.T
    before, between, after = torch.exp(w2 - 2 * w), torch.exp(w2v - w - wv), torch.exp(wv2 - 2 * wv)
    error = (before - 2 * between + after).clamp(min=0).sqrt()
    return LogConditional((wv - w).to(x.dtype), error.to(x.dtype), (1 / torch.maximum(before, after)).to(x.dtype))


def _mask(x: Tensor, elements: Elements, name: str) -> Tensor:
    """(N, *event) which elements are meant."""
    if isinstance(elements, list | tuple) and any(isinstance(element, str) for element in elements):
        raise ValueError(
            f"{name}={list(elements)}: wanted columns by their numbers; a schema's `names` has them in order"
        )
    chosen = torch.as_tensor(elements, device=x.device)
    if chosen.dtype != torch.bool:
        columns = x.shape[-1]
        if x.dim() != 2 or chosen.dim() != 1 or chosen.is_floating_point() or not len(chosen):
            raise ValueError(f"{name}: wanted a boolean mask of x, {tuple(x.shape)}, or indices of columns of a table")
        if not bool(((chosen >= -columns) & (chosen < columns)).all()):
            raise ValueError(f"{name}={chosen.tolist()}: wanted columns 0 to {columns - 1}")
        chosen = torch.zeros(columns, dtype=torch.bool, device=x.device).index_fill(0, chosen % columns, True)
    try:
        return chosen.expand(x.shape)
    except RuntimeError:
        raise ValueError(f"{name}: got a mask of shape {tuple(chosen.shape)}, wanted {tuple(x.shape)}") from None
