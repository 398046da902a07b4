r"""Elements of x as a diffusion reads them: clean latents y(x), and p(x | z_1), by which x comes back from noise.

A level of a diffusion is y with noise, z = alpha y + sigma eps, see `allegory.diffusion`. With SNR = alpha^2 / sigma^2
and a law pi of each element, z_1 alone leaves by Bayes' rule

    p(x | z_1) = prod_d pi_d(x_d) N(z_1d; alpha y(x_d), sigma^2) / normaliser,

exact where the elements of x are independent and follow pi, and where the SNR is high whatever they do (Kingma et al.
2021). What is learned of it is pi, which begins at the marginals of the data.

    two values     y = 2 x - 1                                     log-odds   l + 2 alpha z / sigma^2
    k categories   y = (k e_x - 1) / sqrt(k - 1), k numbers        logits     l_c + k / sqrt(k - 1) alpha z_c / sigma^2
    n bins         y = (2 x + 1) / n - 1, the middle of the bin    logits     l_v - SNR / 2 (z / alpha - y_v)^2
    real numbers   y = (x - loc) / scale                           N((m / s^2 + alpha z / sigma^2) v, v),
                                                                   1 / v = 1 / s^2 + SNR, per unit of x

The same rule with what a network puts out in the place of l, at any level, is the law of each element given z_t, of two
values or of categories: its mean is a guess of y, which stays within the range of y, and its variance says how sure
that is.

Shapes: x is (*batch, C, *rest), y and z (*batch, C', *rest), with C' = k C for categories, else C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent
from torch.distributions import Normal as NormalLaw

from allegory import families
from allegory.distributions import ShiftedCategorical
from allegory.family import CategoricalFamily
from allegory.networks import OneHot, Standardize
from allegory.positivity import positive

__all__ = ["Bins", "Categories", "Elements", "Reals", "TwoValues"]


class Elements(nn.Module):
    """What all kinds have. `law` is p(x | z), `guess` the mean and variance of y given z by a network's output.

    Args:
        event_shape: of x, (C, *rest).

    Attributes:
        shape: of y and of every z_t.
        width: numbers that a network puts out for each of the C channels of x where it gives the law of x given z; 0
            where it cannot.
        family: of p(x | z_1), to know its kind by; None where no family has that form.
    """

    width = 0

    def __init__(self, *event_shape: int) -> None:
        super().__init__()
        self.family: Any = None
        self.event_shape = self.shape = tuple(event_shape)

    def read(self, x: Tensor) -> Tensor:
        """y: (*batch, *shape), of x."""
        raise NotImplementedError

    def law(self, z: Tensor, log_snr: Tensor) -> Distribution:
        """p(x | z_1).

        Args:
            z: (*batch, *shape).
            log_snr: of z, a scalar, or (*batch).
        """
        raise NotImplementedError

    def guess(self, phi: Tensor, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of y given z, (*batch, *shape) each.

        Args:
            phi: (*batch, width * C, *rest) what the network puts out.
            z, log_snr: as of `law`.
        """
        raise NotImplementedError

    def _spread(self, of_batch: Tensor) -> Tensor:
        """Numbers of the batch, for every element."""
        return of_batch.reshape(*of_batch.shape, *[1] * len(self.shape))

    def _pull(self, log_snr: Tensor) -> Tensor:
        """The factor alpha / sigma^2, for every element."""
        return self._spread(torch.exp(0.5 * F.logsigmoid(log_snr) - F.logsigmoid(-log_snr)))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.event_shape))


