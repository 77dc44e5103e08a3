"""Moments of draws with their Monte Carlo standard errors, for independent and for autocorrelated draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyrolvm._base.numerics import Array, array_stats

__all__ = ["Moments", "cheap_screen", "effective", "is_constant", "moments"]


def effective(draws: Array, independent: float | None, method: str = "mean") -> Array:
    """Returns the effective number of draws for each quantity.

    Args:
        draws: (chain, draw, n).
        independent: how many independent draws they are worth, which leaves nothing to estimate; ``None`` where their own
            correlation tells.
        method: an ArviZ method; ``"mean"`` is the one that a standard error of a mean needs.

    Returns:
        (n,), at least 1; the number of draws for constant quantities.
    """
    chains, length, count = draws.shape
    total = np.full(count, float(chains * length) if independent is None else independent)
    if independent is not None or length < 4 or not count:
        return total
    with np.errstate(invalid="ignore", divide="ignore"):
        ess = np.asarray(array_stats().ess(np.moveaxis(draws, -1, 0), chain_axis=-2, draw_axis=-1, method=method))
    return np.clip(np.where(np.isfinite(ess), ess, total), 1.0, None)


def is_constant(draws: Array) -> Array:
    """Returns, for draws of shape (chain, draw, n), which quantities vary by no more than rounding, (n,)."""
    low, high = draws.min(axis=(0, 1)), draws.max(axis=(0, 1))
    eps = np.finfo(draws.dtype).eps if draws.dtype.kind == "f" else 0.0
    with np.errstate(invalid="ignore"):
        return np.asarray(high - low <= 8 * eps * np.maximum(np.abs(low), np.abs(high)))


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each quantity with Monte Carlo standard errors, all of shape (n,).

    When not to trust it: a standard error exists only where the moment does. For tails heavier than a Student t with
    four degrees of freedom the error of the sd is itself infinite, and a finite sample cannot show it.
    """

    mean: Array
    mean_error: Array
    sd: Array
    sd_error: Array
    ess: Array


def moments(draws: Array, independent: float | None) -> Moments:
    r"""Computes means and sds with their errors.

    The error of the mean is :math:`s/\sqrt{\mathrm{ESS}}`, that of the sd
    :math:`\sqrt{\widehat{\mathrm{var}}[(x-\bar x)^2] / \mathrm{ESS}_2} / (2 s)` with :math:`\mathrm{ESS}_2` of
    the squares, so that antithetic chains do not flatter the sd.

    Args:
        draws: (chain, draw, n), finite.
        independent: how many independent draws they are worth; ``None`` of Markov chains.
    """
    draws = draws.astype(np.float64, copy=False)
    total = draws.shape[0] * draws.shape[1]
    mean = draws.mean(axis=(0, 1))
    centred = draws - mean
    squares = centred**2
    variance = squares.mean(axis=(0, 1))
    sd = np.sqrt(variance * total / max(total - 1, 1))
    ess = effective(draws, independent)
    spread = np.sqrt(np.maximum((squares**2).mean(axis=(0, 1)) - variance**2, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        sd_error = np.where(sd > 0, spread / np.sqrt(effective(squares, independent)) / (2 * sd), 0.0)
    return Moments(mean, sd / np.sqrt(ess), sd, sd_error, ess)


def cheap_screen(draws: Array) -> Array:
    r"""Scores how badly each quantity mixes, without ranks or spectra, to choose which ones to examine closely.

    The score is :math:`|\hat R - 1|` of plain split chains plus the lag-1 autocorrelation / 100, so that R-hat decides
    and autocorrelation breaks ties.

    Args:
        draws: (chain, draw, n).

    Returns:
        (n,), higher is worse, infinite for non-finite draws.
    """
    half = draws.shape[1] // 2
    if half < 2:
        return np.zeros(draws.shape[2])
    split = np.concatenate([draws[:, :half], draws[:, half : 2 * half]]).astype(np.float64, copy=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        centred = split - split.mean(axis=1, keepdims=True)
        within = (centred**2).mean(axis=1).mean(axis=0)
        between = split.mean(axis=1).var(axis=0, ddof=1) if split.shape[0] > 1 else np.zeros(split.shape[2])
        lag = (centred[:, 1:] * centred[:, :-1]).mean(axis=(0, 1))
        score = np.abs(np.sqrt(1.0 + between / within) - 1.0) + np.abs(lag / within) / 100
    score = np.where(np.isfinite(score), score, 0.0)
    return np.where(np.isfinite(draws).all(axis=(0, 1)) & ~np.isnan(between), score, math.inf)
