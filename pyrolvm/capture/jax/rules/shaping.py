"""Operations that make, reshape, index and reduce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

__all__ = ["RULES"]


def _split(x: Any, sizes: Any, dim: int = 0) -> tuple[Any, ...]:
    edges = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return tuple(jnp.split(x, edges, axis=dim))


RULES: dict[str, Callable[..., Any]] = {
    "view": lambda x, shape: x.reshape(shape),
    "_unsafe_view": lambda x, shape: x.reshape(shape),
    "expand": lambda x, shape, implicit=False: jnp.broadcast_to(x, _expanded(x.shape, shape)),
    "split_with_sizes": _split,
    "stack": lambda parts, dim=0: jnp.stack(parts, axis=dim),
    "sum.default": lambda x, dtype=None: jnp.sum(x),
    "sum.dim_IntList": lambda x, dim=None, keepdim=False, dtype=None: jnp.sum(x, axis=tuple(dim) or None, keepdims=keepdim),
    "zeros_like": lambda x, **_: jnp.zeros_like(x),
    "full_like": lambda x, value, **_: jnp.full_like(x, value),
    "full": lambda shape, value, **_: jnp.full(shape, value),
    "zeros": lambda shape, **_: jnp.zeros(shape),
    "ones": lambda shape, **_: jnp.ones(shape),
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim),
    "squeeze.dims": lambda x, dims: jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1)),
    "permute": lambda x, dims: jnp.transpose(x, dims),
    "transpose.int": lambda x, a, b: jnp.swapaxes(x, a, b),
    "t": lambda x: x.T,
    "mm": jnp.matmul,
    "select.int": lambda x, dim, index: jnp.take(x, index, axis=dim),
}


def _expanded(shape: tuple[int, ...], wanted: Any) -> tuple[int, ...]:
    """The wanted shape, where -1 keeps a dimension as it is."""
    kept = (None,) * (len(wanted) - len(shape)) + tuple(shape)
    return tuple(old if new == -1 else new for old, new in zip(kept, wanted, strict=True))
