"""Evaluation: nats out."""

from allegory.evaluation.annealing import Annealed, ais
from allegory.evaluation.bounds import Evaluation, bound_curve, evaluate, log_likelihood, posterior_moments
from allegory.evaluation.diagnosis import Diagnosis, Level, diagnose

__all__ = [
    "Annealed",
    "Diagnosis",
    "Evaluation",
    "Level",
    "ais",
    "bound_curve",
    "diagnose",
    "evaluate",
    "log_likelihood",
    "posterior_moments",
]
