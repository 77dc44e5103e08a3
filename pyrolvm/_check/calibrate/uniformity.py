r"""Are ranks uniform? Tests of :math:`n` ranks among :math:`L` draws, each an integer from 0 to :math:`L`.

All tests are exact or on the safe side for ranks, which are discrete; none of them simulates.
"""

from __future__ import annotations

import functools

import numpy as np

from pyrolvm._base.numerics import Array

__all__ = ["coverage", "ecdf_differences", "ecdf_test", "envelope", "ks", "ks_bound", "moments", "symmetry_test"]


_SMALLEST = 1e-13
"""A probability below this is not told from zero by sums in double precision."""


def ecdf_differences(ranks: Array, draws: int) -> Array:
    """The ECDF of ranks minus that of uniform ranks, at each rank but the last. ``(n, q)`` gives ``(draws, q)``."""
    counts = np.stack([(ranks <= k).sum(axis=0) for k in range(draws)])
    return counts / len(ranks) - (np.arange(1, draws + 1) / (draws + 1))[:, None]


def ks(ranks: Array, draws: int) -> Array:
    """The Kolmogorov-Smirnov distance of ranks ``(n, q)`` from uniform ones, shape ``(q,)``."""
    return np.abs(ecdf_differences(ranks, draws)).max(axis=0)


def ks_bound(count: int, level: float = 0.95) -> float:
    """What the distance of ``count`` uniform numbers stays below with this probability; that of ranks is smaller."""
    from scipy.stats import kstwo

    return float(kstwo.ppf(level, count))


# --- simultaneous envelope --------------------------------------------------------------------------------------------


def envelope(count: int, draws: int, level: float = 0.95) -> tuple[Array, Array]:
    """Bounds of :func:`ecdf_differences` that uniform ranks respect everywhere at once with this probability.

    At each rank they are the central interval of a binomial distribution, of one level for all ranks. The probability that
    the whole path stays inside is computed by the recursion over ranks.

    References:
        Sailynoja, Buerkner, Vehtari, Graphical test for discrete uniformity, https://arxiv.org/abs/2103.10522
    """
    grid, inside = _paths(count, draws)
    gamma = float(np.exp(np.interp(-level, -inside, np.log(grid))))
    low, high = _bounds(count, draws, gamma)
    expected = np.arange(1, draws + 1) / (draws + 1)
    return low / count - expected, high / count - expected


def ecdf_test(ranks: Array, draws: int) -> tuple[Array, Array]:
    """The probability that uniform ranks leave a simultaneous envelope which these just leave, and the rank where they do.

    Ranks ``(n, q)`` give two arrays ``(q,)``.
    """
    from scipy.stats import binom

    count = len(ranks)
    expected = (np.arange(1, draws + 1) / (draws + 1))[:, None]
    counts = np.stack([(ranks <= k).sum(axis=0) for k in range(draws)])
    tails = 2 * np.minimum(binom.cdf(counts, count, expected), binom.sf(counts - 1, count, expected))
    grid, inside = _paths(count, draws)
    smallest = np.clip(tails.min(axis=0), grid[0], 1.0)
    p = np.asarray(np.interp(np.log(smallest), np.log(grid), 1 - inside)).clip(_SMALLEST, 1.0)
    return p, tails.argmin(axis=0)


@functools.lru_cache(maxsize=16)
def _paths(count: int, draws: int) -> tuple[Array, Array]:
    """Pointwise levels, ascending, and the probability that a path of uniform ranks stays within each."""
    grid = np.geomspace(_SMALLEST, 1.0, 100)
    return grid, np.array([_stays(count, draws, gamma) for gamma in grid])


def _bounds(count: int, draws: int, gamma: float) -> tuple[Array, Array]:
    """The least and the greatest counts whose two-sided tail probability is above ``gamma``, at each rank."""
    from scipy.stats import binom

    expected = np.arange(1, draws + 1) / (draws + 1)
    edge = gamma / 2 * (1 + 1e-9)  # what is just on the edge is outside
    low = np.maximum(binom.ppf(edge, count, expected), 0)
    high = np.minimum(binom.isf(edge, count, expected), count)
    return low.astype(int), high.astype(int)


