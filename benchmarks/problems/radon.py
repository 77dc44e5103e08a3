"""Varying intercepts as for radon in the counties of a state: 1,000 groups, 10,000 rows, 1,004 unknowns."""

from __future__ import annotations

from typing import Any

import numpy as np

STAN = """
data { int N; int G; array[N] int group; vector[N] x; vector[N] y; }
parameters { real mu; real<lower=0> tau; real slope; real<lower=0> sigma; vector[G] alpha; }
model {
  mu ~ normal(0, 5);
  tau ~ normal(0, 2);
  slope ~ normal(0, 5);
  sigma ~ normal(0, 2);
  alpha ~ normal(mu, tau);
  y ~ normal(alpha[group] + slope * x, sigma);
}
"""


def data(rng: np.random.Generator, groups: int, rows: int) -> dict[str, np.ndarray]:
    """Groups ``(rows,)`` from 0, the floor ``x`` 0 or 1, and the response. Every group has a row; ``zeros`` counts them."""
    group = np.concatenate([np.arange(groups), rng.integers(groups, size=rows - groups)])
    x = (rng.random(rows) < 0.3).astype(float)
    alpha = 1.3 + 0.5 * rng.standard_normal(groups)
    y = alpha[group] - 0.7 * x + 0.8 * rng.standard_normal(rows)
    return {"group": group, "x": x, "y": y, "zeros": np.zeros(groups)}


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def radon(group: Any, x: Any, y: Any, zeros: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(2.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        with pyro.plate("groups", len(zeros)):
            alpha = pyro.sample("alpha", dist.Normal(mu, tau))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(alpha[..., group] + slope * x, sigma), obs=y)

    return radon


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import numpyro
    import numpyro.distributions as dist

    def radon(group: Any, x: Any, y: Any, zeros: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(2.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        with numpyro.plate("groups", len(zeros)):
            alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(alpha[..., group] + slope * x, sigma), obs=y)

    return radon


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program, whose groups count from 1."""
    return {
        "N": len(data["y"]), "G": len(data["zeros"]), "group": data["group"] + 1, "x": data["x"], "y": data["y"],
    }  # fmt: skip


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC."""
    import pymc as pm

    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfNormal("tau", 2.0)
        slope = pm.Normal("slope", 0.0, 5.0)
        sigma = pm.HalfNormal("sigma", 2.0)
        alpha = pm.Normal("alpha", mu, tau, shape=len(data["zeros"]))
        pm.Normal("y", alpha[data["group"]] + slope * data["x"], sigma, observed=data["y"])
    return model
