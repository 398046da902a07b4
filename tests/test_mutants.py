"""Deliberate mistakes, each of which a law must notice: the one that is named, so that it has been seen to fail. A
mistake that survives means a law is missing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
EXACT, OBJECTIVES, FAMILIES = "test_exact.py", "test_objectives.py", "test_families.py"
LENGTHS, DAMAGED = "compression/test_lengths.py", "compression/test_damaged_files.py"
DIFFUSION, MASKED = "test_diffusion.py", "test_masked.py"
ARCHITECTURES, BOUNDS, ANNEALING = "test_architectures.py", "evaluation/test_bounds.py", "evaluation/test_annealing.py"
MISTAKES = {  # what: (module, what stands there, what is put there, the law that notices)
    "drop the top level's KL": (
        "trace",
        "self._rate(t)(q, p, z).expand(shape) for t",
        "self._rate(t)(q, p, z).expand(shape) * (t < len(self.q)) for t",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "L_K of closed rates": (
        "trace",
        "return self.log_px + (self.log_pz - self.log_qz).sum(0)",
        "return self.log_px - self.kl.sum(0)",
        DIFFUSION + "::test_a_bound_of_many_particles_is_not_above_the_evidence",
    ),
    "a random log-density in L_K": (
        "chain",
        'raise ValueError(_no_weight("log_weight"))',
        "return self.log_px - self.kl.sum(0)",
        DIFFUSION + "::test_a_bound_of_one_level_has_no_weight_and_is_in_no_logarithm",
    ),
    "an evaluation of one random level": (
        "chain",
        'if levels == "all" or (levels is None and not self.training and not self.infinite):',
        'if levels == "all":',
        DIFFUSION + "::test_every_draw_weighs_the_evidence_where_the_posterior_is_exact[7]",
    ),
    "a noise of q that is not that of the level": (
        "diffusion",
        "c = log_one_minus_exp(below - above).exp()",
        "c = log_one_minus_exp(below - above).exp() * 0.9",
        DIFFUSION + "::test_the_rates_are_weighted_squared_errors",
    ),
    "a slope that forgets the shape of the schedule": (
        "diffusion",
        "self._ends()[1] * PIECES * (here * self.weights.softmax(0)).sum(-1)",
        "self._ends()[1] * here.sum(-1)",
        DIFFUSION + "::test_the_limit_does_not_depend_on_the_schedule_but_for_its_ends",
    ),
    "the sum of all levels but one": (
        "chain",
        "return torch.stack([self.steps * one, top])",
        "return torch.stack([(self.steps - 1) * one, top])",
        DIFFUSION + "::test_one_level_at_a_time_is_the_sum_on_average[v]",
    ),
    "noise above a learned level that forgets its variance": (
        "diffusion",
        "alpha.square() * variance + sigma.square()",
        "0 * variance + sigma.square()",
        DIFFUSION + "::test_the_posterior_of_a_prior_by_diffusion_is_that_of_noise_added_step_by_step",
    ),
    "a rate of all that is masked": (
        "masked",
        "return q.share * rates.flatten",
        "return rates.flatten",
        MASKED + "::test_closed_and_sampled_rates_agree",
    ),
    "an order whose steps are not counted": (
        "masked",
        "which, kept = self.share.log(), kept & (count == 1)",
        "which, kept = 0 * self.share, kept & (count == 1)",
        MASKED + "::test_a_step_that_cannot_be_has_no_mass",
    ),
    "drop log p(x | z_1) from the weight": (
        "trace",
        "return self.log_px + (self.log_pz",
        "return 0 + (self.log_pz",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "drop the entropy": (
        "trace",
        "return -q.entropy() - p",
        "return -p",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-bottom-up]",
    ),
    "swap p and q in the KL": (
        "trace",
        "kl_divergence(q, p if normal else p.expand(q.batch_shape))",
        "kl_divergence(p.expand(q.batch_shape), q)",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "swap p and q in the weight": (
        "trace",
        "(self.log_pz - self.log_qz).sum(0)",
        "(self.log_qz - self.log_pz).sum(0)",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "average the levels": (
        "trace",
        "(self.log_pz - self.log_qz).sum(0)",
        "(self.log_pz - self.log_qz).mean(0)",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-bottom-up]",
    ),
    "closed KL below the top, bottom-up": (
        "trace",
        "self.top_down or level == len(self.q)",
        "True",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-bottom-up]",
    ),
    "sampled rates top-down": (
        "trace",
        "self.top_down or level == len(self.q)",
        "level == len(self.q)",
        EXACT + "::test_closed_and_sampled_rates_agree_level_by_level[2-top-down]",
    ),
    "a state that forgets": (
        "model",
        "self.states[level - 1](z, state)",
        "self.states[level - 1](z, 0 * state)",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-top-down, not Markov]",
    ),
    "a residual without the prior's scale": (
        "ladder",
        "p.mean + p.stddev * q.mean",
        "p.mean + q.mean",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-top-down, residual]",
    ),
    "a residual sigma that is absolute": (
        "ladder",
        "p.stddev * q.stddev",
        "q.stddev",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[2-top-down, residual]",
    ),
    "mean, not draw, above level 1": (
        "draws",
        "return q.rsample(fan_out)",
        "return q.rsample(fan_out) if fan_out else q.mean",
        EXACT + "::test_closed_and_sampled_rates_agree_level_by_level[2-bottom-up]",
    ),
    "no gradient through the draw": (
        "draws",
        "return q.rsample(fan_out)",
        "return q.sample(fan_out)",
        EXACT + "::test_one_level_is_the_textbook_formula",
    ),
    "sum over the particles": (
        "objectives",
        ".sum(0)).mean(0)",
        ".sum(0)).sum(0)",
        EXACT + "::test_beta_weighs_the_rates_level_by_level",
    ),
    "sum over the batch": (
        "objectives",
        "_apply_beta(trace.kl, beta).sum(0)).mean(0)",
        "_apply_beta(trace.kl, beta).sum((0, 2))[:, None]).mean(0)",
        EXACT + "::test_beta_weighs_the_rates_level_by_level",
    ),
    "forget log S": (
        "objectives",
        "return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "return torch.logsumexp(log_w, 0)",
        EXACT + "::test_beta_weighs_the_rates_level_by_level",
    ),
    "average the weights outside the log": (
        "objectives",
        "return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "return log_w.mean(0)",
        OBJECTIVES + "::test_renyi_lies_between_the_bounds_it_joins",
    ),
    "reparameterise once": (
        "objectives",
        "gradient * scale)",
        "gradient)",
        OBJECTIVES + "::test_dreg_is_iwae_in_expectation_with_less_noise[bottom-up]",
    ),
    "do not hold the posterior": (
        "held",
        "parameter.detach() for",
        "parameter for",
        OBJECTIVES + "::test_no_gradient_is_left_at_the_exact_posterior[bottom-up-stl]",
    ),
    "draw from a held posterior": (
        "model",
        "latents = tuple(z.view_as(z) for z in latents)",
        "latents = tuple(z.detach().requires_grad_() for z in latents)",
        OBJECTIVES + "::test_stl_is_the_elbo_in_expectation",
    ),
    "free bits the wrong way round": (
        "objectives",
        "(free - spent).relu()",
        "(spent - free).relu()",
        OBJECTIVES + "::test_free_bits_charge_what_is_above_them",
    ),
    "beta on the wrong level": (
        "objectives",
        "beta[:, None, None] * rates",
        "beta.flip(0)[:, None, None] * rates",
        EXACT + "::test_beta_weighs_the_rates_level_by_level",
    ),
    "forget log K": (
        "evaluation/bounds",
        "(log_w - math.log(samples)).to",
        "log_w.to",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "noise counts as activity": (
        "evaluation/bounds",
        "mean.square() - error > ACTIVE_VARIANCE",
        "mean.square() > ACTIVE_VARIANCE",
        EXACT + "::test_the_noise_of_a_level_below_is_no_activity",
    ),
    "lose a pass of particles": (
        "evaluation/passes",
        "for start in range(0, samples, self.size)",
        "for start in range(self.size % samples, samples, self.size)",
        EXACT + "::test_every_particle_weighs_the_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "the same noise for every example": (
        "evaluation/passes",
        "seeds = [self.seed + i if",
        "seeds = [self.seed if",
        BOUNDS + "::test_the_noise_of_examples_and_of_passes_is_independent[1]",
    ),
    "the same noise in every pass": (
        "evaluation/passes",
        "for i, particles in enumerate(self.passes):\n",
        "for i, particles in enumerate(self.passes):\n            [g.manual_seed(self.seed + j) for g, j in zip("
        "generators, blocks)]\n",
        BOUNDS + "::test_the_noise_of_examples_and_of_passes_is_independent[40]",
    ),
    "noise without sigma": (
        "draws",
        "torch.addcmul(law.loc, law.scale, noise)",
        "law.loc + noise",
        BOUNDS + "::test_noise_makes_the_draws",
    ),
    "variance where sigma is meant": (
        "family",
        "return NormalLaw(mu, positive(s))\n",
        "return NormalLaw(mu, positive(s) ** 2)\n",
        EXACT + "::test_one_level_is_the_textbook_formula",
    ),
    "forget the change of variables": (
        "family",
        "else self.scale * law.scale",
        "else law.scale",
        FAMILIES + "::test_standardized_counts_the_change_of_variables",
    ),
    "let a fill value set the unit": (
        "units",
        "inlier = (x - middle).abs() <= OUTLIER_DISTANCE * r",
        "inlier = (x == x) | unknown",
        "test_units.py::test_a_fill_value_moves_nothing_and_is_named_with_its_row[0.001--9999.0]",
    ),
    "move log sigma by the learning rate alone": (
        "family",
        "gain = 16.0",
        "gain = 1.0",
        "test_units.py::test_a_learned_sigma_reaches_the_residual_within_a_short_training[normal_shared]",
    ),
    "learn pseudo-inputs in units of x": (
        "priors",
        "_standardize_by(inputs) if read is None else copy.deepcopy(read)",
        "Standardize(*inputs.shape[1:])",
        "test_units.py::test_the_pseudo_inputs_of_a_vampprior_of_ones_own_are_in_units_of_their_spread[10000.0]",
    ),
    "sum no dimension": (
        "family",
        "return Independent(self.law(*parameters), event_dim)",
        "return self.law(*parameters)",
        FAMILIES + "::test_shapes[batch0-normal]",
    ),
    "edge bins without tails": (
        "distributions",
        "first, last = x <= 0, x >= self.bins - 1",
        "first, last = x < 0, x > self.bins",
        FAMILIES + "::test_masses_sum_to_one_and_moments_are_theirs[0-discretized_logistic]",
    ),
    "a mixture without its weights": (
        "distributions",
        "constant = self.log_weights - 0.5",
        "constant = -0.5",
        ARCHITECTURES + "::test_the_mixture_is_torchs_mixture",
    ),
    "a VampPrior of one input": (
        "priors",
        "NormalMixture(base.loc.new_zeros(len(base.loc)), base.loc, base.scale)",
        "NormalMixture(base.loc.new_zeros(1), base.loc[:1], base.scale[:1])",
        ARCHITECTURES + "::test_a_vampprior_is_the_mean_posterior_of_its_inputs_and_learns_them",
    ),
    "a Hamiltonian without its kinetic part": (
        "evaluation/annealing",
        " - 0.5 * (p.square() - momentum.square()).sum(-1)",
        "",
        ANNEALING + "::test_hmc_leaves_its_target_as_it_is",
    ),
    "anneal with the whole temperature": (
        "evaluation/annealing",
        "increment = (after - before) * log_px",
        "increment = after * log_px",
        ANNEALING + "::test_few_temperatures_are_unbiased",
    ),
    "a leapfrog with a whole step at its end": (
        "evaluation/annealing",
        "(1.0 if i < leapfrog - 1 else 0.5)",
        "1.0",
        ANNEALING + "::test_hmc_leaves_its_target_as_it_is",
    ),
    "half bins": (
        "distributions",
        "a = (x - 0.5 - self.loc)",
        "a = (x - self.loc)",
        FAMILIES + "::test_masses_sum_to_one_and_moments_are_theirs[0-discretized_logistic]",
    ),
    "give the decoder what belongs to another example": (
        "model",
        "return tuple(latents), tuple(laws), (state, *contexts)",
        "return tuple(latents), tuple(laws), (state, *(c.roll(1, -2) for c in contexts))",
        "test_given.py::test_every_particle_weighs_the_conditional_evidence_at_the_exact_posterior[1-bottom-up]",
    ),
    "infer without what is given above level 1": (
        "model",
        "expand_contexts(contexts, (latents[-1].shape[0], x.shape[0])) if t == 1",
        "expand_contexts(tuple(0 * c for c in contexts), (latents[-1].shape[0], x.shape[0])) if t == 1",
        "test_given.py::test_every_particle_weighs_the_conditional_evidence_at_the_exact_posterior[2-bottom-up]",
    ),
    "a gap is scored as what stands in its place": (
        "gaps",
        "found.masked_fill(missing, 0)",
        "found",
        "test_columns.py::test_gaps_of_a_linear_gaussian_model_are_marginalised_exactly",
    ),
    "an interval as wide as two": (
        "intervals",
        "return x, self.step / 2",
        "return x, self.step",
        "test_columns.py::test_the_masses_of_the_grid_sum_to_one[edges0-logistic]",
    ),
    "points in the place of the rest": (
        "intervals",
        "torch.logaddexp(log_point, log_rest) if masses else log_point",
        "log_point",
        "test_columns.py::test_points_beside_masses_sum_to_one_and_add_up",
    ),
    "the edge of a bin in the place of its middle": (
        "compression/lattice",
        "            return self.origin + k * self.step",
        "            return self.origin + (k + 0.5) * self.step",
        LENGTHS + "::test_of_real_numbers_it_is_the_mass_of_their_resolution[bottom-up-3]",
    ),
    "what was drawn is given back in the wrong order": (
        "compression/bits_back",
        "range(self.levels, 0, -1) if self.bottom_up else range(1, self.levels + 1)",
        "range(1, self.levels + 1) if self.bottom_up else range(self.levels, 0, -1)",
        LENGTHS + "::test_with_the_exact_posterior_it_is_the_information_of_the_data[3-HiLLoC]",
    ),
    "a q that is drawn from everywhere": (
        "compression/masses",
        "        if window:",
        "        if False:",
        LENGTHS + "::test_what_is_drawn_follows_q",
    ),
    "a window as wide as another's": (
        "compression/masses",
        "torch.frexp(scale).exponent.long()",
        "torch.frexp(scale.max()).exponent.long().expand_as(size)",
        LENGTHS + "::test_nothing_is_drawn_far_out_beside_a_wide_q",
    ),
    "probabilities with all their digits": (
        "compression/masses",
        "return (x * 2**DIGITS).round() / 2**DIGITS",
        "return x",
        DAMAGED + "::test_a_difference_in_a_last_digit_is_none",
    ),
    "a damaged chunk that is read": (
        "compression/container",
        "len(body) != length + 4 * words or crc32(body) != check",
        "len(body) != length + 4 * words",
        DAMAGED + "::test_a_damaged_chunk_is_named_and_costs_itself_alone",
    ),
    "interleaved parameters": (
        "family",
        ".unflatten(channels, (self.size, -1)).unbind(channels - 1)",
        ".unflatten(channels, (-1, self.size)).unbind(channels)",
        EXACT + "::test_one_level_is_the_textbook_formula",
    ),
}

PASSED, FAILED = 0, 1  # pytest's codes
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


def judge():
    """What pytest said of the law of each mistake, {name: (code, words)}; and of all of them without one, "nothing"."""
    tasks = [
        dict(what=name, module=module, right=right, wrong=wrong, laws=[law])
        for name, (module, right, wrong, law) in MISTAKES.items()
    ]
    laws = sorted({law for *_, law in MISTAKES.values()})
    tasks.append(dict(what="nothing", module="model", right="", wrong="", laws=laws))
    done = subprocess.run(
        [sys.executable, str(TESTS / "mistaken.py")], input=json.dumps(tasks), capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def judged(once):
    return once("mistakes", lambda _: judge())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_mistake_replaces_stands_there_once(mistake):
    module, right, *_ = MISTAKES[mistake]
    assert (ROOT / "allegory" / f"{module}.py").read_text().count(right) == 1


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_deliberate_mistake_is_noticed(mistake, judged):
    code, said = judged[mistake]
    assert code == FAILED, said


@needs_fork
@pytest.mark.slow
def test_where_nothing_is_broken_nothing_is_noticed(judged):
    code, said = judged["nothing"]
    assert code == PASSED, said
