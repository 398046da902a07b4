r"""Top-down inference: the posterior that goes down along with the generative loop, as in the ladder VAE.

    h_1, ..., h_T = network(x)                                           one deterministic pass up
    q(z_1..T | x) = q(z_T | h_T) prod_{t=1..T-1} q(z_t | h_t, s_{t+1})    s_{t+1} carries z_{t+1}, ..., z_T

(Soenderby et al. 2016; Kingma et al. 2016, section 4.) q(z_t | ...) is conditioned on the same state as p(z_t |
s_{t+1}), so every rate is a KL divergence of two given distributions, in closed form where the families allow it.

A residual posterior (Vahdat & Kautz 2020) expresses z_t in the units of its prior N(mu_p, sigma_p^2):

    u = (z_t - mu_p) / sigma_p ~ N(mu, sigma^2)        =>    q(z_t | ...) = N(mu_p + sigma_p mu, (sigma_p sigma)^2),
    KL(q || p) = KL(N(mu, sigma^2) || N(0, 1)).

A network that outputs mu = 0, sigma = 1 then adds no rate, wherever the prior is. Of discrete latents the logits of q
are those of p plus those that the network gives.

Shapes: S particles, B batch; x is (B, *event), h_t (B, *), s_t (S, B, *), z_t (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from allegory.discrete import OneHot
from allegory.distributions import IndependentBernoulli
from allegory.draws import law_of

__all__ = ["TopDown"]


class TopDown(nn.Module):
    """q(z_T | x) prod_t q(z_t | z_{t+1}, ..., z_T, x); takes the place of a VAE's encoder.

    Args:
        network: x -> (h_1, ..., h_T), level 1 first, (B, *) each; see `allegory.networks.Climb`. What is given, see
            `allegory.given`, it reads after x, and the posteriors after their own contexts.
        posteriors: T modules, level 1 first, that return q(z_t | h_t, s_{t+1}) when called with (h_t, s_{t+1}). The
            state s_{t+1} of the generative loop is (S, B, *), for a Markov chain z_{t+1}. The last, at the top, is
            called with h_T alone.
        residual: whether the posteriors below the top express z_t in the units of p(z_t | s_{t+1}); both have to be
            normal, Bernoulli, or one-hot.

    >>> both = al.networks.Concat(nn.Linear(8 + 2, 2 * 3), event_dim=1)
    >>> encoder = al.TopDown(
    ...     al.networks.Climb([nn.Linear(5, 8), nn.Linear(8, 6)]),
    ...     [al.Conditional(both, al.families.normal), al.Conditional(nn.Linear(6, 2 * 2), al.families.normal)],
    ... )
    >>> decoder = [
    ...     al.Conditional(nn.Linear(3, 5), al.families.bernoulli),
    ...     al.Conditional(nn.Linear(2, 2 * 3), al.families.normal),
    ... ]
    >>> al.VAE(al.StandardNormal(2), encoder, decoder)(torch.ones(7, 5), samples=4).kl.shape
    torch.Size([2, 4, 7])
    """

    has_bottom_up = False  # whether q(z_t | z_{t-1}) is known, too: of the same joint law

    def __init__(self, network: nn.Module, posteriors: Sequence[nn.Module], residual: bool = False) -> None:
        super().__init__()
        self.network = network
        self.posteriors = nn.ModuleList(posteriors)
        self.residual = residual

    def __len__(self) -> int:
        return len(self.posteriors)

    def forward(self, x: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """h_1, ..., h_T of x: (B, *event), and of what is given."""
        features = self.network(x, *given)
        if isinstance(features, Tensor) or len(features) != len(self):
            got = "one tensor" if isinstance(features, Tensor) else f"{len(features)}"
            raise ValueError(f"a top-down posterior of {len(self)} levels reads h_1, ..., h_{len(self)}; got {got}")
        return features

    def top(self, x: Tensor) -> Distribution:
        """q(z_T | x), with batch shape (B,), for x: (B, *event)."""
        return law_of(self.posteriors[-1], self(x)[-1])

    def posterior(
        self, level: int, feature: Tensor, state: Tensor | None, prior: Distribution, given: Sequence[Tensor] = ()
    ) -> Distribution:
        """q(z_t | h_t, s_{t+1}), given p(z_t | s_{t+1}).

        Args:
            level: t.
            feature: h_t.
            state: s_{t+1}; None at the top.
            prior: p(z_t | s_{t+1}).
            given: what is given, (S, B, *context) each, at the top (B, *context).
        """
        module = self.posteriors[level - 1]
        if state is None:
            return law_of(module, feature, *given)
        q = law_of(module, feature, state, *given)
        return _relative_to_prior(prior, q, level) if self.residual else q

    def bottom_up(self, level: int, below: Tensor) -> Distribution:
        """q(z_t | z_{t-1}), or q(z_1 | x), where it `has_bottom_up`.

        Args:
            level: t.
            below: z_{t-1}, or x.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        return "residual" if self.residual else ""


def _relative_to_prior(p: Distribution, q: Distribution, level: int) -> Distribution:
    """The law of mu_p + sigma_p u, u ~ q."""
    laws: list[Any] = [law.base_dist if isinstance(law, Independent) else law for law in (p, q)]
    if not any(all(isinstance(law, kind) for law in laws) for kind in (Normal, Bernoulli, OneHot)):
        names = " and ".join(type(law).__name__ for law in laws)
        raise ValueError(
            f"level {level}: a residual posterior needs p and q to be both normal, Bernoulli or one-hot, "
            f"but they are {names}"
        )
    if p.event_shape != q.event_shape or p.batch_shape != q.batch_shape:
        raise ValueError(
            f"level {level}: the encoder gives z_{level} of shape {tuple(q.event_shape)}, but p(z_{level} | "
            f"z_{level + 1}) is over {tuple(p.event_shape)}; batch shapes {tuple(q.batch_shape)} and "
            f"{tuple(p.batch_shape)}"
        )
    if isinstance(laws[0], OneHot):
        return laws[1].shifted(laws[0])
    if isinstance(laws[0], Bernoulli):
        odds = laws[0].logits + laws[1].logits
        return IndependentBernoulli(type(laws[1])(logits=odds, validate_args=False), len(q.event_shape))
    mu = p.mean + p.stddev * q.mean
    return Independent(Normal(mu, p.stddev * q.stddev), len(q.event_shape))
