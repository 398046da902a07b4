r"""The linear-Gaussian chain, of which everything is known exactly.

z_T ~ N(b, C_T),   z_{t-1} | s_t ~ N(W_t s_t + b_t, Q_t),   s_t = z_t, or (z_t, ..., z_T) where it is not Markov,

so x, z_1, ..., z_T are jointly Gaussian, and whatever is conditioned on whatever is affine:

p(y | c) = N(m_y + G (c - m_c), C_yy - G C_cy),   G = C_yc C_cc^-1.

That gives q(z_t | z_{t-1}), and q(z_t | s_{t+1}, x). With covariates c every mean has a term that is linear in c, too;
as one of the jointly Gaussian vectors c gives q(z_t | z_{t-1}, c), and p(x | c).
"""

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import allegory as al


class Affine(nn.Module):
    """N(W c + b, C), and N(b, C) without a context: a conditional that knows nothing of allegory."""

    def __init__(self, weight, bias, covariance):
        super().__init__()
        self.weight, self.bias, self.covariance = weight, bias, covariance

    def forward(self, *context):
        mean = al.networks.Concat()(*context) @ self.weight.T + self.bias if context else self.bias
        return MultivariateNormal(mean, self.covariance)


class Diagonal(Affine):
    """The same where the covariance is diagonal, as torch's Normal."""

    def forward(self, *context):
        return Independent(Normal((law := super().forward(*context)).mean, law.variance.sqrt()), 1)


class Relative(nn.Module):
    """q(u | h, s) of u = (z - mu_p) / sigma_p, from q(z | h, s) and p(z | s); or all given c, too."""

    def __init__(self, q, p):
        super().__init__()
        self.q, self.p = q, p

    def forward(self, h, s, *given):
        q, p = self.q(h, s, *given), self.p(s, *given)
        return Independent(Normal((q.mean - p.mean) / p.stddev, q.stddev / p.stddev), 1)


class Everywhere(nn.Module):
    """x -> (x, ..., x); what is given, the posteriors read themselves."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x, *given):
        return (x,) * self.levels


def covariance(features):
    root = torch.randn(features, features)
    return root @ root.T / features + 0.5 * torch.eye(features)


class Joint:
    """Jointly Gaussian vectors, by name."""

    def __init__(self):
        self.mean, self.cov, self.where = torch.zeros(0), torch.zeros(0, 0), {}

    def rows(self, names):
        return torch.cat([self.where[name] for name in names]) if names else torch.zeros(0, dtype=torch.long)

    def add(self, name, given, law):
        """A vector that follows p(y | given) = N(W given + b, C)."""
        rows, n = self.rows(given), len(self.mean)
        weight = law.weight if given else torch.zeros(len(law.bias), 0)
        across = weight @ self.cov[rows]
        corner = weight @ self.cov[rows][:, rows] @ weight.T + law.covariance
        self.cov = torch.cat([torch.cat([self.cov, across.T], 1), torch.cat([across, corner], 1)])
        self.mean = torch.cat([self.mean, weight @ self.mean[rows] + law.bias])
        self.where[name] = torch.arange(n, n + len(law.bias))

    def conditional(self, name, given=(), kind=Affine):
        y, c = self.rows([name]), self.rows(given)
        gain = torch.linalg.solve(self.cov[c][:, c], self.cov[c][:, y]).T
        rest = self.cov[y][:, y] - gain @ self.cov[c][:, y]
        return kind(gain, self.mean[y] - gain @ self.mean[c], (rest + rest.T) / 2)


def chain(levels, features=(4, 3, 5, 2, 3, 2), infer="up", markov=True, residual=False, covariates=0):
    """A random chain with its exact posterior, and its evidence p(x), or p(x | c); features of x, z_1, ..., z_T."""
    if residual:
        features = (4, 1, 1, 1, 1, 1)  # so that the posterior is a diagonal normal
    kind = Diagonal if residual else Affine
    joint, decoders, above = Joint(), [], []
    given = ["c"] if covariates else []
    if covariates:
        joint.add("c", [], Affine(None, torch.randn(covariates), covariance(covariates)))
    weight = torch.randn(features[levels], covariates) if covariates else None
    prior = kind(weight, torch.randn(features[levels]), covariance(features[levels]))
    joint.add(levels, given, prior)
    for t in range(levels, 0, -1):
        above = [t] if markov else [t, *above]
        below, width = features[t - 1], sum(features[i] for i in above) + covariates
        decoders.insert(0, kind(torch.randn(below, width), torch.randn(below), covariance(below)))
        if t == 1:  # of x the covariance is full in any case
            decoders[0] = Affine(decoders[0].weight, decoders[0].bias, decoders[0].covariance)
        joint.add(t - 1, [*above, *given], decoders[0])
    if infer == "up":
        encoder = [joint.conditional(t, [t - 1, *given], kind) for t in range(1, levels + 1)]
    else:
        state = {t: [t + 1] if markov else range(t + 1, levels + 1) for t in range(1, levels)}
        posteriors = [joint.conditional(t, [0, *state.get(t, []), *given], kind) for t in range(1, levels + 1)]
        if residual:
            below = zip(posteriors[:-1], decoders[1:], strict=True)
            posteriors = [*(Relative(q, p) for q, p in below), posteriors[-1]]
        encoder = al.TopDown(Everywhere(levels), posteriors, residual)
    states = None if markov else [al.networks.Concat() for _ in range(levels)]
    return al.VAE(prior, encoder, decoders, states), joint.conditional(0, given)


EXACT = {
    "bottom-up": {},
    "top-down": {"infer": "down"},
    "top-down, residual": {"infer": "down", "residual": True},
    "top-down, not Markov": {"infer": "down", "markov": False},
    "top-down, residual, not Markov": {"infer": "down", "residual": True, "markov": False},
}
