"""Point masses: guides, or parts of them, that have one value where a posterior has a density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.names import dump_names, read_names
from pyrolvm._program.peeling import untransformed
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_random
from pyrolvm._results.reading import Block, blocks, log_weights
from pyrolvm.family.protocol import Hooks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FOLLOWING", "POINTS", "PointMass", "all_one_value", "point_mass", "read_points"]

POINTS, FOLLOWING = "point_estimates", "sites_that_follow"
"""Attributes of a result: the latents that have one value in all draws, and those that other draws determine."""

ROUNDING = 16
"""Draws whose range is at most so many units in the last place of their size are all one value."""


@dataclass(frozen=True)
class PointMass:
    """What a guide has no density for.

    Attributes:
        constant: latent sites with an unknown that has one value in all draws.
        following: latent sites whose values are functions of other draws, which have too few unknowns of their own.
    """

    constant: tuple[str, ...] = ()
    following: tuple[str, ...] = ()

    def attrs(self) -> dict[str, str]:
        """As attributes of a group."""
        named = {POINTS: self.constant, FOLLOWING: self.following}
        return {name: dump_names(sites) for name, sites in named.items() if sites}

    def __bool__(self) -> bool:
        return bool(self.constant or self.following)


def point_mass(problem: Problem, guide: Callable[..., Any], unconstrained: Mapping[str, Tensor]) -> PointMass:
    """What a fitted guide has no density for; must be called inside the fit's session.

    A site is a point where draws of one of its unknowns are all one value, whatever distribution made them: a ``Delta``, or a scale
    that has collapsed to rounding. Values that vary may still lie on a surface without volume: a guide has a density for all unknowns
    only if the sites that it draws from densities have at least as many.

    Args:
        problem: the problem.
        guide: the guide that draws.
        unconstrained: its draws by continuous latent site, each of shape ``(draws, ...)``.
    """
    constant = tuple(name for name, values in unconstrained.items() if all_one_value(values.detach().cpu().numpy()))
    if Hooks(guide).weighed is not None:  # a density of its own over all unknowns at once
        return PointMass(constant)
    with torch.no_grad(), problem.whole.active():
        trace: Any = poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)
    latents = {site.name: site for site in problem.continuous}
    drawn = {name: node for name, node in guide_sites(trace).items() if name in latents}
    points = [name for name, node in drawn.items() if _is_delta(node["fn"])]
    dense = sum(
        latents[name].unconstrained_numel if name in latents else node["value"].numel()
        for name, node in trace.nodes.items()
        if is_random(node) and not node["is_observed"] and not _is_delta(node["fn"]) and _is_continuous(node["fn"])
    )
    missing = sum(latents[name].unconstrained_numel for name in drawn) - dense
    known = sum(latents[name].unconstrained_numel for name in constant)
    following = tuple(name for name in points if name not in constant) if missing > known else ()
    return PointMass(constant, following)


def all_one_value(draws: Array) -> bool:
    """Whether any of the unknowns with draws of shape ``(draws, ...)`` has one value in all of them, to rounding."""
    flat = draws.reshape(len(draws), -1)
    if len(flat) < 2 or not flat.shape[1] or flat.dtype.kind != "f":
        return False
    low, high = flat.min(axis=0), flat.max(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.finfo(flat.dtype).eps * np.maximum(np.abs(low), np.abs(high))
        return bool(((high - low) <= ROUNDING * unit).any())


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


def _is_delta(fn: dist.TorchDistribution) -> bool:
    return isinstance(untransformed(fn)[0], dist.Delta)


def _is_continuous(fn: dist.TorchDistribution) -> bool:
    try:
        return fn.support is None or not fn.support.is_discrete
    except (NotImplementedError, AttributeError):
        return True
