"""Proposals that adapt to the weights of their draws, and draws that the weights correct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from threadpoolctl import threadpool_limits

from pyrolvm._base import budget
from pyrolvm._base.importance import Weights, weigh
from pyrolvm._base.progress import stage
from pyrolvm._program.density.target import Points, Target
from pyrolvm.family.student import Student

__all__ = ["Weighed", "adapt", "beside", "draw_weighed", "heavier", "refitted", "resample"]

FREEDOMS = (math.inf, 30.0, 10.0, 4.0)
TRIAL = 8192
ROUNDS = 8
"""Rounds of adaptation at most."""

MOST_COMPONENTS = 6
POOR_SHARE = 0.15
"""Draws that are less effective than this are worth rounds of four times as many."""

GOOD_SHARE = 0.5
"""Draws that are this effective, with light tails, need no adaptation."""

GOOD_KHAT = 0.45
DEFENCE = 0.1
"""The least weight of a component with heavy tails once there is one."""


@dataclass(frozen=True)
class Weighed:
    """Draws of a proposal with their weights.

    Attributes:
        points: shape ``(count, n)``.
        log_p: the target's log density at them.
        log_q: the proposal's.
        weights: Pareto smoothed, summing to one.
        figures: what they say.
        family: the proposal.
    """

    points: Points
    log_p: Points
    log_q: Points
    weights: Points
    figures: Weights
    family: Student

    @property
    def share(self) -> float:
        """Effective draws as a share of all."""
        return self.figures.ess / self.figures.num_draws

    @property
    def score(self) -> float:
        """The share, lowered where the tail of the weights says that it is not to be trusted."""
        excess = max(self.figures.khat - 0.5, 0.0) if math.isfinite(self.figures.khat) else 10.0
        return self.share * math.exp(-4 * excess)


def draw_weighed(target: Target, family: Student, count: int, seed: int) -> Weighed:
    """Draws and weighs."""
    with threadpool_limits(1, user_api="blas"):
        points = family.sample(count, seed)
        log_p = target.values(points)
        log_q = family.log_density(points)
    figures, weights = weigh(np.where(np.isfinite(log_p), log_p - log_q, -np.inf))
    return Weighed(points, log_p, log_q, weights, figures, family)


def heavier(target: Target, family: Student, seed: int) -> tuple[Student, Weighed]:
    """The family with the degrees of freedom that make the most of its draws."""
    found: list[tuple[Student, Weighed]] = []
    for freedom in FREEDOMS:
        if not found or not budget.spent():
            one = family.with_freedom(freedom)
            found.append((one, draw_weighed(target, one, TRIAL, seed)))
    return max(found, key=lambda pair: pair[1].score)


def adapt(target: Target, family: Student, seed: int, *, rounds: int | None = None) -> tuple[Student, Weighed]:
    """Fits a mixture of Student t distributions to the weighted draws of the last one, as long as that pays.

    Args:
        target: the density.
        family: where to start.
        seed: makes it repeatable.
        rounds: how often at most; zero chooses the degrees of freedom alone, ``None`` leaves the number open.

    References:
        Hoogerheide, Opschoor, van Dijk, *A class of adaptive importance sampling weighted EM algorithms for efficient and
        robust posterior and predictive simulation*, https://doi.org/10.1016/j.jeconom.2012.06.011;
        Cappé, Douc, Guillin, Marin, Robert, *Adaptive importance sampling in general mixture classes*,
        https://arxiv.org/abs/0710.4242
    """
    with threadpool_limits(1, user_api="blas"):
        return _adapt(target, family, seed, ROUNDS if rounds is None else rounds)


def _adapt(target: Target, family: Student, seed: int, rounds: int) -> tuple[Student, Weighed]:
    best = heavier(target, family, seed)
    for count in (TRIAL, 4 * TRIAL):
        best = _improve(target, best, count, seed, rounds)
        if best[1].share > POOR_SHARE or budget.spent():
            break
    return best


def _improve(
    target: Target, best: tuple[Student, Weighed], count: int, seed: int, rounds: int
) -> tuple[Student, Weighed]:
    """Rounds of expectation maximisation on ``count`` draws each."""
    random = np.random.default_rng(seed)
    trial, held = best
    for round in range(rounds):
        if budget.spent() or (best[1].share > GOOD_SHARE and best[1].figures.khat < GOOD_KHAT):
            break
        if FREEDOMS[-1] not in trial.freedoms:
            trial = _defended(trial, held)
        elif round % 2 == 0 and len(trial.weights) < MOST_COMPONENTS:
            trial = _with_component(trial, held, random)
        trial = refitted(trial, held)
        held = draw_weighed(target, trial, count, seed + 1 + round)
        stage(f"{len(trial.weights)} components, {held.share:.0%} of the draws effective")
        if held.score > best[1].score:
            best = (trial, held)
        elif held.score < best[1].score / 5:
            trial, held = best
    return best


def _defended(family: Student, held: Weighed) -> Student:
    """With a component of heavy tails, wide at first, for where the others' tails are too light."""
    tril = _safe_cholesky(2 * _covariance(held))
    if tril is None:
        return family
    return Student(
        np.append((1 - DEFENCE) * family.weights, DEFENCE),
        np.concatenate([family.means, (held.weights @ held.points)[None]]),
        np.concatenate([family.trils, tril[None]]),
        np.append(np.minimum(family.freedoms, FREEDOMS[1]), FREEDOMS[-1]),
    )


