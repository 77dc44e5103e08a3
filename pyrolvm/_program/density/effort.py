"""What densities take on an ordinary processor, reckoned from what they compute.

Whether a search goes on, chains are run again or a graph is worth compiling depends on what it costs. A clock would let the answer,
and with it the result, depend on what else the machine does; this does not.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.passing import passed_over
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.recorder import operation
from pyrolvm._compat.torch import DispatchMode
from pyrolvm._program.density.joint import Joint

__all__ = ["Effort", "effort_of", "gradient_seconds"]

NUMBER = {"c": 1e-9, "jax": 2e-9, "inductor": 2e-9, "torch": 8e-9, "pyro": 8e-9}
"""Seconds for each number that a density with its gradient computes: within a factor of three of what is measured over the zoo."""
OPERATION = 3e-5
"""Seconds of an operation of torch with its gradient, whatever its size."""
POINT = 3e-7
"""Seconds for each point besides."""
USUAL = 100
"""Operations of a small program."""
INNER = 0.5
"""Of a product or factorisation of matrices: for each number of the result, so many times the length of what is summed for it."""

_MATRICES = {
    "mm", "mv", "bmm", "addmm", "addmv", "baddbmm", "matmul", "cholesky", "triangular", "solve", "inv", "inverse", "eigh", "svd", "qr",
}  # fmt: skip
"""Words of which the name of such an operation has one, as ``linalg_inv_ex``; ``lgamma`` is none, though there is ``mm`` in it."""


class Effort:
    """What densities with their gradients take.

    Args:
        call: seconds of a call.
        point: seconds of each point in it.
    """

    def __init__(self, call: float, point: float) -> None:
        self._call, self.point = call, point

    def of(self, points: int) -> float:
        """Seconds of a call with so many points."""
        return self._call + points * self.point


def effort_of(joint: Joint, captured: Captured | None, engine: str, *, together: bool) -> Effort:
    """What a density takes by an engine.

    Args:
        joint: the density.
        captured: its graph; ``None`` where there is none: engine ``"pyro"`` runs the program, which must be inside a session.
        engine: what evaluates it.
        together: whether it takes many points at once.
    """
    operations, numbers = (0 if captured is None else captured.size), 0.0
    if captured is None and engine == "pyro":
        operations = _operations(joint)
        numbers = float(operations * joint.problem.unconstrained_size)
    point = POINT + numbers * NUMBER[engine] if captured is None else gradient_seconds(captured, engine)
    if engine not in ("torch", "pyro"):
        return Effort(0.0, point)
    return Effort(operations * OPERATION, point) if together else Effort(0.0, operations * OPERATION + point)


def gradient_seconds(captured: Captured, engine: str) -> float:
    """Seconds of one point of a compiled density with its gradient."""
    return POINT + _numbers(captured) * NUMBER[engine]


def _numbers(captured: Captured) -> float:
    """How many numbers a graph computes, those of matrix products and factorisations by what is summed for them."""
    extra = 0.0
    for node in captured.module.graph.nodes:
        if node.op != "call_function" or _MATRICES.isdisjoint(re.split(r"[._]", operation(node))):
            continue
        given = [arg.meta.get("val") for arg in node.all_input_nodes]
        inner = max((value.shape[-1] for value in given if isinstance(value, Tensor) and value.dim()), default=1)
        found = node.meta.get("val")
        sizes = [
            one.numel() for one in (found if isinstance(found, tuple | list) else [found]) if isinstance(one, Tensor)
        ]
        extra += INNER * inner * max(sizes, default=0)
    return captured.numbers + extra


class _Count(DispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _operations(joint: Joint) -> int:
    """How many operations a run of the program takes."""
    problem = joint.problem
    zero = torch.zeros(problem.unconstrained_size, dtype=problem.dtype, device=problem.device)
    try:
        with torch.no_grad(), _Count() as counted:
            joint.potential(zero)
    except Exception:
        passed_over(
            "a density that does not run is told of where it is evaluated; its operations are as many as those of small programs"
        )
        return USUAL
    return counted.count
