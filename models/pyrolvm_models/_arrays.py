"""What the maximum likelihood estimates of the zoo ask of a data matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrolvm as lvm


def matrix(caller: str, x: Any, *, rows: int = 2) -> Tensor:
    """A data matrix in double precision, or what is wrong with it.

    Args:
        caller: What was called, for messages.
        x: Values, shape ``(n, d)``: a tensor, an array or nested lists.
        rows: How many there have to be.

    Returns:
        A new tensor, float64.

    Raises:
        DataError: It is not numeric, not a matrix, has too few rows, or holds a value that is not finite.
    """
    try:
        values = x.detach().cpu().double() if isinstance(x, Tensor) else torch.tensor(np.asarray(x, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise lvm.DataError(
            f"{caller}: x is not numeric ({error}). Fix: pass numbers of shape (rows, columns)."
        ) from None
    if values.ndim != 2 or values.shape[0] < rows or values.shape[1] < 1:
        raise lvm.DataError(
            f"{caller}: x has shape {tuple(values.shape)}, expected (rows, columns) with at least {rows} of the former. "
            "Fix: pass a matrix, a row for each datum."
        )
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        raise lvm.DataError(
            f"{caller}: x[{row}, {column}] is {values[row, column].item()}, and {len(bad)} values in all are not finite. "
            "Fix: drop those rows or fill them in."
        )
    return values


def covariance(caller: str, x: Tensor, *, full: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and covariance (divisor n) of data under which a Gaussian has a density.

    Args:
        caller: What was called, for messages.
        x: Values, shape ``(n, d)``.
        full: Whether columns have to be linearly independent; otherwise they only have to vary.

    Returns:
        The mean ``(d,)`` and the covariance ``(d, d)``.

    Raises:
        DataError: A column is constant, or ``full`` and the centred data have a rank below ``d``.
    """
    n, d = x.shape
    mean = x.mean(0)
    centred = x - mean
    spread = centred.square().mean(0).sqrt()
    constant = torch.nonzero(spread <= 1e-12 * (1 + mean.abs())).flatten().tolist()
    if constant:
        raise lvm.DataError(
            f"{caller}: column {constant[0]} is constant ({len(constant)} of {d} columns are), so that the likelihood has no "
            "maximum. Fix: drop constant columns, or dequantize discrete data by adding uniform noise."
        )
    singular = torch.linalg.svdvals(centred / spread)
    rank = int((singular > singular[0] * max(n, d) * torch.finfo(x.dtype).eps).sum())
    if full and rank < d:
        raise lvm.DataError(
            f"{caller}: the data, {n} rows of {d} columns, have rank {rank} about their mean, expected {d}: the likelihood has "
            "no maximum. Fix: give more rows than columns, and drop columns that others determine."
        )
    return mean, centred.mT @ centred / n
