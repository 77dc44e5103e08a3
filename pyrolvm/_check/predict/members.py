"""Whose latents are whose: members of plates that a posterior knows keep their draws, others are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, ProblemError, unknown_name
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import data_plates, has_latents
from pyrolvm._program.sites import Site

__all__ = ["Kept", "kept_sites", "known_terms", "longer", "memberships"]

Asked = Mapping[str, str | Sequence[int | None]]


@dataclass(frozen=True)
class Kept:
    """What of a latent's draws goes on.

    Attributes:
        axes: for each of its dimensions that belongs to a plate with other members, from the right: which member of the fit each
            one is, -1 for a new one.
        onward: the dimension along which its own law says how it goes on, from the right.
    """

    axes: Mapping[int, Tensor]
    onward: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is the latent as it was."""
        return not self.axes and self.onward is None

    def known(self, draw: Tensor) -> Tensor:
        """The draw of the members that are known, anything at the places of the others."""
        for axis, members in self.axes.items():
            draw = draw.index_select(draw.dim() + axis, members.clamp(min=0))
        return draw

    def mask(self, shape: torch.Size) -> Tensor:
        """Where members are known, in the shape of a value."""
        found = torch.ones(shape, dtype=torch.bool, device=next(iter(self.axes.values())).device)
        for axis, members in self.axes.items():
            found = found & (members >= 0).reshape(-1, *[1] * (-axis - 1))
        return found


def memberships(old: Problem, new: Problem, asked: Asked, *, fresh: bool, behind: bool = False) -> dict[str, Tensor]:
    """For plates with other members than before: which member of the fit each one is, -1 for a new one.

    Members of a plate without data are known by their index; rows of data are others as soon as data are, unless they come ``behind``
    those of the fit.

    Raises:
        ArgumentError: if that cannot be told and was not said, or what was said does not go with the plate.
    """
    for name in asked:
        if name not in new.plates:
            raise unknown_name(f"plate of {new.name}", name, new.plates)
    found = {}
    for name, plate in new.plates.items():
        before = old.plates.get(name)
        size = 0 if before is None else before.size
        if name in asked:
            index = _said(name, asked[name], size, plate.size)
        elif not has_latents(old, name) or (not fresh and size == plate.size):
            continue
        elif behind or name not in data_plates(old):
            index = [i if i < size else -1 for i in range(plate.size)]
        elif size != plate.size and _is_alone(old, name):
            index = [-1] * plate.size
        else:
            raise ArgumentError(
                f"plate {name!r} of {new.name} holds latents and data, {size} rows in the fit and {plate.size} now: nothing says "
                f'whether they are the same ones. Fix: pass members={{"{name}": "new"}}, members={{"{name}": "same"}}, or the '
                "number that each has in the fit, None for a new one."
            )
        if index != list(range(size)):
            found[name] = torch.tensor(index, device=new.device)
    return found


def _is_alone(problem: Problem, plate: str) -> bool:
    """Whether no other plate with latents is around the data in a plate."""
    around = {name for site in problem.observed if plate in site.plates for name in site.plates if name != plate}
    return not any(has_latents(problem, name) and not _inside(problem, name, plate) for name in around)


def _inside(problem: Problem, inner: str, outer: str) -> bool:
    """Whether all latents in a plate are in another one as well."""
    return all(outer in site.plates for site in problem.latents if inner in site.plates)


def _said(name: str, said: Any, before: int, now: int) -> list[int]:
    """The members as they were said to be."""
    if said == "new":
        return [-1] * now
    if said == "same":
        if before != now:
            raise ArgumentError(
                f"members of plate {name!r} are said to be the same, but there were {before} and are {now}. Fix: say which they are."
            )
        return list(range(now))
    index = [-1 if one is None else int(one) for one in said] if not isinstance(said, str) else []
    if len(index) != now or any(not -1 <= one < before for one in index):
        raise ArgumentError(
            f'members[{name!r}] must be "new", "same", or {now} numbers from 0 to {before - 1} with None for new ones, got {said!r}. '
            "Fix: give one for each row of the new data."
        )
    return index


def kept_sites(old: Problem, new: Problem, members: Mapping[str, Tensor], more: int = 0) -> dict[str, Kept]:
    """The latents whose draws go on, all or in part.

    Args:
        old: the fit's problem.
        new: the one with new arguments.
        members: who is who in plates.
        more: rows that come behind those of the fit.

    Raises:
        ProblemError: if a latent is of another shape, and no plate says why.
    """
    found = {}
    for site in old.latents:
        there = new.sites.get(site.name)
        if there is None or there.kind != "latent":
            continue  # the program does not ask for it any more
        axes = {
            new.plates[name].dim - site.event_dim: members[name]  # type: ignore[operator]
            for name in there.plates
            if name in members and new.plates[name].dim is not None
        }
        expected = _shape(site, axes)
        axis = longer(expected, there.shape, more) if not axes else None
        if axis is not None:
            found[site.name] = Kept(axes, axis)
        elif expected != there.shape:
            raise ProblemError(
                f"latent {site.name!r} of {new.name} has shape {there.shape} with these arguments, and {site.shape} in the fit: "
                "nothing says which of its values are which. Fix: put it into a plate of its members, whose draws then go on, or "
                "pass an argument with a value for each of its rows, so that new rows come behind those of the fit."
            )
        else:
            found[site.name] = Kept(axes)
    return found


def longer(before: Sequence[int], now: Sequence[int], more: int) -> int | None:
    """The one dimension, from the right, that has so many more elements."""
    if not more or len(before) != len(now):
        return None
    others = [i for i, (one, other) in enumerate(zip(before, now, strict=True)) if one != other]
    return others[0] - len(now) if len(others) == 1 and now[others[0]] - before[others[0]] == more else None


def _shape(site: Site, axes: Mapping[int, Tensor]) -> tuple[int, ...]:
    shape = list(site.shape)
    for axis, members in axes.items():
        if -axis <= len(shape):
            shape[axis] = len(members)
    return tuple(shape)


def known_terms(kept: Kept, event_dim: int, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Log densities of the members that are known, as they were and as they are."""
    axes = {axis + event_dim: members for axis, members in kept.axes.items()}
    inner = Kept(axes)
    if inner.whole:
        return before, now
    mask = inner.mask(now.shape)
    return inner.known(before)[mask], now[mask]
