"""Operations that act on each element by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["RULES"]

RULES: dict[str, Callable[..., Any]] = {
    "add": lambda x, y, alpha=1: x + (y if alpha == 1 else alpha * y),
    "sub": lambda x, y, alpha=1: x - (y if alpha == 1 else alpha * y),
    "rsub": lambda x, y, alpha=1: y - (x if alpha == 1 else alpha * x),
    "mul": jnp.multiply,
    "div.Tensor": jnp.true_divide,
    "neg": jnp.negative,
    "exp": jnp.exp,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "pow": jnp.power,
    "sqrt": jnp.sqrt,
    "softplus": lambda x, beta=1, threshold=20: jnp.where(
        x * beta > threshold, x, jnp.log1p(jnp.exp(jnp.minimum(x * beta, threshold))) / beta
    ),
    "lt": jnp.less,
    "gt": jnp.greater,
    "eq": jnp.equal,
    "masked_fill": lambda x, mask, value: jnp.where(mask, jnp.asarray(value, x.dtype), x),
    "detach": jax.lax.stop_gradient,
    "alias": lambda x: x,
    "_to_copy": lambda x, **_: jnp.asarray(x),
}
