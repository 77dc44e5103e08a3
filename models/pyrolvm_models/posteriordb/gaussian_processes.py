"""Gaussian processes with eleven points: a regression, and counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Draw, Maker, Volume, fields, tensor

JITTER = 1e-10
"""What the model of counts adds to the diagonal of its covariance; the factor then needs double precision."""


def covariance(x: Tensor, rho: Tensor, alpha: Tensor) -> Tensor:
    """The squared-exponential covariance of points ``x`` of shape ``(n,)``, shape ``(n, n)``."""
    distance = (x[:, None] - x) / rho
    return alpha * alpha * torch.exp(-0.5 * distance * distance)


def regression(x: Tensor, y: Tensor) -> None:
    """The posterior ``gp_pois_regr-gp_regr``; ``sigma`` is added to the diagonal as it is, so it is the variance of the noise."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    matrix = covariance(x, rho, alpha) + sigma * torch.eye(len(x), dtype=x.dtype)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), matrix), obs=y)


def counts(x: Tensor, k: Tensor) -> None:
    """The posterior ``gp_pois_regr-gp_pois_regr``: Poisson counts whose log rate ``f`` is a Gaussian process."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    matrix = covariance(x, rho, alpha) + JITTER * torch.eye(len(x), dtype=x.dtype)
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros_like(x), scale_tril=torch.linalg.cholesky(matrix)))
    with pyro.plate("point", len(x)):
        pyro.sample("k", dist.Poisson(f.exp()), obs=k)


def _log_volume(data: Data, draw: Draw) -> Tensor:
    """The reference's density is of the standardised field, whose Cholesky factor has this log determinant."""
    x = tensor(data["x"])
    matrix = covariance(x, draw["rho"], draw["alpha"]) + JITTER * torch.eye(len(x), dtype=x.dtype)
    return torch.linalg.cholesky(matrix).diagonal().log().sum()


PROBLEMS: dict[str, Maker] = {
    "gp_pois_regr-gp_regr": lambda data: lvm.Problem(regression, *fields(data, "x", "y")),
    "gp_pois_regr-gp_pois_regr": lambda data: lvm.Problem(counts, *fields(data, "x", "k")),
}
VOLUMES: dict[str, Volume] = {"gp_pois_regr-gp_pois_regr": _log_volume}
