r"""The pilot run of annealing: where rungs have to be, and how particles move at each.

A small cloud climbs from base to posterior, resampled at each rung. The next rung is where the conditional effective sample size

.. math:: \mathrm{CESS} = N \frac{(\sum_i W_i e^{\Delta \ell_i})^2}{\sum_i W_i e^{2 \Delta \ell_i}}

falls to a given share. Where :math:`\Delta \ell` is normal, :math:`-\log \mathrm{CESS} / N` is its variance, and its root a length.
The sum of these is the length of the path. Paths of T rungs at equal distances have log weights of a variance near length squared over
T, as far as kernels mix, which sets T.

References:
    Zhou, Johansen, Aston, *Towards automatic model comparison: an adaptive sequential Monte Carlo approach*,
    https://arxiv.org/abs/1303.3123;
    Gelman and Meng, *Simulating normalizing constants*, https://doi.org/10.1214/ss/1028905934 (the length of a path);
    Crooks, *Measuring thermodynamic length*, https://arxiv.org/abs/0706.0559
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.errors import FitError
from pyrolvm._methods.evidence.annealing import Cloud, Path, Rung, move
from pyrolvm._methods.evidence.bridge import Gaussian

__all__ = ["PARTICLES", "Plan", "pilot"]

Array = NDArray[np.float64]

PARTICLES, PER_UNKNOWN = 256, 12
"""Particles of a pilot at least, and for each unknown, so that their covariance can be told."""

MOST_PARTICLES = 4_096

SHARE = 0.8
"""The conditional effective share at which the next rung stands."""

MOVES, ACCEPT = 5, 0.8
"""Transitions at a rung, and the acceptance probability that its step is adapted to."""

MOST_RUNGS = 500
"""Rungs of a pilot; one that needs more is going nowhere."""

VARIANCE = 0.2
"""The variance of log weights that the number of rungs is chosen for, if kernels mixed at once."""

FEWEST, MOST = 12, 1_000
"""Rungs of a run."""


@dataclass(frozen=True)
class Plan:
    """Rungs to anneal on.

    Attributes:
        rungs: in rising order, the last at the posterior.
        length: of the path, in sds of log weight.
        acceptance: the smallest mean acceptance probability at a rung.
    """

    rungs: tuple[Rung, ...]
    length: float
    acceptance: float


def pilot(path: Path, start: Array, random: np.random.Generator, schedule: int | Sequence[float] | None = None) -> Plan:
    """Climbs once and says how to climb again.

    Args:
        path: both ends.
        start: draws of the base, shape ``(particles, n)``.
        random: where the randomness comes from.
        schedule: how many rungs to make, or where they are; by default as many as the path's length asks for.

    Raises:
        FitError: if no draw of the base has a density, or the climb does not arrive.
    """
    given = None if schedule is None or isinstance(schedule, int) else list(schedule)
    cloud, step = path(start), 1.0 / start.shape[1] ** 0.25
    if not np.isfinite(cloud.ratio).any():
        raise FitError(
            f"the joint density is finite at none of {len(start)} draws to anneal from. "
            'Fix: anneal from a posterior, lvm.evidence(lvm.fit(problem), "ais"), or look at the prior.'
        )
    rungs: list[Rung] = []
    lengths: list[float] = []
    lowest, beta = 1.0, 0.0
    while beta < 1:
        if len(rungs) == MOST_RUNGS and given is None:
            raise FitError(
                f"annealing reached a share of {beta:.3g} of the joint density after {MOST_RUNGS} rungs: base and posterior are too "
                'far apart. Fix: anneal from a posterior, lvm.evidence(lvm.fit(problem), "ais").'
            )
        ratio = cloud.ratio
        after = given[len(rungs)] if given is not None else _next(ratio, beta)
        weights, length = _weights(ratio, after - beta)
        lengths.append(length)
        beta = after
        cloud = cloud.take(_resampled(weights, random))
        rung = Rung(beta, Gaussian.of(cloud.points).root, step)
        cloud, rung, accepted = _settled(path, cloud, rung, random)
        rungs.append(rung)
        step, lowest = rung.step, min(lowest, accepted)
    total = float(np.sum(lengths))
    if given is not None:
        return Plan(tuple(rungs), total, lowest)
    count = schedule if isinstance(schedule, int) else int(np.clip(np.ceil(total**2 / VARIANCE), FEWEST, MOST))
    return Plan(_spaced(rungs, lengths, count), total, lowest)


def _settled(path: Path, cloud: Cloud, rung: Rung, random: np.random.Generator) -> tuple[Cloud, Rung, float]:
    """The cloud after some transitions, with the step that they ended with and their last acceptance."""
    accepted = 0.0
    for _ in range(MOVES):
        cloud, accepted = move(path, cloud, rung, random)
        rung = replace(rung, step=float(np.clip(rung.step * np.exp(0.7 * (accepted - ACCEPT)), 1e-4, 1.5)))
    return cloud, rung, accepted


def _next(ratio: Array, beta: float) -> float:
    """The next rung: where the effective share falls to ``SHARE``, or the posterior itself."""
    top = float(np.max(ratio))

    def share(step: float) -> float:
        weights = np.exp(step * (ratio - top))
        return float(weights.mean() ** 2 / np.mean(weights**2))

    low, high = 0.0, 1.0 - beta
    finite = float(np.mean(np.isfinite(ratio)))  # those without a density are lost at the first step, however small
    if share(high) >= SHARE * finite:
        return 1.0
    for _ in range(60):
        middle = np.sqrt(low * high) if low > 0 else high / 16
        low, high = (middle, high) if share(middle) >= SHARE * finite else (low, middle)
        if low > 0 and high / low < 1.001:
            break
    return beta + (low or high)


def _weights(ratio: Array, step: float) -> tuple[Array, float]:
    """Normalised weights of a step, and its length."""
    weights = np.exp(step * (ratio - np.max(ratio)))
    known = weights[np.isfinite(ratio)]
    variance = np.log(np.mean(known**2) / known.mean() ** 2)
    return weights / weights.sum(), float(np.sqrt(max(variance, 0.0)))


def _resampled(weights: Array, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices in proportion to weights, systematic."""
    places = (np.arange(len(weights)) + random.random()) / len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1).astype(np.int64)


def _spaced(rungs: Sequence[Rung], lengths: Sequence[float], count: int) -> tuple[Rung, ...]:
    """So many rungs at equal distances along the path, each moved in as the nearest of the pilot's."""
    ends = np.concatenate([[0.0], np.cumsum(np.maximum(lengths, 1e-12))])
    betas = np.array([0.0, *(rung.beta for rung in rungs)])
    places = np.linspace(0.0, ends[-1], count + 1)[1:]
    spread = np.interp(places, ends, betas)
    spread[-1] = 1.0
    nearest = np.abs(places[:, None] - ends[None, 1:]).argmin(axis=1)
    return tuple(replace(rungs[k], beta=float(beta)) for k, beta in zip(nearest, spread, strict=True))
