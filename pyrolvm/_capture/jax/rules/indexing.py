"""Operations that look values up by index, or put them there."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pyrolvm._capture.jax.rules.kinds import One, Rule
from pyrolvm._capture.jax.rules.shaping import along

__all__ = ["RULES"]


def _places(indices: Sequence[Array]) -> tuple[Array, ...]:
    """Indices of some dimensions; a missing one takes its dimension whole."""
    return tuple(slice(None) if index is None else index for index in indices)


def _is_mask(index: Array) -> bool:
    return index is not None and index.dtype == bool


def _index_put(
    x: Array, indices: Sequence[Array], values: Array, accumulate: bool = False, unsafe: bool = False
) -> Array:
    """A mask whose values do not depend on place is a choice between two arrays: no sizes follow from its contents."""
    values = jnp.asarray(values, x.dtype)
    if len(indices) == 1 and _is_mask(indices[0]) and values.size == 1:
        mask = indices[0].reshape(indices[0].shape + (1,) * (x.ndim - indices[0].ndim))
        return jnp.where(mask, x + values.reshape(()) if accumulate else values.reshape(()), x)
    place = x.at[_places(indices)]
    return place.add(values) if accumulate else place.set(values)


def _grid(x: Array, dim: int, index: Array) -> tuple[Array, ...]:
    """The full index of the places that ``gather`` and ``scatter`` mean."""
    steps = jnp.meshgrid(*(jnp.arange(n) for n in index.shape), indexing="ij", sparse=True)
    return tuple(index if d == dim % max(x.ndim, 1) else step for d, step in enumerate(steps))


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:
    return x[_grid(x, dim, index)] if x.ndim else jnp.broadcast_to(x, index.shape)


def _source(index: Array, source: Array, x: Array) -> Array:
    """What goes to the places: an array that may be larger than the index, of which the corner counts, or a number."""
    source = jnp.asarray(source, x.dtype)
    return source[tuple(slice(n) for n in index.shape)] if source.ndim else source


def _scatter(x: Array, dim: int, index: Array, source: Array, reduce: str | None = None) -> Array:
    place, values = x.at[_grid(x, dim, index)], _source(index, source, x)
    ways: dict[str | None, One] = {None: place.set, "add": place.add, "multiply": place.multiply}
    return ways[reduce](values)


def _scatter_reduce(x: Array, dim: int, index: Array, source: Array, reduce: str, include_self: bool = True) -> Array:
    where, values = _grid(x, dim, index), _source(index, source, x)
    empty = {"sum": 0, "mean": 0, "prod": 1, "amax": -jnp.inf, "amin": jnp.inf}[reduce]
    start = x if include_self else x.at[where].set(empty)
    place = start.at[where]
    ways: dict[str, One] = {
        "sum": place.add,
        "mean": place.add,
        "prod": place.multiply,
        "amax": place.max,
        "amin": place.min,
    }
    result = ways[reduce](values)
    if reduce != "mean":
        return result
    hits = jnp.full(x.shape, 1 if include_self else 0).at[where].add(1)
    return result / jnp.maximum(hits, 1)


def _index_select(x: Array, dim: int, index: Array) -> Array:
    return jnp.take(x, index.reshape(-1), axis=dim) if x.ndim else x


def _index_add(x: Array, dim: int, index: Array, source: Array, alpha: float = 1) -> Array:
    return x.at[along(x, dim, index)].add((alpha * source).astype(x.dtype))


def _sort(x: Array, dim: int = -1, descending: bool = False, stable: bool | None = None) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x, jnp.zeros((), int)
    order = jnp.argsort(x, axis=dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, order, axis=dim), order


def _sort_stable(x: Array, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    return _sort(x, dim, descending)


def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:
    values, order = _sort(x, dim, largest)
    if x.ndim == 0:
        return values, order
    first = along(x, dim, slice(k))
    return values[first], order[first]


def _searchsorted(
    edges: Array, values: Array, right: bool = False, side: str | None = None, sorter: Array | None = None
) -> Array:
    """Each value's place in the sorted last dimension of ``edges``, whose other dimensions go with the values'."""
    values = jnp.asarray(values)
    if sorter is not None:
        edges = jnp.take_along_axis(edges, sorter, axis=-1)
    below = jnp.less_equal if right or side == "right" else jnp.less
    if edges.ndim == 1:
        return jnp.searchsorted(edges, values, side="right" if below is jnp.less_equal else "left")
    return below(edges[..., None, :], values[..., :, None]).sum(-1)


def _bucketize(values: Array, edges: Array, right: bool = False, **_: object) -> Array:
    return _searchsorted(edges, values, right)


def _embedding(weight: Array, index: Array, padding_idx: int = -1, *_: object) -> Array:
    """Rows of a table; the row of the padding is not learnt."""
    rows = weight[index]
    return jnp.where((index == padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


def _one_hot(index: Array, classes: int) -> Array:
    return (index[..., None] == jnp.arange(classes)).astype(index.dtype)


LOOKING_UP: dict[str, Rule] = {
    "index": lambda x, indices: x[_places(indices)],
    "_unsafe_index": lambda x, indices: x[_places(indices)],
    "index_select": _index_select,
    "gather": _gather,
    "take": lambda x, index: x.reshape(-1)[index],
    "embedding": _embedding,
    "searchsorted": lambda edges, values, out_int32=False, **how: _searchsorted(edges, values, **how),
    "bucketize": lambda values, edges, out_int32=False, **how: _bucketize(values, edges, **how),
    "sort": _sort,
    "sort.stable": _sort_stable,
    "argsort": lambda x, dim=-1, descending=False: _sort(x, dim, descending)[1],
    "argsort.stable": lambda x, stable=True, dim=-1, descending=False: _sort(x, dim, descending)[1],
    "topk": _topk,
    "one_hot": _one_hot,
}

PUTTING: dict[str, Rule] = {
    "index_put": _index_put,
    "_unsafe_index_put": _index_put,
    "_index_put_impl": _index_put,
    "scatter": _scatter,
    "scatter_add": lambda x, dim, index, source: _scatter(x, dim, index, source, "add"),
    "scatter_reduce": _scatter_reduce,
    "index_add": _index_add,
    "index_copy": lambda x, dim, index, source: x.at[along(x, dim, index)].set(source.astype(x.dtype)),
    "index_fill": lambda x, dim, index, value: x.at[along(x, dim, index)].set(value),
    "put": lambda x, index, source, accumulate=False: _put(x, index, source, accumulate),
    "masked_scatter": lambda x, mask, source: _masked_scatter(x, mask, source),
}


def _put(x: Array, index: Array, source: Array, accumulate: bool) -> Array:
    place = x.reshape(-1).at[index]
    return (place.add(source) if accumulate else place.set(source)).reshape(x.shape)


def _masked_scatter(x: Array, mask: Array, source: Array) -> Array:
    x, mask = jnp.broadcast_arrays(x, mask)
    rank = jnp.cumsum(mask.reshape(-1)) - 1
    taken = source.reshape(-1)[jnp.clip(rank, 0, source.size - 1)].reshape(x.shape)
    return jnp.where(mask, taken, x)


RULES: dict[str, Rule] = {**LOOKING_UP, **PUTTING}
