"""Rounded numbers under a density are said once, before the training; others, and other likelihoods, are not."""

import pytest
import torch

import allegory as al
from allegory.training.rounding import remark_on_rounding


def table(steps=(0.0, 0.5, 0.0), rows=300):
    x = torch.randn(rows, len(steps), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([(v / s).round() * s if s else v for v, s in zip(x.unbind(1), steps, strict=True)], 1)


def model(family, x):
    return al.architectures.mlp(x.shape[1:], family, latent=[1], hidden=[4], data=x)


def test_fit_says_it_once():
    x = table()
    vae = model(al.families.normal, x.float())
    with pytest.warns(
        UserWarning, match=r"rounded in column 1 \(steps of 0\.5\), and p\(x \| z_1\) is a density"
    ) as said:
        al.fit(vae, x.float(), epochs=1, progress=False)
    assert len(said) == 1


@pytest.mark.parametrize(
    "family", [al.families.normal, al.families.student_t, al.families.observed(al.families.normal)]
)
def test_of_each_density_whose_spread_is_learned(family):
    x = table()
    assert "column 1" in remark_on_rounding(model(family, x), x)
    assert remark_on_rounding(model(family, x[:, [0, 2]]), x[:, [0, 2]]) == ""


def test_only_the_columns_that_have_a_density():
    x = table(steps=(0.5, 0.5, 0.0))
    family = al.families.columns(
        [al.families.interval(0.5), al.families.missing_above(al.families.normal, 9.0), al.families.normal]
    )
    said = remark_on_rounding(model(family, x), x)
    assert "column 1 (steps of 0.5)," in said
    assert "column 0" not in said


def test_not_where_the_spread_is_given_or_the_steps_are_fine():
    x = table()
    assert remark_on_rounding(model(al.families.normal_fixed(1.0), x), x) == ""
    fine = table(steps=(0.005,))
    assert remark_on_rounding(model(al.families.normal, fine), fine) == ""


def test_gaps_are_passed_over_and_many_columns_counted():
    x = table(steps=(1.0,) * 5)
    x[::3, 0] = torch.nan
    said = remark_on_rounding(model(al.families.observed(al.families.normal), x), x)
    assert "column 0 (steps of 1), 1 (steps of 1), 2 (steps of 1) and 2 more" in said
