r"""Draws of coupled unknowns given shared ones, from a Gaussian to their own law by degrees, weighted exactly in expectation.

Given shared unknowns g, q is a Gaussian with the curvature at the mode, and :math:`r(x) = \log p(x, g, y) - \log q(x)`. A draw
goes from q through :math:`q\, e^{\lambda r}`, with rising :math:`\lambda`, to the law itself; between two of these, windows
of it are drawn again from q given the rest, each taken with its own probability. With w the sum of what r gains from each
:math:`\lambda` to the next, the mean of :math:`e^w` is the density of g with nothing left out, whatever windows were taken; these
only make weights more even.

References:
    Neal, *Annealed importance sampling*, https://arxiv.org/abs/physics/9803008
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._methods.sparse.fields.coupled import Coupled, Given
from pyrolvm._methods.sparse.fields.laplace import FieldMarginal
from pyrolvm._methods.sparse.fields.layout import Layout
from pyrolvm._methods.sparse.fields.windows import Windows, windows

__all__ = ["TRIED", "Annealed", "Annealing"]

Array = NDArray[np.float64]

PAIRS = 16
"""Pairs of opposite draws at each value tried, whose gradients tell from where at the mode the mean is."""

STILL = 1e-6
"""Nats of variance below which a law is its Gaussian."""

NOISE = 0.3
"""The variance of the logarithm of a weight that is aimed at, in nats squared: of less, draws that are more even take longer."""

MOST = 200
"""Steps from the Gaussian to the law at most."""

SHARES, TAKEN, MOVES = (1.0, 0.7, 0.5, 0.35, 0.25), 0.3, 8
"""Shares of a window's law that a move draws again: the largest of which so many moves are taken; and how many are tried."""

TRIED, EACH = 8, 4
"""Values of the shared unknowns at which it is told how many it takes, and draws at each."""


@dataclass(frozen=True)
class Annealed:
    """Coupled unknowns given D values of shared ones.

    Attributes:
        local: the draws, shape ``(D, m)``.
        values: log densities of the shared unknowns, exact in expectation of their exponentials, shape ``(D,)``.
        taken: the share of moves of each window that were taken, shape ``(W,)``.
        drift: by how much what windows gained differs from what the density did: zero if windows do not meet, shape ``(D,)``.
    """

    local: Array
    values: Array
    taken: Array
    drift: Array


@dataclass(frozen=True)
class _Start:
    """The Gaussian, and what the density has beside it.

    Parts that several windows meet are taken to be of the second degree; r is then that of the others and of the rest of these.

    Attributes:
        given: the mode and curvature.
        mean: of the Gaussian, shape ``(D, m)``.
        factors: of the curvatures of the windows alone, every other one's and the others', shapes ``(D, ...)``.
        slope: of the parts that several windows meet, at the mode, shape ``(D, m)``; ``None`` if there are none.
        curved: minus their Hessian there, shape ``(D, ...)``.
    """

    given: Given
    mean: Array
    factors: list[Array]
    slope: Array | None
    curved: Array | None

    def log_density(self, local: Array, layout: Layout) -> Array:
        """Of the Gaussian at points, shape ``(D,)``."""
        gap = local - self.mean
        squared = (gap * layout.product(self.given.hessian, gap)).sum(axis=1)
        half = 0.5 * self.given.log_determinant
        return np.asarray(half - 0.5 * local.shape[1] * math.log(2 * math.pi) - 0.5 * squared)


@dataclass
class _Draws:
    """Where draws are.

    Attributes:
        local: the unknowns, shape ``(D, m)``.
        parts: of the density there, shape ``(D, P)``.
        ratio: r there, shape ``(D,)``.
    """

    local: Array
    parts: Array
    ratio: Array


