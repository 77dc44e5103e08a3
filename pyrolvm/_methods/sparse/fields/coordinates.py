"""Coordinates in which unknowns meet few others: their own values, or the sums of steps up to each.

A walk that a program writes as the sum of independent steps has every observation meet all steps before it; in the places that the walk
goes through, each meets its neighbours alone. Sums have slope one, so that nothing else of the density changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._methods.sparse.fields.pattern import FEWEST
from pyrolvm._program.problem import Problem

__all__ = ["Summed", "summed", "unknowns"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summed:
    """A site whose coordinates are sums of its unknowns along one of its dimensions.

    Attributes:
        start: its first unknown.
        stop: the one after its last.
        shape: before the dimension, of it, and after it.
        times: how often it is summed.
    """

    start: int
    stop: int
    shape: tuple[int, int, int]
    times: int

    def steps(self, point: Tensor) -> Tensor:
        """The site's unknowns at coordinates of all, ``(..., n)``, flat."""
        part = point[..., self.start : self.stop].reshape(*point.shape[:-1], *self.shape)
        for _ in range(self.times):
            part = torch.cat([part[..., :1, :], part[..., 1:, :] - part[..., :-1, :]], dim=-2)
        return part.reshape(*point.shape[:-1], self.stop - self.start)


def unknowns(sites: Sequence[Summed], point: Tensor) -> Tensor:
    """The flat vectors of unknowns that coordinates ``(..., n)`` stand for."""
    parts, end = [], 0
    for site in sites:
        parts += [point[..., end : site.start], site.steps(point)]
        end = site.stop
    return torch.cat([*parts, point[..., end:]], dim=-1) if sites else point


def summed(problem: Problem) -> list[Summed]:
    """The sites of a problem that may be steps, each with the longest of its dimensions."""
    found, start = [], 0
    for site in problem.continuous:
        shape, stop = site.unconstrained_shape or (), start + site.unconstrained_numel
        if shape and max(shape) >= FEWEST:
            axis = int(np.argmax(shape))
            around = int(np.prod(shape[:axis], dtype=int)), shape[axis], int(np.prod(shape[axis + 1 :], dtype=int))
            found.append(Summed(start, stop, around, 1))
        start = stop
    return found
