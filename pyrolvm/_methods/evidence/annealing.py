r"""Annealed importance sampling: weights of paths from a distribution that can be drawn from to one that cannot.

Between a normalised base :math:`p_0` and the joint density :math:`p_1` lie :math:`p_\beta \propto p_0^{1 - \beta} p_1^\beta`. A
particle is drawn from :math:`p_0` and moved at each rung :math:`\beta_1 < \beta_2 < \dots` by a kernel that leaves it alone; its weight
:math:`\prod_t (p_1 / p_0)^{\beta_t - \beta_{t-1}}` has the expectation :math:`p(x)`, however well the kernels mix. Run backwards from a
draw of the posterior, the weight's inverse has the expectation :math:`1 / p(x)`.

The kernel is Hamiltonian Monte Carlo for all particles at once. Its rungs, mass matrices and step sizes are found by a pilot run and
then held, since a kernel that learns from its own particles would have no such expectation.

References:
    Neal, *Annealed importance sampling*, https://arxiv.org/abs/physics/9803008;
    Neal, *MCMC using Hamiltonian dynamics*, https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cloud", "Path", "Rung", "backward", "forward", "move"]

Array = NDArray[np.float64]
Density = Callable[[Array], tuple[Array, Array]]
Told = Callable[[int], None]

LENGTH, MOST_LEAPFROGS = 1.5, 24
"""How far a trajectory goes, in units of the mass matrix: about a quarter of a turn, which forgets most of its start."""


@dataclass(frozen=True)
class Cloud:
    """Particles with both densities at their places.

    Attributes:
        points: shape ``(particles, n)``.
        base: log densities of the base, shape ``(particles,)``.
        base_slope: their gradients, shape ``(particles, n)``.
        end: log joint densities.
        end_slope: their gradients.
    """

    points: Array
    base: Array
    base_slope: Array
    end: Array
    end_slope: Array

    def at(self, beta: float) -> tuple[Array, Array]:
        """Log densities and gradients of the rung ``beta``; minus infinity where either end has none."""
        if beta == 0:
            return self.base, self.base_slope
        if beta == 1:
            return self.end, self.end_slope
        value = (1 - beta) * self.base + beta * self.end
        return value, (1 - beta) * self.base_slope + beta * self.end_slope

    @property
    def ratio(self) -> Array:
        """Log joint density minus log base density, of which rungs take shares."""
        return np.where(np.isfinite(self.end), self.end - np.where(np.isfinite(self.base), self.base, 0.0), -np.inf)

    def take(self, which: NDArray[np.int64]) -> Cloud:
        """Those particles."""
        return Cloud(*(part[which] for part in (self.points, self.base, self.base_slope, self.end, self.end_slope)))

    def where(self, chosen: NDArray[np.bool_], other: Cloud) -> Cloud:
        """The other's particles where chosen."""
        wide = chosen[:, None]
        return Cloud(
            np.where(wide, other.points, self.points), np.where(chosen, other.base, self.base),
            np.where(wide, other.base_slope, self.base_slope), np.where(chosen, other.end, self.end),
            np.where(wide, other.end_slope, self.end_slope),
        )  # fmt: skip


@dataclass(frozen=True)
class Path:
    """Both ends of the path, as functions of points that give log densities and gradients, minus infinity and zero where not finite."""

    base: Density
    end: Density

    def __call__(self, points: Array) -> Cloud:
        """The particles at these points."""
        base, base_slope = self.base(points)
        end, end_slope = self.end(points)
        return Cloud(points, base, base_slope, end, end_slope)


@dataclass(frozen=True)
class Rung:
    """A distribution on the way, and how to move in it.

    Attributes:
        beta: its share of the joint density.
        root: the lower Cholesky factor of the inverse mass matrix, shape ``(n, n)``.
        step: the leapfrog step, in units of that.
    """

    beta: float
    root: Array
    step: float

    @property
    def leapfrogs(self) -> int:
        """Steps of a trajectory."""
        return int(np.clip(round(LENGTH / self.step), 1, MOST_LEAPFROGS))


def move(path: Path, cloud: Cloud, rung: Rung, random: np.random.Generator) -> tuple[Cloud, float]:
    """One transition of every particle that leaves the rung's distribution alone, and the mean acceptance probability."""
    count, size = cloud.points.shape
    momentum = random.normal(size=(count, size))
    # A trajectory's step varies between particles, so that none falls in step with the curvature.
    step = rung.step * random.uniform(0.8, 1.2, size=(count, 1))
    value, slope = cloud.at(rung.beta)
    energy = value - 0.5 * np.sum(momentum**2, axis=1)
    moved = cloud
    with np.errstate(invalid="ignore", over="ignore"):  # trajectories that run away are refused
        momentum = momentum + 0.5 * step * (slope @ rung.root)
        for k in range(rung.leapfrogs):
            moved = path(moved.points + step * (momentum @ rung.root.T))
            new, slope = moved.at(rung.beta)
            momentum = momentum + (0.5 if k == rung.leapfrogs - 1 else 1.0) * step * (slope @ rung.root)
        new_energy = new - 0.5 * np.sum(momentum**2, axis=1)
        chance = np.where(np.isfinite(new_energy), np.exp(np.minimum(new_energy - energy, 0.0)), 0.0)
    return cloud.where(random.random(count) < chance, moved), float(chance.mean())


def forward(path: Path, start: Array, rungs: Sequence[Rung], random: np.random.Generator, told: Told) -> Array:
    """Log weights of paths from draws of the base, shape ``(particles,)``; the mean of the weights is p(x) on average.

    Args:
        path: both ends.
        start: draws of the base, shape ``(particles, n)``.
        rungs: in rising order; the last has the share 1 and is not moved in.
        random: where the randomness comes from.
        told: told of the rungs that are done.
    """
    cloud = path(start)
    log_weight, before = np.zeros(len(start)), 0.0
    for k, rung in enumerate(rungs):
        log_weight = log_weight + (rung.beta - before) * cloud.ratio
        before = rung.beta
        if k < len(rungs) - 1:
            cloud, _ = move(path, cloud, rung, random)
        told(k + 1)
    return log_weight


def backward(path: Path, start: Array, rungs: Sequence[Rung], random: np.random.Generator, told: Told) -> Array:
    """Log weights of paths from draws of the posterior; the mean of their inverses is 1 / p(x) on average.

    Args:
        path: both ends.
        start: draws of the posterior, shape ``(particles, n)``.
        rungs: as of :func:`forward`.
        random: where the randomness comes from.
        told: told of the rungs that are done.
    """
    cloud = path(start)
    log_weight = np.zeros(len(start))
    for k in range(len(rungs) - 1, -1, -1):
        below = rungs[k - 1].beta if k else 0.0
        log_weight = log_weight + (rungs[k].beta - below) * cloud.ratio
        if k:
            cloud, _ = move(path, cloud, rungs[k - 1], random)
        told(len(rungs) - k)
    return log_weight
