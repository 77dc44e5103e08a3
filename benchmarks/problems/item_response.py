"""Item response, two parameters an item: 100 items, 500 persons, 700 unknowns."""

from __future__ import annotations

from typing import Any

import numpy as np

STAN = """
data { int I; int P; array[I, P] int y; }
parameters { vector[P] ability; vector[I] difficulty; vector<lower=0>[I] discrimination; }
model {
  ability ~ normal(0, 1);
  difficulty ~ normal(0, 1.5);
  discrimination ~ lognormal(0, 0.5);
  for (i in 1:I) y[i] ~ bernoulli_logit(discrimination[i] * (ability - difficulty[i]));
}
"""


def data(rng: np.random.Generator, items: int, persons: int) -> dict[str, np.ndarray]:
    """Answers 0 or 1, ``(items, persons)``, drawn from the model."""
    ability, difficulty = rng.standard_normal(persons), rng.standard_normal((items, 1))
    discrimination = np.exp(0.4 * rng.standard_normal((items, 1)))
    probability = 1 / (1 + np.exp(-discrimination * (ability - difficulty)))
    return {"y": (rng.random((items, persons)) < probability).astype(float)}


def pyro_model() -> Any:
    """The model in Pyro."""
    import pyro
    import pyro.distributions as dist

    def item_response(y: Any) -> None:
        items, persons = y.shape
        item, person = pyro.plate("item", items, dim=-2), pyro.plate("person", persons, dim=-1)
        with person:
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        with item:
            difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.5))
            discrimination = pyro.sample("discrimination", dist.LogNormal(0.0, 0.5))
        with item, person:
            pyro.sample("y", dist.Bernoulli(logits=discrimination * (ability - difficulty)), obs=y)

    return item_response


def numpyro_model() -> Any:
    """The model in NumPyro."""
    import numpyro
    import numpyro.distributions as dist

    def item_response(y: Any) -> None:
        items, persons = y.shape
        item, person = numpyro.plate("item", items, dim=-2), numpyro.plate("person", persons, dim=-1)
        with person:
            ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        with item:
            difficulty = numpyro.sample("difficulty", dist.Normal(0.0, 1.5))
            discrimination = numpyro.sample("discrimination", dist.LogNormal(0.0, 0.5))
        with item, person:
            numpyro.sample("y", dist.Bernoulli(logits=discrimination * (ability - difficulty)), obs=y)

    return item_response


def stan_data(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The data of the Stan program."""
    items, persons = data["y"].shape
    return {"I": items, "P": persons, "y": data["y"].astype(int)}


def pymc_model(data: dict[str, np.ndarray]) -> Any:
    """The model in PyMC; item sites are columns ``(items, 1)``, as in Pyro."""
    import pymc as pm

    items, persons = data["y"].shape
    with pm.Model() as model:
        ability = pm.Normal("ability", 0.0, 1.0, shape=persons)
        difficulty = pm.Normal("difficulty", 0.0, 1.5, shape=(items, 1))
        discrimination = pm.LogNormal("discrimination", 0.0, 0.5, shape=(items, 1))
        pm.Bernoulli("y", logit_p=discrimination * (ability - difficulty), observed=data["y"].astype(int))
    return model
