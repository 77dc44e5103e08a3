"""From importance weights to what is known of each row, and from rows to means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.importance import weigh
from pyrolvm._check.evaluate.scoring import Block

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BOUNDS", "by_row", "mean_of"]

Array = NDArray[np.float64]

BOUNDS = (1, 5, 10, 50, 100, 500, 1_000, 5_000)
"""Draws at which the bound of several draws is shown, as far as there are as many."""


def by_row(block: Block, *, exact: bool) -> tuple[pd.DataFrame, dict[int, Array]]:
    """The figures of a block's rows, and for each number of draws their bounds.

    Columns: ``log_p``, its Monte Carlo error ``log_p_error``, ``khat``, ``ess``, ``elbo``, ``elbo_error`` and the block's terms. Where
    the density is exact, ``log_p`` alone.
    """
    import pandas as pd

    index = pd.Index(block.rows.cpu().numpy(), name="row")
    values = block.log_weight
    if exact:
        return pd.DataFrame({"log_p": values[0], "log_p_error": np.zeros(len(index))}, index=index), {}
    draws = len(values)
    top = values.max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.exp(values - np.where(np.isfinite(top), top, 0.0))
        mean = share.mean(axis=0)
        log_p = np.log(mean) + top
        spread = share.std(axis=0, ddof=1) / (mean * math.sqrt(draws)) if draws > 1 else np.full(len(top), np.nan)
        elbo = values.mean(axis=0)
        elbo_error = values.std(axis=0, ddof=1) / math.sqrt(draws) if draws > 1 else np.full(len(top), np.nan)
        ess = share.sum(axis=0) ** 2 / (share**2).sum(axis=0)
    judged = [weigh(row)[0] for row in values.T]
    figures = {
        "log_p": log_p,
        # The largest weights say more of the error than the spread of those that were drawn, where their tail is heavy.
        "log_p_error": np.fmax(spread, [one.evidence_error for one in judged]),
        "khat": [one.khat for one in judged], "ess": np.nan_to_num(ess), "elbo": elbo, "elbo_error": elbo_error,
    }  # fmt: skip
    bounds = {k: _bound(values, k) for k in BOUNDS if k <= draws}
    return pd.DataFrame(figures | block.terms, index=index), bounds


def _bound(values: Array, k: int) -> Array:
    """The mean over groups of k draws of the log of their mean weight, by row."""
    from scipy.special import logsumexp

    groups = len(values) // k
    return np.asarray((logsumexp(values[: groups * k].reshape(groups, k, -1), axis=1) - math.log(k)).mean(axis=0))


def mean_of(values: object, errors: object = None) -> tuple[float, float, float]:
    """The mean over rows, its Monte Carlo error, and its standard error as that of a sample of rows."""
    array = np.asarray(values, dtype=float)
    count = len(array)
    monte_carlo = 0.0 if errors is None else float(np.sqrt(np.sum(np.square(np.asarray(errors, dtype=float))))) / count
    sampling = float(array.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return float(array.mean()), monte_carlo, sampling


def together(parts: Iterable[tuple[pd.DataFrame, dict[int, Array]]]) -> tuple[pd.DataFrame, dict[int, Array]]:
    """The figures of all blocks."""
    import pandas as pd

    parts = list(parts)
    table = pd.concat([frame for frame, _ in parts])
    return table, {k: np.concatenate([bounds[k] for _, bounds in parts]) for k in parts[0][1]}
