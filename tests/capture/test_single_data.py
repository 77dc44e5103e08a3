"""Many data in single precision stay so in C, and are computed with in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrolvm._capture import capture
from pyrolvm._capture.native import compile_gradient
from pyrolvm._capture.native.builder import LARGE
from pyrolvm._capture.native.gradient import lowered_gradient

COLUMNS = 8
ROWS = LARGE // COLUMNS


def regression(rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Minus a log likelihood, whose data appear as they are and transposed."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 2, (rows,), generator=generator).to(dtype)
    return lambda b: torch.nn.functional.softplus(x @ b).sum() - (y * (x @ b)).sum() + 0.5 * (b * b).sum()


@pytest.mark.parametrize(("rows", "dtype", "kept"), [
    (ROWS, torch.float32, np.float32), (ROWS, torch.float64, np.float64), (ROWS - 1, torch.float32, np.float64),
])  # fmt: skip
def test_only_many_numbers_in_single_precision_stay_so(rows: int, dtype: torch.dtype, kept: type) -> None:
    _, body = lowered_gradient(capture(regression(rows, dtype), torch.zeros(COLUMNS, dtype=dtype)))
    largest = max(body.data, key=lambda array: array.size)
    assert largest.size == rows * COLUMNS
    assert largest.dtype == kept


def test_value_and_gradient_are_those_in_double_precision() -> None:
    potential = regression(ROWS, torch.float32)
    gradient = compile_gradient(capture(potential, torch.zeros(COLUMNS)))
    points = np.random.default_rng(3).normal(size=(5, COLUMNS))
    values, slopes = gradient.many(points)
    exact = regression(ROWS, torch.float64)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64).to(torch.float32).double()
    y = torch.randint(0, 2, (ROWS,), generator=generator).double()
    for point, value, slope in zip(torch.as_tensor(points), values, slopes, strict=True):
        moving = point.clone().requires_grad_()
        logits = x @ moving
        wanted = torch.nn.functional.softplus(logits).sum() - (y * logits).sum() + 0.5 * (moving * moving).sum()
        wanted.backward()
        assert value == pytest.approx(-wanted.item(), rel=1e-12)
        np.testing.assert_allclose(slope, -moving.grad.numpy(), rtol=1e-9, atol=1e-9)
        assert value != pytest.approx(
            -exact(point).item(), rel=1e-12
        )  # other data: rounded to single precision they are others
