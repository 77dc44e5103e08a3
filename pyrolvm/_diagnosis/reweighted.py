"""What reweighting would change: moments of a guide's draws against the same draws with importance weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.importance import HEAVY_VARIANCE, Weights, khat_of_variance
from pyrolvm._base.numerics import Array
from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import told
from pyrolvm._results.reading import Block, blocks, keep_worst
from pyrolvm._results.tables import independent_rows

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["MEAN_BOUND", "SD_BOUND", "SIGMAS", "corrected_table", "judge_reweighted", "judge_tails", "reweighted_table"]

MEAN_BOUND = 0.1
"""A mean that is off by this many sds is wrong."""
SD_BOUND = 0.1
"""An sd that is off by this share is wrong."""
SIGMAS = 3.0
"""How many standard errors a difference beyond its bound must be to be called one."""
UNCLEAR = 1.5
"""How many make it doubtful whether there is one, so that it takes more draws to say."""
UNKNOWN = 0.5
"""The standard error from which on nothing is known of an sd that reweighting changes: a few draws far out make it up."""
SEEN_OF_HEAVY = SD_BOUND / 2
"""The share by which an sd may be smaller than reweighting makes it where so few draws are far out, since as much again is missing. Of
Gaussian processes whose sds were 15% to 21% too small, reweighting saw 6% to 10%."""
MOST_TAILS = 50
"""Quantities whose tails are looked at, those first whose sds change most."""
TOO_FEW = "these draws are too few to tell whether that is noise"


def reweighted_table(data: xr.DataTree, weights: Array, limit: int) -> tuple[pd.DataFrame, int]:
    r"""Tabulates every quantity before and after reweighting.

    With weights :math:`w_s` and weighted mean :math:`m` and sd :math:`\sigma`, the shift
    :math:`(\bar x - m)/\sigma` has the error :math:`\sqrt{\sum_s (w_s - 1/S)^2 (x_s - m)^2}/\sigma`, and likewise for
    the variance with :math:`(x_s - m)^2 - \sigma^2` in place of :math:`x_s - m`.

    Args:
        data: a DataTree whose draws have importance weights.
        weights: normalised weights, (S,).
        limit: how many quantities to keep: those which reweighting would change most.

    Returns:
        The table that ``diagnose`` describes, and the number of quantities left out.
    """
    import pandas as pd

    parts = list(blocks(data))
    indices = keep_worst([_change(part, weights) for part in parts], limit)
    tables = [_rows(part.take(index), weights) for part, index in zip(parts, indices, strict=True) if index.size]
    total = sum(len(part.labels) for part in parts)
    return (pd.concat(tables) if tables else pd.DataFrame()), max(total - limit, 0)


def corrected_table(data: xr.DataTree, worth: float, limit: int) -> tuple[pd.DataFrame, int]:
    """Tabulates every quantity of draws that are worth so many independent ones: moments with their errors, and quantiles.

    Returns:
        The table, and the number of quantities left out, those at the end.
    """
    import pandas as pd

    tables, total = [], 0
    for part in blocks(data):
        room = max(limit - total, 0)
        total += len(part.labels)
        if not room:
            continue
        kept = part.take(np.arange(min(room, len(part.labels))))
        tables.append(independent_rows(kept, worth))
    return (pd.concat(tables) if tables else pd.DataFrame()), max(total - limit, 0)


def _rows(part: Block, weights: Array) -> pd.DataFrame:
    flat = part.draws.astype(np.float64).reshape(-1, part.draws.shape[2])
    rows = independent_rows(part, float(len(flat)))
    own_mean, own_sd = rows["mean"].to_numpy(), rows["sd"].to_numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        mean = weights @ flat
        centred = flat - mean
        variance = weights @ centred**2
        sd = np.sqrt(variance)
        excess = ((weights - 1.0 / weights.size) ** 2)[:, None]
        shift_error = np.sqrt(np.sum(excess * centred**2, axis=0))
        ratio_error = np.sqrt(np.sum(excess * (centred**2 - variance) ** 2, axis=0)) / 2
        fixed = ~((sd > 0) & (own_sd > 0))
        scale = np.where(fixed, 1.0, sd)
        ratio = np.where(fixed, 1.0, own_sd / scale)
        return rows.assign(
            psis_mean=mean,
            psis_sd=sd,
            psis_shift=np.where(fixed, 0.0, (own_mean - mean) / scale),
            psis_shift_error=np.where(fixed, 0.0, shift_error / scale),
            psis_sd_ratio=ratio,
            psis_sd_ratio_error=np.where(fixed, 0.0, ratio_error / scale**2 * ratio),
        )


def _change(part: Block, weights: Array) -> Array:
    """Returns roughly how much reweighting changes each mean and sd, (n,), infinite where draws are not finite."""
    flat = part.draws.reshape(-1, part.draws.shape[2])
    weights = weights.astype(flat.dtype)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean, sd = flat.mean(axis=0), flat.std(axis=0)
        centred = flat - mean
        move = weights @ centred
        after = np.sqrt(weights @ centred**2 - move**2)
        change = np.maximum(np.abs(move) / sd, np.abs(np.log(after / sd)))
    change = np.where(np.isfinite(change), change, 0.0)
    return np.where(np.isfinite(mean), change, np.inf)


def judge_reweighted(table: pd.DataFrame, weights: Weights) -> Iterator[Reason]:
    """Yields whether the draws as they are agree with the same draws reweighted, where the weights can be relied on.

    k-hat alone says that reweighting works, not that it is needless: a guide with sds 20% too small has a fine k-hat.
    """
    if not weights.reliable or not len(table):
        return
    shift, ratio = table["psis_shift"], table["psis_sd_ratio"]
    # A verdict may err towards doubt: a change beyond the bound counts unless noise alone could make it.
    far = shift.abs() > np.maximum(MEAN_BOUND, SIGMAS * table["psis_shift_error"])
    wide = (ratio - 1.0).abs() > np.maximum(SD_BOUND, SIGMAS * table["psis_sd_ratio_error"])
    figures = {"largest shift": float(shift.abs().max()), "largest sd change": float((ratio - 1.0).abs().max())}
    if far.any():
        name = shift.abs().where(far).idxmax()
        more = f" ({int(far.sum())} quantities in all)" if far.sum() > 1 else ""
        sign = "+" if shift[name] > 0 else "-"
        text = f"The mean of `{name}` is {sign}{told(abs(shift[name]), MEAN_BOUND, 2)} sd from where reweighting puts it{more}."
        yield Reason("doubtful", text, figures)
    if wide.any():
        name = (ratio - 1.0).abs().where(wide).idxmax()
        more = f" ({int(wide.sum())} quantities in all)" if wide.sum() > 1 else ""
        side = "smaller" if ratio[name] < 1 else "larger"
        text = f"The sd of `{name}` is {told(100 * abs(1 - ratio[name]), 100 * SD_BOUND, 0)}% {side} than reweighting makes it{more}."
        yield Reason("doubtful", text, figures)
    unclear = [] if far.any() or wide.any() else list(_unclear(table))
    yield from unclear
    if not far.any() and not wide.any() and not unclear:
        yield Reason("trusted", "Reweighting moves no mean by 0.1 sd and no sd by 10% beyond the noise.", figures)


def judge_tails(data: xr.DataTree, table: pd.DataFrame, log_weight: Array, weights: Weights) -> Iterator[Reason]:
    """Yields sds that are smaller than reweighting makes them by more than it says, since the draws hardly reach the tail.

    Where a guide's tails are lighter than the posterior's, the terms of a variance have a heavier tail than the weights: their mean,
    and its standard error, are those of the draws that there are.
    """
    if not weights.reliable or not len(table):
        return
    ratio = table["psis_sd_ratio"]
    few = set(ratio[ratio < 1 - SEEN_OF_HEAVY].nsmallest(MOST_TAILS).index)
    found: list[tuple[str, float]] = []
    for part in blocks(data):
        for i, label in enumerate(part.labels):
            if label in few:
                values = part.draws[:, :, i].reshape(-1).astype(np.float64)
                found.append((label, khat_of_variance(log_weight.reshape(-1).astype(np.float64), values)))
    heavy = [(label, khat) for label, khat in found if khat > HEAVY_VARIANCE]
    if heavy:
        name, khat = min(heavy, key=lambda pair: float(ratio[pair[0]]))
        more = f" ({len(heavy)} quantities in all)" if len(heavy) > 1 else ""
        text = (
            f"The sd of `{name}` lacks more than the {100 * (1 - ratio[name]):.0f}% that reweighting shows, as draws hardly reach its "
            f"tail: k-hat of its variance is {told(khat, HEAVY_VARIANCE, 2)}, above {HEAVY_VARIANCE}{more}."
        )
        yield Reason("doubtful", text, {"largest quantity khat": khat, "quantities": float(len(heavy))})


def _unclear(table: pd.DataFrame) -> Iterator[Reason]:
    """Yields changes beyond their bounds that noise makes of few, and less than what it cannot make."""
    shift, error = table["psis_shift"], table["psis_shift_error"]
    beyond = shift.abs() > np.maximum(MEAN_BOUND, UNCLEAR * error)
    if beyond.any():
        name = shift.abs().where(beyond).idxmax()
        figure = f"{told(abs(shift[name]), MEAN_BOUND, 2)} +- {error[name]:.2g}"
        text = f"The mean of `{name}` is {figure} sd from where reweighting puts it; {TOO_FEW}."
        yield Reason("doubtful", text, {"unclear shift": float(shift[name]), "unclear shift error": float(error[name])})
    change, error = table["psis_sd_ratio"] - 1.0, table["psis_sd_ratio_error"]
    beyond = (change.abs() > np.maximum(SD_BOUND, UNCLEAR * error)) | ((change.abs() > SD_BOUND) & (error > UNKNOWN))
    if beyond.any():
        name = change.abs().where(beyond).idxmax()
        figure = f"{told(100 * abs(change[name]), 100 * SD_BOUND, 0)}% +- {100 * error[name]:.2g}%"
        side = "smaller" if change[name] < 0 else "larger"
        text = f"The sd of `{name}` is {figure} {side} than reweighting makes it; {TOO_FEW}."
        figures = {"unclear sd change": float(change[name]), "unclear sd error": float(error[name])}
        yield Reason("doubtful", text, figures)
