"""Hessians of densities whose parts each meet few unknowns, by second differences of all parts at once.

A person's answer to a question meets that person and that question. When all persons are moved, all questions, and both, what each
part changes by tells its own curvature in its own two unknowns: six evaluations, however many persons and questions there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

from pyrolvm._methods.sparse.fields.layout import Layout
from pyrolvm._program.density.dependence import SEVERAL, rows_met

__all__ = ["Pairs"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Parts = Callable[[Array], Array]
"""Parts ``(D, P)`` of a log density at points ``(D, m)`` of its coupled unknowns."""


@dataclass(frozen=True)
class Pairs:
    """Which unknowns parts meet: at most one in each of R roles.

    Attributes:
        roles: the unknown of each part in each role, shape ``(R, P)``; -1 for none.
        pairs: pairs of roles, some parts meeting unknowns in both.
        sums: for each role alone, then for each pair, the entries of a matrix that parts belong to, ``(numbers, P)``.
    """

    roles: Index
    pairs: list[tuple[int, int]]
    sums: list[scipy.sparse.csr_array]

    @classmethod
    def of(cls, parts: Parts, rows: list[tuple[Index, Index]], layout: Layout, size: int, seed: int) -> Pairs | None:
        """The roles of unknowns; ``None`` if a part meets several rows of one site, or gradients alone tell as much.

        Args:
            parts: the parts of the density, at all unknowns ``(D, n)``.
            rows: of each site the numbers of its rows' unknowns among the m, and their places among the n, both ``(R, width)``.
            layout: where matrices have entries.
            size: the number n.
            seed: of the points where it is tried.
        """
        roles: list[Index] = []
        for number, places in rows:
            met = rows_met(places, lambda point: parts(point[None])[0], size, seed)
            if (met == SEVERAL).any():
                return None
            roles += [np.where(met >= 0, number[np.maximum(met, 0), column], -1) for column in range(number.shape[1])]
        found = np.stack(roles)
        both = [
            (one, two)
            for one, two in combinations(range(len(found)), 2)
            if ((found[one] >= 0) & (found[two] >= 0)).any()
        ]
        if 1 + 2 * len(found) + len(both) >= 1 + layout.moves:
            return None
        return cls(found, both, [_summed(layout, found[one], found[two]) for one, two in cls._all(len(found), both)])

    @staticmethod
    def _all(roles: int, both: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [*((role, role) for role in range(roles)), *both]

    @property
    def moves(self) -> int:
        """How many moves of the unknowns tell of all entries."""
        return 2 * len(self.roles) + len(self.pairs)

    def moved(self, nudge: Array) -> Array:
        """These moves, shape ``(moves, m)``: each role's unknowns by their nudges and back, and those of each pair."""
        alone = np.zeros((len(self.roles), len(nudge)))
        for role, unknown in enumerate(self.roles):
            which = unknown[unknown >= 0]
            alone[role, which] = nudge[which]
        pairs = [alone[one] + alone[two] for one, two in self.pairs]
        return np.concatenate([alone, -alone, np.array(pairs).reshape(len(pairs), len(nudge))])

    def matrices(self, before: Array, after: Array, nudge: Array) -> Array:
        """Minus Hessians, by parts ``(D, P)``, and parts where they have moved ``(D, moves, P)``."""
        roles = len(self.roles)
        up, down = after[:, :roles] - before[:, None], after[:, roles : 2 * roles] - before[:, None]
        units = np.where(self.roles >= 0, nudge[self.roles], 1.0)
        total = np.zeros((self.sums[0].shape[0], len(before)))
        for role in range(roles):
            total += self.sums[role] @ (-(up[:, role] + down[:, role]) / units[role] ** 2).T
        for k, (one, two) in enumerate(self.pairs):
            mixed = after[:, 2 * roles + k] - before - up[:, one] - up[:, two]
            total += self.sums[roles + k] @ (-mixed / (units[one] * units[two])).T
        return total.T


def _summed(layout: Layout, one: Index, two: Index) -> scipy.sparse.csr_array:
    """Which entries of a matrix parts belong to, by the two unknowns that each meets."""
    part = np.flatnonzero((one >= 0) & (two >= 0))
    ends = (
        [(one[part], two[part])]
        if one is two or (one == two).all()
        else [(one[part], two[part]), (two[part], one[part])]
    )
    entries = [(layout.entry(*pair), part) for pair in ends]
    entry, column = (np.concatenate([pair[k] for pair in entries]) for k in (0, 1))
    real = entry >= 0
    numbers = np.ones(int(real.sum())), (entry[real], column[real])
    return scipy.sparse.csr_array(numbers, shape=(layout.numbers, len(one)))
