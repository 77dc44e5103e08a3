"""The way to the part that needs JAX, which takes a second to import."""

from __future__ import annotations

from types import ModuleType

__all__ = ["xla"]


def xla() -> ModuleType:
    """The room :mod:`pyrolvm._capture.jax`, imported when it is asked for."""
    from pyrolvm._capture import jax

    return jax
