"""Paths uphill, and the Gaussians seen on the way: where the mass of a posterior is, before anything is fitted to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import scipy  # its parts are imported when they are first used
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.importing import uncollected
from pyrolvm._base.progress import stage
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Points, Target, nowhere_finite
from pyrolvm.family.student import Student, lower_root

__all__ = [
    "Path",
    "Slopes",
    "ascend",
    "climb",
    "climb_from",
    "curvature",
    "elbo",
    "local_gaussians",
    "tril_of_precision",
]

HISTORY = 10
"""Pairs of steps and gradient changes that estimate a curvature."""

HESSIAN_UNKNOWNS = 400
"""Up to so many unknowns the Hessian is taken by differences of gradients, two for each."""

PLACES, LATE = 8, 60
"""Points of a path at which a Gaussian is tried, among so many last steps; and among those before, the earlier the denser."""

ELBO_DRAWS = 64
REACH = 2.0
"""Starts near the origin are uniform within this distance of it in every coordinate, as Stan's are."""

_WORST = 1e300


TRIALS = 3
"""Places in a row that lie no higher or lower than the last by what a step has to gain: what differs is rounding."""


class _Ended(Exception):
    """An ascent has got as far as it can."""


class Slopes(Protocol):
    """A log density with gradients at points: a :class:`Target`, or one of some of its unknowns alone."""

    @property
    def joint(self) -> Joint:
        """The density that it is of."""

    @property
    def size(self) -> int:
        """How many unknowns it has."""

    def __call__(self, points: Points, /) -> tuple[Points, Points]:
        """Log densities and gradients at points ``(count, size)``."""

    def at(self, point: Points) -> tuple[float, Points]:
        """Both at one point."""

    def tensor(self, points: Points) -> Tensor:
        """Points as the model takes them."""


@dataclass
class Path:
    """Where one ascent went.

    Attributes:
        points: the accepted iterates, shape ``(steps + 1, n)``.
        gradients: of the log density there.
        values: the log density there, shape ``(steps + 1,)``.
    """

    points: list[Points] = field(default_factory=list)
    gradients: list[Points] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def top(self) -> float:
        """The highest log density on the path."""
        return max(self.values)


def climb(target: Slopes, *, starts: int, seed: int, tries: int = 100, gain: float = 0.0) -> list[Path]:
    """Ascends from several starts near the origin by L-BFGS; the first start is the origin.

    Args:
        target: the density.
        starts: how many ascents.
        seed: of the starts.
        tries: at how many places a start is looked for.
        gain: nats by which a step raises the density at least, for another to follow.

    Raises:
        FitError: if the density is finite at none of ``tries`` starts.
    """
    random = np.random.default_rng(seed)
    candidates = np.concatenate(
        [np.zeros((1, target.size)), random.uniform(-REACH, REACH, (max(starts, tries) - 1, target.size))]
    )
    found = climb_from(target, candidates, most=starts, gain=gain)
    if not found:
        raise nowhere_finite(target.joint, len(candidates), target.tensor(candidates[0]))
    return found


def climb_from(target: Slopes, starts: Points, *, most: int | None = None, gain: float = 0.0) -> list[Path]:
    """Ascends from the first ``most`` of some starts where the density is finite, from all by default."""
    found: list[Path] = []
    for start in starts:
        if len(found) == most or (found and budget.spent()):
            break
        value, gradient = target.at(start)
        if np.isfinite(value) and np.isfinite(gradient).all():
            stage(f"ascent {len(found) + 1}" + (f" of {most}" if most else ""))
            found.append(ascend(target, start, gain=gain))
    return found


def ascend(target: Slopes, start: Points, steps: int = 500, gain: float = 0.0) -> Path:
    """The ascent from one start, where the density is finite, until a step gains less than so many nats."""
    path, seen = Path(), {}
    level = 0

    def descent(point: Points) -> tuple[float, Points]:
        value, gradient = target.at(point)
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            return _WORST, np.zeros_like(point)
        seen[point.tobytes()] = (value, gradient)
        nonlocal level
        level = level + 1 if path.values and abs(value - path.values[-1]) < gain else 0
        if level >= TRIALS:
            raise _Ended
        return -value, -gradient

    def note(point: Points) -> None:
        if budget.spent() and path.points:
            raise _Ended
        if point.tobytes() in seen:
            value, gradient = seen[point.tobytes()]
            path.points.append(point.copy())
            path.gradients.append(gradient)
            path.values.append(value)
        seen.clear()
        if len(path.values) > 1 and path.values[-1] - path.values[-2] < gain:
            raise _Ended

    descent(start)
    note(start)
    options = {"maxiter": steps, "maxcor": HISTORY, "gtol": 1e-7, "ftol": 1e-13}
    with uncollected():
        minimize = scipy.optimize.minimize
    with contextlib.suppress(_Ended):
        minimize(descent, start, jac=True, method="L-BFGS-B", callback=note, options=options)
    return path


