"""NUTS by stock Pyro, native NumPyro and pyrolvm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from problems import Arrays, find

from methods.clocks import JaxClock, best_threads, pyrolvm_loaded
from methods.density import numpyro_densities, split

Found = tuple[dict[str, Any], Arrays]


AGAIN = 20.0
"""NumPyro samples a second time where the first took less, to tell sampling from set-up."""


FEWEST = 50
"""A chain of stock Pyro that the cap cut off counts if it has so many draws."""


class _CapReached(Exception):
    """The time allowed to stock Pyro is over."""


class _Meter:
    """Counts transitions and their seconds, by phase; raises once the time is over. Pyro calls it after each transition."""

    def __init__(self, cap: float) -> None:
        self.seconds = {"warmup": 0.0, "sampling": 0.0}
        self.counts = {"warmup": 0, "sampling": 0}
        self.last = time.perf_counter()
        self.draws: list[dict[str, Any]] = []
        self._deadline = self.last + cap

    def __call__(self, kernel: Any, sample: Any, stage: str, i: int) -> None:
        phase, now = "warmup" if stage.startswith("Warmup") else "sampling", time.perf_counter()
        self.seconds[phase] += now - self.last
        self.counts[phase] += 1
        self.last = now
        if phase == "sampling":
            self.draws.append({name: value.detach().clone() for name, value in sample.items()})
        if now > self._deadline:
            raise _CapReached

    def each(self, phase: str) -> float:
        """Seconds a transition; where sampling was not reached, those of warmup."""
        used = phase if self.counts[phase] else "warmup"
        return self.seconds[used] / self.counts[used] if self.counts[used] else math.nan


def pyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Stock Pyro, on a smaller budget that is scaled up to the full one: seconds by transition, ESS by draw.

    It gets the better number of threads: two spin at each other's expense on small models.
    """
    import pyro as library
    import torch
    from pyro.infer import MCMC, NUTS
    from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value

    data, points = split(arrays)
    problem = find(job["problem"])
    warmup, draws, chains = job["pyro_warmup"], job["pyro_draws"], job["pyro_chains"]
    tensors = [_tensor(value, job["x64"]) for value in data.values()]
    start = problem.start
    strategy = (
        init_to_uniform
        if start is None
        else init_to_value(values={k: _tensor(v, job["x64"]) for k, v in start.items()})
    )
    if job["x64"]:
        torch.set_default_dtype(torch.float64)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in points}
    threads = best_threads(_gradient(problem.twins.pyro_model(), tensors, strategy))
    meter, divergences = _Meter(job["cap"]), 0
    for chain in range(chains):
        library.set_rng_seed(job["seed"] * 100 + chain)
        kernel = NUTS(
            problem.twins.pyro_model(), target_accept_prob=job["target_accept"], max_tree_depth=job["max_tree_depth"],
            init_strategy=strategy,
        )  # fmt: skip
        sampler = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, hook_fn=meter)
        meter.last, meter.draws = time.perf_counter(), []
        try:
            sampler.run(*tensors)
        except _CapReached:
            if not chain and len(meter.draws) >= FEWEST:  # half a chain is better than none
                for name in points:
                    values = torch.stack([kernel.transforms[name].inv(draw[name]) for draw in meter.draws])
                    kept[name].append(values.numpy()[None])
            break
        divergences += sum(len(found) for found in sampler.diagnostics()["divergences"].values())
        for name, values in sampler.get_samples(group_by_chain=True).items():
            if name in kept:
                kept[name].append(values.detach().numpy())
    seconds, counts = meter.seconds, meter.counts
    total = job["chains"] * (job["warmup"] * meter.each("warmup") + job["draws"] * meter.each("sampling"))
    shapes = [values.shape[:2] for values in next(iter(kept.values()))]
    used = sum(shape[1] for shape in shapes)
    found = {
        "seconds": {"total": total, "compile": 0.0, "run": total},
        "divergences": divergences if len(meter.draws) == draws else None,
        "extrapolated": {
            "from": f"{len(shapes)} x {shapes[0][1] if shapes else 0} draws after {warmup} warmup",
            "transitions": counts,
            "seconds": seconds,
        },
        "ess_factor": job["chains"] * job["draws"] / used if used else None,
        "engine": "pyro",
        "threads": threads,
    }
    if not used:
        found["status"] = (
            f"no chain within {job['cap']:.0f} s: {counts['warmup']} of {warmup} warmup, {counts['sampling']} draws"
        )
    return found, {name: np.concatenate(values) for name, values in kept.items() if values}


def _gradient(model: Any, tensors: list[Any], strategy: Any) -> Callable[[], Any]:
    """A function that takes one gradient of stock Pyro's potential energy."""
    from pyro.infer.mcmc.util import initialize_model
    from pyro.ops.integrator import potential_grad

    start, potential, _, _ = initialize_model(model, tuple(tensors), init_strategy=strategy)
    return lambda: potential_grad(potential, start)


