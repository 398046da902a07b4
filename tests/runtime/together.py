"""What test_processes.py runs, in one process or in several: `python together.py TASKS`, or by torchrun.

TASKS are [[name, task, out, *arguments], ...], in JSON, and so is what the first process prints: {name: what it gave}.
"""

import functools
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.distributions import Independent, Normal

import allegory as al
from allegory.evaluation import posterior_moments
from allegory.runtime import processes
from allegory.training import sharding
from allegory.training.tensors import read_tensors

SIZES = ((6, al.families.bernoulli), (6, al.families.normal))
N = 33  # so that the last batch of 8 has a single row


class Given(Normal):
    """A normal whose noise is given: equal in any number of processes."""

    noise = None

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise.expand(*sample_shape, *self.loc.shape)


class Encoder(nn.Module):
    """q(z | x), of which every draw is a function of x."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(6, 2 * 3)
        self.unused = nn.Parameter(torch.zeros(2))  # no gradient ever reaches it

    def forward(self, x):
        mu, s = self.network(x).chunk(2, -1)
        law = Given(mu, al.families.positive(s))
        law.noise = torch.sin(100 * (x.cumsum(-1) @ torch.arange(18.0).view(6, 3)))
        return Independent(law, 1)


def model():
    torch.manual_seed(0)
    decoder = al.Conditional(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)), al.families.bernoulli)
    return al.VAE(al.StandardNormal(3), Encoder(), decoder)


def bits():
    torch.manual_seed(1)
    return (torch.rand(N + 9, 6) < torch.linspace(0.1, 0.9, 6)).double()


def fit(out, shard=None):
    """A training whose noise is given; sharded over the processes if that is asked for."""
    vae, x = model(), bits()
    settings = dict(valid=x[N:], epochs=3, batch_size=8, lr=0.01, kl_warmup=4, ema=0.5)
    record = al.fit(
        vae,
        x[:N],
        **settings,
        out=out,
        shard=shard,
    )
    weights, _ = read_tensors(Path(out) / "weights.safetensors")
    return record.history, {key: value.tolist() for key, value in weights.items()}


def pooled(out):
    """Trainings with means over the batch, free bits and the best sigma, as all processes hold them."""
    x, found = bits(), []
    torch.manual_seed(0)
    decoder = al.Conditional(nn.Linear(3, 6), al.families.normal_optimal())
    optimal = al.VAE(al.StandardNormal(3), Encoder(), decoder).double()
    for vae, objective in ((model(), functools.partial(al.free_bits, nats=1.5)), (optimal, al.elbo)):
        record = al.fit(vae, x[:32], valid=x[N:], epochs=2, batch_size=8, lr=0.01, objective=objective)
        state = torch.cat([value.flatten().double() for value in vae.state_dict().values()])
        everywhere = processes.all_gather(state.tolist())
        found.append([record.history, everywhere[0], everywhere[-1]])
    return found


def ladder(out, shard=None):
    """A training of a ladder with its own noise, sharded over the processes or not; and what each then holds."""
    torch.manual_seed(0)
    x = bits().unflatten(1, (1, 6, 1)).expand(-1, 1, 6, 6).contiguous()
    vae = al.architectures.conv(
        (1, 6, 6), "bernoulli", latent=[2, 3], channels=5, blocks=1, prior="mixture", components=3, data=x,
        checkpointed=True,
    ).double()  # fmt: skip
    settings = dict(valid=x[N:], epochs=2, batch_size=8, lr=0.01, kl_warmup=4, samples=2, objective=al.iwae)
    record = al.fit(vae, x[:N], **settings, out=out, shard=shard)
    held = sum(sharding.to_local(p).numel() for p in vae.parameters())
    weights, _ = read_tensors(Path(out) / "weights.safetensors")
    return record.history, {key: value.tolist() for key, value in weights.items()}, processes.all_gather(held)


def score(out):
    """Estimates of more and of fewer examples than there are processes, and where the posterior is not normal."""
    torch.manual_seed(3)
    tails = al.Conditional(nn.Linear(6, 9), al.families.student_t)
    other = al.VAE(al.StandardNormal(3), tails, al.Conditional(nn.Linear(3, 6), al.families.bernoulli))
    vae, x = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double(), bits()
    return [
        al.evaluate(vae, x, samples=200, pairs=300).as_dict(),
        al.evaluate(vae, x[:1], samples=5).as_dict(),
        al.log_likelihood(vae, x, samples=7, pairs=20).tolist(),
        al.bound_curve(vae, x, samples=20, pairs=20),
        al.log_likelihood(other, x, samples=7, pairs=20).tolist(),
        [mean.tolist() for mean, _ in posterior_moments(vae, x, samples=10)],
        torch.rand(2).tolist(),  # and the generator is where it was
    ]


def own(out):
    """What each process finds of rows of its own, of which it has another number, and what one finds while the others
    do nothing.
    """
    vae, x = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double(), bits()
    torch.manual_seed(0)
    for p in vae.parameters():
        torch.nn.init.normal_(p)

    def found(part):
        x_own = x[part::2][: 5 + part]
        torch.manual_seed(part)
        trace = vae(x_own, samples=3)
        return [
            al.log_likelihood(vae, x_own, samples=7).tolist(), al.evaluate(vae, x_own, samples=7).as_dict(),
            al.bound_curve(vae, x_own, samples=7), al.free_bits(trace, nats=2.0).tolist(),
        ]  # fmt: skip

    if processes.world_size() == 1:
        return [found(0), found(1), found(0)]
    part = processes.rank()
    with apart():
        mine = found(part)
        once_more = found(0) if part == 0 else None
    return [*processes.all_gather(mine), once_more]


@contextmanager
def apart():
    """As where somebody else has initialised torch.distributed."""
    before, processes.nesting = processes.nesting, 0
    try:
        yield
    finally:
        processes.nesting = before


def differing(out):
    """What is said in each process where they were not given the same."""
    x, vae = bits(), model()
    mine, other = x[processes.rank() :], al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[7])
    torch.manual_seed(processes.rank())
    torch.nn.init.normal_(next(other.parameters()))
    return [
        processes.all_gather(said(act))
        for act in (
            lambda: al.evaluate(vae, mine, samples=2),
            lambda: al.log_likelihood(vae, x, samples=2 + processes.rank()),
            lambda: al.bound_curve(other.double(), x, samples=2),
            lambda: al.fit(vae, mine, epochs=1),
            lambda: al.fit(vae, x, valid=mine, epochs=1),
            lambda: al.fit(vae, x, epochs=1, seed=processes.rank()),
        )
    ]


def said(act):
    try:
        act()
    except ValueError as error:
        return str(error)


def seen(out):
    """The rows that were drawn in each of two epochs, by each process."""
    x = torch.arange(40.0)[:, None].expand(40, 6) / 100
    rows = []

    def watch(batch):
        rows.extend((batch[:, 0] * 100).round().tolist())
        return (batch > 0.2).double()

    al.fit(model(), x, epochs=2, batch_size=8, transform=watch, seed=5)
    return processes.all_gather(rows[40:])  # the first look at all data


def resumed(out, epochs, shard=None):
    """A run of mlp with its own noise and dropout, up to the epochs that are asked for."""
    torch.manual_seed(0)
    vae, x = al.architectures.mlp((6,), "bernoulli", latent=[3], hidden=[7], dropout=0.1).double(), bits()
    settings = dict(
        valid=x[N:],
        batch_size=8,
        lr=0.01,
        lr_final=1.0,
        out=out,
        resume=True,
        shard=shard,
    )
    return al.fit(vae, x[:N], epochs=epochs, **settings).history


def unfit(out):
    """A mistake that the first process alone sees."""
    x = bits()
    for _ in range(2):
        al.fit(model(), x, epochs=1, out=out)


def various(out):
    """Weights after training on objectives that hold the posterior, and each process's randomness."""
    x = bits()
    torch.manual_seed(processes.rank())
    vae = al.architectures.mlp((6,), "bernoulli", latent=[3, 2], hidden=[8]).double()
    for objective in (al.dreg, al.stl):
        al.fit(vae, x[:N], valid=x[N:], epochs=2, batch_size=8, objective=objective, samples=2, checkpoint_seconds=0)
    al.fit(vae, x[:N], epochs=1, batch_size=8, out=out)
    states, _ = read_tensors(Path(out) / "last.safetensors")
    flat = torch.cat([p.detach().flatten() for p in vae.parameters()])
    return processes.all_gather(flat.tolist()), states["random"].tolist()


