"""Posteriors that consist of copies of one mode: the copies that lie apart, and draws spread over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry.action import Values
from pyrolvm._program.symmetry.orbit import Alignment, scattered, separated
from pyrolvm._program.symmetry.record import Block, Symmetries
from pyrolvm._program.symmetry.search import find_symmetries

__all__ = ["Orbits", "joined", "replaced"]


def joined(symmetries: Symmetries, values: Mapping[str, Tensor]) -> Values:
    """Draws by site as flat vectors ``(n, size)``."""
    return symmetries.layout.join({name: value.detach().cpu().numpy() for name, value in values.items()})


def replaced(symmetries: Symmetries, values: Mapping[str, Tensor], flat: Values) -> dict[str, Tensor]:
    """Draws by site with those of flat vectors ``(n, size)`` in place; sites that are not in these stay."""
    parts = symmetries.layout.split(flat)
    return {name: torch.as_tensor(parts[name]).to(value) if name in parts else value for name, value in values.items()}


@dataclass(frozen=True)
class Orbits:
    """The groups whose copies lie apart in a posterior.

    Attributes:
        symmetries: all that is known of it.
        blocks: those of its groups.
        alignment: what tells its copies apart.
        counted: whether weights count all copies.
    """

    symmetries: Symmetries
    blocks: tuple[Block, ...]
    alignment: Alignment
    counted: bool = True

    @classmethod
    def of(cls, symmetries: Symmetries, flat: Values) -> Orbits | None:
        """The copies that draws ``(n, size)`` tell apart; ``None`` where there are none."""
        blocks = separated(symmetries, flat)
        return cls(symmetries, blocks, Alignment.of(blocks, flat)) if blocks else None

    @classmethod
    def found(cls, problem: Problem, values: Mapping[str, Tensor]) -> Orbits | None:
        """The copies of a problem's posterior that draws by site tell apart; ``None`` where there are none."""
        symmetries = find_symmetries(problem)
        return cls.of(symmetries, joined(symmetries, values)) if symmetries.blocks else None

    @property
    def how_many(self) -> str:
        """The number of copies in words."""
        return " times ".join(block.how_many for block in self.blocks)

    @property
    def record(self) -> str:
        """What a result keeps."""
        return self.symmetries.only(self.blocks).dumps(complete=True, counted=self.counted)

    def flat(self, values: Mapping[str, Tensor]) -> Values:
        """Draws as flat vectors."""
        return joined(self.symmetries, values)

    def spread(self, values: Mapping[str, Tensor], seed: int, *, evenly: bool = False) -> dict[str, Tensor]:
        """Draws by site, each mapped to a copy chosen at random; evenly, from one copy, so that all have the same number."""
        flat = self.flat(values)
        return replaced(self.symmetries, values, scattered(self.blocks, self.alignment(flat) if evenly else flat, seed))

    def hidden(self, values: Mapping[str, Tensor]) -> float | None:
        r"""The nats that averaging takes from a density whose draws all lie in one copy, :math:`\log |G|`; of others ``None``."""
        labels = self.alignment.labelled(self.flat(values))[1]
        alone = all(label is not None and len(np.unique(label)) == 1 for label in labels)
        return sum(math.log(block.copies) for block in self.blocks) if alone else None
