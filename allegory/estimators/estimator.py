r"""The common part of the estimators: a variational autoencoder of a table, fitted as scikit-learn fits.

    log p(x) >= L_K(x) = E log (1/K) sum_k p(x, z_k) / q(z_k | x),      nats per row, gaps left out

Everything is computed in float64, from a seed that `random_state` gives, and the noise of a row follows from its
values: the score of a row does not depend on the rows beside it, nor on when it is asked for. Fitting shows nothing,
writes nothing, and leaves the generators of NumPy and torch as they were.

Shapes: N rows, D columns, K particles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from allegory import architectures
from allegory.estimators import reading
from allegory.evaluation import log_likelihood
from allegory.model import VAE
from allegory.objectives import elbo, iwae
from allegory.runtime.devices import choose_device
from allegory.runtime.threads import one_at_a_time
from allegory.tabular import Schema
from allegory.training import fit as train
from allegory.training.defaults import table_settings

__all__ = ["VAEEstimator"]

STEPS_PER_EPOCH = 20  # at least: a small table is gone over several times before the next look at the held-out rows
PATIENCE = 25  # looks without a better bound before fitting ends


class VAEEstimator(BaseEstimator):
    """What the estimators have in common: the arguments, `fit`, and a score in nats. Without gaps they are trained on
    the ELBO; with gaps on the importance-weighted bound, see `allegory.training.defaults.table_settings`.

    X is a matrix of numbers, or a frame of pandas, polars or pyarrow with numbers, categories, text and times; NaN, and
    whatever the library has for it, is a gap. How a column is modelled: see `allegory.estimators.reading`.

    Args:
        latent: width of z, or of z_1, ..., z_T.
        hidden: widths of the hidden layers of the encoder; the decoder mirrors them.
        samples: K, of the score.
        max_iter: updates of the weights of a model, about, and at least one pass over the rows; by default ten for each
            row, from 100 to 2,000.
        batch_size: rows of an update.
        learning_rate: at its highest.
        weight_decay: of AdamW.
        dropout: in every hidden layer while fitting.
        validation_fraction: of the rows, held out to find the best weights, where there are 20 or more.
        columns: kinds of some columns, by name, or by number in a matrix, such as {"zip": "categorical"}; or an
            `allegory.tabular.Schema`. By default found in the values.
        missing_above, missing_below: columns of numbers whose values are missing because they are large, or small, and
            the limit, {"glucose": 300}; None for one that is learned. Scores are then of log p(x_o, s), of what is
            observed and of s, which values are missing; see `allegory.missingness`.
        indicators: columns whose gaps are data, modelled beside the values; True for all that have gaps.
        device: "cpu", "cuda", or "auto".
        random_state: of the weights, the held-out rows and all noise; a seed, a RandomState, or None.

    Attributes:
        models_: the `VAE`, in float64; of an estimator with `n_fits` all of them.
        model_: the first of them.
        schema_: the `Schema` of X.
        n_iter_: updates that were made, by all models.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    n_fits = 1  # models; an argument of the estimators of a density

    def __init__(
        self,
        latent: int | Sequence[int] = 8,
        hidden: Sequence[int] = (64, 64),
        *,
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
        self.latent = latent
        self.hidden = hidden
        self.samples = samples
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.columns = columns
        self.missing_above = missing_above
        self.missing_below = missing_below
        self.indicators = indicators
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fits the model to the rows of X.

        Args:
            X: (N, D) a matrix, or a frame; at least two rows.
            y: ignored.

        Raises:
            ValueError: a single row, infinite numbers, text in a matrix, columns that only tell the rows apart.
        """
        X = reading.validated(self, X, reset=True)
        self._fit(X)
        return self

    def _fit(self, X: Any) -> Tensor:
        """Fits the model; returns x: (N, D)."""
        self._check_settings()
        self.schema_ = reading.infer_schema(
            X, self.columns, missing_above=self.missing_above, missing_below=self.missing_below,
            indicators=self.indicators,
        )  # fmt: skip
        x = self._encode(X)
        generator = check_random_state(self.random_state)
        self._seed = int(generator.randint(2**31 - 1))
        rows = self._rows(x)
        fits = [self._train(rows, fold) for fold in range(self.n_fits)]
        self.models_ = [model for model, _ in fits]
        self.n_iter_ = sum(updates for _, updates in fits)
        return x

    @property
    def model_(self) -> VAE:
        """The first of the models."""
        return self.models_[0]

    def _rows(self, x: Tensor) -> Tensor:
        """The rows that the models are fitted to, of x: (N, D)."""
        return x

    def _train(self, x: Tensor, fold: int) -> tuple[VAE, int]:
        """A model, and how many updates it took.

        Args:
            x: (N, D).
            fold: which part of the rows is held out, and which weights it begins with. The units are those of all rows:
                a column that is the same throughout the rest would have none.
        """
        order = torch.from_numpy(np.random.default_rng(self._seed).permutation(len(x)))
        held = min(round(self.validation_fraction * len(x)), len(x) - 2) if len(x) >= 20 else 0
        order = order.roll(-fold * held)
        valid, rest = (x[order[:held]] if held else None), x[order[held:]]
        model = self._build(x, self._seed + fold, self._begins_at_factors(fold))
        updates = min(max(100, 10 * len(x)), 2000) if self.max_iter is None else self.max_iter
        size = min(self.batch_size, len(rest))
        passes = math.ceil(min(STEPS_PER_EPOCH, updates) * size / len(rest))
        steps = math.ceil(passes * len(rest) / size)
        particles = table_settings(gaps=bool(x.isnan().any())).get("samples", 1)
        record = train(
            model, rest.repeat(passes, 1), valid=valid, objective=iwae if particles > 1 else elbo, samples=particles,
            batch_size=size, lr=self.learning_rate, epochs=max(1, updates // steps), patience=PATIENCE,
            weight_decay=self.weight_decay, ema=0.9, lr_warmup=min(50, updates // 10), seed=self._seed + fold,
            progress=False,
        )  # fmt: skip
        return model, record.step

    def _check_settings(self) -> None:
        if self.max_iter is not None and (not hasattr(self.max_iter, "__index__") or self.max_iter < 1):
            raise ValueError(f"max_iter={self.max_iter!r}: wanted a whole number of updates, 1 or more, or None")
        if not hasattr(self.n_fits, "__index__") or self.n_fits < 1:
            raise ValueError(f"n_fits={self.n_fits!r}: wanted a whole number of models, 1 or more")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r}: wanted at least 0 and below 1")

    def _begins_at_factors(self, fold: int) -> bool:
        """Whether a fit begins as a factor analysis, see `allegory.factors`, rather than as independent columns."""
        return False

    def _build(self, x: Tensor, seed: int, factors: bool) -> VAE:
        """The model as it begins: independent columns, each at its marginal optimum, or a factor analysis."""
        latent = [self.latent] if isinstance(self.latent, int | np.integer) else self.latent
        with _float64(seed):
            model = architectures.mlp(
                x.shape[1:], self.schema_.family(), [int(width) for width in latent],
                [int(width) for width in self.hidden], dropout=self.dropout, data=x, factors=factors,
            )  # fmt: skip
        return model.to(choose_device(self.device))

    def _encode(self, X: Any) -> Tensor:
        return reading.read(X, self.schema_).to(choose_device(self.device))

    def _read(self, X: Any) -> Tensor:
        """(N, D) the numbers of an X that may be any, once fitted."""
        check_is_fitted(self)
        return self._encode(reading.validated(self, X, reset=False))

    def _decode(self, x: Tensor, like: Any = None) -> Any:
        """Numbers x: (N, D) as an X."""
        return reading.written(x.cpu(), self.schema_, like)

    def _score(self, x: Tensor) -> NDArray[np.float64]:
        """(N,) L_K, of several models that of their mixture."""
        scores = [log_likelihood(model, x, self.samples, seed=self._seed) for model in self.models_]
        return (torch.logsumexp(torch.stack(scores), 0) - math.log(len(scores))).cpu().numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "models_" in state:
            state["models_"] = [(model.config, _arrays(model)) for model in self.models_]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "models_" in state:
            self.models_ = [self._restored(config, weights) for config, weights in state["models_"]]

    def _restored(self, config: dict[str, Any], weights: dict[str, NDArray[Any]]) -> VAE:
        with _float64(0):
            model = architectures.build(config)
        model.load_state_dict({name: torch.as_tensor(array) for name, array in weights.items()})
        return model.to(choose_device(self.device)).eval()


def _arrays(model: VAE) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}


@contextmanager
def _float64(seed: int) -> Iterator[None]:
    """New parameters are float64, and drawn from a seed; afterwards all is as it was."""
    with one_at_a_time(), torch.random.fork_rng():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
