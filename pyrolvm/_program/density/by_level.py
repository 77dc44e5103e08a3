r"""Densities of members of several levels, pupils in schools in areas: members of one level are independent given those above.

The Gaussian that touches such a density at its mode has blocks of precision :math:`P_{ll}` for each member and :math:`P_{lm}` for a
member and the one of level m that it belongs to. Levels are eliminated from the innermost, 0, on:

.. math:: P_{mm'} \leftarrow P_{mm'} - \sum P_{lm}^\top P_{ll}^{-1} P_{lm'}

which leaves for each level its precision given all above, and its mean :math:`-P_{ll}^{-1} \sum_m P_{lm} (z_m - \hat z_m)` around
its mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrolvm._base.quadrature import Rule
from pyrolvm._program.density.by_row import SHARES, curved

__all__ = ["Levels", "Normal"]

Density = Callable[[Tensor], Tensor]
"""Log densities of the outermost members, ``(members,)``, of one vector of all levels' numbers."""


@dataclass(frozen=True)
class Normal:
    """The Gaussian at a mode.

    Attributes:
        levels: the levels.
        mode: of all numbers, innermost level first.
        factors: by level, Cholesky factors of the precisions given all above, ``(members, units, units)``.
        pulls: by a level and one above, how much less its mean is for one more of a member above, ``(members, units, units above)``.
    """

    levels: Levels
    mode: Tensor
    factors: tuple[Tensor, ...]
    pulls: dict[tuple[int, int], Tensor]

    def around(self, level: int, unit: Tensor, above: Sequence[Tensor]) -> Tensor:
        """How far from the mode the members of a level are, ``(members, units)``, at a place in units of their sds.

        Args:
            level: which.
            unit: the place, ``(units,)``, the same for all.
            above: how far from the mode the members of the levels above it are.
        """
        factor = self.factors[level]
        placed = torch.linalg.solve_triangular(factor.mT, unit.expand(len(factor), -1)[..., None], upper=True)[..., 0]
        return self._pulled(level, placed, above)

    def volume(self, level: int, rule: Rule) -> Tensor:
        """The logarithms of what densities at the nodes of a level count, ``(nodes, members)``."""
        factor = self.factors[level]
        units = torch.as_tensor(rule.nodes).to(factor)
        size = 0.5 * factor.shape[-1] * math.log(2 * math.pi) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (torch.as_tensor(rule.log_weights).to(factor) + 0.5 * units.square().sum(-1))[:, None] + size

    def ascent(self, slopes: Sequence[Tensor]) -> Tensor:
        """Newton's step, by the slopes of levels that are eliminated."""
        found: list[Tensor] = []
        for level in reversed(range(len(self.factors))):
            alone = torch.cholesky_solve(slopes[level][..., None], self.factors[level])[..., 0]
            found.insert(0, self._pulled(level, alone, found))
        return torch.cat([one.reshape(-1) for one in found])

    def _pulled(self, level: int, found: Tensor, above: Sequence[Tensor]) -> Tensor:
        for further, moved in enumerate(above, level + 1):
            there = moved[self.levels.ancestors(level, further)]
            found = found - (self.pulls[level, further] @ there[..., None])[..., 0]
        return found


class Levels:
    """Members of levels, the innermost first.

    Attributes:
        shapes: members and units of each level.
        above: for each level but the last, the number of the member above that each member belongs to.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], above: Sequence[Tensor], like: Tensor) -> None:
        self.shapes, self.above = tuple(shapes), tuple(above)
        last, numbers = len(self.shapes) - 1, torch.arange(self.shapes[-1][0], device=like.device)
        tops = [numbers if level == last else self.ancestors(level, last) for level in range(last + 1)]
        self._top = torch.cat([one.repeat_interleave(units) for one, (_, units) in zip(tops, shapes, strict=True)])
        self._along = [
            [torch.cat([self._ones(level, unit, at, like) for at in range(last + 1)]) for unit in range(units)]
            for level, (_, units) in enumerate(self.shapes)
        ]

    def _ones(self, level: int, unit: int, at: int, like: Tensor) -> Tensor:
        found = like.new_zeros(self.shapes[at])
        if at == level:
            found[:, unit] = 1.0
        return found.reshape(-1)

    def ancestors(self, level: int, above: int) -> Tensor:
        """The member of a level above that each member belongs to."""
        found = self.above[level]
        for further in range(level + 1, above):
            found = self.above[further][found]
        return found

    def split(self, numbers: Tensor) -> list[Tensor]:
        """All levels' numbers, by level, ``(members, units)``."""
        parts = numbers.split([members * units for members, units in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def gathered(self, terms: Sequence[Tensor]) -> Tensor:
        """Densities of each level's members, added up to those of the outermost ones."""
        total = terms[0]
        for above, further in zip(self.above, terms[1:], strict=True):
            total = further.index_add(0, above, total)
        return total

    def normal(self, density: Density, start: Tensor, steps: int) -> Normal:
        """The Gaussian at the mode, by Newton's method.

        Args:
            density: what is climbed.
            start: where from.
            steps: how many steps.
        """
        place = start
        for _ in range(steps):
            found, slopes = self._touching(density, place)
            place = self._highest(density, place, found.ascent(slopes))
        return self._touching(density, place)[0]

    def _touching(self, density: Density, place: Tensor) -> tuple[Normal, list[Tensor]]:
        slope = torch.func.grad(lambda z: density(z).sum())
        traced = torch.func.vjp(slope, place)  # forward derivatives would say that torch.jit is deprecated
        steep, pulled = traced[0], traced[1]
        count, blocks = len(self.shapes), {}
        for level, along in enumerate(self._along):
            columns = [self.split(-pulled(one)[0]) for one in along]
            for inner in range(level + 1):
                blocks[inner, level] = torch.stack([one[inner] for one in columns], -1)
        slopes, factors, pulls = self.split(steep), [], {}
        for level in range(count):
            precision = blocks[level, level]
            factors.append(curved(0.5 * (precision + precision.mT)))
            alone = torch.cholesky_solve(slopes[level][..., None], factors[-1])
            for further in range(level + 1, count):
                pulls[level, further] = torch.cholesky_solve(blocks[level, further], factors[-1])
            for further in range(level + 1, count):
                there, back = self.ancestors(level, further), blocks[level, further].mT
                slopes[further] = slopes[further].index_add(0, there, -(back @ alone)[..., 0])
                for beyond in range(further, count):
                    less = -(back @ pulls[level, beyond])
                    blocks[further, beyond] = blocks[further, beyond].index_add(0, there, less)
        return Normal(self, place, tuple(factors), pulls), slopes

    def _highest(self, density: Density, place: Tensor, step: Tensor) -> Tensor:
        """Of each outermost member with all that belongs to it, the point along its step whose density is highest."""
        found = torch.stack([density(place + share * step) for share in SHARES]).nan_to_num(nan=-math.inf)
        shares = torch.tensor(SHARES, dtype=place.dtype, device=place.device)
        return place + shares[found.argmax(0)][self._top] * step
