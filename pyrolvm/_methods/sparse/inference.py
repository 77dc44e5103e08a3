"""``lvm.sparse``: posteriors of many unknowns, whose blocks are integrated out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import FitError, ProblemError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress, Show
from pyrolvm._diagnosis.recorded import record
from pyrolvm._methods.arguments import held_parameters, warn_of_subsamples
from pyrolvm._methods.sparse.copies import modes_apart
from pyrolvm._methods.sparse.groups import integration, proposal_stats
from pyrolvm._methods.sparse.judge import judge_modes
from pyrolvm._methods.sparse.pool import ENOUGH
from pyrolvm._methods.sparse.result import INTEGRATION, Sparse
from pyrolvm._methods.sparse.rows import groups_by_rows, shared_by_rows
from pyrolvm._methods.sparse.ways import MOST_EFFECTIVE, Asked, blocks_of, draw, draw_over_rows
from pyrolvm._methods.table import result_type
from pyrolvm._program.density import Joint, constrained, map_draws
from pyrolvm._program.density.rowwise import Rowwise
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.rows import plate_of_rows
from pyrolvm._program.steady import check_steady_model
from pyrolvm._program.symmetry.orbits import Orbits
from pyrolvm._results import Posterior, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import chains_tree, default_draws

__all__ = ["Wanted", "integrated", "sparse"]

Array = NDArray[np.float64]

FEWEST_DRAWS, ROWS = 400, 200_000_000
"""Draws that are kept at least, and rows of all draws together."""

MANY_ROWS = 20_000
"""Rows from which on a density is taken by some of them, where they share all unknowns."""

DRAWS = 2_000
"""Draws that are kept by default, fewer where they would fill the memory."""


@verb
@at_the_door
def sparse(
    problem: Problem,
    *,
    draws: int | None = None,
    params: Posterior | Mapping[str, Tensor] | None = None,
    seed: int = 0,
    progress: Show = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Sparse:
    r"""The posterior of a model whose many unknowns fall into blocks, or are coupled to neighbours, and share few others.

    In a hierarchical model the unknowns of groups, subjects or items are independent of each other given the hyperparameters, the
    coefficients and whatever else all rows share. Which these are is found by trying the program. Every block is integrated out by
    quadrature at its own mode, so that what is left is a density of the shared unknowns alone, with its gradient; its draws are
    weighed, blocks are drawn given each, and the verdict is of both: Pareto k-hat of the shared unknowns' weights, and of each block's
    own. The cost grows in proportion to the rows and blocks, of which there may be a million.

    Up to 100 unknowns that all rows share, as in a regression, are weighed as a whole. Of 20,000 rows and more their density is taken
    from some thousands, counted up, and from value, slope and curvature of all of them at the mode, and what that leaves is measured
    over all rows at draws of the posterior: all in all that takes some tens of gradients.

    In a time series or on a map unknowns meet their neighbours, so that there are no blocks, but most of their Hessian is zero. Which
    meet which is found by moving some and looking whose slopes change, also among the sums of steps, as which walks are often
    written. They are integrated out together, by Newton's method with banded factors, and drawn by annealing from the Gaussian at
    the mode to their own law, so that the weights are of all unknowns and nothing is left to an approximation.

    *When not to use it.* Blocks of more than 12 unknowns count as shared, unless what is in them meets few others. Unknowns
    that all meet (a Gaussian process, an autoregression written in its shocks) are refused from 100 of them on. Discrete latents
    are not summed out.

    Args:
        problem: a model with its data.
        draws: how many to keep; by default 2,000, fewer where they would fill the memory.
        params: values at which learnable model parameters are held, as for :func:`pyrolvm.exact`.
        seed: the same seed gives the same result.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same problem, draws and seed; a run that was
            killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.

    Raises:
        ArgumentError: if an argument is out of range.
        ProblemError: if there are discrete latents, no continuous ones, or parameters without a prior and without values.
        FitError: if too many unknowns are shared, the program cannot be compiled, or its density is finite nowhere.
        StoreError: if ``out`` holds something else.

    Example:
        >>> result = lvm.sparse(problem, seed=0)
        >>> result.verdict.status, result.evidence.value  # doctest: +SKIP

    References:
        Rue, Martino, Chopin, *Approximate Bayesian inference for latent Gaussian models by using integrated nested Laplace
        approximations*, https://doi.org/10.1111/j.1467-9868.2008.00700.x;
        Cornuet, Marin, Mira, Robert, *Adaptive multiple importance sampling*,
        https://doi.org/10.1111/j.1467-9469.2011.00756.x;
        Neal, *Annealed importance sampling*, https://arxiv.org/abs/physics/9803008;
        Vehtari et al., *Pareto smoothed importance sampling*, https://arxiv.org/abs/1507.02646
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite)
    seed = checked_seed(seed)
    if draws is not None:
        positive_int("draws", draws, minimum=2)
    held = held_parameters(problem, params)
    _check(problem, held)
    warn_of_subsamples(problem, "blocks and weights are of all rows")
    problem = problem.to(dtype=torch.float64, device="cpu")

    def work(run: runs.Run | None) -> Sparse:
        with threadpool_limits(1, user_api="blas"):
            return integrated(problem, Wanted(draws, seed, progress), held)

    return cast(
        "Sparse", store.keep(asked, sparse, given, work, problem, kind="Sparse", kinds=result_type, params=held)
    )


