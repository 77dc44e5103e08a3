"""Operations that draw random numbers: each takes a JAX key before its own arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["DRAWS"]

DRAWS: dict[str, Callable[..., Any]] = {
    "randn": lambda key, shape, **_: jax.random.normal(key, tuple(shape)),
    "rand": lambda key, shape, **_: jax.random.uniform(key, tuple(shape)),
}
