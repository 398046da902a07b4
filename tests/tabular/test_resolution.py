"""The step of numbers, those that come again and again, and the edges, whatever the order and the rounding."""

import numpy as np
import pytest

from allegory.tabular.resolution import Step, decimals_of, find_edges, find_points, find_step, snap

R = np.random.default_rng(0)
WHOLE = R.integers(0, 90, 400)
STEPS = {
    "whole": (WHOLE * 1.0, 1),
    "cents": (R.lognormal(8, 1, 500).round(2), 0.01),
    "halves": (WHOLE / 2, 0.5),
    "0.05": (WHOLE * 0.05, 0.05),
    "sums of 0.1": (np.cumsum(np.full(50, 0.1)), 0.1),
    "thousands": (WHOLE * 1000.0, 1000),
    "odd": (WHOLE * 2 + 1.0, 2),
    "inches": (WHOLE * 2.54, 2.54),
    "Celsius of Fahrenheit": ((WHOLE - 32) * 5 / 9, 5 / 9),
    "standardised": ((WHOLE - WHOLE.mean()) / WHOLE.std(), 1 / WHOLE.std()),
    "a converter of ten bits": (R.integers(0, 1024, 800) * 5 / 1023, 5 / 1023),
    "float32": ((WHOLE * 0.01).astype(np.float32).astype(float), 0.01),
    "large": (R.integers(10**11, 10**12, 300) * 1.0, 1),
    "dollars and a wild one": (np.r_[WHOLE, 10**13] * 1.0, 1),
    "rounded by significant digits": (np.array([float(f"{v:.4g}") for v in R.lognormal(0, 2, 300)]), 1e-5),
    "normal": (R.normal(size=300), None),
    "normal in float32": (R.normal(size=300).astype(np.float32).astype(float), None),
    "lognormal": (R.lognormal(0, 5, 2000), None),
    "three reals": (R.normal(size=3), None),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_is_the_one_that_made_the_numbers(name):
    values, wanted = STEPS[name]
    step = find_step(np.unique(values))
    if wanted is None:
        assert step is None
    else:
        assert step.size == pytest.approx(wanted, rel=1e-9 if name != "rounded by significant digits" else 1)
        k = (values - step.anchor) / step.size
        np.testing.assert_allclose(k, np.rint(k), atol=1e-3)


def test_a_few_numbers_are_no_evidence_of_a_large_step():
    assert find_step(np.array([0.0, 1000.0, 5000.0])) == Step(1.0)
    assert find_step(np.array([2, 4, 8]), whole=True) == Step(1.0)
    assert find_step(np.array([0.7])) is None


def test_a_step_in_cents_is_a_hundred_of_one_in_euros():
    euros = np.unique(R.lognormal(8, 1, 500).round(2))
    assert find_step(np.rint(euros * 100)).size == 1
    assert find_step(euros).size == 0.01
    assert find_step(euros) == find_step(np.unique(euros + 1e-13))


@pytest.mark.parametrize("size", [1.0, 0.01, 0.05, 0.1, 1000.0, 2.54])
def test_snapping_gives_the_number_that_is_written(size):
    written = np.array([float(f"{k * size:.2f}") for k in range(-500, 500)])
    near = (written + size * R.uniform(-0.4, 0.4, len(written))).astype(np.float32).astype(float)
    np.testing.assert_array_equal(snap(near, Step(size)), written)
    np.testing.assert_array_equal(snap(written, Step(size)), written)


def test_decimals_are_those_of_the_step_and_its_anchor():
    assert [decimals_of(Step(*step)) for step in ((1.0,), (0.05,), (1.0, 0.5), (1 / 3,), (1e-8,))] == [0, 2, 1, None, 8]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.r_[np.zeros(700), R.lognormal(3, 1, 300)], [0]),
        (np.r_[np.zeros(700), R.lognormal(3, 1, 300).round(2), np.full(40, 99_999.0)], [0, 99_999]),
        (np.minimum(R.normal(size=5000), 1), [1]),
        (np.r_[R.integers(1, 99, 500), np.full(400, 40)], [40]),
        (np.r_[np.zeros(9000), R.integers(1, 2000, 300), np.full(60, 30)], [0, 30]),
        (R.integers(17, 91, 30_000), []),
        (R.poisson(3, 10_000), []),
        (R.normal(size=5000), []),
        (R.lognormal(8, 1, 5000).round(2), []),
        (np.rint(R.normal(0, 3, 10_000)), []),
        (np.r_[np.zeros(9), R.normal(size=991)], []),
        (np.r_[np.zeros(10), R.normal(size=29_990)], []),
    ],
    ids=[
        "zeros",
        "zeros and 99,999",
        "a cap",
        "hours",
        "beside zeros",
        "ages",
        "counts",
        "reals",
        "cents",
        "rounded",
        "nine zeros",
        "one in three thousand",
    ],
)
def test_what_comes_again_and_again(values, wanted):
    different, counts = np.unique(values, return_counts=True)
    assert list(find_points(different, counts, find_step(different))) == wanted


def test_edges_are_known_for_amounts_for_shares_and_where_values_pile_up():
    assert find_edges(np.array([-2.0, 5.0]), (), True) == (None, None)
    assert find_edges(np.array([3.0, 5.0]), (), True) == (0, None)
    assert find_edges(np.array([0.0, 0.93]), (), False) == (0, 1)
    assert find_edges(np.array([-5.0, 99.0]), (99.0,), True) == (None, 99)
    assert find_edges(np.array([]), (), True) == (None, None)


@pytest.mark.parametrize("fill", [1e20, 9.96921e36, 3e38])
def test_a_wild_value_leaves_the_others_without_a_step(fill):
    values = np.append(np.sort(np.random.default_rng(0).normal(290, 5, 500)), fill)
    assert find_step(values) is None


@pytest.mark.parametrize("values", [(9.99, 10.0), (0.0, 0.01), (9.98, 9.99, 10.0), (9.97, 9.98, 9.99, 10.0)])
def test_values_that_hide_each_other_are_points(values):
    generator = np.random.default_rng(0)
    x = (generator.random(600) * 50).round(2)
    for k, value in enumerate(values):
        x[k::6] = value
    different, counts = np.unique(x, return_counts=True)
    assert find_points(different, counts, Step(0.01)) == values


def test_what_is_steep_hides_nothing():
    generator = np.random.default_rng(0)
    for x in (generator.poisson(40, 5000), generator.geometric(0.02, 5000), generator.normal(0, 9, 5000).round()):
        different, counts = np.unique(x, return_counts=True)
        assert find_points(different, counts, Step(1.0)) == ()
