"""What a model, a trace and a record say of themselves: one line, found without leaving anything behind."""

import pytest
import torch
from torch import nn

import allegory as al

SETTINGS = {
    "p(z_2: 3) p(z_1: 4 | z_2) p(x: 2x3 | z_1); q(z_1 | x) q(z_2 | z_1)": dict(latent=[4, 3]),
    "p(z_2: 3) p(z_1: 4 | z_2) p(x: 2x3 | z_1); q(z_2 | x) q(z_1 | z_2, x)": dict(latent=[4, 3], top_down=True),
    "p(z_3: 2) p(z_2: 3 | z_3) p(z_1: 4 | z_2, ..) p(x: 2x3 | z_1, ..); q(z_3 | x) q(z_2 | z_3, x) "
    "q(z_1 | z_2, .., x)": dict(latent=[4, 3, 2], top_down=True, markov=False),
    "p(z_1: 4) p(x: 2x3 | z_1); q(z_1 | x)": dict(latent=[4]),
    "p(z_7: 2) p(z_6: 2 | z_7) p(z_5: 2 | z_6) ... p(z_2: 2 | z_3) p(z_1: 2 | z_2) p(x: 2x3 | z_1); q(z_1 | x) "
    "q(z_2 | z_1) q(z_3 | z_2) q(z_4 | z_3) q(z_5 | z_4) q(z_6 | z_5) q(z_7 | z_6)": dict(latent=[2] * 7),
}


@pytest.mark.parametrize("wanted", SETTINGS)
def test_a_model_reads_like_its_mathematics(wanted):
    model = al.architectures.mlp((2, 3), "normal", hidden=[5], **SETTINGS[wanted])
    count = sum(p.numel() for p in model.parameters())
    assert repr(model) == f"VAE: {wanted}; {count:,} parameters"
    assert "Linear" in repr(model.decoders)


class Batch(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 5), nn.Dropout())

    def forward(self, z):
        assert not torch.is_grad_enabled()
        return self.linear(self.norm(z.flatten(0, -2)).view(z.shape))


def test_looking_changes_nothing():
    decoder = al.Conditional(Batch(), al.families.bernoulli)
    model = al.VAE(al.StandardNormal(3), al.Conditional(nn.Linear(5, 6), al.families.normal), decoder)
    model.decoders[0].network.linear.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags, state = [m.training for m in model.modules()], torch.get_rng_state()
    assert "p(z_1: 3) p(x: 5 | z_1)" in repr(model)
    assert torch.equal(state, torch.get_rng_state())
    assert flags == [m.training for m in model.modules()]
    assert len(set(flags)) == 2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_cannot_be_run_is_shown_without_shapes():
    encoder, decoder = al.Conditional(nn.Linear(5, 4), al.families.normal), nn.Linear(3, 5)
    model = al.VAE(al.StandardNormal(2), encoder, al.Conditional(decoder, al.families.bernoulli))
    assert repr(model) == "VAE: p(z_1) p(x | z_1); q(z_1 | x); 44 parameters"
    model.decoders[0].network = nn.LazyLinear(5)
    assert repr(model) == "VAE: p(z_1) p(x | z_1); q(z_1 | x)"
    assert nn.parameter.is_lazy(model.decoders[0].network.weight)


def test_results_are_one_line_each():
    model = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double()
    x = (torch.rand(20, 6) < 0.5).double()
    trace = model(x, samples=4)
    assert repr(trace) == "Trace(S=4, B=20, T=2: x (20, 6), z_1 (4, 20, 3), z_2 (4, 20, 2))"
    record = al.fit(model, x, valid=x, epochs=3)
    best = (
        f"best bound {record.best_bound:.2f} in epoch {record.best_epoch}, independent elements {record.baseline:.2f}"
    )
    assert repr(record) == f"Record(3 epochs, 3 steps, {record.seconds:.0f} s, stopped by epochs, {best})"
    assert (
        repr(al.Record(epoch=2, step=1234, seconds=9.6, restarts=1)) == "Record(2 epochs, 1,234 steps, 10 s, 1 restart)"
    )
    found = al.evaluate(model, x, samples=10)
    start = f"Evaluation(20 examples: -L_10 {found.nll:.2f} +- {found.nll_stderr:.2f} nats, -ELBO {-found.elbo:.2f} +- "
    assert repr(found).startswith(start)
    diagnosis = al.diagnose(model, x, x)
    verdicts = ", ".join(f"level {level.level} {level.verdict}" for level in diagnosis.levels)
    assert repr(diagnosis) == f"Diagnosis({verdicts}; gap {diagnosis.gap:.2f} nats)"
