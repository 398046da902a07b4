r"""Models of runs that were written before parameters had the units of the data.

What has changed since: counts had rates up to 10^6 and were read on a linear scale; the sigma of `normal_shared` and
`normal_per_dimension` was positive(s); the mean of `normal_fixed` and the pseudo-inputs of a VampPrior were in units
of x. config.json of a run says `units: 2` where its model has such a part, so that each run keeps its numbers.
"""

from __future__ import annotations

from torch import Tensor, nn

from allegory.family import (
    NegativeBinomialFamily,
    NormalFixed,
    NormalLearned,
    PoissonFamily,
    Standardized,
    StandardizedCounts,
)
from allegory.networks import LogStandardize, Standardize
from allegory.priors import VampPrior

__all__ = ["UNITS", "convert_legacy", "parameter_units"]

UNITS = 2
COUNTS = (PoissonFamily, NegativeBinomialFamily)


def parameter_units(model: nn.Module) -> dict[str, int]:
    """The entry of config.json: {"units": 2}, or nothing for a model whose parameters have the units that they always
    had.
    """
    changed = any(
        isinstance(part, NormalLearned | VampPrior | LogStandardize)
        or type(part) in COUNTS
        or (isinstance(part, Standardized) and isinstance(part.family, NormalFixed))
        for part in model.modules()
    )
    return {"units": UNITS} if changed and not getattr(model, "legacy", False) else {}


def convert_legacy(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Makes a model what it was when its run was written, in place.

    Args:
        model: as this version builds it.
        weights: of the run, by name.

    Returns:
        The weights, by the names that this version has for them.
    """
    if not parameter_units(model):
        return weights
    for module in [*model.modules()]:
        for name, part in module.named_children():
            if isinstance(part, StandardizedCounts):
                setattr(module, name, type(part.family)(1e6))
            elif type(part) in COUNTS:
                setattr(module, name, type(part)(1e6))
            elif isinstance(part, LogStandardize):
                setattr(module, name, Standardize(*part.loc.shape))
            elif isinstance(part, Standardized) and isinstance(part.family, NormalFixed):
                setattr(module, name, part.family)
            elif isinstance(part, NormalLearned):
                part.gain = 1.0
    weights = dict(weights)
    for name, part in model.named_modules():
        if isinstance(part, VampPrior):
            part.read = Standardize(*part.standardized.shape[1:]).to(part.standardized)
            if f"{name}.inputs" in weights:
                weights[f"{name}.standardized"] = weights.pop(f"{name}.inputs")
                weights |= {f"{name}.read.{key}": value for key, value in part.read.state_dict().items()}
    model.legacy = True  # type: ignore[assignment]
    return weights
