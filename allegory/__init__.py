"""Variational autoencoders of any depth, in nats.

A conditional distribution is a module whose call returns a `torch.distributions.Distribution`. A VAE is three of
them: prior, encoder, decoder. A hierarchical VAE is a chain of them. One trace scores them all.
"""

from allegory import architectures, families, networks
from allegory.ais import ais
from allegory.checkpoint import load
from allegory.conditional import Conditional, StandardNormal
from allegory.diagnose import Diagnosis, diagnose
from allegory.evaluate import bound_curve, evaluate, log_likelihood
from allegory.ladder import TopDown
from allegory.model import VAE, Trace
from allegory.objectives import dreg, elbo, free_bits, iwae, renyi, stl
from allegory.train import Record, fit

__version__ = "0.1.0"

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
