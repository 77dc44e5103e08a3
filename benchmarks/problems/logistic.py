"""Logistic regression on standard normal predictors: one more unknown than predictors, up to a million rows."""

from __future__ import annotations

from typing import Any

import numpy as np

STAN = """
data { int N; int D; matrix[N, D] x; array[N] int y; }
parameters { real intercept; vector[D] weights; }
model {
  intercept ~ normal(0, 2);
  weights ~ normal(0, 1);
  y ~ bernoulli_logit_glm(x, intercept, weights);
}
"""


def data(rng: np.random.Generator, predictors: int, rows: int) -> dict[str, np.ndarray]:
    """Predictors ``(rows, predictors)`` and outcomes 0 or 1, ``(rows,)``, with a signal of standard deviation 1.5."""
    x = rng.standard_normal((rows, predictors))
    weights = rng.standard_normal(predictors) * 1.5 / np.sqrt(predictors)
    y = rng.random(rows) < 1 / (1 + np.exp(-(0.5 + x @ weights)))
    return {"x": x, "y": y.astype(float)}


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def logistic(x: Any, y: Any) -> None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=intercept + weights @ x.T), obs=y)

    return logistic


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import numpyro
    import numpyro.distributions as dist

    def logistic(x: Any, y: Any) -> None:
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
        weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=intercept + weights @ x.T), obs=y)

    return logistic


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    rows, predictors = data["x"].shape
    return {"N": rows, "D": predictors, "x": data["x"], "y": data["y"].astype(int)}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC."""
    import pymc as pm

    with pm.Model() as model:
        intercept = pm.Normal("intercept", 0.0, 2.0)
        weights = pm.Normal("weights", 0.0, 1.0, shape=data["x"].shape[-1])
        pm.Bernoulli("y", logit_p=intercept + data["x"] @ weights, observed=data["y"].astype(int))
    return model
