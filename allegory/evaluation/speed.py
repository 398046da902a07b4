r"""How to run an evaluation fastest: in which precision, and whether compiled.

In bfloat16 the networks' matrix products are rounded, the densities are not: the rounded networks are a model in their
own right, and L_K is a valid bound on its likelihood.

Shapes: N examples, K particles each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allegory.chain import FixedChain
from allegory.evaluation.passes import evaluating, pairs_per_pass
from allegory.family import BernoulliFamily, CategoricalFamily
from allegory.given import Given, as_contexts, take_rows
from allegory.model import VAE
from allegory.runtime import processes
from allegory.runtime.compilation import choose_compile, time_call
from allegory.runtime.precision import choose_precision
from allegory.runtime.threads import one_at_a_time
from allegory.trees import TreeFamily

__all__ = ["choose_speed", "tolerates_bfloat16"]

WORTHWHILE_SECONDS = 60.0  # seconds of evaluation from which on compiling it does


@one_at_a_time()
def choose_speed(
    model: VAE, x: Tensor, samples: int, precision: str = "auto", compile: bool | str = "auto", given: Given = None
) -> tuple[str, bool, list[str]]:
    """The precision of an evaluation, and whether to compile it, as requested or as measured to be faster; and notes on
    the choice, to be printed.

    Args:
        model: any VAE.
        x: (N, *event) data.
        samples: K.
        precision: "float32", "bfloat16" or "auto": bfloat16 where it pays, and x is Bernoulli or categorical.
        compile: True, False or "auto": where the evaluation would take more than a minute; never a chain with a fixed
            encoder, whose pass is T times its network, which a compiler would write out.
        given: as in `evaluate`.

    >>> choose_speed(model, x, samples=10)[1]
    False
    """
    if precision not in ("float32", "bfloat16", "auto") or compile not in (True, False, "auto"):
        raise ValueError(
            f"precision={precision!r}, compile={compile!r}: wanted 'float32', 'bfloat16' or 'auto', and True, False or "
            "'auto'"
        )
    compile = False if compile == "auto" and isinstance(model, FixedChain) else compile
    precision, first = processes.broadcast(lambda: choose_precision(precision, x.device, tolerates_bfloat16(model)))

    rows, particles = max(1, pairs_per_pass(model, x) // samples), min(samples, pairs_per_pass(model, x))
    passes = len(x) * samples / (min(rows, len(x)) * particles)

    def expected_seconds() -> float:
        with evaluating(model, precision), torch.random.fork_rng():
            contexts = take_rows(as_contexts(given, len(x)), slice(rows))
            once = lambda: model(x[:rows], samples=particles, given=contexts).log_weight  # noqa: E731
            return passes * time_call(once, x.device, stop_below=WORTHWHILE_SECONDS / passes)

    compiled, second = processes.broadcast(
        lambda: choose_compile(compile, x.device, expected_seconds, WORTHWHILE_SECONDS)
    )
    return precision, compiled, [note for note in (first, second) if note]


def tolerates_bfloat16(model: VAE) -> bool:
    """Whether a model's networks can run in bfloat16 at little cost in likelihood: if x is discrete. A density may be
    narrower than what bfloat16 resolves.

    >>> tolerates_bfloat16(model)
    True
    """
    family = getattr(model.decoders[0], "family", None)
    return isinstance(family, BernoulliFamily | CategoricalFamily | TreeFamily)
