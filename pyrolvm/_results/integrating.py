r"""Rows left out with the latents that they have of their own, or share with few others, integrated out.

With latents :math:`u_g` of members that are independent given all else, :math:`\theta`, the density of row i of member g given the
others is

.. math:: p(y_i \mid \theta, y_{-i}) = \frac{\int p(y_g, u \mid \theta)\, du}{\int p(y_g, u \mid \theta) / p(y_i \mid u, \theta)\, du},

and the weights of leaving the row out are its inverse. Where members belong to others, pupils to schools, integrals over one level
are inside those over the next, and :math:`\theta` is what is above all. Weights of :math:`1 / p(y_i \mid u, \theta)` have heavy
tails, since the draws of :math:`u_g` follow the very row that is left out, and their k-hat of some thousand draws does not always
show it.

Draws of a guide are in the place of the posterior's where log p - log q of all unknowns has light tails. Where it has not,
:math:`\theta` is drawn anew, from Student t laws fitted to the weights of the draws before, by its density with all members' latents
integrated out.

References:
    Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), "Bayesian leave-one-out cross-validation approximations for Gaussian latent
    variable models", https://arxiv.org/abs/1412.7461; Merkle, Furr and Rabe-Hesketh (2019), "Bayesian comparison of latent variable
    models: conditional versus marginal likelihoods", https://arxiv.org/abs/1802.04452
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.importance import Weights, khat_threshold, weigh
from pyrolvm._base.numerics import Array
from pyrolvm._base.quadrature import Rule, rules
from pyrolvm._capture import capture
from pyrolvm._program.density import Evaluator, Joint, Levels, Normal, flattened, modes
from pyrolvm._program.problem import Problem
from pyrolvm._results.blocks import Members, levels_of
from pyrolvm._results.one_row import draws_at, rows_seen
from pyrolvm.family.importance import Weighed, refitted
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Integrated", "integrated"]

UNITS = 8
"""Latents of a member up to which they are integrated out."""

STEPS = 8
"""Newton's steps to the modes of members."""

CELLS = 4_000_000
"""Rows times draws at most; of more rows fewer draws are taken, but no fewer than ``FEWEST``."""

FEWEST = 200

CLOSE = 0.2
"""Nats by which a rougher rule may be off of a row, at 99 in 100 draws, where the finer one is believed."""

FINE = {1: 4, 2: 3, 3: 2}
"""The rule that is taken of all for so many latents: 17, 7 and 5 nodes for each of them."""

NODES, FIRST = 450, 2
"""Nodes of all levels together, where there are several, and the roughest rule of an outer one meanwhile."""

APART, DEEP = 3.0, 7.0
"""Sds between modes from which on they are two, and nats below the other from which on one does not matter."""

TRIED = 32
"""Draws at which it is tried whether they run at once."""

AT_ONCE = 1_000_000
"""Rows times draws that run at once."""

LIGHT = 0.5
"""The k-hat up to which weights have a variance."""

FREEDOM, ROUNDS, SHARE = 7.0, 6, 0.3
"""Degrees of freedom of laws that are drawn from anew, how often they are fitted, and the effective share that is enough."""

DRAWS, MOST_SHARED = 2_000, 60
"""Draws of these laws, and shared unknowns up to which they are fitted."""

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Integrated:
    """What rows are left out by.

    Attributes:
        latents: the sites that were integrated out; empty where none could be.
        values: log densities of rows given the others, by draw, ``(draws, rows)``.
        ratios: log p - log q of these draws; ``None`` where they are of the posterior.
        owned: where nothing was integrated out, whether each row has unknowns of its own.
        known: whether the integral of each row is fine enough.
    """

    latents: tuple[str, ...]
    values: Array | None = None
    ratios: Array | None = None
    owned: Array | None = None
    known: NDArray[np.bool_] | None = None


