r"""Bridge sampling: the ratio of two normalising constants from draws of both distributions.

With draws :math:`u_i` of the posterior and :math:`v_j` of a normalised proposal g, and
:math:`\ell = \log p(x, \cdot) - \log g(\cdot)`, the evidence r is the fixed point of

.. math:: r = \frac{N_2^{-1} \sum_j e^{\ell(v_j)} / (s_1 e^{\ell(v_j)} + s_2 r)}{N_1^{-1} \sum_i 1 / (s_1 e^{\ell(u_i)} + s_2 r)},

which has the least variance of all bridges for independent draws in the shares :math:`s_1, s_2`. The proposal is fitted to one half of
the draws and the bridge takes the other, then the halves change places.

References:
    Meng and Wong, *Simulating ratios of normalizing constants via a simple identity*, Statistica Sinica 6 (1996);
    Gronau et al., *A tutorial on bridge sampling*, https://arxiv.org/abs/1703.05984;
    Frühwirth-Schnatter, *Estimating marginal likelihoods for mixture and Markov switching models using bridge sampling
    techniques*, https://doi.org/10.1111/j.1368-423X.2004.00125.x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.numerics import array_stats

__all__ = ["Bridge", "Gaussian", "averaged", "bridged"]

Array = NDArray[np.float64]

MOST_ITERATIONS, SETTLED = 1_000, 1e-10

DRAWS_PER_UNKNOWN = 5
"""Draws for each unknown below which their covariance is not taken whole."""


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with a dense or a diagonal covariance.

    Attributes:
        mean: shape ``(n,)``.
        root: the lower Cholesky factor of the covariance, shape ``(n, n)``.
    """

    mean: Array
    root: Array

    @classmethod
    def of(cls, points: Array) -> Gaussian:
        """With the moments of points ``(draws, n)``; correlations are drawn to zero as far as there are too few to tell them."""
        count, size = points.shape
        gap = points - points.mean(axis=0)
        covariance = gap.T @ gap / max(count - 1, 1)
        kept = count / (count + size + 1) if count >= DRAWS_PER_UNKNOWN * size else 0.0
        variances = np.maximum(np.diag(covariance), 1e-300)
        covariance = kept * covariance + (1 - kept) * np.diag(variances)
        scale = np.sqrt(variances)
        root = np.linalg.cholesky(covariance / np.outer(scale, scale) + 1e-10 * np.eye(size))
        return cls(points.mean(axis=0), scale[:, None] * root)

    def sample(self, count: int, random: np.random.Generator) -> Array:
        """Independent draws, shape ``(count, n)``."""
        drawn: Array = self.mean + random.normal(size=(count, len(self.mean))) @ self.root.T
        return drawn

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Log densities ``(count,)`` and gradients ``(count, n)`` at points ``(count, n)``."""
        from scipy.linalg import solve_triangular

        white = solve_triangular(self.root, (points - self.mean).T, lower=True)
        constant = np.log(np.diag(self.root)).sum() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * np.sum(white**2, axis=0) - constant, -solve_triangular(self.root, white, lower=True, trans="T").T


@dataclass(frozen=True)
class Bridge:
    """What bridge sampling found.

    Attributes:
        value: the log of the ratio.
        error: its standard error, by the relative mean squared error of both parts.
        error_posterior: the part of it from the posterior's draws.
        error_proposal: the part of it from the proposal's.
        ess: effective draws of the posterior, for the quantity that is averaged over them.
        converged: whether the iteration settled.
    """

    value: float
    error: float
    error_posterior: float
    error_proposal: float
    ess: float
    converged: bool


def bridged(posterior: Array, proposal: Array) -> Bridge:
    """The log ratio of the constants of p and g.

    Args:
        posterior: log p - log g at draws of p, shape ``(chains, draws)``; draws of one chain may depend on each other.
        proposal: log p - log g at independent draws of g, shape ``(draws,)``.
    """
    middle = float(np.median(posterior))
    up, down = posterior - middle, proposal - middle
    effective = _effective(np.clip(up, -50.0, 50.0))
    value, converged = _fixed_point(up.reshape(-1), down, effective)
    ours, theirs = _shares(effective, down.size)
    # In units in which the ratio is one: p = e^l g.
    with np.errstate(over="ignore"):
        of_proposal = 1 / (ours + theirs * np.exp(value - down))
        of_posterior = 1 / (ours * np.exp(up - value) + theirs)
    ess = _effective(of_posterior)
    first = of_posterior.var(ddof=1) / of_posterior.mean() ** 2 / ess
    second = of_proposal.var(ddof=1) / of_proposal.mean() ** 2 / down.size
    error = math.sqrt(first + second)
    return Bridge(value + middle, error, math.sqrt(first), math.sqrt(second), ess, converged)


def averaged(one: Bridge, other: Bridge) -> Bridge:
    """The mean of two bridges whose halves of the posterior's draws have changed places.

    Their proposals' draws are independent. The posterior's are not: to first order, what one half makes of the other's deviation is
    what the other makes of its own, so that part of the error is not averaged away. Half their difference is an error at least.
    """
    of_posterior = (one.error_posterior + other.error_posterior) / 2
    of_proposal = math.hypot(one.error_proposal, other.error_proposal) / 2
    return Bridge(
        (one.value + other.value) / 2,
        max(math.hypot(of_posterior, of_proposal), abs(one.value - other.value) / 2),
        of_posterior,
        of_proposal,
        (one.ess + other.ess) / 2,
        one.converged and other.converged,
    )


def _shares(ours: float, theirs: float) -> tuple[float, float]:
    return ours / (ours + theirs), theirs / (ours + theirs)


def _fixed_point(up: Array, down: Array, effective: float) -> tuple[float, bool]:
    """The logarithm of the ratio, by iteration from one, and whether it settled."""
    from scipy.special import logsumexp

    ours, theirs = (math.log(share) for share in _shares(effective, down.size))
    value = 0.0
    for _ in range(MOST_ITERATIONS):
        above = logsumexp(down - np.logaddexp(ours + down, theirs + value)) - math.log(down.size)
        below = logsumexp(-np.logaddexp(ours + up, theirs + value)) - math.log(up.size)
        new = float(above - below)
        if not math.isfinite(new):
            return new, False
        if abs(new - value) < SETTLED:
            return new, True
        value = new
    return value, False


def _effective(values: Array) -> float:
    """Effective draws for the mean of ``values``, shape ``(chains, draws)``: the least that several estimates say, at most all.

    Each is itself uncertain, by a tenth for chains of some hundred draws, and one that is too high makes an error too small.
    """
    if values.shape[1] < 4 or np.ptp(values) == 0:
        return float(values.size)
    found = [
        float(array_stats().ess(values, chain_axis=0, draw_axis=1, method=method)) for method in ("mean", "bulk", "sd")
    ]
    return min([max(one, 1.0) for one in found if math.isfinite(one)] + [float(values.size)])
