"""Steps that go wrong: the best parameters so far, and going on from them at a smaller rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._methods.fit.engines.base import Engine, write

__all__ = ["Rescue"]

WINDOW = 50
"""Steps whose median loss says where the fit is."""

FAR, AT_LEAST = 20.0, 10.0
"""Spreads of the losses, and nats, by which that median must be above the best one for the fit to have diverged."""

TIMES = 3
"""How often a fit may go on from its best parameters."""

SLOWER = 0.1
"""By how much its learning rate is smaller then."""


class Rescue:
    """Keeps the best parameters, and goes back to them.

    Args:
        params: the parameters, which change in place when an engine publishes.
        judges: whether a loss that is finite can mean that the fit has diverged.

    Attributes:
        times: how often it went back.
        culprit: what was not finite, as the end of a sentence; empty if the loss was.
    """

    def __init__(self, params: Sequence[Tensor], *, judges: bool = True) -> None:
        self.params, self.judges = params, judges
        self.culprit = ""
        self.times = 0
        self._best, self._spread = float("inf"), 0.0
        self._kept = self._copy()

    @property
    def factor(self) -> float:
        """The multiple of the learning rate by now."""
        return float(SLOWER**self.times)

    def look(self, engine: Engine, losses: Array, start: tuple[float, float] | None) -> bool:
        """Keeps the parameters if the last losses are as good as any before; returns whether they have diverged instead.

        Args:
            engine: what takes the steps.
            losses: all so far.
            start: the loss before the first step with its standard error, where these are of all rows.
        """
        recent = losses[-WINDOW:]
        if len(recent) < WINDOW:
            return False
        low, middle, high = np.quantile(recent, (0.25, 0.5, 0.75))
        if (
            self.judges
            and start is not None
            and np.isinf(self._best)
            and low > start[0] + max(FAR * start[1], AT_LEAST)
        ):
            return True
        if middle <= self._best + self._spread:
            engine.publish()
            self._kept = self._copy()
            if middle < self._best:
                self._best, self._spread = float(middle), float(high - low)
            return False
        return self.judges and bool(middle > self._best + max(FAR * self._spread, AT_LEAST))

    def back(self, engine: Engine) -> bool:
        """Goes back to the best parameters, at a smaller rate; ``False`` if that was tried often enough."""
        if self.times == TIMES:
            return False
        self.times += 1
        write(self._kept, self.params)
        engine.restart()
        return True

    def state(self) -> dict[str, Any]:
        """What it keeps."""
        return {
            "times": self.times, "culprit": self.culprit, "best": self._best, "spread": self._spread, "kept": self._kept,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.times, self.culprit = state["times"], state["culprit"]
        self._best, self._spread = state["best"], state["spread"]
        write(state["kept"], self._kept)

    def _copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.params]
