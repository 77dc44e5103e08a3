"""Stochastic volatility: 500 returns whose log variance is a stationary autoregression, centred. 503 unknowns.

    mu    ~ Normal(0, 5),   (phi + 1) / 2 ~ Beta(20, 1.5),   sigma ~ HalfNormal(1)
    h_0   ~ Normal(mu, sigma / sqrt(1 - phi^2))
    h_t   ~ Normal(mu + phi (h_{t-1} - mu), sigma)        t = 1..499
    y_t   ~ Normal(0, exp(h_t / 2))

Neighbours of h are strongly correlated, and their common scale is unknown: mean-field guides make h far too narrow, and
with it sigma too small. The density of h is written as a factor on an improper site, all steps at once.

Data: drawn from the model by NumPy's generator with seed 500: mu -1, phi 0.95, sigma 0.25.

References:
    Kim, Shephard, Chib (1998). Stochastic volatility: likelihood inference and comparison with ARCH models.
        https://doi.org/10.1111/1467-937X.00050
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm

from .base import Array, Entry, Sampling

STEPS, SEED = 500, 500
MU, PHI, SIGMA = -1.0, 0.95, 0.25


def _parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Level, persistence and the scale of the innovations."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    persistence = pyro.sample("persistence", dist.Beta(20.0, 1.5))
    phi = pyro.deterministic("phi", 2 * persistence - 1)
    return mu, phi, pyro.sample("sigma", dist.HalfNormal(1.0))


def _returns(h: Tensor, y: Tensor) -> None:
    """The likelihood."""
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(0.0, (h / 2).exp()), obs=y)


def centred(y: Tensor) -> None:
    """The log variances themselves.

    Args:
        y: returns, shape ``(n,)``.
    """
    mu, phi, sigma = _parameters()
    h = pyro.sample("h", dist.ImproperUniform(constraints.real_vector, (), (len(y),)))
    away = h - mu
    first = dist.Normal(0.0, sigma * (1 - phi**2).rsqrt()).log_prob(away[..., 0])
    rest = dist.Normal(phi.unsqueeze(-1) * away[..., :-1], sigma.unsqueeze(-1)).log_prob(away[..., 1:])
    pyro.factor("autoregression", first + rest.sum(-1))
    _returns(h, y)


def noncentred(y: Tensor) -> None:
    """Standardised innovations; arguments as of :func:`centred`."""
    mu, phi, sigma = _parameters()
    e = pyro.sample("e", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    start = e[..., :1] * (1 - phi**2).rsqrt().unsqueeze(-1)
    steps = torch.cat([start, e[..., 1:]], -1) * sigma.unsqueeze(-1)
    h = pyro.deterministic("h", mu.unsqueeze(-1) + accumulate(steps, phi), event_dim=1)
    _returns(h, y)


def accumulate(steps: Tensor, phi: Tensor) -> Tensor:
    """Solves ``h_t = phi h_{t-1} + steps_t`` with ``h_{-1} = 0`` in as many operations as the length has doublings.

    With L the shift by one, ``1 / (1 - phi L)`` is the product of ``1 + (phi L)^(2^k)`` over k, which ends where the shift
    is longer than the series.

    Args:
        steps: shape ``(..., n)``.
        phi: shape ``(...)``.
    """
    h, lag, power = steps, 1, phi.unsqueeze(-1)
    while lag < steps.shape[-1]:
        h = torch.cat([h[..., :lag], h[..., lag:] + power * h[..., :-lag]], -1)
        lag, power = 2 * lag, power * power
    return h


def data() -> Array:
    """Returns of shape ``(500,)``."""
    rng = np.random.default_rng(SEED)
    h = np.empty(STEPS)
    h[0] = MU + SIGMA / np.sqrt(1 - PHI**2) * rng.standard_normal()
    for t in range(1, STEPS):
        h[t] = MU + PHI * (h[t - 1] - MU) + SIGMA * rng.standard_normal()
    return np.round(np.exp(h / 2) * rng.standard_normal(STEPS), 6)


def problem() -> lvm.Problem:
    """The centred form."""
    return lvm.Problem(centred, torch.tensor(data()))


def twin() -> lvm.Problem:
    """The non-centred form."""
    return lvm.Problem(noncentred, torch.tensor(data()))


ENTRY = Entry(
    problem=problem,
    scored=("mu", "phi", "sigma", "h"),
    unscored={"persistence": "phi is twice it, less 1"},
    twin=twin,
    sampling=Sampling(warmup=2000, target_accept=0.995),
)
