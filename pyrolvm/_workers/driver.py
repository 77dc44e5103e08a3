"""Calls given to a pool, a call to a free place; one whose worker dies is given again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from pyrolvm._workers.pools import Pool

__all__ = ["Lost", "run"]

Call = tuple[Hashable, Callable[..., Any], tuple[Any, ...]]
"""What the answer is for, a function, and its arguments."""


@dataclass(frozen=True)
class Lost:
    """A call that was given up because its worker died each time.

    Attributes:
        why: what is known of the last death.
        times: how often a worker died at it.
    """

    why: str
    times: int

    def __str__(self) -> str:
        return f"its worker died {self.times} time{'s' if self.times > 1 else ''}: {self.why}"


def run(pool: Pool, calls: Iterable[Call], *, retries: int) -> Iterator[tuple[Hashable, Any, int]]:
    """Yields answers as they come: what each is for, what the function returned, and how often it was begun again.

    The answer is a :class:`Lost` if the worker died ``retries + 1`` times, and the exception if the call raised one. No call waits
    for another: a death costs the call that died with it.

    Args:
        pool: where to run them.
        calls: what to run, in this order.
        retries: how often a call is begun again.
    """
    waiting = deque((*call, 0) for call in calls)
    running: dict[Future[Any], tuple[Hashable, Callable[..., Any], tuple[Any, ...], int]] = {}
    while waiting or running:
        while waiting and len(running) < pool.slots:
            entry = waiting.popleft()
            running[pool.submit(entry[1], *entry[2])] = entry
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            name, function, given, times = running.pop(future)
            error = future.exception()
            if error is None:
                yield name, future.result(), times
                continue
            death = pool.death(error)
            if death is None:
                yield name, error, times
            elif times < retries:
                waiting.append((name, function, given, times + 1))
            else:
                yield name, Lost(death, times + 1), times
