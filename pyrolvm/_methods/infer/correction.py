"""Draws of a fit corrected by their importance weights, as far as the weights can be relied on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.importance import Weights, khat_of_variance, weigh
from pyrolvm._methods.infer.orbits import Law, average
from pyrolvm._methods.modes import uncovered
from pyrolvm._program.density import Evaluator, Joint, unconstrained
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry import find_symmetries
from pyrolvm._program.symmetry.orbits import Orbits
from pyrolvm._results import Fit
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import corrected_tree, default_draws
from pyrolvm._results.draws import draw_guide, rebuild
from pyrolvm.family import known_frame, last_frame, resample
from pyrolvm.family.protocol import Hooks

__all__ = ["correct"]

FIRST, MOST = 8_192, 131_072
"""Draws that are weighed, at first and at most."""

LIGHT, THOROUGH = 0.3, 65_536
"""Above this k-hat so many draws are weighed: tails that are thin in the proposal show in few draws neither in k-hat nor in an sd."""

ENOUGH = 1.1
"""Effective draws for each draw that is kept, at which no more are weighed."""

LOOPED = 2_000
"""Draws that are weighed where the model runs them one by one."""

SHARE = 2.0
"""What evaluations one by one may cost, in units of the fit's own time."""

LEAST_SECONDS = 2.0
"""What they may always cost."""

OWN_SEED = 10_000
"""Added to the seeds of a guide's own draws, so that they are not those that it was fitted to."""

JUDGED, JUDGED_QUANTITIES = 32_768, 200
"""Draws and unknowns whose variances are judged one by one."""

FEW = 500
"""Effective draws that the most must promise, or no more are taken."""

MOMENT_ROUNDS = 5
Indices = np.ndarray[Any, np.dtype[np.int64]]

MEMORY = 50_000_000
"""Numbers that the draws may hold together."""


@dataclass(frozen=True)
class Pool:
    """Draws of a guide with their densities.

    Attributes:
        log_p: log densities of the model, on whatever scale.
        log_q: log densities of the guide on the same scale.
        take: the draws of given numbers, by latent site.
        slow: whether the model ran them one by one, so that there are few.
    """

    log_p: Points
    log_q: Points
    take: Callable[[Indices], dict[str, Tensor]]
    slow: bool = False

    @property
    def log_weight(self) -> Points:
        """Log p - log q; minus infinity where the model has no density."""
        with np.errstate(invalid="ignore"):
            difference = self.log_p - self.log_q
        return np.where(np.isfinite(self.log_p) & ~np.isposinf(self.log_q), difference, -np.inf)


Draw = Callable[[int, int], Pool]
"""Draws that many, the part of that number."""

LOOKED_AT = 4_000
"""Draws by which to tell whether copies of one mode lie apart."""

FRESH = 99
"""A part that is drawn for nothing else."""


