r"""Checks of a VAE: that its parts fit together, that x can be scored, and that no example depends on another.

Each raises a ValueError in one line. A density that depends on other examples or particles, as after a layer that mixes
the batch, is of no model, and nothing else would show it:

    log p(x_b, z_sb) and log q(z_sb | x_b) must not move when x_b' or z_s'b' change, b' != b or s' != s.

Shapes: S particles, B batch, T levels; x is (B, *event), z_t (S, B, *event_t).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from allegory.conditional import Conditional
from allegory.gaps import takes_gaps
from allegory.runtime.messages import call_error, describe_index, no_tensor, reshaping
from allegory.support import check_support

__all__ = [
    "check_batch_shape",
    "check_distribution",
    "check_independence",
    "check_prior",
    "check_readers",
    "check_tensor",
    "check_values",
    "first_with_gap",
    "name_failing_conditional",
    "nearly_equal",
    "two_examples",
]

GAPS = "; gaps are left out by a likelihood that takes them, families.observed(family) or families.columns"
SEARCHED = 1000  # examples among which one is looked for that differs from the first


def check_distribution(name: str, law: Any) -> None:
    """Raises a ValueError for a tensor: a plain network where a conditional is wanted is the commonest mistake."""
    if isinstance(law, Tensor):
        raise ValueError(
            f"{name} returned a tensor of shape {tuple(law.shape)}, wanted a torch.distributions.Distribution: put the "
            "network into a conditional, such as al.Conditional(network, al.families.normal)"
        )


def check_batch_shape(name: str, law: Distribution, wanted: tuple[int, ...]) -> None:
    """Raises a ValueError for a distribution of another batch shape, which broadcasting would hide."""
    if law.batch_shape != wanted:
        raise ValueError(
            f"{name} has batch shape {tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}, wanted batch "
            f"shape {tuple(wanted)}, the context's leading dimensions; is torch.distributions.Independent missing?"
        )


def check_tensor(x: Any, name: str) -> None:
    """Raises a ValueError unless x is a floating-point tensor, or `Stored`, of at least one example."""
    if not hasattr(x, "is_floating_point"):
        raise ValueError(no_tensor(name, x))
    if x.dim() < 1 or not len(x):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (N, *event) with at least one example")
    if not x.is_floating_point():
        how = "x.float()" if not x.is_complex() else "torch.view_as_real(x).flatten(1), say"
        raise ValueError(f"{name}: got {x.dtype}, wanted floating point numbers; use {how}")
    if isinstance(x, Tensor) and x.layout != torch.strided:
        raise ValueError(f"{name}: got a sparse tensor, {x.layout}, wanted a dense one; use x.to_dense()")


def check_prior(prior: Any, given: int = 0) -> None:
    """Raises a ValueError for a prior that needs a context, such as one in the place of an encoder.

    Args:
        prior: p(z_T), or p(z_T | c).
        given: how many contexts it is called with.
    """
    error = _call_error(prior, given)
    if error and given:
        raise ValueError(f"the prior, {type(prior).__name__}, cannot be called with the {given} given: {error}")
    if error:
        raise ValueError(
            f"the prior, {type(prior).__name__}, cannot be called without arguments: {error}; wanted p(z_T), such as "
            "al.StandardNormal, first: VAE(prior, encoder, decoder)"
        )


def check_readers(readers: Mapping[str, tuple[Any, int]], given: int) -> None:
    """Raises a ValueError for a conditional that cannot be called with its own context and with what is given.

    Args:
        readers: conditionals, and how many contexts of its own each has, by name.
        given: how many contexts are given.
    """
    for name, (part, own) in readers.items():
        error = _call_error(part, own + given)
        if error and given:
            raise ValueError(
                f"given: {name} reads nothing that is given: {error}; wanted networks of {own + given} contexts, such "
                "as al.networks.Concat(...), or a model without given"
            )
        if error:
            raise ValueError(
                f"{name} cannot be called with its own context alone: {error}; what it reads besides is given, given=c"
            )


def _call_error(part: Any, contexts: int) -> str:
    """Why a module, or the network of a conditional, cannot be called with so many contexts; empty where it can."""
    called = part.network if isinstance(part, Conditional) else part
    called = called[0] if isinstance(called, nn.ModuleList) and len(called) else called  # such as a Climb
    return call_error(getattr(called, "forward", called), *[None] * contexts)


def check_values(law: Distribution, x: Any, name: str, rows: Sequence[Any] | None = None) -> None:
    """Raises a ValueError where values of x are not finite, or outside the support of p(x | z_1); NaN is a gap, where
    that leaves gaps out.

    Args:
        law: p(x | z_1), of any batch shape.
        x: (N, *event) a tensor, or `Stored`.
        name: of x in the message.
        rows: (N,) what the user calls the rows of x; by default their numbers, in the file for data on disk.
    """
    if law.event_shape != x.shape[1:]:
        hint = reshaping(x.shape, law.event_shape)
        if law.batch_shape[1:] + law.event_shape == x.shape[1:]:
            hint = f", in a batch of {tuple(law.batch_shape)}: wanted Conditional(..., event_dim={x.dim() - 1})"
        raise ValueError(
            f"{name}: examples of shape {tuple(x.shape[1:])}, but p(x | z_1) is over {tuple(law.event_shape)}{hint}"
        )
    gaps = takes_gaps(law)
    for called, part in [(rows, x)] if isinstance(x, Tensor) else x.chunks():
        wrong = part.isinf() if gaps else ~torch.isfinite(part)
        if bool(wrong.any()):
            kind, advice = ("infinite", "") if gaps else ("NaN or infinite", GAPS if bool(part.isnan().any()) else "")
            raise ValueError(
                f"{name}: {int(wrong.sum())} values are {kind}, the first in "
                f"{describe_index(wrong.nonzero()[0].tolist(), called)}; remove or replace them{advice}"
            )
        check_support(law, part, name, called)


def two_examples(x: Any, contexts: Sequence[Tensor] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(2, *event) the first of x: (N, *event), and the first among a thousand that differs from it, if there is one; of
    those rather one with something else given.

    Args:
        x: a tensor, or `Stored`.
        contexts: what is given, (N, *context) each.

    Returns:
        The examples, and what is given with them.
    """
    x, contexts = x[:SEARCHED], tuple(c[:SEARCHED] for c in contexts)

    def unlike_first(part: Tensor) -> Tensor:
        same = torch.isclose(part, part[:1], rtol=0, atol=0, equal_nan=True)  # a gap is like a gap
        return (~same).flatten(1).any(1).to(torch.int8)

    differs = unlike_first(x) * (unlike_first(x) + sum(unlike_first(c) for c in contexts))
    rows = torch.tensor([0, int(differs.argmax())])
    return x[rows], tuple(c[rows] for c in contexts)