def integrated(
    problem: Problem,
    params: Mapping[str, Tensor],
    data: xr.Dataset,
    sites: tuple[str, ...],
    places: Array,
    ratios: Array | None,
    *,
    integrate: bool = True,
    seed: int = 0,
) -> Integrated:
    """The log densities of rows given the others, latents of members integrated out.

    Args:
        problem: the problem.
        params: learnable parameters.
        data: the group of the draws.
        sites: the observed sites whose rows are left out together, as results call them.
        places: which draws of all.
        ratios: log p - log q of these; ``None`` where they are of the posterior.
        integrate: whether to; else it is found out alone which rows have unknowns of their own.
        seed: of new draws.
    """
    if not problem.continuous or problem.discrete:
        return Integrated(())
    with problem.session(seed=seed, params=params), torch.no_grad():
        joint = Joint(problem)
        seen, kept = rows_seen(problem, sites)
        flat = flattened(joint, draws_at(problem, data, places))
        found = _Rows.of(joint, flat, seen) if integrate else None
        told = None if found is None else _left_out(found, flat, ratios, seed)
        if found is not None and told is not None and told.known is not None:
            told = replace(told, known=told.known & ~found.several(flat))
        if told is None or told.values is None or told.known is None or not told.known.any():
            owned = _owned(joint, flat[0], seen)
            return Integrated((), owned=owned if kept is None else owned[kept])
        return told if kept is None else replace(told, values=told.values[:, kept], known=told.known[kept])


