"""Actions that might leave a program's density as it is: proposals, cheap to list, each of which is then put to the test."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.distributions import constraints

from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import data_plates
from pyrolvm._program.sites import Site
from pyrolvm._program.symmetry.action import Action, Values, reflection, sign_flip, swap, turn
from pyrolvm._program.symmetry.layout import Layout

__all__ = ["Move", "Unit", "pairs", "proposals", "subsets", "units"]

MOST_MEMBERS = 64
"""Up to so many elements along an axis may be exchanged."""

MOST_TOGETHER = 10
"""Axes of one length of which every subset is tried; of more, subsets of up to three."""

SHARES = (1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6)
MIRRORS = (1 / 2, 1 / 4, 3 / 4, 1 / 3, 2 / 3)
"""Shares of a period by which phases may go on, and at which they may be mirrored."""


@dataclass(frozen=True)
class Unit:
    """Something with members that might be exchanged: an axis of a site, or sites whose names differ by a number.

    Attributes:
        site: the site, or the first of them.
        label: what messages call it.
        slices: where each member's numbers lie, integers of shape ``(members, m)``.
        real: whether the numbers take any sign.
        names: what each member is called, where that is not its number.
    """

    site: str
    label: str
    slices: Values
    real: bool
    names: tuple[str, ...] = ()

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self.slices)


@dataclass(frozen=True)
class Move:
    """A proposal: its kind, what it acts on, and the action.

    Attributes:
        kind: ``"exchange"``, ``"swap"``, ``"sign"``, ``"reflection"`` or ``"turn"``.
        parts: the units or sites that it acts on together.
        members: the two members that are exchanged, or the one whose sign changes; empty for whole sites.
        action: the map.
        units: the units among the parts.
        mirror: what is mirrored at the same time, if anything.
    """

    kind: str
    parts: tuple[str, ...]
    members: tuple[int, ...]
    action: Action
    units: tuple[Unit, ...] = ()
    mirror: Action | None = None

    def of(self, *members: int) -> Move:
        """The same move of other members."""
        size = len(self.action.source)
        if self.kind == "sign":
            return replace(self, members=members, action=slice_sign(size, self.units, members[0]))
        action = exchange(size, self.units, *members)
        return replace(self, members=members, action=action if self.mirror is None else self.mirror.after(action))


def base_of(support: Any) -> Any:
    """The constraint of one event within independent ones."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _fixed_axes(site: Site) -> int:
    """How many trailing axes are bound together by the support, such as the rows and columns of a Cholesky factor."""
    base = base_of(site.support)
    return 0 if base is constraints.simplex else int(base.event_dim)


def is_real(site: Site) -> bool:
    """Whether a site's numbers are free on the real line."""
    return base_of(site.support) is constraints.real


def bounds(site: Site) -> tuple[Values, Values] | None:
    """Both ends of a site's interval, in the site's shape; ``None`` where it has none."""
    base = base_of(site.support)
    if not isinstance(base, constraints.interval):
        return None
    try:
        ends = [
            np.broadcast_to(np.asarray(end, dtype=np.float64), site.shape)
            for end in (base.lower_bound, base.upper_bound)
        ]
    except (ValueError, TypeError, RuntimeError):  # bounds of another shape, or on another device
        return None
    return ends[0], ends[1]


def units(problem: Problem) -> list[Unit]:
    """Everything in a program whose members might be exchanged; rows of data have members of their own."""
    rows = data_plates(problem)
    places = Layout.of(problem).places()
    found = []
    for site in problem.continuous:
        where = places[site.name]
        batch = len(site.batch_shape)
        data = {
            batch + plate.dim
            for name in site.plates
            if name in rows and (plate := problem.plates.get(name)) is not None and plate.dim is not None
        }
        for axis in range(len(site.shape) - _fixed_axes(site)):
            if axis not in data and 2 <= site.shape[axis] <= MOST_MEMBERS:
                slices = np.moveaxis(where, axis, 0).reshape(site.shape[axis], -1)
                label = site.name if len(site.shape) == 1 else f"{site.name}, axis {axis}"
                found.append(Unit(site.name, label, slices, is_real(site)))
    return found + list(_families(problem, places))


def _families(problem: Problem, places: dict[str, Values]) -> Iterator[Unit]:
    """Sites whose names differ by their numbers alone, as a loop makes them."""
    groups: dict[Any, list[Site]] = defaultdict(list)
    for site in problem.continuous:
        pattern, count = re.subn(r"\d+", "#", site.name)
        if count:
            groups[pattern, site.shape, repr(base_of(site.support))].append(site)
    for (pattern, *_), sites in groups.items():
        if 2 <= len(sites) <= MOST_MEMBERS:
            sites = sorted(sites, key=lambda site: [int(part) for part in re.findall(r"\d+", site.name)])
            slices = np.stack([places[site.name].reshape(-1) for site in sites])
            names = tuple(site.name for site in sites)
            yield Unit(sites[0].name, pattern, slices, is_real(sites[0]), names)


def subsets(items: list[Any], most: int) -> Iterator[tuple[Any, ...]]:
    """Subsets, the small ones first, at most so many."""
    largest = len(items) if len(items) <= MOST_TOGETHER else 3
    every = (chosen for size in range(1, largest + 1) for chosen in itertools.combinations(items, size))
    return itertools.islice(every, most)


def pairs(members: int) -> list[tuple[int, int]]:
    """Pairs of members, neighbours first."""
    near = [(i, i + 1) for i in range(members - 1)]
    return near + [pair for pair in itertools.combinations(range(members), 2) if pair not in set(near)]


