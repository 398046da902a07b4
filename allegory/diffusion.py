r"""Diffusion: a chain whose encoder adds noise, and whose decoders share one denoiser; T levels, or infinitely many.

With y = y(x) the clean latents, see `allegory.elements`, and lambda_t the log signal-to-noise ratio of level t, which
falls from lambda_1 to lambda_T (Sohl-Dickstein et al. 2015; Ho et al. 2020; Kingma et al. 2021, whose z_0 is z_1 here:
z_0 = x),

    q(z_t | x) = N(alpha_t y, sigma_t^2),   alpha_t^2 = sigmoid(lambda_t),   sigma_t^2 = sigmoid(-lambda_t),

and each step up adds noise. Going down, for levels t < s, with SNR = e^lambda and c = 1 - SNR_s / SNR_t,

    q(z_t | z_s, x) = N(a z_s + b y, c sigma_t^2),      a = (alpha_s / alpha_t) sigma_t^2 / sigma_s^2,   b = c alpha_t
    p(z_t | z_s)    = N(a z_s + b y^, c sigma_t^2 + b^2 v^)
    p(x | z_1)      = the exact posterior of independent elements
    p(z_T)          = N(0, I)

y^ is the denoiser's guess of y given z_s. With v^ = 0 p steps as q would if the guess were right, and the rate of a
level is a weighted squared error,

    rate_t = 1/2 (SNR_t - SNR_s) |y - y^(z_s)|^2                                     t = 1, ..., T - 1, s = t + 1
          -> 1/2 SNR(u) |lambda'(u)| |y - y^(z_u)|^2 du                             T to infinity

With v^ the variance of y given z_s, element by element, p has the variance of the true reverse (`spread`), which costs
less where T is small, and nothing where it is large. The network's output is y^, eps^, or v^ = alpha eps^ - sigma y^;
"x" of two values or of categories is the law of each element, whose mean is the guess. What it reads is z; there it is
the mean of y given each element of z alone, by Bayes' rule and its marginal law (as in Graves et al. 2023): it holds as
much, within the range of y at any SNR, and is the same at all of them for an element that is nearly known.

As a prior of another model's z_1, whose q(z_1 | x) = N(m, V_1) is learned, the same levels stand above z_1, in the
place of y. Given x all of them are normal, z_t = alpha_t z_1 + sigma_t eps, so that q(z_t | x) = N(alpha_t m, V_t) with
V_t = alpha_t^2 V_1 + sigma_t^2, and with a = alpha_s / alpha_t

    q(z_t | z_s, x) = N(alpha_t m + g (z_s - a alpha_t m), (1 - g a) V_t),     g = a V_t / V_s

The schedule lambda(u), u from 0 at level 1 to 1 at level T, falls from one end to the other along a monotone broken
line. Where T is infinite its shape does not enter the bound, only its noise; both ends do, always.

Shapes: S particles, B batch; x is (B, *event), y and z_t (S, B, *shape); lambda is a scalar, or (S, B).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.chain import FixedChain, FixedEncoder, OneLevel, Steps, check_levels, spread_evenly
from allegory.conditional import StandardNormal
from allegory.distributions import log_one_minus_exp
from allegory.elements import Elements
from allegory.ladder import TopDown
from allegory.positivity import positive
from allegory.runtime.precision import to_float32, without_autocast

__all__ = ["Denoising", "Diffusion", "DiffusionPrior", "NoiseSchedule", "NoisedEncoder"]

BOUND = math.log(1e6)  # of |log SNR|: noise of a thousandth of the spread, as of a sigma of `families.positive`
GAIN = 16.0  # Adam moves the upper end by GAIN times the learning rate a step, about as fast as the lower one
PIECES = 64
PREDICTIONS = ("v", "x", "eps")


class NoiseSchedule(nn.Module):
    """log SNR as a falling function of u in [0, 1].

    Args:
        high, low: at u = 0 and at u = 1.
        learned: whether both ends are learned.
        shaped: whether what lies between them is, too.

    Raises:
        ValueError: a log SNR that rises, or beyond +- 13.8, a ratio of a million.

    >>> NoiseSchedule(7.0, -7.0)(torch.tensor([0.0, 0.25, 1.0])).detach()
    tensor([ 7.0000,  3.5000, -7.0000])
    """

    def __init__(self, high: float, low: float, learned: bool = True, shaped: bool = True) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(
                f"log_snr=({high}, {low}) rises with the level: wanted the ratio at the data first, such as (7, -7)"
            )
        if not max(abs(high), abs(low)) < BOUND:
            raise ValueError(f"log_snr=({high}, {low}): wanted numbers between -13.8 and 13.8, ratios up to a million")
        ends = torch.tensor([BOUND * math.atanh(high / BOUND) / GAIN, math.log(high - low)])
        self.ends = nn.Parameter(ends, requires_grad=learned)
        self.weights = nn.Parameter(torch.zeros(PIECES), requires_grad=learned and shaped)

    def forward(self, u: Tensor) -> Tensor:
        """The log SNR at u."""
        high, fall = self._ends()
        return high - fall * (self._within(u).clamp(0, 1) * self.weights.softmax(0)).sum(-1)  # no product in bfloat16

    def slope(self, u: Tensor) -> Tensor:
        """How fast it falls, -d log SNR / du, at u."""
        within = self._within(u)
        here = ((within >= 0) & (within < 1)).to(self.weights.dtype)
        return self._ends()[1] * PIECES * (here * self.weights.softmax(0)).sum(-1)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The log SNR at u = 0, and how far it falls; the weights say what share of the fall is in which piece."""
        return BOUND * torch.tanh(GAIN * self.ends[0] / BOUND), self.ends[1].exp()

    def _within(self, u: Tensor) -> Tensor:
        """(*, PIECES) where u is in each piece: below 0 before it, above 1 after it."""
        return u[..., None] * PIECES - torch.arange(PIECES, device=u.device)

    def describe(self) -> str:
        """The log SNR of both ends, as they are now.

        >>> NoiseSchedule(7.0, -7.0).describe()
        'log SNR 7.00 to -7.00'
        """
        high, fall = (part.item() for part in self._ends())
        return f"log SNR {high:.2f} to {high - fall:.2f}"

    def extra_repr(self) -> str:  # no weight, by which a run could not be resumed
        return f"learned={self.ends.requires_grad}, shaped={self.weights.requires_grad}"


