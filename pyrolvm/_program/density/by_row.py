"""Densities that are sums over rows, each of numbers of its own: all rows' modes and curvatures at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["SHARES", "curved", "modes"]

SHARES = (1.0, 0.3, 0.1, 0.03, 0.0)
"""How much of a step is tried."""

Density = Callable[[Tensor], Tensor]
"""Log densities ``(rows,)`` of the numbers of rows, ``(rows, units)``."""


def modes(density: Density, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The mode of each row, ``(rows, units)``, by Newton's method, and the Cholesky factor of the precision there.

    Args:
        density: what is climbed.
        start: where from.
        steps: how many steps; a single one is taken as it is, since a Gaussian's mode is one step away.
    """
    flat, units = start, start.shape[-1]
    slope = torch.func.grad(lambda z: density(z).sum())
    directions = torch.eye(units, dtype=flat.dtype, device=flat.device)
    factor = directions.expand(*flat.shape[:-1], units, units)
    for _ in range(steps):
        pulled = torch.func.vjp(slope, flat)[1]  # forward derivatives would say that torch.jit is deprecated
        columns = [pulled(one.expand_as(flat))[0] for one in directions]
        precision = -torch.stack(columns, -1)
        precision = 0.5 * (precision + precision.mT)
        factor = curved(precision) if steps > 1 else torch.linalg.cholesky_ex(precision).L
        step = slope(flat) / factor[..., 0].square() if units == 1 else _solved(slope(flat), factor)
        flat = flat + step if steps == 1 else _highest(density, flat, step)
    return flat, factor


def _highest(density: Density, flat: Tensor, step: Tensor) -> Tensor:
    """Of each row, the point along its step whose density is highest."""
    points = torch.stack([flat + share * step for share in SHARES])
    found = torch.stack([density(point) for point in points]).nan_to_num(nan=-math.inf)
    best = found.argmax(0)[None, :, None].expand(1, *flat.shape)
    return points.gather(0, best)[0]


def _solved(slope: Tensor, factor: Tensor) -> Tensor:
    step: Tensor = torch.cholesky_solve(slope[..., None], factor)[..., 0]
    return step


def curved(precision: Tensor) -> Tensor:
    """A Cholesky factor of the precision, curved enough where the density is not concave."""
    if precision.shape[-1] == 1:
        root: Tensor = (precision.abs() + 1e-6).sqrt()
        return root
    values, vectors = torch.linalg.eigh(precision)
    floor = 1e-3 * values.abs().amax(-1, keepdim=True) + 1e-6
    lifted: Tensor = vectors * torch.maximum(values.abs(), floor)[..., None, :] @ vectors.mT
    factor: Tensor = torch.linalg.cholesky_ex(lifted).L
    return factor
