"""The Gaussian of shared unknowns: ascents, the curvature where they end, and moves by gradients at its draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._program.density import Joint
from pyrolvm.family.climb import Slopes, ascend, climb, curvature, tril_of_precision
from pyrolvm.family.student import Student, lower_root

__all__ = ["APART", "Density", "at_origin", "find_gaussian", "polished", "slopes_off"]

Array = NDArray[np.float64]

MORE, REACH = 3, 2.0
"""Ascents besides the one from the origin, and how far from it they start in every unknown, as Stan's chains do."""

GAIN = 1e-4
"""Nats that a step of an ascent gains at least, for another to follow: what is then left is for the moves by gradients at draws."""

NEAR = 1.0
"""The length of a gradient, in sds of the mode, at which an ascent has arrived somewhere."""

APART = 4.0
"""Sds between the ends of ascents that have arrived from which on they are at modes of their own."""

BETWEEN, DIP = 10, 0.1
"""Steps from an end to a higher one at which values are looked at, and the nats by which they may fall: rounding and coarse sums."""

ROUNDS = 6
"""How often the Gaussian is moved by the gradients at its draws."""

HALF = 16, 64
"""Pairs of opposite draws of it, at least and at most, by the number of unknowns."""

ARRIVED = 0.15
"""The length of a move, in sds, at which it is one too many; and the noise that is not looked behind."""

NARROW = 0.5, 2.0
"""How much one move changes the precision of a direction."""

SECANT, TRIED = 0.5, 32
"""How far from the mean, in sds, values and gradients are compared; and along how many directions at most."""

FINITE, SHRINK = 0.9, 0.7
"""The share of draws that must have a density, and what a Gaussian is scaled by until they have."""


class Density(Protocol):
    """A log density with gradients."""

    def __call__(self, points: Array, /) -> tuple[Array, Array]:
        """Log densities and gradients at points ``(count, size)``."""


class Shared(Slopes, Protocol):
    """A log density of shared unknowns, whatever else is integrated out."""

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""

    def settle(self, point: Array) -> None:
        """Takes a point as the centre from which modes of what is integrated out are guessed."""


