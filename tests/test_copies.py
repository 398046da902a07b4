"""Copies: rows that come again are found where there are any, and only there, and fill what the model would guess."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allegory.estimators import VAEImputer
from allegory.tabular.copies import Copies, _donors, find_copies


def table(rows=400, columns=6, repeated=150, seed=0, gaps=0.3):
    """Rounded normals that hang together, some rows twice; complete, and with gaps."""
    r = np.random.default_rng(seed)
    mixing = np.eye(columns) + 0.5 * r.normal(size=(columns, columns))
    whole = (r.normal(size=(rows, columns)) @ mixing).round(1)
    whole = r.permutation(np.concatenate([whole, whole[:repeated]]))
    return whole, np.where(r.random(whole.shape) < gaps, np.nan, whole)


def every(x):
    return np.ones(x.shape[1], bool)


def test_copies_fill_what_they_have_and_are_right():
    right, cells = 0, 0
    for seed in range(4):
        whole, x = table(seed=seed)
        filled = find_copies(x, every(x)).fill(x)
        found = np.isnan(x) & ~np.isnan(filled)
        right, cells = right + (filled == whole)[found].sum(), cells + found.sum()
        np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert cells > 800
    assert right / cells > 0.92


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_table_without_copies_has_none(seed):
    _, x = table(repeated=0, seed=seed)
    assert find_copies(x, every(x)) is None


def test_columns_that_follow_from_each_other_make_no_copies():
    r = np.random.default_rng(0)
    city = r.integers(60, size=400)
    x = np.stack([city, city**2, 3.0 * city, r.normal(size=400).round(1)], 1).astype(float)
    x[r.random(x.shape) < 0.2] = np.nan
    copies = find_copies(x, every(x))
    assert copies is None or not copies.gives[3]


def test_rare_values_that_agree_by_rule_leave_the_rest_to_the_model():
    """Twenty columns are foretold by a person's number, one is not: overall 95 % are, and that one is not filled."""
    r = np.random.default_rng(1)
    person = r.integers(80, size=300)
    x = np.concatenate([r.normal(size=(80, 20)).round(2)[person], r.normal(size=(300, 1))], 1)
    x[r.random(x.shape) < 0.2] = np.nan
    x[:, 20] = np.where(r.random(300) < 0.5, np.nan, x[:, 20])
    copies = find_copies(x, every(x))
    assert copies is None or not copies.gives[20]


def test_nearly_constant_columns_are_no_evidence():
    """A value that nearly all rows have is foretold by any row."""
    r = np.random.default_rng(2)
    x = (r.random((400, 6)) < 0.03).astype(float)
    x[r.random(x.shape) < 0.2] = np.nan
    assert find_copies(x, every(x)) is None


def test_a_gap_that_says_something_is_not_filled():
    _, x = table()
    gives = every(x)
    gives[0] = False
    filled = find_copies(x, gives).fill(x)
    np.testing.assert_array_equal(np.isnan(filled[:, 0]), np.isnan(x[:, 0]))


def test_a_row_is_filled_on_its_own():
    _, x = table()
    copies = find_copies(x, every(x))
    whole = copies.fill(x)
    np.testing.assert_array_equal(whole[17:18], copies.fill(x[17:18]))
    np.testing.assert_array_equal(whole[::-1], copies.fill(x[::-1]))


def test_a_row_that_differs_in_a_single_cell_is_no_copy():
    copies = Copies(np.array([[1.0, 2.0, 3.0, 4.0]]), np.full((1, 4), 9.0), np.ones(4, bool), least=5.0)
    x = np.array([[1.0, 2.5, 3.0, np.nan], [1.0, np.nan, 3.0, np.nan], [np.nan] * 4])
    filled = copies.fill(x)
    assert np.isnan(filled[0, 3])
    np.testing.assert_array_equal(filled[1], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(filled[2]).all()


def test_the_donor_is_the_one_of_all_that_agree_for_which_most_evidence_is():
    _, x = table(rows=60, repeated=30, gaps=0.4)
    rarity, lacking = np.random.default_rng(0).random(x.shape), np.isnan(x)
    donor, evidence = _donors(x, x, rarity, lacking, itself=False)
    for i, row in enumerate(x):
        both = ~np.isnan(row) & ~np.isnan(x)
        agrees = ((row == x) | ~both).all(1) & (lacking[i] & ~np.isnan(x)).any(1) & (np.arange(len(x)) != i)
        each = np.where(agrees, (rarity * both).sum(1), -np.inf)
        assert evidence[i] == pytest.approx(each.max())
        assert not agrees.any() or donor[i] == each.argmax()


@pytest.mark.filterwarnings("ignore:.*effective sample size")
@pytest.mark.parametrize("copies", [True, False])
def test_the_imputer_fills_from_copies_first(copies):
    _, x = table(rows=200, repeated=80)
    imputer = VAEImputer(latent=2, hidden=(8,), max_iter=10, samples=8, copies=copies, random_state=0).fit(x)
    known = (imputer.copies_ or find_copies(x, every(x))).fill(x)
    found = np.isnan(x) & ~np.isnan(known)
    assert found.any()
    filled = imputer.transform(x)
    assert (np.abs(filled - known)[found] < 1e-9).all() == copies
    assert not np.isnan(filled).any()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(x), filled)
    for drawn in imputer.draw(x, 2):
        assert (np.abs(drawn - known)[found] < 1e-9).all() == copies
