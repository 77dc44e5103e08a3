"""Ctrl-C and SIGTERM: one orderly stop, remembered so that the exit code can say so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "listening"]


class Stopped:
    """Whether a signal asked this run to stop: inference may turn the interrupt into a partial result."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        """True once a signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int | None:
        """128 + the signal's number, as shells have it; ``None`` where no signal came."""
        return None if self.signal is None else 128 + self.signal

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first raises ``KeyboardInterrupt`` here, and so does every further one."""
        self.signal = number
        raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Stopped]:
    """Turns SIGINT and SIGTERM into ``KeyboardInterrupt`` for a block; the handlers found are put back afterwards."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stopped
        return
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
