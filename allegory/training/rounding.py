r"""Rounding: whether the likelihood is a density where the numbers have a finite resolution.

A density has no largest value on rounded numbers: it grows without limit as it narrows around values that come again,
and its nats are those of the file, not of what was measured. The mass of an interval is at most 1, see
`allegory.intervals`; `--likelihood auto` and `al.tabular.Schema` take it. Rounding that is fine beside the spread of a
column does no harm that is seen, and pictures, whose grey levels are told of where they are loaded, are left alone.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from allegory.columnar import ColumnsFamily, ObservedFamily
from allegory.data.likelihood import MAX_COLUMNS, coarse_steps
from allegory.family import Normal, NormalLearned, NormalOptimal, Standardized, StudentTFamily
from allegory.missingness import GapFamily
from allegory.model import VAE

__all__ = ["remark_on_rounding", "warn_of_rounding"]

ROWS = 1000  # that are looked at
MOST = 3  # columns that are named
DENSITIES = (Normal, NormalLearned, NormalOptimal, StudentTFamily)  # whose spread is learned
WRAPPERS = (Standardized, ObservedFamily, GapFamily)


def warn_of_rounding(model: VAE, x: Any) -> None:
    """Warns where a density is to be learned of rounded numbers.

    Args:
        model: any VAE.
        x: (N, *event) training data, a tensor or `Stored`.
    """
    found = remark_on_rounding(model, x)
    if found:
        warnings.warn(found, stacklevel=6)


def remark_on_rounding(model: VAE, x: Any) -> str:
    """Which columns are rounded, and have a density, in a line; empty where there are none.

    Args:
        model: any VAE.
        x: (N, *event) training data, a tensor or `Stored`.

    >>> remark_on_rounding(al.architectures.mlp((6,), al.families.normal, latent=[2], hidden=[8]), torch.randn(100, 6))
    ''
    """
    if not isinstance(x, torch.Tensor) or x.dim() != 2 or x.shape[1] > MAX_COLUMNS:
        return ""
    columns = sorted(_densities(getattr(model.decoders[0], "family", None), range(x.shape[1])))
    if not columns:
        return ""
    found = coarse_steps(x[:: max(1, len(x) // ROWS)][:ROWS])
    steps = {d: found[d] for d in columns if d in found}
    if not steps:
        return ""
    named = ", ".join(f"{d} (steps of {step:.4g})" for d, step in list(steps.items())[:MOST])
    more = f" and {len(steps) - MOST} more" if len(steps) > MOST else ""
    return (
        f"x is rounded in column {named}{more}, and p(x | z_1) is a density there, which has no largest value on such "
        "numbers: take families.interval(step), of each column in families.columns, or the laws that "
        "al.tabular.Schema.infer finds"
    )


def _densities(family: Any, columns: Any) -> Iterator[int]:
    """The columns whose law is a density with a spread that is learned."""
    if isinstance(family, ColumnsFamily):
        for block, of in zip(family.blocks, family.columns, strict=True):
            yield from _densities(block, of.tolist())
    elif isinstance(family, WRAPPERS):
        yield from _densities(family.family, columns)
    elif isinstance(family, DENSITIES):
        yield from columns
