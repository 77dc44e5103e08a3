"""Weighed draws whose blocks are integrated as finely as it takes, at few of them where a polynomial tells the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.quadrature import Rule, finest, rules
from pyrolvm._methods.sparse.marginal import Marginal, Nest
from pyrolvm._methods.sparse.pool import ENOUGH, Pool, held, log_ratio, weigh_shared
from pyrolvm._methods.sparse.search import at_origin, find_gaussian, polished, slopes_off
from pyrolvm.family.importance import refitted, resample
from pyrolvm.family.student import Student

__all__ = ["Found", "find_finely", "weigh_finely"]

Array = NDArray[np.float64]

COMPARED, COMPARED_AGAIN, AGAIN = 16, 32, 2
"""Draws of the Gaussian at which rules are compared; of the posterior, which may reach where it does not; and how often at most."""

SHAPE = 0.05
"""Nats by which the next two finer rules may change how densities differ between draws, for the coarser one to do."""

SHIFT, FEW = 0.01, 4
"""Nats by which finer ones may still shift all of them, for the evidence; and the draws that tell."""

COARSE = 1.0
"""The same, for a rule by which draws are found that a polynomial then corrects."""

OFF, OFF_FIRST = 0.3, 3.0
"""Nats an sd by which gradients may be off what values say, for the Gaussian to be near enough; and where ascents start."""

PILOT = 200.0
"""Effective draws by which it is first told what a finer rule changes."""

TIMES, SQUARES, PRODUCTS = 3, 60, 12
"""Draws that a polynomial is fitted to, for each coefficient; up to so many unknowns it has squares, and products."""

LEFT = 0.15
"""Nats that a polynomial may leave: they are noise between draws, and move no mean."""

GOOD, ENOUGH_STILL = 0.9, 0.5
"""The share of points that must have a density for a polynomial to be fitted, and of the effective draws that must be left after it."""

FITTED, HEAVY = 300, 10.0
"""Draws that a polynomial is fitted to beside a Gaussian, at most; and their degrees of freedom, so that some are in its tails."""

MANY, FURTHEST = 4.0, 32
"""How many times the effective draws are taken where they cost nothing; and the furthest, at which the density is taken as it is."""


@dataclass(frozen=True)
class Found:
    """Weighed draws.

    Attributes:
        pool: the draws.
        rule: how blocks were integrated.
        left: nats from draw to draw that are not known.
        fitted: at how many points the density was taken, where a polynomial tells that of the draws; 0 where all were.
        unsettled: nats that the evidence may be off by, whatever its Monte Carlo error.
    """

    pool: Pool
    rule: Rule
    left: float
    fitted: int = 0
    unsettled: float = 0.0


@dataclass(frozen=True)
class _Finer:
    """What rules finer than one do to log densities, in nats.

    Attributes:
        shift: what they shift all of them by: a constant, which is of the evidence alone.
        spread: by how much they change differences.
        unsettled: by how much the shift may be off.
    """

    shift: float = 0.0
    spread: float = 0.0
    unsettled: float = 0.0

    def __add__(self, other: _Finer) -> _Finer:
        """What finer rules do for two layers of blocks."""
        return _Finer(
            self.shift + other.shift, max(self.spread, other.spread), math.hypot(self.unsettled, other.unsettled)
        )


@dataclass(frozen=True)
class _Needed:
    """Which rules it takes.

    Attributes:
        fine: the number of the coarsest that finer ones only shift.
        base: of the coarsest that is near enough to it to find draws by.
        finer: what finer ones do to the first.
    """

    fine: int
    base: int
    finer: _Finer


@dataclass(frozen=True)
class _Weighing:
    """What is weighed, by which rules it may be, and until when.

    Attributes:
        marginal: the density, whose rule is changed.
        levels: the rules for its blocks, the coarsest first.
        seed: makes it repeatable.
        enough: effective draws at which no more are taken.
        quantities: what shared unknowns are as the program has them, whose variances are looked at as well.
    """

    marginal: Marginal
    levels: list[Rule]
    seed: int
    enough: float
    quantities: Callable[[Array], Array] | None


def find_finely(marginal: Marginal, seed: int) -> tuple[Student, Array]:
    """The Gaussian of a density by integrals so fine that its gradients are those of its values, and the places at which ascents ended.

    Args:
        marginal: the density, whose rules are changed.
        seed: of the starts.

    Raises:
        FitError: if there is no curvature where ascents end.
    """
    if not marginal.size:  # all are in blocks: there is nothing to find, and one integral of each to take
        for layer in marginal.layers:
            layer.rule = (layer.rule, *layer.finer)[-1]
        return Student.one(np.zeros(0), np.zeros((0, 0))), np.zeros((1, 0))
    units = at_origin(marginal)
    if marginal.shape[0]:  # ascents by slopes that are far off get stuck
        _refined(marginal, units, OFF_FIRST)
    gaussian, places = find_gaussian(marginal, seed, units=units)
    refined = False
    while marginal.shape[0] and _refined(marginal, gaussian, OFF):
        refined = True
        gaussian, _ = find_gaussian(marginal, seed, gaussian.means[0], units)
    if refined and len(places) > 1:  # ascents by slopes that are off may have ended anywhere
        gaussian, places = find_gaussian(marginal, seed, units=units)
    return gaussian, places


def _refined(marginal: Marginal, gaussian: Student, enough: float) -> bool:
    """Takes finer rules, of the innermost blocks first, until slopes are as near as is enough; whether there were any to take."""
    layers, refined = marginal.layers, False
    off = slopes_off(marginal, gaussian)
    if not math.isfinite(off):  # where there is no density, as there may be none at the origin, nothing is known
        return False
    for layer in layers:
        for finer in layer.finer:
            if off <= enough:
                return refined
            before, layer.rule = layer.rule, finer
            now = slopes_off(marginal, gaussian)
            if now > 0.5 * off and layer is not layers[-1]:  # it is another layer's
                layer.rule = before
                break
            off, refined = now, True
    return refined


def weigh_finely(
    marginal: Marginal,
    start: Student,
    *,
    seed: int,
    enough: float = ENOUGH,
    quantities: Callable[[Array], Array] | None = None,
) -> Found:
    """Weighed draws whose blocks are integrated as finely as it takes.

    Where the density is that of the Gaussian but for a polynomial of the second degree, which is measured, it is taken at the points
    that this is fitted to. Otherwise draws are found by the coarsest integral that will do, and what finer ones change, again a smooth
    function of the shared unknowns, is taken at some and fitted. Where polynomials leave too much, all draws are integrated finely.

    Args:
        marginal: the density, whose rule is changed.
        start: its Gaussian.
        seed: makes it repeatable.
        enough: effective draws at which no more are taken.
        quantities: what shared unknowns are as the program has them, whose variances are looked at as well.
    """
    if not marginal.size:
        value = float(marginal.values(np.zeros((1, 0)))[0])
        pool = weigh_shared(lambda points: (np.full(len(points), value), None), start, seed=seed, enough=enough)
        return Found(pool, marginal.rule, 0.0)
    levels = rules(marginal.shape[1])
    climbed = len(levels) - 1 - len(marginal.finer)
    asked = _Weighing(marginal, levels, seed, enough, quantities)
    needed = _needed(asked, start.sample(COMPARED, seed))
    if needed.base > climbed:  # and not by a coarser one, whose slopes may be off
        marginal.rule = levels[needed.base]
        start = polished(marginal, start, seed=seed)
    found = _weighed(asked, start, needed)
    for _ in range(AGAIN):
        if not found.pool.figures.reliable:  # so that its draws tell nothing of the posterior
            break
        before = [layer.rule for layer in marginal.layers]
        again = _needed(asked, _drawn(found.pool, seed), needed.fine)
        settled = before == [layer.rule for layer in marginal.layers]
        if settled:  # as fine as the posterior takes, and not only its Gaussian
            pool = found.pool.times(again.finer.shift - needed.finer.shift)
            left = max(found.left, again.finer.spread)
            return replace(found, pool=pool, left=left, unsettled=again.finer.unsettled)
        needed = again
        found = _weighed(asked, found.pool.family, needed)
    return found


def _drawn(pool: Pool, seed: int) -> Array:
    """Draws of the posterior, to compare rules at."""
    return pool.points[np.unique(resample(pool.weights, COMPARED_AGAIN, seed))]


def _needed(asked: _Weighing, points: Array, least: int = 0) -> _Needed:
    """Which rules it takes by some draws, no coarser ones than there are; all layers are left with the finest of these."""
    marginal, levels = asked.marginal, asked.levels
    inside = _refine_inside(marginal, points)
    needed = _compared(marginal, marginal, levels, points, least)
    marginal.rule = levels[needed.fine]
    return replace(needed, finer=inside + needed.finer)


def _weighed(asked: _Weighing, start: Student, needed: _Needed) -> Found:
    """Weighed draws by rules that are known to be needed; the density is left with the finest of them."""
    marginal, fine, finer = asked.marginal, asked.levels[needed.fine], needed.finer
    marginal.rule = fine
    around = _around(marginal, start, asked.seed)
    if around is not None and around.left <= LEFT:
        pool = weigh_shared(
            lambda points: (start.log_density(points), None),
            start,
            seed=asked.seed,
            enough=MANY * asked.enough,
            change=around,
            quantities=asked.quantities,
        )
        pool = pool.shifted(_with_far(marginal, pool, around, fine, fine, FURTHEST) + finer.shift)
        if pool.figures.reliable and pool.figures.ess >= ENOUGH_STILL * asked.enough:
            return Found(pool, fine, max(around.left, finer.spread), around.fitted, finer.unsettled)
    found = _by_rules(asked, start, needed)
    marginal.rule = fine
    return replace(found, unsettled=finer.unsettled)


def _refine_inside(marginal: Marginal, points: Array) -> _Finer:
    """Takes for blocks in blocks the coarsest rules that finer ones only shift; what these do together."""
    found, layer = _Finer(), marginal.layer
    while isinstance(layer, Nest):
        inner = layer.inner
        levels = [inner.rule, *inner.finer]
        needed = _compared(marginal, inner, levels, points)
        inner.rule = levels[needed.fine]
        found, layer = found + needed.finer, inner.layer
    return found


def _by_rules(asked: _Weighing, start: Student, needed: _Needed) -> Found:
    """Weighed draws found by a coarse rule and corrected by a polynomial; where it leaves too much, by the fine one."""
    marginal, seed, enough, quantities = asked.marginal, asked.seed, asked.enough, asked.quantities
    base, fine, finer = asked.levels[needed.base], asked.levels[needed.fine], needed.finer
    marginal.rule = base
    density = marginal.values_with_blocks
    if needed.base == needed.fine:
        pool = weigh_shared(density, start, seed=seed, enough=enough, quantities=quantities)
        return Found(pool.shifted(np.full(len(pool.points), finer.shift)), base, finer.spread)
    first = weigh_shared(density, start, seed=seed, enough=min(enough, PILOT))
    change = _changed(marginal, first, base, fine)
    if change is not None:  # what is drawn next is drawn for the finer integrals
        family = refitted(first.family, held(first.shifted(change(first.points))))
        pool = weigh_shared(density, family, seed=seed + 1, enough=enough, change=change, quantities=quantities)
        again = _changed(marginal, pool, base, fine)
        if again is not None and again.left <= LEFT:
            pool = pool.shifted(_with_far(marginal, pool, again, base, fine) + finer.shift)
            if pool.figures.reliable and pool.figures.ess >= ENOUGH_STILL * enough:
                return Found(pool, fine, max(again.left, finer.spread))
        marginal.rule = fine
        pool = weigh_shared(density, pool.family, seed=seed + 2, enough=enough, quantities=quantities)
        return Found(pool.shifted(np.full(len(pool.points), finer.shift)), fine, finer.spread)
    pool = weigh_shared(density, start, seed=seed, enough=enough, quantities=quantities)
    marginal.rule = fine
    gap = log_ratio(marginal.values(pool.points), pool.base)
    return Found(pool.shifted(gap + finer.shift), fine, finer.spread)


def _with_far(
    marginal: Marginal, pool: Pool, change: _Change, base: Rule, fine: Rule, most: int | None = None
) -> Array:
    """What the finer rule changes at a pool's draws: by the polynomial, and as it is at those beyond the ones that it is fitted to."""
    gap, far = change(pool.points), change.beyond(pool.points)[:most]
    if len(far):
        marginal.rule = fine
        gap[far] = log_ratio(marginal.values(pool.points[far]), pool.base[far])
        marginal.rule = base
    return gap


