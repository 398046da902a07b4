r"""Activations by name: classes of torch.nn."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeAlias

from torch import nn

__all__ = ["NAMES", "Activation", "canonical", "make_activation"]

NAMES = ("SiLU", "GELU", "ReLU", "LeakyReLU", "ELU", "Mish", "Softplus", "Tanh")

Activation: TypeAlias = str | Callable[[], nn.Module]


def canonical(activation: Activation) -> Activation:
    """The name of a known activation of torch.nn; any other unchanged.

    >>> canonical(nn.GELU)
    'GELU'
    """
    return next((name for name in NAMES if getattr(nn, name) is activation), activation)


def make_activation(name: Activation) -> Callable[[], nn.Module]:
    """The callable that makes the module.

    Raises:
        ValueError: an unknown name, or a callable that makes no module.

    >>> make_activation("GELU")()
    GELU(approximate='none')
    """
    if not isinstance(name, str):
        try:
            made = name() if callable(name) and not isinstance(name, nn.Module) else None
        except TypeError:  # a function of x, such as torch.relu
            made = None
        if not isinstance(made, nn.Module):
            raise ValueError(f"activation={name!r}: wanted a callable that makes a module, such as torch.nn.PReLU")
        return name
    if name not in NAMES:
        lower = {known.lower(): known for known in NAMES}
        nearest = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[nearest[0]]!r}? " if nearest else ""
        raise ValueError(f"activation={name!r}: {hint}wanted one of torch.nn's {', '.join(NAMES)}")
    return getattr(nn, name)
