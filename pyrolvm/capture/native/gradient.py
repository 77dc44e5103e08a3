"""A log density and its gradient as a C function."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm.capture.graph import Captured
from pyrolvm.capture.native.build import compiled
from pyrolvm.capture.native.codegen import generate
from pyrolvm.errors import CaptureError

__all__ = ["NativeGradient", "compile_gradient"]


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
    _held: tuple[object, ...]

    def __call__(self, point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The log density and its gradient at a point, shape ``(size,)``; NaN or infinite where they are so."""
        point = np.ascontiguousarray(point, dtype=np.float64)
        if point.shape != (self.size,):
            raise CaptureError(f"the point has shape {point.shape}, expected ({self.size},).")
        value, gradient = np.empty(1), np.empty(self.size)
        _TYPE(self.address)(self.size, point.ctypes.data, gradient.ctypes.data, value.ctypes.data, self.data)
        return float(value[0]), gradient


_TYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)


def compile_gradient(captured: Captured) -> NativeGradient:
    """Compiles minus a captured potential and its gradient, in double precision whatever the potential's dtype is.

    Args:
        captured: a function of one vector to one number.

    Raises:
        CaptureError: if an operation has no rule, which is named, or there is no C compiler.
    """
    started = time.perf_counter()
    source = generate(captured)
    library = compiled(source.text)
    table = np.array([array.ctypes.data for array in source.data] or [0], dtype=np.uintp)
    address, identity = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (library.log_density, library.identity))
    held = (library, table, source.data)
    return NativeGradient(source.size, address, table.ctypes.data, identity, time.perf_counter() - started, held)
