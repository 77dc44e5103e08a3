"""Which unknowns meet which in a log density, found by moving some and looking whose slopes change.

Unknowns that meet many others are shared. The others are halved again and again: of each unknown it is known which groups of others it
meets, so that next only the halves of these are tried, and halves that no unknown can meet both are moved together. A series of ten
thousand unknowns takes some two hundred gradients, whatever it is written with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._methods.sparse.fields.band import Band
from pyrolvm._methods.sparse.fields.layout import Layout
from pyrolvm._program.density.dependence import differ

__all__ = ["FEWEST", "Pattern", "clustered", "find_pattern", "met_elsewhere", "shared_unknowns"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]
Slopes = Callable[[Array], Array]
"""Gradients ``(D, n)`` at points ``(D, n)``."""

SETS = 64
"""Sets that unknowns are first dealt into, to tell those that meet many."""

MANY = 0.5
"""The share of these sets that a shared unknown meets at least."""

FIRST = 16
"""Groups of the others to begin with."""

FEWEST = 40
"""Unknowns that are integrated out together at least."""

TRIALS, WIDEST = 600, 400
"""Points that one halving may take, and the bandwidth, at most: of a denser pattern there is no use."""

PLACES = 2
"""Points at which it is tried: at one a slope may be hidden by a zero."""

MOVE = 0.1, 0.4
"""How far unknowns are moved, on the real line."""


@dataclass(frozen=True)
class Pattern:
    """Unknowns of which most do not meet each other given the shared ones.

    Attributes:
        size: how many unknowns there are.
        shared: the places of those that are shared, shape ``(K,)``.
        local: of the others, in the order of the layout, shape ``(m,)``.
        layout: which of these meet.
    """

    size: int
    shared: Index
    local: Index
    layout: Layout

    @property
    def count(self) -> int:
        """How many unknowns are not shared."""
        return len(self.local)

    def assembled(self, shared: Array, local: Array) -> Array:
        """Vectors of all unknowns, shape ``(D, n)``."""
        points = np.empty((len(shared), self.size))
        points[:, self.shared] = shared
        points[:, self.local] = local
        return points


def shared_unknowns(slopes: Slopes, known: Flags, seed: int) -> Flags:
    """Which unknowns meet many others: almost whatever is moved, their slope changes.

    Args:
        slopes: gradients.
        known: those that are shared in any case, which are not moved.
        seed: of the points where it is tried.
    """
    trial = _Trial.of(slopes, len(known), seed)
    dealt = trial.random.permutation(np.flatnonzero(~known))
    sets = [dealt[start::SETS] for start in range(min(SETS, len(dealt)))]
    return known | (trial.changed(sets).mean(axis=0) > MANY if sets else known)


def find_pattern(slopes: Slopes, shared: Flags, seed: int) -> Pattern | None:
    """The pattern of a density, or ``None`` if too many of its unknowns meet.

    Args:
        slopes: its gradients.
        shared: which unknowns are shared.
        seed: of the points where it is tried.
    """
    size, shared = len(shared), shared.copy()
    trial = _Trial.of(slopes, size, seed)
    local = np.flatnonzero(~shared)
    if len(local) < FEWEST:
        return None
    meets = _pairs(trial, local)
    if meets is None:
        return None
    order = _order(meets)
    meets = scipy.sparse.csr_array(meets[order][:, order])
    rows, columns = (found.astype(np.int64) for found in scipy.sparse.tril(meets).nonzero())
    if (rows - columns).max() > WIDEST:
        return None
    layout = Band(len(local), rows, columns, _colours(meets))
    return Pattern(size, np.flatnonzero(shared), local[order], layout)


def clustered(slopes: Slopes, size: int, core: Index, seed: int) -> Index:
    """The cluster that each of some unknowns belongs to: those that meet, directly or by others of them, given all else.

    Args:
        slopes: gradients.
        size: how many unknowns there are.
        core: the places of some.
        seed: of the points where it is tried.
    """
    if not len(core):
        return core
    hit = _Trial.of(slopes, size, seed).changed([core[k : k + 1] for k in range(len(core))])[:, core]
    return np.asarray(scipy.sparse.csgraph.connected_components(scipy.sparse.csr_array(hit), directed=False)[1]).astype(
        np.int64
    )


@dataclass(frozen=True)
class _Trial:
    """Gradients, and what they were before anything was moved.

    Attributes:
        slopes: the gradients.
        places: where it is tried, shape ``(P, n)``.
        before: the gradients there.
        random: of the moves.
    """

    slopes: Slopes
    places: Array
    before: Array
    random: np.random.Generator

    @classmethod
    def of(cls, slopes: Slopes, size: int, seed: int) -> _Trial:
        """At points that a seed makes."""
        random = np.random.default_rng([seed, 81])
        places = 0.3 * random.normal(size=(PLACES, size))
        return cls(slopes, places, slopes(places), random)

    def changed(self, sets: list[Index]) -> Flags:
        """Whose slope changes as each of some sets of unknowns is moved, shape ``(S, n)``."""
        found = np.zeros((len(sets), self.places.shape[1]), dtype=bool)
        for place, before in zip(self.places, self.before, strict=True):
            there = np.repeat(place[None], len(sets), axis=0)
            for k, which in enumerate(sets):
                there[k, which] += self.random.uniform(*MOVE, len(which)) * self.random.choice([-1.0, 1.0], len(which))
            found |= differ(before, self.slopes(there))
        return found


def _pairs(trial: _Trial, local: Index) -> scipy.sparse.csr_array | None:
    """Which of some unknowns meet, as a symmetric matrix of zeros and ones with a full diagonal; ``None`` if too many do."""
    count = len(local)
    groups = min(FIRST, count)
    edges = np.arange(groups + 1) * count // groups
    hit = trial.changed([local[start:stop] for start, stop in pairwise(edges)])[:, local]
    meets = scipy.sparse.csr_array(hit.T)
    while groups < count:
        colour = _colours(meets)
        if 2 * (colour.max() + 1) > TRIALS:
            return None
        middle = (edges[:-1] + edges[1:] + 1) // 2
        halves = [(edges[:-1], middle), (middle, edges[1:])]
        kept = np.zeros((groups, 2), dtype=np.int64)  # a group of one has no second half
        kept[:, 0] = 1
        kept[:, 1] = edges[1:] > middle
        number = np.cumsum(kept.reshape(-1)).reshape(groups, 2) - 1
        pairs = [
            _halved(trial, local, meets, (colour, starts, stops), number[:, half])
            for half, (starts, stops) in enumerate(halves)
        ]
        edges = np.unique(np.concatenate([edges, middle]))
        groups = len(edges) - 1
        rows, columns = np.concatenate(pairs, axis=1)
        meets = scipy.sparse.csr_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, groups))
    return scipy.sparse.csr_array((meets + meets.T + scipy.sparse.eye_array(count, dtype=bool)).astype(bool))


def _halved(
    trial: _Trial, local: Index, meets: scipy.sparse.csr_array, halves: tuple[Index, Index, Index], number: Index
) -> Index:
    """Pairs of an unknown and a half of a group that it meets, shape ``(2, pairs)``."""
    colour, starts, stops = halves
    sets = []
    for one in range(colour.max() + 1):
        mine = [np.arange(starts[group], stops[group]) for group in np.flatnonzero(colour == one)]
        sets.append(local[np.concatenate(mine)])
    hit = trial.changed(sets)[:, local]
    rows, groups = meets.nonzero()
    true = hit[colour[groups], rows] & (stops[groups] > starts[groups])
    return np.stack([rows[true], number[groups[true]]]).astype(np.int64)


def _colours(meets: scipy.sparse.csr_array) -> Index:
    """A colour of each column, such that no row meets two of a colour."""
    numbers = scipy.sparse.csr_array(meets.astype(np.int32))
    apart = scipy.sparse.csr_array(numbers.T @ numbers)
    colour = np.full(apart.shape[0], -1, dtype=np.int64)
    starts, others = apart.indptr, apart.indices
    for node in range(len(colour)):
        taken = set(colour[others[starts[node] : starts[node + 1]]].tolist())
        free = 0
        while free in taken:
            free += 1
        colour[node] = free
    return colour


def _order(meets: scipy.sparse.csr_array) -> Index:
    """An order in which those that meet are near each other: as they are, if none is nearer."""
    rows, columns = meets.nonzero()
    other = np.asarray(scipy.sparse.csgraph.reverse_cuthill_mckee(meets.astype(np.int8), symmetric_mode=True)).astype(
        np.int64
    )
    place = np.empty(len(other), dtype=np.int64)
    place[other] = np.arange(len(other))
    plain, found = np.abs(rows - columns).max(), np.abs(place[rows] - place[columns]).max()
    return other if found < 0.8 * plain else np.arange(len(other))


def met_elsewhere(pattern: Pattern, slopes: Slopes, point: Array, seed: int) -> float:
    """By how much at most, of its size, the slope of an unknown changes when only those are moved that it should not meet.

    Args:
        pattern: what should meet.
        slopes: the gradients.
        point: where to try, shape ``(n,)``.
        seed: which are moved.
    """
    random = np.random.default_rng([seed, 82])
    before, worst = slopes(point[None])[0], 0.0
    count = pattern.count
    for share, window in product((0.5, 0.05, 0.01), pattern.layout.windows()):
        moved = (random.random(count) < share) & (window >= 0)
        there = point.copy()
        there[pattern.local[moved]] += random.uniform(*MOVE, int(moved.sum()))
        still = pattern.local[~pattern.layout.met(moved)]
        gap = np.abs(slopes(there[None])[0] - before)[still]
        worst = max(worst, float(np.max(gap / (1 + np.abs(before[still])), initial=0.0)))
    return worst
