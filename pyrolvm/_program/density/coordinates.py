"""Draws of many flat vectors and back, without the likelihood, which neither has to do with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def parts() -> Tree:
        pieces = zip(joint.problem.continuous, torch.split(flat, joint.sizes, dim=1), strict=True)
        return {site.name: piece.reshape(len(flat), *(site.unconstrained_shape or ())) for site, piece in pieces}

    found = _by_supports(joint, many, parts, lambda i: joint.constrain(flat[i]))
    return many({"u": flat}) if found is None else found


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
    found = _by_supports(joint, many, lambda: parts, lambda i: one({name: part[i] for name, part in parts.items()}))
    return many(dict(parts)) if found is None else found


def unconstrained(joint: Joint, draws: Mapping[str, Tensor]) -> Tree:
    """The coordinates of draws, by site, the inverse of :func:`constrained`; must be called inside a session."""
    values = {site.name: draws[site.name] for site in joint.problem.continuous}
    many = Evaluator(joint.unconstrain, values, what="unconstrain")

    def single(i: int) -> Tree:
        return joint.unconstrain({name: value[i] for name, value in values.items()})

    found = _by_supports(joint, many, lambda: values, single, inverse=True)
    return many(values) if found is None else found


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


def _by_supports(
    joint: Joint,
    many: Evaluator,
    values: Callable[[], Mapping[str, Tensor]],
    single: Callable[[int], Tree],
    *,
    inverse: bool = False,
) -> Tree | None:
    """Images of values of sites by what their supports say, where the program would have to run draw by draw and they are no others.

    Args:
        joint: the density.
        many: what would run it.
        values: by site.
        single: the images of one draw, by its number.
        inverse: whether values are draws and images coordinates.
    """
    transforms = _transforms(joint) if many.way in ("loop", "paths") else None
    if transforms is None:
        return None
    parts = values()
    count = len(next(iter(parts.values())))
    found = {n: (transforms[n].inv if inverse else transforms[n])(part) for n, part in parts.items()}
    if not _as_single(found, single, count):
        return None
    note(Evaluation(many.what, "supports", count, 0, 0.0, many.reason))
    return found


def _as_single(found: Tree, single: Any, count: int) -> bool:
    """Whether results are those of single runs, at some of them."""
    for i in sorted({0, count // 3, 2 * count // 3, count - 1}):
        if any(v.shape != found[n][i].shape or not close(found[n][i], v) for n, v in single(i).items()):
            return False
    return True
