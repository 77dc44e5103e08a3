"""Private parts of JAX: whether it has started its backends. Checked with JAX 0.7, 0.10 and 0.12."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["started"]


def started() -> bool:
    """Whether JAX has started its backends, and with them its threads, in this process or in one that it was forked from.

    A JAX that was not imported is not imported for that. Seen in JAX 0.7, 0.10 and 0.12.
    """
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())