def numpyro_vectorized(job: dict[str, Any], arrays: Arrays) -> Found:
    """Native NumPyro, its chains in one vectorised program."""
    return _numpyro(job, arrays, "vectorized")


def numpyro_parallel(job: dict[str, Any], arrays: Arrays) -> Found:
    """Native NumPyro, a host device for each chain, which is what it needs to run chains at the same time."""
    import numpyro

    numpyro.set_host_device_count(job["chains"])
    return _numpyro(job, arrays, "parallel")


def _numpyro(job: dict[str, Any], arrays: Arrays, method: str) -> Found:
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS, init_to_uniform, init_to_value

    data, points = split(arrays)
    problem = find(job["problem"])
    with jax.enable_x64(job["x64"]):
        args = [jax.block_until_ready(jnp.asarray(value)) for value in data.values()]
        start = problem.start
        strategy = (
            init_to_uniform if start is None else init_to_value(values={k: jnp.asarray(v) for k, v in start.items()})
        )
        with JaxClock() as clock:
            kernel = NUTS(
                problem.twins.numpyro_model(), target_accept_prob=job["target_accept"],
                max_tree_depth=job["max_tree_depth"], init_strategy=strategy,
            )  # fmt: skip
            sampler = MCMC(
                kernel, num_warmup=job["warmup"], num_samples=job["draws"], num_chains=job["chains"],
                chain_method=method, progress_bar=False,
            )  # fmt: skip
            sampler.run(jax.random.PRNGKey(job["seed"]), *args, extra_fields=("diverging", "num_steps"))
            samples = jax.block_until_ready(sampler.get_samples(group_by_chain=True))
        extra = sampler.get_extra_fields()
        run = clock.total - clock.compile
        if run < AGAIN:
            # What is left after compiling holds Python's set-up too; a second run of the compiled sampler does not.
            with JaxClock() as again:
                sampler.run(jax.random.PRNGKey(job["seed"] + 1000), *args, extra_fields=("diverging", "num_steps"))
                jax.block_until_ready(sampler.get_samples(group_by_chain=True))
            run = min(run, again.total - again.compile)
    with jax.enable_x64(True):
        densities = numpyro_densities(job["problem"], data, points)
    found = {
        "seconds": {"total": clock.total, "compile": clock.total - run, "run": run},
        "jax_compile_seconds": clock.compile,
        "divergences": int(extra["diverging"].sum()),
        "leapfrogs": int(extra["num_steps"].sum()),
        "densities": densities,
        "constant": False,
        "engine": method,
    }
    return found, {name: np.asarray(samples[name]) for name in points}


def pyrolvm(job: dict[str, Any], arrays: Arrays) -> Found:
    """Pyrolvm as a user calls it who has nutpie installed: nutpie on a gradient compiled from C."""
    import nutpie  # noqa: F401  imports are not timed; without it, a row "not installed"

    return _pyrolvm(job, arrays, {})


def pyrolvm_numpyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Pyrolvm as a user calls it who has not: NumPyro's NUTS on the captured density."""
    return _pyrolvm(job, arrays, {"kernel": "numpyro"})


def _pyrolvm(job: dict[str, Any], arrays: Arrays, options: dict[str, Any]) -> Found:
    import arviz_base  # noqa: F401  imports are not timed
    import jax  # noqa: F401

    lvm = pyrolvm_loaded()

    data, points = split(arrays)
    problem = find(job["problem"])
    start = problem.start
    tensors = [_tensor(value, job["x64"]) for value in data.values()]
    started = time.perf_counter()
    target = lvm.Problem(problem.twins.pyro_model(), *tensors)
    result = lvm.nuts(
        target, chains=job["chains"], warmup=job["warmup"], draws=job["draws"], target_accept=job["target_accept"],
        max_tree_depth=job["max_tree_depth"], init=start, precondition="none", seed=job["seed"], progress=False,
        **options,
    )  # fmt: skip
    total = time.perf_counter() - started
    stats = result.data["sample_stats"]
    found = {
        "seconds": {"total": total, "compile": total - result.seconds["run"], "run": result.seconds["run"]},
        "phases": dict(result.seconds),
        "divergences": int(stats["diverging"].values.sum()),
        "leapfrogs": int(stats["n_steps"].values.sum()) if "n_steps" in stats else None,
        "engine": result.engine,
        "engine_reason": result.engine_reason,
    }
    posterior = result.data["posterior"]
    return found, {name: np.asarray(posterior[name].values) for name in points}


def _tensor(value: np.ndarray, x64: bool) -> Any:
    import torch

    tensor = torch.as_tensor(value)
    return tensor.to(torch.float64 if x64 else torch.float32) if tensor.is_floating_point() else tensor
