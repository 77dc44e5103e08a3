r"""How well draws predict what was seen: log predictive density, CRPS, and where in the predictive distribution each value lies.

With draws :math:`x_1, \dots, x_S` of the predictive distribution and :math:`\theta_s` of the posterior,

.. math::
    \mathrm{lpd} = \log \frac1S \sum_s p(y \mid \theta_s), \qquad
    \mathrm{CRPS} = \frac1S \sum_s |x_s - y| - \frac1{2 S^2} \sum_{s,t} |x_s - x_t|.

References:
    Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and estimation",
    https://doi.org/10.1198/016214506000001437; Gelman, Hwang and Vehtari (2014), "Understanding predictive information criteria",
    https://arxiv.org/abs/1307.5928
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pyrolvm._base.numerics import Array

__all__ = ["scores", "totals"]

CENTRAL = (0.5, 0.9)
"""Central intervals whose coverage is told."""


FEWEST = 20
"""Draws of which an interval of 90% can be told."""

AT_ONCE = 2_000_000
"""Draws that are put in order at once."""


def scores(log_score: Array, draws: Array | None, seen: Array) -> dict[str, Array]:
    """The scores of each observed value.

    Args:
        log_score: log densities by draw, ``(S, ...)``, with the dimensions of the site's batch.
        draws: draws of the value itself, ``(S, *seen.shape)``; ``None`` where an order of values means nothing.
        seen: the values.

    Returns:
        ``lpd`` and its Monte Carlo standard error ``lpd_error`` in the shape of the batch; ``crps`` and ``pit`` (the share of draws
        below, those equal counted by half) in that of the values.
    """
    size = 1 if draws is None else draws[:, :1].size
    if draws is not None and log_score.ndim > 1 and log_score.shape[1] == len(seen) > 1 and draws.size > AT_ONCE:
        step = max(1, AT_ONCE // size)
        parts = [
            _scores(log_score[:, i : i + step], draws[:, i : i + step], seen[i : i + step])
            for i in range(0, len(seen), step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _scores(log_score, draws, seen)


def _scores(log_score: Array, draws: Array | None, seen: Array) -> dict[str, Array]:
    top = log_score.max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.exp(log_score - top)
        mean = share.mean(axis=0)
        found = {"lpd": top + np.log(mean), "lpd_error": share.std(axis=0) / mean / math.sqrt(len(share))}
    if draws is not None:
        size = len(draws)
        kind = np.float64 if draws.dtype.itemsize == 8 else np.float32
        ordered = np.ascontiguousarray(np.moveaxis(draws, 0, -1), dtype=kind)
        ordered.sort(axis=-1)
        weight = (2.0 * np.arange(size) + 1.0 - size) / size**2  # of the mean distance between draws
        with np.errstate(invalid="ignore"):  # of counts without end
            far = np.abs(ordered - seen[..., None]).mean(axis=-1, dtype=np.float64)
            found["crps"] = far - (ordered * weight.astype(kind)).sum(axis=-1, dtype=np.float64)
        found["pit"] = (draws < seen).mean(axis=0) + 0.5 * (draws == seen).mean(axis=0)
    return found


def totals(name: str, found: Mapping[str, Array], log_score: Array) -> dict[str, object]:
    """Sums and means over all values of a site, as attributes: each with its standard error as a sample of rows.

    The Monte Carlo error of the sum is that of rows scored by the same draws, which err together.

    Args:
        name: the site's.
        found: its scores by value, NaN of what is masked out or missing.
        log_score: log densities by draw, ``(S, ...)``.
    """
    every = found["lpd"].reshape(-1)
    known = ~np.isnan(every)
    lpd = every[known]
    told: dict[str, object] = {f"{name}_lpd": float(lpd.sum())}
    if lpd.size > 1:
        told[f"{name}_lpd_row_error"] = float(math.sqrt(lpd.size) * lpd.std(ddof=1))
    terms, shares = log_score.reshape(len(log_score), -1), np.zeros(len(log_score))
    step = max(1, AT_ONCE // len(log_score))
    with np.errstate(invalid="ignore", divide="ignore"):
        for first in range(0, every.size, step):
            part = known[first : first + step]
            here = every[first : first + step][part]
            shares += np.exp(terms[:, first : first + step][:, part] - here).sum(axis=1, dtype=np.float64)
    told[f"{name}_lpd_error"] = float(shares.std() / math.sqrt(len(shares)))
    if "crps" in found and (present := ~np.isnan(found["crps"])).any():
        told[f"{name}_crps"] = float(found["crps"][present].mean())
        for share in CENTRAL if len(log_score) >= FEWEST else ():
            inside = np.abs(found["pit"][present] - 0.5) <= share / 2
            told[f"{name}_inside_{round(100 * share)}"] = float(inside.mean())
    return told