def correct(fit: Fit, *, draws: int | None = None, seed: int = 0) -> Fit:
    """Chooses among many draws of a fit in proportion to their importance weights.

    As many draws are weighed as it takes for ``draws`` effective ones, up to 131,072. Where k-hat is above its threshold, the
    draws are moved until their mean and covariance are those that the weights ask for (moment matching), as long as that
    lowers k-hat. The result says what was done; the guide's own draws stay in group ``uncorrected_posterior``, the weights in
    ``proposal_stats``. Its verdict is that of the corrected draws, and "failed" where there was nothing to correct with.

    Args:
        fit: a variational fit.
        draws: how many to keep; by default twice as many as the fit has by default.
        seed: makes it repeatable.

    Raises:
        ArgumentError: if it is not a fit, is a point estimate, is corrected already or has lost its guide, or ``draws`` is out
            of range.

    References:
        Vehtari et al., *Pareto smoothed importance sampling*, https://arxiv.org/abs/1507.02646;
        Paananen, Piironen, Bürkner, Vehtari, *Implicitly adaptive importance sampling*, https://arxiv.org/abs/1906.08850
    """
    if not isinstance(fit, Fit):
        raise ArgumentError(f"correct takes a Fit, got {type(fit).__name__}. Fix: pass what lvm.fit returns.")
    if fit.corrected:
        raise ArgumentError(f"{fit.name} is corrected already. Fix: correct the fit that it was made from.")
    fit.check_density("correct")
    if fit.guide is None:
        raise ArgumentError(
            f"{fit.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
        )
    if draws is not None:
        positive_int("draws", draws, minimum=2)
    seed = checked_seed(seed)
    started = time.perf_counter()
    problem = fit.attached
    kept = draws or 2 * default_draws(problem)
    allowed = max(SHARE * sum(fit.seconds.values()), LEAST_SECONDS)
    with problem.session(seed=seed + 1, params=fit.params):
        joint = Joint(problem)
        guide = rebuild(problem, fit.guide)
        draw = _remembered(_source(guide, joint, started + allowed))
        orbits = _apart(draw, problem, seed)
        if orbits is not None:
            draw, orbits = _over_copies(draw, orbits, Law.of(guide, problem))
        pool, figures, weights = _weighed(draw, problem, kept)
        how = f"importance resampling of {figures.num_draws:,} draws"
        movable = problem.continuous and not problem.discrete and not pool.slow and not budget.spent()
        if figures.khat > figures.threshold and movable:
            moved = _matched(joint, pool, figures, draw)
            if moved is not None:
                pool, figures, weights, rounds = moved
                how = f"{rounds} rounds of moment matching, then {how}"
        if pool.slow and draws is None:  # no more draws than evaluations: all else is evaluated one by one as well
            kept = min(kept, len(pool.log_p) // 2)
        chosen = resample(weights, kept, seed)
        with budget.finishing(allowed):
            values = pool.take(chosen)
            if orbits is not None:
                values = orbits.spread(values, seed, evenly=True)
                how += f", each mapped to one of {orbits.how_many} at random"
            khats = _by_quantity(joint, pool, figures)
            weighed = {"lp": pool.log_p, "log_q": pool.log_q, "log_weight": pool.log_weight}
            tree = corrected_tree(problem, fit.data, values, weighed, {"correction": how}, khats, orbits)
            tree["posterior"].attrs.update(uncovered(problem, tree))
    check_afresh(tree, problem, fit.params, seed=seed)
    seconds = {**fit.seconds, "correct": time.perf_counter() - started}
    return replace(fit, data=tree, seconds=seconds)


def _by_quantity(joint: Joint, pool: Pool, figures: Weights) -> dict[str, float]:
    """The k-hat of each unknown's variance, on the unconstrained scale, where the weights as a whole are well behaved."""
    problem = joint.problem
    if not figures.khat <= figures.threshold:
        return {}
    count = min(len(pool.log_p), JUDGED)
    sites = [site.name for site in problem.continuous]
    values = pool.take(np.arange(count))
    with torch.no_grad():
        reals = unconstrained(joint, values)
    found: dict[str, float] = {}
    for name in sites:
        columns = _array(reals[name]).reshape(count, -1)
        for i in range(columns.shape[1]):
            if len(found) == JUDGED_QUANTITIES:
                return found
            label = name if columns.shape[1] == 1 else f"{name}[{i}]"
            found[label] = khat_of_variance(pool.log_weight[:count], columns[:, i])
    return found


def _weighed(draw: Draw, problem: Problem, kept: int) -> tuple[Pool, Weights, Points]:
    """As many draws as it takes, what their weights say, and the smoothed weights; few, where the model runs them one by one."""
    most = min(MOST, max(FIRST, MEMORY // max(sum(site.numel for site in problem.latents), 1)))
    pools = [draw(FIRST, 0)]
    count = len(pools[0].log_p)
    if pools[0].slow:
        most = count
    while True:
        pool = _together(pools)
        figures, weights = weigh(pool.log_weight)
        share = max(figures.ess / figures.num_draws, 1e-6)
        wanted = int(min(most, max(2 * count, ENOUGH * kept / share, THOROUGH)))
        hopeless = not figures.khat < 1.0 or share * most < FEW
        enough = figures.ess >= kept and (figures.khat < LIGHT or count >= THOROUGH)
        if enough or hopeless or count >= most or budget.spent():
            return pool, figures, weights
        try:
            pools.append(draw(wanted - count, len(pools)))
        except budget.Spent:  # what there is counts
            return pool, figures, weights
        count = wanted


def _apart(draw: Draw, problem: Problem, seed: int) -> Orbits | None:
    """The copies of one mode that a posterior consists of, where a guide's weighed draws tell them apart."""
    if not find_symmetries(problem).blocks:
        return None
    pool = draw(FIRST, 0)
    _, weights = weigh(pool.log_weight)
    if not weights.sum() > 0:
        return None
    return Orbits.found(problem, pool.take(resample(weights, LOOKED_AT, seed)))


def _over_copies(draw: Draw, orbits: Orbits, law: Law | None) -> tuple[Draw, Orbits]:
    """What draws from all copies alike, with the density that the average over copies has, and whether that could be told."""
    first = draw(FIRST, 0)
    values = first.take(np.arange(len(first.log_p)))
    averaged = None if law is None else average(orbits, values, first.log_q, law)
    hidden = orbits.hidden(values) if averaged is None else None

    def spread(count: int, part: int) -> Pool:
        pool = draw(count, part)
        values = pool.take(np.arange(len(pool.log_p)))
        log_q = None if averaged is None or law is None else average(orbits, values, pool.log_q, law)
        moved = orbits.spread(values, part)
        return replace(
            pool,
            log_q=pool.log_q - (hidden or 0.0) if log_q is None else log_q,
            take=lambda which: {name: value[torch.as_tensor(which)] for name, value in moved.items()},
        )

    return spread, replace(orbits, counted=averaged is not None or hidden is not None)


def _remembered(draw: Draw) -> Draw:
    """The same draws, the first part of which is drawn once however often it is looked at."""
    first: list[Pool] = []

    def again(count: int, part: int) -> Pool:
        if part or count != FIRST:
            return draw(count, part)
        if not first:
            first.append(draw(count, part))
        return first[0]

    return again


def _source(guide: Any, joint: Joint, until: float) -> Draw:
    """What draws: the guide itself, with the model's density at its draws; few one by one after the time ``until``."""
    problem = joint.problem

    def draw(count: int, part: int) -> Pool:
        asked = count
        values, log_q = draw_guide(problem, guide, count, looped=LOOPED)
        with torch.no_grad():
            many = Evaluator(lambda one: {"log_p": joint.log_p(one)}, values, what="log_p")
            if many.way == "loop":
                count = budget.affordable(many.cost, min(LOOPED, len(log_q)), until - time.perf_counter())
                values, log_q = {name: value[:count] for name, value in values.items()}, log_q[:count]
            log_p = many(values)["log_p"]
        return Pool(
            _array(log_p),
            _array(log_q),
            lambda which: {name: v[torch.as_tensor(which)] for name, v in values.items()},
            many.way == "loop" or len(log_q) < asked,
        )

    own = Hooks(guide).weighed
    if own is None:
        return draw

    def draw_fast(count: int, part: int) -> Pool:
        held, target = own(problem, count, seed=OWN_SEED + part)
        return Pool(held.log_p, held.log_q, lambda which: target.draws(held.points[which]))

    return draw_fast


def _array(values: Tensor) -> Points:
    return values.detach().cpu().double().numpy()


def _together(pools: list[Pool]) -> Pool:
    if len(pools) == 1:
        return pools[0]
    ends = np.cumsum([len(pool.log_p) for pool in pools])

    def take(which: Indices) -> dict[str, Tensor]:
        place = np.searchsorted(ends, which, side="right")
        parts, order = [], []
        for k, pool in enumerate(pools):
            mine = np.flatnonzero(place == k)
            if len(mine):
                parts.append(pool.take(which[mine] - (ends[k] - len(pool.log_p))))
                order.append(mine)
        back = torch.as_tensor(np.argsort(np.concatenate(order), kind="stable"))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}

    log_p, log_q = (np.concatenate([getattr(pool, name) for pool in pools]) for name in ("log_p", "log_q"))
    return Pool(log_p, log_q, take, any(pool.slow for pool in pools))


def _matched(joint: Joint, pool: Pool, figures: Weights, draw: Draw) -> tuple[Pool, Weights, Points, int] | None:
    """Fresh draws, moved as earlier ones had to be to have the mean and covariance that their weights ask for.

    ``None`` if moving does not lower k-hat. The moves are fitted to one set of draws and applied to another, since weights of
    the draws that they were fitted to look better than they are.
    """
    modes = last_frame(joint.problem)
    if modes is not None and len(modes.modes) > 1:
        return None  # one map for draws of all modes would draw them together, and may leave the smaller ones without a draw
    frame = known_frame(joint.problem, {})
    target = Target.of(joint) if frame is None else frame.target
    points, log_p, log_q = _plain(target, pool)
    moves: list[Move] = []
    khat = figures.khat
    while len(moves) < MOMENT_ROUNDS and not khat <= figures.threshold:
        move = _move(points, log_p - log_q)
        if move is None:
            break
        trial = move(points)
        density = target.values(trial)
        after, _ = weigh(np.where(np.isfinite(density), density - log_q + move.log_det, -np.inf))
        if not after.khat < khat - 0.01:
            break
        points, log_p, log_q, khat = trial, density, log_q - move.log_det, after.khat
        moves.append(move)
    if not moves:
        return None
    points, _, log_q = _plain(target, draw(len(pool.log_p), FRESH))
    for move in moves:
        points, log_q = move(points), log_q - move.log_det
    log_p = target.values(points)
    fresh = Pool(log_p, log_q, lambda which: target.draws(points[which]))
    after, weights = weigh(fresh.log_weight)
    return (fresh, after, weights, len(moves)) if after.khat < figures.khat else None


def _plain(target: Target, pool: Pool) -> tuple[Points, Points, Points]:
    """A pool's draws as points of a target, with both log densities there."""
    points = target.points(pool.take(np.arange(len(pool.log_p))))
    log_p = target.values(points)
    # The guide's density in these coordinates: its draws have the Jacobian in common with the model's.
    with np.errstate(invalid="ignore"):
        return points, log_p, pool.log_q + np.where(np.isfinite(log_p), log_p - pool.log_p, 0.0)


@dataclass(frozen=True)
class Move:
    """An affine map of draws.

    Attributes:
        before: the mean that they have.
        after: the mean that they get.
        root: a lower triangular matrix, shape ``(n, n)``, or a scale for each unknown, shape ``(n,)``.
        log_det: its log determinant.
    """

    before: Points
    after: Points
    root: Points
    log_det: float

    def __call__(self, points: Points) -> Points:
        gap = points - self.before
        return self.after + (gap @ self.root.T if self.root.ndim == 2 else gap * self.root)


def _move(points: Points, log_weight: Points) -> Move | None:
    """The affine map of draws to their weighted mean, and to their weighted covariance where they are enough to tell it."""
    size = points.shape[1]
    figures, weights = weigh(np.where(np.isfinite(log_weight), log_weight, -np.inf))
    if not np.abs(points).max() < 1e100:  # squares would overflow
        return None
    plain, wanted = points.mean(axis=0), weights @ points
    before, after = points - plain, points - wanted
    if figures.ess > 5 * size and len(points) > 20 * size:
        try:
            old = np.linalg.cholesky(np.cov(before.T).reshape(size, size))
            new = np.linalg.cholesky((after.T * weights) @ after)
        except np.linalg.LinAlgError:
            return None
        return Move(plain, wanted, new @ np.linalg.inv(old), float(np.log(np.diag(new) / np.diag(old)).sum()))
    scale = np.sqrt(weights @ after**2) / before.std(axis=0)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    return Move(plain, wanted, scale, float(np.log(scale).sum()))
