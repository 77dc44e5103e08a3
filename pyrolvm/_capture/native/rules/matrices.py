"""Products, factors and solutions of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pyrolvm._capture.native.builder import Builder, Value, reshaped
from pyrolvm._capture.native.index import ZERO, Index, fold
from pyrolvm._capture.native.rules.call import Call, Indices, Rule
from pyrolvm._capture.native.rules.elements import pointwise
from pyrolvm._capture.native.rules.views import expand, transpose

__all__ = ["RULES"]


def _product(call: Call, x: Value, y: Value) -> Value:
    """Matrix products: sums of products, by the loops whose innermost finds neighbours next to each other."""
    matrix = len(y.shape) - (len(x.shape) - 2) == 2
    batch, rows, inner = x.shape[:-2], x.shape[-2], x.shape[-1]
    columns = y.shape[-1] if matrix else 1
    shape = (*batch, rows, inner, columns)
    b = len(batch)

    def left(index: Indices) -> str:
        return x.at((*index[:b], index[b], index[b + 1]))

    def right(index: Indices) -> str:
        return y.at((*index[:b], index[b + 1], *index[b + 2 :][: 1 if matrix else 0]))

    order = _order(call.builder, shape, b, [left, right])
    summed = call.builder.reduce(
        call.kind, shape, [b + 1], lambda i: f"({left(i)} * {right(i)})", "+", "0", order=order
    )
    return reshaped(summed, call.shape)


def _order(builder: Builder, shape: tuple[int, ...], batch: int, entries: list[Callable[[Indices], str]]) -> list[int]:
    """Rows, inner and columns in the order in which the innermost loop takes the shortest steps."""
    names = tuple(Index.of(f"i{d}", n) for d, n in enumerate(shape))
    _, reads = builder.recorded(lambda: [entry(names) for entry in entries])
    strides = [builder.tokens[r][1] for r in reads]
    rows, inner, columns = batch, batch + 1, batch + 2
    result = fold(
        [ZERO if d == inner else i for d, i in enumerate(names)], [1 if d == inner else n for d, n in enumerate(shape)]
    )

    def cost(d: int) -> tuple[int, int]:
        if shape[d] == 1:
            return 99, 0
        steps = [s.stride(f"i{d}") for s in [*strides, result]]
        return sum(0 if step in (0, 1) else 1 for step in steps), -shape[d]

    last = min((columns, inner, rows), key=cost)
    return [*range(batch), *(d for d in (rows, inner, columns) if d != last), last]


def _addmm(call: Call, bias: Value, x: Value, y: Value, beta: object = 1, alpha: object = 1) -> Value:
    product = _product(call, x, y)
    return pointwise("({2} * {0} + {3} * {1})")(call, bias, product, beta, alpha)


def _outer_loops(shape: Sequence[int]) -> tuple[tuple[Index, ...], list[str]]:
    """Loops over the leading dimensions of matrices."""
    names = tuple(Index.of(f"b{k}", n) for k, n in enumerate(shape))
    return names, [f"for (integer b{k} = 0; b{k} < {n}; b{k}++) {{" for k, n in enumerate(shape)]


def _cholesky(call: Call, x: Value, *, upper: bool = False, **_: Any) -> tuple[Value, Value]:
    """The factor; NaN for a matrix that has none, so that the density there is NaN."""
    if upper:
        raise call.unsupported("with upper=True")
    *batch, n, _n = x.shape
    array, _copy = call.builder.stored(x)
    factor = call.builder.new("d", array.size, local=False)
    whole = call.builder.value(array, (array.size,))

    def lines() -> str:
        names, loops = _outer_loops(batch)
        start = fold((*names, ZERO, ZERO), x.shape)
        source = whole.at((Index.of("k", array.size),))
        return "\n".join(
            [
                f"for (integer k = 0; k < {array.size}; k++) {factor.name}[k] = {source};",
                *loops,
                f"double *matrix = {factor.name} + {start};",
                f"if (cholesky({n}, matrix)) for (integer k = 0; k < {n * n}; k++) matrix[k] = NAN;",
                "}" * len(loops),
            ]
        )

    call.builder.code(factor, lines)
    return call.builder.value(factor, x.shape), Value(tuple(batch), "l", lambda _: "0")


def _solve_triangular(
    call: Call, a: Value, b: Value, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Value:
    """X with A X = B, or X A = B, which is solved transposed."""
    if not left:
        turned = _shaped(call, (*call.shape[:-2], call.shape[-1], call.shape[-2]))
        swapped = [transpose(_shaped(call, (*v.shape[:-2], v.shape[-1], v.shape[-2])), v, -2, -1) for v in (a, b)]
        x = _solve_triangular(turned, *swapped, upper=not upper, unitriangular=unitriangular)
        return transpose(call, x, -2, -1)
    *batch, n, columns = call.shape
    a, b = expand(_shaped(call, (*batch, n, n)), a), expand(call, b)
    build = call.builder
    held = build.stored(a)[1] if _scattered(build, a) else a
    right, _copy = build.stored(b)
    whole = build.value(right, (right.size,))
    array = build.new("d", right.size, local=False)

    def lines() -> str:
        names, loops = _outer_loops(batch)
        corner = held.at((*names, ZERO, ZERO))
        row, column = _steps(build, held, names)
        source = whole.at((Index.of("k", right.size),))
        start = fold((*names, ZERO, ZERO), b.shape)
        return "\n".join(
            [
                f"for (integer k = 0; k < {right.size}; k++) {array.name}[k] = {source};",
                *loops,
                f"solve_triangular({n}, {columns}, &{corner}, {row}, {column}, {int(upper)}, {int(unitriangular)}, "
                f"{array.name} + {start});",
                "}" * len(loops),
            ]
        )

    build.code(array, lines)
    return build.value(array, b.shape)


def _cholesky_solve(call: Call, b: Value, factor: Value, upper: bool = False) -> Value:
    """X with L L' X = B, or U' U X = B."""
    turned = transpose(_shaped(call, (*factor.shape[:-2], factor.shape[-1], factor.shape[-2])), factor, -2, -1)
    first, second = (turned, factor) if upper else (factor, turned)
    return _solve_triangular(call, second, _solve_triangular(call, first, b, upper=False), upper=True)


def _cholesky_inverse(call: Call, factor: Value, upper: bool = False) -> Value:
    one = Value(call.shape, "d", lambda index: f"(double)({index[-2]} == {index[-1]})")
    return _cholesky_solve(call, one, factor, upper)


def _shaped(call: Call, shape: Sequence[int]) -> Call:
    return Call(call.name, call.builder, torch.empty(tuple(shape), dtype=torch.float64, device="meta"))


def _steps(build: Builder, x: Value, names: Indices) -> tuple[int | None, int | None]:
    """By how many entries the rows and the columns of stored matrices are apart; None where they are not stored."""
    text, reads = build.recorded(lambda: x.at((*names, Index.of("p", x.shape[-2]), Index.of("q", x.shape[-1]))))
    if len(reads) != 1 or text != f"@{next(iter(reads))}@":
        return None, None
    array, position = build.tokens[next(iter(reads))]
    return (None, None) if array.scalar or array.local else (position.stride("p"), position.stride("q"))


def _scattered(build: Builder, x: Value) -> bool:
    """Whether matrices are not in memory at regular distances."""
    names = tuple(Index.of(f"b{k}", n) for k, n in enumerate(x.shape[:-2]))
    return None in _steps(build, x, names)


RULES: dict[str, Rule] = {
    "addmm": _addmm,
    "addmv": _addmm,
    "bmm": _product,
    "cholesky_inverse": _cholesky_inverse,
    "cholesky_solve": _cholesky_solve,
    "linalg_cholesky_ex": _cholesky,
    "linalg_solve_triangular": _solve_triangular,
    "mm": _product,
    "mv": _product,
}
