"""Operations that choose one of two numbers: where these are equal, the gradient goes where this release of torch sends it."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pyrolvm._capture.jax.rules.kinds import Rule
from pyrolvm._compat.torch import share_at_tie

__all__ = ["RULES", "hardtanh", "within"]

# By how much of the gradient goes to the first where both are equal; what is not a number stays.
_LARGER: dict[float, Callable[[Array, ArrayLike], Array]] = {
    1.0: lambda x, y: jnp.where(x < y, y, x),
    0.5: jnp.maximum,
    0.0: lambda x, y: jnp.where(x <= y, y, x),
}
_SMALLER: dict[float, Callable[[Array, ArrayLike], Array]] = {
    1.0: lambda x, y: jnp.where(x > y, y, x),
    0.5: jnp.minimum,
    0.0: lambda x, y: jnp.where(x >= y, y, x),
}


def _share(bound: ArrayLike) -> float:
    return share_at_tie("clamp" if isinstance(bound, int | float) else "clamp by a tensor")


def _clamp(x: Array, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Array:
    x = x if low is None else _LARGER[_share(low)](x, low)
    return x if high is None else _SMALLER[_share(high)](x, high)


def within(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Between two bounds; at a bound the gradient goes to the input, as that of ``hardswish`` and ``logit`` does."""
    return _SMALLER[1.0](_LARGER[1.0](x, low), high)


def hardtanh(x: Array, low: float = -1, high: float = 1) -> Array:
    """Between two bounds; at a bound the gradient is zero."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _numbers_first(choose: dict[float, Callable[[Array, ArrayLike], Array]]) -> Callable[[Array, ArrayLike], Array]:
    """The choice of two, or the one that is a number."""

    def chosen(x: Array, y: ArrayLike) -> Array:
        both = choose[share_at_tie("fmax")](x, y)
        return jnp.where(jnp.isnan(y), x, jnp.where(jnp.isnan(x), y, both))

    return chosen


RULES: dict[str, Rule] = {
    "clamp": _clamp,
    "clamp_min": lambda x, low: _clamp(x, low),
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "fmax": _numbers_first(_LARGER),
    "fmin": _numbers_first(_SMALLER),
}
