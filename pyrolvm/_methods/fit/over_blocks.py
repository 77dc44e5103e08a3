"""A fit of groups with unknowns of their own, where rows are taken in parts: groups integrated out in place of steps by a few rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

from pyrolvm._base import runtime
from pyrolvm._base.errors import FitError, GuideError
from pyrolvm._base.passing import passed_over
from pyrolvm._methods.fit.over_rows import Asked
from pyrolvm._methods.sparse.inference import Wanted, integrated
from pyrolvm._methods.sparse.result import INTEGRATION, Sparse
from pyrolvm._program.density import Joint, flattened
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit
from pyrolvm._results.datasets import optimization_dataset
from pyrolvm._results.history import History
from pyrolvm.family.guide import Guide
from pyrolvm.family.registry import guide as named

__all__ = ["over_blocks"]

GUIDE = "structured"
"""The guide that holds a Gaussian whose groups depend on what they share."""


def over_blocks(problem: Problem, asked: Asked) -> Fit | None:
    """The fit, its draws chosen by weights; ``None`` where there are no such groups, or integrating them out failed.

    Args:
        problem: the problem, all of whose rows are in memory.
        asked: what is asked for.
    """
    began = time.perf_counter()
    if problem.stream is not None or asked.share is not None or problem.discrete or problem.parameters:
        return None
    recipe = named(GUIDE)
    attrs = {
        "inference_method": "svi", "objective": "log densities of all rows, groups integrated out, by weights", "frame_engine": "",
        "modes": 1, "model_parameters": 0, **recipe.traits.attrs(), "pyrolvm_guide": str(recipe),
    }  # fmt: skip
    wanted = Wanted(asked.draws, asked.seed, asked.progress, GUIDE, blocks=True, attrs=attrs)
    try:
        with threadpool_limits(1, user_api="blas"):
            found = integrated(problem.to(dtype=torch.float64, device="cpu"), wanted, {})
        if found.verdict.status == "failed":
            return None
        params = _held(problem, recipe, found, asked.seed)
    except (FitError, GuideError):
        passed_over("no groups that can be integrated out: steps by some rows may still go somewhere")
        return None
    said = found.data[INTEGRATION].attrs
    reason = (
        f"{said['blocks']:,} groups integrated out by {said['rule']}; weights of {said['shared']:,} shared unknowns, of which "
        f"{said['ess']:.0f} draws are effective"
    )
    weights = np.asarray(found.data["proposal_stats"]["log_weight"].values)
    history = History.of(np.array([weights[np.isfinite(weights)].mean()]), converged=True, reason=reason)
    found.data["optimization"] = xr.DataTree(optimization_dataset(history, 1, asked.batch_size))
    return Fit(
        name=recipe.name, data=found.data, problem=problem, guide=recipe, params=params, engine=found.engine,
        engine_reason=found.engine_reason, seed=asked.seed,
        seconds={**found.seconds, "draws": time.perf_counter() - began - found.seconds["setup"] - found.seconds["run"]},
    )  # fmt: skip


def _held(problem: Problem, recipe: Guide, found: Sparse, seed: int) -> dict[str, torch.Tensor]:
    """The parameters of a guide whose Gaussians have the moments of draws."""
    drawn = found.data["posterior"].to_dataset()
    with problem.session(seed=seed):
        guide: Any = recipe.build(problem)
        with problem.whole.active(), torch.no_grad():
            guide(*problem.args, **problem.kwargs)
            names = [site.name for site in problem.continuous]
            draws = {name: torch.as_tensor(drawn[name].values[0]).to(problem.dtype) for name in names}
            guide.take_draws(flattened(Joint(problem), draws))
        return {name: value.detach().clone() for name, value in runtime.parameters().items()}
