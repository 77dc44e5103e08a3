"""A row for each scalar quantity: how far its ranks are from uniform, in which way, and what that means for the posterior."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.numerics import Array
from pyrolvm._check.calibrate.uniformity import coverage, ecdf_test, ks, ks_bound, moments, symmetry_test
from pyrolvm._results.reading import blocks

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["ALPHA_DOUBTFUL", "ALPHA_FAILED", "BIAS_BOUND", "SD_BOUND", "scalars", "statistics"]

ALPHA_FAILED, ALPHA_DOUBTFUL = 0.01, 0.05
"""Probabilities that any quantity at all is called so where the method is exact."""
BIAS_BOUND, SD_BOUND = 0.1, 0.1
"""The size, in posterior sds and as a share of the sd, up to which a deviation is small; as in comparisons."""

_TESTS = 3


def scalars(tree: xr.DataTree, group: str) -> tuple[list[str], Array]:
    """Labels of all scalar quantities of a group with dims ``(simulation, ...)``, and their values ``(simulation, q)``."""
    import xarray as xr

    data = tree.children[group].to_dataset().rename(simulation="draw").expand_dims("chain")
    found = list(blocks(xr.DataTree.from_dict({"all": data}), "all"))
    return [label for block in found for label in block.labels], np.concatenate(
        [block.draws[0] for block in found], axis=1
    )


def statistics(data: xr.DataTree, draws: int) -> pd.DataFrame:
    """The table of :attr:`pyrolvm.Calibration.statistics`."""
    import pandas as pd

    labels, values = scalars(data, "ranks")
    ranks = values.astype(np.int64)
    good = ranks >= 0
    rows = [_row(ranks[good[:, q], q], draws) for q in range(len(labels))]
    table = pd.DataFrame(rows, index=pd.Index(labels, name="quantity"))
    table["contraction"] = _contraction(data)
    table["p_adjusted"] = _holm(table["p"].to_numpy())
    table["status"] = [_status(row) for _, row in table.iterrows()]
    table["finding"] = [finding(row) for _, row in table.iterrows()]
    return table


def _row(ranks: Array, draws: int) -> dict[str, object]:
    from scipy.stats import norm

    count = len(ranks)
    if not count:
        nan = float("nan")
        names = (
            "ks",
            "ks_bound",
            "bias",
            "bias_z",
            "sd_ratio",
            "spread_z",
            "symmetry_p",
            "worst_part",
            "worst_share",
            "cover50",
            "cover50_error",
        )
        return {"simulations": 0, **dict.fromkeys((*names, "cover90", "cover90_error"), nan), "p": 1.0}
    column = ranks[:, None]
    mean, square, z_mean, z_square = (float(part[0]) for part in moments(column, draws))
    p_ecdf, place = (part[0] for part in ecdf_test(column, draws))
    tests = [float(p_ecdf), 2 * float(norm.sf(abs(z_mean))), 2 * float(norm.sf(abs(z_square)))]
    row: dict[str, Any] = {
        "simulations": count,
        "ks": float(ks(column, draws)[0]),
        "ks_bound": ks_bound(count),
        "bias": -_shift(mean),
        "bias_z": -z_mean,
        "sd_ratio": 1 / _spread(square, mean),
        "spread_z": z_square,
        "symmetry_p": float(symmetry_test(column, draws)[0]),
        "worst_part": float((place + 1) / (draws + 1)),
        "worst_share": float((ranks <= place).mean()),
    }
    for level in (0.5, 0.9):
        name, share = f"cover{level * 100:.0f}", float(coverage(column, draws, level)[0])
        row |= {name: share, f"{name}_error": float(np.sqrt(max(share * (1 - share), 0.25 / count) / count))}
    return row | {"p": min(1.0, _TESTS * min(tests))}


def _shift(mean: float) -> float:
    """By how many posterior sds the truth lies above the posterior, if both are normal: E Phi(d + Z) = Phi(d / sqrt 2)."""
    from scipy.stats import norm

    return float(np.sqrt(2) * norm.ppf(np.clip(mean, 1e-3, 1 - 1e-3)))


def _spread(square: float, mean: float) -> float:
    """How many posterior sds the truth is spread by, if both are normal: E (Phi(s Z) - 1/2)^2 = arcsin(s^2 / (1 + s^2)) / 2 pi."""
    about = max(square - (mean - 0.5) ** 2, 0.0)
    share = np.clip(np.sin(2 * np.pi * min(about, 0.2499)), 1e-4, 1 - 1e-4)
    return float(np.sqrt(share / (1 - share)))


def _contraction(data: xr.DataTree) -> Array:
    """The median over simulations of 1 - (posterior sd / prior sd)^2, the latter from the quartiles of the truth."""
    _, truth = scalars(data, "truth")
    _, sd = scalars(data, "posterior_sd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quantities that are never numbers, or always the same
        low, high = np.nanquantile(truth, [0.25, 0.75], axis=0)
        return np.asarray(1 - np.nanmedian((sd / ((high - low) / 1.349)) ** 2, axis=0))


def _holm(p: Array) -> Array:
    """Probabilities adjusted for how many quantities there are, whatever their dependence."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _status(row: Any) -> str:
    """Failed where a deviation is certain and large; doubtful where it is either certain or likely."""
    if row["p_adjusted"] >= ALPHA_DOUBTFUL:
        return "trusted"
    large = (
        abs(row["bias"]) > BIAS_BOUND or not 1 / (1 + SD_BOUND) < row["sd_ratio"] < 1 + SD_BOUND or row["ks"] > _LARGE
    )
    return "failed" if row["p_adjusted"] < ALPHA_FAILED and large else "doubtful"


_LARGE = 0.04
"""The distance of ranks from uniform that a normal posterior has which is off by a tenth of its sd."""


def finding(row: Any) -> str:
    """What is wrong with the posterior of a quantity, in words; empty where nothing is shown."""
    if row["p_adjusted"] >= ALPHA_DOUBTFUL:
        return ""
    words = []
    if abs(row["bias_z"]) > 3:
        side, above = ("low", "above") if row["bias"] < 0 else ("high", "below")
        share = _half(abs(row["bias"]))
        words.append(
            f"posterior too {side} by {abs(row['bias']):.2g} sd, the truth is {above} its median in about {share:.0%} of simulations"
        )
    if abs(row["spread_z"]) > 3 and (row["spread_z"] > 0) == (
        row["sd_ratio"] < 1
    ):  # else it is the bias that spreads ranks
        size = "narrow" if row["spread_z"] > 0 else "wide"
        words.append(f"posterior too {size}: 90% intervals cover {row['cover90']:.0%}")
    if not words:
        part, share, side = row["worst_part"], row["worst_share"], "lowest"
        if part > 0.5:
            part, share, side = 1 - part, 1 - share, "highest"
        words.append(f"posterior of another shape: {share:.1%} of truths lie in its {side} {part:.1%}")
    return "; ".join(words)


def _half(bias: float) -> float:
    from scipy.stats import norm

    return float(norm.cdf(bias))
