r"""Weighed draws of unknowns that all rows share, at the price of a few passes over the rows.

The density of all rows is that of some, counted up, and what it has beside that: at the mode that is known to the second degree, by
passes over all rows, and what is left are the third and higher degrees, of which some rows tell nearly all:

.. math:: \log p(u) \approx \ell_s(u) + \Delta(m) + (u - m)^\top \nabla\Delta(m) + \tfrac12 (u - m)^\top \nabla^2\Delta(m)\,(u - m),
    \qquad \Delta = \log p - \ell_s .

How much is left is measured at draws of the posterior, over all rows; where it is too much, more rows are taken, at last all of them.

References:
    Quiroz, Kohn, Villani, Tran, *Speeding up MCMC by efficient data subsampling*, https://arxiv.org/abs/1404.4178 (control variates);
    Bardenet, Doucet, Holmes, *On Markov chain Monte Carlo methods for tall data*, https://arxiv.org/abs/1505.02827
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.errors import CaptureError, DataError, FitError, ProblemError
from pyrolvm._base.passing import passed_over
from pyrolvm._methods.sparse.pool import Pool, weigh_shared
from pyrolvm._methods.sparse.search import Density, find_gaussian, polished
from pyrolvm._program.batching import check_minibatches
from pyrolvm._program.density.rowwise import CHUNK, Rowwise
from pyrolvm._program.held import Held, Rows
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import Plate
from pyrolvm._results.build import lean
from pyrolvm.family.climb import tril_of_precision
from pyrolvm.family.importance import resample
from pyrolvm.family.student import Student, lower_root

__all__ = ["KNOWN", "MOST_UNKNOWNS", "RowDraws", "groups_by_rows", "shared_by_rows", "weigh_rows"]

Array = NDArray[np.float64]

MOST_UNKNOWNS = 100
"""Up to so many unknowns are weighed together."""

SOME = 4_096, 65_536
"""Rows by which the density is told at first, and where they leave too much; then all."""

FEWER = 2
"""By how many times fewer than all rows some have to be."""

MOST_BY_ROW = 1_000_000
"""Rows up to which a result has groups with a number for each: of more there is room for fewer than twenty draws."""

LEFT = 0.03
"""Nats from draw to draw that some rows may leave: a mean moves by no more sds than that."""

KNOWN = 5.0
"""How many times what is left of log densities, on average, one of them may be off."""

COMPARED = 12
"""Draws at which all rows are looked at."""

STEADY = 1e-8
"""By how much, of its size, a log density may change from pass to pass: rounding, where rows come in another order."""

STEPS = 60
"""Newton steps at most."""

ARRIVED = 0.02
"""The length of a step, in sds, that is one too many."""

SLOW = 0.3
"""The share of its length that a step may leave; beyond, the curvature is taken anew."""

LONGEST = 6.0
"""Sds that a step may go, for each square root of the number of unknowns."""

NUDGE = 1e-3
"""The difference, in sds, that curvatures are taken by."""


@dataclass(frozen=True)
class RowDraws:
    """Weighed draws.

    Attributes:
        pool: the draws.
        left: nats from draw to draw that are not known; 0 where all rows were run at all draws.
        some: of how many rows the density of draws is.
        ends: the places at which ascents ended, the highest first, shape ``(P, K)``.
        passes: over all rows.
        evaluations: densities with gradients of all rows.
    """

    pool: Pool
    left: float
    some: int
    ends: Array
    passes: int
    evaluations: int


@dataclass(frozen=True)
class _Top:
    """The density of all rows around its mode, in sds.

    Attributes:
        centre: nearly the mode, shape ``(K,)``.
        tril: coordinates, shape ``(K, K)``.
        value: the log density there.
        slope: its gradient, in these coordinates.
        curvature: minus its second derivatives, in these coordinates.
    """

    centre: Array
    tril: Array
    value: float
    slope: Array
    curvature: Array

    @property
    def gaussian(self) -> Student:
        """The Gaussian by mode and curvature.

        Raises:
            FitError: if there is no curvature.
        """
        root = tril_of_precision(self.curvature)
        if root is None:
            raise FitError(
                "the density has no curvature at its mode. Fix: bound scales away from zero, or use lvm.nuts(problem)."
            )
        step = root @ (root.T @ self.slope)
        return Student.one(self.centre + self.tril @ step, lower_root(self.tril @ root))


@dataclass(frozen=True)
class _Near:
    """The density of all rows as that of some with a polynomial of the second degree.

    Attributes:
        some: the density of some rows, counted up.
        top: that of all around the mode.
        gap: what the polynomial has at the mode.
        slope: its gradient there, in the coordinates of ``top``.
        curvature: its second derivatives.
    """

    some: Rowwise
    top: _Top
    gap: float
    slope: Array
    curvature: Array

    @classmethod
    def of(cls, some: Rowwise, top: _Top) -> _Near:
        own = _around(some, top.centre, top.tril)
        return cls(some, top, top.value - own.value, top.slope - own.slope, own.curvature - top.curvature)

    @property
    def size(self) -> int:
        """How many unknowns."""
        return self.some.size

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Log densities and gradients at points."""
        values, gradients = self.some(points)
        tril = self.top.tril
        white = scipy.linalg.solve_triangular(tril, (points - self.top.centre).T, lower=True).T
        slopes = self.slope + white @ self.curvature
        more = scipy.linalg.solve_triangular(tril, slopes.T, lower=True, trans="T").T
        return values + self.gap + np.sum(white * (self.slope + slopes), axis=1) / 2, gradients + more


