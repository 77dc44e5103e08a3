"""Windows of coupled unknowns that do not meet each other given those between them, and moves of all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._program.density.dependence import SEVERAL, rows_met

__all__ = ["Windows", "windows"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """Windows that do not meet each other given the rest.

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


def windows(coupled: Coupled, seed: int) -> list[Windows]:
    """The windows of all coupled unknowns, in lists of some that do not meet each other given the rest."""
    return [Windows(window, _met(coupled, window, seed)) for window in coupled.pattern.layout.windows()]


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
