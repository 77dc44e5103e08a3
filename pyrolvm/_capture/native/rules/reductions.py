"""Operations that join the entries along dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from pyrolvm._capture.native.builder import KINDS, Value, reshaped, view
from pyrolvm._capture.native.index import ZERO, Index, fold
from pyrolvm._capture.native.rules.call import Call, Rule, axes, axis, replaced

__all__ = ["RULES"]


def _reduction(operator: str, start: str, *, mean: bool = False) -> Rule:
    def rule(call: Call, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
        chosen = axes(dims, x.shape)
        count = prod(x.shape[d] for d in chosen)
        if mean and count == 0:
            return Value(call.shape, call.kind, lambda _: "NAN")
        entry = (lambda index: f"({x.at(index)} / {count}.0)") if mean else x.at
        if call.kind == "b":
            entry = lambda index: f"({x.at(index)} != 0)"  # noqa: E731
        joined = call.builder.reduce(call.kind, x.shape, chosen, entry, operator, start)
        return reshaped(joined, call.shape)

    return rule


def _variance(call: Call, x: Value, dims: Any = None, correction: float | None = 1, **_: Any) -> Value:
    chosen, build = axes(dims, x.shape), call.builder
    count = prod(x.shape[d] for d in chosen)
    mean = _filled_by(build.reduce("d", x.shape, chosen, lambda i: f"({x.at(i)} / {count}.0)", "+", "0"), x.shape)
    rest = build.map("d", x.shape, lambda i: f"({x.at(i)} - {mean.at(i)})")
    spread = max(count - (1 if correction is None else correction), 0)
    squares = build.reduce("d", x.shape, chosen, lambda i: f"({rest.at(i)} * {rest.at(i)} / {float(spread)})", "+", "0")
    return reshaped(squares, call.shape)


def _filled_by(x: Value, shape: Sequence[int]) -> Value:
    """A tensor of which ``x`` has the dimensions that it does not repeat along, the others being 1."""
    return view(x, shape, lambda i: [k if n != 1 else ZERO for k, n in zip(i, x.shape, strict=True)])


def _extreme(operator: str, start: str, sign: str) -> Rule:
    """The largest or smallest along a dimension, and where it first is."""

    def rule(call: Call, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
        values = _reduction(operator, start)(call, x, dim, keepdim)
        return values, _arg(sign)(Call(call.name, call.builder, call.result[1]), x, dim, keepdim)

    return rule


def _arg(sign: str) -> Rule:
    def rule(call: Call, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        if dim is None:
            x, dim = reshaped(x, (prod(x.shape),)), 0
        d, builder = axis(dim, x.shape), call.builder
        kept = tuple(1 if k == d else n for k, n in enumerate(x.shape))
        array = builder.new("l", prod(kept), local=False)

        def lines() -> str:
            index = [Index.of(f"j{k}", n) for k, n in enumerate(x.shape)]
            entry, first = x.at(tuple(index)), x.at(tuple(replaced(index, d, ZERO)))
            loops = [f"for (integer j{k} = 0; j{k} < {n}; j{k}++) {{" for k, n in enumerate(kept)]
            place = f"{array.name}[{fold(replaced(index, d, ZERO), kept)}]"
            seek = (
                f"{KINDS[x.kind]} best = {first}; {place} = 0;\n"
                f"for (integer j{d} = 1; j{d} < {x.shape[d]} && best == best; j{d}++) "  # the first that is not a number wins
                f"if ({entry} {sign} best || {entry} != {entry}) {{ best = {entry}; {place} = j{d}; }}"
            )
            return "\n".join([*loops, seek, "}" * len(loops)])

        builder.code(array, lines)
        return reshaped(builder.value(array, kept), call.shape)

    return rule


def _scan(step: str, start: str) -> Rule:
    """The rule for a running total, which ``step`` joins an entry to."""

    def rule(call: Call, x: Value, dim: int, **_: Any) -> Value:
        if not x.shape:
            return x
        d, builder = axis(dim, x.shape), call.builder
        array = builder.new(call.kind, prod(x.shape), local=False)

        def lines() -> str:
            index = tuple(Index.of(f"j{k}", n) for k, n in enumerate(x.shape))
            order = [k for k in range(len(x.shape)) if k != d]
            loops = [f"for (integer j{k} = 0; j{k} < {x.shape[k]}; j{k}++) {{" for k in order]
            loops += [f"{KINDS[call.kind]} total = {start};", f"for (integer j{d} = 0; j{d} < {x.shape[d]}; j{d}++) {{"]
            joined = f"{step.format('total', x.at(index))} {array.name}[{fold(index, x.shape)}] = total;"
            return "\n".join([*loops, joined, "}" * len(x.shape)])

        builder.code(array, lines)
        return builder.value(array, x.shape)

    return rule


def _softmax(log: bool) -> Rule:
    def rule(call: Call, x: Value, dim: int, *_: Any) -> Value:
        d, shape, build = axis(dim, x.shape), x.shape, call.builder
        top = build.reduce("d", shape, [d], x.at, "larger", "-INFINITY")
        shifted = build.map("d", shape, lambda i: f"({x.at(i)} - {top.at(tuple(replaced(i, d, ZERO)))})")
        total = build.reduce("d", shape, [d], lambda i: f"exp({shifted.at(i)})", "+", "0")
        text = "({0} - log({1}))" if log else "(exp({0}) / {1})"
        return build.map("d", shape, lambda i: text.format(shifted.at(i), total.at(tuple(replaced(i, d, ZERO)))))

    return rule


RULES: dict[str, Rule] = {
    "_log_softmax": _softmax(log=True),
    "_softmax": _softmax(log=False),
    "all": _reduction("&", "1"),
    "amax": _reduction("larger", "-INFINITY"),
    "amin": _reduction("smaller", "INFINITY"),
    "any": _reduction("|", "0"),
    "argmax": _arg(">"),
    "argmin": _arg("<"),
    "cumprod": _scan("{0} *= {1};", "1"),
    "cumsum": _scan("{0} += {1};", "0"),
    "logcumsumexp": _scan("{0} = log_add({0}, {1});", "-INFINITY"),
    "max.default": _reduction("larger", "-INFINITY"),
    "max.dim": _extreme("larger", "-INFINITY", ">"),
    "mean": _reduction("+", "0", mean=True),
    "min.default": _reduction("smaller", "INFINITY"),
    "min.dim": _extreme("smaller", "INFINITY", "<"),
    "prims.sum.default": _reduction("+", "0"),
    "prims.var.default": _variance,
    "prod": _reduction("*", "1"),
    "sum": _reduction("+", "0"),
    "var.correction": _variance,
}
