"""The log density of a problem as a sum over its rows, chunk after chunk: for many rows, or more than fit in memory.

The program is compiled once, for a chunk of rows that are its inputs, so that a pass over the rows takes no memory besides a chunk for
each thread. Chunks have the same rows and their sums are added in the same order whatever runs them: the result does not depend on the
number of threads, or of processes that share a pass.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import budget, runtime
from pyrolvm._base.errors import CaptureError, DataError
from pyrolvm._base.machine import available
from pyrolvm._base.team import Team
from pyrolvm._capture import capture
from pyrolvm._capture.native import NativeRows, compile_rows
from pyrolvm._program.batching import Batch, full_plates
from pyrolvm._program.density.effort import gradient_seconds
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.held import Held, Rows
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import Plate

__all__ = ["CHUNK", "Rowwise"]

Array = NDArray[np.float64]

CHUNK = 4096
"""Rows of a chunk: few enough for a processor's cache."""

TOGETHER = 32
"""Chunks that are read before they are run, and whose sums are added before they are added to the others'."""

AT_ONCE = 8
"""Times as many that threads share before they wait for each other, where rows are in memory."""

NUMBERS = 8_000_000
"""Numbers of sums that are held at a time."""

WORTH = 8
"""Chunks at points from which on threads share them."""

ADDITIVE, TOLERANCE = 1e-9, {torch.float64: 1e-8, torch.float32: 3e-5}
"""By how much, of its size, the sum may differ where rows are in other chunks, and from the model's own density."""

SHARES = (0.3, 0.03, 3e-3, 3e-4, 0.0)
"""How far from the origin densities are compared."""


