"""How good draws are: effective sample sizes, R-hat, and distances from a reference in standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]

__all__ = ["Summary", "pool", "summarize", "usual_worst_z", "worst_z"]


@dataclass(frozen=True)
class Summary:
    """Means and mean squares of every quantity with their standard errors, and how well the chains mixed.

    Attributes:
        mean: shape ``(k,)``.
        mean_error: Monte Carlo standard errors of the means.
        spread: mean squared distance from ``centre``, which all methods share.
        spread_error: its standard errors.
        ess: the smallest bulk effective sample size.
        rhat: the largest R-hat.
    """

    mean: np.ndarray
    mean_error: np.ndarray
    spread: np.ndarray
    spread_error: np.ndarray
    ess: float
    rhat: float


def flat(quantities: Arrays) -> np.ndarray:
    """All quantities side by side, in the order of their names, shape ``(chain, draw, k)``."""
    parts = [np.asarray(quantities[name], dtype=float) for name in sorted(quantities)]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)


def summarize(quantities: Arrays, centre: np.ndarray | None = None) -> Summary:
    """Summarises draws.

    Args:
        quantities: draws by name, shape ``(chain, draw, ...)``.
        centre: where squares are taken from, shape ``(k,)``; by default the draws' own means.
    """
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    draws = flat(quantities)
    mean = draws.mean((0, 1))
    squares = (draws - (mean if centre is None else centre)) ** 2
    return Summary(
        mean=mean,
        mean_error=np.asarray(array_stats.mcse(draws, method="mean", **axes)),
        spread=squares.mean((0, 1)),
        spread_error=np.asarray(array_stats.mcse(squares, method="mean", **axes)),
        ess=0.0 if _stuck(draws) else float(np.min(array_stats.ess(draws, method="bulk", **axes))),
        rhat=float(np.max(array_stats.rhat(draws if len(draws) > 1 else _halves(draws), **axes))),
    )


def _halves(draws: np.ndarray) -> np.ndarray:
    """The two halves of one chain as two chains, since R-hat wants several."""
    half = draws.shape[1] // 2
    return draws[:, : 2 * half].reshape(2, half, -1)


def _stuck(draws: np.ndarray) -> bool:
    """Whether a chain never moved, which formulas for the effective sample size mistake for perfect draws."""
    return bool((np.ptp(draws, axis=1) == 0).any())


def pool(summaries: list[Summary]) -> Summary:
    """The mean of several methods' summaries, each as heavy as its precision, quantity by quantity."""

    def combine(values: list[np.ndarray], errors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        weights = np.stack(errors) ** -2.0
        return (np.stack(values) * weights).sum(0) / weights.sum(0), weights.sum(0) ** -0.5

    mean, mean_error = combine([s.mean for s in summaries], [s.mean_error for s in summaries])
    spread, spread_error = combine([s.spread for s in summaries], [s.spread_error for s in summaries])
    return Summary(
        mean, mean_error, spread, spread_error, min(s.ess for s in summaries), max(s.rhat for s in summaries)
    )


def worst_z(one: Summary, reference: Summary) -> tuple[float, float]:
    """The largest distance of the means, and of the mean squares, in standard errors of the difference."""
    mean = np.abs(one.mean - reference.mean) / np.hypot(one.mean_error, reference.mean_error)
    spread = np.abs(one.spread - reference.spread) / np.hypot(one.spread_error, reference.spread_error)
    return float(mean.max()), float(spread.max())


def usual_worst_z(count: int) -> float:
    """What the largest of ``count`` such distances stays below in 99 of 100 comparisons of equal methods."""
    from scipy.stats import norm

    return float(norm.isf((1 - 0.99 ** (1 / count)) / 2))
