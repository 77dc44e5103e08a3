"""The modes of a density: where several ascents end, and the Gaussian that fits best at each place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError, ProblemError
from pyrolvm._base.randomness import random_state
from pyrolvm._program.density.prior import prior_points
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry import find_symmetries
from pyrolvm.family.climb import Path, climb, climb_from, elbo, local_gaussians
from pyrolvm.family.natural import Fitted
from pyrolvm.family.student import Student

__all__ = [
    "MOST_MODES",
    "MOST_UNKNOWNS",
    "Modes",
    "find_modes",
    "inside",
    "joined",
    "local_evidence",
    "require_affordable",
]

STARTS, MORE_STARTS, MOST_STARTS = 4, 16, 84
"""Ascents from near the origin; more once two have ended at different heights, and as long as they go on to end at new modes."""

DRAWN, NEIGHBOURS = 256, 8
"""Draws of the prior, where it can be drawn from: ascents start at those, as many at most as from near the origin, where the density is
higher than at their nearest neighbours. Where the prior's scale is far from one, so may be the modes."""

MORE_DRAWN, FEW_UNKNOWNS, LOOKING = 2_048, 20, 0.02
"""Draws of a prior of few unknowns, where as many densities take at most so many seconds of an ordinary processor: narrow modes."""

ONCE = 2
"""Modes at which one ascent alone has ended from which on there are taken to be more."""

SAME_TOP = 0.1
"""Nats within which two ascents have ended at one mode."""

ONE_PLACE, TWO_PLACES = 1e-3, 0.5
"""The distance up to which ends as high as each other are one place in whatever units, and that from which on they are two."""

COPY = 1e-3
"""Nats, more of them where heights are beyond a thousand, within which modes apart are copies of one another."""

COPIES = 8
"""Modes at most that include copies of others; the others go on to :data:`MOST_MODES`."""

MOST_MODES = 16
"""Modes that are kept."""

MOST_UNKNOWNS = 1_000
"""Up to so many unknowns a covariance matrix is affordable."""

APART = 3.0
"""Sds between modes from which on they are modes of their own."""

NEGLIGIBLE = 12.0
"""Nats of local evidence below the best from which on a mode is left out."""


@dataclass(frozen=True)
class Modes:
    """What ascents from several starts found.

    Attributes:
        fitted: the best Gaussian at each mode, the one with the most mass first.
        evidence: the log evidence of each, for weights.
        paths: how many ascents there were.
        distinct: at how many places they ended.
        unseen: the share of ascents from elsewhere that are expected to end at modes that none of these ended at; zero where there is
            no sign of any.
    """

    fitted: tuple[Fitted, ...]
    evidence: Points
    paths: int
    distinct: int
    unseen: float


@dataclass(frozen=True)
class _Mode:
    evidence: float
    fitted: Fitted
    top: float


def find_modes(
    target: Target, seed: int, fit: Callable[..., Fitted], mass: Callable[[Target, Student, int], float]
) -> Modes:
    """Seeks the modes of a density by ascents, as many as it takes until they end at known modes.

    Of ascents that end at random, the share that the next would end at a place not yet seen is about the share of those that were
    alone where they ended.

    Args:
        target: the density.
        seed: makes it repeatable.
        fit: the Gaussian of a mode from the best one on an ascent.
        mass: the log evidence of a mode by its Gaussian, such as :func:`local_evidence`.

    Raises:
        FitError: if there is no Gaussian anywhere.

    References:
        Good, *The population frequencies of species and the estimation of population parameters*,
        https://doi.org/10.1093/biomet/40.3-4.237
    """
    paths = _ascents(target, seed)
    found = _added([], target, _heights(target, paths)[:COPIES], seed, fit, mass)
    copied = _alone(found, paths, False) >= ONCE and bool(find_symmetries(target.joint.problem).blocks)
    round = 1
    while _alone(found, paths, copied) >= ONCE and len(paths) < MOST_STARTS:
        if budget.spent() or target.effort > target.allowance / 4:
            break
        round += 1
        paths += _climbed(target, MORE_STARTS, seed + round, again=True)
        found = _added(
            found, target, _elsewhere(target, found, paths, copied)[: MOST_MODES - len(found)], seed, fit, mass
        )
    if not found:
        raise FitError(
            f"no Gaussian fits {target.joint.problem.name!r} anywhere on {len(paths)} ascents: its density or curvature is not finite "
            'there. Fix: bound scales away from zero, or use guide="mean_field".'
        )
    found.sort(key=lambda mode: -mode.evidence)
    kept = [mode for mode in found if mode.evidence >= found[0].evidence - NEGLIGIBLE]
    alone = _alone(kept, paths, copied)
    if len(found) >= MOST_MODES:
        alone = max(alone, len(_elsewhere(target, found, paths, copied)))
    heights = np.array([mode.evidence for mode in kept])
    unseen = alone / len(paths) if alone >= ONCE else 0.0
    return Modes(tuple(mode.fitted for mode in kept), heights, len(paths), len(_heights(target, paths)), unseen)


