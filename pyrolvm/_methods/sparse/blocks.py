"""Unknowns in blocks that are independent given the rest, and blocks around these, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._program.density.dependence import MOVE, NONE, SEVERAL, Parts, Places, changed, met_by, places_of
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import Site

__all__ = ["Blocks", "find_blocks", "moved_elsewhere", "rows_of"]

FEWEST = 8
"""Rows of a site from which on it is worth integrating out."""

WIDEST = 12
"""Unknowns of a block at most: what is integrated out of it grows with them."""

INSIDE = "blocks {}"
"""The names of blocks as parts of what is around them: the innermost are blocks 0."""

Index = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """Unknowns in blocks that are independent of each other given those that are shared.

    Parts of the density are in groups: one for each block, then one for each block of the blocks around them, then one for what depends
    on neither.

    Attributes:
        size: how many unknowns there are.
        shared: the places of those that are not in a block, shape ``(K,)``.
        places: those of the blocks' unknowns, shape ``(C, W)``; ``size`` where a block has fewer than W.
        parts: the group of each part of the density, by name of the part.
        sites: the sites whose rows are in blocks.
        parent: the group, counted after the blocks, that each block is in when it is integrated out, shape ``(C,)``.
        around: blocks of the shared unknowns that are independent of each other once these are integrated out, if there are any.
    """

    size: int
    shared: Index
    places: Index
    parts: Mapping[str, Index]
    sites: tuple[str, ...]
    parent: Index
    around: Blocks | None = None

    @property
    def count(self) -> int:
        """How many blocks."""
        return len(self.places)

    @property
    def width(self) -> int:
        """How many unknowns the widest block has."""
        return self.places.shape[1]

    @property
    def rest(self) -> int:
        """How many groups of parts there are besides the blocks."""
        return 1 if self.around is None else self.around.count + self.around.rest

    @cached_property
    def local(self) -> NDArray[np.bool_]:
        """Which entries of ``places`` are unknowns."""
        return self.places < self.size

    @property
    def layers(self) -> tuple[Blocks, ...]:
        """These blocks, those around them, and so on."""
        return (self,) if self.around is None else (self, *self.around.layers)


@dataclass(frozen=True)
class _Rows:
    """A site's unknowns by row.

    Attributes:
        site: the site.
        places: of the unknowns of each row, shape ``(R, width)``.
        meets: the row that each part depends on, ``NONE`` or ``SEVERAL``, by name of the part.
    """

    site: Site
    places: Index
    meets: dict[str, Index]

    @property
    def apart(self) -> bool:
        """Whether no part depends on several rows."""
        return not any((which == SEVERAL).any() for which in self.meets.values())

    @property
    def together(self) -> _Rows:
        """All rows as one."""
        meets = {name: np.where(which == NONE, NONE, 0) for name, which in self.meets.items()}
        return _Rows(self.site, self.places.reshape(1, -1), meets)

    def meet(self, other: _Rows) -> bool:
        """Whether a part depends on both."""
        return any(bool(((which != NONE) & (other.meets[name] != NONE)).any()) for name, which in self.meets.items())


def find_blocks(problem: Problem, parts: Parts, *, seed: int = 0, short: bool = False) -> Blocks:
    """The blocks of a problem's unknowns: rows of as many sites as can be taken together, those with the most rows first.

    Args:
        problem: the problem.
        parts: the log density in parts, by name, at a flat vector of unknowns.
        seed: of the points where dependence is tried.
        short: whether sites of few rows are taken as well, whose priors have unknowns: a scale, say, without which they have no mode.
    """
    random = np.random.default_rng([seed, 71])
    places = places_of(parts, problem.unconstrained_size, random)
    candidates = [
        rows
        for rows in _candidates(problem)
        if len(rows.places) >= FEWEST or (short and _has_hyperpriors(rows, parts, places, random))
    ]
    tried = [replace(rows, meets=met_by(rows.places, parts, places, random)) for rows in candidates]
    tried.sort(key=lambda rows: -len(rows.places))
    return _layers(tried, problem.unconstrained_size, {name: np.shape(part) for name, part in places[0][1].items()})


def _has_hyperpriors(rows: _Rows, parts: Parts, places: Places, random: np.random.Generator) -> bool:
    """Whether the density of a site's own values changes with unknowns that are not its own."""
    own = f"density/{rows.site.name}"
    for point, before in places:
        others = np.setdiff1d(np.arange(len(point)), rows.places)
        if own in before and changed(parts, point, before, others, random)[own].any():
            return True
    return False


