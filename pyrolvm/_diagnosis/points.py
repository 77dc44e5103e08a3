"""Point estimates: guides that have one value where a posterior has a density."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import named
from pyrolvm._results.points import PointMass

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["judge_points", "point_figures", "point_steps"]

SHOWN = 4
"""Sites that a sentence names."""


def point_figures(data: xr.DataTree) -> dict[str, float]:
    """The log joint density, its mean over the draws, and their number."""
    stats = data["sample_stats"]
    sizes = data["posterior"].sizes
    figures = {"draws": float(sizes["chain"] * sizes["draw"])}
    if "lp" in stats.data_vars:
        figures["log_p"] = float(np.mean(np.asarray(stats["lp"].values, dtype=float)))
    return figures


def judge_points(data: xr.DataTree, points: PointMass) -> Iterator[Reason]:
    """Says what is a point, and what that means for the rest."""
    guide = str(data["posterior"].attrs.get("pyrolvm_guide", "") or "the guide")
    rest = "It has no ELBO, no evidence and no importance weights."
    names = [str(name) for name in data["posterior"].data_vars]
    figures = {"points": float(len(points.constant) + len(points.following))}
    if points.constant:
        spread = [name for name in names if name not in points.constant]
        text = f"A point estimate, not a posterior: {guide} puts all its mass on one value of {named(points.constant, SHOWN)}"
        others = f"; what is drawn of the others ({named(spread, SHOWN)}) is given that value" if spread else ""
        yield Reason(
            "doubtful", f"{text}{others}. Its sd of zero says nothing of what the data leave open. {rest}", figures
        )
    if points.following:
        text = (
            f"A point estimate given the other sites: {guide} has no density for {named(points.following, SHOWN)}, whose values follow "
            "from them."
        )
        yield Reason("doubtful", f"{text} {rest}", figures)


def point_steps(data: xr.DataTree) -> list[str]:
    """The ways from a point to a posterior."""
    return [
        'For a posterior around this point use guide="laplace", the Gaussian with the curvature there; otherwise guide="auto", '
        "lvm.infer(problem) or lvm.nuts(problem)."
    ]
