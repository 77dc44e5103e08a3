"""Draws of many flat vectors and back, without the likelihood, which neither has to do with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.density.vectorize import Evaluator, Tree, close
from pyrolvm._program.density.watch import Evaluation, note
from pyrolvm._program.starting import support_of

__all__ = ["constrained", "constrained_some", "flattened", "unconstrained"]

_PROBES = 6
"""Points of the prior's coordinates at which supports are compared."""


def constrained(joint: Joint, flat: Tensor) -> Tree:
    """The draws that flat vectors stand for, by continuous latent site; must be called inside a session.

    Args:
        joint: the density, whose coordinates they are.
        flat: shape ``(n, unconstrained_size)``.
    """
    many = Evaluator(lambda one: joint.constrain(one["u"]), {"u": flat}, what="constrain")
    transforms = _transforms(joint) if many.way in ("loop", "paths") else None
    if transforms is not None:
        parts = torch.split(flat, joint.sizes, dim=1)
        found = {}
        for site, part in zip(joint.problem.continuous, parts, strict=True):
            found[site.name] = transforms[site.name](part.reshape(len(flat), *(site.unconstrained_shape or ())))
        if _as_single(found, lambda i: joint.constrain(flat[i]), len(flat)):
            note(Evaluation("constrain", "supports", len(flat), 0, 0.0, many.reason))
            return found
    return many({"u": flat})


def constrained_some(joint: Joint, parts: Mapping[str, Tensor], still: Mapping[str, Tensor]) -> Tree:
    """The draws of some sites, by name; must be called inside a session. What is held is computed once, however long it is.

    Args:
        joint: the density, whose coordinates they are.
        parts: the coordinates of these sites, each of shape ``(n, *unconstrained_shape)``.
        still: those of all other sites, of one draw, which supports may depend on.
    """

    def one(draw: Tree) -> Tree:
        found = joint.constrain_parts({**still, **draw})
        return {name: found[name] for name in parts}

    many = Evaluator(one, dict(parts), what="constrain")
    transforms = _transforms(joint) if many.way in ("loop", "paths") else None
    if transforms is not None:
        found = {name: transforms[name](part) for name, part in parts.items()}
        if _as_single(found, lambda i: one({n: v[i] for n, v in parts.items()}), len(next(iter(parts.values())))):
            return found
    return many(dict(parts))


def unconstrained(joint: Joint, draws: Mapping[str, Tensor]) -> Tree:
    """The coordinates of draws, by site, the inverse of :func:`constrained`; must be called inside a session."""
    values = {site.name: draws[site.name] for site in joint.problem.continuous}
    many = Evaluator(joint.unconstrain, values, what="unconstrain")
    transforms = _transforms(joint) if many.way in ("loop", "paths") else None
    if transforms is not None:
        count = len(next(iter(values.values())))
        found = {name: transforms[name].inv(value) for name, value in values.items()}
        if _as_single(found, lambda i: joint.unconstrain({n: v[i] for n, v in values.items()}), count):
            note(Evaluation("unconstrain", "supports", count, 0, 0.0, many.reason))
            return found
    return many(values)


def flattened(joint: Joint, draws: Mapping[str, Tensor]) -> Tensor:
    """The flat vectors of draws, shape ``(n, unconstrained_size)``."""
    reals = unconstrained(joint, draws)
    parts = [
        reals[site.name].reshape(len(reals[site.name]), size)
        for site, size in zip(joint.problem.continuous, joint.sizes, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _transforms(joint: Joint) -> dict[str, Any] | None:
    """The transform of each site, where none of them depends on the value of another site; else ``None``."""
    if joint.centring:
        return None
    sites = joint.problem.continuous
    points = torch.zeros(_PROBES, sum(joint.sizes), dtype=joint.problem.dtype, device=joint.problem.device)
    points[1:] = 2 * torch.randn(
        _PROBES - 1, points.shape[1], generator=torch.Generator().manual_seed(7), dtype=points.dtype
    )
    kept: dict[str, Any] = {}
    images: dict[str, Tensor] = {}
    for point in points:
        nodes = joint.prior_nodes(point)
        for i, site in enumerate(sites):
            transform = bijection(support_of(nodes[site.name]["fn"]))
            reals = torch.split(points, joint.sizes, dim=1)[i].reshape(_PROBES, *(site.unconstrained_shape or ()))
            image = transform(reals)
            if not torch.equal(images.setdefault(site.name, image), image):
                return None
            kept.setdefault(site.name, transform)
    return kept


def _as_single(found: Tree, single: Any, count: int) -> bool:
    """Whether results are those of single runs, at some of them."""
    for i in sorted({0, count // 3, 2 * count // 3, count - 1}):
        if any(v.shape != found[n][i].shape or not close(found[n][i], v) for n, v in single(i).items()):
            return False
    return True
