"""Whether data of 64 bits may be rounded to 32: what would be lost of the values of each column."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrolvm._base.numerics import Array

__all__ = ["loss"]

MOVED = 1e-3
"""By how many sds of its column a value may move."""

CHANCE = 1e-7
"""Of n values drawn at random, about n^2 times this many fall together with another one; they are apart by rounding alone."""

MANY = 4_000_000
"""Of arrays with more values than this, only columns whose values lie far from zero for their spread are looked at for repeats."""


def loss(array: Array) -> str | None:
    """Says what an array of float64 or int64 numbers would lose as float32; ``None`` if that is harmless.

    Harmless means that no distinct values become equal, save by chance in long columns of measurements, and that no value moves
    by more than a thousandth of its column's standard deviation. Columns are along the first axis.
    """
    if array.dtype.kind not in "fiu" or array.dtype.itemsize < 8 or not array.size:
        return None
    wide = array.astype(np.float64)
    finite = np.isfinite(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(np.float32).astype(np.float64)
        if array.dtype.kind in "iu" and not (wide.astype(array.dtype) == array).all():
            return f"has values up to {np.abs(wide).max():.10g}, which even float64 cannot tell apart"
        moved = np.where(finite, np.abs(narrow - wide), 0.0)
    if not moved.any():
        return None
    if not np.isfinite(moved).all():
        return f"has values up to {np.abs(wide[finite]).max():.3g}, which float32 cannot hold"
    columns = _columns(wide)
    return _moves(columns, _columns(moved)) or _merges(columns, _columns(narrow))


def _columns(array: Array) -> Array:
    """Shape ``(rows, columns)``; a single row is one column of its values."""
    return array.reshape(-1, 1) if array.ndim < 2 or len(array) < 3 else array.reshape(len(array), -1)


def _moves(columns: Array, moved: Array) -> str | None:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        masked = np.where(np.isfinite(columns), columns, np.nan)
        # Shifted first, so that the spread of values far from zero keeps its digits.
        spread = _quiet(np.nanstd, masked - _quiet(np.nanmedian, masked))
        share = moved.max(axis=0) / spread
    # A constant has no spread to be measured by: it may change in its last digits.
    share = np.where(spread > 0, share, np.where(moved.max(axis=0) > 1e-7 * np.abs(columns).max(axis=0), np.inf, 0.0))
    worst = int(np.argmax(share))
    if share[worst] <= MOVED:
        return None
    return f"{_where(columns, worst)}has values that move by up to {share[worst]:.2g} of its sd"


def _quiet(reduce: Any, columns: Array) -> Array:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns without a finite value
        return np.asarray(reduce(columns, axis=0))


def _merges(columns: Array, narrow: Array) -> str | None:
    for i in _suspects(columns):
        values = np.unique(columns[:, i])
        kept = len(np.unique(narrow[:, i]))
        whole = bool((values == np.round(values)).all())
        allowed = 0 if whole else min(int(CHANCE * len(values) ** 2), len(values) // 100)
        if len(values) - kept > allowed:
            return f"{_where(columns, i)}has {len(values):,} distinct values, of which {kept:,} remain"
    return None


def _suspects(columns: Array) -> list[int]:
    """Columns that may have values closer than float32 tells apart; of small arrays all."""
    if columns.size <= MANY:
        return list(range(columns.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        size, spread = np.nanmax(np.abs(columns), axis=0), np.nanstd(columns, axis=0)
        whole = (columns[:100] == np.round(columns[:100])).all(axis=0)
    return list(np.flatnonzero((size > 100 * spread) | (whole & (size > 2**24))))


def _where(columns: Array, i: int) -> str:
    return f"(column {i}) " if columns.shape[1] > 1 else ""
