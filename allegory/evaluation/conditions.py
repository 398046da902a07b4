r"""Rows under conditions: some columns take given values, or lie in a range, and the rest follows.

    p(x | x_v = v, a <= x_r <= b)      v values, r ranges

without rejection: a value is an observation and everything else a gap, so that it is imputation of one row with gaps,
z ~ p(z | x_v). A range multiplies the weight of z by its mass, prod_r P(a_r <= X_r <= b_r | z), and x_r is drawn within
it. `allegory.evaluation.imputation` has the rest.

Shapes: n rows, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from allegory.evaluation.imputation import impute
from allegory.given import Given, as_contexts
from allegory.model import VAE, check_is_vae
from allegory.runtime.messages import check_counts

__all__ = ["sample_given"]

CHUNK = 4096  # rows that are drawn from the same particles


def sample_given(
    model: VAE,
    n: int,
    conditions: Mapping[int, Any],
    samples: int = 10_000,
    method: str = "sir",
    steps: int = 100,
    seed: int | None = None,
    given: Given = None,
    return_ess: bool = False,
) -> Any:
    """(n, D) rows under conditions, without rejection: values, whether or not they would be recorded, so that only the
    gaps that are asked for are there, see `allegory.missingness`.

    Args:
        model: a VAE of rows of D columns, whose likelihood takes gaps.
        n: rows.
        conditions: by column: a number, that the column has; (low, high), a range that it lies in, both ends included,
            -inf and inf for none; or NaN, for a gap: the column is left out.
        samples: K, particles among which the rows are drawn, for 4,096 rows at a time; many, where a range is rare.
        method, steps: as of `impute`.
        seed: of all noise; None draws one from torch's generator.
        given: c of a conditional model, (1, *context), or several.
        return_ess: whether to return (rows, ESS), the effective sample size of the K weights, the smallest of all
            passes.

    Raises:
        ValueError: a column that is not there; a range upside down; a condition that no row can meet.

    >>> model = al.architectures.mlp((3,), al.families.columns([al.families.normal] * 3), latent=[2], hidden=[8])
    >>> rows = al.sample_given(model, 100, {0: 1.5, 1: (0.0, torch.inf)})
    >>> bool((rows[:, 0] == 1.5).all()), bool((rows[:, 1] >= 0).all())
    (True, True)
    """
    check_is_vae(model)
    check_counts(n=n)
    contexts = as_contexts(given, 1)
    with torch.no_grad():
        like = model.sample(1, given=contexts) if seed is None else _first(model, contexts)
    if like.dim() != 2:
        raise ValueError(f"conditions are by column, but x has examples of shape {tuple(like.shape[1:])}")
    row, low, high = (torch.full_like(like, value) for value in (torch.nan, -torch.inf, torch.inf))
    left_out = []
    for column, wanted in conditions.items():
        if not hasattr(column, "__index__") or not 0 <= column < like.shape[1]:
            raise ValueError(f"conditions: column {column!r}, wanted one of 0 to {like.shape[1] - 1}")
        if isinstance(wanted, tuple | list):
            low[0, column], high[0, column] = _range(column, wanted)
            continue
        row[0, column] = _number(column, wanted)
        if row[0, column].isnan():
            left_out.append(column)
    start = int(torch.randint(2**62, ())) if seed is None else seed
    parts = [
        _rows(model, row, (low, high), min(CHUNK, n - i), (samples, method, steps), start + i, contexts, conditions)
        for i in range(0, n, CHUNK)
    ]
    rows = torch.cat([drawn for drawn, _ in parts])
    rows[:, left_out] = torch.nan
    return (rows, min(ess for _, ess in parts)) if return_ess else rows


def _first(model: VAE, contexts: tuple[Tensor, ...]) -> Tensor:
    with torch.random.fork_rng():
        return model.sample(1, given=contexts)


def _range(column: int, wanted: Any) -> tuple[float, float]:
    low, high = (_number(column, edge) for edge in (wanted if len(wanted) == 2 else (1.0, 0.0)))
    if not low <= high:
        raise ValueError(f"conditions: column {column}: got {wanted}, wanted a range (low, high), low <= high")
    return low, high


def _number(column: int, wanted: Any) -> float:
    try:
        return float(wanted)
    except (TypeError, ValueError, RuntimeError):
        told = f"got {wanted!r}, wanted a number, or a range (low, high)"
        raise ValueError(f"conditions: column {column}: {told}") from None


def _rows(
    model: VAE,
    row: Tensor,
    between: tuple[Tensor, Tensor],
    count: int,
    amount: tuple[int, str, int],
    seed: int,
    contexts: tuple[Tensor, ...],
    conditions: Mapping[int, Any],
) -> tuple[Tensor, float]:
    samples, method, steps = amount
    ranges = None if not bool((between[0].isfinite() | between[1].isfinite()).any()) else between
    drawn, ess = impute(model, row, count, samples, method, steps, seed, True, contexts or None, ranges, False)
    if bool(drawn.isnan().any()):
        names = getattr(getattr(model.decoders[0], "family", None), "names", None)
        said = {column if names is None else names[column]: wanted for column, wanted in conditions.items()}
        raise ValueError(
            f"conditions {said}: no row can meet them, their probability is 0 under the model, in the digits of "
            f"{str(row.dtype).removeprefix('torch.')}"
        )
    return drawn[:, 0], samples if bool(ess.isnan()) else float(ess)
