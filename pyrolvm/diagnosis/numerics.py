"""The one door to arviz-stats: its array functions, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["array_stats"]


def array_stats() -> Any:
    """Returns ArviZ's functions on plain arrays, the same in arviz-stats 0.8 (Python 3.11) and 1.x."""
    return import_module("arviz_stats.base").array_stats
