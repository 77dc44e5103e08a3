"""When to stop: at a plateau that the loss history itself can resolve, or at the budget, and never silently."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrolvm._base.numerics import Array

Losses = Sequence[float] | Array

__all__ = ["STILL", "Plateau", "Schedule", "improvement"]


STILL = 0.01
"""The share of the tolerance below which a rise is none, however certain it is."""


def improvement(losses: Losses, window: int) -> tuple[float, float]:
    """How much the ELBO rose between the two halves of the last ``window`` steps, and the standard error of that.

    Steps are taken as independent, which they are once the noise of the gradient's draws dominates.
    """
    tail = np.asarray(losses[-window:], dtype=float)
    tail = tail[np.isfinite(tail)]
    half = len(tail) // 2
    if half < 2:
        return math.inf, math.inf
    first, second = tail[:half], tail[half:]
    error = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return float(first.mean() - second.mean()), error


@dataclass
class Plateau:
    """Says that the ELBO has stopped rising.

    Over the last 40% of the steps (at least ``minimum``), the second half's mean ELBO must not exceed the first's by
    more than two standard errors, or a hundredth of the tolerance where there is no noise, and the two standard errors must be below
    the tolerance, ``absolute`` nats plus ``relative`` times the ELBO's size: a plateau that the noise could hide is none.
    """

    minimum: int = 500
    absolute: float = 0.03
    relative: float = 1e-4

    def reached(self, losses: Losses) -> bool:
        """Whether the losses so far end in a plateau."""
        window = max(self.minimum, int(0.4 * len(losses)))
        if len(losses) < max(window, self.minimum):
            return False
        rise, error = improvement(losses, window)
        hidden = self.tolerance(losses, window)
        return 2 * error <= hidden and rise <= max(2 * error, STILL * hidden)

    def tolerance(self, losses: Losses, window: int) -> float:
        """What the plateau may hide, in nats."""
        size = abs(float(np.median(np.asarray(losses[-window:], dtype=float))))
        return self.absolute + self.relative * size


@dataclass
class Schedule:
    """A learning rate that is constant until the plateau and then decays to a hundredth along half a cosine.

    The decay lasts as long as the search did, and starts in time to end with the budget. Without it (``constant``)
    the last iterates keep circling the optimum at a distance that the learning rate sets. A ``custom`` function of the step
    takes the place of both; with ``whole`` it is one of the whole budget, and no plateau ends it.
    """

    max_steps: int
    constant: bool = False
    custom: Callable[[int], float] | None = None
    whole: bool = False
    floor: float = 0.01
    start: int | None = None
    length: int = 0

    @property
    def latest_start(self) -> int:
        """The step at which the decay must begin to end within the budget."""
        return self.max_steps if self.constant else int(self.max_steps * 0.6)

    def begin(self, step: int) -> None:
        """Starts the decay after ``step`` steps."""
        self.start = step
        self.length = 0 if self.constant else max(min(max(300, step), self.max_steps - step), 1)

    @property
    def end(self) -> int:
        """The step to stop at."""
        return self.max_steps if self.start is None else self.start + self.length

    def state(self) -> dict[str, Any]:
        """Where it is."""
        return {"start": self.start, "length": self.length}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.start, self.length = state["start"], state["length"]

    def factor(self, step: int) -> float:
        """The multiple of the base learning rate at ``step``."""
        if self.custom is not None:
            return self.custom(step)
        if self.start is None or not self.length:
            return 1.0
        progress = min((step - self.start) / self.length, 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
