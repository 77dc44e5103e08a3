"""How draws are taken, by what the unknowns are: many rows that share them, blocks, neighbours, or blocks around a core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base.errors import FitError
from pyrolvm._base.passing import passed_over
from pyrolvm._base.progress import Progress
from pyrolvm._base.quadrature import Rule, rules
from pyrolvm._base.verdict import Verdict
from pyrolvm._methods.sparse.blocks import Blocks, find_blocks, moved_elsewhere
from pyrolvm._methods.sparse.cost import TRIED, Cost, as_chains, cost_of_blocks, cost_of_field, cost_of_rows
from pyrolvm._methods.sparse.drawing import BlockDraws, draw_blocks
from pyrolvm._methods.sparse.fields.annealing import Annealing
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._methods.sparse.fields.laplace import FieldMarginal
from pyrolvm._methods.sparse.fields.pattern import FEWEST, met_elsewhere
from pyrolvm._methods.sparse.fields.weighing import weigh_field
from pyrolvm._methods.sparse.fine import find_finely, weigh_finely
from pyrolvm._methods.sparse.groups import of_blocks, of_field, of_rows
from pyrolvm._methods.sparse.judge import judge, judge_field, judge_rows
from pyrolvm._methods.sparse.marginal import DONE_INSIDE, NUMBERS, Marginal, Nest, as_programmed
from pyrolvm._methods.sparse.pool import Pool
from pyrolvm._methods.sparse.rows import KNOWN, weigh_rows
from pyrolvm._methods.sparse.search import find_gaussian
from pyrolvm._methods.sparse.split import Split
from pyrolvm._program.density import Joint
from pyrolvm._program.density.rowwise import Rowwise
from pyrolvm._program.problem import Problem
from pyrolvm.family.importance import resample
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MOST_EFFECTIVE", "Asked", "Drawn", "blocks_of", "draw", "draw_over_rows", "layers", "parts_at"]

Array = NDArray[np.float64]

MOST_EFFECTIVE = 4_000
"""Effective draws that are waited for at most, however many are to be kept."""

MOST_SHARED, MOST_ALONE, MOST_ALIKE = 500, 100, 60
"""Up to so many shared unknowns are weighed together; where there are no blocks; and where they need not be."""

FEWER = 0.5
"""The share of the unknowns that blocks leave shared, of which so many may be where the others are coupled to neighbours."""

DEAR = 60.0
"""Seconds that blocks and their core together may take at least, where others may do; and else as many as chains of NUTS would."""


@dataclass(frozen=True)
class Drawn:
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
        ends: all unknowns where ascents ended, the highest first, shape ``(P, n)``.
        inside: at how many places ascents of coupled unknowns ended given the others.
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
    ends: Array
    inside: int = 1
    known: float = 0.0

    @property
    def alone(self) -> bool:
        """Whether all ascents ended at one place."""
        return len(self.ends) == self.inside == 1

    @property
    def good(self) -> bool:
        """Whether there is nothing to be said against it."""
        return self.alone and self.verdict.trusted and self.pool.figures.reliable


@dataclass(frozen=True)
class Asked:
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

    @property
    def plain(self) -> bool:
        """Whether there are blocks, and so few unknowns beside them that these are weighed together."""
        return self.blocks.count > 0 and self.shared <= MOST_ALIKE


def blocks_of(joint: Joint, seed: int, *, short: bool = False) -> Blocks:
    """The blocks of a density's unknowns; those of sites of few rows as well, if these are wanted."""
    return find_blocks(joint.problem, lambda point: parts_at(joint, point), seed=seed, short=short)


def draw(asked: Asked) -> Drawn:
    """Draws by what the unknowns are: coupled to neighbours, in blocks and a core that they meet, or in blocks alone."""
    coupled, found = _neighbours(asked), None
    if coupled is not None:
        found = _tried(asked, lambda: _in_a_field(asked, coupled))
        if found is not None and asked.shared > MOST_ALONE:
            return found
    elif asked.blocks.count and asked.shared > MOST_ALIKE:
        found = _tried(asked, lambda: _with_core(asked))
    if found is not None and found.good:
        return found
    _check_shared(asked.joint.problem, asked.blocks)
    return _in_short_blocks_too(asked)


