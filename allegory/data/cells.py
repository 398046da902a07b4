r"""Cells: counts of genes, of an AnnData object or a matrix, with what is given beside them: a batch, a size.

    data = load_cells(adata, layer="counts", given=["batch"])
    c = data.given_with("train")[0]                   # batch as unit vectors, then the size, the reads of a cell
    model = architectures.mlp(data.event_shape, "negative_binomial", data=data.head, given_data=c,
                              exposure=data.exposure)
    fit(model, data.train, given=c)

An AnnData is anything with X, obs and layers; the library is not imported. A sparse matrix stays sparse: its rows
become dense as they are drawn. Counts are raw: of log-normalised values no likelihood of counts is one.

Shapes: N cells, D genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from allegory.data.conditions import Condition, as_conditions, encode_conditions, join_conditions
from allegory.data.cutting import cut
from allegory.data.parts import Part
from allegory.data.splits import Data
from allegory.data.stored import Stored
from allegory.data.tables import read_given_column

__all__ = ["Sparse", "load_cells"]

TOTAL = "total counts"
MOST = 2**24  # whole numbers up to it are exact in float32


class Sparse:
    """A sparse matrix in memory as the source of `Stored`: rows become dense when they are read.

    Args:
        matrix: (M, D) of scipy.sparse, in compressed rows.

    >>> from scipy import sparse
    >>> x = Stored(Sparse(sparse.csr_array(np.eye(3))))
    >>> x.shape, x[1:]
    (torch.Size([3, 3]), tensor([[0., 1., 0.],
            [0., 0., 1.]]))
    """

    dtype = torch.float32
    in_memory = True

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape, self.piece = matrix, Size(matrix.shape), max(1, matrix.shape[0])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.matrix[rows.numpy()].toarray().astype(np.float32, copy=False))


def load_cells(
    cells: Any,
    *,
    layer: str | None = None,
    given: str | Sequence[str] = (),
    exposure: str | None = TOTAL,
    seed: int = 0,
    split: str = "random",
    groups: str | None = None,
) -> Data:
    """The three splits of counts, (N, D), 80 : 10 : 10, with what is given with each cell.

    Args:
        cells: an AnnData; or a matrix of counts, dense or of scipy.sparse.
        layer: the layer that has the raw counts; by default X.
        given: columns of obs that are given, such as the batch, see `allegory.data.conditions`.
        exposure: the size of each cell, that its counts are in proportion to: a column of obs; by default all of its
            counts together; None for none. It is given, too, see `Data.exposure` and `allegory.exposure`.
        seed, split: as in `load`.
        groups: for split="groups", the column of obs whose values stay together, such as the donor.

    Raises:
        ValueError: no counts, such as log-normalised values, or gaps; no such layer or column; a cell without counts.

    >>> data = load_cells(np.arange(60).reshape(20, 3))
    >>> data
    Data('cells', event_shape=(3,), train=16, valid=2, test=2, given='total counts, the size of counts')
    >>> data.train[:2].shape, data.exposure
    (torch.Size([2, 3]), 0)
    """
    matrix, layers = _counts_of(cells, layer)
    _check_counts(matrix, layer, layers)
    _check_rows(getattr(cells, "obs", None), matrix.shape)
    sparse = hasattr(matrix, "tocsr")
    x: Any = Stored(Sparse(matrix)) if sparse else torch.from_numpy(matrix.astype(np.float32))
    obs = getattr(cells, "obs", None)
    names = [given] if isinstance(given, str) else list(given)
    raw = {name: _column(obs, name) for name in names}
    if exposure is not None:
        totals = exposure == TOTAL and (obs is None or TOTAL not in obs)
        raw[exposure] = (
            np.asarray(matrix.sum(1, dtype=np.float64)).reshape(-1) if totals else _column(obs, exposure, "real")
        )
        encode_conditions(Condition(exposure, exposure=True), raw[exposure], "cells")  # counts rows as the matrix does
    if (split == "groups") != (groups is not None):
        raise ValueError(f"split={split!r}, groups={groups!r}: wanted the column of obs for split='groups' alone")
    parts = {"": Part(x, groups=None if groups is None else _column(obs, groups, "categorical"))}
    examples, rows = cut(parts, seed, split, "cells")
    each = [
        as_conditions(name, {part: values[chosen.numpy()] for part, chosen in rows.items()}, "cells", name == exposure)
        for name, values in raw.items()
    ]
    conditions = join_conditions(each) if each else None
    return Data("cells", **examples, seed=seed, split=split, rows=rows, given=conditions)


def _counts_of(cells: Any, layer: str | None) -> tuple[Any, list[str]]:
    """The matrix, an array or in compressed rows, and the names of all layers."""
    layers = list(getattr(cells, "layers", None) or [])
    found = getattr(cells, "X", cells)
    if layer is not None:
        if layer not in layers:
            raise ValueError(f"layer={layer!r}: there is {', '.join(map(repr, layers)) or 'none'}")
        found = cells.layers[layer]
    if found is None:
        raise ValueError(f"X is empty; wanted layer=..., one of {', '.join(map(repr, layers)) or 'none'}")
    if isinstance(found, Tensor) and found.layout != torch.strided:
        raise ValueError(f"cells: a tensor of layout {found.layout}; wanted a matrix of scipy.sparse, or a dense one")
    is_sparse = hasattr(found, "tocsr")
    matrix = found if is_sparse else np.asarray(found)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf" or not all(matrix.shape):
        raise ValueError(
            f"cells: shape {matrix.shape} of {matrix.dtype}; wanted (cells, genes) of counts, or an AnnData"
        )
    return (_in_rows(matrix) if is_sparse else matrix), layers


def _in_rows(matrix: Any) -> Any:
    """In compressed rows, each element once: what stands twice is summed, in a type that holds the sum."""
    wide = matrix.astype(np.float32) if matrix.dtype.itemsize < 4 else matrix
    rows = wide.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy() if rows is matrix else rows
        rows.sum_duplicates()
    return rows


def _check_counts(matrix: Any, layer: str | None, layers: Sequence[str]) -> None:
    """Raises a ValueError for a matrix of anything but counts."""
    values: NDArray[Any] = matrix.data if hasattr(matrix, "tocsr") else matrix
    where = "X" if layer is None else f"layer {layer!r}"
    if values.dtype.kind == "f":
        broken = values[~np.isfinite(values)]
        if len(broken):
            raise ValueError(f"{where} has {len(broken):,} values that are NaN or infinite; wanted raw counts")
        odd = values[values != np.rint(values)]
        if len(odd):
            others = [name for name in layers if name != layer]
            raw = f"layer={others[0]!r}, say" if others else "adata.raw.to_adata(), or the matrix before that"
            raise ValueError(
                f"{where} has values such as {odd[0]:g}, which are no counts: it seems to be normalised, and a "
                f"likelihood of counts of it means nothing; give the raw counts, {raw}"
            )
    if values.size and values.min() < 0:
        raise ValueError(f"{where} has values such as {values.min():g}; wanted counts, 0 or more")
    if values.size and float(values.max()) > MOST:
        raise ValueError(f"{where} has values such as {values.max():.10g}; wanted {MOST:,} at most, exact in float32")


def _check_rows(obs: Any, shape: Sequence[int]) -> None:
    """Raises a ValueError for columns that are of other rows than those of the matrix."""
    if obs is None:
        return
    for count in {obs.shape[0]} if hasattr(obs, "shape") else {len(obs[name]) for name in obs}:
        if count != shape[0]:
            raise ValueError(
                f"obs has {count:,} rows, and the matrix {shape[0]:,}, of {shape[1]:,}; wanted (cells, genes), a row "
                "for each cell of obs: is it transposed?"
            )


def _column(obs: Any, name: str, kind: str | None = None) -> NDArray[Any]:
    if obs is None:
        raise ValueError(f"{name!r}: a matrix has no columns beside it; give an AnnData, with obs")
    if name not in obs:
        raise ValueError(f"obs has no column {name!r}; it has {', '.join(map(str, obs))}")
    return read_given_column({name: np.asarray(obs[name])}, name, "obs", kind)
