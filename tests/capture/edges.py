"""What C and JAX make of operations at their edges, beside torch."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from scipy import special
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._capture import capture
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.jax import precision
from pyrolvm._capture.jax.interpreter import array, lower, missing
from pyrolvm._capture.native.codegen import differentiable, helpers, lowered, recorded
from pyrolvm._capture.native.compiling import compiled
from pyrolvm._compat.torch import share_at_tie
from tests.capture.agreement import QUICK
from tests.capture.edge_cases import TINY, Case, cases

__all__ = ["Case", "by_c", "by_jax", "cases", "differences", "left_out", "on_torch"]


def _digamma(x: Any) -> Any:
    """SciPy's; beside poles, where that is not exact either, minus the inverse of the distance, which also gives zero its infinity."""
    with np.errstate(all="ignore"):
        gap = x - np.rint(x)
        beside = (x <= 0.5) & (np.abs(gap) < 1e-12) & np.isfinite(x)
        return np.where(beside & ((gap != 0) | (x == 0)), -1 / gap, np.where(np.isneginf(x), np.nan, special.psi(x)))


def _trigamma(x: Any) -> Any:
    with np.errstate(all="ignore"):
        gap = x - np.rint(x)
        return np.where((x <= 0.5) & (np.abs(gap) < 1e-9) & np.isfinite(x), 1 / gap**2, special.polygamma(1, x))


Arrays = list[np.ndarray[Any, Any]]


def _weights(shape: Sequence[int]) -> Tensor:
    """Of the entries of a result of several dimensions, in the sum whose gradient is taken; no two are equal in a row."""
    if len(shape) < 2:
        return torch.ones(tuple(shape), dtype=torch.float64)
    inner = torch.linspace(0.5, 1.5, math.prod(shape[1:]), dtype=torch.float64)
    return inner.reshape(1, *shape[1:]).expand(*shape)


