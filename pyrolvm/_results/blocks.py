"""Latents that rows have of their own, or share with few others: members that are independent given the rest, found by trying."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.density import Joint
from pyrolvm._program.density.dependence import NONE, SEVERAL, met_by
from pyrolvm._program.sites import Site

__all__ = ["Members", "members_of"]

RANDOM = 73
"""The seed of what latents are moved by."""

OWN = "own"
"""The name of what members' latents have for themselves, as parts."""

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Members:
    """Members that are independent given all else, and the rows that belong to each.

    Attributes:
        latents: the sites that are theirs.
        places: where the numbers of each member are in a flat vector, ``(members, units)``.
        axes: the parts of the density that are theirs, with the dimension of the members in each, from the left.
        rows: by observed site, the member that each of its densities belongs to, -1 for none.
    """

    latents: tuple[str, ...]
    places: Tensor
    axes: Mapping[str, int]
    rows: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """How many members there are."""
        return len(self.places)

    def own(self, parts: Parts) -> Tensor:
        """The log density of each member's latents, log Jacobians among them."""
        terms = [parts[key].movedim(axis, 0).reshape(self.count, -1).sum(1) for key, axis in self.axes.items()]
        return torch.stack(terms).sum(0)

    def others(self, parts: Parts) -> list[str]:
        """The parts of the density that are neither theirs nor of rows."""
        return [key for key in parts if key not in self.axes and key.removeprefix("density/") not in self.rows]

    def seen(self, joint: Joint, parts: Parts) -> dict[str, Tensor]:
        """The log density of each row by observed site, flat."""
        return {name: _by_row(joint, parts, name) for name in self.rows}

    def together(self, parts: Parts, seen: Mapping[str, Tensor]) -> Tensor:
        """The log density of each member with all its rows."""
        total = self.own(parts)
        for name, term in seen.items():
            member = self.rows[name]
            total = total.index_add(0, member.clamp(min=0), torch.where(member >= 0, term, torch.zeros_like(term)))
        return total

    def apart(self, parts: Parts, seen: Mapping[str, Tensor]) -> Tensor:
        """The log density of all that belongs to no member, shape ``()``."""
        rest = [parts[key].sum() for key in self.others(parts)]
        rest += [torch.where(self.rows[name] < 0, term, torch.zeros_like(term)).sum() for name, term in seen.items()]
        return torch.stack(rest).sum() if rest else next(iter(parts.values())).new_zeros(())


def members_of(joint: Joint, flat: Tensor) -> Members | None:
    """The members with the fewest rows each, at a point; ``None`` where there are none. Inside a session, without gradients.

    Args:
        joint: the density.
        flat: the point.
    """
    try:
        parts = joint.elements(flat)
    except ProblemError:  # discrete latents that are summed out join what is apart
        return None
    found = [one for one in (_tried(joint, flat, parts, axes) for axes in _candidates(joint, parts)) if one is not None]
    return max(found, key=lambda one: one.count, default=None)


def _candidates(joint: Joint, parts: Parts) -> Iterator[dict[str, int]]:
    """Sites that may have members, with the dimension of the members in their densities."""
    sites = {site.name: site for site in joint.problem.continuous}
    for name, plate in joint.problem.plates.items():
        inside = [site for site in sites.values() if name in site.plates]
        if inside and plate.dim is not None and plate.size > 1 and not plate.subsampled:
            yield {site.name: _batch(site) + plate.dim for site in inside}
    for site in sites.values():
        alone = _batch(site) == 0 and len(site.shape) == 1 and site.shape[0] > 1
        if alone and parts[f"density/{site.name}"].shape == site.shape == site.unconstrained_shape:
            yield {site.name: 0}


def _batch(site: Site) -> int:
    return len(site.shape) - site.event_dim


def _tried(joint: Joint, flat: Tensor, parts: Parts, axes: dict[str, int]) -> Members | None:
    """The members of a candidate, if they are independent given the rest and each row belongs to one at most."""
    places = _places(joint, axes)
    if places is None:
        return None
    count = len(places)
    theirs = {
        f"{kind}/{name}": axis
        for name, axis in axes.items()
        for kind in ("density", "jacobian")
        if parts[f"{kind}/{name}"].dim() > axis and parts[f"{kind}/{name}"].shape[axis] == count
    }
    if any(f"density/{name}" not in theirs for name in axes):
        return None
    observed = [site.name for site in joint.problem.observed if f"density/{site.name}" in parts]
    found = Members(tuple(axes), places, theirs, {name: torch.zeros(0, dtype=torch.long) for name in observed})

    def told(point: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        there = joint.elements(torch.as_tensor(point).to(flat))
        by_name = {OWN: found.own(there), **{f"row/{name}": term for name, term in found.seen(joint, there).items()}}
        by_name |= {key: there[key] for key in found.others(there)}
        return {name: term.double().cpu().numpy() for name, term in by_name.items()}

    here = flat.double().cpu().numpy()
    met = met_by(places.cpu().numpy(), told, [(here, told(here))], np.random.default_rng(RANDOM))
    rows = {name: met.pop(f"row/{name}") for name in observed}
    own = met.pop(OWN)
    alone = bool(((own == NONE) | (own == np.arange(count))).all()) and all(
        bool((one == NONE).all()) for one in met.values()
    )
    if not alone or any((one == SEVERAL).any() or one.max() >= count for one in rows.values()):
        return None
    if all(bool((one == NONE).all()) for one in rows.values()):
        return None
    return Members(
        tuple(axes), places, theirs, {name: torch.as_tensor(one, device=flat.device) for name, one in rows.items()}
    )


def _places(joint: Joint, axes: Mapping[str, int]) -> Tensor | None:
    """Where the numbers of each member are in a flat vector; ``None`` where sites have other numbers of members."""
    numbers = joint.split(torch.arange(sum(joint.sizes), device=joint.problem.device))
    each = []
    for name, axis in axes.items():
        value = numbers[name]
        if value.dim() <= axis:
            return None
        moved = value.movedim(axis, 0)
        each.append(moved.reshape(len(moved), -1))
    return torch.cat(each, 1) if len({len(one) for one in each}) == 1 else None


def _by_row(joint: Joint, parts: Parts, name: str) -> Tensor:
    """The log density of each row of an observed site, flat: parts of one row's event together."""
    part, rows = parts[f"density/{name}"], _batch(joint.problem.sites[name])
    shape = joint.problem.sites[name].shape[:rows]
    return part.expand(*shape, *part.shape[rows:]).reshape(*shape, -1).sum(-1).reshape(-1)
