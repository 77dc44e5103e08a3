r"""Tempered sequential Monte Carlo: particles go from a base that can be drawn from to a density that cannot.

Between a normalised base :math:`p_0` and the joint density :math:`p_1` lie :math:`p_\beta \propto p_0^{1 - \beta} p_1^\beta`. At each
stage the next :math:`\beta` is as far as the weights :math:`(p_1 / p_0)^{\Delta \beta}` leave a given share of the particles effective;
particles go on in proportion to their weights, and move until they have forgotten where they were. The product of the mean weights
has the expectation :math:`p(x)`.

Particles are in *islands*: temperatures and scales are found from all of them, but particles go on within their island only. So the
islands' estimates are independent of each other, as far as what they share is not by chance, and how they differ is an error.

References:
    Del Moral, Doucet, Jasra, *Sequential Monte Carlo samplers*, https://doi.org/10.1111/j.1467-9868.2006.00553.x;
    Jasra, Stephens, Doucet, Tsagaris, *Inference for Lévy-driven stochastic volatility models via adaptive sequential Monte Carlo*,
    https://doi.org/10.1111/j.1467-9469.2010.00723.x (temperatures);
    Buchholz, Chopin, Jacob, *Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte Carlo*,
    https://arxiv.org/abs/1808.07730 (how long to move);
    Vergé, Dubarry, Del Moral, Moulines, *On parallel implementation of sequential Monte Carlo methods: the island particle model*,
    https://arxiv.org/abs/1306.3911
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from pyrolvm._base.errors import FitError
from pyrolvm._methods.evidence.annealing import Cloud, Path
from pyrolvm._methods.smc.moves import Inside
from pyrolvm._methods.smc.walk import Settings, moved
from pyrolvm._methods.smc.weights import Array, Index, effective_share, next_beta, systematic
from pyrolvm._results.weights import log_mean_exp

__all__ = ["Folding", "Stage", "Swarm", "begin", "climb"]

MOST_STAGES = 1_000
"""Stages of a run; one that needs more is going nowhere."""


@dataclass(frozen=True)
class Stage:
    """What happened at one inverse temperature.

    Attributes:
        beta: the inverse temperature.
        effective: the effective share of particles after the step.
        gained: the logarithm of each island's mean weight, shape ``(islands,)``.
        noise: the relative variance of the weights of each island, over its particles, shape ``(islands,)``.
        acceptance: the mean acceptance probability of glides.
        jumps: that of jumps.
        moves: glides of each particle.
        step: the leapfrog step at the end.
        correlation: the largest correlation, of any coordinate within its mode, with where particles were.
        drift: by how many standard errors moves changed the mean, or the mean square, of any coordinate or of the log likelihood
            at most: by chance alone, if the particles were where the density is.
        modes: modes that were found.
        ancestors: in effect how many of the first particles each island descends from, shape ``(islands,)``.
        evaluations: densities evaluated, with gradients.
    """

    beta: float
    effective: float
    gained: Array
    noise: Array
    acceptance: float
    jumps: float
    moves: int
    step: float
    correlation: float
    drift: float
    modes: int
    ancestors: Array
    evaluations: int


@dataclass(frozen=True)
class Swarm:
    """Particles on their way.

    Attributes:
        cloud: the particles, island after island.
        islands: how many islands there are.
        ancestor: the number of the first particle that each descends from.
        steps: the leapfrog step of the last glide, of each half of the islands.
        stages: what happened so far.
    """

    cloud: Cloud
    islands: int
    ancestor: Index
    steps: tuple[float, ...]
    stages: tuple[Stage, ...] = field(default=())

    @property
    def beta(self) -> float:
        """The inverse temperature of the particles."""
        return self.stages[-1].beta if self.stages else 0.0

    @property
    def log_evidence(self) -> Array:
        """The logarithm of each island's product of mean weights, shape ``(islands,)``."""
        return np.asarray(sum((stage.gained for stage in self.stages), np.zeros(self.islands)))

    def by_island(self, values: Array | Index) -> Array | Index:
        """Values of particles, shape ``(islands, particles of each, ...)``."""
        return values.reshape(self.islands, -1, *values.shape[1:])


