"""The engine ``"c"``: the captured objective, its gradient and Adam as C, compiled by the system's compiler."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import Captured
from pyrolvm._capture.native import Moments, compile_steps
from pyrolvm._methods.fit.engines.ahead import Ahead
from pyrolvm._methods.fit.engines.base import Work, write
from pyrolvm._methods.fit.engines.captured import check_first, first_step
from pyrolvm._results.history import Taken

__all__ = ["CEngine"]


class CEngine:
    """Steps in C, in double precision: parameters are rounded to their own dtype when they are published.

    Args:
        work: what to optimise.
        captured: its objective, with noise as inputs.
        chunk: how many steps a call may take.

    Raises:
        CaptureError: if the program has an operation without a rule or an optimiser that is not Adam, if
            there is no C compiler, or if the first loss or gradient is not torch's.
    """

    name = "c"

    def __init__(self, work: Work, captured: Captured, chunk: int) -> None:
        started = time.perf_counter()
        if work.stepper.adam is None:
            raise CaptureError("engine 'c' steps by Adam alone; the optimizer is another.")
        self.work, self.adam = work, work.stepper.adam
        self.params = work.parameters()
        self._ahead = Ahead(work, captured, np.float64)
        self.limit = self._ahead.limit(chunk)
        adam = self.adam
        self._steps = compile_steps(captured, self.params, adam.beta1, adam.beta2, adam.eps, work.stepper.clip_norm)
        self.restart()
        first = first_step(work, captured)
        noise, rows = self._ahead.joined(first.noise), first.rows[0].cpu().numpy() if first.rows else np.zeros(0)
        losses, _, _ = self._steps(self._state.copy(), np.zeros(1), noise[None], rows[None])
        check_first(work, first, torch.as_tensor(losses), torch.as_tensor(self._steps.gradient), self.name)
        self.compile_seconds = time.perf_counter() - started

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes the steps in one call."""
        count, rates = len(factors), self.adam.learning_rate * np.asarray(factors)
        columns = self._steps(self._state, rates, self._ahead.noise(count, first=first), self._ahead.batches(count))
        return Taken(columns[0], columns[1], rates, columns[2])

    def publish(self) -> None:
        """Copies the parameters to torch."""
        parts = torch.from_numpy(self._state.x.copy()).split([p.numel() for p in self.params])
        write([part.view(like.shape).to(like) for part, like in zip(parts, self.params, strict=True)], self.params)

    def restart(self) -> None:
        """Reads the parameters from torch."""
        self._state = Moments.at(np.concatenate([p.detach().cpu().double().numpy().reshape(-1) for p in self.params]))

    def state(self) -> dict[str, object]:
        """Parameters and moments in double precision, and where the random numbers are."""
        at = self._state
        return {"x": at.x, "m": at.m, "v": at.v, "t": at.t, "streams": self._ahead.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._state = Moments(*(np.array(state[name]) for name in "xmvt"))
        self._ahead.restore(state["streams"])
