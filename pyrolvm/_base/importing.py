"""Imports of large packages, without the garbage collector that would go through all they bring again and again."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]

_LOCK = threading.Lock()
_inside: list[bool] = []
"""Of each import under way, whether the collector was on before the first of them."""


@contextmanager
def uncollected() -> Iterator[None]:
    """A block of imports: no garbage is looked for until it ends, in any thread; as before where the collector was off.

    What modules are made of stays, and the collector finds that out by walking through everything, several times within one large
    package: a sixth of the seconds that Pyro, torch and ArviZ take to import.
    """
    with _LOCK:
        _inside.append(_inside[0] if _inside else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _LOCK:
            was = _inside.pop()
            if was and not _inside:
                gc.enable()
