r"""Imputing: what is missing in a table, by the model, given what is there; see `allegory.evaluation.imputation`. Rows
that come again are filled from each other first, see `allegory.tabular.copies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from allegory.estimators import reading
from allegory.estimators.estimator import VAEEstimator
from allegory.evaluation import fill, impute
from allegory.tabular import Schema
from allegory.tabular.copies import find_copies

__all__ = ["VAEImputer"]

OF_CODES = {"mean": {"categorical": "mode", "binary": "mode", "ordinal": "median"}, "median": {"categorical": "mode"}}
PARTICLES_PER_DRAW = 10  # at least: of few particles the same ones are drawn again and again


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """Fills the gaps of a table. Arguments and attributes are those of `VAEEstimator`, and:

    Args:
        estimate: what stands in a gap, by the error that counts: "mean" for squares, "median" for absolute errors,
            "mode" for the number of wrong values. A category has its likeliest value, an ordered one its median.
        samples: K, particles of what is missing, spread evenly over their law.
        copies: whether rows that are seen to come again fill each other's gaps, before the model fills the rest; see
            `allegory.tabular.copies`. A fitted imputer then keeps rows of the table, up to 10,000.

    Attributes:
        copies_: the `Copies`, None where there are none.

    >>> X = np.random.default_rng(0).normal(size=(60, 1)) + [0.0, 10.0]
    >>> X[0, 0] = np.nan
    >>> VAEImputer(latent=1, max_iter=40, random_state=0).fit_transform(X)[0].round(1)
    array([...])
    """

    def __init__(
        self,
        latent: int | Sequence[int] = 16,
        hidden: Sequence[int] = (64, 64),
        *,
        estimate: str = "mean",
        samples: int = 64,
        copies: bool = True,
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
        self.estimate = estimate
        self.copies = copies

    def _begins_at_factors(self, fold: int) -> bool:
        return True

    def _rows(self, x: Tensor) -> Tensor:
        gives = np.array([not column.missing for column in self.schema_.modelled])
        self.copies_ = find_copies(x.cpu().numpy(), gives, self._seed) if self.copies else None
        return self._from_copies(x)

    def _from_copies(self, x: Tensor) -> Tensor:
        """(N, D) x with what copies of its rows have."""
        return x if self.copies_ is None else torch.from_numpy(self.copies_.fill(x.cpu().numpy())).to(x)

    def fit(self, X: Any, y: Any = None) -> VAEImputer:
        """Fits the model to what is there.

        Args:
            X: as of `VAEEstimator`, with gaps.
            y: ignored.

        Raises:
            ValueError: as of `VAEEstimator`; a column without any value; another estimate.
        """
        if self.estimate not in ("mean", "median", "mode"):
            raise ValueError(f"estimate={self.estimate!r}: wanted 'mean', 'median' or 'mode'")
        X = reading.validated(self, X, reset=True)
        self._fit(X)
        empty = [column.name for column in self.schema_.columns if 0 < column.rows == column.gaps]
        if empty:
            raise ValueError(f"column {empty[0]!r} has no value, all are missing, and cannot be filled; leave it out")
        return self

    def transform(self, X: Any) -> Any:
        """X with its gaps filled, a matrix or a frame as it came. The same row is filled in the same way whatever rows
        are beside it.

        Args:
            X: as in `fit`; it need not have gaps.
        """
        check_is_fitted(self)
        X = reading.validated(self, X, reset=False)
        x = self._from_copies(self._encode(X))
        of_codes = OF_CODES.get(self.estimate, {})
        each = [of_codes.get(column.kind, self.estimate) for column in self.schema_.modelled]
        return self._decode(fill(self.model_, x, each, self.samples, self._seed), X)

    def draw(self, X: Any, n_draws: int = 5, random_state: Any = None) -> list[Any]:
        """X with its gaps filled at random, from p(what is missing | what is there), several times: for standard errors
        that know what is not known, by `allegory.evaluation.rubin`.

        Args:
            X: as in `fit`.
            n_draws: how many. They are chosen among `samples` particles, or ten times as many as draws if that is more.
            random_state: by default that of the estimator: the same draws each time.
        """
        check_is_fitted(self)
        X = reading.validated(self, X, reset=False)
        x = self._from_copies(self._encode(X))
        seed = self._seed if random_state is None else int(check_random_state(random_state).randint(2**31 - 1))
        particles = max(self.samples, PARTICLES_PER_DRAW * n_draws)
        return [self._decode(drawn, X) for drawn in impute(self.model_, x, n_draws, particles, seed=seed)]
