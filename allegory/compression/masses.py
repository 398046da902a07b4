r"""The laws of a model, spelled in symbols whose masses are whole numbers.

    categories        one symbol of n masses, a whole multiple of 2^-20 each, at least one
    a few values      the same, by the law's own log-probabilities
    many values       the law's own distribution function F, searched: a range of k is cut into four parts, a symbol
                      says in which one k is, P(part) = F(its end) - F(its beginning), until a single k is left
    normal            one symbol on a lattice, the bins of the law of its values
    a gap             one more symbol, P(missing) by the law, or where it says nothing of gaps, how often they were met

A normal q is drawn from a window of eight to sixteen deviations around its mean: a bin has at least 2^-24, and of
very many bins that would be a mass. A mixture of normals over whole vectors is spelled by its component, which is drawn
from the posterior that z leaves and given back: on average -log p(z).

Both sides have to find the same masses to the last digit, however many threads or rows their networks ran with. So the
parameters of each law are rounded first: log-odds to 2^-12, scales to a part of 2^-12, locations to a 256th of the
scale.

Shapes: laws have batch and event (S, B, *event), with S = 1, or what broadcasts to it; k and x are (1, B, *event). m
elements, those that a symbol is spelled for.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

from allegory.columnar import Columns
from allegory.compression.lattice import Lattice, lattice_of
from allegory.compression.stack import Array, Code, Spell, Stack
from allegory.discrete import OneHot
from allegory.distributions import NormalMixture
from allegory.gaps import takes_gaps
from allegory.masked import Certain, Unmasking
from allegory.quantiles import cdf
from allegory.trees import TreeBernoulli, layers_of

__all__ = ["Coding", "pop", "push", "rounded"]

PARTS = 4  # that a range is cut into
FEW = 32  # values, up to which a law is asked for each of them
BITS = 20  # of a mass
TINY = 2.0**-30  # the least mass of a part
SIGMAS = 8  # half a window, at least
WIDEST = 2**16  # bins of a normal that is not searched, where all of them are open
DIGITS = 12  # bits that a parameter keeps
FRACTION = 256  # of a scale, or of a bin, that a location is a multiple of


@dataclass(frozen=True)
class Coding:
    """How the elements of a law are coded, beside the law itself.

    Attributes:
        lattice: of the values; None where the law alone says it.
        window: whether a normal is drawn from around its mean.
        gaps: (*event) how often each element is missing, where the law does not say so; None where none is.
    """

    lattice: Lattice | None = None
    window: bool = False
    gaps: Tensor | None = None


def push(stack: Stack, law: Any, coding: Any, value: Tensor) -> None:
    """Puts a value on the stack.

    Args:
        law: (1, B, *event), or what expands to it.
        coding: a `Coding`; of columns one for each part.
        value: (1, B, *event).
    """
    law = rounded(law, stack)
    if isinstance(law, NormalMixture):
        which = _component(law, value)
        c = stack.pop(lambda code, _: code(None, "categorical", which))
        stack.push(_spelling(_normal_of(law, c, value.shape), coding, value.shape), value)
        return stack.push(lambda code, c: code(c, "categorical", _weights_of(law, len(c))), c)
    return stack.push(_spelling(law, coding, value.shape), value)


def pop(stack: Stack, law: Any, coding: Any, shape: Size) -> Tensor:
    """Takes a value of a shape (1, B, *event) from the stack; as `push`."""
    law = rounded(law, stack)
    if isinstance(law, NormalMixture):
        rows = int(np.prod(shape[: len(shape) - len(law.event_shape)]))
        c = stack.pop(lambda code, _: code(None, "categorical", _weights_of(law, rows)))
        value = stack.pop(_spelling(_normal_of(law, c, shape), coding, shape))
        which = _component(law, value)
        stack.push(lambda code, c: code(c, "categorical", which), c)
        return value
    return stack.pop(_spelling(law, coding, shape))


def _weights_of(law: NormalMixture, rows: int) -> Array:
    return _masses(law.log_weights.exp()[:, None].expand(-1, rows))


def _component(law: NormalMixture, z: Tensor) -> Array:
    """(rows, K) p(component | z)."""
    dims = list(range(-len(law.event_shape), 0))
    of_each = Normal(law.loc, law.scale, validate_args=False).log_prob(z.unsqueeze(dims[0] - 1)).sum(dims)
    log_p = ((law.log_weights + of_each) * 2**DIGITS).round() / 2**DIGITS
    return _masses(log_p.softmax(-1).flatten(0, -2).T)


def _normal_of(law: NormalMixture, c: Array, shape: Size) -> Distribution:
    index = torch.from_numpy(c).long()
    mean, scale = (part[index].view(shape) for part in (law.loc, law.scale))
    return Independent(Normal(mean, scale, validate_args=False), len(law.event_shape))


def _spelling(law: Any, coding: Any, shape: Size) -> Spell:
    """How a value of a law is spelled.

    Raises:
        ValueError: a law of which none of the ways above knows.
    """
    if isinstance(law, Columns):
        return _columns(law, coding, shape)
    if isinstance(law, OneHot):
        return _one_hot(law, shape)
    if isinstance(law, TreeBernoulli):
        return _tree(law, shape)
    if isinstance(law, Unmasking):
        return _unmasking(law, shape)
    if isinstance(law, Certain):
        return lambda code, z: law.z.expand(shape)
    if isinstance(law, Independent) and not law.base_dist.event_shape:
        return _elements(law.base_dist, coding, shape, takes_gaps(law))
    if not law.event_shape:
        return _elements(law, coding, shape, False)
    raise ValueError(
        f"{type(law).__name__}: compression needs elements that are independent, or normal in each component of a "
        "mixture, and has no way to code this law; a model with another prior has one, such as prior='standard' or "
        "'mixture'"
    )


def _columns(law: Columns, codings: Any, shape: Size) -> Spell:
    """Part by part."""

    def spell(code: Code, x: Tensor | None) -> Tensor:
        found = []
        for part, columns, coding in zip(law.parts, law.columns, codings, strict=True):
            of_part = _elements(part.base_dist, coding, Size((*shape[:-1], len(columns))), gaps=True)
            found.append(of_part(code, None if x is None else x[..., columns]))
        return torch.cat(found, -1)[..., torch.cat(law.columns).argsort()]

    return spell


def _one_hot(law: OneHot, shape: Size) -> Spell:
    grouped = law.logits.exp().expand(*shape[: len(shape) - law.event_dim], *law.logits.shape[-law.event_dim - 1 :])
    masses = _masses(grouped.flatten(0, -2).T)

    def spell(code: Code, z: Tensor | None) -> Tensor:
        which = code(None if z is None else _symbols(law._grouped(z).argmax(-1)), "categorical", masses)
        return law.flat(F.one_hot(_tensor(which), law.k).view(grouped.shape)).double()

    return spell


def _tree(law: TreeBernoulli, shape: Size) -> Spell:
    """Each element after its parent."""
    both = [part.expand(shape).sigmoid() for part in (law.given_zero, law.given_one)]

    def spell(code: Code, x: Tensor | None) -> Tensor:
        found = torch.zeros(shape, dtype=torch.float64)
        for layer in layers_of(law.parents.tolist()):
            above = F.pad(found, (1, 0))[..., law.parents[layer] + 1]
            p = torch.where(above > 0, both[1][..., layer], both[0][..., layer]).flatten()
            given = None if x is None else _symbols(x[..., layer])
            read = code(given, "categorical", _masses(torch.stack([1 - p, p])))
            found[..., layer] = _tensor(read).view(above.shape).double()
        return found

    return spell


def _unmasking(law: Unmasking, shape: Size) -> Spell:
    """The elements that are shown. Which these are has the same law for q and p, so that it is no news to either: it
    follows from a number that both know.
    """
    left, dims = law.masked.expand(shape), len(law.event_shape)
    share = law.share.expand(shape[:-dims])
    seed = f"masked {1 / float(share.flatten()[0]):.0f}".encode()
    chance = np.frombuffer(hashlib.shake_256(seed).digest(4 * shape.numel()), dtype="<u4").astype(np.float64)
    places = torch.from_numpy(chance / 2**32).view(shape).masked_fill(~left, 2.0)
    if law.one:
        first = places.flatten(-dims).argmin(-1, keepdim=True)
        shown = left & torch.zeros(shape, dtype=torch.bool).flatten(-dims).scatter(-1, first, True).view(shape)
    else:
        shown = left & (places < share.reshape(*share.shape, *[1] * dims))

    def spell(code: Code, z: Tensor | None) -> Tensor:
        found = law.z.expand(shape).clone()
        if law.x is not None:
            return torch.where(shown, law.x.expand(shape), found)
        assert law.log_p is not None
        p = law.log_p.exp().movedim(-dims - 1, 0).expand(-1, *shape)[:, shown]
        known = None if z is None else _symbols(z.expand(shape)[shown] - law.coding.lowest)
        found[shown] = (_tensor(code(known, "categorical", _masses(p))) + law.coding.lowest).double()
        return found

    return spell


def _elements(law: Any, coding: Coding, shape: Size, gaps: bool) -> Spell:
    """Independent numbers, each with its gaps."""
    lattice = coding.lattice or lattice_of(law.law if hasattr(law, "log_missing") else law)
    missing = getattr(law, "log_missing", None) if gaps else None
    missing = coding.gaps if missing is None else missing.exp()

    def spell(code: Code, x: Tensor | None) -> Tensor:
        there: Any = slice(None)  # of the elements of a flat tensor
        if missing is not None:
            p = missing.expand(shape).flatten()
            known = None if x is None else _symbols(x.isnan())
            there = _tensor(code(known, "categorical", _masses(torch.stack([1 - p, p])))) == 0
        k = None if x is None else lattice.index(x).clamp(lattice.low, lattice.high)  # of gaps any
        found = _numbers(law, lattice, coding.window, shape, there, code, k)
        value = lattice.value(found).expand(shape)
        return value if missing is None else value.masked_fill(~there.view(shape), torch.nan)

    return spell


def _numbers(law: Any, lattice: Lattice, window: bool, shape: Size, there: Any, code: Code, k: Tensor | None) -> Tensor:
    """(1, B, *event) k, of the elements that are there."""
    recorded = hasattr(law, "log_missing")
    values = law.law if recorded and not law.beyond else law
    if isinstance(values, Normal) and (window or lattice.count <= WIDEST):
        return _normal(values, lattice, window, shape, there, code, k)
    if isinstance(values, Categorical) or (lattice.count <= FEW and not lattice.between):
        first, last = int(lattice.low.min()), int(lattice.high.max())
        each = torch.arange(first, last + 1).view(-1, *[1] * len(shape))
        if isinstance(values, Categorical):
            log_p = values.logits.expand(*shape, -1).movedim(-1, 0)
        elif isinstance(values, Bernoulli):
            log_p = torch.stack([torch.zeros(shape, dtype=torch.float64), values.logits.expand(shape)])
        else:
            log_p = torch.stack([values.log_prob(lattice.value(at).expand(shape)).expand(shape) for at in each])
        possible = None
        if int(lattice.low.max()) > first or int(lattice.high.min()) < last:
            possible = ((lattice.low <= each) & (each <= lattice.high)).expand(-1, *shape)
            log_p = log_p.masked_fill(~possible, -torch.inf)
        return first + _one_symbol(log_p.softmax(0), possible, there, code, None if k is None else k - first)
    return _search(lambda at: _at_most(values, at), lattice, shape, there, code, k)


def _one_symbol(p: Tensor, possible: Tensor | None, there: Any, code: Code, k: Tensor | None) -> Tensor:
    """(*shape) which of n categories, of probabilities (n, *shape); 0 where nothing is there."""
    masses = _masses(p.flatten(1)[:, there], None if possible is None else possible.flatten(1)[:, there])
    read = _tensor(code(None if k is None else _symbols(k.flatten()[there]), "categorical", masses))
    if isinstance(there, slice):
        return read.view(p.shape[1:])
    found = torch.zeros(p.shape[1:].numel(), dtype=torch.long)
    found[there] = read
    return found.view(p.shape[1:])


def _at_most(law: Any, x: Tensor) -> Tensor:
    """(n, *batch) P(X <= x), of x: (n, *batch); of a law of gaps, P(X <= x and recorded)."""
    if not hasattr(law, "log_missing"):
        return cdf(law, x)
    below = torch.full(law.batch_shape, -torch.inf, dtype=torch.float64)
    hidden = [law.log_missing_within(below, each.expand(law.batch_shape)).exp() for each in x]
    return cdf(law.law, x) - torch.stack(hidden)


def _normal(
    law: Normal, lattice: Lattice, window: bool, shape: Size, there: Any, code: Code, k: Tensor | None
) -> Tensor:
    """Elements in groups whose ranges are about as wide, and in a window whose deviations are: a bin has at least
    2^-24, so that in a window of another's width one draw in some thousands would lie far out.
    """
    center = (lattice.low + lattice.high).div(2, rounding_mode="floor")
    size = (lattice.high - center).clamp(min=1).double().log2().ceil().long().expand(shape).flatten()
    mean = (((law.loc - lattice.origin) / lattice.step - center) * FRACTION).round() / FRACTION
    mean, scale = (part.expand(shape).flatten() for part in (mean, _few_digits(law.scale / lattice.step)))
    center, found = center.expand(shape).flatten(), torch.zeros_like(size)
    width = torch.frexp(scale).exponent.long().clamp(min=0).minimum(size) if window else size  # of scales below 2^width
    group = torch.full_like(size, -1)
    group[there] = (64 * size + width)[there]
    for which in group[there].unique().tolist():
        at = (group == which).nonzero()[:, 0]
        end = reach = 2 ** (which // 64)
        mu, sigma, shift = mean[at].clamp(-2 * end, 2 * end), scale[at].clamp(1e-6, 4 * end), center[at]
        if window:
            reach = min(math.ceil(SIGMAS * float(sigma.max())) + 1, end)
            middle = mu.round().clamp(reach - end, end - reach)
            mu, shift = mu - middle, shift + middle.long()
        given = None if k is None else _symbols(k.flatten()[at] - shift)
        found[at] = _tensor(code(given, "normal", -reach, reach, mu.numpy(), sigma.numpy())) + shift
    return found.view(shape)


def _search(
    below: Callable[[Tensor], Tensor], lattice: Lattice, shape: Size, there: Any, code: Code, k: Tensor | None
) -> Tensor:
    """A search for k in the distribution function.

    Args:
        below: x -> P(X <= x).
    """
    low, high = (end.expand(shape) for end in (lattice.low, lattice.high))
    ends = below(torch.stack([lattice.edge(low - 1), lattice.edge(high)])).expand(2, *shape)
    part = torch.arange(1, PARTS).view(-1, *[1] * len(shape))
    while int((count := high - low + 1).max()) > 1:
        edges = low + count * part // PARTS
        at_most = torch.cat([ends[:1], below(lattice.upper(edges - 1)).expand(edges.shape), ends[1:]])
        edges = torch.cat([low[None], edges, (high + 1)[None]])
        p, possible = at_most.diff(dim=0).clamp(min=0) + TINY, None
        if int(count.min()) < PARTS:
            possible = edges.diff(dim=0) > 0
            p = p.masked_fill(~possible, 0)
        at = _one_symbol(p, possible, there, code, None if k is None else (edges[1:-1] <= k).sum(0))[None]
        low, high = edges.gather(0, at)[0], edges.gather(0, at + 1)[0] - 1
        ends = torch.cat([at_most.gather(0, at), at_most.gather(0, at + 1)])
    return low


def _masses(p: Tensor, possible: Tensor | None = None) -> Array:
    """(m, n) whole numbers, of probabilities (n, m) up to a factor; at least 1 of what is possible."""
    masses = (p * (2**BITS / p.sum(0))).round_().clamp_(min=1)
    return (masses if possible is None else masses.masked_fill(~possible, 0)).T.contiguous().numpy()


def _symbols(k: Tensor) -> Array:
    return k.flatten().to(torch.int32).numpy()


def _tensor(symbols: Array) -> Tensor:
    return torch.from_numpy(symbols).long()


def rounded(law: Any, stack: Stack | None = None) -> Any:
    """A law of the same form, of parameters of few digits; see the module.

    Args:
        law: a distribution.
        stack: that notes them.

    >>> rounded(torch.distributions.Normal(torch.tensor(0.123456789), torch.tensor(1.0))).loc      # 32 / 256
    tensor(0.1250)
    """
    changed = copy.copy(law)
    held = vars(changed)
    if "probs" in held or "logits" in held:  # of either torch makes the other, when asked
        held["logits"] = law.logits
        held.pop("probs", None)
    for name, part in list(held.items()):
        if isinstance(part, Distribution):
            held[name] = rounded(part, stack)
        elif type(part) in (tuple, list) and part and isinstance(part[0], Distribution):
            held[name] = type(part)(rounded(each, stack) for each in part)
        elif isinstance(part, Tensor) and name in ROUNDING:
            held[name] = ROUNDING[name](part)
    if isinstance(held.get("loc"), Tensor) and isinstance(held.get("scale"), Tensor):
        unit = held["scale"] / FRACTION
        held["loc"] = (law.loc / unit).round() * unit
    if stack is not None:
        stack.note(*(held[name].numpy() for name in (*ROUNDING, "loc") if isinstance(held.get(name), Tensor)))
    return changed


def _few_digits(x: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**DIGITS).round(), exponent - DIGITS)


def _to_a_grid(x: Tensor) -> Tensor:
    return (x * 2**DIGITS).round() / 2**DIGITS


ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("logits", "log_weights", "log_p", "given_zero", "given_one"), _to_a_grid),
    **dict.fromkeys(("scale", "rate", "total_count", "df", "concentration"), _few_digits),
}
