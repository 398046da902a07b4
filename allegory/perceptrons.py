r"""Perceptrons between vectors: the networks of a chain or of a ladder, level by level.

    chain     q(z_1 | x), q(z_t | z_{t-1})
    ladder    x -> h_1 -> ... -> h_T,   q(z_T | h_T), q(z_t | h_t, s_t)
    p         p(z_t | s_t), p(x | s_0)

with the state s_t = z_{t+1}, or, where p is no Markov chain, (z_{t+1}, ..., z_T). What is given, c, is read beside the
context of each.

Shapes: z_t (D_t,), h_t (width,), s_t of the sum of its widths, c (k,); each with any batch dimensions before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from allegory.conditional import Conditional
from allegory.family import Family
from allegory.given import Beside, Reading
from allegory.ladder import TopDown
from allegory.networks import Asinh, Climb, Concat, Residual, Vectors, mlp, scaled, zeroed

__all__ = ["Perceptrons"]

Network = TypeVar("Network", bound=nn.Sequential)


@dataclass(frozen=True)
class Perceptrons:
    """The levels of `architectures.mlp`, from which its encoder and its decoder are made.

    Attributes:
        latent: widths of z_1, ..., z_T.
        laws: their families.
        hidden: widths of the hidden layers of each encoder, from the bottom up; the decoders mirror them.
        activation: makes one.
        dropout, block: of hidden layers, see `allegory.networks.mlp`.
        markov: whether p(z_{t-1} | z_t) sees only the level above.
        flat: whether the last layer of each network is 0 at first, so that nothing depends on anything.
        given, given_to_p: how q, and p, read what is given; None where nothing is.
    """

    latent: Sequence[int]
    laws: Sequence[Family]
    hidden: Sequence[int]
    activation: Callable[[], nn.Module]
    dropout: float = 0.0
    block: str | Callable[[int, int], nn.Module] = "plain"
    markov: bool = True
    flat: bool = False
    given: Reading | None = None
    given_to_p: Reading | None = None

    @property
    def levels(self) -> int:
        """T, how many there are."""
        return len(self.latent)

    def chain(
        self, first: nn.Module, inputs: int, around: Callable[[nn.Module], nn.Module] | None = None
    ) -> list[nn.Module]:
        """The encoder q(z_1 | x), q(z_2 | z_1), ...

        Args:
            first: x -> what the network of z_1 reads, (*batch, inputs).
            inputs: its width, with that of anything else that `around` has the network read.
            around: makes of this network another one, of (*batch, inputs) as `first` puts them out.
        """
        net = self._begun(self._net(inputs, self.hidden, self._numbers(1)))
        bottom = net if around is None else around(net)
        links = [self._link(self.latent[t - 2], self.hidden, self._numbers(t)) for t in range(2, self.levels + 1)]
        return [
            Conditional(self._reads(bottom, self.given, first), self.laws[0]),
            *(self._posterior(link, t) for t, link in enumerate(links, start=2)),
        ]

    def ladder(self, first: nn.Module, inputs: int, residual: bool) -> TopDown:
        """The encoder of h_1, ..., h_T, and q(z_t | h_t, s_t).

        Args:
            first: x -> (*batch, inputs).
            inputs: its width.
            residual: whether z_t is expressed in the units of its prior.
        """
        width = self.hidden[-1] if self.hidden else 2 * max(self.latent)
        up = [self._reads(self._net(inputs, self.hidden[:-1], width), self.given, first)]
        for _ in range(self.levels - 1):  # residual: with plain layers no signal from x would reach the tenth level
            last = scaled(nn.Linear(width, width), self.levels)
            drop = [nn.Dropout(self.dropout)] if self.dropout else []
            up.append(Residual(self.activation(), nn.Linear(width, width), self.activation(), *drop, last))
        posteriors = [
            self._posterior(Concat(self._link(width + self._state(t), self.hidden[-1:], self._numbers(t))), t)
            for t in range(1, self.levels)
        ]
        top = nn.Sequential(self.activation(), nn.Linear(width + self._given, self._numbers(self.levels)))
        return TopDown(Climb(up), [*posteriors, self._posterior(top, self.levels)], residual)

    def output(self, outputs: int) -> Vectors:
        """The network of p(x | s_0), which ends in a linear layer, to (*batch, outputs)."""
        make = self._link if self.levels > 1 else self._net
        return self._begun(make(self._state(0), self.hidden[::-1], outputs))

    def decoders(self, flat: bool) -> list[nn.Module]:
        """The decoders p(z_1 | s_1), ..., p(z_{T-1} | s_{T-1}).

        Args:
            flat: whether these do not depend on s_t at first.
        """
        found: list[nn.Module] = []
        for t in range(1, self.levels):
            link = self._link(self._state(t), self.hidden[::-1], self._numbers(t))
            found.append(Conditional(self.of_p(self._begun(link, flat)), self.laws[t - 1]))
        return found

    def of_p(self, network: nn.Module) -> nn.Module:
        """A network of p, which reads what is given, too."""
        return self._reads(network, self.given_to_p)

    @property
    def _given(self) -> int:
        """K, the width of what is given."""
        return 0 if self.given is None else len(self.given.loc)

    def _numbers(self, t: int) -> int:
        """How many numbers the family of z_t reads."""
        return self.laws[t - 1].outputs((self.latent[t - 1],))

    def _state(self, t: int) -> int:
        """The width of s_t."""
        return self.latent[t] if self.markov else sum(self.latent[t:])

    def _net(self, inputs: int, hidden: Sequence[int], outputs: int) -> Vectors:
        return mlp(inputs + self._given, hidden, outputs, self.activation, self.dropout, self.block)

    def _link(self, inputs: int, hidden: Sequence[int], outputs: int) -> Vectors:
        """A network that reads latents, and the features of x with them."""
        return Vectors(Asinh(), *self._net(inputs, hidden, outputs))

    def _posterior(self, network: nn.Sequential, t: int) -> Conditional:
        return Conditional(self._reads(self._begun(network), self.given), self.laws[t - 1])

    def _begun(self, network: Network, flat: bool = False) -> Network:
        return _zeroed_last(network) if flat or self.flat else network

    def _reads(self, network: nn.Module, given: Reading | None, first: nn.Module | None = None) -> nn.Module:
        """The network after `first`, beside what is given."""
        if given is not None:
            return Beside(network, given, first)
        return network if first is None else nn.Sequential(first, network)


def _zeroed_last(network: Network) -> Network:
    """The network, whose last layer is 0."""
    last: nn.Module = network
    while isinstance(last, nn.Sequential):
        last = last[-1]
    zeroed(last)
    return network
