r"""The log density of the shared unknowns alone: each block integrated out at its own mode and curvature.

.. math:: \log p(g, y) = f_0(g) + \sum_c \log \int e^{f_c(g, l)}\, dl

Given the shared unknowns g, blocks are independent, so that Newton's method, the factors of curvatures and adaptive Gauss-Hermite
quadrature run on all blocks at once. The gradient is the posterior mean of the joint one (Fisher's identity).

References:
    Rue, Martino, Chopin, *Approximate Bayesian inference for latent Gaussian models by using integrated nested Laplace
    approximations*, https://doi.org/10.1111/j.1467-9868.2008.00700.x;
    Naylor and Smith, *Applications of a method for the efficient computation of posterior distributions*,
    https://doi.org/10.2307/2347995 (adaptive quadrature);
    Margossian, Vehtari, Simpson, Agrawal, *Hamiltonian Monte Carlo using an adjoint-differentiated Laplace approximation*,
    https://arxiv.org/abs/2004.12550
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.quadrature import Rule, rules
from pyrolvm._methods.sparse.blocks import Blocks
from pyrolvm._methods.sparse.split import Shares
from pyrolvm._program.density import Joint, constrained_some

__all__ = ["Layer", "Local", "Marginal", "Nest", "as_programmed"]

Array = NDArray[np.float64]

STEPS = 60
"""Newton steps at most."""

DONE, DONE_INSIDE = 1e-5, 1e-11
"""The squared length of a Newton step, in sds of its block, at which it is one too many; smaller for blocks in blocks, whose gradients'
differences are the curvatures of those around them."""

RENEWED = 1e-2
"""The same from which on curvatures are taken again."""

SLACK = 1e-3
"""Nats that a step may lose: where inner blocks are integrated, gradients are not quite those of the quadrature's own sum."""

CLOSE = 0.05
"""The same below which a step is taken whatever it gains: a coarse quadrature's own sum may be highest elsewhere."""

LONGEST = 6.0
"""Sds that the first step may go."""

NUDGE_AROUND = 1e-3
"""The difference that curvatures of blocks around others are taken by, whose gradients are rougher."""

NUMBERS = 8_000_000
"""Numbers that are held at a time."""


KEPT = 40_000_000
"""Numbers that are kept of all blocks given all points."""


def _repeated(shared: Array, times: int) -> Array:
    return np.tile(shared, (times, 1))


