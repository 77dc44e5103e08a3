"""How the continuous latents of a draw lie in one flat vector of constrained values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry.action import Values

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Sites by name with their shapes, one after the other."""

    sites: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, problem: Problem) -> Layout:
        """The layout of a problem's continuous latents."""
        return cls(tuple((site.name, tuple(site.shape)) for site in problem.continuous))

    @property
    def size(self) -> int:
        """The length of the vector."""
        return sum(int(np.prod(shape)) for _, shape in self.sites)

    def places(self) -> dict[str, Values]:
        """Where each site's numbers are, in the site's shape."""
        found, start = {}, 0
        for name, shape in self.sites:
            count = int(np.prod(shape))
            found[name] = np.arange(start, start + count).reshape(shape)
            start += count
        return found

    def join(self, values: Mapping[str, object], lead: int = 1) -> Values:
        """Flat vectors ``(..., n)`` of values with ``lead`` dimensions in front of each site's own."""
        parts = []
        for name, shape in self.sites:
            array = np.asarray(values[name], dtype=np.float64)
            parts.append(array.reshape(*array.shape[:lead], int(np.prod(shape))))
        return np.concatenate(parts, axis=-1)

    def split(self, flat: Values) -> dict[str, Values]:
        """The sites' values in flat vectors ``(..., n)``."""
        return {
            name: flat[..., where.reshape(-1)].reshape((*flat.shape[:-1], *where.shape))
            for name, where in self.places().items()
        }
