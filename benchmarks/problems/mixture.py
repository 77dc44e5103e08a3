"""A mixture of three Gaussians in two dimensions, its labels summed out in all four languages: 14 unknowns.

Labels can be exchanged, so methods start from the same labelling and what is compared are the components in the order of
their first coordinate, which are too far apart for chains to exchange.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

COMPONENTS, FEATURES = 3, 2

START = {
    "weights": [1 / 3, 1 / 3, 1 / 3],
    "locs": [[-2.0, 0.0], [0.0, 2.0], [2.0, 0.0]],
    "scales": [[0.8, 0.8], [0.8, 0.8], [0.8, 0.8]],
}

STAN = """
data { int N; int K; int D; array[N] vector[D] x; }
parameters { simplex[K] weights; array[K] vector[D] locs; array[K] vector<lower=0>[D] scales; }
model {
  weights ~ dirichlet(rep_vector(2, K));
  for (k in 1:K) {
    locs[k] ~ normal(0, 3);
    scales[k] ~ lognormal(0, 0.5);
  }
  vector[K] log_weights = log(weights);
  for (n in 1:N) {
    vector[K] terms = log_weights;
    for (k in 1:K) terms[k] += normal_lpdf(x[n] | locs[k], scales[k]);
    target += log_sum_exp(terms);
  }
}
"""


def data(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Rows ``(rows, 2)`` from three components that overlap a little."""
    label = rng.choice(COMPONENTS, size=rows, p=[0.3, 0.4, 0.3])
    locs = np.array([[-2.0, -0.5], [0.2, 1.8], [2.2, -0.3]])
    scales = np.array([[0.8, 1.0], [1.0, 0.7], [0.7, 0.9]])
    return {"x": locs[label] + scales[label] * rng.standard_normal((rows, FEATURES))}


def quantities(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sites ``(chain, draw, component, ...)`` with components in the order of their first coordinate."""
    order = np.argsort(draws["locs"][..., 0], axis=-1)
    wide = order[..., None]
    return {
        "weights": np.take_along_axis(draws["weights"], order, axis=-1),
        "locs": np.take_along_axis(draws["locs"], wide, axis=-2),
        "scales": np.take_along_axis(draws["scales"], wide, axis=-2),
    }


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def mixture(x: Any) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(x.new_full((COMPONENTS,), 2.0)))
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0).expand([COMPONENTS, FEATURES]).to_event(2))
        scales = pyro.sample("scales", dist.LogNormal(0.0, 0.5).expand([COMPONENTS, FEATURES]).to_event(2))
        component = dist.Normal(locs, scales).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), component), obs=x)

    return mixture


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def mixture(x: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full((COMPONENTS,), 2.0)))
        locs = numpyro.sample("locs", dist.Normal(0.0, 3.0).expand([COMPONENTS, FEATURES]).to_event(2))
        scales = numpyro.sample("scales", dist.LogNormal(0.0, 0.5).expand([COMPONENTS, FEATURES]).to_event(2))
        component = dist.Normal(locs, scales).to_event(1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), component), obs=x)

    return mixture


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    return {"N": len(data["x"]), "K": COMPONENTS, "D": FEATURES, "x": data["x"]}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC: the sum over labels is a term of its own, since ``pm.Mixture`` takes no diagonal components."""
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(COMPONENTS, 2.0))
        locs = pm.Normal("locs", 0.0, 3.0, shape=(COMPONENTS, FEATURES))
        scales = pm.LogNormal("scales", 0.0, 0.5, shape=(COMPONENTS, FEATURES))
        standard = (data["x"][:, None, :] - locs) / scales
        log_normal = -0.5 * standard**2 - pt.log(scales) - 0.5 * math.log(2 * math.pi)
        pm.Potential("x", pm.math.logsumexp(pt.log(weights) + log_normal.sum(-1), axis=-1).sum())
    return model
