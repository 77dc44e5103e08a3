"""Symmetric band matrices, many at a time, by LAPACK.

A matrix of order m and bandwidth b is an array ``(m, b + 1)``, whose entry ``(j, k)`` is that of row ``j + k`` and column ``j``: the
lower band, column by column, as LAPACK has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

__all__ = ["Band", "backward", "factored", "forward", "log_determinants", "product", "solved"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]

SHORTEST = 48
"""Unknowns of a window at least; and the bandwidth."""


@dataclass(frozen=True)
class Band:
    """The layout of bands; see :class:`pyrolvm._methods.sparse.fields.layout.Layout`.

    Attributes:
        count: the number m of unknowns.
        rows: the numbers of pairs that meet, the larger one, each with itself among them.
        columns: the smaller ones.
        colour: of each unknown, such that none meets two of a colour, shape ``(m,)``.
    """

    count: int
    rows: Index
    columns: Index
    colour: Index

    @cached_property
    def bandwidth(self) -> int:
        """How far apart two that meet are at most."""
        return int((self.rows - self.columns).max())

    @cached_property
    def offsets(self) -> list[int]:
        """How far apart two that meet are."""
        return [int(gap) for gap in np.unique(self.rows - self.columns)]

    @property
    def figures(self) -> dict[str, int]:
        """What a result tells of it."""
        return {"bandwidth": self.bandwidth}

    @property
    def numbers(self) -> int:
        """How many numbers a matrix takes."""
        return self.count * (self.bandwidth + 1)

    @property
    def moves(self) -> int:
        """How many moves of the unknowns tell of all entries: one for each colour."""
        return int(self.colour.max()) + 1

    def moved(self, nudge: Array) -> Array:
        """These moves, shape ``(moves, m)``, each unknown by its nudge."""
        found = np.zeros((self.moves, self.count))
        found[self.colour, np.arange(self.count)] = nudge
        return found

    def matrices(self, change: Array, nudge: Array) -> Array:
        """Minus Hessians, by what gradients lose ``(D, moves, m)``."""
        rows, columns = self.rows, self.columns
        one = change[:, self.colour[columns], rows] / nudge[columns]
        other = change[:, self.colour[rows], columns] / nudge[rows]
        bands = np.zeros((len(change), self.count, self.bandwidth + 1))
        bands[:, columns, rows - columns] = (one + other) / 2
        return bands

    def entry(self, rows: Index, columns: Index) -> Index:
        """Where in a matrix entries are; -1 for those above the diagonal, which are there once."""
        return np.where(rows >= columns, columns * (self.bandwidth + 1) + rows - columns, -1)

    def filled(self, matrices: Array) -> Array:
        """Matrices as they are: no place is without an unknown."""
        return matrices

    def diagonal(self, matrices: Array) -> Array:
        """Diagonals, shape ``(D, m)``."""
        return matrices[..., 0]

    def around(self, matrices: Array) -> Array:
        """The sum of the sizes of all other entries in each row, shape ``(D, m)``."""
        size = np.abs(matrices)
        found = size[..., 1:].sum(axis=-1)
        for gap in range(1, min(matrices.shape[-1], self.count)):
            found[:, gap:] += size[:, :-gap, gap]
        return np.asarray(found)

    def added(self, matrices: Array, more: Array) -> Array:
        """Matrices with more on their diagonals, ``(D, m)``."""
        found = matrices.copy()
        found[..., 0] += more
        return found

    def factored(self, matrices: Array) -> tuple[Array, Flags]:
        """Lower Cholesky factors, and which matrices are positive definite; the unit matrix for others."""
        return factored(matrices)

    def log_determinants(self, factors: Array) -> Array:
        """Of the matrices that have these factors, shape ``(D,)``."""
        return log_determinants(factors)

    def solved(self, factors: Array, right: Array) -> Array:
        """Solutions of systems with factored matrices."""
        return solved(factors, right)

    def forward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L y = right``."""
        return forward(factors, right)

    def backward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L' y = right``."""
        return backward(factors, right)

    def product(self, matrices: Array, vectors: Array) -> Array:
        """Products of matrices and vectors."""
        return product(matrices, vectors, self.offsets)

    def within(self, matrices: Array, window: Index) -> Array:
        """Matrices of the unknowns of each window alone, with ones on the diagonal for those outside, whose number is -1."""
        found, last = np.zeros_like(matrices), np.full(matrices.shape[-1], -1)
        wide = np.concatenate([window, last])
        for gap in range(matrices.shape[-1]):
            same = (window >= 0) & (window == wide[gap : gap + len(window)])
            found[:, same, gap] = matrices[:, same, gap]
        found[:, window < 0, 0] = 1.0
        return found

    def windows(self) -> list[Index]:
        """The windows with even numbers and those with odd ones, each of unknowns side by side, no shorter than the bandwidth."""
        length = max(SHORTEST, self.bandwidth)
        number = np.minimum(np.arange(self.count) // length, max(self.count // length - 1, 0))
        return [np.where(number % 2 == parity, number // 2, -1) for parity in range(min(2, int(number.max()) + 1))]

    def met(self, moved: Flags) -> Flags:
        """Which unknowns meet one of these, shape ``(m,)``."""
        pairs = (np.ones(len(self.rows)), (self.rows, self.columns))
        lower = scipy.sparse.csr_array(pairs, shape=(self.count, self.count))
        return np.asarray((lower @ moved + lower.T @ moved) > 0)


def factored(bands: Array) -> tuple[Array, Flags]:
    """Lower Cholesky factors of matrices ``(D, m, b + 1)``, and which of these are positive definite; the unit matrix for others."""
    factors, good = np.zeros_like(bands), np.zeros(len(bands), dtype=bool)
    factors[..., 0] = 1.0
    for k, band in enumerate(bands):
        if np.isfinite(band).all():
            found, info = scipy.linalg.lapack.dpbtrf(band.T, lower=1)
            good[k] = info == 0
            if good[k]:
                factors[k] = found.T
    return factors, good


def log_determinants(factors: Array) -> Array:
    """Of the matrices that have these factors, shape ``(D,)``."""
    return np.asarray(2 * np.log(factors[..., 0]).sum(axis=-1))


def solved(factors: Array, right: Array) -> Array:
    """Solutions of systems with factored matrices and right sides ``(D, m)``."""
    return _each(lambda factor, side: scipy.linalg.lapack.dpbtrs(factor.T, side, lower=1)[0], factors, right)


def forward(factors: Array, right: Array) -> Array:
    """Solutions of ``L y = right``, shape ``(D, m)``."""
    return _each(
        lambda factor, side: scipy.linalg.lapack.dtbtrs(factor.T, side, uplo="L", trans="N")[0], factors, right
    )


def backward(factors: Array, right: Array) -> Array:
    """Solutions of ``L' y = right``, shape ``(D, m)``: of standard normal numbers, draws whose precision the factor is of."""
    return _each(
        lambda factor, side: scipy.linalg.lapack.dtbtrs(factor.T, side, uplo="L", trans="T")[0], factors, right
    )


def product(bands: Array, vectors: Array, offsets: Sequence[int]) -> Array:
    """Products of matrices ``(D, m, b + 1)`` and vectors ``(D, m)``.

    Args:
        bands: the matrices.
        vectors: the vectors.
        offsets: the diagonals that are not zero, the main one among them.
    """
    found = bands[..., 0] * vectors
    for gap in offsets:
        if gap:
            below = bands[:, :-gap, gap]
            found[:, gap:] += below * vectors[:, :-gap]
            found[:, :-gap] += below * vectors[:, gap:]
    return found


def _each(solve: Callable[[Array, Array], Array], factors: Array, right: Array) -> Array:
    found = np.empty_like(right)
    each = np.broadcast_to(factors, (len(right), *factors.shape[1:]))
    for k, (factor, side) in enumerate(zip(each, right, strict=True)):
        found[k] = solve(factor, side).reshape(-1)
    return found
