"""Operations that read or write entries by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from pyrolvm._capture.native.builder import Value, number, view
from pyrolvm._capture.native.index import ZERO, Index, fold
from pyrolvm._capture.native.rules.call import Call, Indices, Rule, axis, replaced
from pyrolvm._capture.native.rules.elements import entry

__all__ = ["RULES"]


def _entry(value: Value, index: Sequence[Index], extent: int) -> Index:
    """An entry of an index tensor as an index."""
    return Index.of(value.at(tuple(index)), extent)


def _wrapped(call: Call, index: Value, extent: int) -> Value:
    """An index tensor whose negative entries count from the end."""
    if call.builder.least(index) >= 0:
        return index
    return call.builder.map(
        "l", index.shape, lambda i: f"({index.at(i)} < 0 ? {index.at(i)} + {extent} : {index.at(i)})"
    )


def _lookup(
    call: Call, x: Value, indices: Sequence[Value | None]
) -> tuple[list[Value | None], Callable[[Indices], list[Index]]]:
    """Where the entries of ``x[indices]`` come from."""
    found = [*indices, *[None] * (len(x.shape) - len(indices))]
    for i in found:
        if i is not None and i.kind != "l":
            raise call.unsupported("with a mask")
    chosen = [d for d, i in enumerate(found) if i is not None]
    shape = np.broadcast_shapes(*(i.shape for i in found if i is not None))
    if chosen != list(range(chosen[0], chosen[-1] + 1)):
        raise call.unsupported("with indices apart")
    first, width = chosen[0], len(shape)
    ready = [None if i is None else _wrapped(call, i, x.shape[d]) for d, i in enumerate(found)]

    def source(index: Indices) -> list[Index]:
        at, rest = index[first : first + width], [*index[:first], *index[first + width :]]
        out = []
        for d, i in enumerate(ready):
            if i is None:
                out.append(rest.pop(0))
            else:
                own = at[len(at) - len(i.shape) :]
                out.append(_entry(i, [k if n != 1 else ZERO for k, n in zip(own, i.shape, strict=True)], x.shape[d]))
        return out

    return ready, source


def _index(call: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    _, source = _lookup(call, x, indices)
    return view(x, call.shape, source)


def _index_put(call: Call, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    ready, source = _lookup(call, x, indices)
    chosen = [d for d, i in enumerate(ready) if i is not None]
    shape = np.broadcast_shapes(*(i.shape for i in ready if i is not None))
    whole = (*x.shape[: chosen[0]], *shape, *x.shape[chosen[-1] + 1 :])
    return _scattered_into(call, x, whole, source, lambda index: entry(values, index), accumulate)


def _scattered_into(
    call: Call, x: Value, shape: Sequence[int], target: Callable[[Indices], Sequence[Index]], at: Any, add: bool
) -> Value:
    """``x`` with entries ``at(index)`` written, or added, at ``target(index)`` for each index of ``shape``."""
    build = call.builder
    array = build.new(call.kind, prod(x.shape), local=False)

    def lines() -> str:
        own = tuple(Index.of(f"k{d}", n) for d, n in enumerate(x.shape))
        index = tuple(Index.of(f"j{d}", n) for d, n in enumerate(shape))
        fill = [f"for (integer k{d} = 0; k{d} < {n}; k{d}++)" for d, n in enumerate(x.shape)]
        loops = [f"for (integer j{d} = 0; j{d} < {n}; j{d}++)" for d, n in enumerate(shape)]
        place = fold(target(index), x.shape)
        return "\n".join(
            [
                *fill,
                f"{array.name}[{fold(own, x.shape)}] = {x.at(own)};",
                *loops,
                f"{array.name}[{place}] {'+=' if add else '='} {at(index)};",
            ]
        )

    build.code(array, lines)
    return build.value(array, x.shape)


def _gather(call: Call, x: Value, dim: int, index: Value, **_: Any) -> Value:
    d = axis(dim, x.shape)
    return view(x, call.shape, lambda i: replaced(i, d, _entry(index, i, x.shape[d]))) if x.shape else x


def _scatter(add: bool) -> Rule:
    def rule(call: Call, x: Value, dim: int, index: Value, source: object, **_: Any) -> Value:
        d = axis(dim, x.shape)

        def at(i: Indices) -> str:
            return source.at(i) if isinstance(source, Value) else number(source)

        return _scattered_into(call, x, index.shape, lambda i: replaced(i, d, _entry(index, i, x.shape[d])), at, add)

    return rule


def _index_select(call: Call, x: Value, dim: int, index: Value) -> Value:
    d = axis(dim, x.shape)
    return view(x, call.shape, lambda i: replaced(i, d, _entry(index, [i[d]][: len(index.shape)], x.shape[d])))


def _index_add(call: Call, x: Value, dim: int, index: Value, source: Value, alpha: object = 1) -> Value:
    if alpha != 1:
        raise call.unsupported("with alpha")
    d = axis(dim, x.shape)
    return _scattered_into(
        call, x, source.shape, lambda i: replaced(i, d, _entry(index, [i[d]], x.shape[d])), source.at, True
    )


RULES: dict[str, Rule] = {
    "gather": _gather,
    "index": _index,
    "index_add": _index_add,
    "index_put": _index_put,
    "index_select": _index_select,
    "scatter.src": _scatter(add=False),
    "scatter.value": _scatter(add=False),
    "scatter_add": _scatter(add=True),
}
