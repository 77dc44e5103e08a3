r"""Posteriors that consist of copies of one mode: particles are kept in one copy, and spread over all of them at the end.

Where prior and likelihood are the same at all images :math:`g x` of a point, so is every distribution between them. A particle may
then be mapped to any image at any time; and to the one that lies nearest some point, if from then on it moves under the density cut
off at the images that lie there. That way all particles are in one mode, whose scales they can tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._methods.evidence.annealing import Cloud, Path
from pyrolvm._methods.smc.moves import Inside
from pyrolvm._methods.smc.weights import Array
from pyrolvm._program.density.target import Target
from pyrolvm._program.symmetry import Block, Symmetries
from pyrolvm._program.symmetry.orbit import Alignment, scattered, separated

__all__ = ["Copies"]

SAME = 1e-4
"""Share of a log likelihood by which it may change from one image to another, for rounding."""

ENOUGH = 0.99
"""Share of the particles whose likelihood has to be the same at the image."""


@dataclass(frozen=True)
class Copies:
    """The groups of actions that map a problem's copies onto each other, on points.

    Attributes:
        symmetries: of the joint density, on draws.
        target: what makes draws of points.
        seed: of the random actions.
    """

    symmetries: Symmetries
    target: Target
    seed: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The finite groups; where a rotation brings points is no matter of scale."""
        return tuple(block for block in self.symmetries.blocks if block.generators)

    def settle(self, path: Path, cloud: Cloud) -> tuple[Cloud, Inside | None]:
        """The particles in one copy, where copies lie apart, and what says which points lie there; else at random images."""
        flat = self.flat(cloud.points)
        fine = np.isfinite(flat).all(axis=1)
        if not self.blocks or not fine.all():
            return cloud, None
        spread = scattered(self.blocks, flat, self.seed)
        apart = separated(self.symmetries.only(self.blocks), spread)
        if not apart:
            return self._mapped(path, cloud, flat, spread) or cloud, None
        rest = tuple(block for block in self.blocks if block not in apart)
        alignment = Alignment.of(apart, flat, cloud.ratio)
        image = scattered(rest, alignment(flat), self.seed) if rest else alignment(flat)
        mapped = self._mapped(path, cloud, flat, image)
        return (cloud, None) if mapped is None else (mapped, _Inside(self, alignment))

    def flat(self, points: Array) -> Array:
        """The draws of points, as the actions take them."""
        with torch.no_grad():
            values = {name: value.cpu().numpy() for name, value in self.target.draws(points).items()}
        return np.asarray(self.symmetries.layout.join(values), dtype=np.float64)

    def _mapped(self, path: Path, cloud: Cloud, flat: Array, image: Array) -> Cloud | None:
        """The particles at the images of their draws; ``None`` where the likelihood is another one there."""
        moved = np.flatnonzero((image != flat).any(axis=1))
        if not len(moved):
            return cloud
        like = self.target.tensor(np.zeros(0))
        values = self.symmetries.layout.split(image[moved])
        points = cloud.points.copy()
        points[moved] = self.target.points({name: torch.as_tensor(value).to(like) for name, value in values.items()})
        found = path(points)
        gap = np.abs(found.ratio[moved] - cloud.ratio[moved])
        same = gap <= SAME * (1 + np.abs(cloud.ratio[moved]))
        if same.mean() < ENOUGH:
            return None
        kept = np.zeros(len(points), dtype=bool)
        kept[moved[same]] = True
        return cloud.where(kept, found)


@dataclass(frozen=True)
class _Inside:
    copies: Copies
    alignment: Alignment

    def __call__(self, points: Array) -> NDArray[np.bool_]:
        flat = self.copies.flat(points)
        fine = np.flatnonzero(np.isfinite(flat).all(axis=1))
        inside = np.zeros(len(flat), dtype=np.bool_)
        inside[fine] = (self.alignment(flat[fine]) == flat[fine]).all(axis=1)
        return inside
