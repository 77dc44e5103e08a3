"""What a prediction runs: the model with new rows alone, or behind those of the fit where the program ties rows together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._check.predict.arguments import Arguments, Behind, behind
from pyrolvm._check.predict.making import made, problem_at
from pyrolvm._check.predict.members import Asked, Kept, kept_sites, longer, memberships
from pyrolvm._check.predict.running import Going, observed_values
from pyrolvm._program.batching import Batch
from pyrolvm._program.names import Dimensions
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import data_plates
from pyrolvm._program.sites import is_random

__all__ = ["Setting", "setting"]

LAGS = 10
"""By how many rows a site may be shorter than the data, being of differences or of what has a row before it."""

Draw = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """What a prediction runs.

    Attributes:
        old: the fit's problem.
        new: the model with new arguments.
        asked: the arguments as they were asked for.
        predicted: the observed sites that are predicted.
        kept: the latents whose draws go on.
        going: the observed sites whose law goes on from their values in the fit.
        fresh: whether any new value was given.
        behind: the rows of the fit that are in front; ``None`` where new rows run alone.
        said: by plate, which member of the fit each one was said to be, -1 for a new one.
    """

    old: Problem
    new: Problem
    asked: Arguments
    predicted: frozenset[str]
    kept: Mapping[str, Kept]
    going: Mapping[str, Going]
    fresh: bool
    behind: Behind | None = None
    said: Mapping[str, Tensor] = field(default_factory=dict)

    def labels(self) -> dict[str, list[object]]:
        """Labels of dimensions: of members that were said to be others than their places tell, their own."""
        shown = Dimensions(self.new)
        found = {dim: list(labels) for dim, labels in shown.coords().items()}
        for plate, index in self.said.items():
            dim, before = shown(plate), list(self.old.coords.get(plate, ()))
            if dim not in found or not before:
                continue
            fresh = (f"new {number}" for number in range(1, len(index) + 1))
            found[dim] = [
                before[one] if one >= 0 else label if label not in before else next(fresh)
                for one, label in zip(index.tolist(), found[dim], strict=True)
            ]
        return found

    def arguments(self) -> dict[str, object]:
        """The arguments of new rows, as the problem holds them."""
        found = dict(self.new.arguments)
        if self.behind is not None:
            long = self.behind.before + self.behind.after
            for name, value in found.items():
                old = self.old.arguments.get(name)
                rows = isinstance(old, Tensor) and old.dim() and len(old) == self.behind.before
                if rows and isinstance(value, Tensor) and len(value) == long:
                    found[name] = value[self.behind.before :]
        return found

    def shown(self, name: str, value: Tensor, by_row: bool) -> Tensor | None:
        """The part of a site's value that is of new rows; nothing of an observation that the fit had alike."""
        if self.behind is None or (by_row and name in self.going):
            return value
        site, before = self.new.sites.get(name), self.old.sites.get(name)
        if site is None or before is None:
            return value
        event = site.event_dim if by_row else 0
        if before.kind == "observed" and before.shape == site.shape and name not in self.predicted:
            return None
        for axis in self._rows_of(name):
            if axis < -event:
                size = site.shape[axis]
                dim = value.dim() + axis + event
                if 0 <= dim < value.dim() and value.shape[dim] == size:
                    value = value.narrow(dim, size - self.behind.after, self.behind.after)
        return value

    def _rows_of(self, name: str) -> list[int]:
        """The dimensions of a site that rows are along, from the right."""
        assert self.behind is not None
        here, there = self.old.sites[name], self.new.sites[name]
        if len(here.shape) != len(there.shape):
            return []
        plates = {
            plate.dim - there.event_dim: plate
            for plate in (self.new.plates[one] for one in there.plates if one in self.new.plates)
            if plate.dim is not None
        }
        found = []
        for axis in range(-len(there.shape), 0):
            size, more = here.shape[axis], there.shape[axis] - here.shape[axis]
            near = 0 <= self.behind.before - size <= LAGS
            sure = axis not in plates or size == self.behind.before or plates[axis].name in data_plates(self.new)
            if more == self.behind.after and near and sure:
                found.append(axis)
        return found


def setting(
    old: Problem, asked: Arguments, said: Asked, rows: int | None, draws: tuple[Draw, Draw], *, scored: bool = False
) -> Setting:
    """What a prediction runs.

    Args:
        old: the fit's problem.
        asked: the new arguments, complete.
        said: who the members of plates are said to be.
        rows: rows to predict, where no argument tells.
        draws: two draws of the posterior.
        scored: whether observations of the fit's own rows are scored and not predicted, where nothing is new.
    """
    fresh = bool(asked.given) or rows is not None
    after = behind(old, asked, rows) if fresh else None
    if after is not None and _may_tie(old, after.before) and not _is_said(old, said, after.before):
        new, predicted = problem_at(old, after.arguments, after.before)
        if _ties(old, new, after, draws):
            return _behind(old, new, asked, after, predicted, said)
    if fresh:
        new, predicted = problem_at(old, asked)
    elif scored:
        asked, new, predicted = replace(asked, left_out=frozenset()), old, frozenset()
    else:
        new = made(old, asked.values, asked)  # its own data stand for themselves, whatever else reads them
        predicted = frozenset(site.name for site in old.observed)
    who = memberships(old, new, said, fresh=fresh)
    return Setting(old, new, asked, predicted, kept_sites(old, new, who), {}, fresh, None, _of_said(who, said))


