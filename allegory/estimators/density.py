r"""Density: log p(x) of rows, in nats, and new rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from allegory.estimators.estimator import VAEEstimator

__all__ = ["VAEDensity"]


class VAEDensity(DensityMixin, VAEEstimator):
    """The density of a table. Arguments and attributes are those of `VAEEstimator`.

    Nats are in the units of X: of a column with a resolution the mass of an interval, of a truly continuous one a
    density. With `score` a search over settings, such as GridSearchCV, finds what predicts held-out rows best.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> density = VAEDensity(latent=2, max_iter=40, random_state=0).fit(X)
    >>> density.score_samples(X).shape, density.sample(3).shape
    ((150,), (3, 4))
    """

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """(N,) L_K of each row, nats: a lower bound on log p(x), the same whatever rows are beside it.

        Args:
            X: as in `fit`.
        """
        return self._score(self._read(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, nats per row.

        Args:
            X: as in `fit`.
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows, as the X that was fitted: a matrix, or a frame of the same library, with its types.

        Args:
            n_samples: how many.
            random_state: by default that of the estimator: the same rows each time.
        """
        check_is_fitted(self)
        seed = self._seed if random_state is None else int(check_random_state(random_state).randint(2**31 - 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._decode(self.model_.sample(n_samples))
