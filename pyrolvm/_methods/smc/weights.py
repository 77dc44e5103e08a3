"""Weights of particles: how far the next step may go, what is left of the particles then, and who goes on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Index", "effective_share", "next_beta", "systematic"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

CLOSE = 1e-4
"""The relative width at which a bisection ends."""


def effective_share(log_weight: Array) -> float:
    r"""The effective share of particles, :math:`(\sum_i w_i)^2 / (N \sum_i w_i^2)`; zero where none has any weight."""
    top = float(np.max(log_weight, initial=-np.inf))
    if not np.isfinite(top):
        return 0.0
    weights = np.exp(log_weight - top)
    return float(weights.sum() ** 2 / (len(weights) * np.sum(weights**2)))


def next_beta(ratio: Array, beta: float, share: float) -> float:
    """The next inverse temperature: where the effective share of equally weighted particles falls to ``share``, or 1.

    Particles without a density are lost at the first step, however small, so that the share is one of those that have one.

    Args:
        ratio: log density of the end minus that of the base, shape ``(particles,)``, minus infinity where the end has none.
        beta: the inverse temperature of the particles.
        share: between 0 and 1.
    """
    wanted = share * float(np.mean(np.isfinite(ratio)))
    low, high = 0.0, 1.0 - beta
    if effective_share(high * ratio) >= wanted:
        return 1.0
    while low == 0.0 or high / low > 1 + CLOSE:
        middle = float(np.sqrt(low * high)) if low > 0 else high / 16
        if effective_share(middle * ratio) >= wanted:
            low = middle
        else:
            high = middle
        if high < 1e-300:
            return beta
    return beta + low


def systematic(log_weight: Array, random: np.random.Generator) -> Index:
    """Who goes on, as often as its weight says up to rounding, in the order of the particles, so that kin stay together."""
    weights = np.exp(log_weight - np.max(log_weight))
    ends = np.cumsum(weights)
    places = (np.arange(len(weights)) + random.random()) * (ends[-1] / len(weights))
    return np.minimum(np.searchsorted(ends, places, side="right"), len(weights) - 1).astype(np.int64)
