"""Point estimates: guides that have one value where a posterior has a density."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm.diagnosis.reading import Block, blocks, log_weights
from pyrolvm.posterior.points import FOLLOWING, POINTS, PointMass, all_one_value
from pyrolvm.program.names import read_names
from pyrolvm.verdict import Reason

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["judge_points", "point_figures", "point_steps", "read_points"]

SHOWN = 4
"""Sites that a sentence names."""


def read_points(data: xr.DataTree) -> PointMass:
    """Which sites of a tree have no density in what drew them.

    A fit says so itself. Of draws with equal weights from elsewhere, or of a fit saved before fits did, those are points that have
    one value in all draws on the unconstrained scale, since zeros of a triangular matrix are no unknowns; without that scale a
    variable that never moves may be a constant of the model, so all of them have to be points.
    """
    if "posterior" not in data.children:  # of a model without latents
        return PointMass()
    attrs = data["posterior"].attrs
    said = [read_names(attrs.get(name)) for name in (POINTS, FOLLOWING)]
    if any(said):
        return PointMass(*said)
    if "proposal_stats" in data.children or (weights := log_weights(data)) is None or np.ptp(weights) > 0:
        return PointMass()
    if "unconstrained_posterior" in data.children:
        parts = [part for part in blocks(data, "unconstrained_posterior") if _is_point(part)]
    else:
        every = [part for part in blocks(data, "posterior") if not part.discrete]
        parts = every if all(_is_point(part, every=True) for part in every) else []
    return PointMass(tuple(part.variable for part in parts))


def _is_point(part: Block, *, every: bool = False) -> bool:
    """Whether any element of a variable, or every one, has one value in all draws."""
    flat = part.draws.reshape(-1, part.draws.shape[2])
    return all(all_one_value(column) for column in flat.T) if every else all_one_value(flat)


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
        text = (
            f"A point estimate, not a posterior: {guide} puts all its mass on one value of {_listed(points.constant)}"
        )
        others = f"; what is drawn of the others ({_listed(spread)}) is given that value" if spread else ""
        yield Reason(
            "doubtful", f"{text}{others}. Its sd of zero says nothing of what the data leave open. {rest}", figures
        )
    if points.following:
        text = (
            f"A point estimate given the other sites: {guide} has no density for {_listed(points.following)}, whose values follow "
            "from them."
        )
        yield Reason("doubtful", f"{text} {rest}", figures)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def point_steps(data: xr.DataTree) -> list[str]:
    """The ways from a point to a posterior."""
    return [
        'For a posterior around this point use guide="laplace", the Gaussian with the curvature there; otherwise guide="auto", '
        "lvm.infer(problem) or lvm.nuts(problem)."
    ]