def unfitting(out):
    """What is said of models that cannot be sharded, or that are and are asked for more."""
    x, said = bits(), []
    settings = dict(epochs=1, batch_size=8, shard="cpu")
    shared = nn.Linear(3, 3)
    decoders = [al.Conditional(nn.Sequential(shared, nn.Linear(3, size)), family) for size, family in SIZES]
    encoders = [al.Conditional(nn.Linear(size, 6), al.families.normal) for size in (6, 3)]
    sharded = model()
    al.fit(sharded, x, **settings, out=Path(out) / "sharded")
    for act in (
        lambda: al.fit(al.VAE(al.StandardNormal(3), encoders, decoders), x, **settings, out=Path(out) / "shared"),
        lambda: al.fit(sharded, x, **settings, out=Path(out) / "again"),
        lambda: al.evaluate(sharded, x, samples=2),
    ):
        try:
            act()
        except ValueError as error:
            said.append(str(error))
    return said


def lost(out):
    """Rows whose density overflows."""
    x = bits()
    x[5:8] = 1e200
    vae = al.VAE(al.StandardNormal(3), Encoder(), al.Conditional(nn.Linear(3, 6), al.families.normal_fixed(1.0)))
    al.fit(vae, x[:N], epochs=1, batch_size=8)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    tasks, found = json.loads(sys.argv[1]), {}
    with processes.process_group():
        for name, task, *arguments in tasks:
            try:
                found[name] = globals()[task](*arguments)
            except (ValueError, FloatingPointError) as error:
                found[name] = f"{type(error).__name__}: {error}"
        if processes.rank() == 0:
            print(json.dumps(found))
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    sharded = any(arguments[1:] == ["cpu"] or arguments[2:] == ["cpu"] for _, _, *arguments in tasks)
    assert sharded or not any("gloo" in name for name in threads), f"threads that outlive their group: {threads}"