@dataclass(frozen=True)
class _Scaled:
    """A density in coordinates in which its curvature at one place is the identity, whatever the units of its unknowns.

    Attributes:
        marginal: the density.
        centre: the place, shape ``(K,)``.
        tril: a factor of the inverse curvature, shape ``(K, K)``.
    """

    marginal: Shared
    centre: Array
    tril: Array

    @classmethod
    def of(cls, marginal: Shared) -> _Scaled:
        """By the curvature at the origin, in differences of gradients; plain coordinates where there is none."""
        origin = np.zeros(marginal.size)
        marginal.at(origin)  # after which blocks are guessed from there
        nudge = marginal.nudge
        _, slopes = marginal(np.concatenate([origin[None], nudge * np.eye(marginal.size)]))
        precision = (slopes[0] - slopes[1:]) / nudge
        precision = (precision + precision.T) / 2
        tril = tril_of_precision(precision) if np.isfinite(precision).all() else None
        return cls(marginal, origin, np.eye(marginal.size) if tril is None else tril)

    @property
    def joint(self) -> Joint:
        """The density that it is of."""
        return self.marginal.joint

    @property
    def size(self) -> int:
        """How many unknowns."""
        return self.marginal.size

    def plain(self, points: Array) -> Array:
        """The unknowns that coordinates stand for."""
        return self.centre + points @ self.tril.T

    def inverse(self, plain: Array) -> Array:
        """The coordinates of unknowns."""
        return np.asarray(scipy.linalg.solve_triangular(self.tril, plain - self.centre, lower=True))

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Log densities and gradients at points."""
        values, slopes = self.marginal(self.plain(points))
        return values, slopes @ self.tril

    def at(self, point: Array) -> tuple[float, Array]:
        """Both at one point."""
        values, slopes = self(point[None])
        return float(values[0]), slopes[0]

    def tensor(self, points: Array) -> Tensor:
        """Points as the model takes them."""
        return self.marginal.tensor(self.plain(points))


def at_origin(marginal: Shared) -> Student:
    """The Gaussian with the curvature of a density at the origin."""
    scaled = _Scaled.of(marginal)
    return Student.one(scaled.centre, lower_root(scaled.tril))


def find_gaussian(
    marginal: Shared, seed: int, start: Array | None = None, units: Student | None = None
) -> tuple[Student, Array]:
    """The Gaussian at the highest end of the ascents, and the places at which they ended, that one first, shape ``(P, K)``.

    Args:
        marginal: the density.
        seed: of where ascents start.
        start: where the only one does, if that is known, shape ``(K,)``.
        units: in whose coordinates they ascend, if that is known: by default those of :func:`at_origin`.

    Raises:
        FitError: if there is no curvature there.
    """
    scaled = _Scaled.of(marginal) if units is None else _Scaled(marginal, units.means[0], units.trils[0])
    if start is None:
        paths = climb(scaled, starts=1, seed=seed, gain=GAIN)
        others = np.random.default_rng([seed, 76]).uniform(-REACH, REACH, size=(MORE, marginal.size))
    else:
        paths, others = [], start[None]
    for other in others:
        there = scaled.inverse(other)
        if start is not None or (np.isfinite(scaled.at(there)[0]) and not budget.spent()):
            paths.append(ascend(scaled, there, gain=GAIN))
    paths = [path for path in paths if path.values]
    if not paths:
        raise FitError(
            f"the density of {marginal.joint.problem.name} is finite at none of the places from which its shared unknowns were to "
            "ascend. Fix: bound scales away from zero, or use lvm.nuts(problem)."
        )
    best = max(paths, key=lambda path: path.top)
    end = best.points[int(np.argmax(best.values))]
    marginal.settle(scaled.plain(end))
    precision = curvature(scaled, end)
    tril = None if precision is None else tril_of_precision(precision)
    if tril is None:
        raise FitError(
            f"the density of {marginal.joint.problem.name} has no curvature where ascents of its shared unknowns end. "
            "Fix: bound scales away from zero, or use lvm.nuts(problem)."
        )
    gaussian = Student.one(scaled.plain(end), lower_root(scaled.tril @ tril))
    ends = [path.points[-1] for path in paths if np.linalg.norm(tril.T @ path.gradients[-1]) < NEAR]
    places: list[Array] = []
    for one in [end, *ends]:
        apart = [np.linalg.norm(scipy.linalg.solve_triangular(tril, one - other, lower=True)) for other in places]
        if min(apart, default=np.inf) > APART and not any(_uphill(scaled, one, other) for other in places):
            places.append(one)
    return polished(marginal, gaussian, seed=seed), np.stack([scaled.plain(place) for place in places])


def _uphill(density: Density, start: Array, end: Array) -> bool:
    """Whether nothing lies between two places that is lower than the first: an ascent that ended there has only got stuck."""
    values = density(start + np.linspace(0.0, 1.0, BETWEEN + 1)[:, None] * (end - start))[0]
    return bool(np.min(values) > values[0] - DIP)


def polished(marginal: Density, start: Student, *, seed: int) -> Student:
    """A Gaussian moved to where gradients at its draws have no mean, and as wide in each of its directions as they say.

    The mode of many unknowns may be sds from their mean; a few gradients tell, since what they differ by from those of a Gaussian is
    all the noise there is.

    References:
        Khan and Rue, *The Bayesian learning rule*, https://arxiv.org/abs/2107.04562;
        Roeder, Wu, Duvenaud, *Sticking the landing*, https://arxiv.org/abs/1703.09194
    """
    random = np.random.default_rng([seed, 75])
    mean, tril = start.means[0], start.trils[0]
    half = int(np.clip(len(mean), *HALF))
    for _ in range(ROUNDS):
        draws = random.normal(size=(half, len(mean)))
        draws = np.concatenate([draws, -draws])
        values, gradients = marginal(mean + draws @ tril.T)
        good = np.isfinite(values) & np.isfinite(gradients).all(axis=1)
        if good.mean() < FINITE:
            tril = SHRINK * tril
            continue
        residuals = gradients[good] @ tril + draws[good]
        shift = residuals.mean(axis=0)
        noise = float(np.sqrt(np.sum(residuals.var(axis=0)) / good.sum()))
        change = 1 - (draws[good] * residuals).mean(axis=0)
        length = float(np.linalg.norm(shift))
        precision = np.clip(change, *NARROW)
        mean = mean + tril @ (shift / precision * min(1.0, len(mean) ** 0.5 / max(length, 1e-300)))
        tril = tril / np.sqrt(precision)
        if length < max(ARRIVED, 1.5 * noise) or budget.spent():
            break
    return Student.one(mean, tril)


def slopes_off(marginal: Density, gaussian: Student) -> float:
    """By how much gradients of a density are off what its values do around a Gaussian's mean, in nats an sd, over all directions.

    Not a number where there is no density.

    The gradient of an integral by few nodes is that of the integral (Fisher's identity), not of its sum over the nodes. What a block
    leaves is little, but all leave it in the same direction.
    """
    mean, tril = gaussian.means[0], gaussian.trils[0]
    axes = tril.T[:: max(1, -(-len(mean) // TRIED))]
    count = len(axes)
    values, slopes = marginal(np.concatenate([mean[None], mean + SECANT * axes, mean - SECANT * axes]))
    here = axes @ slopes[0]
    up, down = np.sum(axes * slopes[1 : count + 1], axis=1), np.sum(axes * slopes[count + 1 :], axis=1)
    with np.errstate(invalid="ignore"):
        change = (values[1 : count + 1] - values[count + 1 :]) / (2 * SECANT)
        gaps = change - (up + 4 * here + down) / 6  # Simpson's rule
    return float(np.sqrt(np.sum(gaps**2) * len(mean) / max(count, 1)))
