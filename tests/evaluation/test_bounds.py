"""What `evaluate` and its like promise beyond the exact answers of tests/test_exact.py."""

import math

import linear_gaussian
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.evaluation import passes
from allegory.evaluation.passes import pairs_per_pass


def chain():
    return al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[5]).double()


def ladder():
    return al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[5], top_down=True, markov=False).double()


def bits(n):
    return (torch.rand(n, 6) < 0.5).double()


@pytest.mark.parametrize("build", [chain, ladder])
@pytest.mark.parametrize("samples", [1, 3, 70, 500])
def test_what_a_pass_takes_changes_nothing(build, samples, monkeypatch):
    monkeypatch.setattr("allegory.evaluation.passes.pairs_per_pass", lambda model, x: 120)  # 500 particles: five
    model, x = build(), bits(40)
    found = []
    for pairs in (40, 100, 1000, None, 10**6):
        torch.manual_seed(5)
        found.append(al.log_likelihood(model, x, samples=samples, pairs=pairs))
    for other in found[1:]:
        assert_close(found[0], other, rtol=0, atol=1e-9)


def test_a_pass_takes_no_more_than_it_may():
    model, x, seen = chain(), bits(3), []
    model.decoders[0].register_forward_hook(lambda module, inputs, law: seen.append(law.batch_shape.numel()))
    al.log_likelihood(model, x, samples=1000, pairs=100)
    assert max(seen[-30:]) == 100
    assert sum(seen[-30:]) == 3000


def test_a_seed_gives_the_same_result_and_the_next_call_another():
    model, x = chain(), bits(20)
    torch.manual_seed(1)
    first, second = (al.log_likelihood(model, x, samples=10) for _ in range(2))
    torch.manual_seed(1)
    assert_close(al.log_likelihood(model, x, samples=10), first, rtol=0, atol=0)
    assert bool((first != second).all())


@pytest.mark.parametrize("samples", [1, 40])
def test_the_noise_of_examples_and_of_passes_is_independent(samples, monkeypatch):
    """Estimates of equal examples scatter as those from torch's own noise do."""
    monkeypatch.setattr("allegory.evaluation.passes.pairs_per_pass", lambda model, x: 10)  # four passes
    model, x = chain(), bits(1).expand(4000, -1)
    found = al.log_likelihood(model, x, samples=samples, pairs=1000)
    with torch.no_grad():
        wanted = al.iwae(model(x, samples=samples))
    found, wanted = (
        bound.clamp(min=-12) for bound in (found, wanted)
    )  # a few are far below, and would be all there is
    assert_close(found.mean(), wanted.mean(), rtol=0, atol=5 * wanted.std().item() * math.sqrt(2 / 4000))
    assert_close(found.std(), wanted.std(), rtol=0.2, atol=0)
    neighbours = torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(4000)


def test_noise_makes_the_draws():
    model, x = ladder(), bits(4)
    noise = [torch.randn(7, 4, 3), torch.randn(7, 4, 2)]
    trace = model(x, samples=7, noise=noise)
    for q, z, eps in zip(trace.q, trace.latents, noise, strict=True):
        assert_close(z, q.mean + q.stddev * eps)
    assert_close(model(x, samples=7, held=True, noise=noise).latents, trace.latents)
    half = model(x, samples=7, noise=[None, noise[1]])  # one level is drawn
    assert_close(half.latents[1], trace.latents[1])
    assert bool((half.latents[0] != trace.latents[0]).all())


def test_noise_that_does_not_fit_is_said():
    model, x = chain(), bits(4)
    with pytest.raises(ValueError, match=r"noise of level 1: got shape \(7, 4, 2\), wanted \(7, 4, 3\)"):
        model(x, samples=7, noise=[torch.randn(7, 4, 2)] * 2)
    with pytest.raises(ValueError, match=r"noise of level 2: got shape \(1, 4, 2\), wanted \(7, 4, 2\)"):
        model(x, samples=7, noise=[None, torch.randn(1, 4, 2)])
    with pytest.raises(ValueError, match="noise: got 1 tensors, wanted one for each of 2 levels"):
        model(x, noise=[None])
    tails = al.VAE(
        al.StandardNormal(2),
        al.Conditional(nn.Linear(6, 6), al.families.student_t),
        al.Conditional(nn.Linear(2, 6), al.families.bernoulli),
    ).double()
    with pytest.raises(ValueError, match="noise of level 1: wanted None, since StudentT has no normal noise"):
        tails(x, noise=[torch.randn(1, 4, 2)])
    assert al.log_likelihood(tails, x, samples=5).shape == (4,)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.slow
