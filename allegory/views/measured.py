r"""What a report measures, once, with the same noise for every bound.

    bounds        L_K of each example x, and of each drawn training example, with the same K, and from the same pass the
                  curve, L_K against K, and what `allegory.evaluate` tells
    gain          L_K(x) - log p_0(x), with p_0 the independent elements of `allegory.evaluation.marginals`: a
                  difference of each example, so that its standard error is that of a paired comparison
    diagnosis     L_K and its parts, the rate of every level, and what `allegory.diagnose` finds
    unit_rates    the rate of every unit

Shapes: N examples x, (N, *event); N' training examples; K particles; T levels. Bounds are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.chain import FixedChain
from allegory.evaluation.bounds import Evaluation, Scores, curve_counts, score, standard_error
from allegory.evaluation.diagnosis import Diagnosis, diagnose_scored
from allegory.evaluation.marginals import independent_elements, log_probs
from allegory.evaluation.passes import pairs_per_pass
from allegory.given import Contexts, take_rows
from allegory.model import VAE
from allegory.views.layout import file_name
from allegory.views.runs import Run

__all__ = ["Examples", "Measured", "draw_examples", "mean_and_error", "measure"]


@dataclass(frozen=True)
class Examples:
    """Examples of a run's data, or given ones.

    Attributes:
        x: (N, *event) examples the model was not trained on.
        train: (N', *event) examples it was trained on; None where they are not known.
        split: the name of the split that x is from; empty if it is not known.
        of, of_train: how many examples the splits have that these were drawn from; None where they were given.
        rows: what the user calls the rows of x; empty where they were given.
        law: independent elements, fitted to all of the training data; None where they are not known, or the likelihood
            has none.
        given, train_given: what is given with them, (N, *context) and (N', *context) each.
    """

    x: Tensor
    train: Tensor | None
    split: str
    of: int | None = None
    of_train: int | None = None
    rows: Sequence[str] = ()
    law: Distribution | None = None
    given: Contexts = ()
    train_given: Contexts = ()


@dataclass(frozen=True)
class Measured:
    """What was measured; see the module.

    Attributes:
        examples: on what.
        samples: K.
        diagnosis: with the evaluation.
        bounds: (N,) L_K of x, on the CPU.
        train_bounds: (N',) L_K of the training examples, on the CPU; None without them.
        gain: (N,) L_K(x) - log p_0(x); None without a baseline.
        curve: (K, L_K, its standard error), K = 1, 2, 5, ...
        unit_rates: of each level, level 1 first, nats, (*event_t); None where q or p does not factorise over units. Of
            a chain whose encoder is fixed there are none: its units are elements of noise.
    """

    examples: Examples
    samples: int
    diagnosis: Diagnosis
    bounds: Tensor
    train_bounds: Tensor | None
    gain: Tensor | None
    curve: list[tuple[int, float, float]]
    unit_rates: list[Tensor | None]

    @property
    def evaluation(self) -> Evaluation:
        """L_K and its parts on x."""
        return self.diagnosis.evaluation


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of (N,) values, and its standard error; NaN for one value.

    >>> mean_and_error(torch.tensor([1.0, 3.0]))
    (2.0, 1.0)
    """
    values = values.double()
    return values.mean().item(), standard_error(values)


def draw_examples(run: Run, split: str, examples: int) -> Examples:
    """Random examples of a split of the run's data, and of its training data.

    Raises:
        ValueError: the run's data are not known, are gone, or have changed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (rows, x), (train_rows, train) = (run.data.subset(part, examples) for part in (split, "train"))
    names = run.data.row_names(split)
    return Examples(
        x.to(run.device), train.to(run.device), split, len(getattr(run.data, split)), len(run.data.train),
        [file_name(str(names[row])) for row in rows.tolist()], run.independent_elements,
        run._given_with(split, rows), run._given_with("train", train_rows),
    )  # fmt: skip


@torch.no_grad()
def measure(model: VAE, found: Examples, samples: int) -> Measured:
    """Measures a model; torch's global generator is used.

    Args:
        model: any VAE, in eval mode.
        found: the examples.
        samples: K.
    """
    x, train, given = found.x, found.train, found.given
    law = independent_elements(model, train, given) if found.law is None and train is not None else found.law
    independent = None if law is None else log_probs(law, x)
    baseline = None if independent is None else -independent.mean().item()
    counts = curve_counts(samples)

    def scored(x: Tensor, given: Contexts) -> Scores:
        torch.manual_seed(0)  # the same noise for both
        return score(model, x, samples, given=given, counts=counts)

    on_train = None if train is None else scored(train, found.train_given)
    scores = scored(x, given)
    diagnosis = diagnose_scored(model, x, scores, train, on_train, baseline, law, given)
    bounds = scores.bounds[:, -1].cpu()
    return Measured(
        found,
        samples,
        diagnosis,
        bounds,
        None if on_train is None else on_train.bounds[:, -1].cpu(),
        None if independent is None else bounds - independent,
        scores.curve,
        [] if isinstance(model, FixedChain) else _unit_rates(model, x, given),
    )


def _unit_rates(model: VAE, x: Tensor, contexts: Contexts) -> list[Tensor | None]:
    """The mean rate of every unit, (*event_t), level 1 first."""
    found = []
    size = max(1, pairs_per_pass(model, x) // 4)
    for part in (slice(start, start + size) for start in range(0, len(x), size)):
        rates = model(x[part], samples=4, given=take_rows(contexts, part)).unit_kl
        found.append([None if rate is None else rate.mean(0).sum(0).cpu() for rate in rates])
    levels = zip(*found, strict=True)
    return [None if level[0] is None else torch.stack(level).sum(0) / len(x) for level in levels]
