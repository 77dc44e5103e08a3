"""Mixtures of Student t distributions: proposals whose tails are heavy enough to correct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
import torch

from pyrolvm._base import randomness
from pyrolvm._program.density.target import Points

__all__ = ["Student", "lower_root"]

MOST_DIRECTIONS = 500
"""Beyond this dimension, low-discrepancy points are no more even than random ones."""


@dataclass(frozen=True)
class Student:
    r"""A mixture of multivariate t distributions; of Gaussians where the degrees of freedom are infinite.

    Component k is the law of :math:`m_k + L_k \epsilon / \sqrt{g / \nu_k}` with :math:`\epsilon \sim \mathrm{Normal}(0, I)` and
    :math:`g \sim \chi^2_{\nu_k}`: not of unit scale, its covariance is :math:`L_k L_k^\top \nu_k / (\nu_k - 2)`.

    Attributes:
        weights: positive, summing to one, shape ``(k,)``.
        means: shape ``(k, n)``.
        trils: lower triangular, shape ``(k, n, n)``.
        freedoms: degrees of freedom, ``inf`` for a Gaussian, shape ``(k,)``.
    """

    weights: Points
    means: Points
    trils: Points
    freedoms: Points

    @classmethod
    def one(cls, mean: Points, tril: Points, freedom: float = math.inf) -> Student:
        """A single component."""
        return cls(np.ones(1), mean[None], tril[None], np.array([freedom]))

    @property
    def size(self) -> int:
        """The dimension n."""
        return int(self.means.shape[1])

    def with_freedom(self, freedom: float) -> Student:
        """The same with other degrees of freedom."""
        return Student(self.weights, self.means, self.trils, np.full(len(self.weights), freedom))

    def sample(self, count: int, seed: int) -> Points:
        """Draws of shape ``(count, n)``: scrambled Sobol points where the dimension is moderate, else pseudo-random ones."""
        if self.size + 2 <= MOST_DIRECTIONS:
            engine = torch.quasirandom.SobolEngine(self.size + 2, scramble=True, seed=randomness.folded(seed))
            even = engine.draw(count, dtype=torch.float64).numpy() + 2.0**-31  # of 30 bits, zero among them
            noise, tail, which = scipy.special.ndtri(even[:, :-2]), even[:, -2], even[:, -1]
        else:
            random = np.random.default_rng(seed)
            noise, tail, which = random.normal(size=(count, self.size)), random.random(count), random.random(count)
        edges = np.cumsum(self.weights)[:-1]
        component = np.searchsorted(edges, which)
        draws = np.empty_like(noise)
        for k, (mean, tril, freedom) in enumerate(zip(self.means, self.trils, self.freedoms, strict=True)):
            chosen = component == k
            stretch = (
                1.0
                if math.isinf(freedom)
                else np.sqrt(freedom / (2 * scipy.special.gammaincinv(freedom / 2, tail[chosen])))[:, None]
            )
            draws[chosen] = mean + (noise[chosen] @ tril.T) * stretch
        return draws

    def log_densities(self, points: Points) -> Points:
        """Log weight plus log density of each component at points ``(count, n)``, shape ``(k, count)``."""
        rows, n = [], self.size
        for weight, mean, tril, freedom in zip(self.weights, self.means, self.trils, self.freedoms, strict=True):
            squared = np.sum(scipy.linalg.solve_triangular(tril, (points - mean).T, lower=True) ** 2, axis=0)
            constant = math.log(weight) - float(np.log(np.diag(tril)).sum())
            if math.isinf(freedom):
                rows.append(constant - 0.5 * (squared + n * math.log(2 * math.pi)))
            else:
                constant += float(
                    scipy.special.gammaln((freedom + n) / 2) - scipy.special.gammaln(freedom / 2)
                ) - n / 2 * math.log(freedom * math.pi)
                rows.append(constant - (freedom + n) / 2 * np.log1p(squared / freedom))
        return np.array(rows)

    def log_density(self, points: Points) -> Points:
        """Log density at points ``(count, n)``, shape ``(count,)``."""
        parts = self.log_densities(points)
        return parts[0] if len(parts) == 1 else np.asarray(scipy.special.logsumexp(parts, axis=0))


def lower_root(root: Points) -> Points:
    """The lower triangular L, of positive diagonal, with L L^T = R R^T for a square matrix R."""
    (upper,) = scipy.linalg.qr(root.T, mode="r")
    lower: Points = upper.T
    return lower * np.where(np.diag(lower) < 0, -1.0, 1.0)
