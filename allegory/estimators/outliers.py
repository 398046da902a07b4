r"""Outliers: rows of low density, as scikit-learn tells of them, and as PyOD does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin

from allegory.estimators import reading
from allegory.estimators.density import VAEDensity
from allegory.tabular import Schema

__all__ = ["VAEDetector", "VAEOutliers"]


class VAEOutliers(OutlierMixin, VAEDensity):
    """Outliers, or novelties: rows whose density is low. Arguments and attributes are those of `VAEDensity`, and:

    Args:
        contamination: the share of the rows of X in `fit` that are to be outliers; None for none of them, where all are
            known to be normal.

    Attributes:
        offset_: the score below which a row is an outlier, nats.

    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> outliers = VAEOutliers(latent=1, max_iter=40, random_state=0).fit(X)
    >>> outliers.predict([[0.0, 0.0], [9.0, 9.0]])
    array([ 1, -1])
    """

    def __init__(
        self,
        latent: int | Sequence[int] = 8,
        hidden: Sequence[int] = (64, 64),
        *,
        contamination: float | None = 0.1,
        n_fits: int = 3,
        samples: int = 100,
        max_iter: int | None = None,
        batch_size: int = 128,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.0,
        dropout: float = 0.0,
        validation_fraction: float = 0.1,
        columns: Mapping[Any, str] | Schema | None = None,
        missing_above: Mapping[Any, Any] | None = None,
        missing_below: Mapping[Any, Any] | None = None,
        indicators: Sequence[Any] | bool = False,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            latent, hidden, n_fits=n_fits, samples=samples, max_iter=max_iter, batch_size=batch_size,
            learning_rate=learning_rate, weight_decay=weight_decay, dropout=dropout,
            validation_fraction=validation_fraction, columns=columns, missing_above=missing_above,
            missing_below=missing_below, indicators=indicators, device=device, random_state=random_state,
        )  # fmt: skip
        self.contamination = contamination

    def _begins_at_factors(self, fold: int) -> bool:
        return False  # more nats on held-out normal rows, but outliers were told apart less well

    def fit(self, X: Any, y: Any = None) -> VAEOutliers:
        """Fits the model, and the offset.

        Args:
            X: as of `VAEEstimator`.
            y: ignored.

        Raises:
            ValueError: as of `VAEEstimator`; a contamination that is not in (0, 0.5].
        """
        share = self.contamination
        if share is not None and not 0 < share <= 0.5:
            raise ValueError(f"contamination={share!r}: wanted a share above 0 and at most 0.5, or None")
        x = self._fit(reading.validated(self, X, reset=True))
        self.offset_ = float(np.percentile(self._score(x), 100 * (share or 0.0)))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N,) `score_samples` less `offset_`: below 0 for an outlier.

        Args:
            X: as in `fit`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """(N,) 1, or -1 for an outlier.

        Args:
            X: as in `fit`.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)


class VAEDetector:
    """`VAEOutliers` by the names of PyOD: a score is higher for what is more abnormal, a label is 1 for an outlier.

    Args:
        contamination: the share of outliers among the rows that are fitted, in (0, 0.5].
        settings: the arguments of `VAEOutliers`.

    Attributes:
        decision_scores_: (N,) the scores of the rows that were fitted, -L_K in nats.
        threshold_: the score above which a row is an outlier.
        labels_: (N,) which of the rows that were fitted are outliers, 0 or 1.

    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = VAEDetector(latent=1, max_iter=40, random_state=0).fit(X)
    >>> int(detector.labels_.sum()), detector.predict([[0.0, 0.0], [9.0, 9.0]])
    (20, array([0, 1]))
    """

    def __init__(self, contamination: float = 0.1, **settings: Any) -> None:
        self.contamination = contamination
        self.outliers = VAEOutliers(contamination=contamination, **settings)

    def fit(self, X: Any, y: Any = None) -> VAEDetector:
        """Fits the model, and the threshold; y is ignored."""
        self.decision_scores_ = -self.outliers.fit(X).score_samples(X)
        self.threshold_ = -self.outliers.offset_
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N,) -L_K of each row, nats."""
        return -self.outliers.score_samples(X)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """(N,) 1 for an outlier, else 0."""
        return (self.decision_function(X) > self.threshold_).astype(int)

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int64]:
        """(N,) `labels_`, after a fit."""
        return self.fit(X).labels_

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(N, 2) how far a score lies from the lowest to the highest of those that were fitted, as PyOD's "linear":
        a scale from 0 to 1, not a probability; of being normal and of being an outlier.
        """
        low, high = self.decision_scores_.min(), self.decision_scores_.max()
        share = ((self.decision_function(X) - low) / max(high - low, 1e-12)).clip(0, 1)
        return np.stack([1 - share, share], 1)
