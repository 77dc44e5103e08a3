"""Stock Pyro: an autoguide, Adam, and as many steps as the clock allows; or all steps, taken by pyrolvm's engines."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.optim import Adam
from torch import Tensor
from torch.distributions import biject_to

import pyrolvm as lvm

__all__ = ["GUIDES", "StockFit", "fit", "fit_captured"]

GUIDES = ("AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal")

DRAWS = 4000
"""As many as :func:`pyrolvm.fit` keeps."""


@dataclass(frozen=True)
class StockFit:
    """What a run of stock Pyro gave.

    Attributes:
        draws: by site, shape ``(1, draw, ...)``.
        steps: how many it took.
        seconds: for them.
        capped: whether the clock ended it.
        loss: the mean of the last hundred.
    """

    draws: Mapping[str, np.ndarray]
    steps: int
    seconds: float
    capped: bool
    loss: float


def origin(site: Mapping[str, Any]) -> Tensor:
    """Where a guide starts: at zero of unconstrained space, since an improper prior has no draws."""
    transform = biject_to(site["fn"].support)
    return transform(torch.zeros(transform.inverse_shape(site["fn"].shape())))


def fit(problem: lvm.Problem, name: str, *, seed: int, steps: int, rate: float, cap: float) -> StockFit:
    """Fits one of Pyro's autoguides in double precision.

    Args:
        problem: the problem.
        name: the autoguide's class.
        seed: of the random numbers.
        steps: of Adam at most.
        rate: the learning rate.
        cap: seconds after which it stops as it is.

    Raises:
        FloatingPointError: if the loss is not a number.
    """
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    started = time.perf_counter()
    # Not all autoguides take init_loc_fn, so the guide gets a model that starts where it should.
    guide = getattr(autoguide, name)(InitMessenger(origin)(problem.model))
    svi = SVI(problem.model, guide, Adam({"lr": rate}), Trace_ELBO())
    losses: list[float] = []
    while len(losses) < steps and time.perf_counter() - started < cap:
        losses.append(svi.step(*problem.args, **problem.kwargs))
        if math.isnan(losses[-1]):
            raise FloatingPointError(f"the loss is not a number at step {len(losses)}")
    seconds = time.perf_counter() - started
    with torch.no_grad():
        draws = [_draw(problem, guide) for _ in range(DRAWS)]
    return StockFit(
        draws={site: torch.stack([draw[site] for draw in draws])[None].numpy() for site in draws[0]},
        steps=len(losses),
        seconds=seconds,
        capped=len(losses) < steps,
        loss=float(np.mean(losses[-100:])),
    )


def fit_captured(problem: lvm.Problem, name: str, *, seed: int, steps: int, rate: float) -> lvm.Fit:
    """The same guide, start, objective and optimiser with one draw a step, captured and compiled: 20,000 steps in seconds.

    The steps are those of :func:`fit` but for the random numbers; tests hold the engines' steps to Pyro's.
    """
    guide = getattr(autoguide, name)(InitMessenger(origin)(problem.model))
    return lvm.fit(
        problem, guide, objective="Trace_ELBO", num_particles=1, learning_rate=rate, schedule="constant", max_steps=steps,
        tolerance=0, draws=DRAWS, seed=seed, dtype=torch.float64, progress=False,
    )  # fmt: skip


def _draw(problem: lvm.Problem, guide: Any) -> dict[str, Tensor]:
    """One draw of the sites, and of what the model derives from them."""
    latent = {site: value for site, value in guide(*problem.args, **problem.kwargs).items()}
    derived = [name for name, site in problem.sites.items() if site.kind == "deterministic"]
    if not derived:
        return latent
    trace = poutine.trace(poutine.condition(problem.model, data=latent)).get_trace(*problem.args, **problem.kwargs)
    return latent | {name: trace.nodes[name]["value"] for name in derived}
