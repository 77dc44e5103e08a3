r"""The best Gaussian: natural-gradient variational inference with noise that vanishes where the fit is right.

In coordinates in which the current Gaussian :math:`\mathrm{Normal}(m, L L^\top)` is standard, with draws
:math:`\epsilon`, scores :math:`h = L^\top \nabla \log p` and residuals :math:`r = h + \epsilon`, the ELBO's gradients are

.. math:: \nabla_m = \mathbb{E}[r], \qquad \nabla_P = P^* - I = -\mathbb{E}[\epsilon r^\top],

by Stein's lemma; :math:`r` is zero at every draw where the target is this Gaussian, as in "sticking the landing". A step of
length :math:`\eta` takes the precision :math:`I` to :math:`I + \eta \nabla_P + \frac12 \eta^2 \nabla_P^2`, positive
definite whatever the noise, and the mean to :math:`m + \eta L P^{-1} \nabla_m`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used

from pyrolvm._base import budget
from pyrolvm._base.progress import stage
from pyrolvm._program.density.target import Points, Target
from pyrolvm.family.student import Student, lower_root

__all__ = ["Fitted", "batch_and_match", "natural_gradient"]

FEWEST_DRAWS, DRAWS_PER_UNKNOWN, MOST_DRAWS = 128, 4, 2048
SEARCH, SETTLE = 100, 30
"""The most iterations with long steps, and those whose steps shrink so that the noise averages out."""

QUIET = 0.1
"""The noise of a gradient, in units of the current Gaussian, that more draws need not lower."""

EXACT = 1e-3
"""A natural gradient shorter than this is zero for every purpose, however quiet its estimate is."""

SETTLED = 0.05
"""The last step of each parameter of a matched Gaussian, in its own units, that counts as none."""

FINITE, SHRINK = 0.9, 0.7
"""The share of draws that must have a density, and what a Gaussian is scaled by until they have."""

TRUST = 0.5
"""How far, in units of the current Gaussian, one step may go."""


@dataclass(frozen=True)
class Fitted:
    """A Gaussian, and how it was found.

    Attributes:
        family: the Gaussian.
        elbos: the ELBO's estimate at each iteration.
        converged: whether the residual's mean and its covariance with the draws ended within their noise.
        residual: the length of the last natural gradient, in units of the Gaussian; zero at the optimum.
    """

    family: Student
    elbos: Points
    converged: bool
    residual: float


def natural_gradient(target: Target, start: Student, *, seed: int) -> Fitted:
    """The Gaussian of the highest ELBO, from a Gaussian nearby.

    References:
        Khan and Rue, *The Bayesian learning rule*, https://arxiv.org/abs/2107.04562;
        Lin, Schmidt, Khan, *Handling the positive-definite constraint in the Bayesian learning rule*,
        https://arxiv.org/abs/2002.10060;
        Roeder, Wu, Duvenaud, *Sticking the landing*, https://arxiv.org/abs/1703.09194
    """
    random = np.random.default_rng(seed)
    mean, tril = start.means[0].copy(), start.trils[0].copy()
    n = len(mean)
    half = max(FEWEST_DRAWS, DRAWS_PER_UNKNOWN * n) // 2
    most = max(half, MOST_DRAWS // 2)
    elbos: list[float] = []
    lengths: list[float] = []
    settling = 0
    last, noise = np.inf, np.inf
    for _ in range(SEARCH + SETTLE):
        draws = random.normal(size=(half, n))
        seen = _seen(target, mean, tril, np.concatenate([draws, -draws]))
        if seen is None:
            tril = SHRINK * tril
            continue
        elbo, draws, scores = seen
        elbos.append(elbo)
        stage(f"natural gradients, step {len(elbos)}: ELBO {elbos[-1]:.2f}")
        residuals = scores + draws
        shift, change = residuals.mean(axis=0), -(draws.T @ residuals) / len(draws)
        change = (change + change.T) / 2
        last = float(np.sqrt(shift @ shift + np.sum(change**2) / 2))
        # Each entry is a mean of len(draws) terms, as noisy as the residuals: what zero would look like.
        noise = float(np.sqrt(np.mean(residuals**2) * (n + n * n / 2) / len(draws)))
        lengths.append(last)
        settled = len(lengths) > 5 and (last < 2 * noise or min(lengths[-5:]) > 0.9 * min(lengths[:-5]))
        if settling or settled or len(elbos) >= SEARCH:
            settling += 1
        if noise > QUIET and half < most:  # particles by the measured noise
            half = min(2 * half, most)
        limit = TRUST / max(np.linalg.norm(change, 2), np.linalg.norm(shift) / np.sqrt(n), 1e-12)
        length = min(1.0, limit, 2 / (settling + 1))
        precision = np.eye(n) + length * change + 0.5 * length**2 * change @ change
        lower = scipy.linalg.cholesky(precision, lower=True)
        step = scipy.linalg.solve_triangular(lower, length * shift, lower=True)
        mean = mean + tril @ scipy.linalg.solve_triangular(lower.T, step, lower=False)
        tril = lower_root(tril @ scipy.linalg.solve_triangular(lower, np.eye(n), lower=True).T)
        if settling >= SETTLE or budget.spent():
            break
    return Fitted(Student.one(mean, tril), np.array(elbos), bool(last < max(3 * noise, EXACT)), last)


def _seen(target: Target, mean: Points, tril: Points, draws: Points) -> tuple[float, Points, Points] | None:
    """The ELBO of a Gaussian, and those standard draws where the density is finite with their scores in the Gaussian's coordinates.

    ``None`` if the density is not finite at too many of them.
    """
    values, gradients = target.finite(mean + draws @ tril.T)
    good = np.isfinite(values)
    if good.mean() < FINITE:
        return None
    entropy = np.log(np.diag(tril)).sum() + len(mean) / 2 * (np.log(2 * np.pi) + 1)
    return float(values[good].mean() + entropy), draws[good], gradients[good] @ tril


def batch_and_match(target: Target, start: Student, *, seed: int, iterations: int = 60) -> Fitted:
    r"""The Gaussian whose scores match the target's, from a Gaussian nearby: an alternative to the highest ELBO.

    Each iteration minimises :math:`\mathrm{E}\,\|\nabla \log q - \nabla \log p\|^2` in the metric of q over a batch of draws,
    plus a divergence from the last Gaussian, in closed form.

    References:
        Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei, Saul, *Batch and match: black-box variational inference with a
        score-based divergence*, https://arxiv.org/abs/2402.14758
    """
    random = np.random.default_rng(seed)
    mean, tril = start.means[0].copy(), start.trils[0].copy()
    n = len(mean)
    count = max(FEWEST_DRAWS, DRAWS_PER_UNKNOWN * n)
    elbos: list[float] = []
    last = np.inf
    for t in range(iterations):
        seen = _seen(target, mean, tril, random.normal(size=(count, n)))
        if seen is None:
            tril = SHRINK * tril
            continue
        elbo, draws, scores = seen
        elbos.append(elbo)
        stage(f"scores matched, step {len(elbos)}: ELBO {elbos[-1]:.2f}")
        # What the batch weighs beside the last Gaussian; squared, so that noise averages out.
        weight = count * n / (t + 1) ** 2
        middle, slope = draws.mean(axis=0), scores.mean(axis=0)
        part = weight / (1 + weight)
        centred, inclined = draws - middle, scores - slope
        u = weight * (inclined.T @ inclined) / len(draws) + part * np.outer(slope, slope)
        v = np.eye(n) + weight * (centred.T @ centred) / len(draws) + part * np.outer(middle, middle)
        root = scipy.linalg.cholesky(v, lower=True)
        values_u, vectors = np.linalg.eigh(np.eye(n) + 4 * root.T @ u @ root)
        inner = (vectors * (2 / (1 + np.sqrt(np.maximum(values_u, 1.0))))) @ vectors.T
        covariance = root @ inner @ root.T
        move = part * (covariance @ slope + middle)
        last = float(np.sqrt(move @ move + np.sum((covariance - np.eye(n)) ** 2) / 2))
        mean = mean + tril @ move
        tril = lower_root(tril @ scipy.linalg.cholesky((covariance + covariance.T) / 2, lower=True))
        if budget.spent():
            break
    settled = last < SETTLED * np.sqrt(n * (n + 3) / 2)
    return Fitted(Student.one(mean, tril), np.array(elbos), bool(settled), last)
