r"""Distances between two sets of draws of the same scalar quantities, each with the error that chance alone gives it.

Everything is vectorised over quantities: draws have shape (chain, draw, n) and results (n,). The reference's mean,
sd and quantiles are :math:`m, s, q`; those of the method have a hat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrolvm._base.numerics import Array, array_stats
from pyrolvm._diagnosis.reweighted import MEAN_BOUND, SD_BOUND, SIGMAS
from pyrolvm._results.moments import Moments, effective, is_constant
from pyrolvm._results.moments import moments as moments_of

__all__ = ["MASS_BOUND", "W1_BOUND", "Side", "coverage", "heavy_tailed", "judge", "wasserstein", "wasserstein_noise"]

MASS_BOUND = 0.05
"""A central interval whose probability is off by this much is wrong."""
W1_BOUND = 0.1
"""A Wasserstein-1 distance of this many sds is as far as a mean may move."""
HEAVY = 0.5
"""Tails with a Pareto shape above this have no variance."""

__all__ += ["MEAN_BOUND", "SD_BOUND", "SIGMAS"]


def judge(effect: Array, error: Array, bound: float) -> Array:
    r"""Says of each effect whether it is beyond its bound, within it, or lost in the noise.

    ``differs`` where :math:`|e| > b + 3\,\mathrm{se}`; ``agrees`` where :math:`|e| \le b` and
    :math:`\mathrm{se} \le b/2`, small enough that an effect of twice the bound would have shown; else ``unclear``.

    Args:
        effect: estimated differences, (n,); NaN is unclear.
        error: their standard errors, (n,).
        bound: the largest difference that does not matter.
    """
    size = np.abs(effect)
    with np.errstate(invalid="ignore"):
        beyond, within = size > bound + SIGMAS * error, (size <= bound) & (error <= bound / 2)
    return np.select([beyond, within], ["differs", "agrees"], default="unclear")


@dataclass(frozen=True)
class Side:
    """Draws of one posterior with what is computed from them once: moments, sorted values, effective sizes."""

    draws: Array
    independent: float | None
    moments: Moments
    ordered: Array

    @classmethod
    def of(cls, draws: Array, independent: float | None) -> Side:
        """Reads finite draws of shape (chain, draw, n) that are worth so many independent ones; ``None`` of Markov chains."""
        draws = draws.astype(np.float64, copy=False)
        fixed = is_constant(draws)
        if fixed.any():
            draws = np.where(fixed, draws[:1, :1], draws)  # rounding is no variance
        flat = np.sort(draws.reshape(-1, draws.shape[2]), axis=0)
        return cls(draws, independent, moments_of(draws, independent), flat)

    def quantile(self, levels: float | list[float]) -> Any:
        """Returns quantiles, (..., n)."""
        return np.quantile(self.ordered, levels, axis=0)

    def share_inside(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Returns the share of draws in the closed intervals [low, high] and its standard error, both (n,)."""
        inside = (self.draws >= low) & (self.draws <= high)
        share = inside.mean(axis=(0, 1))
        ess = effective(inside.astype(np.float64), self.independent)
        # A share of 0 or 1 is not certain either: one draw more might have fallen on the other side.
        spread = np.maximum(share * (1 - share), 1.0 / ess)
        return share, np.sqrt(spread / ess)


def wasserstein(left: Array, right: Array) -> Array:
    r"""Computes :math:`W_1 = \int_0^1 |Q_1(u) - Q_2(u)|\,du` between two samples exactly.

    Args:
        left: sorted draws, (S, n).
        right: sorted draws, (T, n).
    """
    first, second = left.shape[0], right.shape[0]
    if first == second:
        return np.abs(left - right).mean(axis=0)
    # Steps of both quantile functions in units of 1 / (first * second), so that ties are exact.
    edges = np.union1d(np.arange(first + 1) * second, np.arange(second + 1) * first)
    starts, widths = edges[:-1], np.diff(edges) / (first * second)
    return widths @ np.abs(left[starts // second] - right[starts // first])


def wasserstein_noise(ordered: Array, ess: Array, other_ess: Array) -> Array:
    r"""Computes the W1 distance that two samples of one distribution have on average.

    The difference of two empirical distribution functions is normal with variance
    :math:`F(1-F)(1/n_1 + 1/n_2)`, so its mean absolute value integrates to
    :math:`\sqrt{2/\pi}\,\sqrt{1/n_1 + 1/n_2} \int \sqrt{F(1-F)}\,dx`.

    Args:
        ordered: sorted draws of the distribution, (S, n).
        ess: effective size of one sample, (n,).
        other_ess: of the other, (n,).
    """
    size = ordered.shape[0]
    level = np.arange(1, size) / size
    integral = np.sqrt(level * (1 - level)) @ np.diff(ordered, axis=0)
    return math.sqrt(2 / math.pi) * np.sqrt(1 / ess + 1 / other_ess) * integral


def coverage(method: Side, reference: Side, probability: float) -> tuple[Array, Array, Array]:
    """Computes the mass that a method puts inside the reference's central interval.

    Args:
        method: the method's draws.
        reference: the reference's draws.
        probability: of the interval, for example 0.9.

    Returns:
        The method's mass, the reference's own mass in the same closed interval (the probability itself but for ties),
        and the standard error of their difference, each (n,).
    """
    low, high = reference.quantile([(1 - probability) / 2, (1 + probability) / 2])
    mass, error = method.share_inside(low, high)
    own, own_error = reference.share_inside(low, high)
    return mass, own, np.hypot(error, own_error)


def heavy_tailed(side: Side, candidates: Array) -> Array:
    """Says which quantities have tails too heavy for a variance, by the Pareto shape of both tails, (n,).

    Args:
        side: the draws.
        candidates: which quantities to look at, (n,) of bool: continuous and not constant.

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling", https://arxiv.org/abs/1507.02646
    """
    heavy = np.zeros(candidates.size, dtype=bool)
    if side.ordered.shape[0] < 100:
        return heavy
    for index in np.flatnonzero(candidates):
        values = side.ordered[:, index]
        tail = values.size // 20
        if len(np.unique(values[:tail])) < tail // 2 or len(np.unique(values[-tail:])) < tail // 2:
            continue  # an atom, for example at zero: no tail to fit
        centred = (values - values[values.size // 2])[None]
        heavy[index] = float(array_stats().pareto_khat(centred, r_eff=1.0, tail="both")) > HEAVY
    return heavy
