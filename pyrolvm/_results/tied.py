r"""Rows left out where latents tie rows together: crossed effects, walks, Gaussian processes.

Sites :math:`u` whose density given the rest, :math:`\theta`, is that of a Gaussian, and on which each row depends through one linear
predictor :math:`f_i = a_i^\top u`, are integrated out together. At the mode :math:`\hat u` of :math:`p(y, u \mid \theta)`, with
precision :math:`H` there, the row's own share :math:`r_i(f) = \log p(y_i \mid f)` is taken out of the Gaussian of its predictor,

.. math::
    s_i^2 = a_i^\top H^{-1} a_i, \qquad \tau_i = s_i^{-2} + r_i'', \qquad
    p(y_i \mid \theta, y_{-i}) = \int e^{r_i(f)} \, N(f; \hat f_i - r_i' / \tau_i, 1 / \tau_i) \, df,

by quadrature. That is exact where rows are Gaussian. Where they are not, rows are left out by the ratio of Laplace's approximations of
:math:`p(y \mid \theta)` and :math:`p(y_{-i} \mid \theta)`, each at a mode of its own, whose errors cancel but for a small part.

References:
    Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), "Bayesian leave-one-out cross-validation approximations for Gaussian latent
    variable models", https://arxiv.org/abs/1412.7461; Tierney and Kadane (1986), "Accurate approximations for posterior moments and
    marginal densities", https://doi.org/10.1080/01621459.1986.10478240
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vjp, vmap

from pyrolvm._base.quadrature import rules
from pyrolvm._program.density import Joint
from pyrolvm._program.density.by_row import SHARES
from pyrolvm._results.apart import APART, DEEP, Elements
from pyrolvm._results.blocks import by_row
from pyrolvm._results.one_row import recorded, rows_of

__all__ = ["Tied"]

MOST, MOST_ROWS = 300, 600
"""Latents that are integrated out together, and rows, at most."""

MEMBERS, LONG = 3, 0.25
"""Members of a plate from which on its latents tie rows; for a site without a plate, its length as a share of the rows."""

STEPS = 8
"""Newton's steps to a mode."""

WITHOUT = 4
"""Newton's steps to a mode without a row."""

CHECKED, CHECKED_ROWS = 6, 50
"""Draws at which both ways are compared, and the rows of most leverage that are."""

SMALL = 12_000
"""Rows times latents up to which all rows are left out by Laplace's ratio, where the other way is not exact."""

EXACT, CLOSE, SAME = 0.01, 0.2, 0.1
"""Nats by which a way that is exact may be off the other, and one that is good enough; and by which two ascents may end elsewhere."""

SHARE = 0.2
"""How much of what both ways are apart may be left of Laplace's ratio: on Poisson and Bernoulli walks a tenth at most."""

STILL = 0.1
"""The slope, in sds, below which an ascent has ended."""

NEAR = 1e-3
"""How far differences look, in sds."""

BENT, TURNED = 1e-3, 1e-2
"""By how much, as a share, curvatures and directions may change where they should not."""

MOVED_SEED = 29
"""The seed of what latents are moved by."""

Tree = dict[str, Tensor]