def _compared(marginal: Marginal, layer: Marginal, levels: list[Rule], points: Array, least: int = 0) -> _Needed:
    """What rules for one layer's blocks do to a density, of which none below ``least`` will do; the layer is left with one of them."""
    seen: list[Array] = []
    fine = 0
    for rule in levels:
        layer.rule = rule
        seen.append(marginal.values(points))
        fine = next(
            k
            for k in range(max(0, len(seen) - 3), len(seen))
            if k == len(seen) - 1 or (k >= least and _spread(seen[k:]) < SHAPE)
        )
        if fine == len(seen) - 3:  # what the next one changes alone may be half of it
            break
    shift, last = _apart(seen[-1], seen[fine])[0], seen[-1][:FEW]
    more = _apart(seen[-1], seen[-2])[0] if len(seen) > 1 else 0.0
    for rule in [*levels[len(seen) :], *finest(layer.shape[1])]:
        if abs(more) < SHIFT:
            break
        layer.rule = rule
        before, last = last, marginal.values(points[:FEW])  # by what all draws are shifted, few tell
        more = _apart(last, before)[0]
        shift += more
    base = next(k for k in range(fine + 1) if k == fine or _apart(seen[k], seen[fine])[1] < COARSE)
    spread = _spread(seen[fine:])
    if 0 < fine == len(seen) - 1:  # the finest is not fine enough, and as much again may be left
        spread = 2 * _apart(seen[-1], seen[-2])[1]
    return _Needed(fine, base, _Finer(shift, spread, abs(more)))


