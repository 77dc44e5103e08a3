"""Ctrl-C, SIGTERM and SIGHUP: one orderly stop, remembered so that the exit code can say so; a second one leaves at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyrolvm._compat.python import end_at_once

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
        """Handles a signal: the first raises ``KeyboardInterrupt`` here; the second ends the process, with no harm to what is saved."""
        if self:
            _leave(128 + number)
        self.signal = number
        raise KeyboardInterrupt


def _leave(code: int) -> None:
    """Ends the process whatever its threads are at: files are whole at any moment, so that there is nothing to wait for."""
    show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}stopped at once; what was saved before is whole.\n".encode())
    end_at_once(code)


@contextmanager
def listening() -> Iterator[Stopped]:
    """Turns SIGINT, SIGTERM and SIGHUP into ``KeyboardInterrupt`` for a block; the handlers found are put back afterwards.

    A hangup that is ignored, as under ``nohup``, stays so.
    """
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stopped
        return
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [kind for kind in kinds if kind.name != "SIGHUP" or signal.getsignal(kind) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stopped) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
