"""A log density of a vector and of rows of data, with its gradient in the vector, as a C function of both."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.native.builder import kind_of
from pyrolvm._capture.native.codegen import check_plain, differentiable, helpers, lowered, recorded
from pyrolvm._capture.native.compiling import compiled
from pyrolvm._capture.native.gradient import address_of, table_of

__all__ = ["NativeRows", "compile_rows"]

_TEXT = """\
{helpers}
static __attribute__((noinline)) int64_t log_density(const double *restrict point, double *restrict out, double *restrict result,
                    const void *const *data, const void *const *rows) {{
(void)data; (void)rows;
{body.opening}
{body.text}
{body.closing}
return 0;
}}

void log_densities(uint64_t count, const double *restrict points, double *restrict gradients, double *restrict values,
                   const void *const *data, const void *const *rows) {{
for (uint64_t i = 0; i < count; i++)
if (log_density(points + i * {size}, gradients + i * {size}, values + i, data, rows)) values[i] = NAN;
}}
"""

_MANY = ctypes.CFUNCTYPE(None, ctypes.c_uint64, *[ctypes.c_void_p] * 5)
_TYPES = {"d": np.dtype(np.float64), "l": np.dtype(np.int64), "b": np.dtype(np.bool_), "f": np.dtype(np.float32)}


@dataclass(frozen=True)
class NativeRows:
    """Minus a potential of a vector and of columns of rows, and its gradient in the vector, in C. Threads may call it at a time.

    Attributes:
        size: the number of unknowns.
        types: of each column's entries, as C takes them.
        seconds: what writing and compiling it took.
    """

    size: int
    types: tuple[np.dtype[Any], ...]
    seconds: float
    _address: int
    _data: int
    _held: tuple[object, ...]

    def __call__(
        self,
        points: NDArray[np.float64],
        columns: Sequence[NDArray[Any]],
        values: NDArray[np.float64],
        gradients: NDArray[np.float64],
    ) -> None:
        """Fills in log densities ``(count,)`` and gradients ``(count, size)`` at points ``(count, size)``; NaN or infinite where so.

        Args:
            points: contiguous.
            columns: contiguous, of the shapes that it was compiled for and of its :attr:`types`.
            values: what is filled in, contiguous.
            gradients: likewise.
        """
        rows = np.array([column.ctypes.data for column in columns], dtype=np.uintp)
        _MANY(self._address)(
            len(points), points.ctypes.data, gradients.ctypes.data, values.ctypes.data, self._data, rows.ctypes.data
        )


def compile_rows(captured: Captured) -> NativeRows:
    """Compiles minus a captured potential of a vector and of columns, in double precision whatever its dtype is.

    Columns in single precision are read as they lie; data of the program that are no columns are part of it.

    Args:
        captured: a function of one vector and of columns to one number.

    Raises:
        CaptureError: if an operation has no rule, which is named, or there is no C compiler.
    """
    started = time.perf_counter()
    if captured.noise:
        raise CaptureError("engine 'c' needs a potential without random numbers.")
    check_plain(captured)
    inputs = [node.meta["val"] for node in captured.module.graph.find_nodes(op="placeholder")[: captured.inputs]]
    potential = differentiable(captured)

    def both(leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        moving = leaves[0].detach().requires_grad_()
        (value,) = potential(moving, *leaves[1:])
        (gradient,) = torch.autograd.grad(value, moving)
        return -value.detach(), -gradient

    module = recorded(both, [torch.zeros(one.shape, dtype=one.dtype) for one in inputs])
    kinds = ["f" if one.dtype == torch.float32 else kind_of(one.dtype) for one in inputs[1:]]
    places = [f"rows[{k}]" for k in range(len(kinds))]
    single = {place for place, kind in zip(places, kinds, strict=True) if kind == "f"}
    body = lowered(module, ["point", *places], ["result", "out"], single)
    size = inputs[0].numel()
    library = compiled(_TEXT.format(helpers=helpers(), size=size, body=body))
    table = table_of(body)
    types = tuple(_TYPES[kind] for kind in kinds)
    seconds = time.perf_counter() - started
    address = address_of(library.log_densities)
    return NativeRows(size, types, seconds, address, table.ctypes.data, (library, table, body.data))
