r"""What is given: the c of a conditional model p(x | c), data that are never modelled, such as a label or an embedding.

    generate  p(x, z_1..T | c) = p(z_T | c) prod_{t=1..T} p(z_{t-1} | s_t, c)
    infer     q(z_1..T | x, c) = prod_{t=1..T} q(z_t | z_{t-1}, c)                      bottom-up
         or   q(z_1..T | x, c) = q(z_T | x, c) prod_{t=1..T-1} q(z_t | s_{t+1}, x, c)   top-down

(Sohn, Lee & Yan 2015.) Every conditional reads c after its own context, and so does the network of a top-down
posterior; states do not. A prior reads c if its call takes an argument without a default; otherwise p(z_T | c) =
p(z_T). Beside a context with particles c is expanded to (S, B, *context), so that both can be concatenated.

Numbers c may be read in units of their own, (c - loc) / scale: columns of 0 and 1, such as a label in unit vectors, as
they are; others standardised. A column that was constant in training is read as 0: nothing was learned of it, and
another value there, a category that was never there, is an error.

Shapes: S particles, B batch; c is (B, *context), one tensor or several.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from allegory.networks import Concat, Standardize
from allegory.runtime.messages import describe_index
from allegory.units import units_of, warn_of_outliers

__all__ = [
    "Beside", "Contexts", "Given", "Reading", "Shifted", "as_contexts", "check_contexts", "check_sizes",
    "expand_contexts", "reads_given", "take_rows",
]  # fmt: skip

Given: TypeAlias = Tensor | Sequence[Tensor] | None
"""What is given, as a user hands it over."""

Contexts: TypeAlias = tuple[Tensor, ...]
"""The same inside: (B, *context) each, none for an unconditional model."""


def as_contexts(given: Given, count: int | None = None, name: str = "given") -> Contexts:
    """What is given as a tuple of tensors, (N, *context) each.

    Args:
        given: a tensor, several, or None.
        count: N, as many rows as they have to have; None where that is not known.
        name: in the message.

    Raises:
        ValueError: no tensors, or of another number of rows.

    >>> as_contexts(None), [c.shape for c in as_contexts(torch.zeros(5, 3), 5)]
    ((), [torch.Size([5, 3])])
    """
    if given is None:
        return ()
    contexts = (given,) if isinstance(given, Tensor) or not isinstance(given, Sequence) else tuple(given)
    for c in contexts:
        if not isinstance(c, Tensor):
            raise ValueError(f"{name}: got {type(c).__name__}, wanted a tensor (N, *context), or several of them")
        if count is not None and (not c.dim() or c.shape[0] != count):
            raise ValueError(
                f"{name}: got shape {tuple(c.shape)} for {count} examples, wanted {count} rows, one for each example"
            )
    return contexts


def take_rows(contexts: Contexts, rows: Tensor | slice) -> Contexts:
    """Some rows of each.

    >>> [c.shape for c in take_rows((torch.zeros(5, 3),), slice(2))]
    [torch.Size([2, 3])]
    """
    return tuple(c[rows] for c in contexts)


def expand_contexts(contexts: Contexts, batch: Sequence[int]) -> Contexts:
    """(B, *context) each to (*batch, *context), whose last batch dimension is B; without a copy.

    >>> [c.shape for c in expand_contexts((torch.zeros(5, 3),), (4, 5))]
    [torch.Size([4, 5, 3])]
    """
    return tuple(c.expand(*batch, *c.shape[1:]) for c in contexts)


def reads_given(module: nn.Module) -> bool:
    """Whether a prior reads what is given: its call takes an argument without a default, or any number of them.

    >>> reads_given(al.StandardNormal(2)), reads_given(al.Conditional(nn.Linear(3, 4), al.families.normal))
    (False, True)
    """
    try:
        parameters: Any = inspect.signature(getattr(module, "forward", module)).parameters.values()
    except (TypeError, ValueError):  # what is not written in Python
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        p.kind is inspect.Parameter.VAR_POSITIONAL or (p.kind in positional and p.default is inspect.Parameter.empty)
        for p in parameters
    )


def check_contexts(model: nn.Module, contexts: Contexts, device: torch.device, name: str = "given") -> None:
    """Raises a ValueError, in one line, for what a model cannot read.

    Args:
        model: any VAE.
        contexts: (N, *context) each.
        device: of the model.
        name: in the message.
    """
    config = getattr(model, "config", None)
    if config is not None:
        _check_shapes(config.get("given"), contexts, name)
    for c in contexts:
        if c.device.type != device.type:
            raise ValueError(f"{name} is on {c.device}, the model on {device}: move one of them, to({device.type!r})")
        broken = ~torch.isfinite(c)
        if bool(broken.any()):
            raise ValueError(
                f"{name}: {int(broken.sum())} values are NaN or infinite, the first in "
                f"{describe_index(broken.nonzero()[0].tolist())}; what is given has no gaps: drop those rows, or fill "
                "them in"
            )
    for part in model.modules() if contexts else ():
        if isinstance(part, Reading):
            part.check(contexts[0], name)
        if (size := getattr(part, "exposure", None)) is not None and not isinstance(part, Reading):
            check_sizes(contexts[-1][..., size], name)


def check_sizes(sizes: Tensor, name: str) -> None:
    """Raises a ValueError for a size of counts, (N,), that is none."""
    if bool((sizes <= 0).any()):
        row = (sizes <= 0).nonzero()[0].tolist()
        raise ValueError(
            f"{name}: the size of counts is {sizes[tuple(row)].item():g} in {describe_index(row)}, wanted above 0: "
            "counts over nothing say nothing; drop such rows"
        )


def _check_shapes(wanted: Sequence[int] | None, contexts: Contexts, name: str) -> None:
    """Checks what is given to a model of `allegory.architectures`, which says what it reads."""
    if wanted is None and contexts:
        raise ValueError(f"{name}: this model takes none; build it with one, architectures.mlp(..., given=(k,))")
    if wanted is None:
        return
    asked = f"(N, {', '.join(map(str, wanted))})"
    if not contexts:
        raise ValueError(f"{name}: this model is of x given c, and there is no c; wanted given=c, {asked}")
    (c, *others) = contexts
    if others or list(c.shape[-len(wanted) :]) != list(wanted) or c.dim() <= len(wanted):
        got = " and ".join(str(tuple(one.shape)) for one in contexts)
        labels = (
            "; labels become unit vectors by torch.nn.functional.one_hot(labels, k).float()" if c.dim() == 1 else ""
        )
        raise ValueError(f"{name}: got shape {got}, wanted {asked}, as the model was built with{labels}")
    if not c.is_floating_point():
        raise ValueError(f"{name}: got {c.dtype}, wanted floating point numbers; use c.float()")


class Reading(Standardize):
    """How networks read numbers c, (*batch, k) -> the same; the constants are stored with the weights.

    Args:
        k: how many numbers.
        exposure: which of them is the size of counts, whose logarithm is read; None for none.
        hidden: whether the size is not read at all: the rate of counts does not depend on it.

    >>> read = Reading(3)
    >>> read.fit(torch.tensor([[0.0, 10.0, 7.0], [1.0, 30.0, 7.0]]))
    >>> read(torch.tensor([1.0, 30.0, 7.0]))
    tensor([1., 1., 0.])
    """

    def __init__(self, k: int, exposure: int | None = None, hidden: bool = False) -> None:
        super().__init__(k)
        self.exposure, self.hidden = exposure, hidden

    def transform(self, x: Tensor) -> Tensor:
        """What is standardised: c, a size on a logarithmic scale, and one that is hidden 0."""
        if self.exposure is None:
            return x
        at = torch.arange(x.shape[-1], device=x.device) == self.exposure
        return x.masked_fill(at, 0) if self.hidden else torch.where(at, x.clamp(min=1e-30).log(), x)

    @torch.no_grad()
    def fit(self, c: Tensor) -> None:
        """Sets the constants from training data.

        Args:
            c: (N, k).

        Warns:
            UserWarning: values that are far from all others.

        Raises:
            ValueError: one that is too far to be computed with.
        """
        c = self.transform(c)
        loc, scale, outliers = units_of(c)
        warn_of_outliers(outliers, name="given")
        as_is = ((c == 0) | (c == 1)).all(0)
        constant = (c == c[0]).all(0)
        loc, scale = torch.where(as_is, 0.0, loc), torch.where(as_is, 1.0, scale)
        self.loc.copy_(torch.where(constant, c[0].double(), loc))
        self.scale.copy_(torch.where(constant, torch.inf, scale))

    def check(self, c: Tensor, name: str = "given") -> None:
        """Raises a ValueError for another value in a column that was constant in training.

        Args:
            c: (*batch, k).
            name: in the message.
        """
        rows = self.transform(c.reshape(-1, c.shape[-1]))
        new = torch.isinf(self.scale) & (rows != self.loc)
        if bool(new.any()):
            row, column = new.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: column {column} is {rows[row, column].item():g} in row {row}, and was "
                f"{self.loc[column].item():g} in all of the training data: the model knows no such category or value"
            )


class Beside(nn.Module):
    """A network of vectors that reads what is given, too: network(first(c_1), c_2, ..., read(c)).

    Args:
        network: of all of them concatenated.
        reading: how c is read.
        first: applied to the first context.

    >>> Beside(nn.Linear(5 + 3, 2), Reading(3))(torch.zeros(4, 7, 5), torch.zeros(7, 3)).shape
    torch.Size([4, 7, 2])
    """

    def __init__(self, network: nn.Module, reading: Reading, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.reading = first, reading
        self.network = network if isinstance(network, Concat) else Concat(network)

    def forward(self, *contexts: Tensor) -> Tensor:
        own, *others, c = _with_given(contexts)
        return self.network(own if self.first is None else self.first(own), *others, self.reading(c))


class Shifted(nn.Module):
    """A network of images that reads what is given as a shift of channels: network(first(c_1) + A read(c), c_2, ...).

    Args:
        network: (*batch, channels, H, W), ... -> anything.
        reading: how c is read.
        channels: of what is shifted.
        first: applied to the first context.

    >>> Shifted(nn.Identity(), Reading(3), channels=8)(torch.zeros(7, 8, 4, 4), torch.zeros(7, 3)).shape
    torch.Size([7, 8, 4, 4])
    """

    def __init__(self, network: nn.Module, reading: Reading, channels: int, first: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.reading, self.first = network, reading, first
        self.embedding = nn.Linear(len(reading.loc), channels, bias=False)

    def forward(self, *contexts: Tensor) -> Tensor:
        own, *others, c = _with_given(contexts)
        shift = self.embedding(self.reading(c))[..., None, None]
        return self.network((own if self.first is None else self.first(own)) + shift, *others)


def _with_given(contexts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The contexts of a network, the last of which is given."""
    if len(contexts) < 2:
        raise ValueError("given: this model is of x given c, and there is no c; wanted given=c, with the examples")
    return contexts
