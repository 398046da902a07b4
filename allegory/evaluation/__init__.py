"""Evaluation: nats out."""

from allegory.evaluation.annealing import Annealed, ais, compare_with_ais
from allegory.evaluation.bounds import Evaluation, bound_curve, evaluate, log_likelihood
from allegory.evaluation.diagnosis import Diagnosis, Level, diagnose
from allegory.evaluation.marginals import baseline
from allegory.evaluation.moments import posterior_moments
from allegory.evaluation.passes import evaluating as scoring  # noqa: F401, its earlier name
from allegory.evaluation.speed import choose_speed

__all__ = [
    "Annealed",
    "Diagnosis",
    "Evaluation",
    "Level",
    "ais",
    "baseline",
    "bound_curve",
    "choose_speed",
    "compare_with_ais",
    "diagnose",
    "evaluate",
    "log_likelihood",
    "posterior_moments",
]
