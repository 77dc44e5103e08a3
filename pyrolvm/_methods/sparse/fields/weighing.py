"""Weighed draws of shared unknowns and of those that are coupled, together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.importance import weigh
from pyrolvm._methods.sparse.fields.annealing import TRIED, Annealed, Annealing
from pyrolvm._methods.sparse.fields.laplace import FieldMarginal
from pyrolvm._methods.sparse.pool import POOR, TRIALS, Pool, held, weigh_shared
from pyrolvm.family.importance import refitted, resample
from pyrolvm.family.student import Student

__all__ = ["FieldDraws", "weigh_field"]

Array = NDArray[np.float64]

FIRST, MOST_ALONE = 512, 8_192
"""Draws at first, and at most, where nothing is shared."""

PILOT, MOST = 300.0, 1_024
"""Effective draws of the shared unknowns by Laplace's approximation, to which the first proposal is fitted; and draws at most."""


@dataclass(frozen=True)
class FieldDraws:
    """Weighed draws of all unknowns.

    Attributes:
        pool: those of the shared unknowns; its weights are of the coupled ones as well.
        local: the coupled unknowns of each, shape ``(S, m)``.
        annealing: how these were drawn.
        taken: the share of moves of each window that were taken, shape ``(W,)``.
        drift: by how much, in nats, what windows gained differs from what the density did, at most.
    """

    pool: Pool
    local: Array
    annealing: Annealing
    taken: Array
    drift: float


@dataclass
class _Recorded:
    """An annealed density that keeps what it draws."""

    annealing: Annealing
    seed: int
    kept: list[Annealed] = field(default_factory=list)

    def __call__(self, points: Array) -> tuple[Array, None]:
        self.kept.append(self.annealing(points, self.seed, len(self.kept)))
        return self.kept[-1].values, None


def weigh_field(
    marginal: FieldMarginal, start: Student, *, seed: int, afford: Callable[[Annealing], float]
) -> FieldDraws:
    """Draws from proposals of the shared unknowns, each with a draw of the coupled ones given it, weighed together.

    Args:
        marginal: the density of the shared unknowns by Laplace's approximation.
        start: its Gaussian.
        seed: makes it repeatable.
        afford: effective draws at which no more are taken, once it is known what one takes.
    """
    if not marginal.size:
        annealing = Annealing.of(marginal, np.zeros((TRIED, 0)), seed)
        density = _Recorded(annealing, seed)
        return _together(density, _alone(density, start, afford(annealing)))
    rough = weigh_shared(lambda points: (marginal.values(points), None), start, seed=seed, enough=PILOT, most=MOST)
    annealing = Annealing.of(marginal, rough.points[resample(rough.weights, len(rough.points), seed)], seed)
    family = refitted(rough.family, held(rough)) if rough.figures.ess > len(start.means[0]) + 2 else start
    density = _Recorded(annealing, seed)
    return _together(density, weigh_shared(density, family, seed=seed + 1, enough=afford(annealing)))


def _alone(density: _Recorded, start: Student, enough: float) -> Pool:
    """Draws where nothing is shared: each has its weight from the annealing alone."""
    values = np.zeros(0)
    while True:
        more = density(np.zeros((max(FIRST, len(values)), 0)))[0]
        values = np.concatenate([values, more])
        figures, weights = weigh(values)
        poor = len(values) >= TRIALS and figures.ess < POOR * len(values)
        if (figures.ess >= enough and figures.reliable) or poor or len(values) >= MOST_ALONE or budget.spent():
            points, log_q = np.zeros((len(values), 0)), np.zeros(len(values))
            return Pool(points, values, weights, log_q, figures, None, len(density.kept), values, start)


def _together(density: _Recorded, pool: Pool) -> FieldDraws:
    counts = np.array([len(one.values) for one in density.kept])
    taken = np.sum([one.taken * count for one, count in zip(density.kept, counts, strict=True)], axis=0) / counts.sum()
    drift = np.concatenate([one.drift for one in density.kept])[np.isfinite(pool.log_p)]
    local = np.concatenate([one.local for one in density.kept])
    return FieldDraws(pool, local, density.annealing, taken, float(drift.max(initial=0.0)))
