"""Sparse logistic regression under a regularised horseshoe: 200 rows, 50 predictors of which 4 matter. 103 unknowns.

    intercept ~ Normal(0, 2)
    tau       ~ HalfCauchy(0.0123)
    c2        ~ InverseGamma(2, 8)
    lam_j     ~ HalfCauchy(1)                          j = 0..49
    beta_j    ~ Normal(0, tau s_j),                    s_j^2 = c2 lam_j^2 / (c2 + tau^2 lam_j^2)
    y_i       ~ Bernoulli(logits = intercept + x_i beta)

The scale of ``tau`` is that of 4 expected nonzero coefficients, 4 / 46 * 2 / sqrt(200). Each coefficient has a funnel with its
``lam_j``, all share ``tau``, and those that may or may not be zero have a spike and a slab. ``tau``, ``c2`` and ``lam`` have tails
so heavy that moments hardly exist: their logarithms are scored in their place.

Data: drawn by NumPy's generator with seed 7; predictors are standard normal with correlations 0.5^|j - k|, the intercept
is 0.5, the coefficients are 3, -2, 1.5 and -1 at 0, 10, 20 and 30.

References:
    Piironen and Vehtari (2017). Sparsity information and regularization in the horseshoe and other shrinkage priors.
        https://doi.org/10.1214/17-EJS1337SI
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Array, Entry, Sampling

ROWS, PREDICTORS, NONZERO, SEED = 200, 50, 4, 7
SCALE = NONZERO / (PREDICTORS - NONZERO) * 2 / math.sqrt(ROWS)
BETA = {0: 3.0, 10: -2.0, 20: 1.5, 30: -1.0}


def _scales() -> tuple[Tensor, Tensor]:
    """The global scale and the variance of the slab."""
    tau = pyro.sample("tau", dist.HalfCauchy(SCALE))
    c2 = pyro.sample("c2", dist.InverseGamma(2.0, 8.0))
    pyro.deterministic("log_tau", tau.log())
    pyro.deterministic("log_c2", c2.log())
    return tau, c2


def _local(tau: Tensor, c2: Tensor) -> Tensor:
    """The standard deviation of each coefficient; inside the plate of predictors."""
    lam = pyro.sample("lam", dist.HalfCauchy(1.0))
    pyro.deterministic("log_lam", lam.log())
    return tau * lam * (c2 / (c2 + (tau * lam) ** 2)).sqrt()


def _answers(beta: Tensor, x: Tensor, y: Tensor) -> None:
    """The likelihood."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=intercept.unsqueeze(-1) + beta @ x.T), obs=y)


def centred(x: Tensor, y: Tensor) -> None:
    """The coefficients themselves.

    Args:
        x: predictors, shape ``(n, p)``.
        y: answers, 0.0 or 1.0, shape ``(n,)``.
    """
    tau, c2 = _scales()
    with pyro.plate("predictor", x.shape[1]):
        beta = pyro.sample("beta", dist.Normal(0.0, _local(tau, c2)))
    _answers(beta, x, y)


def noncentred(x: Tensor, y: Tensor) -> None:
    """Standardised coefficients; arguments as of :func:`centred`."""
    tau, c2 = _scales()
    with pyro.plate("predictor", x.shape[1]):
        scale = _local(tau, c2)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        beta = pyro.deterministic("beta", z * scale)
    _answers(beta, x, y)


def data() -> tuple[Array, Array]:
    """Predictors ``(200, 50)`` and answers ``(200,)``."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((ROWS, PREDICTORS))
    for j in range(1, PREDICTORS):
        x[:, j] = 0.5 * x[:, j - 1] + math.sqrt(0.75) * x[:, j]
    x = np.round(x, 6)
    logits = 0.5 + sum(value * x[:, j] for j, value in BETA.items())
    return x, (rng.random(ROWS) < 1 / (1 + np.exp(-logits))).astype(float)


def problem() -> lvm.Problem:
    """The centred form."""
    return lvm.Problem(centred, *(torch.tensor(part) for part in data()))


def twin() -> lvm.Problem:
    """The non-centred form."""
    return lvm.Problem(noncentred, *(torch.tensor(part) for part in data()))


_WHY = "its tail is so heavy that its moments hardly exist: log_{} is scored in its place"

ENTRY = Entry(
    problem=problem,
    scored=("intercept", "log_tau", "log_c2", "log_lam", "beta"),
    twin=twin,
    unscored={site: _WHY.format(site) for site in ("tau", "c2", "lam")},
    sampling=Sampling(warmup=2000, target_accept=0.99),
)