class _Rows:
    """The density of each row given the others at a draw, latents of members of all levels integrated out; inside a session."""

    def __init__(self, joint: Joint, levels: tuple[Members, ...], sites: tuple[str, ...], flat: Tensor) -> None:
        self.joint, self.levels, self.sites = joint, levels, sites
        self.elements = _recorded(joint, flat[0])
        self.places = torch.cat([level.places.reshape(-1) for level in levels])
        self.start = flat[:, self.places].mean(0)
        shapes = [(level.count, level.places.shape[1]) for level in levels]
        self.tree = Levels(shapes, [level.above for level in levels if level.above is not None], flat)
        self.rough, self.fine = _pairs([units for _, units in shapes])
        self.member = [level.rows[sites[0]] for level in levels]
        self.first = {name: self._first(name) for name in levels[0].rows}
        # Without its one row a member has its prior alone, which integrates to one.
        self.alone = [self._alone(level, member) for level, member in zip(levels, self.member, strict=True)]

    @classmethod
    def of(cls, joint: Joint, flat: Tensor, sites: tuple[str, ...]) -> _Rows | None:
        """Those of the members with the fewest rows each, and of those above; ``None`` where none can be integrated out."""
        levels = levels_of(joint, flat[0])
        while levels and any(level.places.shape[1] > UNITS for level in levels):
            levels = (*levels[:-2], replace(levels[-2], above=None)) if len(levels) > 1 else ()
        if not levels or any(site not in levels[0].rows for site in sites):
            return None
        for level in levels:
            first, *others = (level.rows[site] for site in sites)
            if any(not torch.equal(first, other) for other in others):
                return None
        return cls(joint, levels, sites, flat)

    @property
    def latents(self) -> tuple[str, ...]:
        """The sites that are integrated out."""
        return tuple(name for level in self.levels for name in level.latents)

    @property
    def work(self) -> float:
        """How much dearer a draw is than where one level has one latent each."""
        return math.prod(len(rule.log_weights) for rule in self.fine) / 17

    def _first(self, site: str) -> Tensor:
        """The innermost level at which each row of a site has a member; as many as there are levels for none."""
        every = torch.stack([level.rows[site] >= 0 for level in self.levels])
        return torch.where(every.any(0), every.long().argmax(0), len(self.levels))

    def _alone(self, level: Members, member: Tensor) -> Tensor:
        counts = torch.zeros(level.count, dtype=torch.long, device=member.device)
        for rows in level.rows.values():
            counts = counts.index_add(0, rows.clamp(min=0), (rows >= 0).long())
        return counts[member.clamp(min=0)] <= len(self.sites)

    def many(self, flat: Tensor) -> Callable[[Tensor], dict[str, Array]] | None:
        """The same of many draws; ``None`` if they do not run at once, or have no second derivatives."""
        try:
            every = Evaluator(
                self, {"u": flat[:TRIED]}, what="integrated rows"
            )  # too few for a graph, which is no match for vmap
        except (RuntimeError, NotImplementedError, ValueError):
            return None
        chunk = max(1, AT_ONCE // max(len(self.member[0]), len(self.places)))

        def run(flat: Tensor) -> dict[str, Array]:
            return {name: value.double().cpu().numpy() for name, value in every({"u": flat}, chunk=chunk).items()}

        return None if every.way == "loop" else run

    def several(self, flat: Tensor) -> NDArray[np.bool_]:
        """Whether the member of each row has a second mode, as a few ascents from elsewhere show: one rule sees one mode alone."""
        members, member = self.levels[0], self.member[0]
        start = flat[:, members.places].mean(0)
        far = 2 * flat[:, members.places].std(dim=(0, 1))
        found = torch.zeros(members.count, dtype=torch.bool, device=flat.device)
        for u in flat[[0, len(flat) // 2]]:

            def density(z: Tensor, u: Tensor = u) -> Tensor:
                parts = self.elements(u.scatter(0, members.places.reshape(-1), z.reshape(-1)))
                return members.together(parts, members.seen(self.joint, parts))

            with torch.enable_grad():
                base, factor = modes(density, start, 2 * STEPS)
                for place in (-start, start + far, start - far):
                    there, root = modes(density, place, 2 * STEPS)
                    slope = torch.func.grad(lambda z, density=density: density(z).sum())(there)
                    apart = torch.einsum("gji,gj->gi", factor, there - base).norm(dim=-1) > APART
                    still = (
                        torch.linalg.solve_triangular(root, slope[..., None], upper=False)[..., 0].norm(dim=-1) < 0.1
                    )
                    found |= apart & still & (density(there) > density(base) - DEEP)
        return np.asarray(((member >= 0) & found[member.clamp(min=0)]).cpu().numpy())

    def __call__(self, draw: Mapping[str, Tensor]) -> Tree:
        """The log densities of rows given the others, ``rows``, by a rougher rule too, and that of all but members' latents."""
        flat, last = draw["u"], len(self.levels) - 1

        def density(z: Tensor) -> Tensor:
            return self.tree.gathered(self._at(flat, z).terms)

        with torch.enable_grad():
            found = self.tree.normal(density, self.start, STEPS)
        normal = replace(
            found, mode=found.mode.detach(), factors=tuple(one.detach() for one in found.factors),
            pulls={pair: one.detach() for pair, one in found.pulls.items()},
        )  # fmt: skip
        rows = {}
        for name, chosen in (("rough", self.rough), ("rows", self.fine)):
            integral = self._integral(last, flat, normal, chosen, ())
            rows[name] = self._left_out(integral)
        log_p = integral.there.apart.double() + integral.total.double().sum()
        return {**rows, "log_p": log_p}

    def _at(self, flat: Tensor, z: Tensor) -> _There:
        """The density with members' latents at other values."""
        parts = self.elements(flat.scatter(0, self.places, z))
        seen = self.levels[0].seen(self.joint, parts)
        terms: list[Tensor] = []
        taken: set[str] = set()
        for number, level in enumerate(self.levels):
            total = level.own(parts)
            for name, term in seen.items():
                here = torch.where(self.first[name] == number, term, torch.zeros_like(term))
                total = total.index_add(0, level.rows[name].clamp(min=0), here)
            terms.append(total)
            taken |= level.axes.keys()
        rest = [
            part.sum() for key, part in parts.items() if key not in taken and key.removeprefix("density/") not in seen
        ]
        for name, term in seen.items():
            rest.append(torch.where(self.first[name] == len(self.levels), term, torch.zeros_like(term)).sum())
        row = torch.stack([seen[site] for site in self.sites]).sum(0)
        return _There(terms, row, torch.stack(rest).sum())

    def _integral(
        self, level: int, flat: Tensor, normal: Normal, chosen: Sequence[Rule], above: tuple[Tensor, ...]
    ) -> _Integral:
        """The integrals over members of a level and all below it, given where those above are."""
        rule, member = chosen[level], self.member[level].clamp(min=0)
        first, total, without = self.first[self.sites[0]], None, None
        for unit, weight in zip(torch.as_tensor(rule.nodes).to(flat), normal.volume(level, rule), strict=True):
            places = (normal.around(level, unit, above), *above)
            if level:
                inside = self._integral(level - 1, flat, normal, chosen, places)
                there, below = inside.there, inside.total
                together = (weight + there.terms[level]).index_add(0, self.tree.above[level - 1], below)
                less = torch.where(
                    first == level, there.row, below[self.member[level - 1].clamp(min=0)] - inside.without
                )
            else:
                there = self._at(flat, normal.mode + torch.cat([one.reshape(-1) for one in places]))
                together, less = weight + there.terms[0], there.row
            rest = together[member] - less
            total = together if total is None else torch.logaddexp(total, together)
            without = rest if without is None else torch.logaddexp(without, rest)
        assert total is not None and without is not None
        without = torch.where(self.alone[level], torch.zeros_like(without), without)
        return _Integral(total, without, there)

    def _left_out(self, found: _Integral) -> Tensor:
        """The log density of each row given the others."""
        member = self.member[-1]
        return torch.where(member >= 0, found.total[member.clamp(min=0)] - found.without, found.there.row)


@dataclass(frozen=True)
class _There:
    """The density at values of members' latents.

    Attributes:
        terms: by level, of each member's latents and the rows that belong to it and no member below.
        row: of each row.
        apart: of all that belongs to no member.
    """

    terms: list[Tensor]
    row: Tensor
    apart: Tensor


@dataclass(frozen=True)
class _Integral:
    """Integrals over members of a level and all below them.

    Attributes:
        total: of each member.
        without: of the member that each row belongs to, without the row.
        there: the density at one of the nodes.
    """

    total: Tensor
    without: Tensor
    there: _There


def _recorded(joint: Joint, flat: Tensor) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """The smallest parts of the density as a graph, which runs without the program's handlers; the program where there is none."""
    try:
        graph = capture(joint.elements, flat.clone())
    except CaptureError:
        return joint.elements
    return joint.elements if graph.noise or graph.random else graph


def _pairs(units: Sequence[int]) -> tuple[list[Rule], list[Rule]]:
    """Rules for members of so many latents, by level, and the rougher ones that they are compared with."""
    found = [rules(one) for one in units]
    fine = [FINE.get(one, len(each) - 1) for one, each in zip(units, found, strict=True)]

    def nodes(level: int) -> int:
        return len(found[level][fine[level]].log_weights)

    for level in reversed(
        range(len(units))
    ):  # what is above a row is known by more rows: its integrals are the smoother ones
        while len(units) > 1 and math.prod(map(nodes, range(len(units)))) > NODES and fine[level] > FIRST:
            fine[level] -= 1
    chosen = [each[one] for each, one in zip(found, fine, strict=True)]
    return [each[one - 1] for each, one in zip(found, fine, strict=True)], chosen


def _left_out(found: _Rows, flat: Tensor, ratios: Array | None, seed: int) -> Integrated | None:
    """The densities at the draws, or at new ones where a guide's weights have heavy tails; ``None`` if draws do not run at once."""
    most = max(FEWEST, int(CELLS / max(len(found.member[0]) * found.work, 1)))
    many = found.many(flat)
    if many is None:
        return None
    if ratios is not None and not _enough(weigh(ratios)[0]):
        anew = _anew(many, flat, found, min(DRAWS, most), seed)
        if anew is not None:
            return anew
    step = math.ceil(len(flat) / most)
    told = many(flat[::step])
    fine = np.isfinite(told["rows"]).all(axis=1)
    if not fine.any():
        return None
    weights = None if ratios is None else ratios[::step][fine]
    return Integrated(found.latents, told["rows"][fine], weights, known=_known(told))


def _enough(figures: Weights) -> bool:
    """Whether weights need no other draws."""
    return figures.khat <= LIGHT and figures.ess > SHARE * figures.num_draws


def _known(told: Mapping[str, Array]) -> NDArray[np.bool_]:
    """Of each row, whether both rules have the same density, as far as draws have any."""
    fine = np.isfinite(told["rows"]).all(axis=1)
    if not fine.any():
        return np.zeros(told["rows"].shape[1], dtype=bool)
    return np.asarray(np.quantile(np.abs(told["rows"][fine] - told["rough"][fine]), 0.99, axis=0) < CLOSE)


def _anew(
    many: Callable[[Tensor], dict[str, Array]], flat: Tensor, found: _Rows, count: int, seed: int
) -> Integrated | None:
    """Draws of what is shared by its density with members' latents integrated out, and their log weights."""
    shared = np.setdiff1d(np.arange(flat.shape[1]), found.places.cpu().numpy())
    size = len(shared)
    points = flat[:, shared].double().cpu().numpy()
    if size > MOST_SHARED or len(points) < 10 * max(size, 1):
        return None

    def evaluated(points: Array) -> dict[str, Array]:
        u = flat[:1].repeat(len(points), 1)
        u[:, shared] = torch.as_tensor(points).to(u)
        return many(u)

    if not size:
        told = evaluated(points[:1])
        return Integrated(found.latents, told["rows"].repeat(100, 0), known=_known(told))
    spread: Array = np.atleast_2d(np.cov(points.T)) + 1e-10 * np.eye(size)
    tril = np.asarray(np.linalg.cholesky(spread), dtype=np.float64)
    family = Student.one(points.mean(0), tril, FREEDOM)
    best: tuple[float, dict[str, Array], Array] | None = None
    for number in range(ROUNDS):
        drawn = family.sample(count, seed + number)
        told, log_q = evaluated(drawn), family.log_density(drawn)
        fine = np.isfinite(told["log_p"]) & np.isfinite(told["rows"]).all(1)
        if not fine.any():
            break
        ratio = np.where(fine, told["log_p"] - log_q, -np.inf)
        figures, weights = weigh(ratio)
        khat = figures.khat if math.isfinite(figures.khat) else math.inf
        enough = _enough(figures)
        if best is None or khat < best[0] or enough:
            best = khat, told, ratio
        if enough:
            break
        family = refitted(family, Weighed(drawn, told["log_p"], log_q, weights, figures, family))
    if best is None or best[0] > khat_threshold(count):
        return None
    kept = np.isfinite(best[2])
    return Integrated(found.latents, best[1]["rows"][kept], best[2][kept], known=_known(best[1]))


def _owned(joint: Joint, flat: Tensor, sites: tuple[str, ...]) -> Array:
    """Whether each row has unknowns of its own: such a one's slopes are of one row alone, as their first two moments over rows show."""

    def rows(u: Tensor) -> Tensor:
        terms: Any = joint.terms(joint.constrain(u))
        return torch.stack([terms[f"log_likelihood/{site}"].reshape(-1) for site in sites]).sum(0)

    with torch.enable_grad():
        traced = torch.func.vjp(rows, flat)
        value, pull = traced[0], traced[1]
        count = len(value)
        number = torch.arange(1, count + 1, dtype=flat.dtype, device=flat.device) / count
        sums = [pull(weight)[0].double() for weight in (torch.ones_like(number), number, number**2)]
    owned = np.zeros(count, dtype=bool)
    some = (sums[0] != 0) & torch.isfinite(sums[0])
    first, second = sums[1][some] / sums[0][some], sums[2][some] / sums[0][some]
    place = first * count - 1
    alone = ((second - first**2).abs() < 1e-5) & ((place - place.round()).abs() < 1e-2)
    for row in place[alone].round().long().tolist():
        if 0 <= row < count:
            owned[row] = True
    return owned
