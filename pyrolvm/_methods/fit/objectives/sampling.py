"""Many independent gradients of an objective at one point."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import CaptureError
from pyrolvm._base.passing import passed_over
from pyrolvm._capture import capture, with_noise
from pyrolvm._methods.fit.objectives.base import PureELBO
from pyrolvm._program.batching import Batch

__all__ = ["Gradients", "sample_gradients"]

AT_ONCE = 4_000_000
"""Numbers that a call may compute."""
TIMED = 15
"""Estimates whose median time is taken."""


@dataclass(frozen=True)
class Gradients:
    """Independent estimates of a bound and of its gradient.

    Attributes:
        values: of the bound, shape ``(draws,)``.
        rows: of its gradient, by the parameters in the order of ``names``, shape ``(draws, numbers)``.
        names: the parameter that each number belongs to.
        seconds: of one estimate with its gradient, its operations run one by one by torch.
    """

    values: Tensor
    rows: Tensor
    names: tuple[str, ...]
    seconds: float

    @property
    def mean(self) -> Tensor:
        """The mean gradient, shape ``(numbers,)``."""
        return self.rows.mean(0)

    @property
    def error(self) -> Tensor:
        """Its standard error."""
        return self.rows.std(0) / len(self.rows) ** 0.5


def sample_gradients(
    objective: PureELBO, model: Callable[..., object], guide: Callable[..., object], batch: Batch, draws: int
) -> Gradients:
    """Draws gradients of the bound; inside a session, at its parameters as they are.

    The program is recorded once and run on many random numbers at a time; one that cannot be recorded is run again and again.
    """
    with batch.active(), torch.no_grad():
        objective.particles(model, guide, *batch.args, **batch.kwargs)  # parameters come to be in a plain run
    named = runtime.parameters()
    params = list(named.values())

    def estimate(*_: Tensor) -> Tensor:
        with batch.active():
            return objective.particles(model, guide, *batch.args, **batch.kwargs).mean()

    try:
        if objective.uncapturable:
            raise CaptureError(objective.uncapturable)
        captured = with_noise(capture(estimate, *params))
        size = max(1, min(draws, AT_ONCE // max(1, captured.numbers)))

        def run(count: int) -> tuple[Tensor, Tensor]:
            noise = [replace(n, shape=(count, *n.shape)).draw() for n in captured.noise]
            return _mapped(lambda p, n: captured(*p, noise=n), params, noise, count)

        parts = [run(min(size, draws - done)) for done in range(0, draws, size)]
        values, rows = (torch.cat(column) for column in zip(*parts, strict=True))
        timed: Callable[[], Tensor] = lambda: captured(*params)  # noqa: E731
    except Exception:
        passed_over("whatever cannot be recorded or mapped")
        found = [_one(estimate, params) for _ in range(draws)]
        values, rows = (torch.stack(column) for column in zip(*found, strict=True))
        timed = estimate
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        _one(timed, params)
        seconds.append(time.perf_counter() - started)
    names = tuple(name for name, parameter in named.items() for _ in range(parameter.numel()))
    return Gradients(values, rows, names, statistics.median(seconds))


def _mapped(
    function: Callable[[list[Tensor], list[Tensor]], Tensor], params: list[Tensor], noise: list[Tensor], count: int
) -> tuple[Tensor, Tensor]:
    def one(_: Tensor, *numbers: Tensor) -> tuple[list[Tensor], Tensor]:
        found: tuple[list[Tensor], Tensor] = torch.func.grad_and_value(function)(point, list(numbers))
        return found

    point = [parameter.detach() for parameter in params]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="There is a performance drop"
        )  # an operation that vmap runs lane by lane
        gradients, values = torch.func.vmap(one, randomness="different")(torch.zeros(count), *noise)
    return values.detach(), torch.cat([g.detach().reshape(count, -1) for g in gradients], 1)


def _one(estimate: Callable[[], Tensor], params: list[Tensor]) -> tuple[Tensor, Tensor]:
    value = estimate()
    found = torch.autograd.grad(value, params, allow_unused=True)
    gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]
    return value.detach(), torch.cat([g.reshape(-1) for g in gradient])
