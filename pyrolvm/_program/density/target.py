"""The log density of a problem's flat vector, with gradients, at many points a call: what fast algorithms are written on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import CaptureError, FitError
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.graph import on_processor, widened, with_slices
from pyrolvm._capture.native import NativeGradient, compile_density, compile_gradient
from pyrolvm._program.density.coordinates import constrained, flattened
from pyrolvm._program.density.effort import Effort, effort_of
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.density.ways import (
    Evaluate,
    Points,
    Values,
    by_inductor,
    by_torch,
    by_xla,
    values_by_torch,
    values_by_xla,
)

__all__ = ["ENGINES", "Points", "Target", "nowhere_finite", "stock"]

ENGINES = ("c", "jax", "torch", "inductor", "pyro")
"""What evaluates a density, in the order in which they are tried: ``"inductor"`` once ``"torch"``, a graph that is run operation by
operation, has taken longer than compiling it would."""

LONG = 15_000
"""Operations from which on to write and compile a program in C takes a minute."""

MANY = 20_000_000
"""Numbers that a density computes from which on a device is worth its launches."""

PATIENCE = 5.0
"""Seconds of a graph run operation by operation from which on it is worth compiling, as :mod:`.effort` reckons them."""

ASKED, ASKED_AT_ONCE = 24, 3
"""Points where a compiled density is not finite at which stock Pyro is run, in all and in one call."""

LAST_DIGITS, STEADY = (3.0, -3.0, 8.0, -8.0), 1e-3
"""Roundings by which such a point is moved, relative to each number, and the share of its density that this may change."""

ALONE = {"c": 2.5e6, "jax": 1e7, "torch": 0.0}
"""Numbers, for each operation of a density, that the points of one call ask for together from which on densities without
gradients are worth a program of their own. By their number alone, not by the clock, and for each call by itself: the last digits
may be others."""

OPERATIONS = 100
"""What a program costs besides its operations, counted as such."""

PIECE = 512
"""Points between two looks at a budget's seconds."""

