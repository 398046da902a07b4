"""A file is as long as the likelihood says: against exact evidences, and against the masses of its own symbols."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import EXACT, Affine, Diagonal, chain
from scipy.stats import kstest, norm
from torch import nn
from torch.distributions import Categorical, Independent, Normal

import allegory as al
from allegory.compression import coding, write_file
from allegory.compression.bits_back import BitsBack
from allegory.compression.lattice import endless
from allegory.compression.masses import Coding, pop
from allegory.compression.stack import Stack

SLOW = pytest.mark.slow


class Given(nn.Module):
    """p(y | c) of a table of probabilities, one row for each c; numbers are (*batch, 1)."""

    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, *context):
        at = tuple(c[..., 0].long() for c in context)
        return Independent(Categorical(logits=self.table[at].log()[..., None, :]), 1)


class Top(Given):
    def forward(self):
        return super().forward()


class Posterior(Given):
    """q(z_t | z_{t+1}, x) of a table of (z_{t+1}, x), and at the top of (x,)."""

    def forward(self, x, *above):
        return super().forward(*above, x)


def categories(levels, top_down, seed=0, k=4):
    """A chain of categories with its exact posterior, and p(x): (k,)."""
    random = torch.Generator().manual_seed(seed)
    tables = [torch.rand(k, k, generator=random).pow(3) + 1e-3 for _ in range(levels)]
    tables = [table / table.sum(-1, keepdim=True) for table in tables]  # p(z_{t-1} | z_t), t = 1, ..., T
    marginal = [torch.full((k,), 1 / k)]  # of z_T, ..., z_0
    for table in reversed(tables):
        marginal.insert(0, marginal[0] @ table)
    up = [table.T * above / below[:, None] for table, below, above in zip(tables, marginal, marginal[1:], strict=False)]
    decoder = [Given(table) for table in tables]
    if not top_down:
        return al.VAE(Top(marginal[-1]), [Given(q) for q in up], decoder), marginal[0]
    given_x = [torch.eye(k)]  # p(z_t | x) by row x
    for q in up:
        given_x.append(given_x[-1] @ q)
    posteriors = []
    for t in range(1, levels):  # p(z_t | z_{t+1}, x) is in proportion to p(z_t | x) p(z_{t+1} | z_t)
        joint = given_x[t][None] * up[t].T[:, None]  # (z_{t+1}, x, z_t)
        posteriors.append(Posterior(joint / joint.sum(-1, keepdim=True)))
    ladder = al.TopDown(_Everywhere(levels), [*posteriors, Posterior(given_x[levels])])
    return al.VAE(Top(marginal[-1]), ladder, decoder), marginal[0]


class _Everywhere(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x):
        return (x,) * self.levels


@pytest.mark.parametrize("top_down", [False, True], ids=["Bit-Swap", "HiLLoC"])
@pytest.mark.parametrize("levels", [pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_with_the_exact_posterior_it_is_the_information_of_the_data(levels, top_down, tmp_path):
    model, p = categories(levels, top_down)
    x = torch.multinomial(p, 1500, replacement=True).to(torch.get_default_dtype())[:, None]
    report = write_file(tmp_path / "x.alg", model, x)
    exact = -p[x[:, 0].long()].log2().sum().item()
    assert report.net_bits * len(x) == pytest.approx(exact, rel=1e-4, abs=64)
    assert report.negative_elbo * len(x) / math.log(2) == pytest.approx(exact, rel=1e-9)


def exact_chain(kind, levels):
    """A linear-Gaussian chain of single numbers, its exact posterior, and p(x)."""
    model, evidence = chain(levels, features=(1,) * 6, **EXACT[kind])
    for part in model.modules():
        if type(part) is Affine:
            part.__class__ = Diagonal
    return model, evidence


@pytest.mark.parametrize("levels", [pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
@pytest.mark.parametrize("kind", ["bottom-up", "top-down", "top-down, not Markov"])
def test_of_real_numbers_it_is_the_mass_of_their_resolution(kind, levels, tmp_path):
    model, evidence = exact_chain(kind, levels)
    x = (evidence().sample((2500,)) * 100).round() / 100
    report = write_file(tmp_path / "x.alg", model, x)
    exact = -(evidence().log_prob(x) + math.log(0.01)).sum().item() / math.log(2)
    assert report.net_bits * len(x) == pytest.approx(exact, rel=1e-3, abs=32)
    assert report.negative_elbo * len(x) / math.log(2) == pytest.approx(exact, rel=1e-9)


def test_a_file_is_the_sum_of_its_symbols(monkeypatch, tmp_path):
    bits = []

    class Ledger(Stack):
        """Adds up what each symbol takes, from its own masses."""

        def push(self, spell, value):
            super().push(spell, value)
            spell(lambda symbols, *model: bits.append(information(symbols, *model)) or symbols, value)

        def pop(self, spell):
            def noted(code, _):
                def read(_, *model):
                    bits.append(-information(symbols := code(None, *model), *model))
                    return symbols

                return spell(read, None)

            return super().pop(noted)

    monkeypatch.setattr(coding, "Stack", Ledger)
    model = al.architectures.mlp((12,), "categorical", latent=[3, 2], hidden=[8], categories=6)
    report = write_file(tmp_path / "x.alg", model, torch.randint(0, 6, (600, 12)).double(), verify=False)
    assert report.net_bits * 600 == pytest.approx(sum(bits), abs=64)


def information(symbols, kind, *parameters):
    """Bits of symbols, by their masses."""
    if kind == "categorical":
        (masses,) = parameters
        return -np.log2(masses[np.arange(len(symbols)), symbols] / masses.sum(1)).sum()
    low, high, mean, deviation = parameters
    cells = high - low + 1
    edges = [
        np.where(end == side, limit, norm.cdf((end + half - mean) / deviation))
        for end, side, limit, half in ((symbols, high, 1.0, 0.5), (symbols, low, 0.0, -0.5))
    ]
    return -np.log2((edges[0] - edges[1]) * (1 - cells / 2**24) + 1 / 2**24).sum()


def test_bottom_up_it_begins_with_one_level_and_top_down_with_all(monkeypatch):
    deepest = []
    for top_down in (False, True):
        model, _ = categories(6, top_down)
        stack = Stack(64)
        begin, depths, pop = stack._coder.num_valid_bits(), [], Stack.pop

        def watched(self, spell, pop=pop, depths=depths, begin=begin):
            found = pop(self, spell)
            depths.append(begin - self._coder.num_valid_bits())
            return found

        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(Stack, "pop", watched)
            BitsBack(model, [None] * 6, [torch.Size([1])] * 6, Coding()).send(stack, torch.zeros(20, 1))
        deepest.append(max(depths))
    assert deepest[0] < deepest[1] / 3


def test_what_is_drawn_follows_q():
    law = Independent(Normal(torch.linspace(-20, 20, 20_000)[None], torch.full((1, 20_000), 0.5)), 1)
    step = torch.full((20_000,), 2.0**-11)
    lattice = endless(step, 0 * step).within(*(torch.full((20_000,), sign * 2**16) for sign in (-1, 1)))
    z = pop(Stack(2**14), law, Coding(lattice, window=True), torch.Size([1, 1, 20_000]))
    u = ((z - law.mean) / law.stddev).flatten()
    assert u.abs().max() < 8.1
    assert kstest(u.numpy(), "norm").pvalue > 1e-3


def test_nothing_is_drawn_far_out_beside_a_wide_q():
    sigma = torch.full((1, 100_000), 0.002)
    sigma[:, ::10] = 1.0  # whose window has 4,096 bins, of 2^-24 at least
    law = Independent(Normal(torch.zeros(1, 100_000), sigma), 1)
    step = torch.full((100_000,), 2.0**-11)
    lattice = endless(step, 0 * step).within(*(torch.full((100_000,), sign * 2**16) for sign in (-1, 1)))
    z = pop(Stack(2**16), law, Coding(lattice, window=True), torch.Size([1, 1, 100_000]))
    u = (z / sigma).flatten()
    assert u.abs().max() < 8.1
    assert kstest(u[::10].numpy(), "norm").pvalue > 1e-3


def test_a_batch_is_as_large_as_what_is_there_to_draw_from(tmp_path):
    model = al.architectures.mlp((50,), "bernoulli", latent=[20], hidden=[8])
    x = (torch.rand(1000, 50) < 0.5).double()
    one, all_ = (write_file(tmp_path / "x.alg", model, x[:n]).initial_bits for n in (1, 1000))
    assert all_ <= one + 64
