r"""The log density of shared unknowns alone: those that are coupled integrated out at their mode, by Laplace's approximation.

.. math:: \log p(g, y) \approx f(x^*, g) + \tfrac{m}{2} \log 2\pi - \tfrac12 \log |H(x^*, g)|, \qquad x^* = \arg\max_x f(x, g)

References:
    Rue, Martino, Chopin, *Approximate Bayesian inference for latent Gaussian models by using integrated nested Laplace
    approximations*, https://doi.org/10.1111/j.1467-9868.2008.00700.x
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._methods.sparse.fields.coupled import Coupled, Given
from pyrolvm._program.density import Joint

__all__ = ["FieldMarginal"]

Array = NDArray[np.float64]

STARTS, REACH, APART = 4, 2.0, 4.0
"""Starts from which modes of the coupled unknowns are sought again, how far from zero they are in each, and the sds of an unknown from
which on modes are apart."""

PAIRS, ROUNDS, OFF, LONGEST = 16, 12, 2.0, 8.0
"""Pairs of opposite draws whose gradients tell how far the mean is from the mode; how often it is moved there, the sds that are near
enough, which steps between windows make up for, and those of one move."""

NUDGE = 1e-4
"""The difference of shared unknowns that their gradients are taken by."""


@dataclass
class FieldMarginal:
    """The log density of K shared unknowns.

    Attributes:
        joint: the density of all.
        coupled: the same with its pattern.
        centre: shared unknowns, the coupled ones' mode there ``(m,)``, and how it moves with them ``(m, K)``, if that is known.
    """

    joint: Joint
    coupled: Coupled
    centre: tuple[Array, Array, Array | None] | None = None
    _alone: Given | None = field(default=None, init=False, repr=False)

    @property
    def size(self) -> int:
        """How many unknowns are shared."""
        return len(self.coupled.pattern.shared)

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return 1e-3

    def tensor(self, points: Array) -> Tensor:
        """Shared unknowns as the model takes them, with zeros for the others."""
        problem, pattern = self.joint.problem, self.coupled.pattern
        flat = np.atleast_2d(points)
        full = self.coupled.unknowns(pattern.assembled(flat, np.zeros((len(flat), pattern.count))))
        return torch.as_tensor(full.reshape(*points.shape[:-1], -1)).to(dtype=problem.dtype, device=problem.device)

    def given(self, shared: Array) -> Given:
        """The coupled unknowns at values of the shared ones; where there are none, one matrix for all."""
        if not self.size:
            self._alone = self._alone or self.coupled.given(shared[:1], self._guess(shared[:1]))
            return self._alone.repeated(shared)
        found = self.coupled.given(shared, self._guess(shared))
        if self.centre is None and found.fine[0]:
            self.centre = (shared[0].copy(), found.mode[0].copy(), None)
        return found

    def values(self, shared: Array) -> Array:
        """Log densities at points ``(D, K)``; minus infinity where there is no mode."""
        return np.concatenate([self.given(shared[part]).values for part in self._pieces(len(shared))])

    def __call__(self, shared: Array) -> tuple[Array, Array]:
        """Log densities ``(D,)`` and gradients ``(D, K)`` at points ``(D, K)``.

        At its mode the coupled unknowns' own moves change nothing, but the determinant changes with them.
        """
        found = [self._sloped(shared[part]) for part in self._pieces(len(shared))]
        return np.concatenate([values for values, _ in found]), np.concatenate([slopes for _, slopes in found])

    def at(self, point: Array) -> tuple[float, Array]:
        """Log density and gradient at one point."""
        values, gradients = self(point[None])
        return float(values[0]), gradients[0]

    def settle(self, point: Array) -> None:
        """Takes a point as the centre from which modes are guessed, with how they move as the shared unknowns do."""
        given = self._centred(self.given(point[None]))
        self._alone = None if self.size else given
        if given.fine[0]:
            moves = self._moves(given)[0] if self.size else np.zeros((0, len(given.mode[0])))
            sizes = np.maximum(self.coupled.pattern.layout.diagonal(given.hessian)[0], 1e-12)
            self.coupled.nudge = NUDGE / np.sqrt(sizes)
            self.centre = (point.copy(), given.mode[0].copy(), moves.T)

    def _centred(self, given: Given) -> Given:
        """The coupled unknowns where gradients at draws have no mean: of a thousand that may be many sds from the mode."""
        pattern, random = self.coupled.pattern, np.random.default_rng([0, 86])
        layout = pattern.layout
        for _ in range(ROUNDS if given.fine[0] else 0):
            away = layout.backward(given.factor, random.normal(size=(PAIRS, pattern.count)))
            points = pattern.assembled(
                np.repeat(given.shared, 2 * PAIRS, axis=0), np.concatenate([given.mode + away, given.mode - away])
            )
            pull = self.coupled.at(points)[1][:, pattern.local].mean(axis=0)
            length = np.linalg.norm(layout.forward(given.factor, pull[None]))
            if not length > OFF:
                break
            before, self.coupled.tilt = self.coupled.tilt, self.coupled.tilt + pull * min(1.0, LONGEST / length)
            again = self.coupled.given(given.shared, given.mode)
            if not again.fine[0]:
                self.coupled.tilt = before
                break
            given = again
        return given

    def modes(self, shared: Array, seed: int) -> int:
        """At how many places ascents of the coupled unknowns end, given shared ones ``(K,)``.

        They start at the mode's mirror image, and far from it.
        """
        first = self.given(shared[None])
        random = np.random.default_rng([seed, 85])
        far = random.uniform(-REACH, REACH, size=(STARTS - 1, self.coupled.pattern.count))
        found = self.coupled.given(np.repeat(shared[None], STARTS, axis=0), np.concatenate([-first.mode, far]))
        sds = np.sqrt(np.maximum(self.coupled.pattern.layout.diagonal(first.hessian)[0], 1e-300))
        places = [first.mode[0]]
        for mode in found.mode[found.fine]:
            if all(np.max(np.abs(mode - other) * sds) > APART for other in places):
                places.append(mode)
        return len(places)

    def _pieces(self, count: int) -> list[slice]:
        return self.coupled.pieces(count, 2 * max(self.size, 1) * (1 + self.coupled.moves))

    def _guess(self, shared: Array) -> Array:
        if self.centre is None:
            return np.zeros((len(shared), self.coupled.pattern.count))
        point, mode, moves = self.centre
        return np.repeat(mode[None], len(shared), axis=0) if moves is None else mode + (shared - point) @ moves.T

    def _nudges(self, shared: Array) -> Array:
        """Moves of each shared unknown alone, shape ``(D, K, K)``."""
        return NUDGE * np.maximum(1.0, np.abs(shared))[:, :, None] * np.eye(self.size)

    def _moves(self, given: Given) -> Array:
        """How modes move with each shared unknown, shape ``(D, K, m)``."""
        pattern, (count, size) = self.coupled.pattern, given.shared.shape
        nudges = self._nudges(given.shared)
        there = np.concatenate([given.shared[:, None], given.shared[:, None] + nudges], axis=1).reshape(-1, size)
        modes = np.repeat(given.mode, size + 1, axis=0)
        slopes = self.coupled.at(pattern.assembled(there, modes))[1][:, pattern.local].reshape(count, size + 1, -1)
        change = (slopes[:, 1:] - slopes[:, :1]) / np.diagonal(nudges, axis1=1, axis2=2)[..., None]
        moves = pattern.layout.solved(np.repeat(given.factor, size, axis=0), change.reshape(count * size, -1))
        return moves.reshape(count, size, -1)

    def _sloped(self, shared: Array) -> tuple[Array, Array]:
        count, size = shared.shape
        given = self.given(shared)
        nudges = self._nudges(shared)
        unit = np.diagonal(nudges, axis1=1, axis2=2)[..., None]
        moves = self._moves(given) * unit
        both = np.stack([nudges, -nudges], axis=1), np.stack([moves, -moves], axis=1)
        there = (shared[:, None, None] + both[0]).reshape(-1, size)
        modes = (given.mode[:, None, None] + both[1]).reshape(len(there), -1)
        layout = self.coupled.pattern.layout
        factors, good = layout.factored(self.coupled.hessian(there, modes)[2])
        halves = np.where(good, -0.5 * layout.log_determinants(factors), np.nan).reshape(count, 2, size)
        change = (halves[:, 0] - halves[:, 1]) / (2 * unit[..., 0])
        change -= (moves / unit) @ self.coupled.tilt  # which is not of the density
        return given.values, given.slope + np.where(given.fine[:, None], change, 0.0)