def _tried(asked: Asked, way: Callable[[], Drawn | None]) -> Drawn | None:
    """What a way gives; ``None`` where it cannot, and blocks alone may do."""
    try:
        return way()
    except FitError:
        if asked.shared > MOST_ALONE:
            raise
        passed_over("many unknowns as one field: blocks alone may do")
        return None


def _neighbours(asked: Asked) -> Coupled | None:
    """The density with unknowns that are coupled to neighbours, where blocks leave many shared and these meet few others."""
    if asked.shared <= FEWEST:
        return None
    coupled = Coupled.of(asked.joint, asked.seed)
    return (
        coupled
        if coupled is not None and len(coupled.pattern.shared) <= min(FEWER * asked.shared, MOST_ALONE)
        else None
    )


def _with_core(asked: Asked) -> Drawn | None:
    """Draws where blocks meet a core of others, all of them integrated out together; ``None`` where that is not to be had."""
    coupled = Coupled.around(asked.joint, asked.blocks, asked.seed)
    return None if coupled is None or coupled.pairs is None else _in_a_field(asked, coupled, DEAR)


def draw_over_rows(rows: Rowwise, count: int, enough: float, seed: int, bar: Progress) -> Drawn:
    """Draws where all unknowns are shared by many rows."""
    total, set_up = rows.rows.size, time.perf_counter()
    bar.update(1, lambda: f"{rows.size:,} unknowns that {total:,} rows share; {cost_of_rows(rows, count)}")
    drawn = weigh_rows(rows, seed=seed, enough=enough, many=MOST_EFFECTIVE)
    pool = drawn.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, count, seed))
    return Drawn(
        pool, which, pool.points[which], pool.base[which], judge_rows(drawn, total), of_rows(drawn, rows), set_up, "c", "",
        drawn.evaluations, drawn.ends, known=KNOWN * drawn.left + float(torch.finfo(rows.joint.problem.dtype).eps) * total,
    )  # fmt: skip


def _in_short_blocks_too(asked: Asked) -> Drawn:
    """Draws by blocks; where they are not good, with the few rows of a group that has a scale of its own as blocks too.

    A few rows are shared unknowns as a rule, since blocks around blocks take ten times as long. But where their scale may be near zero,
    the density of all together has no mode, and only that with the rows integrated out has.
    """
    try:
        found = _in_blocks(asked)
    except FitError:
        blocks = _with_short(asked)
        if blocks is None:
            raise
    else:
        blocks = None if found.good else _with_short(asked)
        if blocks is None:
            return found
    return _in_blocks(replace(asked, blocks=blocks))


def _with_short(asked: Asked) -> Blocks | None:
    """Blocks of sites of few rows as well; ``None`` where there are none."""
    blocks = blocks_of(asked.joint, asked.seed, short=True)
    return blocks if blocks.layers[-1].shared.size < asked.shared else None


def _in_blocks(asked: Asked) -> Drawn:
    """Draws where unknowns fall into blocks, or are few."""
    joint, blocks, seed, bar = asked.joint, asked.blocks, asked.seed, asked.bar
    bar.update(1, lambda: f"{blocks.count:,} blocks, {asked.shared:,} shared unknowns")
    split = Split.of(joint, blocks)
    marginal = layers(joint, split, blocks)
    set_up = time.perf_counter()
    gaussian, places = find_finely(marginal, seed)
    cost = cost_of_blocks(marginal, split.weighted, gaussian.sample(TRIED, seed), asked.enough, asked.count)
    bar.update(2, lambda: f"Gaussian found; {cost}")
    found = weigh_finely(
        marginal, gaussian, seed=seed, enough=cost.affordable(asked.enough), quantities=as_programmed(marginal)
    )
    pool = found.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, asked.count, seed))  # so that those of one point are side by side
    shared = pool.points[which]
    drawn = draw_blocks(marginal, shared, None if pool.local is None else pool.local.of(which), seed=seed)
    flat = _assembled(marginal, shared, drawn)
    meets = moved_elsewhere(blocks, lambda point: split.at(point[None]).totals[0], flat[0], seed)
    verdict = judge(blocks.layers, drawn[::-1], found, meets)
    return Drawn(
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
        _at_modes(marginal, places),
    )


