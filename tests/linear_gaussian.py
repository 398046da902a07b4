r"""The linear-Gaussian chain, of which everything is known exactly.

z_T ~ N(b, C_T),   z_{t-1} | z_t ~ N(W_t z_t + b_t, Q_t)     =>     every marginal is Gaussian, and Bayes' rule
gives q(z_t | z_{t-1}) = N(m + G (z_{t-1} - m'), C - G W C),  G = C W' (W C W' + Q)^-1, which does not depend on x.
"""

import torch
from torch import nn
from torch.distributions import MultivariateNormal

import allegory as al


class Affine(nn.Module):
    """N(W c + b, C), and N(b, C) without a context: a conditional that knows nothing of allegory."""

    def __init__(self, weight, bias, covariance):
        super().__init__()
        self.weight, self.bias, self.covariance = weight, bias, covariance

    def forward(self, context=None):
        mean = self.bias if context is None else context @ self.weight.T + self.bias
        return MultivariateNormal(mean, self.covariance)


def covariance(features):
    root = torch.randn(features, features)
    return root @ root.T / features + 0.5 * torch.eye(features)


def bayes(prior, likelihood):
    """(p(y), p(z | y)) from p(z), p(y | z)."""
    weight = likelihood.weight
    mean = weight @ prior.bias + likelihood.bias
    cov = weight @ prior.covariance @ weight.T + likelihood.covariance
    gain = torch.linalg.solve(cov, weight @ prior.covariance).T
    rest = prior.covariance - gain @ weight @ prior.covariance
    return Affine(None, mean, cov), Affine(gain, prior.bias - gain @ mean, (rest + rest.T) / 2)


def chain(levels, features=(4, 3, 5, 2, 3, 2)):
    """A random chain with its exact posterior, and its evidence p(x); features of x, z_1, ..., z_T."""
    prior = marginal = Affine(None, torch.randn(features[levels]), covariance(features[levels]))
    encoders, decoders = [], []
    for t in range(levels, 0, -1):
        below, above = features[t - 1], features[t]
        decoder = Affine(torch.randn(below, above), torch.randn(below), covariance(below))
        marginal, encoder = bayes(marginal, decoder)
        decoders.insert(0, decoder)
        encoders.insert(0, encoder)
    return al.VAE(prior, encoders, decoders), marginal
