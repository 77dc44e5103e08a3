"""SVI by stock Pyro, native NumPyro and pyrolvm: one guide family, one objective, one optimiser, one schedule.

Adam with betas (0.9, 0.99), whose rate falls exponentially from 0.02 to a hundredth of that over the run, so that the last
iterates of all three have settled and their ELBOs can be compared.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from problems import Arrays, find

from methods.clocks import JaxClock, best_threads, pyrolvm_loaded
from methods.nuts import _tensor as tensor

Found = tuple[dict[str, Any], Arrays]

RATE, FLOOR, BETAS = 0.02, 0.01, (0.9, 0.99)


def pyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Stock Pyro: particles vectorised where the model allows it, and the better number of threads.

    It stops at the cap, and the total is then scaled up.
    """
    import pyro as library
    import torch
    from pyro.infer import SVI, Trace_ELBO, autoguide
    from pyro.infer.autoguide.initialization import init_to_median, init_to_value
    from pyro.optim import ClippedAdam

    problem, steps, particles = find(job["problem"]), job["steps"], job["particles"]
    library.set_rng_seed(job["seed"])
    data = [tensor(value, job["x64"]) for value in arrays.values()]
    torch.set_default_dtype(torch.float64 if job["x64"] else torch.float32)
    start = problem.start
    init = (
        init_to_median if start is None else init_to_value(values={k: tensor(v, job["x64"]) for k, v in start.items()})
    )
    family = {"mean_field": autoguide.AutoNormal, "full_rank": autoguide.AutoMultivariateNormal}[job["guide"]]
    model = problem.twins.pyro_model()

    def build(vectorize: bool) -> Any:
        library.clear_param_store()
        rates = {"lr": RATE, "betas": BETAS, "lrd": FLOOR ** (1 / steps), "clip_norm": math.inf}
        objective = Trace_ELBO(num_particles=particles, vectorize_particles=vectorize)
        return SVI(model, family(model, init_loc_fn=init, init_scale=0.1), ClippedAdam(rates), objective)

    vectorized = particles > 1
    svi = build(vectorized)
    try:
        svi.step(*data)
    except Exception:
        if not vectorized:
            raise
        vectorized = False
        svi = build(vectorized)
        svi.step(*data)
    threads = best_threads(lambda: svi.step(*data))
    library.set_rng_seed(job["seed"])
    svi = build(vectorized)
    started, taken = time.perf_counter(), 0
    while taken < steps and (taken < 50 or time.perf_counter() - started < job["cap"]):
        svi.step(*data)
        taken += 1
    spent = time.perf_counter() - started
    total = spent / taken * steps
    values: list[float] = []
    if taken == steps:
        single = Trace_ELBO()
        with torch.no_grad():
            values = [-single.loss(model, svi.guide, *data) for _ in range(job["elbo_draws"])]
    found = {
        "seconds": {"total": total, "compile": 0.0, "run": total},
        "extrapolated": None if taken == steps else {"from": f"{taken} of {steps} steps", "seconds": spent},
        "engine": "vectorised particles" if vectorized else "particles one by one" if particles > 1 else "one particle",
        "threads": threads,
    }
    return found, {"elbo": np.array(values)}


def numpyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Native NumPyro: ``SVI.run`` without its progress bar."""
    import jax
    import jax.numpy as jnp
    from numpyro import optim
    from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_median, init_to_value

    problem, steps = find(job["problem"]), job["steps"]
    with jax.enable_x64(job["x64"]):
        data = [jax.block_until_ready(jnp.asarray(value)) for value in arrays.values()]
        start = problem.start
        init = init_to_median if start is None else init_to_value(values={k: jnp.asarray(v) for k, v in start.items()})
        family = {"mean_field": autoguide.AutoNormal, "full_rank": autoguide.AutoMultivariateNormal}[job["guide"]]
        key = jax.random.PRNGKey(job["seed"])
        with JaxClock() as clock:
            model = problem.twins.numpyro_model()
            guide = family(model, init_loc_fn=init, init_scale=0.1)
            adam = optim.Adam(lambda step: RATE * FLOOR ** (step / steps), *BETAS)
            svi = SVI(model, guide, adam, Trace_ELBO(num_particles=job["particles"]))
            result = svi.run(key, steps, *data, progress_bar=False)
            jax.block_until_ready((result.params, result.losses))

        # SVI.run compiles and runs at once. The loop in it, compiled ahead, tells how much of that was running.
        def loop(state: Any) -> Any:
            return jax.lax.scan(lambda current, _: svi.update(current, *data), state, None, length=steps)

        state = svi.init(key, *data)
        ready = jax.jit(loop).lower(state).compile()
        started = time.perf_counter()
        jax.block_until_ready(ready(state))
        run = time.perf_counter() - started

        single = Trace_ELBO()

        def one(key: Any) -> Any:
            return -single.loss(key, result.params, model, guide, *data)

        keys = jax.random.split(jax.random.PRNGKey(job["seed"] + 1), job["elbo_draws"])
        values = np.asarray(jax.lax.map(one, keys))
    found = {
        "seconds": {"total": clock.total, "compile": clock.total - run, "run": run},
        "jax_compile_seconds": clock.compile,
        "engine": "SVI.run",
    }
    return found, {"elbo": values}


def pyrolvm(job: dict[str, Any], arrays: Arrays) -> Found:
    """Pyrolvm on a fixed number of steps of the same program as the others', so without a frame; without posterior draws."""
    import arviz_base  # noqa: F401  imports are not timed
    import jax  # noqa: F401

    lvm = pyrolvm_loaded()

    problem, steps = find(job["problem"]), job["steps"]
    data = [tensor(value, job["x64"]) for value in arrays.values()]
    start = problem.start
    options = {} if start is None else {"init": start}
    with JaxClock() as clock:
        target = lvm.Problem(problem.twins.pyro_model(), *data)
        result = lvm.fit(
            target, lvm.guide(job["guide"], precondition="none", **options), objective="Trace_ELBO", learning_rate=RATE,
            max_steps=steps, schedule=lambda step: FLOOR ** (step / steps), tolerance=0, num_particles=job["particles"],
            draws=job["elbo_draws"], seed=job["seed"], progress=False,
        )  # fmt: skip
    seconds = dict(result.seconds)
    total = clock.total - seconds.get("draws", 0.0)
    log_q = result.log_q
    found = {
        "seconds": {"total": total, "compile": total - seconds["run"], "run": seconds["run"]},
        "phases": seconds,
        "jax_compile_seconds": clock.compile,
        "engine": result.engine,
        "engine_reason": result.engine_reason,
    }
    return found, {"elbo": (result.log_p - log_q).ravel() if log_q is not None else np.array([])}
