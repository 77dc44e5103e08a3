"""Operations that rearrange entries, or choose between them by where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

from pyrolvm._capture.native.builder import Value, number, reshaped, view
from pyrolvm._capture.native.index import ZERO, Index, fold
from pyrolvm._capture.native.rules.call import Call, Indices, Rule, axes, axis, replaced

__all__ = ["RULES", "expand", "transpose"]


def _same(call: Call, x: Value, *_: Any, **__: Any) -> Value:
    return x


def _reshape(call: Call, x: Value, *_: Any) -> Value:
    return reshaped(x, call.shape)


def expand(call: Call, x: Value, *_: Any, **__: Any) -> Value:
    """The tensor repeated along dimensions that it lacks or that have length 1."""
    missing = len(call.shape) - len(x.shape)
    return view(
        x, call.shape, lambda index: [i if n != 1 else ZERO for i, n in zip(index[missing:], x.shape, strict=True)]
    )


def _broadcast(call: Call, x: Value, shape: Sequence[int], dims: Sequence[int]) -> Value:
    return view(x, call.shape, lambda index: [index[d] if n != 1 else ZERO for d, n in zip(dims, x.shape, strict=True)])


def _permute(call: Call, x: Value, dims: Sequence[int]) -> Value:
    order = axes(dims, x.shape)
    return view(x, call.shape, lambda index: [index[order.index(d)] for d in range(len(order))])


def transpose(call: Call, x: Value, a: int = 0, b: int = 1) -> Value:
    """The tensor with two dimensions exchanged."""
    order = list(range(len(x.shape)))
    if order:
        a, b = axis(a, order), axis(b, order)
        order[a], order[b] = order[b], order[a]
    return _permute(call, x, order) if order else x


def _unsqueeze(call: Call, x: Value, dim: int) -> Value:
    d = dim % len(call.shape)
    return view(x, call.shape, lambda index: [*index[:d], *index[d + 1 :]])


def _select(call: Call, x: Value, dim: int, at: int) -> Value:
    d = axis(dim, x.shape)
    place = Index((), at % x.shape[d])
    return view(x, call.shape, lambda index: [*index[:d], place, *index[d:]])


def _span(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """First and one past the last entry of a slice."""
    return slice(start, end).indices(size)[:2]


def _slice(
    call: Call, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    d = axis(dim, x.shape)
    first, _ = _span(x.shape[d], start, end)
    return view(x, call.shape, lambda index: replaced(index, d, index[d] * step + first))


def _moved(index: Indices, dim: int, by: int) -> list[Index]:
    return replaced(index, dim, index[dim] + by)


def _place(index: Indices, dim: int, by: int, shape: Sequence[int]) -> Index:
    return fold(_moved(index, dim, by), shape)


def _split(call: Call, x: Value, _: object, dim: int = 0) -> tuple[Value, ...]:
    d = axis(dim, x.shape)
    parts, start = [], 0
    for part in call.result:
        parts.append(view(x, part.shape, partial(_moved, dim=d, by=start)))
        start += part.shape[d]
    return tuple(parts)


def _unbind(call: Call, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(_select(call, x, dim, k) for k in range(len(call.result)))


def _flip(call: Call, x: Value, dims: Sequence[int]) -> Value:
    chosen = axes(list(dims) or [], x.shape) if dims else []
    return view(
        x, call.shape, lambda index: [i * -1 + (x.shape[d] - 1) if d in chosen else i for d, i in enumerate(index)]
    )


def _diagonal(call: Call, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    a, b = axis(dim1, x.shape), axis(dim2, x.shape)

    def source(index: Indices) -> list[Index]:
        rest = iter(index[:-1])
        places = {a: index[-1] + max(-offset, 0), b: index[-1] + max(offset, 0)}
        return [places[d] if d in places else next(rest) for d in range(len(x.shape))]

    return view(x, call.shape, source)


def _repeat(call: Call, x: Value, _: object) -> Value:
    missing = len(call.shape) - len(x.shape)
    return view(x, call.shape, lambda index: [i.divided(n)[1] for i, n in zip(index[missing:], x.shape, strict=True)])


def _choice(call: Call, condition: Callable[[Indices], str], yes: Value, no: Value | str) -> Value:
    """Entries of ``yes`` where the condition holds, else of ``no``. What does not hold is not read."""

    def at(index: Indices) -> str:
        other = no if isinstance(no, str) else no.at(index)
        test = condition(index)
        return f"({test} ? {yes.at(index)} : {other})" if test else yes.at(index)

    return call.builder.map(call.kind, call.shape, at)


def _inside(index: Index, low: int, high: int, size: int) -> list[str]:
    """The conditions for ``low <= index < high``, given that the index is between 0 and ``size``."""
    return ([f"{index} >= {low}"] if low > 0 else []) + ([f"{index} < {high}"] if high < size else [])


def _pad(call: Call, x: Value, pad: Sequence[int], value: float = 0.0) -> Value:
    before = [0] * len(x.shape)
    for k in range(len(pad) // 2):
        before[-1 - k] = pad[2 * k]

    def condition(index: Indices) -> str:
        tests: list[str] = []
        for i, b, n, size in zip(index, before, x.shape, call.shape, strict=True):
            tests += _inside(i, b, b + n, size)
        return " && ".join(tests)

    moved = view(x, call.shape, lambda index: [i + -b for i, b in zip(index, before, strict=True)])
    return _choice(call, condition, moved, number(float(value)) if call.kind == "d" else number(int(value)))


def _slice_scatter(
    call: Call, x: Value, source: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    d = axis(dim, x.shape)
    first, last = _span(x.shape[d], start, end)

    def condition(index: Indices) -> str:
        tests = _inside(index[d], first, last, x.shape[d])
        return " && ".join(tests + ([f"({index[d] + -first}) % {step} == 0"] if step > 1 else []))

    moved = view(source, call.shape, lambda index: replaced(index, d, (index[d] + -first).divided(step)[0]))
    return _choice(call, condition, moved, x)


def _select_scatter(call: Call, x: Value, source: Value, dim: int, at: int) -> Value:
    d = axis(dim, x.shape)
    moved = view(source, call.shape, lambda index: [*index[:d], *index[d + 1 :]])
    return _choice(call, lambda index: f"{index[d]} == {at % x.shape[d]}", moved, x)


def _diagonal_scatter(call: Call, x: Value, source: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    a, b = axis(dim1, x.shape), axis(dim2, x.shape)
    moved = view(
        source,
        call.shape,
        lambda index: [
            *(i for d, i in enumerate(index) if d not in (a, b)),
            index[b] + min(-offset, 0) if offset > 0 else index[a] + min(offset, 0),
        ],
    )
    return _choice(call, lambda index: f"{index[a] + offset} == {index[b]}", moved, x)


def _triangle(sign: str) -> Rule:
    def rule(call: Call, x: Value, diagonal: int = 0) -> Value:
        return _choice(call, lambda index: f"{index[-1]} {sign} {index[-2] + diagonal}", x, "0")

    return rule


def _cat(call: Call, parts: Sequence[Value], dim: int = 0) -> Value:
    d = axis(dim, call.shape)
    array = call.builder.new(call.kind, prod(call.shape), local=False)
    start = 0
    for part in parts:
        if prod(part.shape) == 0:
            continue
        place = partial(_place, dim=d, by=start, shape=call.shape)
        call.builder.write(array, part.shape, part.at, place)
        start += part.shape[d]
    return call.builder.value(array, call.shape)


def _stack(call: Call, parts: Sequence[Value], dim: int = 0) -> Value:
    d = dim % len(call.shape)
    return _cat(call, [reshaped(p, (*p.shape[:d], 1, *p.shape[d:])) for p in parts], d)


def _zeros(call: Call) -> Value:
    return Value(call.shape, call.kind, lambda _: "0")


def _slice_backward(call: Call, part: Value, _: object, dim: int, start: int, end: int, step: int) -> Value:
    return _slice_scatter(call, _zeros(call), part, dim, start, end, step)


def _select_backward(call: Call, part: Value, _: object, dim: int, at: int) -> Value:
    return _select_scatter(call, _zeros(call), part, dim, at)


def _diagonal_backward(call: Call, part: Value, _: object, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    return _diagonal_scatter(call, _zeros(call), part, offset, dim1, dim2)


RULES: dict[str, Rule] = {
    "_unsafe_view": _reshape,
    "alias": _same,
    "cat": _cat,
    "clone": _same,
    "constant_pad_nd": _pad,
    "copy": lambda call, x, source, *_: expand(call, source),
    "detach": _same,
    "diagonal": _diagonal,
    "diagonal_backward": _diagonal_backward,
    "diagonal_scatter": _diagonal_scatter,
    "expand": expand,
    "flip": _flip,
    "permute": _permute,
    "prims.broadcast_in_dim.default": _broadcast,
    "repeat": _repeat,
    "reshape": _reshape,
    "select": _select,
    "select_backward": _select_backward,
    "select_scatter": _select_scatter,
    "slice": _slice,
    "slice_backward": _slice_backward,
    "slice_scatter": _slice_scatter,
    "split_with_sizes": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "t": transpose,
    "transpose": transpose,
    "tril": _triangle("<="),
    "triu": _triangle(">="),
    "unbind": _unbind,
    "unsqueeze": _unsqueeze,
    "view": _reshape,
}