@dataclass
class Annealing:
    """Draws of coupled unknowns by degrees. Made by :meth:`of`.

    Attributes:
        marginal: the density of the shared unknowns.
        windows: every other window, and the others.
        common: which parts of the density several windows meet, as weights ``(P,)``.
        pull: the mean of gradients around the mode, by which the mean is off it, shape ``(m,)``.
        shares: how much of each list's windows a move draws again: all of it at one.
        steps: how many steps it takes from the Gaussian to the law.
        spread: the variance of r under the Gaussian that this is by, in nats squared.
    """

    marginal: FieldMarginal
    windows: list[Windows]
    common: Array
    pull: Array
    shares: list[float] = field(default_factory=list)
    steps: int = 0
    spread: float = 0.0

    @classmethod
    def of(cls, marginal: FieldMarginal, shared: Array, seed: int) -> Annealing:
        """Windows, and as many steps as it takes at some values of the shared unknowns ``(D, K)``."""
        found = windows(marginal.coupled, seed)
        common = np.any([one.common for one in found], axis=0).astype(float)
        made = cls(marginal, found, common, np.zeros(marginal.coupled.pattern.count), [SHARES[0]] * len(found))
        random = np.random.default_rng([seed, 83])
        given = [marginal.given(np.repeat(point[None], EACH, axis=0)) for point in shared[:TRIED]]
        given = [one for one in given if one.fine.all()]
        made.pull = np.mean([made._pulled(one, random) for one in given], axis=0) if given else made.pull
        ratios = [made._drawn(made._start(one), random).ratio for one in given]
        made.spread = float(np.mean([np.var(ratio, ddof=1) for ratio in ratios])) if ratios else math.inf
        if marginal.coupled.pairs is not None and not made.spread < NOISE * MOST:
            raise FitError(
                f"coupled unknowns of {marginal.joint.problem.name} are far from a Gaussian given the others ({made.spread:.3g} "
                "nats squared). Fix: use lvm.nuts(problem)."
            )
        if not np.isfinite(made.spread):
            made.steps = MOST
        elif made.spread > STILL:
            made.steps = int(np.clip(math.ceil(made.spread / NOISE), 1, MOST))
            made.shares = [made._share(given[0], k, random) for k in range(len(found))]
        return made

    def _share(self, given: Given, k: int, random: np.random.Generator) -> float:
        """How much of windows can be drawn again at the law itself, such that moves are taken."""
        start = self._start(given)
        draws = self._drawn(start, random)
        for share in SHARES:
            self.shares[k] = share
            taken = np.mean([self._moved(start, draws, k, 1.0, random).mean() for _ in range(MOVES)])
            if taken > TAKEN:
                break
        return self.shares[k]

    @property
    def evaluations(self) -> int:
        """How many densities a draw takes, its Newton steps apart."""
        return 2 + self.steps * sum(math.ceil(1 / share) for share in self.shares)

    @property
    def coupled(self) -> Coupled:
        """The density of all unknowns."""
        return self.marginal.coupled

    @property
    def layout(self) -> Layout:
        """Which of the coupled unknowns meet."""
        return self.coupled.pattern.layout

    def __call__(self, shared: Array, seed: int, number: int) -> Annealed:
        """A draw for each value of the shared unknowns ``(D, K)``; other ones for each number."""
        random = np.random.default_rng([seed, 84, number])
        numbers = self.coupled.weighted.numbers + 4 * self.layout.numbers * (self.marginal.size > 0)
        each = max(1, 2 + numbers // self.coupled.weighted.numbers)
        found = [self._annealed(shared[part], random) for part in self.coupled.pieces(len(shared), each)]
        taken = np.mean([one.taken * len(one.local) for one in found], axis=0) * len(found) / len(shared)
        parts = (np.concatenate([getattr(one, name) for one in found]) for name in ("local", "values", "drift"))
        local, values, drift = parts
        return Annealed(local, values, taken, drift)

    def _annealed(self, shared: Array, random: np.random.Generator) -> Annealed:
        budget.check(2.0)
        start = self._start(self.marginal.given(shared))
        draws = self._drawn(start, random)
        value = np.zeros(len(shared))
        taken = [np.zeros(one.count) for one in self.windows]
        for step in range(self.steps):
            value += draws.ratio / self.steps
            for k, share in enumerate(self.shares):
                times = math.ceil(1 / share)
                for _ in range(times):
                    taken[k] += self._moved(start, draws, k, (step + 1) / self.steps, random) / times
        exact = self._ratio(start, draws)
        drift = np.where(np.isfinite(exact), np.abs(exact - draws.ratio), 0.0)
        value = exact if not self.steps else value
        value = np.where(start.given.fine & np.isfinite(value), value, -np.inf)
        return Annealed(draws.local, value, np.concatenate(taken) / max(self.steps, 1), drift)

    def _pulled(self, given: Given, random: np.random.Generator) -> Array:
        """The mean of gradients at draws around the mode, opposite ones together; zero where they are not finite."""
        pattern = self.coupled.pattern
        pairs = PAIRS // EACH
        away = np.concatenate(
            [self.layout.backward(given.factor, random.normal(size=given.mode.shape)) for _ in range(pairs)]
        )
        mode, shared = np.tile(given.mode, (pairs, 1)), np.tile(given.shared, (2 * pairs, 1))
        points = pattern.assembled(shared, np.concatenate([mode + away, mode - away]))
        pull = self.coupled.at(points)[1][:, pattern.local].mean(axis=0)
        return pull if np.isfinite(pull).all() else np.zeros_like(pull)

    def _start(self, given: Given) -> _Start:
        mean = given.mode + self.layout.solved(given.factor, np.repeat(self.pull[None], len(given.mode), axis=0))
        factors = [self.layout.factored(self.layout.within(given.hessian, some.window))[0] for some in self.windows]
        if not self.common.any():
            return _Start(given, mean, factors, None, None)
        some = slice(None) if self.marginal.size else slice(1)
        _, slopes, curved = self.coupled.hessian(given.shared[some], given.mode[some], self.common)
        return _Start(given, mean, factors, slopes[:, self.coupled.pattern.local], curved)

    def _drawn(self, start: _Start, random: np.random.Generator) -> _Draws:
        local = start.mean + self.layout.backward(start.given.factor, random.normal(size=start.mean.shape))
        draws = _Draws(local, self._parts(start, local), np.zeros(len(local)))
        draws.ratio = self._ratio(start, draws)
        return draws

    def _parts(self, start: _Start, local: Array) -> Array:
        return self.coupled.at(self.coupled.pattern.assembled(start.given.shared, local))[0]

    def _ratio(self, start: _Start, draws: _Draws) -> Array:
        """R at draws, of all parts, with nothing taken to be of the second degree."""
        density = self._parts(start, draws.local).sum(axis=1)
        found = density - start.log_density(draws.local, self.layout)
        return np.where(np.isfinite(found), found, -np.inf)

    def _moved(self, start: _Start, draws: _Draws, k: int, warmth: float, random: np.random.Generator) -> Array:
        """Draws some windows again from the Gaussian given the rest, or a part of them, and takes each with its own probability.

        Returns:
            The share of draws that each window's move was taken of, shape ``(W,)``.
        """
        some, factor = self.windows[k], start.factors[k]
        layout, hessian, inside = self.layout, start.given.hessian, some.inside
        before = draws.local - start.mean
        around = layout.product(hessian, np.where(inside, 0.0, before))
        again = self.shares[k]
        still = math.sqrt(1 - again**2)
        right = (1 - still) * layout.forward(factor, np.where(inside, -around, 0.0))
        right[:, inside] += again * random.normal(size=(len(right), int(inside.sum())))
        after = np.where(inside, layout.backward(factor, right) + still * before, before)
        trial = start.mean + after
        parts = self._parts(start, trial)
        change = after - before
        gaussian = -0.5 * change * layout.product(hessian, after + before)
        if start.slope is not None and start.curved is not None:
            both = trial + draws.local - 2 * start.given.mode
            gaussian -= change * (start.slope - 0.5 * layout.product(start.curved, both))
        with np.errstate(invalid="ignore"):
            gain = some.of_parts @ (parts - draws.parts).T - some.of_unknowns @ gaussian.T
        with np.errstate(divide="ignore"):
            chosen = np.log(random.random(gain.shape)) < warmth * np.where(np.isnan(gain), -np.inf, gain)
        wide = np.concatenate(
            [chosen, np.zeros((2, chosen.shape[1]), dtype=bool)]
        )  # for those of no window, and of several
        np.copyto(draws.local, trial, where=wide[some.window].T)
        np.copyto(draws.parts, parts, where=wide[some.part].T)
        draws.ratio = draws.ratio + np.where(chosen, gain, 0.0).sum(axis=0)
        return np.asarray(chosen.mean(axis=1))