class Tied:
    """The density of each row given the others at a draw of the rest; inside a session in double precision.

    Attributes:
        latents: the sites that are integrated out.
        places: where their numbers are in a flat vector.
        count: how many rows there are.
        by_ratio: whether rows are left out by Laplace's ratio, since it is another density than that of the predictor's Gaussian.
    """

    def __init__(
        self, joint: Joint, elements: Elements, sites: tuple[str, ...], latents: tuple[str, ...], flat: Tensor
    ) -> None:
        self.joint, self.elements, self.sites, self.latents = joint, elements, sites, latents
        self.places = _places(joint, latents)
        self.start = flat[:, self.places].mean(0)
        self.moved = _moved(flat[:, self.places])
        self.ways = NEAR * _drawn(2, len(self.places)).to(flat) * flat[:, self.places].std(0).clamp(min=1e-3)
        self._seen = recorded(lambda u: _rows(joint, elements(u), sites), flat[0])
        self.count = len(self.rows(flat[0], self.start))
        self.by_ratio = False

    @classmethod
    def of(cls, joint: Joint, elements: Elements, sites: tuple[str, ...], flat: Tensor) -> Tied | None:
        """Those that tie rows, with all that is Gaussian beside them; ``None`` where nothing does, or it is too much."""
        names = _gaussian(joint, elements, sites, flat) if flat.dtype == torch.float64 else ()
        if not names:
            return None
        found = cls(joint, elements, sites, names, flat)
        tying = any(_ties(joint, name, found.count) for name in names)
        alone = sum(joint.problem.sites[name].numel == 1 for name in names) >= LONG * found.count  # a walk as a loop
        if not (tying or alone) or found.count > MOST_ROWS:
            return None
        small = found.count * len(found.places) <= SMALL
        found.by_ratio = small and bool((found._apart(flat) > EXACT).any())
        return found

    @property
    def work(self) -> float:
        """How much dearer a draw is than 17 runs of the density."""
        runs, units = 30 * self.count + 2 * len(self.places) + 60, len(self.places)
        return (runs + (40 * self.count + 0.2 * units**2 if self.by_ratio else 0)) / 17

    @property
    def numbers(self) -> int:
        """How many numbers a draw needs at once."""
        units = len(self.places)
        return max(self.count, units) * (units * self.count if self.by_ratio else self.count)

    def density(self, flat: Tensor, z: Tensor) -> Tensor:
        """The density at other values of what is integrated out."""
        return torch.stack([part.sum() for part in self.elements(flat.scatter(0, self.places, z)).values()]).sum()

    def rows(self, flat: Tensor, z: Tensor) -> Tensor:
        """That of each row."""
        return self._seen(flat.scatter(0, self.places, z))

    def __call__(self, draw: Mapping[str, Tensor]) -> Tree:
        """The log densities of rows given the others, ``rows``, by a rougher way too, and that of the rest."""
        with torch.enable_grad():
            field = _Field.at(self, draw["u"])
            whole = field.climbed(torch.ones_like(field.apart), torch.zeros_like(self.start), STEPS)
            cavity = field.cavity(whole)
            rough = rows = cavity.rows
            if self.by_ratio:
                rows = field.ratios(whole, cavity, torch.arange(self.count, device=rows.device))
                rough = rows + SHARE * (cavity.rows - rows)
        return {"rough": rough.detach(), "rows": rows.detach(), "log_p": whole.integral.detach()}

    def _apart(self, flat: Tensor) -> Tensor:
        """By how many nats both ways are apart for rows of much leverage at some draws; infinite where ascents end at several modes."""
        checked = flat[torch.linspace(0, len(flat) - 1, min(CHECKED, len(flat))).long()]
        off = torch.zeros(self.count, dtype=flat.dtype, device=flat.device)
        with torch.enable_grad():
            for u in checked:
                field = _Field.at(self, u)
                every = torch.ones_like(field.apart)
                whole = field.climbed(every, torch.zeros_like(self.start), STEPS)
                cavity = field.cavity(whole)
                far = 2 * flat[:, self.places].std(0)
                for begun in (u[self.places] - self.start, -2 * self.start, far, -far):
                    other = field.climbed(every, begun, STEPS)
                    if not (float(other.slope) < STILL and float(whole.height - other.height) <= DEEP):
                        continue  # it did not end, or where there is no mass
                    less = float(whole.integral - other.integral)
                    apart = float((field.along @ (other.moved - whole.moved)).abs().div(cavity.spread.sqrt()).max())
                    if not (abs(less) < SAME and apart < APART):
                        return torch.full_like(off, math.inf)
                gain = (cavity.rows - self.rows(u, self.start + whole.moved)).abs().nan_to_num(math.inf)
                most = gain.topk(min(CHECKED_ROWS, self.count)).indices
                gap = (field.ratios(whole, cavity, most) - cavity.rows[most]).abs().nan_to_num(math.inf)
                off[most] = torch.maximum(off[most], gap)
        return off

    def sure(self, flat: Tensor) -> NDArray[np.bool_]:
        """Of each row, whether both ways are close enough for the one that was taken; none where ascents end at several modes."""
        return np.asarray((self._apart(flat) < (CLOSE / SHARE if self.by_ratio else CLOSE)).cpu().numpy())


