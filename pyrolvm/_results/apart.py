r"""Latents of members that are independent given the rest, integrated out level by level, and each row left out of its member.

With latents :math:`u_g` of a member and all else, :math:`\theta`,

.. math:: p(y_i \mid \theta, y_{-i}) = \frac{\int p(y_g, u \mid \theta)\, du}{\int p(y_g, u \mid \theta) / p(y_i \mid u, \theta)\, du}.

Where members belong to others, pupils to schools, integrals over one level are inside those over the next, and :math:`\theta` is what
is above all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.quadrature import Rule, rules
from pyrolvm._program.density import Joint, Levels, Normal, modes
from pyrolvm._results.blocks import Members, levels_of

__all__ = ["APART", "DEEP", "Apart", "Elements"]

UNITS = 8
"""Latents of a member up to which they are integrated out."""

STEPS = 8
"""Newton's steps to the modes of members."""

FINE = {1: 4, 2: 3, 3: 2}
"""The rule that is taken of all for so many latents: 17, 7 and 5 nodes for each of them."""

NODES, FIRST = 450, 2
"""Nodes of all levels together, where there are several, and the roughest rule of an outer one meanwhile."""

APART, DEEP = 3.0, 7.0
"""Sds between modes from which on they are two, and nats below the other from which on one does not matter."""

Tree = dict[str, Tensor]
Elements = Callable[[Tensor], Mapping[str, Tensor]]
"""The smallest parts of a density, by name, of a flat vector."""


class Apart:
    """The density of each row given the others at a draw, latents of members of all levels integrated out; inside a session."""

    def __init__(
        self, joint: Joint, elements: Elements, levels: tuple[Members, ...], sites: tuple[str, ...], flat: Tensor
    ) -> None:
        self.joint, self.elements, self.levels, self.sites = joint, elements, levels, sites
        self.places = torch.cat([level.places.reshape(-1) for level in levels])
        self.start = flat[:, self.places].mean(0)
        shapes = [(level.count, level.places.shape[1]) for level in levels]
        self.tree = Levels(shapes, [level.above for level in levels if level.above is not None], flat)
        self.rough, self.fine = _pairs([units for _, units in shapes])
        self.member = [level.rows[sites[0]] for level in levels]
        self.count = len(self.member[0])
        self.numbers = max(self.count, len(self.places))
        self.first = {name: self._first(name) for name in levels[0].rows}
        # Without its one row a member has its prior alone, which integrates to one.
        self.alone = [self._alone(level, member) for level, member in zip(levels, self.member, strict=True)]

    @classmethod
    def of(cls, joint: Joint, elements: Elements, sites: tuple[str, ...], flat: Tensor) -> Apart | None:
        """Those of the members with the fewest rows each, and of those above; ``None`` where none can be integrated out."""
        levels = levels_of(joint, flat[0])
        while levels and any(level.places.shape[1] > UNITS for level in levels):
            levels = (*levels[:-2], replace(levels[-2], above=None)) if len(levels) > 1 else ()
        if not levels or any(site not in levels[0].rows for site in sites):
            return None
        if len(sites) > 1 and all(len(levels[0].rows[site]) == 1 for site in sites):  # each of them is a row
            return None
        for level in levels:
            first, *others = (level.rows[site] for site in sites)
            if any(not torch.equal(first, other) for other in others):
                return None
        return cls(joint, elements, levels, sites, flat)

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

    def sure(self, flat: Tensor) -> NDArray[np.bool_]:
        """Whether the member of each row has no second mode, as a few ascents from elsewhere show: one rule sees one mode alone."""
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
        return np.asarray(((member < 0) | ~found[member.clamp(min=0)]).cpu().numpy())

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
