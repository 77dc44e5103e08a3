"""Made-up inference that is interrupted."""

from __future__ import annotations

import os
import signal

__all__ = ["interrupt_but_return_what_was_reached", "interrupt_in_the_middle"]


def interrupt_in_the_middle(made):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the signal should have stopped this")


def interrupt_but_return_what_was_reached(made):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        return made
    raise AssertionError("the signal should have stopped this")
