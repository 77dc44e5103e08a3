r"""Where particles are: a mixture fitted to them, its modes, and the scales inside a mode.

Components are split along their longest axis and refitted by EM as long as that pays by the Bayesian information criterion, so
that nothing is drawn at random. Components that overlap are one mode. Moves are in units of the covariance inside modes: that of all
particles would be as wide as the modes are apart.

References:
    McLachlan and Peel, *Finite Mixture Models* (2000), chapters 2 and 6
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm._methods.smc.weights import Array, Index

__all__ = ["Modes", "find_modes"]

FREEDOM = 6.0
"""Degrees of freedom of the components: a proposal needs heavier tails than what it is for."""

MOST_COMPONENTS, MOST_UNKNOWNS = 8, 40
"""Components at most, and unknowns up to which more than one is tried: each takes a covariance of its own."""

FITTED = 1_024
"""Particles that a mixture is fitted to; of more, every so-manieth."""

SPLIT, NARROWER = 0.8, 0.7
"""How far halves of a component begin from its middle, in sds along its longest axis, and by how much they are narrower."""

ITERATIONS, SETTLED = 40, 1e-3
"""Rounds of EM, and the gain in nats for a particle below which it ends."""

OVERLAP = 0.02
"""The share of the smaller component that two have in common from which on they are one mode."""

PER_UNKNOWN = 5.0
"""Effective particles for each unknown below which covariances are not taken whole."""

SMALLEST = 1e-10
"""What is added to the diagonal of a correlation matrix."""


@dataclass(frozen=True)
class Modes:
    """A mixture of Student t distributions at the particles.

    Attributes:
        weights: of the components, shape ``(k,)``.
        means: shape ``(k, n)``.
        roots: lower Cholesky factors of the covariances of the particles of each, shape ``(k, n, n)``.
        mode: the number of each component's mode, shape ``(k,)``.
        root: the lower Cholesky factor of the covariance inside modes, shape ``(n, n)``.
    """

    weights: Array
    means: Array
    roots: Array
    mode: Index
    root: Array

    @property
    def count(self) -> int:
        """How many modes there are."""
        return int(self.mode.max()) + 1

    def sample(self, count: int, random: np.random.Generator) -> Array:
        """Independent draws, shape ``(count, n)``."""
        size = self.means.shape[1]
        which = np.searchsorted(np.cumsum(self.weights)[:-1], random.random(count), side="right")
        noise = random.normal(size=(count, size)) / np.sqrt(random.chisquare(FREEDOM, size=(count, 1)) / FREEDOM)
        drawn = np.empty((count, size))
        for k, (mean, root) in enumerate(zip(self.means, self.roots, strict=True)):
            chosen = which == k
            drawn[chosen] = mean + noise[chosen] @ root.T
        return drawn

    def log_density(self, points: Array) -> Array:
        """Log density of the mixture at points ``(count, n)``, up to a constant."""
        size = self.means.shape[1]
        rows = [
            math.log(weight) - shrunk - 0.5 * (FREEDOM + size) * np.log1p(squared / FREEDOM)
            for weight, (squared, shrunk) in zip(self.weights, _distances(points, self.means, self.roots), strict=True)
        ]
        return np.asarray(np.logaddexp.reduce(rows, axis=0))

    def labels(self, points: Array) -> Index:
        """The number of the mode that each point belongs to, shape ``(count,)``."""
        rows = _gaussian(self.weights, _distances(points, self.means, self.roots))
        return self.mode[np.argmax(rows, axis=0)]

    def residuals(self, points: Array) -> Array:
        """Where points ``(count, n)`` lie in their modes, in units of the covariance inside modes."""
        middles = np.stack([self._middle(number) for number in range(self.count)])
        return np.asarray(np.linalg.solve(self.root, (points - middles[self.labels(points)]).T).T)

    def _middle(self, number: int) -> Array:
        chosen = self.mode == number
        return np.asarray(self.weights[chosen] @ self.means[chosen] / self.weights[chosen].sum())


def find_modes(points: Array) -> Modes:
    """A mixture fitted to particles, shape ``(count, n)``."""
    count, size = points.shape
    one = _Fit(np.ones(1), points.mean(axis=0)[None], _roots(points, np.full((1, count), 1 / count), np.array([count])))
    best = _split_as_it_pays(points, one) if size <= MOST_UNKNOWNS else one
    return _moded(best, points)


@dataclass(frozen=True)
class _Fit:
    """A mixture of Gaussians: weights ``(k,)``, means ``(k, n)``, lower Cholesky factors of covariances ``(k, n, n)``."""

    weights: Array
    means: Array
    roots: Array

    def log_parts(self, points: Array) -> Array:
        """Log weight plus log density of each component, up to a constant, shape ``(k, count)``."""
        return _gaussian(self.weights, _distances(points, self.means, self.roots))


def _split_as_it_pays(points: Array, one: _Fit) -> _Fit:
    some = points[:: max(len(points) // FITTED, 1)]
    best, score = one, _criterion(one, some, len(points))
    while 2 * len(best.weights) <= MOST_COMPONENTS:
        fit = _refined(_split(best), some, len(points))
        new = _criterion(fit, some, len(points))
        if not new < score:
            break
        best, score = fit, new
    return best


def _criterion(fit: _Fit, points: Array, count: int) -> float:
    """The Bayesian information criterion for ``count`` particles of which these are some."""
    k, n = fit.means.shape
    likelihood = float(np.logaddexp.reduce(fit.log_parts(points), axis=0).mean())
    return -2 * count * likelihood + k * (1 + n + n * (n + 1) / 2) * math.log(count)


def _split(fit: _Fit) -> _Fit:
    """Each component as two, along its longest axis."""
    means, roots = [], []
    for mean, root in zip(fit.means, fit.roots, strict=True):
        scale = np.sqrt(np.sum(root**2, axis=1))
        values, axes = np.linalg.eigh((root @ root.T) / np.outer(scale, scale))
        away = SPLIT * math.sqrt(values[-1]) * axes[:, -1] * scale
        means += [mean - away, mean + away]
        roots += [NARROWER * root] * 2
    return _Fit(np.repeat(fit.weights / 2, 2), np.array(means), np.array(roots))


def _refined(fit: _Fit, points: Array, count: int) -> _Fit:
    """The mixture after rounds of EM on some of ``count`` particles, without components that are left with hardly any."""
    before = -math.inf
    for _ in range(ITERATIONS):
        parts = fit.log_parts(points)
        total = np.logaddexp.reduce(parts, axis=0)
        likelihood = float(total.mean())
        if not likelihood - before >= SETTLED:
            break
        before = likelihood
        shares = np.exp(parts - total)
        masses = shares.mean(axis=1)
        alive = masses * count > points.shape[1] + 1
        if not alive.any():
            break
        shares, masses = shares[alive] / shares[alive].sum(axis=1, keepdims=True), masses[alive]
        fit = _Fit(masses / masses.sum(), shares @ points, _roots(points, shares, count * masses))
    return fit


def _roots(points: Array, shares: Array, counts: Array) -> Array:
    """Lower Cholesky factors of covariances of points in shares ``(k, count)``, each of so many particles in truth."""
    return np.array([_root(_covariance(points, one), float(n)) for one, n in zip(shares, counts, strict=True)])


def _covariance(points: Array, share: Array) -> Array:
    gap = points - share @ points
    return np.asarray(gap.T @ (share[:, None] * gap))


def _root(covariance: Array, count: float) -> Array:
    """The lower Cholesky factor, with correlations drawn to zero as far as there are too few particles to tell them."""
    size = len(covariance)
    kept = count / (count + size + 1) if count >= PER_UNKNOWN * size else 0.0
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    correlation = kept * covariance / np.outer(scale, scale) + (1 - kept) * np.eye(size)
    return scale[:, None] * np.asarray(np.linalg.cholesky(correlation + SMALLEST * np.eye(size)))


def _distances(points: Array, means: Array, roots: Array) -> list[tuple[Array, float]]:
    """Squared distances in units of each covariance, and the logarithm of its determinant's root."""
    from scipy.linalg import solve_triangular

    found = []
    for mean, root in zip(means, roots, strict=True):
        white = solve_triangular(root, (points - mean).T, lower=True, check_finite=False)
        found.append((np.sum(white**2, axis=0), float(np.log(np.diag(root)).sum())))
    return found


