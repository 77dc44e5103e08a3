"""A fit of unknowns that all rows share, where rows are taken in parts: by passes over all of them in place of steps by a few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrolvm._base import runtime
from pyrolvm._base.errors import FitError
from pyrolvm._base.passing import passed_over
from pyrolvm._base.progress import Progress, Show
from pyrolvm._base.team import Team
from pyrolvm._diagnosis.recorded import record
from pyrolvm._methods.fit.starting import minibatches_of
from pyrolvm._methods.sparse.copies import modes_apart
from pyrolvm._methods.sparse.cost import cost_of_rows
from pyrolvm._methods.sparse.judge import judge_modes, judge_rows
from pyrolvm._methods.sparse.pool import ENOUGH, Pool
from pyrolvm._methods.sparse.rows import KNOWN, RowDraws, groups_by_rows, shared_by_rows, weigh_rows
from pyrolvm._program.density import constrained, map_draws
from pyrolvm._program.density.rowwise import Rowwise
from pyrolvm._program.held import Rows
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import minibatch_plate
from pyrolvm._program.streamed import streamed_rows
from pyrolvm._results import Fit
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import chains_tree, default_draws
from pyrolvm._results.datasets import optimization_dataset, site_dataset
from pyrolvm._results.history import History
from pyrolvm.family.importance import resample
from pyrolvm.family.registry import guide as named
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Asked", "over_rows"]

GUIDE = "student"
"""The guide that holds the Gaussian."""

MOST_EFFECTIVE = 4_000
"""Effective draws that are waited for where they cost next to nothing."""


@dataclass(frozen=True)
class Asked:
    """What a fit over rows is asked for.

    Attributes:
        batch_size: rows that are taken together.
        batch_plate: whose.
        draws: how many to keep.
        seed: the seed.
        progress: how it is shown.
        share: the processes that share the rows; ``None`` for this one alone.
    """

    batch_size: int | None
    batch_plate: str | None
    draws: int | None
    seed: int
    progress: Show
    share: Team | None = None


def over_rows(problem: Problem, asked: Asked) -> Fit | None:
    """The fit, its draws chosen by weights; ``None`` where rows have unknowns of their own, or no mode is found over all rows.

    Args:
        problem: the problem, whose rows may be a stream.
        asked: what is asked for.

    Raises:
        ArgumentError: if no plate, or more than one, could be meant, or a batch is larger than it.
        ProblemError: if batches do not stand for the whole.
        DataError: if the rows of a stream are not the same in every pass.
    """
    began = time.perf_counter()
    source: Rows | None = None
    names: Sequence[str] = ()
    if problem.stream is None and asked.batch_size is None:
        plate = minibatch_plate(problem, asked.batch_plate)
    elif problem.stream is None:
        parts = minibatches_of(problem, asked.batch_size, asked.batch_plate)
        assert parts is not None  # since rows are taken in parts
        plate = parts.plate
    elif asked.batch_size is None:
        plate = minibatch_plate(problem, asked.batch_plate)
        source, names = streamed_rows(problem)
    else:
        return None
    recipe = named(GUIDE)
    with problem.session(seed=asked.seed), Progress(f"{GUIDE} on {problem.name}", 3, asked.progress) as bar:
        rows = shared_by_rows(problem, plate, source, names)
        if rows is None:
            return None
        rows.share(asked.share)
        cost = cost_of_rows(rows, asked.draws or default_draws(problem))
        bar.update(1, lambda: f"{rows.size:,} unknowns that {rows.rows.size:,} rows share; {cost}")
        ready = time.perf_counter()
        try:
            drawn = weigh_rows(rows, seed=asked.seed, enough=ENOUGH, many=MOST_EFFECTIVE)
        except FitError:
            passed_over("without a mode over all rows, steps by a few of them may still go somewhere")
            return None
        pool = drawn.pool
        bar.update(2, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
        guide: Any = recipe.build(problem)
        with problem.whole.active(), torch.no_grad():
            guide(*problem.args, **problem.kwargs)
        guide.take(_gaussian(pool), {})
        params = {name: value.detach().clone() for name, value in runtime.parameters().items()}
        arrived = time.perf_counter()
        tree = _tree(
            problem,
            rows,
            drawn,
            asked,
            {**recipe.traits.attrs(), "pyrolvm_guide": str(recipe), "sampling_time": arrived - began},
        )
        bar.update(3, lambda: "done")
    modes = judge_modes(int(tree["posterior"].attrs["modes"]))
    record(tree, judge_rows(drawn, rows.rows.size).and_also(modes), {})
    if problem.stream is None:
        rounding = float(torch.finfo(problem.dtype).eps) * rows.rows.size  # a row's own density has a size of about one
        check_afresh(tree, problem, params, seed=asked.seed, known=KNOWN * drawn.left + rounding)
    return Fit(
        name=recipe.name, data=tree, problem=problem, guide=recipe, params=params, engine="c", engine_reason="",
        seed=asked.seed, seconds={"setup": ready - began, "run": arrived - ready, "draws": time.perf_counter() - arrived},
    )  # fmt: skip


def _gaussian(pool: Pool) -> Student:
    """The Gaussian with the mean and the covariance that the weights ask for."""
    mean = pool.weights @ pool.points
    gap = pool.points - mean
    sd = np.sqrt(pool.weights @ gap**2)
    correlation = (gap.T * pool.weights) @ gap / np.outer(sd, sd)
    return Student.one(mean, sd[:, None] * np.linalg.cholesky(correlation + 1e-10 * np.eye(len(sd))))


def _tree(problem: Problem, rows: Rowwise, drawn: RowDraws, asked: Asked, more: dict[str, object]) -> xr.DataTree:
    """Draws in proportion to their weights, and all that follows from them."""
    import xarray as xr

    pool, count = drawn.pool, asked.draws or default_draws(problem)
    which = resample(pool.weights, count, asked.seed)
    reals = torch.as_tensor(pool.points[which]).to(problem.dtype)
    with torch.no_grad():
        values = constrained(rows.joint, reals)
        jacobians = map_draws(lambda one: {"log": rows.joint.log_jacobian(one["u"])}, {"u": reals})["log"]
    modes = modes_apart(rows.joint, values, drawn.ends)
    lp = pool.base[which] - jacobians.double().numpy()
    reason = (
        f"Newton's method by {drawn.passes} passes over {rows.rows.size:,} rows with {drawn.evaluations} gradients of all, densities "
        f"of draws by {drawn.some:,}; {len(pool.points):,} draws of {pool.rounds} proposals"
    )
    attrs = {
        "inference_method": "svi", "objective": "log densities of all rows, by weights", "engine": "c", "seed": asked.seed,
        "frame_engine": "", "evaluations": drawn.evaluations, "modes": modes, "model_parameters": 0, **more,
    }  # fmt: skip
    with groups_by_rows(rows.rows.size):
        tree = chains_tree(problem, values, 1, {}, attrs, lp=lp[None])
    stats = {"lp": pool.base, "log_q": pool.log_q, "log_weight": pool.log_weight}
    tree["proposal_stats"] = xr.DataTree(
        site_dataset({name: value[None] for name, value in stats.items()}, {}, attrs=attrs).assign(
            khat=xr.DataArray(pool.figures.khat)
        )
    )
    history = History.of(np.array([pool.figures.elbo]), converged=True, reason=reason)
    batch = asked.batch_size if problem.stream is None else problem.stream.stream.batch_size
    tree["optimization"] = xr.DataTree(optimization_dataset(history, 1, batch))
    return tree
