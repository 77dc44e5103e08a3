"""The potential energy of a problem as a JAX function, and whether it is what Pyro computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.numerics import Array
from pyrolvm._base.passing import passed_over
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.door import xla
from pyrolvm._program.density import Joint, map_draws
from pyrolvm._program.density.target import stock

__all__ = ["Disagreement", "Program", "check_draws", "check_far", "check_starts", "program"]

FAR, ASKED = 256, 8
"""Places around the draws at which the compiled density is looked at, and those of them at which stock Pyro is."""

CHECKED = 64
"""How many draws are computed again by Pyro after a run."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Errors relative to 1 + |value| that rounding may cause where a matrix is nearly singular; a wrong program is off by more."""

ROUNDED = 3.0
"""Times the largest rounding error of stock Pyro's energies that a compiled one may be off by."""


class Disagreement(CaptureError):
    """A captured program gives other values than the model."""


@dataclass(frozen=True)
class Program:
    """The potential energy on JAX: ``function(z, *constants)`` for an unconstrained vector ``z``; shape ``()``.

    Attributes:
        function: pure, traceable and differentiable.
        constants: the data, as arrays, so that they are not baked into what is compiled.
        size: the number of unknowns.
        dtype: the floating dtype.
        width: the numbers in the largest value that it computes on the way.
        note: what about it is slower than it could be; empty as a rule.
    """

    function: Callable[..., object]
    constants: tuple[Any, ...]
    size: int
    dtype: torch.dtype
    width: int = 0
    note: str = ""


def program(joint: Joint, example: Tensor) -> Program:
    """Captures the potential energy; must be called inside a session and :func:`pyrolvm._capture.jax.precision`.

    An operation that JAX has no rule for makes the whole potential a call back into torch, gradient included.

    Raises:
        CaptureError: if the model reads values that change, or draws random numbers of its own; its line is named.
    """
    import jax

    captured = capture(joint.potential, example, what=f"the density of {joint.problem.name}")
    if captured.random:
        names = ", ".join(sorted({str(node.target) for node in captured.random}))
        raise CaptureError(f"the density of {joint.problem.name} draws random numbers of its own ({names}).")
    absent = xla().missing(captured)
    size, dtype = example.numel(), example.dtype
    if absent:
        note = f"JAX has no rule for {', '.join(absent)}, so that each gradient calls back into torch"
        return Program(_through_torch(captured, example), (), size, dtype, note=note)
    lowered = xla().lower(captured)

    def function(z: Any, *constants: Any) -> object:
        return lowered.function((z,), (), constants, None)

    try:
        jax.eval_shape(function, np.zeros(size, numpy_dtype(dtype)), *lowered.constants)
    except Exception as error:  # a rule that fails is as good as none
        note = f"JAX cannot run it ({error}), so that each gradient calls back into torch"
        return Program(_through_torch(captured, example), (), size, dtype, note=note)
    return Program(function, lowered.constants, size, dtype, _width(captured))


def _width(captured: Captured) -> int:
    """The numbers in the largest value that a graph computes."""
    values = [node.meta.get("val") for node in captured.module.graph.nodes if node.op == "call_function"]
    return max((value.numel() for value in values if isinstance(value, Tensor)), default=0)


def numpy_dtype(dtype: torch.dtype) -> Any:
    """NumPy's dtype for torch's."""
    return np.dtype(str(dtype).removeprefix("torch."))


def _through_torch(captured: Captured, example: Tensor) -> Callable[..., Any]:
    """The potential as a call from JAX to torch, value and gradient in one."""
    import jax

    kind = numpy_dtype(example.dtype)
    shapes = (jax.ShapeDtypeStruct((), kind), jax.ShapeDtypeStruct((example.numel(),), kind))

    def both(z: Any) -> tuple[Array, Array]:
        with torch.enable_grad():
            point = torch.from_numpy(np.array(z, kind)).to(example.device).requires_grad_(True)
            value = captured(point)
            (gradient,) = torch.autograd.grad(value, point)
        return value.detach().cpu().numpy().astype(kind), gradient.cpu().numpy().astype(kind)

    def call(z: object) -> Any:
        return jax.pure_callback(both, shapes, z, vmap_method="sequential")

    @jax.custom_vjp
    def potential(z: Any) -> Any:
        return call(z)[0]

    potential.defvjp(call, lambda gradient, weight: (weight * gradient,))
    return potential


# --- agreement with Pyro ----------------------------------------------------------------------------------------------