def _behind(
    old: Problem, new: Problem, asked: Arguments, after: Behind, predicted: frozenset[str], said: Asked
) -> Setting:
    who = memberships(old, new, said, fresh=True, behind=True)
    kept = kept_sites(old, new, who, after.after)
    seen = observed_values(old)
    going = {}
    for site in old.observed:
        axis = _own_axis(old, new, site.name, after.after)
        if axis is not None:
            going[site.name] = Going(seen[site.name], axis)
    return Setting(old, new, asked, predicted, kept, going, True, after, _of_said(who, said))


def _of_said(who: Mapping[str, Tensor], said: Asked) -> dict[str, Tensor]:
    return {name: index for name, index in who.items() if name in said}


def _is_said(old: Problem, said: Asked, before: int) -> bool:
    """Whether it was said who the rows are."""
    return any(name in old.plates and old.plates[name].size == before for name in said)


def _may_tie(old: Problem, before: int) -> bool:
    """Whether rows could say something about each other: cheap, and often wrong where there are few rows."""
    for site in (*old.latents, *old.observed):
        around = [old.plates[name] for name in site.plates if name in old.plates]
        inside = any(plate.size == before for plate in around)
        if site.kind == "observed" and not inside and not (around and site.event_dim == 0):
            return True
        if site.kind == "latent" and (inside or any(0 <= before - size <= LAGS for size in site.shape)):
            return True
    return False


def _own_axis(old: Problem, new: Problem, name: str, more: int) -> int | None:
    """The dimension of a site that is longer and belongs to no plate."""
    here, there = old.sites[name], new.sites.get(name)
    axis = None if there is None else longer(here.shape, there.shape, more)
    if there is None or axis is None:
        return None
    dims = {
        new.plates[one].dim - there.event_dim  # type: ignore[operator]
        for one in there.plates
        if one in new.plates and new.plates[one].dim is not None
    }
    return None if axis in dims else axis


def _ties(old: Problem, new: Problem, after: Behind, draws: tuple[Draw, Draw]) -> bool:
    """Whether the program says something about new rows by those of the fit."""
    names = [{site.name for site in (*one.latents, *one.observed)} for one in (old, new)]
    if names[0] != names[1]:
        return True
    if any(_own_axis(old, new, site.name, after.after) is not None for site in (*old.latents, *old.observed)):
        return True
    for name, plate in old.plates.items():
        there = new.plates.get(name)
        inside = [site.name for site in old.latents if name in site.plates]
        if inside and there is not None and plate.dim is not None and there.size - plate.size == after.after:
            if name not in data_plates(old) or _tied(old, name, inside, draws):
                return True
    return False


def _tied(old: Problem, plate: str, latents: list[str], draws: tuple[Draw, Draw]) -> bool:
    """Whether another value of the latents of the first row changes what is said of other rows."""
    dim = old.plates[plate].dim
    assert dim is not None
    moved = dict(draws[0])
    for name in latents:
        axis = dim - old.sites[name].event_dim
        value = moved[name].clone()
        value.select(axis, 0).copy_(draws[1][name].select(axis, 0))
        moved[name] = value
    here, there = (_terms(old, draw) for draw in (draws[0], moved))
    for name, term in here.items():
        if plate not in old.sites[name].plates:
            if name not in latents and not torch.equal(term, there[name]):
                return True
            continue
        size = term.shape[dim]
        if not torch.equal(term.narrow(dim, 1, size - 1), there[name].narrow(dim, 1, size - 1)):
            return True
    return False


def _terms(problem: Problem, draw: Draw) -> Draw:
    """The log densities of all sites at a draw."""
    batch = Batch.of(problem, None)
    with problem.session(seed=0), torch.no_grad(), batch.active(), poutine.trace() as tracer:
        poutine.condition(problem.program, draw)(*batch.args, **batch.kwargs)
        nodes: Mapping[str, Any] = tracer.trace.nodes
        return {  # inside, since distributions are views of parameters, which the session puts back
            site.name: torch.as_tensor(nodes[site.name]["fn"].log_prob(nodes[site.name]["value"]))
            for site in (*problem.latents, *problem.observed)
            if site.name in nodes and is_random(nodes[site.name])
        }