class TwoValues(Elements):
    """0 and 1.

    Args:
        event_shape: of x.
        data: (N, *event) training data, of which pi begins as the shares of ones.

    >>> law = TwoValues(2).law(torch.tensor([[-1.0, 1.0]]), torch.tensor(0.0))
    >>> law.mean.detach()                                       # log-odds 2 alpha z / sigma^2 = +- 2.8
    tensor([[0.0558, 0.9442]])
    """

    width = 1

    def __init__(self, *event_shape: int, data: Tensor | None = None) -> None:
        super().__init__(*event_shape)
        self.family = families.bernoulli
        start = torch.zeros(event_shape)
        if data is not None:
            start = torch.logit((data.sum(0) + 0.5) / (len(data) + 1), eps=1e-6).to(start)
        self.log_odds = nn.Parameter(start)

    def read(self, x: Tensor) -> Tensor:
        """The two values as signs, -1 or 1."""
        return 2 * x - 1

    def law(self, z: Tensor, log_snr: Tensor) -> Distribution:
        return self.family(self._log_odds(z, log_snr), len(self.shape))

    def guess(self, phi: Tensor, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Of the sign of y, from log-odds phi."""
        mean = torch.tanh((self._log_odds(z, log_snr) + phi) / 2)
        return mean, 1 - mean.square()

    def _log_odds(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return self.log_odds + 2 * self._pull(log_snr) * z


class Categories(Elements):
    """0, ..., k - 1, or from `lowest` on, in no order.

    Args:
        event_shape: of x.
        k: categories.
        lowest: the first of them.
        data: (N, *event) training data, of which pi begins as their shares.

    >>> part = Categories(1, k=3)
    >>> y = part.read(torch.tensor([[2.0]]))
    >>> y, part.law(y, torch.tensor(4.0)).base_dist.probs.argmax()
    (tensor([[-0.7071, -0.7071,  1.4142]]), tensor(2))
    """

    def __init__(self, *event_shape: int, k: int, lowest: int = 0, data: Tensor | None = None) -> None:
        super().__init__(*event_shape)
        if not hasattr(k, "__index__") or k < 2:
            raise ValueError(f"categories={k}: wanted two or more")
        self.k, self.lowest, self.width = k, lowest, k
        self.family = CategoricalFamily(k, lowest)
        self.shape = (k * event_shape[0], *event_shape[1:])
        self.one_hot = OneHot(k, len(event_shape), lowest)
        logits = torch.zeros(k, *event_shape)
        if data is not None:
            counts = torch.stack([(data == lowest + c).sum(0) for c in range(k)]) + 0.5
            logits = (counts / counts.sum(0)).log().to(logits)
        self.logits = nn.Parameter(logits)

    def read(self, x: Tensor) -> Tensor:
        """Unit vectors, standardised as if all categories were as frequent."""
        return (self.k * self.one_hot(x) - 1) / math.sqrt(self.k - 1)

    def law(self, z: Tensor, log_snr: Tensor) -> Distribution:
        law = ShiftedCategorical(self._logits(z, log_snr).movedim(-len(self.shape) - 1, -1), self.lowest)
        return Independent(law, len(self.shape))

    def guess(self, phi: Tensor, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Of unit vectors, from logits phi."""
        channel = -len(self.shape)
        logits = self._logits(z, log_snr) + phi.unflatten(channel, (self.k, -1))
        p = logits.softmax(channel - 1).flatten(channel - 1, channel)
        return (self.k * p - 1) / math.sqrt(self.k - 1), self.k**2 / (self.k - 1) * p * (1 - p)

    def _logits(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """(*batch, k, C, *rest)."""
        pull = self._pull(log_snr) * (self.k / math.sqrt(self.k - 1)) * z
        return self.logits + pull.unflatten(-len(self.shape), (self.k, -1))


class Bins(Elements):
    """Whole numbers 0, ..., n - 1 in order, such as grey levels; pi is one law for all elements.

    Args:
        event_shape: of x.
        bins: n.
        data: (N, *event) training data, of which pi begins as the histogram.

    >>> part = Bins(1, bins=4)
    >>> part.read(torch.tensor([[0.0], [3.0]])).flatten()
    tensor([-0.7500,  0.7500])
    """

    def __init__(self, *event_shape: int, bins: int = 256, data: Tensor | None = None) -> None:
        super().__init__(*event_shape)
        if bins < 2:
            raise ValueError(f"bins={bins}: wanted two or more")
        self.bins = bins
        logits = torch.zeros(bins)
        if data is not None:
            counts = torch.bincount(data.flatten().long().clamp(0, bins - 1), minlength=bins).to(logits) + 0.5
            logits = (counts / counts.sum()).log()
        self.logits = nn.Parameter(logits)

    def read(self, x: Tensor) -> Tensor:
        """The middles of bins, within (-1, 1)."""
        return (2 * x + 1) / self.bins - 1

    def law(self, z: Tensor, log_snr: Tensor) -> Distribution:
        values = self.read(torch.arange(self.bins, device=z.device).to(z))
        alpha, snr = (self._spread(torch.exp(part)) for part in (0.5 * F.logsigmoid(log_snr), log_snr))
        far = ((z / alpha)[..., None] - values).square()
        law = Categorical(logits=self.logits - 0.5 * snr[..., None] * far)
        return Independent(law, len(self.shape))


class Reals(Elements):
    """Real numbers; pi is a normal for each, N(m, s^2) of y, and densities are per unit of x.

    Args:
        event_shape: of x.
        standardize: whose constants give y; by default y = x.

    >>> law = Reals(1).law(torch.tensor([[0.6]]), torch.tensor(0.0))
    >>> round(law.mean.item(), 4), round(law.variance.item(), 4)        # the SNR is 1: z and pi have a half each
    (0.4243, 0.5)
    """

    def __init__(self, *event_shape: int, standardize: Standardize | None = None) -> None:
        super().__init__(*event_shape)
        self.standardize = Standardize(*event_shape) if standardize is None else standardize
        self.mean, self.log_scale = nn.Parameter(torch.zeros(event_shape)), nn.Parameter(torch.zeros(event_shape))

    def read(self, x: Tensor) -> Tensor:
        """Standardised numbers."""
        return self.standardize(x)

    def law(self, z: Tensor, log_snr: Tensor) -> Distribution:
        precision = positive(self.log_scale).pow(-2)
        variance = 1 / (precision + self._spread(log_snr.exp()))
        mean = variance * (precision * self.mean + self._pull(log_snr) * z)
        law = NormalLaw(self.standardize.inverse(mean), self.standardize.scale * variance.sqrt())
        return Independent(law, len(self.shape))