def groups_by_rows(total: int) -> AbstractContextManager[None]:
    """In which results of so many rows are made: without groups that have a number for each row, where these are of few draws alone."""
    return lean() if total > MOST_BY_ROW else nullcontext()


def shared_by_rows(
    problem: Problem, plate: Plate, rows: Rows | None = None, names: Sequence[str] = ()
) -> Rowwise | None:
    """The density of a problem whose unknowns are few, shared by all rows and not scaled by each other; ``None`` of any other.

    Must be called inside a session.

    Args:
        problem: the problem.
        plate: the plate of its rows.
        rows: where they come from, where they are not all in memory.
        names: the arguments that have rows, where they come from elsewhere.
    """
    few = bool(problem.continuous) and problem.unconstrained_size <= MOST_UNKNOWNS
    plain = not problem.discrete and not problem.parameters and not problem.predicted and not problem.unused
    alone = plate.dim is not None and not plate.subsampled and not any(plate.name in s.plates for s in problem.latents)
    if not (few and plain and alone) or problem.device.type != "cpu" or problem.modules:
        return None
    try:
        if rows is None and plate.size > CHUNK:
            check_minibatches(problem, plate, CHUNK)
        found = Rowwise.of(problem, plate, rows, names)
    except (CaptureError, ProblemError):
        passed_over("a density that is no sum over rows, or that C cannot run, is run as a whole")
        return None
    return None if found.scaled else found


