"""Private parts of JAX: whether it has started its backends, and where it keeps programs. Checked with JAX 0.7, 0.10 and 0.12."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["started", "stored_in"]

_STATE = ("_cache", "_cache_initialized", "_cache_checked", "_cache_used")
_LOCK = threading.Lock()
_BLOCKS: list[object] = []
"""The stores of blocks that are open now, in any thread; the first of them is asked."""
_BEFORE: dict[str, Any] = {}


class _Store(Protocol):
    """Bytes by a key, as JAX asks for compiled programs."""

    def get(self, key: str) -> bytes | None:
        """What is kept under a key."""

    def put(self, key: str, value: bytes) -> None:
        """Keeps it."""


def started() -> bool:
    """Whether JAX has started its backends, and with them its threads, in this process or in one that it was forked from.

    A JAX that was not imported is not imported for that. Seen in JAX 0.7, 0.10 and 0.12.
    """
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())


@contextmanager
def stored_in(store: _Store) -> Iterator[bool]:
    """Lets programs that are compiled in a block be asked of a store first, and kept there; JAX's own state is put back.

    Yields whether it is so: not where the user has switched JAX's own cache on or off, nor in a release that has other names. JAX
    serialises programs by itself, without pickles, and names them by program, options, flags and release, but not by the kind of
    processor. Seen in JAX 0.7, 0.10 and 0.12.
    """
    from jax._src import compilation_cache, config

    names = ("compilation_cache_dir", "enable_compilation_cache", "persistent_cache_min_compile_time_secs")
    known = all(hasattr(config, name) for name in names) and all(hasattr(compilation_cache, name) for name in _STATE)
    if not known or config.compilation_cache_dir.value or not config.enable_compilation_cache.value:
        yield False
        return
    with config.persistent_cache_min_compile_time_secs(0.0):
        with _LOCK:
            _BLOCKS.append(store)
            if len(_BLOCKS) == 1:
                _BEFORE.update({name: getattr(compilation_cache, name) for name in _STATE})
                _set(compilation_cache, dict(zip(_STATE, (store, True, True, True), strict=True)))
        try:
            yield True
        finally:
            with _LOCK:
                _BLOCKS.remove(store)
                if not _BLOCKS:
                    _set(compilation_cache, _BEFORE)


def _set(module: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(module, name, value)
