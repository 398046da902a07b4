"""Counts in proportion to a size: the gamma-Poisson law, twice the size and twice the mean, and sizes that are none."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.testing import assert_close

import allegory as al
from allegory.command import main
from allegory.data import load
from allegory.exposure import in_proportion
from allegory.family import NegativeBinomialFamily

ZINB = al.families.zero_inflated_negative_binomial
COUNTS = {"poisson": "poisson", "nb": "negative_binomial", "zinb": ZINB}


@pytest.mark.parametrize("size", [1e-3, 1.0, 37.5, 1e9])
def test_it_is_the_gamma_poisson_law_of_scipy(size):
    mu, r = 1.7, 2.3
    phi = torch.tensor([1.7, 2.3]).log()
    law = in_proportion(al.families.negative_binomial(phi), torch.tensor(size))
    mean, shape = law.mean.item(), law.base_dist.total_count.item()
    assert shape == pytest.approx(r, rel=5e-3)  # the bound of positive moves it a little
    assert mean == pytest.approx(size * mu, rel=5e-3)
    x = np.unique(np.round(np.array([0, 0.1, 0.5, 1, 1.5, 4]) * mean))
    found = law.log_prob(torch.tensor(x)[:, None]).numpy()
    np.testing.assert_allclose(found, stats.nbinom(shape, shape / (shape + mean)).logpmf(x), rtol=1e-7, atol=1e-7)
    if size == 37.5:
        gamma = stats.gamma(shape, scale=mean / size / shape)
        for k in (0, 40, 200):
            mass, _ = integrate.quad(lambda g, k=k: stats.poisson(size * g).pmf(k) * gamma.pdf(g), 0, 60, epsabs=1e-13)
            assert law.log_prob(torch.tensor([float(k)])).item() == pytest.approx(np.log(mass), abs=1e-6)


def test_a_poisson_has_the_rate_times_the_size_and_zeros_keep_their_mass():
    size = torch.tensor([0.5, 2e3])
    law = in_proportion(al.families.poisson(torch.zeros(2, 1)), size)
    x = torch.tensor([[1.0], [2010.0]])
    assert_close(law.log_prob(x), torch.tensor(stats.poisson(size.numpy()).logpmf(x[:, 0].numpy())))
    phi = torch.tensor([0.4, -0.4, 0.3, 0.1])
    inflated, plain = (
        in_proportion(ZINB(phi), torch.tensor(3.0)),
        in_proportion(NegativeBinomialFamily()(phi[2:]), torch.tensor(3.0)),
    )
    k, pi = torch.arange(4000.0)[:, None], torch.softmax(phi[:2], 0)[0]
    assert_close(inflated.log_prob(k).exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-6)
    assert_close(inflated.log_prob(k[:1]).exp(), pi + (1 - pi) * plain.log_prob(k[:1]).exp())
    assert_close(inflated.log_prob(k[1:9]), (1 - pi).log() + plain.log_prob(k[1:9]))


def test_columns_that_are_no_counts_stay():
    family = al.families.columns([al.families.normal, al.families.poisson, al.families.categorical(3)])
    phi = torch.randn(4, family.size)
    alone, sized = family(phi), in_proportion(family(phi), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert_close(sized.mean[:, 1], alone.mean[:, 1] * torch.arange(1.0, 5))
    assert torch.equal(sized.mean[:, [0, 2]], alone.mean[:, [0, 2]])
    for law in (al.families.normal(torch.zeros(1, 4)), al.families.bernoulli(torch.zeros(1, 4))):
        with pytest.raises(ValueError, match="is no law of counts, whose mean could be in proportion"):
            in_proportion(law, torch.ones(1))


def counted(n=300, genes=4):
    """Counts over sizes from 20 to 2,000, of rates that one latent and one of two batches move."""
    size = torch.exp(torch.empty(n).uniform_(3, 7.6)).round()
    batch = torch.randint(2, (n,))
    rate = torch.exp(torch.randn(genes) - 4 + 0.5 * torch.randn(n, 1) + 0.7 * batch[:, None])
    c = torch.cat([nn.functional.one_hot(batch, 2), size[:, None]], 1)
    return torch.poisson(rate * size[:, None]), c.to(rate), rate


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("more", [{}, {"latent": [2, 2], "top_down": True, "markov": False}], ids=["plain", "ladder"])
def test_twice_the_size_is_twice_the_mean(kind, more):
    x, c, rate = counted()
    settings = {"latent": [2], "hidden": [8], **more}
    model = al.architectures.mlp((4,), COUNTS[kind], data=x, given_data=c, exposure=2, **settings).double().eval()
    doubled = c * torch.tensor([1.0, 1.0, 2.0])
    z = [torch.randn(300, 2) for _ in settings["latent"]]
    first, second = (model.decode(z, given=given).mean for given in (c, doubled))
    assert_close(second, 2 * first)
    assert not torch.allclose(
        model.encode(x[:9], given=c[:9])[-1].mean, model.encode(x[:9], given=doubled[:9])[-1].mean
    )
    zeros = [torch.zeros(300, 2) for _ in z]
    begins = (model.decode(zeros, given=c).mean / c[:, 2:]).mean(0)  # at the rates of the data
    assert bool(((begins / rate.mean(0)).log().abs() < 0.7).all())


def test_training_finds_the_rates_and_draws_have_them():
    x, c, rate = counted()
    model = al.architectures.mlp((4,), "poisson", [1], [8], data=x, given_data=c, exposure=2)
    al.fit(model, x, given=c, epochs=15, batch_size=50, lr=1e-2, ema=0.9)
    assert al.evaluate(model, x, 50, given=c).baseline_nll is None  # no one law for all sizes
    again = al.architectures.build(model.config)
    again.load_state_dict(model.state_dict())
    score = al.log_likelihood(again.eval(), x[:50], 20, given=c[:50], seed=0)
    assert torch.equal(score, al.log_likelihood(model, x[:50], 20, given=c[:50], seed=0))
    for batch in (0, 1):
        given = torch.zeros(4000, 3)
        given[:, batch], given[:, 2] = 1, 1e6
        expected = rate[c[:, batch] == 1].mean(0)
        assert_close(model.sample(4000, given=given).mean(0) / 1e6, expected, rtol=0.25, atol=0)


def test_a_size_that_is_none_is_refused():
    x, c, _ = counted(20)
    model = al.architectures.mlp((4,), "poisson", [1], [8], data=x, given_data=c, exposure=2)
    bad = c.clone()
    bad[3, 2] = 0
    own = al.VAE(
        al.StandardNormal(1),
        al.Conditional(al.networks.Concat(nn.Linear(7, 2)), al.families.normal),
        al.Conditional(al.networks.Concat(nn.Linear(4, 4)), al.families.poisson, exposure=2),
    )
    mlp = al.architectures.mlp
    for call, words in {
        lambda: al.log_likelihood(model, x, 2, given=bad): "the size of counts is 0 in row 3, wanted above 0",
        lambda: al.log_likelihood(own, x, 2, given=-c): "the size of counts is -",
        lambda: al.fit(model, x, given=bad, epochs=1): "the size of counts is 0 in row 3, wanted above 0",
        lambda: model.sample(2, given=bad[3:4]): "the size of counts is 0",
        lambda: mlp(
            (4,), "poisson", [1], [8], data=x, given_data=bad, exposure=2
        ): "given_data: the size of counts is 0",
        lambda: mlp((4,), "normal", [1], [8], data=x, given_data=c, exposure=2): "is no law of counts",
        lambda: mlp((4,), "poisson", [1], [8], data=x, given_data=c, exposure=3): "exposure=3: wanted which of the 3",
        lambda: mlp((4,), "poisson", [1], [8], data=x, exposure=0): "wanted given or given_data, too",
    }.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_run_of_counts_knows_their_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    x, c, _ = counted(200)
    batch, size = c[:, 1].long().numpy(), c[:, 2].long().numpy()
    np.savez("x.npz", x=x.long().numpy(), batch=np.array(["a", "b"])[batch], n=size)
    words = ["--hidden", "8", "--latent", "1", "--epochs", "2", "--no-compile", "--precision", "float32"]
    train = ["train", "x.npz", "--array", "x", "--given", "batch", "--exposure", "n", "--out", "run", *words]
    assert main(train) == 0
    said = capsys.readouterr().err
    assert "likelihood: negative_binomial, because the data have a size, over which they were counted" in said
    assert "given batch, 2 categories (a, b); n, the size of counts" in said
    assert main(["evaluate", "run", "--importance-samples", "5", "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["nll"])
    for n in (1000, 100_000):
        assert main(["sample", "run", "--count", "300", "--out", f"{n}.npz", "--given", f"batch=a,n={n}"]) == 0
    small, large = (np.load(f"{n}.npz")["samples"].mean() for n in (1000, 100_000))
    assert 60 < large / small < 160
    assert main(["sample", "run", "--out", "all.npz"]) == 0
    assert main(["encode", "run", "x.npz", "--array", "x", "--out", "z.npz"]) == 0
    np.savez("zero.npz", x=x.long().numpy(), n=size * 0)
    capsys.readouterr()
    assert main(["train", "zero.npz", "--array", "x", "--exposure", "n", "--out", "bad", *words]) == 2
    assert "n, the size of counts, is 0 in row 0, wanted above 0" in capsys.readouterr().err
    assert main([*train[:-2], "--out", "bad", "--likelihood", "normal"]) == 2
    assert "is no law of counts" in capsys.readouterr().err


def test_the_counts_of_a_table_have_a_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    x, c, _ = counted(200, 2)
    with open("t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cases", "deaths", "area", "people"])
        for i, row in enumerate(x.long().tolist()):
            writer.writerow([*("" if i % 9 == 0 else cell for cell in row), float(torch.randn(())), int(c[i, 2])])
    words = ["--hidden", "8", "--latent", "1", "--epochs", "2", "--no-compile", "--precision", "float32"]
    assert main(["train", "t.csv", "--exposure", "people", "--out", "run", *words]) == 0
    run = al.Run("run")
    assert run.schema.names == ("cases", "deaths", "area")
    assert "in proportion to it, as negative binomials: cases, deaths" in capsys.readouterr().err
    assert load("t.csv", exposure="people").exposure == 0
    few = ["--importance-samples", "5"]
    assert main(["evaluate", "run", "--json", *few]) == main(["score", "run", "t.csv", "--out", "s.csv", *few]) == 0
    assert main(["impute", "run", "t.csv", "--out", "f.csv", *few]) == 0
    rows = [run.sample_rows(400, given={"people": n})["cases"].mean() for n in (1000, 100_000)]
    assert 60 < rows[1] / rows[0] < 160
    capsys.readouterr()
    with open("u.csv", "w") as file:
        file.write(
            "area,people\n"
            + "".join(
                f"{v!r},{n}\n" for v, n in zip(np.linspace(0.123456, 0.87654, 50).tolist(), range(1, 51), strict=True)
            )
        )
    assert main(["train", "u.csv", "--exposure", "people", "--out", "bad", *words]) == 2
    assert "no column is a count, which could be in proportion to a size" in capsys.readouterr().err


def test_a_size_that_is_none_is_named_by_its_row_in_the_file(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i % 5},{0 if i == 3 else 100 + i}" for i in range(40)]
    path.write_text("\n".join(["deaths,people", *rows]))
    with pytest.raises(ValueError, match=r"t\.csv: people, the size of counts, is 0 in row 3, wanted above 0"):
        load(path, exposure="people")
