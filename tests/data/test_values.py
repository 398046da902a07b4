"""Before a density is trained it is said which numbers come again and again, and which columns follow from others."""

import re

import pytest
import torch

from allegory.data import choose_likelihood, remarks
from allegory.data.values import unlike

X = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
DRAW = torch.rand(3000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
SHARES = torch.distributions.Dirichlet(torch.full((5,), 2.0)).sample((3000,)).float()
CODES = torch.randint(0, 5, (500, 6), generator=torch.Generator().manual_seed(2)).float()
EQUAL = torch.cat([X[:1].expand(1500, -1), X[1500:]])
SAID = {
    "a flood of zeros": ((DRAW - 0.7).clamp(min=0), r"^0 is \d\d% of the values of column 0, and 5 more columns"),
    "a fill value": (torch.where(DRAW < 0.02, -9999.0, DRAW), r"^-9999 is 3% of the values of column 0, and 5 more"),
    "a cap": (DRAW.clamp(max=0.97), r"^0\.97 is 3% of the values of column 0"),
    "a column twice": (torch.cat([X, X[:, :1]], 1), r"^column 3 repeats column 0$"),
    "a flag": (torch.cat([X, (DRAW[:, :1] < 0.5).float()], 1), r"^column 3: whole numbers, beside measured ones$"),
    "shares": (SHARES / SHARES.sum(1, keepdim=True), r"^columns 0, 1, 2, 3, 4 sum to 1$"),
    "a total": (torch.cat([X, X[:, :2].sum(1, keepdim=True)], 1), r"^columns 0, 1, 3: each follows from the others"),
    "equal rows": (EQUAL, r"^1,499 of 3,000 rows repeat an earlier row$"),
    "whole numbers": ((100 * X).round(), r"^columns 0, 1, 2: whole numbers$"),
    "a code for what is missing": (
        torch.where(DRAW < 0.02, -999.0, torch.cat([CODES] * 6) - 2),
        r"^-999 is \d% of the values of column 0, and far from the others, -2\.\.2, and 5 more columns",
    ),
    "the same in one column": (
        torch.cat([X, torch.where(DRAW[:, :1] < 0.02, -999.0, torch.cat([CODES] * 6)[:, :1])], 1),
        r"^-999 is \d% of the values of column 3, and far from the others, 0\.\.4: if it stands",
    ),
    "a sensor's steps": (
        (30 * DRAW).round() / 7,
        r"^column 0 has only 31 different values, and 5 more columns have few$",
    ),
    "normalised grey levels": (((255 * DRAW.view(-1, 1, 2, 3)).round() / 255 - 0.456) / 0.224, r"take only 256 diff"),
    "a background": ((DRAW.view(-1, 1, 2, 3) - 0.5).clamp(min=0), r"^0 is 50% of all elements$"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_density_has_no_bound_on_is_said(name):
    x, message = SAID[name]
    lines = remarks(x, "normal")
    assert any(re.search(message, line) for line in lines), lines
    assert lines[-1].startswith("a density has no upper bound there")
    assert [line for line in remarks(x, "categorical") if "far from the others" not in line] == []


@pytest.mark.parametrize(
    "x", [X, 1e3 * X + 7, X @ torch.randn(3, 6) + 0.1 * DRAW, X[:5], X[:, :1], X.view(-1, 1, 1, 3), X[:, [0, 1]].exp()]
)
def test_of_other_data_nothing_is_said(x):
    assert remarks(x, "normal") == []


WHOLE = {
    "a code for what is missing": (
        torch.where(DRAW[:500] < 0.02, 99.0, CODES),
        r"^99 is \d% of the values of column 0, and far from the others, 0..4, and \d more columns have such "
        "a number: if it stands for what is missing, drop or fill",
    ),
    "a negative one": (
        torch.where(DRAW[:500] < 0.02, -9.0, CODES[:, :6].clamp(max=2)),
        r"^-9 is \d% of the values of column 0",
    ),
    "one for few rows of each column": (
        torch.where(DRAW[:500] < 0.008, 99.0, CODES),
        r"^99 is 1% of all values, and far from the others, 0..4: if it stands for what is missing, drop or fill",
    ),
    "in one column of several kinds": (
        torch.cat([CODES[:, :1], 255 * CODES[:, 1:2], torch.where(DRAW[:500, :1] < 0.05, 99.0, CODES[:, 2:3])], 1),
        r"^99 is \d% of the values of column 2, and far from the others, 0..4: if",
    ),
    "a mask in a deep picture": (
        torch.where(DRAW[:500, :4].view(-1, 1, 2, 2) < 0.1, 65535.0, (4095 * DRAW[:500, :4]).round().view(-1, 1, 2, 2)),
        "^65535 is 10% of all values",
    ),
    "one value": (torch.full((9, 3), 7.0), "^all values are 7: there is nothing to learn$"),
    "unit vectors": (torch.eye(7)[CODES[:, 0].long()].float(), r"^each row has a single 1: .* codes of 7 categories"),
    "channels last": (
        torch.zeros(3, 16, 12, 3).bernoulli(0.5),
        r"^examples of shape \(16, 12, 3\) look like .* \(3, 16,",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_whole_numbers_may_stand_for_is_said(name):
    x, message = WHOLE[name]
    lines = remarks(x, "discretized_logistic")
    assert any(re.search(message, line) for line in lines), lines


@pytest.mark.parametrize(
    "x", [CODES, CODES - 2, (DRAW < 0.5).float(), (255 * DRAW).round(), (DRAW * 40).exp().round(), CODES[:2]]
)
def test_of_other_whole_numbers_nothing_is_said(x):
    assert remarks(x, "categorical") == []


UNLIKE = {
    "grey levels divided": (
        (255 * DRAW).round(),
        DRAW,
        r"^column 0 is mostly 0\.\d+ to 0\.\d+, in train \d+ to 2\d\d",
    ),
    "one column in thousandths": (X, X * torch.tensor([1.0, 1000.0, 1.0]), r"^column 1 is mostly -1\d\d\d.* to"),
    "another zero": (X, X + 273, r"^column 0 is mostly 27\d"),
    "pictures": (DRAW.view(-1, 1, 2, 3), 255 * DRAW.view(-1, 1, 2, 3), "^its values are mostly "),
    "a category of its own": (
        CODES,
        CODES.index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(7.0)),
        r"^1 of 3000 values, such as 7, are beyond those of train, 0\.\.4$",
    ),
    "whole in train": ((9 * DRAW).round(), 9 * DRAW, "^whole numbers in train, not in it$"),
    "whole, not in train": (9 * DRAW, (9 * DRAW).round(), "^its values are whole numbers, in train they are not$"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_split_in_other_units_is_told(name):
    train, other, message = UNLIKE[name]
    assert re.search(message, unlike(other, train)), unlike(other, train)
    assert unlike(train[:300], train) == ""


def test_a_split_of_the_same_units_is_not():
    for other in (X[:1], X + 3, 4 * X, X[:40] * 0.3):
        assert unlike(other, X) == ""
    assert unlike((DRAW - 0.7).clamp(min=0)[:200], (DRAW - 0.7).clamp(min=0)) == ""


def test_the_choice_of_a_likelihood_says_it_too():
    name, why = choose_likelihood(torch.cat([X, X[:, :1]], 1))
    assert name == "normal"
    assert re.fullmatch(r"real values, -\d\.\d+ to \d\.\d+; column 3 repeats column 0", why)
    assert choose_likelihood(X)[1].count(";") == 0


@pytest.mark.parametrize("seed", range(8))
def test_counts_as_varied_as_poisson_counts_are_counts_whatever_the_draw(seed):
    chance = torch.Generator().manual_seed(seed)
    assert choose_likelihood(torch.poisson(torch.full((300, 2, 1), 400.0), chance))[0] == "negative_binomial"
    years = torch.randint(1950, 2024, (300, 2, 1), generator=chance).float()
    assert choose_likelihood(years)[0] == "normal"