@dataclass(frozen=True)
class _Mode:
    """A mode, as far from where it was begun, its height and slope, the factor of the precision, and Laplace's integral."""

    moved: Tensor
    height: Tensor
    slope: Tensor
    root: Tensor
    integral: Tensor


@dataclass(frozen=True)
class _Cavity:
    """Rows left out of the Gaussians of their predictors: their densities, slopes, second derivatives, and predictors' variances."""

    rows: Tensor
    slope: Tensor
    bend: Tensor
    spread: Tensor


@dataclass(frozen=True)
class _Field:
    """The density at one draw of the rest, around where ascents begin: a parabola, and rows, each of its own predictor.

    Attributes:
        tied: whose.
        flat: the draw.
        along: directions of the predictors, of length 1, ``(rows, numbers)``.
        apart: 1 for rows that have one, 0 for others.
        prior: the precision of all but rows.
        pull: its slope at the start.
        level: its height there.
    """

    tied: Tied
    flat: Tensor
    along: Tensor
    apart: Tensor
    prior: Tensor
    pull: Tensor
    level: Tensor

    @classmethod
    def at(cls, tied: Tied, flat: Tensor) -> _Field:
        """That of a draw."""

        def every(z: Tensor) -> Tensor:
            return tied.rows(flat, z)

        def rest(z: Tensor) -> Tensor:
            return tied.density(flat, z) - tied.rows(flat, z).sum()

        slopes = [_slopes(every, at) for at in (tied.start, tied.start + tied.moved)]
        norms = [one.norm(dim=-1, keepdim=True) for one in slopes]
        norm = torch.maximum(*norms)
        steep = torch.where(norms[0] > norms[1], slopes[0], slopes[1])
        pull, prior = _precision(rest, tied.start)
        along = steep / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        return cls(tied, flat, along, (norm > 0)[:, 0].to(flat), prior, pull, rest(tied.start))

    def bent(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, and their first two derivatives along their predictors, by differences."""
        far = self.tied.ways @ self.along.mT
        best = far.abs().argmax(0)[None]
        far = far.gather(0, best)[0]
        far = torch.where(far == 0, torch.full_like(far, math.inf), far)
        start, ways = self.tied.start + moved, self.tied.ways
        here = self.tied.rows(self.flat, start)
        up, down = (
            torch.stack([self.tied.rows(self.flat, start + side * way) for way in ways]).gather(0, best)[0]
            for side in (1, -1)
        )
        return here, (up - down) / (2 * far), (up - 2 * here + down) / far.square()

    def climbed(self, weights: Tensor, moved: Tensor, steps: int) -> _Mode:
        """The mode with rows counted as often as weights say, by Newton's method."""
        for _ in range(steps):
            _, uphill, root = self._rooted(weights, moved)
            step = torch.cholesky_solve(uphill[:, None], root)[:, 0].nan_to_num(0.0, 0.0, 0.0)
            points = [moved + share * step for share in SHARES]
            values = torch.stack(
                [self._height(weights, one, self.tied.rows(self.flat, self.tied.start + one)) for one in points]
            )
            best = values.nan_to_num(nan=-math.inf).argmax(0)
            moved = torch.stack(points).gather(0, best.expand(1, len(moved)))[0]
        here, uphill, root = self._rooted(weights, moved)
        slope = torch.linalg.solve_triangular(root, uphill[:, None], upper=False).norm()
        volume = 0.5 * len(moved) * math.log(2 * math.pi) - root.diagonal().log().sum()
        height = self._height(weights, moved, here)
        return _Mode(moved, height, slope, root, height + volume)

    def _height(self, weights: Tensor, moved: Tensor, rows: Tensor) -> Tensor:
        return self.level + self.pull @ moved - 0.5 * moved @ self.prior @ moved + (weights * rows).sum()

    def _rooted(self, weights: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        here, slope, bend = self.bent(moved)
        uphill = self.pull - self.prior @ moved + self.along.mT @ (weights * slope)
        precision = self.prior - self.along.mT @ ((weights * bend)[:, None] * self.along)
        root, info = torch.linalg.cholesky_ex(precision)
        return here, uphill, torch.where(info > 0, torch.full_like(root, math.nan), root)

    def cavity(self, whole: _Mode) -> _Cavity:
        """Each row left out of the Gaussian of its predictor."""
        mode, known = self.tied.start + whole.moved, self.apart > 0
        here, slope, bend = self.bent(whole.moved)
        one = torch.eye(len(here), dtype=here.dtype, device=here.device)

        def seen(far: Tensor, way: Tensor, row: Tensor) -> Tensor:
            return (self.tied.rows(self.flat, mode + far * way) * row).sum()

        spread = torch.linalg.solve_triangular(whole.root, self.along.mT, upper=False).square().sum(0)
        spread = torch.where(known, spread, torch.ones_like(spread))
        rest, terms, rule = 1 / spread + bend, [], rules(1)[4]
        for node, weight in zip(rule.nodes[:, 0].tolist(), rule.log_weights.tolist(), strict=True):
            t = node * spread.sqrt()
            ratio = 0.5 * (rest.log() + spread.log() - rest * (t + slope / rest).square() + node**2)
            terms.append(vmap(seen)(t, self.along, one) + ratio + weight)
        return _Cavity(torch.where(known, torch.stack(terms).logsumexp(0), here), slope, bend, spread)

    def ratios(self, whole: _Mode, cavity: _Cavity, which: Tensor) -> Tensor:
        """Laplace's ratio for some rows, by Newton's steps from where the mode without each is about."""
        lever = torch.cholesky_solve(self.along.mT, whole.root).mT
        begun = whole.moved - lever * (cavity.slope / (1 + cavity.bend * cavity.spread))[:, None]
        others = 1 - torch.eye(len(begun), dtype=begun.dtype, device=begun.device)

        def without(weights: Tensor, start: Tensor) -> Tensor:
            return self.climbed(weights, start, WITHOUT).integral

        return whole.integral - vmap(without)(others[which], begun[which])


def _rows(joint: Joint, parts: Mapping[str, Tensor], sites: tuple[str, ...]) -> Tensor:
    return rows_of([by_row(joint, parts, site) for site in sites])


def _places(joint: Joint, latents: tuple[str, ...]) -> Tensor:
    numbers = joint.split(torch.arange(sum(joint.sizes), device=joint.problem.device))
    return torch.cat([numbers[name].reshape(-1) for name in latents])


def _moved(draws: Tensor) -> Tensor:
    """A move of each number by one to two of its sds."""
    unit = _drawn(1, draws.shape[1])[0].to(draws)
    return (unit + unit.sign()) * draws.std(0).clamp(min=1e-3)


def _drawn(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(MOVED_SEED))


def _slopes(rows: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The derivatives of rows, ``(rows, numbers)``."""
    traced = vjp(rows, z)
    value, pull = traced[0], traced[1]
    return vmap(lambda one: pull(one)[0])(torch.eye(len(value), dtype=z.dtype, device=z.device))


def _precision(density: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The slope and minus the second derivatives."""
    traced = vjp(grad(density), z)
    slope, pull = traced[0], traced[1]
    found = -vmap(lambda one: pull(one)[0])(torch.eye(len(z), dtype=z.dtype, device=z.device))
    return slope, 0.5 * (found + found.mT)


def _ties(joint: Joint, name: str, rows: int) -> bool:
    """Whether a site has members, or is about as long as there are rows."""
    site, plates = joint.problem.sites[name], joint.problem.plates
    if any(plates[one].size >= MEMBERS for one in site.plates if one in plates):
        return True
    return site.numel >= max(MEMBERS, LONG * rows)


def _gaussian(joint: Joint, elements: Elements, sites: tuple[str, ...], flat: Tensor) -> tuple[str, ...]:
    """The sites that have the density of a Gaussian together, and of which each row has one linear predictor, as moves of each show."""
    parts = elements(flat[0])
    observed = {f"density/{site.name}" for site in joint.problem.observed}
    names = [
        site.name
        for site in joint.problem.continuous
        if site.unconstrained_shape == site.shape and not parts.get(f"jacobian/{site.name}", torch.zeros(1)).any()
    ]
    if not names or sum(joint.problem.sites[name].numel for name in names) > MOST:
        return ()
    places = _places(joint, tuple(names))
    owner = np.repeat(np.arange(len(names)), [joint.problem.sites[name].numel for name in names])
    start, moved = flat[len(flat) // 2, places], _moved(flat[:, places])

    def prior(z: Tensor) -> Tensor:
        found = elements(flat[0].scatter(0, places, z))
        return torch.stack([part.sum() for key, part in found.items() if key not in observed]).sum()

    def rows(z: Tensor) -> Tensor:
        return _rows(joint, elements(flat[0].scatter(0, places, z)), sites)

    def looked_at(z: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _precision(prior, z)[1].double().cpu().numpy(), _slopes(rows, z).double().cpu().numpy()

    with torch.enable_grad():
        before = looked_at(start)
        clashes: set[frozenset[int]] = set()
        for number in range(len(names)):
            here = torch.as_tensor(owner == number, device=flat.device)
            after = looked_at(torch.where(here, start + moved, start))
            clashes |= {frozenset((number, *pair)) for pair in _changed(before, after, owner, len(names))}
    kept = set(range(len(names)))
    sizes = [joint.problem.sites[name].numel for name in names]
    while left := [one for one in clashes if one <= kept]:
        counts = {one: sum(one in clash for clash in left) for one in kept}
        kept.remove(max(kept, key=lambda one: (counts[one], -sizes[one])))
    return tuple(names[one] for one in sorted(kept))


def _changed(
    before: tuple[NDArray[np.float64], NDArray[np.float64]],
    after: tuple[NDArray[np.float64], NDArray[np.float64]],
    owner: NDArray[np.int64],
    count: int,
) -> Iterator[tuple[int, int]]:
    """The pairs of sites whose curvature together is another one, or of which rows have another predictor."""
    (bend, slope), (bent, sloped) = before, after
    if not all(np.isfinite(one).all() for one in (*before, *after)):
        yield from combinations_with_replacement(range(count), 2)
        return
    scale = np.sqrt(np.abs(np.diag(bend)) + np.abs(np.diag(bent)))
    change = np.abs(bent - bend) > BENT * (np.outer(scale, scale) + np.finfo(float).tiny)
    for one, other in {(owner[i], owner[j]) for i, j in zip(*np.nonzero(change), strict=True)}:
        yield int(one), int(other)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    sizes = [np.sqrt(np.add.reduceat(part**2, first, axis=1)) for part in (slope, sloped)]
    floor = [1e-6 * one.max(axis=1, keepdims=True) for one in sizes]
    known = (sizes[0] > floor[0]) & (sizes[1] > floor[1])
    for site in range(count):  # its own direction, whatever its length
        mine, rows = owner == site, known[:, site]
        if rows.any():
            ways = [
                part[rows][:, mine] / size[rows, site, None] for part, size in zip((slope, sloped), sizes, strict=True)
            ]
            cosine = np.abs((ways[0] * ways[1]).sum(1))
            if (cosine < 1 - TURNED**2).any():
                yield site, site
    ratio = np.where(known, np.log(np.maximum(sizes[1], 1e-300)) - np.log(np.maximum(sizes[0], 1e-300)), np.nan)
    for row in ratio:  # how much of a row's predictor each site is
        there = np.flatnonzero(~np.isnan(row))
        if len(there) > 1 and np.ptp(row[there]) > TURNED:
            lengths = row[there]
            for i, one in enumerate(there):
                for other in there[np.abs(lengths - lengths[i]) > TURNED]:
                    yield int(one), int(other)