def require_affordable(problem: Problem) -> None:
    """Refuses more unknowns than may have a covariance matrix for each mode.

    Raises:
        FitError: if there are more.
    """
    if problem.unconstrained_size > MOST_UNKNOWNS:
        raise FitError(
            f"{problem.name} has {problem.unconstrained_size:,} unknowns; a covariance matrix is affordable up to {MOST_UNKNOWNS:,}. "
            'Fix: use guide="mean_field" or "low_rank".'
        )


def _added(
    found: list[_Mode], target: Target, ends: list[Path], seed: int,
    fit: Callable[..., Fitted], mass: Callable[[Target, Student, int], float],
) -> list[_Mode]:  # fmt: skip
    """The modes, and those at other places where ascents ended."""
    found = list(found)
    starts = sorted(_starts(target, ends), key=lambda start: -start[0])
    for bound, start, top in starts:
        if bound < starts[0][0] - NEGLIGIBLE or any(inside(start.means, mode.fitted.family)[0] for mode in found):
            continue
        fitted = fit(target, start, seed=seed)
        if any(_near(fitted, mode.fitted) for mode in found):
            continue
        evidence = mass(target, fitted.family, seed)
        if np.isfinite(evidence):
            found.append(_Mode(evidence, fitted, top))
    return found


def _alone(found: list[_Mode], paths: list[Path], copied: bool) -> int:
    """At how many modes a single ascent ended, where copies that the program's symmetries make are taken for one."""
    return sum(sum(_ended_at(path, mode, copied) for path in paths) == 1 for mode in found)


def _elsewhere(target: Target, found: list[_Mode], paths: list[Path], copied: bool) -> list[Path]:
    """One path for each place, not far below the highest, at which ascents ended that are at no mode found."""
    top = max(path.top for path in paths)
    others = [path for path in _heights(target, paths) if path.top > top - NEGLIGIBLE]
    return [path for path in others if not any(_ended_at(path, mode, copied) for mode in found)]


def _ended_at(path: Path, mode: _Mode, copied: bool) -> bool:
    """Whether an ascent ended at a mode or, where it may have any, at a copy of it."""
    return (copied and _as_high(path.top, mode.top)) or bool(inside(path.points[-1][None], mode.fitted.family)[0])


def _ascents(target: Target, seed: int) -> list[Path]:
    target.at_once("use a guide that is trained step by step")
    require_affordable(target.joint.problem)
    paths = _climbed(target, STARTS, seed)
    if len(_heights(target, paths)) > 1:
        paths += _climbed(target, MORE_STARTS - STARTS, seed + 1, again=True)
    return paths


def _climbed(target: Target, count: int, seed: int, *, again: bool = False) -> list[Path]:
    """Ascents from so many places near the origin, which is one of them unless it has been before, and from draws of the prior."""
    near = climb(target, starts=count + again, seed=seed)[int(again) :]
    return near + climb_from(target, _from_prior(target, count, seed))


