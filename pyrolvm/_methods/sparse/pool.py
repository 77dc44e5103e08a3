"""Draws of shared unknowns with importance weights, from proposals that learn of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._base.importance import HEAVY_VARIANCE, Weights, khat_of_variance, weigh
from pyrolvm._methods.sparse.marginal import Local
from pyrolvm.family.importance import Weighed, beside, refitted
from pyrolvm.family.student import Student

__all__ = ["ENOUGH", "Density", "Pool", "heaviest_variance", "held", "log_ratio", "weigh_shared"]

Array = NDArray[np.float64]
Density = Callable[[Array], tuple[Array, Local | None]]
"""Log densities at points ``(S, K)``, and the blocks given each where they are known."""

FIRST, LEAST, MOST = 256, 64, 8_192
"""Draws of the first proposal, of each further one at least, and of all together at most."""

ENOUGH = 1_000.0
"""Effective draws at which no more are taken."""

HEAVY, TAILS = 0.5, 3.0
"""The k-hat above which weights have no variance, and how many times the effective draws it takes there."""

FREEDOM, RADIAL = 30.0, 10.0
"""Degrees of freedom of the first proposal: tails that are heavier than a posterior's, and not much. At least so many, and the
square of the number of unknowns over the second, since in many dimensions a common stretch of all is a large change."""

HEAVIEST = 5.0
"""The least degrees of freedom of a proposal, or the number of unknowns where that is more."""

GOOD = 0.7
"""The share of effective draws from which on a proposal is left as it is."""

MATCHED, BESIDE = 5, 8
"""Effective draws for each unknown from which on a proposal is fitted as well as may be; and the share of draws, one in so many, that
are then taken beside it at a time."""

POOR, TRIALS = 0.03, 1_024
"""The share of effective draws below which, after so many draws, more are not worth their time."""


@dataclass(frozen=True)
class Pool:
    """Weighed draws of the shared unknowns.

    Attributes:
        points: shape ``(S, K)``.
        log_p: their log densities, blocks integrated out.
        weights: Pareto smoothed, summing to one, shape ``(S,)``.
        log_q: the log density of all proposals together.
        figures: what the weights say; its evidence is that of the problem.
        local: the blocks given each point; ``None`` where there is no room for them.
        rounds: how many proposals there were.
        base: log densities as they were computed, without what was added to them.
        family: the last proposal.
        seen: the quantities whose variances are looked at, shape ``(S, k)``; of none where nothing is.
    """

    points: Array
    log_p: Array
    weights: Array
    log_q: Array
    figures: Weights
    local: Local | None
    rounds: int
    base: Array
    family: Student
    seen: Array = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    @property
    def tails(self) -> float:
        """The k-hat of the variance of a quantity, the largest there is; minus infinity where none was looked at."""
        return heaviest_variance(self.log_weight, self.seen)[0]

    @property
    def log_weight(self) -> Array:
        """Log p less log q; minus infinity where there is no density."""
        return log_ratio(self.log_p, self.log_q)

    def times(self, nats: float) -> Pool:
        """The pool of a posterior of which so much more, as a logarithm, has the same shape."""
        figures = replace(self.figures, evidence=self.figures.evidence + nats, elbo=self.figures.elbo + nats)
        return replace(self, log_p=self.log_p + nats, figures=figures)

    def shifted(self, by: Array) -> Pool:
        """The pool with log densities that are higher than their base by so much."""
        log_p = self.base + by
        figures, weights = weigh(log_ratio(log_p, self.log_q))
        return replace(self, log_p=log_p, figures=figures, weights=weights)


def log_ratio(one: Array, other: Array) -> Array:
    """The difference of log densities; minus infinity where the first has none, or neither is finite."""
    both = np.isfinite(one) & np.isfinite(other)
    return np.subtract(one, other, out=np.full(one.shape, -np.inf), where=both)


def weigh_shared(
    density: Density,
    start: Student,
    *,
    seed: int,
    enough: float = ENOUGH,
    most: int = MOST,
    change: Callable[[Array], Array] | None = None,
    quantities: Callable[[Array], Array] | None = None,
) -> Pool:
    """Draws from proposals that are each fitted to the weights of all draws before, weighed by the mixture of all.

    Args:
        density: what is weighed.
        start: the first proposal.
        seed: makes it repeatable.
        enough: effective draws at which no more are taken.
        most: draws at most.
        change: what is added to log densities.
        quantities: what unknowns are as the program has them, shape ``(S, k)``, whose variances have weights' tails of their own.

    Raises:
        FitError: if no draw has a density.

    References:
        Cornuet, Marin, Mira, Robert, *Adaptive multiple importance sampling*, https://doi.org/10.1111/j.1467-9469.2011.00756.x
    """
    family = start.with_freedom(max(FREEDOM, start.size**2 / RADIAL))
    fitted, families = family, list[Student]()
    counts: list[int] = []
    local: list[Local] = []
    points, base, seen = np.zeros((0, start.size)), np.zeros(0), list[Array]()
    count = FIRST
    while True:
        drawn = family.sample(count, seed + len(counts))
        points = np.concatenate([points, drawn])
        values, given = density(drawn)
        base = np.concatenate([base, values])
        local = [*local, given] if given is not None else []
        families, counts = [*families, family], [*counts, count]
        shares = np.log(np.array(counts) / sum(counts))
        parts = [one.log_density(points) + share for one, share in zip(families, shares, strict=True)]
        log_q = scipy.special.logsumexp(parts, axis=0)
        log_p = base if change is None else base + change(points)
        log_weight = log_ratio(log_p, log_q)
        figures, weights = weigh(log_weight)
        if not np.isfinite(log_weight).any():
            raise FitError(
                f"none of {len(points):,} draws of the Gaussian at the mode has a density. Fix: bound scales away from zero, or use "
                "lvm.nuts(problem)."
            )
        if quantities is not None:
            seen.append(quantities(drawn))
        looked = np.concatenate(seen) if seen else np.zeros((0, 0))
        tails, tail = heaviest_variance(log_weight, looked)
        wanted = enough if figures.khat <= HEAVY else TAILS * enough
        full = figures.ess >= wanted and figures.reliable and not tails > HEAVY_VARIANCE
        poor = sum(counts) >= TRIALS and figures.ess < POOR * sum(counts)
        if full or poor or sum(counts) >= most or budget.spent():
            given = Local.joined(local) if len(local) == len(counts) else None
            return Pool(points, log_p, weights, log_q, figures, given, len(counts), base, fitted, looked)
        count = min(_more(wanted, figures.ess, sum(counts)), most - sum(counts))
        light = figures.khat > HEAVY or tails > HEAVY_VARIANCE  # tails: of weights too heavy, of the proposal too light
        known = Weighed(points, log_p, log_q, weights, figures, fitted)
        heaviest = max(HEAVIEST, start.size)
        if light and fitted.freedoms[0] <= heaviest and figures.ess > MATCHED * start.size:
            # Which was not enough: a tail that is no ellipsoid's. What comes next goes where weights are heaviest.
            at = tail if tail is not None and figures.khat <= HEAVY else int(np.argmax(weights))
            family, count = (
                beside(known, at),
                min(max(count, LEAST), max(LEAST, sum(counts) // BESIDE), most - sum(counts)),
            )
            continue
        if (figures.ess < GOOD * sum(counts) or light) and figures.ess > 2:
            fitted = refitted(fitted.with_freedom(heaviest) if light else fitted, known)
        family = fitted


def heaviest_variance(log_weight: Array, values: Array) -> tuple[float, int | None]:
    """The largest k-hat of a quantity's variance, and the draw that counts most in it; quantities ``(S, k)`` that vary."""
    worst, place = -math.inf, None
    good = np.isfinite(log_weight)
    share = np.exp(log_weight - np.max(log_weight[good], initial=-math.inf), where=good, out=np.zeros(len(good)))
    for column in values.T:
        if np.ptp(column[good]) > 0:
            khat = khat_of_variance(log_weight, column)
            if khat > worst:
                gap = column - share @ column / share.sum()
                worst, place = khat, int(np.argmax(share * gap**2))
    return worst, place


def held(pool: Pool) -> Weighed:
    """A pool as adaptation takes it."""
    return Weighed(pool.points, pool.log_p, pool.log_q, pool.weights, pool.figures, pool.family)


def _more(enough: float, effective: float, count: int) -> int:
    """How many draws more it takes if they are as effective as those so far, but no more than so many again."""
    wanted = math.ceil(1.1 * (enough - effective) * count / max(effective, 1.0))
    return int(min(max(wanted, LEAST), count))
