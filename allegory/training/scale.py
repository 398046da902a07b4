r"""Scale: whether networks can begin with the data as they are, and put out what their family reads.

At the start a network puts out numbers around 1 for inputs around 1. Raw levels of 0..255, or salaries, end elsewhere:

    q(z_t | ...)   sigma at the bound of `families.positive`, 0.001, or above 50: hardly any gradient comes back, and a
                   training of any length leaves it there
    p(x | z_1)     x, in numbers above 30, costs more than 1,000 nats an element: the law does not reach there; or x
                   varies by less than 0.01, and the law's sigma is at least 0.001

And a network that ends in a sigmoid, as they do where a loss reads probabilities, leaves log-odds within 0..1.

No such training fails, and its bound is that of a much worse model. Models that read x in units of its own, as those of
`allegory.architectures` do that are given `data`, show none of it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.chain import FixedChain
from allegory.conditional import Conditional
from allegory.elements import Reals
from allegory.evaluation.passes import evaluating
from allegory.family import Normal as NormalFamily
from allegory.family import NormalLearned, StudentTFamily
from allegory.given import Contexts
from allegory.model import VAE

__all__ = ["remark_on_scale", "warn_of_scale"]

EXAMPLES = 100
SHARE = 0.05
NARROW, WIDE = 1.01e-3, 50.0  # sigma of q
COSTS, LARGE, SMALL = 1000.0, 30.0, 0.01  # nats; of x
FAR, NEAR = 1e4, 1e-3  # the factor by which an output is to reach its ends; how near it comes
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
BOUNDED = (
    nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softmax, nn.Softmax2d, nn.Tanh, nn.Hardtanh, nn.Softsign, nn.ReLU,
    nn.ReLU6, nn.Softplus, nn.SiLU, nn.GELU, nn.ELU, nn.Mish,
)  # fmt: skip
RESHAPING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)


def warn_of_scale(model: VAE, x: Any, contexts: Contexts = ()) -> None:
    """Warns where a training would begin at a scale that it does not leave.

    Args:
        model: as it begins.
        x: (N, *event) training data, a tensor or `Stored`.
        contexts: what is given, (N, *context) each.
    """
    found = remark_on_scale(model, x, contexts)
    if found:
        warnings.warn(found, stacklevel=6)


@torch.no_grad()
def remark_on_scale(model: VAE, x: Any, contexts: Contexts = ()) -> str:
    """What is wrong with the scale of x, in a line; empty where nothing is.

    Args:
        model: as it begins.
        x: (N, *event) training data, a tensor or `Stored`.
        contexts: what is given, (N, *context) each.

    >>> remark_on_scale(model, x)
    ''
    """
    chosen, device = torch.arange(0, len(x), max(1, len(x) // EXAMPLES))[:EXAMPLES], next(model.parameters()).device
    rows, given = x[chosen].to(device), tuple(c[chosen].to(device) for c in contexts)
    if isinstance(model, FixedChain):
        return _remark_on_noise(model, rows)
    if squashed := _remark_on_ends(model, rows, given):
        return squashed
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(0)
        trace = model(rows, given=given)
        cost = -trace.log_px.median().item() / math.prod(rows.shape[1:])
    seen = f"x, as it is read, goes from {rows.min().item():.4g} to {rows.max().item():.4g}"
    remedy = (
        "networks begin well with numbers around 1: give architectures.mlp or conv the training data, data=x; or "
        "standardise what your own encoder reads, (x - mean) / std"
    )
    for t, q in enumerate(trace.q, start=1):
        extreme = _share_of_extremes(q)
        if extreme > SHARE:
            return (
                f"{extreme:.0%} of the sigmas of {model._q_name(t)} begin at 0.001 or above {WIDE:g}, where hardly any "
                f"gradient moves them: {seen}; {remedy}"
            )
    more = ", and take families.standardized for the likelihood"
    if cost > COSTS and rows.abs().median().item() > LARGE:
        return f"p(x | z_1) begins at {cost:,.0f} nats for each element of x: {seen}; {remedy}{more}"
    spread = rows.double().std(0, correction=0).median().item()
    bounded = isinstance(getattr(model.decoders[0], "family", None), NormalFamily | NormalLearned | StudentTFamily)
    if bounded and 0 < spread < SMALL:
        return f"x varies by {spread:.2g}, and sigma of p(x | z_1) is at least 0.001: {seen}; {remedy}{more}"
    return ""


def _remark_on_noise(model: Any, x: Tensor) -> str:
    """Of real numbers that are far larger or smaller than the noise of the levels; others have a scale of their own."""
    elements = getattr(model.decoders, "elements", None)
    if not isinstance(elements, Reals):
        return ""
    size = elements.read(x).square().mean().sqrt().item()
    if 0.1 < size < 10:
        return ""
    return (
        f"x, as noise is added to it, is of a size of {size:.4g}, and the noise is for numbers around 1: "
        "give architectures.diffusion the training data, data=x"
    )


def _remark_on_ends(model: VAE, x: Tensor, given: Contexts) -> str:
    """The conditional whose network ends in a bounded layer, while its family reads any real number; "" for none."""
    for name, part in model._conditionals().items():
        reads = getattr(part.family, "reads", "") if isinstance(part, Conditional) else ""
        if not reads:
            continue
        last = part.network
        while isinstance(last, nn.Sequential):
            last = next((layer for layer in reversed(last) if not isinstance(layer, RESHAPING)), nn.Identity())
        ends = f"ends in {type(last).__name__}" if isinstance(last, BOUNDED) else ""
        if not ends and part is model.decoders[0] and isinstance(part.network, nn.Module):
            ends = _bounds(model, part.network, x, given)
        if ends:
            return f"the network of {name} {ends}, and its family reads {reads}, any real numbers: leave that layer out"
    return ""


def _bounds(model: VAE, network: nn.Module, x: Tensor, given: Contexts) -> str:
    """Where the output of the network of p(x | z_1) ends, however large that of its last layer of weights is, in words;
    "" where it does not: a sigmoid need not be a layer.
    """
    called: list[nn.Module] = []
    outputs: list[Any] = []

    def run(*hooks: Any) -> None:
        try:
            with evaluating(model), torch.random.fork_rng():
                torch.manual_seed(0)
                model(x, given=given)
        finally:
            for hook in hooks:
                hook.remove()

    layers = [part for part in network.modules() if isinstance(part, WEIGHTED)]
    run(*(layer.register_forward_hook(lambda layer, *_: called.append(layer)) for layer in layers))
    if not called:
        return ""
    last: list[Tensor] = []

    def enlarge(layer: nn.Module, inputs: Any, y: Tensor) -> Tensor:
        last.append(FAR * y)
        return last[-1]

    run(
        called[-1].register_forward_hook(enlarge),
        network.register_forward_hook(lambda _, inputs, y: outputs.append(y)),
    )
    if not isinstance(outputs[0], Tensor) or outputs[0].is_complex():
        return ""
    if torch.equal(outputs[0].flatten(), last[0].flatten()):
        return ""  # nothing comes after it
    low, high = outputs[0].min().item(), outputs[0].max().item()
    if high <= 1 < high + NEAR and (0 <= low < NEAR or -1 <= low < NEAR - 1):
        return f"puts out {'0' if low >= 0 else '-1'}..1 alone"
    each = outputs[0].flatten(0, 1)
    moved = (each != each[0]).any(0)  # a number that is 0 throughout has not been cut off
    zeros = (each[:, moved] == 0).double().mean().item() if bool(moved.any()) else 0.0
    return "never puts out a number below 0" if low == 0 and SHARE < zeros < 1 else ""


def _share_of_extremes(law: Distribution) -> float:
    """Of the sigmas of a normal law, those at the lower bound or far above 1."""
    normal = law.base_dist if isinstance(law, Independent) else law
    if not isinstance(normal, Normal):
        return 0.0
    sigma: Tensor = normal.scale
    return ((sigma < NARROW) | (sigma > WIDE)).double().mean().item()
