"""scikit-learn's manners: density, latents, imputation and outliers of a table, as estimators."""

from allegory.estimators.density import VAEDensity
from allegory.estimators.estimator import VAEEstimator
from allegory.estimators.imputing import VAEImputer
from allegory.estimators.latents import VAELatents
from allegory.estimators.outliers import VAEDetector, VAEOutliers

__all__ = ["VAEDensity", "VAEDetector", "VAEEstimator", "VAEImputer", "VAELatents", "VAEOutliers"]