def exchange(size: int, chosen: Iterable[Unit], i: int, j: int) -> Action:
    """Members i and j change places in all units at once."""
    actions = [swap(size, unit.slices[i], unit.slices[j]) for unit in chosen]
    total = actions[0]
    for action in actions[1:]:
        total = action.after(total)
    return total


def slice_sign(size: int, chosen: Iterable[Unit], k: int) -> Action:
    """Member k changes its sign in all units at once."""
    return sign_flip(size, np.unique(np.concatenate([unit.slices[k] for unit in chosen])))


def proposals(problem: Problem, found: list[Unit], most: int) -> Iterator[Move]:
    """Moves worth a test, at most ``most`` of each kind; of members only the first ones, for the others follow from them."""
    size = Layout.of(problem).size
    by_length: dict[int, list[Unit]] = defaultdict(list)
    for unit in found:
        by_length[unit.members].append(unit)
    for members, group in by_length.items():
        yield from _exchanges(problem, size, members, group, most)
        yield from _slice_signs(size, group, most)
    yield from _site_signs(problem, size, most)
    yield from _site_swaps(problem, size, found, most)
    yield from _turns(problem, size, most)


def _exchanges(problem: Problem, size: int, members: int, group: list[Unit], most: int) -> Iterator[Move]:
    mirrors: list[tuple[str, Action] | None] = [None]
    if members == 2:  # a weight w and 1 - w are a simplex in other words
        mirrors += list(_mirrors(problem, size))
    chosen = list(subsets(group, most))
    tried = pairs(members)[: max(most // (len(chosen) * len(mirrors)), 1)]
    for parts in chosen:
        for i, j in tried:
            for mirror in mirrors:
                action = exchange(size, parts, i, j)
                labels = tuple(unit.label for unit in parts)
                if mirror is None:
                    yield Move("exchange", labels, (i, j), action, parts)
                else:
                    yield Move("exchange", (*labels, mirror[0]), (i, j), mirror[1].after(action), parts, mirror[1])


def _mirrors(problem: Problem, size: int) -> Iterator[tuple[str, Action]]:
    places = Layout.of(problem).places()
    for site in problem.continuous:
        ends = bounds(site)
        if ends is not None and site.numel == 1:
            where = places[site.name].reshape(-1)
            yield site.name, reflection(size, where, (ends[0] + ends[1]).reshape(-1))


def _slice_signs(size: int, group: list[Unit], most: int) -> Iterator[Move]:
    real = [unit for unit in group if unit.real]
    for parts in subsets(real, most // 2):
        labels = tuple(unit.label for unit in parts)
        yield from (Move("sign", labels, (k,), slice_sign(size, parts, k), parts) for k in (0, 1))


def _site_signs(problem: Problem, size: int, most: int) -> Iterator[Move]:
    places = Layout.of(problem).places()
    real = [site.name for site in problem.continuous if is_real(site)]
    for names in subsets(real, most):
        where = np.concatenate([places[name].reshape(-1) for name in names])
        yield Move("sign", tuple(names), (), sign_flip(size, where))
    for name, action in _mirrors(problem, size):
        for other in (None, *real):
            both = action if other is None else sign_flip(size, places[other].reshape(-1)).after(action)
            yield Move("reflection", (name,) if other is None else (name, other), (), both)


def _site_swaps(problem: Problem, size: int, found: list[Unit], most: int) -> Iterator[Move]:
    """Pairs of sites, or up to three pairs of them together, that change places; those that a loop named are units already."""
    places = Layout.of(problem).places()
    named = {frozenset(unit.names) for unit in found if len(unit.names) == 2}
    kinds: dict[Any, list[str]] = defaultdict(list)
    for site in problem.continuous:
        kinds[site.shape, repr(base_of(site.support))].append(site.name)
    singles = [pair for names in kinds.values() for pair in itertools.combinations(names, 2)]
    mirrors = [None, *_mirrors(problem, size)]
    count = 0
    for number in (1, 2, 3):
        for chosen in itertools.combinations(singles, number):
            names = [name for pair in chosen for name in pair]
            if len(set(names)) < len(names) or (number == 1 and frozenset(chosen[0]) in named):
                continue
            action = swap(
                size,
                np.concatenate([places[a].reshape(-1) for a, _ in chosen]),
                np.concatenate([places[b].reshape(-1) for _, b in chosen]),
            )
            for mirror in mirrors:
                if mirror is not None and mirror[0] in names:
                    continue
                count += 1
                if count > most:
                    return
                parts = tuple(f"{a} and {b}" for a, b in chosen)
                if mirror is None:
                    yield Move("swap", parts, (), action)
                else:
                    yield Move("swap", (*parts, mirror[0]), (), mirror[1].after(action))


def _turns(problem: Problem, size: int, most: int) -> Iterator[Move]:
    """Phases that go on by a share of their interval, alone or while another site changes its sign."""
    places = Layout.of(problem).places()
    real = [site.name for site in problem.continuous if is_real(site)]
    count = 0
    for site in problem.continuous:
        ends = bounds(site)
        if ends is None or site.numel > MOST_MEMBERS:
            continue
        where, low, high = (part.reshape(-1) for part in (places[site.name], *ends))
        single = [np.array([i]) for i in range(len(where))] if 1 < len(where) <= MOST_TOGETHER else []
        for which in (np.arange(len(where)), *single):
            spot = (where[which], low[which], (high - low)[which])
            moves = [turn(size, *spot, share) for share in SHARES]
            moves += [turn(size, *spot, share, mirrored=True) for share in MIRRORS]
            for other in (None, *real):
                for action in moves:
                    count += 1
                    if count > most:
                        return
                    both = action if other is None else sign_flip(size, places[other].reshape(-1)).after(action)
                    member = (int(which[0]),) if len(which) < len(where) else ()
                    yield Move("turn", (site.name,) if other is None else (site.name, other), member, both)