@dataclass(frozen=True)
class Local:
    """Blocks given D values of the shared unknowns.

    Attributes:
        mode: the blocks' modes, shape ``(D, C, W)``.
        root: lower factors of the covariances by the curvatures there, shape ``(D, C, W, W)``.
        top: the log density of each block at its mode, and of the shared unknowns alone, shape ``(D, C + 1)``.
        fine: whether each point's blocks have arrived, shape ``(D,)``.
    """

    mode: Array
    root: Array
    top: Array
    fine: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: list[Local]) -> Local:
        """Those of several parts of the points."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("mode", "root", "top", "fine"))
        )

    def of(self, which: NDArray[np.int64]) -> Local:
        """Those of some of the points, by number."""
        return Local(self.mode[which], self.root[which], self.top[which], self.fine[which])

    def at(self, nodes: Array) -> Array:
        """The points of nodes in standard coordinates, shape ``(D, C, W)``; nodes as they are, or ``(W,)`` for all alike."""
        return self.mode + np.einsum("dcij,...j->dci" if nodes.ndim == 1 else "dcij,dcj->dci", self.root, nodes)

    @property
    def log_volume(self) -> Array:
        """Log determinants of the factors, shape ``(D, C)``."""
        return np.log(self.root.diagonal(axis1=-2, axis2=-1)).sum(-1)


class Layer(Protocol):
    """A log density in blocks, given shared unknowns."""

    @property
    def blocks(self) -> Blocks:
        """The blocks."""

    @property
    def size(self) -> int:
        """How many unknowns are shared."""

    @property
    def numbers(self) -> int:
        """How many numbers a point takes."""

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""

    def __call__(self, shared: Array, local: Array, weights: Array | None = None) -> Shares:
        """The density at D points; see :class:`pyrolvm._methods.sparse.split.Split`."""

    def assembled(self, shared: Array, local: Array) -> Array:
        """Shared unknowns and blocks in one vector, shape ``(D, n)``."""


@dataclass
class Marginal:
    """The log density of shared unknowns, whose blocks are integrated out by a rule.

    Attributes:
        joint: the density that it is of.
        layer: the density in blocks.
        rule: how blocks are integrated.
        done: the squared length of a Newton step, in sds, at which it is one too many.
        centre: shared unknowns from which blocks' modes are guessed, their modes there, and how these move, shapes ``(K,)``,
            ``(C, W)`` and ``(C, W, K)``; ``None`` before it is known.
    """

    joint: Joint
    layer: Layer
    rule: Rule
    done: float = DONE
    centre: tuple[Array, Array, Array | None] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """How many shared unknowns."""
        return self.layer.size

    @property
    def shape(self) -> tuple[int, int]:
        """The number of blocks and their width."""
        count, width = self.layer.blocks.local.shape
        return count, width

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return self.layer.nudge

    @property
    def layers(self) -> list[Marginal]:
        """This density and those whose blocks it integrates out, the innermost first."""
        return [*(self.layer.inner.layers if isinstance(self.layer, Nest) else []), self]

    @property
    def finer(self) -> list[Rule]:
        """The rules that are finer than the one that blocks are integrated by."""
        found = rules(self.shape[1])
        return found[1 + [rule.name for rule in found].index(self.rule.name) :]

    def values(self, shared: Array) -> Array:
        """Log densities at points ``(D, K)``; minus infinity where a block has none."""
        return np.concatenate([self._parts(part)[0].sum(axis=1) for part in self.pieces(shared)])

    def values_with_blocks(self, shared: Array) -> tuple[Array, Local | None]:
        """Log densities at points, and the blocks given each, as far as there is room for them."""
        found = [self._parts(part) for part in self.pieces(shared)]
        values = np.concatenate([totals.sum(axis=1) for totals, _, _ in found])
        return values, Local.joined([local for _, _, local in found]) if self.fits(len(shared)) else None

    def fits(self, count: int) -> bool:
        """Whether the blocks given so many points can be kept."""
        blocks, width = self.shape
        return 0 < blocks * (width**2 + width + 1) * count <= KEPT

    def __call__(self, shared: Array) -> tuple[Array, Array]:
        """Log densities ``(D,)`` and gradients ``(D, K)`` at points ``(D, K)``."""
        totals, slopes = self.groups(shared, np.ones((len(shared), self.layer.blocks.rest)))
        return totals.sum(axis=1), slopes

    def groups(self, shared: Array, weights: Array | None) -> tuple[Array, Array]:
        """Log densities of each group ``(D, R)``, and the gradient of their weighted sum ``(D, K)``, zero without weights."""
        ends = np.cumsum([0, *(len(part) for part in self.pieces(shared))])
        found = [
            self._parts(shared[start:stop], None if weights is None else weights[start:stop])
            for start, stop in pairwise(ends)
        ]
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def at(self, point: Array) -> tuple[float, Array]:
        """Log density and gradient at one point."""
        values, gradients = self(point[None])
        return float(values[0]), gradients[0]

    def tensor(self, points: Array) -> Tensor:
        """Shared unknowns as the model takes them, with zeros for the blocks'."""
        problem, layer = self.joint.problem, self.layer
        flat = np.atleast_2d(points)
        full = layer.assembled(flat, np.zeros((len(flat), *layer.blocks.local.shape)))
        while isinstance(layer, Nest):
            layer = layer.inner.layer
            full = layer.assembled(full, np.zeros((len(flat), *layer.blocks.local.shape)))
        return torch.as_tensor(full.reshape(*points.shape[:-1], -1)).to(dtype=problem.dtype, device=problem.device)

    def pieces(self, shared: Array) -> list[Array]:
        """Points in pieces that fit into memory."""
        blocks, width = self.shape
        each = max(len(self.rule.nodes), width) * self.layer.numbers + blocks * width**2
        count = max(1, NUMBERS // max(each, 1))
        return [shared[start : start + count] for start in range(0, len(shared), count)]

    def _parts(self, shared: Array, weights: Array | None = None) -> tuple[Array, Array, Local]:
        """Of each group the log density, the gradient of their weighted sum, and the blocks."""
        budget.check(2.0)
        layer, rule, (blocks, width) = self.layer, self.rule, self.shape
        count, nodes, rest = len(shared), len(rule.nodes), layer.blocks.rest
        if not blocks:
            found = layer(shared, np.zeros((count, 0, 0)), weights)
            empty = np.zeros((count, 0, 0))
            return found.totals, found.shared, Local(empty, empty[..., None], found.totals, np.ones(count, dtype=bool))
        local = self.local(shared)
        if count == 1 and (self.centre is None or self.centre[2] is None) and local.fine[0]:
            self.centre = (shared[0].copy(), local.mode[0].copy(), None)
        shares = self.weighed(shared, local)
        log_block = scipy.special.logsumexp(shares, axis=0)
        totals = local.top[:, blocks:] + _summed(log_block, layer.blocks.parent, rest)
        totals = np.where(local.fine[:, None] & ~np.isnan(totals), totals, -np.inf)
        if weights is None:
            return totals, np.zeros_like(shared), local
        each = np.empty((nodes, count, blocks + rest))
        with np.errstate(invalid="ignore"):
            each[:, :, :blocks] = np.nan_to_num(np.exp(shares - log_block)) * weights[:, layer.blocks.parent]
        each[:, :, blocks:] = weights / nodes
        points = np.stack([local.at(node) for node in rule.nodes]).reshape(-1, blocks, width)
        slopes = layer(_repeated(shared, nodes), points, each.reshape(nodes * count, -1))
        return totals, slopes.shared.reshape(nodes, count, -1).sum(axis=0), local

    def weighed(self, shared: Array, local: Local) -> Array:
        """The log of each node's part of each block's integral, shape ``(S, D, C)``."""
        rule, mask, (blocks, width) = self.rule, self.layer.blocks.local, self.shape
        moved = [node for node in rule.nodes if node.any()]  # what a node at the mode finds is known
        found = np.empty((len(rule.nodes), len(shared), blocks))
        found[:] = local.top[:, :blocks]
        if moved:
            points = np.stack([local.at(node) for node in moved]).reshape(-1, blocks, width)
            totals = self.layer(_repeated(shared, len(moved)), points).totals[:, :blocks]
            found[rule.nodes.any(axis=1)] = totals.reshape(len(moved), len(shared), -1)
        squares = 0.5 * (mask * rule.nodes[:, None, :] ** 2).sum(-1)
        volume = local.log_volume + 0.5 * mask.sum(axis=1) * math.log(2 * math.pi)
        return found + rule.log_weights[:, None, None] + squares[:, None, :] + volume

    def local(self, shared: Array, start: Array | None = None) -> Local:
        """The blocks' modes and curvatures at points ``(D, K)``, by Newton's method from where they are guessed to be."""
        split, (blocks, _) = self.layer, self.shape
        here = self._guess(shared) if start is None else start
        now = split(shared, here)
        tops, slopes = now.totals.copy(), now.local.copy()
        lost = ~np.isfinite(tops).all(axis=1)
        if lost.any():
            here[lost] = 0.0
            again = split(shared[lost], here[lost])
            tops[lost], slopes[lost] = again.totals, again.local
        root = self._roots(shared, here, slopes)
        share, since = np.ones((len(shared), blocks)), np.zeros((len(shared), blocks))
        active = np.arange(len(shared))
        fine = np.zeros(len(shared), dtype=bool)
        for step in range(STEPS):
            white = np.einsum("dcji,dcj->dci", root[active], slopes[active])
            length = (white**2).sum(-1)
            done = (length < self.done).all(axis=1) & np.isfinite(tops[active]).all(axis=1)
            fine[active[done]] = True
            active, white, length = active[~done], white[~done], length[~done]
            if not len(active):
                break
            if step and (length > RENEWED).any():
                root[active], since[active] = self._roots(shared[active], here[active], slopes[active]), 0.0
                white = np.einsum("dcji,dcj->dci", root[active], slopes[active])
                length = (white**2).sum(-1)
            far = np.sqrt(np.maximum(length, 1e-300))
            shorter = np.minimum(1.0, LONGEST * share[active] / far)
            move = np.einsum("dcij,dcj->dci", root[active], white) * shorter[..., None]
            trial = here[active] + move
            then = split(shared[active], trial)
            with np.errstate(invalid="ignore"):
                gain = then.totals[:, :blocks] - tops[active][:, :blocks]
            better = (gain > -SLACK - 1e-9 * np.abs(tops[active][:, :blocks])) | ((length < CLOSE) & np.isfinite(gain))
            here[active] = np.where(better[..., None], trial, here[active])
            since[active] += np.where(better, length * shorter**2, 0.0)
            slopes[active] = np.where(better[..., None], then.local, slopes[active])
            kept = np.concatenate([better, np.ones((len(active), split.blocks.rest), dtype=bool)], axis=1)
            tops[active] = np.where(kept, then.totals, tops[active])
            # Where steps gain the next may go further, however much curvature changes on the way; where one does not, a quarter.
            share[active] = np.where(better, 2 * share[active], np.minimum(share[active], far / LONGEST) / 4)
        # Integrals by few nodes depend on where curvatures were taken, by little for a block, but by nats for a hundred thousand, which
        # would make the density one of the way that the modes were found.
        stale = (since > self.done).any(axis=1) & fine
        if stale.any():
            root[stale] = self._roots(shared[stale], here[stale], slopes[stale])
        return Local(here, root, tops, fine)

    def _guess(self, shared: Array) -> Array:
        if self.centre is None:
            return np.zeros((len(shared), *self.layer.blocks.local.shape))
        point, mode, moves = self.centre
        if moves is None:
            return np.repeat(mode[None], len(shared), axis=0)
        return mode + np.einsum("cwk,dk->dcw", moves, shared - point)

    def _roots(self, shared: Array, here: Array, slopes: Array) -> Array:
        """Lower factors of the inverse curvatures of all blocks, made positive where they are not."""
        mask, (_, width) = self.layer.blocks.local, self.shape
        nudge = self.layer.nudge
        nudges = nudge * np.eye(width)[:, None, None, :] * mask
        up = self.layer(_repeated(shared, width), (here + nudges).reshape(-1, *here.shape[1:])).local
        hessian = np.moveaxis((slopes - up.reshape(width, *slopes.shape)) / nudge, 0, -1)
        hessian = (hessian + hessian.swapaxes(-1, -2)) / 2
        both = mask[:, :, None] & mask[:, None, :]
        hessian = np.where(both, hessian, np.eye(width))
        hessian = np.where(np.isfinite(hessian).all(axis=(-2, -1), keepdims=True), hessian, np.eye(width))
        if width == 1:
            return 1 / np.sqrt(np.maximum(np.abs(hessian), 1e-12))
        try:
            factor = np.linalg.cholesky(hessian)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(hessian)
            values = np.maximum(np.abs(values), 1e-8 * np.abs(values).max(axis=-1, keepdims=True) + 1e-12)
            factor = np.linalg.cholesky((vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2))
        inverse = np.linalg.inv(factor).swapaxes(-1, -2)  # L^-T, whose square is the inverse, but upper
        return np.linalg.cholesky(inverse @ inverse.swapaxes(-1, -2))

    def settle(self, point: Array) -> None:
        """Takes a point as the centre from which the blocks' modes are guessed, with how they move as the shared unknowns do."""
        if not self.shape[0]:
            return
        local = self.local(point[None])
        if isinstance(self.layer, Nest):
            self.layer.inner.settle(self.layer.assembled(point[None], local.mode)[0])
        moves = None
        if self.layer.blocks.local.size * self.size <= NUMBERS:
            nudges = self.layer.nudge * np.maximum(1.0, np.abs(point)) * np.eye(self.size)
            there = np.concatenate([point[None], point + nudges])
            slopes = np.concatenate([
                self.layer(piece, np.repeat(local.mode, len(piece), axis=0)).local for piece in self.pieces(there)
            ])  # fmt: skip
            cross = (slopes[1:] - slopes[0]) / np.diag(nudges)[:, None, None]
            covariance = local.root[0] @ local.root[0].swapaxes(-1, -2)
            moves = np.einsum("cij,kcj->cik", covariance, cross)
        self.centre = (point.copy(), local.mode[0].copy(), moves)


@dataclass(frozen=True)
class Nest:
    """Blocks around blocks: a log density whose inner blocks are integrated out, as one in blocks of what these shared.

    Attributes:
        inner: the density whose blocks are integrated out.
        blocks: those around them.
        outer: the places of shared unknowns among those of the inner density, shape ``(K,)``.
        places: those of the blocks, shape ``(C, W)``; the inner density's size where a block has fewer than W.
    """

    inner: Marginal
    blocks: Blocks
    outer: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, inner: Marginal, shared: NDArray[np.int64], blocks: Blocks) -> Nest:
        """The blocks around those that are integrated out.

        Args:
            inner: the density whose blocks are integrated out.
            shared: the places of its unknowns among all.
            blocks: those around.
        """
        place = np.full(blocks.size + 1, len(shared), dtype=np.int64)
        place[shared] = np.arange(len(shared))
        return cls(inner, blocks, place[blocks.shared], place[blocks.places])

    @property
    def size(self) -> int:
        """How many unknowns are shared."""
        return len(self.outer)

    @property
    def numbers(self) -> int:
        """How many numbers a point takes."""
        return 4 * self.inner.size

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return NUDGE_AROUND

    def assembled(self, shared: Array, local: Array) -> Array:
        """The inner density's unknowns, shape ``(D, n)``."""
        points = np.zeros((len(shared), self.inner.size + 1))
        points[:, self.outer] = shared
        points[:, self.places.reshape(-1)] = local.reshape(len(shared), -1)
        return points[:, :-1]

    def __call__(self, shared: Array, local: Array, weights: Array | None = None) -> Shares:
        """The density at points; see :class:`pyrolvm._methods.sparse.split.Split`."""
        weights = np.ones((len(shared), self.blocks.count + self.blocks.rest)) if weights is None else weights
        totals, slopes = self.inner.groups(self.assembled(shared, local), weights)
        wide = np.concatenate([slopes, np.zeros((len(slopes), 1))], axis=1)
        inside = wide[:, self.places.reshape(-1)].reshape(len(shared), *self.places.shape)
        return Shares(totals, slopes[:, self.outer], inside)


