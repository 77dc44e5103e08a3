"""What this process may use of its machine."""

from __future__ import annotations

import os
from pathlib import Path

from pyrolvm._base.errors import ArgumentError

__all__ = ["available", "flags", "free_memory", "require_memory"]

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where a container's limit and use stand, in the second and the first version of control groups."""

WORTH_A_LOOK = 100_000_000
"""Bytes below which nobody needs to ask whether there is room."""


def available() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flags(*names: str) -> int:
    """Flags of ``os.open`` together, of those that this system has: Windows has few, and its files are opened as bytes."""
    return sum(getattr(os, name, 0) for name in (*names, "O_CLOEXEC", "O_BINARY"))


def free_memory() -> int | None:
    """How many bytes this process may still take, by the system, its container and its own limit; ``None`` where none says."""
    found = []
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(rows["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        pass
    for limit, used in _LIMITS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    found += _left_of_limit()
    return max(min(found), 0) if found else None


def _left_of_limit() -> list[int]:
    """What is left of a limit that was set on this process's address space (``ulimit -v``), if one was."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return []
    return [] if limit == resource.RLIM_INFINITY else [limit - pages * resource.getpagesize()]


def require_memory(what: str, size: float, fix: str) -> None:
    """Refuses what this machine has no room for, before it is begun.

    Args:
        what: what takes the memory, as the beginning of a sentence.
        size: an estimate from below of how many bytes it takes.
        fix: the remedy.

    Raises:
        ArgumentError: if more is needed than is free.
    """
    if size < WORTH_A_LOOK:
        return
    free = free_memory()
    if free is not None and size > free:
        raise ArgumentError(f"{what}: at least {_told(size)} of memory, and {_told(free)} are free. Fix: {fix}")


def _told(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
