"""Gains of columns, rows that carry a mean, and the baseline of a table."""

import math

import pytest
import torch
from torch.testing import assert_close

import allegory as al
from allegory import families
from allegory.evaluation.gains import ColumnGain, carried_by, column_gains, gain_lines
from allegory.evaluation.marginals import independent_elements, log_probs

NAN = float("nan")


def rows(n=800):
    z = torch.randn(n)
    x = torch.stack([3 * z + 0.3 * torch.randn(n), (z > 0).float(), torch.randint(0, 5, (n,)).float()], 1)
    x[torch.rand(x.shape) < 0.1] = NAN
    return x


def columns():
    return families.columns(
        [families.normal, families.bernoulli, families.interval(1.0, low=0, high=4)], ["a", "b", "c"]
    )


def test_the_baseline_of_a_table_is_each_columns_own_optimum():
    torch.manual_seed(0)
    x = rows()
    model = al.architectures.mlp((3,), columns(), [2], [8], data=x)
    law = independent_elements(model, x)
    seen = x[~x[:, 0].isnan(), 0]
    normal = torch.distributions.Normal(seen.mean(), seen.std(correction=0)).log_prob(seen).sum()
    ones = (x[:, 1] == 1).sum()
    zeros = (x[:, 1] == 0).sum()
    p = (ones + 0.5) / (ones + zeros + 1)
    found = law.log_prob_elements(x).sum(0)
    assert_close(found[0], normal, rtol=1e-5, atol=0)
    assert_close(found[1], ones * p.log() + zeros * (1 - p).log(), rtol=1e-6, atol=0)
    assert_close(log_probs(law, x).sum(), found.sum())
    assert al.log_likelihood(model, x, samples=1).mean() == pytest.approx(log_probs(law, x).mean().item(), abs=1e-6)


def test_columns_that_depend_on_others_gain_and_the_others_are_named():
    torch.manual_seed(0)
    x = rows()
    model = al.architectures.mlp((3,), columns(), [1], [32], data=x)
    al.fit(model, x, epochs=40, batch_size=100, lr=5e-3, progress=False)
    diagnosis = al.diagnose(model, x[:400], x)
    found = {column.name: column for column in diagnosis.evaluation.columns}
    assert found["a"].gain > 0.2
    assert found["b"].gain > 0.2
    assert abs(found["c"].gain) < 0.1
    assert found["a"].observed == pytest.approx(0.9, abs=0.05)
    assert diagnosis.evaluation.baseline_nll > diagnosis.evaluation.nll


def test_the_nats_of_columns_sum_to_the_reconstruction():
    torch.manual_seed(0)
    x = rows()
    model = al.architectures.mlp((3,), columns(), [2], [8], data=x)
    law = independent_elements(model, x)
    found = column_gains(model, x, law)
    total = sum(column.nats * column.observed for column in found)
    assert total == pytest.approx(al.evaluate(model, x, samples=1).reconstruction, abs=1e-5)  # nothing depends on z yet
    assert all(column.gain == pytest.approx(0, abs=1e-6) for column in found)
    assert len(gain_lines(found)[0].split(":")[1].split(",")) == 3


def test_a_row_that_carries_the_mean_is_named():
    torch.manual_seed(0)
    bounds = torch.randn(2000)
    assert carried_by(bounds) is None
    bounds[77], bounds[5] = -9e3, -4e3
    found = carried_by(bounds)
    assert found.rows[0] == 77
    assert found.shift == pytest.approx(9e3 / 2000, rel=0.05)
    bounds[3] = math.inf
    assert carried_by(bounds) is None
    x = torch.randn(1000, 2)
    x[17] = 300.0
    model = al.architectures.mlp((2,), "student_t", [1], [4], data=torch.randn(1000, 2))
    assert al.evaluate(model, x, samples=2).carried.rows == [17]


def test_a_gain_of_nothing_is_said():
    assert gain_lines(None) == []
    assert gain_lines([ColumnGain("x", 1.0, -1.0, -2.0, 1.0)]) == []


def test_bits_are_of_what_is_there():
    torch.manual_seed(0)
    x = rows()
    model = al.architectures.mlp((3,), columns(), [2], [8], data=x)
    result = al.evaluate(model, x, samples=1)
    assert result.bits_per_dim == pytest.approx(result.nll * len(x) / math.log(2) / int((~x.isnan()).sum()))


def test_a_gain_is_under_the_models_posterior_however_wide_q_is():
    """Two columns that are z and a little noise, with a q that is the prior: what each gains is in closed form."""
    torch.manual_seed(0)
    noise, n = 0.5, 1000
    z = torch.randn(n, 1)
    x = z + noise * torch.randn(n, 2)
    model = al.architectures.mlp((2,), families.columns([families.normal_fixed(noise)] * 2), [1], [4], data=x)
    q, p = al.StandardNormal(1), model.decoders[0]
    model.encoders[0].forward = lambda x, *given: q().expand(x.shape[:-1])
    p.forward = lambda z, *given: families.columns([families.normal_fixed(noise)] * 2)(z.expand(*z.shape[:-1], 2))
    law = independent_elements(model, x)
    found = column_gains(model, x, law)
    precision = 1 + 2 / noise**2
    error = (x - x.sum(1, keepdim=True) / noise**2 / precision).square() + 1 / precision
    wanted = -0.5 * (error / noise**2).mean(0) - math.log(noise) - 0.5 * math.log(2 * math.pi)
    assert [column.nats for column in found] == pytest.approx(wanted.tolist(), abs=0.1)


def test_a_draw_of_no_weight_at_which_a_column_is_impossible_has_no_part_in_a_gain():
    class Law(torch.distributions.Distribution):
        arg_constraints = {}  # noqa: RUF012

        def __init__(self, z):
            super().__init__(z.shape[:-1], torch.Size([1]), validate_args=False)
            self.z = z

        def log_prob_elements(self, x):
            return torch.where(self.z > 0, -1.0, -math.inf).expand(*self.batch_shape, 1) + 0 * x

        def log_prob(self, x):
            return self.log_prob_elements(x).sum(-1)

        def sample(self, shape=()):
            return torch.zeros(*shape, *self.batch_shape, 1)

        support = torch.distributions.constraints.independent(torch.distributions.constraints.real, 1)

    class Decoder(torch.nn.Module):
        def forward(self, z):
            return Law(z)

    encoder = al.Conditional(torch.nn.Linear(1, 2), families.normal)
    model = al.VAE(al.StandardNormal(1), encoder, Decoder())
    law = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1.0), 1)
    assert column_gains(model, torch.randn(20, 1), law)[0].nats == pytest.approx(-1)
