"""A log density as a C function that computes no gradient."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.native.codegen import helpers
from pyrolvm._capture.native.compiling import compiled
from pyrolvm._capture.native.gradient import address_of, lowered_of, over_threads, table_of

__all__ = ["NativeDensity", "compile_density"]

_TEXT = """\
{helpers}
static __attribute__((noinline)) int64_t log_density(const double *restrict point, double *restrict result, const void *const *data) {{
(void)data;
{body.opening}
{body.text}
{body.closing}
return 0;
}}

void log_densities(uint64_t count, const double *restrict points, double *restrict values, const void *const *data) {{
for (uint64_t i = 0; i < count; i++) if (log_density(points + i * {size}, values + i, data)) values[i] = NAN;
}}
"""


@dataclass(frozen=True)
class NativeDensity:
    """Minus a potential in C. Threads may call it at the same time.

    Attributes:
        size: the number of unknowns.
        seconds: what writing and compiling it took.
    """

    size: int
    seconds: float
    _address: int
    _data: int
    _held: tuple[object, ...]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log densities ``(count,)`` at points ``(count, size)``; NaN or infinite where they are so."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.size:
            raise CaptureError(f"the points have shape {points.shape}, expected (count, {self.size}).")
        values, many = np.empty(len(points)), _MANY(self._address)

        def some(part: slice) -> None:
            x, found = points[part], values[part]
            many(len(x), x.ctypes.data, found.ctypes.data, self._data)

        over_threads(len(points), some)
        return values


_MANY = ctypes.CFUNCTYPE(None, ctypes.c_uint64, *[ctypes.c_void_p] * 3)


def compile_density(captured: Captured) -> NativeDensity:
    """Compiles minus a captured potential, in double precision whatever the potential's dtype is.

    Args:
        captured: a function of one vector to one number.

    Raises:
        CaptureError: if an operation has no rule, which is named, or there is no C compiler.
    """
    started = time.perf_counter()
    size, body = lowered_of(captured, _alone, ["result"])
    library = compiled(_TEXT.format(helpers=helpers(), size=size, body=body))
    table = table_of(body)
    seconds = time.perf_counter() - started
    held = (library, table, body.data)
    return NativeDensity(size, seconds, address_of(library.log_densities), table.ctypes.data, held)


def _alone(potential: Callable[..., Any], point: torch.Tensor) -> tuple[torch.Tensor]:
    (value,) = potential(point)
    return (-value.detach(),)
