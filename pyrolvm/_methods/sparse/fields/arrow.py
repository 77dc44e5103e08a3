"""Symmetric matrices that are zero but within small blocks and in the rows of a core that meets all: arrows.

Persons who answer the same questions meet the questions, not each other. Blocks are eliminated first, which leaves a dense matrix of
the core's size. A matrix is one array of its blocks ``(C, W, W)``, their columns of the core ``(C, W, k)`` and the core ``(k, k)``, in
this order; a factor likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

__all__ = ["Arrow"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Arrow:
    """The layout of arrows; see :class:`pyrolvm._methods.sparse.fields.layout.Layout`.

    Attributes:
        count: the number m of unknowns, those of the core last.
        places: the numbers of the blocks' unknowns, shape ``(C, W)``; m where a block has fewer than W.
        cluster: of each unknown of the core, the number of those that it meets given the blocks, shape ``(k,)``.
    """

    count: int
    places: Index
    cluster: Index

    @property
    def figures(self) -> dict[str, int]:
        """What a result tells of it."""
        return {"members": len(self.places), "core": len(self.cluster)}

    @property
    def numbers(self) -> int:
        """How many numbers a matrix takes."""
        return sum(self._sizes)

    @property
    def moves(self) -> int:
        """How many moves of the unknowns tell of all entries: the first of all blocks, the second ones, and each of the core alone."""
        return self.places.shape[1] + len(self.cluster)

    @cached_property
    def _sizes(self) -> tuple[int, int, int]:
        (blocks, width), core = self.places.shape, len(self.cluster)
        return blocks * width * width, blocks * width * core, core * core

    @property
    def _blocks(self) -> int:
        """How many unknowns are in blocks."""
        return self.count - len(self.cluster)

    @cached_property
    def _ends(self) -> tuple[Index, Index]:
        """The row and the column of each entry of a matrix; m for unknowns that blocks have not."""
        rows = [np.broadcast_to(self.places[:, :, None], (*self.places.shape, self.places.shape[1])).reshape(-1)]
        columns = [np.broadcast_to(self.places[:, None], (*self.places.shape, self.places.shape[1])).reshape(-1)]
        core = np.arange(self._blocks, self.count)
        for these in (self.places.reshape(-1), core):
            rows.append(np.repeat(these, len(core)))
            columns.append(np.tile(core, len(these)))
        return np.concatenate(rows), np.concatenate(columns)

    @cached_property
    def _places(self) -> tuple[Index, Index]:
        """The block and the column of each of the blocks' unknowns."""
        block, column = np.full(self.count + 1, -1), np.full(self.count + 1, -1)
        block[self.places] = np.arange(len(self.places))[:, None]
        column[self.places] = np.arange(self.places.shape[1])
        return block[: self.count], column[: self.count]

    def entry(self, rows: Index, columns: Index) -> Index:
        """Where in a matrix entries are; -1 for those of the core's rows and the blocks' columns, which are there once."""
        (_, width), core = self.places.shape, len(self.cluster)
        one, two, _ = self._sizes
        block, column = self._places
        row = block[rows] * width + column[rows]
        inside, first, last = row * width + column[columns], rows - self._blocks, columns - self._blocks
        across = np.where(last >= 0, one + row * core + last, inside)
        return np.where(first < 0, across, np.where(last >= 0, one + two + first * core + last, -1))

    @cached_property
    def _main(self) -> Index:
        """Where in a matrix the diagonal is, in the order of the unknowns."""
        rows, columns = self._ends
        found = np.flatnonzero((rows == columns) & (rows < self.count))
        return found[np.argsort(rows[found])]

    @cached_property
    def _empty(self) -> Index:
        """The diagonal of unknowns that blocks have not."""
        width = self.places.shape[1]
        block, column = np.nonzero(self.places == self.count)
        return np.asarray((block * width + column) * width + column)

    def _parts(self, matrices: Array) -> tuple[Array, Array, Array]:
        (blocks, width), core, count = self.places.shape, len(self.cluster), len(matrices)
        one, two, _ = self._sizes
        return (
            matrices[:, :one].reshape(count, blocks, width, width),
            matrices[:, one : one + two].reshape(count, blocks, width, core),
            matrices[:, one + two :].reshape(count, core, core),
        )

    @staticmethod
    def _joined(inside: Array, across: Array, core: Array) -> Array:
        return np.concatenate([part.reshape(len(part), -1) for part in (inside, across, core)], axis=1)

    def _split(self, vectors: Array) -> tuple[Array, Array]:
        """The blocks' ``(D, C, W)``, zero where there is none, and the core's ``(D, k)``."""
        wide = np.concatenate([vectors, np.zeros((len(vectors), 1))], axis=1)
        return wide[:, self.places], vectors[:, self._blocks :]

    def _whole(self, inside: Array, core: Array) -> Array:
        found = np.empty((len(core), self.count + 1))
        found[:, self.places.reshape(-1)] = inside.reshape(len(core), -1)
        found[:, self._blocks : self.count] = core
        return found[:, : self.count]

    def moved(self, nudge: Array) -> Array:
        """Moves, shape ``(moves, m)``."""
        width = self.places.shape[1]
        found = np.zeros((self.moves, self.count + 1))
        for column in range(width):
            found[column, self.places[:, column]] = 1.0
        core = np.arange(len(self.cluster))
        found[width + core, self._blocks + core] = 1.0
        return found[:, : self.count] * nudge

    def matrices(self, change: Array, nudge: Array) -> Array:
        """Minus Hessians, by what gradients lose ``(D, moves, m)``."""
        width = self.places.shape[1]
        nudges = np.append(nudge, 1.0)
        wide = np.concatenate([change, np.zeros((*change.shape[:2], 1))], axis=2)
        inside = np.moveaxis(wide[:, :width][:, :, self.places], 1, -1) / nudges[self.places][:, None, :]
        columns = wide[:, width:] / nudge[self._blocks :, None]
        across = np.moveaxis(columns[:, :, self.places], 1, -1)
        core = columns[:, :, self._blocks : self.count]
        return self.filled(self._joined(_even(inside), across, _even(core)))

    def filled(self, matrices: Array) -> Array:
        """Matrices with ones on the diagonal for unknowns that blocks have not."""
        matrices[:, self._empty] = 1.0
        return matrices

    def diagonal(self, matrices: Array) -> Array:
        """Diagonals, shape ``(D, m)``."""
        return matrices[:, self._main]

    def around(self, matrices: Array) -> Array:
        """The sum of the sizes of all other entries in each row, shape ``(D, m)``."""
        inside, across, core = (np.abs(part) for part in self._parts(matrices))
        whole = self._whole(inside.sum(-1) + across.sum(-1), core.sum(-1) + across.sum((1, 2)))
        return np.asarray(whole - np.abs(self.diagonal(matrices)))

    def added(self, matrices: Array, more: Array) -> Array:
        """Matrices with more on their diagonals."""
        found = matrices.copy()
        found[:, self._main] += more
        return found

    def factored(self, matrices: Array) -> tuple[Array, Flags]:
        """Lower Cholesky factors, and which matrices are positive definite; the unit matrix for others."""
        factors, good = np.zeros_like(matrices), np.zeros(len(matrices), dtype=bool)
        factors[:, self._main] = 1.0
        factors[:, self._empty] = 1.0
        for k in range(len(matrices)):
            one = matrices[k : k + 1]
            if np.isfinite(one).all():
                try:
                    factors[k] = self._factor(one)
                    good[k] = True
                except np.linalg.LinAlgError:
                    good[k] = False
        return factors, good

    def _factor(self, matrix: Array) -> Array:
        inside, across, core = self._parts(matrix)
        root = np.asarray(np.linalg.cholesky(inside), dtype=np.float64)
        columns = _lower(root, across)
        flat = columns.reshape(columns.shape[1] * columns.shape[2], columns.shape[3])
        rest = np.asarray(np.linalg.cholesky(core - flat.T @ flat), dtype=np.float64)
        return self._joined(root, columns, rest)[0]

    def log_determinants(self, factors: Array) -> Array:
        """Of the matrices that have these factors, shape ``(D,)``."""
        return np.asarray(2 * np.log(factors[:, self._main]).sum(axis=-1))

    def solved(self, factors: Array, right: Array) -> Array:
        """Solutions of systems with factored matrices and right sides ``(D, m)``."""
        return self.backward(factors, self.forward(factors, right))

    def forward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L y = right``, shape ``(D, m)``."""
        root, across, core = self._parts(factors)
        inside, last = self._split(right)
        inside = _lower(root, inside[..., None])[..., 0]
        return self._whole(inside, _solved(core, last - _summed(across, inside), "N"))

    def backward(self, factors: Array, right: Array) -> Array:
        """Solutions of ``L' y = right``, shape ``(D, m)``."""
        root, across, core = self._parts(factors)
        inside, last = self._split(right)
        last = _solved(core, last, "T")
        inside = _upper(root, (inside - _spread(across, last))[..., None])[..., 0]
        return self._whole(inside, last)

    def product(self, matrices: Array, vectors: Array) -> Array:
        """Products of matrices and vectors ``(D, m)``."""
        blocks, across, core = self._parts(matrices)
        inside, last = self._split(vectors)
        whole = (blocks @ inside[..., None])[..., 0] + _spread(across, last)
        return self._whole(whole, _summed(across, inside) + _spread(core[:, None], last)[:, 0])

    def within(self, matrices: Array, window: Index) -> Array:
        """Matrices of the unknowns of each window alone, with ones on the diagonal for those outside, whose number is -1."""
        wide = np.append(window, -1)
        rows, columns = self._ends
        found = np.where((wide[rows] == wide[columns]) & (wide[rows] >= 0), matrices, 0.0)
        found[:, self._main[window < 0]] = 1.0
        found[:, self._empty] = 1.0
        return found

    def windows(self) -> list[Index]:
        """Each block, and each cluster of the core."""
        blocks, core = np.full(self.count + 1, -1), np.full(self.count, -1)
        blocks[self.places] = np.arange(len(self.places))[:, None]
        core[self._blocks :] = self.cluster
        both = [blocks[: self.count], core]
        return [window for window in both if (window >= 0).any()]

    def met(self, moved: Flags) -> Flags:
        """Which unknowns meet one of these, shape ``(m,)``."""
        wide, core = np.append(moved, False), moved[self._blocks :]
        block = wide[self.places].any(axis=1, keepdims=True)
        found = np.zeros(self.count + 1, dtype=bool)
        found[self.places] = block | core.any()
        found[self._blocks : self.count] = block.any() | np.isin(self.cluster, self.cluster[core])
        return found[: self.count]


