"""Variational autoencoders of any depth, in nats.

A conditional distribution is a module whose call returns a `torch.distributions.Distribution`. A VAE is three of
them: prior, encoder, decoder. A hierarchical VAE is a chain of them. One trace scores them all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from allegory.moved import keep_old_names
from allegory.runtime.openmp import limit_spinning
from allegory.version import __version__

limit_spinning()
keep_old_names(__name__)

if TYPE_CHECKING:
    from allegory import architectures, families, networks
    from allegory.compression import compress, decompress
    from allegory.conditional import Conditional, StandardNormal
    from allegory.evaluation import (
        Diagnosis,
        ais,
        bound_curve,
        diagnose,
        evaluate,
        fill,
        impute,
        impute_refitted,
        log_cells,
        log_conditional,
        log_likelihood,
        rubin,
        sample_given,
    )
    from allegory.ladder import TopDown
    from allegory.model import VAE
    from allegory.objectives import dreg, elbo, free_bits, iwae, loo, renyi, stl, vimco
    from allegory.runtime.processes import together
    from allegory.sharing import export
    from allegory.trace import Trace
    from allegory.training import Record, fit, load, save, trackers
    from allegory.views import Run, push, report

__all__ = [
    "VAE",
    "Conditional",
    "Diagnosis",
    "Record",
    "Run",
    "StandardNormal",
    "TopDown",
    "Trace",
    "__version__",
    "ais",
    "architectures",
    "bound_curve",
    "compress",
    "decompress",
    "diagnose",
    "dreg",
    "elbo",
    "evaluate",
    "export",
    "families",
    "fill",
    "fit",
    "free_bits",
    "impute",
    "impute_refitted",
    "iwae",
    "load",
    "log_cells",
    "log_conditional",
    "log_likelihood",
    "loo",
    "networks",
    "push",
    "renyi",
    "report",
    "rubin",
    "sample_given",
    "save",
    "stl",
    "together",
    "trackers",
    "vimco",
]

# Where each name is. It is fetched when it is first asked for: `allegory --help` does not wait for torch.
_MODULES = {
    "compression": ["compress", "decompress"],
    "conditional": ["Conditional", "StandardNormal"],
    "evaluation": [
        "Diagnosis",
        "ais",
        "bound_curve",
        "diagnose",
        "evaluate",
        "fill",
        "impute",
        "impute_refitted",
        "log_cells",
        "log_conditional",
        "log_likelihood",
        "rubin",
        "sample_given",
    ],
    "ladder": ["TopDown"],
    "model": ["VAE"],
    "runtime.processes": ["together"],
    "sharing": ["export"],
    "objectives": ["dreg", "elbo", "free_bits", "iwae", "loo", "renyi", "stl", "vimco"],
    "trace": ["Trace"],
    "training": ["Record", "fit", "load", "save", "trackers"],
    "views": ["Run", "push", "report"],
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
