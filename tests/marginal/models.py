"""Problems whose evidence is known, by formulas of their own."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import betaln, gammaln
from scipy.stats import multivariate_normal

import pyrolvm as lvm


def doubles(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def regression(rows=40, size=3):
    random = np.random.default_rng(1)
    x = random.normal(size=(rows, size))
    y = x @ random.normal(size=size) + 0.7 * random.normal(size=rows)

    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.5).expand([size]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)

    covariance = 2.25 * x @ x.T + 0.49 * np.eye(rows)
    exact = multivariate_normal(np.zeros(rows), covariance).logpdf(y)
    return lvm.Problem(model, doubles(x), doubles(y)), float(exact)


def rates():
    tested, broken = np.array([50.0, 20, 35]), np.array([3.0, 1, 5])

    def model(tested, broken):
        with pyro.plate("batch", len(tested)):
            rate = pyro.sample("rate", dist.Beta(1.5, 9.0))
            pyro.sample("broken", dist.Binomial(tested, rate), obs=broken)

    ways = gammaln(tested + 1) - gammaln(broken + 1) - gammaln(tested - broken + 1)
    exact = np.sum(ways + betaln(1.5 + broken, 9.0 + tested - broken) - betaln(1.5, 9.0))
    return lvm.Problem(model, doubles(tested), doubles(broken)), float(exact)


def two_modes():
    """One unknown whose sign the data do not tell, with labels summed out; the exact value is by quadrature."""
    y = np.array([-2.1, 1.9, 2.2, -1.8, 2.0, -2.3])

    def model(y):
        place = pyro.sample("place", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(place * (2 * label - 1), 0.5), obs=y)

    grid = np.linspace(-12.0, 12.0, 20_001)
    each = np.logaddexp(
        -0.5 * ((y[:, None] - grid) / 0.5) ** 2, -0.5 * ((y[:, None] + grid) / 0.5) ** 2
    ) - math.log(2 * 0.5 * math.sqrt(2 * math.pi))  # fmt: skip
    log_joint = each.sum(0) - 0.5 * (grid / 3.0) ** 2 - math.log(3.0 * math.sqrt(2 * math.pi))
    exact = math.log(np.sum(np.exp(log_joint - log_joint.max())) * (grid[1] - grid[0])) + log_joint.max()
    return lvm.Problem(model, doubles(y)), exact


def twenty():
    random = np.random.default_rng(4)
    covariance = 0.9 * np.ones((20, 20)) + 0.1 * np.eye(20)
    y = np.linalg.cholesky(covariance) @ random.normal(size=20) + 0.2 * random.normal(size=20)

    def model(covariance, y):
        mean = pyro.sample("mean", dist.MultivariateNormal(torch.zeros(20, dtype=y.dtype), covariance))
        pyro.sample("y", dist.Normal(mean, 0.2).to_event(1), obs=y)

    exact = multivariate_normal(np.zeros(20), covariance + 0.04 * np.eye(20)).logpdf(y)
    return lvm.Problem(model, doubles(covariance), doubles(y)), float(exact)
