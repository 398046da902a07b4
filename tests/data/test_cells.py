"""Counts of cells: an AnnData by its attributes, sparse matrices that stay sparse, and what are no counts."""

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.testing import assert_close

import allegory as al
from allegory.data import load_cells
from allegory.data.cells import Sparse


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


def cells(n=200, genes=12, kind=sparse.csr_matrix):
    """What an AnnData has: log-normalised X, raw counts in a layer, and a column of batches and of reads."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(rng.normal(size=(n, 1)) * 0.5 + rng.normal(size=genes)))
    counts[:, 0] += 1
    size = counts.sum(1)
    obs = {"batch": np.array(["a", "b"], object)[rng.integers(0, 2, n)], "depth": 1.5 * size}
    logs, layers = np.log1p(1e4 * counts / size[:, None]), {"counts": kind(counts), "spliced": kind(counts)}
    return SimpleNamespace(X=kind(logs), layers=layers, obs=obs), counts


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array, np.asarray], ids=str)
def test_each_cell_keeps_its_counts_its_batch_and_its_size(kind):
    found, counts = cells(kind=kind)
    data = load_cells(found, layer="counts", given=["batch"], seed=3)
    assert data.exposure == 2
    assert data.scored_as("auto")[1]["likelihood"] == "negative_binomial"
    for split in ("train", "valid", "test"):
        rows, x, (c,) = data.rows[split].numpy(), getattr(data, split), data.given_with(split)
        assert_close(x[torch.arange(len(rows))], torch.tensor(counts[rows], dtype=torch.float32))
        assert (np.array(["a", "b"])[c[:, :2].argmax(1)] == found.obs["batch"][rows]).all()
        assert_close(c[:, 2], torch.tensor(counts[rows].sum(1), dtype=torch.float32))
    assert load_cells(found, layer="counts", exposure="depth").given.values["test"].shape == (20, 1)
    assert load_cells(found, layer="counts", exposure=None).given is None
    found.obs["donor"] = np.arange(200) // 20
    donors = load_cells(found, layer="counts", split="groups", groups="donor").rows
    assert not set(donors["train"].numpy() // 20) & set(donors["test"].numpy() // 20)


def test_a_pandas_obs_is_read():
    pandas = pytest.importorskip("pandas")
    found, _ = cells()
    found.obs = pandas.DataFrame(found.obs, index=[f"cell{i}" for i in range(200)])
    found.obs["batch"] = found.obs["batch"].astype("category")
    assert load_cells(found, layer="counts", given="batch").given.names == ["batch", "total counts"]


def test_sparse_and_dense_train_alike():
    scores = []
    for kind in (sparse.csr_matrix, np.asarray):
        data = load_cells(cells(kind=kind)[0], layer="counts", given="batch")
        (c,), (valid,) = data.given_with("train"), data.given_with("valid")
        torch.manual_seed(0)
        model = al.architectures.mlp(
            data.event_shape, "negative_binomial", [2], [8], data=data.head, given_data=c, exposure=data.exposure
        )
        al.fit(model, data.train, valid=data.valid, given=c, valid_given=valid, epochs=2, batch_size=16)
        scores.append(al.log_likelihood(model, data.test, 20, given=data.given_with("test"), seed=0))
    assert_close(*scores)


def test_what_are_no_counts_is_refused():
    found, counts = cells()
    empty = SimpleNamespace(X=sparse.csr_matrix(counts * (np.arange(200) != 7)[:, None]), layers={}, obs=found.obs)
    bare = SimpleNamespace(X=found.X, layers={}, obs=found.obs)
    for call, words in {
        lambda: load_cells(found): "X has values such as",
        lambda: load_cells(
            found
        ): "seems to be normalised, and a likelihood of counts of it means nothing; give the raw "
        "counts, layer='counts', say",
        lambda: load_cells(bare): "give the raw counts, adata.raw.to_adata()",
        lambda: load_cells(-counts): "X has values such as -",
        lambda: load_cells(np.where(counts > 3, np.nan, counts)): "NaN or infinite; wanted raw counts",
        lambda: load_cells(found, layer="raw"): "layer='raw': there is 'counts', 'spliced'",
        lambda: load_cells(found, layer="counts", given="donor"): "obs has no column 'donor'; it has batch, depth",
        lambda: load_cells(counts, given="donor"): "a matrix has no columns beside it",
        lambda: load_cells(empty): "total counts, the size of counts, is 0 in row",
        lambda: load_cells("x.h5ad"): "wanted (cells, genes) of counts, or an AnnData",
        lambda: load_cells(found, layer="counts", groups="batch"): "wanted the column of obs for split='groups' alone",
    }.items():
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(words)}[^\n]*$"):
            call()


def test_no_more_rows_become_dense_than_a_batch_has(monkeypatch):
    read, most = Sparse.__getitem__, []
    monkeypatch.setattr(Sparse, "__getitem__", lambda self, rows: most.append(len(rows)) or read(self, rows))
    data = load_cells(cells(2000, 50)[0], layer="counts")
    (c,) = data.given_with("train")
    model = al.architectures.mlp((50,), "poisson", [2], [8], given=(1,), exposure=0)
    most.clear()
    al.fit(model, data.train, given=c, epochs=1, batch_size=32)
    assert 50 <= most.count(32) < 55  # an epoch, batch by batch
    assert max(most) <= len(data.train)


MEMORY = """
import resource, sys, numpy as np, torch, allegory as al
from scipy import sparse
from allegory.data import load_cells
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
size = torch.arange(1.0, 21)[:, None]
small = al.architectures.mlp((4,), "poisson", [2], [8], data=torch.poisson(size.expand(-1, 4)), given_data=size)
al.fit(small, torch.ones(20, 4), given=size, epochs=1)  # what any training loads
before = peak()
rng, (n, genes, each) = np.random.default_rng(0), (20_000, 2_000, 100)  # 5 % of the genes of each cell
genes_of = np.sort(rng.integers(0, genes, (n, each), dtype=np.int32)).ravel()
counts = rng.integers(1, 20, n * each).astype(np.float32)
x = sparse.csr_array((counts, genes_of, np.arange(0, n * each + 1, each)), shape=(n, genes))
data = load_cells(x if sys.argv[1] == "sparse" else x.toarray())
c = data.given_with("train")[0]
model = al.architectures.mlp((genes,), "negative_binomial", [4], [16], data=data.head, given_data=c, exposure=0)
al.fit(model, data.train, given=c, epochs=1, batch_size=64)
al.log_likelihood(model, data.test, 2, given=data.given_with("test"))
print(peak() - before)
"""


@pytest.mark.slow
def test_a_sparse_matrix_takes_far_less_memory_than_a_dense_one():
    def used(kind):
        done = subprocess.run([sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert 0 < used("sparse") < used("dense") / 2


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.coo_array])
def test_what_stands_twice_in_a_sparse_matrix_is_summed_whatever_its_type(kind):
    twice = (np.full(60, 100, np.int8), (np.repeat(np.arange(30), 2), np.zeros(60, int)))
    matrix = sparse.coo_array(twice, shape=(30, 2))
    if kind is sparse.csr_matrix:
        matrix = kind((twice[0], twice[1][1], np.arange(0, 61, 2)), shape=(30, 2))
    data = load_cells(matrix)
    assert_close(data.train[:], torch.tensor([[200.0, 0.0]]).expand(24, 2))
    assert_close(data.given_with("train")[0], torch.full((24, 1), 200.0))
    assert matrix.nnz == 60  # that of the user stays as it is


def test_totals_have_all_their_digits():
    counts = np.full((20, 40), 2047, np.float16)
    assert set(load_cells(counts).given.values["train"].flatten().tolist()) == {2047.0 * 40}


def test_a_matrix_that_is_none_of_counts_by_cells_is_refused():
    counts = np.full((20, 3), 4)
    with pytest.raises(ValueError, match=r"obs has 20 rows, and the matrix 3, of 20; wanted \(cells, genes\)"):
        load_cells(SimpleNamespace(X=counts.T, obs={"batch": np.array(["a", "b"] * 10)}, layers={}))
    with pytest.raises(ValueError, match="of complex128; wanted"):
        load_cells(sparse.csr_matrix(counts.astype(complex)))
    with pytest.raises(ValueError, match=r"layout torch.sparse_coo; wanted a matrix of scipy\.sparse"):
        load_cells(torch.tensor(counts).to_sparse())
    with pytest.raises(ValueError, match="values such as 16777217; wanted 16,777,216 at most"):
        load_cells(counts + 2**24 - 3)
    counts[17] = 0
    with pytest.raises(ValueError, match="is 0 in row 17, wanted above 0"):  # of the matrix, not of a split
        load_cells(counts)
