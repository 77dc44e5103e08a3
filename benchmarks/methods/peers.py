"""NUTS by nutpie on PyMC and by Stan, which may live in an interpreter of their own, without torch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from problems import Arrays, find

from methods.density import pymc_densities, split, stan_densities

Found = tuple[dict[str, Any], Arrays]


def pymc_density(job: dict[str, Any], arrays: Arrays) -> Found:
    """The PyMC twin's log density at the points."""
    data, points = split(arrays)
    return {"densities": pymc_densities(find(job["problem"]).twins.pymc_model(data), points)}, {}


def stan_density(job: dict[str, Any], arrays: Arrays) -> Found:
    """The Stan twin's log density at the points."""
    import stan

    data, points = split(arrays)
    twins = find(job["problem"]).twins
    model = stan.build(twins.STAN, data=twins.stan_data(data), random_seed=1)
    return {"densities": stan_densities(model, points)}, {}


def nutpie_pymc(job: dict[str, Any], arrays: Arrays) -> Found:
    """Nutpie on the PyMC twin, with its numba backend."""
    import nutpie
    import pymc  # noqa: F401  imports are not timed

    data, points = split(arrays)
    problem = find(job["problem"])
    started = time.perf_counter()
    model = problem.twins.pymc_model(data)
    compiled = nutpie.compile_pymc_model(model, initial_points=problem.start)
    ready = time.perf_counter()
    trace = nutpie.sample(
        compiled, draws=job["draws"], tune=job["warmup"], chains=job["chains"], cores=job["cores"],
        seed=job["seed"], progress_bar=False, target_accept=job["target_accept"], maxdepth=job["max_tree_depth"],
    )  # fmt: skip
    done = time.perf_counter()
    posterior = trace["posterior"]
    draws = {name: np.asarray(posterior[name].values) for name in points}
    found = {
        "seconds": {"total": done - started, "compile": ready - started, "run": done - ready},
        "divergences": int(np.asarray(trace["sample_stats"]["diverging"].values).sum()),
        "densities": pymc_densities(model, points),
        "constant": False,
    }
    return found, draws


def stan(job: dict[str, Any], arrays: Arrays) -> Found:
    """Stan through pystan: transpiled, compiled by the C++ compiler, one process a chain."""
    import stan as pystan

    data, points = split(arrays)
    problem = find(job["problem"])
    start = problem.start
    inits = {} if start is None else {"init": [{k: v.tolist() for k, v in start.items()}] * job["chains"]}
    started = time.perf_counter()
    model = pystan.build(problem.twins.STAN, data=problem.twins.stan_data(data), random_seed=job["seed"] + 1)
    ready = time.perf_counter()
    fit = model.sample(
        num_chains=job["chains"], num_warmup=job["warmup"], num_samples=job["draws"], save_warmup=False,
        delta=job["target_accept"], max_depth=job["max_tree_depth"], **inits,
    )  # fmt: skip
    done = time.perf_counter()
    draws = {name: _by_chain(fit[name], points[name].shape[1:], job["chains"]) for name in points}
    found = {
        "seconds": {"total": done - started, "compile": ready - started, "run": done - ready},
        "divergences": int(fit["divergent__"].sum()),
        "densities": stan_densities(model, points),
        "constant": True,
    }
    return found, draws


def _by_chain(draws: np.ndarray, shape: tuple[int, ...], chains: int) -> np.ndarray:
    """Pystan's ``(..., draw within chain)`` as ``(chain, draw, ...)``, in Pyro's shape of the site."""
    return np.moveaxis(draws, -1, 0).reshape(chains, -1, *shape)  # chains come one after another
