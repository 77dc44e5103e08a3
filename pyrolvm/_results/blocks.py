"""Latents that rows have of their own, or share with few others, found by trying: members that are independent given the rest.

Members of one level that belong to members of another, as pupils do to schools, are found by their own density or that of their rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.density import Joint
from pyrolvm._program.density.dependence import NONE, SEVERAL, met_by

__all__ = ["Members", "by_row", "levels_of"]

RANDOM = 73
"""The seed of what latents are moved by."""

OWN = "own"
"""The name of what members' latents have for themselves, as parts."""

Parts = Mapping[str, Tensor]
Axes = dict[str, tuple[int, ...]]
"""By site, the dimensions of the members in its density, from the left."""


@dataclass(frozen=True)
class Members:
    """Members that are independent given all else, and the rows that belong to each.

    Attributes:
        latents: the sites that are theirs.
        places: where the numbers of each member are in a flat vector, ``(members, units)``.
        axes: the parts of the density that are theirs, with the dimensions of the members in each, from the left.
        rows: by observed site, the member that each of its densities belongs to, -1 for none.
        above: the member of the next level that each member belongs to; ``None`` where there is none.
    """

    latents: tuple[str, ...]
    places: Tensor
    axes: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, Tensor]
    above: Tensor | None = None

    @property
    def count(self) -> int:
        """How many members there are."""
        return len(self.places)

    def own(self, parts: Parts) -> Tensor:
        """The log density of each member's latents, log Jacobians among them."""
        terms = [_in_front(parts[key], axes).reshape(self.count, -1).sum(1) for key, axes in self.axes.items()]
        return torch.stack(terms).sum(0)

    def seen(self, joint: Joint, parts: Parts) -> dict[str, Tensor]:
        """The log density of each row by observed site, flat."""
        return {name: by_row(joint, parts, name) for name in self.rows}

    def together(self, parts: Parts, seen: Mapping[str, Tensor]) -> Tensor:
        """The log density of each member with all its rows."""
        total = self.own(parts)
        for name, term in seen.items():
            member = self.rows[name]
            total = total.index_add(0, member.clamp(min=0), torch.where(member >= 0, term, torch.zeros_like(term)))
        return total


def levels_of(joint: Joint, flat: Tensor) -> tuple[Members, ...]:
    """The members with the fewest rows each, then those that these belong to, and so on; inside a session, without gradients.

    Args:
        joint: the density.
        flat: the point.
    """
    try:
        parts = joint.elements(flat)
    except ProblemError:  # discrete latents that are summed out join what is apart
        return ()
    levels: list[Members] = []
    candidates = list(_candidates(joint, parts))
    while candidates:
        tried = [_tried(joint, flat, parts, axes, levels) for axes in candidates]
        best = max((one for one in tried if one is not None), key=lambda one: one[0].count, default=None)
        if best is None:
            break
        found, above = best
        if levels:
            levels[-1] = replace(levels[-1], above=above)
        levels.append(found)
        used = {name for level in levels for name in level.latents}
        candidates = [axes for axes in candidates if used.isdisjoint(axes)]
    return tuple(levels)


def _candidates(joint: Joint, parts: Parts) -> Iterator[Axes]:
    """Sites that may have members, with the dimensions of the members in their densities."""
    sites = {site.name: site for site in joint.problem.continuous}
    plates = {
        name: plate.dim
        for name, plate in joint.problem.plates.items()
        if plate.dim is not None and plate.size > 1 and not plate.subsampled
    }
    around = {name: tuple(one for one in plates if one in site.plates) for name, site in sites.items()}
    for several in dict.fromkeys(tuple(sorted(one, key=plates.__getitem__)) for one in around.values() if one):
        yield {
            name: tuple(len(sites[name].batch_shape) + plates[one] for one in several)
            for name, inside in around.items()
            if set(inside) == set(several)
        }
    for one, dim in plates.items():
        inside: Axes = {name: (len(sites[name].batch_shape) + dim,) for name, here in around.items() if one in here}
        if any(len(around[name]) > 1 for name in inside):
            yield inside
    for site in sites.values():
        alone = not site.batch_shape and len(site.shape) == 1 and site.shape[0] > 1
        if alone and parts[f"density/{site.name}"].shape == site.shape == site.unconstrained_shape:
            yield {site.name: (0,)}


def _in_front(value: Tensor, axes: Sequence[int]) -> Tensor:
    return value.movedim(tuple(axes), tuple(range(len(axes))))


