"""Point masses: guides, or parts of them, that have one value where a posterior has a density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm.program.agreement import guide_sites
from pyrolvm.program.inspection import is_random
from pyrolvm.program.names import dump_names
from pyrolvm.program.problem import Problem

__all__ = ["FOLLOWING", "POINTS", "all_one_value", "point_mass"]

POINTS, FOLLOWING = "point_estimates", "sites_that_follow"
"""Attributes of a result: the latents that have one value in all draws, and those that other draws determine."""

ROUNDING = 16
"""Draws whose range is at most so many units in the last place of their size are all one value."""

_WRAPPERS = ("Independent", "MaskedDistribution", "ExpandedDistribution", "TransformedDistribution")


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
    if hasattr(guide, "weighed"):  # a density of its own over all unknowns at once
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


def all_one_value(draws: np.ndarray[Any, Any]) -> bool:
    """Whether any of the unknowns with draws of shape ``(draws, ...)`` has one value in all of them, to rounding."""
    flat = draws.reshape(len(draws), -1)
    if len(flat) < 2 or not flat.shape[1] or flat.dtype.kind != "f":
        return False
    low, high = flat.min(axis=0), flat.max(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.finfo(flat.dtype).eps * np.maximum(np.abs(low), np.abs(high))
        return bool(((high - low) <= ROUNDING * unit).any())


def _is_delta(fn: Any) -> bool:
    while type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return type(fn).__name__ == "Delta"


def _is_continuous(fn: Any) -> bool:
    try:
        return not fn.support.is_discrete
    except (NotImplementedError, AttributeError):
        return True
