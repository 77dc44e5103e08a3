"""When checkpoints are written."""

from __future__ import annotations

import time

__all__ = ["Pace"]

EVERY = 60.0
"""Seconds between checkpoints by default."""

SHARE = 0.01
"""The share of the time that checkpoints may take by default: where one takes long, they are further apart."""


class Pace:
    """When the next checkpoint is due.

    Args:
        every: seconds between two; ``None`` for a minute, or longer where writing one takes more than a hundredth of that.
    """

    def __init__(self, every: float | None) -> None:
        self._every, self._fixed = (EVERY, False) if every is None else (every, True)
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        wait = self._every if self._fixed else max(self._every, self._took / SHARE)
        return time.monotonic() - self._last >= wait

    def written(self, began: float) -> None:
        """Notes that one was written, or tried to be, from ``began`` on."""
        self._last = time.monotonic()
        self._took = self._last - began
