"""The ascent of the likelihood of independent component analysis: densities of sources, and a relative quasi-Newton method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CORNERS = (0.3, 0.05, 0.01)
"""Widths over which the corner of the Laplace density is rounded off, one after another."""

FLOOR = 0.01
"""Smallest eigenvalue of the blocks of an approximate Hessian."""

MEMORY = 7
"""Steps that the quasi-Newton method remembers."""


class Density(NamedTuple):
    """A density of a source, symmetric about 0.

    Attributes:
        log_prob: the log density of each value.
        derivatives: minus its derivative, the score, and the derivative of that, the slope.
    """

    log_prob: Callable[[Tensor], Tensor]
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]]


def _log_cosh(y: Tensor) -> Tensor:
    size = y.abs()
    return size + torch.log1p(torch.exp(-2 * size)) - math.log(2)


def rounded(width: float) -> Density:
    """A Laplace density whose corner is rounded off over some width."""

    def derivatives(y: Tensor) -> tuple[Tensor, Tensor]:
        bent = torch.tanh(y / width)
        return bent, (1 - bent.square()) / width

    return Density(lambda y: -width * _log_cosh(y / width) - (1 + width) * math.log(2), derivatives)


def _logistic(y: Tensor) -> tuple[Tensor, Tensor]:
    bent = torch.tanh(y / 2)
    return bent, (1 - bent.square()) / 2


def _cauchy(y: Tensor) -> tuple[Tensor, Tensor]:
    square = y.square()
    return 2 * y / (1 + square), 2 * (1 - square) / (1 + square).square()


def _bimodal(y: Tensor) -> tuple[Tensor, Tensor]:
    bent = torch.tanh(y)
    return y - bent, bent.square()


DENSITIES: dict[str, Density] = {
    "logistic": Density(lambda y: -2 * _log_cosh(y / 2) - math.log(4), _logistic),
    "cauchy": Density(lambda y: -torch.log1p(y.square()) - math.log(math.pi), _cauchy),
    "laplace": Density(lambda y: -y.abs() - math.log(2), lambda y: (y.sign(), torch.zeros_like(y))),
    "bimodal": Density(lambda y: -0.5 * (y.square() + 1 + math.log(2 * math.pi)) + _log_cosh(y), _bimodal),
}
"""``bimodal`` is half ``Normal(1, 1)`` and half ``Normal(-1, 1)``: lighter tails than a Gaussian's."""


class Ascent(NamedTuple):
    """Where an ascent from some sources ended: ``z -> matrix z - shift``."""

    matrix: Tensor
    shift: Tensor
    names: tuple[str, ...]
    trace: list[float]
    converged: bool


def ascend(start: Tensor, prior: str, tolerance: float, max_steps: int) -> Ascent:
    """Ascends from sources ``(d, n)`` of the first unmixing; log likelihoods are a datum's, without that unmixing's volume."""
    d = len(start)
    climb = _Climb(start)
    if prior == "laplace":
        for width in CORNERS:
            converged = climb.run([rounded(width)] * d, tolerance, max_steps)
        climb.trace.append(-climb.loss([DENSITIES[prior]] * d))
        return Ascent(climb.matrix, climb.shift, (prior,) * d, climb.trace, converged)
    if prior != "adaptive":
        converged = climb.run([DENSITIES[prior]] * d, tolerance, max_steps)
        return Ascent(climb.matrix, climb.shift, (prior,) * d, climb.trace, converged)
    names = climb.kinds()
    for _ in range(20):
        converged = climb.run([DENSITIES[name] for name in names], tolerance, max_steps)
        before, names = names, climb.kinds()
        if names == before:
            break
    else:
        converged, names = False, before
    return Ascent(climb.matrix, climb.shift, names, climb.trace, converged)