class Denoising(Steps):
    """p(x | z_1), p(z_1 | z_2), ..., p(z_{T-1} | z_T), a sequence, of one network.

    Args:
        net: (z, log SNR) -> its output of the shape of z; see `Diffusion` and, for what it reads of z, the module.
        elements: what x consists of.
        schedule: of the noise.
        levels: T.
        predicts: what the network's output is, "v", "x" or "eps".
        spread: whether p has the variance of the guess.
    """

    def __init__(
        self, net: nn.Module, elements: Elements, schedule: NoiseSchedule, levels: int, predicts: str, spread: bool
    ) -> None:
        super().__init__(self._law, levels)
        self.net, self.elements, self.schedule = net, elements, schedule
        self.predicts, self.spread = predicts, spread
        self[0].family = elements.family

    def log_snr(self, level: int) -> Tensor:
        """lambda_t, a scalar; of a single level that of the middle."""
        steps, like = len(self) - 1, self.schedule.ends
        return self.schedule(torch.tensor((level - 1) / steps if steps else 0.5, dtype=like.dtype, device=like.device))

    def guess(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the variance of y given z, by the network; without `spread` the variance is 0.

        Args:
            z: (S, B, *shape).
            log_snr: of z, a scalar, or (S, B).
        """
        batch = z.shape[: z.dim() - len(self.elements.shape)]
        phi = to_float32(self.net(self._readable(z, log_snr), log_snr.expand(batch)))
        if phi.shape != (*batch, *self.outputs):
            raise ValueError(
                f"the denoiser was given z of shape {tuple(z.shape)} and gave {tuple(phi.shape)}, wanted "
                f"{(*batch, *self.outputs)}"
            )
        with without_autocast():
            if self._gives_law:
                mean, variance = self.elements.guess(phi, z, log_snr)
                return mean, variance if self.spread else torch.zeros_like(mean)
            out, *s = phi.chunk(2, -len(self.elements.shape)) if self.spread else (phi,)
            alpha, sigma = (self._over(part) for part in alpha_sigma(log_snr))
            if self.predicts == "x":
                mean = out
            else:
                mean = (z - sigma * out) / alpha if self.predicts == "eps" else alpha * z - sigma * out
            variance = sigma.square() * positive(s[0]) if s else torch.zeros_like(out)
            return mean, variance

    def _readable(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """What the network reads of z, in the same shape."""
        if not self._gives_law:
            return z
        with without_autocast():
            return self.elements.guess(torch.zeros_like(z), z, log_snr)[0]

    @property
    def outputs(self) -> tuple[int, ...]:
        """What shape the network's output has, without the batch."""
        channels, *rest = self.elements.shape
        return ((2 if self.spread and not self._gives_law else 1) * channels, *rest)

    @property
    def _gives_law(self) -> bool:
        return self.predicts == "x" and self.elements.width > 0

    def step(self, z: Tensor, y: Tensor, below: Tensor, above: Tensor, variance: Tensor | None = None) -> Distribution:
        """N(a z + b y, c sigma^2 + b^2 v) of the level below, from z of the level above.

        Args:
            z: (S, B, *shape).
            y: (B, *shape) or (S, B, *shape), clean or guessed.
            below, above: log SNR of the two levels, scalars or (S, B).
            variance: v.
        """
        with without_autocast():
            c = log_one_minus_exp(below - above).exp()
            (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(below), alpha_sigma(above)
            a, b = alpha_s / alpha * (sigma / sigma_s).square(), c * alpha
            a, b, noise = (self._over(part) for part in (a, b, c * sigma.square()))
            scale = noise.expand_as(z).sqrt() if variance is None else (noise + b.square() * variance).sqrt()
            return Independent(Normal(a * z + b * y, scale), len(self.elements.shape))

    def noisy(self, y: Tensor, log_snr: Tensor) -> Distribution:
        """q(z_t | x) = N(alpha y, sigma^2)."""
        alpha, sigma = (self._over(part) for part in alpha_sigma(log_snr))
        mean = alpha * y
        return Independent(Normal(mean, sigma.expand_as(mean)), len(self.elements.shape))

    def posterior(self, index: int, y: Tensor, z: Tensor | None = None) -> Distribution:
        """q(z_t | z_{t+1}, x), t = index + 1, or at the top q(z_T | x)."""
        below = self.log_snr(index + 1)
        return self.noisy(y, below) if z is None else self.step(z, y, below, self.log_snr(index + 2))

    def forward_process(self, index: int, below: Tensor) -> Distribution:
        """q(z_t | z_{t-1}) = N(a z_{t-1}, sigma_t^2 - a^2 sigma_{t-1}^2), a = alpha_t / alpha_{t-1}, t = index + 1;
        for index 0 q(z_1 | x), of y.
        """
        above = self.log_snr(index + 1)
        return self.noisy(below, above) if index == 0 else self.add_noise(below, above, self.log_snr(index))

    def add_noise(self, z: Tensor, above: Tensor, below: Tensor) -> Distribution:
        """The law of the level above, from z of the level below.

        Args:
            z: (S, B, *shape).
            above, below: log SNR of both, scalars.
        """
        (alpha, _), (alpha_s, sigma_s) = alpha_sigma(below), alpha_sigma(above)
        scale = sigma_s * log_one_minus_exp(below - above).exp().sqrt()
        return Independent(Normal(alpha_s / alpha * z, scale.expand_as(z)), len(self.elements.shape))

    def _law(self, index: int, z: Tensor) -> Distribution:
        """p(x | z_1) for index 0, and p(z_t | z_{t+1}), t = index."""
        if index == 0:
            with without_autocast():
                return self.elements.law(to_float32(z), self.log_snr(1))
        below, above = self.log_snr(index), self.log_snr(index + 1)
        mean, variance = self.guess(z, above)
        return self.step(z, mean, below, above, variance if self.spread else None)

    def _over(self, of_batch: Tensor) -> Tensor:
        """Numbers of the batch, for every element."""
        return of_batch.reshape(*of_batch.shape, *[1] * len(self.elements.shape))

    def extra_repr(self) -> str:
        return f"predicts={self.predicts!r}, spread={self.spread}, levels={len(self)}"


class Diffusion(FixedChain):
    """A diffusion model, a VAE of T levels; see the module. `allegory.architectures.diffusion` builds one.

    Args:
        net: the denoiser, (z, log_snr) -> output, z: (*batch, *shape), log_snr: (*batch). Its output has the shape of
            z; with `spread`, and where it does not give the law of each element, twice the channels: the variance of
            its guess is sigma^2 positive(s), s in the second half.
        elements: what x consists of.
        schedule: of the noise.
        levels: T; None for infinitely many.
        predicts: what the output is: "v", "x" or "eps".
        spread: whether p(z_t | z_{t+1}) has the variance of the guess.
        prior: p(z_T), by default standard normal.

    Raises:
        ValueError: levels < 1; an unknown prediction; a spread where there are infinitely many levels, of which each is
            as narrow as q.

    >>> from allegory.elements import Reals
    >>> net = al.networks.Denoiser((2,), width=8, blocks=1)
    >>> model = Diffusion(net, Reals(2), NoiseSchedule(7.0, -7.0), levels=5)
    >>> trace = model(torch.zeros(3, 2))                        # in training
    >>> trace.kl.shape, model(torch.zeros(3, 2), levels="all").kl.shape
    (torch.Size([2, 1, 3]), torch.Size([5, 1, 3]))
    """

    encoders: FixedEncoder

    def __init__(
        self,
        net: nn.Module,
        elements: Elements,
        schedule: NoiseSchedule,
        levels: int | None = 100,
        predicts: str = "v",
        spread: bool = False,
        prior: nn.Module | None = None,
    ) -> None:
        check_levels(levels)
        if predicts not in PREDICTIONS:
            raise ValueError(f"predicts={predicts!r}: wanted one of {', '.join(PREDICTIONS)}")
        if spread and levels is None:
            raise ValueError(
                "spread=True: infinitely many levels are all as narrow as q; wanted it with a number of levels"
            )
        decoders = Denoising(net, elements, schedule, levels or 2, predicts, spread)
        encoder = FixedEncoder(elements.read, decoders.posterior, levels or 2, decoders.forward_process)
        super().__init__(prior or StandardNormal(*elements.shape), encoder, decoders, infinite=levels is None)

    def with_levels(self, levels: int) -> Diffusion:
        """The chain of T levels that has the same network and schedule; the weights are shared."""
        own: Any = self.decoders
        chain = Diffusion(own.net, own.elements, own.schedule, levels, own.predicts, own.spread, self.prior)
        return self._counterpart(chain)  # type: ignore[return-value]

    def _one_level(self, x: Tensor, samples: int) -> OneLevel:
        u = spread_evenly(samples, len(x), self.decoders.schedule.ends)
        return self.at_places(x, u)

    def at_places(self, x: Tensor, u: Tensor, noise: Sequence[Tensor | None] = (None, None, None)) -> OneLevel:
        """The trace of the levels at u.

        Args:
            x: (B, *event) data.
            u: (S, B) places in [0, 1): of the T - 1 levels below the top, in order, or of infinitely many.
            noise: eps of z_1, of the level above the chosen one, and of z_T, (S, B, *shape) each; by default drawn.
        """
        own: Any = self.decoders
        schedule, y, steps = own.schedule, own.elements.read(x), len(own) - 1

        def draw(log_snr: Tensor, eps: Tensor | None) -> Tensor:
            law: Any = own.noisy(y, log_snr)
            law = law.expand(u.shape)
            return law.rsample() if eps is None else law.mean + law.stddev * eps

        first = schedule(torch.zeros_like(u[0, 0])) if steps else own.log_snr(1)
        top = schedule(torch.ones_like(u[0, 0])) if steps else first
        with without_autocast():
            z_1, z_top = draw(first, noise[0]), draw(top, noise[2])
            p_x, q_top = own.elements.law(z_1, first), own.noisy(y, top)
        if self.infinite:
            log_snr = schedule(u)
            mean, _ = own.guess(draw(log_snr, noise[1]), log_snr)
            weight = own._over((0.5 * log_snr).exp() * schedule.slope(u).sqrt())
            one, dims = torch.ones_like(mean), len(own.elements.shape)
            q, p = (Independent(Normal(weight * part, one), dims) for part in (y, mean))  # the rate of a du, per du
        elif steps:
            index = (u * steps).long().clamp(max=steps - 1).to(u)
            below, above = schedule(index / steps), schedule((index + 1) / steps)
            z = draw(above, noise[1])
            mean, variance = own.guess(z, above)
            q, p = own.step(z, y, below, above), own.step(z, mean, below, above, variance if own.spread else None)
        else:
            q = p = own.noisy(y, first).expand(u.shape)
        of_all = 1.0 if self.infinite else float(steps)
        return OneLevel(x, (z_1, z_top), (p_x, p, self._prior_law()), (q, q_top), True, steps=of_all)

    def __repr__(self) -> str:
        own: Any = self.decoders
        count = sum(p.numel() for p in self.parameters())
        levels = "infinitely many" if self.infinite else self.levels
        return (
            f"Diffusion: {levels} levels, {own.schedule.describe()}, predicts {own.predicts}, x "
            f"{'x'.join(map(str, own.elements.event_shape))}; {count:,} parameters"
        )


class DiffusionPrior(nn.Module):
    """p(z_T) = N(0, I) of a chain above z_1 that makes p(z_1) flexible, with the denoiser of that chain.

    Args:
        denoising: p(z_1 | z_2), p(z_2 | z_3), ...: those of a diffusion whose x is z_1.

    >>> net = al.networks.Denoiser((3,), width=8, blocks=1)
    >>> from allegory.elements import Reals
    >>> DiffusionPrior(Denoising(net, Reals(3), NoiseSchedule(7.0, -7.0), 5, "v", False))().event_shape
    torch.Size([3])
    """

    def __init__(self, denoising: Denoising) -> None:
        super().__init__()
        self.denoising, self.top = denoising, StandardNormal(*denoising.elements.shape)

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        return self.top()


class NoisedEncoder(TopDown):
    """q(z_1 | x) learned, the levels above it with noise added, from the top down; see the module.

    Args:
        encoder: q(z_1 | x), a normal of independent elements.
        denoising: whose schedule the levels above have.

    Attributes:
        network: the encoder.
    """

    has_bottom_up = True

    def __init__(self, encoder: nn.Module, denoising: Denoising) -> None:
        super().__init__(encoder, ())
        self._denoising = (denoising,)  # in a tuple, so that it is not registered twice
        del self.posteriors
        self.posteriors = Steps(self._law, 1 + len(denoising))  # type: ignore[assignment]

    def forward(self, x: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """Mean and variance of z_1, (B, 2 D, *rest), for every level."""
        law: Any = self.network(x, *given)
        with without_autocast():
            return (torch.cat([law.mean, law.variance], 1),) * len(self.posteriors)

    def bottom_up(self, level: int, below: Tensor) -> Distribution:
        """q(z_1 | x), and above it z_{t-1} with noise."""
        own = self._denoising[0]
        if level == 1:
            return self.network(below)
        above = own.log_snr(level - 1)
        return own.noisy(below, above) if level == 2 else own.add_noise(below, above, own.log_snr(level - 2))

    def _law(self, index: int, moments: Tensor, z: Tensor | None = None) -> Distribution:
        """q(z_t | z_{t+1}, x), t = index + 1, or at the top q(z_T | x)."""
        own, (mean, variance) = self._denoising[0], moments.chunk(2, 1)
        with without_autocast():
            alpha, sigma = alpha_sigma(own.log_snr(index)) if index else (mean.new_ones(()), mean.new_zeros(()))
            mean, variance = alpha * mean, alpha.square() * variance + sigma.square()
            if z is not None:
                alpha_s, sigma_s = alpha_sigma(own.log_snr(index + 1))
                a = alpha_s / alpha
                added = sigma_s.square() - (a * sigma).square()
                gain = a * variance / (a.square() * variance + added)
                mean, variance = mean + gain * (z - a * mean), variance * added / (a.square() * variance + added)
            return Independent(Normal(mean, variance.sqrt()), len(own.elements.shape))


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors, alpha and sigma, at a log SNR.

    >>> alpha, sigma = alpha_sigma(torch.tensor(0.0))
    >>> round(alpha.item(), 3), round(sigma.item(), 3)
    (0.707, 0.707)
    """
    return torch.exp(0.5 * F.logsigmoid(log_snr)), torch.exp(0.5 * F.logsigmoid(-log_snr))