def _layers(candidates: list[_Rows], size: int, shapes: Mapping[str, tuple[int, ...]], depth: int = 0) -> Blocks:
    """Blocks of some sites' rows, and the blocks around them of others'."""
    inside = INSIDE.format(depth)
    chosen, later = list[_Rows](), list[_Rows]()
    found = _joined([], size, shapes)
    # A few rows that blocks couple are one block around these.
    candidates = [rows if rows.apart or len(rows.places) >= FEWEST else rows.together for rows in candidates]
    for rows in candidates:
        if not rows.apart:
            continue
        # Rows that meet a larger site's, which is to be around these blocks, go around that: integrated out first, they couple it.
        joined = None if any(map(rows.meet, later)) else _joined([*chosen, rows], size, shapes)
        if joined is None:
            later.append(rows)
        else:
            chosen, found = [*chosen, rows], joined
    assert found is not None  # as of no sites at all
    left = [rows for rows in candidates if not any(rows is one for one in chosen)]
    if not chosen or not left:
        return found
    # A block that is integrated out is a part of what is left: of each site, the row that its parts meet, or several.
    outer = [_Rows(rows.site, rows.places, _met(rows, found, inside)) for rows in left]
    around = _layers(outer, size, {inside: (found.count,), **shapes}, depth + 1)
    if not around.count:
        return found
    around = _without(around, found.places)
    parts = {
        name: np.where(block < found.count, block, found.count + around.parts[name])
        for name, block in found.parts.items()
    }
    return replace(found, parts=parts, parent=around.parts[inside], around=around)


def _without(blocks: Blocks, places: Index) -> Blocks:
    """The blocks of unknowns that are left when others are integrated out."""
    around = None if blocks.around is None else _without(blocks.around, places)
    return replace(blocks, shared=np.setdiff1d(blocks.shared, places), around=around)


def _met(rows: _Rows, found: Blocks, inside: str) -> dict[str, Index]:
    """The row of a site that each block meets, by the name of blocks as parts, and each part that is in no block."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for name, which in rows.meets.items():
        if name in found.parts:
            block = np.ravel(found.parts[name])
            mine = (block < found.count) & (which != NONE)
            pairs.append(np.unique(np.stack([block[mine], which[mine]], axis=1), axis=0))
    both = np.unique(np.concatenate(pairs), axis=0)
    inner = np.full(found.count, NONE, dtype=np.int64)
    inner[both[:, 0]] = both[:, 1]
    again = np.bincount(both[:, 0], minlength=found.count) > 1
    inner[again] = SEVERAL
    outer = {
        name: np.where(np.ravel(found.parts[name]) < found.count, NONE, which)
        for name, which in rows.meets.items()
        if name in found.parts
    }
    return {inside: inner, **outer}


def moved_elsewhere(blocks: Blocks, totals: Callable[[Array], Array], point: Array, seed: int) -> float:
    """By how much at most, of its size, the density of a block changes when others are moved: zero if blocks are blocks.

    Args:
        blocks: the innermost blocks.
        totals: the log density of each group at a vector of unknowns, shape ``(C + R,)``.
        point: where to try.
        seed: which half of each layer's blocks is moved.
    """
    random = np.random.default_rng([seed, 72])
    before, worst = totals(point), 0.0
    group = np.arange(blocks.count + blocks.rest)  # of the layer, by group of the innermost
    for layer in blocks.layers:
        moved = random.random(layer.count) < 0.5
        there = np.append(point, 0.0)
        which = layer.places[moved].reshape(-1)
        there[which] += random.uniform(*MOVE, len(which))
        still = np.append(~moved, np.ones(layer.rest, dtype=bool))[group]
        gap = np.abs(before - totals(there[:-1]))[still] / (1 + np.abs(before[still]))
        worst = max(worst, float(np.max(gap, initial=0.0)))
        group = np.append(layer.parent, np.arange(layer.rest))[group]
    return worst


def _candidates(problem: Problem) -> list[_Rows]:
    """The sites whose unknowns have rows: those of their plates, or without plates their single values."""
    found, start = [], 0
    for site in problem.continuous:
        numel = site.unconstrained_numel
        rows = int(np.prod(site.batch_shape, dtype=int))
        rows = rows if rows > 1 else numel
        if rows and numel % rows == 0:
            found.append(_Rows(site, np.arange(start, start + numel).reshape(rows, -1), {}))
        start += numel
    return found


def rows_of(problem: Problem) -> list[Index]:
    """The places of each site's unknowns by row, shapes ``(R, width)``."""
    return [rows.places for rows in _candidates(problem)]