def _both(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Value, and the gradient of its sum by each input."""
    with torch.enable_grad():
        xs = [x.detach().requires_grad_() for x in inputs]
        value = function(*xs)
        if not value.requires_grad:
            return [value, *(torch.zeros_like(x) for x in xs)]
        total = (value * _weights(value.shape)).sum()
        slopes = torch.autograd.grad(total, xs, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(x) if s is None else s for x, s in zip(xs, slopes, strict=True))]


def _fmod(x: np.ndarray[Any, Any], y: Any = 0.7) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return np.asarray(np.fmod(x, y))


def _modulo(x: np.ndarray[Any, Any], y: Any = 0.7) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return np.asarray(np.remainder(x, y))


# Where torch itself is not exact: its trigamma has nine digits, its digamma beside -1 none, its remainders by what is tiny are nan.
_EXACT: dict[str, dict[int, Callable[..., Any]]] = {
    "digamma": {0: _digamma, 1: _trigamma},
    "lgamma": {1: _digamma},
    "fmod": {0: _fmod},
    "remainder": {0: _modulo},
    "two: fmod": {0: _fmod},
    "two: remainder": {0: _modulo},
}

# Numbers of this size cancel on the way to the result, in torch too: rounding errors are relative to them.
_CANCELS = {
    "binary cross entropy": 1.0,
    "elu": 1.0,
    "expm1": 1.0,
    "gelu": 1.0,
    "log softmax": 1.0,
    "mvlgamma": 1e3,
    "lgamma": 4.0,
    "sinc": 1e8,
    "tanh": 4.0,
    "std": 1.0,
    "log ndtr": 1e3,
    "logit": 1.0,
    "cholesky": 1e10,
    "cholesky solve": 1e3,
    "mish": 1.0,
    "softplus": 1.0,
    "log determinant": 1e9,
    "inverse": 1e25,
    "solve": 1e25,
    "determinant": 1e9,
}


_LEFT_OUT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ndtri": (lambda row: abs(row[0]) < TINY and row[0] != 0, "denormal probabilities: two digits less"),
    "log ndtr": (lambda row: abs(row[0]) > 50, "beyond 50: torch's own derivative cancels"),
    "erfcx": (lambda row: abs(row[0]) > 20, "beyond 20: torch's own derivative cancels"),
    "silu": (lambda row: row[0] < -700, "denormal sigmoid"),
    "power -0.5": (lambda row: math.isinf(row[0]), "the root of minus infinity"),
    "var": (lambda row: max(map(abs, row)) > 1e200, "squares beyond the largest number"),
    "std": (lambda row: max(map(abs, row)) > 1e200, "squares beyond the largest number"),
}
"""Points that are not tried, and why."""

_BOTH = (
    lambda row: any(map(math.isnan, row)),
    "torch from 2.14.1 on sends the gradient of a number and none to both",
)
_LEFT_OUT_ON_JAX: dict[str, tuple[Callable[[Any], bool], str]] = {
    "logic": (lambda row: not math.isfinite(row[0]), "a product with False is zero to XLA, whatever the number is"),
    "two: equality": (
        lambda row: not all(map(math.isfinite, row)),
        "a product with False is zero to XLA, whatever the number is",
    ),
    "two: div": (lambda row: max(map(abs, row)) > 1e150, "XLA joins divisions by numbers whose square it cannot hold"),
    "two: squared distance": (
        lambda row: abs(row[0]) == 0 or max(map(abs, row)) > 1e150,
        "XLA joins divisions by numbers whose square it cannot hold",
    ),
    "whole: determinant": (
        lambda row: max(row) > 1e150 or row[0] * row[3] == row[1] * row[2],
        "torch has no gradient where a matrix is singular",
    ),
    "whole: log determinant": (lambda row: max(row) > 1e150 or row[1] > 0.999, "near singular matrices: fewer digits"),
    **({} if share_at_tie("fmax") == 1.0 else {"two: fmax": _BOTH, "two: fmin": _BOTH}),
}


def left_out(case: Case, *, jax: bool = False) -> str:
    """Why some points are not tried; empty where all are."""
    words = [table[case.name][1] for table in (_LEFT_OUT, *([_LEFT_OUT_ON_JAX] if jax else [])) if case.name in table]
    stem = case.name.removeprefix("whole: ")
    return "; ".join(words or ([_LEFT_OUT[stem][1]] if stem in _LEFT_OUT else []))


def on_torch(case: Case) -> Arrays:
    """Value and gradients by stock torch; by better ones where torch is known not to be exact."""
    found = [part.double().numpy() for part in _both(case.function, case.inputs)]
    for part, better in _EXACT.get(case.name, {}).items():
        found[part] = np.asarray(better(*(x.numpy() for x in case.inputs)))
    return found


def differences(case: Case, expected: Arrays, got: Arrays, *, flushed: bool = False) -> list[str]:
    """Where results differ by more than 1e-10, in words.

    Not compared are gradients where the value is not finite; where they are not finite themselves, the others must not be either.

    Args:
        case: the function.
        expected: by torch.
        got: by another engine.
        flushed: whether that engine takes denormal numbers for zero, so that what is as small, or has such a square, is left out.
    """
    stem = case.name.removeprefix("two: ").removeprefix("whole: ")
    rows = np.stack([x.numpy().reshape(len(x), -1) for x in case.inputs], 1).reshape(len(case.inputs[0]), -1)
    whole = case.name.startswith("whole: ")
    with np.errstate(all="ignore"):
        largest = np.where(np.isfinite(rows), np.abs(rows), 0).max(1) if whole else np.zeros(len(rows))
        valued = np.isfinite(expected[0]).reshape(len(rows), -1).all(1)
        if whole:
            valued &= (np.abs(rows) < 1e300).all(1)
        tiny = ((np.abs(rows) < 1e-150) & (rows != 0)).any(1) if flushed else np.zeros(len(rows), bool)
        for table in (_LEFT_OUT, *([_LEFT_OUT_ON_JAX] if flushed else [])):
            if rule := table.get(case.name) or table.get(stem):
                tiny |= np.array([rule[0](row) for row in rows.tolist()])
        if flushed and whole:  # a product of a number and False is zero to XLA, whatever the number is
            tiny |= ~np.isfinite(rows).all(1)
    told = []
    for part, (a, b) in enumerate(zip(expected, got, strict=True)):
        if a.shape != b.shape:
            return [f"shape {b.shape}, expected {a.shape}"]
        a, b = (x.reshape(len(rows), -1) for x in (a, b))
        size = (largest + _CANCELS.get(stem, 0.0))[:, None]
        with np.errstate(all="ignore"):
            near = np.abs(a - b) <= 1e-10 * np.abs(a) + 1e-15 * size + (1e-150 if flushed else 1e-306)
            if part:
                same = near | ~valued[:, None] | (~np.isfinite(a) & ~np.isfinite(b))
            else:
                same = near | (a == b) | (np.isnan(a) & np.isnan(b))
        for row in np.flatnonzero(~same.all(1) & ~tiny):
            told.append(f"{'gradient' if part else 'value'} at {rows[row].tolist()}: {b[row]}, torch has {a[row]}")
    return told


def graph(case: Case) -> Captured:
    return capture(case.function, *case.inputs)


_TEXT = """
int64_t case_{k}(const double *first, const double *second, double *value, double *g0, double *g1, const void *const *data) {{
(void)first; (void)second; (void)g0; (void)g1; (void)data;
{body.opening}
{body.text}
{body.closing}
return 0;
}}
"""


def _recordable(captured: Captured) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
    program = differentiable(captured)
    return lambda leaves: tuple(_both(lambda *xs: program(*xs)[0], leaves))


def on_c(captured: dict[str, Captured], chosen: Sequence[Case]) -> tuple[dict[str, Arrays | Exception], set[str]]:
    """Value and gradients of all cases in C, compiled together, and the rules that they took; what was raised where there is none."""
    texts, bodies, found, seen = [helpers()], {}, {}, set()
    for k, case in enumerate(chosen):
        try:
            module = recorded(_recordable(captured[case.name]), [x.clone() for x in case.inputs])
            count = len(case.inputs)
            body = lowered(module, ["first", "second"][:count], ["value", "g0", "g1"][: 1 + count])
        except Exception as error:
            found[case.name] = error
            continue
        bodies[k] = body
        for node in (node for node in module.graph.nodes if node.op == "call_function"):
            name, _, overload = str(node.target).removeprefix("aten.").partition(".")
            seen |= {name, f"{name}.{overload}", overload.partition(".")[0]}
        texts.append(_TEXT.format(k=k, body=body))
    library = compiled("\n".join(texts))
    for k, body in bodies.items():
        case = chosen[k]
        shape = captured[case.name].module.graph.find_nodes(op="output")[0].args[0][0].meta["val"].shape
        value = np.full(tuple(shape), 77.0)
        slopes = [np.full(tuple(x.shape), 77.0) for x in case.inputs]
        points = [x.contiguous().numpy() for x in case.inputs]
        table = np.array([a.ctypes.data for a in body.data] or [0], dtype=np.uintp)
        function = getattr(library, f"case_{k}")
        function.argtypes = [ctypes.c_void_p] * 6
        ends = [points[0], points[-1], value, slopes[0], slopes[-1], table]
        assert function(*(a.ctypes.data for a in ends)) == 0
        found[case.name] = [value, *slopes]
    return found, seen


def on_jax(captured: dict[str, Captured], chosen: Sequence[Case]) -> dict[str, Arrays | Exception]:
    """Value and gradients of all cases on JAX, compiled together; what is missing where there is no rule."""
    found: dict[str, Arrays | Exception] = {}
    able = []
    for case in chosen:
        if absent := missing(captured[case.name]):
            found[case.name] = NotImplementedError(", ".join(absent))
        else:
            able.append(case)
    with precision(torch.float64):
        programs = [lower(captured[case.name]) for case in able]

        def one(k: int, xs: Any, constants: Any) -> Any:
            def total(xs: Any) -> Any:
                value = programs[k].function(xs, (), constants, None)
                return (value * array(_weights(value.shape))).sum(), value

            return jax.value_and_grad(total, has_aux=True)(xs)

        inputs = [[array(x) for x in case.inputs] for case in able]
        constants = [program.constants for program in programs]

        def everything(inputs: Any, constants: Any) -> Any:
            return [one(k, inputs[k], constants[k]) for k in range(len(able))]

        ready = jax.jit(everything).lower(inputs, constants).compile(compiler_options=QUICK)
        for case, ((_, value), slopes) in zip(able, ready(inputs, constants), strict=True):
            found[case.name] = [np.asarray(value, float), *(np.asarray(s, float) for s in slopes)]
    return found


@functools.cache
def _graphs() -> dict[str, Captured]:
    with runtime.session(seed=0, dtype=torch.float64):
        return {case.name: graph(case) for case in cases()}


@functools.cache
def by_c() -> tuple[dict[str, Arrays | Exception], set[str]]:
    """What C gives for every case, and the rules that it took."""
    return on_c(_graphs(), cases())


@functools.cache
def by_jax() -> dict[str, Arrays | Exception]:
    """What JAX gives for every case."""
    return on_jax(_graphs(), cases())
