r"""How particles move at one inverse temperature, all at once, by kernels that leave its distribution alone.

A *glide* is a trajectory of Hamiltonian Monte Carlo in units of the particles' own scales. A *jump* goes to a draw of a mixture that is
fitted to all particles, wherever that is: it is accepted seldom in many dimensions, and where it is accepted it carries particles from
mode to mode.

References:
    Neal, *MCMC using Hamiltonian dynamics*, https://arxiv.org/abs/1206.1901;
    Chopin, *A sequential particle filter method for static models*, https://doi.org/10.1093/biomet/89.3.539 (jumps)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm._methods.evidence.annealing import Cloud, Path
from pyrolvm._methods.smc.modes import Modes
from pyrolvm._methods.smc.weights import Array

__all__ = ["Inside", "Moved", "adapted", "glide", "jump"]

Inside = Callable[[Array], NDArray[np.bool_]]
"""Says which points belong to the part of the space that particles are kept in."""

LENGTH, MOST_LEAPFROGS = 1.5, 32
"""How far a trajectory goes, in units of the mass matrix: about a quarter of a turn, which forgets most of its start."""

JITTER = 0.2
"""By which share steps differ between particles, so that none falls in step with the curvature."""

ACCEPT, RATE = 0.8, 1.0
"""The acceptance probability that steps are adapted to, and how fast."""

SMALLEST, LARGEST = 1e-5, 1.5


@dataclass(frozen=True)
class Moved:
    """What a move came to.

    Attributes:
        cloud: the particles afterwards.
        acceptance: the mean acceptance probability, whatever part of the space proposals fall in.
        evaluations: densities evaluated, with gradients, of all particles.
    """

    cloud: Cloud
    acceptance: float
    evaluations: int


def glide(
    path: Path, cloud: Cloud, beta: float, root: Array, step: float, random: np.random.Generator, inside: Inside | None
) -> Moved:
    """A trajectory of every particle.

    Args:
        path: both ends.
        cloud: the particles.
        beta: the inverse temperature.
        root: the lower Cholesky factor of the inverse mass matrix, shape ``(n, n)``.
        step: the leapfrog step, in units of that.
        random: where the randomness comes from.
        inside: the part of the space to stay in; ``None`` for all of it.
    """
    count, size = cloud.points.shape
    leapfrogs = int(np.clip(round(LENGTH / step), 1, MOST_LEAPFROGS))
    momentum = random.normal(size=(count, size))
    steps = step * random.uniform(1 - JITTER, 1 + JITTER, size=(count, 1))
    draw = random.random(size=(count,))
    value, slope = cloud.at(beta)
    energy = value - 0.5 * np.sum(momentum**2, axis=1)
    moved = cloud
    with np.errstate(invalid="ignore", over="ignore"):  # trajectories that run away are refused
        momentum = momentum + 0.5 * steps * (slope @ root)
        for k in range(leapfrogs):
            moved = path(moved.points + steps * (momentum @ root.T))
            value, slope = moved.at(beta)
            momentum = momentum + (0.5 if k == leapfrogs - 1 else 1.0) * steps * (slope @ root)
        gained = value - 0.5 * np.sum(momentum**2, axis=1) - energy
    return _chosen(cloud, moved, gained, draw, inside, leapfrogs)


def jump(
    path: Path, cloud: Cloud, beta: float, modes: Modes, random: np.random.Generator, inside: Inside | None
) -> Moved:
    """A draw of the mixture for every particle."""
    proposed = path(modes.sample(len(cloud.points), random))
    draw = random.random(size=(len(cloud.points),))
    with np.errstate(invalid="ignore"):
        gained = proposed.at(beta)[0] - cloud.at(beta)[0]
        gained = gained + modes.log_density(cloud.points) - modes.log_density(proposed.points)
    return _chosen(cloud, proposed, gained, draw, inside, 1)


def adapted(step: float, acceptance: float) -> float:
    """The next step, after one that was accepted so often."""
    return float(np.clip(step * np.exp(RATE * (acceptance - ACCEPT)), SMALLEST, LARGEST))


def _chosen(
    cloud: Cloud, proposed: Cloud, gained: Array, draw: Array, inside: Inside | None, evaluations: int
) -> Moved:
    with np.errstate(over="ignore"):
        chance = np.where(np.isfinite(gained), np.exp(np.minimum(gained, 0.0)), 0.0)
    taken = draw < chance
    if inside is not None and taken.any():
        which = np.flatnonzero(taken)
        taken[which] = inside(proposed.points[which])
    return Moved(cloud.where(taken, proposed), float(chance.mean()), evaluations * len(draw))