@dataclass
class Rowwise:
    """The log density of unknowns that all rows share. Made by :meth:`of`, inside a session.

    Attributes:
        joint: the density that it is of.
        names: the arguments that have rows.
        plate: their plate.
        native: the compiled density of a chunk.
        chunk: its rows.
        rows: where they come from.
        each: seconds that a row is reckoned to take, with its gradient.
        scaled: whether the location or scale of some unknowns is set by others.
        weight: how many rows each of them stands for.
        threads: how many share a pass; ``None`` for one a processor.
        team: the processes that share a pass; ``None`` for this one alone.
        evaluations: at how many points it has been run.
        passes: how often all rows have been read.
    """

    joint: Joint
    names: tuple[str, ...]
    plate: Plate
    native: NativeRows
    chunk: int
    rows: Rows
    each: float
    scaled: bool = False
    weight: float = 1.0
    threads: int | None = None
    team: Team | None = None
    evaluations: int = 0
    passes: int = 0
    _local: threading.local = field(default_factory=threading.local, repr=False)

    @classmethod
    def of(cls, problem: Problem, plate: Plate, rows: Rows | None = None, names: Sequence[str] = ()) -> Rowwise:
        """Compiles it and holds it against the model's own density.

        Args:
            problem: a problem without discrete latents, none of whose latents is in the plate.
            plate: the plate of the rows.
            rows: where they come from; by default the problem's arguments, which then are told by their lengths.
            names: the arguments that have rows, in the order of the columns.

        Raises:
            CaptureError: if C cannot run it, or the density is no sum over rows.
        """
        if rows is None:
            names = [
                name
                for name, value in problem.arguments.items()
                if isinstance(value, Tensor) and value.dim() and len(value) == plate.size
            ]
            if not names:
                raise CaptureError(f"no argument of {problem.name} has the rows of plate {plate.name!r}.")
            rows = Held(tuple(problem.arguments[name].detach().cpu() for name in names))
        chunk = min(CHUNK, rows.size)
        heads = [problem.arguments[name].detach() for name in names]
        repeated = [head[torch.arange(chunk, device=head.device) % len(head)].clone() for head in heads]
        point = torch.zeros(problem.unconstrained_size, dtype=problem.dtype)
        ones = torch.ones(chunk, dtype=problem.dtype)

        def potential(flat: Tensor, counts: Tensor, rest: Tensor, *columns: Tensor) -> Tensor:
            joint = Joint(problem, _batch(problem, plate, names, columns))
            return joint.counted(flat, plate.name, counts, rest)

        captured = capture(
            potential,
            point,
            ones,
            torch.ones((), dtype=problem.dtype),
            *repeated,
            what=f"the density of {problem.name}",
        )
        scaled = bool(Joint(problem, _batch(problem, plate, names, repeated)).dependent())
        found = cls(
            Joint(problem),
            tuple(names),
            plate,
            compile_rows(captured),
            chunk,
            rows,
            gradient_seconds(captured, "c") / chunk,
            scaled,
        )
        found._check(heads)
        return found

    @property
    def size(self) -> int:
        """How many unknowns there are."""
        return self.native.size

    @property
    def seconds(self) -> float:
        """What a pass with one gradient is reckoned to take."""
        workers = (self.threads or available()) * (1 if self.team is None else self.team.size)
        return self.rows.size * self.each / workers

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return 1e-5

    def settle(self, point: Array) -> None:
        """Nothing is integrated out."""

    def tensor(self, points: Array) -> Tensor:
        """Points as the model takes them."""
        return torch.as_tensor(points).to(dtype=self.joint.problem.dtype)

    def at(self, point: Array) -> tuple[float, Array]:
        """Log density and gradient at one point."""
        values, gradients = self(point[None])
        return float(values[0]), gradients[0]

    def share(self, team: Team | None) -> None:
        """Lets processes share each pass from now on."""
        self.team, self.threads = team, self.threads if team is None else team.threads

    def over(self, rows: Rows, weight: float = 1.0) -> Rowwise:
        """The same density of other rows, each of which stands for so many, by this process alone."""
        return replace(self, rows=rows, weight=weight, team=None, evaluations=0, passes=0, _local=threading.local())

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Log densities ``(count,)`` and gradients ``(count, size)`` at points ``(count, size)``, by one pass over the rows."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        most = max(1, NUMBERS // (TOGETHER * (self.size + 1)))
        if len(points) > most:
            parts = [self(points[start : start + most]) for start in range(0, len(points), most)]
            return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])
        points = points if self.team is None else self.team.led(torch.as_tensor(points)).numpy()
        sums = _Sums(len(points), self.size, self.team)
        count, threads = 0, self.threads or available()
        room = NUMBERS // max(1, TOGETHER * len(points) * (self.size + 1))
        wide = max(1, min(AT_ONCE, room)) if isinstance(self.rows, Held) else 1
        held: list[_Block] = []
        with ThreadPoolExecutor(threads, thread_name_prefix="rows") as pool:
            for k, columns in enumerate(self.rows.blocks(TOGETHER * self.chunk)):
                budget.check(2.0)
                held.append(_Block.of(columns, points, self.chunk, first=not k, mine=sums.has(k)))
                count += len(columns[0])
                if len(held) == wide:
                    self._run(points, held, sums, pool, threads)
                    held = []
            self._run(points, held, sums, pool, threads)
        values, gradients = sums.all()
        if count != self.rows.size:
            raise DataError(
                f"a pass over the rows of {self.joint.problem.name} had {count:,}, expected {self.rows.size:,}. Fix: pass the number "
                "of all rows as size=, and a loader that leaves none out (drop_last=False)."
            )
        self.evaluations += len(points)
        self.passes += 1
        return values, gradients

    def _run(self, points: Array, blocks: list[_Block], sums: _Sums, pool: ThreadPoolExecutor, threads: int) -> None:
        """Adds the sums over blocks, whose chunks threads take in turn: which has which does not matter."""
        chunks = [(block, k) for block in blocks if block.mine for k in range(len(block.starts))]
        left = iter(chunks)

        def work(_: int) -> None:
            for block, k in left:
                given = self._given(block.chunk(k, self.chunk), 1.0 if block.first and not k else 0.0)
                self.native(points, given, block.values[k], block.gradients[k])

        if threads == 1 or len(chunks) * len(points) < WORTH:
            work(0)
        else:
            list(pool.map(work, range(threads)))
        for block in blocks:
            if block.mine:
                sums.put(block.values.sum(axis=0), block.gradients.sum(axis=0))
            sums.next()

    def _given(self, columns: list[NDArray[Any]], rest: float) -> list[NDArray[Any]]:
        """Weights and columns as C takes them: as they are where they are so, else in this thread's own memory."""
        count = len(columns[0])
        weights = self._room(0, (self.chunk,))
        weights[:count], weights[count:] = self.weight, 0.0
        found = [weights, np.array([rest], dtype=self.native.types[1])]
        for k, column in enumerate(columns):
            wanted = self.native.types[k + 2]
            if column.dtype == wanted and count == self.chunk and column.flags.c_contiguous:
                found.append(column)
                continue
            room = self._room(k + 2, (self.chunk, *column.shape[1:]))
            room[:count] = column
            room[count:] = column[-1]  # which counts nothing
            found.append(room)
        return found

    def _room(self, k: int, shape: tuple[int, ...]) -> NDArray[Any]:
        held: dict[int, NDArray[Any]] = self._local.__dict__.setdefault("rooms", {})
        if k not in held:
            held[k] = np.empty(shape, dtype=self.native.types[k])
        return held[k]

    def _check(self, heads: list[Tensor]) -> None:
        """Makes sure that the density is the model's, and does not depend on which rows are in a chunk together.

        Raises:
            CaptureError: if it is another.
        """
        count = min(len(heads[0]), 2 * self.chunk + self.chunk // 3)
        some = [head[:count] for head in heads]
        sample = self.over(Held(tuple(column.cpu() for column in some)))
        mixed = torch.as_tensor(np.random.default_rng(23).permutation(count))
        other = self.over(Held(tuple(column.cpu()[mixed] for column in some)))
        name = self.joint.problem.name
        for point in np.random.default_rng(29).normal(size=(2, self.size)):
            point, wanted, slope = self._finite(some, point)
            value, gradient = sample.at(point)
            mixture, _ = other.at(point)
            tolerance = TOLERANCE.get(self.joint.problem.dtype, 1e-2)
            size = 1 + np.abs(slope).max()
            apart = not np.abs(gradient - slope).max() <= 10 * tolerance * size
            if apart or not abs(value - wanted) <= tolerance * (1 + abs(wanted)):
                raise CaptureError(
                    f"the compiled density of rows of {name} is {value:.10g} where the model's is {wanted:.10g}, or it has another "
                    "gradient."
                )
            if not abs(value - mixture) <= ADDITIVE * (1 + abs(value)):
                raise CaptureError(
                    f"the density of {name} depends on which rows are taken together: {value:.10g} or {mixture:.10g}."
                )

    def _finite(self, some: list[Tensor], point: Array) -> tuple[Array, float, Array]:
        """A point, as far from the origin as the model's density of some rows is finite, with the density and its gradient.

        Raises:
            CaptureError: if it is finite nowhere near.
        """
        problem = self.joint.problem
        joint = Joint(problem, _batch(problem, self.plate, self.names, some))
        ones = torch.ones(len(some[0]), dtype=problem.dtype, device=problem.device)
        for share in SHARES:
            flat = self.tensor(share * point).to(problem.device).requires_grad_()
            with torch.enable_grad():
                found = -joint.counted(flat, self.plate.name, ones, ones[0])
                (slope,) = torch.autograd.grad(found, flat)
            if bool(torch.isfinite(found)) and bool(torch.isfinite(slope).all()):
                return flat.detach().cpu().double().numpy(), float(found.detach()), slope.cpu().double().numpy()
        raise CaptureError(f"the density of {problem.name} is not finite near the origin.")


@dataclass(frozen=True)
class _Block:
    """Rows that are read together, and what is found of their chunks.

    Attributes:
        columns: the rows; none where they are another process's.
        starts: where chunks start.
        first: whether these are the first rows, which everything else is counted with.
        mine: whether they are this process's.
        values: of each chunk at each point.
        gradients: the same.
    """

    columns: list[NDArray[Any]]
    starts: range
    first: bool
    mine: bool
    values: Array
    gradients: Array

    @classmethod
    def of(cls, columns: tuple[Tensor, ...], points: Array, chunk: int, *, first: bool, mine: bool) -> _Block:
        """With room for what will be found."""
        starts = range(0, len(columns[0]) if mine else 0, chunk)
        given = [column.detach().cpu().numpy() for column in columns] if mine else []
        count = len(starts), len(points)
        return cls(given, starts, first, mine, np.empty(count), np.empty((*count, points.shape[1])))

    def chunk(self, k: int, rows: int) -> list[NDArray[Any]]:
        """The columns of a chunk."""
        return [column[self.starts[k] : self.starts[k] + rows] for column in self.columns]


class _Sums:
    """The sums of blocks, added in their order, whichever process has them.

    Args:
        points: at how many points they are.
        size: how many unknowns there are.
        team: the processes, each of which takes every so many-th block; ``None`` for this one alone.
    """

    def __init__(self, points: int, size: int, team: Team | None) -> None:
        self._team, self._block = team, 0
        self._total = np.zeros((points, size + 1))
        self._width = 1 if team is None else team.size
        self._rounds = 1 if team is None else max(1, NUMBERS // (self._width * self._total.size))
        self._held = np.zeros((self._rounds, *self._total.shape))

    def has(self, block: int) -> bool:
        """Whether a block, by number, is this process's."""
        return self._team is None or block % self._width == self._team.rank

    def put(self, values: Array, gradients: Array) -> None:
        """Takes the sums over it."""
        held = self._held[self._block // self._width % self._rounds]
        held[:, 0], held[:, 1:] = values, gradients

    def next(self) -> None:
        """Goes on to the next block."""
        self._block += 1
        if self._block % (self._width * self._rounds) == 0:
            self._add(self._width * self._rounds)

    def all(self) -> tuple[Array, Array]:
        """Values and gradients of all blocks."""
        left = self._block % (self._width * self._rounds)
        if left:
            self._add(left)
        return self._total[:, 0].copy(), self._total[:, 1:].copy()

    def _add(self, count: int) -> None:
        """Adds what is held, of so many blocks."""
        if self._team is None:
            parts = [self._held]
        else:
            parts = [
                one.numpy() for one in self._team.gathered(torch.from_numpy(self._held[: -(-count // self._width)]))
            ]
        for k in range(count):
            self._total += parts[k % self._width][k // self._width]


def _batch(problem: Problem, plate: Plate, names: Sequence[str], columns: Sequence[Tensor]) -> Batch:
    """A batch whose rows stand for themselves alone."""
    given = dict(zip(names, columns, strict=True))
    args = tuple(given.get(n, v) for n, v in zip(problem.arguments, problem.args, strict=False))
    kwargs = {name: given.get(name, value) for name, value in problem.kwargs.items()}
    count = len(columns[0])
    own = runtime.Subsample(count, torch.arange(count, device=problem.device))
    return Batch(args, kwargs, {**full_plates(problem), plate.name: own})