def _tried(
    joint: Joint, flat: Tensor, parts: Parts, axes: Axes, inner: Sequence[Members]
) -> tuple[Members, Tensor | None] | None:
    """The members of a candidate, if they are independent given the rest, and which of them each member of the level below is of."""
    places, sizes = _places(joint, axes)
    if places is None or (inner and len(places) >= inner[-1].count):
        return None
    theirs = {
        f"{kind}/{name}": dims
        for name, dims in axes.items()
        for kind in ("density", "jacobian")
        if f"{kind}/{name}" in parts and _sizes(parts[f"{kind}/{name}"], dims) == sizes
    }
    if any(f"density/{name}" not in theirs for name in axes):
        return None
    observed = [site.name for site in joint.problem.observed if f"density/{site.name}" in parts]
    found = Members(tuple(axes), places, theirs, {name: torch.zeros(0, dtype=torch.long) for name in observed})
    told = _told(joint, flat, found, inner)
    if told is None or all(bool((one < 0).all()) for one in told.values()):
        return None
    rows = {name: told[f"rows/{name}"] for name in observed}
    if not inner:
        return replace(found, rows=rows), None
    above = _owner(inner, rows, told)
    if above is None:
        return None
    last = inner[-1].rows
    rows = {name: torch.where(last[name] >= 0, above[last[name].clamp(min=0)], own) for name, own in rows.items()}
    return replace(found, rows=rows), above


def _owner(inner: Sequence[Members], rows: Mapping[str, Tensor], told: Mapping[str, Tensor]) -> Tensor | None:
    """The member above that each one of the last level is of, by its density and those of all below; ``None`` for none or several."""
    last, device = inner[-1], next(iter(told.values())).device
    every = []
    for number, level in enumerate(inner):
        member = torch.arange(level.count, device=device)
        for between in inner[number:-1]:
            assert between.above is not None
            member = between.above[member]
        every.append((member, told[f"level/{number}"]))
    every += [(last.rows[name], owner) for name, owner in rows.items()]
    found = torch.full((last.count,), -1, dtype=torch.long, device=device)
    known = [(member[keep], owner[keep]) for member, owner in every for keep in ((member >= 0) & (owner >= 0),)]
    for member, owner in known:
        found[member] = owner
    same = all(torch.equal(found[member], owner) for member, owner in known)
    return found if same and bool((found >= 0).all()) else None


def _told(joint: Joint, flat: Tensor, found: Members, inner: Sequence[Members]) -> dict[str, Tensor] | None:
    """Which member each row is told of by, and each member of the levels below, -1 for none; ``None`` where that is several."""
    apart = {key for level in inner for key in level.axes} | set(found.axes)

    def each(point: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        parts = joint.elements(torch.as_tensor(point).to(flat))
        terms = {f"rows/{name}": term for name, term in found.seen(joint, parts).items()}
        terms |= {f"level/{number}": level.own(parts) for number, level in enumerate(inner)} | {OWN: found.own(parts)}
        terms |= {
            key: part
            for key, part in parts.items()
            if key not in apart and key.removeprefix("density/") not in found.rows
        }
        return {name: term.double().cpu().numpy() for name, term in terms.items()}

    here = flat.double().cpu().numpy()
    met = met_by(found.places.cpu().numpy(), each, [(here, each(here))], np.random.default_rng(RANDOM))
    own = met.pop(OWN)
    told = {name: met.pop(name) for name in list(met) if name.startswith(("rows/", "level/"))}
    alone = bool(((own == NONE) | (own == np.arange(found.count))).all()) and all(
        bool((one == NONE).all()) for one in met.values()
    )
    if not alone or any((one == SEVERAL).any() or one.max() >= found.count for one in told.values()):
        return None
    return {name: torch.as_tensor(one, device=flat.device) for name, one in told.items()}


def _sizes(value: Tensor, dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(value.shape[dim] for dim in dims if dim < value.dim())


def _places(joint: Joint, axes: Axes) -> tuple[Tensor | None, tuple[int, ...]]:
    """Where the numbers of each member are in a flat vector, and how many members there are; ``None`` where sites have others."""
    numbers = joint.split(torch.arange(sum(joint.sizes), device=joint.problem.device))
    sizes = {_sizes(numbers[name], dims) for name, dims in axes.items()}
    if len(sizes) != 1 or any(numbers[name].dim() <= max(dims) for name, dims in axes.items()):
        return None, ()
    (size,) = sizes
    each = [_in_front(numbers[name], dims).reshape(math.prod(size), -1) for name, dims in axes.items()]
    return torch.cat(each, 1), size


def by_row(joint: Joint, parts: Parts, name: str) -> Tensor:
    """The log density of each row of an observed site, flat: parts of one row's event together."""
    part, rows = parts[f"density/{name}"], len(joint.problem.sites[name].batch_shape)
    shape = joint.problem.sites[name].shape[:rows]
    return part.expand((*shape, *part.shape[rows:])).reshape(*shape, -1).sum(-1).reshape(-1)