def _in_a_field(asked: Asked, coupled: Coupled, dear: float = math.inf) -> Drawn:
    """Draws where unknowns are coupled, unless that takes more than so many seconds, and than chains would."""
    joint, seed, bar, pattern = asked.joint, asked.seed, asked.bar, coupled.pattern
    bar.update(1, lambda: f"{pattern.count:,} coupled unknowns, {len(pattern.shared):,} shared")
    marginal = FieldMarginal(joint, coupled)

    def cost_of(evaluations: int) -> Cost:
        cost = cost_of_field(coupled, evaluations, asked.enough, asked.count)
        if cost.seconds > max(dear, as_chains(coupled.weighted)):
            raise FitError(f"weighing {pattern.count:,} coupled unknowns takes {cost}. Fix: use lvm.nuts(problem).")
        return cost

    def afford(annealing: Annealing) -> float:
        cost = cost_of(annealing.evaluations)
        bar.update(2, lambda: f"Gaussian found; {annealing.steps} steps to the law, {cost}")
        return cost.affordable(asked.enough)

    cost_of(0)  # which may be known to be too much before anything is sought
    set_up = time.perf_counter()
    gaussian, places = _gaussian_of_field(marginal, seed)

    drawn = weigh_field(marginal, gaussian, seed=seed, afford=afford)
    pool = drawn.pool
    bar.update(3, lambda: f"{pool.figures.ess:.0f} of {len(pool.points):,} effective")
    which = np.sort(resample(pool.weights, asked.count, seed))
    points = pattern.assembled(pool.points[which], drawn.local[which])
    log_p = coupled.at(points)[0].sum(axis=1)
    sites = coupled.sites(joint.problem)
    meets = met_elsewhere(pattern, lambda some: coupled.at(some)[1], points[0], seed)
    inside = marginal.modes(pool.points[np.argmax(pool.weights)], seed)
    verdict = judge_field(drawn, sites, meets)
    ends = pattern.assembled(places, marginal.given(places).mode)
    return Drawn(
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
        coupled.unknowns(ends),
        inside,
    )


def _gaussian_of_field(marginal: FieldMarginal, seed: int) -> tuple[Student, Array]:
    try:
        if marginal.size:
            return find_gaussian(marginal, seed)
        marginal.settle(np.zeros(0))
        if marginal.given(np.zeros((1, 0))).fine[0]:
            return Student.one(np.zeros(0), np.zeros((0, 0))), np.zeros((1, 0))
        raise FitError("ascents did not end.")
    except FitError as error:
        values = marginal.coupled.at(np.zeros((1, marginal.coupled.pattern.size)))[0]
        if not np.isfinite(values).all():
            raise
        raise FitError(
            f"the {marginal.coupled.pattern.count:,} coupled unknowns of {marginal.joint.problem.name} have no mode given the "
            "others where it was sought: their density may grow without bound, or have many modes. Fix: use lvm.nuts(problem)."
        ) from error


def parts_at(joint: Joint, point: Array) -> dict[str, Array]:
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


def _log_densities(split: Split, flat: Array) -> Array:
    """Log densities of all unknowns, log Jacobians included, shape ``(D,)``."""
    count = max(1, NUMBERS // split.numbers)
    pieces = [flat[start : start + count] for start in range(0, len(flat), count)]
    return np.concatenate([split.at(piece).totals.sum(axis=1) for piece in pieces])


def layers(joint: Joint, split: Split, blocks: Blocks) -> Marginal:
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


def _at_modes(marginal: Marginal, shared: Array) -> Array:
    """Vectors of all unknowns ``(P, n)`` at shared ones, blocks at their modes."""
    while marginal.shape[0]:
        shared = marginal.layer.assembled(shared, marginal.local(shared).mode)
        if not isinstance(marginal.layer, Nest):
            break
        marginal = marginal.layer.inner
    return shared
