"""What a way of holding the curvatures of coupled unknowns can do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]


class Layout(Protocol):
    """Symmetric matrices of order m whose entries are zero but in some places, D at a time, in arrays ``(D, ...)``.

    Where all vectors ``(D, m)`` have the same matrix, an array of one will do.
    """

    @property
    def numbers(self) -> int:
        """How many numbers a matrix takes."""

    @property
    def figures(self) -> dict[str, int]:
        """What a result tells of it."""

    @property
    def moves(self) -> int:
        """How many moves of the unknowns tell of all entries."""

    def moved(self, nudge: Array) -> Array:
        """These moves, shape ``(moves, m)``, each unknown by its nudge."""

    def matrices(self, change: Array, nudge: Array) -> Array:
        """Minus Hessians, by what gradients lose ``(D, moves, m)``."""

    def entry(self, rows: Index, columns: Index) -> Index:
        """Where in a matrix entries are; -1 for those that are there once, as the other way round."""

    def filled(self, matrices: Array) -> Array:
        """Matrices with ones where no unknown is."""

    def diagonal(self, matrices: Array) -> Array:
        """Diagonals, shape ``(D, m)``."""

    def around(self, matrices: Array) -> Array:
        """The sum of the sizes of all other entries in each row, shape ``(D, m)``."""

    def added(self, matrices: Array, more: Array) -> Array:
        """Matrices with more on their diagonals, ``(D, m)``."""

    def factored(self, matrices: Array) -> tuple[Array, Flags]:
        """Lower Cholesky factors, and which matrices are positive definite; the unit matrix for others."""

    def log_determinants(self, factors: Array) -> Array:
        """Of the matrices that have these factors, shape ``(D,)``."""

    def solved(self, factors: Array, right: Array) -> Array:
        """Solutions of systems with factored matrices."""

    def forward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L y = right``."""

    def backward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L' y = right``: of standard normal numbers, draws whose precision the factor is of."""

    def product(self, matrices: Array, vectors: Array) -> Array:
        """Products of matrices and vectors."""

    def within(self, matrices: Array, window: Index) -> Array:
        """Matrices of the unknowns of each window alone, with ones on the diagonal for those outside, whose number is -1."""

    def windows(self) -> list[Index]:
        """Windows' numbers ``(m,)``, -1 outside: those of one list do not meet given the rest, and each unknown is in one."""

    def met(self, moved: Flags) -> Flags:
        """Which unknowns meet one of these, shape ``(m,)``."""