def _summed(log_block: Array, parent: NDArray[np.int64], rest: int) -> Array:
    """Sums over the blocks of each group, shape ``(D, R)``."""
    if rest == 1:
        return log_block.sum(axis=1, keepdims=True)
    blocks = len(parent)
    belongs = scipy.sparse.csr_array((np.ones(blocks), (parent, np.arange(blocks))), shape=(rest, blocks))
    return np.asarray((belongs @ log_block.T).T)


def as_programmed(marginal: Marginal) -> Callable[[Array], Array]:
    """Shared unknowns as the program has them, shape ``(S, k)``, at points ``(S, K)``: of sites that no block has a part of."""
    joint, shared = marginal.joint, marginal.layer.blocks.shared
    still = joint.split(marginal.tensor(np.zeros(marginal.size)))
    shapes = {name: tuple(value.shape) for name, value in still.items()}
    places: dict[str, NDArray[np.int64]] = {}
    for (name, value), stop in zip(still.items(), np.cumsum(joint.sizes), strict=True):
        mine = np.arange(stop - value.numel(), stop)
        if value.numel() and np.isin(mine, shared).all():
            places[name] = np.searchsorted(shared, mine)
    still = {name: value for name, value in still.items() if name not in places}

    def values(points: Array) -> Array:
        if not places:
            return np.zeros((len(points), 0))
        flat = torch.as_tensor(points).to(joint.problem.dtype)
        parts = {name: flat[:, place].reshape(-1, *shapes[name]) for name, place in places.items()}
        with torch.no_grad():
            found = constrained_some(joint, parts, still)
        return np.concatenate([found[name].double().reshape(len(flat), -1).numpy() for name in places], axis=1)

    return values
