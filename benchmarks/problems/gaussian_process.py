"""Gaussian process regression, 80 points, the kernel's amplitude and length and the noise unknown: 3 unknowns, a Cholesky."""

from __future__ import annotations

from typing import Any

import numpy as np

JITTER = 1e-4
"""Added to the noise variance, so that single precision suffices everywhere."""

STAN = """
data { int N; array[N] real x; vector[N] y; real jitter; }
parameters { real<lower=0> amplitude; real<lower=0> length; real<lower=0> noise; }
model {
  amplitude ~ lognormal(0, 1);
  length ~ lognormal(0, 1);
  noise ~ lognormal(-1, 1);
  matrix[N, N] covariance = add_diag(gp_exp_quad_cov(x, amplitude, length), square(noise) + jitter);
  y ~ multi_normal_cholesky(rep_vector(0, N), cholesky_decompose(covariance));
}
"""


def data(rng: np.random.Generator, points: int) -> dict[str, np.ndarray]:
    """Inputs ``(points,)`` in (-4, 4), and a noisy sine with a trend."""
    x = np.sort(rng.uniform(-4, 4, size=points))
    return {"x": x, "y": np.sin(1.5 * x) + 0.2 * x + 0.3 * rng.standard_normal(points)}


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist
    import torch

    def gaussian_process(x: Any, y: Any) -> None:
        amplitude = pyro.sample("amplitude", dist.LogNormal(0.0, 1.0))[..., None, None]
        length = pyro.sample("length", dist.LogNormal(0.0, 1.0))[..., None, None]
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))[..., None, None]
        covariance = amplitude**2 * torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
        covariance = covariance + (noise**2 + JITTER) * torch.eye(len(x), dtype=x.dtype, device=x.device)
        pyro.sample(
            "y", dist.MultivariateNormal(torch.zeros_like(y), scale_tril=torch.linalg.cholesky(covariance)), obs=y
        )

    return gaussian_process


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def gaussian_process(x: Any, y: Any) -> None:
        amplitude = numpyro.sample("amplitude", dist.LogNormal(0.0, 1.0))[..., None, None]
        length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))[..., None, None]
        noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))[..., None, None]
        covariance = amplitude**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
        covariance = covariance + (noise**2 + JITTER) * jnp.eye(len(x))
        numpyro.sample(
            "y", dist.MultivariateNormal(jnp.zeros_like(y), scale_tril=jnp.linalg.cholesky(covariance)), obs=y
        )

    return gaussian_process


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    return {"N": len(data["y"]), "jitter": JITTER, **data}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC."""
    import pymc as pm
    import pytensor.tensor as pt

    x = data["x"]
    with pm.Model() as model:
        amplitude = pm.LogNormal("amplitude", 0.0, 1.0)
        length = pm.LogNormal("length", 0.0, 1.0)
        noise = pm.LogNormal("noise", -1.0, 1.0)
        covariance = amplitude**2 * pt.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
        covariance = covariance + (noise**2 + JITTER) * np.eye(len(x))
        pm.MvNormal("y", np.zeros(len(x)), chol=pt.linalg.cholesky(covariance), observed=data["y"])
    return model
