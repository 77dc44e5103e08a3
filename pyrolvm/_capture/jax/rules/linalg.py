"""Products and factors of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import linalg

__all__ = ["RULES"]


def mirror(x: Any) -> Any:
    """The (conjugate) transpose of each matrix."""
    return jnp.swapaxes(jnp.conj(x), -1, -2)


def _plus(product: Callable[..., Any]) -> Callable[..., Any]:
    """The rule for ``beta x + alpha product(a, b)``; with beta 0, x counts for nothing, not even where it is nan."""

    def rule(x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
        value = product(a, b) if alpha == 1 else alpha * product(a, b)
        return value if beta == 0 else (x if beta == 1 else beta * x) + value

    return rule


def _cholesky(x: Any, upper: bool = False) -> Any:
    """The lower triangle alone is read by torch, which yet triangle alone differentiates by the symmetric matrix, as JAX does."""
    mean, lower = (x + mirror(x)) / 2, jnp.tril(x) + mirror(jnp.tril(x, -1))
    factor = jnp.linalg.cholesky(mean + jax.lax.stop_gradient(lower - mean), symmetrize_input=False)
    return mirror(factor) if upper else factor


def _info(x: Any) -> Any:
    return jnp.zeros(x.shape[:-2], jnp.int32)


def _solve_triangular(a: Any, b: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    a, b = _batched(a, b)
    return jax.lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular)


def _batched(a: Any, b: Any) -> tuple[Any, Any]:
    """Both with the same batch dimensions."""
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return jnp.broadcast_to(a, (*batch, *a.shape[-2:])), jnp.broadcast_to(b, (*batch, *b.shape[-2:]))


def _triangular_solve(
    b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Any, Any]:
    chosen = jnp.swapaxes(a, -1, -2) if transpose else a
    return _solve_triangular(chosen, b, upper != transpose, True, unitriangular), a


def _cross(x: Any, y: Any, dim: int) -> Any:
    x, y = jnp.broadcast_arrays(x, y)
    return jnp.cross(x, y, axis=dim)


def _cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    lower = mirror(factor) if upper else factor
    return _solve_triangular(mirror(lower), _solve_triangular(lower, b, False), True)


def _cholesky_inverse(factor: Any, upper: bool = False) -> Any:
    return _cholesky_solve(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor, upper)


def _solve(a: Any, b: Any, left: bool = True, **_: Any) -> Any:
    vectors = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    matrix = b[..., None] if vectors else b
    if not left:
        return mirror(_solve(mirror(a), mirror(matrix)))
    a, matrix = _batched(a, matrix)
    solved = jnp.linalg.solve(a, matrix)
    return solved[..., 0] if vectors else solved


def _solve_ex(a: Any, b: Any, left: bool = True, check_errors: bool = False) -> tuple[Any, ...]:
    return (_solve(a, b, left), *_lu_factor(a), _info(a))


def _lu_factor(a: Any, pivot: bool = True) -> tuple[Any, Any]:
    factors, pivots, _ = jax.lax.linalg.lu(a)
    return factors, pivots + 1


def _permutation(pivots: Any, size: int) -> Any:
    order = jax.lax.linalg.lu_pivots_to_permutation(pivots - 1, size)
    return jnp.swapaxes(jax.nn.one_hot(order, size), -1, -2)


def _lu_unpack(factors: Any, pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> tuple[Any, ...]:
    rows, columns = factors.shape[-2:]
    k = min(rows, columns)
    lower = jnp.tril(factors[..., :, :k], -1) + jnp.eye(rows, k, dtype=factors.dtype)
    return _permutation(pivots, rows).astype(factors.dtype), lower, jnp.triu(factors[..., :k, :])


def _lu_solve(factors: Any, pivots: Any, b: Any, left: bool = True, adjoint: bool = False) -> Any:
    p, lower, upper = _lu_unpack(factors, pivots)
    return _solve(p @ lower @ upper if not adjoint else mirror(p @ lower @ upper), b, left)


def _qr(x: Any, mode: str = "reduced") -> tuple[Any, Any]:
    if mode == "r":
        return jnp.zeros((0,), x.dtype), jnp.linalg.qr(x, mode="r")
    q, r = jnp.linalg.qr(x, mode=mode)
    return q, r


def _eigh(x: Any, uplo: str = "L", compute_v: bool = True) -> tuple[Any, Any]:
    values, vectors = jnp.linalg.eigh(x, UPLO=uplo, symmetrize_input=False)
    return values, vectors


def _svd(x: Any, full_matrices: bool = False, compute_uv: bool = True, driver: str | None = None) -> Any:
    if compute_uv:
        return tuple(jnp.linalg.svd(x, full_matrices=full_matrices))
    values = jnp.linalg.svd(x, compute_uv=False)
    return jnp.zeros((0,), x.dtype), values, jnp.zeros((0,), x.dtype)


PRODUCTS: dict[str, Callable[..., Any]] = {
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "matmul": jnp.matmul,
    "mv": jnp.matmul,
    "dot": jnp.dot,
    "vdot": jnp.vdot,
    "outer": jnp.outer,
    "ger": jnp.outer,
    "kron": jnp.kron,
    "addmm": _plus(jnp.matmul),
    "addmv": _plus(jnp.matmul),
    "addr": _plus(jnp.outer),
    "baddbmm": _plus(jnp.matmul),
    "addbmm": _plus(lambda a, b: jnp.matmul(a, b).sum(0)),
    "linear": lambda x, weight, bias=None: x @ weight.T if bias is None else x @ weight.T + bias,
    "linalg_cross": lambda x, y, dim=-1: _cross(x, y, dim),
    "trace": jnp.trace,
    "linalg_matrix_exp": linalg.expm,
    "linalg_matrix_power": jnp.linalg.matrix_power,
}

FACTORS: dict[str, Callable[..., Any]] = {
    "cholesky": _cholesky,
    "linalg_cholesky_ex": lambda x, upper=False, check_errors=False: (_cholesky(x, upper), _info(x)),
    "linalg_lu_factor_ex": lambda x, pivot=True, check_errors=False: (*_lu_factor(x), _info(x)),
    "linalg_lu": lambda x, pivot=True: _lu_unpack(*_lu_factor(x)),
    "lu_unpack": _lu_unpack,
    "linalg_qr": _qr,
    "_linalg_eigh": _eigh,
    "_linalg_svd": _svd,
}

SOLUTIONS: dict[str, Callable[..., Any]] = {
    "linalg_solve_triangular": lambda a, b, upper, left=True, unitriangular=False: _solve_triangular(
        a, b, upper, left, unitriangular
    ),
    "triangular_solve": _triangular_solve,
    "cholesky_solve": _cholesky_solve,
    "cholesky_inverse": _cholesky_inverse,
    "_linalg_solve_ex": _solve_ex,
    "linalg_lu_solve": _lu_solve,
    "linalg_inv_ex": lambda x, check_errors=False: (jnp.linalg.inv(x), _info(x)),
    "_linalg_det": lambda x: (jnp.linalg.det(x), *_lu_factor(x)),
    "_linalg_slogdet": lambda x: (*jnp.linalg.slogdet(x), *_lu_factor(x)),
    "_linalg_check_errors": lambda info, api_name, is_matrix: None,
}


def _onesided(x: Any, dims: Any, normalization: int, onesided: bool) -> Any:
    dims = list(dims)
    if not onesided:
        return _scaled(jnp.fft.fftn(x, axes=dims), x.shape, dims, normalization)
    half = jnp.fft.rfft(x, axis=dims[-1])
    whole = jnp.fft.fftn(half, axes=dims[:-1]) if dims[:-1] else half
    return _scaled(whole, x.shape, dims, normalization)


def _scaled(x: Any, shape: tuple[int, ...], dims: list[int], normalization: int) -> Any:
    """Normalisations are numbered: 0 none, 1 by the root of the number of points, 2 by the number."""
    points = 1
    for d in dims:
        points *= shape[d]
    return x * {0: 1.0, 1: points**-0.5, 2: 1.0 / points}[normalization]


def _c2c(x: Any, dims: Any, normalization: int, forward: bool) -> Any:
    dims = list(dims)
    if forward:
        return _scaled(jnp.fft.fftn(x, axes=dims), x.shape, dims, normalization)
    return _scaled(jnp.conj(jnp.fft.fftn(jnp.conj(x), axes=dims)), x.shape, dims, normalization)


def _c2r(x: Any, dims: Any, normalization: int, last: int) -> Any:
    dims = list(dims)
    shape = tuple(last if d == dims[-1] % x.ndim else n for d, n in enumerate(x.shape))
    inner = _c2c(x, dims[:-1], 0, False) if dims[:-1] else x
    return _scaled(jnp.fft.irfft(inner, n=last, axis=dims[-1]) * last, shape, dims, normalization)


FOURIER: dict[str, Callable[..., Any]] = {"_fft_r2c": _onesided, "_fft_c2c": _c2c, "_fft_c2r": _c2r}

RULES: dict[str, Callable[..., Any]] = {**PRODUCTS, **FACTORS, **SOLUTIONS, **FOURIER}
