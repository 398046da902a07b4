"""A held posterior: q(z | x) at known latents, as a function of the latents alone. No gradient reaches its parameters.
The objectives `stl` and `dreg` need it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from allegory.checks import nearly_equal
from allegory.given import Contexts
from allegory.runtime.compilation import disable_compile

__all__ = ["posterior_without_gradient"]

Inferred = tuple[tuple[Tensor, ...], tuple[Distribution, ...]]


class _Posterior(nn.Module):
    """q(z | x) at given latents, as a module of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, latents: tuple[Tensor, ...], contexts: Contexts) -> Inferred:
        return self.model._infer(x, len(latents[0]), lambda t, q, p: latents[t - 1], contexts)


@disable_compile  # functional_call does not compile
def posterior_without_gradient(
    model: Any, x: Tensor, latents: tuple[Tensor, ...], q: tuple[Distribution, ...], contexts: Contexts = ()
) -> Inferred:
    """The latents, and q(z | x) at them. The same laws as those that drew them, which is checked the first time.

    Args:
        model: any VAE.
        x: (B, *event) data.
        latents: z_1, ..., z_T, each (S, B, *event_t).
        q: the laws that drew them.
        contexts: what is given.

    Raises:
        ValueError: a posterior that is not the same twice.
    """
    posterior = _Posterior(model)
    detached = {name: parameter.detach() for name, parameter in posterior.named_parameters()}
    if model._compared:
        return functional_call(posterior, detached, (x, latents, contexts))
    before = _random_states(x.device)
    latents, again = functional_call(posterior, detached, (x, latents, contexts))
    used_randomness = not all(map(torch.equal, before, _random_states(x.device)))
    with torch.no_grad():
        laws = zip(q, again, latents, strict=True)
        if used_randomness or not all(nearly_equal(one.log_prob(z), other.log_prob(z)) for one, other, z in laws):
            raise ValueError(
                "held=True (which stl and dreg need) runs the posterior twice, and dropout would make it two different "
                "ones, as would other noise in it, or spectral norm, which changes with each run; train without them "
                "in the posterior, or with another objective"
            )
    model._compared = model.training
    return latents, again


def _random_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