GRACE = 2.0
"""Seconds after a budget's end in which points that are needed for a result are still done."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}


@dataclass
class Target:
    r"""The log density :math:`\log p(y, t(u)) + \log|\det \partial t/\partial u|` of flat coordinates :math:`u`.

    Made by :meth:`of`, inside a session. Calling it at points of shape ``(count, size)`` gives log densities ``(count,)``
    and gradients ``(count, size)`` in double precision, not finite where the density or its gradient is not. Where a compiled
    density is not finite, stock Pyro is run at some of the points; where its density is finite, the compiled one is disowned and the
    next engine takes over.

    Attributes:
        joint: the density that it evaluates, whose coordinates these are.
        engine: one of ``ENGINES``.
        reason: why not a faster one; empty for ``"c"``.
        together: whether many points are evaluated at once; where they are not, each takes a run of the model.
        evaluations: how many densities have been evaluated so far.
        seconds: what that took.
        effort: what that takes on an ordinary processor with nothing else to do, in seconds.
        allowance: the effort after which it refuses to go on; infinite as a rule.
        native: the compiled function of engine ``"c"``.
        disowned: engines whose density turned out not to be the model's, with what was seen.
    """

    joint: Joint
    engine: str
    reason: str
    _evaluate: Evaluate = field(repr=False)
    together: bool = True
    evaluations: int = 0
    native: NativeGradient | None = field(default=None, repr=False)
    seconds: float = 0.0
    effort: float = 0.0
    allowance: float = np.inf
    disowned: dict[str, str] = field(default_factory=dict)
    _alone: dict[str, Values | None] = field(default_factory=dict, repr=False)
    _captured: Captured | None = field(default=None, repr=False)
    _left: list[str] = field(default_factory=list, repr=False)
    _asked: int = field(default=0, repr=False)
    _tried: bool = field(default=False, repr=False)
    _reckoned: dict[tuple[str, bool], Effort] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, joint: Joint, *, engine: str = "auto") -> Target:
        """Compiles the density, as far as it can be compiled, and compares it with stock Pyro's at two points.

        Args:
            joint: the density.
            engine: ``"auto"``, or the only one to try.
        """
        zero = _ready(joint)
        if engine == "pyro":
            return cls(joint, "pyro", "asked for", *by_torch(joint.potential, zero))
        try:
            captured = capture(joint.potential, zero, what=f"the density of {joint.problem.name}")
            if captured.random:
                raise CaptureError(f"the density of {joint.problem.name} draws random numbers of its own.")
        except CaptureError as error:
            return cls(joint, "pyro", str(error), *by_torch(joint.potential, zero))
        if zero.device.type != "cpu" and captured.numbers <= MANY:
            # A launch on the device takes longer than such a density on the processor, and points come and go as NumPy arrays.
            captured = on_processor(captured)
        left = [engine] if engine != "auto" else ["c", "jax", "torch"]
        target = cls(joint, "", "", lambda points: (points[:, 0], points), _captured=captured, _left=left)
        target._next("asked for" if engine != "auto" else "", last=engine != "auto")
        return target

    def _next(self, reason: str, *, last: bool = False) -> None:
        """Goes on to the first engine that is left, can run the density and agrees with stock Pyro at two points.

        Args:
            reason: why not the ones before.
            last: whether to raise what the only engine that was asked for raises.

        Raises:
            CaptureError: if the engine that was asked for cannot run it.
        """
        assert self._captured is not None
        zero, reasons = _zero(self.joint), [reason] if reason else []
        self.native = None
        while self._left:
            self.engine, self.reason = self._left.pop(0), " ".join(reasons)
            try:
                self._evaluate, self.together = self._made(zero)
                _checked(self, zero)
                return
            except CaptureError as error:
                if last:
                    raise
                self.native = None
                reasons.append(str(error))
        self.engine, self.reason = "pyro", " ".join(reasons)
        self._evaluate, self.together = by_torch(self.joint.potential, zero)

    def _made(self, zero: Tensor) -> tuple[Evaluate, bool]:
        """The density by the engine of the moment, and whether it takes many points at once.

        Raises:
            CaptureError: if the engine cannot run it.
        """
        captured = self._captured
        assert captured is not None
        if self.engine == "c":
            if captured.size > LONG:
                raise CaptureError(f"{captured.size:,} operations, which take a C compiler long.")
            self.native = compile_gradient(captured)
            return self.native.many, True
        if self.engine == "jax":
            return by_xla(captured), True
        if self.engine == "inductor":
            return by_inductor(captured, zero.cpu().double()), True
        return by_torch(*_for_torch(captured, zero))

    @classmethod
    def eager(cls, joint: Joint, potential: Callable[[Tensor], Tensor]) -> Target:
        """Minus another potential of the same coordinates, not compiled, for a few calls."""
        evaluate, together = by_torch(potential, _ready(joint))
        free = {("pyro", together): Effort(0.0, 0.0)}
        return cls(joint, "pyro", "for a few calls", evaluate, together, _reckoned=free)

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
    def each(self) -> Effort:
        """What a density with its gradient takes by the engine of the moment; must be called inside a session."""
        way = self.engine, self.together
        if way not in self._reckoned:
            self._reckoned[way] = effort_of(self.joint, self._captured, self.engine, together=self.together)
        return self._reckoned[way]

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.joint.problem.unconstrained_size

    def __call__(self, points: Points) -> tuple[Points, Points]:
        """Log densities and gradients at points of shape ``(count, size)``.

        Raises:
            FitError: if it has taken more seconds than its allowance.
            Spent: if the seconds of a budget are over for long, and many points are not done.
        """
        points = self._admitted(points)
        while True:
            values, gradients = self._timed(self._evaluate, points)
            fine = np.isfinite(values) & np.isfinite(gradients).all(axis=1)
            if self._captured is None or self.engine == "pyro" or not self._disown(points, fine):
                return values, gradients

    def values(self, points: Points) -> Points:
        """Log densities alone at points of shape ``(count, size)``; minus infinity where they are not finite, whatever gradients are.

        Of many points they are computed without gradients. A draw's share of the posterior's mass is by its density alone: weights
        would miss what is left out because a gradient is not finite.

        Raises:
            FitError: as a call.
            Spent: as a call.
        """
        while (alone := self._without_gradients(len(points))) is not None:
            points = self._admitted(points)
            (values,) = self._timed(lambda part: (alone(part),), points)
            if not self._disown(points, np.isfinite(values)):
                return np.where(np.isfinite(values), values, -np.inf)
        values, _ = self(points)
        return np.where(np.isfinite(values), values, -np.inf)

    def _admitted(self, points: Points) -> Points:
        if self.effort > self.allowance:
            raise FitError(
                f"the search took {self.evaluations:,} densities and gradients of {self.joint.problem.name} by engine "
                f"{self.engine!r}, about {self.effort:.0f} s of an ordinary processor, more than the {self.allowance:.0f} s that it "
                f"may save. {self.reason}".strip()
            )
        self.evaluations += len(points)
        return np.ascontiguousarray(points, dtype=np.float64)

    def _timed(self, evaluate: Callable[[Points], tuple[Points, ...]], points: Points) -> tuple[Points, ...]:
        """What a function gives of points; a graph that has been run operation by operation for long is compiled afterwards."""
        started = time.perf_counter()
        found = _in_pieces(evaluate, points)
        self.seconds += time.perf_counter() - started
        self.effort += self.each.of(len(points))
        if self.engine == "torch" and self.effort > PATIENCE and self._captured is not None:
            self._compile()
        return found

    def _without_gradients(self, count: int) -> Values | None:
        """What computes so many log densities without gradients, where that pays and can be done."""
        captured, engine = self._captured, self.engine
        if captured is None or engine not in ALONE or not self.together:
            return None
        if count * captured.numbers < ALONE[engine] * (OPERATIONS + captured.size):
            return None
        if engine not in self._alone:
            try:
                self._alone[engine] = self._made_alone(captured)
            except CaptureError as error:
                self._alone[engine] = None
                self.reason = f"{self.reason} Without gradients: {error}".strip()
        return self._alone[engine]

    def _made_alone(self, captured: Captured) -> Values:
        """The engine's density without gradients, once it is the one with gradients at the two points where that was compared.

        Raises:
            CaptureError: if the engine cannot make it, or it is another.
        """
        values: Values
        if self.engine == "c":
            values = compile_density(captured)
        elif self.engine == "jax":
            values = values_by_xla(captured)
        else:
            values = values_by_torch(*_for_torch(captured, _zero(self.joint)))
        points = np.stack(_places(self.size))
        wanted, found = self._evaluate(points)[0], values(points)
        tolerance = _TOLERANCE.get(self.joint.problem.dtype, 1e-2)
        for one, other in zip(wanted, found, strict=True):
            if np.isfinite([one, other]).any() and not abs(one - other) <= tolerance * (1 + abs(one)):
                raise CaptureError(f"the compiled density is {other:.8g} where with its gradient it is {one:.8g}.")
        return values

    def _compile(self) -> None:
        """Compiles a graph that has been run operation by operation for long; once."""
        captured, before = self._captured, (self._evaluate, self.together)
        if self._tried:
            return
        self.engine, self._tried = "inductor", True
        try:
            assert captured is not None
            self._evaluate, self.together = self._made(_zero(self.joint))
            _checked(self, _zero(self.joint))
        except CaptureError as error:
            self.engine, (self._evaluate, self.together) = "torch", before
            self.reason = f"{self.reason} {error}".strip()

    def _disown(self, points: Points, fine: NDArray[np.bool_]) -> bool:
        """Runs stock Pyro at some of the points where a compiled density is not fine, and goes on to the next engine if it should be.

        Returns:
            Whether it has gone on.
        """
        bad = np.flatnonzero(~fine & np.isfinite(points).all(axis=1))
        count = min(len(bad), ASKED_AT_ONCE, ASKED - self._asked)
        if count <= 0:
            return False
        self._asked += count
        for point in points[bad[np.linspace(0, len(bad) - 1, count).astype(int)]]:
            found = stock(self.joint, self.tensor(point))
            if found is not None:
                told = f"the density by engine '{self.engine}' is not finite where Pyro's is {found:.8g}, and was disowned."
                self.disowned[self.engine] = told
                self._next(f"{self.reason} {told}".strip())
                return True
        return False

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


def _for_torch(captured: Captured, zero: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A graph for torch to run, and what its points are like: in double precision, but on a device."""
    device = captured.module.graph.find_nodes(op="placeholder")[0].meta["device"]
    captured = with_slices(captured)  # whose gradients are taken through vmap
    return (widened(captured), zero.to(device).double()) if device.type == "cpu" else (captured, zero)