def _from_prior(target: Target, count: int, seed: int) -> Points:
    """Draws from the prior at which to start, shape ``(at most count, n)``; none where it is flat or cannot be drawn from.

    A draw with a higher one beside it would end where that one does.

    References:
        Rinnooy Kan, Timmer, *Stochastic global optimization methods, part II: multi level methods*,
        https://doi.org/10.1007/BF02592071
    """
    problem = target.joint.problem
    try:
        with random_state(seed, problem.device):
            many = min(MORE_DRAWN, int(LOOKING / target.each.of(1))) if target.size <= FEW_UNKNOWNS else 0
            points = prior_points(problem, target, max(DRAWN, many), looped=count)
    except (ProblemError, ValueError, RuntimeError):  # of a prior without draws, or one beyond its own support's ends
        return np.zeros((0, target.size))
    points = points[np.isfinite(points).all(axis=1)]
    values = target.values(points)
    points, values = points[np.isfinite(values)], values[np.isfinite(values)]
    if len(points) < NEIGHBOURS:
        return points[:count]
    spread = np.subtract(*np.quantile(points, [0.75, 0.25], axis=0))
    tree = scipy.spatial.cKDTree(points / np.where(spread > 0, spread, 1.0))
    near = tree.query(tree.data, k=NEIGHBOURS)[1]
    leading = np.flatnonzero(values >= values[near].max(axis=1))
    return points[leading[np.argsort(-values[leading], kind="stable")[:count]]]


def _heights(target: Target, paths: list[Path]) -> list[Path]:
    """One path for each place at which paths ended, the highest first, with copies of others behind all that matter."""
    chosen: list[Path] = []
    for path in sorted(paths, key=lambda path: -path.top):
        if all(_apart(target, path, other) for other in chosen if abs(other.top - path.top) < SAME_TOP):
            chosen.append(path)
    high = [path for path in chosen if path.top > chosen[0].top - NEGLIGIBLE]
    again = [False, *(_as_high(path.top, other.top) for other, path in pairwise(high))]
    first = [path for path, copied in zip(high, again, strict=True) if not copied]
    copies = [path for path, copied in zip(high, again, strict=True) if copied]
    return first + copies + chosen[len(high) :]


def _apart(target: Target, one: Path, other: Path) -> bool:
    """Whether two paths as high as each other ended at different places; where distance does not tell, what lies between does."""
    here, there = one.points[-1], other.points[-1]
    gap = np.max(np.abs(here - there) / (1 + np.abs(here)))
    if not ONE_PLACE < gap < TWO_PLACES:
        return bool(gap >= TWO_PLACES)
    between = target.values((here + there)[None] / 2)[0]
    return bool(between < min(one.top, other.top) - SAME_TOP)


def _as_high(one: float, other: float) -> bool:
    return abs(one - other) < COPY * max(1.0, abs(one) / 1e3)


def _starts(target: Target, paths: list[Path]) -> Iterator[tuple[float, Student, float]]:
    """The ELBO of the best Gaussian on each path, the Gaussian, and the path's height."""
    for path in paths:
        scored = [(elbo(target, gaussian), gaussian) for gaussian in local_gaussians(target, path)]
        best = max(scored, key=lambda pair: pair[0], default=None)
        if best is not None and np.isfinite(best[0]):
            yield *best, path.top


def inside(points: Points, mode: Student) -> NDArray[np.bool_]:
    """Which points ``(count, n)`` lie where a mode has its mass."""
    gaps = np.linalg.norm(np.linalg.solve(mode.trils[0], (points - mode.means[0]).T), axis=0)
    return np.asarray(gaps < APART + np.sqrt(mode.size))


def _near(one: Fitted, other: Fitted) -> bool:
    """Whether two Gaussians are of one mode: near in units of both, though less in one; a narrow one may lie in a wide one."""
    gap = one.family.means[0] - other.family.means[0]
    lengths = [np.linalg.norm(np.linalg.solve(fit.family.trils[0], gap)) for fit in (one, other)]
    return bool(min(lengths) < APART and max(lengths) < 2 * APART)


def local_evidence(target: Target, family: Student, seed: int) -> float:
    """The log evidence of a mode by importance sampling with its Gaussian, its tails made heavier."""
    proposal = family.with_freedom(10.0)
    points = proposal.sample(2048, seed)
    values = target.values(points)
    log_weight = values - proposal.log_density(points)
    top = log_weight.max()
    return float(top + np.log(np.mean(np.exp(log_weight - top)))) if np.isfinite(top) else -np.inf


def joined(parts: Sequence[Student], log_weights: Points) -> Student:
    """One mixture of several."""
    weights = np.maximum(np.exp(log_weights - log_weights.max()), 1e-3)
    return Student(
        weights / weights.sum(),
        np.concatenate([part.means for part in parts]),
        np.concatenate([part.trils for part in parts]),
        np.concatenate([part.freedoms for part in parts]),
    )
