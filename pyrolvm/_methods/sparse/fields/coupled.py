"""A log density whose unknowns are coupled to neighbours: its parts, its Hessian given shared unknowns, and its mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._methods.sparse.blocks import Blocks, rows_of
from pyrolvm._methods.sparse.fields.arrow import Arrow
from pyrolvm._methods.sparse.fields.coordinates import Summed, summed, unknowns
from pyrolvm._methods.sparse.fields.layout import Layout
from pyrolvm._methods.sparse.fields.pairs import Pairs
from pyrolvm._methods.sparse.fields.pattern import Pattern, clustered, find_pattern, shared_unknowns
from pyrolvm._methods.sparse.weighted import Weighted
from pyrolvm._program.density import Joint
from pyrolvm._program.problem import Problem

__all__ = ["Coupled", "Given"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

STEPS = 60
"""Newton steps at most."""

DONE = 1e-8
"""The squared length of a Newton step, in sds of all unknowns together, at which it is one too many."""

FIRST = 1.0
"""How far the first step may move an unknown; those after it twice as far, or a quarter where one loses."""

SLACK = 1e-9
"""By how much, of its size, a density may fall in a step: rounding."""

NUDGE = 1e-4
"""The difference that curvatures are taken by, in sds where these are known."""

NUMBERS = 4_000_000
"""Numbers that are held at a time."""

SHARES = 0.25, 0.5, 1.0, 2.0
"""Shares that are tried of what surely makes a curvature positive."""

MOSTLY = 0.5
"""The share of a site's unknowns that are shared, from which on it may be the steps of a walk."""

FEW, MOST_FEW = 8, 40
"""Unknowns from which on a site may be coupled; and of sites with fewer, up to how many together are shared whomever they meet."""

MOST_CORE = 500
"""Unknowns at most that meet all others."""

TWICE = 2
"""How often steps are summed at most: a walk, or one whose steps walk."""


@dataclass(frozen=True)
class Given:
    """Coupled unknowns given D values of the shared ones.

    Attributes:
        shared: the values, shape ``(D, K)``.
        mode: the unknowns' mode, or where the tilted density has it, shape ``(D, m)``.
        hessian: minus the Hessian there, shape ``(D, ...)``; where nothing is shared, one for all.
        factor: its Cholesky factor.
        log_determinant: its own, shape ``(D,)``.
        top: the log density at the mode, shape ``(D,)``.
        slope: its gradient in the shared unknowns there, shape ``(D, K)``.
        fine: whether the mode was found, shape ``(D,)``.
    """

    shared: Array
    mode: Array
    hessian: Array
    factor: Array
    log_determinant: Array
    top: Array
    slope: Array
    fine: Flags

    @property
    def values(self) -> Array:
        """The log density of the shared unknowns by Laplace's approximation; minus infinity where there is no mode."""
        volume = 0.5 * self.mode.shape[1] * np.log(2 * np.pi) - 0.5 * self.log_determinant
        return np.where(self.fine, self.top + volume, -np.inf)

    def repeated(self, shared: Array) -> Given:
        """The same at so many values ``(D, 0)`` of no shared unknowns, with the matrices of one."""
        count = len(shared)
        mode, top = np.repeat(self.mode, count, axis=0), np.repeat(self.top, count)
        slope, fine = np.zeros((count, 0)), np.repeat(self.fine, count)
        return Given(shared, mode, self.hessian, self.factor, self.log_determinant, top, slope, fine)


