"""Before a density is trained it is said which numbers come again and again, and which columns follow from others."""

import re

import pytest
import torch

from allegory.data import remarks

X = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
DRAW = torch.rand(3000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
SHARES = torch.distributions.Dirichlet(torch.full((5,), 2.0)).sample((3000,)).float()
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
    "a background": ((DRAW.view(-1, 1, 2, 3) - 0.5).clamp(min=0), r"^0 is 50% of all elements$"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_density_has_no_bound_on_is_said(name):
    x, message = SAID[name]
    lines = remarks(x, "normal")
    assert any(re.search(message, line) for line in lines), lines
    assert lines[-1].startswith("a density has no upper bound there")
    assert remarks(x, "categorical") == []


@pytest.mark.parametrize(
    "x", [X, 1e3 * X + 7, X @ torch.randn(3, 6) + 0.1 * DRAW, X[:5], X[:, :1], X.view(-1, 1, 1, 3), X[:, [0, 1]].exp()]
)
def test_of_other_data_nothing_is_said(x):
    assert remarks(x, "normal") == []
