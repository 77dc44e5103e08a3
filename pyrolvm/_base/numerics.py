"""Arrays, and the one door to arviz-stats: its functions on arrays, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from pyrolvm._base.importing import uncollected

__all__ = ["NORMAL95", "Array", "array_stats"]

Array = np.ndarray[Any, np.dtype[Any]]

NORMAL95 = 2.0
"""How many standard errors 95% of estimates lie within; rounded up, since errors are estimates too."""


def array_stats() -> Any:
    """Returns ArviZ's functions on plain arrays, the same in arviz-stats 0.8 (Python 3.11) and 1.x."""
    with uncollected():
        return import_module("arviz_stats.base").array_stats
