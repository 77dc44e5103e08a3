"""Which rows of unknowns parts of a log density depend on, found by trying.

Parts are evaluated at a point and again with some rows moved. With the rows numbered in binary, two evaluations for each digit (rows
that have it, rows that have not) tell of every part at once which row it depends on: the digits that moved it. A part that both of a
digit's evaluations have moved depends on several rows. So the pattern of a million rows takes forty evaluations, and it is that of the
program as it runs, whatever it is written with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOVE", "NONE", "SEVERAL", "Parts", "Places", "changed", "differ", "met_by", "places_of", "rows_met"]

MOVE = 0.1, 0.4
"""How far unknowns are moved, on the real line: far enough to change every digit, near enough for densities to be finite."""

PLACES = 2
"""Points at which dependence is tried: at one it may be hidden by a bound or a zero."""

ROUNDING = 1e-11
"""By how much, of its size, a number changes by rounding."""

NONE, SEVERAL = -1, -2
"""In place of the number of the row that a part depends on."""

ALL = ""
"""The name of parts that have none."""

Index = NDArray[np.int64]
Array = NDArray[np.float64]
Parts = Callable[[Array], dict[str, Array]]
Places = list[tuple[Array, dict[str, Array]]]


def places_of(parts: Parts, size: int, random: np.random.Generator) -> Places:
    """Points at which dependence is tried, with the parts there."""
    points = [0.3 * random.normal(size=size) for _ in range(PLACES)]
    return [(point, parts(point)) for point in points]


def rows_met(rows: Index, parts: Callable[[Array], Array], size: int, seed: int) -> Index:
    """The row of unknowns that each part of a density depends on, ``NONE`` or ``SEVERAL``.

    Args:
        rows: the places of each row's unknowns, shape ``(R, width)``; some may be there twice.
        parts: the parts at a vector of unknowns.
        size: how many unknowns there are.
        seed: of the points where dependence is tried.
    """
    random = np.random.default_rng([seed, 77])

    def named(point: Array) -> dict[str, Array]:
        return {ALL: parts(point)}

    return met_by(rows, named, places_of(named, size, random), random)[ALL]


def met_by(rows: Index, parts: Parts, places: Places, random: np.random.Generator) -> dict[str, Index]:
    """The row of unknowns that each part depends on, ``NONE`` or ``SEVERAL``, flat, by name.

    Args:
        rows: the places of each row's unknowns, shape ``(R, width)``; some may be there twice.
        parts: the parts at a vector of unknowns, by name.
        places: points at which it is tried, with the parts there.
        random: of the moves.
    """
    count = len(rows)
    digits = max(int(count - 1).bit_length(), 1)
    number = np.arange(count)
    # By part, the digits that rows which have them move it by, and those that rows which have them not do; of all points together,
    # since a part may depend on one row here and on another there.
    seen = {name: np.zeros((2, np.size(part)), dtype=np.int64) for name, part in places[0][1].items()}
    for point, before in places:
        for digit in range(digits):
            half = (number >> digit) & 1 == 1
            one, other = (changed(parts, point, before, rows[which], random) for which in (half, ~half))
            for name, numbers in seen.items():
                numbers |= np.where(np.stack([one[name], other[name]]), 1 << digit, 0)
    every = (1 << digits) - 1
    return {
        name: np.where(has ^ lacks == every, has, np.where(has | lacks == 0, NONE, SEVERAL))
        for name, (has, lacks) in seen.items()
    }


def changed(
    parts: Parts,
    point: Array,
    before: Mapping[str, Array],
    places: Index,
    random: np.random.Generator,
) -> dict[str, NDArray[np.bool_]]:
    """Which parts change, flat, by name, when the unknowns at some places are moved.

    Args:
        parts: the parts at a vector of unknowns, by name.
        point: from where they are moved.
        before: the parts there.
        places: which unknowns; some may be there twice.
        random: of the moves.
    """
    there = point.copy()
    which = np.unique(places)
    there[which] += random.uniform(*MOVE, len(which)) * random.choice([-1.0, 1.0], len(which))
    after = parts(there)
    return {name: differ(np.ravel(part), np.ravel(after[name])) for name, part in before.items()}


def differ(before: Array, after: Array) -> NDArray[np.bool_]:
    """Which numbers are not the same but for rounding: sums of differences, say, are not quite what they were."""
    with np.errstate(invalid="ignore"):
        close = np.abs(after - before) <= ROUNDING * (1 + np.abs(before))
    return ~(close | (before == after) | (np.isnan(before) & np.isnan(after)))
