"""A log density with the share of each block, compiled.

The program that is compiled takes a weight for each block beside the unknowns, and multiplies the parts of the density by the
weights of their blocks. Its gradient in the weights is the density of each block, in the unknowns that of all; both come of one run.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import CaptureError, FitError
from pyrolvm._base.machine import available
from pyrolvm._capture import capture
from pyrolvm._capture.native import compile_gradient
from pyrolvm._methods.sparse.blocks import Blocks
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import LONG
from pyrolvm._program.density.ways import Evaluate, by_xla

__all__ = ["Shares", "Split"]

Array = NDArray[np.float64]

TOLERANCE = 1e-8
"""By how much, of its size, the compiled density may differ from the model's."""

NUDGE = 1e-5
"""The difference that curvatures are taken by."""

SHARED = 5e-3
"""Seconds of evaluations from which on threads share them; points do not meet, so that what comes out is the same."""


@dataclass(frozen=True)
class Shares:
    """A density at D points.

    Attributes:
        totals: the log density of each block, then of each of R other groups of parts, shape ``(D, C + R)``.
        shared: its gradient in the shared unknowns, shape ``(D, K)``.
        local: in the blocks' unknowns, zero where there is none, shape ``(D, C, W)``.
    """

    totals: Array
    shared: Array
    local: Array


@dataclass
class Split:
    """The log density of a problem in blocks. Made by :meth:`of`, inside a session.

    Attributes:
        blocks: the blocks.
        engine: what runs it, ``"c"`` or ``"jax"``.
        reason: why not C.
        evaluations: at how many points it has been run.
        seconds: what that took.
    """

    blocks: Blocks
    engine: str
    reason: str
    _run: Evaluate = field(repr=False)
    evaluations: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, joint: Joint, blocks: Blocks) -> Split:
        """Compiles it and holds it against the model's own density.

        Raises:
            FitError: if neither C nor XLA can run it.
        """
        problem, size = joint.problem, blocks.size
        which = {name: torch.as_tensor(block) for name, block in blocks.parts.items()}

        def potential(point: Tensor) -> Tensor:
            weight = point[size:]
            total = torch.zeros((), dtype=problem.dtype)
            for name, part in joint.elements(point[:size]).items():
                total = total - (part * weight[which[name]]).sum()
            return total

        example = torch.zeros(size + blocks.count + blocks.rest, dtype=problem.dtype)
        try:
            captured = capture(potential, example, what=f"the density of {problem.name}")
        except CaptureError as error:
            raise FitError(f"{error} Without a compiled density there are no blocks to integrate out.") from error
        reasons: list[str] = []
        for engine in ("c", "jax"):
            try:
                if engine == "c" and captured.size > LONG:
                    raise CaptureError(f"{captured.size:,} operations take a C compiler long.")
                run = compile_gradient(captured).many if engine == "c" else by_xla(captured)
                split = cls(blocks, engine, " ".join(reasons), run)
                split._check(joint)
                return split
            except CaptureError as error:
                reasons.append(str(error))
        raise FitError(
            f"the density of {problem.name} cannot be compiled in blocks: {' '.join(reasons)} Fix: use lvm.infer(problem)."
        )

    def _check(self, joint: Joint) -> None:
        random = np.random.default_rng(19)
        for _ in range(2):
            point = 0.3 * random.normal(size=self.blocks.size)
            flat = torch.as_tensor(point).to(joint.problem.dtype)
            with torch.no_grad():
                wanted = -float(joint.potential(flat))
            found = float(self.at(point[None]).totals.sum())
            if np.isfinite([wanted, found]).any() and not abs(found - wanted) <= TOLERANCE * (1 + abs(wanted)):
                raise CaptureError(f"the compiled density is {found:.10g} where the model's is {wanted:.10g}.")

    def __call__(self, shared: Array, local: Array, weights: Array | None = None) -> Shares:
        """The density at points.

        Args:
            shared: the shared unknowns, shape ``(D, K)``.
            local: the blocks' unknowns, shape ``(D, C, W)``.
            weights: what gradients weigh each group by, shape ``(D, C + R)``; by default all alike.
        """
        return self.at(self.assembled(shared, local), weights)

    @property
    def numbers(self) -> int:
        """How many numbers a point takes."""
        return 2 * (self.blocks.size + self.blocks.count + self.blocks.rest)

    @property
    def nudge(self) -> float:
        """The difference that curvatures are taken by."""
        return NUDGE

    @property
    def size(self) -> int:
        """How many unknowns are shared."""
        return len(self.blocks.shared)

    def assembled(self, shared: Array, local: Array) -> Array:
        """Vectors of all unknowns, shape ``(D, n)``."""
        blocks = self.blocks
        points = np.zeros((len(shared), blocks.size + 1))
        points[:, blocks.shared] = shared
        points[:, blocks.places.reshape(-1)] = local.reshape(len(shared), -1)
        return points[:, :-1]

    def at(self, points: Array, weights: Array | None = None) -> Shares:
        """The density at vectors of all unknowns, shape ``(D, n)``; otherwise as a call."""
        blocks, count = self.blocks, len(points)
        full = np.empty((count, blocks.size + blocks.count + blocks.rest))
        full[:, : blocks.size] = points
        full[:, blocks.size :] = 1.0 if weights is None else weights
        started = time.perf_counter()
        gradients = self._many(full)
        self.seconds += time.perf_counter() - started
        self.evaluations += count
        slopes = np.concatenate([gradients[:, : blocks.size], np.zeros((count, 1))], axis=1)
        totals = gradients[:, blocks.size :]
        local = slopes[:, blocks.places.reshape(-1)].reshape(count, *blocks.places.shape)
        return Shares(np.where(np.isfinite(totals), totals, -np.inf), slopes[:, blocks.shared], local)

    def _many(self, full: Array) -> Array:
        """Gradients, by a thread for each processor: points do not meet, so that the result is that of one."""
        expected = len(full) * self.seconds / max(self.evaluations, 1)
        threads = min(available(), len(full)) if self.engine == "c" and expected > SHARED else 1
        if threads == 1:
            return self._run(full)[1]
        found = np.empty_like(full)
        ends = np.linspace(0, len(full), threads + 1).astype(int)

        def some(k: int) -> None:
            part = slice(ends[k], ends[k + 1])
            found[part] = self._run(full[part])[1]

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(threads)))
        return found
