"""How long work may go on: the seconds that a caller gave, which whatever runs inside looks at between two pieces of work.

Nothing is stopped in the middle. A loop that has something to keep ends when :func:`spent` says so; one that has not
calls :func:`check`, which raises :class:`Spent`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from pyrolvm._base.errors import FitError

__all__ = ["Spent", "affordable", "check", "finishing", "left", "spent", "within"]

LEAST = 50
"""Runs of a program that are made whatever they cost: fewer draws tell nothing."""


class Spent(FitError):
    """The seconds of a budget are over before there is anything to keep."""


@dataclass(frozen=True)
class _Limit:
    end: float
    clock: Callable[[], float]
    soft: bool


_LIMITS: ContextVar[tuple[_Limit, ...]] = ContextVar("limits", default=())


@contextmanager
def within(seconds: float | None, *, clock: Callable[[], float] = time.monotonic, soft: bool = False) -> Iterator[None]:
    """Gives what runs inside so many seconds; of several such blocks the one that ends first counts.

    Args:
        seconds: how many; ``None`` sets no limit.
        clock: gives the time in seconds.
        soft: whether it only limits how many draws are evaluated one by one (:func:`affordable`), and stops nothing.
    """
    if seconds is None:
        yield
        return
    token = _LIMITS.set((*_LIMITS.get(), _Limit(clock() + seconds, clock, soft)))
    try:
        yield
    finally:
        _LIMITS.reset(token)


@contextmanager
def finishing(seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """For what must be done once work has ended, such as making a result of it: nothing stops it.

    Draws are evaluated one by one for ``seconds`` at most, or for what is left of a budget (one second at least).
    """
    allowed = min(seconds, max(left(), 1.0))
    token = _LIMITS.set((_Limit(clock() + allowed, clock, True),))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def left(*, soft: bool = False) -> float:
    """The seconds that are left, negative once they are over; infinite without a limit. With ``soft``, also by soft limits."""
    limits = [limit for limit in _LIMITS.get() if soft or not limit.soft]
    return min((limit.end - limit.clock() for limit in limits), default=math.inf)


def spent() -> bool:
    """Whether no seconds are left."""
    return left() <= 0


def check(grace: float = 0.0) -> None:
    """Does nothing while seconds are left, or have not been over for longer than ``grace``.

    Raises:
        Spent: after that.
    """
    if left() <= -grace:
        raise Spent("the seconds of the budget are over before there is a result. Fix: raise budget.")


def affordable(cost: float, most: int, seconds: float = math.inf) -> int:
    """How many runs of a program that each take ``cost`` seconds to make: ``most``, or the half, a quarter, ... that there is time for.

    There are the ``seconds`` that are given, and what is left of those of a budget. It goes by halves, so that a machine's mood
    decides as little as may be, and not below 50.
    """
    seconds = min(seconds, left(soft=True))
    while most > LEAST and cost * most > max(seconds, 0.0):
        most = max(most // 2, LEAST)
    return most
