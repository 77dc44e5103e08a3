"""The table of quantities: one row for each method and scalar quantity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.numerics import Array
from pyrolvm._check.compare.align import Pair
from pyrolvm._check.compare.metrics import (
    MASS_BOUND,
    MEAN_BOUND,
    SD_BOUND,
    SIGMAS,
    W1_BOUND,
    Side,
    coverage,
    heavy_tailed,
    judge,
    wasserstein,
    wasserstein_noise,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "quantity_rows"]

COLUMNS: dict[str, str] = {
    "method": "name of the posterior that is compared",
    "variable": "site or quantity",
    "quantity": "one scalar of it, labelled by its coordinates",
    "kind": "continuous, discrete or constant",
    "status": "differs if mean, sd or shape does; agrees if mean and sd do (of a noisy sd within 10%: if shape does); else unclear",
    "mean": "the method's mean",
    "sd": "the method's standard deviation",
    "ref_mean": "the reference's mean",
    "ref_sd": "the reference's standard deviation",
    "mean_diff": "(mean - ref_mean) / ref_sd",
    "mean_diff_error": "Monte Carlo standard error of mean_diff",
    "mean_status": "agrees within 0.1, differs beyond 0.1 by more than 3 errors, else unclear",
    "sd_ratio": "sd / ref_sd: below 1 the method is too sure of itself",
    "sd_ratio_error": "Monte Carlo standard error of sd_ratio",
    "sd_status": "agrees within 10%, differs beyond 10% by more than 3 errors, else unclear",
    "median_diff": "difference of medians in robust reference sds (interquartile range / 1.349)",
    "median_diff_error": "Monte Carlo standard error of median_diff",
    "w1": "Wasserstein-1 distance in reference sds; zero only where the two distributions are the same",
    "w1_noise": "the w1 that two samples of these sizes from one distribution have on average",
    "mass50": "probability the method gives to the reference's central 50% interval, minus the reference's own",
    "mass50_error": "Monte Carlo standard error of mass50",
    "mass90": "the same for the central 90% interval: negative means tails too wide or in the wrong place",
    "mass90_error": "Monte Carlo standard error of mass90",
    "shape_status": "agrees, differs (w1 beyond 0.1, a mass beyond 0.05, by more than 3 errors) or unclear",
    "heavy_tail": "True where a tail is too heavy for a variance: medians and masses decide, not means and sds",
    "ess": "the method's effective number of draws for the mean",
    "ref_ess": "the reference's",
    "note": "what to know about this row, mostly empty",
}
"""Every column of ``Comparison.table`` and what it holds."""


def quantity_rows(
    method: str, pair: Pair, independent: float | None, reference_independent: float | None
) -> pd.DataFrame:
    """Compares all elements of one variable.

    Args:
        method: the method's name.
        pair: draws of both.
        independent: how many independent draws the method's are worth; ``None`` of Markov chains, whose own correlation tells.
        reference_independent: the same for the reference.

    Returns:
        A row for each element, with the columns of :data:`COLUMNS`.
    """
    import pandas as pd

    ours, theirs = (np.isfinite(side).all(axis=(0, 1)) for side in (pair.draws, pair.reference))
    good = np.flatnonzero(ours & theirs)
    frame = pd.DataFrame(index=range(len(pair.labels)), columns=list(COLUMNS))
    frame = frame.astype({name: "float64" for name in COLUMNS if name not in _TEXT})
    frame = frame.assign(method=method, variable=pair.variable, quantity=pair.labels, note="", heavy_tail=False)
    frame["kind"] = "discrete" if pair.discrete else "continuous"
    for name in ("status", "mean_status", "sd_status", "shape_status"):
        frame[name] = "unclear"
    frame.loc[~theirs, "note"] = "the reference has draws that are not finite"
    frame.loc[~ours, "note"] = "the method has draws that are not finite"
    frame.loc[~ours & theirs, "status"] = "differs"
    if good.size:
        chosen = pair.take(good)
        sides = Side.of(chosen.draws, independent), Side.of(chosen.reference, reference_independent)
        columns = _compare(*sides, pair.discrete)
        frame.loc[good, list(columns)] = pd.DataFrame(columns, index=good)
    return frame[list(COLUMNS)]


_TEXT = {
    "method",
    "variable",
    "quantity",
    "kind",
    "status",
    "mean_status",
    "sd_status",
    "shape_status",
    "heavy_tail",
    "note",
}


def _compare(method: Side, reference: Side, discrete: bool) -> dict[str, Array]:
    ours, theirs = method.moments, reference.moments
    fixed, both_fixed = theirs.sd == 0, (theirs.sd == 0) & (ours.sd == 0)
    scale = np.where(fixed, np.where(ours.sd > 0, ours.sd, 1.0), theirs.sd)
    out: dict[str, Any] = {"mean": ours.mean, "sd": ours.sd, "ref_mean": theirs.mean, "ref_sd": theirs.sd}
    shift = (ours.mean - theirs.mean) / scale
    scale_error = theirs.sd_error / scale
    out["mean_diff"] = shift
    out["mean_diff_error"] = np.sqrt(
        (ours.mean_error**2 + theirs.mean_error**2) / scale**2 + (shift * scale_error) ** 2
    )
    ratio = np.where(both_fixed, 1.0, np.where(fixed, math.inf, ours.sd / scale))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.hypot(np.where(ours.sd > 0, ours.sd_error / ours.sd, 0.0), scale_error)
    out["sd_ratio"], out["sd_ratio_error"] = ratio, np.where(fixed, 0.0, ratio * relative)
    out |= _medians(method, reference)
    out["w1"] = wasserstein(method.ordered, reference.ordered) / scale
    out["w1_noise"] = wasserstein_noise(reference.ordered, ours.ess, theirs.ess) / scale
    for name, probability in (("mass50", 0.5), ("mass90", 0.9)):
        mass, own, error = coverage(method, reference, probability)
        out[name], out[f"{name}_error"] = mass - own, error
    out["ess"], out["ref_ess"] = ours.ess, theirs.ess
    candidates = ~fixed & (ours.sd > 0) & (not discrete)
    heavy = heavy_tailed(reference, candidates) | heavy_tailed(method, candidates)
    out["heavy_tail"] = heavy
    out["kind"] = np.where(fixed, "constant", "discrete" if discrete else "continuous")
    note = np.where(heavy, "heavy tails: mean and sd are unreliable, medians and masses decide", "")
    note = np.where(fixed & ~both_fixed, "constant in the reference, not in the method", note)
    out["note"] = np.where(~fixed & (ours.sd == 0), "constant in the method, not in the reference", note)
    return out | _statuses(out, method, reference, discrete)


def _medians(method: Side, reference: Side) -> dict[str, Array]:
    """Differences of medians in robust sds, with errors from the spread of the quantiles around the median."""
    low, middle, high = reference.quantile([0.25, 0.5, 0.75])
    scale = np.where(high > low, (high - low) / 1.349, np.where(reference.moments.sd > 0, reference.moments.sd, 1.0))
    error = np.hypot(_median_error(method), _median_error(reference)) / scale
    return {"median_diff": (method.quantile(0.5) - middle) / scale, "median_diff_error": error}


def _median_error(side: Side) -> Array:
    """The binomial error of a probability, over the density at the median as the middle fifth of the draws gives it."""
    low, high = side.quantile([0.4, 0.6])
    return (high - low) / 0.2 * 0.5 / np.sqrt(side.moments.ess)


def _statuses(out: dict[str, Any], method: Side, reference: Side, discrete: bool) -> dict[str, Array]:
    mean = judge(out["mean_diff"], out["mean_diff_error"], MEAN_BOUND)
    sd = judge(out["sd_ratio"] - 1.0, out["sd_ratio_error"], SD_BOUND)
    if discrete:
        both = np.concatenate([method.ordered[[0, -1]], reference.ordered[[0, -1]]])
        binary = both.max(axis=0) - both.min(axis=0) <= 1
        sd = np.where(binary, mean, sd)  # a probability fixes both
    median = judge(out["median_diff"], out["median_diff_error"], MEAN_BOUND)
    masses = [judge(out[name], out[f"{name}_error"], MASS_BOUND) for name in ("mass50", "mass90")]
    far = (out["w1"] > W1_BOUND + SIGMAS * out["w1_noise"]) & ~out["heavy_tail"]
    shape = np.where(far, "differs", _worst(*masses))
    # A skewed quantity can have an sd too noisy to judge while its intervals are not: those settle it then.
    within = np.abs(out["sd_ratio"] - 1.0) <= SD_BOUND
    settled = (sd == "unclear") & (shape == "agrees") & within & (out["w1"] <= W1_BOUND)
    light = _worst(mean, np.where(settled, "agrees", sd))
    light = np.where(shape == "differs", "differs", light)
    status = np.where(out["heavy_tail"], _worst(median, shape), light)
    return {"mean_status": mean, "sd_status": sd, "shape_status": shape, "status": status}


def _worst(*statuses: Array) -> Array:
    """``differs`` where any does, ``agrees`` where all do, else ``unclear``."""
    differs = np.any([status == "differs" for status in statuses], axis=0)
    agrees = np.all([status == "agrees" for status in statuses], axis=0)
    return np.select([differs, agrees], ["differs", "agrees"], default="unclear")