def _joined(chosen: list[_Rows], size: int, shapes: Mapping[str, tuple[int, ...]]) -> Blocks | None:
    """Blocks of the rows of some sites; ``None`` if two rows of one site meet in a block, or it is too wide."""
    widths = [rows.places.shape[1] for rows in chosen]
    if max(widths, default=0) > WIDEST:
        return None
    starts = np.cumsum([0, *(len(rows.places) for rows in chosen)])
    edges: list[Index] = [np.zeros((0, 2), dtype=np.int64)]
    for name in shapes:
        nodes = [
            np.where(rows.meets[name] >= 0, rows.meets[name] + start, -1)
            for rows, start in zip(chosen, starts, strict=False)
        ]
        for k in range(1, len(nodes)):  # each with the nearest site before it that the part depends on
            last = np.full_like(nodes[k], -1)
            for earlier in nodes[:k]:
                last = np.where(earlier >= 0, earlier, last)
            both = (last >= 0) & (nodes[k] >= 0)
            edges.append(np.unique(np.stack([last[both], nodes[k][both]], axis=1), axis=0))
    label, count = _components(np.concatenate(edges), int(starts[-1]))
    places = np.full((count, sum(widths)), size, dtype=np.int64)
    column = 0
    for rows, start, width in zip(chosen, starts, widths, strict=False):
        mine = label[start : start + len(rows.places)]
        if len(np.unique(mine)) < len(mine):
            return None
        places[mine, column : column + width] = rows.places
        column += width
    widest = int((places < size).sum(axis=1).max(initial=0))
    if widest > WIDEST:
        return None
    places = np.sort(places, axis=1)[:, :widest]  # a block has none of the sites that it does not meet
    which: dict[str, Index] = {}
    for name, shape in shapes.items():
        block = np.full(int(np.prod(shape, dtype=int)), count, dtype=np.int64)
        for rows, start in zip(chosen, starts, strict=False):
            met = rows.meets[name] >= 0
            block[met] = label[start + rows.meets[name][met]]
        which[name] = block.reshape(shape)
    inside = np.zeros(size + 1, dtype=bool)
    inside[places.reshape(-1)] = True
    sites = tuple(rows.site.name for rows in chosen)
    return Blocks(size, np.flatnonzero(~inside[:size]), places, which, sites, np.zeros(count, dtype=np.int64))


def _components(pairs: Index, total: int) -> tuple[Index, int]:
    """The connected component of each of ``total`` nodes, and how many there are."""
    if not total:
        return np.zeros(0, dtype=np.int64), 0
    graph = scipy.sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    count, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return label.astype(np.int64), int(count)