def _gaussian(weights: Array, distances: list[tuple[Array, float]]) -> Array:
    rows = [math.log(w) - shrunk - 0.5 * squared for w, (squared, shrunk) in zip(weights, distances, strict=True)]
    return np.array(rows)


def _moded(fit: _Fit, points: Array) -> Modes:
    """The mixture with components that overlap as one mode; one component where some has no particles at all."""
    parts = fit.log_parts(points)
    shares = np.exp(parts - np.logaddexp.reduce(parts, axis=0))
    masses = shares.mean(axis=1)
    mode = _together(shares @ shares.T / len(points), masses)
    inside = np.zeros((points.shape[1], points.shape[1]))
    for number in range(int(mode.max()) + 1):
        share = shares[mode == number].sum(axis=0)
        inside += share.mean() * _covariance(points, share / share.sum())
    return Modes(fit.weights, fit.means, fit.roots, mode, _root(inside, len(points)))


def _together(common: Array, masses: Array) -> Index:
    """The number of the mode of each component: those that overlap, directly or by way of others, are one."""
    joined: NDArray[np.bool_] = common > OVERLAP * np.minimum.outer(masses, masses)
    mode = np.full(len(masses), -1, dtype=np.int64)
    for first in range(len(masses)):
        waiting, number = [first] if mode[first] < 0 else [], int(mode.max()) + 1
        while waiting:
            k = waiting.pop()
            if mode[k] < 0:
                mode[k] = number
                waiting += [int(j) for j in np.flatnonzero(joined[k]) if mode[j] < 0]
    return mode
