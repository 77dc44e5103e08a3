"""Windows of coupled unknowns that do not meet each other given those between them, and moves of all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._methods.sparse.blocks import SEVERAL, rows_met
from pyrolvm._methods.sparse.fields.coupled import Coupled

__all__ = ["Windows", "windows"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]

SHORTEST = 48
"""Unknowns of a window at least; and the bandwidth."""


@dataclass(frozen=True)
class Windows:
    """Every other window of the coupled unknowns.

    Attributes:
        window: the number of each unknown's, ``-1`` outside, shape ``(m,)``.
        part: of each part of the density the window that it meets, ``-1`` if none, ``-2`` if several, shape ``(P,)``.
    """

    window: Index
    part: Index

    @property
    def count(self) -> int:
        """How many windows."""
        return int(self.window.max()) + 1

    @property
    def inside(self) -> Flags:
        """Which unknowns are in a window."""
        return self.window >= 0

    @property
    def common(self) -> Flags:
        """Which parts meet several windows."""
        return self.part == SEVERAL

    @cached_property
    def of_unknowns(self) -> scipy.sparse.csr_array:
        """The sum over each window's unknowns, as a matrix ``(W, m)``."""
        return _sums(self.window, self.count)

    @cached_property
    def of_parts(self) -> scipy.sparse.csr_array:
        """The sum over each window's parts, as a matrix ``(W, P)``."""
        return _sums(self.part, self.count)

    def within(self, bands: Array) -> Array:
        """Matrices ``(D, m, b + 1)`` of the windows' unknowns alone, with ones on the diagonal for the others."""
        found, last = np.zeros_like(bands), np.full(bands.shape[-1], -1)
        wide = np.concatenate([self.window, last])
        for gap in range(bands.shape[-1]):
            same = (self.window >= 0) & (self.window == wide[gap : gap + len(self.window)])
            found[:, same, gap] = bands[:, same, gap]
        found[:, ~self.inside, 0] = 1.0
        return found


def windows(coupled: Coupled, seed: int) -> list[Windows]:
    """The windows with even numbers and those with odd ones, of all coupled unknowns."""
    pattern = coupled.pattern
    length = max(SHORTEST, pattern.bandwidth)
    number = np.minimum(np.arange(pattern.count) // length, max(pattern.count // length - 1, 0))
    found = []
    for parity in range(min(2, int(number.max()) + 1)):
        window = np.where(number % 2 == parity, number // 2, -1)
        found.append(Windows(window, _met(coupled, window, seed)))
    return found


def _met(coupled: Coupled, window: Index, seed: int) -> Index:
    """The window that each part of the density meets."""
    count = int(window.max()) + 1
    members = [np.flatnonzero(window == k) for k in range(count)]
    width = max(len(one) for one in members)
    places = np.stack([np.resize(one, width) for one in members])  # shorter ones have members twice
    return rows_met(
        coupled.pattern.local[places], lambda point: coupled.at(point[None])[0][0], coupled.weighted.size, seed
    )


def _sums(number: Index, count: int) -> scipy.sparse.csr_array:
    inside = np.flatnonzero(number >= 0)
    return scipy.sparse.csr_array((np.ones(len(inside)), (number[inside], inside)), shape=(count, len(number)))
