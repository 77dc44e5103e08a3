"""Rows of data, wherever they are: what a pass reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Held", "Rows"]


class Rows(Protocol):
    """Where rows come from."""

    @property
    def size(self) -> int:
        """How many there are."""

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """The columns of every row once, so many rows at a time but for the last, in an order that is the same each time."""

    def some(self, which: NDArray[np.int64]) -> Held:
        """Some of them, by number, ascending."""


@dataclass(frozen=True)
class Held:
    """Rows in memory.

    Attributes:
        columns: with a row each along the first dimension.
    """

    columns: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.columns[0])

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """Slices of the columns."""
        for start in range(0, self.size, rows):
            yield tuple(column[start : start + rows] for column in self.columns)

    def some(self, which: NDArray[np.int64]) -> Held:
        """Some of them, by number."""
        return Held(tuple(column[torch.as_tensor(which)] for column in self.columns))
