r"""Density: log p(x) of rows, in nats, and new rows.

    p(x) = (1/M) sum_m p_m(x),      log p(x) >= L_K(x) = log (1/M) sum_m exp L_K^m(x)

a mixture of M models, each fitted from weights of its own and with another part of the rows held out to find the best
ones: all rows are learned from, and what one model is wrongly sure of another may doubt. By Jensen's inequality the
mixture has no fewer nats than its models have on average. The first begins as independent columns, which holds where
rows are few, the others as a factor analysis, which has what is linear from the start: where one of the kinds is far
off, the mixture has the nats of the other, less log M at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from allegory.estimators.estimator import VAEEstimator
from allegory.runtime.messages import check_counts
from allegory.tabular import Schema

__all__ = ["VAEDensity"]


class VAEDensity(DensityMixin, VAEEstimator):
    """The density of a table, in nats, in the units of X: of a column with a resolution the mass of an interval, of a
    truly continuous one a density. With `score` a search over settings, such as GridSearchCV, finds what predicts
    held-out rows best. Arguments and attributes are those of `VAEEstimator`, and:

    Args:
        n_fits: M, models in the mixture; the time to fit grows with it.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> density = VAEDensity(latent=2, max_iter=40, random_state=0).fit(X)
    >>> density.score_samples(X).shape, density.sample(3).shape
    ((150,), (3, 4))
    """

    def __init__(
        self,
        latent: int | Sequence[int] = 8,
        hidden: Sequence[int] = (64, 64),
        *,
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
            latent, hidden, samples=samples, max_iter=max_iter, batch_size=batch_size, learning_rate=learning_rate,
            weight_decay=weight_decay, dropout=dropout, validation_fraction=validation_fraction, columns=columns,
            missing_above=missing_above, missing_below=missing_below, indicators=indicators, device=device,
            random_state=random_state,
        )  # fmt: skip
        self.n_fits = n_fits

    def _begins_at_factors(self, fold: int) -> bool:
        return fold > 0

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
        check_counts(n_samples=n_samples)
        seed = self._seed if random_state is None else int(check_random_state(random_state).randint(2**31 - 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            of_model = torch.randint(len(self.models_), (n_samples,)).bincount(minlength=len(self.models_)).tolist()
            parts = [model.sample(n) for model, n in zip(self.models_, of_model, strict=True) if n]
            return self._decode(torch.cat(parts)[torch.randperm(n_samples)])