def _check(problem: Problem, held: Mapping[str, Tensor]) -> None:
    if problem.discrete:
        names = ", ".join(repr(site.name) for site in problem.discrete)
        raise ProblemError(
            f"{problem.name} has discrete latents ({names}), which are not summed out here. Fix: use lvm.infer(problem)."
        )
    if not problem.continuous:
        raise ProblemError(
            f"{problem.name} has no continuous latent site, so that nothing is weighed. Fix: use lvm.fit, which learns parameters."
        )
    if problem.parameters and not held:
        raise ProblemError(
            f"{problem.name} has learnable parameters without priors ({', '.join(list(problem.parameters)[:3])}). "
            "Fix: give them priors with pyro.sample, or pass params=fit to hold them at fitted values."
        )


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        draws: how many to keep; ``None`` for as many as there is room for.
        seed: the seed.
        progress: how it is shown.
        name: what is shown of it.
        blocks: whether it must be blocks that few unknowns share.
        attrs: what groups say besides.
    """

    draws: int | None
    seed: int
    progress: Show
    name: str = "sparse"
    blocks: bool = False
    attrs: Mapping[str, object] = field(default_factory=dict)


def integrated(problem: Problem, wanted: Wanted, held: dict[str, Tensor]) -> Sparse:
    """The posterior, of a problem that has been looked at.

    Args:
        problem: in double precision, on the CPU.
        wanted: what is asked for.
        held: values of parameters.

    Raises:
        FitError: if it has no blocks, where they are asked for; or too many shared unknowns.
    """
    began, draws, seed = time.perf_counter(), wanted.draws, wanted.seed
    check_steady_model(problem)
    with (
        problem.session(seed=seed, params=held),
        Progress(f"{wanted.name} on {problem.name}", 4, wanted.progress) as bar,
    ):
        joint = Joint(problem)
        count = draws or _affordable(problem)
        enough = max(ENOUGH, float(min(count, MOST_EFFECTIVE)))
        rows = None if wanted.blocks else _shared_by_many(problem)
        if rows is None:
            asked = Asked(joint, blocks_of(joint, seed), count, enough, seed, bar)
            if wanted.blocks and not asked.plain:
                raise FitError(f"{problem.name} has no blocks that few unknowns share. Fix: use lvm.nuts(problem).")
            with np.errstate(over="ignore", invalid="ignore"):  # far from the mode densities may be anything
                found = draw(asked)
        else:
            found = draw_over_rows(rows, count, enough, seed, bar)
        arrived = time.perf_counter()
        order = np.random.default_rng([seed, 74]).permutation(len(found.which))
        reals, which = torch.as_tensor(found.flat[order]).to(problem.dtype), found.which[order]
        found = replace(found, flat=np.zeros((0, 0)))  # of a million unknowns it is as long as all that follows
        with torch.no_grad():
            values = constrained(joint, reals)
            jacobians = map_draws(lambda one: {"log": joint.log_jacobian(one["u"])}, {"u": reals})["log"]
        modes = max(modes_apart(joint, values, found.ends), found.inside)
        # A guide takes the moments of one copy; and draws in several copies, but perhaps not in all, stay where they are.
        orbits = None if wanted.blocks else Orbits.found(problem, values)
        hidden = None if orbits is None else orbits.hidden(values)
        if orbits is not None and hidden is not None:
            values = orbits.spread(values, seed, evenly=True)
        lp = found.log_p[order] - jacobians.double().numpy()
        del reals
        attrs = {
            "inference_method": "sparse", "engine": found.engine, "seed": seed, "evaluations": found.evaluations,
            "sampling_time": arrived - began, **wanted.attrs,
        }  # fmt: skip
        with groups_by_rows(0 if rows is None else rows.rows.size):
            tree = chains_tree(
                problem, values, 1, {"point": which[None]}, attrs, None if hidden is None else orbits, lp=lp[None]
            )
        pool = found.pool.times(hidden or 0.0)
        tree["proposal_stats"] = proposal_stats(pool)
        tree[INTEGRATION] = integration(found.integration, pool, found.evaluations)
        bar.update(4, lambda: "done")
    record(tree, found.verdict.and_also(judge_modes(modes)), {})
    check_afresh(tree, problem, held, seed=seed, known=found.known)
    return Sparse(
        name="sparse", data=tree, problem=problem, params=held, engine=found.engine, engine_reason=found.reason,
        seed=seed,
        seconds={"setup": found.set_up - began, "run": arrived - found.set_up, "draws": time.perf_counter() - arrived},
    )  # fmt: skip


def _shared_by_many(problem: Problem) -> Rowwise | None:
    """The density as a sum over rows, where they are many and share all unknowns."""
    plate = plate_of_rows(problem)
    return None if plate is None or plate.size < MANY_ROWS else shared_by_rows(problem, plate)


def _affordable(problem: Problem) -> int:
    """How many draws are kept by default: as many as fit into memory, fewer where each takes the densities of many rows."""
    rows = max((site.numel for site in problem.observed), default=1)
    return min(DRAWS, default_draws(problem), max(FEWEST_DRAWS, ROWS // rows))
