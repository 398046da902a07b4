"""The baseline: the likelihood of independent elements, against scipy, counting and closed forms."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

import allegory as al
from allegory.data.stored import Mapped, Stored
from allegory.evaluation.marginals import baseline, independent_elements


def model(likelihood, shape=(3,), **more):
    return al.architectures.mlp(shape, likelihood, [2], [4], **more)


def test_bits_have_their_frequencies():
    x = (torch.rand(20_000, 3) < torch.tensor([0.1, 0.5, 0.9])).double()
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in x.mean(0).tolist())
    assert baseline(model("bernoulli"), x, x) == pytest.approx(-entropy, abs=1e-3)


def test_categories_have_their_histogram_and_no_value_is_impossible():
    train = torch.tensor([[0.0], [0.0], [0.0], [1.0]] * 100)
    law = independent_elements(model("categorical", (1,), categories=3), train)
    masses = law.log_prob(torch.tensor([[0.0], [1.0], [2.0]])).exp()
    assert masses.sum().item() == pytest.approx(1.0)
    assert masses[0].item() == pytest.approx(0.75, abs=1e-3)
    assert masses[2] > 0


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "discretized_logistic_mixture"])
def test_levels_are_a_mass_function_and_the_better_of_two(likelihood):
    many, few = torch.randint(0, 2, (3000, 1)) * 255.0, torch.distributions.Normal(100.0, 20.0).sample((30, 1)).round()
    for train in (many, few):
        law = independent_elements(model(likelihood, (1,)), train)
        assert law.log_prob(torch.arange(256.0)[:, None]).exp().sum().item() == pytest.approx(1.0)
    assert baseline(model(likelihood, (1,)), many, many) == pytest.approx(-math.log(2), abs=0.01)
    held_out = torch.distributions.Normal(100.0, 20.0).sample((2000, 1)).round()
    exact = torch.distributions.Normal(100.0, 20.0).log_prob(held_out).mean().item()
    assert baseline(model(likelihood, (1,)), few, held_out) == pytest.approx(exact, abs=0.15)


def test_real_values_have_a_normal_in_their_own_unit():
    x = torch.randn(5000, 3) * torch.tensor([1.0, 10.0, 1e-3]) + 5
    normal = model("normal", data=x)
    exact = scipy.stats.norm(x.mean(0).numpy(), x.std(0, correction=0).numpy()).logpdf(x.numpy()).sum(1).mean()
    assert baseline(normal, x, x) == pytest.approx(exact)
    assert baseline(model("normal", data=1000 * x), 1000 * x, 1000 * x) == pytest.approx(exact - 3 * math.log(1000))


def test_heavy_tails_have_a_student_t():
    x = torch.distributions.StudentT(4.0, 2.0, 3.0).sample((20_000, 1))
    law = independent_elements(model("student_t", (1,), data=x), x).base_dist
    assert (law.df.item(), law.loc.item(), law.scale.item()) == pytest.approx((4.0, 2.0, 3.0), rel=0.05)
    exact = scipy.stats.t(4, 2, 3).logpdf(x.numpy()).mean()
    assert baseline(model("student_t", (1,), data=x), x, x) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_counts_have_the_dispersion_that_they_show(likelihood):
    law = scipy.stats.nbinom(2.0, 2.0 / (2.0 + 7.0))
    x = torch.tensor(law.rvs((20_000, 1), random_state=0)).double()
    assert baseline(model(likelihood, (1,), data=x), x, x) == pytest.approx(law.logpmf(x.numpy()).mean(), abs=0.01)
    same = torch.distributions.Poisson(torch.full((1,), 4.0)).sample((20_000,))
    exact = scipy.stats.poisson(4.0).logpmf(same.numpy()).mean()
    assert baseline(model(likelihood, (1,), data=same), same, same) == pytest.approx(exact, abs=0.01)


def test_grey_levels_have_a_continuous_bernoulli_of_their_mean():
    x = al.families.continuous_bernoulli(torch.full((20_000, 1), 1.5)).sample()
    law = independent_elements(model("continuous_bernoulli", (1,)), x).base_dist
    assert law.logits.item() == pytest.approx(1.5, abs=0.1)
    assert law.mean.item() == pytest.approx(x.mean().item(), abs=1e-9)


def test_what_has_no_marginals_here_has_no_baseline():
    class Positive(nn.Module):
        def forward(self, z):
            law = torch.distributions.LogNormal(z, torch.ones_like(z))
            return torch.distributions.Independent(law, 1)

    encoder = al.Conditional(nn.Linear(2, 4), al.families.normal)
    x = torch.rand(10, 2) + 1
    odd = al.VAE(al.StandardNormal(2), encoder, Positive())
    assert baseline(odd, x, x) is None
    assert al.fit(odd, x, valid=x, epochs=1).baseline is None


def test_data_on_disk_and_scalars(tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.float32))
    stored = Stored(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r")))
    whole = stored[torch.arange(50)]
    assert baseline(model("bernoulli"), stored, stored) == pytest.approx(baseline(model("bernoulli"), whole, whole))


def test_a_training_keeps_its_baseline_and_sees_what_the_model_sees(tmp_path):
    grey = torch.tensor([0.1, 0.5, 0.9]).expand(4000, 3).contiguous()
    bits = torch.bernoulli(grey[:1000])
    record = al.fit(
        model("bernoulli").double(), grey, valid=bits, transform=torch.bernoulli, epochs=1, batch_size=500,
        out=tmp_path / "run",
    )  # fmt: skip
    exact = torch.distributions.Bernoulli(grey[0]).log_prob(bits).sum(1).mean().item()
    assert record.baseline == pytest.approx(exact, abs=0.01)
    assert al.Run(tmp_path / "run").summary.baseline == record.baseline
    assert f"independent elements {record.baseline:.2f}" in repr(record)
