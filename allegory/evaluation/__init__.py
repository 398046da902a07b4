"""Evaluation: nats out."""

from allegory.evaluation.annealing import Annealed, ais, compare_with_ais
from allegory.evaluation.bounds import Evaluation, bound_curve, evaluate, log_likelihood
from allegory.evaluation.conditionals import LogConditional, log_cells, log_conditional
from allegory.evaluation.conditions import sample_given
from allegory.evaluation.diagnosis import Diagnosis, Level, diagnose
from allegory.evaluation.imputation import fill, impute
from allegory.evaluation.marginals import baseline
from allegory.evaluation.moments import posterior_moments
from allegory.evaluation.passes import evaluating as scoring  # noqa: F401, its earlier name
from allegory.evaluation.pooling import Pooled, impute_refitted, rubin
from allegory.evaluation.speed import choose_speed

__all__ = [
    "Annealed",
    "Diagnosis",
    "Evaluation",
    "Level",
    "LogConditional",
    "Pooled",
    "ais",
    "baseline",
    "bound_curve",
    "choose_speed",
    "compare_with_ais",
    "diagnose",
    "evaluate",
    "fill",
    "impute",
    "impute_refitted",
    "log_cells",
    "log_conditional",
    "log_likelihood",
    "posterior_moments",
    "rubin",
    "sample_given",
]
