"""Batches of a problem whose data are a stream, as runs of its model take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import ArgumentError
from pyrolvm._program import data
from pyrolvm._program.batching import Batch, full_plates
from pyrolvm._program.held import Held
from pyrolvm._program.program import Program
from pyrolvm._program.rows import minibatch_plate
from pyrolvm._program.sites import Plate
from pyrolvm._program.streaming import Passes, Source

__all__ = ["Streamed", "streamed_rows"]

READ = 65_536
"""Rows that are read at a time where some are chosen."""


@dataclass
class Streamed:
    """Batches of a problem whose data are a stream, scaled to all its rows.

    Attributes:
        problem: the problem, which holds the first batch.
        plate: the plate of the rows.
        source: where they come from.
    """

    problem: Program
    plate: Plate
    source: Source

    @classmethod
    def of(cls, problem: Program, plate: str | None = None) -> Streamed:
        """The batches of a problem with a stream.

        Raises:
            ArgumentError: if no plate has its rows, or latents are outside of it.
        """
        assert problem.stream is not None
        chosen = minibatch_plate(problem, plate)
        outside = next((site.name for site in problem.latents if chosen.name not in site.plates), None)
        if outside is not None:
            raise ArgumentError(
                f"latent {outside!r} is of all {problem.stream.size:,} rows of the stream, of which steps and result see one batch, so "
                "its posterior could not be judged. Fix: leave all options but the seed to lvm.fit, which then passes over all rows "
                "where unknowns are few and plain; take rows that fit in memory, with batch_size=; or make it a parameter."
            )
        return cls(problem, chosen, problem.stream)

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return self.source.stream.batch_size

    @property
    def total(self) -> int:
        """Rows that a batch stands for."""
        return self.source.size

    def rows(self) -> Passes:
        """The tensors of one batch after another, in the dtype and on the device of the problem."""
        wanted = sorted(set(self.source.columns.values()))

        def moved(columns: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(data.cast(columns[i], dtype=self.problem.dtype, device=self.problem.device) for i in wanted)

        return Passes(self.source.stream, moved)

    def batch(self, *tensors: Tensor) -> Batch:
        """The batch of those tensors, or of some of its rows."""
        order = sorted(set(self.source.columns.values()))
        given = {name: tensors[order.index(i)] for name, i in self.source.columns.items()}
        names = list(self.problem.arguments)
        args = tuple(given.get(n, v) for n, v in zip(names, self.problem.args, strict=False))
        kwargs = {name: given.get(name, value) for name, value in self.problem.kwargs.items()}
        rows = torch.arange(len(tensors[0]), device=self.problem.device)
        return Batch(args, kwargs, {**full_plates(self.problem), self.plate.name: runtime.Subsample(self.total, rows)})

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(*tensors) for tensors in self.rows())


@dataclass(frozen=True)
class _Read:
    """All rows of a stream, in the dtype of the problem, read in order.

    Attributes:
        problem: the problem.
        source: where they come from.
        columns: the stream's columns that are read.
    """

    problem: Program
    source: Source
    columns: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return self.source.size

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """The columns of every row once, so many rows at a time but for the last."""
        held: list[tuple[Tensor, ...]] = []
        count = 0
        with randomness.random_state(0):
            for batch in self.source.stream.whole():
                held.append(
                    tuple(
                        data.cast(batch[i], dtype=self.problem.dtype, device=self.problem.device) for i in self.columns
                    )
                )
                count += len(held[-1][0])
                while count >= rows:
                    joined = tuple(torch.cat(parts) for parts in zip(*held, strict=True))
                    yield tuple(column[:rows] for column in joined)
                    held, count = [tuple(column[rows:] for column in joined)], count - rows
        if count:
            yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))

    def some(self, which: NDArray[np.int64]) -> Held:
        """Some of the rows, by number, ascending: by one pass."""
        found: list[tuple[Tensor, ...]] = []
        start = 0
        for block in self.blocks(READ):
            first, last = np.searchsorted(which, [start, start + len(block[0])])
            own = torch.as_tensor(which[first:last] - start)
            found.append(tuple(column[own] for column in block))
            start += len(block[0])
        return Held(tuple(torch.cat(parts) for parts in zip(*found, strict=True)))


def streamed_rows(problem: Program) -> tuple[_Read, list[str]]:
    """All rows of a problem's stream, and the arguments that have them, in the order of the columns."""
    assert problem.stream is not None
    names = list(problem.stream.columns)
    return _Read(problem, problem.stream, tuple(problem.stream.columns[name] for name in names)), names
