"""What rules are."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

__all__ = ["One", "Pair", "Result", "Rule"]

Result = Array | tuple[Array, ...] | None
"""What an operation gives: one array, several, or nothing."""

One = Callable[..., Array]
"""A function that gives one array."""

Pair = Callable[..., tuple[Array, Array]]
"""One that gives two."""

Rule = Callable[..., Result]
"""What an operation is in ``jax.numpy``: a function of the operation's own arguments, arrays in place of tensors."""