def local_gaussians(target: Target, path: Path) -> Iterator[Student]:
    """Gaussians at places along a path, its end first: by the Hessian, or by Pathfinder's estimate if that is large.

    A density of groups and their scales may rise without bound where the groups are all alike. The ascent has then been where the mass
    is after a few steps, and goes on for hundreds.

    References:
        Zhang, Carpenter, Gelman, Vehtari, *Pathfinder: Parallel quasi-Newton variational inference*,
        https://arxiv.org/abs/2108.03782
    """
    last = len(path.points) - 1
    places = {*np.linspace(last, max(last - LATE, 0), PLACES).astype(int)}
    if last > LATE:
        places |= {*np.geomspace(1, last - LATE, PLACES).astype(int)}
    for place in sorted(places, reverse=True):
        point = path.points[place]
        if target.size <= HESSIAN_UNKNOWNS:
            precision = curvature(target, point)
            tril = None if precision is None else tril_of_precision(precision)
            if tril is not None:
                yield Student.one(point, tril)
        else:
            covariance = _inverse_hessian(path, place)
            try:
                tril = scipy.linalg.cholesky(covariance, lower=True)
            except scipy.linalg.LinAlgError:
                continue
            yield Student.one(point + covariance @ path.gradients[place], tril)


def curvature(target: Slopes, point: Points) -> Points | None:
    """Minus the Hessian of the log density by central differences of its gradient; ``None`` where that is not finite."""
    step = 1e-4 * np.maximum(1.0, np.abs(point))
    _, up = target(point + np.diag(step))
    _, down = target(point - np.diag(step))
    hessian = (down - up) / (2 * step[:, None])
    hessian = (hessian + hessian.T) / 2
    return hessian if np.isfinite(hessian).all() else None


def tril_of_precision(precision: Points) -> Points | None:
    """The Cholesky factor of a precision matrix's inverse, directions of no or negative curvature made as flat as they are steep.

    Rows are scaled to a unit diagonal first, so that unknowns of different units do not drown each other.
    """
    scale = np.sqrt(np.maximum(np.abs(np.diag(precision)), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(precision / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-12 * max(np.abs(values).max(), 1e-300))
    with np.errstate(over="ignore", invalid="ignore"):
        root = vectors / np.sqrt(values) / scale[:, None]
    if not np.isfinite(root).all():
        return None
    lower = lower_root(root)
    return lower if np.isfinite(lower).all() and (np.diag(lower) > 0).all() else None


def _inverse_hessian(path: Path, place: int) -> Points:
    """The inverse Hessian that the last steps before a place of the path suggest, a BFGS matrix from a diagonal."""
    first = max(place - HISTORY, 0)
    n = len(path.points[0])
    pairs = []
    for k in range(first, place):
        step = path.points[k + 1] - path.points[k]
        change = path.gradients[k] - path.gradients[k + 1]
        if step @ change > 1e-12 * (change @ change):
            pairs.append((step, change))
    diagonal = np.full(n, 1.0)
    for step, change in pairs:  # Gilbert and Lemarechal's diagonal update, as in Pathfinder
        a = change @ (diagonal * change)
        b, c = step @ change, step @ (step / diagonal)
        diagonal = 1 / (a / (b * diagonal) + change**2 / b - a * step**2 / (b * c * diagonal**2))
    matrix = np.diag(diagonal)
    for step, change in pairs:
        rho = 1 / (step @ change)
        left = np.eye(n) - rho * np.outer(step, change)
        matrix = left @ matrix @ left.T + rho * np.outer(step, step)
    return (matrix + matrix.T) / 2


def elbo(target: Target, family: Student, *, draws: int = ELBO_DRAWS, seed: int = 0) -> float:
    """The ELBO of a family by a few draws; minus infinity where some have no density."""
    points = family.sample(draws, seed)
    values = target.values(points)
    return float(np.mean(values - family.log_density(points)))