class Folding(Protocol):
    """Keeps the particles of a symmetric density in one of its copies."""

    def settle(self, path: Path, cloud: Cloud) -> tuple[Cloud, Inside | None]:
        """The particles, each mapped to the copy to be in from now on, and what says which points lie there; ``None`` for anywhere."""


class _Everywhere:
    def settle(self, path: Path, cloud: Cloud) -> tuple[Cloud, Inside | None]:
        return cloud, None


def begin(path: Path, points: Array, islands: int) -> Swarm:
    """Particles at draws of the base.

    Args:
        path: both ends.
        points: shape ``(particles, n)``, island after island.
        islands: how many islands; a divisor of the number of particles.

    Raises:
        FitError: if an island has no particle with a density.
    """
    cloud = path(points)
    alive = np.isfinite(cloud.ratio).reshape(islands, -1).sum(axis=1)
    if not alive.all():
        raise FitError(
            f"the joint density is finite at {int(alive.sum())} of {len(points)} draws to start from, at none of one island's. "
            "Fix: take more particles, start from a posterior (start=lvm.fit(problem)), or look at the prior."
        )
    step = 1.0 / points.shape[1] ** 0.25
    return Swarm(cloud, islands, np.arange(len(points)), (step,) * min(islands, 2))


def climb(path: Path, swarm: Swarm, settings: Settings, seed: int, folding: Folding | None = None) -> Iterator[Swarm]:
    """The particles after each stage from here on, up to the inverse temperature 1.

    Each stage has random numbers of its own, so that a climb which is taken up again goes on as it would have.

    Args:
        path: both ends.
        swarm: where it starts.
        settings: how to climb.
        seed: of the random numbers.
        folding: keeps the particles of a symmetric density in one copy.

    Raises:
        FitError: if it does not arrive.
    """
    while swarm.beta < 1:
        if len(swarm.stages) >= MOST_STAGES:
            raise FitError(
                f"the particles came to an inverse temperature of {swarm.beta:.3g} in {MOST_STAGES:,} stages: base and posterior are "
                "too far apart. Fix: start from a posterior (start=lvm.fit(problem)), or mend the scales of the priors."
            )
        random = np.random.default_rng([seed, len(swarm.stages)])
        swarm = _stage(path, swarm, settings, random, folding or _Everywhere())
        yield swarm


def _stage(path: Path, swarm: Swarm, settings: Settings, random: np.random.Generator, folding: Folding) -> Swarm:
    ratio = swarm.cloud.ratio
    beta = next_beta(ratio, swarm.beta, settings.share)
    if not beta > swarm.beta:
        raise FitError(
            f"no step from an inverse temperature of {swarm.beta:.3g} leaves any particles: their log likelihoods differ by "
            f"{np.ptp(ratio[np.isfinite(ratio)]):.3g}. Fix: look at the scale of the likelihood."
        )
    with np.errstate(invalid="ignore"):
        log_weight = (beta - swarm.beta) * ratio
    by_island = log_weight.reshape(swarm.islands, -1)
    size = by_island.shape[1]
    if not np.isfinite(by_island).any(axis=1).all():
        raise FitError("an island has lost all its particles. Fix: take more particles.")
    gained = log_mean_exp(by_island, axis=1)
    noise = np.array([1 / effective_share(one) - 1 for one in by_island])
    chosen = np.concatenate([systematic(one, random) + k * size for k, one in enumerate(by_island)])
    cloud, inside = folding.settle(path, swarm.cloud.take(chosen))
    walk = moved(path, cloud, beta, swarm.islands, swarm.steps, settings, random, inside)
    ancestor = swarm.ancestor[chosen]
    stage = Stage(
        beta, effective_share(log_weight), gained, noise, walk.acceptance, walk.jumps, walk.moves, min(walk.steps), walk.correlation,
        walk.drift, walk.modes, _effective_ancestors(ancestor, swarm.islands), walk.evaluations,
    )  # fmt: skip
    return replace(swarm, cloud=walk.cloud, ancestor=ancestor, steps=walk.steps, stages=(*swarm.stages, stage))


def _effective_ancestors(ancestor: Index, islands: int) -> Array:
    found = []
    for one in ancestor.reshape(islands, -1):
        shares = np.unique(one, return_counts=True)[1] / len(one)
        found.append(1 / np.sum(shares**2))
    return np.array(found)
