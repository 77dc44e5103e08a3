"""How long particles move at one inverse temperature: until they have forgotten where they were."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyrolvm._methods.evidence.annealing import Cloud, Path
from pyrolvm._methods.smc.modes import Modes, find_modes
from pyrolvm._methods.smc.moves import Inside, adapted, glide, jump
from pyrolvm._methods.smc.weights import Array

__all__ = ["LAST", "Settings", "Walk", "allowed_drift", "moved"]

FEWEST_MOVES, FAIR = 2, 0.6
"""Glides of a stage at least, and the acceptance probability of the last one: until then steps become smaller."""

LAST = 0.5
"""How much smaller correlations have to be at the last stage, whose particles are the draws."""

JUMPS, USELESS = 3.0, 0.02
"""Accepted jumps for a particle that are enough to mix modes, and the acceptance probability below which jumps are left out."""

ROUNDS, CHANCE = 4, 0.02
"""More rounds of moves at the last stage at most: they end once a round changes no mean by more than chance does so often."""


@dataclass(frozen=True)
class Settings:
    """How to climb.

    Attributes:
        share: the effective share of particles that a step leaves.
        forget: the correlation with where particles were that they move down to.
        most_moves: moves of a stage at most.
    """

    share: float = 0.5
    forget: float = 0.2
    most_moves: int = 50


@dataclass(frozen=True)
class Walk:
    """What moves came to.

    Attributes:
        cloud: the particles afterwards.
        steps: the leapfrog step at the end, of each half of the islands.
        acceptance: the mean acceptance probability of the last glides.
        jumps: that of jumps.
        moves: glides of each particle.
        correlation: the largest correlation, of any coordinate within its mode, with where particles were.
        drift: the largest change of a mean, in standard errors.
        modes: modes that were found.
        evaluations: densities evaluated.
    """

    cloud: Cloud
    steps: tuple[float, ...]
    acceptance: float
    jumps: float
    moves: int
    correlation: float
    drift: float
    modes: int
    evaluations: int


def moved(
    path: Path,
    cloud: Cloud,
    beta: float,
    islands: int,
    steps: tuple[float, ...],
    settings: Settings,
    random: np.random.Generator,
    inside: Inside | None,
) -> Walk:
    """Particles after the moves of a stage.

    Each half of the islands moves by what the other one looks like: a kernel that has seen the particles that it moves does not leave
    their distribution alone, and over many stages that adds up. At the last stage they move on in further rounds, as long as these
    change more than they should of particles that have arrived.
    """
    goal = settings.forget * (LAST if beta == 1 else 1.0)

    def once(cloud: Cloud, steps: tuple[float, ...], lost: float) -> Walk:
        half = len(cloud.points) // islands * (islands // 2)
        parts = [part for part in np.split(np.arange(len(cloud.points)), [half]) if len(part)]
        looks = [find_modes(cloud.points[part]) for part in parts][::-1]
        walks = [
            _walked(path, cloud.take(part), beta, look, step, goal, settings.most_moves, random, inside)
            for part, look, step in zip(parts, looks, steps, strict=True)
        ]
        return _together(cloud, walks, lost)

    walk = once(cloud, steps, 2.0)  # of particles that were resampled, about half count
    for _ in range(ROUNDS if beta == 1 else 0):
        again = once(walk.cloud, walk.steps, 1.0)
        done = again.drift <= allowed_drift(cloud.points.shape[1], 1, CHANCE)
        walk = replace(
            again, drift=max(walk.drift, again.drift if not done else 0.0), moves=walk.moves + again.moves,
            evaluations=walk.evaluations + again.evaluations,
        )  # fmt: skip
        if done:
            break
    return walk


def allowed_drift(unknowns: int, stages: int, chance: float) -> float:
    """The change of a mean, in standard errors, that the largest of all that are looked at exceeds so often by chance."""
    from scipy.stats import norm

    return float(norm.isf(chance / (4 * (unknowns + 1) * stages)))


def _together(before: Cloud, walks: list[Walk], lost: float) -> Walk:
    """The walks of parts of the particles as one."""
    names = ("points", "base", "base_slope", "end", "end_slope")
    cloud = Cloud(*(np.concatenate([getattr(walk.cloud, name) for walk in walks]) for name in names))
    return Walk(
        cloud, tuple(step for walk in walks for step in walk.steps), min(walk.acceptance for walk in walks),
        float(np.mean([walk.jumps for walk in walks])), max(walk.moves for walk in walks), max(walk.correlation for walk in walks),
        _drift(before, cloud, lost), max(walk.modes for walk in walks), sum(walk.evaluations for walk in walks),
    )  # fmt: skip


def _walked(
    path: Path,
    cloud: Cloud,
    beta: float,
    modes: Modes,
    step: float,
    goal: float,
    most: int,
    random: np.random.Generator,
    inside: Inside | None,
) -> Walk:
    """Particles after as many moves as it takes to forget where they were."""
    began = _standard(modes.residuals(cloud.points), cloud)
    spread = _standard(cloud.points, cloud)
    noise = 2 / np.sqrt(len(cloud.points))
    accepted: list[float] = []
    jumped: list[float] = []
    evaluations, correlation = 0, 1.0
    while len(accepted) < most:
        glided = glide(path, cloud, beta, modes.root, step, random, inside)
        cloud, step, evaluations = glided.cloud, adapted(step, glided.acceptance), evaluations + glided.evaluations
        accepted.append(glided.acceptance)
        if not jumped or np.mean(jumped) > USELESS:
            leapt = jump(path, cloud, beta, modes, random, inside)
            cloud, evaluations = leapt.cloud, evaluations + leapt.evaluations
            jumped.append(leapt.acceptance)
        correlation = _correlation(began, _standard(modes.residuals(cloud.points), cloud))
        if len(accepted) < FEWEST_MOVES or accepted[-1] < FAIR or correlation > goal + noise:
            continue
        mixed = modes.count == 1 or np.mean(jumped) <= USELESS or np.sum(jumped) >= JUMPS
        if mixed or _correlation(spread, _standard(cloud.points, cloud)) <= goal + noise:
            break
    return Walk(
        cloud, (step,), float(np.mean(accepted[-FEWEST_MOVES:])), float(np.mean(jumped)), len(accepted), correlation, 0.0, modes.count,
        evaluations,
    )  # fmt: skip


def _standard(values: Array, cloud: Cloud) -> Array:
    """Columns of mean zero and length one: those given, and the log likelihood."""
    columns = np.concatenate([values, cloud.ratio[:, None]], axis=1)
    columns = columns - columns.mean(axis=0)
    length = np.sqrt(np.sum(columns**2, axis=0))
    return columns / np.where(length > 0, length, 1.0)


def _correlation(one: Array, other: Array) -> float:
    """The largest correlation between columns of the same number."""
    return float(np.max(np.sum(one * other, axis=0), initial=0.0))


def _drift(before: Cloud, after: Cloud, lost: float) -> float:
    """The largest change of a mean or a mean square, of a coordinate or the log likelihood, in standard errors.

    Args:
        before: particles before moves.
        after: the same after them.
        lost: how many particles of those before count as one.
    """
    first = np.concatenate([before.points, before.ratio[:, None]], axis=1)
    second = np.concatenate([after.points, after.ratio[:, None]], axis=1)
    middle, sd = first.mean(axis=0), first.std(axis=0)
    first, second = ((one - middle)[:, sd > 0] / sd[sd > 0] for one in (first, second))
    first, second = (np.concatenate([one, one**2], axis=1) for one in (first, second))
    error = np.sqrt((lost * first.var(axis=0) + second.var(axis=0)) / len(first))
    return float(np.max(np.abs(second.mean(axis=0) - first.mean(axis=0)) / error, initial=0.0))
