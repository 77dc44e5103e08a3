"""Rows of scalar quantities: means, sds and quantiles with their Monte Carlo errors, for chains and for independent draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.numerics import Array, array_stats
from pyrolvm._results.moments import Moments, is_constant, moments
from pyrolvm._results.reading import Block

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEVELS", "chain_rows", "independent_rows", "levels"]

LEVELS = {"q5": 0.05, "median": 0.5, "q95": 0.95}
"""The quantiles of a table, by the names of their columns."""


def levels(share: float) -> dict[str, float]:
    """The ends of the central interval that holds a share of the draws, and the median between them, by column.

    Raises:
        ArgumentError: if the share is none.
    """
    if not 0.0 < share < 1.0:
        raise ArgumentError(
            f"interval must be a share between 0 and 1, got {share}. Fix: pass for example interval=0.9."
        )
    low, high = 50 * (1 - share), 50 * (1 + share)
    return {f"q{low:.6g}": low / 100, "median": 0.5, f"q{high:.6g}": high / 100}


def chain_rows(part: Block, quantiles: dict[str, float] = LEVELS) -> pd.DataFrame:
    """Tabulates quantities of Markov chains.

    Args:
        part: their draws.
        quantiles: by the names of their columns.

    Returns:
        A table indexed by quantity with columns ``mean``, ``sd``, the quantiles, ``mcse_mean``, ``mcse_sd`` (NaN of discrete ones),
        ``ess_bulk``, ``ess_tail``, ``rhat`` and ``state`` (``"moving"``, ``"constant"``, ``"stuck"`` or ``"not finite"``).
    """
    import pandas as pd

    draws, count = part.draws, len(part.labels)
    finite = np.isfinite(draws).all(axis=(0, 1))
    constant = np.zeros(count, dtype=bool)
    stuck = np.zeros(count, dtype=bool)
    constant[finite] = is_constant(draws[:, :, finite])
    frozen = np.array([is_constant(chain[None]) for chain in draws])  # (chain, n)
    if not part.discrete:
        stuck = finite & ~constant & frozen.any(axis=0)
    moving = finite & ~constant
    nan = np.full(count, math.nan)
    columns: dict[str, Array] = {name: nan.copy() for name in ("mean", "sd", *quantiles)}
    columns |= {name: nan.copy() for name in ("mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat")}
    if finite.any():
        known = draws[:, :, finite]
        columns["mean"][finite], columns["sd"][finite] = known.mean(axis=(0, 1)), 0.0
        for name, level in quantiles.items():
            columns[name][finite] = np.quantile(known, level, axis=(0, 1))
    if moving.any():
        chosen = draws[:, :, moving].astype(np.float64, copy=False)
        figures = moments(chosen, None)
        columns["mean"][moving], columns["sd"][moving] = figures.mean, figures.sd
        columns["mcse_mean"][moving], columns["mcse_sd"][moving] = figures.mean_error, _sd_errors(part, figures)
        if draws.shape[1] >= 4:
            stacked = np.moveaxis(chosen, -1, 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                columns["ess_bulk"][moving] = array_stats().ess(stacked, chain_axis=-2, draw_axis=-1, method="bulk")
                columns["ess_tail"][moving] = array_stats().ess(
                    stacked, chain_axis=-2, draw_axis=-1, method="tail", prob=0.9
                )
                if draws.shape[0] > 1:
                    columns["rhat"][moving] = array_stats().rhat(stacked, chain_axis=-2, draw_axis=-1, method="rank")
    columns["rhat"][stuck] = math.inf
    columns["ess_bulk"][stuck] = 0.0
    columns["ess_tail"][stuck] = 0.0
    state = np.select([~finite, stuck, constant], ["not finite", "stuck", "constant"], default="moving")
    return pd.DataFrame(columns | {"state": state}, index=pd.Index(part.labels, name="quantity"))


def independent_rows(part: Block, worth: float, quantiles: dict[str, float] = LEVELS) -> pd.DataFrame:
    """Tabulates quantities of draws that are worth so many independent ones.

    Returns:
        A table indexed by quantity with columns ``mean``, ``sd``, ``mcse_mean``, ``mcse_sd`` (NaN of discrete ones) and the quantiles.
    """
    import pandas as pd

    draws = part.draws.astype(np.float64)
    flat = draws.reshape(-1, draws.shape[2])
    with np.errstate(invalid="ignore", over="ignore"):
        figures = moments(draws, worth)
        sd = figures.sd if len(flat) > 1 else np.full_like(figures.sd, math.nan)
        columns = {
            "mean": figures.mean,
            "sd": sd,
            "mcse_mean": sd / math.sqrt(worth),
            "mcse_sd": _sd_errors(part, figures),
        }
        columns |= dict(zip(quantiles, np.quantile(flat, list(quantiles.values()), axis=0), strict=True))
    return pd.DataFrame(columns, index=pd.Index(part.labels, name="quantity"))


def _sd_errors(part: Block, figures: Moments) -> Array:
    """The errors of sds; none of one draw, nor of discrete quantities, whose sds say little where one value is rare."""
    known = not part.discrete and part.draws.shape[:2] != (1, 1)
    return figures.sd_error if known else np.full_like(figures.sd_error, math.nan)
