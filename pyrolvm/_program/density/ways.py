"""The ways to compute a recorded log density with its gradient at many points, each by an engine of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.passing import passed_over
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.door import xla
from pyrolvm._capture.graph import widened
from pyrolvm._capture.vmap import vmapped

__all__ = ["Evaluate", "Points", "Values", "by_inductor", "by_torch", "by_xla", "values_by_torch", "values_by_xla"]

Points = NDArray[np.float64]
Evaluate = Callable[[Points], tuple[Points, Points]]
Values = Callable[[Points], Points]

WIDTHS = (1, 32, 512)
"""Points that one compiled program takes at a time; fewer are filled up."""

XLA_LONG = 3_000
"""Operations from which on XLA compiles for minutes."""


def by_xla(captured: Captured) -> Evaluate:
    """Compiled by XLA in double precision, for each width when it is first needed.

    Raises:
        CaptureError: if an operation has no rule, XLA would take too long or cannot run it, or JAX does not start.
    """
    import jax

    one, constants, size = _by_jax(captured)
    run = _for_each_width(jax.vmap(jax.value_and_grad(one), in_axes=(0, None)), constants, size)

    def both(points: Points) -> tuple[Points, Points]:
        values, gradients = run(points)
        return -np.asarray(values, np.float64), -np.asarray(gradients, np.float64)

    evaluate = _by_widths(both, WIDTHS)
    _tried("XLA", evaluate, size)
    return evaluate


def values_by_xla(captured: Captured) -> Values:
    """As :func:`by_xla`, without gradients, for many points.

    Raises:
        CaptureError: as there.
    """
    import jax

    one, constants, size = _by_jax(captured)
    run = _for_each_width(jax.vmap(one, in_axes=(0, None)), constants, size)

    def alone(points: Points) -> tuple[Points, Points]:
        return -np.asarray(run(points), np.float64), points  # which stand where gradients would

    evaluate = _by_widths(alone, WIDTHS[-1:])
    _tried("XLA", evaluate, size)
    return lambda points: evaluate(points)[0]


def _by_jax(captured: Captured) -> tuple[Callable[[Any, Any], Any], Any, int]:
    """A potential as a function that JAX traces, of a point and constants; these; and the number of unknowns.

    Raises:
        CaptureError: if an operation has no rule, or XLA would take too long.
    """
    if captured.size > XLA_LONG:
        raise CaptureError(f"XLA takes long to compile {captured.size:,} operations.")
    with xla().precision(torch.float64):
        program = xla().lower(widened(captured))
    size = captured.module.graph.find_nodes(op="placeholder")[0].meta["val"].numel()
    return lambda point, constants: program.function((point,), (), constants, None), program.constants, size


def _for_each_width(function: Any, constants: Any, size: int) -> Callable[[Points], Any]:
    """A function of points and constants, compiled for each number of points when it is first needed."""
    import jax

    jitted, ready = jax.jit(function), dict[int, Any]()

    def run(points: Points) -> Any:
        with xla().precision(torch.float64):
            if len(points) not in ready:
                lowered = jitted.lower(np.zeros((len(points), size)), constants)
                ready[len(points)] = xla().compiled(lowered, xla().QUICK)
            return jax.block_until_ready(ready[len(points)](points, constants))

    return run


def by_inductor(captured: Captured, like: Tensor) -> Evaluate:
    """Compiled by torch, for each width when it is first needed.

    Raises:
        CaptureError: if ``vmap`` or the compiler cannot run it.
    """
    wide = widened(captured)

    def value(point: Tensor) -> Tensor:
        return torch.as_tensor(wide(point))

    together = vmapped(torch.func.grad_and_value(value))
    ready: dict[int, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {}

    def run(points: Points) -> tuple[Points, Points]:
        given = torch.as_tensor(points).to(like)
        if len(points) not in ready:
            graph = capture(together, torch.zeros_like(given))
            ready[len(points)] = torch.compile(graph.module, fullgraph=True, dynamic=False), graph.constants
        step, constants = ready[len(points)]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # inductor calls what torch itself deprecates
            gradients, values = step(given, *constants)
        return -values.cpu().double().numpy(), -gradients.cpu().double().numpy()

    evaluate = _by_widths(run, WIDTHS[:2])
    _tried("torch's compiler", evaluate, like.numel())
    return evaluate


APART = 1e-2
"""The share of its length by which rounding may change a gradient where points are taken together."""


def by_torch(potential: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Evaluate, bool]:
    """Operation by operation: all points at once where vmap can, which is the second of what it returns, else one by one."""

    def value(u: Tensor) -> Tensor:
        return torch.as_tensor(potential(u))

    together = vmapped(value)

    def at_once(points: Points) -> tuple[Points, Points]:
        rows = torch.as_tensor(points).to(like).detach().requires_grad_()
        with (
            torch.enable_grad()
        ):  # rows do not meet, so that the sum's gradient is each row's own; torch.func's takes a second to import
            values = together(rows)
            (gradients,) = torch.autograd.grad(values.sum(), rows, materialize_grads=True)
        return -values.detach().cpu().double().numpy(), -gradients.detach().cpu().double().numpy()

    def one_by_one(points: Points) -> tuple[Points, Points]:
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for i, row in enumerate(torch.as_tensor(points).to(like)):
            point = row.detach().requires_grad_()
            with torch.enable_grad():
                found = value(point)
                (gradient,) = torch.autograd.grad(found, point)
            values[i], gradients[i] = -float(found.detach()), -gradient.cpu().double().numpy()
        return values, gradients

    places = np.linspace(-0.3, 0.3, 2 * like.numel()).reshape(2, like.numel())
    try:
        found = at_once(places)[1]
    except Exception:
        passed_over("whatever vmap cannot run; a real error shows in the plain loop")
        return one_by_one, False
    # Torch has operations whose gradient through vmap is another one, without a word.
    alone = one_by_one(places)[1]
    apart = np.linalg.norm(found - alone) > APART * (1 + np.linalg.norm(alone))
    return (one_by_one, False) if apart else (at_once, True)


def values_by_torch(potential: Callable[[Tensor], Tensor], like: Tensor) -> Values:
    """As :func:`by_torch` where it takes all points at once, without gradients.

    Raises:
        CaptureError: if it needs gradients of its own.
    """
    together = vmapped(lambda u: torch.as_tensor(potential(u)))

    def alone(points: Points) -> Points:
        with torch.no_grad():
            return np.asarray(-together(torch.as_tensor(points).to(like)).cpu().double().numpy())

    _tried("torch", alone, like.numel())
    return alone


def _by_widths(run: Evaluate, widths: tuple[int, ...]) -> Evaluate:
    """A function of any number of points by one that is compiled for each of a few numbers."""

    def evaluate(points: Points) -> tuple[Points, Points]:
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        start = 0
        while start < len(points):
            part = points[start : start + widths[-1]]
            width = next(w for w in widths if w >= len(part))
            filled = np.concatenate([part, np.repeat(part[-1:], width - len(part), axis=0)])
            stop = start + len(part)
            found = run(filled)
            values[start:stop], gradients[start:stop] = found[0][: len(part)], found[1][: len(part)]
            start = stop
        return values, gradients

    return evaluate


def _tried(what: str, evaluate: Callable[[Points], Any], size: int) -> None:
    """Runs an engine once.

    Raises:
        CaptureError: with what it raised.
    """
    try:
        evaluate(np.zeros((1, size)))
    except CaptureError:
        raise
    except Exception as error:  # of a compiler, of any kind: the next engine runs it, and the record tells of this
        raise CaptureError(
            f"{what} cannot run it: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error