def _even(matrices: Array) -> Array:
    return np.asarray((matrices + matrices.swapaxes(-1, -2)) / 2)


def _lower(roots: Array, right: Array) -> Array:
    """Solutions with small lower triangular matrices ``(D, C, W, W)``, of right sides ``(D, C, W, k)``, row by row."""
    found = np.empty(np.broadcast_shapes(roots.shape[:-1], right.shape[:-1]) + right.shape[-1:])
    for row in range(roots.shape[-1]):
        known = (roots[..., row : row + 1, :row] @ found[..., :row, :])[..., 0, :] if row else 0.0
        found[..., row, :] = (right[..., row, :] - known) / roots[..., row, row, None]
    return found


def _upper(roots: Array, right: Array) -> Array:
    """The same with the transposed matrices."""
    width = roots.shape[-1]
    found = np.empty(np.broadcast_shapes(roots.shape[:-1], right.shape[:-1]) + right.shape[-1:])
    for row in range(width - 1, -1, -1):
        below = roots[..., row + 1 :, row : row + 1].swapaxes(-1, -2)
        known = (below @ found[..., row + 1 :, :])[..., 0, :] if row + 1 < width else 0.0
        found[..., row, :] = (right[..., row, :] - known) / roots[..., row, row, None]
    return found


def _summed(across: Array, inside: Array) -> Array:
    """What blocks' vectors ``(D, C, W)`` are in the core, by columns ``(D or 1, C, W, k)``, shape ``(D, k)``."""
    length = inside.shape[1] * inside.shape[2]
    flat, columns = inside.reshape(len(inside), length), across.reshape(len(across), length, across.shape[-1])
    return np.asarray(flat @ columns[0] if len(columns) == 1 else (flat[:, None] @ columns)[:, 0])


def _spread(across: Array, core: Array) -> Array:
    """What the core's vectors ``(D, k)`` are in blocks, shape ``(D, C, W)``."""
    shape = across.shape[1:-1]
    columns = across.reshape(len(across), shape[0] * shape[1], across.shape[-1])
    found = core @ columns[0].T if len(columns) == 1 else (columns @ core[..., None])[..., 0]
    return np.asarray(found.reshape(len(core), *shape))


def _solved(roots: Array, right: Array, trans: str) -> Array:
    """Solutions with lower triangular matrices ``(D or 1, k, k)``, or their transposes, of right sides ``(D, k)``."""
    if not right.shape[1]:
        return right
    if len(roots) == 1:
        return np.asarray(
            scipy.linalg.solve_triangular(roots[0], right.T, lower=True, trans=trans, check_finite=False).T
        )
    each = zip(roots, right, strict=True)
    return np.stack([scipy.linalg.solve_triangular(a, b, lower=True, trans=trans, check_finite=False) for a, b in each])
