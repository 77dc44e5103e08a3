"""``lvm.sparse``: posteriors of many unknowns, whose blocks are integrated out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import FitError, ProblemError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.passing import passed_over
from pyrolvm._base.progress import Progress, Show
from pyrolvm._base.quadrature import Rule, rules
from pyrolvm._base.verdict import Verdict
from pyrolvm._diagnosis.recorded import record
from pyrolvm._methods.arguments import held_parameters, warn_of_subsamples
from pyrolvm._methods.sparse.blocks import Blocks, find_blocks, moved_elsewhere
from pyrolvm._methods.sparse.cost import TRIED, as_chains, cost_of_blocks, cost_of_field, cost_of_rows
from pyrolvm._methods.sparse.drawing import BlockDraws, draw_blocks
from pyrolvm._methods.sparse.fields.annealing import Annealing
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._methods.sparse.fields.laplace import FieldMarginal
from pyrolvm._methods.sparse.fields.pattern import met_elsewhere
from pyrolvm._methods.sparse.fields.weighing import weigh_field
from pyrolvm._methods.sparse.fine import find_finely, weigh_finely
from pyrolvm._methods.sparse.groups import integration, of_blocks, of_field, of_rows, proposal_stats
from pyrolvm._methods.sparse.judge import judge, judge_field, judge_rows
from pyrolvm._methods.sparse.marginal import DONE_INSIDE, NUMBERS, Marginal, Nest
from pyrolvm._methods.sparse.pool import ENOUGH, Pool
from pyrolvm._methods.sparse.result import INTEGRATION, Sparse
from pyrolvm._methods.sparse.rows import KNOWN, groups_by_rows, shared_by_rows, weigh_rows
from pyrolvm._methods.sparse.search import find_gaussian
from pyrolvm._methods.sparse.split import Split
from pyrolvm._methods.table import result_type
from pyrolvm._program.density import Joint, constrained, map_draws
from pyrolvm._program.density.rowwise import Rowwise
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.rows import plate_of_rows
from pyrolvm._program.steady import check_steady_model
from pyrolvm._results import Posterior, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import chains_tree, default_draws
from pyrolvm.family.importance import resample
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sparse"]

Array = NDArray[np.float64]

FEWEST_DRAWS, ROWS = 400, 200_000_000
"""Draws that are kept at least, and rows of all draws together."""

MOST_SHARED, MOST_ALONE, MOST_ALIKE = 500, 100, 60
"""Up to so many shared unknowns are weighed together; where there are no blocks; and where they need not be."""

FEWER = 0.5
"""The share of the unknowns that blocks leave shared, of which so many may be where the others are coupled to neighbours."""

MOST_EFFECTIVE = 4_000
"""Effective draws that are waited for at most, however many are to be kept."""

DEAR = 60.0
"""Seconds that blocks and their core together may take at least, where others may do; and else as many as chains of NUTS would."""

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
            return _run(problem, draws, held, seed, progress)

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
class _Drawn:
    """What either way ends with.

    Attributes:
        pool: the weighed draws of the shared unknowns.
        which: those that were kept, shape ``(D,)``.
        flat: all unknowns of each, shape ``(D, n)``.
        log_p: their log densities, log Jacobians included.
        verdict: on what was drawn, besides that of the weights.
        integration: what was integrated, and how.
        set_up: when the density was compiled.
        engine: what runs it.
        reason: why not a faster engine.
        evaluations: how many densities it took.
        known: nats by which log densities are off.
    """

    pool: Pool
    which: NDArray[np.int64]
    flat: Array
    log_p: Array
    verdict: Verdict
    integration: xr.Dataset
    set_up: float
    engine: str
    reason: str
    evaluations: int
    known: float = 0.0


def _run(problem: Problem, draws: int | None, held: dict[str, Tensor], seed: int, progress: Show) -> Sparse:
    began = time.perf_counter()
    check_steady_model(problem)
    with problem.session(seed=seed, params=held), Progress(f"sparse on {problem.name}", 4, progress) as bar:
        joint = Joint(problem)
        count = draws or _affordable(problem)
        enough = max(ENOUGH, float(min(count, MOST_EFFECTIVE)))
        rows = _shared_by_many(problem)
        if rows is None:
            blocks = find_blocks(problem, lambda point: _parts(joint, point), seed=seed)
            found = _drawn(_Asked(joint, blocks, count, enough, seed, bar))
        else:
            found = _over_rows(rows, count, enough, seed, bar)
        arrived = time.perf_counter()
        reals, which = torch.as_tensor(found.flat).to(problem.dtype), found.which
        with torch.no_grad():
            values = constrained(joint, reals)
            jacobians = map_draws(lambda one: {"log": joint.log_jacobian(one["u"])}, {"u": reals})["log"]
        lp = found.log_p - jacobians.double().numpy()
        attrs = {
            "inference_method": "sparse", "engine": found.engine, "seed": seed, "evaluations": found.evaluations,
            "sampling_time": arrived - began,
        }  # fmt: skip
        order = np.random.default_rng([seed, 74]).permutation(len(which))
        values = {name: value[order] for name, value in values.items()}
        with groups_by_rows(0 if rows is None else rows.rows.size):
            tree = chains_tree(problem, values, 1, {"point": which[order][None]}, attrs, lp=lp[order][None])
        tree["proposal_stats"] = proposal_stats(found.pool)
        tree[INTEGRATION] = integration(found.integration, found.pool, found.evaluations)
        bar.update(4, lambda: "done")
    record(tree, found.verdict, {})
    check_afresh(tree, problem, held, seed=seed, known=found.known)
    return Sparse(
        name="sparse", data=tree, problem=problem, params=held, engine=found.engine, engine_reason=found.reason,
        seed=seed,
        seconds={"setup": found.set_up - began, "run": arrived - found.set_up, "draws": time.perf_counter() - arrived},
    )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """What is drawn from, and how.

    Attributes:
        joint: the density.
        blocks: its unknowns in blocks.
        count: how many draws are kept.
        enough: effective ones at which no more are taken.
        seed: makes it repeatable.
        bar: shows what is done.
    """

    joint: Joint
    blocks: Blocks
    count: int
    enough: float
    seed: int
    bar: Progress

    @property
    def shared(self) -> int:
        """How many unknowns no block has."""
        return len(self.blocks.layers[-1].shared)


def _drawn(asked: _Asked) -> _Drawn:
    """Draws by what the unknowns are: coupled to neighbours, in blocks and a core that they meet, or in blocks alone."""
    coupled = _neighbours(asked)
    if coupled is not None:
        return _in_a_field(asked, coupled)
    if asked.blocks.count and asked.shared > MOST_ALIKE:
        found = _with_core(asked)
        if found is not None and found.verdict.trusted and found.pool.figures.reliable:
            return found
    _check_shared(asked.joint.problem, asked.blocks)
    return _in_blocks(asked)


def _neighbours(asked: _Asked) -> Coupled | None:
    """The density with unknowns that are coupled to neighbours, where blocks leave many shared and these meet few others."""
    if asked.shared <= MOST_ALONE:
        return None
    coupled = Coupled.of(asked.joint, asked.seed)
    return (
        coupled
        if coupled is not None and len(coupled.pattern.shared) <= min(FEWER * asked.shared, MOST_ALONE)
        else None
    )


def _with_core(asked: _Asked) -> _Drawn | None:
    """Draws where blocks meet a core of others, all of them integrated out together; ``None`` where that is not to be had."""
    try:
        coupled = Coupled.around(asked.joint, asked.blocks, asked.seed)
        return None if coupled is None or coupled.pairs is None else _in_a_field(asked, coupled, DEAR)
    except FitError:
        if asked.shared > MOST_ALONE:
            raise
        passed_over("blocks and a core as one field: blocks alone may do")
        return None


def _shared_by_many(problem: Problem) -> Rowwise | None:
    """The density as a sum over rows, where they are many and share all unknowns."""
    plate = plate_of_rows(problem)
    return None if plate is None or plate.size < MANY_ROWS else shared_by_rows(problem, plate)


def _over_rows(rows: Rowwise, count: int, enough: float, seed: int, bar: Progress) -> _Drawn:
    """Draws where all unknowns are shared by many rows."""
    total, set_up = rows.rows.size, time.perf_counter()
    bar.update(1, lambda: f"{rows.size:,} unknowns that {total:,} rows share; {cost_of_rows(rows, count)}")
    drawn = weigh_rows(rows, seed=seed, enough=enough, many=MOST_EFFECTIVE)
    pool = drawn.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, count, seed))
    return _Drawn(
        pool, which, pool.points[which], pool.base[which], judge_rows(drawn, total), of_rows(drawn, rows), set_up, "c", "",
        drawn.evaluations, KNOWN * drawn.left + float(torch.finfo(rows.joint.problem.dtype).eps) * total,
    )  # fmt: skip


def _in_blocks(asked: _Asked) -> _Drawn:
    """Draws where unknowns fall into blocks, or are few."""
    joint, blocks, seed, bar = asked.joint, asked.blocks, asked.seed, asked.bar
    bar.update(1, lambda: f"{blocks.count:,} blocks, {asked.shared:,} shared unknowns")
    split = Split.of(joint, blocks)
    marginal = _layers(joint, split, blocks)
    set_up = time.perf_counter()
    gaussian, modes = find_finely(marginal, seed)
    cost = cost_of_blocks(marginal, split.weighted, gaussian.sample(TRIED, seed), asked.enough, asked.count)
    bar.update(2, lambda: f"Gaussian found; {cost}")
    found = weigh_finely(
        marginal, gaussian, seed=seed, enough=cost.affordable(asked.enough), quantities=_as_programmed(marginal)
    )
    pool = found.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, asked.count, seed))  # so that those of one point are side by side
    shared = pool.points[which]
    drawn = draw_blocks(marginal, shared, None if pool.local is None else pool.local.of(which), seed=seed)
    flat = _assembled(marginal, shared, drawn)
    meets = moved_elsewhere(blocks, lambda point: split.at(point[None]).totals[0], flat[0], seed)
    verdict = judge(blocks.layers, drawn[::-1], found, meets, modes)
    return _Drawn(
        pool,
        which,
        flat,
        _log_densities(split, flat),
        verdict,
        of_blocks(found, drawn[-1], blocks),
        set_up,
        split.weighted.engine,
        split.weighted.reason,
        split.weighted.evaluations,
    )


def _in_a_field(asked: _Asked, coupled: Coupled, dear: float = math.inf) -> _Drawn:
    """Draws where unknowns are coupled, unless that takes more than so many seconds, and than chains would."""
    joint, seed, bar, pattern = asked.joint, asked.seed, asked.bar, coupled.pattern
    bar.update(1, lambda: f"{pattern.count:,} coupled unknowns, {len(pattern.shared):,} shared")
    marginal = FieldMarginal(joint, coupled)
    set_up = time.perf_counter()
    gaussian, modes = _gaussianof_field(marginal, seed)

    def afford(annealing: Annealing) -> float:
        cost = cost_of_field(annealing, asked.enough, asked.count)
        bar.update(2, lambda: f"Gaussian found; {annealing.steps} steps to the law, {cost}")
        if cost.seconds > max(dear, as_chains(coupled.weighted)):
            raise FitError(f"weighing {pattern.count:,} coupled unknowns takes {cost}. Fix: use lvm.nuts(problem).")
        return cost.affordable(asked.enough)

    drawn = weigh_field(marginal, gaussian, seed=seed, afford=afford)
    pool = drawn.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, asked.count, seed))
    points = pattern.assembled(pool.points[which], drawn.local[which])
    log_p = coupled.at(points)[0].sum(axis=1)
    sites = coupled.sites(joint.problem)
    meets = met_elsewhere(pattern, lambda some: coupled.at(some)[1], points[0], seed)
    inside = marginal.modes(pool.points[np.argmax(pool.weights)], seed)
    verdict = judge_field(drawn, sites, meets, max(modes, inside))
    return _Drawn(
        pool,
        which,
        coupled.unknowns(points),
        log_p,
        verdict,
        of_field(drawn, coupled, sites),
        set_up,
        coupled.weighted.engine,
        coupled.weighted.reason,
        coupled.weighted.evaluations,
    )


def _gaussianof_field(marginal: FieldMarginal, seed: int) -> tuple[Student, int]:
    try:
        if marginal.size:
            return find_gaussian(marginal, seed)
        marginal.settle(np.zeros(0))
        if marginal.given(np.zeros((1, 0))).fine[0]:
            return Student.one(np.zeros(0), np.zeros((0, 0))), 1
        raise FitError("ascents did not end.")
    except FitError as error:
        values = marginal.coupled.at(np.zeros((1, marginal.coupled.pattern.size)))[0]
        if not np.isfinite(values).all():
            raise
        raise FitError(
            f"the {marginal.coupled.pattern.count:,} coupled unknowns of {marginal.joint.problem.name} have no mode given the "
            "others where it was sought: their density may grow without bound, or have many modes. Fix: use lvm.nuts(problem)."
        ) from error


def _as_programmed(marginal: Marginal) -> Callable[[Array], Array]:
    """Shared unknowns as the program has them, shape ``(S, k)``, at points ``(S, K)``."""
    joint, size = marginal.joint, marginal.joint.problem.unconstrained_size
    shared = marginal.layer.blocks.shared
    ends = np.cumsum([0, *joint.sizes])
    sites = [
        site.name
        for site, start, stop in zip(joint.problem.continuous, ends[:-1], ends[1:], strict=True)
        if np.isin(np.arange(start, stop), shared).all()
    ]

    def values(points: Array) -> Array:
        step = max(1, NUMBERS // size)
        found = []
        with torch.no_grad():
            for start in range(0, len(points), step):
                some = constrained(joint, marginal.tensor(points[start : start + step]))
                found.append(
                    np.concatenate([some[name].double().reshape(len(some[name]), -1).numpy() for name in sites], axis=1)
                )
        return np.concatenate(found)

    return values


def _parts(joint: Joint, point: Array) -> dict[str, Array]:
    with torch.no_grad():
        parts = joint.elements(torch.as_tensor(point).to(joint.problem.dtype))
        return {name: part.double().numpy() for name, part in parts.items()}


def _check_shared(problem: Problem, blocks: Blocks) -> None:
    shared, most = len(blocks.layers[-1].shared), MOST_SHARED if blocks.count else MOST_ALONE
    if shared <= most:
        return
    what = (
        f"{shared:,} of {blocks.size:,} unknowns of {problem.name} are neither in blocks that are independent given the rest "
        "nor coupled to few neighbours alone"
    )
    raise FitError(
        f'{what}: at most {most} may be. Fix: use lvm.nuts(problem), or a guide such as lvm.fit(problem, "low_rank").'
    )


def _affordable(problem: Problem) -> int:
    """How many draws are kept by default: as many as fit into memory, fewer where each takes the densities of many rows."""
    rows = max((site.numel for site in problem.observed), default=1)
    return min(DRAWS, default_draws(problem), max(FEWEST_DRAWS, ROWS // rows))


def _log_densities(split: Split, flat: Array) -> Array:
    """Log densities of all unknowns, log Jacobians included, shape ``(D,)``."""
    count = max(1, NUMBERS // split.numbers)
    pieces = [flat[start : start + count] for start in range(0, len(flat), count)]
    return np.concatenate([split.at(piece).totals.sum(axis=1) for piece in pieces])


def _layers(joint: Joint, split: Split, blocks: Blocks) -> Marginal:
    """The density of what all blocks share, those of each layer integrated out."""
    marginal = Marginal(joint, split, _first(blocks))
    shared = blocks.shared
    for around in blocks.layers[1:]:
        marginal.done = DONE_INSIDE
        marginal = Marginal(joint, Nest.of(marginal, shared, around), _first(around))
        shared = around.shared
    return marginal


def _first(blocks: Blocks) -> Rule:
    """The rule by which ascents integrate blocks: the first that has a gradient of its own."""
    levels = rules(blocks.width if blocks.count else 0)
    return levels[min(1, len(levels) - 1)]


def _assembled(marginal: Marginal, shared: Array, drawn: list[BlockDraws]) -> Array:
    """Vectors of all unknowns, shape ``(D, n)``."""
    layer = marginal.layer
    for blocks in drawn:
        shared = layer.assembled(shared, blocks.values)
        layer = layer.inner.layer if isinstance(layer, Nest) else layer
    return shared
