"""Eight schools, non-centred, with the data of Rubin (1981): 10 unknowns."""

from __future__ import annotations

from typing import Any

import numpy as np

STAN = """
data { int J; vector[J] sigma; vector[J] y; }
parameters { real mu; real<lower=0> tau; vector[J] theta_trans; }
model {
  mu ~ normal(0, 5);
  tau ~ cauchy(0, 5);
  theta_trans ~ normal(0, 1);
  y ~ normal(mu + tau * theta_trans, sigma);
}
"""


def data(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The eight schools; nothing is random."""
    return {
        "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    }


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def eight_schools(sigma: Any, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * theta_trans, sigma), obs=y)

    return eight_schools


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import numpyro
    import numpyro.distributions as dist

    def eight_schools(sigma: Any, y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", len(y)):
            theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * theta_trans, sigma), obs=y)

    return eight_schools


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    return {"J": len(data["y"]), **data}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC."""
    import pymc as pm

    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        theta_trans = pm.Normal("theta_trans", 0.0, 1.0, shape=len(data["y"]))
        pm.Normal("y", mu + tau * theta_trans, data["sigma"], observed=data["y"])
    return model
