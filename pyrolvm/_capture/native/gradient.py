"""A log density and its gradient as a C function."""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.machine import available
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.native.codegen import Body, check_plain, differentiable, helpers, lowered, recorded
from pyrolvm._capture.native.compiling import compiled

__all__ = ["NativeGradient", "address_of", "compile_gradient", "over_threads"]

_TEXT = """\
{helpers}
/* Nonzero for a density or a gradient that is not finite, as nutpie wants it. */
__attribute__((noinline)) int64_t log_density(uint64_t dim, const double *restrict point, double *restrict out, double *restrict result,
                    const void *const *data) {{
(void)data;
if (dim != {size}) return -1;
{body.opening}
{body.text}
{body.closing}
if (!isfinite(*result)) return 4;
for (integer k = 0; k < {size}; k++) if (!isfinite(out[k])) return 3;
return 0;
}}

typedef int64_t density(uint64_t, const double *restrict, double *restrict, double *restrict, const void *const *);

void log_densities(uint64_t count, const double *restrict points, double *restrict gradients, double *restrict values,
                   density *one, const void *const *data) {{
for (uint64_t i = 0; i < count; i++) one({size}, points + i * {size}, gradients + i * {size}, values + i, data);
}}

/* y + U (stretch - 1) U' y in place; basis: U' by rows, orthonormal; more: stretch - 1. */
static void stretched(uint64_t count, const double *restrict basis, const double *restrict more, double *restrict y) {{
double by[count ? count : 1];
for (uint64_t k = 0; k < count; k++) {{
double sum[8] = {{0.0}};
const double *restrict u = basis + k * {size};
integer i = 0;
for (; i + 8 <= {size}; i += 8) for (int l = 0; l < 8; l++) sum[l] += u[i + l] * y[i + l];
for (; i < {size}; i++) sum[0] += u[i] * y[i];
by[k] = more[k] * (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])));
}}
for (uint64_t k = 0; k < count; k++) {{
const double *restrict u = basis + k * {size};
for (integer i = 0; i < {size}; i++) y[i] += by[k] * u[i];
}}
}}

/* As a function of x in point = mean + root x; data: that of log_density, mean, root (lower triangular, or its diagonal), which,
   and for a diagonal times directions that are stretched, the directions, by how much more, and how many. */
int64_t moved_density(uint64_t dim, const double *restrict x, double *restrict out, double *restrict result,
                      const void *const *data) {{
static _Thread_local double point[{size}], gradient[{size}];
const double *restrict mean = data[1], *restrict root = data[2];
const uint64_t count = (uint64_t)data[6];
if (dim != {size}) return -1;
if (data[3]) {{
for (integer i = 0; i < {size}; i++) {{
double sum = mean[i];
for (integer j = 0; j <= i; j++) sum += root[i * {size} + j] * x[j];
point[i] = sum;
}}
}} else {{
for (integer i = 0; i < {size}; i++) point[i] = x[i];
if (count) stretched(count, data[4], data[5], point);
for (integer i = 0; i < {size}; i++) point[i] = mean[i] + root[i] * point[i];
}}
const int64_t found = log_density(dim, point, gradient, result, data[0]);
if (data[3]) {{
for (integer j = 0; j < {size}; j++) out[j] = 0.0;
for (integer i = 0; i < {size}; i++) for (integer j = 0; j <= i; j++) out[j] += root[i * {size} + j] * gradient[i];
}} else {{
for (integer i = 0; i < {size}; i++) out[i] = root[i] * gradient[i];
if (count) stretched(count, data[4], data[5], out);
}}
return found;
}}

int64_t identity(uint64_t dim, uint64_t expanded, const double *point, double *out, int64_t *calls) {{
if (calls) __atomic_fetch_add(calls, 1, __ATOMIC_RELAXED);
if (dim != {size} || expanded != {size}) return -1;
memcpy(out, point, {size} * sizeof(double));
return 0;
}}
"""