@pytest.mark.parametrize("function", [al.evaluate, al.log_likelihood, al.bound_curve])
def test_a_compiled_pass_is_the_same_pass(function):
    model, x = ladder(), bits(30)
    found = []
    for compile in (False, True):
        torch.manual_seed(2)
        result = function(model, x, samples=50, pairs=400, compile=compile)
        found.append(result.as_dict() if function is al.evaluate else result)
    if function is al.evaluate:
        for key, value in found[0].items():
            assert value == (None if value is None else pytest.approx(found[1][key], rel=1e-9)), key
    else:
        assert_close(*map(torch.as_tensor, found), rtol=1e-9, atol=1e-9)


def test_a_pass_is_as_large_as_a_cache_likes():
    model = al.architectures.mlp((784,), "bernoulli", latent=[4], hidden=[8])
    assert pairs_per_pass(model, torch.zeros(1, 784)) == 2**20 // 784


def test_an_example_whose_weights_are_all_zero_is_not_trusted():
    model = al.architectures.mlp((3,), "normal_optimal", latent=[2], hidden=[4])
    model.decoders[0].family.family.variance.fill_(1e-300)
    with pytest.warns(UserWarning, match="says little: for 100% of the examples"):
        found = al.evaluate(model, 1e6 + torch.randn(6, 3), samples=5)
    assert math.isnan(found.effective_sample_size)
    assert found.unreliable == 1


@pytest.mark.parametrize("levels", [1, 2])
def test_with_a_seed_a_row_has_its_score_whatever_stands_beside_it(levels):
    """Whether q is normal, at level 1 of a chain of diagonal laws, or not."""
    normal = al.architectures.mlp((5,), "normal", latent=[3, 2][:levels], hidden=[8]).double()
    x = torch.randn(50, 5)
    x[7] = x[3]
    for model, rows in [(normal, x), (linear_gaussian.chain(levels)[0], x[:, :4])]:
        order, state = torch.randperm(50), torch.get_rng_state()
        scores = al.log_likelihood(model, rows, samples=20, seed=1)
        assert torch.equal(state, torch.get_rng_state())
        assert_close(al.log_likelihood(model, rows[order], samples=20, seed=1), scores[order], atol=1e-9, rtol=0)
        assert_close(al.log_likelihood(model, rows[3:4], samples=20, seed=1), scores[7:8], atol=1e-9, rtol=0)
    other = al.log_likelihood(normal, x, samples=20, seed=2)
    assert bool((other != al.log_likelihood(normal, x, samples=20, seed=1)).all())
    with pytest.raises(ValueError, match=r"seed=1.5: wanted a whole number"):
        al.log_likelihood(normal, x, samples=20, seed=1.5)


def test_what_takes_long_is_said_beforehand_with_what_takes_a_minute(capsys, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(passes.time, "monotonic", lambda: 3.0 * next(clock))  # three seconds a pass
    model, x = al.architectures.diffusion((3,), levels=100, width=4, blocks=1), torch.randn(50, 3)
    al.log_likelihood(model, x, 40, pairs=20)  # 2,000 pairs, 20 at a time
    told = (
        "50 examples with K = 40 particles, through 100 levels each, will take about 5 minutes here; K = 8 would take"
    )
    assert capsys.readouterr().err == f"{told} a minute\n"
    monkeypatch.setattr(passes.time, "monotonic", lambda: 0.1 * next(clock))
    al.log_likelihood(model, x, 40, pairs=20)
    assert capsys.readouterr().err == ""
