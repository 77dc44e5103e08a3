"""What a call of many compiled steps takes: random numbers and rows, drawn ahead of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.numerics import Array
from pyrolvm._capture import Captured
from pyrolvm._methods.fit.engines.base import Work
from pyrolvm._program.streamed import Streamed

__all__ = ["Ahead"]


AT_ONCE = 400_000
"""The most random numbers that are drawn ahead of a call."""


class Ahead:
    """Normal and uniform random numbers of a captured step, and the rows of its batch, for several steps at a time.

    NumPy draws them: that needs no compilation and costs a few nanoseconds a number. Each kind is a stream of its own, so
    that a step's numbers are the same however many steps a call takes.

    Raises:
        CaptureError: if the rows come from a stream.

    Attributes:
        numbers: how many random numbers a step takes.
        rows: how many row numbers a step takes.
    """

    def __init__(self, work: Work, captured: Captured, dtype: Any) -> None:
        if isinstance(work.minibatches, Streamed):
            raise CaptureError("the rows come from a stream, which engine 'torch' alone takes.")
        self._work, self._noise, self._dtype = work, captured.noise, dtype
        sizes = [int(np.prod(noise.shape)) for noise in captured.noise]
        ends = np.cumsum([0, *sizes])
        self._spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.numbers = int(ends[-1])
        self.rows = 0 if work.minibatches is None else work.minibatches.size
        normal, uniform = np.random.default_rng(work.seed).spawn(2)
        self._streams: dict[str, Any] = {"normal": normal.standard_normal, "uniform": uniform.random}

    def state(self) -> dict[str, Any]:
        """Where the streams are."""
        return {kind: draw.__self__.bit_generator.state for kind, draw in self._streams.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the streams back to where :meth:`state` found them."""
        for kind, draw in self._streams.items():
            draw.__self__.bit_generator.state = dict(state[kind])

    def limit(self, chunk: int) -> int:
        """How many steps a call may take, at most ``chunk``."""
        return max(1, min(chunk, AT_ONCE // max(1, self.numbers)))

    def noise(self, count: int, room: int | None = None, first: int = 0) -> Array:
        """Numbers of the next ``count`` steps, of which the first has number ``first``; ``(room, numbers)``, zeros after them."""
        kinds = {noise.kind for noise in self._noise}
        if len(kinds) == 1 and kinds <= self._streams.keys() and room in (None, count):
            return self._streams[kinds.pop()]((count, self.numbers), dtype=self._dtype)
        numbers = np.zeros((room or count, self.numbers), dtype=self._dtype)
        for kind in kinds:
            spans = [span for span, noise in zip(self._spans, self._noise, strict=True) if noise.kind == kind]
            if kind == "step":
                for span in spans:
                    numbers[:count, span] = np.arange(first, first + count)[:, None]
                continue
            drawn = self._streams[kind]((count, sum(span.stop - span.start for span in spans)), dtype=self._dtype)
            start = 0
            for span in spans:
                numbers[:count, span] = drawn[:, start : (start := start + span.stop - span.start)]
        return numbers

    def batches(self, count: int, room: int | None = None) -> Array:
        """Row numbers of the next ``count`` steps, shape ``(room, rows)``, zeros after them."""
        rows = np.zeros((room or count, self.rows), dtype=np.int64)
        if self.rows:
            for i in range(count):
                rows[i] = self._work.rows()[0].cpu().numpy()
        return rows

    def split(self, row: Any) -> list[Any]:
        """One step's random numbers, apart and in their shapes."""
        return [row[span].reshape(noise.shape) for span, noise in zip(self._spans, self._noise, strict=True)]

    def joined(self, noise: Sequence[Tensor]) -> Array:
        """What :meth:`split` takes apart."""
        if not noise:
            return np.zeros(0, dtype=self._dtype)
        return torch.cat([numbers.reshape(-1) for numbers in noise]).cpu().numpy().astype(self._dtype)
