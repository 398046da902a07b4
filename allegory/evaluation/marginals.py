r"""The baseline: the likelihood of elements that are independent of each other, each at its marginal optimum.

    log p_0(x) = sum_d log p_d(x_d),        p_d fitted to the values of element d in the training data

A model whose bound is below it has learned less than a table of means. The laws p_d are of the kind of p(x | z_1), by
its support:

    0 .. k - 1              a histogram; a is added to each count, the a under which each training example is most
                            likely given the others (leave-one-out). For more than 32 values also a discretised logistic
    0, 1, 2, ...            negative binomial, its mean that of the data, its shape by likelihood on a grid
    [0, 1]                  continuous Bernoulli of the same mean
    R                       normal; Student's t where the model has it, by expectation maximisation, df on a grid
    columns of a table      each its own family, at the best constant, see `allegory.marginal`

A gap has no part in a fit, and none in a score.

Shapes: N examples, D elements, k values.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, StudentT, constraints

from allegory.chain import FixedChain
from allegory.columnar import ColumnsFamily
from allegory.distributions import ContinuousBernoulli, DiscretizedLogistic, NegativeBinomial, ShiftedCategorical
from allegory.evaluation.passes import evaluating
from allegory.gaps import Observed, takes_gaps
from allegory.given import Given, as_contexts, take_rows
from allegory.marginal import fill_gaps, start_of
from allegory.model import VAE
from allegory.runtime.modes import forked_rng, no_validation

__all__ = ["baseline", "independent_elements", "log_probs", "mean_log_prob"]

MAX_NUMBERS = 2**24  # of the training data, at most
MAX_FIT_NUMBERS = 2**20  # where a fit goes over them many times
CHUNK_NUMBERS = 2**22
PSEUDOCOUNTS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
DEGREES_OF_FREEDOM = (2.1, 2.5, 3.0, 4.0, 6.0, 10.0, 30.0, 100.0)
SHAPES = (0.25, 0.5, 1.0, 2.0, 4.0, 1e6)


def baseline(model: VAE, train: Any, x: Any, given: Given = None) -> float | None:
    """The mean of log p_0(x), nats per example: what independent elements reach; None where the support of p(x | z_1)
    is none of those that the module lists.

    Args:
        model: any VAE; its p(x | z_1) determines the kind of law.
        train: (N, *event) training data, a tensor or `Stored`; the laws are fitted to at most 2^24 of its numbers.
        x: (N', *event) data to score.
        given: what a conditional model reads besides; the baseline does not.

    >>> round(baseline(model, torch.tensor([[0.0] * 6, [1.0] * 6] * 50), torch.ones(5, 6)), 2)      # 6 log 1/2
    -4.16
    """
    law = independent_elements(model, train, given)
    return None if law is None else mean_log_prob(law, x)


def mean_log_prob(law: Distribution, x: Any) -> float:
    """The mean of log p(x) over the examples, nats.

    Args:
        law: over one event, on the CPU.
        x: (N, *event) data.
    """
    return log_probs(law, x).mean().item()


def log_probs(law: Distribution, x: Any) -> Tensor:
    """(N,) log p(x) of each example, nats, float64, on the CPU.

    Args:
        law, x: as of `mean_log_prob`.
    """
    rows = max(1, CHUNK_NUMBERS // math.prod(x.shape[1:]))
    return torch.cat([law.log_prob(x[i : i + rows].cpu().double()) for i in range(0, len(x), rows)])


def independent_elements(model: VAE, train: Any, given: Given = None) -> Distribution | None:
    """p_0, a distribution over one event, on the CPU, in float64; None where the module lists no law of that support,
    and for counts with sizes of their own.

    Args:
        model, train, given: as of `baseline`.
    """
    if getattr(model.decoders[0], "exposure", None) is not None:
        return None  # of counts with sizes there is no one law of all examples
    family = getattr(model.decoders[0], "family", None)
    if isinstance(family, ColumnsFamily):
        return _independent_columns(family, _subsample(train, MAX_NUMBERS).cpu().double())
    model = model.with_levels(1) if isinstance(model, FixedChain) else model
    with evaluating(model), forked_rng(model):
        law: Any = model.generate(1, given=take_rows(as_contexts(given), slice(1)))
    gaps = takes_gaps(law)
    while isinstance(law, Independent):
        law = law.base_dist
    try:
        support: Any = law.support
    except NotImplementedError:
        return None
    while hasattr(support, "base_constraint"):  # of several dimensions, or of a mixture
        support = support.base_constraint
    x = _subsample(train, MAX_NUMBERS).cpu().double()
    if not gaps:
        return _fit(law, support, x)
    found: Any = _fit(law, support, fill_gaps(x))
    return None if found is None else Observed(found.base_dist, x.dim() - 1, validate_args=False)


def _independent_columns(family: ColumnsFamily, x: Tensor) -> Distribution:
    """Each column's family, at its best constant."""
    own = copy.deepcopy(family).cpu().double()
    with torch.no_grad(), no_validation():
        starts = [start_of(block, x[:, index]) for block, index in zip(own.blocks, own.columns, strict=True)]
        return own(torch.cat([start.flatten() for start in starts]))


def _fit(law: Any, support: Any, x: Tensor) -> Distribution | None:
    found: Distribution | None = None
    if isinstance(support, type(constraints.boolean)):
        found = _histogram(x, 2)
    elif isinstance(support, constraints.integer_interval):
        lowest = int(support.lower_bound)
        found = _histogram(x - lowest, support.upper_bound - lowest + 1)
        if lowest:
            found = ShiftedCategorical(found.logits, lowest, validate_args=False)
    elif isinstance(support, type(constraints.nonnegative_integer)):
        found = _negative_binomial(_subsample(x, MAX_FIT_NUMBERS), x)
    elif isinstance(law, ContinuousBernoulli):
        found = _continuous_bernoulli(x.mean(0))
    elif isinstance(support, type(constraints.real)):
        normal = Normal(x.mean(0), x.std(0, correction=0).clamp(min=1e-12))
        found = _student_t(_subsample(x, MAX_FIT_NUMBERS)) if isinstance(law, StudentT) else normal
    return None if found is None else Independent(found, x.dim() - 1, validate_args=False)


def _subsample(x: Any, numbers: int) -> Tensor:
    """At most so many numbers of x, of examples evenly spaced."""
    step = max(1, math.ceil(len(x) * math.prod(x.shape[1:]) / numbers))
    return x[torch.arange(0, len(x), step)]


def _histogram(x: Tensor, categories: int | Tensor) -> Categorical:
    flat = x.reshape(len(x), -1).long()
    size, n = flat.shape[1], len(x)
    each = torch.as_tensor(categories).cpu().expand(x.shape[1:]).reshape(-1, 1)  # (D, 1)
    k = int(each.max())
    cells = (flat + k * torch.arange(size)).flatten()
    counts = torch.bincount(cells, minlength=k * size).double().view(size, k)

    def left_out(a: float) -> Tensor:
        """(D,) the likelihood of each example given the others."""
        total = (max(n - 1, 0) + each[:, 0] * a).log()
        return (counts * ((counts - 1).clamp(min=0) + a).log()).sum(1) - n * total

    a = max(PSEUDOCOUNTS, key=lambda a: left_out(a).sum().item())
    logits = (counts + a).log() - (n + each * a).log()
    shape = x.shape[1:]
    if k > 32:
        scale = x.std(0, correction=0).clamp(min=0.1) * math.sqrt(3) / math.pi
        smooth = DiscretizedLogistic(x.mean(0), scale, k, validate_args=False)
        better = smooth.log_prob(x).sum(0).reshape(-1) > left_out(a)
        values = torch.arange(k, dtype=x.dtype).view(k, *[1] * len(shape))
        logits[better] = smooth.log_prob(values).reshape(k, -1).T[better]
    logits = logits.masked_fill(torch.arange(k) >= each, -math.inf)
    return Categorical(logits=logits.view(*shape, k), validate_args=False)


def _negative_binomial(x: Tensor, every: Tensor) -> Distribution:
    mean = (every.sum(0) + 0.5) / (len(every) + 1)
    usual = mean.square() / (x.var(0, correction=0) - mean).clamp(min=1e-6 * mean)

    def law(r: Tensor) -> Distribution:
        return NegativeBinomial(r, logits=mean.log() - r.log(), validate_args=False)

    shapes = [(factor * usual).clamp(1e-3, 1e6) for factor in SHAPES]
    best = torch.stack([law(r).log_prob(x).sum(0) for r in shapes]).argmax(0)
    return law(torch.stack(shapes).gather(0, best[None])[0])


def _continuous_bernoulli(mean: Tensor) -> Distribution:
    """By bisection: the mean grows with the log-odds."""
    low, high = torch.full_like(mean, -1e4), torch.full_like(mean, 1e4)
    for _ in range(100):
        middle = (low + high) / 2
        above = ContinuousBernoulli(middle).mean > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ContinuousBernoulli((low + high) / 2)


def _student_t(x: Tensor) -> Distribution:
    found = []
    for df in DEGREES_OF_FREEDOM:
        loc, square = x.median(0).values, (x - x.median(0).values).abs().median(0).values.square().clamp(min=1e-24)
        for _ in range(30):
            weight = (df + 1) / (df + (x - loc).square() / square)
            loc = (weight * x).sum(0) / weight.sum(0)
            square = (weight * (x - loc).square()).mean(0).clamp(min=1e-24)
        law = StudentT(torch.full_like(loc, df), loc, square.sqrt(), validate_args=False)
        found.append((law.log_prob(x).sum(0), law.df, law.loc, law.scale))
    score, *parameters = (torch.stack(part) for part in zip(*found, strict=True))
    best = score.argmax(0)[None]
    degrees, loc, scale = (part.gather(0, best)[0] for part in parameters)
    return StudentT(degrees, loc, scale, validate_args=False)
