"""The log density of a problem's flat vector, with gradients, at many points a call: what fast algorithms are written on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm import budget
from pyrolvm.capture import Captured, capture
from pyrolvm.capture.vmap import vmapped
from pyrolvm.density.coordinates import constrained, flattened
from pyrolvm.density.joint import Joint
from pyrolvm.errors import CaptureError, FitError

if TYPE_CHECKING:
    from pyrolvm.capture.native import NativeGradient

__all__ = ["Points", "Target", "nowhere_finite"]

Points = NDArray[np.float64]

LONG = 6_000
"""Operations from which on a C compiler takes longer than most uses of its program would."""

PIECE = 512
"""Points between two looks at a budget's seconds."""

GRACE = 2.0
"""Seconds after a budget's end in which points that are needed for a result are still done."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}

Evaluate = Callable[[Points], tuple[Points, Points]]


@dataclass
class Target:
    r"""The log density :math:`\log p(y, t(u)) + \log|\det \partial t/\partial u|` of flat coordinates :math:`u`.

    Made by :meth:`of`, inside a session. Calling it at points of shape ``(count, size)`` gives log densities ``(count,)``
    and gradients ``(count, size)`` in double precision, not finite where the density or its gradient is not.

    Attributes:
        joint: the density that it evaluates, whose coordinates these are.
        engine: ``"c"``, ``"torch"`` (a recorded graph) or ``"pyro"``.
        reason: why not a faster one; empty for ``"c"``.
        together: whether many points are evaluated at once; where they are not, each takes a run of the model.
        evaluations: how many densities have been evaluated so far.
        native: the compiled function of engine ``"c"``.
    """

    joint: Joint
    engine: str
    reason: str
    _evaluate: Evaluate = field(repr=False)
    together: bool = True
    evaluations: int = 0
    native: NativeGradient | None = field(default=None, repr=False)

    @classmethod
    def of(cls, joint: Joint, *, engine: str = "auto") -> Target:
        """Compiles the density, as far as it can be compiled, and compares it with stock Pyro's at two points.

        Args:
            joint: the density.
            engine: ``"auto"``, or the only one to try.
        """
        problem = joint.problem
        zero = torch.zeros(problem.unconstrained_size, dtype=problem.dtype, device=problem.device)
        if engine == "pyro":
            return cls(joint, "pyro", "asked for", *_by_torch(joint.potential, zero))
        try:
            captured = capture(joint.potential, zero, what=f"the density of {problem.name}")
            if captured.random:
                raise CaptureError(f"the density of {problem.name} draws random numbers of its own.")
        except CaptureError as error:
            return cls(joint, "pyro", str(error), *_by_torch(joint.potential, zero))
        reason = _not_c(captured, zero, engine)
        if not reason:
            from pyrolvm.capture.native import compile_gradient

            try:
                native = compile_gradient(captured)
                return _checked(cls(joint, "c", "", native.many, native=native), zero)
            except CaptureError as error:
                reason = str(error)
        return _checked(cls(joint, "torch", reason, *_by_torch(captured, zero)), zero)

    @classmethod
    def eager(cls, joint: Joint, potential: Callable[[Tensor], Tensor]) -> Target:
        """Minus another potential of the same coordinates, not compiled, for a few calls."""
        problem = joint.problem
        zero = torch.zeros(problem.unconstrained_size, dtype=problem.dtype, device=problem.device)
        return cls(joint, "pyro", "for a few calls", *_by_torch(potential, zero))

    def at_once(self, remedy: str) -> Target:
        """The target itself, if it takes many points at once.

        Raises:
            FitError: if it does not; the remedy is named beside that of mending the model.
        """
        if self.together:
            return self
        raise FitError(
            f"the density of {self.joint.problem.name} can only be run for one draw at a time, and it takes tens of thousands: "
            f"{self.reason} Fix: mend the line that is named, or {remedy}."
        )

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.joint.problem.unconstrained_size

    def __call__(self, points: Points) -> tuple[Points, Points]:
        """Log densities and gradients at points of shape ``(count, size)``.

        Raises:
            Spent: if the seconds of a budget are over for long, and many points are not done.
        """
        self.evaluations += len(points)
        points = np.ascontiguousarray(points, dtype=np.float64)
        if not math.isfinite(budget.left()) or len(points) <= PIECE:
            return self._evaluate(points)
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for start in range(0, len(points), PIECE):
            budget.check(GRACE)
            part = slice(start, start + PIECE)
            values[part], gradients[part] = self._evaluate(points[part])
        return values, gradients

    def at(self, point: Points) -> tuple[float, Points]:
        """Log density and gradient at one point."""
        values, gradients = self(point[None])
        return float(values[0]), gradients[0]

    def finite(self, points: Points) -> tuple[Points, Points]:
        """As a call; minus infinity with a gradient of zero wherever anything is not finite."""
        values, gradients = self(points)
        bad = ~(np.isfinite(values) & np.isfinite(gradients).all(axis=1))
        values[bad], gradients[bad] = -np.inf, 0.0
        return values, gradients

    def draws(self, points: Points) -> dict[str, Tensor]:
        """The draws, by continuous latent site, that points stand for; must be called inside a session."""
        flat = self.tensor(points)
        with torch.no_grad():
            return constrained(self.joint, flat)

    def points(self, draws: Mapping[str, Tensor]) -> Points:
        """The points of draws, the inverse of :meth:`draws`."""
        with torch.no_grad():
            flat = flattened(self.joint, draws)
        return flat.cpu().double().numpy()

    def tensor(self, points: Points) -> Tensor:
        """Points as the model takes them."""
        problem = self.joint.problem
        return torch.as_tensor(points).to(dtype=problem.dtype, device=problem.device)


def _not_c(captured: Captured, like: Tensor, engine: str) -> str:
    """Why not to try C; empty where it is worth it."""
    if engine == "torch":
        return "asked for"
    if like.device.type != "cpu":
        return f"compiled by torch for {like.device.type}"
    return f"{captured.size:,} operations, which take a C compiler long" if captured.size > LONG else ""


def _by_torch(potential: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Evaluate, bool]:
    """All points at once where vmap can, which is the second of what it returns, else one by one."""

    def value(u: Tensor) -> Tensor:
        return torch.as_tensor(potential(u))

    together = vmapped(torch.func.grad_and_value(value))

    def at_once(points: Points) -> tuple[Points, Points]:
        gradients, values = together(torch.as_tensor(points).to(like))
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

    try:
        at_once(np.zeros((2, like.numel())))
    except Exception:  # whatever vmap cannot run; a real error shows in the plain loop
        return one_by_one, False
    return at_once, True


def _checked(target: Target, zero: Tensor) -> Target:
    """The target, once its values and gradients at two points are those of stock Pyro.

    Raises:
        CaptureError: if they are others; nothing may run on a density that is not the model's.
    """
    joint, tolerance = target.joint, _TOLERANCE.get(zero.dtype, 1e-2)
    random = np.random.default_rng(101)
    for point in (random.normal(0.0, 0.3, target.size), random.uniform(-1.0, 1.0, target.size)):
        flat = target.tensor(point).requires_grad_(True)
        with torch.enable_grad():
            wanted = joint.potential(flat)
            (slope,) = torch.autograd.grad(wanted, flat)
        value, gradient = target.at(point)
        stock, expected = -float(wanted.detach()), -slope.cpu().double().numpy()
        if not np.isfinite(stock) and not np.isfinite(value):
            continue
        size = 1 + np.linalg.norm(expected)
        wrong = not abs(value - stock) <= tolerance * (1 + abs(stock))
        if wrong or (np.isfinite(size) and not np.linalg.norm(gradient - expected) <= 10 * tolerance * size):
            raise CaptureError(
                f"the compiled density of {joint.problem.name} gives {value:.8g} where Pyro gives {stock:.8g}, or another gradient."
            )
    return target


def nowhere_finite(joint: Joint, tries: int, point: Tensor) -> FitError:
    """What to say of a density that is finite at none of the points tried, with the log density of every site at one of them."""
    with torch.no_grad():
        table = joint.site_log_probs(joint.constrain(point))
    listing = ", ".join(f"{name}: {value:.4g}" for name, value in table.items())
    return FitError(
        f"no start with a finite density was found for {joint.problem.name!r} in {tries} tries. Log densities by site at one: "
        f"{listing}. Fix: look at the sites that are not finite: data outside the likelihood's support, or a scale far off."
    )
