"""A log density with the share of each block, compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm._methods.sparse.blocks import Blocks
from pyrolvm._methods.sparse.weighted import Weighted
from pyrolvm._program.density import Joint

__all__ = ["Shares", "Split"]

Array = NDArray[np.float64]

NUDGE = 1e-5
"""The difference that curvatures are taken by."""


@dataclass(frozen=True)
class Shares:
    """A density at D points.

    Attributes:
        totals: the log density of each block, then of each of R other groups of parts, shape ``(D, C + R)``.
        shared: its gradient in the shared unknowns, shape ``(D, K)``.
        local: in the blocks' unknowns, zero where there is none, shape ``(D, C, W)``.
    """

    totals: Array
    shared: Array
    local: Array


@dataclass
class Split:
    """The log density of a problem in blocks. Made by :meth:`of`, inside a session.

    Attributes:
        blocks: the blocks.
        weighted: the compiled density, a group for each block and each other group of parts.
    """

    blocks: Blocks
    weighted: Weighted

    @classmethod
    def of(cls, joint: Joint, blocks: Blocks) -> Split:
        """Compiles it and holds it against the model's own density.

        Raises:
            FitError: if neither C nor XLA can run it.
        """
        return cls(blocks, Weighted.of(joint, blocks.parts, blocks.count + blocks.rest))

    def __call__(self, shared: Array, local: Array, weights: Array | None = None) -> Shares:
        """The density at points.

        Args:
            shared: the shared unknowns, shape ``(D, K)``.
            local: the blocks' unknowns, shape ``(D, C, W)``.
            weights: what gradients weigh each group by, shape ``(D, C + R)``; by default all alike.
        """
        return self.at(self.assembled(shared, local), weights)

    @property
    def numbers(self) -> int:
        """How many numbers a point takes."""
        return self.weighted.numbers

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return NUDGE

    @property
    def size(self) -> int:
        """How many unknowns are shared."""
        return len(self.blocks.shared)

    def assembled(self, shared: Array, local: Array) -> Array:
        """Vectors of all unknowns, shape ``(D, n)``."""
        blocks = self.blocks
        points = np.zeros((len(shared), blocks.size + 1))
        points[:, blocks.shared] = shared
        points[:, blocks.places.reshape(-1)] = local.reshape(len(shared), -1)
        return points[:, :-1]

    def at(self, points: Array, weights: Array | None = None) -> Shares:
        """The density at vectors of all unknowns, shape ``(D, n)``; otherwise as a call."""
        blocks, count = self.blocks, len(points)
        totals, gradients = self.weighted.at(points, weights)
        slopes = np.concatenate([gradients, np.zeros((count, 1))], axis=1)
        local = slopes[:, blocks.places.reshape(-1)].reshape(count, *blocks.places.shape)
        return Shares(np.where(np.isfinite(totals), totals, -np.inf), slopes[:, blocks.shared], local)