def _in_pieces(evaluate: Callable[[Points], tuple[Points, ...]], points: Points) -> tuple[Points, ...]:
    """What a function gives of points, with looks at a budget's seconds on the way."""
    if not math.isfinite(budget.left()) or len(points) <= PIECE:
        return evaluate(points)
    parts: list[tuple[Points, ...]] = []
    for start in range(0, len(points), PIECE):
        budget.check(GRACE)
        parts.append(evaluate(points[start : start + PIECE]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _places(size: int) -> tuple[Points, Points]:
    """The two points at which engines are compared."""
    random = np.random.default_rng(101)
    return random.normal(0.0, 0.3, size), random.uniform(-1.0, 1.0, size)


def _checked(target: Target, zero: Tensor) -> Target:
    """The target, once its values and gradients at two points are those of stock Pyro.

    Raises:
        CaptureError: if they are others; nothing may run on a density that is not the model's.
    """
    joint, tolerance = target.joint, _TOLERANCE.get(zero.dtype, 1e-2)
    for point in _places(target.size):
        flat = target.tensor(point).requires_grad_(True)
        with torch.enable_grad():
            wanted = joint.potential(flat)
            (slope,) = torch.autograd.grad(wanted, flat)
        values, gradients = target._evaluate(point[None])
        value, gradient = float(values[0]), gradients[0]
        right, expected = -float(wanted.detach()), -slope.cpu().double().numpy()
        if not np.isfinite(right) and not np.isfinite(value):
            continue
        size = 1 + np.linalg.norm(expected)
        wrong = not abs(value - right) <= tolerance * (1 + abs(right))
        if wrong or (np.isfinite(size) and not np.linalg.norm(gradient - expected) <= 10 * tolerance * size):
            raise CaptureError(
                f"the compiled density of {joint.problem.name} gives {value:.8g} where Pyro gives {right:.8g}, or another gradient."
            )
    return target


def _ready(joint: Joint) -> Tensor:
    """Zero coordinates of a density that knows what they mean: finding that out takes a run with gradients, which no vmap can hold."""
    joint.centring  # noqa: B018
    return _zero(joint)


def _zero(joint: Joint) -> Tensor:
    problem = joint.problem
    return torch.zeros(problem.unconstrained_size, dtype=problem.dtype, device=problem.device)


def stock(joint: Joint, point: Tensor) -> float | None:
    """The log density of stock Pyro at a point, where that and its gradient are finite and not made by rounding.

    Must be called inside a session. Where a matrix is next to singular, as the covariance of a far start, whether it has a factor
    hangs on the last digits: such values say nothing of what an engine should find.
    """
    value = _of_pyro(joint, point)
    if value is None:
        return None
    for sign in LAST_DIGITS:
        beside = _of_pyro(joint, point * (1 + sign * torch.finfo(point.dtype).eps))
        if beside is None or not abs(beside - value) <= STEADY * (1 + abs(value)):
            return None
    return value


def _of_pyro(joint: Joint, point: Tensor) -> float | None:
    flat = point.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            value = joint.potential(flat)
            (slope,) = torch.autograd.grad(value, flat)
    except (ValueError, RuntimeError):  # of a matrix without a factor, or an argument out of range: no density there
        return None
    return -float(value.detach()) if bool(torch.isfinite(value)) and bool(torch.isfinite(slope).all()) else None


def nowhere_finite(joint: Joint, tries: int, point: Tensor) -> FitError:
    """What to say of a density that is finite at none of the points tried, with the log density of every site at one of them."""
    with torch.no_grad():
        table = joint.site_log_probs(joint.constrain(point))
    listing = ", ".join(f"{name}: {value:.4g}" for name, value in table.items())
    return FitError(
        f"no start with a finite density was found for {joint.problem.name!r} in {tries} tries. Log densities by site at one: "
        f"{listing}. Fix: look at the sites that are not finite: data outside the likelihood's support, or a scale far off."
    )