class _Climb:
    """The state of an ascent: sources ``z``, and how they came from the first ones."""

    def __init__(self, start: Tensor) -> None:
        d = len(start)
        self.z = start
        self.matrix = torch.eye(d, dtype=start.dtype)
        self.shift = start.new_zeros(d)
        self.trace: list[float] = []

    def kinds(self) -> tuple[str, ...]:
        """For each source the density under which its direction is stable: E[slope] E[z^2] > E[score z], of tanh."""
        scaled = (self.z - self.z.mean(1, keepdim=True)) / self.z.std(1, correction=0, keepdim=True)
        score = torch.tanh(scaled)
        heavy = (1 - score.square()).mean(1) > (score * scaled).mean(1)
        return tuple("logistic" if is_heavy else "bimodal" for is_heavy in heavy.tolist())

    def loss(self, densities: list[Density]) -> float:
        """Minus the mean log likelihood, from the first sources on."""
        return self._loss(self.z, self.matrix, densities)

    def _loss(self, z: Tensor, matrix: Tensor, densities: list[Density]) -> float:
        if len(set(densities)) == 1:
            total = densities[0].log_prob(z).sum()
        else:
            total = torch.stack([density.log_prob(row).sum() for density, row in zip(densities, z, strict=True)]).sum()
        return -float(total / z.shape[1] + torch.linalg.slogdet(matrix).logabsdet)

    def _moved(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sources, matrix and shift after a relative step ``(d, d + 1)``, whose last column shifts."""
        turn = torch.eye(len(step), dtype=step.dtype) + step[:, :-1]
        return turn @ self.z - step[:, -1:], turn @ self.matrix, turn @ self.shift + step[:, -1]

    def _gradient(self, densities: list[Density]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The relative gradient of the loss, ``(d, d + 1)``, and its product with the inverse of an approximate Hessian."""
        z, n = self.z, self.z.shape[1]
        if len(set(densities)) == 1:
            score, slope = densities[0].derivatives(z)
        else:
            pairs = [density.derivatives(row) for density, row in zip(densities, z, strict=True)]
            score, slope = (torch.stack(part) for part in zip(*pairs, strict=True))
        gradient = torch.cat([score @ z.mT / n - torch.eye(len(z), dtype=z.dtype), -score.mean(1, keepdim=True)], -1)
        curvature = slope @ z.square().mT / n
        own = curvature.diagonal() + 1
        flat = slope.mean(1).clamp(min=FLOOR)

        # Entries (i, j) and (j, i) share a block [[a_ij, 1], [1, a_ji]], of which both eigenvalues are kept positive.
        smallest = 0.5 * (curvature + curvature.mT - ((curvature - curvature.mT).square() + 4).sqrt())
        raised = curvature + (FLOOR - smallest).clamp(min=0)
        determinant = raised * raised.mT - 1

        def solve(step: Tensor) -> Tensor:
            turn, move = step[:, :-1], step[:, -1]
            solved = (raised.mT * turn - turn.mT) / determinant
            solved = solved.diagonal_scatter(turn.diagonal() / own.clamp(min=FLOOR))
            return torch.cat([solved, (move / flat)[:, None]], -1)

        return gradient, solve

    def run(self, densities: list[Density], tolerance: float, max_steps: int) -> bool:
        """Steps until the gradient is small; whether it became so."""
        past: list[tuple[Tensor, Tensor]] = []
        loss = self.loss(densities)
        gradient, solve = self._gradient(densities)
        for _ in range(max_steps):
            self.trace.append(-loss)
            if float(gradient.abs().max()) <= tolerance:
                return True
            direction = -_two_loops(gradient, past, solve)
            found = self._search(direction, loss, densities)
            if found is None and past:
                past, direction = [], -solve(gradient)
                found = self._search(direction, loss, densities)
            if found is None:  # as far as rounding lets it, or not at all
                return float(-(direction * gradient).sum()) < 1e-10 * max(1.0, abs(loss))
            size, loss = found
            before = gradient
            gradient, solve = self._gradient(densities)
            past = [*past, (size * direction, gradient - before)][-MEMORY:]
        return False

    def _search(self, direction: Tensor, loss: float, densities: list[Density]) -> tuple[float, float] | None:
        """Halves a step until the loss falls and takes it; its size and the new loss, or None where it does not fall."""
        size = 1.0
        for _ in range(25):
            z, matrix, shift = self._moved(size * direction)
            new = self._loss(z, matrix, densities)
            if new < loss:
                self.z, self.matrix, self.shift = z, matrix, shift
                return size, new
            size /= 2
        return None


def _two_loops(gradient: Tensor, past: list[tuple[Tensor, Tensor]], solve: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient times the inverse Hessian that past steps and changes of the gradient suggest, by L-BFGS."""
    used = [(step, change, float((step * change).sum())) for step, change in past]
    used = [(step, change, product) for step, change, product in used if product > 0]
    left, weights = gradient, []
    for step, change, product in reversed(used):
        weights.append(float((step * left).sum()) / product)
        left = left - weights[-1] * change
    solved = solve(left)
    for (step, change, product), weight in zip(used, reversed(weights), strict=True):
        solved = solved + (weight - float((change * solved).sum()) / product) * step
    return solved