@dataclass
class Coupled:
    """A log density in coordinates in which most of its unknowns meet few others. Made by :meth:`of`, inside a session.

    Attributes:
        weighted: the compiled density, a group for each of its parts.
        sums: the sites whose coordinates are sums of steps.
        pattern: who meets whom.
        nudge: by how much each coupled unknown is moved to take curvatures, shape ``(m,)``.
        tilt: a slope that is added to the density where its coupled unknowns' place is sought, shape ``(m,)``: what moves their mode to
            their mean.
        pairs: which unknowns each part meets, where these are few and curvatures are taken of parts.
    """

    weighted: Weighted
    sums: list[Summed]
    pattern: Pattern
    nudge: Array
    tilt: Array
    pairs: Pairs | None = None

    @classmethod
    def of(cls, joint: Joint, seed: int) -> Coupled | None:
        """The density in coordinates in which it has a pattern, or ``None`` if it has none.

        Raises:
            FitError: if it cannot be compiled.
        """
        sums: dict[int, Summed] = {}
        few = _few(joint.problem)
        plain: Coupled | None = None
        for times in range(TWICE + 1):
            weighted = _compiled(joint, list(sums.values()))

            def slopes(points: Array, weighted: Weighted = weighted) -> Array:
                return _slopes(weighted, points)

            shared = shared_unknowns(slopes, few, seed)
            dense = [site for site in summed(joint.problem) if shared[site.start : site.stop].mean() > MOSTLY]
            if not (dense and times):
                pattern = find_pattern(slopes, shared, seed)
                found = None if pattern is None else cls._plain(weighted, list(sums.values()), pattern)
                plain = plain if times else found
                if not dense:
                    return found
            sums |= {site.start: replace(site, times=times + 1) for site in dense}
        return plain

    @classmethod
    def around(cls, joint: Joint, blocks: Blocks, seed: int) -> Coupled | None:
        """The density with all unknowns of long sites coupled: blocks, and a core that may meet all; ``None`` where it is too large.

        Args:
            joint: the density.
            blocks: the innermost blocks.
            seed: of the points where it is tried.

        Raises:
            FitError: if it cannot be compiled.
        """
        few = _few(joint.problem)
        inside = blocks.places.reshape(-1)
        inside = np.sort(inside[inside < blocks.size])
        core = np.setdiff1d(np.flatnonzero(~few), inside)
        if len(core) > MOST_CORE or len(core) + len(inside) == 0 or few[inside].any():
            return None
        weighted = _compiled(joint, [])
        local = np.concatenate([inside, core])
        place = np.full(blocks.size + 1, len(local), dtype=np.int64)
        place[local] = np.arange(len(local))
        clusters = clustered(lambda points: _slopes(weighted, points), blocks.size, core, seed)
        layout = Arrow(len(local), place[blocks.places], clusters)
        pattern = Pattern(blocks.size, np.flatnonzero(few), local, layout)
        rows = [(place[one], one) for one in rows_of(joint.problem) if not few[one].any()]
        pairs = Pairs.of(lambda points: _at(weighted, points)[0], rows, layout, blocks.size, seed)
        return cls._plain(weighted, [], pattern, pairs)

    @classmethod
    def _plain(cls, weighted: Weighted, sums: list[Summed], pattern: Pattern, pairs: Pairs | None = None) -> Coupled:
        return cls(weighted, sums, pattern, np.full(pattern.count, NUDGE), np.zeros(pattern.count), pairs)

    @property
    def parts(self) -> int:
        """How many parts the density has."""
        return self.weighted.groups

    def sites(self, problem: Problem) -> list[str]:
        """The names of the sites whose unknowns are coupled."""
        inside = np.zeros(self.pattern.size, dtype=bool)
        inside[self.pattern.local] = True
        ends = np.cumsum([site.unconstrained_numel for site in problem.continuous])
        parts = np.split(inside, ends[:-1])
        return [site.name for site, part in zip(problem.continuous, parts, strict=True) if part.any()]

    def unknowns(self, points: Array) -> Array:
        """The flat vectors of unknowns that coordinates ``(D, n)`` stand for."""
        return unknowns(self.sums, torch.as_tensor(points)).numpy()

    def at(self, points: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """The parts ``(D, P)`` and the gradient ``(D, n)`` of their sum, weighted if there are weights ``(P,)``."""
        budget.check(2.0)
        return _at(self.weighted, points, weights)

    def pieces(self, count: int, each: int) -> list[slice]:
        """Slices of a number of points, such that so many evaluations for each fit into memory."""
        step = max(1, NUMBERS // (each * self.weighted.numbers))
        return [slice(start, start + step) for start in range(0, count, step)]

    def hessian(self, shared: Array, local: Array, weights: Array | None = None) -> tuple[Array, Array, Array]:
        """Log densities ``(D,)``, their gradients ``(D, n)``, and minus their Hessians in the coupled unknowns, ``(D, ...)``."""
        found = [self._hessian(shared[part], local[part], weights) for part in self.pieces(len(shared), 1 + self.moves)]
        values, slopes, matrices = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return values, slopes, matrices

    @property
    def moves(self) -> int:
        """How many evaluations a Hessian takes besides the one at its point."""
        return (self.pairs or self.pattern.layout).moves

    def _hessian(self, shared: Array, local: Array, weights: Array | None) -> tuple[Array, Array, Array]:
        pattern, count = self.pattern, len(shared)
        moves = (self.pairs or pattern.layout).moved(self.nudge)
        points = pattern.assembled(shared, local)
        there = np.repeat(points[:, None], len(moves), axis=1)
        there[:, :, pattern.local] += moves
        parts, slopes = self.at(points, weights)
        values = parts.sum(axis=1) if weights is None else parts @ weights
        values = np.where(np.isfinite(values), values, -np.inf)
        if self.pairs is not None:
            after = _at(self.weighted, there.reshape(-1, pattern.size))[0].reshape(count, len(moves), -1)
            known = 1.0 if weights is None else weights
            return values, slopes, pattern.layout.filled(self.pairs.matrices(parts * known, after * known, self.nudge))
        after = _slopes(self.weighted, there.reshape(-1, pattern.size), weights).reshape(count, len(moves), -1)
        change = slopes[:, None, pattern.local] - after[..., pattern.local]
        return values, slopes, pattern.layout.matrices(change, self.nudge)

    def given(self, shared: Array, start: Array) -> Given:
        """The coupled unknowns' modes at values of the shared ones ``(D, K)``, by Newton's method from where they may be ``(D, m)``."""
        pattern, layout, here = self.pattern, self.pattern.layout, start.copy()
        top, slopes, hessian = self._tilted(shared, here)
        lost = ~(np.isfinite(top) & np.isfinite(slopes).all(axis=1))
        if lost.any():
            here[lost] = 0.0
            top[lost], slopes[lost], hessian[lost] = self._tilted(shared[lost], here[lost])
        reach = np.full(len(shared), FIRST)
        fine = np.zeros(len(shared), dtype=bool)
        factor = layout.factored(np.full_like(hessian, np.nan))[0]
        active = np.flatnonzero(np.isfinite(top))
        for _ in range(STEPS):
            factors, positive = _positive(layout, hessian[active])
            inward = slopes[active][:, pattern.local]
            step = layout.solved(factors, inward)
            length = (step * inward).sum(axis=1)
            done = positive & (length < DONE)
            fine[active[done]], factor[active[done]] = True, factors[done]
            keep = ~done & np.isfinite(length)
            active, step = active[keep], step[keep]
            if not len(active):
                break
            far = np.maximum(np.abs(step).max(axis=1), 1e-300)
            trial = here[active] + step * np.minimum(1.0, reach[active] / far)[:, None]
            values, then, curved = self._tilted(shared[active], trial)
            better = (values > top[active] - SLACK * (1 + np.abs(top[active]))) & np.isfinite(then).all(axis=1)
            moved = active[better]
            here[moved], top[moved], slopes[moved], hessian[moved] = (
                trial[better],
                values[better],
                then[better],
                curved[better],
            )
            reach[active] = np.where(better, 2 * reach[active], np.minimum(reach[active], far) / 4)
        volume = layout.log_determinants(factor)
        return Given(shared, here, hessian, factor, volume, top - here @ self.tilt, slopes[:, pattern.shared], fine)

    def _tilted(self, shared: Array, local: Array) -> tuple[Array, Array, Array]:
        values, slopes, matrices = self.hessian(shared, local)
        slopes[:, self.pattern.local] += self.tilt
        return values + local @ self.tilt, slopes, matrices


def _positive(layout: Layout, matrices: Array) -> tuple[Array, Flags]:
    """Factors of matrices, made positive definite where they are not, and which were.

    To their diagonals is added, where it takes that, what is smaller there than all beside it (Gershgorin's bound), or a share of it.
    """
    factors, good = layout.factored(matrices)
    bad = np.flatnonzero(~good)
    if not len(bad):
        return factors, good
    main = layout.diagonal(matrices[bad])
    short = np.maximum(layout.around(matrices[bad]) - main, 0.0)
    short += 1e-6 * np.abs(main).mean(axis=1, keepdims=True) + 1e-12
    for share in SHARES:
        found, now = layout.factored(layout.added(matrices[bad], share * short))
        factors[bad[now]] = found[now]
        bad, short = bad[~now], short[~now]
    factors[bad] = layout.added(0.0 * factors[bad], np.full_like(short, np.inf))  # no step
    return factors, good


def _few(problem: Problem) -> Flags:
    """Unknowns of sites that have few: scales and means of the others, unless there are so many that they are themselves a series."""
    found = np.concatenate(
        [np.full(site.unconstrained_numel, site.unconstrained_numel < FEW) for site in problem.continuous]
    )
    return found if found.sum() <= MOST_FEW else np.zeros_like(found)


def _compiled(joint: Joint, sums: Sequence[Summed]) -> Weighted:
    """The density with a group for each of its parts."""
    with torch.no_grad():
        parts = joint.elements(torch.zeros(joint.problem.unconstrained_size, dtype=joint.problem.dtype))
    which, count = {}, 0
    for name, part in parts.items():
        which[name] = np.arange(count, count + part.numel()).reshape(part.shape)
        count += part.numel()
    return Weighted.of(joint, which, count, lambda point: unknowns(sums, point))


def _at(weighted: Weighted, points: Array, weights: Array | None = None) -> tuple[Array, Array]:
    found = [weighted.at(piece, weights) for piece in _pieces(weighted, points)]
    return np.concatenate([parts for parts, _ in found]), np.concatenate([slopes for _, slopes in found])


def _slopes(weighted: Weighted, points: Array, weights: Array | None = None) -> Array:
    return np.concatenate([weighted.at(piece, weights)[1] for piece in _pieces(weighted, points)])


def _pieces(weighted: Weighted, points: Array) -> list[Array]:
    step = max(1, NUMBERS // weighted.numbers)
    return [points[start : start + step] for start in range(0, len(points), step)]
