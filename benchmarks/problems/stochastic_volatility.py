"""Stochastic volatility: 1,000 returns whose log variance is a random walk, non-centred: 1,003 unknowns."""

from __future__ import annotations

from typing import Any

import numpy as np

STAN = """
data { int T; vector[T] y; }
parameters { real level; real<lower=0> sigma; real<lower=0> freedom; vector[T] step; }
model {
  level ~ normal(0, 2);
  sigma ~ normal(0, 0.3);
  freedom ~ gamma(2, 0.1);
  step ~ normal(0, 1);
  y ~ student_t(freedom, 0, exp(0.5 * (level + sigma * cumulative_sum(step))));
}
"""


def data(rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
    """Returns ``(steps,)`` drawn from the model: sigma 0.15, 10 degrees of freedom."""
    log_variance = -1.0 + 0.15 * np.cumsum(rng.standard_normal(steps))
    return {"y": np.exp(0.5 * log_variance) * rng.standard_t(10, size=steps)}


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def stochastic_volatility(y: Any) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(0.3))
        freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
        with pyro.plate("time", len(y)):
            step = pyro.sample("step", dist.Normal(0.0, 1.0))
            log_variance = level + sigma * step.cumsum(-1)
            pyro.sample("y", dist.StudentT(freedom, 0.0, (0.5 * log_variance).exp()), obs=y)

    return stochastic_volatility


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def stochastic_volatility(y: Any) -> None:
        level = numpyro.sample("level", dist.Normal(0.0, 2.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(0.3))
        freedom = numpyro.sample("freedom", dist.Gamma(2.0, 0.1))
        with numpyro.plate("time", len(y)):
            step = numpyro.sample("step", dist.Normal(0.0, 1.0))
            log_variance = level + sigma * jnp.cumsum(step, -1)
            numpyro.sample("y", dist.StudentT(freedom, 0.0, jnp.exp(0.5 * log_variance)), obs=y)

    return stochastic_volatility


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    return {"T": len(data["y"]), **data}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC."""
    import pymc as pm

    with pm.Model() as model:
        level = pm.Normal("level", 0.0, 2.0)
        sigma = pm.HalfNormal("sigma", 0.3)
        freedom = pm.Gamma("freedom", alpha=2.0, beta=0.1)
        step = pm.Normal("step", 0.0, 1.0, shape=len(data["y"]))
        log_variance = level + sigma * step.cumsum()
        pm.StudentT("y", nu=freedom, mu=0.0, sigma=pm.math.exp(0.5 * log_variance), observed=data["y"])
    return model
