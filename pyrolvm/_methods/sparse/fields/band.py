"""Symmetric band matrices, many at a time, by LAPACK.

A matrix of order m and bandwidth b is an array ``(m, b + 1)``, whose entry ``(j, k)`` is that of row ``j + k`` and column ``j``: the
lower band, column by column, as LAPACK has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

__all__ = ["backward", "factored", "forward", "log_determinants", "product", "solved"]

Array = NDArray[np.float64]


def factored(bands: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Lower Cholesky factors of matrices ``(D, m, b + 1)``, and which of these are positive definite; the unit matrix for others."""
    factors, good = np.zeros_like(bands), np.zeros(len(bands), dtype=bool)
    factors[..., 0] = 1.0
    for k, band in enumerate(bands):
        if np.isfinite(band).all():
            found, info = scipy.linalg.lapack.dpbtrf(band.T, lower=1)
            good[k] = info == 0
            if good[k]:
                factors[k] = found.T
    return factors, good


def log_determinants(factors: Array) -> Array:
    """Of the matrices that have these factors, shape ``(D,)``."""
    return np.asarray(2 * np.log(factors[..., 0]).sum(axis=-1))


def solved(factors: Array, right: Array) -> Array:
    """Solutions of systems with factored matrices and right sides ``(D, m)``."""
    return _each(lambda factor, side: scipy.linalg.lapack.dpbtrs(factor.T, side, lower=1)[0], factors, right)


def forward(factors: Array, right: Array) -> Array:
    """Solutions of ``L y = right``, shape ``(D, m)``."""
    return _each(
        lambda factor, side: scipy.linalg.lapack.dtbtrs(factor.T, side, uplo="L", trans="N")[0], factors, right
    )


def backward(factors: Array, right: Array) -> Array:
    """Solutions of ``L' y = right``, shape ``(D, m)``: of standard normal numbers, draws whose precision the factor is of."""
    return _each(
        lambda factor, side: scipy.linalg.lapack.dtbtrs(factor.T, side, uplo="L", trans="T")[0], factors, right
    )


def product(bands: Array, vectors: Array, offsets: Sequence[int]) -> Array:
    """Products of matrices ``(D, m, b + 1)`` and vectors ``(D, m)``.

    Args:
        bands: the matrices.
        vectors: the vectors.
        offsets: the diagonals that are not zero, the main one among them.
    """
    found = bands[..., 0] * vectors
    for gap in offsets:
        if gap:
            below = bands[:, :-gap, gap]
            found[:, gap:] += below * vectors[:, :-gap]
            found[:, :-gap] += below * vectors[:, gap:]
    return found


def _each(solve: Callable[[Array, Array], Array], factors: Array, right: Array) -> Array:
    found = np.empty_like(right)
    for k, (factor, side) in enumerate(zip(factors, right, strict=True)):
        found[k] = solve(factor, side).reshape(-1)
    return found