def _spread(seen: list[Array]) -> float:
    """By how much the second and later of some values change differences of the first, in nats."""
    return max((_apart(later, seen[0])[1] for later in seen[1:]), default=0.0)


def _apart(one: Array, other: Array) -> tuple[float, float]:
    gap = log_ratio(one, other)
    gap = gap[np.isfinite(gap)]
    return (float(gap.mean()), float(gap.std())) if len(gap) > 1 else (0.0, math.inf)


@dataclass(frozen=True)
class _Change:
    """What a log density has beside another: a polynomial in the shared unknowns.

    Attributes:
        mean: where it is centred, shape ``(K,)``.
        sd: the unit of each unknown, shape ``(K,)``.
        coefficients: of one, the unknowns, and their squares where there are few.
        left: nats that it leaves at a point that it is not fitted to.
        fitted: how many points it is fitted to.
        bounds: between which its values are; a polynomial grows without bound where it is fitted to nothing.
        inverse: of the features of the points that it is fitted to, shape ``(F, F)``: their lengths are leverages.
        reach: the largest leverage of these.
    """

    mean: Array
    sd: Array
    coefficients: Array
    left: float
    fitted: int
    inverse: Array
    reach: float
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def beyond(self, points: Array) -> NDArray[np.int64]:
        """Points that are further out than those that it is fitted to, by number, the furthest first."""
        leverage = np.sum((_features((points - self.mean) / self.sd) @ self.inverse) ** 2, axis=1)
        order = np.argsort(-leverage, kind="stable")
        found: NDArray[np.int64] = order[: int((leverage > self.reach).sum())]
        return found

    def __call__(self, points: Array) -> Array:
        return np.clip(_features((points - self.mean) / self.sd) @ self.coefficients, *self.bounds)