def first_with_gap(x: Any) -> int | None:
    """The first row of x: (N, *event) that has a NaN; None where there is none.

    Args:
        x: a tensor, or `Stored`.
    """
    begin = 0
    for part in [x] if isinstance(x, Tensor) else (part for _, part in x.chunks()):
        gaps = part.isnan().flatten(1).any(1)
        if bool(gaps.any()):
            return begin + int(gaps.to(torch.int8).argmax())
        begin += len(part)
    return None


def check_independence(
    densities: Callable[[Tensor, Sequence[Tensor], tuple[Tensor, ...]], Tensor],
    x: Tensor,
    latents: Sequence[Tensor],
    contexts: tuple[Tensor, ...],
    names: Sequence[str],
) -> None:
    """Raises a ValueError if a density depends on other examples or particles. Of two examples with two particles
    each, one is exchanged for another, with what is given with it, and the densities of the others must not move.

    Args:
        densities: (D, S, B) log-densities of examples x with latents z_1, ..., z_T, and of what is given with them.
        x: (2, *event) two examples.
        latents: z_1, ..., z_T, (2, 2, *event_t) each.
        contexts: what is given, (2, *context) each.
        names: (D,) of the densities, in the order in which they are judged: one builds on those before it.
    """
    before, again = densities(x, latents, contexts), densities(x, latents, contexts)

    def compare(what: str, after: Tensor, unchanged: Tensor) -> None:
        for i, name in enumerate(names):
            old, new = before[i][unchanged], after[i][unchanged]
            steady = nearly_equal(before[i], again[i])  # some conditionals change with every call
            if steady and not nearly_equal(old, new):
                apart = (old - new).abs().max()
                raise ValueError(
                    f"{name} of one example and particle depends on the other {what}: it moves by {apart:.3g} "
                    "nats when they change. Tensors are (particles S, examples B, *event), and a layer that works "
                    "on dimension 0 or 1 (softmax(dim=1), a Transformer, a recurrent net) mixes them; let it work "
                    "on dimension -1, or give it (S * B, *event)"
                )

    for s, b in ((0, 0), (1, 1)):
        swapped, *others = (part[[1 - b, 1 - b]] for part in (x, *contexts))
        examples, particles = (torch.zeros(2, 2, dtype=torch.bool, device=x.device) for _ in range(2))
        examples[:, 1 - b] = particles[1 - s, b] = True
        compare("examples", densities(swapped, latents, tuple(others)), examples)
        changed = [z.clone() for z in latents]
        for z, old in zip(changed, latents, strict=True):
            z[s, b] = old[1 - s, 1 - b]
        after = densities(x, changed, contexts)
        compare("examples", after, examples)
        compare("particles", after, particles)


def nearly_equal(x: Tensor, y: Tensor) -> bool:
    """Whether log-densities are equal but for rounding."""
    return torch.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)


@contextmanager
def name_failing_conditional(conditionals: Mapping[str, nn.Module]) -> Iterator[None]:
    """Turns a RuntimeError of a conditional, or a result that is no distribution, into a ValueError that names it and
    its input.

    Args:
        conditionals: by name.
    """
    called: list[str] = []
    types: list[Any] = []

    def note(name: str, module: nn.Module, contexts: Any) -> None:
        called.append(f"{name} was given {' and '.join(str(tuple(c.shape)) for c in contexts)}")
        types[:] = [contexts[0].dtype, next((p.dtype for p in module.parameters()), contexts[0].dtype)]

    hooks = [
        part.register_forward_pre_hook(lambda module, contexts, name=name: note(name, module, contexts))
        for name, part in conditionals.items()
    ]
    hooks += [
        part.register_forward_hook(lambda module, contexts, law, name=name: check_distribution(name, law))
        for name, part in conditionals.items()
    ]
    try:
        yield
    except RuntimeError as error:
        if not called or "alloc" in str(error):
            raise
        given, own = types
        if own in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{called[-1]} of {given}, but its weights are {own}: draws and densities are in float32; keep the "
                "model in it, model.float(), and give precision='bfloat16' to what trains or scores"
            ) from None
        if given != own:
            short = str(own).removeprefix("torch.")
            raise ValueError(
                f"{called[-1]} of {given}, but its weights are {own}: convert the data, x.to(torch.{short}), or "
                f"the model, model.to({given})"
            ) from None
        folded = "; al.networks.Images and Vectors make one of its two leading dimensions, particles and examples"
        hint = folded if "(unbatched)" in str(error) else ""
        raise ValueError(f"{called[-1]}, which it cannot read: {' '.join(str(error).split())}{hint}") from None
    finally:
        for hook in hooks:
            hook.remove()
