"""Deliberate mistakes, each of which the laws must notice. A mistake that survives means a law is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISTAKES = {
    # what: (module, what stands there, what is put there)
    "drop the top level's KL": ("model", "self._rate(t)(q, p, z).expand(shape) for t",
                                "self._rate(t)(q, p, z).expand(shape) * (t < len(self.q)) for t"),
    "drop log p(x | z_1) from the weight": ("model", "return self.log_px + (self.log_pz", "return 0 + (self.log_pz"),
    "drop the entropy": ("model", "return -q.entropy() - p", "return -p"),
    "swap p and q in the KL": ("model", "kl_divergence(q, p if normal else p.expand(q.batch_shape))",
                                 "kl_divergence(p.expand(q.batch_shape), q)"),
    "swap p and q in the weight": ("model", "(self.log_pz - self.log_qz).sum(0)", "(self.log_qz - self.log_pz).sum(0)"),
    "average the levels": ("model", "(self.log_pz - self.log_qz).sum(0)", "(self.log_pz - self.log_qz).mean(0)"),
    "closed KL below the top, bottom-up": ("model", "self.top_down or level == len(self.q)", "True"),
    "sampled rates top-down": ("model", "self.top_down or level == len(self.q)", "level == len(self.q)"),
    "a state that forgets": ("model", "self.states[level - 1](z, state)", "self.states[level - 1](z, 0 * state)"),
    "a residual without the prior's scale": ("ladder", "p.mean + p.stddev * q.mean", "p.mean + q.mean"),
    "a residual sigma that is absolute": ("ladder", "p.stddev * q.stddev", "q.stddev"),
    "mean, not draw, above level 1": ("model", "return q.rsample(fan_out)",
                                      "return q.rsample(fan_out) if fan_out else q.mean"),
    "no gradient through the draw": ("model", "return q.rsample(fan_out)", "return q.sample(fan_out)"),
    "sum over the particles": ("objectives", ".sum(0)).mean(0)", ".sum(0)).sum(0)"),
    "sum over the batch": ("objectives", "_weigh(trace.kl, beta).sum(0)).mean(0)",
                           "_weigh(trace.kl, beta).sum((0, 2))[:, None]).mean(0)"),
    "forget log S": ("objectives", "return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
                     "return torch.logsumexp(log_w, 0)"),
    "average the weights outside the log": ("objectives", "return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
                                            "return log_w.mean(0)"),
    "reparameterise once": ("objectives", "gradient * scale)", "gradient)"),
    "do not hold the posterior": ("model", "parameter.detach() for", "parameter for"),
    "draw from a held posterior": ("model", "latents = tuple(z.view_as(z) for z in latents)",
                                   "latents = tuple(z.detach().requires_grad_() for z in latents)"),
    "free bits the wrong way round": ("objectives", "(free - spent).relu()", "(spent - free).relu()"),
    "beta on the wrong level": ("objectives", "beta[:, None, None] * rates", "beta.flip(0)[:, None, None] * rates"),
    "forget log K": ("evaluation/bounds", "(log_w - math.log(samples)).to", "log_w.to"),
    "noise counts as activity": ("evaluation/bounds", "mean.square() - error > ACTIVE", "mean.square() > ACTIVE"),
    "lose a pass of particles": ("evaluation/bounds", "for start in range(0, samples, self.size)",
                                 "for start in range(self.size % samples, samples, self.size)"),
    "the same noise for every example": ("evaluation/bounds", "manual_seed(self.seed + i)", "manual_seed(self.seed)"),
    "the same noise in every pass": ("evaluation/bounds", "for particles in self.passes:\n",
                                     "for particles in self.passes:\n            [g.manual_seed(self.seed + i) "
                                     "for g, i in zip(generators, blocks)]\n"),
    "noise without sigma": ("model", "torch.addcmul(law.loc, law.scale, noise)", "law.loc + noise"),
    "variance where sigma is meant": ("families", "return NormalLaw(mu, positive(s))\n",
                                      "return NormalLaw(mu, positive(s) ** 2)\n"),
    "forget the change of variables": ("families", "self.loc + self.scale * law.loc, self.scale * law.scale",
                                       "self.loc + self.scale * law.loc, law.scale"),
    "sum no dimension": ("families", "return Independent(self.law(*parameters), event_dim)",
                         "return self.law(*parameters)"),
    "edge bins without tails": ("distributions", "first, last = x <= 0, x >= self.bins - 1",
                                "first, last = x < 0, x > self.bins"),
    "a mixture without its weights": ("distributions", "constant = self.log_weights - 0.5", "constant = -0.5"),
    "a VampPrior of one input": ("priors", "NormalMixture(base.loc.new_zeros(len(base.loc)), base.loc, base.scale)",
                                 "NormalMixture(base.loc.new_zeros(1), base.loc[:1], base.scale[:1])"),
    "a Hamiltonian without its kinetic part": ("evaluation/annealing",
                                               " - 0.5 * (p.square() - momentum.square()).sum(-1)", ""),
    "anneal with the whole temperature": ("evaluation/annealing", "increment = (after - before) * log_px",
                                          "increment = after * log_px"),
    "a leapfrog with a whole step at its end": ("evaluation/annealing", "(1.0 if i < leapfrog - 1 else 0.5)", "1.0"),
    "half bins": ("distributions", "a = (x - 0.5 - self.loc)", "a = (x - self.loc)"),
    "interleaved parameters": ("families", ".unflatten(channels, (self.size, -1)).unbind(channels - 1)",
                               ".unflatten(channels, (-1, self.size)).unbind(channels)"),
}  # fmt: skip
LAWS = {  # which tests must notice, of each module
    "model": ("test_exact", "test_objectives", "test_model"),
    "ladder": ("test_exact",),
    "objectives": ("test_objectives", "test_exact"),
    "evaluation/bounds": ("evaluation/test_bounds", "test_exact"),
    "families": ("test_families", "test_exact"),
    "distributions": ("test_families", "test_architectures"),
    "priors": ("test_architectures",),
    "evaluation/annealing": ("evaluation/test_annealing",),
}


def survives(tmp_path, module, right, wrong):
    """Whether the laws hold in spite of the mistake; what pytest printed."""
    shutil.copytree(ROOT / "allegory", tmp_path / "allegory", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "allegory" / f"{module}.py"
    source = path.read_text()
    path.write_text(source.replace(right, wrong))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-k",
        "not pca and not slope and not compile",
        *(f"tests/{name}.py" for name in LAWS[module]),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_mistake_replaces_stands_there_once(mistake):
    module, right, _ = MISTAKES[mistake]
    assert (ROOT / "allegory" / f"{module}.py").read_text().count(right) == 1


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_deliberate_mistake_is_noticed(tmp_path, mistake):
    assert not survives(tmp_path, *MISTAKES[mistake])
