r"""Masked diffusion: a chain of discrete levels whose encoder masks elements, and whose decoders share one network.

Of x with D elements of k values, z_t is x with each element masked, independently, with probability m_t = t / T, from
level 1 to the top, where all are (Austin et al. 2021; Sahoo et al. 2024; Shi et al. 2024). A masked element stays so
further up. Going down, from level s = t + 1, with r = 1 - m_t / m_s = 1 / s,

    q(z_t | z_s, x)    each masked element shows x_d with probability r, or stays masked; the others stay as they are
    p(z_t | z_s)       each masked element shows v with probability r p_d(v | z_s), or stays masked
    p(x | z_1)         each masked element is v with probability p_d(v | z_1)
    p(z_T)             all are masked

with p_d(v | z) by a network that reads z and sees which are masked. No rate is sampled: given z_s,

    rate_t = r sum_{d masked in z_s} -log p_d(x_d | z_s),       the top 0

and with log p(x | z_1) the bound is, on average over masks,

    ELBO_T(x) = E sum_{s=1..T} (1 / s) sum_{d masked in z_s} log p_d(x_d | z_s)
              -> E_m (1 / m) sum_{d masked} log p_d(x_d | z),       m uniform on (0, 1), T to infinity
               = E_order sum_i log p(x_order(i) | x_order(<i)),     the order uniform            (Hoogeboom et al. 2022)

so that infinitely many levels are an autoregressive model averaged over all orders of the elements, by whatever
schedule they are masked. Where the p_d are the conditionals of one joint law, each order gives log p(x), and so does
the limit.

Of infinitely many levels each shows one element at most, and those that show none say nothing. What is left is a chain
of D levels, z_t with t elements masked, in which each step down shows one of the masked, any with the same probability
r = 1 / s: whole traces of it exist, and log w = sum_i log p(x_order(i) | x_order(<i)) of a random order. That is the
chain of `levels=None`; its rates have the form of those above.

In training s is drawn anew for each example, from 1 to T, and stands for the whole sum, log p(x | z_1) included, which
is its term of s = 1: such a trace has a `log_px` where s is 1, and a `kl` where it is not.

The C channels of x may have numbers of values of their own, as the columns of a table do, k_1, ..., k_C. What a channel
does not have the network neither reads nor puts out, and its log p is -inf; k is the largest of them.

Shapes: S particles, B batch; x is (B, C, *rest), z_t (S, B, C, *rest) of codes 0, ..., k - 1, and k where masked;
logits are (S, B, k C, *rest), or (S, B, k_1 + ... + k_C, *rest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from allegory import families
from allegory.chain import FixedChain, FixedEncoder, OneLevel, Steps, check_levels, spread_evenly
from allegory.family import CategoricalFamily
from allegory.networks import OneHot
from allegory.runtime.precision import to_float32, without_autocast

__all__ = ["AllMasked", "Certain", "MaskedDiffusion", "Unmasking", "Values"]

SINGLE = Size()


class Unmasking(Distribution):
    """The law of z_t given z_s: some of the masked elements of z_s are shown, the others stay.

    Args:
        z: (*batch, C, *rest) codes of z_s; `values.mask` where masked.
        values: what x consists of, kept as `coding`.
        share: r, the probability with which a masked element is shown, a scalar or (*batch).
        log_p: (*batch, k, C, *rest) log p_d(v); or
        x: (*batch, C, *rest) the values that are shown.
        one: whether exactly one element is shown; r is then one divided by how many are masked.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        z: Tensor,
        values: Values,
        share: Tensor,
        log_p: Tensor | None = None,
        x: Tensor | None = None,
        one: bool = False,
    ) -> None:
        self.z, self.coding, self.log_p, self.x, self.one = z, values, log_p, x, one
        split = z.dim() - len(values.event_shape)
        self.share = share.expand(z.shape[:split])
        super().__init__(z.shape[:split], z.shape[split:], validate_args=False)

    @property
    def support(self) -> Any:
        """Of x where all is shown."""
        lowest, k = self.coding.lowest, self.coding.k
        if self.coding.sizes is not None:
            return constraints.integer_interval(lowest, lowest + self.coding.sizes - 1)
        return constraints.boolean if (lowest, k) == (0, 2) else constraints.integer_interval(lowest, lowest + k - 1)

    @property
    def masked(self) -> Tensor:
        """(*batch, *event) which elements of z_s are."""
        return self.z == self.coding.mask

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unmasking:
        """With another batch shape."""
        shape, event = Size(batch_shape), self.event_shape
        log_p = None if self.log_p is None else self.log_p.expand(*shape, *self.log_p.shape[-len(event) - 1 :])
        x = None if self.x is None else self.x.expand(*shape, *event)
        return Unmasking(self.z.expand(*shape, *event), self.coding, self.share.expand(shape), log_p, x, self.one)

    def log_p_of(self, value: Tensor) -> Tensor:
        """(*batch, *event) log p_d(v) of each element; value may be masked, and then means nothing."""
        if self.x is not None:
            return torch.where(value == self.x, 0.0, -math.inf)
        assert self.log_p is not None
        channel = -len(self.event_shape) - 1
        code = (value - self.coding.lowest).long().clamp(0, self.coding.k - 1).unsqueeze(channel)
        batch = torch.broadcast_shapes(code.shape[:channel], self.log_p.shape[:channel])
        log_p = self.log_p.expand(*batch, *self.log_p.shape[channel:])
        return log_p.gather(channel, code.expand(*batch, *code.shape[channel:])).squeeze(channel)

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch) nats of z_t; -inf where it is not z_s with more elements shown."""
        dims, masked = list(range(-len(self.event_shape), 0)), self.masked
        shown = masked & (value != self.coding.mask)
        of_shown = torch.where(shown, self.log_p_of(value), 0.0).sum(dims)
        kept = ((value == self.z) | shown).flatten(-len(dims)).all(-1)
        count = shown.sum(dims)
        if self.one:
            which, kept = self.share.log(), kept & (count == 1)
        else:
            which = torch.xlogy(count, self.share) + torch.xlogy(masked.sum(dims) - count, 1 - self.share)
        return (of_shown + which).masked_fill(~kept, -math.inf)

    def sample(self, sample_shape: Any = SINGLE) -> Tensor:
        """(*sample_shape, *batch, *event)."""
        with torch.no_grad():
            shape, dims = self._extended_shape(Size(sample_shape)), len(self.event_shape)
            chance = torch.rand(shape, device=self.z.device).masked_fill(~self.masked, math.inf)
            if self.one:  # by its place: of many numbers two are equal now and then
                first = chance.flatten(-dims).argmin(-1, keepdim=True)
                shown = torch.zeros(shape, dtype=torch.bool, device=chance.device).flatten(-dims)
                shown = shown.scatter(-1, first, True).view(shape)
            else:
                first, shown = None, chance < self.share.reshape(*self.share.shape, *[1] * dims)
            return torch.where(shown & self.masked, self._values(shape, first), self.z)

    def _values(self, shape: Size, first: Tensor | None) -> Tensor:
        """(*shape) what masked elements show: all of them, or the one at `first`, (*sample_shape, *batch, 1)."""
        if self.x is not None:
            return self.x.expand(shape)
        assert self.log_p is not None
        dims, k = len(self.event_shape), self.coding.k
        if first is None:
            log_p = self.log_p.movedim(-dims - 1, -1).expand(*shape, k)
        else:  # drawn alone: the others, of up to k values each, are not asked for
            log_p = self.log_p.flatten(-dims).expand(*shape[:-dims], k, math.prod(shape[-dims:]))
            log_p = log_p.take_along_dim(first.unsqueeze(-2), -1).squeeze(-1)
        gumbel = -torch.empty_like(log_p).exponential_().log()
        drawn = (log_p + gumbel).argmax(-1).to(self.z.dtype) + self.coding.lowest
        return drawn if first is None else drawn.view(*drawn.shape, *[1] * dims)


@register_kl(Unmasking, Unmasking)
def _kl(q: Unmasking, p: Unmasking) -> Tensor:
    """Of the posterior, which shows x, from p, which shows as many."""
    assert q.x is not None
    rates = torch.where(q.masked, -p.log_p_of(q.x), 0.0)
    return q.share * rates.flatten(-len(q.event_shape)).sum(-1)


class Certain(Distribution):
    """One value, for certain.

    Args:
        z: (*batch, *event) it.
        event_dim: how many dimensions an event has.

    >>> Certain(torch.tensor([2.0, 2.0]), 1).log_prob(torch.tensor([[2.0, 2.0], [2.0, 0.0]]))
    tensor([0., -inf])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.dependent(is_discrete=True, event_dim=0)

    def __init__(self, z: Tensor, event_dim: int) -> None:
        self.z = z
        split = z.dim() - event_dim
        super().__init__(z.shape[:split], z.shape[split:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Certain:
        """With another batch shape."""
        return Certain(self.z.expand(*batch_shape, *self.event_shape), len(self.event_shape))

    def sample(self, sample_shape: Any = SINGLE) -> Tensor:
        """All masked."""
        return self.z.expand(self._extended_shape(Size(sample_shape))).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        """0, or -inf where something is shown."""
        same = (value == self.z).flatten(-len(self.event_shape)).all(-1)
        return torch.zeros(same.shape, dtype=self.z.dtype, device=self.z.device).masked_fill(~same, -math.inf)


@register_kl(Certain, Certain)
def _kl_of_certain(q: Certain, p: Certain) -> Tensor:
    return torch.zeros(q.batch_shape, dtype=q.z.dtype, device=q.z.device)


class Values(nn.Module):
    """What x consists of: k values, from `lowest` on, and a code for masked elements, lowest + k.

    Args:
        event_shape: of x, (C, *rest).
        k: how many values there are; or of each channel, (C,).
        lowest: the first of them.
        data: (N, *event) training data, of which p begins as the marginals.

    Attributes:
        k: the largest number of values.
        reads, writes: how many channels of codes, and of logits, there are.
        sizes: (C, 1, ...) the numbers of values, where the channels differ; else None.

    >>> values = Values(2, k=2)
    >>> values.read(torch.tensor([[1.0, 2.0]]))                 # of each code whether it is 0, is 1, is masked
    tensor([[0., 0., 1., 0., 0., 1.]])
    >>> Values(2, k=[3, 2]).log_p(torch.zeros(1, 5)).exp().detach()        # the second element is never 2
    tensor([[[0.3333, 0.5000],
             [0.3333, 0.5000],
             [0.3333, 0.0000]]])
    """

    def __init__(self, *event_shape: int, k: int | Sequence[int], lowest: int = 0, data: Tensor | None = None) -> None:
        super().__init__()
        channels = event_shape[0]
        each = list(k) if isinstance(k, Sequence) else [k] * channels
        if len(each) != channels:
            raise ValueError(f"categories={each}: wanted one number for each of the {channels} channels of x")
        if any(not isinstance(n, int) or n < 2 for n in each):
            raise ValueError(f"categories={k}: wanted two or more")
        k = max(each)
        self.event_shape, self.k, self.lowest, self.mask = tuple(event_shape), k, lowest, lowest + k
        self.one_hot = OneHot(k + 1, len(event_shape), lowest)
        self.reads, self.writes = sum(each) + channels, sum(each)
        self.sizes: Tensor | None
        self.exist: Tensor  # the places of the codes that there are among the (k + 1) C, of the masked as well
        different = len(set(each)) > 1
        sizes = torch.tensor(each).view(-1, *[1] * (len(event_shape) - 1)) if different else None
        exist = [v * channels + c for v in range(k + 1) for c in range(channels) if v < each[c] or v == k]
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("exist", torch.tensor(exist) if different else None, persistent=False)
        logits = torch.zeros(k, *event_shape)
        if data is not None:
            counts = torch.stack([(data == lowest + v).sum(0) for v in range(k)]) + 0.5
            logits = (counts / counts.sum(0)).log().to(logits)
        self.logits = nn.Parameter(logits)

    def read(self, z: Tensor) -> Tensor:
        """(*batch, reads, *rest) of codes (*batch, C, *rest), as a network reads them."""
        codes = self.one_hot(z)
        return codes if self.sizes is None else codes.index_select(-len(self.event_shape), self.exist)

    def log_p(self, phi: Tensor) -> Tensor:
        """(*batch, k, C, *rest) log p_d(v), of what the network puts out, (*batch, writes, *rest)."""
        channel, phi = -len(self.event_shape), to_float32(phi)
        if self.sizes is not None:
            shape = (*phi.shape[:channel], self.k * self.event_shape[0], *self.event_shape[1:])
            phi = phi.new_full(shape, -math.inf).index_copy(channel, self.exist[: self.writes], phi)
        return (phi.unflatten(channel, (self.k, -1)) + self.logits).log_softmax(channel - 1)

    def extra_repr(self) -> str:
        k = self.k if self.sizes is None else self.sizes.flatten().tolist()
        return f"{', '.join(map(str, self.event_shape))}, k={k}"


class AllMasked(nn.Module):
    """p(z_T): every element is masked. No parameters.

    >>> AllMasked(Values(2, k=2))().sample((3,))
    tensor([[2., 2.],
            [2., 2.],
            [2., 2.]])
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", torch.full(values.event_shape, float(values.mask)), persistent=False)

    def forward(self) -> Distribution:
        """The distribution, with batch shape ()."""
        return Certain(self.codes, self.codes.dim())


class _Unmasking(Steps):
    """p(x | z_1), p(z_1 | z_2), ..., p(z_{T-1} | z_T), a sequence, of one network."""

    def __init__(self, net: nn.Module, values: Values, levels: int, one: bool) -> None:
        super().__init__(self._law, levels)
        self.net, self.values, self.one = net, values, one
        self.family = (
            families.bernoulli if (values.k, values.lowest) == (2, 0) else CategoricalFamily(values.k, values.lowest)
        )
        self[0].family = self.family

    def log_p(self, z: Tensor) -> Tensor:
        """(*batch, k, C, *rest) log p_d(v | z)."""
        values, dims = self.values, len(self.values.event_shape)
        batch, rest = z.shape[: z.dim() - dims], values.event_shape[1:]
        count = (z == values.mask).flatten(-dims).sum(-1).to(z.dtype)
        odds = torch.log((math.prod(values.event_shape) - count + 0.5) / (count + 0.5))
        phi = self.net(values.read(z), odds)
        if phi.shape != (*batch, values.writes, *rest):
            raise ValueError(
                f"the network was given z of shape {tuple(z.shape)}, as {tuple(values.read(z).shape)}, and gave "
                f"{tuple(phi.shape)}, wanted {(*batch, values.writes, *rest)}"
            )
        with without_autocast():
            return values.log_p(phi)

    def _law(self, index: int, z: Tensor) -> Distribution:
        """p(x | z_1) for index 0, and p(z_t | z_{t+1}), t = index."""
        return Unmasking(z, self.values, z.new_tensor(1 / (index + 1)), self.log_p(z), one=self.one and index > 0)

    def posterior(self, index: int, x: Tensor, z: Tensor | None = None) -> Distribution:
        """q(z_t | z_{t+1}, x), t = index + 1, or at the top q(z_T | x)."""
        if z is None:
            return Certain(torch.full_like(x, self.values.mask), len(self.values.event_shape))
        return Unmasking(z, self.values, z.new_tensor(1 / (index + 2)), x=x.expand_as(z), one=self.one)


class MaskedDiffusion(FixedChain):
    """A masked diffusion, a VAE of T discrete levels; see the module. `allegory.architectures.masked_diffusion` builds
    one.

    Args:
        net: (codes, log_odds) -> logits: codes as `Values.read` gives them, (*batch, (k + 1) C, *rest), the log-odds of
            an element to be shown, (*batch), and logits (*batch, k C, *rest). Where the channels have numbers of values
            of their own, codes are (*batch, k_1 + ... + k_C + C, *rest), logits (*batch, k_1 + ... + k_C, *rest).
        values: what x consists of.
        levels: T; None for infinitely many, of which D matter, one for each element.

    >>> net = al.networks.Denoiser((6,), width=8, blocks=1, outputs=4, waves=0)
    >>> model = MaskedDiffusion(net, Values(2, k=2))
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    >>> model(x).kl.shape, model(x, levels="all").kl.shape       # in training; two levels
    (torch.Size([2, 1, 3]), torch.Size([2, 1, 3]))
    """

    needs_gradient = False

    def __init__(self, net: nn.Module, values: Values, levels: int | None = None) -> None:
        check_levels(levels)
        self_levels, one = levels or math.prod(values.event_shape), levels is None
        decoders = _Unmasking(net, values, self_levels, one)
        encoder = FixedEncoder(_as_it_is, decoders.posterior, self_levels)
        super().__init__(AllMasked(values), encoder, decoders)
        self.prior.to(next(values.parameters()))

    def with_levels(self, levels: int | None) -> MaskedDiffusion:
        """The chain of T levels that has the same network; the weights are shared."""
        own: Any = self.decoders
        return self._counterpart(MaskedDiffusion(own.net, own.values, levels))  # type: ignore[return-value]

    @torch.no_grad()
    def complete(self, x: Tensor) -> Tensor:
        """(B, *event) x with each gap, a NaN, drawn given the rest: one element after another, in a random order.

        Args:
            x: (B, *event) the values that are known, NaN elsewhere.

        Raises:
            ValueError: another shape, or a value that is none of the model's.

        >>> _ = torch.manual_seed(0)
        >>> net = al.networks.Denoiser((6,), width=8, blocks=1, outputs=4, waves=0)
        >>> MaskedDiffusion(net, Values(2, k=2)).complete(torch.tensor([[1.0, math.nan], [math.nan, 0.0]]))
        tensor([[1., 1.],
                [1., 0.]])
        """
        own: Any = self.decoders
        values, unknown = own.values, x.isnan()
        if x.shape[1:] != values.event_shape:
            raise ValueError(
                f"x: got the shape {tuple(x.shape)}, wanted (B, {', '.join(map(str, values.event_shape))})"
            )
        sizes = values.k if values.sizes is None else values.sizes
        wrong = ~unknown & ((x < values.lowest) | (x >= values.lowest + sizes) | (x != x.round()))
        if bool(wrong.any()):
            raise ValueError(f"x: got {x[wrong][0].item():g}, which is none of the values of its element: {self}")
        z = x.masked_fill(unknown, values.mask)
        for _ in range(int(unknown.flatten(1).sum(1).max()) if len(x) else 0):
            z = Unmasking(z, values, z.new_ones(()), own.log_p(z), one=True).sample()
        return z

    def _one_level(self, x: Tensor, samples: int) -> OneLevel:
        own: Any = self.decoders
        levels, dims, batch = len(own), x.dim() - 1, (samples, len(x))
        s = (spread_evenly(samples, len(x), x) * levels).floor() + 1
        chance = torch.rand(*batch, *x.shape[1:], dtype=x.dtype, device=x.device)
        if own.one:
            order = chance.flatten(2).argsort(-1)
            hidden = torch.arange(order.shape[-1], device=x.device) < s[..., None]
            masked = torch.zeros_like(hidden).scatter(-1, order, hidden).view_as(chance)
        else:
            masked = chance * levels < s.view(*batch, *[1] * dims)
        x_each = x.expand(*batch, *x.shape[1:])
        z = x_each.masked_fill(masked, own.values.mask)
        p = Unmasking(z, own.values, 1 / s, own.log_p(z), one=own.one)
        q, q_top = Unmasking(z, own.values, 1 / s, x=x_each, one=own.one), own.posterior(0, x)
        p_x = Unmasking(z, own.values, torch.ones_like(s), p.log_p)
        top, first = q_top.sample((samples,)), (s == 1).to(x)
        laws = (p_x, p, self._prior_law()), (q, q_top)
        return OneLevel(x, (z, top), *laws, True, steps=levels * (1 - first), of_data=levels * first)

    def __repr__(self) -> str:
        own: Any = self.decoders
        count = sum(p.numel() for p in self.parameters())
        levels = f"{len(own)} levels" + (", one for each element" if own.one else "")
        shape = "x".join(map(str, own.values.event_shape))
        of = f"{own.values.k} values" if own.values.sizes is None else f"up to {own.values.k} values"
        return f"MaskedDiffusion: {levels}, x {shape} of {of}; {count:,} parameters"


def _as_it_is(x: Tensor) -> Tensor:
    return x