def weigh_rows(rows: Rowwise, *, seed: int, enough: float, many: float) -> RowDraws:
    """Weighed draws of the unknowns that all rows share.

    Args:
        rows: the density.
        seed: makes it repeatable.
        enough: effective draws at which no more are taken.
        many: the same where they cost next to nothing.

    Raises:
        FitError: if no mode is found, or no draw has a density.
        DataError: if rows are not the same in every pass.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # far from the mode densities may be anything
        return _weighed(rows, seed, enough, many)


def _weighed(rows: Rowwise, seed: int, enough: float, many: float) -> RowDraws:
    total = rows.rows.size
    pilots = [rows.over(_some(rows.rows, count, seed), total / count) for count in _counts(total)]
    gaussian, ends = find_gaussian((pilots or [rows])[0], seed)
    for pilot in pilots[1:]:
        gaussian = Student.one(*_climbed(pilot, gaussian)[:2])
    centre, tril, value = _climbed(rows, gaussian)
    top = _around(rows, centre, tril)
    if not abs(top.value - value) <= STEADY * (1 + abs(value)):
        raise DataError(
            f"the rows of {rows.joint.problem.name} are not the same in every pass: log p at one point is {value:.10g} in one and "
            f"{top.value:.10g} in another. Fix: give data that do not change; what is drawn anew in each pass belongs into the model."
        )
    for pilot in pilots:
        pool = _pooled(_Near.of(pilot, top), top, many, seed)
        which = np.unique(resample(pool.weights, COMPARED, seed + 3))
        gap = rows(pool.points[which])[0] - pool.base[which]
        left = float(np.sqrt(np.mean(gap**2)))
        if left <= LEFT or budget.spent():
            return RowDraws(pool, left, pilot.rows.size, ends, rows.passes, rows.evaluations)
    pool = _pooled(rows, top, enough, seed)
    return RowDraws(pool, 0.0, total, ends, rows.passes, rows.evaluations)


def _counts(total: int) -> list[int]:
    """How many rows stand for all, at first and where that leaves too much."""
    return [count for count in SOME if FEWER * count <= total]


def _pooled(density: Density, top: _Top, enough: float, seed: int) -> Pool:
    """Weighed draws of a density near the Gaussian at its mode."""
    start = polished(density, top.gaussian, seed=seed)
    return weigh_shared(lambda points: (density(points)[0], None), start, seed=seed, enough=enough)


def _some(rows: Rows, count: int, seed: int) -> Held:
    """Rows chosen at random, each once."""
    chosen = np.sort(np.random.default_rng([seed, 79]).choice(rows.size, size=count, replace=False))
    return rows.some(chosen)


def _around(density: Rowwise, centre: Array, tril: Array) -> _Top:
    """The density around a place, by one pass: differences of gradients, in coordinates of about one sd."""
    values, gradients = density(np.concatenate([centre[None], centre + NUDGE * tril.T]))
    white = gradients @ tril
    curvature = (white[0] - white[1:]) / NUDGE
    return _Top(centre, tril, float(values[0]), white[0], (curvature + curvature.T) / 2)


def _climbed(rows: Rowwise, start: Student) -> tuple[Array, Array, float]:
    """Nearly the mode, coordinates of about one sd, and the log density: by Newton's method, with new curvatures where old ones fail.

    Raises:
        FitError: if it does not arrive.
    """
    point, tril = start.means[0], start.trils[0]
    value, gradient = rows.at(point)
    last, share, own = np.inf, 1.0, False
    for _ in range(STEPS):
        white = tril.T @ gradient
        length = float(np.linalg.norm(white))
        if length < ARRIVED:
            return point, tril, value
        if (not own and length > max(SLOW * last, 1.0)) or (own and length > SLOW * last > 0 and length > 1.0):
            root = tril_of_precision(_around(rows, point, tril).curvature)
            if root is not None:
                tril = lower_root(tril @ root)
                white = tril.T @ gradient
                length, own = float(np.linalg.norm(white)), True
        most = LONGEST * len(point) ** 0.5
        move = share * tril @ white * min(1.0, most / max(length, 1e-300))
        there, slope = rows.at(point + move)
        if np.isfinite(there) and np.isfinite(slope).all() and there > value - 1e-9 * abs(value):
            point, value, gradient = point + move, there, slope
            last, share = length, min(1.0, 2 * share)
        else:
            share, last = share / 4, 0.0
        if budget.spent() or share < 1e-6:
            break
    raise FitError(
        f"no mode of {rows.joint.problem.name} was found by {STEPS} Newton steps over all rows. Fix: use lvm.nuts(problem)."
    )
