"""Whether a posterior under flat priors has a finite mass: its density must fall far from where the draws are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._base.passing import passed_over
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.density.prior import is_masked
from pyrolvm._program.peeling import innermost
from pyrolvm._program.problem import Problem

__all__ = ["ENDLESS", "endless"]

ENDLESS = "endless"
"""Attribute of draws: the sites along which the density does not fall."""

DISTANCES = (30.0, 1e3, 1e6)
"""Sds from the middle of the draws at which it is looked at; the farthest where it is finite counts."""

MOST, ONE_BY_ONE = 50, 6
"""Directions that are tried, and those where the model can be run for one draw at a time only."""

ROUNDING = 1e-6
"""Share of a density by which it may change where terms cancel that far out."""

LOOKED_AT = 16
"""Draws whose densities say how high it is in the middle."""


def endless(problem: Problem, reals: Mapping[str, Tensor]) -> dict[str, str]:
    """The attribute of draws that names sites along which the density does not fall; must be called inside a session.

    Along a line to infinity the density of a distribution falls faster than one over the distance. Looked at are sites with flat
    priors, along their coordinates and along the axes in which the density is curved least; other priors fall by themselves.

    Args:
        problem: the problem.
        reals: unconstrained draws by continuous latent site, each of shape ``(draws, ...)``.
    """
    flat_sites = _flat(problem)
    if not flat_sites or not reals:
        return {}
    try:
        wide = problem.to(dtype=torch.float64)
        parts = [
            reals[site.name].reshape(len(reals[site.name]), -1).double().cpu().numpy() for site in problem.continuous
        ]
        with wide.session(seed=0), torch.no_grad():
            return _endless(Joint(wide), np.concatenate(parts, axis=1), flat_sites)
    except Exception as error:  # of a program that runs where the draws are and in their dtype alone
        return {"propriety_note": f"not looked at: {type(error).__name__}: {error}"[:300]}


def _flat(problem: Problem) -> list[str]:
    """The continuous latents whose priors are flat or masked out."""
    nodes = problem.whole.trace(problem).nodes
    return [
        site.name
        for site in problem.continuous
        if isinstance(innermost(nodes[site.name]["fn"]), dist.ImproperUniform) or is_masked(nodes[site.name])
    ]


def _endless(joint: Joint, draws: Array, flat_sites: list[str]) -> dict[str, str]:
    sizes = np.array([site.unconstrained_numel for site in joint.problem.continuous])
    owner = np.repeat([site.name for site in joint.problem.continuous], sizes)
    middle, spread = draws.mean(axis=0), draws.std(axis=0)
    if not np.isfinite(draws).all():
        return {}
    inside = np.concatenate(
        [middle[None], draws[np.linspace(0, len(draws) - 1, min(LOOKED_AT, len(draws))).astype(int)]]
    )
    heights, together = _heights(joint, inside)
    top = np.max(heights, initial=-np.inf, where=np.isfinite(heights))
    axes, names = _directions(joint, middle, spread, np.isin(owner, flat_sites), owner, curved=together)
    if not together:
        axes, names = axes[:ONE_BY_ONE], names[:ONE_BY_ONE]
    if not len(axes) or not np.isfinite(top):
        return {}
    both = np.concatenate([axes, -axes])
    points = middle + np.array(DISTANCES)[:, None, None] * both
    found = _heights(joint, points.reshape(-1, points.shape[-1]))[0].reshape(points.shape[:2])
    last = np.full(len(both), False)
    for distance, height in zip(DISTANCES, found, strict=True):
        # So far out a middle that lies low, as of a curved posterior, is no reason to expect less.
        low = top if distance == DISTANCES[0] or not np.isfinite(heights[0]) else heights[0]
        last = np.where(np.isfinite(height), height > low - math.log(distance) - ROUNDING * abs(low), last)
    bad = list(dict.fromkeys(name for name, high in zip([*names, *names], last, strict=True) if high))
    return {ENDLESS: ", ".join(bad[:3])} if bad else {}


def _directions(
    joint: Joint, middle: Array, spread: Array, flat: Array, owner: Array, *, curved: bool
) -> tuple[Array, list[str]]:
    """Steps of one sd along flat coordinates, before them those in which the density is curved least, and the sites they belong to."""
    own = np.flatnonzero(flat & (spread > 0))[:MOST]
    axes, names = np.eye(len(spread))[own] * spread[own, None], [str(owner[i]) for i in own]
    if len(own) < 2 or not curved:
        return axes, names
    block = _curvature(joint, middle, own) * spread[own, None] * spread[own]
    if not np.isfinite(block).all():
        return axes, names
    vectors = np.linalg.eigh((block + block.T) / 2)[1].T[:MOST]
    least = np.zeros((len(vectors), len(spread)))
    least[:, own] = vectors * spread[own]
    of = [str(owner[own[int(np.argmax(np.abs(row)))]]) for row in vectors]
    return np.concatenate([least, axes]), of + names


def _curvature(joint: Joint, middle: Array, own: NDArray[np.int64]) -> Array:
    """The Hessian of the potential in some coordinates, of which there may be far fewer than unknowns."""
    point = torch.as_tensor(middle).to(joint.problem.device).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(joint.potential(point), point, create_graph=True)
        if not slope.requires_grad:  # of a potential that is linear
            return np.zeros((len(own), len(own)))
        rows = [torch.autograd.grad(slope[i], point, retain_graph=True, allow_unused=True)[0] for i in own.tolist()]
    zero = torch.zeros_like(point)
    return np.stack([(zero if row is None else row)[own].cpu().numpy() for row in rows])


def _heights(joint: Joint, points: Array) -> tuple[Array, bool]:
    """Log densities at points, and whether the model can be run for all at once."""
    like = torch.as_tensor(points).to(joint.problem.device)
    try:
        return -vmapped(joint.potential)(like).cpu().numpy(), True
    except Exception:
        passed_over("whatever vmap cannot run; a real error shows in the plain runs")
        some = like[: LOOKED_AT * ONE_BY_ONE]
        return -torch.stack([joint.potential(point) for point in some]).cpu().numpy(), False
