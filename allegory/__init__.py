"""Variational autoencoders of any depth, in nats.

A conditional distribution is a module whose call returns a `torch.distributions.Distribution`. A VAE is three of
them: prior, encoder, decoder. A hierarchical VAE is a chain of them. One trace scores them all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allegory import architectures, families, networks
    from allegory.annealing import ais
    from allegory.checkpoint import load
    from allegory.conditional import Conditional, StandardNormal
    from allegory.diagnosis import Diagnosis, diagnose
    from allegory.evaluation import bound_curve, evaluate, log_likelihood
    from allegory.ladder import TopDown
    from allegory.model import VAE, Trace
    from allegory.objectives import dreg, elbo, free_bits, iwae, renyi, stl
    from allegory.train import Record, fit

__version__ = "0.2.0"

__all__ = [
    "VAE",
    "Conditional",
    "Diagnosis",
    "Record",
    "StandardNormal",
    "TopDown",
    "Trace",
    "ais",
    "architectures",
    "bound_curve",
    "diagnose",
    "dreg",
    "elbo",
    "evaluate",
    "families",
    "fit",
    "free_bits",
    "iwae",
    "load",
    "log_likelihood",
    "networks",
    "renyi",
    "stl",
]

# Where each name is. It is fetched when it is first asked for: `allegory --help` does not wait for torch.
_MODULES = {
    "annealing": ["ais"],
    "checkpoint": ["load"],
    "conditional": ["Conditional", "StandardNormal"],
    "diagnosis": ["Diagnosis", "diagnose"],
    "evaluation": ["bound_curve", "evaluate", "log_likelihood"],
    "ladder": ["TopDown"],
    "model": ["VAE", "Trace"],
    "objectives": ["dreg", "elbo", "free_bits", "iwae", "renyi", "stl"],
    "train": ["Record", "fit"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"allegory.{module}"), name)
            return found
    try:
        return import_module(f"allegory.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"allegory.{name}":
            raise
        raise AttributeError(f"module 'allegory' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