def _features(scaled: Array) -> Array:
    size = scaled.shape[1]
    more = [scaled**2] if size <= SQUARES else []
    if size <= PRODUCTS:
        one, other = np.triu_indices(size, 1)
        more.append(scaled[:, one] * scaled[:, other])
    return np.concatenate([np.ones((len(scaled), 1)), scaled, *more], axis=1)


def _fitted(points: Array, gap: Array, mean: Array, sd: Array) -> _Change:
    """The polynomial through gaps at points, and what it leaves at each when fitted to the others."""
    good = np.isfinite(gap)
    features = _features((points[good] - mean) / sd)
    orthogonal, upper = np.linalg.qr(features)
    coefficients = np.linalg.lstsq(upper, orthogonal.T @ gap[good], rcond=None)[0]
    leverage = np.sum(orthogonal**2, axis=1)
    left = (gap[good] - features @ coefficients) / (1 - np.minimum(leverage, 0.99))
    reach = float(leverage.max()) * (1 + 1e-9)
    return _Change(
        mean, sd, coefficients, float(np.sqrt(np.mean(left**2))), int(good.sum()), np.linalg.pinv(upper), reach
    )


def _around(marginal: Marginal, start: Student, seed: int) -> _Change | None:
    """What the density has beside its Gaussian; ``None`` where a polynomial takes too many points."""
    mean, tril = start.means[0], start.trils[0]
    sd = np.sqrt(np.sum(tril**2, axis=1))
    wanted = max(4 * COMPARED, TIMES * _features(mean[None]).shape[1])
    if wanted > FITTED:
        return None
    points = start.with_freedom(max(HEAVY, start.size**2 / HEAVY)).sample(wanted, seed + 1)
    gap = log_ratio(marginal.values(points), start.log_density(points))
    return _fitted(points, gap, mean, sd) if np.isfinite(gap).mean() > GOOD else None


def _changed(marginal: Marginal, pool: Pool, base: Rule, fine: Rule) -> _Change | None:
    """What a finer rule changes, fitted at some of a pool's draws; ``None`` where these are too few to fit it."""
    mean = pool.weights @ pool.points
    sd = np.sqrt(np.maximum(pool.weights @ (pool.points - mean) ** 2, 1e-300))
    place = np.unique(resample(pool.weights, len(pool.weights), 0))
    wanted = max(COMPARED, TIMES * _features(mean[None]).shape[1])
    if wanted > len(place):
        return None
    some = place[np.linspace(0, len(place) - 1, wanted).astype(int)]
    marginal.rule = fine
    gap = log_ratio(marginal.values(pool.points[some]), pool.base[some])
    marginal.rule = base
    if not np.isfinite(gap).mean() > GOOD:
        return None
    found = _fitted(pool.points[some], gap, mean, sd)
    # What a finer rule adds has bounds: a weight that a parabola makes somewhere far out would hide all others, or be lost.
    seen = gap[np.isfinite(gap)]
    return replace(found, bounds=(float(2 * seen.min() - seen.max()), float(2 * seen.max() - seen.min())))