def _covariance(held: Weighed) -> Points:
    centred = held.points - held.weights @ held.points
    return np.asarray((centred.T * held.weights) @ centred)


def _with_component(family: Student, held: Weighed, random: np.random.Generator) -> Student:
    """One component more, where a heavy weight shows that there is too little of the proposal."""
    chosen = random.choice(len(held.points), p=held.weights)
    tril = _safe_cholesky(0.5 * _covariance(held))
    if tril is None:
        return family
    return Student(
        np.append(0.8 * family.weights, 0.2),
        np.concatenate([family.means, held.points[chosen][None]]),
        np.concatenate([family.trils, tril[None]]),
        np.append(family.freedoms, 10.0),
    )


def beside(held: Weighed, place: int) -> Student:
    """A Student t distribution as wide as weighed draws are, around one of them that counts too much: the one of the heaviest weight.

    References:
        Raftery and Bao, *Estimating and projecting trends in HIV/AIDS generalized epidemics using incremental mixture importance
        sampling*, https://doi.org/10.1111/j.1541-0420.2010.01399.x
    """
    tril = _safe_cholesky(_covariance(held))
    return held.family if tril is None else Student.one(held.points[place], tril, FREEDOMS[2])


def refitted(family: Student, held: Weighed, steps: int = 10) -> Student:
    """Weighted expectation maximisation: the likelihood of the draws under the mixture, with their weights as counts."""
    points, counts, n = held.points, held.weights, family.size
    whole = _covariance(held)
    wide = family.freedoms == FREEDOMS[-1]
    for _ in range(steps):
        parts = family.log_densities(points)
        shares = np.exp(parts - scipy.special.logsumexp(parts, axis=0)) * counts
        weights, means, trils = family.weights.copy(), family.means.copy(), family.trils.copy()
        for k, share in enumerate(shares):
            total = share.sum()
            weights[k] = max(total, 1e-4)
            effective = total**2 / max(np.sum(share**2), 1e-300)
            if effective < 2 * n:
                continue
            freedom = family.freedoms[k]
            if math.isinf(freedom):
                pull = share
            else:
                distance = np.sum(
                    scipy.linalg.solve_triangular(trils[k], (points - means[k]).T, lower=True) ** 2, axis=0
                )
                pull = share * (freedom + n) / (freedom + distance)
            means[k] = pull @ points / pull.sum()
            gap = points - means[k]
            covariance = (gap.T * pull) @ gap / total
            shrink = n / (effective + n)
            tril = _safe_cholesky((1 - shrink) * covariance + shrink * 0.3 * whole)
            if tril is not None:
                trils[k] = tril
        weights = weights / weights.sum()
        if wide.any() and weights[wide].sum() < DEFENCE:
            weights[wide] = DEFENCE / wide.sum()
            weights[~wide] *= (1 - DEFENCE) / weights[~wide].sum()
        family = Student(weights, means, trils, family.freedoms)
    return family


def _safe_cholesky(covariance: Points) -> Points | None:
    scale = np.sqrt(np.diag(covariance))
    if not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    try:
        lower: Points = np.linalg.cholesky(covariance / np.outer(scale, scale) + 1e-10 * np.eye(len(scale)))
    except np.linalg.LinAlgError:
        return None
    return scale[:, None] * lower


def resample(weights: Points, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of draws in proportion to their weights, by systematic resampling in random order.

    References:
        Kitagawa, *Monte Carlo filter and smoother for non-Gaussian nonlinear state space models*, JCGS 5, 1996
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(weights))
    edges = np.cumsum(weights[order])
    places = (np.arange(count) + random.random()) / count * edges[-1]
    chosen = order[np.minimum(np.searchsorted(edges, places), len(order) - 1)]
    return random.permutation(chosen)
