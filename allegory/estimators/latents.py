r"""Latents: the posterior mean of z_1 for each row, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from allegory.estimators.estimator import VAEEstimator
from allegory.evaluation.passes import evaluating

__all__ = ["VAELatents"]


class VAELatents(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """A table as latents. Arguments and attributes are those of `VAEEstimator`.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> latents = VAELatents(latent=2, max_iter=40, random_state=0).fit(X)
    >>> latents.transform(X).shape, latents.inverse_transform(latents.transform(X)).shape
    ((150, 2), (150, 4))
    """

    def transform(self, X: Any) -> NDArray[np.float64]:
        """(N, latent) the mean of q(z_1 | x); what is missing has no part in it.

        Args:
            X: as in `fit`.
        """
        x = self._read(X)
        with evaluating(self.model_):
            return torch.cat([self.model_.encode(rows)[0].mean for rows in x.split(2**12)]).cpu().numpy()

    def inverse_transform(self, Z: Any) -> Any:
        """The mean of p(x | z_1) for each row, of categories the likeliest, as the X that was fitted.

        Args:
            Z: (N, latent).
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=np.float64)
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"Z has {Z.shape[1]} columns, wanted latents of width {self._n_features_out}")
        z = torch.from_numpy(Z).to(next(self.model_.parameters()))
        with evaluating(self.model_):
            means = [self.model_.decoders[0](rows).mean for rows in z.split(2**12)]
        return self._decode(torch.cat(means))

    @property
    def _n_features_out(self) -> int:
        return self.latent if isinstance(self.latent, int | np.integer) else self.latent[0]