def check_starts(joint: Joint, starts: Tensor, values: Array, gradients: Array, most: int = 2) -> None:
    """Compares potential energy and gradient with stock Pyro's at the chains' starts; must be called inside a session.

    Raises:
        Disagreement: if they differ by more than rounding.
    """
    for z, value, gradient in list(zip(starts, values, gradients, strict=True))[:most]:
        point = z.clone().requires_grad_(True)
        with torch.enable_grad():
            wanted = joint.potential(point)
            (slope,) = torch.autograd.grad(wanted, point)
        _compare("potential energy", np.asarray(value), wanted.detach().cpu().numpy(), z.dtype)
        # Terms of a sum cancel in its gradient, so that errors go by the largest entry.
        norm = np.linalg.norm(slope.cpu().numpy())
        error = np.linalg.norm(gradient - slope.cpu().numpy())
        if not error <= 10 * _TOLERANCE.get(z.dtype, 1e-2) * (1 + norm):
            raise Disagreement(
                f"the captured density of {joint.problem.name} has another gradient than Pyro's at a start: their difference has "
                f"length {error:.3g}, Pyro's gradient {norm:.3g}."
            )


def check_draws(joint: Joint, draws: Tensor, potential: Array) -> None:
    """Compares the potential energies that a kernel saw with stock Pyro's; must be called inside a session.

    Args:
        joint: the density.
        draws: unconstrained draws, shape ``(chains, draws, unconstrained_size)``.
        potential: the kernel's values, shape ``(chains, draws)``.

    Raises:
        Disagreement: if they differ by more than rounding.
    """
    flat = draws.reshape(-1, draws.shape[-1])
    chosen = np.unique(np.linspace(0, len(flat) - 1, min(CHECKED, len(flat))).astype(int))
    if not len(chosen):
        return
    points = flat[torch.as_tensor(chosen)]
    with torch.no_grad():
        wanted = map_draws(lambda draw: {"u": joint.potential(draw["z"])}, {"z": points})["u"].cpu().numpy()
    ours = potential.reshape(-1)[chosen]
    try:
        _compare("potential energy", ours, wanted, draws.dtype)
    except Disagreement:
        if not _as_close(joint, points, ours, wanted):
            raise


def _as_close(joint: Joint, points: Tensor, ours: Array, wanted: Array) -> bool:
    """Whether two energies in single precision that differ are as near to the energy in double precision as each other.

    That of a covariance that is nearly singular has few digits, whoever computes it: which ones are left hangs on the order of sums.
    """
    problem = joint.problem
    if problem.dtype != torch.float32 or problem.parameters or problem.modules:
        return False
    try:
        wide = problem.to(dtype=torch.float64)
        with wide.session(seed=0), torch.no_grad():
            other = Joint(wide, centring={name: value.double() for name, value in joint.centring.items()})
            exact = np.array([float(other.potential(point.double())) for point in points])
    except Exception:
        passed_over("of a program that runs in single precision alone, whatever it raises: the difference stands")
        return False
    noise = np.abs(wanted - exact).max()
    return bool(
        np.isfinite(exact).all() and np.isfinite(ours).all() and (np.abs(ours - exact) <= ROUNDED * noise).all()
    )


def check_far(joint: Joint, draws: Tensor, evaluate: Callable[[Array], tuple[Array, Array]]) -> None:
    """Runs stock Pyro at places around the draws where a compiled density is not finite, which chains have kept away from.

    Must be called inside a session.

    Args:
        joint: the density.
        draws: unconstrained draws, shape ``(chains, draws, unconstrained_size)``.
        evaluate: the compiled log density and its gradient at points ``(count, unconstrained_size)``.

    Raises:
        Disagreement: if the density is finite at one of them.
    """
    flat = draws.reshape(-1, draws.shape[-1]).double().cpu().numpy()
    if not len(flat) or not np.isfinite(flat).all():
        return
    random = np.random.default_rng(len(flat))
    picked = flat[random.integers(len(flat), size=FAR)]
    reach = np.geomspace(0.5, 8.0, FAR)[:, None]
    points = picked + reach * flat.std(axis=0) * random.normal(size=picked.shape)
    values, gradients = evaluate(points)
    bad = np.flatnonzero(~(np.isfinite(values) & np.isfinite(gradients).all(axis=1)))
    for point in points[bad[:ASKED]]:
        found = stock(joint, torch.as_tensor(point).to(draws))
        if found is not None:
            raise Disagreement(
                f"the captured density of {joint.problem.name} is not finite where Pyro's log density is {found:.8g}."
            )


def _compare(what: str, ours: Array, wanted: Array, dtype: torch.dtype) -> None:
    tolerance = _TOLERANCE.get(dtype, 1e-2)
    with np.errstate(invalid="ignore"):
        error = np.abs(ours - wanted) / (1 + np.abs(wanted))
    wrong = ~((error <= tolerance) | (ours == wanted) | (np.isnan(ours) & np.isnan(wanted)))
    if wrong.any():
        worst = np.unravel_index(np.nanargmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1)), wrong.shape)
        raise Disagreement(
            f"the captured density gives {what} {float(ours[worst]):.8g} where Pyro gives {float(wanted[worst]):.8g}"
            f" ({int(wrong.sum())} of {wrong.size} values differ)."
        )
