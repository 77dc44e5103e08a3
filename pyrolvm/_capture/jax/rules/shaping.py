"""Operations that make, reshape, cut and join arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from pyrolvm._capture.jax.rules.kinds import Rule

__all__ = ["RULES"]


def _expand(x: Array, shape: Sequence[int], implicit: bool = False) -> Array:
    """The wanted shape, where -1 keeps a dimension as it is."""
    kept = (None,) * (len(shape) - x.ndim) + x.shape
    return jnp.broadcast_to(x, tuple(old if new == -1 else new for old, new in zip(kept, shape, strict=True)))


def _repeat(x: Array, times: Sequence[int]) -> Array:
    return jnp.tile(x.reshape((1,) * (len(times) - x.ndim) + x.shape), tuple(times))


def _squeeze(x: Array, dims: Sequence[int] | int | None = None) -> Array:
    chosen = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(d for d in chosen if x.ndim and x.shape[d] == 1))


def _split_with_sizes(x: Array, sizes: Sequence[int], dim: int = 0) -> tuple[Array, ...]:
    edges = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return tuple(jnp.split(x, edges, axis=dim))


def _split(x: Array, size: int, dim: int = 0) -> tuple[Array, ...]:
    return tuple(jnp.split(x, list(range(size, x.shape[dim], size)), axis=dim))


def _chunk(x: Array, chunks: int, dim: int = 0) -> tuple[Array, ...]:
    return _split(x, max(1, -(-x.shape[dim] // chunks)), dim)


def _unbind(x: Array, dim: int = 0) -> tuple[Array, ...]:
    return tuple(jnp.moveaxis(x, dim, 0))


def along(x: Array, dim: int, where: Array | slice | int) -> tuple[Array | slice | int, ...]:
    """The index that applies ``where`` to one dimension and takes the others whole."""
    return (slice(None),) * (dim % x.ndim) + (where,)


def _slice(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    return x[along(x, dim, slice(start, end, step))]


def _slice_scatter(
    x: Array, source: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    return x.at[along(x, dim, slice(start, end, step))].set(source.astype(x.dtype))


def _select_scatter(x: Array, source: Array, dim: int, index: int) -> Array:
    return x.at[along(x, dim, index)].set(source.astype(x.dtype))


def _diagonal_index(rows: int, columns: int, offset: int) -> tuple[Array, Array]:
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    steps = jnp.arange(length)
    return steps - min(offset, 0), steps + max(offset, 0)


def _diagonal_scatter(x: Array, source: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    moved = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    rows, columns = _diagonal_index(moved.shape[-2], moved.shape[-1], offset)
    return jnp.moveaxis(moved.at[..., rows, columns].set(source.astype(x.dtype)), (-2, -1), (dim1, dim2))


def _diag_embed(x: Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Array:
    size = x.shape[-1] + abs(offset)
    rows, columns = _diagonal_index(size, size, offset)
    square = jnp.zeros((*x.shape[:-1], size, size), x.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(square, (-2, -1), (dim1, dim2))


def _unfold(x: Array, dim: int, size: int, step: int) -> Array:
    starts = jnp.arange(0, x.shape[dim] - size + 1, step)
    windows = jnp.take(x, starts[:, None] + jnp.arange(size), axis=dim)
    return jnp.moveaxis(windows, dim % x.ndim + 1, -1)


def _pad(x: Array, amounts: Sequence[int], mode: str, **options: object) -> Array:
    """Amounts come from the last dimension backwards; a negative amount cuts."""
    pairs = [(0, 0)] * (x.ndim - len(amounts) // 2) + list(zip(amounts[-2::-2], amounts[-1::-2], strict=True))
    for dim, (before, after) in enumerate(pairs):
        x = x[along(x, dim, slice(max(-before, 0), x.shape[dim] - max(-after, 0)))]
    return jnp.pad(x, [(max(before, 0), max(after, 0)) for before, after in pairs], mode=mode, **options)


def _roll(x: Array, shifts: Sequence[int] | int, dims: Sequence[int] | int = ()) -> Array:
    whole = dims in ((), [])
    return jnp.roll(x, shifts if isinstance(shifts, int) else tuple(shifts), None if whole else _dims(dims))


def _dims(dims: Sequence[int] | int) -> int | tuple[int, ...]:
    return dims if isinstance(dims, int) else tuple(dims)


def _arange(start: float, end: float | None = None, step: float | None = None, **_: object) -> Array:
    return jnp.arange(start, end, step)


def _linspace(start: Array, end: Array, steps: int, **_: object) -> Array:
    return jnp.linspace(start, end, steps)


def _triangle(indices: Callable[..., Sequence[Array]]) -> Rule:
    return lambda rows, columns, offset=0, **_: jnp.stack(indices(rows, offset, columns))


def _blocks(parts: Sequence[Array]) -> Array:
    height, width = (sum(p.shape[i] if p.ndim == 2 else (1, p.size)[i] for p in parts) for i in (0, 1))
    out, row, column = jnp.zeros((height, width), jnp.result_type(*parts)), 0, 0
    for part in map(jnp.atleast_2d, parts):
        out = out.at[row : row + part.shape[0], column : column + part.shape[1]].set(part)
        row, column = row + part.shape[0], column + part.shape[1]
    return out


MAKING: dict[str, Rule] = {
    "zeros": lambda shape, **_: jnp.zeros(shape),
    "ones": lambda shape, **_: jnp.ones(shape),
    "full": lambda shape, value, **_: jnp.full(shape, value),
    "empty": lambda shape, **_: jnp.zeros(shape),
    "empty_strided": lambda shape, stride, **_: jnp.zeros(shape),
    "empty_permuted": lambda shape, layout, **_: jnp.zeros(shape),
    "zeros_like": lambda x, **_: jnp.zeros_like(x),
    "ones_like": lambda x, **_: jnp.ones_like(x),
    "full_like": lambda x, value, **_: jnp.full(x.shape, value),
    "empty_like": lambda x, **_: jnp.zeros_like(x),
    "new_zeros": lambda x, shape, **_: jnp.zeros(shape, x.dtype),
    "new_ones": lambda x, shape, **_: jnp.ones(shape, x.dtype),
    "new_full": lambda x, shape, value, **_: jnp.full(shape, value),
    "new_empty": lambda x, shape, **_: jnp.zeros(shape, x.dtype),
    "new_empty_strided": lambda x, shape, stride, **_: jnp.zeros(shape, x.dtype),
    "scalar_tensor": lambda value, **_: jnp.asarray(value),
    "eye": lambda n, **_: jnp.eye(n),
    "eye.m": lambda n, m, **_: jnp.eye(n, m),
    "arange": _arange,
    "linspace": _linspace,
    "logspace": lambda start, end, steps, base=10.0, **_: base ** jnp.linspace(start, end, steps),
    "tril_indices": _triangle(jnp.tril_indices),
    "triu_indices": _triangle(jnp.triu_indices),
}

RESHAPING: dict[str, Rule] = {
    "view": lambda x, shape: x.reshape(shape),
    "view.dtype": lambda x, dtype: x,
    "_unsafe_view": lambda x, shape: x.reshape(shape),
    "_reshape_alias": lambda x, shape, stride: x.reshape(shape),
    "_reshape_copy": lambda x, shape: x.reshape(shape),
    "reshape": lambda x, shape: x.reshape(shape),
    "view_copy": lambda x, shape: x.reshape(shape),
    "view_as_real": lambda x: jnp.stack([x.real, x.imag], axis=-1),
    "view_as_complex": lambda x: x[..., 0] + 1j * x[..., 1],
    "expand": _expand,
    "expand_copy": _expand,
    "unsqueeze": jnp.expand_dims,
    "unsqueeze_": jnp.expand_dims,
    "squeeze": _squeeze,
    "squeeze_": _squeeze,
    "permute": lambda x, dims: jnp.transpose(x, dims),
    "transpose": jnp.swapaxes,
    "transpose_": jnp.swapaxes,
    "t": lambda x: x.T,
    "t_": lambda x: x.T,
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "roll": _roll,
    "rot90": lambda x, k=1, dims=(0, 1): jnp.rot90(x, k, tuple(dims)),
    "repeat": _repeat,
    "unfold": _unfold,
    "pixel_shuffle": lambda x, r: _shuffle(x, r),
}

CUTTING: dict[str, Rule] = {
    "select": lambda x, dim, index: x[along(x, dim, index)],
    "select_scatter": _select_scatter,
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "narrow": lambda x, dim, start, length: _slice(x, dim, start, start + length),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    "diagonal_copy": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    "diagonal_scatter": _diagonal_scatter,
    "diag_embed": _diag_embed,
    "tril": lambda x, diagonal=0: jnp.tril(x, diagonal),
    "triu": lambda x, diagonal=0: jnp.triu(x, diagonal),
    "split": _split,
    "split_with_sizes": _split_with_sizes,
    "unsafe_split": _split,
    "unsafe_split_with_sizes": _split_with_sizes,
    "chunk": _chunk,
    "unbind": _unbind,
}

JOINING: dict[str, Rule] = {
    "cat": lambda parts, dim=0: jnp.concatenate([p for p in parts if p.shape != (0,)] or parts[:1], axis=dim),
    "stack": lambda parts, dim=0: jnp.stack(parts, axis=dim),
    "block_diag": _blocks,
    "constant_pad_nd": lambda x, amounts, value=0: _pad(x, amounts, "constant", constant_values=value),
    "reflection_pad1d": lambda x, amounts: _pad(x, amounts, "reflect"),
    "reflection_pad2d": lambda x, amounts: _pad(x, amounts, "reflect"),
    "reflection_pad3d": lambda x, amounts: _pad(x, amounts, "reflect"),
    "replication_pad1d": lambda x, amounts: _pad(x, amounts, "edge"),
    "replication_pad2d": lambda x, amounts: _pad(x, amounts, "edge"),
    "replication_pad3d": lambda x, amounts: _pad(x, amounts, "edge"),
}


def _shuffle(x: Array, r: int) -> Array:
    *batch, c, h, w = x.shape
    parts = x.reshape(*batch, c // r**2, r, r, h, w)
    n = len(batch)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return jnp.transpose(parts, order).reshape(*batch, c // r**2, h * r, w * r)


RULES: dict[str, Rule] = {**MAKING, **RESHAPING, **CUTTING, **JOINING}