def _stays(count: int, draws: int, gamma: float) -> float:
    """The probability that the counts of uniform ranks stay within bounds at every rank.

    Counts are Poisson processes given their total, so that each step is a convolution with one and the same kernel.
    """
    from scipy.stats import poisson

    low, high = _bounds(count, draws, gamma)
    if (low > high).any():
        return 0.0
    rate = count / (draws + 1)
    kernel = poisson.pmf(np.arange(int(rate + 12 * np.sqrt(rate) + 30)), rate)
    start, chances = 0, np.ones(1)
    for least, most in zip([*low, count], [*high, count], strict=True):
        moved = np.convolve(chances, kernel)
        chances = np.zeros(most - least + 1)
        first, last = max(start, least), min(start + len(moved) - 1, most)
        if first <= last:
            chances[first - least : last - least + 1] = moved[first - start : last - start + 1]
        start = int(least)
    return float(min(chances[-1] / poisson.pmf(count, count), 1.0))


# --- location, spread, symmetry ---------------------------------------------------------------------------------------


def moments(ranks: Array, draws: int) -> tuple[Array, Array, Array, Array]:
    """Mean and spread of ranks ``(n, q)`` on [0, 1], and how many standard errors each is from that of uniform ranks.

    Returns:
        The mean; the mean squared distance from one half, less what is due to ranks being discrete; the z-score of
        either. Each of shape ``(q,)``.
    """
    size = draws + 1
    places = (ranks + 0.5) / size
    all_squares = ((np.arange(size) + 0.5) / size - 0.5) ** 2
    variance = all_squares.mean()  # that of uniform ranks
    mean, square = places.mean(axis=0), ((places - 0.5) ** 2).mean(axis=0)
    z_mean = (mean - 0.5) / np.sqrt(variance / len(ranks))
    z_square = (square - variance) / np.sqrt(all_squares.var() / len(ranks))
    return mean, square + (1 / 12 - variance), z_mean, z_square


def symmetry_test(ranks: Array, draws: int) -> Array:
    """The probability that ranks which are as often below as above the middle, at every distance, look less so. ``(q,)``.

    Ordered by their distance from the middle, sides are then tosses of a coin, and the statistic is the greatest distance
    that their sum reaches. It is not disturbed by a posterior that is too narrow or too wide.

    References:
        Yao, Vehtari, Simpson, Gelman, Yes, but did it work?, https://arxiv.org/abs/1802.02538
    """
    sides = np.sign(2 * ranks - draws)
    distance = np.abs(2 * ranks - draws)
    order = np.argsort(-distance, axis=0, kind="stable")
    walk = np.cumsum(np.take_along_axis(sides, order, axis=0), axis=0)
    sorted_distance = np.take_along_axis(distance, order, axis=0)
    ends = np.concatenate(
        [np.diff(sorted_distance, axis=0) != 0, np.ones((1, ranks.shape[1]), bool)]
    )  # ties count as one
    reached = np.where(ends, np.abs(walk), 0).max(axis=0)
    steps = np.abs(sides).sum(axis=0)
    return np.array([_walk_reaches(int(n), int(m)) for n, m in zip(steps, reached, strict=True)])


@functools.lru_cache(maxsize=4096)
def _walk_reaches(steps: int, height: int) -> float:
    """The probability that a walk of steps +1 and -1 is ever ``height`` or more from its start, by reflection."""
    from scipy.stats import binom

    if height <= 0 or steps == 0:
        return 1.0
    total = 0.0
    for k in range(steps // (2 * height) + 2):
        edge = (2 * k + 1) * height
        at_least = binom.sf((steps + edge) / 2 - 0.5, steps, 0.5)  # of ending at the edge or beyond
        above = binom.sf((steps + edge) / 2, steps, 0.5)
        total += (-1) ** k * 2 * (at_least + above)
    return float(min(max(total, _SMALLEST), 1.0))


def coverage(ranks: Array, draws: int, level: float) -> Array:
    """The share of truths in the central interval of this level, ``(n, q)`` to ``(q,)``; of ranks on its edge, a part."""
    edges = np.arange(draws + 2) / (draws + 1)
    low, high = (1 - level) / 2, (1 + level) / 2
    share = (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * (draws + 1)
    return np.asarray(share[ranks].mean(axis=0))