@dataclass(frozen=True)
class NativeGradient:
    """Minus a potential, and its gradient, in C. Threads may call it at the same time.

    The memory behind the addresses lives as long as this object.

    Attributes:
        size: the number of unknowns.
        address: of ``int64 f(uint64 size, const double *point, double *gradient, double *value, void *data)``, which
            returns 0, or a positive number where value or gradient are not finite.
        data: the address of what it takes as ``data``.
        identity: of ``int64 f(uint64 size, uint64 size, const double *point, double *copy, int64 *calls)``, which copies
            the point and counts its calls, unless ``calls`` is null.
        seconds: what writing and compiling it took.
    """

    size: int
    address: int
    data: int
    identity: int
    seconds: float
    _held: tuple[Any, ...]

    def __call__(self, point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The log density and its gradient at a point, shape ``(size,)``; NaN or infinite where they are so."""
        point = np.ascontiguousarray(point, dtype=np.float64)
        if point.shape != (self.size,):
            raise CaptureError(f"the point has shape {point.shape}, expected ({self.size},).")
        value, gradient = np.empty(1), np.empty(self.size)
        _TYPE(self.address)(self.size, point.ctypes.data, gradient.ctypes.data, value.ctypes.data, self.data)
        return float(value[0]), gradient

    def moved(
        self,
        mean: NDArray[np.float64],
        root: NDArray[np.float64],
        stretched: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> NativeGradient:
        """The same density as a function of x, where the point is mean + root x; nothing is compiled.

        Args:
            mean: shape ``(size,)``.
            root: a lower triangular matrix of shape ``(size, size)``, or its diagonal, shape ``(size,)``.
            stretched: of a diagonal, directions ``(size, k)``, orthonormal, along which x is stretched first, and by how much
                ``(k,)``: the point is mean + root (x + U (f - 1) U' x).
        """
        mean, root = (np.ascontiguousarray(part, dtype=np.float64) for part in (mean, root))
        basis, factors = stretched if stretched is not None else (np.zeros((self.size, 0)), np.zeros(0))
        rows, more = np.ascontiguousarray(basis.T, dtype=np.float64), np.ascontiguousarray(factors - 1.0)
        wide = root.shape == (self.size, self.size)
        if mean.shape != (self.size,) or not (wide or root.shape == (self.size,)) or rows.shape[1] != self.size:
            raise CaptureError(
                f"mean, root and directions have shapes {mean.shape}, {root.shape}, {basis.shape}, expected ({self.size},) and so on."
            )
        places = [part.ctypes.data for part in (mean, root, rows, more)]
        table = np.array([self.data, *places[:2], wide, *places[2:], 0 if wide else len(more)], dtype=np.uintp)
        held = (*self._held, table, mean, root, rows, more)
        return replace(self, address=address_of(self._held[0].moved_density), data=table.ctypes.data, _held=held)

    def many(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log densities ``(count,)`` and gradients ``(count, size)`` at points ``(count, size)``; NaN or infinite where so."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.size:
            raise CaptureError(f"the points have shape {points.shape}, expected (count, {self.size}).")
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        many = _MANY(address_of(self._held[0].log_densities))

        def some(part: slice) -> None:
            x, slopes, found = points[part], gradients[part], values[part]
            many(len(x), x.ctypes.data, slopes.ctypes.data, found.ctypes.data, self.address, self.data)

        over_threads(len(points), some)
        return values, gradients


SHARED = 1_000
"""Points for each of several threads, of which there are no more than processors."""


def over_threads(count: int, some: Callable[[slice], None]) -> None:
    """Runs a function of parts of ``count`` points, by several threads where that pays."""
    threads = max(1, min(available(), count // SHARED))
    ends = np.linspace(0, count, threads + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    if threads == 1:
        some(parts[0])
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="density") as pool:
        list(pool.map(some, parts))


_MANY = ctypes.CFUNCTYPE(None, ctypes.c_uint64, *[ctypes.c_void_p] * 5)
_TYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)


def compile_gradient(captured: Captured) -> NativeGradient:
    """Compiles minus a captured potential and its gradient, in double precision whatever the potential's dtype is.

    Args:
        captured: a function of one vector to one number.

    Raises:
        CaptureError: if an operation has no rule, which is named, or there is no C compiler.
    """
    started = time.perf_counter()
    size, body = lowered_gradient(captured)
    library = compiled(_TEXT.format(helpers=helpers(), size=size, body=body))
    table = table_of(body)
    address, identity = address_of(library.log_density), address_of(library.identity)
    seconds = time.perf_counter() - started
    return NativeGradient(size, address, table.ctypes.data, identity, seconds, (library, table, body.data))


def address_of(function: Any) -> int:
    """Where a function of a library lies."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def lowered_gradient(captured: Captured) -> tuple[int, Body]:
    """The number of unknowns, and minus a captured potential and its gradient in C.

    Raises:
        CaptureError: if an operation has no rule; it is named.
    """

    def both(potential: Callable[..., Any], point: torch.Tensor) -> tuple[torch.Tensor, ...]:
        moving = point.requires_grad_()
        (value,) = potential(moving)
        (gradient,) = torch.autograd.grad(value, moving)
        return -value.detach(), -gradient

    return lowered_of(captured, both, ["result", "out"])


def lowered_of(
    captured: Captured,
    outputs: Callable[[Callable[..., object], torch.Tensor], tuple[torch.Tensor, ...]],
    names: list[str],
) -> tuple[int, Body]:
    """The number of unknowns, and what is computed of a captured potential in C.

    Args:
        captured: the potential.
        outputs: computes it, of the potential and a point.
        names: what its parts are called in C.

    Raises:
        CaptureError: if it is no potential of one vector, or an operation has no rule; it is named.
    """
    if captured.noise or captured.inputs != 1:
        raise CaptureError("engine 'c' needs a potential of one vector, without random numbers.")
    check_plain(captured)
    point = captured.module.graph.find_nodes(op="placeholder")[0].meta["val"]
    potential = differentiable(captured)
    module = recorded(
        lambda leaves: outputs(potential, leaves[0].detach()), [torch.zeros(point.shape, dtype=point.dtype)]
    )
    return point.numel(), lowered(module, ["point"], names)


def table_of(body: Body) -> NDArray[np.uintp]:
    """Where the arrays lie that a body refers to."""
    return np.array([array.ctypes.data for array in body.data] or [0], dtype=np.uintp)
