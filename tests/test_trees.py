"""Trees of two-valued elements: exact by enumeration, and found as scipy finds them."""

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.metrics import mutual_info_score
from torch.testing import assert_close

import allegory as al
from allegory import families
from allegory.trees import TreeFamily, chow_liu_parents

PARENTS = [2, -1, 1, 2, -1, 4]  # a forest of two trees
ALL = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(PARENTS))), dtype=torch.float64)


def example(*batch):
    return families.tree(PARENTS)(2 * torch.randn(*batch, 2 * len(PARENTS)))


def tree_data(n, seed=0):
    """(n, 6) rows of a tree."""
    torch.manual_seed(seed)
    return example().sample((n,))


def test_the_mass_is_the_product_of_the_conditionals():
    phi = torch.randn(2, len(PARENTS))
    law, p = families.tree(PARENTS)(phi.flatten()), phi.sigmoid()
    for x in ALL:
        conditionals = [p[int(x[parent]) if parent >= 0 else 0, d] for d, parent in enumerate(PARENTS)]
        expected = sum((q if x[d] else 1 - q).log() for d, q in enumerate(conditionals))
        assert_close(law.log_prob(x), expected)


def test_masses_sum_to_one_and_moments_are_theirs():
    law = example(3, 2)
    p = law.log_prob(ALL[:, None, None]).exp()
    assert p.shape == (64, 3, 2)
    assert_close(p.sum(0), torch.ones(3, 2))
    mean = torch.einsum("nsb,nd->sbd", p, ALL)
    assert_close(law.mean, mean)
    assert_close(law.variance, mean * (1 - mean))
    assert_close(law.expand((4, 3, 2)).mean[1], mean)


def test_samples_follow_the_mass():
    law = example()
    draws = law.sample((40_000,))
    counts = torch.bincount((draws @ 2.0 ** torch.arange(5, -1, -1)).long(), minlength=64)
    p = law.log_prob(ALL).exp()
    error = (p * (1 - p) / 40_000).sqrt()
    assert ((counts / 40_000 - p).abs() < 5 * error + 1e-4).all()


def test_without_edges_it_is_a_product_of_bernoullis():
    phi = torch.randn(4, 2 * 6)
    law = families.tree([-1] * 6)(phi)
    assert_close(law.log_prob(ALL[:4]), families.bernoulli(phi[:, :6]).log_prob(ALL[:4]))


def test_the_tree_is_the_one_that_scipy_finds():
    x = tree_data(500)
    information = np.array([[mutual_info_score(a, b) for b in x.T.numpy()] for a in x.T.numpy()])
    np.fill_diagonal(information, 0)
    spanning = minimum_spanning_tree(-information).tocoo()
    expected = {frozenset(edge) for edge in zip(spanning.row.tolist(), spanning.col.tolist(), strict=True)}
    parents = chow_liu_parents(x, pseudocount=1e-9)
    assert {frozenset((d, parent)) for d, parent in enumerate(parents) if parent >= 0} == expected


def test_a_model_begins_as_the_tree_of_largest_likelihood():
    """The likelihood of the fitted tree is the sum of the entropies less that of the informations of its edges."""
    x = tree_data(2000)
    family = families.chow_liu(x)
    law = family(family.start(x).flatten())
    columns, parents = x.T.numpy(), family.parents.tolist()
    entropy = sum(mutual_info_score(column, column) for column in columns)
    shared = sum(mutual_info_score(columns[d], columns[parent]) for d, parent in enumerate(parents) if parent >= 0)
    assert_close(law.log_prob(x).mean().item(), shared - entropy, rtol=0, atol=2e-3)  # counts have 1/2 added
    model = al.architectures.mlp((6,), family, latent=[2], hidden=[], data=x)
    torch.nn.init.zeros_(model.decoders[0].network[0][-1].weight)
    assert_close(model(x).log_px.mean(), law.log_prob(x).mean())


def test_a_run_of_a_tree_is_loaded_without_it(tmp_path):
    x = tree_data(200)
    model = al.architectures.mlp((6,), families.chow_liu(x), latent=[2], hidden=[8], data=x)
    al.fit(model, x, epochs=1, out=tmp_path / "run")
    loaded = al.load(tmp_path / "run")
    assert isinstance(loaded.decoders[0].family, TreeFamily)
    assert_close(al.log_likelihood(loaded, x, 5, seed=0), al.log_likelihood(model, x, 5, seed=0))
    assert set(loaded.sample(9).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("parents", [[], [0], [1, 0], [-1, 2, 1], [-1, 5], [-2, 0], [-1, 0.5]])
def test_what_is_no_tree_is_refused(parents):
    with pytest.raises(ValueError, match=r"^parents"):
        families.tree(parents)


def test_data_that_a_tree_cannot_score_are_refused():
    x = tree_data(50)
    gaps = x.masked_fill(torch.rand_like(x) < 0.1, float("nan"))
    for wrong in (gaps, 2 * x, x[:, None]):
        with pytest.raises(ValueError, match="vectors of 0 and 1"):
            families.chow_liu(wrong)
    family = families.chow_liu(x)
    with pytest.raises(ValueError, match="wanted \\(6,\\)"):
        al.architectures.mlp((7,), family)
    with pytest.raises(ValueError, match="reads 12 numbers"):
        family(torch.zeros(3, 10))
    with pytest.raises(ValueError, match=r"outside the support of TreeBernoulli, 0 or 1; the first is 0\.5"):
        example().log_prob(torch.full((6,), 0.5))
    with pytest.raises(ValueError, match="depend on each other"):
        families.observed(family)(torch.zeros(12))
    model = al.architectures.mlp((6,), family, latent=[2], hidden=[4], data=x)
    with pytest.raises(ValueError, match="NaN"):
        al.fit(model, gaps, epochs=1)
    with pytest.raises(ValueError, match="independent elements"):
        al.log_conditional(model, x, of=[0], given=[1])


@pytest.mark.parametrize("nothing", [torch.zeros(0, 4), torch.zeros(4, 0)])
def test_a_tree_of_no_data_is_refused(nothing):
    with pytest.raises(ValueError, match="wanted vectors of 0 and 1"):
        families.chow_liu(nothing)
    with pytest.raises(ValueError, match="got ndarray, wanted a tensor"):
        families.chow_liu(tree_data(50).numpy())
