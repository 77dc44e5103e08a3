"""Operations that act on each element by itself."""

from __future__ import annotations

from typing import Any

from pyrolvm._capture.native.builder import KINDS, Value, number, view
from pyrolvm._capture.native.index import ZERO
from pyrolvm._capture.native.pointwise import EXPRESSIONS, POWERS
from pyrolvm._capture.native.rules.call import Call, Indices, Rule

__all__ = ["POINTWISE", "RULES", "entry", "pointwise"]


def entry(value: object, index: Indices) -> str:
    """The entry of an argument that meets an index of the result; numbers are the same everywhere."""
    if not isinstance(value, Value):
        return number(value)
    own = index[len(index) - len(value.shape) :]
    return value.at(tuple(i if size != 1 else ZERO for i, size in zip(own, value.shape, strict=True)))


def pointwise(template: str) -> Rule:
    """The rule for an expression in which ``{0}``, ``{1}``, ... are the arguments."""

    def rule(call: Call, *args: Any, **_: Any) -> Value:
        return call.builder.map(call.kind, call.shape, lambda index: template.format(*(entry(a, index) for a in args)))

    return rule


def _linear(sign: str, *, swapped: bool = False) -> Rule:
    def rule(call: Call, x: object, y: object, alpha: object = 1) -> Value:
        x, y = (y, x) if swapped else (x, y)
        return pointwise(f"({{0}} {sign} {{1}})" if alpha == 1 else f"({{0}} {sign} {{2}} * {{1}})")(call, x, y, alpha)

    return rule


def _power(call: Call, x: object, exponent: object) -> Value:
    known = POWERS.get(float(exponent)) if isinstance(exponent, int | float) and call.kind == "d" else None
    return pointwise(known or "pow({0}, {1})")(call, x, exponent)


def _divide(call: Call, x: object, y: object, rounding_mode: str | None = None) -> Value:
    whole = call.kind != "d"
    if rounding_mode == "floor":
        return pointwise("whole_floor_divided({0}, {1})" if whole else "floor_divided({0}, {1})")(call, x, y)
    if rounding_mode == "trunc":
        return pointwise("({0} / {1})" if whole else f"trunc({EXPRESSIONS['div']})")(call, x, y)
    return pointwise(EXPRESSIONS["div"])(call, x, y)


def _clamp(call: Call, x: object, low: object = None, high: object = None, **bounds: Any) -> Value:
    low, high = bounds.get("min", low), bounds.get("max", high)
    text = "{0}" if low is None else "LARGER({0}, {1})"
    return pointwise(text if high is None else f"SMALLER({text}, {{2}})")(call, x, low or 0, high or 0)


def _not(call: Call, x: Value) -> Value:
    return pointwise("(!{0})" if call.kind == "b" else "(~{0})")(call, x)


def _remainder(call: Call, x: object, y: object) -> Value:
    return pointwise("modulo({0}, {1})" if call.kind == "d" else "whole_modulo({0}, {1})")(call, x, y)


def _round(call: Call, x: Value, decimals: int = 0) -> Value:
    if decimals:
        raise call.unsupported("to decimals")
    return x if call.kind == "l" else POINTWISE["round"](call, x)


def _polygamma(call: Call, n: int, x: Value) -> Value:
    if n > 1:
        raise call.unsupported(f"of order {n}")
    return pointwise(("digamma({0})", "trigamma({0})")[n])(call, x)


def _convert(call: Call, x: Value, *_: Any, **__: Any) -> Value:
    if x.kind == call.kind:
        return view(x, call.shape, lambda index: index)
    return pointwise("({0} != 0)" if call.kind == "b" else f"(({KINDS[call.kind]}){{0}})")(call, x)


def _log_sigmoid(call: Call, x: Value) -> tuple[Value, Value]:
    value = pointwise("(SMALLER({0}, 0) - log1p(exp(-fabs({0}))))")(call, x)
    return value, value


def _softplus(call: Call, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    return pointwise("({0} * {1} > {2} ? {0} : log1p(exp({0} * {1})) / {1})")(call, x, float(beta), float(threshold))


def _filled(at: int) -> Rule:
    """A tensor of one number, which is argument ``at``."""
    return lambda call, *args, **_: Value(call.shape, call.kind, lambda index: entry(args[at], ()))


def _like(number: int) -> Rule:
    return lambda call, *_, **__: Value(call.shape, call.kind, lambda index: str(number))


POINTWISE: dict[str, Rule] = {name: pointwise(template) for name, template in EXPRESSIONS.items()}

RULES: dict[str, Rule] = {
    **POINTWISE,
    "_to_copy": _convert,
    "add": _linear("+"),
    "bitwise_not": _not,
    "clamp": _clamp,
    "div": _divide,
    "fill": _filled(1),
    "full": _filled(1),
    "full_like": _filled(1),
    "log_sigmoid_forward": _log_sigmoid,
    "new_ones": _like(1),
    "new_zeros": _like(0),
    "ones_like": _like(1),
    "polygamma": _polygamma,
    "prims.div.default": _divide,
    "pow.Tensor_Scalar": _power,
    "pow": pointwise("pow({0}, {1})"),
    "remainder": _remainder,
    "round": _round,
    "rsub": _linear("-", swapped=True),
    "softplus": _softplus,
    "sub": _linear("-"),
    "zeros_like": _like(0),
}
