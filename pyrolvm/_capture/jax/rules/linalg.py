"""Products and factors of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy import linalg

from pyrolvm._capture.jax.rules.kinds import One, Rule

__all__ = ["RULES"]


def mirror(x: Array) -> Array:
    """The (conjugate) transpose of each matrix."""
    return jnp.swapaxes(jnp.conj(x), -1, -2)


def _plus(product: One) -> Rule:
    """The rule for ``beta x + alpha product(a, b)``; with beta 0, x counts for nothing, not even where it is nan."""

    def rule(x: Array, a: Array, b: Array, beta: float = 1, alpha: float = 1) -> Array:
        value = product(a, b) if alpha == 1 else alpha * product(a, b)
        return value if beta == 0 else (x if beta == 1 else beta * x) + value

    return rule


def _cholesky(x: Array, upper: bool = False) -> Array:
    """The lower triangle alone is read by torch, which yet triangle alone differentiates by the symmetric matrix, as JAX does."""
    mean, lower = (x + mirror(x)) / 2, jnp.tril(x) + mirror(jnp.tril(x, -1))
    factor = jnp.linalg.cholesky(mean + jax.lax.stop_gradient(lower - mean), symmetrize_input=False)
    return mirror(factor) if upper else factor


def _info(x: Array) -> Array:
    return jnp.zeros(x.shape[:-2], jnp.int32)


def _solve_triangular(a: Array, b: Array, upper: bool, left: bool = True, unitriangular: bool = False) -> Array:
    a, b = _batched(a, b)
    return jax.lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular)


def _batched(a: Array, b: Array) -> tuple[Array, Array]:
    """Both with the same batch dimensions."""
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return jnp.broadcast_to(a, (*batch, *a.shape[-2:])), jnp.broadcast_to(b, (*batch, *b.shape[-2:]))


def _triangular_solve(
    b: Array, a: Array, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Array, Array]:
    chosen = jnp.swapaxes(a, -1, -2) if transpose else a
    return _solve_triangular(chosen, b, upper != transpose, True, unitriangular), a


def _cross(x: Array, y: Array, dim: int) -> Array:
    x, y = jnp.broadcast_arrays(x, y)
    return jnp.cross(x, y, axis=dim)


def _cholesky_solve(b: Array, factor: Array, upper: bool = False) -> Array:
    lower = mirror(factor) if upper else factor
    return _solve_triangular(mirror(lower), _solve_triangular(lower, b, False), True)


def _cholesky_inverse(factor: Array, upper: bool = False) -> Array:
    return _cholesky_solve(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor, upper)


def _solve(a: Array, b: Array, left: bool = True, **_: object) -> Array:
    vectors = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    matrix = b[..., None] if vectors else b
    if not left:
        return mirror(_solve(mirror(a), mirror(matrix)))
    a, matrix = _batched(a, matrix)
    solved = jnp.linalg.solve(a, matrix)
    return solved[..., 0] if vectors else solved


def _solve_ex(a: Array, b: Array, left: bool = True, check_errors: bool = False) -> tuple[Array, ...]:
    return (_solve(a, b, left), *_lu_factor(a), _info(a))


def _lu_factor(a: Array, pivot: bool = True) -> tuple[Array, Array]:
    factors, pivots, _ = jax.lax.linalg.lu(a)
    return factors, pivots + 1


def _permutation(pivots: Array, size: int) -> Array:
    order = jax.lax.linalg.lu_pivots_to_permutation(pivots - 1, size)
    return jnp.swapaxes(jax.nn.one_hot(order, size), -1, -2)


def _lu_unpack(
    factors: Array, pivots: Array, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Array, ...]:
    rows, columns = factors.shape[-2:]
    k = min(rows, columns)
    lower = jnp.tril(factors[..., :, :k], -1) + jnp.eye(rows, k, dtype=factors.dtype)
    return _permutation(pivots, rows).astype(factors.dtype), lower, jnp.triu(factors[..., :k, :])


def _lu_solve(factors: Array, pivots: Array, b: Array, left: bool = True, adjoint: bool = False) -> Array:
    p, lower, upper = _lu_unpack(factors, pivots)
    return _solve(p @ lower @ upper if not adjoint else mirror(p @ lower @ upper), b, left)


def _qr(x: Array, mode: str = "reduced") -> tuple[Array, Array]:
    if mode == "r":
        return jnp.zeros((0,), x.dtype), jnp.linalg.qr(x, mode="r")
    q, r = jnp.linalg.qr(x, mode=mode)
    return q, r


def _eigh(x: Array, uplo: str = "L", compute_v: bool = True) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(x, UPLO=uplo, symmetrize_input=False)
    return values, vectors


def _svd(
    x: Array, full_matrices: bool = False, compute_uv: bool = True, driver: str | None = None
) -> tuple[Array, ...]:
    if compute_uv:
        return tuple(jnp.linalg.svd(x, full_matrices=full_matrices))
    values = jnp.linalg.svd(x, compute_uv=False)
    return jnp.zeros((0,), x.dtype), values, jnp.zeros((0,), x.dtype)


PRODUCTS: dict[str, Rule] = {
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

FACTORS: dict[str, Rule] = {
    "cholesky": _cholesky,
    "linalg_cholesky_ex": lambda x, upper=False, check_errors=False: (_cholesky(x, upper), _info(x)),
    "linalg_lu_factor_ex": lambda x, pivot=True, check_errors=False: (*_lu_factor(x), _info(x)),
    "linalg_lu": lambda x, pivot=True: _lu_unpack(*_lu_factor(x)),
    "lu_unpack": _lu_unpack,
    "linalg_qr": _qr,
    "_linalg_eigh": _eigh,
    "_linalg_svd": _svd,
}

SOLUTIONS: dict[str, Rule] = {
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


def _onesided(x: Array, dims: Sequence[int], normalization: int, onesided: bool) -> Array:
    dims = list(dims)
    if not onesided:
        return _scaled(jnp.fft.fftn(x, axes=dims), x.shape, dims, normalization)
    half = jnp.fft.rfft(x, axis=dims[-1])
    whole = jnp.fft.fftn(half, axes=dims[:-1]) if dims[:-1] else half
    return _scaled(whole, x.shape, dims, normalization)


def _scaled(x: Array, shape: tuple[int, ...], dims: list[int], normalization: int) -> Array:
    """Normalisations are numbered: 0 none, 1 by the root of the number of points, 2 by the number."""
    points = 1
    for d in dims:
        points *= shape[d]
    return x * {0: 1.0, 1: points**-0.5, 2: 1.0 / points}[normalization]


def _c2c(x: Array, dims: Sequence[int], normalization: int, forward: bool) -> Array:
    dims = list(dims)
    if forward:
        return _scaled(jnp.fft.fftn(x, axes=dims), x.shape, dims, normalization)
    return _scaled(jnp.conj(jnp.fft.fftn(jnp.conj(x), axes=dims)), x.shape, dims, normalization)


def _c2r(x: Array, dims: Sequence[int], normalization: int, last: int) -> Array:
    dims = list(dims)
    shape = tuple(last if d == dims[-1] % x.ndim else n for d, n in enumerate(x.shape))
    inner = _c2c(x, dims[:-1], 0, False) if dims[:-1] else x
    return _scaled(jnp.fft.irfft(inner, n=last, axis=dims[-1]) * last, shape, dims, normalization)


FOURIER: dict[str, Rule] = {"_fft_r2c": _onesided, "_fft_c2c": _c2c, "_fft_c2r": _c2r}

RULES: dict[str, Rule] = {**PRODUCTS, **FACTORS, **SOLUTIONS, **FOURIER}
