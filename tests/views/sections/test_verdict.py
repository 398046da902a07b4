"""A page opens with whether the model is good, why, and with what it is compared."""

import math
import re
from dataclasses import replace

import pytest
import torch

import allegory as al
from allegory.views.measured import Examples, mean_and_error, measure
from allegory.views.runs import Summary
from allegory.views.sections.verdict import verdict, verdict_from_training

SUMMARY = Summary(
    path="run", data="", checksum="", model="mlp bernoulli", latent=[2], objective="elbo", seed=0, epochs=3, steps=30,
    minutes=0.1, stopped="epochs", best_epoch=3, baseline=-9.0, bound=-7.0, elbo=-7.0, kl_per_level=[1.0],
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    """What was measured of a small model whose bits depend on each other."""
    torch.manual_seed(0)
    once = (torch.rand(300, 1) < 0.5).float()
    x = torch.where(torch.rand(300, 8) < 0.1, 1 - once, once).double()
    model = al.architectures.mlp((8,), "bernoulli", latent=[2], hidden=[16]).double()
    al.fit(model, x[:200], epochs=30, batch_size=100, lr=2e-2)
    return measure(model, Examples(x[200:], x[:200], "test"), samples=20)


def test_a_good_model_is_called_good_with_its_reason_and_the_baseline(found):
    said = verdict(found, SUMMARY)
    gain, error = mean_and_error(found.gain)
    assert said.grade == "good"
    assert (
        said.words[0]
        == f"good: {gain:.2f} ± {error:.2f} nats per example better than independent elements, and its level works"
    )
    rows = {row[0]: row[1] for row in said.tables[0].rows}
    result = found.evaluation
    assert rows == {
        "-L_20": f"{result.nll:.2f}",
        "baseline, independent elements": f"{result.baseline_nll:.2f}",
        "gain": f"{gain:.2f}",
    }
    assert gain == pytest.approx(result.baseline_nll - result.nll, abs=1e-6)
    assert gain > 1
    # The comparison is paired: its error is smaller than that of either side.
    assert error < mean_and_error(found.bounds)[1] + mean_and_error(found.gain - found.bounds)[1]


@pytest.mark.parametrize(
    ("change", "grade", "words"),
    [
        (-10.0, "bad", "bad: .* nats per example worse than independent elements"),
        (math.nan, "bad", "bad: the bound is not a finite number for 1 of 100 examples"),
        (-math.inf, "bad", "bad: the bound is not a finite number for 1 of 100 examples"),
    ],
)
def test_what_is_bad_is_called_bad(found, change, grade, words):
    change = torch.full((100,), change) if math.isfinite(change) else torch.tensor([change] + [0.0] * 99)
    said = verdict(replace(found, bounds=found.bounds + change, gain=found.gain + change), SUMMARY)
    assert said.grade == grade
    assert re.match(words, said.words[0])


def test_a_small_gain_is_called_small(found):
    """A model that has hardly begun is better than its baseline, too."""
    spread = (found.bounds - found.gain).std().item()
    for share, grade, words in ((0.4, "mixed", "mixed: only "), (0.6, "good", "good: ")):
        for scale in (1.0, 30.0):  # it does not depend on how far apart the examples are
            baseline = scale * (found.bounds - found.gain)
            gain = torch.full((100,), share * scale * spread, dtype=torch.float64)
            said = verdict(replace(found, bounds=baseline + gain, gain=gain), SUMMARY)
            assert said.grade == grade
            assert said.words[0].startswith(words)
            assert ("the gain is small beside the spread" in said.words[1]) == (grade == "mixed")


def test_a_gain_within_its_error_is_none(found):
    gain = found.gain - found.gain.mean() + mean_and_error(found.gain)[1]
    said = verdict(replace(found, gain=gain), SUMMARY)
    assert said.grade == "bad"
    assert said.words[0].startswith("bad: no better than independent elements; what it gains, ")


def test_faults_are_in_the_first_sentence(found):
    diagnosis = found.diagnosis
    gone = replace(diagnosis.levels[0], level=2, verdict="collapsed")
    idle = [replace(gone, level=t, verdict="idle") for t in (3, 4, 5)]
    levels = [diagnosis.levels[0], gone, *idle]
    poor = replace(diagnosis.evaluation, unreliable=0.9)
    worse = replace(diagnosis, levels=levels, overfits=True, evaluation=poor)
    said = verdict(replace(found, diagnosis=worse), replace(SUMMARY, stopped=""))
    assert said.grade == "mixed"
    assert said.words[0].endswith(
        "but level 2 has collapsed, levels 3, 4 and 5 are idle, the model overfits, L_20 cannot be trusted and "
        "the training has not finished"
    )
    assert said.words[-1] == "This run has not finished: this is its state after epoch 3."


def test_without_a_baseline_there_is_no_verdict_but_its_reason(found):
    said = verdict(replace(found, gain=None, examples=replace(found.examples, train=None)), SUMMARY)
    assert (said.grade, said.words[0]) == (
        "unknown", "no verdict: there is no baseline to compare with (no training data were given)"
    )  # fmt: skip
    said = verdict(replace(found, gain=None), SUMMARY)
    assert "(its likelihood has none)" in said.words[0]


@pytest.mark.parametrize(
    ("change", "grade", "words"),
    [
        ({}, "good", "good, as far as the training tells: 2.00 nats per example better than independent elements"),
        (dict(stopped=""), "mixed", "mixed, as far as the training tells: 2.00 nats"),
        (dict(bound=-9.5), "bad", "bad, as far as the training tells: 0.50 nats per example worse than"),
        (dict(bound=math.nan), "bad", "bad: the validation bound is nan"),
        (dict(baseline=None), "unknown", "no verdict: the validation bound is -7.00 nats per example, and no baseline"),
        (dict(bound=None), "unknown", "no verdict: nothing was measured"),
    ],
)
def test_without_examples_the_training_decides(change, grade, words):
    said = verdict_from_training(replace(SUMMARY, **change), "Parts that need data are left out: they are lost.")
    assert said.grade == grade
    assert said.words[0].startswith(words)
    assert said.words[-1] == "Parts that need data are left out: they are lost."
