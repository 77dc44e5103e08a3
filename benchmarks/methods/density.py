"""The log joint density of each twin at the same points, on the constrained scale, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import Arrays, find

Found = tuple[dict[str, Any], Arrays]


def split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Data and points, which travel in one file."""
    data = {name[5:]: value for name, value in arrays.items() if name.startswith("data.")}
    points = {name[6:]: value for name, value in arrays.items() if name.startswith("point.")}
    return data, points


def pyro_density(job: dict[str, Any], arrays: Arrays) -> Found:
    """Chooses points, and evaluates the Pyro model at them."""
    import torch
    from pyro import poutine
    from torch.distributions import biject_to

    data, _ = split(arrays)
    model = find(job["problem"]).twins.pyro_model()
    tensors = [torch.as_tensor(value) for value in data.values()]
    points: dict[str, list[np.ndarray]] = {}
    densities = []
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job["seed"])
            prior = poutine.trace(model).get_trace(*tensors)
            for _ in range(job["points"]):
                chosen = {}
                for name in prior.stochastic_nodes:
                    node = prior.nodes[name]
                    if type(node["fn"]).__name__ == "_Subsample":
                        continue
                    transform = biject_to(node["fn"].support)
                    chosen[name] = transform(0.3 * torch.randn_like(transform.inv(node["value"])))
                    points.setdefault(name, []).append(chosen[name].numpy())
                trace = poutine.trace(poutine.condition(model, chosen)).get_trace(*tensors)
                densities.append(float(trace.log_prob_sum()))
    finally:
        torch.set_default_dtype(before)
    return {"densities": densities}, {f"point.{name}": np.stack(values) for name, values in points.items()}


def numpyro_density(job: dict[str, Any], arrays: Arrays) -> Found:
    """The NumPyro twin at these points."""
    import jax

    with jax.enable_x64(True):
        return {"densities": numpyro_densities(job["problem"], *split(arrays))}, {}


def numpyro_densities(problem: str, data: Arrays, points: Arrays) -> list[float]:
    """Log joint densities; call it in double precision."""
    import jax.numpy as jnp
    from numpyro.infer.util import log_density

    model = find(problem).twins.numpyro_model()
    args = tuple(jnp.asarray(value) for value in data.values())
    return [
        float(log_density(model, args, {}, {k: jnp.asarray(v) for k, v in point.items()})[0]) for point in rows(points)
    ]


def stan_densities(model: Any, points: Arrays) -> list[float]:
    """Log joint densities of a built Stan model, up to a constant."""
    found = []
    for point in rows(points):
        dims = dict(zip(model.param_names, model.dims, strict=True))
        values = {name: value.reshape(dims[name]).tolist() for name, value in point.items()}
        # The type says a sequence of numbers; the server takes values by name.
        found.append(model.log_prob(model.unconstrain_pars(values), adjust_transform=False))
    return found


def pymc_densities(model: Any, points: Arrays) -> list[float]:
    """Log joint densities of a PyMC model."""
    logp = model.compile_logp(jacobian=False)
    found = []
    for point in rows(points):
        values = {}
        for variable, value_variable in model.rvs_to_values.items():
            if variable not in model.free_RVs:
                continue
            transform = model.rvs_to_transforms[variable]
            value = np.asarray(point[variable.name], dtype=float)
            if transform is not None:
                value = transform.forward(value, *variable.owner.inputs).eval()
            values[value_variable.name] = value
        found.append(float(logp(values)))
    return found


def rows(points: Arrays) -> list[Arrays]:
    """The points one by one."""
    count = len(next(iter(points.values())))
    return [{name: value[i] for name, value in points.items()} for i in range(count)]
