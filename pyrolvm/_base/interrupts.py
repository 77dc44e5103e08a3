"""Ctrl-C at a moment when nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pyrolvm._base import budget

__all__ = ["SIGNALS", "Held", "Stopped", "held"]

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Those that ask a process to stop; Windows has no hangup."""


class Stopped(KeyboardInterrupt):
    """The seconds of a budget are over; what was reached is kept, as at Ctrl-C."""


class Held:
    """A signal that waits. A second one does not."""

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self._waiting: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal; when a second one comes, both are handled at once."""
        if self._waiting is not None:
            with suppress(KeyboardInterrupt):
                self.let_through()
            self.handlers[number](number, frame)
        else:
            self._waiting = (number, frame)

    def check(self) -> None:
        """Handles the signal that waits, if there is one.

        Raises:
            Stopped: if the seconds of a budget are over.
        """
        self.let_through()
        if budget.spent():
            raise Stopped

    def let_through(self) -> None:
        """Handles the signal that waits, if there is one, as it would have been: as a rule by ``KeyboardInterrupt``."""
        if self._waiting is not None:
            (number, frame), self._waiting = self._waiting, None
            self.handlers[number](number, frame)


@contextmanager
def held() -> Iterator[Held]:
    """Holds signals to stop back until :meth:`Held.let_through`, where somebody handles them; outside the main thread, nothing."""
    waiting = Held()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    found = {int(number): signal.getsignal(number) for number in SIGNALS}
    waiting.handlers = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in waiting.handlers:
            signal.signal(number, waiting)
        yield waiting
    finally:
        for number, handler in waiting.handlers.items():
            signal.signal(number, handler)
    waiting.let_through()
