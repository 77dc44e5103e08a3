"""Operations that sum up along dimensions, or run along one."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from pyrolvm._capture.jax.rules.kinds import One, Pair, Rule
from pyrolvm._capture.jax.rules.pointwise import absolute, root_or_zero

__all__ = ["RULES"]

Dims = Sequence[int] | int | None


def axes(dim: Dims) -> int | tuple[int, ...] | None:
    """JAX's axis for torch's dimensions, of which none means all."""
    return dim if isinstance(dim, int) else tuple(dim) if dim else None


def _over(function: One) -> One:
    """The rule for a reduction: ``(x, dim, keepdim)``, of which the last two may be missing, as may its dtype."""

    def rule(x: Array, dim: Dims = None, keepdim: bool = False, **_: object) -> Array:
        return function(x, axis=axes(dim) if x.ndim else None, keepdims=keepdim)

    return rule


def _count(shape: tuple[int, ...], dim: Dims) -> int:
    axis = axes(dim)
    chosen = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    count = 1
    for d in chosen:
        count *= shape[d] if shape else 1
    return count


def _variance(x: Array, dim: Dims = None, correction: float | bool | None = None, keepdim: bool = False) -> Array:
    """The older overloads say whether to correct: in the place of the dimensions, or after them."""
    if isinstance(dim, bool):
        dim, correction = None, dim
    axis, by = axes(dim), 1.0 if correction is None else float(correction)
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    total = jnp.sum(centred * centred, axis=axis, keepdims=keepdim)
    return total / jnp.maximum(_count(x.shape, dim) - by, 0)


def _mean(x: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    return jnp.mean(x, axis=axes(dim), keepdims=keepdim)


def _var_mean(
    x: Array, dim: Dims = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Array, Array]:
    mean = _mean(x, None if isinstance(dim, bool) else dim, keepdim)
    return _variance(x, dim, correction, keepdim), mean


def _std_mean(
    x: Array, dim: Dims = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Array, Array]:
    variance, mean = _var_mean(x, dim, correction, keepdim)
    return root_or_zero(variance), mean


def _picked(choose: One) -> Pair:
    """The rule for ``(values, indices)`` along a dimension; the gradient goes to the picked element alone."""

    def rule(x: Array, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
        if x.ndim == 0:
            return x, jnp.zeros((), int)
        where = choose(x, dim)
        values = jnp.take_along_axis(x, where, axis=dim)
        return (values, where) if keepdim else (jnp.squeeze(values, dim), jnp.squeeze(where, dim))

    return rule


def _ranked(x: Array, dim: int, rank: int) -> Array:
    return jax.lax.slice_in_dim(jnp.argsort(x, axis=dim, stable=True), rank, rank + 1, axis=dim % x.ndim)


def _max_where(x: Array, dim: int) -> Array:
    return jnp.argmax(x, axis=dim, keepdims=True)


def _min_where(x: Array, dim: int) -> Array:
    return jnp.argmin(x, axis=dim, keepdims=True)


def _extreme(whole: Rule, picked: Rule) -> Rule:
    """``max(x)`` is one number, ``max(x, dim)`` values with their indices."""
    return lambda x, *dim, **how: picked(x, *dim, **how) if dim or how else whole(x)


def _median_where(x: Array, dim: int) -> Array:
    """What is not a number sorts last, but wins."""
    missing = jnp.isnan(x)
    first = jnp.argmax(missing, axis=dim, keepdims=True)
    return jnp.where(missing.any(axis=dim, keepdims=True), first, _ranked(x, dim, (x.shape[dim] - 1) // 2))


def _median_whole(x: Array) -> Array:
    return jnp.sort(x.reshape(-1))[(x.size - 1) // 2]


def _kthvalue(x: Array, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Array, Array]:
    return _picked(lambda x, dim: _ranked(x, dim, k - 1))(x, dim, keepdim)


def _running(better: One) -> Pair:
    """The rule for a running extreme with its index; at ties the later index, as torch has it."""

    def rule(x: Array, dim: int) -> tuple[Array, Array]:
        if x.ndim == 0:
            return x, jnp.zeros((), int)
        steps = jnp.broadcast_to(
            jnp.arange(x.shape[dim]).reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]), x.shape
        )

        def later(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            take = better(b[0], a[0])
            return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])

        _, where = jax.lax.associative_scan(later, (jax.lax.stop_gradient(x), steps), axis=dim)
        return jnp.take_along_axis(x, where, axis=dim), where

    return rule


def _cumulative(function: One) -> Rule:
    return lambda x, dim, dtype=None: function(x, axis=dim) if x.ndim else x


def _logcumsumexp(x: Array, dim: int) -> Array:
    return jax.lax.cumlogsumexp(x, axis=dim % x.ndim) if x.ndim else x


def _vector_norm(x: Array, order: float = 2, dim: Dims = None, keepdim: bool = False, **_: object) -> Array:
    axis, size = axes(dim) if x.ndim else None, absolute(x)
    if order == 2:
        return root_or_zero(jnp.sum(size * size, axis=axis, keepdims=keepdim))
    if order in (float("inf"), float("-inf")):
        return (jnp.max if order > 0 else jnp.min)(size, axis=axis, keepdims=keepdim)
    if order in (0, 1):
        return jnp.sum(size if order else (size != 0).astype(x.dtype), axis=axis, keepdims=keepdim)
    total = jnp.sum(size**order, axis=axis, keepdims=keepdim)
    return jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / order))


def _norm(x: Array, order: float | None = 2, dim: Dims = None, keepdim: bool = False, **_: object) -> Array:
    return _vector_norm(x, 2 if order is None else order, dim, keepdim)


def _distances(x: Array, y: Array, p: float, _: Array | None = None) -> Array:
    return _vector_norm(x[..., :, None, :] - y[..., None, :, :], p, -1)


def _arg(function: One) -> Rule:
    return lambda x, dim=None, keepdim=False: function(x, axis=dim, keepdims=keepdim) if x.ndim else jnp.zeros((), int)


def _renorm(x: Array, p: float, dim: int, most: float) -> Array:
    norms = _vector_norm(x, p, [d for d in range(x.ndim) if d != dim % x.ndim], True)
    return jnp.where(norms > most, x * (most / (norms + 1e-7)), x)


_logsumexp = _over(lambda x, axis, keepdims: logsumexp(x, axis=axis, keepdims=keepdims))

REDUCTIONS: dict[str, Rule] = {
    "sum": _over(jnp.sum),
    "nansum": _over(jnp.nansum),
    "mean": _over(jnp.mean),
    "nanmean": _over(jnp.nanmean),
    "prod": _over(jnp.prod),
    "all": _over(jnp.all),
    "any": _over(jnp.any),
    "amax": _over(jnp.max),
    "amin": _over(jnp.min),
    "logsumexp": _logsumexp,
    "count_nonzero": lambda x, dim=None: jnp.count_nonzero(x, axis=axes(dim)),
    "var": _variance,
    "std": lambda x, *args, **how: root_or_zero(_variance(x, *args, **how)),
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "linalg_vector_norm": _vector_norm,
    "norm": _norm,
    "_cdist_forward": _distances,
    "cdist": _distances,
    "dist": lambda x, y, p=2: _vector_norm(x - y, p),
    "renorm": _renorm,
}

CHOICES: dict[str, Rule] = {
    "max": _extreme(jnp.max, _picked(_max_where)),
    "min": _extreme(jnp.min, _picked(_min_where)),
    "median": _extreme(_median_whole, _picked(_median_where)),
    "kthvalue": _kthvalue,
    "aminmax": lambda x, **how: (_over(jnp.min)(x, **how), _over(jnp.max)(x, **how)),
    "argmax": _arg(jnp.argmax),
    "argmin": _arg(jnp.argmin),
}

RUNNING: dict[str, Rule] = {
    "cumsum": _cumulative(jnp.cumsum),
    "cumprod": _cumulative(jnp.cumprod),
    "logcumsumexp": _logcumsumexp,
    "_logcumsumexp": _logcumsumexp,
    "cummax": _running(jnp.greater_equal),
    "cummin": _running(jnp.less_equal),
    "diff": lambda x, n=1, dim=-1: jnp.diff(x, n, dim),
}

RULES: dict[str, Rule] = {**REDUCTIONS, **CHOICES, **RUNNING}
