"""A log density in groups of its parts, compiled.

The program that is compiled takes a weight for each group beside the unknowns, and multiplies the parts of the density by the
weights of their groups. Its gradient in the weights is the density of each group, in the unknowns that of all; both come of one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
from pyrolvm._program.density import Joint
from pyrolvm._program.density.effort import gradient_seconds
from pyrolvm._program.density.target import LONG
from pyrolvm._program.density.ways import Evaluate, by_xla

__all__ = ["Weighted"]

Array = NDArray[np.float64]

TOLERANCE = 1e-8
"""By how much, of its size, the compiled density may differ from the model's."""

SHARED = 5e-3
"""Seconds of evaluations from which on threads share them; points do not meet, so that what comes out is the same."""


def _as_they_are(flat: Tensor) -> Tensor:
    return flat


@dataclass
class Weighted:
    """The log density of a problem in groups. Made by :meth:`of`, inside a session.

    Attributes:
        size: how many unknowns there are.
        groups: how many groups.
        engine: what runs it, ``"c"`` or ``"jax"``.
        reason: why not C.
        each: seconds that a point is reckoned to take.
        evaluations: at how many points it has been run.
        seconds: what that took.
    """

    size: int
    groups: int
    engine: str
    reason: str
    each: float
    _run: Evaluate = field(repr=False)
    evaluations: int = 0
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        joint: Joint,
        which: Mapping[str, NDArray[np.int64]],
        groups: int,
        unknowns: Callable[[Tensor], Tensor] = _as_they_are,
    ) -> Weighted:
        """Compiles it and holds it against the model's own density.

        Args:
            joint: the density.
            which: the group of each of its parts, by name of the part.
            groups: how many there are.
            unknowns: the flat vector of unknowns that a point stands for, if it is not the point itself; of slope one in all.

        Raises:
            FitError: if neither C nor XLA can run it.
        """
        problem, size = joint.problem, joint.problem.unconstrained_size
        numbers = {name: torch.as_tensor(group) for name, group in which.items()}

        def potential(point: Tensor) -> Tensor:
            weight = point[size:]
            total = torch.zeros((), dtype=problem.dtype)
            for name, part in joint.elements(unknowns(point[:size])).items():
                total = total - (part * weight[numbers[name]]).sum()
            return total

        example = torch.zeros(size + groups, dtype=problem.dtype)
        try:
            captured = capture(potential, example, what=f"the density of {problem.name}")
        except CaptureError as error:
            raise FitError(f"{error} Without a compiled density there is nothing to integrate out.") from error
        reasons: list[str] = []
        for engine in ("c", "jax"):
            try:
                if engine == "c" and captured.size > LONG:
                    raise CaptureError(f"{captured.size:,} operations take a C compiler long.")
                run = compile_gradient(captured).many if engine == "c" else by_xla(captured)
                found = cls(size, groups, engine, " ".join(reasons), gradient_seconds(captured, engine), run)
                found._check(joint, unknowns)
                return found
            except CaptureError as error:
                reasons.append(str(error))
        raise FitError(
            f"the density of {problem.name} cannot be compiled in parts: {' '.join(reasons)} Fix: use lvm.infer(problem)."
        )

    def _check(self, joint: Joint, unknowns: Callable[[Tensor], Tensor]) -> None:
        random = np.random.default_rng(19)
        for _ in range(2):
            point = 0.3 * random.normal(size=self.size)
            flat = torch.as_tensor(point).to(joint.problem.dtype)
            with torch.no_grad():
                wanted = -float(joint.potential(unknowns(flat)))
            found = float(self.at(point[None])[0].sum())
            if np.isfinite([wanted, found]).any() and not abs(found - wanted) <= TOLERANCE * (1 + abs(wanted)):
                raise CaptureError(f"the compiled density is {found:.10g} where the model's is {wanted:.10g}.")

    @property
    def numbers(self) -> int:
        """How many numbers a point takes."""
        return 2 * (self.size + self.groups)

    def at(self, points: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """Log densities of groups ``(D, G)``, and the gradient of their weighted sum ``(D, n)``, at points ``(D, n)``.

        Args:
            points: the unknowns.
            weights: of each group, shape ``(D, G)`` or ``(G,)``; by default all alike.
        """
        count = len(points)
        full = np.empty((count, self.size + self.groups))
        full[:, : self.size] = points
        full[:, self.size :] = 1.0 if weights is None else weights
        started = time.perf_counter()
        gradients = self._many(full)
        self.seconds += time.perf_counter() - started
        self.evaluations += count
        return gradients[:, self.size :], gradients[:, : self.size]

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
