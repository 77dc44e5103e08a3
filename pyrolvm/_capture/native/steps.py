"""Many steps of Adam on a captured objective as one C function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.numerics import Array
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.native.builder import number
from pyrolvm._capture.native.codegen import check_plain, differentiable, helpers, lowered, recorded
from pyrolvm._capture.native.compiling import compiled

__all__ = ["Moments", "NativeSteps", "compile_steps"]


_TEXT = """\
{helpers}
static int64_t objective(const double *restrict point, const double *restrict noise, const integer *restrict rows,
                         const void *const *data, double *restrict out, double *restrict loss, double *restrict error) {{
(void)noise; (void)rows; (void)data;
{body.opening}
{body.text}
{body.closing}
return 0;
}}

/* A step whose loss or gradient is not finite leaves everything as it was. */
int64_t steps(int64_t count, double *restrict x, double *restrict m, double *restrict v, double *restrict t,
              const double *rates, const double *noise, const integer *rows, double *losses, double *errors,
              boolean *good, double *restrict gradient, const void *const *data) {{
for (integer s = 0; s < count; s++) {{
    if (objective(x, noise + s * {numbers}, rows + s * {rows}, data, gradient, losses + s, errors + s)) return -2;
    boolean fine = isfinite(losses[s]);
    double squares = 0;
    for (integer k = 0; k < {size}; k++) {{ fine &= isfinite(gradient[k]); squares += gradient[k] * gradient[k]; }}
    good[s] = fine;
    if (!fine) continue;
    const double scale = {clip};
    *t += 1;
    const double first = 1 - pow({beta1}, *t), second = 1 - pow({beta2}, *t), rate = rates[s];
    for (integer k = 0; k < {size}; k++) {{
        const double g = scale * gradient[k];
        m[k] = {beta1} * m[k] + (1 - {beta1}) * g;
        v[k] = {beta2} * v[k] + (1 - {beta2}) * g * g;
        x[k] -= rate * (m[k] / first) / (sqrt(v[k] / second) + {eps});
    }}
}}
return 0;
}}
"""


@dataclass
class Moments:
    """Where Adam is: the parameters, the running means of the gradient and of its square, and the number of steps."""

    x: Array
    m: Array
    v: Array
    t: Array

    @classmethod
    def at(cls, x: Array) -> Moments:
        """A start."""
        return cls(x.astype(np.float64), np.zeros(len(x)), np.zeros(len(x)), np.zeros(1))

    def copy(self) -> Moments:
        """The same place in memory of its own."""
        return Moments(self.x.copy(), self.m.copy(), self.v.copy(), self.t.copy())


@dataclass(frozen=True)
class NativeSteps:
    """Steps of Adam in C, in double precision.

    Attributes:
        numbers: random numbers a step takes.
        rows: row numbers that it takes.
        gradient: that of the last step.
    """

    numbers: int
    rows: int
    gradient: Array
    _function: Callable[..., int]
    _table: Array
    _held: tuple[object, ...]

    def __call__(self, state: Moments, rates: Array, noise: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Takes a step for each rate and moves ``state``; returns losses, their standard errors, and which were finite.

        Args:
            state: where to start from, overwritten.
            rates: shape ``(steps,)``.
            noise: shape ``(steps, numbers)``.
            rows: shape ``(steps, rows)``.

        Raises:
            MemoryError: if there is no room for what a step computes on its way.
        """
        count = len(rates)
        losses, errors, good = np.empty(count), np.empty(count), np.empty(count, dtype=bool)
        double, whole = np.float64, np.int64
        held = [
            state.x, state.m, state.v, state.t,
            np.ascontiguousarray(rates, double), _checked(noise, double, count, self.numbers),
            _checked(rows, whole, count, self.rows), losses, errors, good, self.gradient, self._table,
        ]  # fmt: skip
        if self._function(count, *(array.ctypes.data for array in held)):
            raise MemoryError("no memory for a step of the compiled objective")
        return losses, errors, good


def _checked(array: Array, dtype: Any, count: int, width: int) -> Array:
    if array.shape != (count, width):
        raise CaptureError(f"the numbers of {count} steps have shape {array.shape}, expected ({count}, {width}).")
    return np.ascontiguousarray(array, dtype)


def compile_steps(
    captured: Captured, params: Sequence[Tensor], beta1: float, beta2: float, eps: float, clip_norm: float | None
) -> NativeSteps:
    """Compiles steps of Adam on minus the mean of a captured program's results.

    Args:
        captured: the particles' objectives, by the parameters, at most one vector of row numbers, and noise.
        params: the parameters, for their shapes.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        clip_norm: bound on the gradient's norm, or ``None``.

    Raises:
        CaptureError: if an operation has no rule, which is named, or there is no C compiler.
    """
    check_plain(captured)
    holes = captured.module.graph.find_nodes(op="placeholder")
    rows = [node.meta["val"] for node in holes[len(params) : captured.inputs]]
    program = differentiable(captured)
    sizes = [parameter.numel() for parameter in params]

    def run(leaves: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        moving = leaves[0].detach().requires_grad_()
        parts = [part.view(like.shape) for part, like in zip(moving.split(sizes), params, strict=True)]
        (values,) = program(*parts, *leaves[1:])
        loss = -values.mean()
        (gradient,) = torch.autograd.grad(loss, moving)
        values = values.detach().reshape(-1)
        spread = values.std() / len(values) ** 0.5 if len(values) > 1 else torch.full((), torch.nan)
        return gradient, loss.detach(), spread

    inputs = [torch.zeros(sum(sizes), dtype=params[0].dtype)]
    inputs += [torch.zeros(value.shape, dtype=value.dtype) for value in rows]
    inputs += [torch.zeros(noise.shape, dtype=noise.dtype) for noise in captured.noise]
    places, numbers = [], 0
    for noise in captured.noise:
        places.append(f"noise + {numbers}")
        numbers += int(np.prod(noise.shape))
    body = lowered(recorded(run, inputs), ["point", *("rows" for _ in rows), *places], ["out", "loss", "error"])
    width = sum(value.numel() for value in rows)
    clip = "1.0" if clip_norm is None else f"fmin(1.0, {number(float(clip_norm))} / (sqrt(squares) + 1e-6))"
    library = compiled(
        _TEXT.format(
            helpers=helpers(), body=body, numbers=numbers, rows=width, size=sum(sizes), clip=clip,
            beta1=number(float(beta1)), beta2=number(float(beta2)), eps=number(float(eps)),
        )
    )  # fmt: skip
    library.steps.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 12]
    library.steps.restype = ctypes.c_int64
    table = np.array([array.ctypes.data for array in body.data] or [0], dtype=np.uintp)
    return NativeSteps(numbers, width, np.zeros(sum(sizes)), library.steps, table, (library, body.data))
