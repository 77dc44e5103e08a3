"""What this process may use of its machine."""

from __future__ import annotations

import os

__all__ = ["available"]


def available() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
